"""A picture of a cold-start storm: every environment a bar, PostgreSQL's connections below.

The SVG needs nothing but itself: no script, no web font, a background of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["PHASES", "Band", "Row", "Series", "Span", "clip", "render"]

PHASES = {
    "starting": "#e3e5e8",
    "waiting": "#a9b8cc",
    "migrating": "#d9480f",
    "serving": "#2b8a6e",
    "failed": "#7a1f2b",
}
"""What an environment may be doing, and its colour: one warm colour, for the one that migrates."""

_PAPER, _FRAME, _INK, _FAINT, _GRID = "#fcfcfb", "#d5d8dc", "#23282f", "#6b7480", "#e8eaed"
_BAND, _AREA, _AREA_LINE = "#d9480f", "#c5d4ea", "#4a74b0"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_MARGIN = 28.0
_CHARACTER = 0.56  # of the font's size: a generous mean for sans-serif text
_LANES = 6
_LANE_HEIGHT = 15.0
_SERIES_HEIGHT = 56.0
_LABELLED_ROWS = 24  # up to so many, each row carries its own label


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one phase.

    Attributes:
        phase: One of `PHASES`.
        start: Seconds, on any scale that all of a picture share.
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
    """One environment."""

    label: str
    spans: Sequence[Span]

    @property
    def migrates(self) -> bool:
        """Whether this is one that migrated: it is drawn thicker."""
        return any(span.phase == "migrating" for span in self.spans)


def clip(rows: Iterable[Row], since: float, until: float = math.inf) -> Iterator[Row]:
    """As much of the rows as lies between two moments."""
    for row in rows:
        spans = [span for span in row.spans if span.end > since and span.start < until]
        yield Row(
            row.label,
            [Span(span.phase, max(span.start, since), min(span.end, until)) for span in spans],
        )


@dataclass(frozen=True, slots=True)
class Band:
    """One migration, across all rows."""

    label: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Series:
    """A number over time, sampled: each value holds until the next point."""

    label: str
    points: Sequence[tuple[float, float]] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Seconds to pixels."""

    origin: float
    seconds: float
    left: float
    width: float

    def x(self, at: float) -> float:
        return self.left + (at - self.origin) / self.seconds * self.width


@dataclass(frozen=True, slots=True)
class _Label:
    text: str
    lane: int
    x: float
    stem: float


def render(
    rows: Sequence[Row],
    *,
    bands: Sequence[Band] = (),
    series: Sequence[Series] = (),
    title: str = "",
    subtitle: str = "",
    width: int = 960,
) -> str:
    """Draw ``rows`` from the top in their order, and return the SVG.

    Args:
        rows: Environments; up to 300 can be told apart, more are a picture of how many did what.
        bands: Migrations, named along the top.
        series: Each an area chart below, on the same time axis.
        title: In large type.
        subtitle: One line below it: the numbers that the picture is about.
        width: Pixels.

    Raises:
        ValueError: There is no row with a span.
    """
    if not any(row.spans for row in rows):
        raise ValueError("no row has a span: there is nothing to draw")
    scale = _scale_of(rows, bands, width)
    labels = _place(bands, scale)
    drawing: list[str] = []
    y = _heading(drawing, title, subtitle, width) + 8
    y = _legend(drawing, rows, y) + 18
    top = y + _LANE_HEIGHT * len({label.lane for label in labels}) + 4
    bottom, positions = _positions(rows, top)
    end = bottom + sum(_SERIES_HEIGHT + 34 for _ in series)
    _axis(drawing, scale, top, end)
    _bands(drawing, bands, labels, scale, y, bottom)
    _rows(drawing, rows, positions, scale)
    _borders(drawing, bands, scale, top, bottom)
    _captions(drawing, rows, positions, top, bottom)
    for number, one in enumerate(series):
        _series(drawing, one, scale, bottom + 34 + number * (_SERIES_HEIGHT + 34))
    return _document(drawing, title or "Timeline", width, end + 52)


def _scale_of(rows: Sequence[Row], bands: Sequence[Band], width: int) -> _Scale:
    spans = [span for row in rows for span in row.spans]
    first = min(span.start for span in spans)
    last = max(*(span.end for span in spans), *(band.end for band in bands), first + 1e-3)
    labelled = _labelled(rows)
    widest = max((_text_width(row.label, 11) for row in rows), default=0.0)
    left = _MARGIN + (widest + 12 if labelled else 26)
    return _Scale(first, last - first, left, width - left - _MARGIN)


def _labelled(rows: Sequence[Row]) -> bool:
    return len(rows) <= _LABELLED_ROWS


def _text_width(text: str, size: float) -> float:
    return len(text) * size * _CHARACTER


# -- the parts, from top to bottom ----------------------------------------------------------------


