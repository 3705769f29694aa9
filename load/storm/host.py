"""The local Lambda behind its Invoke API, for a Locust in another process.

In Locust's own process gevent would schedule everything, which hides races. What is invoked is one
function, `Host.name`; the event's ``kind`` says what to do: ``cold`` starts an environment and
invokes it, the others invoke one that is free.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psutil

from lambda_migrate.clock import Deadline
from lambda_migrate.errors import MigrateError
from lambda_migrate.local.demo.results import is_served
from lambda_migrate.local.demo.servers import RollbackTimes, make_operations
from lambda_migrate.local.runtime.environment import InvocationResult
from lambda_migrate.local.runtime.function import StartBarrier
from load.storm.scenarios import Wave
from load.storm.testbed import Testbed

_PAUSE_SECONDS = 2.0  # between waves: what the one before migrated has been recorded by then
_KILL_POLL_SECONDS, _KILL_SECONDS = 0.1, 300.0
_IS_SLOW = """
SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
AND state = 'active' AND query LIKE '%pg_sleep%'
"""
_HOLDER = "SELECT split_part(owner, '/', 2) FROM lambda_migrate.fence"
_ROLLBACK_SECONDS = 900.0  # Lambda's longest timeout, and so an admin function's


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
class Host:
    """A function for `InvokeApi`, in whose loop every method but `prepare` runs."""

    testbed: Testbed
    observed: list[ObservedInvocation] = field(default_factory=list)  # in the order of answers
    rollback_times: RollbackTimes = field(default_factory=RollbackTimes)
    rolled_back: float | None = None  # seconds; None if there was no rollback, or it failed
    errors: list[str] = field(default_factory=list)  # what else went wrong
    killed: str = ""  # the environment of the holder that was killed
    name: str = "storm"
    _users: dict[int, _WaveState] = field(default_factory=dict)  # that are environments
    _waves: list[_WaveState] = field(default_factory=list)
    _endings: list[asyncio.Future[None]] = field(default_factory=list)
    _rollback: asyncio.Future[None] | None = None

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
        scenario, event = testbed.scenario, testbed.package.event
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
        number = next(waiting, None)
        if number is None:
            raise ConnectionError("all cold starts were made")
        current = self._users[user] = self._waves[number]
        current.started += 1
        event = self.testbed.package.event("cold", current.started)
        if number > 0:
            await self._waves[number - 1].is_over.wait()
        barrier = current.barrier if current.wave.simultaneous else None
        function = self.testbed.functions[current.wave.version]
        submitted = function.submit_cold(event, barrier=barrier)
        is_last = current is self._waves[-1]
        if self.testbed.scenario.kills and not self._endings:
            self._endings.append(asyncio.ensure_future(asyncio.to_thread(self._kill_holder)))
        if self._rollback is None and self.testbed.scenario.rollback and is_last:
            self._rollback = asyncio.ensure_future(self._roll_back(current.barrier))
        result = await asyncio.wrap_future(submitted)
        if self._rollback is not None:
            await self._rollback  # until then clients go on
        return self._observe("cold", current.wave.version, result, current)

    async def _end_wave(self, wave: _WaveState) -> None:
        """Lambda ends some environments; here all of them are ended, between two waves."""
        for function in self.testbed.functions.values():
            await asyncio.to_thread(function.end_idle)
        await asyncio.sleep(_PAUSE_SECONDS)
        wave.is_over.set()

    async def _invoke(self, user: int, kind: str, subject: int) -> InvocationResult:
        wave = self._users.get(user)
        version = wave.wave.version if wave else 1
        event = self.testbed.package.event(kind, subject)
        result = await asyncio.wrap_future(self.testbed.functions[version].submit(event))
        return self._observe(kind, version, result, wave)

    async def _roll_back(self, barrier: StartBarrier) -> None:
        await asyncio.wrap_future(barrier.arrive())
        try:
            self.rolled_back = await asyncio.to_thread(self._run_down_scripts)
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
        until = time.monotonic() + _KILL_SECONDS
        while not read(_IS_SLOW):
            if time.monotonic() > until:
                return
            time.sleep(_KILL_POLL_SECONDS)
        [[holder]] = read(_HOLDER)
        process = psutil.Process(int(holder))
        for each in (process, *process.children()):
            each.kill()
        names = {str(view.pid): name for name, _, view in self.testbed.environments()}
        self.killed = names[holder]

    def _observe(
        self, kind: str, version: int, result: InvocationResult, wave: _WaveState | None
    ) -> InvocationResult:
        self.observed.append(ObservedInvocation(kind, version, result))
        if wave is not None:
            wave.answered += 1
            expected = wave.wave.environments * (1 + self.testbed.scenario.warm)
            if wave.answered == expected and wave is not self._waves[-1]:
                self._endings.append(asyncio.ensure_future(self._end_wave(wave)))
        return result


def failure_of(result: InvocationResult) -> str:
    """The kind of a failure: ``timeout``, ``crashed``, ``throttled``, or the error; "" if none."""
    if is_served(result):
        return ""
    if result.status in ("timeout", "crashed", "throttled"):
        return result.status
    return result.error_type or f"HTTP {result.payload['statusCode']}"
