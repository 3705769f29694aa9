"""The state item of a target, as values. Nothing here knows DynamoDB's wire format."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from lambda_migrate.lease.first_read import (
    SHORT_DIGEST_BYTES,
    is_confirmed,
    join_digests,
    split_digests,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from lambda_migrate.lease.progress import Failure, Progress

__all__ = [
    "CLOCK_SKEW_MS",
    "MAX_FAILURES",
    "MAX_READY_DIGESTS",
    "SHORT_DIGEST_BYTES",
    "DatabaseRecord",
    "LeaseState",
    "join_digests",
    "split_digests",
]

CLOCK_SKEW_MS = 1_000
"""How far two instances' clocks may differ before efficiency suffers (safety never does). AWS
keeps Lambda's clocks within milliseconds; a second is a generous bound on that."""

MAX_FAILURES = 4
"""How many failures, of different manifests or addresses, are kept, each with its own pause."""

MAX_READY_DIGESTS = 200
"""How many of the newest manifests a record lists. With these, the older ones and everything else
an item stays below the 4 KB that one read unit pays for."""

_EMPTY: Mapping[str, Any] = MappingProxyType({})


class DatabaseRecord(NamedTuple):
    """What the item stores about one database; more precisely, about one of our schemas in it.

    Attributes:
        ready_digests: Short digests of the newest manifests that the database satisfies, the
            shortest first.
        older_digests: Short digests of others that it satisfies, too old for ``ready_digests`` or
            from before a repair; the one confirmed last comes first.
        unlisted_count: How many manifests shorter than the first in ``ready_digests`` are not
            listed.
        addresses: Address -> how many of ``ready_digests`` a check through it has confirmed, and
            the fencing token of that check.
        fence: The fencing token of the last check that took the fence in PostgreSQL.
        owner: The owner of that token.
        at_ms: When the record was last checked, milliseconds since the epoch.
    """

    ready_digests: bytes = b""
    older_digests: bytes = b""
    unlisted_count: int = 0
    addresses: Mapping[str, tuple[int, int]] = _EMPTY
    fence: int = 0
    owner: str = ""
    at_ms: int = 0

    def is_ready(self, digest: str, address: str) -> bool:
        """Whether a check has confirmed that the database at ``address`` satisfies ``digest``."""
        confirmed = self.addresses[address][0]
        return is_confirmed(digest, self.ready_digests, self.older_digests, confirmed)


class LeaseState(NamedTuple):
    """One reading of the state item. A missing item reads as ``LeaseState()``.

    Attributes:
        fence: How often the lease was acquired; the next fencing token is one higher.
        owner: The holder of the lease, or None.
        lease_until_ms: When the lease ends by the holder's clock, milliseconds since the epoch.
        lease_ms: The length of the holder's lease; 0 if no process holds it.
        databases: Identity of a database -> its record.
        progress: What the holder published last; after a takeover, what the holder before it did.
        failure: The last failure, if nothing has succeeded since.
        older_failures: Failures of other manifests or addresses, the last one first.
    """

    fence: int = 0
    owner: str | None = None
    lease_until_ms: int = 0
    lease_ms: int = 0
    databases: Mapping[str, DatabaseRecord] = _EMPTY
    progress: Progress | None = None
    failure: Failure | None = None
    older_failures: tuple[Failure, ...] = ()

    @property
    def failures(self) -> tuple[Failure, ...]:
        """All failures, the last one first."""
        return () if self.failure is None else (self.failure, *self.older_failures)

    def find_failure(self, digest: str, address: str) -> Failure | None:
        """The failure of this manifest at this address."""
        return next((each for each in self.failures if each.applies_to(digest, address)), None)

    def with_failures(self, failures: Iterable[Failure]) -> LeaseState:
        """This state with these failures, the last one first; the oldest are dropped."""
        newest = tuple(failures)[:MAX_FAILURES]
        return self._replace(failure=newest[0] if newest else None, older_failures=newest[1:])

    def with_failure(self, failure: Failure) -> LeaseState:
        """This state with one more failure, which replaces an earlier one of the same kind."""
        key = (failure.digest, failure.address)
        others = (each for each in self.failures if (each.digest, each.address) != key)
        return self.with_failures((failure, *others))

    def without_lease(self) -> LeaseState:
        """This state once the lease is released."""
        return self._replace(owner=None, lease_until_ms=0, lease_ms=0)

    def is_ready(self, digest: str, address: str) -> bool:
        """Whether a check has confirmed that the database at ``address`` satisfies ``digest``."""
        record = self.find_record(address)
        return record is not None and record.is_ready(digest, address)

    def find_record(self, address: str) -> DatabaseRecord | None:
        """The record of the database at ``address``, if a check went through this address."""
        identity = self.find_identity(address)
        return None if identity is None else self.databases[identity]

    def find_identity(self, address: str) -> str | None:
        """The identity of the database at ``address``, if a check went through this address."""
        for identity, record in self.databases.items():
            if address in record.addresses:
                return identity
        return None

    def may_be_ready(self, address: str, manifest_length: int) -> bool:
        """Whether inspecting the database may show that it is ready though the item does not.

        Args:
            address: Of the database.
            manifest_length: How many migrations the manifest has.
        """
        record = self.find_record(address)
        if record is None:
            return self.fence_of_latest_check > 0
        checked_at = record.addresses[address][1]
        return self.fence_of_latest_check > checked_at or manifest_length < record.unlisted_count

    @property
    def completions_by_database(self) -> dict[str, tuple[int, str]]:
        """Identity of a database -> token and owner of the last holder that completed there."""
        return {
            identity: (record.fence, record.owner) for identity, record in self.databases.items()
        }

    @property
    def fence_of_latest_check(self) -> int:
        """The fencing token of the last check of any database; 0 if there was none."""
        return max((record.fence for record in self.databases.values()), default=0)
