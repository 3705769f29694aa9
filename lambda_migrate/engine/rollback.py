"""Rolling back chosen migrations under a lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.engine.apply import record_completion, withdraw_readiness
from lambda_migrate.events import MigrationRolledBack
from lambda_migrate.lease.progress import Progress
from lambda_migrate.migrations import RowState
from lambda_migrate.migrations.rollback import require_down_scripts

if TYPE_CHECKING:
    from lambda_migrate.engine.holder import LeaseSession
    from lambda_migrate.migrations import HistoryRow
    from lambda_migrate.postgresql.ports import FencedSession

__all__ = ["roll_back"]


def roll_back(
    lease_session: LeaseSession, fenced_session: FencedSession, rows: tuple[HistoryRow, ...]
) -> tuple[str, ...]:
    """Run the stored down scripts of ``rows`` in order, and release the lease.

    The code versions that need them are marked as no longer ready before the first script runs.

    Returns:
        Names of the migrations rolled back.
    """
    withdraw_readiness(lease_session, fenced_session, lowest=rows[-1].version)
    # A down script may drop or change what they created.
    fenced_session.mark_repeatables_stale()
    finished, remaining = _resolve_in_doubt(lease_session, fenced_session, rows)
    for position, row in enumerate(remaining, 1):
        _run_down_script(
            lease_session, fenced_session, row, position=position, total=len(remaining)
        )
    record_completion(lease_session, fenced_session, fenced_session.read_history())
    return tuple(row.name for row in (*finished, *remaining))


def _resolve_in_doubt(
    lease_session: LeaseSession, fenced_session: FencedSession, rows: tuple[HistoryRow, ...]
) -> tuple[tuple[HistoryRow, ...], tuple[HistoryRow, ...]]:
    """Resolve the chosen rows that are in doubt, and choose again among them.

    Returns:
        The rows whose interrupted rollback had taken effect, and those still to roll back.
    """
    in_doubt = [row for row in rows if row.state is not RowState.APPLIED]
    if not in_doubt:
        return (), rows
    for row in in_doubt:
        with lease_session.explain_abort(row.name):
            fenced_session.resolve_in_doubt(row, lease_session.deadline)
    left = {row.version: row for row in fenced_session.read_history()}
    applied = tuple(left[row.version] for row in rows if row.version in left)
    require_down_scripts(applied)
    finished = (row for row in in_doubt if row.state is RowState.ROLLING_BACK)
    return tuple(row for row in finished if row.version not in left), applied


def _run_down_script(
    lease_session: LeaseSession,
    fenced_session: FencedSession,
    row: HistoryRow,
    *,
    position: int,
    total: int,
) -> None:
    target = lease_session.target
    lease_session.set_next_progress(Progress(row.name, position - 1, total, target.clock.wall_ms()))
    with lease_session.report_notices(fenced_session, row.name):
        with lease_session.explain_abort(row.name):
            milliseconds = fenced_session.roll_back(row, lease_session.deadline)
        target.observer.observe(
            MigrationRolledBack(target.name, row.name, position, total, milliseconds / 1000)
        )
