"""The overhead of ``@migrate_on_cold_start`` in a warm invocation, measured in a new process.

``python -m lambda_migrate.local.demo.warm_overhead <directory of migrations>`` prints it as JSON.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lambda_migrate.decorator import migrate_on_cold_start

__all__ = ["measure_in_new_process"]

_CALLS = 10_000
_REPEATS = 100

Handler = Callable[[Any, Any], Any]


def measure_in_new_process(migrations: Path) -> dict[str, float]:
    """Microseconds of a warm call: ``bare``, ``passed_through`` and ``decorated``.

    Args:
        migrations: The directory of migration files.
    """
    command = [sys.executable, "-m", "lambda_migrate.local.demo.warm_overhead", str(migrations)]
    done = subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - this module
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def measure(migrations: Path) -> dict[str, float]:
    """Measure in this process."""

    def handler(event: Any, context: Any) -> Any:
        del context
        return event

    decorated = migrate_on_cold_start(
        mode="off",  # needs no database; a warm call is the same in every mode
        table="unused",
        database_url="postgresql://unused@localhost/unused",
        directory=str(migrations),
    )(handler)
    decorated(None, None)
    return _microseconds(
        {"bare": handler, "passed_through": _decorate_empty(handler), "decorated": decorated}
    )


def _decorate_empty(function: Handler) -> Handler:
    """An empty decorator, for comparison."""

    @functools.wraps(function)
    def passing(event: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
        return function(event, context, *args, **kwargs)

    return passing


def _microseconds(functions: dict[str, Handler]) -> dict[str, float]:
    """The fastest of many short repetitions, as other processes only slow them down."""
    fastest = dict.fromkeys(functions, float("inf"))
    for _ in range(_REPEATS):
        for name, function in functions.items():
            seconds = timeit.timeit("call(None, None)", globals={"call": function}, number=_CALLS)
            fastest[name] = min(fastest[name], seconds / _CALLS * 1e6)
    return fastest


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(Path(sys.argv[1]))))
