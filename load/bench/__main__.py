"""``python -m load.bench``: measure and write the report.

Exit code 0: every bar is kept. 1: one is missed, or could not be measured. 2: wrong usage, or
something that it needs is missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.servers.dynamodb import install_dynalite
from load.bench import calls, fast_path, scripts, storms, takeovers, thousand, waiters, warm
from load.bench.machine import BUSY_SHARE, busy_share, describe_machine
from load.bench.peers import install_dbmate
from load.bench.processes import MeasurementFailed
from load.bench.report import Report, write_docs, write_report
from load.bench.results import Check, Section, Verdict, missed
from load.bench.workspace import Workspace

__all__ = ["main"]

Row = Callable[[Workspace, bool], Section]

ROOT = Path(__file__).parents[2]

ROWS: Mapping[str, Row] = {
    "storms": lambda at, quick: storms.measure(at, sizes={30: 1} if quick else {100: 3, 300: 1}),
    "waiters": lambda at, quick: waiters.measure(at, runs=1 if quick else 3),
    "takeovers": lambda at, quick: takeovers.measure(at, kills=20 if quick else 100),
    "calls": lambda _at, _quick: calls.measure(ROOT / "storm-report"),
    "fast-path": lambda at, quick: fast_path.measure_check(at, rounds=5 if quick else 20),
    "import": lambda at, quick: fast_path.measure_import(at, rounds=5 if quick else 20),
    "warm": lambda at, quick: warm.measure(at, processes=2 if quick else 5),
    "thousand": lambda at, quick: thousand.measure(
        at, count=200 if quick else 1000, rounds=1 if quick else 3
    ),
    "scripts": lambda at, quick: scripts.measure(at, rows=10**6 if quick else 10**7),
}
"""The rows of the table, each with the effort of a quick run and of a whole one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the rows that are asked for."""
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
    print(f"{options.report / 'benchmarks.md'}, {options.report / 'bench.json'}")
    if not options.quick and not options.only:
        write_docs(report, ROOT / "docs")
        print("docs/reference/benchmarks.md")
    return 1 if missed(report.sections) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m load.bench",
        description="Measure every promised ratio side by side. A whole run writes the docs page.",
    )
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        metavar="ROW,ROW",
        help=f"of {', '.join(ROWS)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer and smaller runs, for a first look"
    )
    parser.add_argument("--report", type=Path, default=ROOT / "bench-report", metavar="DIRECTORY")
    return parser


def _measure(names: Sequence[str], *, quick: bool) -> Report:
    busy = busy_share()
    began = time.monotonic()
    sections = []
    install_dbmate()
    install_dynalite(report=lambda _: None)
    with Workspace() as workspace:
        machine = describe_machine(workspace.server.version)
        for name in names:
            print(f"{name} ...", flush=True)
            sections.append(_measure_row(name, workspace, quick=quick))
            _print_section(sections[-1])
    return Report(
        sections=sections,
        machine=machine,
        command=_command(names, quick=quick),
        seconds=time.monotonic() - began,
        provisional=_doubts(busy, quick=quick),
    )


def _measure_row(name: str, workspace: Workspace, *, quick: bool) -> Section:
    """One row; where a measured process fails, the other rows are measured all the same."""
    try:
        return ROWS[name](workspace, quick)
    except MeasurementFailed as failed:
        print(failed, file=sys.stderr)
        first = str(failed).partition("\n")[0]
        return Section(name, name, [Check(name, limit=0, value=None, note=first)])


def _print_section(section: Section) -> None:
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
    if busy > BUSY_SHARE:
        doubts.append(f"the machine was {busy:.0%} busy with other work when it began")
    if quick:
        doubts.append("fewer and smaller runs (--quick)")
    return "; ".join(doubts)


if __name__ == "__main__":
    sys.exit(main())
