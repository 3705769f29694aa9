"""What a storm has shown: read from the environments' logs, the servers and Locust's statistics."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from lambda_migrate.local.demo.checks import SchemaCheck, read_checks
from lambda_migrate.local.demo.sampler import LIBRARY_PREFIX
from lambda_migrate.local.demo.servers import read_migrations
from lambda_migrate.local.demo.timeline import Interval
from load.bench.tools import VERSION_TABLES
from load.storm.scenarios import TOOL_PROCESS_MARKER, CountingPackage, OrdersPackage, Scenario
from load.storm.testbed import ObservedInvocation, StormFunction

_LAST_COMMIT_SQL = "SELECT max(extract(epoch FROM pg_xact_commit_timestamp(xmin)))::float8 FROM "
_CONNECTION_PATTERN = r"connection authorized: user=\S+ database=%s(?: application_name=(\S+))?"
_LIBRARY_PREFIXES = (LIBRARY_PREFIX, "lambda_migrate.local")  # the latter reads the evidence


@dataclass(frozen=True, slots=True)
class Session:
    """One connection of lambda-migrate in PostgreSQL's log, in monotonic seconds."""

    name: str
    opened: float
    closed: float  # when the server's process had ended


@dataclass(frozen=True)
class StormEvidence:
    """Everything that was seen of one storm. Times are monotonic seconds of one clock."""

    scenario: Scenario
    invocations: Sequence[ObservedInvocation]  # every invocation that Locust asked for
    checks: Mapping[str, Sequence[SchemaCheck]]  # of each environment, in order
    effects: Mapping[str, int] = field(default_factory=dict)  # of each migration, in the database
    record_counts: Mapping[str, int] = field(default_factory=dict)  # of each, in the version table
    rollback_effects: Mapping[str, int] = field(default_factory=dict)  # of down scripts
    attempts: int | None = None  # of the failing migration; None if none fails
    intervals: Sequence[Interval] = ()  # each migration, and each down script
    committed_at: float | None = None  # the last migration; None if none succeeds
    sessions: Sequence[Session] = ()  # of lambda-migrate, in the server's log, which misses none
    other_connections: int = 0  # to its database, of any other name
    tool_processes: int = 0  # that have loaded Alembic's environment or Django's settings
    killed_holder: str = ""  # the environment that was killed while it migrated
    requests_by_environment: Mapping[str, int] = field(default_factory=dict)  # to DynamoDB
    # Requests to DynamoDB by tenth of a second since the epoch.
    request_rates: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    locust_counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # requests, failures
    rollback_seconds: float | None = None  # seconds that the rollback took
    errors: Sequence[str] = ()  # what else went wrong
    seconds: float = 0.0  # that the storm took, with the start of the servers

    @cached_property
    def cold_starts(self) -> list[ObservedInvocation]:
        """The cold starts of the storm."""
        return [one for one in self.invocations if one.kind == "cold"]

    @cached_property
    def first_checks(self) -> list[SchemaCheck]:
        """The first check of every environment that was a cold start of the storm."""
        every = (self.checks.get(one.environment) for one in self.cold_starts)
        return [checks[0] for checks in every if checks]

    @cached_property
    def waiter_checks(self) -> list[SchemaCheck]:
        """Those that waited for another environment."""
        return [check for check in self.first_checks if check.waited and not check.fence]

    @property
    def holder_checks(self) -> list[SchemaCheck]:
        """Every check that held the lease, in the order of their fencing tokens."""
        every = (check for checks in self.checks.values() for check in checks if check.fence)
        return sorted(every, key=lambda check: check.fence)

    @cached_property
    def seconds_to_answer(self) -> list[float]:
        """From the last migration's commit until each waiter's invocation was answered."""
        return self._since_commit({one.environment: one.result.ended for one in self.cold_starts})

    @cached_property
    def seconds_to_handler(self) -> list[float]:
        """The same until its check was over, and the handler began."""
        return self._since_commit({check.environment: check.ended for check in self.waiter_checks})

    def _since_commit(self, ended_at: Mapping[str, float]) -> list[float]:
        if self.committed_at is None:
            return []
        since = [ended_at[check.environment] - self.committed_at for check in self.waiter_checks]
        return sorted(one for one in since if one > 0)  # earlier waves waited for earlier ones

    @property
    def max_sessions(self) -> int:
        """Connections of lambda-migrate at any moment, in the server's log."""
        opened = [one.opened for one in self.sessions]
        open_at = (sum(each.opened <= at < each.closed for each in self.sessions) for at in opened)
        return max(open_at, default=0)


