"""What a call costs: a warm invocation, and a waiting environment's calls to DynamoDB."""

from __future__ import annotations

import functools
import json
import sys
import timeit
from pathlib import Path
from typing import Any

from load.bench.processes import print_figures, read_figures, run
from load.bench.results import Limit, Section, Table, compute_ratios, format_spread, percentile
from load.bench.tools import LAMBDA_MIGRATE, make_small_migrations
from load.bench.workspace import Workspace

_CALLS_PER_ROUND = 5_000
_ROUNDS = 200
_TIMING_CODE = "import app; from load.bench.calls import time_calls; time_calls(app)"


def measure_warm_calls(workspace: Workspace, *, processes: int) -> Section:
    """A call through the decorator beside one that is only passed on, in several processes."""
    project = workspace.make_project(LAMBDA_MIGRATE, make_small_migrations(50))
    command = (sys.executable, "-c", _TIMING_CODE)
    with workspace.create_database() as database:
        program = workspace.make_program(LAMBDA_MIGRATE, project, database, command)
        runs = [read_figures(run(program).output) for _ in range(processes)]
    factors = [percentile(compute_ratios(one["decorated"], one["passed on"]), 50) for one in runs]
    nanoseconds = {name: [value for one in runs for value in one[name]] for name in runs[0]}
    what = "a call through the decorator / through one that only calls it"
    rows = [(name, format_spread(values)) for name, values in nanoseconds.items()]
    return Section([Limit(what, 2, factors)], [Table(("a call", "ns"), rows)])


def time_calls(app: Any) -> None:
    """Print the nanoseconds of a call: bare, passed on, and through the decorator."""
    app.handler({}, app.Context())  # the check; warm from now on
    bare = app.handler.__wrapped__

    @functools.wraps(bare)
    def pass_on(event: Any, context: Any) -> Any:
        return bare(event, context)

    calls = {"bare": bare, "passed on": pass_on, "decorated": app.handler}
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            names = {"call": call, "event": {}}
            seconds = timeit.timeit("call(event, None)", globals=names, number=_CALLS_PER_ROUND)
            measured[name].append(seconds / _CALLS_PER_ROUND * 1e9)
    print_figures(measured)


def read_waiter_calls(reports: Path) -> Section:
    """Read what `make storm` reported of 1,000 environments; nothing runs here."""
    what = "median DynamoDB calls of a waiting environment (1,000 concurrent starts)"
    medians, notes = [], []
    for path in sorted(reports.rglob("together-1000*/report.json")):
        report = json.loads(path.read_text())
        if not (calls := report.get("dynamodb_calls_of_each_waiter")):
            continue
        medians.append(calls["median"])
        failed = "" if report["passed"] else ", and the storm failed in other respects"
        notes.append(
            f"storm {len(medians)}: {calls['count']:,} waited, "
            f"median {calls['median']:g} calls, at most {calls['worst']:g}{failed}"
        )
    if not notes:
        notes = ["there is no report of 1,000 environments: run `make storm` first"]
    return Section([Limit(what, 8, medians, note="; ".join(notes))])
