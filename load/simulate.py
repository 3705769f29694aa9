"""Policies of waiting, compared by simulation: ``python -m load.simulate``.

Prints a table for each study, and draws the policies in ``simulate-report/waiting.svg``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from load import charts
from load.bench.results import Table, format_number, markdown_table
from load.simulation.lease_table import Scenario
from load.simulation.model import SimulationResult, simulate, summarize
from load.simulation.policies import LIBRARY, POLICIES, MakePolicy

DEFAULT_POLICY = "the library's"
MIGRATION_SECONDS = (0.1, 3.0, 60.0, 600.0)
STORM_SIZES = (100, 1_000, 10_000, 100_000)

MAX_STARTS = 1_000
"""Environments at most; each stands for as many as necessary, and the partition serves a share as
small. Tests show that this changes nothing for one of them."""

MAX_STARTS_LONG = 200  # the same for migrations of a minute, where each policy reads often


@dataclass(frozen=True, slots=True)
class Case:
    """One policy in one scenario."""

    name: str  # of the policy
    make_policy: MakePolicy
    scenario: Scenario
    parameter: float | None = None  # of the policy


Results = Sequence[tuple[Case, SimulationResult]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m load.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulation (1)")
    default = Path("simulate-report")
    parser.add_argument("--into", type=Path, default=default, help="report folder (%(default)s)")
    options = parser.parse_args(arguments)
    policies = _run_study("policies", _compare_policies(), options.seed)
    _run_study("sizes and lengths", _vary_sizes(), options.seed)
    options.into.mkdir(parents=True, exist_ok=True)
    _draw_policies(policies, options.into / "waiting.svg")
    print(f"\n{options.into / 'waiting.svg'}")
    return 0


# -- studies --------------------------------------------------------------------------------------


def _compare_policies() -> Iterator[Case]:
    """Every policy over its parameter, for 1,000 starts and each length of migration."""
    for seconds in MIGRATION_SECONDS:
        max_starts = MAX_STARTS if seconds < 10 else MAX_STARTS_LONG
        scenario = _limit_starts(Scenario(migration_seconds=seconds), max_starts)
        yield Case(DEFAULT_POLICY, LIBRARY, scenario)
        for name, policies in POLICIES.items():
            for parameter, make_policy in policies:
                yield Case(name, make_policy, scenario, parameter)


def _vary_sizes() -> Iterator[Case]:
    """The library's policy for every size, length and kind of arrival."""
    for is_ramp in (True, False):
        for seconds in MIGRATION_SECONDS:
            for size in STORM_SIZES:
                scenario = Scenario(size, seconds, is_ramp=is_ramp)
                yield Case(DEFAULT_POLICY, LIBRARY, _limit_starts(scenario, MAX_STARTS))


def _limit_starts(scenario: Scenario, max_starts: int) -> Scenario:
    return replace(scenario, environments_per_start=max(1, scenario.environments // max_starts))


# -- output ---------------------------------------------------------------------------------------


def _run_study(name: str, cases: Iterable[Case], seed: int) -> Results:
    print(f"\n{name} ...", flush=True)
    results = [
        (case, summarize([simulate(case.scenario, case.make_policy, seed=seed)])) for case in cases
    ]
    columns = [field.name.replace("_", " ") for field in fields(SimulationResult)]
    rows = [
        (
            case.name,
            "" if case.parameter is None else f"{case.parameter:g}",
            f"{case.scenario.environments:,}",
            "ramp" if case.scenario.is_ramp else "simultaneously",
            f"{case.scenario.migration_seconds:g}",
            *map(format_number, asdict(result).values()),
        )
        for case, result in results
    ]
    header = ("policy", "of", "starts", "arrive", "migration", *columns)
    print(markdown_table(Table(header, rows)), flush=True)
    return results


def _draw_policies(results: Results, path: Path) -> None:
    """Delay after the last commit against calls of each waiter, for each length of migration."""
    colours = ("#7a8594", charts.ORANGE, charts.BLUE, charts.GREEN)
    colour_of = dict(zip(POLICIES, colours, strict=True))
    with charts.open_figure(path, 13.2, 4) as figure:
        panels = figure.subplots(1, len(MIGRATION_SECONDS))
        for panel, seconds in zip(panels, MIGRATION_SECONDS, strict=True):
            own = [each for each in results if each[0].scenario.migration_seconds == seconds]
            for name in (*POLICIES, DEFAULT_POLICY):
                shown = [result for case, result in own if case.name == name]
                calls = [one.calls_mean for one in shown]
                delays = [one.delay_median for one in shown]
                look = {"marker": "o", "ms": 3.2, "color": colour_of.get(name)}
                if name == DEFAULT_POLICY:
                    look = {"marker": "*", "ms": 14, "color": "#c2255c", "mec": "white"}
                panel.plot(calls, delays, lw=1.4, label=name, **look)
            panel.set(xscale="log", yscale="log", title=f"{seconds:g} s migration, 1,000 starts")
            panel.set_xlabel("DynamoDB calls per waiter, mean")
        panels[0].set_ylabel("median delay after the last commit, s")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)


if __name__ == "__main__":
    sys.exit(main())
