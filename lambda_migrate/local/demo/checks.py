"""The cold starts of a storm, read from logs, PostgreSQL's history and Lambda's events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

from lambda_migrate.local.demo.timeline import Interval, Row, Span
from lambda_migrate.local.runtime.environment import EnvironmentEvent, InvocationResult

__all__ = [
    "ColdStartStorm",
    "Distribution",
    "SchemaCheck",
    "build_rows",
    "build_spans",
    "connection_times_by_fence",
    "read_check",
    "read_checks",
    "row_order",
    "to_intervals",
]


@dataclass(frozen=True, slots=True)
class SchemaCheck:
    """The schema check of one cold start, from the line that lambda-migrate logged at its end.

    Attributes:
        environment: The environment.
        outcome: ``UP_TO_DATE``, ``MIGRATED``, ``WAITED``; or the name of an error.
        ended: Its end in monotonic seconds.
        seconds: Its duration.
        waited: The part of it spent waiting for another environment.
        lease_calls: Requests to DynamoDB.
        fence: The fencing token; 0 if it never held the lease.
        applied: Names of the applied migrations.
        cause: Migration and SQLSTATE if a migration failed.
    """

    environment: str
    outcome: str
    ended: float
    seconds: float
    waited: float
    lease_calls: int
    fence: int
    applied: tuple[str, ...]
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Distribution:
    """The distribution of durations in seconds, or of counts."""

    count: int
    median: float
    p99: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution | None:
        """The distribution of ``values``; None if there are none."""
        if not values:
            return None
        ordered = sorted(values)
        rank = -(-99 * len(ordered) // 100)  # nearest rank
        return cls(len(ordered), median(ordered), ordered[rank - 1], ordered[-1])


@dataclass(frozen=True, slots=True)
class ColdStartStorm:
    """One version's cold starts.

    Attributes:
        version: The version of the example.
        results: One for each environment.
        checks: By environment; an environment that crashed has none.
        warm_results: Results of the warm invocations afterwards.
        intervals: The migrations on the same clock.
    """

    version: int
    results: Sequence[InvocationResult]
    checks: Mapping[str, SchemaCheck]
    warm_results: Sequence[InvocationResult] = field(default_factory=tuple)
    intervals: Sequence[Interval] = field(default_factory=tuple)

    @property
    def migrators(self) -> list[SchemaCheck]:
        """The checks that held the lease, in order."""
        return sorted((c for c in self.checks.values() if c.fence), key=lambda check: check.fence)

    @property
    def waiters(self) -> list[SchemaCheck]:
        """The checks that waited and never held the lease."""
        return [check for check in self.checks.values() if check.waited and not check.fence]

    def overlaps_interval(self, start: float, end: float) -> bool:
        """Whether any cold start was running between two times."""
        began = min((result.started for result in self.results), default=float("inf"))
        ended = max((result.ended for result in self.results), default=float("-inf"))
        return start < ended and end > began

    def wait_times(self) -> Distribution | None:
        """How long the waiters waited."""
        return Distribution.of([check.waited for check in self.waiters])

    def seconds_after_release(self) -> Distribution | None:
        """How long after the end of the last migrator each waiter was ready."""
        if not self.migrators:
            return None
        released = max(check.ended for check in self.migrators)
        return Distribution.of([max(0.0, check.ended - released) for check in self.waiters])

    def lease_calls(self) -> Distribution | None:
        """Requests to DynamoDB of each waiter."""
        return Distribution.of([check.lease_calls for check in self.waiters])


def read_check(environment: str, log: str, *, clock_offset: float) -> SchemaCheck | None:
    """Read the first check in an environment's log.

    Args:
        environment: Its id.
        log: Its log.
        clock_offset: Seconds since the epoch at monotonic time 0.
    """
    return next(read_checks(environment, log, clock_offset=clock_offset), None)


def read_checks(environment: str, log: str, *, clock_offset: float) -> Iterator[SchemaCheck]:
    """Read all checks in an environment's log, in order; a failed one is repeated."""
    for line in log.splitlines():
        if '"lambda_migrate":' not in line:
            continue
        fields = json.loads(line)
        facts: dict[str, Any] = fields["lambda_migrate"]
        yield SchemaCheck(
            environment=environment,
            outcome=facts.get("outcome") or facts["error"],
            ended=_seconds(fields["timestamp"]) - clock_offset,
            seconds=facts["duration_ms"] / 1000,
            waited=facts["waited_ms"] / 1000,
            lease_calls=facts["lease_calls"],
            fence=facts["fence"],
            applied=tuple(facts["applied"]),
            cause=_cause(facts),
        )


