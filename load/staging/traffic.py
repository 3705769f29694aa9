"""How long clients waited while the schema changed: a dot for each request, over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from lambda_migrate.local.demo.findings import is_served
from lambda_migrate.local.demo.timeline import PHASES, Band
from load.staging.verdicts import CLIENTS
from load.storm.evidence import Evidence

__all__ = ["latencies"]

_WIDTH, _HEIGHT = 1000, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 44, 34
_INK, _FAINT, _GRID = "#23282f", "#6b7480", "#e8eaed"
_BAND = PHASES["migrating"]
_COLOURS = {"read": "#4a74b0", "write": PHASES["serving"]}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_LABEL_WIDTH = 6.2

Scale = Callable[[float], float]


def latencies(evidence: Evidence) -> str:
    """An SVG; "" where no client sent anything.

    Heights are logarithmic: one request of a second stands out among thousands of milliseconds,
    and these can still be told apart.
    """
    sent = [one for one in evidence.observed if one.kind in CLIENTS]
    if not sent:
        return ""
    since = min(one.result.started for one in sent)
    until = max(max(one.result.ended for one in sent), since + 0.001)
    most = max(one.result.duration_seconds for one in sent)
    low, high = -3, max(0, math.ceil(math.log10(max(most, 0.001))))
    base, across = _HEIGHT - _BOTTOM, _WIDTH - _LEFT - _RIGHT

    def x(at: float) -> float:
        return _LEFT + (min(max(at, since), until) - since) / (until - since) * across

    def y(seconds: float) -> float:
        share = (math.log10(max(seconds, 10**low)) - low) / (high - low)
        return base - share * (base - _TOP)

    bands = [band for band in evidence.bands if band.end > since and band.start < until]
    drawing = [*_bands(bands, x, base), *_grid(low, high, y, until - since, x, since)]
    for one in sent:
        result = one.result
        colour = _COLOURS[one.kind] if is_served(result) else PHASES["failed"]
        radius = 2.2 if is_served(result) else 4
        drawing.append(
            f'<circle cx="{x(result.started):.1f}" cy="{y(result.duration_seconds):.1f}" '
            f'r="{radius}" fill="{colour}" fill-opacity=".6"/>'
        )
    return _document(drawing)


def _bands(bands: Sequence[Band], x: Scale, base: float) -> list[str]:
    drawn, free_from = [], [-1e9, -1e9]
    for band in sorted(bands, key=lambda one: one.start):
        left, right = x(band.start), x(band.end)
        drawn.append(
            f'<rect x="{left:.1f}" y="{_TOP}" width="{max(right - left, 1):.1f}" '
            f'height="{base - _TOP:.1f}" fill="{_BAND}" fill-opacity=".12"/>'
        )
        width = _LABEL_WIDTH * len(band.label)
        at = min(left, _WIDTH - _RIGHT - width)
        lane = 0 if free_from[0] <= at else 1
        free_from[lane] = at + width + 8
        drawn.append(_text(at, 18 + 15 * lane, band.label, "start", fill=_BAND))
    return drawn


def _grid(low: int, high: int, y: Scale, seconds: float, x: Scale, since: float) -> list[str]:
    drawn = []
    for power in range(low, high + 1):
        at = y(10.0**power)
        label = f"{10.0**power:g} s" if power >= 0 else f"{10 ** (power + 3)} ms"
        drawn.append(f'<path stroke="{_GRID}" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>')
        drawn.append(_text(_LEFT - 6, at + 4, label, "end"))
    step = next((s for s in (1, 2, 5, 10, 20, 60, 120, 300) if seconds / s <= 12), 600)
    for tick in range(0, int(seconds) + 1, step):
        drawn.append(_text(x(since + tick), _HEIGHT - 12, f"{tick} s", "middle"))
    return drawn


def _text(x: float, y: float, text: str, anchor: str, *, fill: str = _FAINT) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" fill="{fill}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def _document(drawing: Sequence[str]) -> str:
    body = "\n".join(drawing)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="{escape(_FONT)}">'
        "<title>Requests of clients over time</title>\n"
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>\n{body}\n</svg>'
    )
