"""DynamoDB calls of a waiting environment among 1,000: read from the reports of `make storm`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load.bench.results import Check, Section, check_spread

__all__ = ["INSTANCES", "Calls", "measure", "parse_report", "select_reports"]

INSTANCES = 1000

_WHAT = (
    f"DynamoDB calls of a waiting environment, {INSTANCES:,} at once, a migration of 3 s, "
    "in the median"
)


@dataclass(frozen=True, slots=True)
class Calls:
    """The waiting environments of a storm: how many of how many, and their calls."""

    environments: int
    waited: int
    median: float
    worst: float
    passed: bool

    def describe(self, path: Path) -> str:
        """One storm in words."""
        failed = "" if self.passed else ", and the storm failed in other respects"
        return (
            f"{path}: {self.environments:,} environments, {self.waited:,} waited, "
            f"{self.median:g} calls in the median, {self.worst:g} at most{failed}"
        )


def measure(reports: Path) -> Section:
    """Nothing runs here: `make storm` starts 1,000 environments."""
    found = select_reports(
        (path, json.loads(path.read_text())) for path in reports.rglob("report.json")
    )
    if found:
        note = "; ".join(calls.describe(path.relative_to(reports.parent)) for path, calls in found)
        check = check_spread(_WHAT, 8, [calls.median for _, calls in found], note=note)
    else:
        note = f"there is no report of {INSTANCES:,} environments: run `make storm` first"
        check = Check(_WHAT, limit=8, value=None, note=note)
    data = {str(path): asdict(calls) for path, calls in found}
    return Section("calls", "DynamoDB calls of waiting environments", [check], data=data)


def select_reports(reports: Iterable[tuple[Path, Any]]) -> list[tuple[Path, Calls]]:
    """Every report of enough environments, all at once."""
    parsed = ((path, parse_report(report)) for path, report in sorted(reports, key=lambda r: r[0]))
    return [(path, calls) for path, calls in parsed if calls is not None]


def parse_report(report: Any) -> Calls | None:
    """A storm's calls; None if it is not the storm that was promised."""
    try:
        scenario, calls = report["scenario"], report["dynamodb_calls_of_each_waiter"]
        environments = sum(wave["environments"] for wave in scenario["waves"])
        if scenario["shape"] != "together" or environments < INSTANCES or not calls["count"]:
            return None
        return Calls(
            environments, calls["count"], calls["median"], calls["worst"], bool(report["passed"])
        )
    except (KeyError, TypeError):
        return None
