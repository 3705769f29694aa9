"""``python -m load.bench``: measure, write the report, and say by the exit code what was missed.

0: every bar is kept. 1: one is missed, or could not be measured. 2: wrong usage, missing parts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.servers.dynamodb import install_dynalite
from load.bench import (
    calls,
    fast_path,
    growth,
    leftovers,
    scripts,
    storms,
    takeovers,
    thousand,
    waiters,
    warm,
)
from load.bench.engines import install_dbmate
from load.bench.findings import Check, Section, Verdict, missed
from load.bench.machine import BUSY, busy_share, describe
from load.bench.processes import MeasurementFailed
from load.bench.report import Report, write_docs, write_report
from load.bench.stage import Stage

__all__ = ["main"]

Row = Callable[[Stage, bool], Section]

ROOT = Path(__file__).parents[2]

ROWS: Mapping[str, Row] = {
    "storms": lambda stage, quick: storms.measure(
        stage, sizes={30: 1} if quick else {100: 3, 300: 1}
    ),
    "waiters": lambda stage, quick: waiters.measure(stage, runs=1 if quick else 3),
    "takeovers": lambda stage, quick: takeovers.measure(stage, kills=20 if quick else 100),
    "calls": lambda _stage, _quick: calls.measure(ROOT / "storm-report"),
    "fast-path": lambda stage, quick: fast_path.measure_check(stage, rounds=5 if quick else 20),
    "import": lambda stage, quick: fast_path.measure_import(stage, rounds=5 if quick else 20),
    "warm": lambda stage, quick: warm.measure(stage, processes=2 if quick else 5),
    "thousand": lambda stage, quick: thousand.measure(
        stage, count=200 if quick else 1000, rounds=1 if quick else 3
    ),
    "memory": lambda stage, quick: growth.measure(
        stage, processes=3 if quick else 5, share=0.5 if quick else 1.0
    ),
    "scripts": lambda stage, quick: scripts.measure(stage, rows=10**6 if quick else 10**7),
    "leftovers": lambda stage, _quick: leftovers.measure(stage),
}
"""The rows of the table, each with the effort of a quick run and of a whole one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for."""
    parser = _parser()
    options = parser.parse_args(arguments)
    unknown = [name for name in options.only if name not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    try:
        report = _measure(options.only or list(ROWS), quick=options.quick)
    except ConfigurationError as fault:
        parser.exit(2, f"{fault}\n")
    write_report(report, options.report)
    print(f"{options.report / 'index.html'}, {options.report / 'bench.json'}")
    if not options.quick and not options.only:
        write_docs(report, ROOT / "docs")
        print("docs/reference/benchmarks.md")
    return 1 if missed(report.sections) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m load.bench",
        description="Measure every promised ratio side by side. A whole run writes the docs, too.",
    )
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        metavar="ROW,ROW",
        help=f"of {', '.join(ROWS)}",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller runs: a first look")
    parser.add_argument("--report", type=Path, default=ROOT / "bench-report", metavar="DIRECTORY")
    return parser


def _measure(names: Sequence[str], *, quick: bool) -> Report:
    busy = busy_share()
    began = time.monotonic()
    sections = []
    install_dbmate()
    install_dynalite(report=lambda _: None)
    with Stage() as stage:
        machine = describe(stage.server.version)
        for name in names:
            print(f"{name} ...", flush=True)
            section = _row(name, stage, quick=quick)
            _tell(section)
            sections.append(section)
    return Report(
        sections=sections,
        machine=machine,
        command=_command(names, quick=quick),
        seconds=time.monotonic() - began,
        provisional=_doubts(busy, quick=quick),
    )


def _row(name: str, stage: Stage, *, quick: bool) -> Section:
    """One row; where a measured process fails, the others are measured all the same."""
    try:
        return ROWS[name](stage, quick)
    except MeasurementFailed as failed:
        print(failed, file=sys.stderr)
        first = str(failed).partition("\n")[0]
        return Section(name, name, [Check(name, bar=0, value=None, note=first)])


def _tell(section: Section) -> None:
    for check in section.checks:
        mark = "" if check.verdict is Verdict.PASS else "  <<<"
        print(
            f"  {check.verdict.value:12} {check.measured:28} at most {check.allowed:8} "
            f"{check.what}{mark}",
            flush=True,
        )
    for table in section.tables:
        for row in (table.header, *table.rows):
            print("  " + " | ".join(row), flush=True)


def _command(names: Sequence[str], *, quick: bool) -> str:
    rows = "" if list(names) == list(ROWS) else f" --only {','.join(names)}"
    if not rows and not quick:
        return "make bench"
    return f"python -m load.bench{rows}{' --quick' if quick else ''}"


def _doubts(busy: float, *, quick: bool) -> str:
    doubts = []
    if busy > BUSY:
        doubts.append(f"the machine was {busy:.0%} busy with other things when it began")
    if quick:
        doubts.append("fewer and smaller runs (--quick)")
    return "; ".join(doubts)


if __name__ == "__main__":
    sys.exit(main())
