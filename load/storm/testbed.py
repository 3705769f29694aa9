"""What a storm runs on: servers, and the local Lambda behind its Invoke API.

Locust is in another process: in its own gevent would schedule everything, which hides races. What
it invokes is one function, `StormFunction.name`; the event's ``kind`` says what to do: ``cold``
starts an environment and invokes it, the others invoke one that is free.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from lambda_migrate.clock import SYSTEM_CLOCK, Deadline
from lambda_migrate.errors import MigrateError
from lambda_migrate.local.demo.results import is_served
from lambda_migrate.local.demo.servers import RollbackTimes, make_operations
from lambda_migrate.local.runtime.environment import EnvironmentView, InvocationResult
from lambda_migrate.local.runtime.function import LocalFunction, StartBarrier
from lambda_migrate.local.servers.dynamodb import Dynalite, LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.bench.tools import SLEEPING_SQL
from load.storm.scenarios import Package, Scenario, Wave

_PAUSE_SECONDS = 2.0  # between waves: what the one before migrated has been recorded by then
_KILL_POLL_SECONDS, _KILL_TIMEOUT_SECONDS = 0.1, 300.0
_HOLDER_PID_SQL = "SELECT split_part(owner, '/', 2) FROM lambda_migrate.fence"
_ROLLBACK_SECONDS = 900.0  # Lambda's longest timeout, and so an admin function's

LEASE_TABLE = "lambda-migrate"
# What forked environments share: neither the function nor lambda_migrate itself.
_POWERTOOLS = ("aws_lambda_powertools.metrics", "aws_lambda_powertools.logging")
_PRELOADED = (*_POWERTOOLS, "boto3", "pg8000.native", "tenacity")
_TIMEOUT_SECONDS = 300.0  # a thousand environments share a few cores: slow is not hung
_NICENESS = 19  # in AWS the servers do not share the functions' processors


@dataclass(frozen=True, slots=True)
class Testbed:
    """One scenario's servers, and its functions and their code by version."""

    scenario: Scenario
    package: Package
    server: LocalPostgreSQL
    dynamodb: LocalDynamoDB | Dynalite
    clock_offset: float  # seconds since the epoch when the monotonic clock stood at 0
    functions: dict[int, LocalFunction] = field(default_factory=dict)
    code_folders: dict[int, Path] = field(default_factory=dict)

    def variables(self) -> dict[str, str]:
        """The functions' environment variables."""
        return {
            "AWS_ENDPOINT_URL_DYNAMODB": self.dynamodb.endpoint_url,
            "DATABASE_URL": self.server.url(self.package.database),
            "LAMBDA_MIGRATE_TABLE": LEASE_TABLE,
            "LAMBDA_MIGRATE_TARGET": self.package.database,
            "LAMBDA_MIGRATE_WAIT_SECONDS": f"{_TIMEOUT_SECONDS - 30:g}",
            "POWERTOOLS_METRICS_NAMESPACE": "Storm",
            "POWERTOOLS_SERVICE_NAME": self.package.database,
            **(self.scenario.settings or {}),
        }

    def environments(self) -> Iterator[tuple[str, LocalFunction, EnvironmentView]]:
        """Every environment: its name among those of all versions, its function, its state."""
        for version, function in self.functions.items():
            for view in function.environments():
                yield f"v{version} {view.environment_id}", function, view

    def requests_by_environment(self) -> dict[str, int]:
        """DynamoDB requests of each environment."""
        count = self.dynamodb.requests
        return {name: count(view.access_key).total() for name, _, view in self.environments()}


