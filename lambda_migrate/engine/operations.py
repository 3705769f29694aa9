"""What people do to a target: look, migrate at once, roll back, baseline, repair, resync, release.

The command line and the functions in ``deploy`` share it. Whatever writes takes the same lease and
fence as a starting function does.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lambda_migrate.engine.apply import (
    apply_pending,
    complete,
    require_no_divergence,
    require_valid_scripts,
    satisfied_digests,
    withdraw,
)
from lambda_migrate.engine.dry_run import DryRunResult, lasting_effects_of, rehearse
from lambda_migrate.engine.flag_gate import check_flags
from lambda_migrate.engine.holder import LeaseSession
from lambda_migrate.engine.target import new_owner
from lambda_migrate.errors import ConfigurationError, LeaseHeld
from lambda_migrate.events import LeaseTakenOver, MigrationRolledBack
from lambda_migrate.lease.decision import is_lease_expired
from lambda_migrate.lease.readiness import UNKNOWN_IDENTITY
from lambda_migrate.lease.record import Lease, LeaseState, Progress, join_digests, split_digests
from lambda_migrate.lease.waiter import describe
from lambda_migrate.migrations import HistoryRow, RowState, make_plan
from lambda_migrate.migrations.adoption import choose_baseline, require_no_other_history
from lambda_migrate.migrations.digest import require_migrations
from lambda_migrate.migrations.rollback import choose_rollback, require_reversible
from lambda_migrate.postgresql.ports import is_behind_last_completion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.target import Target
    from lambda_migrate.lease.store import LeaseStore
    from lambda_migrate.migrations import Manifest, Migration, Plan
    from lambda_migrate.migrations.adoption import Baseline
    from lambda_migrate.postgresql.ports import FencedSession, FenceRow, Inspection

__all__ = ["DryRunPlan", "Operations", "Status", "Verification", "release_lease"]


_DESPITE_FLAGS = "; lift it, or run `up --despite-flags`"

_DECLARED = ("applied", "pending", "edited")


@dataclass(frozen=True, slots=True)
class Status:
    """A target as it stands.

    Attributes:
        history: All rows.
        plan: The manifest held against them.
        lease: The item, read consistently.
        is_marked_ready: Whether the item says that this manifest may be served.
        is_elsewhere: Whether the item knows this address as that of another database, or of a
            later state of this one.
    """

    history: tuple[HistoryRow, ...]
    plan: Plan
    lease: LeaseState
    is_marked_ready: bool
    is_other_database: bool = False


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether files, history and item agree.

    Attributes:
        status: What was compared.
        problems: One sentence for each disagreement, with what to do.
        resynced: Whether the item was mended just now.
    """

    status: Status
    problems: tuple[str, ...]
    resynced: bool = False


@dataclass(frozen=True, slots=True)
class DryRunPlan:
    """What a rehearsal is about to run, and where.

    Attributes:
        plan: What is pending.
        manifest: What would be satisfied.
        environment: What the database is stamped with, or, unstamped, what this target names.
    """

    plan: Plan
    manifest: Manifest
    environment: str

    @property
    def is_production(self) -> bool:
        """Whether users are likely to be kept waiting by it."""
        return self.environment.lower().startswith(("prod", "live"))

    @property
    def lasting(self) -> tuple[str, ...]:
        """What the rollback will not undo, as far as the scripts' words tell."""
        return lasting_effects_of(self.plan.pending)


