"""Processes that are forked from one warm interpreter: a thousand fit where 200 would.

`ForkServer` starts that interpreter, the program in fork_server.py, and `ForkedProcess` is to it
what `SpawnedProcess` is to a process that was started directly.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from lambda_migrate.local.runtime import fork_server
from lambda_migrate.local.runtime.process import (
    ProcessError,
    SpawnedProcess,
    read_state,
    spawn,
    tail,
)
from lambda_migrate.local.runtime.reaper import get_reaper

__all__ = ["ForkServer", "ForkedProcess"]

_START_SECONDS = 60.0
_NOT_RUNNING = "the fork server is not running"


class ForkedProcess:
    """A forked process; it leads a process group of its own.

    Args:
        pid: Its process id.
        reap: Collects its exit status, after which the pid may be reused.
    """

    def __init__(self, pid: int, reap: Callable[[int], None]) -> None:
        self.pid = pid
        self._reap = reap
        self._is_reaped = False
        self._status: int | None = None
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._status

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more, even if its end has not been reported yet."""
        return self._status is not None or read_state(self.pid) in {"", "Z", "X"}

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: It still runs after ``seconds``.
        """
        if not self._ended.wait(seconds) or self._status is None:
            raise subprocess.TimeoutExpired(f"environment {self.pid}", seconds or 0.0)
        return self._status

    def signal_group(self, number: int) -> None:
        """Send ``number`` to the process and what it started, even when it has ended itself."""
        if not self._is_reaped:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def kill(self) -> int:
        """Kill the whole group immediately, frozen or not, and wait for it. Idempotent."""
        self.signal_group(signal.SIGKILL)
        status = self.wait()
        with self._lock:
            first, self._is_reaped = not self._is_reaped, True
        if first:
            get_reaper().unwatch(self.pid)
            self._reap(self.pid)
        return status

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once it has ended, from another thread or immediately."""
        with self._lock:
            if self._status is None:
                self._callbacks.append(callback)
                return
        callback()

    def record_end(self, status: int) -> None:
        """Record the end that the fork server reported."""
        with self._lock:
            self._status = status
            callbacks, self._callbacks = self._callbacks, []
        self._ended.set()
        for callback in callbacks:
            callback()


class ForkServer:
    """A warm interpreter that forks.

    Args:
        python: The interpreter; it must have ``awslambdaric``.
        modules: What it imports beforehand, by name or by file. They must start no threads.
        log: For its own output.
    """

    def __init__(self, python: str, *, modules: Sequence[str], log: Path) -> None:
        self._python = python
        self._modules = tuple(modules)
        self._log = log
        self._process: SpawnedProcess | None = None
        self._channel: socket.socket | None = None
        self._listener: threading.Thread | None = None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._requests: dict[int, Future[ForkedProcess]] = {}
        self._children: dict[int, ForkedProcess] = {}

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            ProcessError: It was not started.
        """
        if self._process is None:
            raise ProcessError(_NOT_RUNNING)
        return self._process.pid

    def start(self, variables: Mapping[str, str]) -> None:
        """Start it and return when it has imported everything.

        Args:
            variables: Its environment variables; a forked process has only its own ones.

        Raises:
            ProcessError: With the tail of its log.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [self._python, "-I", fork_server.__file__, str(theirs.fileno()), *self._modules]
        with theirs:
            self._process = spawn(
                command, log=self._log, variables=variables, pass_fds=[theirs.fileno()]
            )
        ours.settimeout(_START_SECONDS)
        self._channel = ours
        if not self._is_ready():
            self.stop()
            raise ProcessError(f"the fork server did not start:\n{tail(self._log)}")
        ours.settimeout(None)
        self._listener = threading.Thread(target=self._listen, daemon=True, name="fork server")
        self._listener.start()

    def fork(
        self, handler: str, *, variables: Mapping[str, str], directory: Path, log: Path
    ) -> ForkedProcess:
        """Start an execution environment for a Lambda handler; from any thread.

        Raises:
            ProcessError: The process could not be forked, or the fork server is gone.
        """
        return self._fork({"handler": handler}, variables, directory, log)

    def fork_call(
        self,
        function: str,
        argument: Any,
        *,
        variables: Mapping[str, str],
        directory: Path,
        log: Path,
    ) -> ForkedProcess:
        """Start a process that calls ``module:function`` with one JSON value; see `fork`."""
        program = {"function": function, "argument": argument}
        return self._fork(program, variables, directory, log)

    def stop(self) -> None:
        """End it; what it forked must have been killed before. Idempotent."""
        if self._process is not None:
            self._process.kill()
        if self._listener is not None:
            self._listener.join()
        if self._channel is not None:
            self._channel.close()

    # -- protocol -----------------------------------------------------------------------------

    def _fork(
        self, program: Mapping[str, Any], variables: Mapping[str, str], directory: Path, log: Path
    ) -> ForkedProcess:
        number = next(self._numbers)
        request = {
            "fork": number,
            **program,
            "variables": dict(variables),
            "directory": str(directory),
            "log": str(log),
        }
        forked: Future[ForkedProcess] = Future()
        with self._lock:
            self._requests[number] = forked
        self._send(request)
        child = forked.result()
        get_reaper().watch(child.pid)
        return child

    def _is_ready(self) -> bool:
        """Whether it has imported everything, rather than ended or hung."""
        assert self._channel is not None  # noqa: S101 - for mypy
        try:
            return bool(self._channel.recv(fork_server.MESSAGE_BYTES))
        except OSError:
            return False

    def _send(self, message: object) -> None:
        if self._channel is None:
            raise ProcessError(_NOT_RUNNING)
        try:
            self._channel.send(json.dumps(message).encode())
        except OSError as error:
            raise ProcessError(f"the fork server is gone: {error}") from error

    def _reap(self, pid: int) -> None:
        with self._lock:
            self._children.pop(pid, None)
        with contextlib.suppress(ProcessError):  # then init has collected it
            self._send({"reap": pid})

    def _listen(self) -> None:
        assert self._channel is not None  # noqa: S101 - for mypy
        with contextlib.suppress(OSError):
            while message := self._channel.recv(fork_server.MESSAGE_BYTES):
                self._receive(json.loads(message))
        self._fail_all()

    def _receive(self, message: Mapping[str, Any]) -> None:
        if "ended" in message:
            with self._lock:
                child = self._children[int(message["ended"])]
            child.record_end(int(message["status"]))
            return
        with self._lock:
            forked = self._requests.pop(int(message["forked"]))
        if "error" in message:
            forked.set_exception(ProcessError(f"fork failed: {message['error']}"))
            return
        child = ForkedProcess(int(message["pid"]), self._reap)
        with self._lock:
            self._children[child.pid] = child
        forked.set_result(child)

    def _fail_all(self) -> None:
        """Without the fork server no end would be reported: the children end with it."""
        with self._lock:
            requests, self._requests = list(self._requests.values()), {}
            children = list(self._children.values())
        for forked in requests:
            forked.set_exception(ProcessError("the fork server is gone"))
        for child in children:
            child.signal_group(signal.SIGKILL)
            child.record_end(-signal.SIGKILL)
