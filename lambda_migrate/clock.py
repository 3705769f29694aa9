"""Time, passed in: the clock, randomness, and the instant past which nothing may go on."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "Deadline", "Random", "SystemClock", "system_random"]


class Clock(Protocol):
    """The three things that we ask of time."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; for everything that is measured or waited for."""

    def wall_ms(self) -> int:
        """Milliseconds since the epoch; only for what is stored for others to read."""

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass."""


class Random(Protocol):
    """The one thing that we ask of chance."""

    def random(self) -> float:
        """Return a number in [0, 1)."""


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """See `Clock.wall_ms`."""
        return time.time_ns() // 1_000_000

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()


class _SystemRandom:
    """As ``random.SystemRandom``, which takes 2 ms to import."""

    def random(self) -> float:
        return (int.from_bytes(os.urandom(7), "big") >> 3) * 2.0**-53


def system_random() -> Random:
    """A generator fed by the operating system: two clones of one snapshot differ."""
    return _SystemRandom()


@dataclass(frozen=True, slots=True)
class Deadline:
    """The instant past which nothing may go on, on a clock's monotonic scale.

    Attributes:
        at: Monotonic seconds.
        clock: The clock that ``at`` is read on.
    """

    at: float
    clock: Clock

    @classmethod
    def after(cls, seconds: float, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """The instant ``seconds`` from now."""
        return cls(clock.monotonic() + seconds, clock)

    @classmethod
    def from_context(cls, context: Any, clock: Clock = SYSTEM_CLOCK) -> Deadline | None:
        """The end of a Lambda invocation, or None where the context does not tell one.

        Lambda kills slightly *after* its deadline and the remaining time then reads 0, which is
        why the test is for the method and not for truth.
        """
        remaining = getattr(context, "get_remaining_time_in_millis", None)
        return None if remaining is None else cls.after(remaining() / 1000, clock)

    def remaining(self) -> float:
        """Seconds left; 0 when it is over."""
        return max(0.0, self.at - self.clock.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return self.clock.monotonic() >= self.at

    def earlier(self, seconds: float) -> Deadline:
        """The instant ``seconds`` before this one."""
        return Deadline(self.at - seconds, self.clock)

    def at_most(self, seconds: float) -> Deadline:
        """The earlier of this one and ``seconds`` from now."""
        return Deadline(min(self.at, self.clock.monotonic() + seconds), self.clock)
