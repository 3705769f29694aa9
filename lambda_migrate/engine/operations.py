"""Operators' commands on a target: status, up, down, baseline, repair, resync, release.

The command line and the admin function use them. Every operation that writes acquires the same
lease and raises the same fencing token as a starting function does.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_migrate.engine.apply import (
    apply_pending,
    record_completion,
    require_no_divergence,
    require_valid_scripts,
    with_repeatable_version,
    withdraw_readiness,
)
from lambda_migrate.engine.dry_run import DryRunResult, find_irreversible_effects, run_dry_run
from lambda_migrate.engine.flag_gate import check_flags
from lambda_migrate.engine.holder import LeaseSession, acquire_lease
from lambda_migrate.engine.revisions import (
    plan_revision_rollback,
    roll_back_revisions,
    run_revision_dry_run,
)
from lambda_migrate.engine.rollback import roll_back
from lambda_migrate.engine.status import (
    SchemaStatus,
    Verification,
    find_problems,
    make_plan_with_revision_graph,
    read_status,
)
from lambda_migrate.errors import ConfigurationError, LeaseHeld
from lambda_migrate.lease.decision import is_lease_expired
from lambda_migrate.lease.first_read import make_owner
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.lease.store import Lease
from lambda_migrate.lease.waiter import describe_holder
from lambda_migrate.manifest_digest import require_migrations
from lambda_migrate.migrations import HistoryRow, RowState
from lambda_migrate.migrations.baseline import choose_baseline, require_no_tool_history
from lambda_migrate.migrations.history import find_row, is_versioned
from lambda_migrate.migrations.plan import Plan
from lambda_migrate.migrations.repeatable import find_satisfied_digests
from lambda_migrate.migrations.revisions import RevisionManifest, make_sql_only_error
from lambda_migrate.migrations.rollback import (
    choose_rollback,
    require_one_choice,
    require_placeholder_values,
)
from lambda_migrate.migrations.version import RepeatableVersion, RevisionVersion
from lambda_migrate.postgresql.ports import ToolCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.target import Target
    from lambda_migrate.lease.store import LeaseStore
    from lambda_migrate.migrations import Manifest, Migration, Plan
    from lambda_migrate.migrations.baseline import Baseline, SyncedHistory, ToolHistory
    from lambda_migrate.migrations.version import Version
    from lambda_migrate.postgresql.ports import DatabaseInspection, FencedSession

__all__ = [
    "DryRunPlan",
    "Operations",
    "RollbackPlan",
    "SchemaStatus",
    "Verification",
    "release_lease",
    "require_in_doubt",
    "require_sql_files",
]

_HISTORY_CHANGED = (
    "another process changed the history meanwhile; run `lambda-migrate status`, then try again"
)

_DESPITE_FLAGS_ADVICE = "; remove the flag, or run `lambda-migrate up --despite-flags`"

_MARK_WITH_TOOL = "run `alembic stamp REVISION`, or `manage.py migrate --fake`"

_REPAIR_STATES = ("applied", "pending", "edited")


@dataclass(frozen=True, slots=True)
class DryRunPlan:
    """What a dry run is about to execute, and where.

    Attributes:
        plan: What is pending.
        manifest: What would be satisfied.
        environment: The environment that is recorded in the database; without one, that of the
            target.
    """

    plan: Plan
    manifest: Manifest
    environment: str

    @property
    def is_production(self) -> bool:
        """Whether its locks are likely to block users."""
        return self.environment.lower().startswith(("prod", "live"))

    @property
    def irreversible_effects(self) -> tuple[str, ...]:
        """Effects that will not be rolled back, as far as the scripts show."""
        return find_irreversible_effects(self.plan.pending)


@dataclass(frozen=True, slots=True)
class RollbackPlan:
    """What a rollback is about to do.

    Attributes:
        rows: The migrations, in the order in which they are rolled back.
        plan_afterwards: What the migration files at hand have pending, or contradict, after it.
    """

    rows: tuple[HistoryRow, ...]
    plan_afterwards: Plan


class Operations:
    """What an operator can do with one target and one manifest.

    Args:
        manifest: The migration files at hand.
        target: The database with its item in the lease table.
        request_id: The command's id, for the history and for the owner in the lease table.
    """

    def __init__(self, manifest: Manifest, target: Target, *, request_id: str = "") -> None:
        self.manifest = manifest
        self.target = target
        self._request_id = request_id

    # --- reading

    def status(self, deadline: Deadline) -> SchemaStatus:
        """Read history and item; change nothing."""
        self._require_migrations()
        return read_status(self.target, self.manifest, deadline)

    def plan(
        self, deadline: Deadline, *, to: Version | None = None, ignore_other_history: bool = False
    ) -> tuple[Plan, Manifest]:
        """Return what `up` would apply and the manifest that it would satisfy; change nothing.

        Args:
            deadline: For reading the history.
            to: As of `up`.
            ignore_other_history: As of `up`.

        Raises:
            ConfigurationError: Another tool has migrated this database, so that `up` would fail.
        """
        manifest = self._manifest_up_to(to)
        inspection = self.target.database.inspect(deadline)
        plan = self._plan_from_inspection(
            inspection, manifest, deadline, ignore_other_history=ignore_other_history
        )
        return plan, manifest

    def _plan_from_inspection(
        self,
        inspection: DatabaseInspection,
        manifest: Manifest,
        deadline: Deadline,
        *,
        ignore_other_history: bool,
    ) -> Plan:
        self._require_migrations()
        plan, _ = make_plan_with_revision_graph(self.target, manifest, inspection.history, deadline)
        require_no_tool_history(
            plan,
            lambda: self.target.database.read_tool_histories(deadline),
            ignore_other_history=ignore_other_history or self.target.policy.ignore_other_history,
        )
        return plan

    def _make_plan(self, manifest: Manifest, history: Sequence[HistoryRow]) -> Plan:
        out_of_order = self.target.policy.allow_out_of_order
        return manifest.make_plan(history, allow_out_of_order=out_of_order)

    def dry_run(
        self,
        deadline: Deadline,
        *,
        to: Version | None = None,
        ignore_other_history: bool = False,
        confirm: Callable[[DryRunPlan], bool] = lambda _plan: True,
    ) -> DryRunResult | None:
        """Run what `up` would apply in one transaction, measure it, and roll it back.

        The lease is held meanwhile, so that starting functions wait without a connection, and the
        fence row is locked against processes without a lease. The lease is released unchanged:
        neither a failure nor a digest is recorded. No other holder's backend is terminated.

        Args:
            deadline: Overall.
            to: As of `up`.
            ignore_other_history: As of `up`.
            confirm: Called before anything runs, because the scripts take real locks.

        Returns:
            What was measured, or the failure; None if it was not confirmed.

        Raises:
            LeaseHeld: Another process holds the lease, or changed the history meanwhile.
            Diverged: As of `up`; nothing ran.
            ManifestError: As of `up`; nothing ran.
            NotReady: A feature flag blocks all migrations. A flag that only holds versions back
                does not prevent a dry run.
        """
        manifest = self._manifest_up_to(to)
        inspection = self.target.database.inspect(deadline)
        plan = self._plan_from_inspection(
            inspection, manifest, deadline, ignore_other_history=ignore_other_history
        )
        require_no_divergence(plan)
        require_valid_scripts(manifest, plan, self.target)
        if not (plan.pending or plan.in_doubt):
            return DryRunResult()
        check_flags(
            self.target, deadline, version=0, operation="the dry run", advice="; remove the flag"
        )
        recorded = inspection.fence.environment if inspection.fence is not None else ""
        if not confirm(DryRunPlan(plan, manifest, recorded or self.target.environment)):
            return None
        if isinstance(manifest, RevisionManifest):
            return self._run_revision_dry_run(deadline, manifest, plan)
        lease_session = LeaseSession(
            self.target, acquire_lease(self.target, self._request_id), deadline
        )
        try:
            with lease_session.open_dry_run() as dry_run:
                if self._make_plan(manifest, dry_run.read_history()) != plan:
                    raise LeaseHeld(_HISTORY_CHANGED)
                return run_dry_run(lease_session, dry_run, plan)
        finally:
            lease_session.release()

    def _run_revision_dry_run(
        self, deadline: Deadline, manifest: RevisionManifest, plan: Plan
    ) -> DryRunResult:
        with self._open_database(deadline) as (lease_session, fenced_session):
            result = run_revision_dry_run(lease_session, fenced_session, manifest, plan)
        lease_session.release()
        return result

    def verify(self, deadline: Deadline, *, resync: bool = False) -> Verification:
        """Compare files, history and item.

        Args:
            deadline: Overall.
            resync: Correct the item from the history, as after a restore.
        """
        status = self.status(deadline)
        problems = tuple(find_problems(status, self.target.database.address_text))
        if resync:
            self.resync(deadline)
        return Verification(status, problems, resynced=resync)

    # --- writing

    def up(
        self,
        deadline: Deadline,
        *,
        to: Version | None = None,
        despite_flags: bool = False,
        ignore_other_history: bool = False,
    ) -> tuple[str, ...]:
        """Apply what is pending now, even if the item marks it ready or a failure is recent.

        Args:
            deadline: Overall.
            to: Stop after this version.
            despite_flags: Ignore the feature flags.
            ignore_other_history: Continue even if another tool has migrated this database.

        Returns:
            Names of the migrations applied.

        Raises:
            LeaseHeld: Another process holds the lease.
            MigrationFailed: A migration failed; those before it stay applied.
            NotReady: A feature flag blocks the next migration; those before it stay applied.
        """
        manifest = self._manifest_up_to(to)
        target = self.target.replace(flags=None) if despite_flags else self.target
        if ignore_other_history:
            policy = target.policy._replace(ignore_other_history=True)
            target = target.replace(policy=policy)
        check_flags(
            target,
            deadline,
            version=manifest.version,
            operation="`up`",
            advice=_DESPITE_FLAGS_ADVICE,
        )
        applied: list[str] = []
        with self._open_database(deadline, target=target, record_failures=manifest) as (
            lease_session,
            fenced_session,
        ):
            result = apply_pending(
                lease_session,
                fenced_session,
                manifest,
                on_applied=applied.append,
                refuse_after_process_kills=False,
            )
            record_completion(
                lease_session,
                fenced_session,
                result.history,
                manifest_digest=manifest.digest,
                digests_before_migration=result.digests_before_migration,
            )
        return tuple(applied)

    def down(
        self,
        deadline: Deadline,
        *,
        to: Version | None = None,
        steps: int | None = None,
        only: Version | None = None,
        confirm: Callable[[RollbackPlan], bool] = lambda _plan: True,
    ) -> tuple[str, ...]:
        """Roll back with the stored down scripts, the newest first; see `choose_rollback`.

        The code versions that need them are marked as no longer ready before the first script
        runs. Cold starts read strongly consistently, so none serves an outdated reading.

        Args:
            deadline: Overall.
            to: See `choose_rollback`.
            steps: See `choose_rollback`.
            only: See `choose_rollback`.
            confirm: Called before anything is changed.

        Returns:
            Names of the migrations rolled back; () if there was none, or it was not confirmed.

        Raises:
            LeaseHeld: Another process holds the lease, or changed the history meanwhile.
            ConfigurationError: See `choose_rollback`.
        """
        require_one_choice(to=to, steps=steps, only=only)
        if isinstance(self.manifest, RevisionManifest):
            if only is not None:
                raise ConfigurationError(
                    f"`down --only` is not supported with {self.manifest.tool}: write `down "
                    "--steps N` or `down --to REVISION`"
                )
            command = ToolCommand("down", "" if to is None else str(to), steps)
            return self._roll_back_revisions(deadline, command, confirm=confirm)
        history = self.target.database.read_history(deadline)
        try:
            rows = choose_rollback(history, to=to, steps=steps, only=only)
        finally:
            if any(row.is_in_doubt for row in history):
                # A row in doubt may be one that another process is applying now.
                self._require_free_lease()
        if any(row.down and row.down.has_placeholders for row in rows):
            require_placeholder_values(rows, self.target.database.placeholders)
        if not rows or not confirm(self._plan_rollback(history, rows)):
            return ()
        with self._open_database(deadline) as (lease_session, fenced_session):
            if (
                choose_rollback(fenced_session.read_history(), to=to, steps=steps, only=only)
                != rows
            ):
                raise LeaseHeld(_HISTORY_CHANGED)
            return roll_back(lease_session, fenced_session, rows)

    def _roll_back_revisions(
        self,
        deadline: Deadline,
        command: ToolCommand,
        *,
        confirm: Callable[[RollbackPlan], bool],
    ) -> tuple[str, ...]:
        """`down` with another tool, which chooses the revisions and has their scripts."""
        rows, remaining = plan_revision_rollback(self.target, deadline, command)
        if not rows or not confirm(RollbackPlan(rows, self.manifest.make_plan(remaining))):
            return ()
        with self._open_database(deadline) as (lease_session, fenced_session):
            if not roll_back_revisions(lease_session, fenced_session, rows, command):
                raise LeaseHeld(_HISTORY_CHANGED)
        return tuple(row.name for row in rows)

    def _plan_rollback(
        self, history: Sequence[HistoryRow], rows: tuple[HistoryRow, ...]
    ) -> RollbackPlan:
        remaining = [row for row in history if row not in rows]
        out_of_order = self.target.policy.allow_out_of_order
        return RollbackPlan(
            rows, self.manifest.make_plan(remaining, allow_out_of_order=out_of_order)
        )

    def preview_baseline(
        self,
        version: Version | None,
        deadline: Deadline,
        *,
        tool: str = "",
        ignore_other_history: bool = False,
        rename: Callable[[ToolHistory], ToolHistory] | None = None,
    ) -> Baseline:
        """Return what `baseline` would record; change nothing.

        Args:
            version: As of `baseline`.
            deadline: For reading the histories.
            tool: As of `baseline`.
            ignore_other_history: As of `baseline`.
            rename: As of `adopt`.

        Raises:
            ConfigurationError: See `choose_baseline`.
        """
        require_sql_files(self.manifest, "`baseline`", _MARK_WITH_TOOL)
        self._require_file(version)
        return choose_baseline(
            self.manifest,
            self.target.database.read_history(deadline),
            list(map(rename or _keep_names, self.target.database.read_tool_histories(deadline))),
            version=version,
            tool=tool,
            ignore_other_history=self._ignores_other_history(
                version, is_requested=ignore_other_history
            ),
        )

    def _ignores_other_history(self, version: Version | None, *, is_requested: bool) -> bool:
        """Without a version, other tools' tables are the source and cannot be ignored."""
        return is_requested or (version is not None and self.target.policy.ignore_other_history)

    def baseline(
        self,
        version: Version | None,
        deadline: Deadline,
        *,
        tool: str = "",
        ignore_other_history: bool = False,
        expected: Baseline | None = None,
    ) -> tuple[str, ...]:
        """Mark migrations as applied without running them.

        For a database that was created by other means. Existing rows are kept.

        Args:
            version: Mark everything up to it; None: exactly what another tool's history table has.
            deadline: Overall.
            tool: The other tool, or its table, if there are several.
            ignore_other_history: Mark up to ``version`` whatever such a table has.
            expected: What the user has confirmed; a different result is refused.

        Returns:
            Names of the migrations marked.

        Raises:
            LeaseHeld: Another process holds the lease, or the applied migrations changed meanwhile.
            ConfigurationError: See `choose_baseline`.
        """
        require_sql_files(self.manifest, "`baseline`", _MARK_WITH_TOOL)
        self._require_file(version)
        with self._open_database(deadline) as (lease_session, fenced_session):
            chosen = choose_baseline(
                self.manifest,
                fenced_session.read_history(),
                fenced_session.read_tool_histories(),
                version=version,
                tool=tool,
                ignore_other_history=self._ignores_other_history(
                    version, is_requested=ignore_other_history
                ),
            )
            return _record_baseline(lease_session, fenced_session, chosen, expected)

    def adopt(
        self,
        deadline: Deadline,
        *,
        tool: str,
        rename: Callable[[ToolHistory], ToolHistory],
        synced: SyncedHistory | None,
        expected: Baseline | None,
    ) -> tuple[str, ...]:
        """Mark what another tool has applied, and keep its table up to date from now on, or not.

        Args:
            deadline: Overall.
            tool: That tool, or its table.
            rename: Gives a table's entries the versions of the converted files.
            synced: See `FencedSession.sync_tool_history`.
            expected: What the user has confirmed; None: the tool has applied nothing.

        Returns:
            Names of the migrations marked.

        Raises:
            LeaseHeld: Another process holds the lease, or the applied migrations changed meanwhile.
            ConfigurationError: See `choose_baseline`.
        """
        with self._open_database(deadline) as (lease_session, fenced_session):
            # First, so that no migration is applied without a row in the other table.
            fenced_session.sync_tool_history(synced)
            if expected is None:
                record_completion(lease_session, fenced_session, fenced_session.read_history())
                return ()
            chosen = choose_baseline(
                self.manifest,
                fenced_session.read_history(),
                list(map(rename, fenced_session.read_tool_histories())),
                tool=tool,
            )
            return _record_baseline(lease_session, fenced_session, chosen, expected)

    def find_adopted_rows(
        self, versions: Collection[Version], deadline: Deadline
    ) -> tuple[str, ...] | None:
        """Return the names that `undo_adoption` would remove from the history.

        Args:
            versions: The versions that were adopted.
            deadline: For reading the history.

        Returns:
            The names; None if the database does not have this library's tables.

        Raises:
            ConfigurationError: See `undo_adoption`.
        """
        inspection = self.target.database.inspect(deadline)
        _require_only_adopted(inspection.history, versions)
        return None if inspection.fence is None else tuple(r.name for r in inspection.history)

    def undo_adoption(self, versions: Collection[Version], deadline: Deadline) -> tuple[str, ...]:
        """Delete the history rows that an adoption recorded; another tool's table stays as it is.

        Args:
            versions: The versions that were adopted.
            deadline: Overall.

        Returns:
            Names of the migrations that are no longer recorded.

        Raises:
            ConfigurationError: Other rows are there.
        """
        with self._open_database(deadline) as (lease_session, fenced_session):
            history = fenced_session.read_history()
            _require_only_adopted(history, versions)
            # First, because deleted rows would be deleted in the other tool's table as well.
            fenced_session.sync_tool_history(None)
            if history:
                withdraw_readiness(lease_session, fenced_session, lowest=history[0].version)
                fenced_session.delete_rows([row.version for row in history])
            record_completion(lease_session, fenced_session, fenced_session.read_history())
        return tuple(row.name for row in history)

    def repair(
        self, version: Version, deadline: Deadline, *, declared_state: str, force: bool = False
    ) -> str:
        """Resolve a migration whose outcome is unknown, or accept an edited file.

        Args:
            version: The migration.
            deadline: Overall.
            declared_state: ``applied`` or ``pending`` for a migration in doubt; ``edited`` to
                accept a file that changed after it was applied.
            force: Remove the row of a migration that is not in doubt as well.

        Returns:
            The migration's name.

        Raises:
            ConfigurationError: There is no such row, or no such file; or see `require_in_doubt`.
        """
        if isinstance(self.manifest, RevisionManifest):
            return self._resolve_revision(str(version), deadline, declared_state=declared_state)
        if declared_state not in _REPAIR_STATES:
            raise ConfigurationError(
                f"{declared_state!r} is not an outcome of version {version}: write one of "
                f"{', '.join(_REPAIR_STATES)}"
            )
        with self._open_database(deadline) as (lease_session, fenced_session):
            history = fenced_session.read_history()
            row = find_row(history, version)
            before: tuple[str, ...] = ()
            if declared_state == "pending":
                name = self._delete_row(
                    lease_session, fenced_session, row, version=version, force=force
                )
            else:
                name = self._mark_applied(
                    lease_session,
                    fenced_session,
                    row,
                    version=version,
                    declared_state=declared_state,
                )
                before = find_satisfied_digests(history)  # the schema has not changed
            record_completion(
                lease_session,
                fenced_session,
                fenced_session.read_history(),
                manifest_digest=self.manifest.digest,
                digests_before_migration=before,
            )
        return name

    def _resolve_revision(
        self, revision_id: str, deadline: Deadline, *, declared_state: str
    ) -> str:
        """`repair` of another tool's revision: its version table decides what is applied."""
        if declared_state == "edited":
            require_sql_files(self.manifest, "`repair --as edited`", "write a new migration")
        with self._open_database(deadline) as (lease_session, fenced_session):
            is_applied = declared_state == "applied"
            name = fenced_session.resolve_revision(revision_id, is_applied=is_applied)
            record_completion(lease_session, fenced_session, fenced_session.read_history())
        return name

    def _delete_row(
        self,
        lease_session: LeaseSession,
        fenced_session: FencedSession,
        row: HistoryRow | None,
        *,
        version: Version,
        force: bool,
    ) -> str:
        is_repeatable = isinstance(version, RepeatableVersion)
        if row is None or row.state is RowState.STALE:
            name = self._find_migration(version).name
            raise ConfigurationError(f"{name} is pending already: it has no history row")
        require_in_doubt(row, force=force)
        withdraw_readiness(lease_session, fenced_session, lowest=version)
        fenced_session.mark_repeatables_stale(row.name if is_repeatable else "")
        if not is_repeatable:
            fenced_session.delete_rows([version])
        return row.name

    def _mark_applied(
        self,
        lease_session: LeaseSession,
        fenced_session: FencedSession,
        row: HistoryRow | None,
        *,
        version: Version,
        declared_state: str,
    ) -> str:
        migration = self._find_migration(version)
        if row is None and declared_state == "edited":
            raise ConfigurationError(f"{migration.name} was never applied: it has no history row")
        if declared_state == "edited" and isinstance(version, RepeatableVersion):
            raise ConfigurationError(
                f"{migration.name} is repeatable, so its text may change: `lambda-migrate up` "
                "applies it. To mark it instead, use --as applied or --as pending"
            )
        if declared_state == "edited" and row is not None and row.state is not RowState.APPLIED:
            raise ConfigurationError(
                f"{migration.name} is in doubt ({row.state.value}): use --as applied or --as "
                "pending"
            )
        application = with_repeatable_version(migration, self.manifest, lease_session)
        fenced_session.record_applied(
            [(application, self.manifest.digest_at(version))], baseline=False
        )
        return migration.name

    def record_environment(self, deadline: Deadline) -> None:
        """Record this target's environment in the database, as for a copy that moved."""
        with self._open_database(deadline, replace_environment=True) as (
            lease_session,
            fenced_session,
        ):
            record_completion(
                lease_session,
                fenced_session,
                fenced_session.read_history(),
                manifest_digest=self.manifest.digest,
            )

    def resync(self, deadline: Deadline) -> None:
        """Mark exactly those code versions ready that the history supports, at this address.

        Other addresses of the same database are checked again before any code serves.
        """
        with self._open_database(deadline) as (lease_session, fenced_session):
            history = fenced_session.read_history()
            record_completion(
                lease_session,
                fenced_session,
                history,
                manifest_digest=self.manifest.digest,
                is_resync=True,
            )

    def release_lease(self) -> LeaseState:
        """See `release_lease` of this module."""
        return release_lease(self.target.store)

    # --- the lease

    @contextmanager
    def _open_database(
        self,
        deadline: Deadline,
        *,
        target: Target | None = None,
        replace_environment: bool = False,
        record_failures: Manifest | None = None,
    ) -> Iterator[tuple[LeaseSession, FencedSession]]:
        """Acquire the lease and open the database under its fencing token, for the block.

        Raises:
            LeaseHeld: Another process holds the lease.
        """
        lease_session = LeaseSession(
            target or self.target,
            acquire_lease(self.target, self._request_id),
            deadline,
            request_id=self._request_id,
            replace_environment=replace_environment,
        )
        with lease_session.open_database(record_failures=record_failures) as fenced_session:
            yield lease_session, fenced_session

    def _require_free_lease(self) -> None:
        state = self.target.store.read(consistent=True)
        if state.owner is not None and not is_lease_expired(state, self.target.store.now_ms()):
            raise LeaseHeld(f"another process holds the lease: {describe_holder(state)}")

    def _require_migrations(self) -> None:
        require_migrations(self.manifest.digest, allow_empty=self.target.policy.allow_empty)

    def _require_file(self, version: Version | None) -> None:
        self._require_migrations()
        if isinstance(version, RepeatableVersion):
            raise ConfigurationError(
                f"{version} is repeatable and has no version: name a versioned migration"
            )
        if version is not None and not isinstance(self.manifest, RevisionManifest):
            self._find_migration(version)

    def _manifest_up_to(self, version: Version | None) -> Manifest:
        self._require_file(version)
        return self.manifest if version is None else self.manifest.up_to(version)

    def _find_migration(self, version: Version) -> Migration:
        migration = self.manifest.get(version)
        if migration is None and isinstance(version, RepeatableVersion):
            raise ConfigurationError(f"there is no migration file {version}.sql")
        if migration is None:
            versions = [str(migration.version) for migration in self.manifest]
            # The newest versions are the useful ones; a message with thousands is not readable.
            known = ("..., " if len(versions) > 20 else "") + (", ".join(versions[-20:]) or "none")
            raise ConfigurationError(
                f"there is no migration file of version {version}; existing versions: {known}"
            )
        return migration


