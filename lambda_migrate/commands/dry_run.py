"""`plan --execute`: what is pending, run for real and rolled back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lambda_migrate.commands.dry_run_advice import advice_on
from lambda_migrate.commands.errors import failure_document
from lambda_migrate.commands.prompt import Question

if TYPE_CHECKING:
    from lambda_migrate.engine.dry_run import DryRunResult, DryRunStep
    from lambda_migrate.engine.operations import DryRunPlan
    from lambda_migrate.postgresql.dry_run_effects import RelationLock

__all__ = ["rehearsal_document", "rehearsal_question"]


def rehearsal_question(
    forecast: DryRunPlan, place: dict[str, str], *, in_production: bool
) -> Question:
    """What is asked before it begins, because it takes real locks.

    Args:
        forecast: What is about to run.
        place: Where.
        in_production: Whether somebody has said already that production is meant.
    """
    count, database = len(forecast.plan.pending), place["database"]
    what = f"{count} migration{'s' * (count != 1)}"
    is_grave = forecast.is_production and not in_production
    return Question(
        verb="plan --execute",
        ask=(
            f"{database} is {forecast.environment}: its users wait while this runs. Rehearse there?"
            if is_grave
            else f"rehearse {what}?"
        ),
        heading=(
            f"this runs {what} on {database} in one transaction and rolls it back. While it runs "
            "their locks are real: whoever reads or writes what they lock waits, and functions "
            "that start wait as for a migration."
        ),
        place=place,
        migrations=[
            {"name": migration.name, "applied_at": None} for migration in forecast.plan.pending
        ],
        notes=[f"no rollback undoes this: {effect}" for effect in forecast.irreversible_effects],
        word=forecast.environment if is_grave else "",
        flag="in_production" if is_grave else "",
    )


def rehearsal_document(rehearsed: DryRunResult) -> dict[str, Any]:
    """The value of ``rehearsal`` in the answer of ``plan --execute``."""
    return {
        "outcome": rehearsed.outcome,
        "rollback_confirmed": rehearsed.is_confirmed,
        "seconds": round(rehearsed.seconds, 3),
        "migrations": [_step(step) for step in rehearsed.steps],
        "retried": list(rehearsed.retried),
        "advice": [sentence for step in rehearsed.steps for sentence in advice_on(step)],
        "not_undone": {
            "dead_rows": [
                {"table": table, "rows": rows} for table, rows in rehearsed.dead_rows.items()
            ],
            "sequences": [asdict(moved) for moved in rehearsed.sequences],
            "effects": list(rehearsed.irreversible_effects),
        },
        "error": None if rehearsed.error is None else failure_document(rehearsed.error),
    }


def _step(step: DryRunStep) -> dict[str, Any]:
    measured = step.measured
    return {
        "version": step.version,
        "name": step.name,
        "outcome": step.outcome.replace(" ", "_"),
        "reason": step.reason,
        "seconds": None if step.seconds is None else round(step.seconds, 4),
        "locks": [_lock(lock) for lock in measured.locks] if measured else [],
        "tables": [asdict(change) for change in measured.tables] if measured else [],
    }


def _lock(lock: RelationLock) -> dict[str, Any]:
    return {**asdict(lock), "blocks": list(lock.blocks)}
