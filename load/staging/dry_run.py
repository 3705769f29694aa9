"""Each pending migration, executed on the data and taken back: its time, its locks, its rows.

What is judged is the document that ``lambda-migrate plan --dry-run --format json`` answers with,
whether it was asked here or in a function's VPC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lambda_migrate.clock import Deadline
from lambda_migrate.commands.dry_run import build_dry_run_document
from lambda_migrate.events import null_observer
from lambda_migrate.local.demo.stage import make_operator
from load.staging.verdicts import Limits, judge
from load.storm.stage import StormStage
from load.storm.verdicts import Verdict

__all__ = ["Blocking", "dry_run", "longest_of", "of_dry_run"]

Document = Mapping[str, Any]

_SECONDS = 900.0  # Lambda's longest timeout
_RAN, _FAILED = "ran", "failed"


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


def dry_run(stage: StormStage) -> Document:
    """``lambda-migrate plan --dry-run``, with the new code's files at hand.

    Raises:
        MigrateError: It could not be begun.
    """
    operator = make_operator(stage.codes[2], stage.variables(), stage.dynamodb, null_observer)
    rehearsed = operator.dry_run(Deadline.after(_SECONDS))
    assert rehearsed is not None  # noqa: S101 - None is for those who do not confirm
    return build_dry_run_document(rehearsed)


def of_dry_run(found: Document, limits: Limits) -> Iterator[Verdict]:
    """Whether all pending migrations run on this data, and how long they keep others waiting.

    Args:
        found: The answer's ``rehearsal``.
        limits: What is borne.
    """
    what = "each pending migration runs on this data"
    steps: Sequence[Document] = found["migrations"]
    if found["error"] is not None:
        said = str(found["error"]["message"])
        failed = next((step["name"] for step in steps if step["outcome"] == _FAILED), "")
        yield Verdict(what, "failed", said if failed in said else f"{failed}: {said}")
        return
    ran = [step for step in steps if step["outcome"] == _RAN]
    if ran:
        yield judge(what, True, f"{len(ran)} of {len(steps)}")
    for step in steps:
        if step["outcome"] != _RAN:
            yield Verdict(f"{step['name']} runs on this data", "not measured", step["reason"])
    yield _longest(found, limits)


def _longest(found: Document, limits: Limits) -> Verdict:
    what = "longest lock that keeps others from writing"
    longest = longest_of(found)
    if longest is None:
        return judge(what, True, f"none (limit {limits.lock:g} s)")
    told = (
        f"{longest.seconds:.2f} s: {longest.migration}, {longest.mode} on {longest.relation} "
        f"(limit {limits.lock:g} s)"
    )
    return judge(what, longest.seconds <= limits.lock, told)


def longest_of(found: Document) -> Blocking | None:
    """The lock that is in others' way for the longest time; None if no migration takes any."""
    return max(_blocking(found["migrations"]), key=lambda one: one.seconds, default=None)


def _blocking(steps: Sequence[Document]) -> Iterator[Blocking]:
    for step in steps:
        for lock in step["locks"]:
            if lock["blocks"]:
                seconds = step["seconds"] or 0.0
                yield Blocking(step["name"], lock["relation"], lock["mode"], seconds)
