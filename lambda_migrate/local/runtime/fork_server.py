"""The program behind `Zygote`: an interpreter that is warm already and becomes environments.

It has imported what every runtime imports, and what it was told to, but neither ``awslambdaric``
itself, which reads its variables and loads its native client when it is imported, nor a function.
Asked for an environment it forks: the child takes its own session, variables, log, directory and
import path, and then does what ``python -m awslambdaric`` does. From there on it is a process like
any other, with connections, memory and an end of its own.

Unlike fresh interpreters, forked ones share the seed of ``hash()``. `random` seeds itself anew.

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


class _Zygote:
    """Forks on demand, and says when a child has ended.

    Args:
        channel: To our parent; one message a packet.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ)
        self._watches: dict[int, int] = {}

    def serve(self) -> dict[str, Any] | None:
        """Do as told until the parent is gone: None; in a child, at once: its order."""
        while True:
            for key, _ in self._selector.select():
                if key.fd != self._channel.fileno():
                    self._report(key.data)
                    continue
                said = self._channel.recv(MESSAGE_BYTES)
                if not said:
                    return None
                order = json.loads(said)
                if "bury" in order:
                    self._bury(order["bury"])
                elif self._fork(order["fork"]):
                    return dict(order)

    def _fork(self, number: int) -> bool:
        """Whether we are the child."""
        at_ours, at_the_child = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(at_ours)
            os.close(at_the_child)
            self._say({"forked": number, "error": str(error)})
            return False
        if pid == 0:
            os.close(at_ours)
            self._let_go()
            os.setsid()
            os.write(at_the_child, b"1")
            os.close(at_the_child)
            return True
        os.close(at_the_child)
        os.read(at_ours, 1)  # from here on it leads a group that can be signalled
        os.close(at_ours)
        self._watches[pid] = os.pidfd_open(pid)
        self._selector.register(self._watches[pid], selectors.EVENT_READ, pid)
        self._say({"forked": number, "pid": pid})
        return False

    def _report(self, pid: int) -> None:
        """It stays a zombie until it is buried: its number cannot become somebody else's."""
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._selector.unregister(self._watches[pid])
        if ended is not None:
            status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            self._say({"ended": pid, "status": status})

    def _bury(self, pid: int) -> None:
        os.waitpid(pid, 0)
        os.close(self._watches.pop(pid))

    def _let_go(self) -> None:
        """In a child: of what belongs to the parent."""
        self._selector.close()
        self._channel.close()
        for watch in self._watches.values():
            os.close(watch)

    def _say(self, message: dict[str, Any]) -> None:
        self._channel.send(json.dumps(message).encode())


def _become(order: dict[str, Any]) -> None:
    """Be the environment that ``order`` describes, until it ends."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["variables"])
    time.tzset()
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [order["directory"], *filter(None, paths)]
    sys.argv = ["awslambdaric", order["handler"]]
    runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)


def _import(name: str) -> None:
    """A module by its name, or the one in a file."""
    if not name.endswith(".py"):
        importlib.import_module(name)
        return
    label = "preloaded_" + Path(name).stem
    spec = importlib.util.spec_from_file_location(label, name)
    if spec is None or spec.loader is None:
        sys.exit(f"{name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[label] = module
    spec.loader.exec_module(module)


def main() -> None:
    """Warm up, and serve the socket whose number is the first argument."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    for name in (*_RUNTIME, *sys.argv[2:]):
        _import(name)
    if threading.active_count() > 1:
        sys.exit("a module that was to be imported beforehand started a thread: forks have none")
    gc.collect()
    gc.freeze()  # or else the first collection of each child would write to all that they share
    channel.send(b'{"ready": true}')
    order = _Zygote(channel).serve()
    if order is not None:
        _become(order)


if __name__ == "__main__":
    main()
