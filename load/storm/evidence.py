"""What a storm has shown: read from the environments' logs, the servers and Locust's statistics."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.local.demo.checks import (
    Distribution,
    SchemaCheck,
    build_rows,
    connection_times_by_fence,
    read_checks,
    row_order,
)
from lambda_migrate.local.demo.sampler import LIBRARY_PREFIX, Sample
from lambda_migrate.local.demo.servers import read_migrations
from lambda_migrate.local.demo.timeline import Interval, Row

if TYPE_CHECKING:
    from load.storm.host import Host, ObservedInvocation
    from load.storm.scenarios import Scenario
    from load.storm.testbed import Testbed

__all__ = ["Evidence", "gather_evidence", "overlap_of", "read_statistics", "sessions_of"]

_COMMITTED = """
SELECT max(extract(epoch FROM pg_xact_commit_timestamp(xmin)))::float8
FROM lambda_migrate.history WHERE state = 'applied'
"""


@dataclass(frozen=True, slots=True)
class Session:
    """One connection of lambda-migrate in PostgreSQL's log, in monotonic seconds."""

    name: str
    opened: float
    closed: float  # when the server's process had ended


@dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes of all environments that were alive at one moment, all of them served."""

    environments: int
    pss: Sequence[float]  # each one's share: shared pages are divided among their users
    uss: Sequence[float]  # each one's private pages
    shared_parent: float  # share of the fork server; 0 without one


@dataclass(frozen=True)
class Evidence:
    """Everything that was seen of one storm. Times are monotonic seconds of one clock.

    Attributes:
        scenario: The storm.
        observed: Every invocation that Locust asked for.
        checks: Of each environment, in order.
        rows: The timeline, one row for each environment.
        effects: How often each migration took effect, counted in the database.
        rollback_effects: The same of down scripts; empty without a rollback.
        attempts: How often the failing migration was tried; None if none fails.
        intervals: Each migration, and each down script.
        committed: When PostgreSQL committed the last migration; None if none succeeds.
        samples: Connections, by polling.
        sessions: Connections, in the server's log, which misses none.
        requests: To DynamoDB by operation; empty where the engine does not count.
        requests_of: The same by environment.
        rates: Requests by tenth of a second since the epoch; None where it does not count.
        memory: None where no environment was left.
        locust: Requests and failures by name, as Locust counted them.
        rolled_back: Seconds that the rollback took.
        troubles: What else went wrong.
        seconds: How long the storm took, with the start of the servers.
        clock_offset: Seconds since the epoch when the monotonic clock stood at 0.
    """

    scenario: Scenario
    observed: Sequence[ObservedInvocation]
    checks: Mapping[str, Sequence[SchemaCheck]]
    rows: Sequence[Row] = ()
    effects: Mapping[str, int] = field(default_factory=dict)
    rollback_effects: Mapping[str, int] = field(default_factory=dict)
    attempts: int | None = None
    intervals: Sequence[Interval] = ()
    committed: float | None = None
    samples: Sequence[Sample] = ()
    sessions: Sequence[Session] = ()
    requests: Mapping[str, int] = field(default_factory=dict)
    requests_of: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[int, Mapping[str, int]] | None = None
    memory: Memory | None = None
    locust: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    rolled_back: float | None = None
    troubles: Sequence[str] = ()
    seconds: float = 0.0
    clock_offset: float = 0.0

    @cached_property
    def cold(self) -> list[ObservedInvocation]:
        """The cold starts of the storm."""
        return [one for one in self.observed if one.kind == "cold"]

    @cached_property
    def first_checks(self) -> list[SchemaCheck]:
        """The first check of every environment that was a cold start of the storm."""
        found = (self.checks.get(one.environment) for one in self.cold)
        return [checks[0] for checks in found if checks]

    @cached_property
    def waiters(self) -> list[SchemaCheck]:
        """Those that waited for another environment."""
        return [check for check in self.first_checks if check.waited and not check.fence]

    @property
    def migrators(self) -> list[SchemaCheck]:
        """Every check that held the lease, in the order of their fencing tokens."""
        every = (check for checks in self.checks.values() for check in checks if check.fence)
        return sorted(every, key=lambda check: check.fence)

    @cached_property
    def delays(self) -> list[float]:
        """From the last migration's commit until each waiter's invocation was answered."""
        return self._since_commit({one.environment: one.result.ended for one in self.cold})

    @cached_property
    def check_delays(self) -> list[float]:
        """The same until its check was over, and the handler began."""
        return self._since_commit({check.environment: check.ended for check in self.waiters})

    def _since_commit(self, ended: Mapping[str, float]) -> list[float]:
        if self.committed is None:
            return []
        since = [
            ended[check.environment] - self.committed
            for check in self.waiters
            if check.environment in ended
        ]
        return sorted(one for one in since if one > 0)  # earlier waves waited for earlier ones

    @property
    def sampled_at_most(self) -> int:
        """Connections of lambda-migrate in any one sample."""
        return max((sample.library_connections for sample in self.samples), default=0)

    @property
    def sessions_at_most(self) -> int:
        """Connections of lambda-migrate at any moment, in the server's log."""
        return overlap_of([(one.opened, one.closed) for one in self.sessions])

    @property
    def sample_gaps(self) -> Distribution | None:
        """Seconds between two samples, from the first cold start to the last answer."""
        began = min((one.result.started for one in self.cold), default=0.0)
        ended = max((one.result.ended for one in self.observed), default=0.0)
        at = [sample.at for sample in self.samples if began <= sample.at <= ended]
        return Distribution.of([after - before for before, after in itertools.pairwise(at)])


