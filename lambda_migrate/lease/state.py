"""The state item of a target, as values. Nothing here knows DynamoDB's wire format."""

from __future__ import annotations

from lambda_migrate.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["READY_KEPT", "Failure", "Lease", "LeaseState", "Progress", "Ready"]

READY_KEPT = 20
"""How many digests the item remembers: as many code versions may serve at once."""


@dataclass(frozen=True, slots=True)
class Ready:
    """When the target came to satisfy a digest, and at which version that manifest ends."""

    at_ms: int
    version: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What the holder publishes with each renewal.

    Attributes:
        migration: The name of the running migration.
        done: How many of ``total`` pending migrations are committed.
        total: How many were pending when the holder began.
        started_ms: When the running migration began, milliseconds since the epoch.
        remaining_ms: What is left as far as known; None if unknown.
    """

    migration: str
    done: int
    total: int
    started_ms: int
    remaining_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the last attempt at a manifest failed, for all who would try it next.

    Attributes:
        digest: The manifest that failed.
        migration: The migration's name, or "" where none was at fault.
        version: Its version, or 0.
        sqlstate: PostgreSQL's code, or "".
        cause: One short sentence without data or secrets.
        attempts: How many attempts at this digest have failed in a row.
        at_ms: When, milliseconds since the epoch.
        retry_at_ms: Before this nobody tries again.
    """

    digest: str
    migration: str
    version: int
    sqlstate: str
    cause: str
    attempts: int
    at_ms: int
    retry_at_ms: int


@dataclass(frozen=True, slots=True)
class LeaseState:
    """One reading of the state item. A missing item reads as ``LeaseState()``.

    Attributes:
        fence: Number of acquisitions so far; the next token is one higher.
        owner: Who holds the lease, or None.
        lease_until_ms: Until when, by the holder's clock, milliseconds since the epoch.
        ready: Digest -> when and at which version.
        progress: What the holder last published.
        failure: The last failure, if nothing has succeeded since.
        database: Fingerprint of the database that ``ready`` speaks of.
    """

    fence: int = 0
    owner: str | None = None
    lease_until_ms: int = 0
    ready: Mapping[str, Ready] = field(default_factory=dict)
    progress: Progress | None = None
    failure: Failure | None = None
    database: str | None = None

    def is_ready(self, digest: str, database: str) -> bool:
        """Whether the item says that ``database`` satisfies ``digest``."""
        return self.database == database and digest in self.ready


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
