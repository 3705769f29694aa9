"""Bars with their range, and areas over time, as SVG that needs nothing but itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from load.bench.findings import Area, Areas, Chart, number

__all__ = ["areas", "bars"]

_PAPER, _FRAME, _INK, _FAINT, _GRID = "#fcfcfb", "#d5d8dc", "#23282f", "#6b7480", "#e8eaed"
_OURS, _OTHERS, _LIMIT, _AREA, _LINE = "#d9480f", "#a9b8cc", "#7a1f2b", "#c5d4ea", "#4a74b0"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_WIDTH, _MARGIN = 860, 28.0
_ROW, _BAR = 30.0, 16.0
_LABEL = 270.0
_AREA_ROW, _AREA_HEIGHT = 64.0, 44.0
_NAME = "lambda-migrate"


def bars(chart: Chart) -> str:
    """Horizontal bars: the median, and a line from the least to the most."""
    most = max([high for _, _, _, high in chart.bars] + [chart.limit or 0.0]) or 1.0
    room = _WIDTH - _LABEL - 2 * _MARGIN - 90
    top = 66.0
    drawing = [_text(_MARGIN, 40, chart.title, size=17, weight=650)]
    for row, (label, median, low, high) in enumerate(chart.bars):
        y = top + row * _ROW
        colour = _OURS if label.startswith(_NAME) else _OTHERS
        width = median / most * room
        left = _MARGIN + _LABEL
        drawing += [
            _text(left - 12, y + 13, label, size=13, anchor="end"),
            f'<rect x="{left}" y="{y}" width="{max(width, 1):.1f}" height="{_BAR}" rx="2" '
            f'fill="{colour}"/>',
            _line(left + low / most * room, y + 8, left + high / most * room, y + 8, _INK),
            _text(
                left + high / most * room + 10,
                y + 13,
                f"{number(median)} {chart.unit}",
                size=12,
                fill=_FAINT,
            ),
        ]
    bottom = top + len(chart.bars) * _ROW
    if chart.limit is not None:
        x = _MARGIN + _LABEL + chart.limit / most * room
        drawing.append(_line(x, top - 6, x, bottom, _LIMIT, dashed=True))
    return _document(drawing, chart.title, bottom + 14)


def areas(chart: Areas) -> str:
    """One strip for each peer: its connections over time, all on the same scales."""
    seconds = max([at for row in chart.rows for at, _ in row.points] + [1.0])
    most = max([chart.most, *(value for row in chart.rows for _, value in row.points)])
    left, room = _MARGIN + _LABEL, _WIDTH - _LABEL - 2 * _MARGIN
    drawing = [
        _text(_MARGIN, 40, chart.title, size=17, weight=650),
        _text(_MARGIN, 60, chart.subtitle, size=12, fill=_FAINT),
    ]
    top = 84.0
    for number_, row in enumerate(chart.rows):
        drawing += _strip(
            row, left=left, top=top + number_ * _AREA_ROW, x=room / seconds, most=most, room=room
        )
    bottom = top + len(chart.rows) * _AREA_ROW
    step = next(each for each in (1, 2, 5, 10, 20, 50, 100, 200) if seconds / each <= 12)
    for n in range(int(seconds / step) + 1):
        x = left + n * step * room / seconds
        drawing.append(_text(x, bottom + 8, f"{n * step}", size=11, fill=_FAINT, anchor="middle"))
    drawing.append(
        _text(left + room / 2, bottom + 26, "seconds", size=11, fill=_FAINT, anchor="middle")
    )
    return _document(drawing, chart.title, bottom + 40)


def _strip(row: Area, *, left: float, top: float, x: float, most: float, room: float) -> list[str]:
    base = top + _AREA_HEIGHT
    ours = row.label.startswith(_NAME)
    steps = _stair(row.points, left=left, base=base, x=x, y=_AREA_HEIGHT / most)
    return [
        _text(_MARGIN, top + 18, row.label, size=13, weight=650 if ours else 400),
        _text(_MARGIN, top + 35, row.caption, size=11, fill=_LIMIT if row.is_bad else _FAINT),
        _line(left, base, left + room, base, _FRAME),
        f'<path fill="{_OURS if ours else _AREA}" fill-opacity=".8" d="{steps}"/>',
        f'<path fill="none" stroke="{_OURS if ours else _LINE}" d="{steps}"/>',
    ]


def _stair(
    points: Sequence[tuple[float, float]], *, left: float, base: float, x: float, y: float
) -> str:
    path, last = f"M{left:.1f} {base:.1f}", 0.0
    for at, value in points:
        if value != last:
            path += f"H{left + at * x:.1f}V{base - value * y:.1f}"
            last = value
    end = points[-1][0] if points else 0.0
    return path + f"H{left + end * x:.1f}V{base:.1f}z"


def _document(drawing: Sequence[str], title: str, height: float) -> str:
    body = "\n".join(drawing)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'width="{_WIDTH}" height="{height:.0f}" font-family="{escape(_FONT)}">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect x=".5" y=".5" width="{_WIDTH - 1}" height="{height - 1:.0f}" rx="10" '
        f'fill="{_PAPER}" stroke="{_FRAME}"/>\n{body}\n</svg>\n'
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
) -> str:
    extra = "" if anchor == "start" else f' text-anchor="{anchor}"'
    extra += "" if weight == 400 else f' font-weight="{weight}"'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}"{extra}>'
        f"{escape(text)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, *, dashed: bool = False) -> str:
    extra = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path stroke="{stroke}"{extra} d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'