def _record_baseline(
    lease_session: LeaseSession,
    fenced_session: FencedSession,
    chosen: Baseline,
    expected: Baseline | None,
) -> tuple[str, ...]:
    if expected is not None and chosen != expected:
        raise LeaseHeld(_HISTORY_CHANGED)
    rows = [(m, chosen.manifest.digest_at(m.version)) for m in chosen.migrations]
    fenced_session.record_applied(rows, baseline=True)
    record_completion(
        lease_session,
        fenced_session,
        fenced_session.read_history(),
        manifest_digest=chosen.manifest.digest,
    )
    return tuple(m.name for m in chosen.migrations)


def _keep_names(tool_history: ToolHistory) -> ToolHistory:
    return tool_history


def _require_only_adopted(history: Sequence[HistoryRow], versions: Collection[Version]) -> None:
    own = [row.name for row in history if not (row.baseline and row.version in versions)]
    if own:
        more = f" and {len(own) - 1} more were" if own[1:] else " was"
        raise ConfigurationError(
            f"cannot undo the adoption: {own[-1]}{more} applied or marked after it; roll back what "
            "came after it first (`lambda-migrate down`)"
        )


def require_sql_files(manifest: Manifest, operation: str, advice: str) -> None:
    """Refuse an operation that has no meaning for another tool's migrations.

    Args:
        manifest: The migrations.
        operation: What was asked for, for the message.
        advice: What to do instead.

    Raises:
        ConfigurationError: They are another tool's.
    """
    if isinstance(manifest, RevisionManifest):
        raise make_sql_only_error(manifest.tool, operation, advice)


