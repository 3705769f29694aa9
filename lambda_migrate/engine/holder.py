"""What a holder does between acquiring the lease and giving it back, whatever it came to do."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from lambda_migrate.errors import (
    ConfigurationError,
    LeaseLost,
    LeaseStoreUnavailable,
    MigrateError,
    MigrationFailed,
)
from lambda_migrate.events import LeaseHeldTime, RenewalFailed
from lambda_migrate.lease.dynamodb_errors import CALL_TIMEOUT_SECONDS, set_credentials_deadline
from lambda_migrate.lease.heartbeat import ABORT_GRACE_SECONDS, Heartbeat
from lambda_migrate.lease.record import Failure
from lambda_migrate.postgresql.ports import LeaseGrant, StaleFencingToken
from lambda_migrate.timeouts import TimeLimitExceeded, run_with_timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.target import Target
    from lambda_migrate.lease.record import DatabaseRecord, Lease, Progress
    from lambda_migrate.postgresql.ports import DryRunSession, FencedSession

__all__ = ["LeaseSession"]

_Opened = TypeVar("_Opened")

_LIFTS = 5
"""A fence row that outruns the lease table this often in a row is being moved by somebody."""

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 1.0
"""Between two attempts to give the lease back. There is one holder: its writes are no storm."""

_ANSWER_SECONDS = 0.2
"""Kept free at the invocation's very end, for the error to reach the caller before Lambda kills."""


