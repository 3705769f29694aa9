"""A holder is killed in the middle of its migration: how soon does another process start it again?

Each kill has its own database, target and processes, and a relay in front of DynamoDB that counts
requests. The migration itself records when it runs.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load.bench.charts import draw_bars
from load.bench.figures import Spread, format_number, percentile
from load.bench.migrations import Change
from load.bench.output import read_figures
from load.bench.peers import LAMBDA_MIGRATE
from load.bench.processes import MeasurementFailed
from load.bench.results import Check, Section, Table
from load.bench.workspace import Workspace
from load.chaos.dynamodb import AnsweredRequest, DynamoDBRelay
from load.chaos.relay import Loop

__all__ = ["Kill", "Requests", "measure", "section_of"]

LEASE_SECONDS = 5.0
"""The shortest that may be set; the renewals are a third of it apart."""

WAITERS = 3
_AT_ONCE = 3
_PATIENCE_SECONDS = 60.0
_HELD_SECONDS = 600
_PERCENTS = (0, 25, 50, 75, 90, 99, 100)

_MIGRATION = Change(
    1,
    "long",
    (
        "INSERT INTO starts VALUES (clock_timestamp())",
        "SELECT pg_sleep(seconds) FROM length",
    ),
)
_TABLES = f"""
    CREATE TABLE starts (at timestamptz);
    CREATE TABLE length AS SELECT {_HELD_SECONDS} AS seconds;
    GRANT ALL ON starts, length TO PUBLIC
"""
_IS_RUNNING = """
    SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
    AND state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%FROM length%'
"""
_CODE = """
import app
from load.bench.output import print_figures
print_figures(app.handler({}, app.Context()))
"""


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of one process to DynamoDB.

    Attributes:
        consistent: Strongly consistent reads: one unit each, up to 4 KB.
        eventual: Eventually consistent reads: half a unit each.
        writes: One unit each at least, refused or not.
    """

    consistent: int
    eventual: int
    writes: int

    @property
    def calls(self) -> int:
        """All of them."""
        return self.consistent + self.eventual + self.writes

    @property
    def read_units(self) -> float:
        """Of an item of up to 4 KB."""
        return self.consistent + self.eventual / 2


@dataclass(frozen=True, slots=True)
class Kill:
    """One holder killed; times are seconds after it.

    Attributes:
        acquired: Another process had the lease.
        started: Its migration began to run.
        served: Each of the waiters was at its handler, in order.
        failed: How many waiters were not served.
        effects: How often the migration took effect.
        waited: Of each waiter that did not migrate, from its first request until it served.
        waiters: What each of these asked of DynamoDB.
        fast: What a process asked that started when all was over.
    """

    acquired: float
    started: float
    served: Sequence[float]
    failed: int
    effects: int
    waited: Sequence[float]
    waiters: Sequence[Requests]
    fast: Requests


def measure(workspace: Workspace, *, kills: int, rng: random.Random | None = None) -> Section:
    """Kill holders of several targets at the same time, ``kills`` of them in all."""
    rng = rng or random.Random()  # noqa: S311 - not for secrets
    project = workspace.project(LAMBDA_MIGRATE, "takeovers", [_MIGRATION])
    # A renewal comes every third of a lease, so that each moment between two is as likely.
    moments = [LEASE_SECONDS * (1 + rng.random() / 3) for _ in range(kills)]
    creating = threading.Lock()

    def kill(after: float) -> Kill:
        with creating:
            database = workspace.new_database()
        with tempfile.TemporaryDirectory(prefix="lm-bench-") as logs:
            return _Trial(workspace, project, database, loop, Path(logs)).run(after)

    with Loop() as loop, ThreadPoolExecutor(_AT_ONCE) as threads:
        return section_of(list(threads.map(kill, moments)))


class _Trial:
    """One target, from its holder's start until all other processes serve."""

    def __init__(
        self, workspace: Workspace, project: Path, database: str, loop: Loop, logs: Path
    ) -> None:
        self._workspace = workspace
        self._project = project
        self._database = database
        self._logs = logs
        self._opened = ExitStack()
        engine = workspace.dynamodb.endpoint_url
        rng = random.Random(0)  # noqa: S311 - unused: there are no faults
        self._relay = DynamoDBRelay(loop, engine, lambda *_: None, rng=rng)

    def run(self, after: float) -> Kill:
        """Kill the holder ``after`` seconds after the last process began to wait."""
        self._workspace.server.execute(_TABLES, self._database)
        with self._opened, self._relay:
            holder = self._start("holder")
            self._wait_until(
                lambda: self._query(_IS_RUNNING), "the holder did not begin its migration"
            )
            waiters = {name: self._start(name) for name in map("waiter{}".format, range(WAITERS))}
            self._wait_until(
                lambda: waiters.keys() <= {one.client for one in self._relay.answered_requests},
                "some waiters sent no request to DynamoDB",
            )
            time.sleep(after)
            self._workspace.server.execute("UPDATE length SET seconds = 0", self._database)
            killed = time.time()
            holder.kill()
            served = {name: self._served_at(process, name) for name, process in waiters.items()}
            self._served_at(self._start("fast"), "fast")
            found = self._result(killed, served)
        self._workspace.drop_database(self._database)
        return found

    def _result(self, killed: float, served: dict[str, float | None]) -> Kill:
        answered_requests = list(self._relay.answered_requests)
        acquired = next(
            (
                one
                for one in answered_requests
                if one.at > killed and one.client in served and _is_grant(one)
            ),
            None,
        )
        starts = self._query("SELECT extract(epoch FROM at)::float8 FROM starts")
        if acquired is None or not starts:
            raise MeasurementFailed(f"no process took over:\n{self._output('waiter0')}")
        began = {one.client: one.at for one in reversed(answered_requests)}
        others = [name for name, at in served.items() if at and name != acquired.client]
        return Kill(
            acquired=acquired.at - killed,
            started=starts[0][0] - killed,
            served=sorted(at - killed for at in served.values() if at is not None),
            failed=sum(at is None for at in served.values()),
            effects=len(starts),
            waited=[(served[name] or 0) - began[name] for name in others],
            waiters=[_requests(answered_requests, name) for name in others],
            fast=_requests(answered_requests, "fast"),
        )

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        environment = {
            **self._workspace.environment(self._database),
            "AWS_ENDPOINT_URL_DYNAMODB": self._relay.url,
            "AWS_ACCESS_KEY_ID": name,
            "LAMBDA_MIGRATE_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
        }
        with (self._logs / name).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _CODE],
                cwd=self._project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._opened.callback(process.wait)
        self._opened.callback(process.kill)
        return process

    def _served_at(self, process: subprocess.Popen[bytes], name: str) -> float | None:
        """When it served; None if it failed."""
        try:
            code = process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        return float(read_figures(self._output(name))) if code == 0 else None

    def _output(self, name: str) -> str:
        return (self._logs / name).read_text(errors="replace")

    def _query(self, sql: str) -> list[list[Any]]:
        return self._workspace.query(self._database, sql)

    def _wait_until(self, holds: Callable[[], Any], otherwise: str) -> None:
        until = time.monotonic() + _PATIENCE_SECONDS
        while not holds():
            if time.monotonic() > until:
                logs = "\n".join(path.read_text() for path in self._logs.iterdir())
                raise MeasurementFailed(f"{otherwise}:\n{logs}")
            time.sleep(0.05)


