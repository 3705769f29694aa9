"""`status` and `verify` where another tool migrates the database: the setting ``ready_when``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate.commands.documents import build_lease_document
from lambda_migrate.commands.result import EXIT_DONE, EXIT_FAILED, EXIT_PENDING, CommandResult
from lambda_migrate.engine.requirement_inspection import (
    find_requirement_problems,
    read_requirements_status,
    resync_requirements,
)

if TYPE_CHECKING:
    from lambda_migrate.commands.context import CommandContext
    from lambda_migrate.migrations.requirements import Requirements

__all__ = ["show_requirements", "verify_requirements"]


def show_requirements(
    context: CommandContext, requirements: Requirements, *, exit_code: bool
) -> CommandResult:
    """Show what other tools have applied of what is required, and the lease holder."""
    status = read_requirements_status(context.target, requirements, context.deadline)
    is_current = not status.inspection.unmet
    document: dict[str, Any] = {
        **context.location,
        "digest": requirements.digest,
        "is_current": is_current,
        "is_marked_ready": status.is_marked_ready if context.has_table else None,
        "requirements": [
            {
                "requirement": str(each.requirement),
                "is_applied": each.is_applied,
                "reason": each.reason,
            }
            for each in status.inspection.results
        ],
        "lease": build_lease_document(status.lease) if context.has_table else None,
    }
    return CommandResult(document, EXIT_PENDING if exit_code and not is_current else EXIT_DONE)


def verify_requirements(
    context: CommandContext, requirements: Requirements, *, resync: bool
) -> CommandResult:
    """Compare the tools' tables and the lease table; correct the lease table first if asked."""
    if resync:
        context.settings.require_configured(table=True)
        resync_requirements(
            context.target, requirements, context.deadline, request_id=context.request_id
        )
    status = read_requirements_status(context.target, requirements, context.deadline)
    problems = list(find_requirement_problems(status))
    unmet = len(status.inspection.unmet)
    document = {
        **context.location,
        "compared": ["other tools", *(["lease table"] if context.has_table else [])],
        "agree": not problems,
        "problems": problems,
        "resynced": resync,
        "applied": len(status.inspection.results) - unmet,
        "pending": unmet,
    }
    return CommandResult(document, EXIT_FAILED if problems else EXIT_DONE)
