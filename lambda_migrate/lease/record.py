"""The state item of a target, as values. Nothing here knows DynamoDB's wire format."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "MAX_FAILURES",
    "MAX_READY",
    "SHORT_DIGEST_BYTES",
    "DatabaseRecord",
    "Failure",
    "Lease",
    "LeaseState",
    "Progress",
    "join_digests",
    "split_digests",
]

SHORT_DIGEST_BYTES = 8
"""How much of each digest the item keeps: 64 bits. Two of a target's digests share these with a
probability of n squared in 2**65: one in 10**13 for 1,000 migrations."""

MAX_FAILURES = 4
"""How many manifests or addresses that fail at the same time each have a pause of their own."""

MAX_READY = 200
"""How many of the newest manifests a record lists. 200 of them, the older ones and all else stay
below the 4 KB that one read unit pays for."""


def join_digests(digests: Iterable[str]) -> bytes:
    """The marks of hexadecimal digests, one behind the other."""
    return b"".join(bytes.fromhex(digest[: 2 * SHORT_DIGEST_BYTES]) for digest in digests)


def split_digests(marks: bytes) -> list[bytes]:
    """The marks in ``marks``, in order."""
    return [marks[at : at + SHORT_DIGEST_BYTES] for at in range(0, len(marks), SHORT_DIGEST_BYTES)]


@dataclass(frozen=True, slots=True)
class DatabaseRecord:
    """What the item says of one database: of one of our schemas in it, to be exact.

    The manifests that a database satisfies are the prefixes of its history, so the record lists
    them in order, and each address remembers how many of them were seen *through it*. That two
    addresses lead to one database is never assumed: a snapshot's copy has the same identity.

    Attributes:
        ready: Marks of the newest manifests that the database satisfies, the shortest first.
        older: Marks of others that it satisfies: too old for ``ready``, or from before a repair;
            the last one confirmed first.
        dropped: How many manifests shorter than the first in ``ready`` are not listed.
        addresses: Address -> how many of ``ready`` a check through this address has confirmed, and
            the fencing token of that check.
        fence: The token under which this record last changed.
        owner: Who held it.
        at_ms: When, milliseconds since the epoch.
    """

    ready: bytes = b""
    older: bytes = b""
    dropped: int = 0
    addresses: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    fence: int = 0
    owner: str = ""
    at_ms: int = 0

    def is_ready(self, digest: str, address: str) -> bool:
        """Whether the database at ``address`` satisfies ``digest``, as far as was confirmed."""
        confirmed = self.addresses[address][0]
        mark = join_digests([digest])
        if mark in split_digests(self.ready[: confirmed * SHORT_DIGEST_BYTES]):
            return True
        is_whole = 0 < confirmed == len(self.ready) // SHORT_DIGEST_BYTES
        return is_whole and mark in split_digests(self.older)


@dataclass(frozen=True, slots=True)
class Progress:
    """What the holder publishes with each renewal.

    Attributes:
        migration: The name of the running migration.
        done: How many of ``total`` pending migrations are committed.
        total: How many were pending when the holder began.
        started_ms: When the running migration began, milliseconds since the epoch.
        attempts: How many holders in a row have begun with this migration, this one included; the
            others ended without giving the lease back.
    """

    migration: str
    done: int
    total: int
    started_ms: int
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the last attempt at a manifest failed, for all who would try it next.

    Attributes:
        digest: The manifest that failed.
        migration: The migration's name, or "" where none was at fault.
        version: Its version, or "".
        sqlstate: PostgreSQL's code, or "".
        cause: One short sentence without data or secrets.
        attempts: How many attempts at this digest have failed in a row.
        at_ms: When, milliseconds since the epoch.
        retry_at_ms: No process tries again before this.
        had_ms: Where the attempt ran out of time: how much it had. One that has more may try.
        is_kill: Whether its holders were killed, so that no error of theirs is known.
        address: Where no migration was at fault: the database's address that it was met through.
            Others may have another password, role or network. "": it holds for every address.
    """

    digest: str
    migration: str
    version: str
    sqlstate: str
    cause: str
    attempts: int
    at_ms: int
    retry_at_ms: int
    had_ms: int | None = None
    is_kill: bool = False
    address: str = ""

    def applies_to(self, digest: str, address: str) -> bool:
        """Whether it speaks of this manifest at this address."""
        return self.digest == digest and self.address in ("", address)