class LeaseSession:
    """A lease kept alive, and the database under its fence, for one holder.

    Args:
        target: What is held.
        lease: As acquired.
        deadline: Past it nothing of ours may run.
        request_id: The invocation's, for the history.
        restamp: Stamp the database with this environment.
    """

    def __init__(
        self,
        target: Target,
        lease: Lease,
        deadline: Deadline,
        *,
        request_id: str = "",
        restamp: bool = False,
    ) -> None:
        self.target = target
        self.deadline = deadline
        set_credentials_deadline(target.store, deadline)
        self._request_id = request_id
        self._restamp = restamp
        self._heartbeat = Heartbeat(
            target.store,
            lease,
            lease_seconds=target.policy.lease_seconds,
            deadline=deadline.earlier(-ABORT_GRACE_SECONDS),
            clock=target.clock,
        )
        self._heartbeat.on_renewal_attempt = self._tell_holding
        self._heartbeat.on_permanent_error = self._report_refusal
        self._began = target.clock.monotonic()
        self._reported_loss: MigrateError | None = None

    @property
    def lease(self) -> Lease:
        """The lease as it stands."""
        return self._heartbeat.lease

    @property
    def available_ms(self) -> int:
        """How much time it had, from its beginning to its deadline."""
        return max(0, round((self.deadline.at - self._began) * 1000))

    @contextmanager
    def database(self) -> Iterator[FencedSession]:
        """The database under our fence; the heartbeat runs for as long as the block.

        Raises:
            LeaseLost: A successor took over.
            MigrationFailed: The deadline came.
        """
        with (
            self._telling(),
            self._heartbeat as heartbeat,
            self.until_deadline(),
            self._take_over() as held,
        ):
            heartbeat.on_abort = held.abort
            heartbeat.check()
            yield held

    @contextmanager
    def rehearsal(self) -> Iterator[DryRunSession]:
        """A transaction on the database that is never committed; the heartbeat runs as long.

        Raises:
            LeaseLost: A successor took over.
            LeaseHeld: An older holder is still at work.
        """
        with (
            self._telling(),
            self._heartbeat as heartbeat,
            self.until_deadline(),
            self._above_fence(
                lambda grant: self.target.database.begin_dry_run(grant, self.deadline)
            ) as rehearsal,
        ):
            heartbeat.on_abort = rehearsal.abort
            heartbeat.check()
            yield rehearsal

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._tell_holding(is_over=True)

    def _tell_holding(self, *, is_over: bool = False) -> None:
        held = self.target.clock.monotonic() - self._began
        self.target.observer.observe(
            LeaseHeldTime(self.target.name, self.lease.fence, held, is_over)
        )

    def _report_refusal(self, error: Exception, seconds_left: float) -> None:
        cause = str(error) if isinstance(error, MigrateError) else "an unexpected error"
        self.target.observer.observe(
            RenewalFailed(
                self.target.name, self.lease.fence, type(error).__name__, cause, seconds_left
            )
        )

    @contextmanager
    def until_deadline(self, migration: str = "") -> Iterator[None]:
        """Report why a running statement was aborted: deadline, heartbeat, or a successor.

        Raises:
            MigrationFailed: The deadline came while ``migration`` ran.
            ConfigurationError: The lease could not be renewed, for a reason that will not pass.
            LeaseLost: A successor took over, or the lease could not be renewed.
        """
        try:
            yield
        except MigrateError as error:
            lost = self._heartbeat.lost
            if error is self._reported_loss or not (isinstance(error, LeaseLost) or error is lost):
                raise
            if self._heartbeat.is_timeout:
                raise MigrationFailed(_TIMED_OUT, migration=migration, is_timeout=True) from None
            if lost is None:
                raise
            self._reported_loss = self._error_of_loss(lost, migration)
            raise self._reported_loss from None

    def _error_of_loss(self, lost: MigrateError, migration: str) -> MigrateError:
        """What the heartbeat knows; the aborted connection only knows that it was aborted."""
        what = migration or "the running work"
        return type(lost)(f"{what} was cancelled and its uncommitted work rolled back: {lost}")

    def publish(self, progress: Progress) -> None:
        """Make sure that the lease is still ours; publish ``progress`` with the next renewal."""
        self._heartbeat.progress = progress
        self._heartbeat.check()

    def announce(self, progress: Progress) -> None:
        """Publish ``progress`` now, so that the item names the migration if this holder dies."""
        self._heartbeat.progress = progress
        with suppress(LeaseStoreUnavailable):  # the next renewal publishes it
            self._heartbeat.change(lambda lease: self.target.store.renew(lease, progress))

    def withdraw(self, databases: Mapping[str, DatabaseRecord]) -> None:
        """Mark manifests as no longer ready before what they need is rolled back."""
        self._heartbeat.change(lambda lease: self.target.store.withdraw(lease, databases))

    def complete(
        self, databases: Mapping[str, DatabaseRecord], failures: Sequence[Failure] = ()
    ) -> None:
        """Store what was found and give the lease back."""
        try:
            self._give_back(lambda lease: self.target.store.complete(lease, databases, failures))
        except ConfigurationError as error:
            raise ConfigurationError(
                "the work on the database is done, but the lease table could not record that; the "
                f"next start checks the database: {error}"
            ) from None

    def complete_inspection(self, databases: Mapping[str, DatabaseRecord]) -> None:
        """Store what a mere look has found, and give the lease back."""
        self._give_back(lambda lease: self.target.store.complete_inspection(lease, databases))

    def fail(self, failure: Failure) -> None:
        """Store ``failure`` and give the lease back, as far as that can be done.

        A lease that this holder could not renew says nothing about the migration: instances that
        can reach the table need not pause for it.
        """
        if self._heartbeat.lost is not None:
            self.release()
            return
        with suppress(MigrateError):  # the failure itself is what the caller is to hear of
            self._give_back(lambda lease: self.target.store.fail(lease, failure))

    def release(self) -> None:
        """Give the lease back, as far as that can be done: it runs out by itself otherwise."""
        with suppress(MigrateError):
            self._give_back(self.target.store.release)

    def _give_back(self, write: Callable[[Lease], None]) -> None:
        """Write until it is answered: all who wait would otherwise wait until the lease is over.

        Past the deadline, what is left of the invocation is for one more attempt.

        Raises:
            LeaseStoreUnavailable: Not while the lease could be trusted, or not before the deadline.
        """
        lease = self._heartbeat.stop()
        until = min(lease.trusted_until, self.deadline.at)
        clock = self.target.clock
        for attempt in count():
            try:
                self._write_in_time(lambda: write(lease))
                return
            except LeaseStoreUnavailable:
                pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(attempt, 8))
                pause *= (1 + self.target.random.random()) / 2
                if clock.monotonic() + pause >= until:
                    raise
                clock.sleep(pause)

    def _write_in_time(self, write: Callable[[], None]) -> None:
        """Write, and end before the invocation does, with or without an answer.

        A write that is given up may still arrive: its condition names this owner and this fence.
        """
        margin = self.target.policy.safety_margin_seconds
        left = self.deadline.at + margin - self.target.clock.monotonic()
        if not 0 < left < CALL_TIMEOUT_SECONDS + _ANSWER_SECONDS:
            write()  # it fits, or this is not an invocation: Lambda would have killed it by now
            return
        try:
            run_with_timeout(max(left - _ANSWER_SECONDS, _ANSWER_SECONDS / 2), write)
        except TimeLimitExceeded:
            raise LeaseStoreUnavailable(
                "DynamoDB did not answer before the invocation's end; the lease expires by itself"
            ) from None

    def _take_over(self) -> FencedSession:
        evict = self.target.has_lease_table  # nothing else knows that an older holder is dead
        return self._above_fence(
            lambda grant: self.target.database.take_over(grant, self.deadline, evict=evict)
        )

    def _above_fence(self, open_database: Callable[[LeaseGrant], _Opened]) -> _Opened:
        for _ in range(_LIFTS):
            try:
                return open_database(self._grant())
            except StaleFencingToken as stale:
                self._lift(stale.current_token + 1)
        raise ConfigurationError(
            f"PostgreSQL's fence for {self.target.name!r} keeps outrunning the lease table's: two "
            "lease tables or two targets use one schema of one database; give each its own"
        )

    def _lift(self, fence: int) -> None:
        """The table was made anew, or its item was: go on above what PostgreSQL has seen."""
        self._heartbeat.change(lambda lease: self.target.store.raise_fence(lease, fence))

    def _grant(self) -> LeaseGrant:
        return LeaseGrant(
            target=self.target.name,
            fence=self.lease.fence,
            owner=self.lease.owner,
            environment=self.target.environment,
            request_id=self._request_id,
            restamps_environment=self._restamp,
            completions=self.lease.state.completions,
        )


_TIMED_OUT = "it was still running when the deadline came, and was cancelled"
