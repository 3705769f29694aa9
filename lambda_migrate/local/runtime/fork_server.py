"""The program behind `ForkServer`: a warm interpreter that forks execution environments.

It has imported what every runtime imports and the modules that it was given, but neither
``awslambdaric`` itself, which reads its variables and loads its native client at import, nor a
function. For each request it forks: the child takes its own session, variables, log, directory and
import path, and then does what ``python -m awslambdaric`` does, or calls the function that the
request names. From there on it is a process like any other, with connections and memory of its own.

Unlike fresh interpreters, forked ones share the seed of ``hash()``. `random` seeds itself again.

It is run by its path and in isolation, so it imports the standard library only.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import runpy
import selectors
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

MESSAGE_BYTES = 1 << 18

_RUNTIME = ("concurrent.futures", "http.client", "logging", "simplejson", "traceback", "urllib")
"""What ``awslambdaric`` imports."""


class _Server:
    """Forks on request, and reports when a child has ended.

    Args:
        channel: To the parent process; one message a packet.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ)
        self._pidfds: dict[int, int] = {}

    def serve(self) -> dict[str, Any] | None:
        """Serve until the parent is gone, then None; in a child, its request immediately."""
        while True:
            for key, _ in self._selector.select():
                if key.fd != self._channel.fileno():
                    self._report_end(key.data)
                    continue
                message = self._channel.recv(MESSAGE_BYTES)
                if not message:
                    return None
                request = json.loads(message)
                if "reap" in request:
                    self._reap(request["reap"])
                elif self._fork(request["fork"]):
                    return dict(request)

    def _fork(self, number: int) -> bool:
        """Fork; True in the child."""
        read_end, write_end = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(read_end)
            os.close(write_end)
            self._send({"forked": number, "error": str(error)})
            return False
        if pid == 0:
            os.close(read_end)
            self._close_inherited()
            os.setsid()
            os.write(write_end, b"1")
            os.close(write_end)
            return True
        os.close(write_end)
        os.read(read_end, 1)  # from here on the child leads a group that can be signalled
        os.close(read_end)
        self._pidfds[pid] = os.pidfd_open(pid)
        self._selector.register(self._pidfds[pid], selectors.EVENT_READ, pid)
        self._send({"forked": number, "pid": pid})
        return False

    def _report_end(self, pid: int) -> None:
        """Report it; the child stays a zombie until it is reaped, so its pid is not reused."""
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._selector.unregister(self._pidfds[pid])
        if ended is not None:
            status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            self._send({"ended": pid, "status": status})

    def _reap(self, pid: int) -> None:
        os.waitpid(pid, 0)
        os.close(self._pidfds.pop(pid))

    def _close_inherited(self) -> None:
        self._selector.close()
        self._channel.close()
        for pidfd in self._pidfds.values():
            os.close(pidfd)

    def _send(self, message: dict[str, Any]) -> None:
        self._channel.send(json.dumps(message).encode())


def _run(request: dict[str, Any]) -> None:
    """Be the environment that ``request`` describes, until it ends."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["variables"])
    time.tzset()
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [request["directory"], *filter(None, paths)]
    if "function" in request:
        module, _, function = request["function"].partition(":")
        getattr(importlib.import_module(module), function)(request["argument"])
        return
    sys.argv = ["awslambdaric", request["handler"]]
    runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)


def _import(name: str) -> None:
    """Import a module by its name, or the one in a file."""
    if not name.endswith(".py"):
        importlib.import_module(name)
        return
    label = "preloaded_" + Path(name).stem
    spec = importlib.util.spec_from_file_location(label, name)
    if spec is None or spec.loader is None:
        sys.exit(f"{name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[label] = module
    spec.loader.exec_module(module)


def main() -> None:
    """Import the modules, and serve the socket whose number is the first argument."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    for name in (*_RUNTIME, *sys.argv[2:]):
        _import(name)
    if threading.active_count() > 1:
        sys.exit("a preloaded module started a thread: threads do not survive a fork")
    gc.collect()
    gc.freeze()  # or else the first collection of each child would write to all shared pages
    channel.send(b'{"ready": true}')
    request = _Server(channel).serve()
    if request is not None:
        _run(request)


if __name__ == "__main__":
    main()
