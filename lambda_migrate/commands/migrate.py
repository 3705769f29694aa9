"""`up` and `down`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.commands.prompt import Question
from lambda_migrate.commands.result import EXIT_FAILED, CommandResult
from lambda_migrate.errors import LeaseHeld

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lambda_migrate.commands.context import CommandContext
    from lambda_migrate.migrations import HistoryRow
    from lambda_migrate.migrations.version import Version

__all__ = ["down", "up"]

_MIN_DELAY_SECONDS = 0.2
"""Between two attempts of ``up --wait``, each of which may open a connection."""


def up(
    context: CommandContext,
    *,
    to: Version | None = None,
    wait: bool = False,
    despite_flags: bool = False,
    ignore_other_history: bool = False,
) -> CommandResult:
    """Apply pending migrations.

    Args:
        context: The target.
        to: Stop after this version.
        wait: If another process holds the lease, wait for it.
        despite_flags: Ignore the feature flags.
        ignore_other_history: Continue even if another tool has migrated this database.
    """
    started = context.clock.monotonic()
    # Raises at once what --wait would otherwise retry until the timeout.
    context.operations.status(context.deadline)

    def apply_pending() -> tuple[str, ...]:
        return context.operations.up(
            context.deadline,
            to=to,
            despite_flags=despite_flags,
            ignore_other_history=ignore_other_history,
        )

    applied = _retry_while_lease_held(context, apply_pending) if wait else apply_pending()
    seconds = round(context.clock.monotonic() - started, 3)
    return CommandResult({**context.location, "applied": list(applied), "seconds": seconds})


def _retry_while_lease_held(
    context: CommandContext, apply_pending: Callable[[], tuple[str, ...]]
) -> tuple[str, ...]:
    from lambda_migrate.clock import system_random
    from lambda_migrate.lease.backoff import Backoff

    backoff = Backoff(system_random())
    started = context.clock.monotonic()
    while True:
        try:
            return apply_pending()
        except LeaseHeld as held:
            if context.deadline.is_over:
                raise
            waited_seconds = context.clock.monotonic() - started
            context.prompter.report_waiting(str(held), seconds=waited_seconds)
            delay = max(_MIN_DELAY_SECONDS, backoff.delay(waited_seconds))
            context.clock.sleep(min(delay, context.deadline.remaining()))


def down(
    context: CommandContext,
    *,
    to: Version | None = None,
    steps: int | None = None,
    only: Version | None = None,
) -> CommandResult:
    """Roll back applied migrations, the newest first; asks first.

    Args:
        context: The target.
        to: Roll back every migration above this version; 0: all.
        steps: Roll back the last N migrations.
        only: Roll back only this version.
    """
    confirmed = True

    def confirm(rows: Sequence[HistoryRow]) -> bool:
        nonlocal confirmed
        confirmed = context.prompter.confirm(_build_question(rows, context.location))
        return confirmed

    rolled_back = context.operations.down(
        context.deadline, to=to, steps=steps, only=only, confirm=confirm
    )
    if not confirmed:
        return CommandResult({**context.location, "confirmed": False}, EXIT_FAILED)
    return CommandResult({**context.location, "reverted": list(rolled_back)})


def _build_question(rows: Sequence[HistoryRow], location: dict[str, str]) -> Question:
    migrations = f"{len(rows)} migration" + "s" * (len(rows) != 1)
    return Question(
        command="down",
        text=f"roll back {migrations}?",
        heading=f"this runs the down scripts of {migrations} on {location['database']}:",
        location=location,
        migrations=[{"name": row.name, "applied_at": row.applied_at} for row in rows],
    )
