"""Leases in this process's memory: for tests, and for a workstation without a lease table."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.errors import LeaseLost
from lambda_migrate.lease.decision import is_lease_expired
from lambda_migrate.lease.record import CLOCK_SKEW_MS, LeaseState
from lambda_migrate.lease.store import Lease

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lambda_migrate.clock import Clock
    from lambda_migrate.lease.progress import Failure, Progress
    from lambda_migrate.lease.record import DatabaseRecord

__all__ = ["InMemoryLeaseStore"]


class InMemoryLeaseStore:
    """`LeaseStore` without DynamoDB; the same contract tests run against it.

    Runners that share an instance compete for its lease. A runner with an instance of its own works
    without a lease table: then only the fence in PostgreSQL keeps holders apart.

    Args:
        lease_seconds: Length of a lease.
        clock: Time.
    """

    def __init__(self, *, lease_seconds: float = 20.0, clock: Clock = SYSTEM_CLOCK) -> None:
        self.request_count = 0
        self.lease_seconds = lease_seconds
        self.state = LeaseState()
        """The item. Tests may set it."""
        self._clock = clock
        self._lock = threading.Lock()

    def read(self, *, consistent: bool = False) -> LeaseState:  # noqa: ARG002 - always consistent
        """See `LeaseStore.read`."""
        with self._lock:
            self.request_count += 1
            return self.state

    def now_ms(self) -> int:
        """See `LeaseStore.now_ms`."""
        return self._clock.wall_ms()

    def acquire(
        self, owner: str, *, expected: LeaseState | None = None, is_expired: bool = False
    ) -> Lease | LeaseState:
        """See `LeaseStore.acquire`."""
        trusted_until, until_ms = self._compute_expiry()
        with self._lock:
            self.request_count += 1
            state = self.state
            if state.owner == owner:
                self.state = self._extend(state, until_ms)
                return Lease(owner, state.fence, trusted_until, self.state)
            is_newest = expected is None or expected.fence == state.fence
            is_same = expected is not None and _lease_key(expected) == _lease_key(state)
            is_free = state.owner is None or is_lease_expired(state, self._clock.wall_ms())
            if not is_newest or not (is_free or (is_expired and is_same)):
                return state
            self.state = self._extend(state, until_ms)._replace(fence=state.fence + 1, owner=owner)
            return Lease(owner, self.state.fence, trusted_until, self.state)

    def renew(self, lease: Lease, progress: Progress | None = None) -> Lease:
        """See `LeaseStore.renew`."""
        trusted_until, until_ms = self._compute_expiry()
        with self._lock:
            state = self._require_own_lease(lease)
            self.state = self._extend(state, until_ms)._replace(progress=progress or state.progress)
        return lease._replace(trusted_until=trusted_until)

    def advance_fence(self, lease: Lease, fence: int) -> Lease:
        """See `LeaseStore.advance_fence`."""
        lifted = lease._replace(fence=max(fence, lease.fence))
        with self._lock:
            state = self._require_own_lease(lease, lifted)
            self.state = state._replace(fence=lifted.fence)
        return lifted

    def withdraw_readiness(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> Lease:
        """See `LeaseStore.withdraw_readiness`."""
        with self._lock:
            self.state = self._require_own_lease(lease)._replace(databases=dict(databases))
            return lease._replace(state=self.state)

    def store_completion(
        self,
        lease: Lease,
        databases: Mapping[str, DatabaseRecord],
        failures: Sequence[Failure] = (),
    ) -> None:
        """See `LeaseStore.store_completion`."""
        remaining = LeaseState().with_failures(failures)
        self._write_and_release(
            lease,
            databases=dict(databases),
            failure=remaining.failure,
            older_failures=remaining.older_failures,
        )

    def store_inspection(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> None:
        """See `LeaseStore.store_inspection`."""
        self._write_and_release(lease, keeps_progress=True, databases=dict(databases))

    def store_failure(self, lease: Lease, failure: Failure) -> None:
        """See `LeaseStore.store_failure`."""
        remaining = lease.state.with_failure(failure)
        self._write_and_release(
            lease, failure=remaining.failure, older_failures=remaining.older_failures
        )

    def release(self, lease: Lease) -> None:
        """See `LeaseStore.release`."""
        self._write_and_release(lease)

    def _write_and_release(
        self, lease: Lease, *, keeps_progress: bool = False, **changes: Any
    ) -> None:
        """A write that releases the lease; repeated, it finds its own result: not a loss."""
        with self._lock:
            done = _without_lease(self.state)._replace(**changes)
            if keeps_progress:
                done = done._replace(progress=self.state.progress)
            if (self.state, self.state.fence) == (done, lease.fence):
                self.request_count += 1
                return
            self._require_own_lease(lease)
            self.state = done

    def close(self) -> None:
        """See `LeaseStore.close`; there is no connection."""

    def _require_own_lease(self, *leases: Lease) -> LeaseState:
        """The item, after checking that one of these leases is the one in it."""
        self.request_count += 1
        holder = (self.state.owner, self.state.fence)
        if holder not in [(lease.owner, lease.fence) for lease in leases]:
            raise LeaseLost(f"lost the lease under fencing token {leases[0].fence}")
        return self.state

    def _extend(self, state: LeaseState, until_ms: int) -> LeaseState:
        return state._replace(lease_until_ms=until_ms, lease_ms=round(self.lease_seconds * 1000))

    def _compute_expiry(self) -> tuple[float, int]:
        trusted_until = self._clock.monotonic() + self.lease_seconds - CLOCK_SKEW_MS / 1000
        return trusted_until, self._clock.wall_ms() + round(self.lease_seconds * 1000)


def _without_lease(state: LeaseState) -> LeaseState:
    return state.without_lease()._replace(progress=None)


def _lease_key(state: LeaseState) -> tuple[int, str | None, int]:
    return (state.fence, state.owner, state.lease_until_ms)
