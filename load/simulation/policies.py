"""How long to wait between two reads: families of policies, each over one parameter.

All answer a read that was turned away as the library does, so that what is compared is the pace
while the table keeps up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Protocol

from lambda_migrate.lease import backoff

if TYPE_CHECKING:
    from lambda_migrate.lease.record import LeaseState

__all__ = ["FAMILIES", "GUIDED", "LIBRARY", "Family", "MakePolicy", "Policy"]


class Policy(Protocol):
    """What `lambda_migrate.lease.backoff.Backoff` is asked; one object for each waiter."""

    def delay(
        self,
        waited: float,
        *,
        state: LeaseState | None = None,
        now_ms: int = 0,
        failures: int = 0,
    ) -> float:
        """Seconds until the next read."""


MakePolicy = Callable[[Random], Policy]

Bound = Callable[[float, int], float]
"""Upper bound of a delay, from the time waited and the number of delays before."""


@dataclass(frozen=True)
class Family:
    """Policies that differ in one number.

    Attributes:
        name: In tables and charts.
        parameter: What the number is.
        values: Which ones are compared.
        make: A policy, from the number.
    """

    name: str
    parameter: str
    values: tuple[float, ...]
    make: Callable[[float], MakePolicy]


class _Paced:
    """Follows time alone, and failures as the library does.

    Args:
        bound: The pace.
        random: Chance.
        lowest: The shortest delay as a share of the bound: 0 is full jitter, a half half jitter.
        first: The same for the first delay, where it differs.
    """

    def __init__(
        self, bound: Bound, random: Random, *, lowest: float = 0.0, first: float | None = None
    ) -> None:
        self._bound = bound
        self._random = random
        self._lowest = lowest
        self._first = lowest if first is None else first
        self._delays = 0

    def delay(
        self,
        waited: float,
        *,
        state: LeaseState | None = None,  # noqa: ARG002 - the protocol has it, time needs it not
        now_ms: int = 0,  # noqa: ARG002 - the same
        failures: int = 0,
    ) -> float:
        """See `Policy.delay`."""
        bound = self._bound(waited, self._delays)
        if failures:
            bound = max(bound, backoff.failed_bound(failures))
        lowest = self._lowest if self._delays else self._first
        self._delays += 1
        return bound * (lowest + (1 - lowest) * self._random.random())


def _fixed(interval: float) -> MakePolicy:
    """The same delay every time, after a random first one."""
    return lambda random: _Paced(lambda _waited, _delays: interval, random, lowest=1.0, first=0.0)


def _exponential(cap: float) -> MakePolicy:
    """Doubles from 0.1 s up to a cap, full jitter."""

    def bound(_waited: float, delays: int) -> float:
        return min(cap, 0.1 * 2.0 ** min(delays, 20))

    return lambda random: _Paced(bound, random)


def _growing(growth: float, lowest: float) -> MakePolicy:
    """In proportion to the time waited, from 0.2 s to a minute."""

    def bound(waited: float, _delays: int) -> float:
        return min(60.0, max(0.2, growth * waited))

    return lambda random: _Paced(bound, random, lowest=lowest)


class _Guided:
    """Sleeps until the end that the holder expects, and reads soon after it.

    Args:
        random: Chance.
        spread: How long after it, at most.
    """

    def __init__(self, random: Random, spread: float) -> None:
        self._random = random
        self._spread = spread
        self._library = backoff.Backoff(random)

    def delay(
        self,
        waited: float,
        *,
        state: LeaseState | None = None,
        now_ms: int = 0,
        failures: int = 0,
    ) -> float:
        """See `Policy.delay`."""
        unguided = self._library.delay(waited, failures=failures)
        left = _expected_seconds(state, now_ms)
        if failures or left is None:
            return unguided
        after = self._spread * self._random.random()
        if left > backoff.CAP_SECONDS:
            return backoff.CAP_SECONDS * (1 + self._random.random()) / 2
        # The longer it is overdue, the less the estimate was worth.
        return left + after if left > 0 else min(unguided, max(after, -left / 2))


def _expected_seconds(state: LeaseState | None, now_ms: int) -> float | None:
    """Below 0 when the expected end is past."""
    progress = state.progress if state is not None else None
    if progress is None or progress.remaining_ms is None:
        return None
    return (progress.started_ms + progress.remaining_ms - now_ms) / 1000


LIBRARY: MakePolicy = backoff.Backoff

_GROWTHS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)

FAMILIES = (
    Family("fixed", "interval, s", (0.1, 0.2, 0.4, 0.6, 1, 2, 4, 8), _fixed),
    Family("exponential, full jitter", "cap, s", (0.2, 0.4, 0.8, 1.6, 3.2, 8, 20), _exponential),
    Family("growing, full jitter", "growth", _GROWTHS, lambda growth: _growing(growth, 0.0)),
    Family("growing, half jitter", "growth", _GROWTHS, lambda growth: _growing(growth, 0.5)),
)

GUIDED = Family("guided", "s after", (0.4,), lambda spread: lambda random: _Guided(random, spread))
"""Compared apart from the others: it needs a holder that publishes what remains."""
