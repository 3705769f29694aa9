"""Keeps a lease alive while a migration runs, and stops the migration when it cannot."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from lambda_migrate.errors import LeaseLost, MigrateError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from lambda_migrate.deadline import Clock, Deadline
    from lambda_migrate.lease.state import Lease, Progress
    from lambda_migrate.lease.store import LeaseStore

__all__ = ["Heartbeat"]

BEATS_PER_LEASE = 3
"""Two renewals in a row may fail before the lease is in danger."""


class Heartbeat:
    """A thread that renews a lease at a third of its length, for as long as the ``with`` block.

    It ends in one of three ways: the block ends (`stop`); the lease is lost, or has not been
    renewed while it was trusted; the deadline is over. In the last two it calls ``on_end`` once,
    which is to end the running statement.

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
        self.on_end: Callable[[], None] | None = None
        """Called from the thread. Whoever sets it late calls `check` afterwards."""
        self.on_beat: Callable[[], None] | None = None
        """Called from the thread after each attempt to renew. Must not raise."""
        self.progress: Progress | None = None
        """Published with the next renewal."""
        self.is_overdue = False
        """Whether the deadline ended it."""
        self._lost: LeaseLost | None = None
        self._store = store
        self._lease = lease
        self._interval = lease_seconds / BEATS_PER_LEASE
        self._deadline = deadline
        self._clock = clock
        self._wait = wait
        self._stopped = threading.Event()
        self._guard = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="lambda-migrate-heartbeat")
        self._thread.daemon = True

    @property
    def lease(self) -> Lease:
        """The lease as it was last renewed."""
        return self._lease

    def check(self) -> None:
        """Make sure that the lease may still be trusted.

        Raises:
            LeaseLost: It may not.
            LeaseStoreUnavailable: Trust is over, and the store does not answer.
        """
        if self._lost is not None:
            raise self._lost
        if self._clock.monotonic() >= self._lease.trusted_until:
            # Frozen, perhaps for an hour: only DynamoDB can say whose it is now.
            with self._guard:
                self._lease = self._store.renew(self._lease, self.progress)

    def change(self, write: Callable[[Lease], Lease]) -> None:
        """Run a write that returns the changed lease, with no renewal in between."""
        with self._guard:
            self._lease = write(self._lease)

    def stop(self) -> Lease:
        """End the thread and return the lease; idempotent."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
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
                self.is_overdue = True
                break
            pause = self._beat()
            if self.on_beat is not None:
                self.on_beat()
            if self._lost is not None:
                break
        else:
            return
        if self.on_end is not None:
            self.on_end()

    def _beat(self) -> float:
        """Renew once; returns the pause before the next time."""
        try:
            with self._guard:
                if self._stopped.is_set():
                    return self._interval
                self._lease = self._store.renew(self._lease, self.progress)
        except LeaseLost as lost:
            self._lost = lost
        except MigrateError as error:
            trusted = self._lease.trusted_until - self._clock.monotonic()
            if trusted <= 0:
                self._lost = LeaseLost(
                    f"the lease under fence {self._lease.fence} could not be renewed: {error}"
                )
            return min(self._interval / 5, max(0.0, trusted))
        return self._interval
