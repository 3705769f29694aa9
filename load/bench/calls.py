"""DynamoDB calls of a waiting environment among 1,000: read from the storm's report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from load.bench.figures import percentile
from load.bench.findings import Check, Section, number

__all__ = ["INSTANCES", "best", "measure"]

INSTANCES = 1000
_LONG = (2.5, 10.0)  # what may pass for "a migration of 3 s" with nine short ones beside it


def measure(reports: Path) -> Section:
    """Nothing is run here: 1,000 environments are `make storm`'s business."""
    found = best((path, json.loads(path.read_text())) for path in reports.rglob("report.json"))
    what = f"DynamoDB calls of a waiting environment, {INSTANCES:,} at once, a migration of 3 s"
    if found is None:
        note = f"no report of {INSTANCES:,} environments is there: run `make storm` before"
        return Section("calls", _TITLE, [Check(what, bar=8, value=None, note=note)])
    path, report = found
    calls = report["waits"]["lease_calls"]
    return Section(
        "calls",
        _TITLE,
        [
            Check(
                f"{what}, in the median",
                bar=8,
                value=percentile(calls, 50),
                range=(min(calls), max(calls)),
                note=f"from `make storm`'s {path.relative_to(reports.parent)}: {report['n']:,} "
                f"environments, {len(calls):,} waited, the migrations took "
                f"{number(report['migration_seconds'])} s",
            )
        ],
        data={"lease_calls": calls},
    )


_TITLE = "DynamoDB calls of the waiting"


def best(reports: Iterable[tuple[Path, Any]]) -> tuple[Path, Any] | None:
    """The newest report of enough environments and about the right migration."""
    fitting = [
        (path, report)
        for path, report in reports
        if isinstance(report, dict)
        and report.get("n", 0) >= INSTANCES
        and _LONG[0] <= report.get("migration_seconds", 0) <= _LONG[1]
        and report.get("waits", {}).get("lease_calls")
    ]
    return max(fitting, key=lambda one: one[0].stat().st_mtime, default=None)
