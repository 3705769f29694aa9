"""What a starting instance does next: a pure function of what it knows.

::

    digest ready at this address                        -> Serve
    feature flags: mode off                             -> Serve, unchecked
    digest failed, its pause not over, and this attempt
      has no more time than the one that failed         -> Refuse; Wait, if nothing failed and
                                                           another tool was not ready
    another process holds the lease                     -> Wait
    mode require, and an inspection may help            -> Acquire, to inspect only
    mode require                                        -> Wait
    the lease was just lost to another process          -> Wait
    feature flags: paused, or the rest is held back     -> BlockByFlags
    otherwise                                           -> Acquire
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lambda_migrate.lease.record import CLOCK_SKEW_MS

if TYPE_CHECKING:
    from lambda_migrate.lease.progress import Failure
    from lambda_migrate.lease.record import LeaseState

__all__ = [
    "MAX_FAILURE_PAUSE_MS",
    "MAX_LEASE_MS",
    "REQUIRED_TIME_FACTOR",
    "Acquire",
    "BlockByFlags",
    "Decision",
    "LeaseExpiryTracker",
    "Permission",
    "Refuse",
    "Serve",
    "Wait",
    "decide",
    "is_lease_expired",
]

MAX_FAILURE_PAUSE_MS = 600_000
"""The longest pause after a failure. A longer one in the item is not ours and is ignored."""

MAX_LEASE_MS = 900_000
"""The longest lease that settings allow. A lease that was observed unchanged for so long has
expired, whatever length the item gives."""

REQUIRED_TIME_FACTOR = 1.1
"""How much more time an attempt needs than one that ran out of it, to start before the pause is
over. Two starts of one function differ by some hundredths."""


class Permission(NamedTuple):
    """What the settings and the feature flags allow this instance.

    Attributes:
        mode: ``migrate``; ``require`` never migrates; ``off`` serves without a check.
        is_paused: No migration may start.
        allowed_digest: Of the part of the manifest that may be applied, "" if none of it may be;
            None if all of it may be.
    """

    mode: str = "migrate"
    is_paused: bool = False
    allowed_digest: str | None = None


class Serve(NamedTuple):
    """Serve: the database satisfies the digest, or is not to be checked."""

    is_schema_checked: bool = True


class Refuse(NamedTuple):
    """The manifest failed a moment ago: fail immediately with the same error."""

    failure: Failure


class Wait(NamedTuple):
    """Another process holds the lease, or has to acquire it: read again later."""

    state: LeaseState


class BlockByFlags(NamedTuple):
    """The feature flags do not allow what is left to apply."""


class Acquire(NamedTuple):
    """No process holds the lease: try to acquire it.

    Attributes:
        state: The reading; the lease is acquired only if it was not acquired since.
        is_expired: The lease in it was observed unchanged for its whole length, so that it has
            expired whatever the clocks show.
        inspect_only: Compare the database with the manifest, and do not migrate.
    """

    state: LeaseState
    is_expired: bool = False
    inspect_only: bool = False


Decision = Serve | Refuse | Wait | BlockByFlags | Acquire


def decide(
    state: LeaseState,
    *,
    digest: str,
    address: str,
    owner: str,
    now_ms: int,
    remaining_ms: int = MAX_LEASE_MS,
    manifest_length: int = 0,
    permission: Permission | None = None,
    is_expired: bool = False,
    is_database_current: bool = False,
    fence_at_inspection: int | None = None,
    waits_for_other_tool: bool = False,
    has_lost_acquisition: bool = False,
) -> Decision:
    """Choose the next step from one reading of the item.

    Args:
        state: The reading.
        digest: The manifest that this instance serves.
        address: Of its database.
        owner: Its owner id. A lease of this owner was acquired by its own write, whose response was
            lost, and is free for it.
        now_ms: Wall clock, milliseconds since the epoch.
        remaining_ms: How long it could migrate.
        manifest_length: How many migrations its manifest has.
        permission: What it may do; by default everything.
        is_expired: `LeaseExpiryTracker` observed the lease unchanged for its whole length.
        is_database_current: PostgreSQL itself showed that the database satisfies the digest.
        fence_at_inspection: `LeaseState.fence_of_latest_check` when this instance inspected the
            database; it does so again only once that has changed.
        waits_for_other_tool: Another tool migrates the database, and nothing but an inspection
            shows whether it has.
        has_lost_acquisition: It has just tried to acquire the lease, and this state was in the way.
    """
    permission = permission or Permission()
    if is_database_current or state.is_ready(digest, address):
        return Serve()
    if permission.mode == "off":
        return Serve(is_schema_checked=False)
    failure = state.find_failure(digest, address)
    if failure is not None and _is_retry_too_early(failure, now_ms, remaining_ms):
        return Wait(state) if failure.is_unmet_requirement else Refuse(failure)
    is_held = state.owner is not None and state.owner != owner
    if has_lost_acquisition or (is_held and not is_expired and not is_lease_expired(state, now_ms)):
        return Wait(state)
    if permission.mode == "require":
        has_news = state.fence_of_latest_check != fence_at_inspection
        may_be_ready = waits_for_other_tool or state.may_be_ready(address, manifest_length)
        if not (has_news and may_be_ready):
            return Wait(state)
        return Acquire(state, is_expired=is_held and is_expired, inspect_only=True)
    if permission.is_paused or _are_later_migrations_held_back(permission, state, address):
        return BlockByFlags()
    return Acquire(state, is_expired=is_held and is_expired)


def is_lease_expired(state: LeaseState, now_ms: int) -> bool:
    """Whether the lease has expired, with an allowance for clocks that differ."""
    return state.lease_until_ms + CLOCK_SKEW_MS < now_ms


def _is_retry_too_early(failure: Failure, now_ms: int, remaining_ms: int) -> bool:
    """Whether its pause lasts, and more time would not help."""
    if not 0 < failure.retry_at_ms - now_ms <= MAX_FAILURE_PAUSE_MS + 2 * CLOCK_SKEW_MS:
        return False
    available_ms = failure.available_ms
    return available_ms is None or remaining_ms <= available_ms * REQUIRED_TIME_FACTOR


def _are_later_migrations_held_back(
    permission: Permission, state: LeaseState, address: str
) -> bool:
    """Whether all that may be applied has been applied."""
    allowed = permission.allowed_digest
    return allowed is not None and (not allowed or state.is_ready(allowed, address))


class LeaseExpiryTracker:
    """Notices a lease that is not renewed, by this instance's own monotonic clock alone.

    A waiter whose wall clock is behind would otherwise wait for ever for a holder that died.
    """

    __slots__ = ("_since", "_term")

    def __init__(self) -> None:
        self._term: tuple[int, str | None, int] | None = None
        self._since = 0.0

    def has_expired(self, state: LeaseState, now: float) -> bool:
        """Whether the lease was observed unchanged for longer than its holder's lease lasts.

        Args:
            state: The newest reading.
            now: Monotonic seconds.
        """
        term = (state.fence, state.owner, state.lease_until_ms)
        if term != self._term:
            self._term, self._since = term, now
        length_ms = min(state.lease_ms or MAX_LEASE_MS, MAX_LEASE_MS)
        return now - self._since > (length_ms + CLOCK_SKEW_MS) / 1000
