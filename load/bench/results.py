"""A figure beside its limit, tables of figures, and how figures are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


def compute_ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The ratio of two things in each round, so that drift between rounds cancels out."""
    return [one / other for one, other in zip(numerators, denominators, strict=True) if other > 0]


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that ``percent`` of all do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def format_number(value: float) -> str:
    """Three significant digits: ``1,234``, ``12.3``, ``0.012``."""
    return f"{value:,.0f}" if value == 0 or abs(value) >= 99.95 else f"{value:.3g}"


def format_spread(values: Sequence[float]) -> str:
    """``median (least to most)``, the one value where all are the same, ``-`` without any."""
    if not values:
        return "-"
    median, low, high = map(format_number, (statistics.median(values), min(values), max(values)))
    return median if low == high else f"{median} ({low} to {high})"


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit, and what was measured."""

    metric: str
    limit: float  # the most that the median may be
    values: Sequence[float]  # of several runs; empty where it could not be measured
    unit: str = ""  # of all of these
    note: str = ""  # what a reader must know about the figure

    @property
    def outcome(self) -> str:
        """``pass``, ``miss`` or ``not measured``."""
        if not self.values:
            return "not measured"
        return "pass" if statistics.median(self.values) <= self.limit else "miss"

    @property
    def measured(self) -> str:
        """The median with the least and the most."""
        return f"{format_spread(self.values)} {self.unit}".rstrip()

    @property
    def allowed(self) -> str:
        """The limit with its unit."""
        return f"{format_number(self.limit)} {self.unit}".rstrip()


class Table(NamedTuple):
    """Figures without a limit."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown_table(table: Table) -> str:
    """A table whose columns align in the source, too."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (table.header, *table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    padded = [[f"{cell:{n}}" for cell, n in zip(row, widths, strict=True)] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in padded) + "\n"


@dataclass(frozen=True, slots=True)
class Section:
    """What was measured for one row: figures with a limit, and without one."""

    limits: Sequence[Limit]
    tables: Sequence[Table] = ()


def find_missed_limits(sections: Iterable[Section]) -> list[Limit]:
    """Every limit that is not kept, or was not measured."""
    limits = (limit for section in sections for limit in section.limits)
    return [limit for limit in limits if limit.outcome != "pass"]
