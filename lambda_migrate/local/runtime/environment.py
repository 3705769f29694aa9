"""One execution environment: a runtime process, its Runtime API, and freezing it when idle."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lambda_migrate.clock import Clock
from lambda_migrate.local.runtime.fork_client import ForkedProcess
from lambda_migrate.local.runtime.process import ProcessError, SpawnedProcess, tail
from lambda_migrate.local.runtime.runtime_api import (
    Invocation,
    RuntimeAPI,
    RuntimeInitError,
    RuntimeResponse,
)

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = [
    "EnvironmentEvent",
    "EnvironmentPhase",
    "EnvironmentView",
    "ExecutionEnvironment",
    "InvocationResult",
    "InvocationStatus",
    "LaunchOptions",
]

InvocationStatus = Literal["ok", "error", "timeout", "crashed", "throttled"]
EnvironmentPhase = Literal["started", "ready", "invoked", "returned", "ended"]
EnvironmentState = Literal["starting", "idle", "busy", "ended"]
ProcessHandle: TypeAlias = "SpawnedProcess | ForkedProcess"

KILL_AFTER_SECONDS = 0.1
"""Lambda kills slightly after the published deadline, so code may see 0 ms left."""


@dataclass(frozen=True, slots=True)
class InvocationResult:
    """The result of one invocation.

    Attributes:
        request_id: Lambda's id of the invocation.
        environment_id: The environment that ran it; "" if it was throttled.
        cold: Whether it was the environment's first invocation.
        status: ``crashed``: the process ended; ``timeout``: the process was killed.
        payload: The handler's return value, or the error as the runtime reported it.
        error_type: "" unless it failed.
        error_message: "" unless it failed; ends with the log's tail after a crash.
        init_seconds: From the start of the process to its first ``/next``; 0 if warm.
        duration_seconds: From delivery to response.
        started: When it was delivered, in monotonic seconds.
        ended: When the response came, or the process ended, in monotonic seconds.
    """

    request_id: str
    environment_id: str
    cold: bool
    status: InvocationStatus
    payload: Any
    error_type: str
    error_message: str
    init_seconds: float
    duration_seconds: float
    started: float
    ended: float

    @property
    def ok(self) -> bool:
        """Whether the handler returned."""
        return self.status == "ok"


@dataclass(frozen=True, slots=True)
class EnvironmentEvent:
    """A change of an environment's state, for an observer or a timeline.

    Attributes:
        environment_id: The environment.
        phase: ``started`` (process), ``ready`` (first ``/next``), ``invoked``, ``returned``,
            ``ended`` (process).
        at: Monotonic seconds.
        request_id: The invocation, for ``invoked`` and ``returned``.
    """

    environment_id: str
    phase: EnvironmentPhase
    at: float
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class EnvironmentView:
    """A snapshot of an environment, for tests that signal its process.

    Attributes:
        environment_id: Its id.
        pid: Its process, which leads a process group of the same number.
        state: ``starting``, ``idle`` (frozen, unless freezing is off), ``busy``, ``ended``.
        invocations: Number of invocations delivered to it.
        access_key: The access key in its AWS requests, which identifies them.
    """

    environment_id: str
    pid: int
    state: EnvironmentState
    invocations: int
    access_key: str


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """How to start an environment.

    Attributes:
        start: Starts the runtime with these variables and this log; called in a thread.
        variables: Environment variables, without those that are specific to one environment.
        init_seconds: Time until its first ``/next``, after which it is killed.
        freeze: Whether to stop it between invocations.
        clock: The clock of results and events.
    """

    start: Callable[[Mapping[str, str], Path], ProcessHandle]
    variables: Mapping[str, str]
    init_seconds: float
    freeze: bool
    clock: Clock


@dataclass(slots=True)
class EnvironmentFailure:
    """Why an environment ended and its invocation got no response."""

    status: InvocationStatus
    error_type: str
    message: str


class _EnvironmentFailed(Exception):
    """The environment has ended or must be ended."""

    def __init__(self, failure: EnvironmentFailure) -> None:
        self.failure = failure
        super().__init__(failure.message)


@dataclass(eq=False)
class ExecutionEnvironment:
    """One environment. Call every method in its function's event loop."""

    environment_id: str
    options: LaunchOptions
    log: Path
    access_key: str
    notify: Callable[[EnvironmentEvent], None]
    state: EnvironmentState = "starting"
    invocations: int = 0
    last_used: float = 0.0
    init_duration: float = 0.0
    _process: ProcessHandle | None = None
    _spawning: asyncio.Future[ProcessHandle] | None = None
    _api: RuntimeAPI = field(default_factory=RuntimeAPI)
    _exited: asyncio.Event = field(default_factory=asyncio.Event)
    _failure: EnvironmentFailure | None = None

    def view(self) -> EnvironmentView:
        """Take a snapshot."""
        pid = 0 if self._process is None else self._process.pid
        state: EnvironmentState = "ended" if self.has_exited else self.state
        return EnvironmentView(self.environment_id, pid, state, self.invocations, self.access_key)

    async def start(self) -> None:
        """Start the process and return when it waits in ``/next`` or has ended.

        If it fails, its state is ``ended``, and its first invocation reports why.

        Raises:
            ProcessError, OSError: The machine cannot run another process.
        """
        started = self.options.clock.monotonic()
        variables = self._variables(await self._api.open())
        loop = asyncio.get_running_loop()
        self._spawning = loop.run_in_executor(None, self._spawn, variables)
        try:
            child = await asyncio.shield(self._spawning)  # `_end` needs it even if cancelled
        except (OSError, ProcessError) as error:
            await self._end(EnvironmentFailure("crashed", "Runtime.ExitError", str(error)))
            raise
        self._notify("started", started)
        self._watch(child)
        try:
            await self._wait_for_poll(self.options.init_seconds, "initialise")
        except _EnvironmentFailed as failed:
            await self._end(failed.failure)
        else:
            now = self.options.clock.monotonic()
            self.init_duration = now - started
            self._notify("ready", now)
            self._set_idle()

    async def invoke(self, invocation: Invocation, *, seconds: float) -> InvocationResult:
        """Deliver ``invocation``; kill the process if there is no response in ``seconds``."""
        cold = self.invocations == 0
        self.state = "busy" if self._failure is None else "ended"
        self.invocations += 1
        started = self.options.clock.monotonic()
        self._notify("invoked", started, invocation.request_id)
        try:
            response = await self._deliver(invocation, seconds)
        except _EnvironmentFailed as failed:
            await self._end(failed.failure)
            outcome = (
                failed.failure.status,
                None,
                failed.failure.error_type,
                failed.failure.message,
            )
        else:
            outcome = _read_response(response)
        ended = self.options.clock.monotonic()
        self._notify("returned", ended, invocation.request_id)
        await self._wait_until_idle(seconds)
        return InvocationResult(
            invocation.request_id,
            self.environment_id,
            cold,
            *outcome,
            self.init_duration if cold else 0.0,
            ended - started,
            started,
            ended,
        )

    async def end(self) -> None:
        """Kill the process. Idempotent."""
        await self._end(
            EnvironmentFailure("crashed", "Runtime.ExitError", "the function was closed")
        )

    @property
    def has_exited(self) -> bool:
        """Whether its process has ended, even if the state does not show it yet."""
        return self._process is not None and self._process.has_ended

    async def mark_ended(self) -> None:
        """Record that its process ended while it was idle."""
        await self._end(self._describe_failure())

    async def _deliver(self, invocation: Invocation, seconds: float) -> RuntimeResponse:
        if self._failure is not None:
            raise _EnvironmentFailed(self._failure)
        self._signal(signal.SIGCONT)
        response = self._api.deliver(invocation)
        if not await self._wait_unless_exited(response, seconds + KILL_AFTER_SECONDS):
            message = f"{invocation.request_id} Task timed out after {seconds:.2f} seconds"
            raise _EnvironmentFailed(EnvironmentFailure("timeout", "Sandbox.Timedout", message))
        if response.done():
            return response.result()
        raise _EnvironmentFailed(self._describe_failure())

    async def _wait_until_idle(self, seconds: float) -> None:
        """Wait until the runtime asks for the next invocation, then freeze it."""
        if self._failure is None:
            try:
                await self._wait_for_poll(seconds, "ask for the next invocation")
            except _EnvironmentFailed as failed:
                await self._end(failed.failure)
            else:
                self._set_idle()

    async def _wait_for_poll(self, seconds: float, purpose: str) -> None:
        poll = asyncio.ensure_future(self._api.wait_for_poll())
        try:
            in_time = await self._wait_unless_exited(poll, seconds)
        finally:
            poll.cancel()
        if not in_time:
            message = f"the runtime did not {purpose} in {seconds:.1f} s"
            raise _EnvironmentFailed(EnvironmentFailure("timeout", "Sandbox.Timedout", message))
        if not poll.done() or poll.cancelled():
            raise _EnvironmentFailed(self._describe_failure())

    async def _wait_unless_exited(self, awaited: asyncio.Future[Any], seconds: float) -> bool:
        """Wait until ``awaited`` is done or the process ends; False if neither happens in time."""
        exited = asyncio.ensure_future(self._exited.wait())
        try:
            done, _ = await asyncio.wait(
                {awaited, exited}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            exited.cancel()
        return bool(done)

    def _set_idle(self) -> None:
        self.state = "idle"
        self.last_used = self.options.clock.monotonic()
        if self.options.freeze:
            self._signal(signal.SIGSTOP)

    def _describe_failure(self) -> EnvironmentFailure:
        error = self._api.init_error.result() if self._api.init_error.done() else None
        if isinstance(error, RuntimeInitError):
            return EnvironmentFailure("error", error.error_type, str(error))
        status = None if self._process is None else self._process.poll()
        return EnvironmentFailure(
            "crashed",
            "Runtime.ExitError",
            f"the runtime exited: {_describe_status(status)}\n{tail(self.log)}",
        )

    async def _end(self, failure: EnvironmentFailure) -> None:
        if self._failure is not None:
            return
        self._failure = failure
        self.state = "ended"
        if self._spawning is not None:
            with contextlib.suppress(OSError, ProcessError):  # then no process was started
                child = await self._spawning
                await asyncio.to_thread(child.kill)
                self._notify("ended", self.options.clock.monotonic())
        await self._api.close()

    def _spawn(self, variables: Mapping[str, str]) -> ProcessHandle:
        self._process = self.options.start(variables, self.log)
        return self._process

    def _watch(self, child: ProcessHandle) -> None:
        loop = asyncio.get_running_loop()

        def ended() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed by then
                loop.call_soon_threadsafe(self._exited.set)

        child.when_ended(ended)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.signal_group(number)

    def _notify(self, phase: EnvironmentPhase, at: float, request_id: str = "") -> None:
        self.notify(EnvironmentEvent(self.environment_id, phase, at, request_id))

    def _variables(self, runtime_api: str) -> dict[str, str]:
        stream = f"1970/01/01/[$LATEST]{self.environment_id}"
        specific = {
            "AWS_LAMBDA_RUNTIME_API": runtime_api,
            "AWS_LAMBDA_LOG_STREAM_NAME": stream,
            "AWS_ACCESS_KEY_ID": self.access_key,
        }
        return specific | dict(self.options.variables)


def _read_response(response: RuntimeResponse) -> tuple[InvocationStatus, Any, str, str]:
    if not response.failed:
        return ("ok", response.payload, "", "")
    report = response.payload if isinstance(response.payload, dict) else {}
    message = str(report.get("errorMessage", response.payload))
    return ("error", response.payload, str(report.get("errorType", "")), message)


def _describe_status(status: int | None) -> str:
    if status is None:
        return "unknown"
    if status >= 0:
        return f"exit status {status}"
    return f"signal {signal.Signals(-status).name}"
