"""How large a process is after so many calls: ``python -m load.bench.within.growth what how``.

What Python has allocated is traced from its start (``-X tracemalloc``): else everything that was
made before and is made anew later would look like growth.
"""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lambda_migrate import migrate_on_cold_start
from lambda_migrate.clock import Deadline
from lambda_migrate.runner import MigrationRunner
from load.bench.within.answer import tell
from load.bench.within.context import Context

__all__ = ["main"]

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SAMPLES = 20
_WARM_UP = 2_000
"""Calls. The interpreter's tables and free lists go on growing for the first thousand or so."""


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
    _repeat(call, _WARM_UP)
    # Made before anything is measured: a list that grows with the samples would be in them.
    sizes = array("q", [0] * (_SAMPLES + 1))
    sizes[0] = _settled(size)
    for sample in range(1, _SAMPLES + 1):
        _repeat(call, calls // _SAMPLES)
        sizes[sample] = _settled(size)
    counts = [calls // _SAMPLES * sample for sample in range(_SAMPLES + 1)]
    tell({"counts": counts, "sizes": list(sizes)})


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
    if not tracemalloc.is_tracing():
        raise RuntimeError("start it with -X tracemalloc: else this is always 0")
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
        runner = MigrationRunner.from_settings()
        runner.ensure(Deadline.from_context(Context(), runner.target.clock))

    return check


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
