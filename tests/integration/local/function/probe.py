"""A function that does what its event says."""

import contextlib
import os
import random
import signal
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

CALLS = {"count": 0, "ticks": 0}


def _tick() -> None:
    while True:
        time.sleep(0.005)
        CALLS["ticks"] += 1


threading.Thread(target=_tick, daemon=True).start()


def _identity() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "group": os.getpgid(0),
        "directory": str(Path.cwd()),
        "chance": random.random(),
        "uuid": uuid.uuid4().hex,
        "first_path": sys.path[0],
        "files": _files(),
        "variables": dict(os.environ),
        "arguments": sys.argv[1:],
        "loaded": sorted(sys.modules),
        "nice": os.nice(0),
    }


def _files() -> list[str]:
    """What is open, but for the directory that tells it."""
    found = []
    for path in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):
            found.append(str(path.readlink()))
    return found


def handler(event: dict[str, Any] | None, context: Any) -> Any:
    event = event or {}
    CALLS["count"] += 1
    print("handling", event)  # noqa: T201 - the log is what the test reads
    if "sleep" in event:
        time.sleep(event["sleep"])
    if "raise" in event:
        raise ValueError(event["raise"])
    if "exit" in event:
        os._exit(event["exit"])
    if "kill" in event:
        os.kill(os.getpid(), signal.SIGKILL)
    if "variable" in event:
        return os.environ.get(event["variable"])
    if "identity" in event:
        return _identity()
    return {"pid": os.getpid(), "left": context.get_remaining_time_in_millis(), **CALLS}
