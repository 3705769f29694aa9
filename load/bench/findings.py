"""A figure, the bar beside it, and the verdict. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

__all__ = [
    "Area",
    "Areas",
    "Chart",
    "Check",
    "Section",
    "Table",
    "Verdict",
    "missed",
    "number",
]


class Verdict(str, Enum):
    """What a check came to."""

    PASS = "PASS"  # noqa: S105 - a verdict
    MISS = "MISS"
    NOT_MEASURED = "NOT MEASURED"


@dataclass(frozen=True, slots=True)
class Check:
    """One bar and what was measured against it.

    Attributes:
        what: The promise, in words.
        bar: The most that it may be.
        value: What it is; None where it could not be measured.
        unit: Of both.
        range: Lowest and highest of the runs, where there were several.
        note: What a reader must know of the figure.
    """

    what: str
    bar: float
    value: float | None
    unit: str = ""
    range: tuple[float, float] | None = None
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether the bar is kept."""
        if self.value is None:
            return Verdict.NOT_MEASURED
        return Verdict.PASS if self.value <= self.bar else Verdict.MISS

    @property
    def measured(self) -> str:
        """The figure as a person reads it."""
        if self.value is None:
            return "-"
        text = number(self.value) + self._unit
        if self.range is None:
            return text
        low, high = self.range
        return f"{text} ({number(low)} to {number(high)})"

    @property
    def allowed(self) -> str:
        """The bar as a person reads it."""
        return f"{number(self.bar)}{self._unit}" if self.bar else "0" + self._unit

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""


@dataclass(frozen=True, slots=True)
class Table:
    """Figures without a bar: the peers', and what a ratio was made of."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """Horizontal bars.

    Attributes:
        name: Part of the picture's file name.
        title: What is compared.
        unit: Of the values.
        bars: Label, median, lowest, highest; in the order of the picture.
        limit: A bar to keep, drawn across, or None.
    """

    name: str
    title: str
    unit: str
    bars: Sequence[tuple[str, float, float, float]]
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Area:
    """One strip of `Areas`: a number over time, each value holding until the next."""

    label: str
    caption: str
    points: Sequence[tuple[float, float]]
    is_bad: bool = False


@dataclass(frozen=True, slots=True)
class Areas:
    """The same number over time for several peers, one strip each, as high as ``most``."""

    name: str
    title: str
    subtitle: str
    most: float
    rows: Sequence[Area]


@dataclass(frozen=True, slots=True)
class Section:
    """One row of the table that was promised."""

    key: str
    title: str
    checks: Sequence[Check]
    tables: Sequence[Table] = ()
    charts: Sequence[Chart | Areas] = ()
    notes: Sequence[str] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Everything, for a program."""
        document = asdict(self)
        document["checks"] = [
            asdict(check) | {"verdict": check.verdict.value} for check in self.checks
        ]
        return document


def missed(sections: Iterable[Section]) -> list[Check]:
    """Every check that does not keep its bar; one that was not measured keeps none."""
    return [
        check
        for section in sections
        for check in section.checks
        if check.verdict is not Verdict.PASS
    ]


def number(value: float) -> str:
    """Three digits that mean something: ``1234``, ``12.3``, ``0.012``."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
