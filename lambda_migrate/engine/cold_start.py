"""What a starting instance does until its database satisfies the manifest.

::

    read the item         -> decide; if something is pending, read the feature flags, decide again:
      Serve    -> serve
      Refuse   -> raise MigrationFailed, the same cause as the instance that tried
      Wait     -> read again later, bounded by the deadline
      Block    -> raise NotReady, naming the feature flag
      Acquire  -> take over the fence, read the history, plan, apply, complete;
                  in mode ``require``: only look whether another address did that
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from lambda_migrate.clock import Deadline
from lambda_migrate.engine.target import new_owner
from lambda_migrate.errors import (
    ConfigurationError,
    FlagsUnavailable,
    LeaseHeld,
    LeaseLost,
    LeaseStoreUnavailable,
    MigrateError,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.events import (
    CheckFailed,
    CheckFinished,
    LeaseTakenOver,
    WaitingForLease,
)
from lambda_migrate.lease.decision import (
    RETRY_TIME_FACTOR,
    Acquire,
    Block,
    LeaseWatch,
    Permission,
    Refuse,
    Serve,
    Step,
    Wait,
    decide,
)
from lambda_migrate.lease.dynamodb_errors import set_credentials_deadline
from lambda_migrate.lease.record import Lease, LeaseState
from lambda_migrate.migrations.deferred import DeferredManifest
from lambda_migrate.migrations.digest import require_migrations

if TYPE_CHECKING:
    from typing import Any

    from lambda_migrate.engine.apply import ApplyResult
    from lambda_migrate.engine.flags import Flags
    from lambda_migrate.engine.holder import LeaseSession
    from lambda_migrate.engine.target import Target
    from lambda_migrate.lease.waiter import Waiter
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.postgresql.ports import FencedSession, Inspection

__all__ = ["WITHOUT_DEADLINE_SECONDS", "ColdStart", "Outcome", "load_manifest"]

WITHOUT_DEADLINE_SECONDS = 900.0
"""Lambda's longest timeout, for callers that name no deadline."""

_STORE_GONE_SECONDS = 2.0
"""How long the lease table may be away before ``check`` asks PostgreSQL instead."""


_ANOTHER_PROCESS = "another process"
"""Holds the fence, as far as can be known without a lease table."""


class Outcome(str, Enum):
    """Why a cold start may serve."""

    UP_TO_DATE = "UP_TO_DATE"
    """The schema was ready."""
    MIGRATED = "MIGRATED"
    """This instance held the lease and saw to it."""
    WAITED = "WAITED"
    """Another instance did, while this one waited."""
    UNCHECKED = "UNCHECKED"
    """Something is pending, and a feature flag says mode ``off``: served as it is, this once."""


def load_manifest(manifest: Manifest | DeferredManifest) -> Manifest:
    """The manifest itself; a deferred one reads its files now, if it has not done so before.

    Raises:
        ManifestError: The migration files cannot be used.
    """
    return manifest.load() if isinstance(manifest, DeferredManifest) else manifest


