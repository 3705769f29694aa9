"""`LeaseSession`: the time between acquiring the lease and giving it back."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from lambda_migrate.clock import CALL_TIMEOUT_SECONDS, CallTimeout, run_with_timeout
from lambda_migrate.engine.failure import make_failure
from lambda_migrate.errors import (
    ConfigurationError,
    LeaseHeld,
    LeaseLost,
    LeaseStoreUnavailable,
    MigrateError,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.events import LeaseHeldTime, LeaseTakenOver, MigrationNotice, RenewalFailed
from lambda_migrate.lease.decision import is_lease_expired
from lambda_migrate.lease.dynamodb_call import set_credentials_deadline
from lambda_migrate.lease.first_read import make_owner
from lambda_migrate.lease.heartbeat import ABORT_GRACE_SECONDS, Heartbeat
from lambda_migrate.lease.store import Lease
from lambda_migrate.lease.waiter import describe_holder
from lambda_migrate.postgresql.ports import LeaseGrant, StaleFencingToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.target import Target
    from lambda_migrate.lease.progress import Failure, Progress
    from lambda_migrate.lease.record import DatabaseRecord
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.postgresql.ports import DatabaseSession, DryRunSession, FencedSession

__all__ = ["LeaseSession", "acquire_lease"]

_OpenedSession = TypeVar("_OpenedSession")

_MAX_NOTICES = 100
"""How many warnings and notices of PostgreSQL are reported for all migrations of a session."""

_MAX_FENCE_ADVANCES = 5
"""If PostgreSQL's token is ahead this often in a row, something else keeps raising it."""

_INITIAL_DELAY_SECONDS = 0.2
_MAX_DELAY_SECONDS = 1.0
"""Between two attempts to release the lease."""

_RESERVED_SECONDS = 0.2
"""Kept free at the invocation's end, so that the error reaches the caller before the timeout."""


def acquire_lease(target: Target, request_id: str = "") -> Lease:
    """Acquire the lease without waiting.

    Raises:
        LeaseHeld: Another process holds it.
    """
    before = target.store.read(consistent=True)
    lease = target.store.acquire(make_owner(request_id), expected=before)
    if not isinstance(lease, Lease):
        if lease.owner is None:
            raise LeaseHeld("another process had the lease a moment ago; try again")
        raise LeaseHeld(f"another process holds the lease: {describe_holder(lease)}")
    if before.owner is not None and is_lease_expired(before, target.store.now_ms()):
        target.observer.observe(LeaseTakenOver(target.name, before.owner, lease.fence))
    return lease


