"""What a storm has shown: read from the environments' logs, the servers and Locust's statistics."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.local.demo.evidence import (
    Check,
    Spread,
    connection_times_by_fence,
    read_checks,
    ready_at,
    rows_of,
)
from lambda_migrate.local.demo.sampler import OURS, Sample
from lambda_migrate.local.demo.stage import read_migrations
from lambda_migrate.local.demo.timeline import Band, Row

if TYPE_CHECKING:
    from load.storm.host import Host, Observed
    from load.storm.scenarios import Scenario
    from load.storm.stage import StormStage

__all__ = ["Evidence", "Memory", "Session", "gather", "measure_memory", "sessions_of"]

_COMMITTED = """
SELECT max(extract(epoch FROM pg_xact_commit_timestamp(xmin)))::float8
FROM lambda_migrate.history WHERE state = 'applied'
"""


@dataclass(frozen=True, slots=True)
class Session:
    """One connection of lambda-migrate, as PostgreSQL's own log has it.

    Attributes:
        name: Its application name.
        opened: Monotonic seconds.
        closed: Monotonic seconds; when the server's process had ended.
    """

    name: str
    opened: float
    closed: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes of all environments that were alive at one moment, all of them served.

    Attributes:
        environments: How many.
        pss: Each one's share: what several have in common is divided among them.
        uss: What each has for itself.
        shared_parent: The parent of forked ones, its share; 0 for separate ones.
    """

    environments: int
    pss: Sequence[float]
    uss: Sequence[float]
    shared_parent: float


@dataclass(frozen=True)
class Evidence:
    """Everything that was seen of one storm. Times are monotonic seconds of one clock.

    Attributes:
        scenario: Which storm.
        observed: Every invocation that Locust asked for.
        checks: Of each environment, in order.
        rows: The timeline, one row for each environment.
        effects: How often each migration took effect, counted in the database.
        taken_back: The same of down scripts; empty without a rollback.
        attempts: How often the failing migration was tried; None if none is to fail.
        bands: Each migration, and each down script.
        committed: When PostgreSQL committed the last migration, by its own account; None where
            none was to succeed.
        samples: Connections, by asking every so often.
        sessions: Connections, by the server's log, which misses none.
        requests: To DynamoDB by operation; empty where the engine does not count.
        requests_of: The same by environment.
        rates: Requests by tenth of a second since the epoch; None where it does not count.
        memory: None where no environment was left.
        locust: Requests and failures by name, as Locust has counted them.
        rolled_back: Seconds.
        troubles: What else went wrong.
        seconds: How long it took, start of the servers included.
        epoch: Seconds since the epoch when the monotonic clock stood at 0.
    """

    scenario: Scenario
    observed: Sequence[Observed]
    checks: Mapping[str, Sequence[Check]]
    rows: Sequence[Row] = ()
    effects: Mapping[str, int] = field(default_factory=dict)
    taken_back: Mapping[str, int] = field(default_factory=dict)
    attempts: int | None = None
    bands: Sequence[Band] = ()
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
    epoch: float = 0.0

    @cached_property
    def cold(self) -> list[Observed]:
        """The cold starts of the storm."""
        return [one for one in self.observed if one.kind == "cold"]

    @cached_property
    def first_checks(self) -> list[Check]:
        """The first check of every environment that was a cold start of the storm."""
        found = (self.checks.get(one.environment) for one in self.cold)
        return [checks[0] for checks in found if checks]

    @cached_property
    def waiters(self) -> list[Check]:
        """Those that had to wait for another environment."""
        return [check for check in self.first_checks if check.waited and not check.fence]

    @property
    def migrators(self) -> list[Check]:
        """Every check that held the lease, in the order of their fences."""
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
    def calls(self) -> Spread | None:
        """Calls to DynamoDB of each environment that waited, by its own account."""
        return Spread.of([check.lease_calls for check in self.waiters])

    @property
    def sampled_at_most(self) -> int:
        """Connections of lambda-migrate in any one sample."""
        return max((sample.ours for sample in self.samples), default=0)

    @property
    def sessions_at_most(self) -> int:
        """Connections of lambda-migrate at any moment, by the server's log."""
        return overlap_of([(one.opened, one.closed) for one in self.sessions])

    @property
    def sample_gaps(self) -> Spread | None:
        """Seconds between two samples, from the first cold start to the last answer."""
        began = min((one.result.started for one in self.cold), default=0.0)
        ended = max((one.result.ended for one in self.observed), default=0.0)
        at = [sample.at for sample in self.samples if began <= sample.at <= ended]
        return Spread.of([after - before for before, after in itertools.pairwise(at)])


