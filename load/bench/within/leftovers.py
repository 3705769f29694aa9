"""What is open after a check: ``python -m load.bench.within.leftovers runner|decorator``."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from lambda_migrate import migrate_on_cold_start
from lambda_migrate.clock import Deadline
from lambda_migrate.runner import MigrationRunner
from load.bench.within.answer import tell
from load.bench.within.context import Context

__all__ = ["main"]


def main(how: str) -> None:
    """Check once, then tell the outcome, and sockets and threads that are left."""
    if "BENCH_READY" in os.environ:  # with others, at the same moment
        with Path(os.environ["BENCH_READY"]).open("a") as ready:
            ready.write(".")
        sys.stdin.read()
    outcome = _by_decorator() if how == "decorator" else _by_runner()
    tell(
        {
            "outcome": outcome,
            "sockets": _sockets(),
            "threads": len(os.listdir("/proc/self/task")) - 1,  # noqa: PTH208 - no Path is needed
            "names": [one.name for one in threading.enumerate()],
        }
    )


def _by_runner() -> str:
    runner = MigrationRunner.from_settings()
    return runner.ensure(Deadline.from_context(Context(), runner.target.clock)).value


def _by_decorator() -> str:
    """The decorator tells nobody its outcome; the caller knows who migrated."""

    def handler(_event: Any, _context: Any) -> str:
        return ""

    return migrate_on_cold_start(handler)({}, Context())


def _sockets() -> int:
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            count += entry.readlink().parts[0].startswith("socket:")
    return count


if __name__ == "__main__":
    main(sys.argv[1])