def _heading(drawing: list[str], title: str, subtitle: str, width: int) -> float:
    y = 22.0
    if title:
        y += 20
        drawing.append(_text(_MARGIN, y, title, size=19, weight=650))
    for line in _wrapped(subtitle, (width - 2 * _MARGIN) / (13 * 0.5)):
        y += 20
        drawing.append(_text(_MARGIN, y, line, size=13, fill=_FAINT))
    return y


def _wrapped(text: str, characters: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= characters:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def _legend(drawing: list[str], rows: Sequence[Row], y: float) -> float:
    used = {span.phase for row in rows for span in row.spans}
    x = _MARGIN
    for phase in (name for name in PHASES if name in used):
        drawing.append(_rect(x, y + 8, 18, 8, fill=PHASES[phase], radius=2))
        drawing.append(_text(x + 24, y + 16, phase, size=12, fill=_FAINT))
        x += 24 + _text_width(phase, 12) + 22
    return y + 20


def _place(bands: Sequence[Band], scale: _Scale) -> list[_Label]:
    """Give each name the lowest lane in which it touches no other; what fits nowhere goes."""
    right_ends = [-math.inf] * _LANES
    placed = []
    for band in sorted(bands, key=lambda one: one.start):
        length = _text_width(band.label, 11)
        stem = (scale.x(band.start) + scale.x(band.end)) / 2
        x = min(max(stem - length / 2, scale.left), scale.left + scale.width - length)
        lane = next((n for n, right in enumerate(right_ends) if right + 8 <= x), None)
        if lane is not None:
            right_ends[lane] = x + length
            placed.append(_Label(band.label, lane, x, stem))
    return placed


def _positions(rows: Sequence[Row], top: float) -> tuple[float, list[tuple[float, float]]]:
    """Where the last row ends, and top and height of each: thinner the more there are."""
    crowded = 500 / len(rows)
    pitch = min(22.0, max(430 / len(rows), min(1.6, crowded)))
    gap = 5.0 if pitch > 14 else 1.0 if pitch > 3 else 0.0  # half pixels would only shimmer
    positions = []
    y = top + 4
    for row in rows:
        height = max(pitch - gap, 7.0) if row.migrates else pitch - gap
        air = 2.0 if row.migrates and pitch < 9 else 0.0
        positions.append((y + air, height))
        y += height + gap + 2 * air
    return y + 4, positions


def _axis(drawing: list[str], scale: _Scale, top: float, bottom: float) -> None:
    step = _nice_step(scale.seconds, most=max(2, int(scale.width / 90)))
    for n in range(int(scale.seconds / step + 1e-9) + 1):
        x = scale.x(scale.origin + n * step)
        drawing.append(_line(x, top, x, bottom, stroke=_GRID))
        drawing.append(
            _text(x, bottom + 18, f"{n * step:g}", size=11, fill=_FAINT, anchor="middle")
        )
    middle = scale.left + scale.width / 2
    drawing.append(_text(middle, bottom + 36, "seconds", size=11, fill=_FAINT, anchor="middle"))


def _nice_step(seconds: float, *, most: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that needs at most ``most`` steps."""
    power = 10.0 ** math.floor(math.log10(seconds / most))
    return next(power * n for n in (1, 2, 5, 10) if seconds / (power * n) <= most)


def _bands(
    drawing: list[str],
    bands: Sequence[Band],
    labels: Sequence[_Label],
    scale: _Scale,
    y: float,
    bottom: float,
) -> None:
    lanes = 1 + max((label.lane for label in labels), default=-1)
    floor = y + lanes * _LANE_HEIGHT + 4
    for number, band in enumerate(bands):
        x, width = scale.x(band.start), (band.end - band.start) / scale.seconds * scale.width
        opacity = 0.13 if number % 2 == 0 else 0.06
        drawing.append(_rect(x, floor, max(width, 1), bottom - floor, fill=_BAND, opacity=opacity))
    for label in labels:
        base = floor - 8 - label.lane * _LANE_HEIGHT
        drawing.append(_line(label.stem, base + 3, label.stem, floor, stroke=_BAND, opacity=0.5))
    for label in labels:
        base = floor - 8 - label.lane * _LANE_HEIGHT
        drawing.append(_text(label.x, base, label.text, size=11, fill=_BAND, halo=True))


def _rows(
    drawing: list[str],
    rows: Sequence[Row],
    positions: Sequence[tuple[float, float]],
    scale: _Scale,
) -> None:
    """One path for each phase, which keeps 300 rows under 50 kB."""
    for phase, colour in PHASES.items():
        pieces = [
            _piece(scale, span, y, height)
            for row, (y, height) in zip(rows, positions, strict=True)
            for span in row.spans
            if span.phase == phase
        ]
        if pieces:
            drawing.append(f'<path fill="{colour}" d="{"".join(pieces)}"/>')


def _borders(
    drawing: list[str], bands: Sequence[Band], scale: _Scale, top: float, bottom: float
) -> None:
    """Where migrations begin and end, drawn across the bars."""
    edges = {_n(scale.x(at)) for band in bands for at in (band.start, band.end)}
    lines = "".join(f"M{x} {_n(top)}V{_n(bottom)}" for x in sorted(edges, key=float))
    if lines:
        drawing.append(f'<path stroke="{_PAPER}" stroke-opacity=".7" d="{lines}"/>')


def _piece(scale: _Scale, span: Span, y: float, height: float) -> str:
    x = scale.x(span.start)
    width = max(scale.x(span.end) - x, 0.75)
    return f"M{_n(x)} {_n(y)}h{_n(width)}v{_n(height)}h{_n(-width)}z"


def _captions(
    drawing: list[str],
    rows: Sequence[Row],
    positions: Sequence[tuple[float, float]],
    top: float,
    bottom: float,
) -> None:
    if _labelled(rows):
        for row, (y, height) in zip(rows, positions, strict=True):
            weight, fill = (650, _BAND) if row.migrates else (400, _FAINT)
            baseline = y + height / 2 + 4
            drawing.append(_text(_MARGIN, baseline, row.label, size=11, fill=fill, weight=weight))
        return
    middle = (top + bottom) / 2
    drawing.append(
        f'<g transform="rotate(-90 {_n(_MARGIN + 10)} {_n(middle)})">'
        + _text(
            _MARGIN + 10, middle, f"{len(rows)} environments", size=12, fill=_FAINT, anchor="middle"
        )
        + "</g>"
    )


def _series(drawing: list[str], series: Series, scale: _Scale, top: float) -> None:
    bottom = top + _SERIES_HEIGHT
    inside = [point for point in series.points if scale.origin <= point[0]]
    peak = max((value for _, value in inside), default=0.0)
    most = max(peak, 1.0)

    def y(value: float) -> float:
        return bottom - value / most * (_SERIES_HEIGHT - 6)

    label = f"{series.label}: {peak:g} at most"
    drawing.append(_text(scale.left, top - 6, label, size=12, fill=_FAINT, halo=True))
    drawing.append(_line(scale.left, bottom, scale.left + scale.width, bottom, stroke=_FRAME))
    for value in (0.0, most):
        drawing.append(
            _text(scale.left - 6, y(value) + 4, f"{value:g}", size=11, fill=_FAINT, anchor="end")
        )
    if inside:
        edge = _steps(inside, scale, y)
        start, end = scale.x(inside[0][0]), scale.left + scale.width
        outline = f"M{_n(start)} {_n(bottom)}{edge}L{_n(end)} {_n(bottom)}z"
        drawing.append(f'<path fill="{_AREA}" fill-opacity=".75" d="{outline}"/>')
        line = "M" + edge[1:]
        drawing.append(f'<path fill="none" stroke="{_AREA_LINE}" stroke-width="1.5" d="{line}"/>')


def _steps(
    points: Sequence[tuple[float, float]], scale: _Scale, y: Callable[[float], float]
) -> str:
    """``Lx yH...V...``: a stair from the first point to the right edge; flat stretches are one."""
    path = f"L{_n(scale.x(points[0][0]))} {_n(y(points[0][1]))}"
    right = scale.left + scale.width
    for (_, before), (at, value) in itertools.pairwise(points):
        if value != before and scale.x(at) <= right:
            path += f"H{_n(scale.x(at))}V{_n(y(value))}"
    return path + f"H{_n(right)}"


# -- SVG ----------------------------------------------------------------------------------------


def _document(drawing: Iterable[str], title: str, width: int, height: float) -> str:
    body = "\n".join(drawing)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" height="{height:.0f}" font-family="{escape(_FONT)}">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1:.0f}" rx="10" '
        f'fill="{_PAPER}" stroke="{_FRAME}"/>\n'
        f"{body}\n</svg>\n"
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int,
    fill: str = _INK,
    weight: int = 400,
    anchor: str = "start",
    halo: bool = False,
) -> str:
    extra = "" if anchor == "start" else f' text-anchor="{anchor}"'
    extra += "" if weight == 400 else f' font-weight="{weight}"'
    if halo:
        extra += f' stroke="{_PAPER}" stroke-width="4" stroke-linejoin="round" paint-order="stroke"'
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{size}" fill="{fill}"{extra}>'
        f"{escape(text)}</text>"
    )


def _rect(
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    fill: str,
    opacity: float = 1.0,
    radius: float = 0.0,
) -> str:
    extra = "" if opacity == 1 else f' fill-opacity="{opacity:g}"'
    extra += "" if radius == 0 else f' rx="{radius:g}"'
    return (
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" '
        f'fill="{fill}"{extra}/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, *, stroke: str, opacity: float = 1.0) -> str:
    extra = "" if opacity == 1 else f' stroke-opacity="{opacity:g}"'
    return f'<path stroke="{stroke}"{extra} d="M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}"/>'


def _n(value: float) -> str:
    """A coordinate with two digits, without trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