def overlap_of(intervals: Sequence[tuple[float, float]]) -> int:
    """How many of these are open at the same moment, at most."""
    moments = sorted([(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals])
    # One that ends at the moment at which another begins comes first.
    return max(itertools.accumulate(step for _, step in moments), default=0)


# -- gathering ------------------------------------------------------------------------------------


def gather_evidence(host: Host, *, locust: Path, seconds: float) -> Evidence:
    """Read everything while the servers and environments are still there.

    Args:
        host: What the storm ran on.
        locust: Prefix of Locust's statistics files.
        seconds: How long the storm took, with the start of the servers.
    """
    testbed = host.testbed
    package, server, scenario = testbed.package, testbed.server, testbed.scenario
    memory = _measure_memory(testbed)
    testbed.sampler.stop()
    checks = {
        name: list(
            read_checks(name, function.logs(view.environment_id), clock_offset=testbed.clock_offset)
        )
        for name, function, view in testbed.environments()
    }
    intervals = read_migrations(server, package.database, clock_offset=testbed.clock_offset)
    committed = None
    if scenario.kind != "failing" and intervals:
        [[at]] = server.execute(_COMMITTED, database=package.database)
        committed = None if at is None else float(at) - testbed.clock_offset
    return Evidence(
        scenario=scenario,
        observed=host.observed,
        checks=checks,
        rows=_rows(testbed, checks),
        effects=package.effects(server, 1 if scenario.rollback else scenario.last_version),
        rollback_effects=package.rollback_effects(server) if scenario.rollback else {},
        attempts=package.attempts(server),
        intervals=[*intervals, *host.rollback_times.intervals],
        committed=committed,
        samples=testbed.sampler.samples,
        sessions=sessions_of(
            server.log.read_text(errors="replace"), clock_offset=testbed.clock_offset
        ),
        requests=testbed.requests(),
        requests_of=testbed.requests_of(),
        rates=testbed.dynamodb.rates(),
        memory=memory,
        locust=read_statistics(locust),
        rolled_back=host.rolled_back,
        troubles=[one for one in (*host.troubles, testbed.sampler.fault) if one],
        seconds=seconds,
        clock_offset=testbed.clock_offset,
    )


def _rows(testbed: Testbed, checks: Mapping[str, Sequence[SchemaCheck]]) -> list[Row]:
    rows = [
        row
        for version, function in testbed.functions.items()
        for row in build_rows(
            function.timeline(),
            {
                name.partition(" ")[2]: found[0]
                for name, found in checks.items()
                if found and name.startswith(f"v{version} ")
            },
            label=f"v{version}",
            connection_times=connection_times_by_fence(
                testbed.sampler.sessions, clock_offset=testbed.clock_offset
            ),
            until=SYSTEM_CLOCK.monotonic(),
        )
    ]
    return sorted(rows, key=row_order)


_LOG_LINE = re.compile(
    r"^(?P<at>\S+ \S+) UTC \[(?P<pid>\d+)\] LOG:  "
    rf"(?:connection authorized: .*application_name=(?P<name>{LIBRARY_PREFIX}\S*)|disconnection:)"
)


def sessions_of(log: str, *, clock_offset: float) -> list[Session]:
    """Connections of lambda-migrate in a server's log; one that is still open ends with the log.

    Args:
        log: Written with log_connections, log_disconnections and the prefix ``%m [%p] ``, in UTC.
        clock_offset: Seconds since the epoch when the monotonic clock stood at 0.
    """
    opened: dict[str, tuple[str, float]] = {}
    found = []
    last = 0.0
    for line in log.splitlines():
        match = _LOG_LINE.match(line)
        if match is None:
            continue
        at = datetime.strptime(match["at"] + "+0000", "%Y-%m-%d %H:%M:%S.%f%z")
        last = at.timestamp() - clock_offset
        if match["name"]:
            opened[match["pid"]] = (match["name"], last)
        elif match["pid"] in opened:
            found.append(Session(*opened.pop(match["pid"]), last))
    found += [Session(name, since, max(since, last)) for name, since in opened.values()]
    return sorted(found, key=lambda session: session.opened)


def _measure_memory(testbed: Testbed) -> Memory | None:
    found = [
        _read_memory(view.pid) for _, _, view in testbed.environments() if view.state != "ended"
    ]
    if not found:
        return None
    parents = {function.fork_server_pid for function in testbed.functions.values()} - {0}
    return Memory(
        len(found),
        [one["Pss"] for one in found],
        [one["Private_Clean"] + one["Private_Dirty"] for one in found],
        sum(_read_memory(pid)["Pss"] for pid in parents),
    )


def _read_memory(pid: int) -> dict[str, float]:
    """Megabytes, as the kernel adds them up; zeros for a process that has ended."""
    found = dict.fromkeys(("Pss", "Private_Clean", "Private_Dirty"), 0.0)
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = float(rest.split()[0]) / 1024
    return found


def read_statistics(prefix: Path) -> dict[str, tuple[int, int]]:
    """Requests and failures by name in the file that Locust wrote; {} if it wrote none."""
    path = prefix.with_name(prefix.name + "_stats.csv")
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Name"] != "Aggregated"]
    return {row["Name"]: (int(row["Request Count"]), int(row["Failure Count"])) for row in rows}
