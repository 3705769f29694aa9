"""Policies of waiting, compared by simulation: ``python -m load.simulate``.

Prints tables, and writes ``simulation.json`` and the charts into ``simulate-report/``. With
``--against storm-report/*/report.json`` measured storms are simulated as well, and drawn beside
the prediction.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load.simulation import study
from load.simulation.figures import READ_DOLLARS, WRITE_DOLLARS
from load.simulation.measured import Comparison, Storm, compare, load_storm
from load.simulation.study import DEFAULT, Point

__all__ = ["main"]


@dataclass(frozen=True)
class _Part:
    name: str
    heading: str
    points: Sequence[Point]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = _parser().parse_args(arguments)
    began = time.monotonic()
    storms = list(_storms(options.against))
    if options.against and not storms:
        return 2
    parts = list(_parts(options.seed))
    comparisons = [compare(storm, options.seed) for storm in storms]
    _print_comparisons(comparisons)
    options.into.mkdir(parents=True, exist_ok=True)
    _write(parts, comparisons, options)
    print(f"\n{options.into}/: simulation.json, waiting.svg; {time.monotonic() - began:.0f} s")
    return 0


def _storms(paths: Sequence[Path]) -> Iterator[Storm]:
    """Those that can be compared; others (a rollback, for example) are left out."""
    for path in paths:
        try:
            yield load_storm(path)
        except (OSError, ValueError) as error:
            print(f"left out: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulation (1)")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="+",
        default=[],
        metavar="REPORT",
        help="report.json of measured storms",
    )
    parser.add_argument(
        "--into", type=Path, default=Path("simulate-report"), help="report folder (simulate-report)"
    )
    return parser


def _parts(seed: int) -> Iterator[_Part]:
    for name, heading, make in (
        ("frontier", "Families of policies", study.frontier),
        ("standard", "The library's default", study.standard),
        ("troubles", "When something goes wrong", study.troubles),
    ):
        part = _Part(name, heading, list(make(seed)))
        _print_part(part)
        yield part


# --- on the terminal

_HEAD = (
    "starts", "arrive", "migration", "policy", "", "delay", "99 in 100", "calls", "read units",
    "peak units/s", "turned away", "holders", "not served", "dollars",
)  # fmt: skip
_WIDTHS = (8, 8, 10, 25, 6, 8, 10, 6, 10, 13, 12, 8, 11, 9)


def _print_part(part: _Part) -> None:
    print(f"\n{part.heading}\n")
    print(_aligned(_HEAD))
    before = ""
    for point in part.points:
        if part.name == "troubles" and point.study != before:
            print(f"  {point.study}")
            before = point.study
        print(_aligned(_cells(point)))


def _cells(point: Point) -> tuple[str, ...]:
    scenario, figures = point.scenario, point.figures
    parameter = "" if point.parameter is None else f"{point.parameter:g}"
    return (
        f"{scenario.environments:,}",
        scenario.arrival,
        f"{scenario.migration:g} s",
        point.policy,
        parameter,
        _seconds(figures.delay_median),
        _seconds(figures.delay_p99),
        "-" if math.isnan(figures.calls_median) else f"{figures.calls_median:g}",
        f"{figures.read_units:.1f}",
        f"{figures.peak_units:,.0f}",
        f"{figures.throttled:.0%}",
        f"{figures.holders:g}",
        f"{figures.not_served:,}",
        f"{figures.dollars:.5f}",
    )


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f} s"


def _aligned(cells: Sequence[str]) -> str:
    left = (1, 3)
    return " ".join(
        cell.ljust(width) if number in left else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    ).rstrip()


def _print_comparisons(comparisons: Sequence[Comparison]) -> None:
    for each in comparisons:
        print(f"\n{each.storm.name}: {each.storm.n:,} starts\n")
        print(f"{'':20} {'predicted':>10} {'measured':>10}")
        for what, predicted, measured in each.rows():
            print(f"{what:20} {predicted:10.2f} {measured:10.2f}")


# --- on disk


def _write(
    parts: Sequence[_Part], comparisons: Sequence[Comparison], options: argparse.Namespace
) -> None:
    from load.simulation.charts import draw_calibration, draw_frontier

    document = {
        "seed": options.seed,
        "dollars_per_read_unit": READ_DOLLARS,
        "dollars_per_write_unit": WRITE_DOLLARS,
        **{part.name: [_entry(point) for point in part.points] for part in parts},
        "against": [_compared(each) for each in comparisons],
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    (options.into / "simulation.json").write_text(text + "\n")
    points = [point for part in parts for point in part.points]
    draw_frontier(points, comparisons, options.into / "waiting.svg")
    if comparisons:
        draw_calibration(comparisons, options.into / "waiting-calibration.svg")


def _entry(point: Point) -> dict[str, Any]:
    scenario = {key: value for key, value in asdict(point.scenario).items() if key != "replay"}
    figures = {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in asdict(point.figures).items()
    }
    return {
        "study": point.study,
        "policy": point.policy,
        "parameter": point.parameter,
        "is_default": point.policy == DEFAULT,
        "scenario": scenario,
        "figures": figures,
    }


def _compared(each: Comparison) -> dict[str, Any]:
    rows = {
        what: {"predicted": predicted, "measured": measured}
        for what, predicted, measured in each.rows()
    }
    return {"storm": each.storm.name, "n": each.storm.n, **rows}


if __name__ == "__main__":
    sys.exit(main())
