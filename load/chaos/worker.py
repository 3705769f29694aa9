"""Servers for one schedule at a time, and several of these side by side."""

from __future__ import annotations

import itertools
import os
import queue
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lambda_migrate.local.runtime.fork_client import ForkServer
from lambda_migrate.local.runtime.loop_thread import LoopThread
from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.chaos.evidence import ChaosEvidence
from load.chaos.invariants import find_violated_invariants
from load.chaos.run import ChaosRun
from load.chaos.schedule import Schedule
from load.chaos.service_state import LEASE_TABLE, ServiceState

_POSTGRESQL_SETTINGS = {
    # A server that is restarted in immediate mode forgets nothing that it has acknowledged.
    "synchronous_commit": "on",
    "track_commit_timestamp": "on",
    "max_connections": "60",
}

_PRELOADED = (
    *("load.chaos.process", "boto3", "pg8000.native", "lambda_migrate.postgresql.driver"),
    "lambda_migrate.postgresql.non_transactional",
    # For the tool that migrates alone; a child process imports it by itself.
    *("alembic.command", "psycopg", "sqlalchemy.dialects.postgresql.psycopg"),
    *("django.core.management.commands.migrate", "django.db.backends.postgresql.base"),
)
"""What every process of a round needs, so that all share it."""

_EXECUTOR_THREADS = 64  # each waits for a server, mostly

_run_counter = itertools.count(1)


def run_schedules(schedules: Iterable[Schedule], *, workers: int) -> Iterator[ChaosEvidence]:
    """Run schedules side by side and check the invariants; results come as they are ready."""
    idle_workers: queue.SimpleQueue[Worker] = queue.SimpleQueue()

    def run_one(schedule: Schedule) -> ChaosEvidence:
        worker = idle_workers.get()
        try:
            evidence = worker.run(schedule)
            return replace(evidence, violations=find_violated_invariants(evidence))
        finally:
            idle_workers.put(worker)

    with (
        # PostgreSQL's own account must be able to pass through.
        tempfile.TemporaryDirectory(prefix="lm-chaos-") as folder,
        LoopThread("chaos", executor_threads=_EXECUTOR_THREADS) as loop,
        LocalDynamoDB() as dynamodb,
        ExitStack() as stack,
    ):
        dynamodb.create_table(LEASE_TABLE)
        for number in range(workers):
            worker = open_worker(Path(folder) / f"worker-{number}", loop, dynamodb)
            idle_workers.put(stack.enter_context(worker))
        pool = ThreadPoolExecutor(workers)
        stack.callback(pool.shutdown, cancel_futures=True)
        for done in as_completed([pool.submit(run_one, each) for each in schedules]):
            yield done.result()


@contextmanager
def open_worker(folder: Path, loop: LoopThread, dynamodb: LocalDynamoDB) -> Iterator[Worker]:
    """A worker with servers of its own, and a folder for logs and migration files."""
    folder.mkdir(parents=True, exist_ok=True)
    fork_server = ForkServer(sys.executable, modules=_PRELOADED, log=folder / "fork-server.log")
    with (
        LocalPostgreSQL(settings=_POSTGRESQL_SETTINGS) as server,
        closing(dynamodb.client()) as client,
    ):
        fork_server.start(os.environ)
        try:
            yield Worker(loop, dynamodb, server, fork_server, folder, client)
        finally:
            fork_server.stop()


@dataclass(frozen=True)
class Worker:
    """A PostgreSQL server and a fork server; the loop and DynamoDB are shared."""

    loop: LoopThread
    dynamodb: LocalDynamoDB
    server: LocalPostgreSQL
    fork_server: ForkServer
    folder: Path
    client: Any  # of DynamoDB, past the proxy

    def run(
        self,
        schedule: Schedule,
        *,
        before_final_state: Callable[[ServiceState, Path], None] = lambda _state, _log: None,
    ) -> ChaosEvidence:
        """Run a schedule; before the final state is read, tests do something wrong to it."""
        name = f"round_{schedule.seed}_{next(_run_counter)}"
        folder = self.folder / name
        folder.mkdir()
        with ExitStack() as stack:
            self.server.create_database(name)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.callback(self.server.drop_database, name)
            state = ServiceState(self.server, self.client, name, schedule.source)
            run = ChaosRun(schedule, self, state, folder, stack)
            return self.loop.run(run.execute(before_final_state))
