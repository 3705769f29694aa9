"""`lease show` and `lease release`: commands that need the lease table but no database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.commands.documents import build_lease_document
from lambda_migrate.commands.prompt import Question
from lambda_migrate.commands.result import EXIT_FAILED, CommandResult
from lambda_migrate.lease.record import LeaseState

if TYPE_CHECKING:
    from lambda_migrate.commands.context import CommandContext

__all__ = ["lease_release", "lease_show"]


def lease_show(context: CommandContext) -> CommandResult:
    """Show the lease holder and the last failure."""
    state = context.store.read(consistent=True)
    return CommandResult(
        {
            **_build_location(context),
            "is_known": _is_known(state),
            **build_lease_document(state),
        }
    )


def lease_release(context: CommandContext) -> CommandResult:
    """Release the lease, whether or not its holder is alive; asks first."""
    from lambda_migrate.engine.operations import release_lease

    location = _build_location(context)
    state = context.store.read(consistent=True)
    question = Question(
        command="lease release",
        text="release it?",
        heading=(
            "if the holder is alive, it loses the migration that it is applying; the lease of a "
            "dead holder expires by itself"
        ),
        location=location,
        lease=build_lease_document(state),
    )
    if state.owner is not None and not context.prompter.confirm(question):
        return CommandResult({**location, "confirmed": False}, EXIT_FAILED)
    before = release_lease(context.store)
    released = before.owner is not None
    return CommandResult(
        {
            **location,
            "is_known": _is_known(before),
            "released": released,
            "owner": before.owner,
        }
    )


def _is_known(state: LeaseState) -> bool:
    """Whether the lease table has an item of the target."""
    return state != LeaseState()


def _build_location(context: CommandContext) -> dict[str, str]:
    return {"target": context.settings.target, "table": context.settings.table}