def overlap_of(intervals: Sequence[tuple[float, float]]) -> int:
    """How many of these are open at the same moment, at most."""
    moments = sorted([(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals])
    most = level = 0
    for _, step in moments:  # one that ends at the moment at which another begins comes first
        level += step
        most = max(most, level)
    return most


# -- gathering ------------------------------------------------------------------------------------


def gather(host: Host, *, locust: Path, seconds: float) -> Evidence:
    """Read everything, while all of it is still there.

    Args:
        host: What the storm ran on.
        locust: Where Locust wrote its statistics: the start of their names.
        seconds: How long the storm took, start of the servers included.
    """
    stage = host.stage
    memory = measure_memory(stage)
    stage.sampler.stop()
    checks = dict(_checks(stage))
    version = 1 if stage.scenario.rollback else stage.scenario.last_version
    bands = read_migrations(stage.server, stage.package.database, epoch=stage.epoch)
    return Evidence(
        scenario=stage.scenario,
        observed=host.observed,
        checks=checks,
        rows=_rows(stage, checks),
        effects=stage.package.effects(stage.server, version),
        taken_back=stage.package.taken_back(stage.server) if stage.scenario.rollback else {},
        attempts=stage.package.attempts(stage.server),
        bands=[*bands, *host.reversions.bands],
        committed=_committed(stage),
        samples=stage.sampler.samples,
        sessions=sessions_of(stage.server.log.read_text(errors="replace"), epoch=stage.epoch),
        requests=stage.calls(),
        requests_of=_requests_of(stage),
        rates=stage.dynamodb.rates(),
        memory=memory,
        locust=read_statistics(locust),
        rolled_back=host.rolled_back,
        troubles=[one for one in (*host.troubles, stage.sampler.fault) if one],
        seconds=seconds,
        epoch=stage.epoch,
    )


def _checks(stage: StormStage) -> Iterator[tuple[str, list[Check]]]:
    for version, function in stage.functions.items():
        for view in function.environments():
            name = f"v{version} {view.environment_id}"
            log = function.logs(view.environment_id)
            yield name, list(read_checks(name, log, epoch=stage.epoch))


def _rows(stage: StormStage, checks: Mapping[str, Sequence[Check]]) -> list[Row]:
    rows = [
        row
        for version, function in stage.functions.items()
        for row in rows_of(
            function.timeline(),
            {
                name.partition(" ")[2]: found[0]
                for name, found in checks.items()
                if found and name.startswith(f"v{version} ")
            },
            label=f"v{version}",
            connected=connection_times_by_fence(stage.sampler.sessions, epoch=stage.epoch),
            until=SYSTEM_CLOCK.monotonic(),
        )
    ]
    return sorted(rows, key=ready_at)


def _committed(stage: StormStage) -> float | None:
    database = stage.package.database
    if stage.scenario.kind == "failing":
        return None  # there is none that was waited for
    if not read_migrations(stage.server, database, epoch=stage.epoch):
        return None
    committed = stage.server.execute(_COMMITTED, database=database)[0][0]
    return None if committed is None else float(committed) - stage.epoch


def _requests_of(stage: StormStage) -> dict[str, int]:
    found = {}
    clients = set(stage.dynamodb.clients())
    for version, function in stage.functions.items():
        for view in function.environments():
            if view.access_key in clients:
                counted = stage.dynamodb.requests(view.access_key)
                found[f"v{version} {view.environment_id}"] = sum(counted.values())
    return found


_OPENED = re.compile(
    r"^(?P<at>\S+ \S+) UTC \[(?P<pid>\d+)\] LOG:  connection authorized: .*"
    rf"application_name=(?P<name>{OURS}\S*)"
)
_CLOSED = re.compile(r"^(?P<at>\S+ \S+) UTC \[(?P<pid>\d+)\] LOG:  disconnection:")


def sessions_of(log: str, *, epoch: float) -> list[Session]:
    """Connections of lambda-migrate in a server's log; one that is still open ends with the log.

    Args:
        log: Written with log_connections, log_disconnections and the prefix ``%m [%p] ``, in UTC.
        epoch: What is to be subtracted from seconds since the epoch for monotonic ones.
    """
    opened: dict[str, tuple[str, float]] = {}
    found = []
    last = 0.0
    for line in log.splitlines():
        if began := _OPENED.match(line):
            last = _seconds(began["at"]) - epoch
            opened[began["pid"]] = (began["name"], last)
        elif ended := _CLOSED.match(line):
            last = _seconds(ended["at"]) - epoch
            if ended["pid"] in opened:
                name, since = opened.pop(ended["pid"])
                found.append(Session(name, since, last))
    found += [Session(name, since, max(since, last)) for name, since in opened.values()]
    return sorted(found, key=lambda session: session.opened)


def _seconds(text: str) -> float:
    return datetime.strptime(text + "+0000", "%Y-%m-%d %H:%M:%S.%f%z").timestamp()


def measure_memory(stage: StormStage) -> Memory | None:
    """The memory of all environments as they are now; None if there are none."""
    views = [view for function in stage.functions.values() for view in function.environments()]
    found = [_rollup(view.pid) for view in views if view.state != "ended"]
    if not found:
        return None
    parents = [
        function.fork_server_pid
        for function in stage.functions.values()
        if function.fork_server_pid
    ]
    return Memory(
        len(found),
        [one["Pss"] for one in found],
        [one["Private_Clean"] + one["Private_Dirty"] for one in found],
        sum(_rollup(pid)["Pss"] for pid in parents),
    )


def _rollup(pid: int) -> dict[str, float]:
    """Megabytes, as the kernel adds them up; zeros for a process that is no more."""
    found = dict.fromkeys(("Pss", "Private_Clean", "Private_Dirty"), 0.0)
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = float(rest.split()[0]) / 1024
    return found


def read_statistics(prefix: Path) -> dict[str, tuple[int, int]]:
    """Requests and failures by name, from the file that Locust wrote; {} if it wrote none."""
    path = prefix.with_name(prefix.name + "_stats.csv")
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Name"] != "Aggregated"]
    return {row["Name"]: (int(row["Request Count"]), int(row["Failure Count"])) for row in rows}
