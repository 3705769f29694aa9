"""``python -m load.bench``: measure and report; a whole run writes docs/reference/benchmarks.md.

Exit code 0: every limit is kept. 1: one is missed, or could not be measured. 2: wrong usage, or
something that it needs is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.servers.dynamodb import install_dynalite
from load.bench import calls, fast_path, many_migrations, storms, takeovers
from load.bench.processes import MeasurementFailed
from load.bench.report import describe_other_work, describe_setup, write_page
from load.bench.results import Limit, Section, find_missed_limits, markdown_table
from load.bench.tools import install_dbmate
from load.bench.workspace import Workspace

ROOT = Path(__file__).parents[2]

BENCHMARKS: Mapping[str, Callable[[Workspace, bool], Section]] = {
    "storms": lambda at, quick: storms.measure(at, sizes={30: 1} if quick else {100: 3, 300: 1}),
    "takeovers": lambda at, quick: takeovers.measure(at, kills=10 if quick else 100),
    "calls": lambda _at, _quick: calls.read_waiter_calls(ROOT / "storm-report"),
    "fast-path": lambda at, quick: fast_path.measure(at, rounds=5 if quick else 20),
    "warm": lambda at, quick: calls.measure_warm_calls(at, processes=2 if quick else 5),
    "thousand": lambda at, quick: many_migrations.measure(
        at, count=200 if quick else 1000, rounds=1 if quick else 3
    ),
}
"""The rows of the table, each with the effort of a quick run and of a whole one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the rows that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m load.bench", description=__doc__)
    names = ", ".join(BENCHMARKS)
    parser.add_argument("--only", default="", metavar="ROW,ROW", help=f"of {names}")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller runs")
    options = parser.parse_args(arguments)
    only = options.only.split(",") if options.only else list(BENCHMARKS)
    unknown = [name for name in only if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {names}")
    other_work = describe_other_work()
    try:
        install_dbmate()
        install_dynalite(report=lambda _: None)
        with Workspace.open() as workspace:
            sections = _measure(workspace, only, quick=options.quick)
            setup = describe_setup(workspace.server.version)
    except ConfigurationError as error:
        parser.exit(2, f"{error}\n")
    if not options.quick and not options.only:
        write_page(sections, ROOT / "docs", setup=setup, other_work=other_work)
    return 1 if find_missed_limits(sections.values()) else 0


def _measure(workspace: Workspace, names: Sequence[str], *, quick: bool) -> dict[str, Section]:
    """Measure; where a measured process fails, the other rows are measured anyway."""
    sections: dict[str, Section] = {}
    for name in names:
        print(f"{name} ...", flush=True)
        try:
            sections[name] = BENCHMARKS[name](workspace, quick)
        except MeasurementFailed as error:
            print(error, file=sys.stderr)
            sections[name] = Section([Limit(name, 0, [], note=str(error).splitlines()[0])])
        _print_section(sections[name])
    return sections


def _print_section(section: Section) -> None:
    for limit in section.limits:
        print(f"  {limit.outcome:12} {limit.measured} of {limit.allowed}: {limit.metric}")
        if limit.note:
            print(f"  {'':12} {limit.note}")
    for table in section.tables:
        print(markdown_table(table), flush=True)


if __name__ == "__main__":
    sys.exit(main())