@contextmanager
def open_testbed(
    scenario: Scenario,
    package: Package,
    home: Path,
    *,
    api: LocalDynamoDB | Dynalite | None = None,
    server_settings: Mapping[str, str] | None = None,
) -> Iterator[Testbed]:
    """Start everything and deploy every version, in a temporary directory.

    The API of DynamoDB is dynalite by default, which is faster than moto; ``server_settings`` of
    PostgreSQL are above those of every storm.
    """
    settings = {
        "max_connections": str(2 * scenario.environments + 60),
        # When exactly the last migration was committed, and when each session began and ended.
        "track_commit_timestamp": "on",
        "log_connections": "on",
        "log_disconnections": "on",
        "log_line_prefix": "%m [%p] ",
        "log_timezone": "UTC",
        **(server_settings or {}),
    }
    with (
        LocalPostgreSQL(databases=[package.database], settings=settings) as server,
        api or Dynalite() as dynamodb,
        ExitStack() as stack,
    ):
        dynamodb.create_table(LEASE_TABLE)
        clock_offset = time.time() - SYSTEM_CLOCK.monotonic()
        testbed = Testbed(scenario, package, server, dynamodb, clock_offset)
        for version in scenario.versions:
            code = testbed.code_folders[version] = package.deploy(version, home)
            testbed.functions[version] = stack.enter_context(
                LocalFunction(
                    "app.handler",
                    code=code,
                    name=f"storm-v{version}",
                    variables=testbed.variables(),
                    timeout=_TIMEOUT_SECONDS,
                    init_timeout=_TIMEOUT_SECONDS,
                    concurrency=scenario.environments + scenario.clients + 10,
                    preload=_PRELOADED,
                    niceness=_NICENESS,
                    log_directory=home / f"logs-{version}",
                )
            )
        yield testbed


@dataclass(frozen=True, slots=True)
class ObservedInvocation:
    """One invocation that Locust asked for."""

    kind: str  # cold, warm, write, read
    version: int
    result: InvocationResult

    @property
    def environment(self) -> str:
        """Its name among those of all versions."""
        return f"v{self.version} {self.result.environment_id}"


