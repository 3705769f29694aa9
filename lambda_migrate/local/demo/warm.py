"""What ``@migrate_on_cold_start`` adds to a warm invocation, measured in a process of its own.

``python -m lambda_migrate.local.demo.warm <directory of migrations>`` prints it as JSON.
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
        migrations: A directory of migration files.
    """
    command = [sys.executable, "-m", "lambda_migrate.local.demo.warm", str(migrations)]
    answer = subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - this module
    measured: dict[str, float] = json.loads(answer.stdout)
    return measured


def measure(migrations: Path) -> dict[str, float]:
    """The same in this process."""

    def handler(event: Any, context: Any) -> Any:
        del context
        return event

    decorated = migrate_on_cold_start(
        mode="off",  # opens the gate without a database; a warm call is the same in every mode
        table="unused",
        database_url="postgresql://nobody@localhost/unused",
        directory=str(migrations),
    )(handler)
    decorated(None, None)
    return _microseconds(
        {"bare": handler, "passed_through": _pass_through(handler), "decorated": decorated}
    )


def _pass_through(function: Handler) -> Handler:
    """What any decorator costs that does nothing at all."""

    @functools.wraps(function)
    def passing(event: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
        return function(event, context, *args, **kwargs)

    return passing


def _microseconds(functions: dict[str, Handler]) -> dict[str, float]:
    """The fastest of many short repetitions, by turns: other processes' work only slows down."""
    fastest = dict.fromkeys(functions, float("inf"))
    for _ in range(_REPEATS):
        for name, function in functions.items():
            seconds = timeit.timeit("call(None, None)", globals={"call": function}, number=_CALLS)
            fastest[name] = min(fastest[name], seconds / _CALLS * 1e6)
    return fastest


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(Path(sys.argv[1]))))