class LeaseSession:
    """One holder's lease, renewed while its work runs, and the database under its fencing token.

    Args:
        target: The database with its item in the lease table.
        lease: As acquired.
        deadline: When all of the work has ended or was cancelled.
        request_id: The invocation's id, for the history.
        replace_environment: Replace the environment that is recorded in the database.
    """

    def __init__(
        self,
        target: Target,
        lease: Lease,
        deadline: Deadline,
        *,
        request_id: str = "",
        replace_environment: bool = False,
    ) -> None:
        self.target = target
        self.deadline = deadline
        set_credentials_deadline(target.store, deadline)
        self._request_id = request_id
        self._replace_environment = replace_environment
        self._heartbeat = Heartbeat(
            target.store,
            lease,
            lease_seconds=target.policy.lease_seconds,
            deadline=deadline.extended_by(ABORT_GRACE_SECONDS),
            clock=target.clock,
        )
        self._heartbeat.on_renewal_attempt = self._report_lease_duration
        self._heartbeat.on_permanent_error = self._report_renewal_failure
        self._began = target.clock.monotonic()
        self._abort_error: MigrateError | None = None
        self._notices_left = _MAX_NOTICES

    @property
    def lease(self) -> Lease:
        """The lease as last renewed."""
        return self._heartbeat.lease

    @property
    def available_ms(self) -> int:
        """The time from the beginning of the session to its deadline."""
        return max(0, round((self.deadline.at - self._began) * 1000))

    @contextmanager
    def open_database(self, *, record_failures: Manifest | None = None) -> Iterator[FencedSession]:
        """Open the database under this holder's fence, and renew the lease during the block.

        The block itself ends with `store_completion`. However else it ends, the lease is given
        back: with the failure, if it is one to record; not at all, if a successor has taken it
        over.

        Args:
            record_failures: The manifest that is being applied. An error that another attempt would
                meet as well is recorded for it, so that other instances fail
                immediately.

        Raises:
            LeaseLost: A successor took over.
            NotReady: The deadline passed; nothing is recorded.
        """
        try:
            with self._renew_lease(), self._open_fenced_session() as database:
                self._set_abort(database.abort)
                yield database
        except LeaseLost:
            raise
        except MigrateError as error:
            if record_failures is None or error.retryable:
                self.release()
            else:
                self.record_failure(record_failures, error)
            raise
        except BaseException:
            self.release()
            raise

    @contextmanager
    def open_dry_run(self) -> Iterator[DryRunSession]:
        """Open a transaction that is never committed, and renew the lease during the block.

        Raises:
            LeaseLost: A successor took over.
            LeaseHeld: An older holder is still active.
        """
        database, deadline = self.target.database, self.deadline
        with (
            self._renew_lease(),
            self._open_with_higher_fence(
                lambda grant: database.begin_dry_run(grant, deadline)
            ) as dry_run,
        ):
            self._set_abort(dry_run.abort)
            yield dry_run

    @contextmanager
    def _renew_lease(self) -> Iterator[None]:
        """Run the heartbeat during the block, and report at its end how long the lease was held."""
        try:
            with self._heartbeat, self.explain_abort():
                yield
        finally:
            self._report_lease_duration(is_final=True)

    def _set_abort(self, abort: Callable[[], None]) -> None:
        """Have the heartbeat call ``abort`` when the lease is lost or the deadline has passed."""
        self._heartbeat.on_abort = abort
        self._heartbeat.check()

    def _report_lease_duration(self, *, is_final: bool = False) -> None:
        seconds = self.target.clock.monotonic() - self._began
        self.target.observer.observe(
            LeaseHeldTime(self.target.name, self.lease.fence, seconds, is_final)
        )

    def _report_renewal_failure(self, error: Exception, seconds_left: float) -> None:
        cause = str(error) if isinstance(error, MigrateError) else "an unexpected error"
        self.target.observer.observe(
            RenewalFailed(
                self.target.name, self.lease.fence, type(error).__name__, cause, seconds_left
            )
        )

    @contextmanager
    def explain_abort(self, migration: str = "") -> Iterator[None]:
        """Replace the error of an aborted statement by the reason why it was aborted.

        The connection only knows that it was aborted; the heartbeat knows why.

        Raises:
            MigrationFailed: The deadline passed while ``migration`` ran.
            NotReady: It passed while none ran; what is committed stays.
            ConfigurationError: The lease could not be renewed, and a retry would not help.
            LeaseLost: A successor took over, or the lease could not be renewed.
        """
        try:
            yield
        except MigrateError as error:
            lost = self._heartbeat.lost_error
            if error is self._abort_error or not (isinstance(error, LeaseLost) or error is lost):
                raise
            if self._heartbeat.is_timeout:
                if not migration:
                    raise NotReady(_TIMED_OUT_BETWEEN) from None
                raise MigrationFailed(_TIMED_OUT, migration=migration, is_timeout=True) from None
            if lost is None:
                raise
            what = migration or "the running work"
            self._abort_error = type(lost)(
                f"{what} was cancelled and its uncommitted work rolled back: {lost}"
            )
            raise self._abort_error from None

    @contextmanager
    def report_notices(self, session: DatabaseSession, migration: str) -> Iterator[None]:
        """Report the warnings and notices of the script that runs in the block, after its event."""
        try:
            yield
        finally:
            for each in session.take_notices():
                self._notices_left -= 1
                if self._notices_left == 0:
                    each = each._replace(severity="NOTICE", message="further messages are left out")
                if self._notices_left >= 0:
                    self.target.observer.observe(
                        MigrationNotice(self.target.name, migration, each.severity, each.message)
                    )

    def set_next_progress(self, progress: Progress) -> None:
        """Publish ``progress`` with the next renewal.

        Raises:
            LeaseLost: The lease is no longer this holder's.
        """
        self._heartbeat.progress = progress
        self._heartbeat.check()

    def publish_progress(self, progress: Progress) -> None:
        """Publish ``progress`` now, so that it is known if this holder is killed."""
        self._heartbeat.progress = progress
        with suppress(LeaseStoreUnavailable):  # the next renewal publishes it
            self._heartbeat.run_write(lambda lease: self.target.store.renew(lease, progress))

    def withdraw_readiness(self, databases: Mapping[str, DatabaseRecord]) -> None:
        """Replace the records of databases, before what some manifests need is rolled back."""
        self._heartbeat.run_write(
            lambda lease: self.target.store.withdraw_readiness(lease, databases)
        )

    def store_completion(
        self, databases: Mapping[str, DatabaseRecord], failures: Sequence[Failure] = ()
    ) -> None:
        """Store what the database satisfies, and release the lease."""
        try:
            self._release_after(
                lambda lease: self.target.store.store_completion(lease, databases, failures)
            )
        except ConfigurationError as error:
            raise ConfigurationError(
                "the work on the database is done, but the lease table could not record that; the "
                f"next start checks the database: {error}"
            ) from None

    def store_inspection(self, databases: Mapping[str, DatabaseRecord]) -> None:
        """Store the result of an inspection, and release the lease."""
        self._release_after(lambda lease: self.target.store.store_inspection(lease, databases))

    def record_failure(self, manifest: Manifest, error: MigrateError) -> None:
        """Store the failure of ``manifest`` and release the lease; see `store_failure`.

        Other instances then fail immediately, and none tries again before the pause is over.
        ``error`` is given the number of attempts and the time of the next one.
        """
        if isinstance(error, MigrationFailed) and error.is_timeout and error.available_ms is None:
            error.available_ms = self.available_ms
        failure = self.describe_failure(manifest, error)
        self.store_failure(failure)
        if isinstance(error, MigrationFailed):
            error.attempts = failure.attempts
            error.retry_at_ms = failure.retry_at_ms

    def describe_failure(self, manifest: Manifest, error: MigrateError) -> Failure:
        """What `record_failure` stores."""
        return make_failure(
            self.lease.state,
            error,
            manifest=manifest,
            address=self.target.database.address_text,
            pause_seconds=self.target.policy.failure_pause_seconds,
            now_ms=self.target.store.now_ms(),
        )

    def store_failure(self, failure: Failure) -> None:
        """Store ``failure`` and release the lease; errors of the lease table are ignored.

        If the lease could not be renewed, the migration is not at fault and nothing is stored:
        instances that can reach the table need not pause.
        """
        if self._heartbeat.lost_error is not None:
            self.release()
            return
        with suppress(MigrateError):  # the failure itself is what the caller reports
            self._release_after(lambda lease: self.target.store.store_failure(lease, failure))

    def release(self) -> None:
        """Release the lease. If the lease table cannot be reached, it expires by itself."""
        with suppress(MigrateError):
            self._release_after(self.target.store.release)

    def _release_after(self, write: Callable[[Lease], None]) -> None:
        """Retry a write that ends the lease; waiters would otherwise wait until it expires.

        After the deadline, the rest of the invocation is used for one more attempt.

        Raises:
            LeaseStoreUnavailable: The store did not respond while the lease could be trusted, or
                not before the deadline.
        """
        lease = self._heartbeat.stop()
        until = min(lease.trusted_until, self.deadline.at)
        clock = self.target.clock
        for attempt in count():
            try:
                self._write_before_invocation_ends(lambda: write(lease))
                return
            except LeaseStoreUnavailable:
                pause = min(_MAX_DELAY_SECONDS, _INITIAL_DELAY_SECONDS * 2 ** min(attempt, 8))
                pause *= (1 + self.target.random.random()) / 2
                if clock.monotonic() + pause >= until:
                    raise
                clock.sleep(pause)

    def _write_before_invocation_ends(self, write: Callable[[], None]) -> None:
        """Write, and return before the invocation ends, with or without a response.

        A write that was given up may still take effect: its condition names this owner and fence.
        """
        margin = self.target.policy.safety_margin_seconds
        left = self.deadline.at + margin - self.target.clock.monotonic()
        if not 0 < left < CALL_TIMEOUT_SECONDS + _RESERVED_SECONDS:
            write()  # there is time, or no invocation: Lambda would have ended it by now
            return
        try:
            run_with_timeout(max(left - _RESERVED_SECONDS, _RESERVED_SECONDS / 2), write)
        except CallTimeout:
            raise LeaseStoreUnavailable(
                "DynamoDB did not respond before the invocation's end; the lease expires by itself"
            ) from None

    def _open_fenced_session(self) -> FencedSession:
        # Nothing but the lease table knows that an older holder is dead.
        terminate_holders = self.target.has_lease_table
        return self._open_with_higher_fence(
            lambda grant: self.target.database.open_session(
                grant, self.deadline, terminate_holders=terminate_holders
            )
        )

    def _open_with_higher_fence(
        self, open_database: Callable[[LeaseGrant], _OpenedSession]
    ) -> _OpenedSession:
        for _ in range(_MAX_FENCE_ADVANCES):
            try:
                return open_database(self._make_lease_grant())
            except StaleFencingToken as stale:
                self._advance_fence(stale.current_token + 1)
        raise ConfigurationError(
            f"PostgreSQL's fencing token for {self.target.name!r} keeps rising above the lease "
            "table's: two lease tables or two targets use one schema of one database; give each a "
            "schema of its own"
        )

    def _advance_fence(self, fence: int) -> None:
        """Continue above PostgreSQL's token: the lease table or its item was created again."""
        self._heartbeat.run_write(lambda lease: self.target.store.advance_fence(lease, fence))

    def _make_lease_grant(self) -> LeaseGrant:
        return LeaseGrant(
            target=self.target.name,
            fence=self.lease.fence,
            owner=self.lease.owner,
            environment=self.target.environment,
            request_id=self._request_id,
            replaces_environment=self._replace_environment,
            completions_by_database=self.lease.state.completions_by_database,
        )


_TIMED_OUT = "it was still running when the deadline passed, and was cancelled"
_TIMED_OUT_BETWEEN = (
    "the deadline passed while no migration was running; the next invocation continues from what "
    "is committed"
)
