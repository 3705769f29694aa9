"""A function that does what its event says."""

import os
import signal
import threading
import time
from typing import Any

CALLS = {"count": 0, "ticks": 0}


def _tick() -> None:
    while True:
        time.sleep(0.005)
        CALLS["ticks"] += 1


threading.Thread(target=_tick, daemon=True).start()


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
    return {"pid": os.getpid(), "left": context.get_remaining_time_in_millis(), **CALLS}
