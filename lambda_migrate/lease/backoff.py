"""How long a waiter sleeps before it reads again; docs/explanation/waiting.md has the figures.

::

    waited so far    longest delay
    up to 0.26 s     0.4 s plus the time waited
    up to 3.3 s      0.66 s
    up to 60 s       a fifth of the time waited
    longer           12 s

Each delay is chosen uniformly at random between half of the longest delay and the longest delay.

Of all ways to read a given number of times during a migration, even intervals notice its end
soonest. So the jitter is only as large as waiters that started together need to spread out: half
jitter reads a sixth less often than full jitter for the same median delay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.lease.record import CLOCK_SKEW_MS

if TYPE_CHECKING:
    from lambda_migrate.lease.record import LeaseState
    from lambda_migrate.randomness import Random

__all__ = [
    "DELAY_GROWTH",
    "INITIAL_DELAY_SECONDS",
    "MAX_DELAY_AFTER_ERROR_SECONDS",
    "MAX_DELAY_SECONDS",
    "MAX_EARLY_DELAY_SECONDS",
    "Backoff",
    "max_delay_after_errors",
]

INITIAL_DELAY_SECONDS = 0.4
"""Upper bound of the first delay. Most migrations are small and end before it."""

MAX_EARLY_DELAY_SECONDS = 0.66
"""Upper bound of the next delays: about two reads a second. A waiter notices the end of a migration
of a few seconds after a quarter of a second in the median; a 3 s migration costs nine reads."""

DELAY_GROWTH = 0.2
"""Upper bound of a delay, as a share of the time already waited: a waiter notices the end at most a
fifth of its waiting time late, and its reads grow only with the logarithm of that time."""

MAX_DELAY_SECONDS = 12.0
"""Upper bound of every delay. 10,000 waiters then use some 560 read units a second, of the 3,000
that one partition sustains. In a ten-minute migration with 100,000 waiters, the holder could never
renew its lease with 8 s; with 12 s it fails one time in three."""

MAX_DELAY_AFTER_ERROR_SECONDS = 24.0
"""Upper bound after failed reads. It doubles with each failure, because a table that cannot keep up
would never recover if all waiters kept their pace. Less than the default of
``LAMBDA_MIGRATE_WAIT_SECONDS``."""


class Backoff:
    """Delays that grow with the time waited, with half jitter.

    A delay ends early when the holder's lease can have expired: a waiter that slept longer would
    delay the takeover from a holder that died.

    The AWS Architecture Blog, "Exponential Backoff And Jitter", calls this equal jitter.

    Args:
        random: Source of the jitter.
    """

    __slots__ = ("_random",)

    def __init__(self, random: Random) -> None:
        self._random = random

    def delay(
        self,
        waited_seconds: float,
        *,
        state: LeaseState | None = None,
        now_ms: int = 0,
        error_count: int = 0,
    ) -> float:
        """Seconds until the next read.

        Args:
            waited_seconds: Seconds waited so far.
            state: The newest reading, for the end of the lease.
            now_ms: Wall clock, milliseconds since the epoch.
            error_count: How many reads in a row failed or were throttled.
        """
        bound = min(
            MAX_DELAY_SECONDS,
            max(
                min(MAX_EARLY_DELAY_SECONDS, INITIAL_DELAY_SECONDS + waited_seconds),
                DELAY_GROWTH * waited_seconds,
            ),
        )
        roll = self._random.random()
        if error_count:
            return max(bound, max_delay_after_errors(error_count)) * (1 + roll) / 2
        delay = bound * (1 + roll) / 2
        expiry = _seconds_to_expiry(state, now_ms)
        return delay if expiry is None else min(delay, expiry + INITIAL_DELAY_SECONDS * roll)


def max_delay_after_errors(error_count: int) -> float:
    """Upper bound of the delay after this many failed reads in a row."""
    return float(
        min(MAX_DELAY_AFTER_ERROR_SECONDS, MAX_EARLY_DELAY_SECONDS * 2 ** min(error_count, 10))
    )


def _seconds_to_expiry(state: LeaseState | None, now_ms: int) -> float | None:
    """Seconds until the lease counts as expired if it is not renewed."""
    if state is None or state.owner is None:
        return None
    left_ms = state.lease_until_ms + CLOCK_SKEW_MS + 1 - now_ms
    return left_ms / 1000 if left_ms > 0 else None
