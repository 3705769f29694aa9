"""Rolling back another tool's revisions, which the tool itself chooses and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.engine.apply import record_completion
from lambda_migrate.events import MigrationRolledBack
from lambda_migrate.lease.attempt import Progress
from lambda_migrate.lease.readiness import remove_ready_digests
from lambda_migrate.migrations.history import HistoryRow
from lambda_migrate.migrations.revisions import RevisionHistory, RevisionVersion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.holder import LeaseSession
    from lambda_migrate.engine.target import Target
    from lambda_migrate.postgresql.ports import FencedSession

__all__ = ["plan_revision_rollback", "roll_back_revisions"]


def plan_revision_rollback(
    target: Target, deadline: Deadline, *, steps: int
) -> tuple[HistoryRow, ...]:
    """The revisions that the tool would roll back, in its order; changes nothing."""
    history = target.database.inspect(deadline).history
    return _choose_rows(target.database.describe(history, deadline, rollback_steps=steps))


def _choose_rows(history: Sequence[HistoryRow]) -> tuple[HistoryRow, ...]:
    description = history.description if isinstance(history, RevisionHistory) else None
    rows = {str(row.version): row for row in history}
    chosen = () if description is None else description.steps
    return tuple(
        rows.get(step.id) or HistoryRow(RevisionVersion(step.id), step.name, "", "")
        for step in chosen
    )


def roll_back_revisions(
    lease_session: LeaseSession,
    fenced_session: FencedSession,
    rows: tuple[HistoryRow, ...],
    *,
    steps: int,
) -> bool:
    """Roll back ``rows``, and release the lease.

    The code versions that need them are marked as no longer ready before the first one is rolled
    back.

    Returns:
        False if the tool would roll back others by now; then nothing was done.
    """
    target, deadline = lease_session.target, lease_session.deadline
    fenced_session.read_history()
    history = fenced_session.describe(rollback_steps=steps)
    chosen = [row.version for row in _choose_rows(history)]
    if not isinstance(history, RevisionHistory) or chosen != [row.version for row in rows]:
        return False
    remaining = history.without({str(row.version) for row in rows})
    lease_session.withdraw_readiness(
        remove_ready_digests(
            lease_session.lease.state.databases,
            fenced_session.identity,
            target.database.fingerprint,
            remaining.satisfied_digests,
            is_new_or_copied_database=fenced_session.is_new_or_copied_database,
        )
    )
    for position, row in enumerate(rows, 1):
        lease_session.set_next_progress(
            Progress(row.name, position - 1, len(rows), target.clock.wall_ms())
        )
        with lease_session.report_notices(fenced_session, row.name):
            with lease_session.explain_abort(row.name):
                milliseconds = fenced_session.roll_back(row, deadline)
            target.observer.observe(
                MigrationRolledBack(target.name, row.name, position, len(rows), milliseconds / 1000)
            )
    record_completion(lease_session, fenced_session, fenced_session.read_history())
    return True
