"""DynamoDB calls of a waiting environment among 1,000: read from the reports of `make storm`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from load.bench.results import Limit, Section

__all__ = ["measure"]

ENVIRONMENTS = 1000


def measure(reports: Path) -> Section:
    """Nothing runs here: `make storm` starts 1,000 environments."""
    what = f"DynamoDB calls of a waiting environment, {ENVIRONMENTS:,} at once, in the median"
    medians, notes = [], []
    for path in sorted(reports.rglob("report.json")):
        report = json.loads(path.read_text())
        if _is_large_storm(report):
            calls = report["dynamodb_calls_of_each_waiter"]
            medians.append(calls["median"])
            failed = "" if report["passed"] else ", and the storm failed in other respects"
            notes.append(
                f"{path.parent.relative_to(reports)}: {calls['count']:,} waited, "
                f"{calls['median']:g} calls in the median, {calls['worst']:g} at most{failed}"
            )
    if not notes:
        notes = [f"there is no report of {ENVIRONMENTS:,} environments: run `make storm` first"]
    return Section([Limit(what, 8, medians, note="; ".join(notes))])


def _is_large_storm(report: Any) -> bool:
    try:
        scenario = report["scenario"]
        environments = sum(wave["environments"] for wave in scenario["waves"])
        has_waiters = bool(report["dynamodb_calls_of_each_waiter"])
    except (KeyError, TypeError):
        return False
    return has_waiters and scenario["shape"] == "together" and environments >= ENVIRONMENTS
