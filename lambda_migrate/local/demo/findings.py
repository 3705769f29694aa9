"""What the demo has seen, and what of it must not be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lambda_migrate.local.demo.evidence import Storm
from lambda_migrate.local.demo.sampler import Sample
from lambda_migrate.local.demo.timeline import Band
from lambda_migrate.local.runtime.environment import InvocationResult

__all__ = ["Findings", "Rollback", "faults", "is_served"]


@dataclass(frozen=True, slots=True)
class Rollback:
    """How version 2 was taken back.

    Attributes:
        reverted: Names of its migrations, the newest first.
        seconds: From the order to the end.
        bands: Each down script on the timeline.
        taken_back: How often each was taken back, counted in the database.
        cold_start: A fresh environment of version 1 afterwards.
    """

    reverted: tuple[str, ...]
    seconds: float
    bands: Sequence[Band]
    taken_back: Mapping[str, int]
    cold_start: Storm


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that the demo has seen.

    Attributes:
        environments: In each storm.
        seconds: From its first line to its last.
        storms: Version 1's and version 2's.
        effects: How often each migration took effect, counted in the database: after each storm.
        traffic: Invocations of version 1 while version 2 migrated and was rolled back.
        rollback: What came last; None if it did not come to that.
        samples: Connections.
        troubles: What else went wrong, one sentence each.
        dynamodb: Calls of all environments by operation.
        warm: See `measure_in_new_process`; empty if it did not come to that.
        postgresql: The server's version.
    """

    environments: int
    seconds: float
    storms: Sequence[Storm]
    effects: Sequence[Mapping[str, int]]
    traffic: Sequence[InvocationResult]
    rollback: Rollback | None
    samples: Sequence[Sample]
    troubles: Sequence[str]
    dynamodb: Mapping[str, int]
    warm: Mapping[str, float]
    postgresql: str

    @property
    def ours_at_most(self) -> int:
        """The most connections of lambda-migrate in any sample."""
        return max((sample.ours for sample in self.samples), default=0)

    @property
    def application_at_most(self) -> int:
        """The most connections of the application in any sample."""
        return max((sample.application for sample in self.samples), default=0)

    def invocations(self) -> Iterator[tuple[str, Sequence[InvocationResult]]]:
        """All of them, by what they were for."""
        for storm in self.storms:
            yield f"cold starts of version {storm.version}", storm.results
            yield f"warm invocations of version {storm.version}", storm.warm
        yield "invocations of version 1 while the schema changed", self.traffic
        if self.rollback is not None:
            yield "cold starts after the rollback", self.rollback.cold_start.results


def is_served(result: InvocationResult) -> bool:
    """Whether the handler returned, and did not answer with a server error."""
    payload = result.payload if isinstance(result.payload, dict) else {}
    return result.ok and int(payload.get("statusCode", 200)) < 500


def faults(findings: Findings) -> list[str]:
    """What must not be, one sentence each; [] if all went well."""
    found = list(_failed(findings))
    for effects in findings.effects:
        for name, times in effects.items():
            if times != 1:
                found.append(f"{name} took effect {times} times instead of once.")
    if findings.rollback is not None:
        for name, times in findings.rollback.taken_back.items():
            if times != 1:
                found.append(f"{name} was taken back {times} times instead of once.")
    if findings.ours_at_most > 1:
        found.append(
            f"{findings.ours_at_most} PostgreSQL connections of lambda-migrate were open at once; "
            "never more than one was promised."
        )
    found += findings.troubles
    if not findings.samples:
        found.append("the connections were never counted, so that nothing is proved about them.")
    return list(dict.fromkeys(found))


def _failed(findings: Findings) -> Iterator[str]:
    for what, results in findings.invocations():
        failed = [result for result in results if not is_served(result)]
        if failed:
            first = failed[0]
            why = first.error_message or json.dumps(first.payload)
            cause = why.partition("\n")[0]  # the rest is the log's tail, or the line with a caret
            yield f"{len(failed)} of {len(results)} {what} failed; the first: {cause}"
