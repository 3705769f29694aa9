"""Applying pending migrations under a lease, and publishing what the history then satisfies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lambda_migrate.engine.flag_gate import check_flags
from lambda_migrate.errors import (
    DatabaseUnavailable,
    Diverged,
    ManifestError,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.events import (
    MigrationApplied,
    MigrationAttemptFailed,
    MigrationStarted,
    TargetShared,
)
from lambda_migrate.lease.progress import Progress
from lambda_migrate.lease.readiness import (
    CheckedDatabase,
    find_conflicting_records,
    record_check,
    remove_ready_digests,
)
from lambda_migrate.migrations.baseline import require_no_tool_history
from lambda_migrate.migrations.history import RowState, is_versioned
from lambda_migrate.migrations.repeatable import find_satisfied_digests
from lambda_migrate.migrations.version import RepeatableVersion
from lambda_migrate.postgresql.ports import ToolCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lambda_migrate.engine.holder import LeaseSession
    from lambda_migrate.engine.target import Target
    from lambda_migrate.migrations import HistoryRow, Manifest, Migration, Plan
    from lambda_migrate.migrations.version import Version
    from lambda_migrate.postgresql.ports import FencedSession

__all__ = [
    "ApplyResult",
    "apply_pending",
    "make_plan_for",
    "record_completion",
    "require_no_divergence",
    "require_valid_scripts",
    "with_repeatable_version",
    "withdraw_readiness",
]

_MAX_DIVERGENCES_SHOWN = 100

_MAX_PROCESS_KILLS = 3
"""Holders killed during one migration before that counts as its failure. Each costs a lease."""


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """The history after the last commit, and what it satisfied before the first.

    Attributes:
        history: All rows, read after the last commit.
        digests_before_migration: Every digest that the history satisfied when the holder began.
    """

    history: Sequence[HistoryRow]
    digests_before_migration: tuple[str, ...]


def apply_pending(
    lease_session: LeaseSession,
    fenced_session: FencedSession,
    manifest: Manifest,
    *,
    on_applied: Callable[[str], None],
    refuse_after_process_kills: bool = True,
) -> ApplyResult:
    """Apply what is pending, one migration after the other.

    Args:
        lease_session: The lease.
        fenced_session: The database under its fencing token.
        manifest: The manifest that the database must satisfy.
        on_applied: Called with the name of each migration once it is committed.
        refuse_after_process_kills: Refuse to start a migration during which `_MAX_PROCESS_KILLS`
            holders in a row were killed.

    Raises:
        ConfigurationError: Another tool has migrated this database; nothing was applied.
        Diverged: History and manifest contradict each other; nothing was applied.
        ManifestError: A pending script cannot be run; nothing was applied.
        MigrationFailed: A migration failed; those before it stay applied.
        NotReady: The deadline passed, or a feature flag blocks the next migration; those before it
            stay applied.
        DatabaseUnavailable: Committed migrations are missing from the history.
    """
    loop = _ApplyLoop(
        lease_session,
        fenced_session,
        manifest,
        refuse_after_process_kills=refuse_after_process_kills,
    )
    return loop.run(on_applied)


class _ApplyLoop:
    """One run of `apply_pending`, whose arguments it shares between its steps."""

    def __init__(
        self,
        lease_session: LeaseSession,
        fenced_session: FencedSession,
        manifest: Manifest,
        *,
        refuse_after_process_kills: bool,
    ) -> None:
        self._lease_session = lease_session
        self._fenced_session = fenced_session
        self._manifest = manifest
        self._refuse_after_kills = refuse_after_process_kills

    def run(self, on_applied: Callable[[str], None]) -> ApplyResult:
        """Plan, resolve what is in doubt, apply what is pending, and read the history again."""
        plan, history = self._read_plan()
        digests_before_migration = find_satisfied_digests(history)
        ignore = self._lease_session.target.policy.ignore_other_history
        require_no_tool_history(
            plan, self._fenced_session.read_tool_histories, ignore_other_history=ignore
        )
        if plan.in_doubt:
            self._resolve_in_doubt(plan)
            # Only now can the resolved rows be compared with their files.
            in_doubt = plan.in_doubt
            plan, history = self._read_plan()
            applied = {row.version for row in plan.applied}
            for row in in_doubt:
                if row.state is RowState.STARTED and row.version in applied:
                    on_applied(row.name)
        require_valid_scripts(self._manifest, plan, self._lease_session.target)
        for position, migration in enumerate(plan.pending, 1):
            self._apply(migration, position=position, total=len(plan.pending))
            on_applied(migration.name)
        if plan.pending:
            history = self._fenced_session.read_history()
            plan = make_plan_for(self._lease_session, history, self._manifest)
        if not plan.is_current:
            raise _make_missing_rows_error(plan)
        if self._manifest.digest not in find_satisfied_digests(history):
            history = self._record_manifest()
        return ApplyResult(history, digests_before_migration)

    def _record_manifest(self) -> Sequence[HistoryRow]:
        """Record that the database satisfies the manifest; see `repeatable` and `revisions`."""
        self._fenced_session.record_manifest(self._manifest)
        return self._fenced_session.read_history()

    def _read_plan(self) -> tuple[Plan, Sequence[HistoryRow]]:
        history = self._fenced_session.read_history()
        plan = make_plan_for(self._lease_session, history, self._manifest)
        if plan.needs_revision_graph:
            command = ToolCommand(to=self._manifest.last_revision)
            history = self._fenced_session.add_revision_graph(command=command)
            plan = make_plan_for(self._lease_session, history, self._manifest)
        require_no_divergence(plan)
        return plan, history

    def _resolve_in_doubt(self, plan: Plan) -> None:
        """Resolve the rows that an interrupted holder left in doubt."""
        self._publish_start(plan.in_doubt[0].name, total=len(plan.in_doubt) + len(plan.pending))
        for row in plan.in_doubt:
            migration = self._manifest.get(row.version)
            file = None if migration is None else (migration, self._manifest.digest_at(row.version))
            with self._lease_session.explain_abort(row.name):
                self._fenced_session.resolve_in_doubt(row, self._lease_session.deadline, file=file)

    def _apply(self, migration: Migration, *, position: int, total: int) -> None:
        lease_session = self._lease_session
        target, clock = lease_session.target, lease_session.target.clock
        if lease_session.deadline.is_over:
            # Nothing was tried: recording a failure would pause instances that have time left.
            raise NotReady(
                f"not enough time left to start {migration.name}; the next invocation will continue"
            )
        version = migration.version
        if isinstance(version, RepeatableVersion):  # the flags allow the whole manifest, or none
            version = self._manifest.version
        check_flags(target, lease_session.deadline, version=version, operation=migration.name)
        if position == 1:
            self._publish_start(migration.name, total=total)
        else:
            lease_session.set_next_progress(
                Progress(migration.name, position - 1, total, clock.wall_ms())
            )
        target.observer.observe(MigrationStarted(target.name, migration.name, position, total))
        with lease_session.report_notices(self._fenced_session, migration.name):
            milliseconds = self._run_up_script(migration)
            if position == 1:  # a later one may fail, and the database is this environment's now
                self._fenced_session.record_environment()
            target.observer.observe(
                MigrationApplied(target.name, migration.name, position, total, milliseconds / 1000)
            )

    def _run_up_script(self, migration: Migration) -> int:
        lease_session = self._lease_session
        target, clock = lease_session.target, lease_session.target.clock
        digest = self._manifest.digest_at(migration.version)
        migration = with_repeatable_version(migration, self._manifest, lease_session)
        began, left = clock.monotonic(), lease_session.deadline.remaining()
        try:
            with lease_session.explain_abort(migration.name):
                return self._fenced_session.apply(migration, digest, lease_session.deadline)
        except MigrationFailed as failed:
            failed.available_ms = round(left * 1000) if failed.is_timeout else None
            seconds = clock.monotonic() - began
            target.observer.observe(
                MigrationAttemptFailed(
                    target.name, migration.name, failed.sqlstate, failed.cause, seconds
                )
            )
            raise

    def _publish_start(self, name: str, *, total: int) -> None:
        """Publish which migration this holder starts with, and the number of attempts so far.

        Raises:
            MigrationFailed: `_MAX_PROCESS_KILLS` holders in a row were killed during it, or one
                more after that was recorded.
        """
        state = self._lease_session.lease.state
        progress = state.progress
        kills = progress.attempts if progress and progress.migration == name else 0
        was_recorded = any(
            each.is_process_killed and each.migration == name for each in state.failures
        )
        if self._refuse_after_kills and kills >= (1 if was_recorded else _MAX_PROCESS_KILLS):
            killed = "1 process" if kills == 1 else f"{kills} processes in a row"
            raise MigrationFailed(
                f"{killed} ended without an error while applying it: out of memory, a crash, or a "
                "timeout. Read the last lines of the logs (REPORT: Max Memory Used), then give the "
                "function more memory or time, or run `lambda-migrate up` from another machine",
                migration=name,
                is_process_killed=True,
            )
        now_ms = self._lease_session.target.clock.wall_ms()
        self._lease_session.publish_progress(Progress(name, 0, total, now_ms, attempts=kills + 1))


def with_repeatable_version(
    migration: Migration, manifest: Manifest, lease_session: LeaseSession
) -> Migration:
    """Give a repeatable migration the version of the history row of this application."""
    if not isinstance(migration.version, RepeatableVersion):
        return migration
    version = RepeatableVersion.of_row(migration.name, manifest.version, lease_session.lease.fence)
    return replace(migration, version=version)


def _make_missing_rows_error(plan: Plan) -> DatabaseUnavailable:
    names = ", ".join(migration.name for migration in plan.pending[:5])
    return DatabaseUnavailable(
        f"committed migrations are missing from the history ({names}), for example after a "
        "failover to a replica that lagged; nothing is marked ready, and the next invocation "
        "starts from the current history"
    )


def make_plan_for(
    lease_session: LeaseSession, history: Sequence[HistoryRow], manifest: Manifest
) -> Plan:
    """Compare a manifest with a history by the policy of the session's target."""
    out_of_order = lease_session.target.policy.allow_out_of_order
    return manifest.make_plan(history, allow_out_of_order=out_of_order)


