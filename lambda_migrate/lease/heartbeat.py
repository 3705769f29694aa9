"""Keeps a lease alive while a migration runs, and stops the migration when it cannot."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from lambda_migrate.errors import ConfigurationError, LeaseLost, MigrateError
from lambda_migrate.lease.decision import CLOCK_SKEW_MS
from lambda_migrate.lease.dynamodb_errors import CALL_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.lease.record import Lease, Progress
    from lambda_migrate.lease.store import LeaseStore

__all__ = ["ABORT_GRACE_SECONDS", "Heartbeat"]

RENEWALS_PER_LEASE = 3
"""Two renewals in a row may fail before the lease is in danger."""

ABORT_GRACE_SECONDS = 0.5
"""PostgreSQL cancels at the deadline by itself; the heartbeat's own is this much later."""

_LAST_RENEWAL_SECONDS = ABORT_GRACE_SECONDS + CALL_TIMEOUT_SECONDS
"""How long before its deadline the last renewal begins, if the lease lasts until then. A later one
could be without an answer when the work ends, and the lease could not be given back in time."""

_SHORTEST_JOIN_SECONDS = 0.1
"""How long `Heartbeat.stop` waits when no time is left: a thread that only pauses ends at once."""

_OBSERVER_SECONDS = 1.0
"""How long the callback of one renewal may delay the next one."""


class Heartbeat:
    """A thread that renews a lease at a third of its length, for as long as the ``with`` block.

    It ends in one of three ways: the block ends (`stop`); the lease is lost, or has not been
    renewed while it was trusted; the deadline is over. In the last two it calls ``on_abort`` once,
    which is to end the running statement. Whatever a renewal raises, the next one is tried until
    the lease is over: credentials, a permission or the table may be back by then.

    Args:
        store: Where the lease is kept.
        lease: What was acquired.
        lease_seconds: Its length.
        deadline: Past it nothing may run.
        clock: Tells when trust ends.
        wait: Waits up to so many seconds for the event, and says whether it came; real time
            unless a test says otherwise.
    """

    def __init__(
        self,
        store: LeaseStore,
        lease: Lease,
        *,
        lease_seconds: float,
        deadline: Deadline,
        clock: Clock,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self.on_abort: Callable[[], None] | None = None
        """Called from the thread. Whoever sets it late calls `check` afterwards."""
        self.on_renewal_attempt: Callable[[], None] | None = None
        """Called after each attempt to renew, in another thread, so that it delays no renewal."""
        self.on_permanent_error: Callable[[Exception, float], None] | None = None
        """Likewise, when an attempt failed for a reason that will not pass; once for each reason.
        Given that error, and the seconds until the lease is over."""
        self.progress: Progress | None = None
        """Published with the next renewal."""
        self.is_timeout = False
        """Whether the deadline ended it."""
        self.lost: MigrateError | None = None
        """Why the lease may not be trusted any more; its ``retryable`` is the cause's."""
        self._store = store
        self._lease = lease
        self._interval = lease_seconds / RENEWALS_PER_LEASE
        self._deadline = deadline
        self._clock = clock
        self._wait = wait
        self._stopped = threading.Event()
        self._guard = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="lambda-migrate-heartbeat")
        self._thread.daemon = True
        self._observer_thread: threading.Thread | None = None
        self._refusals: set[str] = set()

    @property
    def lease(self) -> Lease:
        """The lease as it was last renewed."""
        return self._lease

    def check(self) -> None:
        """Make sure that the lease may still be trusted.

        Raises:
            LeaseLost: It may not.
            ConfigurationError: It was not renewed in time, for a reason that will not pass.
            LeaseStoreUnavailable: Trust is over, and the store does not answer.
        """
        if self.lost is not None:
            raise self.lost
        if self._clock.monotonic() >= self._lease.trusted_until:
            # Frozen, perhaps for an hour: only DynamoDB can say whose it is now.
            try:
                with self._guard:
                    self._lease = self._store.renew(self._lease, self.progress)
            except ConfigurationError as error:
                self.lost = self._not_renewed(error)
                raise self.lost from None

    def change(self, write: Callable[[Lease], Lease]) -> None:
        """Run a write that returns the changed lease, with no renewal in between."""
        with self._guard:
            self._lease = write(self._lease)

    def stop(self) -> Lease:
        """End the thread and return the lease; idempotent.

        A renewal on its way is waited for until the deadline. One that comes later can do no harm:
        its condition names this owner and this fence.
        """
        self._stopped.set()
        if self._thread.is_alive():
            seconds = max(_SHORTEST_JOIN_SECONDS, self._deadline.remaining())
            self._thread.join(min(seconds, threading.TIMEOUT_MAX))
        return self._lease

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self) -> None:
        pause = self._interval
        while not self._wait(self._stopped, min(pause, self._deadline.remaining() + 0.01)):
            if self._deadline.is_over:
                self.is_timeout = True
                break
            pause = self._beat()
            if self._stopped.is_set():
                return  # while this renewal was on its way; perhaps no thread waited for it
            if self.on_renewal_attempt is not None:
                self._call_observer(self.on_renewal_attempt)
            if self.lost is not None:
                break
        else:
            return
        if self.on_abort is not None:
            self.on_abort()

    def _beat(self) -> float:
        """Renew once; returns the pause before the next time."""
        try:
            with self._guard:
                if self._stopped.is_set() or self._lasts_until_deadline():
                    return self._interval
                self._lease = self._store.renew(self._lease, self.progress)
        except LeaseLost as lost:
            self.lost = lost
        except Exception as error:  # noqa: BLE001 - the only renewer: see the class
            trusted = self._lease.trusted_until - self._clock.monotonic()
            if trusted <= 0:
                self.lost = self._not_renewed(error)
            elif not getattr(error, "retryable", False):
                self._report(error, trusted)
            return min(self._interval / 5, max(0.0, trusted))
        return self._interval

    def _lasts_until_deadline(self) -> bool:
        """Whether the deadline is close, and the lease needs no renewal before it."""
        if self._deadline.remaining() >= _LAST_RENEWAL_SECONDS:
            return False
        return self._lease.trusted_until >= self._deadline.at

    def _not_renewed(self, error: Exception) -> MigrateError:
        what = f"the lease under fence {self._lease.fence} could not be renewed: {_cause_of(error)}"
        if self._clock.monotonic() < self._lease.trusted_until + CLOCK_SKEW_MS / 1000:
            what = f"no other process held the lease, but {what}"
        is_permanent = isinstance(error, MigrateError) and not error.retryable
        return ConfigurationError(what) if is_permanent else LeaseLost(what)

    def _report(self, error: Exception, trusted: float) -> None:
        reason, report = _cause_of(error), self.on_permanent_error
        if (
            report is not None
            and reason not in self._refusals
            and self._call_observer(lambda: report(error, trusted))
        ):
            self._refusals.add(reason)

    def _call_observer(self, call: Callable[[], None]) -> bool:
        """Run a callback that can neither delay nor end this thread; False: an earlier one runs."""
        if self._observer_thread is not None and self._observer_thread.is_alive():
            return False
        self._observer_thread = threading.Thread(target=call, name="lambda-migrate-observer")
        self._observer_thread.daemon = True
        self._observer_thread.start()
        self._observer_thread.join(min(_OBSERVER_SECONDS, self._interval / RENEWALS_PER_LEASE))
        return True


def _cause_of(error: Exception) -> str:
    # The text of an error that is not ours may hold anything.
    return str(error) if isinstance(error, MigrateError) else type(error).__name__