class ColdStart:
    """One cold start, from the first read to its outcome.

    Whatever only a holder needs is loaded when there is a lease to hold: a cold start that finds
    the schema ready, or waits until it is, never loads it.
    """

    def __init__(
        self,
        manifest: Manifest | DeferredManifest,
        target: Target,
        invocation: Deadline | None,
        *,
        request_id: str,
    ) -> None:
        self.digest = manifest.digest
        self.target = target
        self.request_id = request_id
        self.started = target.clock.monotonic()
        self.waited = 0.0
        self.applied: list[str] = []
        self.owner = new_owner()
        self.fence = 0
        self.deadline = (
            invocation.earlier(target.policy.safety_margin_seconds)
            if invocation is not None
            else Deadline.after(WITHOUT_DEADLINE_SECONDS, target.clock)
        )
        set_credentials_deadline(target.store, self.deadline)
        self._shipped = manifest
        self._seen = LeaseState()
        self._flags: Flags | None = None  # as last read
        self._is_database_current = False
        self._calls_before = target.store.calls
        self._watch = LeaseWatch()
        self._waiter: Waiter | None = None
        self._failures = 0
        self._confirms = False
        self._look_refusal = ""
        self._looked_at: int | None = None

    def run(self) -> Outcome:
        """Decide and do, until it may be served or cannot be."""
        require_migrations(self.digest, allow_empty=self.target.policy.allow_empty)
        step = self._first_look()
        while True:
            if isinstance(step, Refuse | Block | Acquire):
                step = self._decide_with_flags(step)
            if isinstance(step, Serve):
                return self._served(step)
            if isinstance(step, Block):
                raise self._stopped(self._refusal_reason())
            if isinstance(step, Refuse):
                raise _refusal(step, self.target.store.now_ms())
            if isinstance(step, Wait):
                step = self._wait(step.state)
                continue
            if step.inspect_only:
                step = self._look_into_database(step)
                continue
            state = self._acquire(step)
            if isinstance(state, Lease):
                news = self._news(state)
                if news is not None:
                    step = news
                    continue
                self._announce(step, state)
                try:
                    if self._hold(state):
                        return Outcome.MIGRATED
                except LeaseHeld:
                    step = Wait(LeaseState(owner=_ANOTHER_PROCESS))
                    continue
                state = LeaseState()
                self._waiter = None
            step = self._after_losing(state)

    def _served(self, step: Serve) -> Outcome:
        if not step.is_checked:
            return Outcome.UNCHECKED
        return Outcome.WAITED if self.waited else Outcome.UP_TO_DATE

    # --- feature flags

    def _decide_with_flags(self, step: Step) -> Step:
        """Decide again with the feature flags as they are now; they are read if work is pending.

        Raises:
            FlagsUnavailable: They cannot be read.
        """
        if self.target.flags is None or not self._may_migrate:
            return step
        try:
            self._flags = self._read_flags()
        except FlagsUnavailable:
            if isinstance(step, Refuse):
                return step  # that the migration fails matters more
            raise
        return self._choose_step(self._seen)

    def _read_flags(self) -> Flags:
        from lambda_migrate.engine.flag_gate import read_flags

        return read_flags(self.target, self.deadline)

    @property
    def _may_migrate(self) -> bool:
        by_flag = self._flags is None or self._flags.mode != "require"
        return by_flag and self.target.policy.mode != "require"

    def _permission(self) -> Permission:
        """What the settings and the flags allow; files are read only if a version is held back."""
        if self.target.policy.mode == "require":
            return Permission("require")
        if self._flags is None:
            return Permission()
        digest = None
        if self._flags.hold_back_at and self._allowed() is not load_manifest(self._shipped):
            digest = self._allowed().digest if self._allowed() else ""
        return Permission(self._flags.mode, is_paused=self._flags.paused, allowed_digest=digest)

    def _allowed(self) -> Manifest:
        """As much of the manifest as the flags let through; all of it: the manifest itself."""
        manifest = load_manifest(self._shipped)
        return manifest if self._flags is None else self._flags.allowed(manifest)

    def _refusal_reason(self) -> str:
        """Which flag blocks the manifest; "" if none does."""
        if self._flags is None:
            return ""
        reason = self._flags.refusal_reason(0)  # without reading files
        return reason or self._flags.refusal_reason(load_manifest(self._shipped).version)

    def _stopped(self, refusal_reason: str) -> NotReady:
        from lambda_migrate.engine.flag_gate import make_flag_error

        return make_flag_error(f"the schema is not ready, and {refusal_reason}")

    # --- reading and waiting

    def _look(self) -> Step:
        """Read and decide; what ends the wait is confirmed by a strongly consistent read.

        A confirmation that was throttled is repeated as such. All waiters learn at the same time
        that they may serve; if each first polled again, an overloaded table would have half as many
        units again to serve.
        """
        if not self._confirms:
            step = self._decide(self.target.store.read())
            self._confirms = isinstance(step, Serve | Refuse)
            if not self._confirms:
                return step
        step = self._decide(self.target.store.read(consistent=True))
        self._confirms = False
        return step

    def _first_look(self) -> Step:
        try:
            return self._decide(self.target.store.read(consistent=True))
        except LeaseStoreUnavailable as error:
            if self._until.is_over:
                return self._without_store(error)
            self._failures = 1
            return Wait(LeaseState())

    def _decide(self, state: LeaseState, *, has_lost: bool = False) -> Step:
        """Decide from a reading; without a lease table, from what the database itself shows."""
        if not self.target.has_lease_table:
            state = replace(state, databases={})  # only the database knows what is ready
        self._seen = state
        self._is_database_current = False
        step = self._choose_step(state, has_lost=has_lost)
        if self.target.has_lease_table or isinstance(step, Serve | Refuse):
            return step
        from lambda_migrate.postgresql.ports import require_environment

        found = self.target.database.inspect(self.deadline)
        if found.fence is not None:
            require_environment(found.fence.environment, self.target.environment)
        self._is_database_current = self._is_current(found)
        return self._choose_step(state, has_lost=has_lost)

    def _choose_step(self, state: LeaseState, *, has_lost: bool = False) -> Step:
        return decide(
            state,
            digest=self.digest,
            address=self.target.database.fingerprint,
            owner=self.owner,
            now_ms=self.target.store.now_ms(),
            remaining_ms=round(self.deadline.remaining() * 1000),
            manifest_length=self._length_for(state),
            permission=self._permission(),
            is_expired=self._watch.has_expired(state, self.target.clock.monotonic()),
            is_database_current=self._is_database_current,
            inspected_at=self._looked_at,
            has_lost=has_lost,
        )

    def _length_for(self, state: LeaseState) -> int:
        """How many migrations the manifest has, where that matters: files are read for it."""
        is_short = not any(each.dropped for each in state.databases.values())
        address = self.target.database.fingerprint
        if self._may_migrate or is_short or state.is_ready(self.digest, address):
            return 0
        return len(load_manifest(self._shipped))

    def _after_losing(self, state: LeaseState) -> Step:
        """Decide from the item that was in the way, but do not run into it again at once."""
        return self._decide(state, has_lost=True)

    def _wait(self, state: LeaseState) -> Step:
        """Read again and again, each time later, until there is something else to do.

        Raises:
            NotReady: Not before the deadline.
        """
        clock = self.target.clock
        began = clock.monotonic()
        # One waiter for all waits: acquisitions that fail again and again come ever later, too.
        self._waiter = self._waiter or self._new_waiter()
        try:
            return self._waiter.wait(state, failures=self._failures)
        except LeaseStoreUnavailable as error:
            return self._without_store(error)
        except NotReady as error:
            refusal_reason = self._flags.refusal_reason(0) if self._flags is not None else ""
            refusal_reason = refusal_reason or self._look_refusal
            if not refusal_reason:
                raise
            raise NotReady(
                f"{error}; {refusal_reason}", retry_after_seconds=error.retry_after_seconds
            ) from None
        finally:
            self._failures = 0
            self.waited += clock.monotonic() - began

    def _new_waiter(self) -> Waiter:
        from lambda_migrate.lease.backoff import Backoff
        from lambda_migrate.lease.waiter import Waiter

        checks_database = self.target.policy.check_database_if_store_unavailable
        return Waiter(
            self._look,
            until=self._until,
            backoff=Backoff(self.target.random),
            on_wait=self._tell_waiting,
            now_ms=self.target.store.now_ms,
            store_timeout_seconds=_STORE_GONE_SECONDS if checks_database else None,
        )

    @property
    def _until(self) -> Deadline:
        """When waiting ends."""
        return self.deadline.at_most(self.target.policy.wait_seconds - self.waited)

    def _tell_waiting(self, state: LeaseState, waited: float, delay: float) -> None:
        progress = state.progress.migration if state.progress is not None else ""
        self.target.observer.observe(
            WaitingForLease(self.target.name, state.owner or "", waited, delay, progress)
        )

    def _without_store(self, error: LeaseStoreUnavailable) -> Serve:
        """Serve if PostgreSQL may be asked instead and says so; fail closed otherwise."""
        if self.target.policy.check_database_if_store_unavailable and self._database_is_current():
            return Serve()
        raise error

    def _database_is_current(self) -> bool:
        return self._is_current(self.target.database.inspect(self.deadline))

    def _is_current(self, found: Inspection) -> bool:
        from lambda_migrate.migrations.plan import make_plan

        # A rollback may be in progress: its history row goes only when it commits.
        return (
            not found.has_active_holder
            and make_plan(
                load_manifest(self._shipped),
                found.history,
                allow_out_of_order=self.target.policy.allow_out_of_order,
            ).is_current
        )

    # --- holding the lease

    def _acquire(self, step: Acquire) -> Lease | LeaseState:
        if self.deadline.is_over:
            raise NotReady(self._too_late())
        load_manifest(self._shipped)  # report unusable files before other instances have to wait
        try:
            return self.target.store.acquire(
                self.owner, expected=step.state, is_expired=step.is_expired
            )
        except LeaseStoreUnavailable:
            # Whether it was taken is for the next reading to say.
            return LeaseState()

    def _news(self, lease: Lease) -> Step | None:
        """What became known between our reading and our acquiring; the lease is given back then.

        The reading may have been an old one, from before the holder in it was done.
        """
        step = self._decide(lease.state)
        if not isinstance(step, Serve | Refuse | Block):
            return None
        from contextlib import suppress  # the one thing here that a plain start need not load

        with suppress(MigrateError):  # it runs out by itself otherwise
            self.target.store.release(lease)
        return step

    def _too_late(self) -> str:
        margin = self.target.policy.safety_margin_seconds
        return (
            "the schema is not ready, and no time is left to migrate it in this invocation "
            f"({margin:g} s are kept free at its end): give the function a longer timeout, or set "
            "LAMBDA_MIGRATE_SAFETY_MARGIN_SECONDS lower"
        )

    def _announce(self, step: Acquire, lease: Lease) -> None:
        self.fence = lease.fence
        before = step.state.owner
        if before not in (None, self.owner):
            self.target.observer.observe(LeaseTakenOver(self.target.name, before, lease.fence))

    def _look_into_database(self, step: Acquire) -> Step:
        """Look whether the database satisfies the manifest, without migrating it.

        Made known for this address, so that no other instance looks again before something has
        changed. A function that may only read the item waits instead, for one that may do more.

        Raises:
            ConfigurationError: The database cannot be looked at; recorded for this address.
        """
        from lambda_migrate.engine.inspection import inspect_database

        manifest = load_manifest(self._shipped)
        try:
            state = self._acquire(step)
        except ConfigurationError as error:
            self._looked_at = step.state.latest_check_fence
            self._look_refusal = f"whether it is ready could not be checked: {error}"
            return Wait(step.state)
        if isinstance(state, Lease):
            if (news := self._news(state)) is not None:
                return news
            try:
                look = inspect_database(self.target, state, manifest, self.deadline)
                state, self._look_refusal = look.state, look.reason
                self._looked_at = None if look.may_change else state.latest_check_fence
            except (LeaseLost, LeaseStoreUnavailable):
                state = LeaseState()
        return self._after_losing(state)

    def _hold(self, lease: Lease) -> bool:
        """Do what a holder does; False if the lease was lost when all was done.

        Raises:
            NotReady: All was done that the feature flags let through, and it is not enough.
        """
        from lambda_migrate.engine.apply import apply_pending, make_plan_for
        from lambda_migrate.engine.holder import LeaseSession

        manifest = load_manifest(self._shipped)
        allowed = self._allowed()
        session = LeaseSession(self.target, lease, self.deadline, request_id=self.request_id)
        with session.open_database(record_failures=manifest) as database:
            self.fence = session.lease.fence  # PostgreSQL may have had it raised
            result = apply_pending(session, database, allowed, on_applied=self.applied.append)
            if (
                allowed is not manifest
                and make_plan_for(session, result.history, manifest).is_current
            ):
                allowed = manifest  # it was applied before it was held back
            is_done = self._complete(session, database, result, served=allowed.digest)
        if self._flags is not None and allowed is not manifest:
            raise self._stopped(self._refusal_reason())
        return is_done

    def _complete(
        self, session: LeaseSession, database: FencedSession, result: ApplyResult, *, served: str
    ) -> bool:
        """Publish what the database satisfies; whether it still does by then."""
        from lambda_migrate.engine.apply import complete

        try:
            complete(
                session,
                database,
                result.history,
                served=served,
                digests_before=result.digests_before,
                keep_failures=True,
            )
        except LeaseLost:
            # A successor has its own view of this database, perhaps a rollback: ask again.
            return False
        except LeaseStoreUnavailable:
            # The lease runs out by itself, and the next instance tells the table. Frozen for longer
            # than that, we may have had a successor, and it may have rolled back: ask again.
            return self.target.clock.monotonic() < session.lease.trusted_until
        return True

    # --- telling

    def finished(self, outcome: Outcome) -> CheckFinished:
        """The event for an end that may serve."""
        return CheckFinished(outcome=outcome.value, **self._facts())

    def failed(self, error: Exception) -> CheckFailed:
        """The event for an end that may not."""
        failed = error if isinstance(error, MigrationFailed) else MigrationFailed("", attempts=0)
        # What others raise may hold anything, secrets included; Python shows it where it surfaces.
        message = str(error) if isinstance(error, MigrateError) else "an unexpected error"
        return CheckFailed(
            error=type(error).__name__,
            message=failed.summary or message,
            retryable=isinstance(error, MigrateError) and error.retryable,
            migration=failed.migration,
            sqlstate=failed.sqlstate,
            attempts=failed.attempts,
            retry_at_ms=failed.retry_at_ms,
            **self._facts(),
        )

    def _facts(self) -> dict[str, Any]:
        return {
            "target": self.target.name,
            "digest": self.digest,
            "seconds": self.target.clock.monotonic() - self.started,
            "waited_seconds": self.waited,
            "lease_calls": self.target.store.calls - self._calls_before,
            "applied": tuple(self.applied),
            "fence": self.fence,
            "owner": self.owner,
        }


def _refusal(step: Refuse, now_ms: int) -> MigrationFailed:
    """The failure of the instance that tried, told by one that did not."""
    failure = step.failure
    refused = MigrationFailed(
        failure.cause,
        migration=failure.migration,
        sqlstate=failure.sqlstate,
        attempts=failure.attempts,
        retry_at_ms=failure.retry_at_ms,
    )
    seconds = max(0, failure.retry_at_ms - now_ms) / 1000
    sooner = "or at once with other migration files"
    if failure.had_ms is not None:
        sooner += (
            f" or with more than {failure.had_ms * RETRY_TIME_FACTOR / 1000:.1f} s left for it"
        )
    refused.args = (
        f"{refused.summary}; attempt {failure.attempts} failed elsewhere, the next one may start "
        f"in {seconds:.0f} s, {sooner}",
    )
    return refused
