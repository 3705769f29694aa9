"""How long a waiter sleeps before it reads again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambda_migrate.deadline import Random
    from lambda_migrate.lease.state import LeaseState

__all__ = ["CAP_SECONDS", "FAILED_CAP_SECONDS", "FIRST_SECONDS", "GROWTH", "Backoff"]

FIRST_SECONDS = 0.2
"""Upper bound of the first delay: half of it, on average, is lost on a migration that is nearly
nothing."""

GROWTH = 0.4
"""Upper bound of a delay, as a share of the time already waited: a waiter that comes back late is
late by a share of the migration's own length, and reads grow with its logarithm only."""

CAP_SECONDS = 4.0
"""Upper bound of every delay. 1,000 waiters then read 500 times a second on average, a quarter of
a thousand read units, against the 3,000 that one partition sustains."""

FAILED_CAP_SECONDS = 8.0
"""Upper bound after reads that failed. The bound doubles with each: readers who come back at the
same pace to a table that cannot keep up see to it that it never does."""


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

    def delay(
        self,
        waited: float,
        *,
        state: LeaseState | None = None,
        now_ms: int = 0,
        failures: int = 0,
    ) -> float:
        """Seconds until the next read.

        Args:
            waited: Seconds waited so far.
            failures: How many reads in a row were not answered, or answered with "slow down".
            state: The newest reading, for the progress that the holder published.
            now_ms: Wall clock, to tell how old that progress is.
        """
        bound = min(CAP_SECONDS, max(FIRST_SECONDS, GROWTH * waited))
        expected = _expected_seconds(state, now_ms)
        if expected is not None:
            # No later than the end that the holder expects; jitter spreads the readers before it.
            bound = min(CAP_SECONDS, max(FIRST_SECONDS, min(bound, expected)))
        if failures:
            bound = max(bound, min(FAILED_CAP_SECONDS, FIRST_SECONDS * 2 ** min(failures, 10)))
        return bound * self._random.random()


def _expected_seconds(state: LeaseState | None, now_ms: int) -> float | None:
    progress = state.progress if state is not None else None
    if progress is None or progress.remaining_ms is None:
        return None
    left = progress.started_ms + progress.remaining_ms - now_ms
    return left / 1000 if left > 0 else None
