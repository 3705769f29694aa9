"""How long a waiter sleeps before it reads again; docs/explanation/waiting.md has the figures.

::

    waited     0        0.26 s     3.3 s                  60 s
    bound      0.4 s -> 0.66 s ... 0.66 s -> a fifth of it -> 12 s ... 12 s
    delay      evenly distributed between half the bound and all of it

Of all ways to look N times into a span, looking at even intervals finds its end soonest, so the
jitter is as small as it can be for readers who began together to lose step with each other: half
jitter reads a sixth less often than full jitter for the same median delay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.lease.decision import CLOCK_SKEW_MS

if TYPE_CHECKING:
    from lambda_migrate.clock import Random
    from lambda_migrate.lease.record import LeaseState

__all__ = [
    "DELAY_GROWTH",
    "EARLY_DELAY_SECONDS",
    "INITIAL_DELAY_SECONDS",
    "MAX_DELAY_AFTER_ERROR_SECONDS",
    "MAX_DELAY_SECONDS",
    "Backoff",
    "max_delay_after_errors",
]

INITIAL_DELAY_SECONDS = 0.4
"""Upper bound of the first delay. Most migrations are over by then: they are small."""

EARLY_DELAY_SECONDS = 0.66
"""Upper bound of the next ones: a read every half a second. What is over within a few seconds is
served a quarter of a second later in the median, and a 3 s migration costs nine calls."""

DELAY_GROWTH = 0.2
"""Upper bound of a delay, as a share of the time already waited: whoever comes back late is late by
a fifth at most of what it has waited, and reads grow with the logarithm of that only."""

MAX_DELAY_SECONDS = 12.0
"""Upper bound of every delay. 10,000 waiters then ask for some 560 read units a second, against the
3,000 that one partition sustains. With 8 s, 100,000 that wait for ten minutes keep their holder
from renewing its lease each time; with 12 s, one time in three."""

MAX_DELAY_AFTER_ERROR_SECONDS = 24.0
"""Upper bound after reads that failed. The bound doubles with each: readers who come back at the
same pace to a table that cannot keep up see to it that it never does. Shorter than the default of
``LAMBDA_MIGRATE_WAIT_SECONDS``."""


class Backoff:
    """Delays that follow the time waited, with half jitter.

    A delay ends early when the holder's lease can have expired: a waiter that slept longer would
    delay the takeover from a holder that died.

    Jitter as in the AWS Architecture Blog, "Exponential Backoff And Jitter", where this kind is
    called equal jitter.

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
            state: The newest reading, for the end of the lease.
            now_ms: Wall clock, milliseconds since the epoch.
            failures: How many reads in a row were not answered, or answered with "slow down".
        """
        bound = min(
            MAX_DELAY_SECONDS,
            max(min(EARLY_DELAY_SECONDS, INITIAL_DELAY_SECONDS + waited), DELAY_GROWTH * waited),
        )
        roll = self._random.random()
        if failures:
            return max(bound, max_delay_after_errors(failures)) * (1 + roll) / 2
        delay = bound * (1 + roll) / 2
        left = _lease_seconds(state, now_ms)
        return delay if left is None else min(delay, left + INITIAL_DELAY_SECONDS * roll)


def max_delay_after_errors(failures: int) -> float:
    """Upper bound of the delay after so many failures in a row."""
    return float(min(MAX_DELAY_AFTER_ERROR_SECONDS, EARLY_DELAY_SECONDS * 2 ** min(failures, 10)))


def _lease_seconds(state: LeaseState | None, now_ms: int) -> float | None:
    """Until the lease, if it is not renewed, counts as over."""
    if state is None or state.owner is None:
        return None
    left = state.lease_until_ms + CLOCK_SKEW_MS + 1 - now_ms
    return left / 1000 if left > 0 else None
