"""A clock and a source of randomness for tests."""

from __future__ import annotations

import threading
from itertools import cycle

from lambda_migrate.clock import Clock

__all__ = ["FakeClock", "FixedRandom"]


class FakeClock(Clock):
    """A clock that advances only when `sleep` or `advance` is called.

    Args:
        monotonic: The start of the monotonic clock, in seconds.
        wall_ms: The start of the wall clock, in milliseconds since the epoch.
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
        """Advance the clock by ``seconds`` without waiting.

        Args:
            seconds: How far both clocks advance; nothing happens if negative.
        """
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Advance both clocks by ``seconds``, as while the process is frozen.

        Args:
            seconds: How far they advance; nothing happens if negative.
        """
        with self._guard:
            self._monotonic += max(0.0, seconds)

    def step_wall_clock(self, seconds: float) -> None:
        """Change the wall clock alone by ``seconds``, as an operator or NTP does.

        Args:
            seconds: How far it steps: forward, or back if negative.
        """
        with self._guard:
            self._wall_ms += round(seconds * 1000)


class FixedRandom:
    """A source of randomness that returns the given numbers in turn.

    Args:
        numbers: Each in [0, 1); by default 0.5.
    """

    def __init__(self, *numbers: float) -> None:
        self._numbers = cycle(numbers or (0.5,))

    def random(self) -> float:
        """See `Random.random`."""
        return next(self._numbers)
