"""How long to wait between two reads: the library's policy and three kinds of other ones.

All react to a refused read as the library does, so that what is compared is the pace while the
table keeps up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from lambda_migrate.lease.backoff import Backoff, max_delay_after_errors
from lambda_migrate.lease.record import LeaseState

MakePolicy = Callable[[Random], Backoff]  # of one waiter


class _JitteredDelayPolicy(Backoff):
    """A random share of a bound, which depends on the time waited and the number of delays before.

    The shortest delay is a share of the bound, too: 0 is full jitter, 0.5 half jitter.
    """

    def __init__(
        self,
        max_delay_of: Callable[[float, int], float],
        rng: Random,
        *,
        min_share: float = 0.0,
        first_min_share: float | None = None,
    ) -> None:
        super().__init__(rng)
        self._max_delay_of = max_delay_of
        self._min_share = min_share
        self._next_min_share = min_share if first_min_share is None else first_min_share
        self._delays = 0

    def delay(
        self,
        waited_seconds: float,
        *,
        state: LeaseState | None = None,  # noqa: ARG002 - of the base class
        now_ms: int = 0,  # noqa: ARG002 - of the base class
        error_count: int = 0,
    ) -> float:
        """See `Backoff.delay`."""
        longest = self._max_delay_of(waited_seconds, self._delays)
        if error_count:
            longest = max(longest, max_delay_after_errors(error_count))
        share, self._next_min_share = self._next_min_share, self._min_share
        self._delays += 1
        return longest * (share + (1 - share) * self._random.random())


def fixed(interval: float) -> MakePolicy:
    """The same delay every time, after a random first one."""
    return lambda rng: _JitteredDelayPolicy(
        lambda _waited, _delays: interval, rng, min_share=1.0, first_min_share=0.0
    )


def exponential(cap: float) -> MakePolicy:
    """Doubles from 0.1 s up to a cap, full jitter."""
    return lambda rng: _JitteredDelayPolicy(lambda _, n: min(cap, 0.1 * 2.0 ** min(n, 20)), rng)


def growing(growth: float, *, min_share: float) -> MakePolicy:
    """In proportion to the time waited, from 0.2 s to a minute."""
    return lambda rng: _JitteredDelayPolicy(
        lambda waited, _: min(60.0, max(0.2, growth * waited)), rng, min_share=min_share
    )


LIBRARY: MakePolicy = Backoff

_GROWTH_FACTORS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)

POLICIES: Mapping[str, Sequence[tuple[float, MakePolicy]]] = {
    "fixed": [(n, fixed(n)) for n in (0.1, 0.2, 0.4, 0.6, 1, 2, 4, 8)],
    "exponential, full jitter": [(n, exponential(n)) for n in (0.2, 0.4, 0.8, 1.6, 3.2, 8, 20)],
    "growing, full jitter": [(n, growing(n, min_share=0.0)) for n in _GROWTH_FACTORS],
    "growing, half jitter": [(n, growing(n, min_share=0.5)) for n in _GROWTH_FACTORS],
}
"""Kinds of policies over their parameter: an interval, a cap (seconds), a growth factor."""
