"""Medians, ranges, ratios and percentiles, and how they are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "format_number", "format_spread", "percentile", "ratios", "spread"]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median, the least and the most of several measurements."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and range.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("nothing was measured")
    return Spread(statistics.median(values), min(values), max(values))


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratio of two things in each round, so that drift between rounds cancels out."""
    return [one / other for one, other in zip(above, below, strict=True) if other > 0]


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that ``percent`` of all do not exceed (nearest rank).

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def format_number(value: float) -> str:
    """Three significant digits: ``1,234``, ``12.3``, ``0.012``."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def format_spread(values: Sequence[float]) -> str:
    """``median (least to most)``, or the one value where all are the same."""
    found = spread(values)
    median, low, high = map(format_number, (found.median, found.low, found.high))
    return median if low == high else f"{median} ({low} to {high})"
