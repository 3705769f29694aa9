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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambda_migrate.local.runtime.fork_client import ForkServer
from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.chaos.evidence import ChaosEvidence, ChaosResult
from load.chaos.invariants import check_invariants
from load.chaos.relay import Loop
from load.chaos.run import ChaosRun
from load.chaos.schedule import Schedule
from load.chaos.sources import PRELOADED
from load.chaos.state_reader import TABLE, StateReader

_POSTGRESQL_SETTINGS = {
    # A server that is restarted in immediate mode forgets nothing that it has acknowledged.
    "synchronous_commit": "on",
    "track_commit_timestamp": "on",
    "max_connections": "60",
}

_PRELOADED = (
    "boto3",
    "pg8000.native",
    "lambda_migrate.aws.telemetry",
    "lambda_migrate.engine.operations",
    "lambda_migrate.postgresql.driver",
    "lambda_migrate.postgresql.non_transactional",
    "lambda_migrate.wiring",
    "load.chaos.process",
)
"""What every process of a round needs, so that all share it."""

_run_numbers = itertools.count(1)


def run_schedules(schedules: Iterable[Schedule], *, workers: int) -> Iterator[ChaosResult]:
    """Run schedules side by side and check the invariants; results come as they are ready."""
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()

    def run_one(schedule: Schedule) -> ChaosResult:
        worker = idle.get()
        try:
            return check_invariants(worker.run(schedule))
        finally:
            idle.put(worker)

    with (
        # PostgreSQL's own account must be able to pass through.
        tempfile.TemporaryDirectory(prefix="lm-chaos-") as folder,
        Loop() as loop,
        LocalDynamoDB() as engine,
        ExitStack() as stack,
    ):
        engine.create_table(TABLE)
        for number in range(workers):
            worker = open_worker(Path(folder) / f"worker-{number}", loop, engine)
            idle.put(stack.enter_context(worker))
        pool = ThreadPoolExecutor(workers)
        stack.callback(pool.shutdown, cancel_futures=True)
        for done in as_completed([pool.submit(run_one, each) for each in schedules]):
            yield done.result()


@contextmanager
def open_worker(folder: Path, loop: Loop, engine: LocalDynamoDB) -> Iterator[Worker]:
    """A worker with servers of its own.

    Args:
        folder: For logs and migration files.
        loop: Where the relays run.
        engine: The DynamoDB engine, with `TABLE`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "fork-server.log"
    fork_server = ForkServer(sys.executable, modules=(*_PRELOADED, *PRELOADED), log=log)
    client = engine.client()
    with LocalPostgreSQL(settings=_POSTGRESQL_SETTINGS) as server, closing(client):
        fork_server.start(os.environ)
        try:
            yield Worker(loop, engine, server, fork_server, folder, client)
        finally:
            fork_server.stop()


@dataclass(frozen=True)
class Worker:
    """A PostgreSQL server and a fork server; the loop and the DynamoDB engine are shared."""

    loop: Loop
    engine: LocalDynamoDB
    server: LocalPostgreSQL
    fork_server: ForkServer
    folder: Path
    client: Any  # of the engine

    def run(
        self,
        schedule: Schedule,
        *,
        before_final_state: Callable[[StateReader, Path], None] = lambda _state, _log: None,
    ) -> ChaosEvidence:
        """Run a schedule.

        Args:
            schedule: What happens.
            before_final_state: Called after the last process and before the final state is read,
                with the database and a log: tests do something wrong there, which must be found.
        """
        name = f"round_{schedule.seed}_{next(_run_numbers)}"
        folder = self.folder / name
        folder.mkdir()
        with ExitStack() as stack:
            self.server.create_database(name)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.callback(self.server.drop_database, name)
            state = StateReader(self.server, self.client, name, schedule.source)
            run = ChaosRun(schedule, self, state, folder, stack)
            return self.loop.run(run.execute(before_final_state))
