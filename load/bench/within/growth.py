"""How large a process is after so many calls: ``python -m load.bench.within.growth what how``."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lambda_migrate import migrate_on_cold_start
from lambda_migrate.deadline import Deadline
from lambda_migrate.wiring import make_runner
from load.bench.within.answer import tell
from load.bench.within.context import Context

__all__ = ["main"]

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SAMPLES = 20
_WARM_UP = 0.2  # of the calls, before the first sample


def main(what: str, how: str, calls: int) -> None:
    """Tell counts and sizes in bytes.

    Args:
        what: ``warm`` invocations, cold checks through a new ``decorator`` each, or through a new
            ``runner`` each.
        how: ``resident``: the kernel's figure; ``traced``: what Python has allocated.
        calls: How many, after the warm-up.
    """
    size = {"resident": _resident, "traced": _traced}[how]
    call = {"warm": _warm, "decorator": _decorator, "runner": _runner}[what]()
    _repeat(call, round(calls * _WARM_UP))
    if how == "traced":
        tracemalloc.start()
        _repeat(call, round(calls * _WARM_UP))
    counts, sizes = [0], [_settled(size)]
    for _ in range(_SAMPLES):
        _repeat(call, calls // _SAMPLES)
        counts.append(counts[-1] + calls // _SAMPLES)
        sizes.append(_settled(size))
    tell({"counts": counts, "sizes": sizes})


def _repeat(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()


def _settled(size: Callable[[], int]) -> int:
    """Without what is garbage already: when it is collected is chance."""
    gc.collect()
    return size()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _traced() -> int:
    return tracemalloc.get_traced_memory()[0]


def _handler(event: Any, _context: Any) -> Any:
    return event


def _warm() -> Callable[[], object]:
    decorated = migrate_on_cold_start(_handler)
    return lambda: decorated({}, Context())


def _decorator() -> Callable[[], object]:
    return lambda: migrate_on_cold_start(_handler)({}, Context())


def _runner() -> Callable[[], object]:
    def check() -> None:
        runner = make_runner()
        runner.ensure(Deadline.of_invocation(Context(), runner.target.clock))

    return check


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
