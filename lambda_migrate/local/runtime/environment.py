"""One execution environment: a real runtime process, its Runtime API, and its freezing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lambda_migrate.clock import Clock
from lambda_migrate.local.runtime.fork_client import ForkedChild
from lambda_migrate.local.runtime.process import Child, ProcessError, tail
from lambda_migrate.local.runtime.runtime_api import (
    Answer,
    Invocation,
    RuntimeApi,
    RuntimeInitError,
)

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = [
    "Environment",
    "EnvironmentEvent",
    "EnvironmentView",
    "InvocationResult",
    "Launch",
    "Phase",
    "Status",
]

Status = Literal["ok", "error", "timeout", "crashed", "throttled"]
Phase = Literal["started", "ready", "invoked", "returned", "ended"]
State = Literal["starting", "idle", "busy", "ended"]
Process: TypeAlias = "Child | ForkedChild"

KILL_AFTER_SECONDS = 0.1
"""Lambda kills slightly after the deadline that it told, so code may see 0 ms left."""


@dataclass(frozen=True, slots=True)
class InvocationResult:
    """What became of one invocation.

    Attributes:
        request_id: Lambda's id of it.
        environment_id: Who ran it; "" if it was throttled.
        cold: Whether it was the environment's first.
        status: ``crashed``: the process ended; ``timeout``: it was killed.
        payload: What the handler returned, or the error as the runtime reported it.
        error_type: "" if ok.
        error_message: "" if ok; ends with the log's tail after a crash.
        init_seconds: From the start of the process to its first ``/next``; 0 if warm.
        duration_seconds: From delivery to answer.
        started: Monotonic seconds of the delivery.
        ended: Monotonic seconds of the answer, or of the end without one.
    """

    request_id: str
    environment_id: str
    cold: bool
    status: Status
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
    """A moment in an environment's life, for an observer or a timeline.

    Attributes:
        environment_id: Whose.
        phase: ``started`` (process), ``ready`` (first ``/next``), ``invoked``, ``returned``,
            ``ended`` (process).
        at: Monotonic seconds.
        request_id: Of ``invoked`` and ``returned``.
    """

    environment_id: str
    phase: Phase
    at: float
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class EnvironmentView:
    """An environment as it is now, for tests that signal its process.

    Attributes:
        environment_id: Its name.
        pid: Its process, which leads a process group of the same number.
        state: ``starting``, ``idle`` (frozen, unless freezing is off), ``busy``, ``ended``.
        invocations: How many were delivered to it.
        access_key: What it signs AWS requests with: tells its requests from others'.
    """

    environment_id: str
    pid: int
    state: State
    invocations: int
    access_key: str


@dataclass(frozen=True, slots=True)
class Launch:
    """How environments are started.

    Attributes:
        start: Starts the runtime with these variables and this log. In a thread: it may take long.
        variables: All but the few that differ from one environment to the next.
        init_seconds: It is killed if it takes longer to its first ``/next``.
        freeze: Whether it is stopped between invocations.
        clock: For ``started`` and ``ended``.
    """

    start: Callable[[Mapping[str, str], Path], Process]
    variables: Mapping[str, str]
    init_seconds: float
    freeze: bool
    clock: Clock


@dataclass(slots=True)
class Ending:
    """Why an invocation got no answer."""

    status: Status
    error_type: str
    message: str


class _Over(Exception):
    """The environment has ended, or had to be ended."""

    def __init__(self, ending: Ending) -> None:
        self.ending = ending
        super().__init__(ending.message)


@dataclass(eq=False)
class Environment:
    """One environment. Every method belongs to the event loop of its function."""

    environment_id: str
    launch: Launch
    log: Path
    access_key: str
    tell: Callable[[EnvironmentEvent], None]
    state: State = "starting"
    invocations: int = 0
    last_used: float = 0.0
    init_took: float = 0.0
    _child: Process | None = None
    _spawning: asyncio.Future[Process] | None = None
    _api: RuntimeApi = field(default_factory=RuntimeApi)
    _exited: asyncio.Event = field(default_factory=asyncio.Event)
    _ending: Ending | None = None

    def view(self) -> EnvironmentView:
        """A picture of it."""
        pid = 0 if self._child is None else self._child.pid
        state: State = "ended" if self.has_exited else self.state
        return EnvironmentView(self.environment_id, pid, state, self.invocations, self.access_key)

    async def start(self) -> None:
        """Start the process and return when it waits in ``/next``, or has ended.

        An environment that failed is ``ended``; the invocation that it was started for reports why.

        Raises:
            ProcessError, OSError: The machine has no room for one more process.
        """
        began = self.launch.clock.monotonic()
        variables = self._variables(await self._api.open())
        loop = asyncio.get_running_loop()
        self._spawning = loop.run_in_executor(None, self._spawn, variables)
        try:
            child = await asyncio.shield(self._spawning)  # `_end` must learn of it in any case
        except (OSError, ProcessError) as error:
            await self._end(Ending("crashed", "Runtime.ExitError", str(error)))
            raise
        self._tell("started", began)
        self._watch(child)
        try:
            await self._until_polled(self.launch.init_seconds, "initialise")
        except _Over as over:
            await self._end(over.ending)
        else:
            now = self.launch.clock.monotonic()
            self.init_took = now - began
            self._tell("ready", now)
            self._rest()

    async def invoke(self, invocation: Invocation, *, seconds: float) -> InvocationResult:
        """Deliver ``invocation``, and kill the process if there is no answer in ``seconds``."""
        cold = self.invocations == 0
        self.state = "busy" if self._ending is None else "ended"
        self.invocations += 1
        began = self.launch.clock.monotonic()
        self._tell("invoked", began, invocation.request_id)
        try:
            answer = await self._answer(invocation, seconds)
        except _Over as over:
            await self._end(over.ending)
            outcome = (over.ending.status, None, over.ending.error_type, over.ending.message)
        else:
            outcome = _read_answer(answer)
        ended = self.launch.clock.monotonic()
        self._tell("returned", ended, invocation.request_id)
        await self._come_to_rest(seconds)
        return InvocationResult(
            invocation.request_id,
            self.environment_id,
            cold,
            *outcome,
            self.init_took if cold else 0.0,
            ended - began,
            began,
            ended,
        )

    async def end(self) -> None:
        """Kill it. Idempotent."""
        await self._end(Ending("crashed", "Runtime.ExitError", "the function was closed"))

    @property
    def has_exited(self) -> bool:
        """Whether its process is no more, though nobody may have noticed yet."""
        return self._child is not None and self._child.has_ended

    async def bury(self) -> None:
        """Take note that its process ended while nobody used it."""
        await self._end(self._crash())

    # -- how ----------------------------------------------------------------------------------

    async def _answer(self, invocation: Invocation, seconds: float) -> Answer:
        if self._ending is not None:
            raise _Over(self._ending)
        self._signal(signal.SIGCONT)
        answer = self._api.deliver(invocation)
        if not await self._first(answer, seconds + KILL_AFTER_SECONDS):
            message = f"{invocation.request_id} Task timed out after {seconds:.2f} seconds"
            raise _Over(Ending("timeout", "Sandbox.Timedout", message))
        if answer.done():
            return answer.result()
        raise _Over(self._crash())

    async def _come_to_rest(self, seconds: float) -> None:
        """After its answer the runtime comes back for more; only then is it free, and frozen."""
        if self._ending is None:
            try:
                await self._until_polled(seconds, "come back for the next invocation")
            except _Over as over:
                await self._end(over.ending)
            else:
                self._rest()

    async def _until_polled(self, seconds: float, purpose: str) -> None:
        polled = asyncio.ensure_future(self._api.polled())
        try:
            in_time = await self._first(polled, seconds)
        finally:
            polled.cancel()
        if not in_time:
            message = f"the runtime did not {purpose} in {seconds:.1f} s"
            raise _Over(Ending("timeout", "Sandbox.Timedout", message))
        if not polled.done() or polled.cancelled():
            raise _Over(self._crash())

    async def _first(self, awaited: asyncio.Future[Any], seconds: float) -> bool:
        """Wait for ``awaited`` or for the process's end; False if neither came in time."""
        exited = asyncio.ensure_future(self._exited.wait())
        try:
            done, _ = await asyncio.wait(
                {awaited, exited}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            exited.cancel()
        return bool(done)

    def _rest(self) -> None:
        self.state = "idle"
        self.last_used = self.launch.clock.monotonic()
        if self.launch.freeze:
            self._signal(signal.SIGSTOP)

    def _crash(self) -> Ending:
        fault = self._api.init_fault.result() if self._api.init_fault.done() else None
        if isinstance(fault, RuntimeInitError):
            return Ending("error", fault.error_type, str(fault))
        status = None if self._child is None else self._child.poll()
        return Ending(
            "crashed",
            "Runtime.ExitError",
            f"the runtime exited: {_describe(status)}\n{tail(self.log)}",
        )

    async def _end(self, ending: Ending) -> None:
        if self._ending is not None:
            return
        self._ending = ending
        self.state = "ended"
        if self._spawning is not None:
            with contextlib.suppress(OSError, ProcessError):  # then there is nothing to be ended
                child = await self._spawning
                await asyncio.to_thread(child.kill)
                self._tell("ended", self.launch.clock.monotonic())
        await self._api.close()

    def _spawn(self, variables: Mapping[str, str]) -> Process:
        self._child = self.launch.start(variables, self.log)
        return self._child

    def _watch(self, child: Process) -> None:
        loop = asyncio.get_running_loop()

        def ended() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed by then
                loop.call_soon_threadsafe(self._exited.set)

        child.when_ended(ended)

    def _signal(self, number: int) -> None:
        if self._child is not None:
            self._child.signal_group(number)

    def _tell(self, phase: Phase, at: float, request_id: str = "") -> None:
        self.tell(EnvironmentEvent(self.environment_id, phase, at, request_id))

    def _variables(self, runtime_api: str) -> dict[str, str]:
        stream = f"1970/01/01/[$LATEST]{self.environment_id}"
        own = {
            "AWS_LAMBDA_RUNTIME_API": runtime_api,
            "AWS_LAMBDA_LOG_STREAM_NAME": stream,
            "AWS_ACCESS_KEY_ID": self.access_key,
        }
        return own | dict(self.launch.variables)


def _read_answer(answer: Answer) -> tuple[Status, Any, str, str]:
    if not answer.failed:
        return ("ok", answer.payload, "", "")
    said = answer.payload if isinstance(answer.payload, dict) else {}
    message = str(said.get("errorMessage", answer.payload))
    return ("error", answer.payload, str(said.get("errorType", "")), message)


def _describe(status: int | None) -> str:
    if status is None:
        return "unknown"
    if status >= 0:
        return f"exit status {status}"
    return f"signal {signal.Signals(-status).name}"
