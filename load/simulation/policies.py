"""How long to wait between two reads: families of policies, each over one parameter.

All react to a read that was turned away as the library does, so that what is compared is the pace
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

__all__ = ["LIBRARY", "POLICY_FAMILIES", "MakePolicy", "Policy", "PolicyFamily"]


class Policy(Protocol):
    """The interface of `lambda_migrate.lease.backoff.Backoff`; one object for each waiter."""

    def delay(
        self,
        waited_seconds: float,
        *,
        state: LeaseState | None = None,
        now_ms: int = 0,
        error_count: int = 0,
    ) -> float:
        """Seconds until the next read."""


MakePolicy = Callable[[Random], Policy]


@dataclass(frozen=True)
class PolicyFamily:
    """Policies that differ in one number."""

    name: str
    values: tuple[float, ...]
    make: Callable[[float], MakePolicy]


class _JitteredDelayPolicy:
    """Depends on the time waited, and on failures as the library does.

    Args:
        bound: Upper bound of a delay, from the time waited and the number of delays before.
        random: Chance.
        lowest: The shortest delay as a share of the bound: 0 is full jitter, 0.5 half jitter.
        first: The same for the first delay.
    """

    def __init__(
        self,
        bound: Callable[[float, int], float],
        random: Random,
        *,
        lowest: float = 0.0,
        first: float | None = None,
    ) -> None:
        self._bound = bound
        self._random = random
        self._lowest = lowest
        self._first = lowest if first is None else first
        self._delays = 0

    def delay(
        self,
        waited_seconds: float,
        *,
        state: LeaseState | None = None,  # noqa: ARG002 - of the protocol
        now_ms: int = 0,  # noqa: ARG002 - of the protocol
        error_count: int = 0,
    ) -> float:
        """See `Policy.delay`."""
        bound = self._bound(waited_seconds, self._delays)
        if error_count:
            bound = max(bound, backoff.max_delay_after_errors(error_count))
        lowest = self._lowest if self._delays else self._first
        self._delays += 1
        return bound * (lowest + (1 - lowest) * self._random.random())


def _fixed(interval: float) -> MakePolicy:
    """The same delay every time, after a random first one."""
    return lambda random: _JitteredDelayPolicy(
        lambda _waited, _delays: interval, random, lowest=1.0, first=0.0
    )


def _exponential(cap: float) -> MakePolicy:
    """Doubles from 0.1 s up to a cap, full jitter."""
    return lambda random: _JitteredDelayPolicy(
        lambda _, n: min(cap, 0.1 * 2.0 ** min(n, 20)), random
    )


def _growing(growth: float, lowest: float) -> MakePolicy:
    """In proportion to the time waited, from 0.2 s to a minute."""
    return lambda random: _JitteredDelayPolicy(
        lambda waited, _: min(60.0, max(0.2, growth * waited)), random, lowest=lowest
    )


LIBRARY: MakePolicy = backoff.Backoff

_GROWTH_FACTORS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)

POLICY_FAMILIES = (
    PolicyFamily("fixed", (0.1, 0.2, 0.4, 0.6, 1, 2, 4, 8), _fixed),
    PolicyFamily("exponential, full jitter", (0.2, 0.4, 0.8, 1.6, 3.2, 8, 20), _exponential),
    PolicyFamily("growing, full jitter", _GROWTH_FACTORS, lambda growth: _growing(growth, 0.0)),
    PolicyFamily("growing, half jitter", _GROWTH_FACTORS, lambda growth: _growing(growth, 0.5)),
)
"""The numbers: the interval in seconds, the cap in seconds, the growth."""
