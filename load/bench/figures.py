"""What a handful of measurements says: its middle, its range, its slope. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Interval", "Spread", "mean_interval", "percentile", "ratios", "slope", "spread"]

_T_95 = (
    (1, 12.706),
    (2, 4.303),
    (3, 3.182),
    (4, 2.776),
    (5, 2.571),
    (6, 2.447),
    (7, 2.365),
    (8, 2.306),
    (9, 2.262),
    (10, 2.228),
    (15, 2.131),
    (20, 2.086),
    (30, 2.042),
    (60, 2.000),
)
"""Two-sided 95 % points of Student's t by degrees of freedom."""

_NORMAL_95 = 1.960


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing.

    Attributes:
        median: The middle.
        low: The least.
        high: The most.
        runs: How many.
    """

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and range.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("nothing was measured")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratios(above: Sequence[float], below: Sequence[float], *, base: Sequence[float]) -> list[float]:
    """What one thing adds to a base against what another adds, for each round of a run.

    The three were measured by turns; drift between rounds is in all of them and falls out.

    Args:
        above: What is judged.
        below: What it is held against.
        base: What both of them contain.
    """
    return [
        (one - bare) / (other - bare)
        for one, other, bare in zip(above, below, base, strict=True)
        if other > bare
    ]


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that ``percent`` of all do not exceed (nearest rank).

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def slope(counts: Sequence[float], sizes: Sequence[float]) -> float:
    """Growth of ``sizes`` for each count: the least-squares line's."""
    return statistics.linear_regression(counts, sizes).slope


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of independent measurements, and where it lies with 95 % confidence.

    One process's sizes depend on each other, so that the scatter about its own line says too
    little; slopes of several processes do not.

    Raises:
        ValueError: Fewer than two values.
    """
    if len(values) < 2:
        raise ValueError("one measurement has no interval")
    mean = statistics.fmean(values)
    half = _t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def _t(degrees: int) -> float:
    """The point for the next lower number of degrees that is tabled: the wider interval."""
    return next((point for known, point in reversed(_T_95) if known <= degrees), _NORMAL_95)
