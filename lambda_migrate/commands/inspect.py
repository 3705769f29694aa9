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
from lambda_migrate.commands.requirements import show_requirements, verify_requirements
from lambda_migrate.commands.result import EXIT_DONE, EXIT_FAILED, EXIT_PENDING, CommandResult
from lambda_migrate.engine.operations import require_sql_files
from lambda_migrate.errors import FlagsUnavailable

if TYPE_CHECKING:
    from lambda_migrate.commands.context import CommandContext
    from lambda_migrate.engine.operations import DryRunPlan

__all__ = ["plan", "status", "verify"]


def status(context: CommandContext, *, exit_code: bool = False) -> CommandResult:
    """Show applied and pending migrations and the lease holder."""
    requirements = context.settings.ready_when
    if requirements is not None:
        return show_requirements(context, requirements, exit_code=exit_code)
    current_status = context.operations.status(context.deadline)
    document = build_status_document(
        current_status, context.manifest, context.location, has_table=context.has_table
    )
    document["flags"] = _read_flags(context)
    return CommandResult(
        document, EXIT_PENDING if exit_code and not current_status.plan.is_current else EXIT_DONE
    )


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
    sql: bool = False,
    dry_run: bool = False,
    in_production: bool = False,
    ignore_other_history: bool = False,
) -> CommandResult:
    """Show what `up` would do; fails if `up` would refuse to start, or fail."""
    if sql:
        advice = "run `alembic upgrade head --sql`, or `manage.py sqlmigrate APP NAME`"
        require_sql_files(context.manifest, "`plan --sql`", advice)
    options: dict[str, Any] = {"to": to, "ignore_other_history": ignore_other_history}
    planned, manifest = context.operations.plan(context.deadline, **options)
    placeholders = context.operations.target.database.placeholders if planned.pending else {}
    preview = build_preview(planned, manifest, placeholders)
    document = build_plan_document(preview, context.location, with_sql=sql)
    if dry_run and preview.can_be_applied:
        return _run_dry_run(context, document, options, in_production=in_production)
    return CommandResult(document, EXIT_DONE if preview.can_be_applied else EXIT_FAILED)


def _run_dry_run(
    context: CommandContext,
    document: dict[str, Any],
    options: dict[str, Any],
    *,
    in_production: bool,
) -> CommandResult:
    def confirm(dry_run_plan: DryRunPlan) -> bool:
        return context.prompter.confirm(
            build_dry_run_question(dry_run_plan, context.location, in_production=in_production)
        )

    result = context.operations.dry_run(context.deadline, confirm=confirm, **options)
    if result is None:
        return CommandResult({**context.location, "confirmed": False}, EXIT_FAILED)
    code = EXIT_DONE if result.error is None else get_exit_code(result.error)
    dry_run = {**build_dry_run_document(result), "notices": context.notices}
    return CommandResult({**document, "dry_run": dry_run}, code)


def verify(context: CommandContext, *, resync: bool = False) -> CommandResult:
    """Compare migration files, history and lease table; fails if they disagree."""
    requirements = context.settings.ready_when
    if requirements is not None:
        return verify_requirements(context, requirements, resync=resync)
    if resync:
        context.settings.require_configured(table=True)
        context.operations.resync(context.deadline)
    verification = context.operations.verify(context.deadline)
    document = build_verify_document(
        verification, context.location, resynced=resync, has_table=context.has_table
    )
    return CommandResult(document, EXIT_FAILED if verification.problems else EXIT_DONE)
