"""DynamoDB calls of a waiting environment among 1,000: read from the reports of storms."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load.bench.figures import spread
from load.bench.findings import Check, Section

__all__ = ["INSTANCES", "Calls", "calls_in", "fitting", "measure"]

INSTANCES = 1000

_TITLE = "DynamoDB calls of the waiting"
_WHAT = f"DynamoDB calls of a waiting environment, {INSTANCES:,} at once, a migration of 3 s"


@dataclass(frozen=True, slots=True)
class Calls:
    """What a storm says of its waiting environments.

    Attributes:
        environments: How many cold starts there were, all at once.
        waited: How many of them waited.
        median: Calls of one of these.
        worst: The most calls of one.
        passed: Whether the storm kept all of its own promises.
    """

    environments: int
    waited: int
    median: float
    worst: float
    passed: bool


def measure(reports: Path) -> Section:
    """Nothing is run here: 1,000 environments are `make storm`'s business."""
    found = fitting((path, json.loads(path.read_text())) for path in reports.rglob("report.json"))
    if not found:
        note = f"no report of {INSTANCES:,} environments is there: run `make storm` before"
        return Section("calls", _TITLE, [Check(_WHAT, bar=8, value=None, note=note)])
    medians = spread([calls.median for _, calls in found])
    return Section(
        "calls",
        _TITLE,
        [
            Check(
                f"{_WHAT}, in the median",
                bar=8,
                value=medians.median,
                range=(medians.low, medians.high) if len(found) > 1 else None,
                note="; ".join(_told(path.relative_to(reports.parent), one) for path, one in found),
            )
        ],
        data={str(path): asdict(calls) for path, calls in found},
    )


def _told(path: Path, calls: Calls) -> str:
    failed = "" if calls.passed else ", and the storm failed in other respects"
    return (
        f"{path}: {calls.environments:,} environments, {calls.waited:,} waited, "
        f"{calls.median:g} calls in the median, {calls.worst:g} at most{failed}"
    )


def fitting(reports: Iterable[tuple[Path, Any]]) -> list[tuple[Path, Calls]]:
    """Every report of enough environments, all at once."""
    read = ((path, calls_in(report)) for path, report in sorted(reports, key=lambda one: one[0]))
    return [(path, calls) for path, calls in read if calls is not None]


def calls_in(report: Any) -> Calls | None:
    """What a report says, if it is of the storm that was promised."""
    try:
        scenario, calls = report["scenario"], report["dynamodb_calls_of_each_waiter"]
        environments = sum(wave["environments"] for wave in scenario["waves"])
        if scenario["shape"] != "together" or environments < INSTANCES or not calls["count"]:
            return None
        return Calls(
            environments, calls["count"], calls["median"], calls["worst"], bool(report["passed"])
        )
    except (KeyError, TypeError):
        return None  # a report of something else