def _cause(facts: Mapping[str, Any]) -> str:
    fields = (facts.get("migration"), facts.get("sqlstate"))
    return " ".join(str(one) for one in fields if one)


def _seconds(timestamp: str) -> float:
    """Powertools' Logger writes ``2026-01-31 12:00:00,123+0000``."""
    return datetime.strptime(timestamp, "%Y-%m-%d %H:%M:%S,%f%z").timestamp()


def to_intervals(rows: Sequence[Sequence[Any]], *, clock_offset: float) -> list[Interval]:
    """Convert rows of name, start and end (seconds since the epoch) to intervals of a timeline."""
    return [Interval(name, start - clock_offset, end - clock_offset) for name, start, end in rows]


def connection_times_by_fence(
    sessions: Mapping[str, float], *, clock_offset: float
) -> dict[int, float]:
    """When each holder connected, by its fence, which is the end of its application name.

    Args:
        sessions: See `ConnectionSampler.sessions`.
        clock_offset: See `read_check`.
    """
    ends = {name.rpartition(":")[2]: at - clock_offset for name, at in sessions.items()}
    return {int(fence): at for fence, at in ends.items() if fence.isdigit()}


def build_rows(
    events: Iterable[EnvironmentEvent],
    checks: Mapping[str, SchemaCheck],
    *,
    label: str,
    group: str = "",
    connection_times: Mapping[int, float],
    until: float,
) -> list[Row]:
    """The rows of one function's environments, in the order in which they were ready.

    Args:
        events: The events of all environments, in order.
        checks: The first check of each environment.
        label: Prefix of each row's label.
        group: What the rows have in common.
        connection_times: See `connection_times_by_fence`.
        until: The end of the timeline.
    """
    by_environment: dict[str, list[EnvironmentEvent]] = {}
    for one in events:
        by_environment.setdefault(one.environment_id, []).append(one)
    rows = []
    for name, own in by_environment.items():
        check = checks.get(name)
        since = connection_times.get(check.fence) if check is not None else None
        spans = build_spans(own, check, connected_at=since, until=until)
        rows.append(Row(f"{label} {name}", spans, group))
    return sorted((row for row in rows if row.spans), key=row_order)


def row_order(row: Row) -> tuple[float, float]:
    """The sort key of rows."""
    return (row.spans[-1].start, row.spans[0].start)


def build_spans(
    events: Sequence[EnvironmentEvent],
    check: SchemaCheck | None,
    *,
    connected_at: float | None = None,
    until: float,
) -> list[Span]:
    """The phases of one environment.

    Args:
        events: Its events, in order.
        check: Its check; None if it logged none.
        connected_at: When it connected to PostgreSQL to migrate.
        until: The end of the timeline.
    """
    at: dict[str, float] = {event.phase: event.at for event in reversed(events)}
    if "started" not in at:
        return []
    end = min(at.get("ended", until), until)
    return list(_phases(at, check, connected_at=connected_at, end=end))


def _phases(
    at: Mapping[str, float], check: SchemaCheck | None, *, connected_at: float | None, end: float
) -> Iterator[Span]:
    if check is None:
        yield Span("starting", at["started"], min(end, at.get("returned", end)))
        if "returned" in at:
            yield Span("failed", at["returned"], max(end, at["returned"]))
        return
    done = min(check.ended, end)
    begins = check.ended - check.waited
    if check.fence and connected_at is not None:
        begins = min(connected_at, done)
    asks = max(at["started"], min(begins, done))
    yield Span("starting", at["started"], asks)
    if asks < done:
        yield Span("migrating" if check.fence else "waiting", asks, done)
    yield Span("serving" if check.outcome.isupper() else "failed", done, max(done, end))
