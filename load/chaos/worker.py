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
from contextlib import ExitStack
from pathlib import Path

from lambda_migrate.local.runtime.fork_client import ForkServer
from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.chaos.evidence import ChaosEvidence, ChaosResult
from load.chaos.invariants import check_invariants
from load.chaos.relay import Loop
from load.chaos.run import ChaosRun
from load.chaos.schedule import Schedule
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


class Workers:
    """Several workers that run schedules side by side.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._stack = ExitStack()
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()

    def __enter__(self) -> Workers:
        with self._stack:
            # PostgreSQL's own account must be able to pass through.
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="lm-chaos-"))
            loop = self._stack.enter_context(Loop())
            engine = self._stack.enter_context(LocalDynamoDB())
            engine.create_table(TABLE)
            for number in range(self._count):
                worker = Worker(Path(folder) / f"worker-{number}", loop, engine)
                self._idle.put(self._stack.enter_context(worker))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, schedules: Iterable[Schedule]) -> Iterator[ChaosResult]:
        """Run them all and check the invariants; results come as they are ready."""
        pool = ThreadPoolExecutor(self._count)
        try:
            for done in as_completed([pool.submit(self._run_one, each) for each in schedules]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _run_one(self, schedule: Schedule) -> ChaosResult:
        worker = self._idle.get()
        try:
            return check_invariants(worker.run(schedule))
        finally:
            self._idle.put(worker)


class Worker:
    """A PostgreSQL server and a fork server; the loop and the DynamoDB engine are shared.

    Args:
        folder: For logs and migration files.
        loop: Where the relays run.
        engine: The DynamoDB engine, with `TABLE`.
    """

    def __init__(self, folder: Path, loop: Loop, engine: LocalDynamoDB) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.loop = loop
        self.engine = engine
        self.server = LocalPostgreSQL(settings=_POSTGRESQL_SETTINGS)
        log = folder / "fork-server.log"
        self.fork_server = ForkServer(sys.executable, modules=_PRELOADED, log=log)
        self._folder = folder
        self._client = engine.client()

    def __enter__(self) -> Worker:
        self.server.start()
        try:
            self.fork_server.start(os.environ)
        except BaseException:
            self.server.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.fork_server.stop()
        self.server.close()
        self._client.close()

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
        folder = self._folder / name
        folder.mkdir()
        with ExitStack() as stack:
            self.server.create_database(name)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.callback(self.server.drop_database, name)
            state = StateReader(self.server, self._client, name)
            return ChaosRun(schedule, self, state, folder, stack).execute(before_final_state)