def require_in_doubt(row: HistoryRow, *, force: bool) -> None:
    """Refuse to remove the row of a migration whose outcome is known, unless ``force``.

    A repeatable migration can always run again.

    Raises:
        ConfigurationError: Its effects would stay, and it would run again.
    """
    if row.state is RowState.APPLIED and isinstance(row.version, RevisionVersion):
        raise ConfigurationError(
            f"{row.name} is applied, not in doubt, so there is nothing to resolve: "
            "`lambda-migrate down` rolls it back"
        )
    if row.state is RowState.APPLIED and is_versioned(row) and not force:
        raise ConfigurationError(
            f"{row.name} is applied, not in doubt: without its row its changes would stay in the "
            "schema, and the next `up` would run it again. Run `lambda-migrate down --only "
            f"{row.version}` to roll it back; add --force if its changes are gone already"
        )


def release_lease(store: LeaseStore) -> LeaseState:
    """Release the lease without waiting until it expires; its holder may be alive.

    Returns:
        The state before.

    Raises:
        LeaseHeld: It was renewed meanwhile: its holder is alive.
    """
    state = store.read(consistent=True)
    if state.owner is None:
        return state
    lease = store.acquire(make_owner(), expected=state, is_expired=True)
    if not isinstance(lease, Lease):
        if lease.owner is None:  # its holder has just released it
            return lease
        raise LeaseHeld(
            f"the holder is alive and has just renewed the lease: {describe_holder(lease)}"
        )
    store.release(lease)
    return state
