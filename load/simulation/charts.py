"""The charts: what a policy costs against how late it is, and prediction against measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from load import charts
from load.simulation import study
from load.simulation.figures import quantile
from load.simulation.policies import POLICY_FAMILIES
from load.simulation.study import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from load.simulation.measured import Comparison
    from load.simulation.study import Point

__all__ = ["draw_calibration", "draw_frontier"]

_COLOURS = dict(
    zip(
        (family.name for family in POLICY_FAMILIES),
        ("#7a8594", charts.ORANGE, charts.BLUE, charts.GREEN),
        strict=True,
    )
)
_DEFAULT, _MEASURED = "#c2255c", "#6741d9"

_LIMIT_CALLS, _LIMIT_DELAY = 8.0, 0.3
"""What is required of 1,000 waiters and a migration of 3 s."""

_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_FEW_TICKS = (1, 3, 10, 30, 100, 300, 1_000, 3_000)


def draw_frontier(points: Sequence[Point], comparisons: Sequence[Comparison], path: Path) -> None:
    """Small multiples: delay after release against calls of each waiter, in each scenario."""
    with charts.style(font_size=9):
        figure = Figure(figsize=(13.2, 7.2), layout="constrained")
        axes = figure.subplots(2, 4)
        for panel, length in zip(axes[0], study.LENGTHS, strict=True):
            own = [p for p in points if p.study == "length" and p.scenario.migration == length]
            _draw_panel(panel, own, [], has_limit=length == 3)
            panel.set_title(f"{_format(length)} s migration, 1,000 starts")
        for panel, size in zip(axes[1], study.SIZES, strict=True):
            own = [p for p in points if p.study == "size" and p.scenario.environments == size]
            storms = [each for each in comparisons if each.storm.n == size]
            _draw_panel(panel, own, storms, has_limit=size <= 1_000)
            panel.set_title(f"{size:,} starts, 3 s migration")
            panel.set_xlabel("DynamoDB calls per waiter, mean")
        for panel in axes[:, 0]:
            panel.set_ylabel("median delay after the last commit, s")
        _add_legend(figure, axes.flat)
        figure.suptitle(
            "Simulated cold starts, all at once. A line is a family of policies over its "
            "parameter; lower left is better. Green: what is required at 3 s. Vertical line: 99 "
            "in 100.",
            fontsize=10,
        )
        charts.save(figure, path)


def _draw_panel(
    panel: Axes, points: Sequence[Point], comparisons: Sequence[Comparison], *, has_limit: bool
) -> None:
    for name, colour in _COLOURS.items():
        line = [point.figures for point in points if point.policy == name]
        calls, delays = [f.calls_mean for f in line], [f.delay_median for f in line]
        panel.plot(calls, delays, "o-", color=colour, ms=3.2, lw=1.4, label=name)
    for point in points:
        if point.policy == DEFAULT:
            own = point.figures
            delays = [own.delay_median, own.delay_p99]
            panel.plot([own.calls_mean] * 2, delays, "_-", color=_DEFAULT, lw=1.1, zorder=4)
            place, label = (own.calls_mean, own.delay_median), "the library's default"
            panel.plot(*place, "*", color=_DEFAULT, ms=14, mec="white", zorder=5, label=label)
    for each in comparisons:
        mean = sum(each.storm.calls) / len(each.storm.calls)
        place, label = (mean, quantile(each.storm.delays, 0.5)), "measured storm"
        panel.plot(*place, "D", color=_MEASURED, ms=7, mec="white", zorder=6, label=label)
    panel.set(xscale="log", yscale="log")
    panel.margins(0.07)
    panel.autoscale_view()
    left, right = panel.get_xlim()
    bottom, _ = panel.get_ylim()
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(FixedLocator(list(_TICKS)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: _format(value)))
    if right > 50 * left:
        panel.xaxis.set_major_locator(FixedLocator(list(_FEW_TICKS)))
    if has_limit:  # a box in the corner, which does not stretch the panel
        size = (_LIMIT_CALLS - left, _LIMIT_DELAY - bottom)
        panel.add_patch(Rectangle((left, bottom), *size, color="#dff2e6", lw=0, zorder=0))


def draw_calibration(comparisons: Sequence[Comparison], path: Path) -> None:
    """For each storm, the distribution of delays and calls: predicted and measured."""
    with charts.style():
        figure = Figure(figsize=(10.5, 0.6 + 2.4 * len(comparisons)), layout="constrained")
        rows = figure.subplots(len(comparisons), 2, squeeze=False)
        for panels, each in zip(rows, comparisons, strict=True):
            shown = (
                ("delay after the last commit, s", each.delays, each.storm.delays, _LIMIT_DELAY),
                ("DynamoDB calls", each.calls, each.storm.calls, _LIMIT_CALLS),
            )
            for panel, (what, runs, measured, limit) in zip(panels, shown, strict=True):
                panel.axvline(limit, color="#9ccfb0", lw=1)
                for run in runs:
                    # Pixels: twenty lines of a thousand steps would make a picture of megabytes.
                    panel.ecdf(
                        run, color=_DEFAULT, lw=0.8, alpha=0.35, label="simulated", rasterized=True
                    )
                panel.ecdf(measured, color=_MEASURED, lw=2, label="measured", rasterized=True)
                panel.set(title=f"{each.storm.name}: {what}")
                panel.set_xlim(left=0)
        _add_legend(figure, [rows[0, 0]])
        charts.save(figure, path)


def _add_legend(figure: Figure, panels: Iterable[Axes]) -> None:
    known: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            known.setdefault(str(label), handle)
    figure.legend(
        list(known.values()),
        list(known),
        loc="outside lower center",
        ncols=len(known),
        frameon=False,
    )


def _format(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
