"""The local Lambda behind its Invoke API, for a Locust in another process.

In Locust's own process gevent would schedule everything, which hides races. What is invoked is one
function, `Host.name`; the event's ``kind`` says what to do: ``cold`` starts an environment and
invokes it, the others invoke one that is free.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from lambda_migrate.clock import Deadline
from lambda_migrate.errors import MigrateError
from lambda_migrate.local.demo.results import is_served
from lambda_migrate.local.demo.servers import RollbackTimes, make_operations
from lambda_migrate.local.runtime.environment import InvocationResult
from lambda_migrate.local.runtime.function import StartBarrier
from load.storm.scenarios import Wave
from load.storm.testbed import Testbed

_ROLLBACK_SECONDS = 900.0  # Lambda's longest timeout, and so an admin function's


@dataclass(frozen=True, slots=True)
class ObservedInvocation:
    """One invocation that Locust asked for."""

    kind: str  # cold, warm, write, read
    version: int
    wave: int  # of cold starts; 0 for others
    result: InvocationResult

    @property
    def environment(self) -> str:
        """Its name among those of all versions."""
        return f"v{self.version} {self.result.environment_id}"


@dataclass(slots=True)
class _WaveState:
    number: int
    wave: Wave
    barrier: StartBarrier
    started: int = 0


@dataclass(slots=True)
class Host:
    """A function for `InvokeApi`, in whose loop every method but `prepare` runs."""

    testbed: Testbed
    observed: list[ObservedInvocation] = field(default_factory=list)  # in the order of answers
    rollback_times: RollbackTimes = field(default_factory=RollbackTimes)
    rolled_back: float | None = None  # seconds; None if there was no rollback, or it failed
    errors: list[str] = field(default_factory=list)  # what else went wrong
    name: str = "storm"
    _versions: dict[int, int] = field(default_factory=dict)  # of users that are environments
    _waves: list[_WaveState] = field(default_factory=list)
    _rollback: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        scenario = self.testbed.scenario
        for number, wave in enumerate(scenario.waves, 1):
            # The rollback waits at the barrier of the last wave.
            rollbacks = 1 if scenario.rollback and number == len(scenario.waves) else 0
            barrier = StartBarrier(wave.environments + rollbacks if wave.simultaneous else 0)
            self._waves.append(_WaveState(number, wave, barrier))

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
        current = next((one for one in self._waves if one.started < one.wave.environments), None)
        if current is None:
            raise ConnectionError("all cold starts were made")
        current.started += 1
        if current.started == 1 and current.number > 1:
            await asyncio.to_thread(self._end_idle_environments)
        version = self._versions[user] = current.wave.version
        event = self.testbed.package.event("cold", current.started)
        barrier = current.barrier if current.wave.simultaneous else None
        submitted = self.testbed.functions[version].submit_cold(event, barrier=barrier)
        has_rollback = self.testbed.scenario.rollback and current is self._waves[-1]
        if current.started == 1 and has_rollback:
            self._rollback = asyncio.ensure_future(self._roll_back(current.barrier))
        result = await asyncio.wrap_future(submitted)
        if self._rollback is not None:
            await self._rollback  # until then clients go on
        return self._observe(ObservedInvocation("cold", version, current.number, result))

    def _end_idle_environments(self) -> None:
        """Lambda ends some; here all of them are ended, between two waves."""
        for function in self.testbed.functions.values():
            function.end_idle()

    async def _invoke(self, user: int, kind: str, subject: int) -> InvocationResult:
        version = self._versions.get(user, 1)
        event = self.testbed.package.event(kind, subject)
        result = await asyncio.wrap_future(self.testbed.functions[version].submit(event))
        return self._observe(ObservedInvocation(kind, version, 0, result))

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

    def _observe(self, observed: ObservedInvocation) -> InvocationResult:
        self.observed.append(observed)
        return observed.result


def failure_of(result: InvocationResult) -> str:
    """The kind of a failure: ``timeout``, ``crashed``, ``throttled``, or the error; "" if none."""
    if is_served(result):
        return ""
    if result.status in ("timeout", "crashed", "throttled"):
        return result.status
    return result.error_type or f"HTTP {result.payload['statusCode']}"