def _is_grant(one: AnsweredRequest) -> bool:
    """A waiter's first write that succeeds: until it has the lease it only reads."""
    return one.operation == "UpdateItem" and one.succeeded


def _requests(answered_requests: Iterable[AnsweredRequest], client: str) -> Requests:
    own = [one for one in answered_requests if one.client == client]
    reads = [one for one in own if one.operation == "GetItem"]
    eventual = sum(one.may_be_stale for one in reads)
    return Requests(len(reads) - eventual, eventual, len(own) - len(reads))


def section_of(kills: Sequence[Kill]) -> Section:
    """The row of the table."""
    acquired = [one.acquired / LEASE_SECONDS for one in kills]
    count = f"{len(kills)} kills"
    times = {
        "the lease is acquired": [one.acquired for one in kills],
        "the migration runs": [one.started for one in kills],
        "the last waiter serves": [max(one.served) for one in kills],
    }
    users = {
        "a waiter": [requests for one in kills for requests in one.waiters],
        "the fast path": [one.fast for one in kills],
    }
    waits = [seconds for one in kills for seconds in one.waited]
    return Section(
        key="takeovers",
        title="How soon another process takes over from one that was killed",
        checks=[
            Check(
                f"from a holder's end by SIGKILL until another has the lease, median of {count}",
                limit=1 + 1 / LEASE_SECONDS,
                value=percentile(acquired, 50),
                unit="leases",
                range=(min(acquired), max(acquired)),
            ),
            Check(
                f"waiters that failed, of {count}", limit=0, value=sum(one.failed for one in kills)
            ),
            Check(
                f"migrations that took effect more than once, of {count}",
                limit=0,
                value=sum(one.effects != 1 for one in kills),
            ),
        ],
        tables=[
            Table(
                ("after the kill, in leases", *map(_percent, _PERCENTS)),
                [(what, *_distribution(seconds)) for what, seconds in times.items()],
            ),
            Table(
                ("DynamoDB, in the median (at most)", *_USAGE),
                [
                    (who, *(_usage([read(one) for one in requests]) for read in _USAGE.values()))
                    for who, requests in users.items()
                ],
            ),
        ],
        charts={
            "takeovers": draw_bars(
                "From a holder's end until another has the lease",
                "leases",
                [
                    (_percent(percent), Spread(*[percentile(acquired, percent)] * 3))
                    for percent in _PERCENTS[1:]
                ],
                limit=1 + 1 / LEASE_SECONDS,
            )
        },
        notes=[
            f"The lease is {LEASE_SECONDS:g} s long; {WAITERS} processes wait for each target, and "
            f"{_AT_ONCE} targets are under way at a time. The holder is killed between one lease "
            "and one lease and a third after the last of them began to wait: each moment between "
            "two renewals is as likely.",
            "The lease is acquired with a waiter's first write that succeeds. The migration "
            "records when it runs (clock_timestamp), which includes connecting, ending the "
            "holder's backend and reading the history.",
            f"A waiter's requests are those of a wait of {format_number(percentile(waits, 50))} s "
            "in the median, of one that does not migrate.",
        ],
        data={"kills": [asdict(one) for one in kills]},
    )


_USAGE: Mapping[str, Callable[[Requests], float]] = {
    "calls": lambda one: one.calls,
    "consistent reads": lambda one: one.consistent,
    "other reads": lambda one: one.eventual,
    "writes": lambda one: one.writes,
    "read units": lambda one: one.read_units,
}


def _usage(values: Sequence[float]) -> str:
    return f"{format_number(percentile(values, 50))} ({format_number(max(values))})"


def _percent(percent: int) -> str:
    return {0: "least", 50: "median", 100: "worst"}.get(percent, f"{percent} in 100")


def _distribution(seconds: Sequence[float]) -> Sequence[str]:
    return [format_number(percentile(seconds, each) / LEASE_SECONDS) for each in _PERCENTS]
