"""Environments that are forked from one warm interpreter: a thousand fit where 200 would.

`Zygote` starts that interpreter, the program in fork_server.py, and `ForkedChild` is to it what
`Child` is to a process of our own.
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

from lambda_migrate.local.runtime import fork_server
from lambda_migrate.local.runtime.process import (
    Child,
    ProcessError,
    read_state,
    spawn,
    tail,
)
from lambda_migrate.local.runtime.reaper import get_reaper

__all__ = ["ForkedChild", "Zygote"]

_START_SECONDS = 60.0


class ForkedChild:
    """A process that was forked for us; it leads a group of its own.

    Args:
        pid: Its number.
        bury: Collects it, after which the number may be somebody else's.
    """

    def __init__(self, pid: int, bury: Callable[[int], None]) -> None:
        self.pid = pid
        self._bury = bury
        self._buried = False
        self._status: int | None = None
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._status

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more, though nobody may have heard of it yet."""
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
        """Send ``number`` to the process and to what it started, even when it has ended itself."""
        if not self._buried:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def kill(self) -> int:
        """End the whole group at once, frozen or not, and wait for it. Idempotent."""
        self.signal_group(signal.SIGKILL)
        status = self.wait()
        with self._lock:
            first, self._buried = not self._buried, True
        if first:
            get_reaper().forget(self.pid)
            self._bury(self.pid)
        return status

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once it has ended, from another thread or at once."""
        with self._lock:
            if self._status is None:
                self._callbacks.append(callback)
                return
        callback()

    def note_end(self, status: int) -> None:
        """It has ended: the zygote says so."""
        with self._lock:
            self._status = status
            callbacks, self._callbacks = self._callbacks, []
        self._ended.set()
        for callback in callbacks:
            callback()


class Zygote:
    """A warm interpreter that forks.

    Args:
        python: The interpreter; it must have ``awslambdaric``.
        modules: What it imports beforehand. They must start no threads.
        log: For what it has to say itself.
    """

    def __init__(self, python: str, *, modules: Sequence[str], log: Path) -> None:
        self._python = python
        self._modules = tuple(modules)
        self._log = log
        self._process: Child | None = None
        self._channel: socket.socket | None = None
        self._listener: threading.Thread | None = None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._births: dict[int, Future[ForkedChild]] = {}
        self._children: dict[int, ForkedChild] = {}

    @property
    def pid(self) -> int:
        """Its process.

        Raises:
            ProcessError: It was not started.
        """
        if self._process is None:
            raise ProcessError("the parent of the forked environments is not running")
        return self._process.pid

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it and return when it has imported everything.

        Args:
            environment: Its variables; a forked environment has its own ones alone.

        Raises:
            ProcessError: With the tail of its log.
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [self._python, "-I", fork_server.__file__, str(its.fileno()), *self._modules]
        with its:
            self._process = spawn(
                command, log=self._log, environment=environment, pass_fds=[its.fileno()]
            )
        ours.settimeout(_START_SECONDS)
        self._channel = ours
        if not self._hears():
            self.stop()
            raise ProcessError(f"nothing to fork environments from:\n{tail(self._log)}")
        ours.settimeout(None)
        self._listener = threading.Thread(target=self._listen, daemon=True, name="zygote")
        self._listener.start()

    def fork(
        self, handler: str, *, variables: Mapping[str, str], directory: Path, log: Path
    ) -> ForkedChild:
        """Start an environment; from any thread.

        Raises:
            ProcessError: The machine has no room for it, or the zygote is gone.
        """
        number = next(self._numbers)
        order = {
            "fork": number,
            "handler": handler,
            "variables": dict(variables),
            "directory": str(directory),
            "log": str(log),
        }
        birth: Future[ForkedChild] = Future()
        with self._lock:
            self._births[number] = birth
        self._say(order)
        child = birth.result()
        get_reaper().watch(child.pid)
        return child

    def stop(self) -> None:
        """End it; what it forked must have been killed before. Idempotent."""
        if self._process is not None:
            self._process.kill()
        if self._listener is not None:
            self._listener.join()
        if self._channel is not None:
            self._channel.close()

    # -- how ----------------------------------------------------------------------------------

    def _hears(self) -> bool:
        """Whether it is ready, rather than gone or stuck."""
        assert self._channel is not None  # noqa: S101 - for mypy
        try:
            return bool(self._channel.recv(fork_server.MESSAGE_BYTES))
        except OSError:
            return False

    def _say(self, message: object) -> None:
        if self._channel is None:
            raise ProcessError("the parent of the forked environments is not running")
        try:
            self._channel.send(json.dumps(message).encode())
        except OSError as error:
            raise ProcessError(f"the parent of the forked environments is gone: {error}") from error

    def _bury(self, pid: int) -> None:
        with self._lock:
            self._children.pop(pid, None)
        with contextlib.suppress(ProcessError):  # then somebody else has collected it
            self._say({"bury": pid})

    def _listen(self) -> None:
        assert self._channel is not None  # noqa: S101 - for mypy
        with contextlib.suppress(OSError):
            while said := self._channel.recv(fork_server.MESSAGE_BYTES):
                self._note(json.loads(said))
        self._be_bereft()

    def _note(self, message: Mapping[str, object]) -> None:
        if "ended" in message:
            with self._lock:
                child = self._children[int(str(message["ended"]))]
            child.note_end(int(str(message["status"])))
            return
        with self._lock:
            birth = self._births.pop(int(str(message["forked"])))
        if "error" in message:
            birth.set_exception(ProcessError(f"no environment could be forked: {message['error']}"))
            return
        child = ForkedChild(int(str(message["pid"])), self._bury)
        with self._lock:
            self._children[child.pid] = child
        birth.set_result(child)

    def _be_bereft(self) -> None:
        """Without the zygote nobody would tell how its children end: they end with it."""
        with self._lock:
            births, self._births = list(self._births.values()), {}
            children = list(self._children.values())
        for birth in births:
            birth.set_exception(ProcessError("the parent of the forked environments is gone"))
        for child in children:
            child.signal_group(signal.SIGKILL)
            child.note_end(-signal.SIGKILL)
