"""A Lambda function on this machine: one ``awslambdaric`` process per execution environment.

    with LocalFunction("app.handler", code=Path("examples/orders")) as function:
        results = function.storm(100, {"path": "/orders"})

As in Lambda, an environment runs one invocation at a time, is reused for the next one, is frozen
in between (SIGSTOP) and killed at the timeout (SIGKILL). When all are busy a new one starts, up to
the concurrency limit, above which invocations are throttled.
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
from typing import Any, TypeVar

from lambda_migrate.clock import SYSTEM_CLOCK, Clock
from lambda_migrate.local.runtime.environment import (
    EnvironmentEvent,
    EnvironmentView,
    ExecutionEnvironment,
    InvocationResult,
    LaunchOptions,
    ProcessHandle,
)
from lambda_migrate.local.runtime.fork_client import ForkServer
from lambda_migrate.local.runtime.loop_thread import LoopThread, cancel_other_tasks
from lambda_migrate.local.runtime.process import spawn
from lambda_migrate.local.runtime.reaper import get_reaper
from lambda_migrate.local.runtime.runtime_api import Invocation

__all__ = [
    "EnvironmentEvent",
    "EnvironmentView",
    "InvocationResult",
    "LocalFunction",
    "StartBarrier",
]

T = TypeVar("T")

REGION = "us-east-1"
AWS_ACCOUNT_ID = "123456789012"

_INHERITED_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
"""The only variables of this process that an environment gets: no credentials."""

_OOM_SCORE = "1000"
"""If memory runs out, the kernel kills an environment rather than a server or the test itself."""

_OPEN_FILES = 16_384  # an environment needs about three; the usual soft limit is 1,024


class StartBarrier:
    """Holds invocations back until a number of environments are ready to be invoked.

    Args:
        number: Number of environments.
    """

    def __init__(self, number: int) -> None:
        self._missing = number
        self._lock = threading.Lock()
        self._opened: Future[None] = Future()

    def arrive(self) -> Future[None]:
        """Add one environment; the future is done when all have arrived."""
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
        variables: The function's environment variables; they override those that Lambda sets.
        name: The function's name.
        timeout: Timeout of an invocation, in seconds.
        init_timeout: Timeout for loading the handler, in seconds. Lambda's own 10 s are too few
            where a hundred interpreters share a few cores.
        memory: Memory size in megabytes, shown to the function but not enforced.
        concurrency: The concurrency limit.
        freeze: Whether to stop environments between invocations.
        python: The interpreter; it must have ``awslambdaric``.
        preload: Fork environments from one process that has imported these modules (names or
            paths of files) and what the runtime imports. A forked environment starts in a few
            milliseconds and shares the memory of the imported modules. They must start no threads
            and must not be the function's own. If None, each environment is a new interpreter.
        niceness: The environments' nice value; in AWS they do not compete with the servers.
        log_directory: Directory of the logs, one file per environment. If None, a temporary one,
            which `close` removes.
        observer: Called with every event, from a background thread; it must not block.
        clock: The clock of results and events.
    """

    def __init__(
        self,
        handler: str = "app.handler",
        *,
        code: Path,
        variables: Mapping[str, str] | None = None,
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
        self._environments: list[ExecutionEnvironment] = []
        self._events: list[EnvironmentEvent] = []
        self._loop: LoopThread | None = None
        self._handler = handler
        self._code = code.resolve()
        self._python = python
        self._preload = preload
        self._niceness = niceness
        self._fork_server: ForkServer | None = None
        self._options = LaunchOptions(
            start=self._start_process,
            variables=_variables(name, handler, self._code, memory) | dict(variables or {}),
            init_seconds=init_timeout,
            freeze=freeze,
            clock=clock,
        )

    def __enter__(self) -> LocalFunction:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Prepare for starting environments. Idempotent."""
        if self._loop is not None:
            return
        _raise_open_files()
        if self._log_directory is None:
            self._temporary_logs = Path(tempfile.mkdtemp(prefix="lm-lambda-"))
            get_reaper().watch_directory(str(self._temporary_logs))
        self._log_folder().mkdir(parents=True, exist_ok=True)
        if self._preload is not None:
            self._fork_server = ForkServer(
                self._python, modules=self._preload, log=self._log_folder() / "fork-server.log"
            )
            self._fork_server.start(_get_inherited_variables())
        self._loop = LoopThread(f"lambda {self.name}")
        self._loop.open()

    def close(self) -> None:
        """End every environment. Idempotent."""
        if self._loop is None:
            return
        try:
            self._loop.run(self._end_all())
        finally:
            self._loop.close()
            self._loop = None
            if self._fork_server is not None:
                self._fork_server.stop()
            if self._temporary_logs is not None:
                shutil.rmtree(self._temporary_logs, ignore_errors=True)
                get_reaper().unwatch(str(self._temporary_logs))
                self._temporary_logs = None

    def invoke(self, event: Any = None, *, wait: float = 0.0) -> InvocationResult:
        """Invoke once and wait for the result. An error of the function is a result, too.

        Args:
            event: A JSON value.
            wait: Seconds to wait for a free environment at the concurrency limit.
        """
        return self.submit(event, wait=wait).result()

    def submit(
        self, event: Any = None, *, wait: float = 0.0, request_id: str | None = None
    ) -> Future[InvocationResult]:
        """Invoke once and return immediately; see `invoke`.

        Args:
            event: A JSON value.
            wait: See `invoke`.
            request_id: Lambda's id of the invocation; a new one if None. The retries of an
                asynchronous invocation share one.
        """
        return self._run(self._invoke(_encode(event), wait, request_id))

    def storm(
        self, n: int, event: Any = None, *, simultaneous: bool = True
    ) -> list[InvocationResult]:
        """Start ``n`` new environments and invoke each once.

        Args:
            n: Number of environments; the concurrency limit must allow them.
            event: A JSON value, the same for all.
            simultaneous: Load all first and then invoke them at the same time. If False, invoke
                each as soon as it is loaded, as Lambda does.
        """
        return self._run(self._run_storm(n, _encode(event), simultaneous)).result()

    def start_environments(self, n: int) -> list[str]:
        """Start ``n`` environments and return their ids when all wait for an invocation.

        Raises:
            RuntimeError: The concurrency limit does not allow so many.
        """
        started = self._run(self._start(n)).result()
        return [environment.environment_id for environment in started]

    def submit_cold(
        self, event: Any = None, *, barrier: StartBarrier | None = None
    ) -> Future[InvocationResult]:
        """Start a new environment, invoke it and return immediately; see `invoke`.

        Args:
            event: A JSON value.
            barrier: Holds the invocation back until enough environments have started.
        """
        return self._run(self._invoke_cold(_encode(event), barrier))

    def end_idle(self, environment_ids: Iterable[str] | None = None) -> list[str]:
        """End idle environments, as Lambda does after a while, and return their ids.

        Args:
            environment_ids: Only these, if they are idle; all if None.
        """
        return self._run(self._end_idle(environment_ids)).result()

    def environments(self) -> list[EnvironmentView]:
        """All environments so far, oldest first, including ended ones."""
        return [environment.view() for environment in list(self._environments)]

    def environment(self, environment_id: str) -> EnvironmentView:
        """One of `environments`.

        Raises:
            KeyError: There is no environment with this id.
        """
        for view in self.environments():
            if view.environment_id == environment_id:
                return view
        raise KeyError(environment_id)

    def logs(self, environment_id: str) -> str:
        """The log of an environment so far."""
        with suppress(FileNotFoundError):
            return self._log_file(environment_id).read_text(errors="replace")
        return ""

    def timeline(self) -> list[EnvironmentEvent]:
        """All events so far, in order."""
        return list(self._events)

    # -- in the event loop --------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._loop is None:
            work.close()
            raise RuntimeError("this function is not open: use it in a with statement")
        return self._loop.start(work)

    async def _invoke(self, body: bytes, wait: float, request_id: str | None) -> InvocationResult:
        environment = await self._acquire(wait)
        if environment is None:
            return self._throttle()
        return await self._deliver(environment, body, request_id)

    async def _deliver(
        self, environment: ExecutionEnvironment, body: bytes, request_id: str | None = None
    ) -> InvocationResult:
        invocation = Invocation(
            request_id=request_id or str(uuid.uuid4()),
            body=body,
            deadline_ms=self._clock.wall_ms() + int(self.timeout * 1000),
            function_arn=f"arn:aws:lambda:{REGION}:{AWS_ACCOUNT_ID}:function:{self.name}",
        )
        return await environment.invoke(invocation, seconds=self.timeout)

    async def _acquire(self, wait: float) -> ExecutionEnvironment | None:
        """Take the most recently used idle environment, else a new one; None at the limit."""
        give_up = self._clock.monotonic() + wait
        while True:
            if environment := await self._take_idle():
                return environment
            if self._free_slots() > 0:
                return (await self._start(1, mark_busy=True))[0]
            if self._clock.monotonic() >= give_up:
                return None
            await asyncio.sleep(0.01)

    async def _take_idle(self) -> ExecutionEnvironment | None:
        idle = [one for one in self._environments if one.state == "idle"]
        for environment in sorted(idle, key=lambda one: one.last_used, reverse=True):
            environment.state = "busy"  # before the first await, so that no other task takes it
            if not environment.has_exited:
                return environment
            await environment.mark_ended()
        return None

    async def _start(self, n: int, *, mark_busy: bool = False) -> list[ExecutionEnvironment]:
        if n > self._free_slots():
            raise RuntimeError(f"{n} more environments exceed the limit of {self.concurrency}")
        environments = [self._create_environment() for _ in range(n)]
        await asyncio.gather(*(self._launch_one(one, mark_busy=mark_busy) for one in environments))
        return environments

    async def _launch_one(self, environment: ExecutionEnvironment, *, mark_busy: bool) -> None:
        await environment.start()
        if mark_busy and environment.state == "idle":
            environment.state = "busy"

    async def _run_storm(self, n: int, body: bytes, simultaneous: bool) -> list[InvocationResult]:
        if simultaneous:
            started = await self._start(n, mark_busy=True)
            return list(await asyncio.gather(*(self._deliver(one, body) for one in started)))
        return list(await asyncio.gather(*(self._start_and_deliver(body) for _ in range(n))))

    async def _start_and_deliver(self, body: bytes) -> InvocationResult:
        [environment] = await self._start(1, mark_busy=True)
        return await self._deliver(environment, body)

    async def _invoke_cold(self, body: bytes, barrier: StartBarrier | None) -> InvocationResult:
        started = await self._start(1, mark_busy=True) if self._free_slots() > 0 else []
        if barrier is not None:
            await asyncio.wrap_future(barrier.arrive())
        return await self._deliver(started[0], body) if started else self._throttle()

    async def _end_idle(self, environment_ids: Iterable[str] | None) -> list[str]:
        wanted = None if environment_ids is None else set(environment_ids)
        ending = [
            one
            for one in self._environments
            if one.state == "idle" and (wanted is None or one.environment_id in wanted)
        ]
        for environment in ending:
            environment.state = "ended"  # before the first await, so that no other task takes it
        await asyncio.gather(*(environment.end() for environment in ending))
        return [environment.environment_id for environment in ending]

    async def _end_all(self) -> None:
        await cancel_other_tasks()
        await asyncio.gather(*(one.end() for one in self._environments))
        await asyncio.get_running_loop().shutdown_default_executor()

    def _create_environment(self) -> ExecutionEnvironment:
        number = len(self._environments) + 1
        environment_id = f"env{number:04d}"
        environment = ExecutionEnvironment(
            environment_id,
            self._options,
            self._log_file(environment_id),
            re.sub("[^A-Za-z0-9]", "", self.name) + environment_id,
            self._record,
        )
        self._environments.append(environment)
        return environment

    def _start_process(self, variables: Mapping[str, str], log: Path) -> ProcessHandle:
        process: ProcessHandle
        if self._fork_server is not None:
            process = self._fork_server.fork(
                self._handler, variables=variables, directory=self._code, log=log
            )
        else:
            command = [self._python, "-m", "awslambdaric", self._handler]
            process = spawn(command, log=log, variables=variables, directory=self._code)
        with suppress(OSError):  # it has ended already
            if self._niceness:
                os.setpriority(os.PRIO_PROCESS, process.pid, self._niceness)
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(_OOM_SCORE)
        return process

    def _free_slots(self) -> int:
        return self.concurrency - sum(one.state != "ended" for one in self._environments)

    def _record(self, event: EnvironmentEvent) -> None:
        self._events.append(event)
        if self._observer is not None:
            self._observer(event)

    def _throttle(self) -> InvocationResult:
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

    def _log_folder(self) -> Path:
        if self._log_directory is not None:
            return self._log_directory
        if self._temporary_logs is not None:
            return self._temporary_logs
        raise RuntimeError("this function is not open; its temporary logs were removed")

    def _log_file(self, environment_id: str) -> Path:
        return self._log_folder() / f"{environment_id}.log"


def _variables(name: str, handler: str, code: Path, memory: int) -> dict[str, str]:
    """The variables that Lambda sets, without those specific to one environment."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return _get_inherited_variables() | {
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


def _get_inherited_variables() -> dict[str, str]:
    return {key: os.environ[key] for key in _INHERITED_VARIABLES if key in os.environ}


def _encode(event: Any) -> bytes:
    return json.dumps(event).encode()


def _raise_open_files() -> None:
    """Raise the soft limit as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
