"""The pictures: bars with their range, and connections over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from load.bench.figures import Spread, format_number

__all__ = ["Strip", "draw_bars", "draw_strips", "write_svg"]

_LAMBDA_MIGRATE_COLOUR, _OTHERS_COLOUR, _LIMIT = "#d9480f", "#8aa4c8", "#7a1f2b"
_NAME = "lambda-migrate"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": _NAME,  # the same figures give the same file
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Strip(NamedTuple):
    """Connections of one peer over time: seconds and number, each until the next."""

    label: str
    caption: str
    points: Sequence[tuple[float, float]]


def draw_bars(
    title: str, unit: str, rows: Sequence[tuple[str, Spread]], *, limit: float | None = None
) -> Figure:
    """Horizontal bars: the median, and a line from the least to the most."""
    figure, axes = _figure(title, height=1.2 + 0.32 * len(rows))
    labels = [label for label, _ in rows]
    medians = [one.median for _, one in rows]
    errors = [[m - one.low for m, (_, one) in zip(medians, rows, strict=True)]]
    errors += [[one.high - m for m, (_, one) in zip(medians, rows, strict=True)]]
    axes.barh(labels, medians, xerr=errors, color=[_colour(label) for label in labels], height=0.6)
    for row, (_, one) in enumerate(rows):
        axes.annotate(f"  {format_number(one.median)}", (one.high, row), va="center", fontsize=8)
    if limit is not None:
        axes.axvline(limit, color=_LIMIT, linestyle="--")
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    return figure


def draw_strips(title: str, strips: Sequence[Strip], *, most: float) -> Figure:
    """One strip for each peer, all on the same scales."""
    figure = Figure(figsize=(9, 1 + 0.75 * len(strips)), layout="constrained")
    figure.suptitle(title, x=0.02, ha="left", fontweight="bold")
    rows = figure.subplots(len(strips), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, strip in zip(rows, strips, strict=True):
        changes = _changes(strip.points)
        seconds, values = [at for at, _ in changes], [value for _, value in changes]
        axes.fill_between(seconds, values, step="post", color=_colour(strip.label))
        axes.set_ylim(0, most)
        axes.set_ylabel(
            f"{strip.label}\n{strip.caption}", rotation=0, ha="right", va="center", fontsize=8
        )
    rows[-1].set_xlabel("seconds")
    return figure


def write_svg(figure: Figure, path: Path) -> None:
    """Write a picture that is the same for the same figures."""
    with mpl.rc_context(_STYLE):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _figure(title: str, *, height: float) -> tuple[Figure, mpl.axes.Axes]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, height), layout="constrained")
        axes = figure.subplots()
    axes.set_title(title, loc="left", fontweight="bold")
    return figure, axes


def _colour(label: str) -> str:
    return _LAMBDA_MIGRATE_COLOUR if label.startswith(_NAME) else _OTHERS_COLOUR


def _changes(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points at which the number changes, and the last one."""
    kept = [(0.0, 0.0)]
    for at, value in points:
        if value != kept[-1][1]:
            kept.append((at, value))
    return [*kept, points[-1]] if points else kept
