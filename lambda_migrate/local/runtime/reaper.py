"""A small process that ends the child processes of its parent when the parent has ended.

`lambda_migrate.local` reports every process that it starts to the reaper over a pipe. When the
parent ends, even by ``kill -9``, the pipe closes; the reaper then ends the processes that still
run and removes their directories. The kernel's parent-death signal is not enough: it fires when
the *thread* that forked ends, is lost on a change of user, and does not reach grandchildren.

This file is also the reaper's program. It is run by its path and without site-packages, so it
imports the standard library only.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import IO, Any

__all__ = ["Reaper", "get_reaper"]

GRACE_SECONDS = 6.0
"""For processes that end by another signal than SIGKILL; PostgreSQL's immediate shutdown takes up
to 5 s."""


class Reaper:
    """The parent's end of the pipe. Starts the reaper process with the first message."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, pid: int, *, end_signal: int = signal.SIGKILL) -> None:
        """End the process group ``pid`` with ``end_signal`` once this process has ended."""
        self._send({"watch": pid, "signal": int(end_signal)})

    def watch_directory(self, path: str) -> None:
        """Remove the directory once this process and its children have ended."""
        self._send({"watch": path})

    def unwatch(self, pid_or_path: int | str) -> None:
        """Stop watching a process that was waited for, or a directory that was removed.

        The kernel may soon give the process's number to another process.
        """
        self._send({"unwatch": pid_or_path})

    def close(self) -> None:
        """Let the reaper do its work now, and wait until it has ended."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        with self._lock:
            if self._process is None:
                self._process = _start()
            assert self._process.stdin is not None  # noqa: S101 - for mypy: it is a PIPE
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()


def get_reaper() -> Reaper:
    """The reaper of this process; a forked child gets its own."""
    return _reaper_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _reaper_of(_pid: int) -> Reaper:
    reaper = Reaper()
    atexit.register(reaper.close)
    return reaper


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this file, by its own path
        [sys.executable, "-I", "-S", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # Ctrl-C is for the parent
    )


def _serve(messages: IO[bytes]) -> None:
    watched: dict[int | str, int] = {}
    for line in messages:
        message = json.loads(line)
        if "unwatch" in message:
            watched.pop(message["unwatch"], None)
        else:
            watched[message["watch"]] = message.get("signal", signal.SIGKILL)
    _end_processes({pid: number for pid, number in watched.items() if isinstance(pid, int)})
    for directory in watched:
        if isinstance(directory, str):
            shutil.rmtree(directory, ignore_errors=True)


def _end_processes(signals_by_pid: dict[int, int]) -> None:
    for pid, number in signals_by_pid.items():
        _signal(pid, number)
        _signal(pid, signal.SIGCONT)  # a stopped process handles no other signal
    _wait_for([pid for pid, number in signals_by_pid.items() if number != signal.SIGKILL])
    for pid in signals_by_pid:
        _signal(pid, signal.SIGKILL)


def _wait_for(pids: list[int]) -> None:
    give_up = time.monotonic() + GRACE_SECONDS
    while any(_is_running(pid) for pid in pids) and time.monotonic() < give_up:
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    """Whether the process is there and no zombie: a slow init may collect zombies late."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 - pathlib doubles our start-up
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


if __name__ == "__main__":
    _serve(sys.stdin.buffer)
