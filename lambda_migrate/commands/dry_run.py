"""`plan --dry-run`: run the pending migrations in a transaction and roll it back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lambda_migrate.commands.documents import build_version
from lambda_migrate.commands.dry_run_advice import advise
from lambda_migrate.commands.errors import build_error_document
from lambda_migrate.commands.prompt import Question

if TYPE_CHECKING:
    from lambda_migrate.engine.dry_run import DryRunResult, DryRunStep
    from lambda_migrate.engine.operations import DryRunPlan
    from lambda_migrate.postgresql.dry_run_effects import RelationLock

__all__ = ["build_dry_run_document", "build_dry_run_question"]


def build_dry_run_question(
    dry_run_plan: DryRunPlan, location: dict[str, str], *, in_production: bool
) -> Question:
    """Build the question to ask before a dry run, because it takes real locks.

    Args:
        dry_run_plan: What the dry run would run.
        location: The target and its database.
        in_production: Whether the user has confirmed production in advance.
    """
    count, database = len(dry_run_plan.plan.pending), location["database"]
    migrations = f"{count} migration{'s' * (count != 1)}"
    needs_word = dry_run_plan.is_production and not in_production
    return Question(
        command="plan --dry-run",
        text=(
            f"{database} is {dry_run_plan.environment}: its users wait for these locks. Run it "
            "there?"
            if needs_word
            else f"dry-run {migrations}?"
        ),
        heading=(
            f"this runs {migrations} on {database} in one transaction and rolls it back. Its locks "
            "are real while it runs: queries on the locked tables wait, and so do functions that "
            "start."
        ),
        location=location,
        migrations=[
            {"name": migration.name, "applied_at": None} for migration in dry_run_plan.plan.pending
        ],
        notes=[f"not rolled back: {effect}" for effect in dry_run_plan.irreversible_effects],
        required_word=dry_run_plan.environment if needs_word else "",
        option="in_production" if needs_word else "",
    )


def build_dry_run_document(result: DryRunResult) -> dict[str, Any]:
    """Build the value of ``dry_run`` in the result of ``plan --dry-run``."""
    return {
        "outcome": result.outcome,
        "rollback_confirmed": result.is_rollback_confirmed,
        "seconds": round(result.seconds, 3),
        "migrations": [_build_step(step) for step in result.steps],
        "retried": list(result.retry_causes),
        "advice": [sentence for step in result.steps for sentence in advise(step)],
        "not_undone": {
            "dead_rows": [
                {"table": table, "rows": rows} for table, rows in result.dead_rows.items()
            ],
            "sequences": [asdict(moved) for moved in result.sequences],
            "effects": list(result.irreversible_effects),
        },
        "error": None if result.error is None else build_error_document(result.error),
    }


def _build_step(step: DryRunStep) -> dict[str, Any]:
    effects = step.effects
    return {
        "version": build_version(step.version),
        "name": step.name,
        "outcome": step.outcome,
        "reason": step.reason,
        "seconds": None if step.seconds is None else round(step.seconds, 4),
        "locks": [_build_lock(lock) for lock in effects.locks] if effects else [],
        "tables": [asdict(change) for change in effects.tables] if effects else [],
    }


def _build_lock(lock: RelationLock) -> dict[str, Any]:
    return {**asdict(lock), "blocks": list(lock.blocks)}
