"""A chart of many cold starts: one bar per environment, PostgreSQL's connections below, as SVG."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PHASES", "Interval", "Row", "Series", "Span", "clip", "render"]

PHASES = {
    "starting": "#e3e5e8",
    "waiting": "#a9b8cc",
    "migrating": "#d9480f",
    "serving": "#2b8a6e",
    "failed": "#7a1f2b",
}
"""The phases of an environment and their colours."""

_PAPER, _TEXT, _SECONDARY_TEXT, _GRID = "#fcfcfb", "#23282f", "#6b7480", "#e8eaed"
_INTERVAL, _AREA, _AREA_LINE = "#d9480f", "#c5d4ea", "#4a74b0"
_WIDTH = 9.6  # inches, as all lengths below; 72 SVG units each
_SERIES_HEIGHT = 0.7
_LABEL_LINES = 6
_LABELLED_ROWS = 24  # up to so many rows are labelled
_GAP_WIDTH = 0.03  # of the time that is not left out


@dataclass(frozen=True, slots=True)
class Span:
    """The time that an environment spent in one phase.

    Attributes:
        phase: One of `PHASES`.
        start: Seconds, on the same scale for all spans of a chart.
        end: Seconds.

    Raises:
        ValueError: An unknown phase, or an end before its start.
    """

    phase: str
    start: float
    end: float

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"phase {self.phase!r} is none of {', '.join(PHASES)}")
        if self.end < self.start:
            raise ValueError(f"a span of {self.phase} ends before it starts")


@dataclass(frozen=True, slots=True)
class Row:
    """One environment.

    Attributes:
        label: Its name.
        spans: Its phases.
        group: What it has in common with the rows next to it: its version.
    """

    label: str
    spans: Sequence[Span]
    group: str = ""

    @property
    def migrates(self) -> bool:
        """Whether it migrated; its row is then thicker."""
        return any(span.phase == "migrating" for span in self.spans)


def clip(rows: Iterable[Row], since: float, until: float = math.inf) -> Iterator[Row]:
    """The parts of the rows between two times."""
    for row in rows:
        spans = [span for span in row.spans if span.end > since and span.start < until]
        clipped = [Span(span.phase, max(span.start, since), min(span.end, until)) for span in spans]
        yield replace(row, spans=clipped)


@dataclass(frozen=True, slots=True)
class Interval:
    """One migration, drawn across all rows; or a time that is left out."""

    label: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of a number; each value holds until the next point."""

    label: str
    points: Sequence[tuple[float, float]] = field(default_factory=tuple)


class _TimeScale:
    """Maps times to the time axis, on which each gap takes little room.

    Args:
        gaps: What to leave out of the axis.
        first: The first time.
        last: The last time.
    """

    def __init__(self, gaps: Sequence[Interval], first: float, last: float) -> None:
        self._gaps = sorted(gaps, key=lambda gap: gap.start)
        hidden = sum(gap.end - gap.start for gap in gaps)
        self._width = _GAP_WIDTH * (last - first - hidden)

    def map(self, time: float) -> float:
        """Where ``time`` is on the axis."""
        hidden = 0.0
        for gap in self._gaps:
            length = gap.end - gap.start
            share = min(1.0, max(0.0, (time - gap.start) / length))
            hidden += share * (length - self._width)
        return time - hidden

    def map_row(self, row: Row) -> Row:
        """The row on the axis."""
        spans = [Span(one.phase, self.map(one.start), self.map(one.end)) for one in row.spans]
        return replace(row, spans=spans)

    def map_interval(self, interval: Interval) -> Interval:
        """The interval on the axis."""
        return replace(interval, start=self.map(interval.start), end=self.map(interval.end))

    def map_series(self, series: Series) -> Series:
        """The series on the axis."""
        return replace(series, points=[(self.map(at), value) for at, value in series.points])

    def hides(self, time: float) -> bool:
        """Whether a time is inside a gap, or so near that its label would overlap it."""
        edge = self._width / 2
        return any(gap.start - edge < time < gap.end + edge for gap in self._gaps)