class Operations:
    """One target and one manifest, for a person at work.

    Args:
        manifest: The migration files at hand.
        target: The database with its item.
        request_id: Of the command, for the history and for the name in the lease table.
    """

    def __init__(self, manifest: Manifest, target: Target, *, request_id: str = "") -> None:
        self.manifest = manifest
        self.target = target
        self._request_id = request_id

    # --- looking

    def status(self, deadline: Deadline) -> Status:
        """Read history and item; changes nothing."""
        found = self.target.database.inspect(deadline)
        lease = self.target.store.read(consistent=True)
        address = self.target.database.fingerprint
        return Status(
            history=found.history,
            plan=self._plan_of(self.manifest, found.history),
            lease=lease,
            is_marked_ready=lease.is_ready(self.manifest.digest, address),
            is_other_database=_is_elsewhere(found.fence, lease, address),
        )

    def plan(
        self, deadline: Deadline, *, to: int | None = None, ignore_other_history: bool = False
    ) -> tuple[Plan, Manifest]:
        """What `up` would do, and the manifest that it would satisfy; changes nothing.

        Args:
            deadline: For reading the history.
            to: As of `up`.
            ignore_other_history: As of `up`.

        Raises:
            ConfigurationError: Another tool has migrated this database; `up` would refuse.
        """
        manifest = self.manifest if to is None else self._up_to(to)
        found = self.target.database.inspect(deadline)
        plan = self._plan_from(found, manifest, deadline, ignore_other_history=ignore_other_history)
        return plan, manifest

    def _plan_from(
        self,
        found: Inspection,
        manifest: Manifest,
        deadline: Deadline,
        *,
        ignore_other_history: bool,
    ) -> Plan:
        plan = self._plan_of(manifest, found.history)
        require_no_other_history(
            plan,
            lambda: self.target.database.read_other_histories(deadline),
            ignore=ignore_other_history or self.target.policy.ignore_other_history,
        )
        return plan

    def _plan_of(self, manifest: Manifest, history: Sequence[HistoryRow]) -> Plan:
        self._require_migrations()
        out_of_order = self.target.policy.allow_out_of_order
        return make_plan(manifest, history, allow_out_of_order=out_of_order)

    def rehearse(
        self,
        deadline: Deadline,
        *,
        to: int | None = None,
        ignore_other_history: bool = False,
        confirm: Callable[[DryRunPlan], bool] = lambda _forecast: True,
    ) -> DryRunResult | None:
        """Do what `up` would do in one transaction, measure it, and roll all of it back.

        It takes the lease, so that nobody migrates meanwhile and those that start wait without a
        connection, and holds the fence row for those that have no lease. It gives the lease back
        as it was: neither a failure nor a digest is recorded. No other holder's backend is ended.

        Args:
            deadline: For all of it.
            to: As of `up`.
            ignore_other_history: As of `up`.
            confirm: Asked before anything runs, as it takes real locks.

        Returns:
            What was measured, a failure included; None if it was not confirmed.

        Raises:
            LeaseHeld: Somebody else is at it.
            Diverged: As `up`; nothing ran.
            ManifestError: As `up`; nothing ran.
            NotReady: A feature flag stops all migrating. One that only holds versions back does
                not: what is held back may well be rehearsed.
        """
        manifest = self.manifest if to is None else self._up_to(to)
        found = self.target.database.inspect(deadline)
        plan = self._plan_from(found, manifest, deadline, ignore_other_history=ignore_other_history)
        require_no_divergence(plan)
        require_valid_scripts(plan)
        if not (plan.pending or plan.in_doubt):
            return DryRunResult()
        check_flags(self.target, deadline, version=0, what="the rehearsal", advice="; lift it")
        environment = (found.fence and found.fence.environment) or self.target.environment
        if not confirm(DryRunPlan(plan, manifest, environment)):
            return None
        session = LeaseSession(self.target, self._acquire(), deadline)
        try:
            with session.open_dry_run() as rehearsal:
                if self._plan_of(manifest, rehearsal.read_history()) != plan:
                    raise LeaseHeld(
                        "somebody else changed the history meanwhile; look and try again"
                    )
                return rehearse(session, rehearsal, plan)
        finally:
            session.release()

    def verify(self, deadline: Deadline, *, resync: bool = False) -> Verification:
        """Compare files, history and item.

        Args:
            deadline: For all of it.
            resync: Mend the item by what the history says, as after a restore.
        """
        status = self.status(deadline)
        problems = tuple(self._problems(status))
        if resync:
            self.resync(deadline)
        return Verification(status, problems, resynced=resync)

    def _problems(self, status: Status) -> Iterator[str]:
        for divergence in status.plan.divergences:
            yield str(divergence)
        for row in status.plan.in_doubt:
            yield f"{row.name}: it is in doubt ({row.state.value}); the next `up` settles it"
        if status.is_other_database:
            yield (
                f"{self.target.database.fingerprint} leads to another database than the lease "
                "table knows it for, or to an earlier state of it: it was restored, or a secret or "
                "a name was changed; run `lambda-migrate verify --resync`"
            )
        elif status.is_marked_ready and not status.plan.is_current:
            yield (
                "the lease table says that this code may be served, the history says it may not: "
                "the database was restored or changed by hand; run `lambda-migrate verify --resync`"
            )
        elif unproved := self._unproved(status):
            yield (
                f"the lease table marks {unproved} version(s) ready that the history does not "
                "support; run `lambda-migrate verify --resync`"
            )

    def _unproved(self, status: Status) -> int:
        """How many manifests are marked ready at this address that the history does not prove."""
        address = self.target.database.fingerprint
        record = status.lease.find_record(address)
        if record is None:
            return 0
        marked = split_digests(record.ready)[: record.addresses[address][0]]
        return len(
            set(marked) - set(split_digests(join_digests(satisfied_digests(status.history))))
        )

    # --- writing

    def up(
        self,
        deadline: Deadline,
        *,
        to: int | None = None,
        despite_flags: bool = False,
        ignore_other_history: bool = False,
    ) -> tuple[str, ...]:
        """Apply what is pending, now, whatever the item says and however short ago it failed.

        Args:
            deadline: For all of it.
            to: Stop after this version.
            despite_flags: Do not ask the feature flags.
            ignore_other_history: Continue even if another tool has migrated this database.

        Returns:
            Names of the migrations applied.

        Raises:
            LeaseHeld: Somebody else is at it.
            MigrationFailed: One failed; those before it stay.
            NotReady: A feature flag says to stop, before the first one or between two.
        """
        self._require_migrations()
        manifest = self.manifest if to is None else self._up_to(to)
        target = replace(self.target, flags=None) if despite_flags else self.target
        if ignore_other_history:
            target = replace(target, policy=replace(target.policy, ignore_other_history=True))
        check_flags(target, deadline, version=manifest.version, what="`up`", advice=_DESPITE_FLAGS)
        applied: list[str] = []
        with self._hold(deadline, target=target, record_failures=manifest) as (session, database):
            result = apply_pending(
                session, database, manifest, on_applied=applied.append, refuse_after_kills=False
            )
            complete(
                session,
                database,
                result.history,
                served=manifest.digest,
                digests_before=result.digests_before,
            )
        return tuple(applied)

    def down(
        self,
        deadline: Deadline,
        *,
        to: int | None = None,
        steps: int | None = None,
        only: int | None = None,
        confirm: Callable[[Sequence[HistoryRow]], bool] = lambda _rows: True,
    ) -> tuple[str, ...]:
        """Roll back by the stored down scripts, the newest first; see `choose_rollback`.

        The code versions concerned are marked as no longer ready before the first script runs.
        Nothing is served on an older reading: each cold start reads strongly consistently.

        Args:
            deadline: For all of it.
            to: See `choose_rollback`.
            steps: See `choose_rollback`.
            only: See `choose_rollback`.
            confirm: Asked with the rows before anything is changed.

        Returns:
            Names of the migrations reverted; () if it was not confirmed or there was nothing.

        Raises:
            LeaseHeld: Somebody else is at it.
            ConfigurationError: See `choose_rollback`.
        """
        history = self.target.database.read_history(deadline)
        try:
            rows = choose_rollback(history, to=to, steps=steps, only=only)
        finally:
            if any(row.state is not RowState.APPLIED for row in history):
                # What looks like a row in doubt may be what another process is applying.
                self._refuse_if_held()
        if not rows or not confirm(rows):
            return ()
        with self._hold(deadline) as (session, database):
            if choose_rollback(database.read_history(), to=to, steps=steps, only=only) != rows:
                raise LeaseHeld("somebody else changed the history meanwhile; look and try again")
            withdraw(session, database, lowest=rows[-1].version)
            finished, rows = self._settle(session, database, rows)
            for position, row in enumerate(rows, 1):
                self._revert(session, database, row, position=position, total=len(rows))
            complete(session, database, database.read_history())
        return tuple(row.name for row in (*finished, *rows))

    def _settle(
        self, session: LeaseSession, database: FencedSession, rows: tuple[HistoryRow, ...]
    ) -> tuple[tuple[HistoryRow, ...], tuple[HistoryRow, ...]]:
        """Settle those rows that are in doubt, and choose again by what the history says then.

        Returns:
            The rows whose interrupted rollback had taken effect, and those still to roll back: only
            rows that were chosen before, and confirmed.
        """
        in_doubt = [row for row in rows if row.state is not RowState.APPLIED]
        if not in_doubt:
            return (), rows
        for row in in_doubt:
            database.settle(row, session.deadline)
        left = {row.version: row for row in database.read_history()}
        applied = tuple(left[row.version] for row in rows if row.version in left)
        require_reversible(applied)
        finished = (row for row in in_doubt if row.state is RowState.ROLLING_BACK)
        return tuple(row for row in finished if row.version not in left), applied

    def _revert(
        self,
        session: LeaseSession,
        database: FencedSession,
        row: HistoryRow,
        *,
        position: int,
        total: int,
    ) -> None:
        target = self.target
        session.set_progress(Progress(row.name, position - 1, total, target.clock.wall_ms()))
        milliseconds = database.roll_back(row, session.deadline)
        target.observer.observe(
            MigrationRolledBack(target.name, row.name, position, total, milliseconds / 1000)
        )

    def preview_baseline(
        self,
        version: int | None,
        deadline: Deadline,
        *,
        source: str = "",
        ignore_other_history: bool = False,
    ) -> Baseline:
        """What `baseline` would record; changes nothing.

        Args:
            version: As of `baseline`.
            deadline: For reading the histories.
            source: As of `baseline`.
            ignore_other_history: As of `baseline`.

        Raises:
            ConfigurationError: See `choose_baseline`.
        """
        self._require_file(version)
        return choose_baseline(
            self.manifest,
            self.target.database.read_history(deadline),
            self.target.database.read_other_histories(deadline),
            version=version,
            source=source,
            ignore=self._ignores(version, asked=ignore_other_history),
        )

    def _ignores(self, version: int | None, *, asked: bool) -> bool:
        """Whether other tools' tables are ignored; without a version they are what is read."""
        return asked or (version is not None and self.target.policy.ignore_other_history)

    def baseline(
        self,
        version: int | None,
        deadline: Deadline,
        *,
        source: str = "",
        ignore_other_history: bool = False,
        expected: Baseline | None = None,
    ) -> tuple[str, ...]:
        """Record migrations as applied, without running them.

        For a database that was made by other means. Rows that exist stay as they are.

        Args:
            version: Everything up to it; None: exactly what another tool's history table says.
            deadline: For all of it.
            source: Which other tool, or which table of it, where there are several.
            ignore_other_history: Record up to ``version`` whatever such a table says.
            expected: What the user was shown; anything else is refused.

        Returns:
            Names of the migrations recorded.

        Raises:
            LeaseHeld: Another process holds the lease, or the applied migrations changed meanwhile.
            ConfigurationError: See `choose_baseline`.
        """
        self._require_file(version)
        with self._hold(deadline) as (session, database):
            chosen = choose_baseline(
                self.manifest,
                database.read_history(),
                database.read_other_histories(),
                version=version,
                source=source,
                ignore=self._ignores(version, asked=ignore_other_history),
            )
            if expected is not None and chosen != expected:
                raise LeaseHeld(
                    "the applied migrations changed meanwhile; check them and try again"
                )
            rows = [(m, chosen.manifest.digest_at(m.version)) for m in chosen.migrations]
            database.record_applied(rows, baseline=True)
            complete(session, database, database.read_history(), served=chosen.manifest.digest)
        return tuple(m.name for m in chosen.migrations)

    def repair(self, version: int, deadline: Deadline, *, declared: str) -> str:
        """Settle by a person's word what cannot be told from outside.

        Args:
            version: Which migration.
            deadline: For all of it.
            declared: ``applied`` or ``pending`` for one in doubt; ``edited`` to accept a file that
                changed after it was applied.

        Returns:
            The migration's name.

        Raises:
            ConfigurationError: There is no such row, or no such file.
        """
        if declared not in _DECLARED:
            raise ConfigurationError(
                f"{declared!r} says nothing about version {version}: write one of "
                f"{', '.join(_DECLARED)}"
            )
        with self._hold(deadline) as (session, database):
            history = database.read_history()
            row = next((r for r in history if r.version == version), None)
            before: tuple[str, ...] = ()
            if declared == "pending":
                name = self._forget(session, database, row, version=version)
            else:
                name = self._stamp(database, row, version=version, declared=declared)
                before = satisfied_digests(history)  # the schema is what it was
            complete(
                session,
                database,
                database.read_history(),
                served=self.manifest.digest,
                digests_before=before,
            )
        return name

    def _forget(
        self,
        session: LeaseSession,
        database: FencedSession,
        row: HistoryRow | None,
        *,
        version: int,
    ) -> str:
        if row is None:
            raise ConfigurationError(f"version {version} is pending already: it has no history row")
        withdraw(session, database, lowest=version)
        database.delete_rows([version])
        return row.name

    def _stamp(
        self, database: FencedSession, row: HistoryRow | None, *, version: int, declared: str
    ) -> str:
        migration = self._file(version)
        if row is None and declared == "edited":
            raise ConfigurationError(f"{migration.name} was never applied; there is no row to mend")
        if declared == "edited" and row is not None and row.state is not RowState.APPLIED:
            raise ConfigurationError(
                f"{migration.name} is in doubt ({row.state.value}): declare it applied or pending"
            )
        database.record_applied([(migration, self.manifest.digest_at(version))], baseline=False)
        return migration.name

    def stamp_environment(self, deadline: Deadline) -> None:
        """Stamp the database with this target's environment, whatever it was: a copy moved."""
        with self._hold(deadline, restamp=True) as (session, database):
            complete(session, database, database.read_history(), served=self.manifest.digest)

    def resync(self, deadline: Deadline) -> None:
        """Mark exactly those code versions ready that the history proves, for this address.

        Other addresses of the same database look again before they serve anything.
        """
        with self._hold(deadline) as (session, database):
            history = database.read_history()
            complete(session, database, history, served=self.manifest.digest, is_resync=True)

    def release_lease(self) -> LeaseState:
        """Free a lease whose holder is known to be dead, without waiting for its end.

        Returns:
            The state as it was.

        Raises:
            LeaseHeld: It was renewed meanwhile: its holder lives.
        """
        return release_lease(self.target.store)

    # --- the lease

    @contextmanager
    def _hold(
        self,
        deadline: Deadline,
        *,
        target: Target | None = None,
        restamp: bool = False,
        record_failures: Manifest | None = None,
    ) -> Iterator[tuple[LeaseSession, FencedSession]]:
        """Acquire the lease and open the database under its fencing token, for the block.

        Raises:
            LeaseHeld: Another process holds the lease.
        """
        session = LeaseSession(
            target or self.target,
            self._acquire(),
            deadline,
            request_id=self._request_id,
            restamp=restamp,
        )
        with session.open_database(record_failures=record_failures) as database:
            yield session, database

    def _refuse_if_held(self) -> None:
        state = self.target.store.read(consistent=True)
        if state.owner is not None and not is_lease_expired(state, self.target.store.now_ms()):
            raise LeaseHeld(f"another process holds the lease: {describe(state)}")

    def _acquire(self) -> Lease:
        before = self.target.store.read(consistent=True)
        lease = self.target.store.acquire(new_owner(self._request_id), expected=before)
        if not isinstance(lease, Lease):
            raise LeaseHeld(f"another process holds the lease: {describe(lease)}")
        if before.owner is not None and is_lease_expired(before, self.target.store.now_ms()):
            self.target.observer.observe(
                LeaseTakenOver(self.target.name, before.owner, lease.fence)
            )
        return lease

    def _require_migrations(self) -> None:
        require_migrations(self.manifest.digest, allow_empty=self.target.policy.allow_empty)

    def _require_file(self, version: int | None) -> None:
        self._require_migrations()
        if version is not None:
            self._file(version)

    def _up_to(self, version: int) -> Manifest:
        self._require_file(version)
        return self.manifest.up_to(version)

    def _file(self, version: int) -> Migration:
        migration = self.manifest.get(version)
        if migration is None:
            versions = [str(migration.version) for migration in self.manifest]
            # The newest are what is asked for; thousands would drown the sentence.
            known = ("..., " if len(versions) > 20 else "") + (", ".join(versions[-20:]) or "none")
            raise ConfigurationError(
                f"there is no migration file of version {version}; there are: {known}"
            )
        return migration


def _is_elsewhere(fence: FenceRow | None, lease: LeaseState, address: str) -> bool:
    known = lease.find_identity(address)
    if known in (None, UNKNOWN_IDENTITY):
        return False
    if fence is None or fence.identity != known or fence.is_copy:
        return True
    return is_behind_last_completion(fence, lease.completions)


def release_lease(store: LeaseStore) -> LeaseState:
    """Free a lease whose holder is known to be dead, without waiting for its end.

    Returns:
        The state as it was.

    Raises:
        LeaseHeld: It was renewed meanwhile: its holder lives.
    """
    state = store.read(consistent=True)
    if state.owner is None:
        return state
    lease = store.acquire(new_owner(), expected=state, is_expired=True)
    if not isinstance(lease, Lease):
        raise LeaseHeld(f"its holder lives and has just renewed it: {describe(lease)}")
    store.release(lease)
    return state
