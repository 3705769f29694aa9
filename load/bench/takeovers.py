"""A holder is killed in the middle of its migration: how soon does another process start it again?

Each kill has its own database, target and processes. The migration itself records when it runs.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from load.bench.migrations import MigrationSource
from load.bench.processes import MeasurementFailed, Process, read_figures
from load.bench.results import Limit, Section, Table, format_number, percentile
from load.bench.tools import LAMBDA_MIGRATE
from load.bench.workspace import TABLE, Workspace

LEASE_SECONDS = 5.0
"""The shortest that may be set; the renewals are a third of it apart."""

WAITERS = 3
_SIMULTANEOUS_KILLS = 3
_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.05
_PERCENTS = {0: "least", 50: "median", 90: "90 in 100", 100: "worst"}

_MIGRATION = MigrationSource(
    1,
    "long",
    ("INSERT INTO starts VALUES (clock_timestamp())", "SELECT pg_sleep(seconds) FROM length"),
)
_CREATE_TABLES = """
    CREATE TABLE starts (at timestamptz);
    CREATE TABLE length AS SELECT 600 AS seconds;
    GRANT ALL ON starts, length TO PUBLIC
"""
_IS_RUNNING = """
    SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
    AND state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%FROM length%'
"""
_PROGRAM = """
import app
from load.bench.processes import print_figures
print_figures(app.handler({}, app.Context()))
"""


@dataclass(frozen=True, slots=True)
class TakeoverResult:
    """One holder killed; times are seconds after it.

    Attributes:
        acquired: Another process had the lease.
        started: Its migration began to run.
        served: Each of the waiters was at its handler.
        failed: How many waiters were not served.
        effects: How often the migration took effect.
    """

    acquired: float
    started: float
    served: Sequence[float]
    failed: int
    effects: int


def measure(workspace: Workspace, *, kills: int, rng: random.Random | None = None) -> Section:
    """Kill holders of several targets at the same time, ``kills`` of them in all."""
    rng = rng or random.Random()  # noqa: S311 - not for secrets
    # A renewal comes every third of a lease, so that each moment between two is as likely.
    moments = [LEASE_SECONDS * (1 + rng.random() / 3) for _ in range(kills)]

    def kill(seconds: float) -> TakeoverResult:
        with workspace.new_database() as database, ExitStack() as stack:
            return _Takeover(workspace, database, stack).run(seconds)

    with ThreadPoolExecutor(_SIMULTANEOUS_KILLS) as threads:
        return section_of(list(threads.map(kill, moments)))


class _Takeover:
    """One target, from its holder's start until all other processes serve."""

    def __init__(self, workspace: Workspace, database: str, stack: ExitStack) -> None:
        self._workspace = workspace
        self._database = database
        self._stack = stack
        self._processes: list[Process] = []
        self._table = workspace.dynamodb.client()

    def run(self, seconds: float) -> TakeoverResult:
        """Kill the holder ``seconds`` after the last process began to wait."""
        self._query(_CREATE_TABLES)
        holder = self._start("holder")
        self._wait_until(lambda: self._query(_IS_RUNNING), "the holder did not begin to migrate")
        names = [f"waiter{number}" for number in range(WAITERS)]
        waiters = [self._start(name) for name in names]
        count_requests = self._workspace.dynamodb.requests
        self._wait_until(
            lambda: all(count_requests(self._key(name)).total() for name in names),
            "a waiter sent no request",
        )
        time.sleep(seconds)
        self._query("UPDATE length SET seconds = 0")
        killed_at = time.time()
        holder.kill()
        self._wait_until(lambda: self._read_fence() > 1, "no process took over")
        acquired_at = time.time()
        self._wait_until(
            lambda: all(waiter.has_ended() for waiter in waiters), "a waiter was not served"
        )
        finished = [waiter.wait(0.0) for waiter in waiters]
        served_at = [float(read_figures(one.output)) for one in finished if one.status == 0]
        starts = self._query("SELECT extract(epoch FROM at)::float8 FROM starts")
        return TakeoverResult(
            acquired=acquired_at - killed_at,
            started=min((at for (at,) in starts), default=acquired_at) - killed_at,
            served=[at - killed_at for at in served_at],
            failed=WAITERS - len(served_at),
            effects=len(starts),
        )

    def _start(self, name: str) -> Process:
        project = self._workspace.project(LAMBDA_MIGRATE, [_MIGRATION], "takeover")
        command = (sys.executable, "-c", _PROGRAM)
        program = self._workspace.program(LAMBDA_MIGRATE, project, self._database, command)
        environment = {
            **program.environment,
            "AWS_ACCESS_KEY_ID": self._key(name),
            "LAMBDA_MIGRATE_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
        }
        process = Process(self._stack, program._replace(environment=environment))
        self._processes.append(process)
        return process

    def _key(self, name: str) -> str:
        """The access key of a process, by which its requests are counted."""
        return f"{self._database}{name}".replace("_", "")

    def _read_fence(self) -> int:
        key = {"target": {"S": self._database}}
        item = self._table.get_item(TableName=TABLE, Key=key, ConsistentRead=True)["Item"]
        return int(item["fence"]["N"])

    def _query(self, sql: str) -> list[list[Any]]:
        return self._workspace.query(self._database, sql)

    def _wait_until(self, condition: Callable[[], Any], error_message: str) -> None:
        until = time.monotonic() + _TIMEOUT_SECONDS
        while not condition():
            if time.monotonic() > until:
                logs = "\n".join(process.read_output() for process in self._processes)
                raise MeasurementFailed(f"{error_message}:\n{logs}")
            time.sleep(_POLL_SECONDS)


def section_of(results: Sequence[TakeoverResult]) -> Section:
    """The row of the table."""
    acquired = [one.acquired / LEASE_SECONDS for one in results]
    count = f"of {len(results)} kills"
    times = {
        "the lease is acquired": acquired,
        "the migration runs": [one.started / LEASE_SECONDS for one in results],
        "the last waiter serves": [max(one.served, default=0) / LEASE_SECONDS for one in results],
    }
    what = f"from a holder's end by SIGKILL until another has the lease, median {count}"
    wrong = sum(one.effects != 1 for one in results)
    rows = [
        (moment, *(format_number(percentile(each, percent)) for percent in _PERCENTS))
        for moment, each in times.items()
    ]
    return Section(
        limits=[
            Limit(what, 1 + 1 / LEASE_SECONDS, acquired, "leases"),
            Limit(f"waiters that failed, {count}", 0, [sum(one.failed for one in results)]),
            Limit(f"migrations that did not take effect exactly once, {count}", 0, [wrong]),
        ],
        tables=[Table(("after the kill, in leases", *_PERCENTS.values()), rows)],
        data={"kills": [asdict(one) for one in results]},
    )
