"""What a starting instance does next: a pure function of what it read.

Drawn in docs/explanation/how-it-works.md.

::

    digest ready at this address                  -> Serve
    a failure of this digest that holds for this
      attempt, its pause not over                 -> Refuse
    another process's lease, not over             -> Wait
    may not migrate, and a look may find it ready -> Acquire, only to look
    may not migrate                               -> Wait
    otherwise                                     -> Acquire
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambda_migrate.lease.record import Failure, LeaseState

__all__ = [
    "CLOCK_SKEW_MS",
    "MAX_LEASE_MS",
    "MAX_PAUSE_MS",
    "RETRY_TIME_FACTOR",
    "Acquire",
    "LeaseWatch",
    "Refuse",
    "Serve",
    "Step",
    "Wait",
    "decide",
    "is_lease_expired",
]

CLOCK_SKEW_MS = 1_000
"""How far two instances' clocks may differ before efficiency suffers (safety never does). AWS
keeps Lambda's clocks within milliseconds; a second is a generous bound on that."""

MAX_PAUSE_MS = 600_000
"""The longest pause after a failure. A longer one in the item is not ours and is not obeyed."""


MAX_LEASE_MS = 900_000
"""The longest lease that settings allow. One that was seen unchanged for so long is over, whatever
length the item names."""

RETRY_TIME_FACTOR = 1.1
"""How much more time another attempt needs than one that ran out of it, to begin before the pause
is over. Two starts of one function differ by some hundredths."""


@dataclass(frozen=True, slots=True)
class Serve:
    """The target satisfies the digest."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The manifest failed a moment ago; fail at once with the same cause."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Wait:
    """Another process holds the lease, or has to take it (``require``): read again later."""

    state: LeaseState


@dataclass(frozen=True, slots=True)
class Acquire:
    """No process holds the lease: try to take it.

    Attributes:
        state: The reading; the lease is taken only if no other was taken since.
        is_expired: The lease in it was seen unchanged for its whole length, so it is over whatever
            the clocks say.
        inspect_only: To compare the database with the manifest, not to migrate.
    """

    state: LeaseState
    is_expired: bool = False
    inspect_only: bool = False


Step = Serve | Refuse | Wait | Acquire


def decide(
    state: LeaseState,
    *,
    digest: str,
    address: str,
    owner: str,
    now_ms: int,
    remaining_ms: int = MAX_LEASE_MS,
    length: int = 0,
    may_migrate: bool = True,
    is_expired: bool = False,
) -> Step:
    """Choose the next step from one reading of the item.

    Args:
        state: The reading.
        digest: The manifest that this instance serves.
        address: Of its database.
        owner: Its owner id: its own lease, taken by a write whose answer was lost, is free to it.
        now_ms: Wall clock, milliseconds since the epoch.
        remaining_ms: How long it could migrate.
        length: How many migrations its manifest has.
        may_migrate: False in ``require`` mode.
        is_expired: `LeaseWatch` saw the lease unchanged for its whole length.

    Returns:
        The step; nothing has been done.
    """
    if state.is_ready(digest, address):
        return Serve()
    failure = state.failure_of(digest, address)
    if failure is not None and _holds(failure, now_ms, remaining_ms):
        return Refuse(failure)
    held = state.owner is not None and state.owner != owner
    if held and not is_expired and not is_lease_expired(state, now_ms):
        return Wait(state)
    if may_migrate or state.may_be_ready(address, length):
        return Acquire(state, is_expired=held and is_expired, inspect_only=not may_migrate)
    return Wait(state)


def is_lease_expired(state: LeaseState, now_ms: int) -> bool:
    """Whether the lease ran out, allowing for clocks that differ."""
    return state.lease_until_ms + CLOCK_SKEW_MS < now_ms


def _holds(failure: Failure, now_ms: int, remaining_ms: int) -> bool:
    """Whether the failure turns this attempt away: its pause lasts, and time would not help."""
    if not 0 < failure.retry_at_ms - now_ms <= MAX_PAUSE_MS + 2 * CLOCK_SKEW_MS:
        return False
    return failure.had_ms is None or remaining_ms <= failure.had_ms * RETRY_TIME_FACTOR


class LeaseWatch:
    """Notices a lease that is not renewed, by this instance's own monotonic clock alone.

    A waiter whose wall clock is behind would otherwise wait for ever for a dead holder.
    """

    __slots__ = ("_since", "_term")

    def __init__(self) -> None:
        self._term: tuple[int, str | None, int] | None = None
        self._since = 0.0

    def has_expired(self, state: LeaseState, now: float) -> bool:
        """Whether the lease has been seen unchanged for longer than its holder's lease lasts.

        Args:
            state: The newest reading.
            now: Monotonic seconds.
        """
        term = (state.fence, state.owner, state.lease_until_ms)
        if term != self._term:
            self._term, self._since = term, now
        length_ms = min(state.lease_ms or MAX_LEASE_MS, MAX_LEASE_MS)
        return now - self._since > (length_ms + CLOCK_SKEW_MS) / 1000
