"""Whether memory grows with the calls: it must not."""

from __future__ import annotations

import sys

from load.bench.figures import Interval, mean_interval, slope
from load.bench.findings import Check, Section, Table
from load.bench.migrations import simple
from load.bench.peers import OURS
from load.bench.processes import run
from load.bench.stage import Stage
from load.bench.within.answer import find

__all__ = ["measure"]

_WHAT = {
    "warm": ("warm invocations", 10_000),
    "decorator": ("cold checks, each through a new decorator", 1_000),
    "runner": ("cold checks, each through a new MigrationRunner", 1_000),
}
_HOW = {"resident": "resident memory", "traced": "what Python has allocated"}


def measure(stage: Stage, *, processes: int, share: float = 1.0) -> Section:
    """Slopes of several processes, and where their mean lies.

    Args:
        stage: The engines.
        processes: Of each kind.
        share: Of the calls that each is to make, for a first look.
    """
    project, database = stage.project(OURS, "five-simple", simple(5)), stage.new_database()
    stage.bring_up(OURS, project, database)
    slopes = {(what, how): [0.0] * 0 for what in _WHAT for how in _HOW}
    for _ in range(processes):
        for (what, how), values in slopes.items():
            module = (
                "-m",
                "load.bench.within.growth",
                what,
                how,
                str(round(_WHAT[what][1] * share)),
            )
            program = stage.program(OURS, project, database, command=(sys.executable, *module))
            told = find(run(program).output)
            values.append(slope(told["counts"], told["sizes"]))
    found = {key: mean_interval(values) for key, values in slopes.items()}
    return Section(
        key="memory",
        title="Memory over many calls",
        checks=[
            _check(what, [one for (key, _), one in found.items() if key == what], share)
            for what in _WHAT
        ],
        tables=[
            Table(
                ("", "of", "bytes a call", "95 % interval"),
                [
                    (
                        _WHAT[what][0],
                        _HOW[how],
                        _shown(one.mean),
                        f"{_shown(one.low)} to {_shown(one.high)}",
                    )
                    for (what, how), one in found.items()
                ],
            )
        ],
        notes=[
            "The slope of the least-squares line through 21 samples in one process, after a "
            f"warm-up of a fifth of the calls; {processes} processes of each kind; the interval is "
            "Student's, of their mean. Growth is seen where all of an interval lies above 0.",
        ],
        data={f"{what} {how}": values for (what, how), values in slopes.items()},
    )


def _check(what: str, intervals: list[Interval], share: float) -> Check:
    name, calls = _WHAT[what]
    return Check(
        f"growth seen over {round(calls * share):,} {name} (kinds of memory, of {len(intervals)})",
        bar=0,
        value=sum(one.shows_growth for one in intervals),
    )


def _shown(bytes_: float) -> str:
    return f"{bytes_:.2f}"
