"""A warm invocation through the decorator, and through one that only passes the call on."""

from __future__ import annotations

import functools
import timeit
from collections.abc import Callable
from typing import Any

from lambda_migrate import migrate_on_cold_start
from load.bench.within.answer import tell
from load.bench.within.context import Context

__all__ = ["main"]

_CALLS = 5_000
_PAIRS = 200


def main() -> None:
    """Nanoseconds of a call: bare, passed on, decorated; one of each in every round."""
    decorated = migrate_on_cold_start(_handler)
    decorated({}, Context())  # the check; from now on the gate is open
    calls = {
        "bare": _handler,
        "passed on": _passed_on(_handler),
        "passed on, whatever its arguments": _passed_on_any(_handler),
        "decorated": decorated,
    }
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_PAIRS):
        for name, call in calls.items():
            seconds = timeit.timeit(
                "call(event, None)", globals={"call": call, "event": {}}, number=_CALLS
            )
            measured[name].append(seconds / _CALLS * 1e9)
    tell(measured)


def _handler(event: Any, _context: Any) -> Any:
    return event


def _passed_on(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The least that a decorator of handlers can be."""

    @functools.wraps(function)
    def passing(event: Any, context: Any) -> Any:
        return function(event, context)

    return passing


def _passed_on_any(function: Callable[..., Any]) -> Callable[..., Any]:
    """The usual way to write one."""

    @functools.wraps(function)
    def passing(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return passing


if __name__ == "__main__":
    main()
