"""A holder is killed in the middle of its migration: how soon does another process start it again?

Each kill has its own database, target and processes. The migration itself records when it runs.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load.bench.migrations import MigrationSource
from load.bench.output import read_figures
from load.bench.processes import MeasurementFailed
from load.bench.results import Limit, Section, Table, format_number, percentile
from load.bench.tools import LAMBDA_MIGRATE
from load.bench.workspace import TABLE, Workspace

__all__ = ["WAITERS", "TakeoverResult", "measure", "section_of"]

LEASE_SECONDS = 5.0
"""The shortest that may be set; the renewals are a third of it apart."""

WAITERS = 3
_SIMULTANEOUS_KILLS = 3
_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.05
_PERCENTS = {0: "least", 25: "25 in 100", 50: "median", 75: "75", 90: "90", 99: "99", 100: "worst"}

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
from load.bench.output import print_figures
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
        calls: What each waiter asked of DynamoDB, that which migrated left out.
        fast_path_calls: What a process asked that started when all was over.
    """

    acquired: float
    started: float
    served: Sequence[float]
    failed: int
    effects: int
    calls: Sequence[int]
    fast_path_calls: int


def measure(workspace: Workspace, *, kills: int, rng: random.Random | None = None) -> Section:
    """Kill holders of several targets at the same time, ``kills`` of them in all."""
    rng = rng or random.Random()  # noqa: S311 - not for secrets
    # A renewal comes every third of a lease, so that each moment between two is as likely.
    moments = [LEASE_SECONDS * (1 + rng.random() / 3) for _ in range(kills)]

    def kill(seconds: float) -> TakeoverResult:
        with workspace.new_database() as database, ExitStack() as processes:
            return _Takeover(workspace, database, processes).run(seconds)

    with ThreadPoolExecutor(_SIMULTANEOUS_KILLS) as threads:
        return section_of(list(threads.map(kill, moments)))


class _Takeover:
    """One target, from its holder's start until all other processes serve."""

    def __init__(self, workspace: Workspace, database: str, processes: ExitStack) -> None:
        self._workspace = workspace
        self._database = database
        self._processes = processes
        self._logs = Path(processes.enter_context(tempfile.TemporaryDirectory(prefix="lm-bench-")))
        self._table = workspace.dynamodb.client()

    def run(self, seconds: float) -> TakeoverResult:
        """Kill the holder ``seconds`` after the last process began to wait."""
        self._query(_CREATE_TABLES)
        holder = self._start("holder")
        self._wait_until(lambda: self._query(_IS_RUNNING), "the holder did not begin to migrate")
        names = [f"waiter{number}" for number in range(WAITERS)]
        waiters = {name: self._start(name) for name in names}
        self._wait_until(
            lambda: all(self._count_calls(name) for name in names), "a waiter sent no request"
        )
        time.sleep(seconds)
        self._query("UPDATE length SET seconds = 0")
        killed_at = time.time()
        holder.kill()
        self._wait_until(lambda: self._read_fence() > 1, "no process took over")
        acquired_at = time.time()
        served_at = [self._wait_until_served(waiters[name], name) for name in names]
        self._wait_until_served(self._start("fast"), "fast")
        starts = self._query("SELECT extract(epoch FROM at)::float8 FROM starts")
        owners = self._query("SELECT owner FROM lambda_migrate.history")
        migrators = {int(str(owner).split("/")[1]) for (owner,) in owners}
        others = [name for name in names if waiters[name].pid not in migrators]
        return TakeoverResult(
            acquired=acquired_at - killed_at,
            started=min((at for (at,) in starts), default=acquired_at) - killed_at,
            served=[at - killed_at for at in served_at if at is not None],
            failed=served_at.count(None),
            effects=len(starts),
            calls=[self._count_calls(name) for name in others],
            fast_path_calls=self._count_calls("fast"),
        )

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        project = self._workspace.project(LAMBDA_MIGRATE, [_MIGRATION], "takeover")
        environment = {
            **self._workspace.environment(self._database),
            "AWS_ACCESS_KEY_ID": self._key(name),
            "LAMBDA_MIGRATE_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
        }
        with (self._logs / name).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                cwd=project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._processes.callback(process.wait)
        self._processes.callback(process.kill)
        return process

    def _key(self, name: str) -> str:
        """The access key of a process, by which its requests are counted."""
        return f"{self._database}{name}".replace("_", "")

    def _count_calls(self, name: str) -> int:
        return self._workspace.dynamodb.requests(self._key(name)).total()

    def _read_fence(self) -> int:
        key = {"target": {"S": self._database}}
        item = self._table.get_item(TableName=TABLE, Key=key, ConsistentRead=True)["Item"]
        return int(item["fence"]["N"])

    def _wait_until_served(self, process: subprocess.Popen[bytes], name: str) -> float | None:
        """When it served; None if it failed."""
        try:
            status = process.wait(_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        output = (self._logs / name).read_text(errors="replace")
        return float(read_figures(output)) if status == 0 else None

    def _query(self, sql: str) -> list[list[Any]]:
        return self._workspace.query(self._database, sql)

    def _wait_until(self, condition: Callable[[], Any], error_message: str) -> None:
        until = time.monotonic() + _TIMEOUT_SECONDS
        while not condition():
            if time.monotonic() > until:
                logs = "\n".join(path.read_text() for path in self._logs.iterdir())
                raise MeasurementFailed(f"{error_message}:\n{logs}")
            time.sleep(_POLL_SECONDS)


def section_of(results: Sequence[TakeoverResult]) -> Section:
    """The row of the table."""
    acquired = [one.acquired / LEASE_SECONDS for one in results]
    count = f"of {len(results)} kills"
    times = {
        "the lease is acquired": [one.acquired for one in results],
        "the migration runs": [one.started for one in results],
        "the last waiter serves": [max(one.served, default=0.0) for one in results],
    }
    calls = {
        "DynamoDB calls of a waiter": [calls for one in results for calls in one.calls],
        "of the fast path": [one.fast_path_calls for one in results],
    }
    what = f"from a holder's end by SIGKILL until another has the lease, median {count}"
    return Section(
        limits=[
            Limit(what, 1 + 1 / LEASE_SECONDS, acquired, "leases"),
            Limit(f"waiters that failed, {count}", 0, [sum(one.failed for one in results)]),
            Limit(
                f"migrations that did not take effect exactly once, {count}",
                0,
                [sum(one.effects != 1 for one in results)],
            ),
        ],
        tables=[
            _percentiles("after the kill, in leases", times, LEASE_SECONDS),
            _percentiles("", calls, 1.0),
        ],
        data={"kills": [asdict(one) for one in results]},
    )


def _percentiles(title: str, values: dict[str, list[Any]], unit: float) -> Table:
    return Table(
        (title, *_PERCENTS.values()),
        [
            (what, *(format_number(percentile(each, percent) / unit) for percent in _PERCENTS))
            for what, each in values.items()
        ],
    )