@dataclass(slots=True)
class _WaveState:
    wave: Wave
    barrier: StartBarrier
    started: int = 0
    answered: int = 0  # cold starts and warm invocations
    is_over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class StormFunction:
    """A function for `InvokeAPI`, in whose loop every method but `prepare` runs."""

    testbed: Testbed
    invocations: list[ObservedInvocation] = field(default_factory=list)  # in the order of answers
    rollback_times: RollbackTimes = field(default_factory=RollbackTimes)
    rollback_seconds: float | None = None  # seconds; None if there was no rollback, or it failed
    errors: list[str] = field(default_factory=list)  # what else went wrong
    killed_holder: str = ""  # the environment of the holder that was killed
    name: str = "storm"
    _waves_by_user: dict[int, _WaveState] = field(default_factory=dict)  # that are environments
    _waves: list[_WaveState] = field(default_factory=list)
    _tasks: list[asyncio.Future[None]] = field(default_factory=list)
    _rollback_task: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        scenario = self.testbed.scenario
        for wave in scenario.waves:
            # The rollback waits at the barrier of the last wave.
            rollbacks = int(scenario.rollback and wave is scenario.waves[-1])
            barrier = StartBarrier(wave.environments + rollbacks if wave.simultaneous else 0)
            self._waves.append(_WaveState(wave, barrier))

    def prepare(self) -> None:
        """Migrate to the version that is there before the storm, and start its environments."""
        testbed = self.testbed
        scenario, event = testbed.scenario, testbed.package.make_event
        if not scenario.ready:
            return
        results = [testbed.functions[scenario.ready].invoke(event("write", 0))]
        if is_served(results[0]) and scenario.clients:
            results += testbed.functions[1].storm(scenario.clients, event("write", 0))
        for one in results:
            if not is_served(one):
                why = (one.error_message or json.dumps(one.payload)).partition("\n")[0]
                self.errors.append(f"before the storm: {why}")

    def submit(self, event: Mapping[str, Any], **_: object) -> Future[InvocationResult]:
        """Invoke as an event asks for it; see `LocalFunction.submit`."""
        user = int(event["user"])
        if event["kind"] == "cold":
            work = self._start_cold(user)
        else:
            work = self._invoke(user, event["kind"], int(event.get("subject", 0)))
        return asyncio.run_coroutine_threadsafe(work, asyncio.get_running_loop())

    async def _start_cold(self, user: int) -> InvocationResult:
        waiting = (n for n, one in enumerate(self._waves) if one.started < one.wave.environments)
        index = next(waiting, None)
        if index is None:
            raise ConnectionError("all cold starts were made")
        current = self._waves_by_user[user] = self._waves[index]
        current.started += 1
        event = self.testbed.package.make_event("cold", current.started)
        if index > 0:
            await self._waves[index - 1].is_over.wait()
        barrier = current.barrier if current.wave.simultaneous else None
        function = self.testbed.functions[current.wave.version]
        submitted = function.submit_cold(event, barrier=barrier)
        is_last = current is self._waves[-1]
        if self.testbed.scenario.kills and not self._tasks:
            self._tasks.append(asyncio.ensure_future(asyncio.to_thread(self._kill_holder)))
        if self._rollback_task is None and self.testbed.scenario.rollback and is_last:
            self._rollback_task = asyncio.ensure_future(self._roll_back(current.barrier))
        result = await asyncio.wrap_future(submitted)
        if self._rollback_task is not None:
            await self._rollback_task  # until then clients go on
        return self._record_invocation("cold", current.wave.version, result, current)

    async def _end_wave(self, wave: _WaveState) -> None:
        """Lambda ends some environments; here all of them are ended, between two waves."""
        for function in self.testbed.functions.values():
            await asyncio.to_thread(function.end_idle)
        await asyncio.sleep(_PAUSE_SECONDS)
        wave.is_over.set()

    async def _invoke(self, user: int, kind: str, subject: int) -> InvocationResult:
        wave = self._waves_by_user.get(user)
        version = wave.wave.version if wave else 1
        event = self.testbed.package.make_event(kind, subject)
        result = await asyncio.wrap_future(self.testbed.functions[version].submit(event))
        return self._record_invocation(kind, version, result, wave)

    async def _roll_back(self, barrier: StartBarrier) -> None:
        await asyncio.wrap_future(barrier.arrive())
        try:
            self.rollback_seconds = await asyncio.to_thread(self._run_down_scripts)
        except MigrateError as error:
            self.errors.append(f"the rollback failed: {error}")

    def _run_down_scripts(self) -> float:
        testbed = self.testbed
        operations = make_operations(
            testbed.code_folders[1], testbed.variables(), testbed.dynamodb, self.rollback_times
        )
        deadline = Deadline.after(_ROLLBACK_SECONDS)
        operations.down(deadline, to=operations.manifest.version)
        return _ROLLBACK_SECONDS - deadline.remaining()

    def _kill_holder(self) -> None:
        """Kill the holder and its child as soon as the slow migration runs."""
        read = partial(self.testbed.server.execute, database=self.testbed.package.database)
        until = time.monotonic() + _KILL_TIMEOUT_SECONDS
        while not read(SLEEPING_SQL):
            if time.monotonic() > until:
                return
            time.sleep(_KILL_POLL_SECONDS)
        [[holder]] = read(_HOLDER_PID_SQL)
        process = psutil.Process(int(holder))
        for each in (process, *process.children()):
            each.kill()
        names = {str(view.pid): name for name, _, view in self.testbed.environments()}
        self.killed_holder = names[holder]

    def _record_invocation(
        self, kind: str, version: int, result: InvocationResult, wave: _WaveState | None
    ) -> InvocationResult:
        self.invocations.append(ObservedInvocation(kind, version, result))
        if wave is not None:
            wave.answered += 1
            expected = wave.wave.environments * (1 + self.testbed.scenario.warm)
            if wave.answered == expected and wave is not self._waves[-1]:
                self._tasks.append(asyncio.ensure_future(self._end_wave(wave)))
        return result


def classify_failure(result: InvocationResult) -> str:
    """The kind of a failure: ``timeout``, ``crashed``, ``throttled``, or the error; "" if none."""
    if is_served(result):
        return ""
    if result.status in ("timeout", "crashed", "throttled"):
        return result.status
    return result.error_type or f"HTTP {result.payload['statusCode']}"
