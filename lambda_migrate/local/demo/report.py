"""What the demo has found: a summary, a table, a picture."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from lambda_migrate.local.demo.evidence import Spread, Storm
from lambda_migrate.local.demo.findings import Findings, Rollback, faults, is_served
from lambda_migrate.local.demo.timeline import Row, Series, clip, render
from lambda_migrate.local.runtime.environment import InvocationResult

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["draw", "facts", "summary", "table", "write"]

SUMMARY = "summary.json"
PICTURE = "timeline.svg"

_PRELUDE_SECONDS = 3.0  # of version 1's loading, which is of the same kind all along


def summary(findings: Findings) -> dict[str, Any]:
    """Everything as JSON values; seconds unless the key says otherwise."""
    found = faults(findings)
    return {
        "passed": not found,
        "faults": found,
        "environments": findings.environments,
        "seconds": round(findings.seconds, 1),
        "versions": [_version(storm) for storm in findings.storms],
        "effects": dict(findings.effects[-1]) if findings.effects else {},
        "traffic": _invocations(findings.traffic),
        "rollback": _rollback(findings.rollback),
        "postgresql": {
            "version": findings.postgresql,
            "lambda_migrate_connections_at_most": findings.ours_at_most,
            "application_connections_at_most": findings.application_at_most,
            "samples": len(findings.samples),
            "sample_interval_ms": interval_ms(findings),
        },
        "dynamodb": {
            "calls": sum(findings.dynamodb.values()),
            "by_operation": dict(findings.dynamodb),
        },
        "warm_invocation_microseconds": {
            name: round(value, 3) for name, value in findings.warm.items()
        },
    }


def _version(storm: Storm) -> dict[str, Any]:
    return {
        "version": storm.version,
        "cold_starts": _invocations(storm.results),
        "warm": _invocations(storm.warm),
        "migrated_by": [
            {
                "environment": check.environment,
                "fence": check.fence,
                "applied": list(check.applied),
            }
            for check in storm.migrators
        ],
        "waiters": len(storm.waiters),
        "waited": _spread(storm.waited()),
        "after_release": _spread(storm.after_release()),
        "dynamodb_calls_per_waiter": _spread(storm.lease_calls()),
    }


def _invocations(results: Sequence[InvocationResult]) -> dict[str, Any]:
    times = Spread.of([result.duration_seconds for result in results])
    failed = sum(not is_served(result) for result in results)
    return {"count": len(results), "failed": failed, "duration": _spread(times)}


def _rollback(rollback: Rollback | None) -> dict[str, Any] | None:
    if rollback is None:
        return None
    return {
        "reverted": list(rollback.reverted),
        "seconds": round(rollback.seconds, 3),
        "taken_back": dict(rollback.taken_back),
        "cold_start_after": [check.outcome for check in rollback.cold_start.checks.values()],
    }


def _spread(spread: Spread | None) -> dict[str, Any] | None:
    if spread is None:
        return None
    return {name: round(value, 4) for name, value in asdict(spread).items()}


def interval_ms(findings: Findings) -> dict[str, float] | None:
    """How far apart the samples were while environments asked, waited and migrated."""
    pairs = itertools.pairwise(findings.samples)
    gaps = [
        (after.at - before.at) * 1000
        for before, after in pairs
        if any(storm.lasted(before.at, after.at) for storm in findings.storms)
    ]
    return {"median": round(median(gaps), 1), "longest": round(max(gaps), 1)} if gaps else None


# -- for people -----------------------------------------------------------------------------------


def table(findings: Findings) -> Table:
    """The summary for a terminal."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE, header_style="bold", pad_edge=False)
    made.add_column("", no_wrap=True)
    for storm in findings.storms:
        made.add_column(f"version {storm.version}", no_wrap=True)
    for label, cells in _per_version(findings.storms):
        made.add_row(label, *cells)
    return made


def _per_version(storms: Sequence[Storm]) -> Iterator[tuple[str, list[str]]]:
    served = [sum(map(is_served, storm.results)) for storm in storms]
    yield (
        "cold starts at once",
        [f"{len(storm.results)}, {n} served" for storm, n in zip(storms, served, strict=True)],
    )
    yield "migrated by", [_who(storm) for storm in storms]
    yield "migrations applied", [_applied(storm) for storm in storms]
    yield "waited", [f"{len(storm.waiters)}" for storm in storms]
    yield "  median, p99 and worst", [_times(storm.waited()) for storm in storms]
    yield "  from the release on", [_times(storm.after_release()) for storm in storms]
    yield "  DynamoDB calls of each", [_counts(storm.lease_calls()) for storm in storms]
    yield (
        "warm invocations",
        [f"{len(storm.warm)}, {sum(map(is_served, storm.warm))} served" for storm in storms],
    )


