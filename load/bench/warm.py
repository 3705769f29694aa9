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
    ratios: list[float] = []
    for _ in range(processes):
        program = stage.program(OURS, project, database, command=command)
        told: dict[str, list[float]] = find(run(program).output)
        pairs = zip(told["decorated"], told["passed on"], strict=True)
        ratios.append(spread([one / other for one, other in pairs]).median)
        for name, values in told.items():
            measured.setdefault(name, []).extend(values)
    found = spread(ratios)
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
                caption="Medians, and the least, of rounds of 5,000 calls of each by turns; the "
                f"ratio is the median of all rounds in each of {processes} processes.",
            )
        ],
        data={"nanoseconds": measured},
    )
