"""What happened in a storm, read from what the environments, PostgreSQL and Lambda have noted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

from lambda_migrate.local.demo.timeline import Band, Row, Span
from lambda_migrate.local.runtime.environment import EnvironmentEvent, InvocationResult

__all__ = [
    "Check",
    "Spread",
    "Storm",
    "bands_of",
    "connection_times_by_fence",
    "read_check",
    "read_checks",
    "ready_at",
    "rows_of",
    "spans_of",
]


@dataclass(frozen=True, slots=True)
class Check:
    """One cold start's check, from the line that lambda-migrate logged at its end.

    Attributes:
        environment: Whose.
        outcome: ``UP_TO_DATE``, ``MIGRATED``, ``WAITED``; or the name of an error.
        ended: Monotonic seconds.
        seconds: How long it took.
        waited: Of these, spent waiting for another environment.
        lease_calls: Calls to DynamoDB.
        fence: The fencing token; 0 if it never held the lease.
        applied: Names of the migrations that it applied.
        cause: Migration and SQLSTATE, where it failed because of them.
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
class Spread:
    """Some durations, in seconds, or counts."""

    count: int
    median: float
    p99: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Their spread; None if there are none."""
        if not values:
            return None
        ordered = sorted(values)
        rank = -(-99 * len(ordered) // 100)  # nearest rank: the smallest that 99 % do not exceed
        return cls(len(ordered), median(ordered), ordered[rank - 1], ordered[-1])


@dataclass(frozen=True, slots=True)
class Storm:
    """One version's cold starts.

    Attributes:
        version: Of the example.
        results: One for each environment.
        checks: By environment; an environment that crashed has none.
        warm: Results of the warm invocations that came after.
        bands: The migrations on the same clock.
    """

    version: int
    results: Sequence[InvocationResult]
    checks: Mapping[str, Check]
    warm: Sequence[InvocationResult] = field(default_factory=tuple)
    bands: Sequence[Band] = field(default_factory=tuple)

    @property
    def migrators(self) -> list[Check]:
        """Those that held the lease, in order."""
        return sorted((c for c in self.checks.values() if c.fence), key=lambda check: check.fence)

    @property
    def waiters(self) -> list[Check]:
        """Those that never held the lease and had to wait."""
        return [check for check in self.checks.values() if check.waited and not check.fence]

    def lasted(self, start: float, end: float) -> bool:
        """Whether cold starts were going on at any time between two moments."""
        began = min((result.started for result in self.results), default=float("inf"))
        ended = max((result.ended for result in self.results), default=float("-inf"))
        return start < ended and end > began

    def waited(self) -> Spread | None:
        """How long the waiters waited."""
        return Spread.of([check.waited for check in self.waiters])

    def after_release(self) -> Spread | None:
        """How long after the last migrator was done each waiter knew it."""
        if not self.migrators:
            return None
        released = max(check.ended for check in self.migrators)
        return Spread.of([max(0.0, check.ended - released) for check in self.waiters])

    def lease_calls(self) -> Spread | None:
        """Calls to DynamoDB of each waiter."""
        return Spread.of([check.lease_calls for check in self.waiters])


def read_check(environment: str, log: str, *, epoch: float) -> Check | None:
    """Find the first line of lambda-migrate in an environment's log.

    Args:
        environment: Its name.
        log: All that it wrote.
        epoch: What is to be subtracted from seconds since the epoch for monotonic ones.
    """
    return next(read_checks(environment, log, epoch=epoch), None)


def read_checks(environment: str, log: str, *, epoch: float) -> Iterator[Check]:
    """Every check of an environment, in order: one that failed is repeated; see `read_check`."""
    for line in log.splitlines():
        if '"lambda_migrate":' not in line:
            continue
        said = json.loads(line)
        facts: dict[str, Any] = said["lambda_migrate"]
        yield Check(
            environment=environment,
            outcome=facts.get("outcome") or facts["error"],
            ended=_seconds(said["timestamp"]) - epoch,
            seconds=facts["duration_ms"] / 1000,
            waited=facts["waited_ms"] / 1000,
            lease_calls=facts["lease_calls"],
            fence=facts["fence"],
            applied=tuple(facts["applied"]),
            cause=_cause(facts),
        )


def _cause(facts: Mapping[str, Any]) -> str:
    said = (facts.get("migration"), facts.get("sqlstate"))
    return " ".join(str(one) for one in said if one)


def _seconds(timestamp: str) -> float:
    """Powertools' Logger writes ``2026-01-31 12:00:00,123+0000``."""
    return datetime.strptime(timestamp, "%Y-%m-%d %H:%M:%S,%f%z").timestamp()


