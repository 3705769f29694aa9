"""A warm invocation through the decorator, against one that only passes the call on."""

from __future__ import annotations

import functools
import sys
import timeit
from collections.abc import Callable
from typing import Any

from load.bench.figures import format_number, ratios, spread
from load.bench.migrations import simple
from load.bench.output import print_figures, read_figures
from load.bench.peers import LAMBDA_MIGRATE
from load.bench.processes import run
from load.bench.results import Section, Table, check_spread
from load.bench.workspace import Workspace

__all__ = ["measure"]

_CALLS = 5_000
_ROUNDS = 200
_CODE = "import app; from load.bench.warm import time_calls; time_calls(app)"


def measure(workspace: Workspace, *, processes: int) -> Section:
    """Pairs of short repetitions in several processes."""
    project, database = (
        workspace.project(LAMBDA_MIGRATE, "fifty", simple(50)),
        workspace.new_database(),
    )
    workspace.migrate(LAMBDA_MIGRATE, project, database)
    program = workspace.program(
        LAMBDA_MIGRATE, project, database, command=(sys.executable, "-c", _CODE)
    )
    runs = [read_figures(run(program).output) for _ in range(processes)]
    found = [spread(ratios(one["decorated"], one["passed on"])).median for one in runs]
    nanoseconds = {name: [value for one in runs for value in one[name]] for name in runs[0]}
    return Section(
        key="warm",
        title="A warm invocation",
        checks=[
            check_spread("a call through the decorator / through one that only calls it", 2, found)
        ],
        tables=[
            Table(
                ("a call", "ns, median", "least"),
                [
                    (name, format_number(spread(values).median), format_number(min(values)))
                    for name, values in nanoseconds.items()
                ],
                caption=f"{_ROUNDS} rounds of {_CALLS:,} calls of each in turns; the ratio is the "
                f"median of all rounds in each of {processes} processes.",
            )
        ],
        data={"nanoseconds": nanoseconds},
    )


def time_calls(app: Any) -> None:
    """Print the nanoseconds of a call: bare, passed on, and through the decorator."""
    app.handler({}, app.Context())  # the check; warm from now on
    bare = app.handler.__wrapped__
    calls = {
        "bare": bare,
        "passed on": _passed_on(bare),
        "passed on, with any arguments": _passed_on_any(bare),
        "decorated": app.handler,
    }
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            names = {"call": call, "event": {}}
            seconds = timeit.timeit("call(event, None)", globals=names, number=_CALLS)
            measured[name].append(seconds / _CALLS * 1e9)
    print_figures(measured)


def _passed_on(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The least that a decorator of handlers can be."""

    @functools.wraps(function)
    def call(event: Any, context: Any) -> Any:
        return function(event, context)

    return call


def _passed_on_any(function: Callable[..., Any]) -> Callable[..., Any]:
    """The usual way to write one."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call