def render(
    rows: Sequence[Row],
    *,
    intervals: Sequence[Interval] = (),
    gaps: Sequence[Interval] = (),
    series: Sequence[Series] = (),
    title: str = "",
    subtitle: str = "",
) -> str:
    """Draw ``rows`` from top to bottom and return the SVG.

    Args:
        rows: The environments.
        intervals: Migrations, labelled above the rows.
        gaps: Times to leave out of the axis, each with its reason.
        series: Each an area chart below, on the same time axis.
        title: The chart's title.
        subtitle: Text below the title.

    Raises:
        ValueError: No row has a span.
    """
    spans = [span for row in rows for span in row.spans]
    if not spans:
        raise ValueError("no row has a span: there is nothing to draw")
    first = min(span.start for span in spans)
    last = max(
        *(span.end for span in spans), *(interval.end for interval in intervals), first + 1e-3
    )
    scale = _TimeScale(gaps, first, last)
    rows = list(map(scale.map_row, rows))
    intervals, gaps = (
        list(map(scale.map_interval, intervals)),
        list(map(scale.map_interval, gaps)),
    )
    series = list(map(scale.map_series, series))
    subtitle = textwrap.fill(subtitle, 120)
    head_height = 0.3 + 0.15 * len(subtitle.splitlines())
    heights = [head_height, min(0.3 * len(rows), 6.5), *(_SERIES_HEIGHT for _ in series)]
    output = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure = Figure((_WIDTH, sum(heights) + 2), layout="constrained", facecolor=_PAPER)
        figure.suptitle(title, x=0.01, ha="left", size=14, weight="bold")
        head, chart, *below = figure.subplots(len(heights), sharex=True, height_ratios=heights)
        _draw_legend(head, {span.phase for span in spans}, subtitle)
        for axes in (chart, *below):
            _style(axes)
        _style_time_axis([chart, *below][-1], first, last, scale)
        _draw_rows(chart, rows, heights[1])
        _draw_intervals(chart, intervals)
        for axes in (chart, *below):
            _draw_gaps(axes, gaps, is_labelled=axes is chart)
        for axes, values in zip(below, series, strict=True):
            _draw_series(axes, values)
        figure.savefig(output, format="svg", metadata={"Date": None, "Title": title or "Timeline"})
    return output.getvalue()


_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "path.simplify": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lambda-migrate",
    "text.color": _TEXT,
    "text.parse_math": False,
}


def _style(axes: Axes) -> None:
    axes.set_facecolor(_PAPER)
    axes.grid(axis="x", color=_GRID)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=_SECONDARY_TEXT)
    axes.spines[:].set_visible(False)