def collect_evidence(function: StormFunction, *, prefix: Path, seconds: float) -> StormEvidence:
    """Read everything while the servers and environments of a storm are still there.

    ``prefix`` is that of Locust's files; the seconds include the start of the servers.
    """
    testbed = function.testbed
    package, server, scenario = testbed.package, testbed.server, testbed.scenario
    clock_offset = testbed.clock_offset
    logs = {name: local.logs(view.environment_id) for name, local, view in testbed.environments()}
    counting = package if isinstance(package, CountingPackage) else None
    orders = package if isinstance(package, OrdersPackage) else None
    version_table, _ = VERSION_TABLES[package.source]
    table = "history" if package.source == "sql" else "revision"
    intervals = read_migrations(server, package.database, clock_offset=clock_offset, table=table)
    log = server.log.read_text(errors="replace")
    connections = re.findall(_CONNECTION_PATTERN % package.database, log)
    committed_at = None
    if scenario.kind != "failing" and intervals:
        [[at]] = server.execute(_LAST_COMMIT_SQL + version_table, database=package.database)
        committed_at = None if at is None else float(at) - clock_offset
    return StormEvidence(
        scenario=scenario,
        invocations=function.invocations,
        checks={
            name: list(read_checks(name, own, clock_offset=clock_offset))
            for name, own in logs.items()
        },
        effects=package.count_effects(server, 1 if scenario.rollback else scenario.versions[-1]),
        record_counts=counting.count_records(server, scenario.versions[-1]) if counting else {},
        rollback_effects=orders.count_rollbacks(server) if orders and scenario.rollback else {},
        attempts=counting.count_attempts(server) if counting else None,
        intervals=[*intervals, *function.rollback_times.intervals],
        committed_at=committed_at,
        sessions=read_sessions(log, clock_offset=clock_offset),
        other_connections=sum(not name.startswith(_LIBRARY_PREFIXES) for name in connections),
        tool_processes=sum(own.count(TOOL_PROCESS_MARKER) for own in logs.values()),
        killed_holder=function.killed_holder,
        requests_by_environment=testbed.requests_by_environment(),
        request_rates=testbed.dynamodb.rates(),
        locust_counts=read_statistics(prefix),
        rollback_seconds=function.rollback_seconds,
        errors=function.errors,
        seconds=seconds,
    )


_LOG_LINE_PATTERN = re.compile(
    r"^(?P<at>\S+ \S+) UTC \[(?P<pid>\d+)\] LOG:  "
    rf"(?:connection authorized: .*application_name=(?P<name>{LIBRARY_PREFIX}\S*)|disconnection:)"
)


def read_sessions(log: str, *, clock_offset: float) -> list[Session]:
    """Connections of lambda-migrate in a server's log; one that is still open ends with the log.

    The log has log_connections, log_disconnections and the prefix ``%m [%p] ``, in UTC.
    """
    opened: dict[str, tuple[str, float]] = {}
    sessions = []
    last = 0.0
    for match in filter(None, map(_LOG_LINE_PATTERN.match, log.splitlines())):
        at = datetime.strptime(match["at"] + "+0000", "%Y-%m-%d %H:%M:%S.%f%z")
        last = at.timestamp() - clock_offset
        if match["name"]:
            opened[match["pid"]] = (match["name"], last)
        elif match["pid"] in opened:
            sessions.append(Session(*opened.pop(match["pid"]), last))
    sessions += [Session(name, since, max(since, last)) for name, since in opened.values()]
    return sorted(sessions, key=lambda session: session.opened)


def read_statistics(prefix: Path) -> dict[str, tuple[int, int]]:
    """Requests and failures by name in the file that Locust wrote."""
    path = prefix.with_name(prefix.name + "_stats.csv")
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Name"] != "Aggregated"]
    return {row["Name"]: (int(row["Request Count"]), int(row["Failure Count"])) for row in rows}
