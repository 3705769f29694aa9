"""The port to wherever leases are kept; `table` is the real one, `memory` the one for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lambda_migrate.lease.record import (
        DatabaseRecord,
        Failure,
        Lease,
        LeaseState,
        Progress,
    )

__all__ = ["LeaseStore"]


class LeaseStore(Protocol):
    """One target's state item; every write is a single conditional call.

    Every method may raise `LeaseStoreUnavailable` (try again later) or `ConfigurationError` (the
    table or a permission is missing). Methods that take a `Lease` raise `LeaseLost` where the item
    no longer carries its owner *and* fence; their own write that was retried after a lost answer
    counts as done, not as lost.
    """

    @property
    def calls(self) -> int:
        """Requests made so far, for telemetry."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, by the store's own clock as far as it is known."""

    def read(self, *, consistent: bool = False) -> LeaseState:
        """Read the item; eventually consistent unless told otherwise."""

    def acquire(
        self, owner: str, *, expected: LeaseState | None = None, is_expired: bool = False
    ) -> Lease | LeaseState:
        """Take the lease if it is free or over; one that is ``owner``'s already is renewed.

        Args:
            owner: Who asks; fresh for every attempt, the same for its retries.
            expected: The state that the decision was made on. If the lease was acquired since,
                nothing is written, so that a request that arrives late has no effect.
            is_expired: The caller observed the lease in ``expected`` without a renewal for its
                whole length. It then counts as expired, whatever the clocks show.

        Returns:
            The lease, or, to the loser, the state that was in the way.
        """

    def renew(self, lease: Lease, progress: Progress | None = None) -> Lease:
        """Extend the lease from now on and publish ``progress``."""

    def raise_fence(self, lease: Lease, fence: int) -> Lease:
        """Raise the item's fence to ``fence``, because PostgreSQL has seen a higher one."""

    def withdraw(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> Lease:
        """Replace the records of databases while the lease is held: before a rollback."""

    def complete(
        self,
        lease: Lease,
        databases: Mapping[str, DatabaseRecord],
        failures: Sequence[Failure] = (),
    ) -> None:
        """Store the records of databases and free the lease in one write.

        Args:
            lease: That is freed.
            databases: What is stored.
            failures: Those that stay; all others are forgotten.
        """

    def complete_inspection(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> None:
        """Store the records of databases and free the lease in one write; nothing else.

        What the last holder published stays, too: it may have been killed.
        """

    def fail(self, lease: Lease, failure: Failure) -> None:
        """Store ``failure``, beside those of others, and free the lease in one write."""

    def release(self, lease: Lease) -> None:
        """Free the lease and change nothing else."""

    def close(self) -> None:
        """Leave no connection open; the next call opens one again. Idempotent."""
