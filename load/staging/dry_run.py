"""Each pending migration, executed on the data and taken back: its time, its locks, its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lambda_migrate.deadline import Deadline
from lambda_migrate.events import null_observer
from lambda_migrate.local.stage import make_operator
from lambda_migrate.rehearsing import FAILED, REHEARSED, Rehearsed, RehearsedStep
from load.staging.verdicts import Limits, judge
from load.storm.stage import StormStage
from load.storm.verdicts import Verdict

__all__ = ["Blocking", "dry_run", "facts_of", "longest_of", "of_dry_run"]

_SECONDS = 900.0  # Lambda's longest timeout


@dataclass(frozen=True, slots=True)
class Blocking:
    """A lock that keeps others from writing, or from reading as well.

    Attributes:
        migration: Who took it.
        relation: On what.
        mode: As PostgreSQL's manual writes it.
        seconds: So long it is held at most: until its migration is committed.
    """

    migration: str
    relation: str
    mode: str
    seconds: float


def dry_run(stage: StormStage) -> Rehearsed:
    """``lambda-migrate plan --execute``, with the new code's files at hand.

    Raises:
        MigrateError: It could not be begun.
    """
    operator = make_operator(stage.codes[2], stage.variables(), stage.dynamodb, null_observer)
    rehearsed = operator.rehearse(Deadline.after(_SECONDS))
    assert rehearsed is not None  # noqa: S101 - None is for those who do not confirm
    return rehearsed


# -- what it comes to -----------------------------------------------------------------------------


def of_dry_run(rehearsed: Rehearsed, limits: Limits) -> Iterator[Verdict]:
    """Whether all pending migrations run on this data, and how long they keep others waiting."""
    what = "each pending migration runs on this data"
    names = [step.name for step in rehearsed.steps if step.outcome == REHEARSED]
    if rehearsed.error is not None:
        failed = next((s.name for s in rehearsed.steps if s.outcome == FAILED), "")
        said = str(rehearsed.error)
        found = said if not failed or failed in said else f"{failed}: {said}"
        yield Verdict(what, "failed", found)
        return
    if names:
        yield judge(what, True, f"{len(names)} of {len(rehearsed.steps)}")
    for step in rehearsed.steps:
        if step.outcome != REHEARSED:
            yield Verdict(f"{step.name} runs on this data", "not measured", step.reason)
    yield _longest(rehearsed, limits)


def _longest(rehearsed: Rehearsed, limits: Limits) -> Verdict:
    what = "longest lock that keeps others from writing"
    longest = longest_of(rehearsed)
    if longest is None:
        return judge(what, True, f"none (limit {limits.lock:g} s)")
    told = (
        f"{longest.seconds:.2f} s: {longest.migration}, {longest.mode} on {longest.relation} "
        f"(limit {limits.lock:g} s)"
    )
    return judge(what, longest.seconds <= limits.lock, told)


def longest_of(rehearsed: Rehearsed) -> Blocking | None:
    """The lock that is in others' way for the longest time; None if no migration takes any."""
    return max(_blocking(rehearsed.steps), key=lambda one: one.seconds, default=None)


def _blocking(steps: Sequence[RehearsedStep]) -> Iterator[Blocking]:
    for step in steps:
        for lock in step.measured.locks if step.measured else ():
            if lock.blocks:
                yield Blocking(step.name, lock.relation, lock.mode, step.seconds or 0.0)


def facts_of(rehearsed: Rehearsed) -> Mapping[str, Any]:
    """The same as figures, for the report."""
    return {
        "outcome": rehearsed.outcome,
        "seconds_in_all": round(rehearsed.seconds, 2),
        "migrations": [_step(step) for step in rehearsed.steps],
        "retried": list(rehearsed.retried),
        "lasting": list(rehearsed.lasting),
    }


def _step(step: RehearsedStep) -> dict[str, Any]:
    measured = step.measured
    return {
        "name": step.name,
        "outcome": step.outcome,
        "reason": step.reason,
        "seconds": None if step.seconds is None else round(step.seconds, 3),
        "locks": [
            {
                "relation": lock.relation,
                "kind": lock.kind,
                "mode": lock.mode,
                "blocks": list(lock.blocks),
                "is_new": lock.is_new,
                "since": lock.since,
            }
            for lock in (measured.locks if measured else ())
        ],
        "tables": [
            {
                "table": table.table,
                "rows": table.rows,
                "inserted": table.inserted,
                "updated": table.updated,
                "deleted": table.deleted,
                "scanned": table.scanned,
                "rewritten": table.rewritten,
                "bytes_before": table.bytes_before,
                "bytes_after": table.bytes_after,
            }
            for table in (measured.tables if measured else ())
        ],
    }