def _who(storm: Storm) -> str:
    return ", ".join(f"{c.environment} (fence {c.fence})" for c in storm.migrators) or "nobody"


def _applied(storm: Storm) -> str:
    bands = [band.end - band.start for band in storm.bands]
    count = sum(len(check.applied) for check in storm.migrators)
    return f"{count} in {sum(bands):.2f} s"


def _times(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{spread.median:.2f}, {spread.p99:.2f}, {spread.worst:.2f} s"


def _counts(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:g}, {spread.worst:g} at most"


def facts(findings: Findings) -> Iterator[tuple[str, str]]:
    """What is not of one version: a label and a sentence."""
    if findings.effects:
        yield "migrations took effect", _counted(findings.effects[-1])
    if findings.traffic:
        duration = Spread.of([result.duration_seconds for result in findings.traffic])
        served = sum(map(is_served, findings.traffic))
        slowest = f", the slowest in {duration.worst:.2f} s" if duration else ""
        yield (
            "version 1 meanwhile",
            f"{served} of {len(findings.traffic)} invocations served{slowest}",
        )
    if findings.rollback is not None:
        yield (
            "rollback",
            f"{len(findings.rollback.reverted)} down scripts in "
            f"{findings.rollback.seconds:.2f} s, by version 1's code, from the database",
        )
    apart = interval_ms(findings)
    yield (
        "PostgreSQL connections",
        f"lambda-migrate {findings.ours_at_most} at most, "
        f"the application {findings.application_at_most} at most"
        + (f"; sampled every {apart['median']:.0f} ms" if apart else ""),
    )
    calls = ", ".join(f"{count} {name}" for name, count in sorted(findings.dynamodb.items()))
    yield "DynamoDB calls", f"{sum(findings.dynamodb.values())} ({calls})"
    if findings.warm:
        bare = findings.warm["bare"]
        yield (
            "a warm invocation costs",
            f"{findings.warm['decorated'] - bare:.2f} µs more with the decorator "
            f"(with one that does nothing: {findings.warm['passed_through'] - bare:.2f} µs)",
        )


def _counted(effects: Mapping[str, int]) -> str:
    others = [f"{name} {times} times" for name, times in effects.items() if times != 1]
    once = len(effects) - len(others)
    return ", ".join([f"{once} of {len(effects)} once", *others]) + ", counted in the database"


def draw(findings: Findings, rows: Sequence[Row]) -> str:
    """The timeline as SVG."""
    bands = [band for storm in findings.storms for band in storm.bands]
    if findings.rollback is not None:
        bands += findings.rollback.bands
    since = _first_question(findings) - _PRELUDE_SECONDS
    samples = [sample for sample in findings.samples if sample.at >= since]
    return render(
        list(clip(rows, since)),
        bands=bands,
        series=[
            Series("connections of lambda-migrate", [(s.at, s.ours) for s in samples]),
            Series("connections of the application", [(s.at, s.application) for s in samples]),
        ],
        title=f"{findings.environments} cold starts at once, twice, and a rollback",
        subtitle=_subtitle(findings),
    )


def _first_question(findings: Findings) -> float:
    """When the first environment knew whether to wait; loading it is of no interest."""
    checks = [check for storm in findings.storms for check in storm.checks.values()]
    first = min((check.ended - check.waited for check in checks), default=0.0)
    return min([first, *(band.start for storm in findings.storms for band in storm.bands)])


def _subtitle(findings: Findings) -> str:
    waiters = " and ".join(str(len(storm.waiters)) for storm in findings.storms)
    return (
        f"One of each version migrates, {waiters} wait without a PostgreSQL connection; "
        "version 1 serves throughout."
    )


def write(findings: Findings, rows: Sequence[Row], report: Path) -> list[Path]:
    """Write summary and picture into ``report``, and return their paths."""
    report.mkdir(parents=True, exist_ok=True)
    paths = [report / SUMMARY]
    paths[0].write_text(json.dumps(summary(findings), indent=2, ensure_ascii=False) + "\n")
    if any(row.spans for row in rows):
        paths.append(report / PICTURE)
        paths[1].write_text(draw(findings, rows))
    return paths
