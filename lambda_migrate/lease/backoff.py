"""How long a waiter sleeps before it reads again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambda_migrate.deadline import Random
    from lambda_migrate.lease.state import LeaseState

__all__ = ["CAP_SECONDS", "FIRST_SECONDS", "GROWTH", "Backoff"]

FIRST_SECONDS = 0.2
"""Upper bound of the first delay: half of it, on average, is lost on a migration that is nearly
nothing."""

GROWTH = 0.4
"""Upper bound of a delay, as a share of the time already waited: a waiter that comes back late is
late by a share of the migration's own length, and reads grow with its logarithm only."""

CAP_SECONDS = 4.0
"""Upper bound of every delay. 1,000 waiters then read 500 times a second on average, a quarter of
a thousand read units, against the 3,000 that one partition sustains."""


class Backoff:
    """Delays that grow with the time waited, with full jitter, ended early by known progress.

    Full jitter (uniform from 0) spreads readers that began together; see the AWS Architecture
    Blog, "Exponential Backoff And Jitter".

    Args:
        random: Where chance comes from.
    """

    __slots__ = ("_random",)

    def __init__(self, random: Random) -> None:
        self._random = random

    def delay(self, waited: float, *, state: LeaseState | None = None, now_ms: int = 0) -> float:
        """Seconds until the next read.

        Args:
            waited: Seconds waited so far.
            state: The newest reading, for the progress that the holder published.
            now_ms: Wall clock, to tell how old that progress is.
        """
        bound = min(CAP_SECONDS, max(FIRST_SECONDS, GROWTH * waited))
        expected = _expected_seconds(state, now_ms)
        if expected is not None:
            # Half of what is left: an estimate is one, and coming back at its very end together
            # with everybody else is what jitter is against.
            bound = min(CAP_SECONDS, max(FIRST_SECONDS, min(bound, expected)))
        return bound * self._random.random()


def _expected_seconds(state: LeaseState | None, now_ms: int) -> float | None:
    progress = state.progress if state is not None else None
    if progress is None or progress.remaining_ms is None:
        return None
    left = progress.started_ms + progress.remaining_ms - now_ms
    return left / 1000 if left > 0 else None