def bands_of(rows: Sequence[Sequence[Any]], *, epoch: float) -> list[Band]:
    """Rows of name, started and applied (seconds since the epoch) as bands of a timeline."""
    return [Band(name, start - epoch, end - epoch) for name, start, end in rows]


def connection_times_by_fence(sessions: Mapping[str, float], *, epoch: float) -> dict[int, float]:
    """When each holder connected to PostgreSQL, by its fence: its application name ends with it.

    Args:
        sessions: See `ConnectionSampler.sessions`.
        epoch: See `read_check`.
    """
    ends = {name.rpartition(":")[2]: at - epoch for name, at in sessions.items()}
    return {int(fence): at for fence, at in ends.items() if fence.isdigit()}


def rows_of(
    happenings: Iterable[EnvironmentEvent],
    checks: Mapping[str, Check],
    *,
    label: str,
    connected: Mapping[int, float],
    until: float,
) -> list[Row]:
    """One function's environments, in the order in which they could serve.

    Args:
        happenings: Of all of them, in order.
        checks: The first of each environment.
        label: Goes before each name.
        connected: See `connection_times_by_fence`.
        until: Where the picture ends.
    """
    by_environment: dict[str, list[EnvironmentEvent]] = {}
    for one in happenings:
        by_environment.setdefault(one.environment_id, []).append(one)
    rows = []
    for name, own in by_environment.items():
        check = checks.get(name)
        since = connected.get(check.fence) if check is not None else None
        rows.append(Row(f"{label} {name}", spans_of(own, check, connected=since, until=until)))
    return sorted((row for row in rows if row.spans), key=ready_at)


def ready_at(row: Row) -> tuple[float, float]:
    """What rows are ordered by."""
    return (row.spans[-1].start, row.spans[0].start)


def spans_of(
    happenings: Sequence[EnvironmentEvent],
    check: Check | None,
    *,
    connected: float | None = None,
    until: float,
) -> list[Span]:
    """One environment's phases.

    Args:
        happenings: Its own, in order.
        check: Its check; None if it wrote no line.
        connected: When it connected to PostgreSQL to migrate.
        until: Where the picture ends.
    """
    at: dict[str, float] = {happening.phase: happening.at for happening in reversed(happenings)}
    if "started" not in at:
        return []
    end = min(at.get("ended", until), until)
    return list(_phases(at, check, connected=connected, end=end))


def _phases(
    at: Mapping[str, float], check: Check | None, *, connected: float | None, end: float
) -> Iterator[Span]:
    if check is None:
        yield Span("starting", at["started"], min(end, at.get("returned", end)))
        if "returned" in at:
            yield Span("failed", at["returned"], max(end, at["returned"]))
        return
    done = min(check.ended, end)
    begins = check.ended - check.waited
    if check.fence and connected is not None:
        begins = min(connected, done)
    asks = max(at["started"], min(begins, done))
    yield Span("starting", at["started"], asks)
    if asks < done:
        yield Span("migrating" if check.fence else "waiting", asks, done)
    yield Span("serving" if check.outcome.isupper() else "failed", done, max(done, end))
