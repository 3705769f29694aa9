"""`up` and `down`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.adopt.adoption import Adoption
from lambda_migrate.commands.prompt import Question
from lambda_migrate.commands.result import EXIT_FAILED, CommandResult
from lambda_migrate.errors import ConfigurationError, LeaseHeld
from lambda_migrate.migrations.sql.tokens import split_statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lambda_migrate.commands.context import CommandContext
    from lambda_migrate.engine.operations import RollbackPlan
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
    """Apply pending migrations."""
    started = context.clock.monotonic()
    # Raises immediately what --wait would otherwise retry until the timeout.
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
    return CommandResult(
        {
            **context.location,
            "applied": list(applied),
            "notices": context.notices,
            "seconds": seconds,
        }
    )


def _retry_while_lease_held(
    context: CommandContext, apply_pending: Callable[[], tuple[str, ...]]
) -> tuple[str, ...]:
    from lambda_migrate.lease.backoff import Backoff
    from lambda_migrate.randomness import system_random

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
    """Roll back applied migrations, the newest first; asks first."""
    confirmed = True
    warnings: list[str] = []

    def confirm(plan: RollbackPlan) -> bool:
        nonlocal confirmed
        warnings.extend(_warn_of_empty_down_scripts(plan))
        warnings.extend(_warn_of_next_cold_start(context, plan))
        warnings.extend(_warn_of_tool_history(context, plan))
        confirmed = context.prompter.confirm(
            _build_question(plan.rows, context.location, notes=warnings)
        )
        return confirmed

    rolled_back = context.operations.down(
        context.deadline, to=to, steps=steps, only=only, confirm=confirm
    )
    if not confirmed:
        return CommandResult({**context.location, "confirmed": False}, EXIT_FAILED)
    return CommandResult(
        {
            **context.location,
            "rolled_back": list(rolled_back),
            "warnings": warnings,
            "notices": context.notices,
        }
    )


def _warn_of_empty_down_scripts(plan: RollbackPlan) -> Iterator[str]:
    """Warn of down scripts that change nothing."""
    for row in plan.rows:
        if row.down is not None and not split_statements(row.down.sql):
            yield f"the down script of {row.name} is empty: only its history row is removed"


def _warn_of_next_cold_start(context: CommandContext, plan: RollbackPlan) -> Iterator[str]:
    """Say what a function with the same migration files does at its next cold start."""
    mode, manifest = context.settings.mode, context.operations.manifest
    pending = {str(each.version) for each in plan.plan_afterwards.pending}
    again = sorted(
        (row for row in plan.rows if manifest.get(row.version) or str(row.version) in pending),
        key=lambda row: row.version,
    )
    if not again or mode == "off":
        return
    kept = [each for each in manifest if each.version < again[0].version]
    names = again[0].name if len(again) == 1 else f"{again[0].name} and {len(again) - 1} more"
    is_sql = context.settings.source == "sql"
    functions = "functions that ship " + (
        f"the files of {context.settings.directory}" if is_sql else "this code"
    )
    deploy = f"code that ends at {kept[-1].name}" if kept else "code without these migrations"
    if mode == "require" or plan.plan_afterwards.divergences:
        yield f"{functions} do not start without {names}: deploy {deploy} first"
        return
    switch = (
        "the feature flag lambda_migrate_paused"
        if context.settings.flags
        else "LAMBDA_MIGRATE_MODE=require"
    )
    yield (
        f"{functions} apply {names} again at their next cold start; before that, deploy {deploy}, "
        f"or set {switch} (they then refuse to serve)"
    )


def _warn_of_tool_history(context: CommandContext, plan: RollbackPlan) -> Iterator[str]:
    """Warn that the table of an adopted tool keeps the rows of what is rolled back."""
    try:
        adoption = Adoption.read(context.root / context.settings.directory)
    except ConfigurationError:  # a broken record is no reason against a rollback
        return
    if adoption is None:
        return
    adopted = {each.version for each in adoption.files}
    names = [row.name for row in plan.rows if str(row.version) in adopted]
    if names:
        yield (
            f"unless `adopt --keep-theirs` is on, {adoption.tool}'s history table still lists "
            f"{', '.join(names)} as applied: delete the rows there, or the next `adopt` marks them "
            "as applied without running them"
        )


def _build_question(
    rows: Sequence[HistoryRow], location: dict[str, str], *, notes: Sequence[str]
) -> Question:
    migrations = f"{len(rows)} migration" + "s" * (len(rows) != 1)
    return Question(
        command="down",
        text=f"roll back {migrations}?",
        heading=f"this rolls back {migrations} on {location['database']}:",
        location=location,
        migrations=[{"name": row.name, "applied_at": row.applied_at} for row in rows],
        notes=list(notes),
    )
