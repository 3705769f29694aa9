"""A holder is killed in the middle of its migration: how soon does another process start it again?

Each kill has its own database, target and processes. The migration itself records when it runs.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from lambda_migrate.local.runtime.function import LocalFunction
from load.bench.results import Limit, Section, Table, format_number, percentile
from load.bench.tools import LAMBDA_MIGRATE, SLEEPING_SQL, MigrationSource
from load.bench.workspace import LEASE_TABLE, Workspace, wait_until

LEASE_SECONDS = 5.0  # the shortest that may be set; the renewals are a third of it apart
_WAITERS = 3
_SIMULTANEOUS_KILLS = 3
_PERCENTILES = {0: "least", 50: "median", 90: "90 in 100", 100: "worst"}

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


@dataclass(frozen=True, slots=True)
class TakeoverResult:
    """One holder killed; times are seconds after it."""

    acquired: float  # another process had the lease
    started: float  # its migration began to run
    served: float  # the last of the waiters was at its handler
    failed: int  # how many waiters were not served
    effects: int  # how often the migration took effect


def measure(workspace: Workspace, *, kills: int) -> Section:
    """Kill holders of several targets at the same time, ``kills`` of them in all."""
    # A renewal comes every third of a lease, so that each moment between two is as likely.
    moments = [LEASE_SECONDS * random.uniform(1, 4 / 3) for _ in range(kills)]  # noqa: S311 - no secret
    with ThreadPoolExecutor(_SIMULTANEOUS_KILLS) as threads:
        return make_section(list(threads.map(partial(_kill_holder, workspace), moments)))


def _kill_holder(workspace: Workspace, seconds: float) -> TakeoverResult:
    """Kill the holder of a target ``seconds`` after the last waiter began to wait."""
    lease = {"LAMBDA_MIGRATE_LEASE_SECONDS": f"{LEASE_SECONDS:g}"}
    project = workspace.make_project(LAMBDA_MIGRATE, [_MIGRATION], "takeovers")
    with (
        workspace.create_database() as database,
        workspace.make_function(
            LAMBDA_MIGRATE, project, workspace.variables(database) | lease
        ) as function,
    ):
        query = partial(workspace.server.execute, database=database)
        wait = partial(wait_until, function)
        read_item = partial(
            workspace.dynamodb.client().get_item,
            TableName=LEASE_TABLE,
            Key={"target": {"S": database}},
            ConsistentRead=True,
        )
        query(_CREATE_TABLES)
        function.submit()
        wait(lambda: query(SLEEPING_SQL), "the holder did not begin to migrate")
        waiting = [function.submit() for _ in range(_WAITERS)]
        wait(lambda: _count_senders(workspace, function) > _WAITERS, "a waiter sent no request")
        time.sleep(seconds)
        query("UPDATE length SET seconds = 0")
        killed_at = time.time()
        os.kill(function.environments()[0].pid, signal.SIGKILL)
        wait(lambda: int(read_item()["Item"]["fence"]["N"]) > 1, "no process took over")
        acquired_at = time.time()
        results = [each.result() for each in waiting]
        served_at = [float(one.payload) for one in results if one.ok]
        starts = query("SELECT extract(epoch FROM at)::float8 FROM starts")
    return TakeoverResult(
        acquired=acquired_at - killed_at,
        started=min((at for (at,) in starts), default=acquired_at) - killed_at,
        served=max(served_at, default=killed_at) - killed_at,
        failed=_WAITERS - len(served_at),
        effects=len(starts),
    )


def _count_senders(workspace: Workspace, function: LocalFunction) -> int:
    """How many environments have sent a request to DynamoDB."""
    requests = workspace.dynamodb.requests
    return sum(requests(view.access_key).total() > 0 for view in function.environments())


def make_section(results: Sequence[TakeoverResult]) -> Section:
    """The row of the table."""
    acquired = [one.acquired / LEASE_SECONDS for one in results]
    count = f"of {len(results)} kills"
    times = {
        "the lease is acquired": acquired,
        "the migration runs": [one.started / LEASE_SECONDS for one in results],
        "the last waiter serves": [one.served / LEASE_SECONDS for one in results],
    }
    what = f"from a holder's end by SIGKILL until another has the lease, median {count}"
    wrong = sum(one.effects != 1 for one in results)
    rows = [
        (moment, *(format_number(percentile(each, percent)) for percent in _PERCENTILES))
        for moment, each in times.items()
    ]
    return Section(
        limits=[
            Limit(what, 1 + 1 / LEASE_SECONDS, acquired, "leases"),
            Limit(f"waiters that failed, {count}", 0, [sum(one.failed for one in results)]),
            Limit(f"migrations that did not take effect exactly once, {count}", 0, [wrong]),
        ],
        tables=[Table(("after the kill, in leases", *_PERCENTILES.values()), rows)],
    )
