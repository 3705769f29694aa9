"""The charts: what a policy costs against how late it is, and prediction against measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from load.simulation import study
from load.simulation.figures import quantile
from load.simulation.policies import FAMILIES
from load.simulation.study import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from load.simulation.measured import Comparison
    from load.simulation.study import Point

__all__ = ["draw_calibration", "draw_frontier"]

COLOURS = dict(
    zip(
        (family.name for family in FAMILIES),
        ("#7a8594", "#d1812a", "#4a90d9", "#3d9a6c"),
        strict=True,
    )
)
INK, OURS, MEASURED = "#22303c", "#c2255c", "#6741d9"

BAR_CALLS, BAR_DELAY = 8.0, 0.3

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#8a96a3",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "lambda-migrate",
}


def draw_frontier(points: Sequence[Point], comparisons: Sequence[Comparison], path: Path) -> None:
    """Small multiples: delay after release against calls for each waiter, in each scenario."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(13.2, 7.6), facecolor="white")
        axes = figure.subplots(2, 4)
        for panel, length in zip(axes[0], study.LENGTHS, strict=True):
            lengths = [point for point in points if point.study == "length"]
            shown = [point for point in lengths if point.scenario.migration == length]
            _panel(panel, shown, [], bars=length == 3)
            panel.set_title(f"{_number(length)} s migration, 1,000 starts")
        for panel, size in zip(axes[1], study.SIZES, strict=True):
            sizes = [point for point in points if point.study == "size"]
            shown = [point for point in sizes if point.scenario.environments == size]
            storms = [each for each in comparisons if each.storm.n == size]
            _panel(panel, shown, storms, bars=size <= 1_000)
            panel.set_title(f"{size:,} starts, 3 s migration")
        for panel in axes[:, 0]:
            panel.set_ylabel("median delay after the last commit, s")
        for panel in axes[1]:
            panel.set_xlabel("DynamoDB calls per waiter, mean")
        _legend(figure, axes.flat)
        _heading(figure)
        figure.subplots_adjust(0.055, 0.115, 0.99, 0.86, wspace=0.2, hspace=0.32)
        _save(figure, path)


def _panel(
    panel: Axes, points: Sequence[Point], comparisons: Sequence[Comparison], *, bars: bool
) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    for name, colour in COLOURS.items():
        line = [point.figures for point in points if point.policy == name]
        panel.plot(
            [figures.calls_mean for figures in line],
            [figures.delay_median for figures in line],
            "o-",
            color=colour,
            markersize=3.2,
            linewidth=1.4,
            label=name,
        )
    for point in points:
        if point.policy == DEFAULT:
            _mark_default(panel, point)
    for each in comparisons:
        panel.plot(
            sum(each.storm.calls) / len(each.storm.calls),
            quantile(each.storm.delays, 0.5),
            "D",
            color=MEASURED,
            markersize=7,
            markeredgecolor="white",
            zorder=6,
            label="measured storm",
        )
    _scales(panel)
    if bars:
        _bars(panel)


def _bars(panel: Axes) -> None:
    """What is asked: a box in the corner, which does not stretch the panel."""
    left, _ = panel.get_xlim()
    bottom, _ = panel.get_ylim()
    size = (BAR_CALLS - left, BAR_DELAY - bottom)
    panel.add_patch(Rectangle((left, bottom), *size, facecolor="#dff2e6", linewidth=0, zorder=0))


def _mark_default(panel: Axes, point: Point) -> None:
    figures = point.figures
    panel.plot(
        [figures.calls_mean] * 2,
        [figures.delay_median, figures.delay_p99],
        color=OURS,
        linewidth=1.1,
        zorder=4,
    )
    panel.plot(figures.calls_mean, figures.delay_p99, "_", color=OURS, markersize=7, zorder=4)
    panel.plot(
        figures.calls_mean,
        figures.delay_median,
        "*",
        color=OURS,
        markersize=14,
        markeredgecolor="white",
        zorder=5,
        label="the library's default",
    )


_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def _scales(panel: Axes) -> None:
    panel.grid(visible=True, color="#eef1f4", linewidth=0.7)
    panel.set_axisbelow(True)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(FixedLocator(list(_TICKS)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    panel.margins(0.07)
    panel.autoscale_view()
    left, right = panel.get_xlim()
    if right > 50 * left:
        panel.xaxis.set_major_locator(FixedLocator([1, 3, 10, 30, 100, 300, 1_000, 3_000]))


def _legend(figure: Figure, panels: Iterable[Axes]) -> None:
    known: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            known.setdefault(str(label), handle)
    figure.legend(
        list(known.values()),
        list(known),
        loc="lower center",
        ncols=len(known),
        frameon=False,
        fontsize=9,
    )


def _heading(figure: Figure) -> None:
    figure.text(0.012, 0.965, "Waiting: how late against how often", fontsize=15, fontweight="bold")
    figure.text(
        0.012,
        0.928,
        "Simulated cold starts, all at once. Each line is a family of policies over its "
        "parameter; the lower left corner is better. Green: what is asked at 3 s. "
        "Vertical line: 99 in 100.",
        fontsize=9.5,
        color="#51606d",
    )


def draw_calibration(comparisons: Sequence[Comparison], path: Path) -> None:
    """For each storm, the distribution of delays and calls: predicted and measured."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10.5, 0.9 + 3.1 * len(comparisons)), facecolor="white")
        rows = figure.subplots(len(comparisons), 2, squeeze=False)
        for (left, right), each in zip(rows, comparisons, strict=True):
            _steps(left, each.delays, each.storm.delays)
            _steps(right, each.calls, each.storm.calls)
            left.axvline(BAR_DELAY, color="#9ccfb0", linewidth=1)
            right.axvline(BAR_CALLS, color="#9ccfb0", linewidth=1)
            left.set_title(f"{each.storm.name}: delay after the last commit")
            right.set_title(f"{each.storm.name}: DynamoDB calls")
            left.set_xlabel("s")
            left.set_ylabel("share of waiters")
        figure.tight_layout(rect=(0, 0, 1, 1 - 0.75 / figure.get_figheight()))
        title = "Predicted and measured"
        figure.text(0.012, 1 - 0.32 / figure.get_figheight(), title, fontsize=15, weight="bold")
        _legend(figure, [rows[0, 0]])
        figure.subplots_adjust(bottom=0.95 / figure.get_figheight())
        _save(figure, path)


_STEPS = 100


def _steps(panel: Axes, runs: Sequence[Sequence[float]], measured: Sequence[float]) -> None:
    for number, run in enumerate(runs):
        label = "simulated storms" if number == 0 else None
        panel.plot(*_shares(run), color=OURS, linewidth=0.8, alpha=0.35, label=label)
    panel.plot(*_shares(measured), color=MEASURED, linewidth=2.2, label="measured storm")
    panel.set_ylim(0, 1)
    panel.set_xlim(left=0)
    panel.grid(visible=True, color="#eef1f4", linewidth=0.7)


def _shares(ordered: Sequence[float]) -> tuple[list[float], list[float]]:
    """Steps of the cumulative distribution."""
    ordered = _thinned(ordered)
    count = len(ordered)
    across = [value for value in ordered for _ in (0, 1)]
    up = [share / count for number in range(count) for share in (number, number + 1)]
    return across, up


def _thinned(ordered: Sequence[float]) -> Sequence[float]:
    """As many steps as can be seen; a thousand for each line make a picture of a megabyte."""
    last = len(ordered) - 1
    return [ordered[last * n // (_STEPS - 1)] for n in range(_STEPS)] if last > _STEPS else ordered


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)
