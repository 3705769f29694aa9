"""A Lambda function on this machine: one real ``awslambdaric`` process per environment.

    with LocalFunction("app.handler", code=Path("examples/orders")) as function:
        results = function.storm(100, {"path": "/orders"})

As in Lambda, an environment runs one invocation at a time, is used again for the next one, is
frozen in between (SIGSTOP) and killed at the timeout (SIGKILL); a new one starts when all are
busy, up to a cap, above which invocations are throttled.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lambda_migrate.clock import SYSTEM_CLOCK, Clock
from lambda_migrate.local.runtime.environment import (
    Environment,
    EnvironmentEvent,
    EnvironmentView,
    InvocationResult,
    Launch,
    Process,
)
from lambda_migrate.local.runtime.fork_client import Zygote
from lambda_migrate.local.runtime.process import spawn
from lambda_migrate.local.runtime.reaper import get_reaper
from lambda_migrate.local.runtime.runtime_api import Invocation

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["EnvironmentEvent", "EnvironmentView", "Gate", "InvocationResult", "LocalFunction"]

T = TypeVar("T")

REGION = "us-east-1"
ACCOUNT = "123456789012"

_INHERITED = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
"""All that an environment gets of our own variables: no credentials, no Python switches."""

_FIRST_TO_GO = "1000"
"""Where memory runs out, the kernel ends an environment, which is noticed, and not the server, the
test or the editor beside it."""

_OPEN_FILES = 16_384  # an environment takes about three of ours; the usual soft limit is 1,024


class Gate:
    """Opens when so many have arrived, and stays open.

    Args:
        number: How many.
    """

    def __init__(self, number: int) -> None:
        self._missing = number
        self._lock = threading.Lock()
        self._opened: Future[None] = Future()

    def arrive(self) -> Future[None]:
        """Be one of them; the future is done when the gate opens."""
        with self._lock:
            self._missing -= 1
            if self._missing <= 0 and not self._opened.done():
                self._opened.set_result(None)
        return self._opened


class LocalFunction:
    """A function and its environments.

    Args:
        handler: ``module.function``, as in Lambda.
        code: The directory that holds the module; LAMBDA_TASK_ROOT.
        environment: The function's variables; they win over those that Lambda sets.
        name: The function's name.
        timeout: Seconds for an invocation.
        init_timeout: Seconds for loading the handler. Lambda's own 10 s would not do here, where
            a hundred interpreters share two cores.
        memory: Megabytes, told to the function but not enforced.
        concurrency: No more environments than these.
        freeze: Whether environments are stopped between invocations.
        python: The interpreter; it must have ``awslambdaric``.
        preload: Fork environments from one parent that has imported these modules (names, or paths
            of files), and what the runtime imports, beforehand: each is a process of its own all
            the same, but starts in a few milliseconds and shares the memory of what was imported.
            The modules must start no threads, and must not be the function's. None: a fresh
            interpreter for each.
        niceness: Of the environments: what they run beside in AWS has processors of its own.
        log_directory: One file per environment goes there; a temporary one, which goes with
            `close`, if None.
        observer: Told of everything that happens, from a thread of ours; must return at once.
        clock: For the times in results and happenings.
    """

    def __init__(
        self,
        handler: str = "app.handler",
        *,
        code: Path,
        environment: Mapping[str, str] | None = None,
        name: str = "function",
        timeout: float = 30.0,
        init_timeout: float = 120.0,
        memory: int = 512,
        concurrency: int = 1000,
        freeze: bool = True,
        python: str = sys.executable,
        preload: Sequence[str] | None = None,
        niceness: int = 0,
        log_directory: Path | None = None,
        observer: Callable[[EnvironmentEvent], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        self.timeout = timeout
        self.concurrency = concurrency
        self._log_directory = log_directory
        self._temporary_logs: Path | None = None
        self._observer = observer
        self._clock = clock
        self._environments: list[Environment] = []
        self._happenings: list[EnvironmentEvent] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._handler = handler
        self._code = code.resolve()
        self._python = python
        self._preload = preload
        self._niceness = niceness
        self._zygote: Zygote | None = None
        self._launch = Launch(
            start=self._start_process,
            variables=_variables(name, handler, self._code, memory) | dict(environment or {}),
            init_seconds=init_timeout,
            freeze=freeze,
            clock=clock,
        )

    def __enter__(self) -> LocalFunction:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- life ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Be ready to start environments. Idempotent."""
        if self._loop is not None:
            return
        _raise_open_files()
        if self._log_directory is None:
            self._temporary_logs = Path(tempfile.mkdtemp(prefix="lm-lambda-"))
            get_reaper().watch_directory(str(self._temporary_logs))
        self._logs().mkdir(parents=True, exist_ok=True)
        if self._preload is not None:
            self._zygote = Zygote(
                self._python, modules=self._preload, log=self._logs() / "zygote.log"
            )
            self._zygote.start(_inherited())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"lambda {self.name}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End every environment. Idempotent."""
        if self._loop is None or self._thread is None:
            return
        try:
            self._run(self._end_all()).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = None
            if self._zygote is not None:
                self._zygote.stop()
            if self._temporary_logs is not None:
                shutil.rmtree(self._temporary_logs, ignore_errors=True)
                get_reaper().forget(str(self._temporary_logs))
                self._temporary_logs = None

    # -- invoking -----------------------------------------------------------------------------

    def invoke(self, event: Any = None, *, wait: float = 0.0) -> InvocationResult:
        """Invoke once and wait for the result. Never raises for what the function does.

        Args:
            event: JSON.
            wait: Seconds to wait for a free environment at the cap, before ``throttled``.
        """
        return self.submit(event, wait=wait).result()

    def submit(
        self, event: Any = None, *, wait: float = 0.0, request_id: str | None = None
    ) -> Future[InvocationResult]:
        """Invoke once and come back at once; see `invoke`.

        Args:
            event: JSON.
            wait: See `invoke`.
            request_id: Lambda's id of it; a fresh one if None. All tries of an asynchronous
                invocation have the same.
        """
        return self._run(self._invoke(_encode(event), wait, request_id))

    def storm(self, n: int, event: Any = None, *, together: bool = True) -> list[InvocationResult]:
        """Invoke ``n`` new environments at the same time, each cold exactly once.

        Args:
            n: How many; as many below the cap must be free.
            event: JSON, the same for all.
            together: True: all are loaded first and then invoked at the same instant. False: each
                is invoked as soon as it is loaded, as Lambda does.
        """
        return self._run(self._storm(n, _encode(event), together)).result()

    def start_environments(self, n: int) -> list[str]:
        """Start ``n`` environments at once; return their ids when all wait for an invocation.

        Raises:
            RuntimeError: The cap does not allow so many.
        """
        started = self._run(self._start(n)).result()
        return [environment.environment_id for environment in started]

    def submit_cold(
        self, event: Any = None, *, gate: Gate | None = None
    ) -> Future[InvocationResult]:
        """Start an environment, invoke it and come back at once; see `invoke`.

        Args:
            event: JSON.
            gate: What it has to pass between starting and being invoked.
        """
        return self._run(self._cold(_encode(event), gate))

    def end_idle(self, environment_ids: Iterable[str] | None = None) -> list[str]:
        """End idle environments, as Lambda ends what nobody needs; return the ids of the ended.

        Args:
            environment_ids: Only those of these that are idle; all if None.
        """
        return self._run(self._end_idle(environment_ids)).result()

    # -- looking ------------------------------------------------------------------------------

    @property
    def parent(self) -> int:
        """The process that forked environments come from; 0 if they are not forked."""
        return 0 if self._zygote is None else self._zygote.pid

    def environments(self) -> list[EnvironmentView]:
        """All environments so far, oldest first, the ended ones included."""
        return [environment.view() for environment in list(self._environments)]

    def environment(self, environment_id: str) -> EnvironmentView:
        """One of `environments`.

        Raises:
            KeyError: There is none of this id.
        """
        for view in self.environments():
            if view.environment_id == environment_id:
                return view
        raise KeyError(environment_id)

    def logs(self, environment_id: str) -> str:
        """Everything that an environment wrote so far."""
        with suppress(FileNotFoundError):
            return self._log(environment_id).read_text(errors="replace")
        return ""

    def timeline(self) -> list[EnvironmentEvent]:
        """Everything that happened so far, in order."""
        return list(self._happenings)

    # -- how, in the event loop ---------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._loop is None:
            work.close()
            raise RuntimeError("this function is not open: use it in a with statement")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _invoke(self, body: bytes, wait: float, request_id: str | None) -> InvocationResult:
        environment = await self._acquire(wait)
        if environment is None:
            return self._throttled()
        return await self._deliver(environment, body, request_id)

    async def _deliver(
        self, environment: Environment, body: bytes, request_id: str | None = None
    ) -> InvocationResult:
        invocation = Invocation(
            request_id=request_id or str(uuid.uuid4()),
            body=body,
            deadline_ms=self._clock.wall_ms() + int(self.timeout * 1000),
            function_arn=f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.name}",
        )
        return await environment.invoke(invocation, seconds=self.timeout)

    async def _acquire(self, wait: float) -> Environment | None:
        """An idle environment, the most recently used; else a new one; else None."""
        give_up = self._clock.monotonic() + wait
        while True:
            if environment := await self._idle():
                return environment
            if self._room() > 0:
                return (await self._start(1, claim=True))[0]
            if self._clock.monotonic() >= give_up:
                return None
            await asyncio.sleep(0.01)

    async def _idle(self) -> Environment | None:
        idle = [one for one in self._environments if one.state == "idle"]
        for environment in sorted(idle, key=lambda one: one.last_used, reverse=True):
            environment.state = "busy"  # before the first await: nobody else may take it
            if not environment.has_exited:
                return environment
            await environment.bury()
        return None

    async def _start(self, n: int, *, claim: bool = False) -> list[Environment]:
        if n > self._room():
            raise RuntimeError(f"{n} more environments would exceed the cap of {self.concurrency}")
        fresh = [self._new() for _ in range(n)]
        await asyncio.gather(*(self._launch_one(one, claim=claim) for one in fresh))
        return fresh

    async def _launch_one(self, environment: Environment, *, claim: bool) -> None:
        await environment.start()
        if claim and environment.state == "idle":
            environment.state = "busy"

    async def _storm(self, n: int, body: bytes, together: bool) -> list[InvocationResult]:
        if together:
            fresh = await self._start(n, claim=True)
            return list(await asyncio.gather(*(self._deliver(one, body) for one in fresh)))
        return list(await asyncio.gather(*(self._start_and_deliver(body) for _ in range(n))))

    async def _start_and_deliver(self, body: bytes) -> InvocationResult:
        [environment] = await self._start(1, claim=True)
        return await self._deliver(environment, body)

    async def _cold(self, body: bytes, gate: Gate | None) -> InvocationResult:
        fresh = await self._start(1, claim=True) if self._room() > 0 else []
        if gate is not None:
            await asyncio.wrap_future(gate.arrive())
        return await self._deliver(fresh[0], body) if fresh else self._throttled()

    async def _end_idle(self, environment_ids: Iterable[str] | None) -> list[str]:
        wanted = None if environment_ids is None else set(environment_ids)
        ending = [
            one
            for one in self._environments
            if one.state == "idle" and (wanted is None or one.environment_id in wanted)
        ]
        for environment in ending:
            environment.state = "ended"  # before the first await: nobody else may take it
        await asyncio.gather(*(environment.end() for environment in ending))
        return [environment.environment_id for environment in ending]

    async def _end_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.gather(*(one.end() for one in self._environments))
        await asyncio.get_running_loop().shutdown_default_executor()

    def _new(self) -> Environment:
        number = len(self._environments) + 1
        environment_id = f"env{number:04d}"
        environment = Environment(
            environment_id,
            self._launch,
            self._log(environment_id),
            re.sub("[^A-Za-z0-9]", "", self.name) + environment_id,
            self._note,
        )
        self._environments.append(environment)
        return environment

    def _start_process(self, variables: Mapping[str, str], log: Path) -> Process:
        process: Process
        if self._zygote is not None:
            process = self._zygote.fork(
                self._handler, variables=variables, directory=self._code, log=log
            )
        else:
            command = [self._python, "-m", "awslambdaric", self._handler]
            process = spawn(command, log=log, environment=variables, directory=self._code)
        with suppress(OSError):  # it has ended already
            if self._niceness:
                os.setpriority(os.PRIO_PROCESS, process.pid, self._niceness)
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(_FIRST_TO_GO)
        return process

    def _room(self) -> int:
        return self.concurrency - sum(one.state != "ended" for one in self._environments)

    def _note(self, happening: EnvironmentEvent) -> None:
        self._happenings.append(happening)
        if self._observer is not None:
            self._observer(happening)

    def _throttled(self) -> InvocationResult:
        now = self._clock.monotonic()
        message = f"all {self.concurrency} environments are busy"
        return InvocationResult(
            str(uuid.uuid4()),
            "",
            False,
            "throttled",
            None,
            "TooManyRequestsException",
            message,
            0.0,
            0.0,
            now,
            now,
        )

    def _logs(self) -> Path:
        if self._log_directory is not None:
            return self._log_directory
        if self._temporary_logs is not None:
            return self._temporary_logs
        raise RuntimeError("this function is not open, and its temporary logs are gone")

    def _log(self, environment_id: str) -> Path:
        return self._logs() / f"{environment_id}.log"


def _variables(name: str, handler: str, code: Path, memory: int) -> dict[str, str]:
    """What Lambda sets, but for what differs between environments."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return _inherited() | {
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{version}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "AWS_REGION": REGION,
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_SESSION_TOKEN": "local",
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "LAMBDA_TASK_ROOT": str(code),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(code),
        "TZ": ":UTC",
        "_HANDLER": handler,
    }


def _inherited() -> dict[str, str]:
    return {key: os.environ[key] for key in _INHERITED if key in os.environ}


def _encode(event: Any) -> bytes:
    return json.dumps(event).encode()


def _raise_open_files() -> None:
    """Raise our soft limit; the hard one stays what the machine's owner made it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
