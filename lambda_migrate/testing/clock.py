"""Time and chance for tests."""

from __future__ import annotations

import threading
from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = ["FakeClock", "FixedRandom"]


# --- time and chance


class FakeClock:
    """`Clock` that stands still until it is told otherwise; `sleep` advances it at once.

    Args:
        monotonic: Seconds on the scale that waiting is measured on.
        wall_ms: Milliseconds since the epoch.
    """

    def __init__(self, *, monotonic: float = 1_000.0, wall_ms: int = 1_700_000_000_000) -> None:
        self.slept: list[float] = []
        """The argument of each `sleep` so far, in seconds."""
        self._began = self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._guard = threading.Lock()

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        with self._guard:
            return self._monotonic

    def wall_ms(self) -> int:
        """See `Clock.wall_ms`."""
        with self._guard:
            return self._wall_ms + round((self._monotonic - self._began) * 1000)

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass without waiting for them."""
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass, as when the process was frozen."""
        with self._guard:
            self._monotonic += max(0.0, seconds)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or, below 0, back, as an operator or NTP does."""
        with self._guard:
            self._wall_ms += round(seconds * 1000)


class FixedRandom:
    """`Random` that returns the numbers given, over and over.

    Args:
        numbers: In [0, 1).
    """

    def __init__(self, *numbers: float) -> None:
        self._numbers = cycle(numbers or (0.5,))

    def random(self) -> float:
        """See `Random.random`."""
        return next(self._numbers)
