"""Renews a lease while a migration runs, and aborts the migration when it cannot."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from lambda_migrate.clock import CALL_TIMEOUT_SECONDS
from lambda_migrate.errors import ConfigurationError, LeaseLost, MigrateError
from lambda_migrate.lease.record import CLOCK_SKEW_MS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.lease.progress import Progress
    from lambda_migrate.lease.store import Lease, LeaseStore

__all__ = ["ABORT_GRACE_SECONDS", "Heartbeat"]

RENEWALS_PER_LEASE = 3
"""So that two renewals in a row may fail before the lease is at risk."""

ABORT_GRACE_SECONDS = 0.5
"""PostgreSQL cancels the statement at the deadline; the heartbeat does so this much later."""

_LAST_RENEWAL_SECONDS = ABORT_GRACE_SECONDS + CALL_TIMEOUT_SECONDS
"""No renewal starts this close to the deadline if the lease lasts until then: it might be without a
response when the work ends, and the lease could not be released in time."""

_MIN_JOIN_SECONDS = 0.1
"""How long `Heartbeat.stop` waits if no time is left: a sleeping thread ends immediately."""

_MAX_CALLBACK_SECONDS = 1.0
"""How long a callback after one renewal may delay the next one."""


class Heartbeat:
    """A thread that renews a lease at a third of its length during a ``with`` block.

    It ends when the block ends (`stop`), when the lease is lost or was not renewed while it could
    be trusted, or when the deadline has passed. In the last two cases it calls ``on_abort`` once,
    which should cancel the running statement. Whatever error a renewal raises, the next one is
    tried until the lease ends: credentials, a permission or the table may be back by then.

    Args:
        store: The lease table.
        lease: The lease that was acquired.
        lease_seconds: Its length.
        deadline: When to abort.
        clock: Measures how long the lease can be trusted.
        wait: Waits for an event for at most so many seconds and returns whether it was set; tests
            replace it.

    Attributes:
        on_abort: Called from the thread. After setting it, call `check`: the lease may be lost.
        on_renewal_attempt: Called after each attempt, in another thread, so that it delays no
            renewal.
        on_permanent_error: Likewise, if an attempt failed for a reason that does not pass by
            itself; once for each reason. Gets the error, and the seconds until the lease ends.
        progress: Published with the next renewal.
        is_timeout: Whether the deadline ended it.
        lost_error: Why the lease cannot be trusted any more, or None. It is retryable if the cause
            is.
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
        self.on_renewal_attempt: Callable[[], None] | None = None
        self.on_permanent_error: Callable[[Exception, float], None] | None = None
        self.progress: Progress | None = None
        self.is_timeout = False
        self.lost_error: MigrateError | None = None
        self._store = store
        self._lease = lease
        self._interval = lease_seconds / RENEWALS_PER_LEASE
        self._deadline = deadline
        self._clock = clock
        self._wait = wait
        self._stopped = threading.Event()
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="lambda-migrate-heartbeat")
        self._thread.daemon = True
        self._callback_thread: threading.Thread | None = None
        self._reported: set[str] = set()

    @property
    def lease(self) -> Lease:
        """The lease as it was last renewed."""
        return self._lease

    def check(self) -> None:
        """Raise an error unless the lease can still be trusted.

        Raises:
            LeaseLost: It was lost.
            ConfigurationError: It was not renewed in time, and a retry would not help.
            LeaseStoreUnavailable: It cannot be trusted any more, and the store does not answer.
        """
        if self.lost_error is not None:
            raise self.lost_error
        if self._clock.monotonic() >= self._lease.trusted_until:
            # The process was frozen, perhaps for an hour: only DynamoDB knows the holder now.
            try:
                with self._lock:
                    self._lease = self._store.renew(self._lease, self.progress)
            except ConfigurationError as error:
                self.lost_error = self._renewal_error(error)
                raise self.lost_error from None

    def run_write(self, write: Callable[[Lease], Lease]) -> None:
        """Run a write that returns the changed lease, without a renewal at the same time."""
        with self._lock:
            self._lease = write(self._lease)

    def stop(self) -> Lease:
        """End the thread and return the lease. Idempotent.

        Waits for a renewal in progress until the deadline. If it takes longer it does no harm: its
        condition names this owner and fencing token.
        """
        self._stopped.set()
        if self._thread.is_alive():
            seconds = max(_MIN_JOIN_SECONDS, self._deadline.remaining())
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
            pause = self._renew()
            if self._stopped.is_set():
                return  # during this renewal, and perhaps without waiting for it
            if self.on_renewal_attempt is not None:
                self._run_callback(self.on_renewal_attempt)
            if self.lost_error is not None:
                break
        else:
            return
        if self.on_abort is not None:
            self.on_abort()

    def _renew(self) -> float:
        """Renew once and return the pause before the next renewal."""
        try:
            with self._lock:
                if self._stopped.is_set() or self._lasts_until_deadline():
                    return self._interval
                self._lease = self._store.renew(self._lease, self.progress)
        except LeaseLost as lost:
            self.lost_error = lost
        except Exception as error:  # noqa: BLE001 - the next renewal may succeed, see the class
            seconds_left = self._lease.trusted_until - self._clock.monotonic()
            if seconds_left <= 0:
                self.lost_error = self._renewal_error(error)
            elif not getattr(error, "retryable", False):
                self._report_once(error, seconds_left)
            return min(self._interval / 5, max(0.0, seconds_left))
        return self._interval

    def _lasts_until_deadline(self) -> bool:
        """Whether the deadline is close, and the lease needs no renewal before it."""
        if self._deadline.remaining() >= _LAST_RENEWAL_SECONDS:
            return False
        return self._lease.trusted_until >= self._deadline.at

    def _renewal_error(self, error: Exception) -> MigrateError:
        message = (
            f"the lease could not be renewed under fencing token {self._lease.fence}: "
            f"{_describe_error(error)}"
        )
        if self._clock.monotonic() < self._lease.trusted_until + CLOCK_SKEW_MS / 1000:
            message = f"no other process held the lease, but {message}"
        is_permanent = isinstance(error, MigrateError) and not error.retryable
        return ConfigurationError(message) if is_permanent else LeaseLost(message)

    def _report_once(self, error: Exception, seconds_left: float) -> None:
        reason, report = _describe_error(error), self.on_permanent_error
        if (
            report is not None
            and reason not in self._reported
            and self._run_callback(lambda: report(error, seconds_left))
        ):
            self._reported.add(reason)

    def _run_callback(self, call: Callable[[], None]) -> bool:
        """Run a callback that can neither delay nor end this thread.

        Returns:
            False if an earlier one is still running; then this one is not run.
        """
        if self._callback_thread is not None and self._callback_thread.is_alive():
            return False
        self._callback_thread = threading.Thread(target=call, name="lambda-migrate-callback")
        self._callback_thread.daemon = True
        self._callback_thread.start()
        self._callback_thread.join(min(_MAX_CALLBACK_SECONDS, self._interval / RENEWALS_PER_LEASE))
        return True


def _describe_error(error: Exception) -> str:
    # The text of an error that is not ours may contain secrets.
    return str(error) if isinstance(error, MigrateError) else type(error).__name__
