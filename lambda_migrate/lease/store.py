"""The port to the lease table: `dynamodb` implements it for production, `memory` for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lambda_migrate.lease.progress import Failure, Progress
    from lambda_migrate.lease.record import DatabaseRecord, LeaseState

__all__ = ["Lease", "LeaseStore"]


class Lease(NamedTuple):
    """The right to migrate, for a limited time.

    Attributes:
        owner: Unique for every attempt.
        fence: The fencing token.
        trusted_until: Monotonic seconds, counted from *before* the write that acquired or renewed
            the lease. From then on the holder must behave as if it had lost the lease.
        state: The item as the acquisition left it.
    """

    owner: str
    fence: int
    trusted_until: float
    state: LeaseState


class LeaseStore(Protocol):
    """The state item of one target; every write is a single conditional request.

    Every method may raise `LeaseStoreUnavailable` (try again later) or `ConfigurationError` (the
    table or a permission is missing). A method that takes a `Lease` raises `LeaseLost` if the item
    no longer has its owner *and* fencing token. A write that was repeated because its response was
    lost counts as done, not as a lost lease.
    """

    @property
    def request_count(self) -> int:
        """Requests made so far, for telemetry."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, by the server's clock as far as it is known."""

    def read(self, *, consistent: bool = False) -> LeaseState:
        """Read the item; eventually consistent by default."""

    def acquire(
        self, owner: str, *, expected: LeaseState | None = None, is_expired: bool = False
    ) -> Lease | LeaseState:
        """Acquire the lease if it is free or expired; a lease of this ``owner`` is renewed.

        Args:
            owner: Unique for every attempt; the same if an attempt is repeated.
            expected: The state that the decision was made on. If the lease was acquired since,
                nothing is written, so that a request that arrives late has no effect.
            is_expired: The caller observed the lease in ``expected`` without a renewal for its
                whole length. It then counts as expired, whatever the clocks show.

        Returns:
            The lease; or, if it was not acquired, the current state.
        """

    def renew(self, lease: Lease, progress: Progress | None = None) -> Lease:
        """Extend the lease from now on and publish ``progress``."""

    def advance_fence(self, lease: Lease, fence: int) -> Lease:
        """Raise the item's fencing token to ``fence``, because PostgreSQL has a higher one."""

    def withdraw_readiness(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> Lease:
        """Replace the database records and keep the lease: before a rollback."""

    def store_completion(
        self,
        lease: Lease,
        databases: Mapping[str, DatabaseRecord],
        failures: Sequence[Failure] = (),
    ) -> None:
        """Store the database records and release the lease in one write.

        Args:
            lease: The lease to release.
            databases: What is stored.
            failures: The failures to keep; all others are deleted.
        """

    def store_inspection(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> None:
        """Store the database records and release the lease in one write.

        Failures and the progress of the last holder stay, because it may have been killed.
        """

    def store_failure(self, lease: Lease, failure: Failure) -> None:
        """Add ``failure`` to the failures and release the lease in one write."""

    def release(self, lease: Lease) -> None:
        """Release the lease and change nothing else."""

    def close(self) -> None:
        """Close the connection; the next call opens another one. Idempotent."""
