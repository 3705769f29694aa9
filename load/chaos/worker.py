"""Servers for one schedule at a time, and several of these side by side."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from lambda_migrate.local.runtime.fork_client import ForkServer
from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint, LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.chaos.evidence import ChaosEvidence, ChaosResult
from load.chaos.invariants import check_invariants
from load.chaos.relay import Loop
from load.chaos.run import ChaosRun
from load.chaos.schedule import Schedule
from load.chaos.state_reader import TABLE, StateReader

__all__ = ["Worker", "Workers"]

_POSTGRESQL_SETTINGS = {
    # A server that is restarted in immediate mode forgets nothing that it has acknowledged.
    "synchronous_commit": "on",
    "track_commit_timestamp": "on",
    "max_connections": "60",
}

_run_numbers = itertools.count(1)


class Workers:
    """Several workers that run schedules side by side.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._stack = contextlib.ExitStack()
        self._workers: list[Worker] = []

    def __enter__(self) -> Workers:
        with contextlib.ExitStack() as stack:
            # PostgreSQL's own account must be able to pass through.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lm-chaos-")))
            loop = stack.enter_context(Loop())
            engine: DynamoDBEndpoint = stack.enter_context(LocalDynamoDB())
            engine.create_table(TABLE)
            self._workers = [
                stack.enter_context(Worker(folder / f"worker-{number}", loop, engine))
                for number in range(self._count)
            ]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, schedules: Iterable[Schedule]) -> Iterator[ChaosResult]:
        """Run them all and check the invariants; results come as they are ready."""
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            idle.put(worker)

        def run_one(schedule: Schedule) -> ChaosResult:
            worker = idle.get()
            try:
                return check_invariants(worker.run(schedule))
            finally:
                idle.put(worker)

        pool = ThreadPoolExecutor(len(self._workers))
        try:
            for done in as_completed([pool.submit(run_one, each) for each in schedules]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


class Worker:
    """A PostgreSQL server and a fork server; the loop and the DynamoDB engine are shared.

    Args:
        folder: For logs and migration files.
        loop: Where the relays run.
        engine: The DynamoDB engine, with `TABLE`.
    """

    def __init__(self, folder: Path, loop: Loop, engine: DynamoDBEndpoint) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.loop = loop
        self.engine = engine
        self.client = engine.client()
        self.server = LocalPostgreSQL(settings=_POSTGRESQL_SETTINGS)
        self.fork_server = ForkServer(
            sys.executable,
            modules=[str(Path(__file__).with_name("preloaded_modules.py"))],
            log=folder / "fork-server.log",
        )

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
        self.client.close()

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
        with contextlib.ExitStack() as stack:
            self.server.create_database(name)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.callback(self.server.drop_database, name)
            run = ChaosRun(
                schedule,
                server=self.server,
                fork_server=self.fork_server,
                loop=self.loop,
                engine_url=self.engine.endpoint_url,
                state=StateReader(self.server, self.client, name),
                folder=folder,
                stack=stack,
            )
            return run.execute(before_final_state)
