"""Time and randomness as parameters: the clock, the random source, and the deadline."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Protocol = object  # to define a protocol takes a tenth of a millisecond in every cold start

__all__ = ["SYSTEM_CLOCK", "Clock", "Deadline", "Random", "SystemClock", "system_random"]


class Clock(Protocol):
    """A source of time."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; for everything that is measured or waited for."""

    def wall_ms(self) -> int:
        """Milliseconds since the epoch; only for times that other processes read."""

    def sleep(self, seconds: float) -> None:
        """Sleep for ``seconds``."""


class Random(Protocol):
    """A source of random numbers."""

    def random(self) -> float:
        """Return a number in [0, 1)."""


class SystemClock:
    """The operating system's clock."""

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
    """Random numbers of the operating system: two clones of one snapshot get different ones."""
    return _SystemRandom()


class Deadline:
    """The moment by which everything must end, on a clock's monotonic scale.

    Attributes:
        at: Monotonic seconds.
        clock: The clock of ``at``.
    """

    __slots__ = ("at", "clock")

    def __init__(self, at: float, clock: Clock) -> None:
        self.at = at
        self.clock = clock

    @classmethod
    def after(cls, seconds: float, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """The deadline ``seconds`` from now."""
        return cls(clock.monotonic() + seconds, clock)

    @classmethod
    def from_context(cls, context: Any, clock: Clock = SYSTEM_CLOCK) -> Deadline | None:
        """The end of a Lambda invocation, or None if the context has no remaining time.

        Lambda kills the process slightly *after* its deadline, and the remaining time is 0 then. So
        the test is for the method, not for a remaining time above 0.
        """
        remaining = getattr(context, "get_remaining_time_in_millis", None)
        return None if remaining is None else cls.after(remaining() / 1000, clock)

    def remaining(self) -> float:
        """Seconds left; 0 when it has passed."""
        return max(0.0, self.at - self.clock.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether it has passed."""
        return self.clock.monotonic() >= self.at

    def before(self, seconds: float) -> Deadline:
        """The deadline ``seconds`` before this one."""
        return Deadline(self.at - seconds, self.clock)

    def extended_by(self, seconds: float) -> Deadline:
        """The deadline ``seconds`` after this one."""
        return Deadline(self.at + seconds, self.clock)

    def limited_to(self, seconds: float) -> Deadline:
        """This deadline, or the one ``seconds`` from now if that is earlier."""
        return Deadline(min(self.at, self.clock.monotonic() + seconds), self.clock)
