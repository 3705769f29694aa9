"""A warmed parent that forks execution environments, so that one costs milliseconds.

The parent is a process of its own with a single thread: what a fork copies is whole. It reads
orders from its standard input and tells of births and deaths on its standard output; its children
write their own events to the same pipe, one short line at a time, which a pipe keeps whole. Only
the parent signals its children, because only it knows which numbers are still theirs.

``python -m load.chaos.nursery`` is the parent; `Nursery` is how others talk to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lambda_migrate.local.runtime.reaper import get_reaper

__all__ = ["MESSAGE_BYTES", "Nursery"]

MESSAGE_BYTES = 3_500
"""Below PIPE_BUF: lines of several writers do not mix."""

Listener = Callable[[dict[str, Any]], None]


class Nursery:
    """One warmed parent.

    Args:
        log: Where its own complaints go.
    """

    def __init__(self, log: Path) -> None:
        self._listeners: dict[str, Listener] = {}
        self._lock = threading.Lock()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "load.chaos.nursery"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        get_reaper().watch(self._process.pid)
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Nursery:
        if not self._ready.wait(60):
            raise RuntimeError("the nursery did not start; see its log")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.wait(30)
        get_reaper().forget(self._process.pid)
        self._reader.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def start(self, order: dict[str, Any], listener: Listener) -> None:
        """Fork a child that lives by ``order``; its events, by its name, go to ``listener``."""
        self._listeners[order["name"]] = listener
        self._tell({"do": "start", "order": order})

    def signal(self, name: str, number: int) -> None:
        """Signal a child, if it is still there."""
        self._tell({"do": "signal", "name": name, "number": int(number)})

    def _tell(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            assert self._process.stdin is not None  # noqa: S101 - for mypy: it is a PIPE
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - for mypy: it is a PIPE
        for line in self._process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "ready":
                self._ready.set()
                continue
            listener = self._listeners.get(event["name"])
            if listener is not None:
                listener(event)
            if event["event"] == "ended":
                self._listeners.pop(event["name"], None)


# --- the parent's side


def _warm() -> None:
    """Load what every environment needs; the children share the pages."""
    import boto3
    import pg8000.native

    import lambda_migrate.aws.telemetry
    import lambda_migrate.engine.operations
    import lambda_migrate.postgresql.driver
    import lambda_migrate.postgresql.non_transactional
    import lambda_migrate.wiring
    import load.chaos.life

    loaded = (pg8000.native, lambda_migrate, load.chaos.life)
    assert all(loaded)  # noqa: S101 - they are imported to be there, not to be used
    # Reading DynamoDB's service description is most of what a first client costs.
    boto3.client(
        "dynamodb",
        region_name="us-east-1",
        aws_access_key_id="warm",
        aws_secret_access_key="warm",  # noqa: S106 - never sent
    ).close()


class _Parent:
    """Forks, signals and buries."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._pids: dict[str, int] = {}
        self._buffer = b""
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        signal.set_wakeup_fd(self._wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Until the standard input ends."""
        _emit({"event": "ready", "name": ""})
        selector = selectors.DefaultSelector()
        selector.register(0, selectors.EVENT_READ)
        selector.register(self._wake_read, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                self._bury()
            if 0 in ready and not self._obey():
                break
        for pid in self._names:
            os.kill(pid, signal.SIGKILL)

    def _obey(self) -> bool:
        data = os.read(0, 1 << 16)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["do"] == "start":
                self._start(message["order"])
            elif message["name"] in self._pids:
                os.kill(self._pids[message["name"]], message["number"])
        return bool(data)

    def _start(self, order: dict[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            self._become(order)
        self._names[pid] = order["name"]
        self._pids[order["name"]] = pid
        _emit({"event": "started", "name": order["name"], "pid": pid})

    def _become(self, order: dict[str, Any]) -> None:
        """The child: its own log, no way back into the parent's loop."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._wake_read)
            os.close(self._wake_write)
            story = os.dup(1)
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            from load.chaos.life import live

            live(order, lambda event: _emit({"name": order["name"], **event}, to=story))
            code = 0
        except BaseException:  # noqa: BLE001 - it is printed to the child's log, then all is over
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _bury(self) -> None:
        while self._names:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            name = self._names.pop(pid)
            del self._pids[name]
            code = os.waitstatus_to_exitcode(status)
            _emit({"event": "ended", "name": name, "code": code})


def _emit(event: dict[str, Any], *, to: int = 1) -> None:
    line = json.dumps({"at": time.monotonic(), "wall": time.time(), **event}).encode()
    if len(line) > MESSAGE_BYTES:
        raise ValueError(f"an event of {len(line)} bytes would not stay whole in the pipe")
    os.write(to, line + b"\n")


if __name__ == "__main__":
    _warm()
    _Parent().serve()
