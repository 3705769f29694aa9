"""Rolling back another tool's revisions, and a dry run of them.

The tool itself chooses and runs them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from lambda_migrate.engine.apply import record_completion
from lambda_migrate.engine.dry_run import FAILED, NOT_REACHED, RAN, DryRunResult, DryRunStep
from lambda_migrate.errors import MigrateError, MigrationFailed
from lambda_migrate.events import MigrationRolledBack
from lambda_migrate.lease.progress import Progress
from lambda_migrate.lease.readiness import remove_ready_digests
from lambda_migrate.migrations.history import HistoryRow
from lambda_migrate.migrations.revisions import RevisionHistory
from lambda_migrate.migrations.version import RevisionVersion
from lambda_migrate.postgresql.ports import ToolCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.holder import LeaseSession
    from lambda_migrate.engine.target import Target
    from lambda_migrate.migrations import Plan
    from lambda_migrate.migrations.revisions import RevisionManifest
    from lambda_migrate.postgresql.ports import FencedSession

__all__ = ["plan_revision_rollback", "roll_back_revisions", "run_revision_dry_run"]


def plan_revision_rollback(
    target: Target, deadline: Deadline, command: ToolCommand
) -> tuple[tuple[HistoryRow, ...], RevisionHistory]:
    """The revisions that the tool would roll back, in its order, and the history after that.

    Changes nothing.
    """
    history = target.database.inspect(deadline).history
    described = target.database.add_revision_graph(history, deadline, command=command)
    assert isinstance(described, RevisionHistory)  # noqa: S101 - another tool's
    rows = _choose_rows(described)
    return rows, described.without({str(row.version) for row in rows})


def _choose_rows(history: Sequence[HistoryRow]) -> tuple[HistoryRow, ...]:
    graph = history.revision_graph if isinstance(history, RevisionHistory) else None
    rows = {str(row.version): row for row in history}
    chosen = () if graph is None else graph.steps
    return tuple(
        rows.get(step.id) or HistoryRow(RevisionVersion(step.id), step.name, "", "")
        for step in chosen
    )


def roll_back_revisions(
    lease_session: LeaseSession,
    fenced_session: FencedSession,
    rows: tuple[HistoryRow, ...],
    command: ToolCommand,
) -> bool:
    """Roll back ``rows``, and release the lease.

    The code versions that need them are marked as no longer ready before the first one is rolled
    back.

    Returns:
        False if the tool would roll back others by now; then nothing was done.
    """
    target, deadline = lease_session.target, lease_session.deadline
    fenced_session.read_history()
    history = fenced_session.add_revision_graph(command=command)
    chosen = [row.version for row in _choose_rows(history)]
    if not isinstance(history, RevisionHistory) or chosen != [row.version for row in rows]:
        return False
    remaining = history.without({str(row.version) for row in rows})
    lease_session.withdraw_readiness(
        remove_ready_digests(
            lease_session.lease.state.databases,
            fenced_session.identity,
            target.database.address_text,
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


def run_revision_dry_run(
    lease_session: LeaseSession,
    fenced_session: FencedSession,
    manifest: RevisionManifest,
    plan: Plan,
) -> DryRunResult:
    """Let the tool run what is pending in one transaction, and roll it back.

    Locks and tables are not measured: the connections are the tool's own.

    Raises:
        ConfigurationError: The tool refuses, because something commits on its own.
    """
    began = lease_session.target.clock.monotonic()
    before = list(fenced_session.read_history())
    fenced_session.add_revision_graph(command=ToolCommand("dry-run", manifest.last_revision))
    steps: list[DryRunStep] = []
    error: MigrateError | None = None
    for migration in plan.pending:
        if error is not None:
            steps.append(DryRunStep(migration.version, migration.name, NOT_REACHED))
            continue
        try:
            with lease_session.explain_abort(migration.name):
                milliseconds = fenced_session.apply(
                    migration, manifest.digest, lease_session.deadline
                )
        except MigrationFailed as failed:
            error = failed
            steps.append(DryRunStep(migration.version, migration.name, FAILED))
        else:
            seconds = milliseconds / 1000
            steps.append(DryRunStep(migration.version, migration.name, RAN, seconds=seconds))
    if error is not None:
        with suppress(MigrateError):  # with which the tool's process ends
            fenced_session.read_history()
    is_unchanged = list(fenced_session.read_history()) == before
    return DryRunResult(
        tuple(steps),
        error,
        is_rollback_confirmed=is_unchanged,
        seconds=lease_session.target.clock.monotonic() - began,
    )
