"""The report of the demo: a summary as JSON, a table, and a timeline."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from lambda_migrate.local.demo.checks import ColdStartStorm, Distribution
from lambda_migrate.local.demo.results import DemoResult, Rollback, find_faults, is_served
from lambda_migrate.local.demo.timeline import Interval, Row, Series, clip, render
from lambda_migrate.local.runtime.environment import InvocationResult

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["draw_timeline", "list_summary_rows", "make_table", "summarize", "write_report"]

SUMMARY = "summary.json"
TIMELINE = "timeline.svg"

_SECONDS_BEFORE_FIRST_CHECK = 1.0  # how much of the loading of a version the timeline shows
_SHORTEST_GAP_SECONDS = 2.0


def summarize(demo: DemoResult) -> dict[str, Any]:
    """The results as JSON values; durations are in seconds unless the key names the unit."""
    found = find_faults(demo)
    return {
        "passed": not found,
        "faults": found,
        "environments": demo.environments,
        "seconds": round(demo.seconds, 1),
        "versions": [_version(storm) for storm in demo.storms],
        "effects": dict(demo.effect_counts[-1]) if demo.effect_counts else {},
        "traffic": _invocations(demo.traffic),
        "rollback": _rollback(demo.rollback),
        "postgresql": {
            "version": demo.postgresql_version,
            "lambda_migrate_connections_at_most": demo.max_library_connections,
            "application_connections_at_most": demo.max_application_connections,
            "samples": len(demo.samples),
            "sample_interval_ms": interval_ms(demo),
        },
        "dynamodb": {
            "calls": sum(demo.dynamodb_requests.values()),
            "by_operation": dict(demo.dynamodb_requests),
        },
        "warm_invocation_microseconds": {
            name: round(value, 3) for name, value in demo.warm_microseconds.items()
        },
    }


def _version(storm: ColdStartStorm) -> dict[str, Any]:
    return {
        "version": storm.version,
        "cold_starts": _invocations(storm.results),
        "warm": _invocations(storm.warm_results),
        "migrated_by": [
            {
                "environment": check.environment,
                "fence": check.fence,
                "applied": list(check.applied),
            }
            for check in storm.migrators
        ],
        "waiters": len(storm.waiters),
        "waited": _round_distribution(storm.wait_times()),
        "after_release": _round_distribution(storm.seconds_after_release()),
        "dynamodb_calls_per_waiter": _round_distribution(storm.lease_calls()),
    }


def _invocations(results: Sequence[InvocationResult]) -> dict[str, Any]:
    times = Distribution.of([result.duration_seconds for result in results])
    failed = sum(not is_served(result) for result in results)
    return {"count": len(results), "failed": failed, "duration": _round_distribution(times)}


def _rollback(rollback: Rollback | None) -> dict[str, Any] | None:
    if rollback is None:
        return None
    return {
        "rolled_back": list(rollback.rolled_back),
        "seconds": round(rollback.seconds, 3),
        "taken_back": dict(rollback.rollback_counts),
        "cold_start_after": [check.outcome for check in rollback.cold_start.checks.values()],
    }


def _round_distribution(distribution: Distribution | None) -> dict[str, Any] | None:
    if distribution is None:
        return None
    return {name: round(value, 4) for name, value in asdict(distribution).items()}


def interval_ms(demo: DemoResult) -> dict[str, float] | None:
    """The time between two samples during the cold starts."""
    pairs = itertools.pairwise(demo.samples)
    gaps = [
        (after.at - before.at) * 1000
        for before, after in pairs
        if any(storm.overlaps_interval(before.at, after.at) for storm in demo.storms)
    ]
    return {"median": round(median(gaps), 1), "longest": round(max(gaps), 1)} if gaps else None


# -- for people -----------------------------------------------------------------------------------


def make_table(demo: DemoResult) -> Table:
    """The results by version, for a terminal."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, header_style="bold", pad_edge=False)
    table.add_column("", no_wrap=True)
    for storm in demo.storms:
        table.add_column(f"version {storm.version}", no_wrap=True)
    for label, cells in _per_version(demo.storms):
        table.add_row(label, *cells)
    return table


def _per_version(storms: Sequence[ColdStartStorm]) -> Iterator[tuple[str, list[str]]]:
    served = [sum(map(is_served, storm.results)) for storm in storms]
    yield (
        "concurrent cold starts",
        [f"{len(storm.results)}, {n} served" for storm, n in zip(storms, served, strict=True)],
    )
    yield "migrated by", [_list_migrators(storm) for storm in storms]
    yield "migrations applied", [_count_applied(storm) for storm in storms]
    yield "waited", [f"{len(storm.waiters)}" for storm in storms]
    yield "  how long", [_format_seconds(storm.wait_times()) for storm in storms]
    yield (
        "  of it after the migration",
        [_format_seconds(storm.seconds_after_release()) for storm in storms],
    )
    yield "  DynamoDB calls of each", [_format_counts(storm.lease_calls()) for storm in storms]
    yield (
        "warm invocations",
        [
            f"{len(storm.warm_results)}, {sum(map(is_served, storm.warm_results))} served"
            for storm in storms
        ],
    )


def _list_migrators(storm: ColdStartStorm) -> str:
    return ", ".join(f"{c.environment} (fence {c.fence})" for c in storm.migrators) or "none"


