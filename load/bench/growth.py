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
SEEN = 1.0
"""Bytes a call. Below it is what the interpreter itself does to its free lists and tables."""

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
            calls = str(round(_WHAT[what][1] * share))
            command = (*_python(how), "-m", "load.bench.within.growth", what, how, calls)
            program = stage.program(OURS, project, database, command=command)
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
            "The slope of the least-squares line through 21 samples in one process, after 2,000 "
            f"calls to warm up; {processes} processes of each kind; the interval is Student's, of "
            f"their mean. Growth is seen where all of it lies above {SEEN:g} byte a call: the "
            "smallest object that could be left behind has 16.",
        ],
        data={f"{what} {how}": values for (what, how), values in slopes.items()},
    )


def _python(how: str) -> tuple[str, ...]:
    return (sys.executable, *(("-X", "tracemalloc=1") if how == "traced" else ()))


def _check(what: str, intervals: list[Interval], share: float) -> Check:
    name, calls = _WHAT[what]
    return Check(
        f"growth seen over {round(calls * share):,} {name} (kinds of memory, of {len(intervals)})",
        bar=0,
        value=sum(one.low > SEEN for one in intervals),
    )


def _shown(bytes_: float) -> str:
    return f"{bytes_:.2f}"
