"""One cold start that does not find the schema ready: decide and act until it is.

::

    the reading           -> decide; if something is pending, read the feature flags, decide again:
      Serve         -> serve
      Refuse        -> raise MigrationFailed, with the cause that the failed instance recorded
      BlockByFlags  -> raise NotReady, naming the feature flag
      Wait          -> read again later, until the deadline
      Acquire       -> acquire the lease, raise the fencing token in PostgreSQL, read the history,
                       plan, apply, complete; in mode ``require``: only inspect the database

`check.Check` has read the item; if that showed a ready schema, this module is not even imported.
`Decider` decides and reads again, `ColdStart` acts; the decision itself is `lease.decision.decide`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.check_events import WaitingForLease
from lambda_migrate.engine.decider import Decider
from lambda_migrate.errors import (
    ConfigurationError,
    LeaseHeld,
    LeaseLost,
    LeaseStoreUnavailable,
    MigrateError,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.lease.decision import (
    REQUIRED_TIME_FACTOR,
    BlockByFlags,
    Refuse,
    Serve,
    Wait,
)
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.lease.store import Lease
from lambda_migrate.outcome import Outcome

if TYPE_CHECKING:
    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.apply import ApplyResult
    from lambda_migrate.engine.check import Check
    from lambda_migrate.engine.holder import LeaseSession
    from lambda_migrate.engine.inspection import ReadinessInspection
    from lambda_migrate.lease.decision import Acquire, Decision
    from lambda_migrate.lease.waiter import Waiter
    from lambda_migrate.postgresql.ports import FencedSession

__all__ = ["ColdStart"]

_STORE_TIMEOUT_SECONDS = 2.0
"""How long the lease table may be unavailable before ``check`` inspects PostgreSQL instead."""

_NO_HOLDER_ADVICE = "run `lambda-migrate up`, or start a function that may migrate"

_UNKNOWN_OWNER = "another process"
"""The owner, as far as it can be known without a lease table."""


class ColdStart:
    """A check that did not find the schema ready, from the first reading to its outcome.

    What only a holder or a waiter needs is imported when it is needed.

    Args:
        check: What it is for; its results for the event at the end are kept there.
    """

    def __init__(self, check: Check) -> None:
        self._check = check
        self._target = check.target
        self._deadline = check.deadline
        self._decider = Decider(
            check.manifest, check.target, owner=check.owner, deadline=check.deadline
        )
        self._waiter: Waiter | None = None
        self._failed_reads = 0
        self._inspection_problem = ""

    def run(self, reading: LeaseState | LeaseStoreUnavailable) -> Outcome:
        """Decide and act until the code may serve.

        Args:
            reading: The item, or why it could not be read.

        Raises:
            MigrateError: It may not; see `MigrationRunner.ensure`.
        """
        decision = self._make_first_decision(reading)
        while True:
            decision = self._decider.decide_with_flags(decision)
            if isinstance(decision, Serve):
                return self._outcome(decision)
            if isinstance(decision, Refuse):
                raise _make_refusal(
                    decision,
                    self._target.store.now_ms(),
                    has_files=self._decider.requirements is None,
                )
            if isinstance(decision, BlockByFlags):
                raise self._make_flag_error()
            if isinstance(decision, Wait):
                decision = self._wait(decision.state)
            elif decision.inspect_only:
                decision = self._inspect(decision)
            else:
                result = self._migrate(decision)
                if isinstance(result, Outcome):
                    return result
                decision = result

    def _outcome(self, decision: Serve) -> Outcome:
        if not decision.is_schema_checked:
            return Outcome.UNCHECKED
        return Outcome.WAITED if self._check.waited_seconds else Outcome.UP_TO_DATE

    # --- reading and waiting

    def _make_first_decision(self, reading: LeaseState | LeaseStoreUnavailable) -> Decision:
        if isinstance(reading, LeaseState):
            return self._decider.decide(reading)
        if self._wait_deadline.is_over:
            return self._serve_if_database_current(reading)
        self._failed_reads = 1
        return Wait(LeaseState())

    def _wait(self, state: LeaseState) -> Decision:
        """Read again, with growing delays, until there is something else to do.

        Raises:
            NotReady: The deadline or ``wait_seconds`` was reached first.
        """
        clock = self._target.clock
        began = clock.monotonic()
        # One waiter for all waits: the delays keep growing if acquisitions fail repeatedly.
        self._waiter = self._waiter or self._new_waiter()
        try:
            return self._waiter.wait(state, error_count=self._failed_reads)
        except LeaseStoreUnavailable as error:
            return self._serve_if_database_current(error)
        except NotReady as error:
            if self._decider.requirements is not None:
                seconds = self._check.waited_seconds + clock.monotonic() - began
                raise NotReady(
                    f"waited {seconds:.1f} s: {self._describe_unmet_requirements()}",
                    retry_after_seconds=error.retry_after_seconds,
                ) from None
            reason = self._decider.pause_reason or self._inspection_problem
            if not reason and not self._waiter.has_holder:
                reason = _NO_HOLDER_ADVICE
            if not reason:
                raise
            raise NotReady(
                f"{error}; {reason}", retry_after_seconds=error.retry_after_seconds
            ) from None
        finally:
            self._failed_reads = 0
            self._check.waited_seconds += clock.monotonic() - began

    def _describe_unmet_requirements(self) -> str:
        """What other tools have not applied: there is no process of ours to wait for."""
        return (
            self._decider.wait_reason
            or self._inspection_problem
            or f"{self._decider.requirements} was not checked yet"
        )

    def _new_waiter(self) -> Waiter:
        from lambda_migrate.lease.backoff import Backoff
        from lambda_migrate.lease.waiter import Waiter

        checks_database = self._target.policy.check_database_if_store_unavailable
        return Waiter(
            self._decider.decide_from_next_read,
            deadline=self._wait_deadline,
            backoff=Backoff(self._target.random),
            on_wait=self._report_wait,
            now_ms=self._target.store.now_ms,
            store_timeout_seconds=_STORE_TIMEOUT_SECONDS if checks_database else None,
        )

    @property
    def _wait_deadline(self) -> Deadline:
        return self._deadline.limited_to(
            self._target.policy.wait_seconds - self._check.waited_seconds
        )

    def _report_wait(self, state: LeaseState, waited_seconds: float, delay_seconds: float) -> None:
        progress = state.progress.migration if state.progress is not None else ""
        self._target.observer.observe(
            WaitingForLease(
                self._target.name, state.owner or "", waited_seconds, delay_seconds, progress
            )
        )

    def _serve_if_database_current(self, error: LeaseStoreUnavailable) -> Serve:
        """Serve if the policy allows to inspect PostgreSQL instead, and that shows a ready schema.

        Raises:
            LeaseStoreUnavailable: Otherwise.
        """
        may_check = self._target.policy.check_database_if_store_unavailable
        if may_check and self._decider.is_database_current():
            return Serve()
        raise error

    # --- migrating

    def _migrate(self, decision: Acquire) -> Outcome | Decision:
        """Acquire the lease, apply what is pending, and complete."""
        state = self._acquire(decision)
        if not isinstance(state, Lease):
            return self._decider.decide(state, has_lost_acquisition=True)
        final_decision = self._decide_after_acquiring(state)
        if final_decision is not None:
            return final_decision
        self._report_takeover(decision, state)
        try:
            is_completed = self._apply_and_complete(state)
        except LeaseHeld:  # without a lease table, a live holder is found only in PostgreSQL
            return Wait(LeaseState(owner=_UNKNOWN_OWNER))
        if is_completed:
            return Outcome.MIGRATED
        self._waiter = None
        return self._decider.decide(LeaseState(), has_lost_acquisition=True)

    def _acquire(self, decision: Acquire) -> Lease | LeaseState:
        if self._deadline.is_over:
            raise NotReady(
                "not enough time is left in this invocation to migrate (the last "
                f"{self._target.policy.safety_margin_seconds:g} s are reserved): give the function "
                "a longer timeout, or lower LAMBDA_MIGRATE_SAFETY_MARGIN_SECONDS"
            )
        if self._decider.requirements is None:
            _ = self._decider.manifest  # report unusable files before other instances wait
        try:
            return self._target.store.acquire(
                self._check.owner, expected=decision.state, is_expired=decision.is_expired
            )
        except LeaseStoreUnavailable:
            # The next reading shows whether it was acquired.
            return LeaseState()

    def _decide_after_acquiring(self, lease: Lease) -> Decision | None:
        """Release the lease if the item as acquired no longer calls for a migration.

        The reading before it may be from before the last holder completed.
        """
        decision = self._decider.decide(lease.state)
        if not isinstance(decision, Serve | Refuse | BlockByFlags):
            return None
        from contextlib import suppress  # not loaded by a start that finds the schema ready

        with suppress(MigrateError):  # it expires by itself otherwise
            self._target.store.release(lease)
        return decision

    def _report_takeover(self, decision: Acquire, lease: Lease) -> None:
        self._check.fence = lease.fence
        before = decision.state.owner
        if before not in (None, self._check.owner):
            from lambda_migrate.events import LeaseTakenOver

            self._target.observer.observe(LeaseTakenOver(self._target.name, before, lease.fence))

    def _apply_and_complete(self, lease: Lease) -> bool:
        """Apply what the flags allow; False if the lease was lost after the last commit.

        Raises:
            NotReady: All that the feature flags allow is applied, and more is pending.
        """
        from lambda_migrate.engine.apply import apply_pending, make_plan_for
        from lambda_migrate.engine.holder import LeaseSession

        manifest, allowed = self._decider.manifest, self._decider.allowed_manifest
        lease_session = LeaseSession(
            self._target, lease, self._deadline, request_id=self._check.request_id
        )
        with lease_session.open_database(record_failures=manifest) as fenced_session:
            self._check.fence = lease_session.lease.fence  # PostgreSQL may have had it raised
            result = apply_pending(
                lease_session, fenced_session, allowed, on_applied=self._check.applied.append
            )
            if (
                allowed is not manifest
                and make_plan_for(lease_session, result.history, manifest).is_current
            ):
                allowed = manifest  # it was applied before it was held back
            is_completed = self._record_completion(
                lease_session, fenced_session, result, manifest_digest=allowed.digest
            )
        if allowed is not manifest:
            raise self._make_flag_error()
        return is_completed

    def _record_completion(
        self,
        lease_session: LeaseSession,
        fenced_session: FencedSession,
        result: ApplyResult,
        *,
        manifest_digest: str,
    ) -> bool:
        """Publish what the database satisfies; False if that may have changed since."""
        from lambda_migrate.engine.apply import record_completion

        try:
            record_completion(
                lease_session,
                fenced_session,
                result.history,
                manifest_digest=manifest_digest,
                digests_before_migration=result.digests_before_migration,
                keep_failures=True,
            )
        except LeaseLost:
            # A successor may have rolled migrations back: decide again.
            return False
        except LeaseStoreUnavailable:
            # The lease expires by itself, and the next instance completes. If this process was
            # frozen for longer than that, a successor may have rolled migrations back.
            return self._target.clock.monotonic() < lease_session.lease.trusted_until
        return True

    def _make_flag_error(self) -> NotReady:
        from lambda_migrate.engine.flag_gate import make_flag_error

        return make_flag_error(self._decider.refusal_reason)

    # --- mode require

    def _inspect(self, decision: Acquire) -> Decision:
        """Inspect whether the database satisfies the manifest, without migrating it.

        The result is published for this address, so that no other instance inspects it again
        before something has changed. A function that may only read the item waits for one that
        may also write.

        Raises:
            ConfigurationError: The database cannot be inspected; recorded for this address.
        """
        decider = self._decider
        try:
            state = self._acquire(decision)
        except ConfigurationError as error:
            decider.fence_at_inspection = decision.state.fence_of_latest_check
            self._inspection_problem = f"could not check whether the schema is ready: {error}"
            return Wait(decision.state)
        if isinstance(state, Lease):
            if (final_decision := self._decide_after_acquiring(state)) is not None:
                return final_decision
            try:
                result = self._run_inspection(state)
                state, self._inspection_problem = result.state, result.reason
                decider.fence_at_inspection = (
                    None if result.may_become_ready else state.fence_of_latest_check
                )
            except (LeaseLost, LeaseStoreUnavailable):
                state = LeaseState()
        return decider.decide(state, has_lost_acquisition=True)

    def _run_inspection(self, lease: Lease) -> ReadinessInspection:
        target, decider, deadline = self._target, self._decider, self._deadline
        if decider.requirements is not None:
            from lambda_migrate.engine.requirement_inspection import (
                inspect_requirements_under_lease,
            )

            return inspect_requirements_under_lease(target, lease, decider.requirements, deadline)
        from lambda_migrate.engine.inspection import inspect_database

        return inspect_database(target, lease, decider.manifest, deadline)


def _make_refusal(decision: Refuse, now_ms: int, *, has_files: bool) -> MigrationFailed:
    """The failure that another instance recorded, as this instance's error."""
    failure = decision.failure
    refusal = MigrationFailed(
        failure.cause,
        migration=failure.migration,
        sqlstate=failure.sqlstate,
        attempts=failure.attempts,
        retry_at_ms=failure.retry_at_ms,
    )
    seconds = max(0, failure.retry_at_ms - now_ms) / 1000
    changed = "migration files" if has_files else "requirements"
    sooner = f"or immediately with different {changed}"
    if failure.available_ms is not None:
        required = failure.available_ms * REQUIRED_TIME_FACTOR / 1000
        sooner += f" or with more than {required:.1f} s of remaining time"
    refusal.args = (
        f"{refusal.summary}; attempt {failure.attempts} failed in another instance; the next "
        f"attempt may start in {seconds:.0f} s, {sooner}",
    )
    return refusal
