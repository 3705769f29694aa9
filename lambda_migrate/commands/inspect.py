"""`status`, `plan`, `verify`: commands that leave the database unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate.commands.documents import (
    build_flags_document,
    build_plan_document,
    build_status_document,
    build_verify_document,
)
from lambda_migrate.commands.dry_run import build_dry_run_document, build_dry_run_question
from lambda_migrate.commands.errors import get_exit_code
from lambda_migrate.commands.preview import build_preview
from lambda_migrate.commands.result import DONE, FAILED, PENDING, CommandResult
from lambda_migrate.errors import FlagsUnavailable

if TYPE_CHECKING:
    from lambda_migrate.commands.context import CommandContext
    from lambda_migrate.engine.operations import DryRunPlan

__all__ = ["plan", "status", "verify"]


def status(context: CommandContext, *, exit_code: bool = False) -> CommandResult:
    """Show applied and pending migrations and the lease holder.

    Args:
        context: The target.
        exit_code: Exit with 3 if migrations are pending or diverged.
    """
    found = context.operations.status(context.deadline)
    document = build_status_document(
        found, context.manifest, context.location, has_table=context.has_table
    )
    document["flags"] = _read_flags(context)
    return CommandResult(document, PENDING if exit_code and not found.plan.is_current else DONE)


def _read_flags(context: CommandContext) -> dict[str, Any] | None:
    """Read the feature flags; None if none are configured."""
    source = context.operations.target.flags
    if source is None:
        return None
    try:
        return build_flags_document(source.read(context.deadline))
    except FlagsUnavailable as error:
        return build_flags_document(None, unavailable=str(error))


def plan(
    context: CommandContext,
    *,
    to: int | None = None,
    dry_run: bool = False,
    in_production: bool = False,
    ignore_other_history: bool = False,
) -> CommandResult:
    """Show what `up` would do; fails if `up` would refuse to start, or fail.

    Args:
        context: The target.
        to: Plan up to and including this version.
        dry_run: Run the migrations in a transaction and roll it back; asks first.
        in_production: Confirms in advance that a dry run may lock tables of a production database.
        ignore_other_history: Continue even if another tool has migrated this database.
    """
    selection: dict[str, Any] = {"to": to, "ignore_other_history": ignore_other_history}
    planned, manifest = context.operations.plan(context.deadline, **selection)
    preview = build_preview(planned, manifest)
    document = build_plan_document(preview, context.location)
    if dry_run and preview.can_go_on:
        return _run_dry_run(context, document, selection, in_production=in_production)
    return CommandResult(document, DONE if preview.can_go_on else FAILED)


def _run_dry_run(
    context: CommandContext,
    document: dict[str, Any],
    selection: dict[str, Any],
    *,
    in_production: bool,
) -> CommandResult:
    def confirm(forecast: DryRunPlan) -> bool:
        return context.prompter.confirm(
            build_dry_run_question(forecast, context.location, in_production=in_production)
        )

    result = context.operations.dry_run(context.deadline, confirm=confirm, **selection)
    if result is None:
        return CommandResult({**context.location, "confirmed": False}, FAILED)
    code = DONE if result.error is None else get_exit_code(result.error)
    return CommandResult({**document, "dry_run": build_dry_run_document(result)}, code)


def verify(context: CommandContext, *, resync: bool = False) -> CommandResult:
    """Compare migration files, history and lease table; fails if they disagree.

    Args:
        context: The target.
        resync: Correct the lease table from the history first.
    """
    if resync:
        context.settings.require(table=True)
        context.operations.resync(context.deadline)
    found = context.operations.verify(context.deadline)
    document = build_verify_document(found, context.location, resynced=resync)
    return CommandResult(document, FAILED if found.problems else DONE)
