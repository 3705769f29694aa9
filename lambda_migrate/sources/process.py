"""The parent's side of a child process that runs another tool."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.sources.protocol import encode_line

if TYPE_CHECKING:
    from lambda_migrate.clock import Deadline
    from lambda_migrate.sources.protocol import ChildRequest

__all__ = ["START_CHILD", "ChildEnded", "ChildProcess", "ChildTimeout"]

START_CHILD = (
    "import sys; sys.path = [each for each in sys.path if each]; "
    "from lambda_migrate.sources.child import main; main()"
)
"""``-m`` would put the folder of the code first, whose ``signal.py`` would then hide Python's."""

_EXIT_SECONDS = 2.0
"""How long a child that has sent its last event may take to exit before it is killed."""

_LATE_SECONDS = 1.0
"""By how much an event may be late: PostgreSQL cancels the statement at the deadline itself, and
the child reports that."""


class ChildEnded(Exception):
    """The child ended without a last event.

    Attributes:
        status: Its exit status; negative: the number of the signal that killed it.
    """

    def __init__(self, status: int) -> None:
        self.status = status
        if status < 0:
            super().__init__(f"was killed by signal {-status} (out of memory, or a crash)")
        else:
            super().__init__(f"ended with exit status {status} (does it call os._exit()?)")


class ChildTimeout(Exception):
    """The child sent no event before the deadline, and was killed."""


class ChildProcess:
    """One child process, started when it is created.

    What it prints is passed on to this process's standard error, which is the log on Lambda.

    Args:
        request: What it is to do.

    Raises:
        ConfigurationError: It cannot be started.
    """

    def __init__(self, request: ChildRequest) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a constant
                [sys.executable, "-c", START_CHILD],
                cwd=request.root,
                env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigurationError(
                f"cannot start a process for {request.tool} in {request.root}: {error.strerror}"
            ) from error
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        for read in (self._read_events, self._forward_output):
            threading.Thread(target=read, name="lambda-migrate-child", daemon=True).start()
        self._write(request.to_line())

    def _read_events(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - see Popen's arguments
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:  # printed while Python started
                _print(line)
                continue
            self._events.put(event)
        self._events.put(None)

    def _forward_output(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - see Popen's arguments
        for line in self._process.stderr:
            _print(line)

    def read_event(self, deadline: Deadline) -> dict[str, Any]:
        """The next event.

        Raises:
            ChildEnded: There is none, because the child has ended.
            ChildTimeout: The deadline passed; the child was killed.
        """
        try:
            event = self._events.get(timeout=deadline.remaining() + _LATE_SECONDS)
        except queue.Empty:
            self.kill()
            raise ChildTimeout from None
        if event is None:
            self._events.put(None)
            raise ChildEnded(self._wait())
        return event

    def answer(self, *, may_continue: bool) -> None:
        """Let the child begin the step that it has announced, or stop it there."""
        self._write(encode_line({"continue": may_continue}))

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101 - see Popen's arguments
        with suppress(OSError):  # it has ended, as the next event will show
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def kill(self) -> None:
        """End the child and what it has started, whatever it is doing. Idempotent."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Wait for a child that has sent its last event, and kill one that does not exit."""
        assert self._process.stdin is not None  # noqa: S101 - see Popen's arguments
        self._wait()
        with suppress(OSError):
            self._process.stdin.close()

    def _wait(self) -> int:
        try:
            return self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()


def _print(line: bytes) -> None:
    with suppress(OSError, ValueError):  # a closed log is no reason to stop
        sys.stderr.write(line.decode(errors="replace"))
        sys.stderr.flush()
