"""A warm invocation through the decorator, against one that only passes the call on."""

from __future__ import annotations

import functools
import sys
import timeit
from typing import Any

from load.bench.migrations import small_migrations
from load.bench.output import print_figures, read_figures
from load.bench.processes import run
from load.bench.results import Limit, Section, Table, format_spread, percentile, ratios
from load.bench.tools import LAMBDA_MIGRATE
from load.bench.workspace import Workspace

__all__ = ["measure", "time_calls"]

_CALLS = 5_000
_ROUNDS = 200
_PROGRAM = "import app; from load.bench.warm_invocations import time_calls; time_calls(app)"


def measure(workspace: Workspace, *, processes: int) -> Section:
    """Pairs of short repetitions in several processes."""
    project = workspace.project(LAMBDA_MIGRATE, small_migrations(50))
    command = (sys.executable, "-c", _PROGRAM)
    with workspace.new_database() as database:
        program = workspace.program(LAMBDA_MIGRATE, project, database, command)
        runs = [read_figures(run(program).output) for _ in range(processes)]
    factors = [percentile(ratios(one["decorated"], one["passed on"]), 50) for one in runs]
    nanoseconds = {name: [value for one in runs for value in one[name]] for name in runs[0]}
    what = "a call through the decorator / through one that only calls it"
    rows = [(name, format_spread(values)) for name, values in nanoseconds.items()]
    return Section(
        [Limit(what, 2, factors)],
        [Table(("a call", "ns"), rows)],
        data={"nanoseconds": nanoseconds},
    )


def time_calls(app: Any) -> None:
    """Print the nanoseconds of a call: bare, passed on, and through the decorator."""
    app.handler({}, app.Context())  # the check; warm from now on
    bare = app.handler.__wrapped__

    @functools.wraps(bare)
    def pass_on(event: Any, context: Any) -> Any:
        return bare(event, context)

    @functools.wraps(bare)
    def pass_on_any(*args: Any, **kwargs: Any) -> Any:
        return bare(*args, **kwargs)

    calls = {
        "bare": bare,
        "passed on": pass_on,
        "passed on, with any arguments": pass_on_any,
        "decorated": app.handler,
    }
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            names = {"call": call, "event": {}}
            seconds = timeit.timeit("call(event, None)", globals=names, number=_CALLS)
            measured[name].append(seconds / _CALLS * 1e9)
    print_figures(measured)
