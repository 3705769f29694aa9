"""The results of the demo, and the promises that they break."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lambda_migrate.local.demo.checks import ColdStartStorm
from lambda_migrate.local.demo.sampler import Sample
from lambda_migrate.local.demo.timeline import Interval
from lambda_migrate.local.runtime.environment import InvocationResult

__all__ = ["DemoResult", "Rollback", "find_faults", "is_served"]


@dataclass(frozen=True, slots=True)
class Rollback:
    """The rollback of version 2.

    Attributes:
        rolled_back: Names of its migrations, newest first.
        seconds: Its duration.
        intervals: The down scripts on the timeline.
        rollback_counts: How often each was rolled back, counted in the database.
        cold_start: A new environment of version 1 afterwards.
    """

    rolled_back: tuple[str, ...]
    seconds: float
    intervals: Sequence[Interval]
    rollback_counts: Mapping[str, int]
    cold_start: ColdStartStorm


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Everything that the demo measured.

    Attributes:
        environments: Number of environments of each version.
        seconds: Duration of the demo.
        storms: The cold starts of version 1 and of version 2.
        effect_counts: How often each migration took effect, counted in the database after each
            storm.
        traffic: Invocations of version 1 while version 2 migrated and was rolled back.
        rollback: The rollback; None if an earlier step failed.
        samples: Counts of connections.
        errors: Other errors, one sentence each.
        dynamodb_requests: DynamoDB requests of all environments by operation.
        warm_microseconds: See `measure_in_new_process`; empty if an earlier step failed.
        postgresql_version: The server's version.
    """

    environments: int
    seconds: float
    storms: Sequence[ColdStartStorm]
    effect_counts: Sequence[Mapping[str, int]]
    traffic: Sequence[InvocationResult]
    rollback: Rollback | None
    samples: Sequence[Sample]
    errors: Sequence[str]
    dynamodb_requests: Mapping[str, int]
    warm_microseconds: Mapping[str, float]
    postgresql_version: str

    @property
    def max_library_connections(self) -> int:
        """The maximum number of connections of lambda-migrate."""
        return max((sample.library_connections for sample in self.samples), default=0)

    @property
    def max_application_connections(self) -> int:
        """The maximum number of connections of the application."""
        return max((sample.application_connections for sample in self.samples), default=0)

    def invocations(self) -> Iterator[tuple[str, Sequence[InvocationResult]]]:
        """All invocations by purpose."""
        for storm in self.storms:
            yield f"cold starts of version {storm.version}", storm.results
            yield f"warm invocations of version {storm.version}", storm.warm_results
        yield "invocations of version 1 while the schema changed", self.traffic
        if self.rollback is not None:
            yield "cold starts after the rollback", self.rollback.cold_start.results


def is_served(result: InvocationResult) -> bool:
    """Whether the handler returned, and did not respond with a server error."""
    payload = result.payload if isinstance(result.payload, dict) else {}
    return result.ok and int(payload.get("statusCode", 200)) < 500


def find_faults(demo: DemoResult) -> list[str]:
    """The broken promises, one sentence each; [] if there are none."""
    found = list(_failed(demo))
    for effects in demo.effect_counts:
        for name, times in effects.items():
            if times != 1:
                found.append(f"{name} took effect {times} times instead of once.")
    if demo.rollback is not None:
        for name, times in demo.rollback.rollback_counts.items():
            if times != 1:
                found.append(f"{name} was rolled back {times} times instead of once.")
    if demo.max_library_connections > 1:
        found.append(
            f"lambda-migrate had {demo.max_library_connections} PostgreSQL connections at the same "
            "time instead of at most one."
        )
    found += demo.errors
    if not demo.samples:
        found.append("The connections were never counted.")
    return list(dict.fromkeys(found))


def _failed(demo: DemoResult) -> Iterator[str]:
    for what, results in demo.invocations():
        failed = [result for result in results if not is_served(result)]
        if failed:
            first = failed[0]
            why = first.error_message or json.dumps(first.payload)
            cause = why.partition("\n")[0]  # the rest is the tail of the log
            yield f"{len(failed)} of {len(results)} {what} failed; the first: {cause}"
