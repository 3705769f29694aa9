"""A warm invocation through the decorator, against one that only passes the call on."""

from __future__ import annotations

import sys

from load.bench.figures import spread
from load.bench.findings import Check, Section, Table
from load.bench.migrations import simple
from load.bench.peers import OURS
from load.bench.processes import run
from load.bench.stage import Stage
from load.bench.within.answer import find

__all__ = ["measure"]


def measure(stage: Stage, *, processes: int) -> Section:
    """Pairs of short repetitions in several processes."""
    project, database = stage.project(OURS, "fifty", simple(50)), stage.new_database()
    stage.bring_up(OURS, project, database)
    command = (sys.executable, "-m", "load.bench.within.warm")
    measured: dict[str, list[float]] = {}
    for _ in range(processes):
        program = stage.program(OURS, project, database, command=command)
        for name, values in find(run(program).output).items():
            measured.setdefault(name, []).extend(values)
    pairs = zip(measured["decorated"], measured["passed on"], strict=True)
    found = spread([one / other for one, other in pairs])
    return Section(
        key="warm",
        title="A warm invocation",
        checks=[
            Check(
                "a call through the decorator / through one that only passes it on",
                bar=2,
                value=found.median,
                range=(found.low, found.high),
            )
        ],
        tables=[
            Table(
                ("a call", "ns"),
                [
                    (name, f"{spread(values).median:.0f} (from {min(values):.0f})")
                    for name, values in measured.items()
                ],
                caption=f"{processes} processes, {found.runs} rounds of 5,000 calls of each.",
            )
        ],
        data={"nanoseconds": measured},
    )
