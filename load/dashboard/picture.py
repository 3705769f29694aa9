"""Draws a dashboard on its own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from load.emulators.cloudwatch import State

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from load.emulators.cloudwatch import Alarm, CloudWatch
    from load.emulators.dashboard import Widget

__all__ = ["draw"]

_COLUMNS, _INCHES = 24, 0.46
_INK, _FAINT, _GRID = "#22303c", "#6b7480", "#e8eaed"
_LINES = ("#4a90d9", "#c2255c", "#d1812a", "#3d9a6c")
_STATES = {State.OK: "#3d9a6c", State.ALARM: "#c2255c", State.INSUFFICIENT_DATA: "#8a96a3"}

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.edgecolor": "#8a96a3",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "svg.fonttype": "none",
    "svg.hashsalt": "lambda-migrate",
}


def draw(
    widgets: Sequence[Widget],
    alarms: Mapping[str, Alarm],
    cloudwatch: CloudWatch,
    path: Path,
    *,
    period: int,
) -> None:
    """Draw it as SVG.

    Args:
        widgets: The dashboard.
        alarms: Those that it names.
        cloudwatch: What was measured.
        path: Where the picture goes.
        period: Seconds, in place of the widgets' own: a short run has few of those.
    """
    rows = max(row + height for _, row, _, height in (widget.place for widget in widgets))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_COLUMNS * _INCHES, rows * _INCHES))
        for widget in widgets:
            axes = figure.add_axes(_box(widget, rows))
            axes.set_title(widget.title)
            if widget.kind == "alarm":
                _draw_alarms(axes, widget, alarms, cloudwatch)
            else:
                _draw_series(axes, widget, cloudwatch, period)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _box(widget: Widget, rows: int) -> tuple[float, float, float, float]:
    """Left, bottom, width and height in shares of the figure, with room for the labels."""
    column, row, width, height = widget.place
    left, right, above, below = (0.3, 0.3, 0.9, 0.2) if widget.kind == "alarm" else (1.3, 0.4, 1, 1)
    return (
        (column + left) / _COLUMNS,
        1 - (row + height - below) / rows,
        (width - left - right) / _COLUMNS,
        (height - above - below) / rows,
    )


def _draw_alarms(
    axes: Axes, widget: Widget, alarms: Mapping[str, Alarm], cloudwatch: CloudWatch
) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, len(widget.alarms))
    axes.set_ylim(0, 1)
    for place, name in enumerate(widget.alarms):
        was = State.ALARM if cloudwatch.has_reached(alarms[name]) else State.OK
        told = "was in ALARM" if was is State.ALARM else "OK all the time"
        axes.barh(0.5, 0.94, 0.9, left=place + 0.03, color=_STATES[was], alpha=0.18)
        axes.text(place + 0.5, 0.62, name.removesuffix("Alarm"), ha="center", weight="bold")
        axes.text(place + 0.5, 0.28, told, ha="center", color=_STATES[was])


def _draw_series(axes: Axes, widget: Widget, cloudwatch: CloudWatch, period: int) -> None:
    """Counts as bars, times as lines; the legend has the upper fifth to itself."""
    periods = _periods(cloudwatch, period)
    width = 0.9 * period / len(widget.series)
    for number, series in enumerate(widget.series):
        values = cloudwatch.series({"m": series.query}, "m", periods)
        there = [(at - periods[0][0], v) for (at, _), v in zip(periods, values, strict=True) if v]
        there = there or [(0.0, 0.0)]  # or else the legend would not know its colour
        times, heights = [at for at, _ in there], [value for _, value in there]
        colour = _LINES[number % len(_LINES)]
        if series.query.statistic == "Sum":
            left = [at + number * width for at in times]
            axes.bar(left, heights, width, align="edge", color=colour, label=series.label)
        else:
            middle = [at + period / 2 for at in times]
            axes.plot(middle, heights, "o-", color=colour, markersize=3, lw=1.2, label=series.label)
    axes.set_xlim(0, periods[-1][1] - periods[0][0])
    axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=7, loc="upper left", ncols=2)
    axes.set_xlabel("seconds", color=_FAINT)


def _periods(cloudwatch: CloudWatch, period: int) -> list[tuple[float, float]]:
    span = cloudwatch.span
    assert span is not None  # noqa: S101 - a run without a value has no picture
    first, last = int(span[0] // period), int(span[1] // period)
    return [(n * period, (n + 1) * period) for n in range(first, last + 1)]
