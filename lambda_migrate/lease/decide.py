"""What a starting instance does next: a pure function of what it read.

Drawn in docs/explanation/how-it-works.md.

::

    digest in ready                              -> Serve
    a failure of this digest, its pause not over -> Refuse
    somebody else's lease, not over              -> Wait
    may not migrate                              -> Wait
    otherwise                                    -> Acquire
"""

from __future__ import annotations

from lambda_migrate.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lambda_migrate.lease.state import Failure, LeaseState

__all__ = [
    "LONGEST_LEASE_MS",
    "LONGEST_PAUSE_MS",
    "SKEW_MS",
    "Acquire",
    "Refuse",
    "Serve",
    "Step",
    "Wait",
    "Watch",
    "decide",
    "lease_is_over",
]

SKEW_MS = 1_000
"""How far two instances' clocks may differ before efficiency suffers (safety never does). AWS
keeps Lambda's clocks within milliseconds; a second is a generous bound on that."""

LONGEST_PAUSE_MS = 600_000
"""The longest pause after a failure. A longer one in the item is not ours and is not obeyed."""


LONGEST_LEASE_MS = 2 * 900_000
"""A lease that ends later than this from now is not ours (a lease lasts 900 s at most; the rest is
for clocks that differ) and keeps nobody waiting."""


@dataclass(frozen=True, slots=True)
class Serve:
    """The target satisfies the digest."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The manifest failed a moment ago; fail at once with the same cause."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody else is at it, or must be (``require``): read again later."""

    state: LeaseState


@dataclass(frozen=True, slots=True)
class Acquire:
    """Nobody is at it: try to take the lease.

    Attributes:
        over: The reading of a lease that ran out and was not given back, if there is one.
        watched: That lease was seen unchanged for its whole length, or is longer than any, so it
            is over whatever the clocks say.
    """

    over: LeaseState | None = None
    watched: bool = False


Step = Serve | Refuse | Wait | Acquire


def decide(
    state: LeaseState,
    *,
    digest: str,
    database: str,
    owner: str,
    now_ms: int,
    may_migrate: bool = True,
    watched: bool = False,
) -> Step:
    """Choose the next step from one reading of the item.

    Args:
        state: The reading.
        digest: The manifest that this instance serves.
        database: Fingerprint of its database.
        owner: Its owner id: its own lease, taken by a write whose answer was lost, is free to it.
        now_ms: Wall clock, milliseconds since the epoch.
        may_migrate: False in ``require`` mode.
        watched: `Watch` saw the lease unchanged for its whole length.

    Returns:
        The step; nothing has been done.
    """
    if state.is_ready(digest, database):
        return Serve()
    failure = state.failure
    if failure is not None and failure.digest == digest and _is_paused(failure, now_ms):
        return Refuse(failure)
    held = state.owner is not None and state.owner != owner
    watched = watched or state.lease_until_ms - now_ms > LONGEST_LEASE_MS
    if held and not watched and not lease_is_over(state, now_ms):
        return Wait(state)
    if not may_migrate:
        return Wait(state)
    return Acquire(state if held else None, watched=held and watched)


def lease_is_over(state: LeaseState, now_ms: int) -> bool:
    """Whether the lease ran out, allowing for clocks that differ."""
    return state.lease_until_ms + SKEW_MS < now_ms


def _is_paused(failure: Failure, now_ms: int) -> bool:
    return 0 < failure.retry_at_ms - now_ms <= LONGEST_PAUSE_MS


class Watch:
    """Notices a lease that nobody renews, by this instance's own monotonic clock alone.

    A waiter whose wall clock is behind would otherwise wait for ever for a dead holder.

    Args:
        lease_seconds: How long a lease is without renewal.
    """

    __slots__ = ("_since", "_term", "lease_seconds")

    def __init__(self, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self._term: tuple[int, str | None, int] | None = None
        self._since = 0.0

    def unchanged(self, state: LeaseState, now: float) -> bool:
        """Whether the lease has been seen unchanged for longer than a lease.

        Args:
            state: The newest reading.
            now: Monotonic seconds.
        """
        term = (state.fence, state.owner, state.lease_until_ms)
        if term != self._term:
            self._term, self._since = term, now
        return now - self._since > self.lease_seconds + SKEW_MS / 1000