def _count_applied(storm: ColdStartStorm) -> str:
    intervals = [interval.end - interval.start for interval in storm.intervals]
    count = sum(len(check.applied) for check in storm.migrators)
    return f"{count} in {sum(intervals):.2f} s"


def _format_seconds(distribution: Distribution | None) -> str:
    if distribution is None:
        return "-"
    return f"{distribution.median:.1f} s, {distribution.worst:.1f} s at most"


def _format_counts(distribution: Distribution | None) -> str:
    return (
        "-" if distribution is None else f"{distribution.median:g}, {distribution.worst:g} at most"
    )


def list_summary_rows(demo: DemoResult) -> Iterator[tuple[str, str]]:
    """The other results: a label and a sentence each."""
    if demo.effect_counts:
        yield "migrations took effect", _format_effect_counts(demo.effect_counts[-1])
    if demo.traffic:
        duration = Distribution.of([result.duration_seconds for result in demo.traffic])
        served = sum(map(is_served, demo.traffic))
        slowest = f", the slowest in {duration.worst:.2f} s" if duration else ""
        yield (
            "version 1 during the changes",
            f"{served} of {len(demo.traffic)} served{slowest}",
        )
    if demo.rollback is not None:
        yield (
            "rollback",
            f"{len(demo.rollback.rolled_back)} migrations in {demo.rollback.seconds:.2f} s",
        )
    apart = interval_ms(demo)
    yield (
        "PostgreSQL connections",
        f"lambda-migrate {demo.max_library_connections} at most, "
        f"application {demo.max_application_connections} at most"
        + (f",\ncounted every {apart['median']:.0f} ms" if apart else ""),
    )
    calls = ", ".join(f"{count} {name}" for name, count in sorted(demo.dynamodb_requests.items()))
    yield "DynamoDB calls", f"{sum(demo.dynamodb_requests.values())} ({calls})"
    if demo.warm_microseconds:
        # The difference is about that of an empty decorator; a figure of it would be noise.
        more = demo.warm_microseconds["decorated"] - demo.warm_microseconds["bare"]
        bound = max(1, math.ceil(more))
        yield "a warm invocation takes", f"less than {bound} µs more with the decorator"


def _format_effect_counts(effects: Mapping[str, int]) -> str:
    others = [f"{name} {times} times" for name, times in effects.items() if times != 1]
    once = len(effects) - len(others)
    return ", ".join([f"{once} of {len(effects)} once", *others]) + ", counted in the database"


def draw_timeline(demo: DemoResult, rows: Sequence[Row]) -> str:
    """The timeline as SVG."""
    intervals = [interval for storm in demo.storms for interval in storm.intervals]
    if demo.rollback is not None:
        intervals += demo.rollback.intervals
    since = _first_check(demo) - _SECONDS_BEFORE_FIRST_CHECK
    samples = [sample for sample in demo.samples if sample.at >= since]
    rows = list(clip(rows, since))
    return render(
        rows,
        intervals=intervals,
        gaps=list(_find_gaps(rows)),
        series=[
            Series(
                "connections of lambda-migrate", [(s.at, s.library_connections) for s in samples]
            ),
            Series(
                "connections of the application",
                [(s.at, s.application_connections) for s in samples],
            ),
        ],
        title=f"{demo.environments} concurrent cold starts, twice, and a rollback",
        subtitle=_subtitle(demo),
    )


def _find_gaps(rows: Sequence[Row]) -> Iterator[Interval]:
    """The times in which this machine does nothing but start the environments of a version."""
    for _, members in itertools.groupby(rows, key=lambda row: row.group):
        own = list(members)
        spans = [span for row in own for span in row.spans]
        start = min((span.start for span in spans), default=0.0) + _SECONDS_BEFORE_FIRST_CHECK / 2
        checks = [span.start for span in spans if span.phase != "starting"]
        end = min(checks, default=0.0) - _SECONDS_BEFORE_FIRST_CHECK
        if end - start >= _SHORTEST_GAP_SECONDS:
            label = f"{end - start:.0f} s in which this machine starts {len(own)} environments"
            yield Interval(label, start, end)


def _first_check(demo: DemoResult) -> float:
    """When the first environment read the lease."""
    checks = [check for storm in demo.storms for check in storm.checks.values()]
    first = min((check.ended - check.waited for check in checks), default=0.0)
    return min([first, *(interval.start for storm in demo.storms for interval in storm.intervals)])


def _subtitle(demo: DemoResult) -> str:
    waiters = " and ".join(str(len(storm.waiters)) for storm in demo.storms)
    return (
        f"One of each version migrates, {waiters} wait without a PostgreSQL connection; "
        "version 1 serves throughout."
    )


def write_report(demo: DemoResult, rows: Sequence[Row], report: Path) -> list[Path]:
    """Write summary and timeline into ``report`` and return their paths."""
    report.mkdir(parents=True, exist_ok=True)
    paths = [report / SUMMARY]
    paths[0].write_text(json.dumps(summarize(demo), indent=2, ensure_ascii=False) + "\n")
    if any(row.spans for row in rows):
        paths.append(report / TIMELINE)
        paths[1].write_text(draw_timeline(demo, rows))
    return paths