def require_no_divergence(plan: Plan) -> None:
    """Check that history and manifest do not contradict each other.

    Raises:
        Diverged: With every contradiction.
    """
    if plan.divergences:
        heading = "the history contradicts this code:"
        shown = [f"  - {each}" for each in plan.divergences[:_MAX_DIVERGENCES_SHOWN]]
        if len(shown) < len(plan.divergences):
            shown.append(f"  - and {len(plan.divergences) - len(shown)} more")
        raise Diverged(
            f"{heading} {plan.divergences[0]}",
            detail="\n".join([heading, *shown]),
        )


def require_valid_scripts(manifest: Manifest, plan: Plan, target: Target) -> None:
    """Check every pending script before the first of them runs.

    Args:
        manifest: That of the plan.
        plan: What is pending.
        target: Its database has the values of placeholders.

    Raises:
        ConfigurationError: The setting of the placeholders cannot be used.
        ManifestError: With every fault.
    """
    if plan.pending:
        faults = manifest.find_faults(plan.pending, target.database.placeholders)
        if faults:
            raise ManifestError(faults, heading="pending migrations cannot be applied:")


def record_completion(
    lease_session: LeaseSession,
    fenced_session: FencedSession,
    history: Sequence[HistoryRow],
    *,
    manifest_digest: str = "",
    digests_before_migration: Sequence[str] = (),
    is_resync: bool = False,
    keep_failures: bool = False,
) -> None:
    """Publish every manifest that the history satisfies, and release the lease.

    First, the environment is recorded in the database, unless a migration did that: only work
    that succeeded records it.

    Args:
        lease_session: The lease.
        fenced_session: The database that was checked.
        history: Its history.
        manifest_digest: The digest that this was done for.
        digests_before_migration: What the history satisfied at first, and the schema still does.
        is_resync: Discard what the item holds for this database.
        keep_failures: Keep those of other addresses and of manifests that are still pending.
    """
    fenced_session.record_environment()
    target, state = lease_session.target, lease_session.lease.state
    check = CheckedDatabase(
        identity=fenced_session.identity,
        address=target.database.address_text,
        digests=find_satisfied_digests(history),
        fence=lease_session.lease.fence,
        owner=lease_session.lease.owner,
        at_ms=target.store.now_ms(),
        manifest_digest=manifest_digest,
        digests_before_migration=digests_before_migration,
        distrusted_identity=fenced_session.identity
        if is_resync
        else fenced_session.distrusted_identity,
        is_new_or_copied_database=fenced_session.is_new_or_copied_database,
    )
    applied = {str(row.version) for row in history}
    kept = [
        failure
        for failure in state.failures
        if keep_failures
        and failure.digest not in (manifest_digest, *check.digests)
        and failure.version not in applied  # a corrected file of that version succeeded
        and failure.address != check.address
    ]
    lease_session.store_completion(record_check(state.databases, check), kept)
    for other in find_conflicting_records(state.databases, check):
        target.observer.observe(
            TargetShared(target.name, check.address, ", ".join(other.addresses), other.owner)
        )


def withdraw_readiness(
    lease_session: LeaseSession, fenced_session: FencedSession, *, lowest: Version
) -> None:
    """Mark every manifest that needs ``lowest`` or a later version as no longer ready."""
    history = filter(is_versioned, fenced_session.read_history())
    kept = [row for row in history if row.version < lowest]
    state, address = lease_session.lease.state, lease_session.target.database.address_text
    lease_session.withdraw_readiness(
        remove_ready_digests(
            state.databases,
            fenced_session.identity,
            address,
            find_satisfied_digests(kept),
            is_new_or_copied_database=fenced_session.is_new_or_copied_database,
        )
    )
