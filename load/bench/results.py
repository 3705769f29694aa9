"""A figure, the bar beside it, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from load.bench.figures import format_number, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Check", "Section", "Table", "Verdict", "check_spread", "missed"]


class Verdict(str, Enum):
    """The outcome of a check."""

    PASS = "PASS"  # noqa: S105 - a verdict
    MISS = "MISS"
    NOT_MEASURED = "NOT MEASURED"


@dataclass(frozen=True, slots=True)
class Check:
    """One bar and what was measured against it.

    Attributes:
        what: What is measured.
        limit: The most that it may be.
        value: What it is; None where it could not be measured.
        unit: Of both.
        range: Lowest and highest of the runs, where there were several.
        note: What a reader must know about the figure.
    """

    what: str
    limit: float
    value: float | None
    unit: str = ""
    range: tuple[float, float] | None = None
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether the bar is kept."""
        if self.value is None:
            return Verdict.NOT_MEASURED
        return Verdict.PASS if self.value <= self.limit else Verdict.MISS

    @property
    def measured(self) -> str:
        """The figure with its range and unit."""
        if self.value is None:
            return "-"
        text = self._with_unit(self.value)
        if self.range is None:
            return text
        low, high = self.range
        return f"{text} ({format_number(low)} to {format_number(high)})"

    @property
    def allowed(self) -> str:
        """The bar with its unit."""
        return self._with_unit(self.limit)

    def _with_unit(self, value: float) -> str:
        return f"{format_number(value)} {self.unit}".rstrip()


def check_spread(
    what: str, bar: float, values: Sequence[float], *, unit: str = "", note: str = ""
) -> Check:
    """A check of the median of several runs."""
    found = spread(values)
    several = (found.low, found.high) if len(values) > 1 else None
    return Check(what, bar, found.median, unit, several, note)


@dataclass(frozen=True, slots=True)
class Table:
    """Figures without a bar."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One row of the table of promises, with all that was measured for it.

    Attributes:
        key: Its name on the command line.
        title: Its heading.
        checks: Its bars.
        tables: Figures without a bar.
        charts: Pictures by file name, without the ending.
        notes: How it was measured.
        data: Raw figures, for the JSON report.
    """

    key: str
    title: str
    checks: Sequence[Check]
    tables: Sequence[Table] = ()
    charts: Mapping[str, Figure] = field(default_factory=dict)
    notes: Sequence[str] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Everything but the pictures."""
        checks = [asdict(check) | {"verdict": check.verdict.value} for check in self.checks]
        tables = [asdict(table) for table in self.tables]
        return {
            "key": self.key,
            "title": self.title,
            "checks": checks,
            "tables": tables,
            "notes": list(self.notes),
            "data": self.data,
        }


def missed(sections: Iterable[Section]) -> list[Check]:
    """Every check whose bar is not kept, or that was not measured."""
    checks = (check for section in sections for check in section.checks)
    return [check for check in checks if check.verdict is not Verdict.PASS]