def _style_time_axis(axes: Axes, first: float, last: float, scale: _TimeScale) -> None:
    """From 0 at ``first``, in round steps, without those that are left out."""
    start, end = scale.map(first), scale.map(last)
    power = 10.0 ** math.floor(math.log10((end - start) / 10))
    step = next(power * n for n in (1, 2, 5, 10) if (end - start) / (power * n) <= 10)
    numbers = [number * step for number in range(int((last - first) / step + 1e-9) + 1)]
    ticks = [tick for tick in numbers if not scale.hides(first + tick)]
    axes.set_xticks([scale.map(first + tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.set_xlim(start, end)
    axes.set_xlabel("seconds", color=_SECONDARY_TEXT)


def _draw_legend(axes: Axes, phases: Collection[str], subtitle: str) -> None:
    axes.set_axis_off()
    axes.legend(
        handles=[
            Line2D([], [], color=colour, linewidth=6, label=phase)
            for phase, colour in PHASES.items()
            if phase in phases
        ],
        title=subtitle,
        alignment="left",
        loc="upper left",
        borderaxespad=0,
        ncols=len(PHASES),
        frameon=False,
    )


def _draw_rows(axes: Axes, rows: Sequence[Row], height: float) -> None:
    """Draw each phase as one path, which keeps the picture small."""
    pitch = height * 72 / len(rows)  # points
    first, last = axes.get_xlim()
    shortest = (last - first) / 1000  # a shorter span would be invisible
    for migrates in (False, True):
        width = max(pitch, 6) if migrates else pitch * (0.75 if pitch > 3 else 1)
        for phase, colour in PHASES.items():
            vertices = [
                (x, y)
                for y, row in enumerate(rows)
                for span in row.spans
                if row.migrates == migrates and span.phase == phase
                for x in (span.start, max(span.end, span.start + shortest))
            ]
            if vertices:
                path = Path(vertices, [Path.MOVETO, Path.LINETO] * (len(vertices) // 2))
                axes.add_patch(
                    PathPatch(path, edgecolor=colour, fill=False, linewidth=width, capstyle="butt")
                )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    if len(rows) <= _LABELLED_ROWS:
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
    else:
        _label_groups(axes, rows)


def _label_groups(axes: Axes, rows: Sequence[Row]) -> None:
    """Label each group of rows beside its middle, and draw a line between two groups."""
    middles, labels, start = [], [], 0
    for group, members in itertools.groupby(rows, key=lambda row: row.group):
        count = len(list(members))
        middles.append(start + (count - 1) / 2)
        labels.append(f"{group}\n{count} environments".strip())
        if start:
            axes.axhline(start - 0.5, color=_SECONDARY_TEXT, linewidth=0.8)
        start += count
    axes.set_yticks(middles, labels, rotation=90, va="center", ma="center")


def _draw_gaps(axes: Axes, gaps: Sequence[Interval], *, is_labelled: bool) -> None:
    """Cover each gap, and say in the chart what is left out."""
    for gap in gaps:
        axes.axvspan(gap.start, gap.end, facecolor=_PAPER, edgecolor="none", zorder=3)
        for edge in (gap.start, gap.end):
            axes.axvline(edge, color=_SECONDARY_TEXT, linewidth=0.8, linestyle="--", zorder=3)
        if is_labelled:
            axes.text(
                (gap.start + gap.end) / 2,
                0.5,
                gap.label,
                transform=axes.get_xaxis_transform(),
                rotation=90,
                ha="center",
                va="center",
                color=_SECONDARY_TEXT,
                zorder=4,
            )


def _draw_intervals(axes: Axes, intervals: Sequence[Interval]) -> None:
    """Draw the intervals and, in the lowest line in which it overlaps no other, each label."""
    first, last = axes.get_xlim()
    character = (last - first) / 105
    line_ends = [-math.inf] * _LABEL_LINES
    for number, interval in enumerate(sorted(intervals, key=lambda interval: interval.start)):
        alpha = 0.08 if number % 2 else 0.18
        axes.axvspan(
            interval.start, interval.end, color=_INTERVAL, linewidth=0.5, alpha=alpha, zorder=0.5
        )
        length = len(interval.label) * character
        start = max(first, min((interval.start + interval.end - length) / 2, last - length))
        line = next((line for line, end in enumerate(line_ends) if end <= start), None)
        if line is not None:
            line_ends[line] = start + length
            axes.annotate(
                interval.label,
                (start, 1),
                (0, 4 + 11 * line),
                xycoords=axes.get_xaxis_transform(),
                textcoords="offset points",
                color=_INTERVAL,
            )


def _draw_series(axes: Axes, series: Series) -> None:
    first, last = axes.get_xlim()
    points = [point for point in series.points if first <= point[0] <= last]
    peak = max((value for _, value in points), default=0.0)
    label = f"{series.label}: {peak:g} at most"
    axes.set_title(label, loc="left", size=9, color=_SECONDARY_TEXT, pad=3)
    axes.set_ylim(0, max(peak, 1) * 1.05)
    axes.set_yticks([0, max(peak, 1)])
    changes = [
        point
        for before, point in itertools.pairwise([(0.0, math.nan), *points])
        if before[1] != point[1]
    ]
    if changes:
        times = [*(at for at, _ in changes), last]
        values = [*(value for _, value in changes), changes[-1][1]]
        axes.fill_between(
            times, values, step="post", facecolor=_AREA, edgecolor=_AREA_LINE, linewidth=1
        )
