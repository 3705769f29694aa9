"""Small charts of one series each, in the timeline's colours: SVG that needs nothing but itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from lambda_migrate.local.demo.timeline import PHASES

__all__ = ["bars", "cumulative", "histogram"]

WIDTH, HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 34, 40
_INK, _FAINT, _GRID = "#23282f", "#6b7480", "#e8eaed"
_BAR, _MARK = PHASES["waiting"], PHASES["migrating"]
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_BINS = 30


def bars(values: Sequence[int], *, title: str, unit: str) -> str:
    """How often each whole number comes; those between the least and the most are all there."""
    counts = Counter(values)
    least = min(counts)
    most = max(*counts, least + 7)  # or else one column would fill it all
    if most - least >= 2 * _BINS:
        return histogram([float(value) for value in values], title=title, unit=unit)
    heights = [counts[number] for number in range(least, most + 1)]
    step = max(1, len(heights) // 10)
    labels = [
        (place + 0.5, str(number))
        for place, number in enumerate(range(least, most + 1))
        if (number - least) % step == 0
    ]
    return _columns(heights, labels, title=title, unit=unit)


def histogram(values: Sequence[float], *, title: str, unit: str) -> str:
    """How the values are spread, in bins of the same width."""
    least, most = min(values), max(values)
    width = (most - least) / _BINS or 1.0
    counts = Counter(min(_BINS - 1, int((value - least) / width)) for value in values)
    labels = [(float(at), f"{least + at * width:.3g}") for at in range(0, _BINS + 1, 6)]
    return _columns([counts[n] for n in range(_BINS)], labels, title=title, unit=unit)


def _columns(
    heights: Sequence[int], labels: Sequence[tuple[float, str]], *, title: str, unit: str
) -> str:
    most = max(heights)
    column = (WIDTH - _LEFT - _RIGHT) / len(heights)
    base = HEIGHT - _BOTTOM
    drawing = _frame(title, unit, most)
    for place, height in enumerate(heights):
        tall = (base - _TOP) * height / most
        x = _LEFT + place * column
        drawing.append(
            f'<rect x="{x + 0.5:.1f}" y="{base - tall:.1f}" width="{max(column - 1, 0.8):.1f}" '
            f'height="{tall:.1f}" fill="{_BAR}"/>'
        )
    drawing += [_text(_LEFT + at * column, base + 15, text, "middle") for at, text in labels]
    return _document(drawing, title)


def cumulative(
    values: Sequence[float], marks: Sequence[tuple[str, float]], *, title: str, unit: str
) -> str:
    """Which share of the values is at most so high.

    Args:
        values: At least one.
        marks: Names and values to point out.
        title: Above it.
        unit: Of the values.
    """
    ordered = sorted(values)
    most = max(ordered[-1], 1e-9)
    base, across = HEIGHT - _BOTTOM, WIDTH - _LEFT - _RIGHT

    def x(value: float) -> float:
        return _LEFT + max(0.0, value) / most * across

    def y(share: float) -> float:
        return base - share * (base - _TOP)

    drawing = _frame(title, unit, 100)
    path = f"M{_LEFT} {base}"
    for number, value in enumerate(ordered, 1):
        path += f"H{x(value):.1f}V{y(number / len(ordered)):.1f}"
    drawing.append(f'<path fill="none" stroke="{PHASES["serving"]}" stroke-width="2" d="{path}"/>')
    for place, (name, value) in enumerate(marks):
        at = x(value)
        drawing.append(
            f'<path stroke="{_MARK}" stroke-dasharray="3 3" d="M{at:.1f} {_TOP}V{base}"/>'
        )
        anchor = "end" if at > WIDTH / 2 else "start"
        shift = -4 if anchor == "end" else 4
        label = f"{name} {value:.3g}"
        drawing.append(
            _text(at + shift, base - 44 + 14 * place, label, anchor, fill=_MARK, halo=True)
        )
    for tick in range(5):
        value = most * tick / 4
        drawing.append(_text(x(value), base + 15, f"{value:.2g}", "middle"))
    return _document(drawing, title)


def _frame(title: str, unit: str, most: float) -> list[str]:
    base, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    return [
        _text(_LEFT, 18, title, "start", size=13, fill=_INK),
        f'<path stroke="{_GRID}" d="M{_LEFT} {_TOP}H{right}M{_LEFT} {base}H{right}"/>',
        _text(_LEFT - 6, _TOP + 4, f"{most:g}", "end"),
        _text(_LEFT - 6, base + 4, "0", "end"),
        _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 8, unit, "middle"),
    ]


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str,
    *,
    size: int = 11,
    fill: str = _FAINT,
    halo: bool = False,
) -> str:
    extra = ' stroke="#fff" stroke-width="4" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"'
        f"{extra}>{escape(text)}</text>"
    )


def _document(drawing: Sequence[str], title: str) -> str:
    body = "\n".join(drawing)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="{escape(_FONT)}">'
        f"<title>{escape(title)}</title>\n{body}\n</svg>"
    )