@dataclass(frozen=True, slots=True)
class LeaseState:
    """One reading of the state item. A missing item reads as ``LeaseState()``.

    Attributes:
        fence: Number of acquisitions so far; the next token is one higher.
        owner: Who holds the lease, or None.
        lease_until_ms: Until when, by the holder's clock, milliseconds since the epoch.
        lease_ms: The length of the holder's lease; 0 if no process holds it.
        databases: Identity -> what is known of that database.
        progress: What the holder last published; after a takeover, what the one before it did.
        failure: The last failure, if nothing has succeeded since.
        older_failures: Those of other manifests or addresses before it, the last one first.
    """

    fence: int = 0
    owner: str | None = None
    lease_until_ms: int = 0
    lease_ms: int = 0
    databases: Mapping[str, DatabaseRecord] = field(default_factory=dict)
    progress: Progress | None = None
    failure: Failure | None = None
    older_failures: tuple[Failure, ...] = ()

    @property
    def failures(self) -> tuple[Failure, ...]:
        """All of them, the last one first."""
        return () if self.failure is None else (self.failure, *self.older_failures)

    def find_failure(self, digest: str, address: str) -> Failure | None:
        """The one that concerns this manifest at this address."""
        return next((each for each in self.failures if each.applies_to(digest, address)), None)

    def with_failures(self, failures: Iterable[Failure]) -> LeaseState:
        """This state with these failures, the last one first; no more than are kept."""
        newest = tuple(failures)[:MAX_FAILURES]
        return replace(self, failure=newest[0] if newest else None, older_failures=newest[1:])

    def with_failure(self, failure: Failure) -> LeaseState:
        """This state with one more failure, which takes the place of the one before it."""
        key = (failure.digest, failure.address)
        others = (each for each in self.failures if (each.digest, each.address) != key)
        return self.with_failures((failure, *others))

    def is_ready(self, digest: str, address: str) -> bool:
        """Whether the database at ``address`` was seen to satisfy ``digest``."""
        record = self.find_record(address)
        return record is not None and record.is_ready(digest, address)

    def find_record(self, address: str) -> DatabaseRecord | None:
        """The record of the database that ``address`` leads to, if that is known."""
        identity = self.find_identity(address)
        return None if identity is None else self.databases[identity]

    def find_identity(self, address: str) -> str | None:
        """The identity of the database that ``address`` leads to, if that is known."""
        for identity, record in self.databases.items():
            if address in record.addresses:
                return identity
        return None

    def may_be_ready(self, address: str, length: int) -> bool:
        """Whether a look at PostgreSQL could find ready what is not marked ready.

        Args:
            address: Of the database.
            length: How many migrations the manifest has.
        """
        record = self.find_record(address)
        if record is None:
            return self.latest_check_fence > 0
        return self.latest_check_fence > record.addresses[address][1] or length < record.dropped

    @property
    def completions(self) -> dict[str, tuple[int, str]]:
        """Identity -> token and owner of the last holder that completed there."""
        return {each: (record.fence, record.owner) for each, record in self.databases.items()}

    @property
    def latest_check_fence(self) -> int:
        """The token under which a record changed last; 0 without any."""
        return max((each.fence for each in self.databases.values()), default=0)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to try, for a while.

    Attributes:
        owner: Fresh for every attempt.
        fence: The fencing token.
        trusted_until: Monotonic seconds; from then on the holder must behave as if it were lost.
            Counted from *before* the write that gave it.
        state: The item as the acquisition left it.
    """

    owner: str
    fence: int
    trusted_until: float
    state: LeaseState
