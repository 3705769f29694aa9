"""Randomness as a parameter: the random source."""

from __future__ import annotations

import os
from typing import Protocol

__all__ = ["Random", "system_random"]


class Random(Protocol):
    """A source of random numbers, such as ``random.Random``."""

    def random(self) -> float:
        """Return a number in [0, 1)."""


class _SystemRandom:
    """As ``random.SystemRandom``, which takes 2 ms to import."""

    def random(self) -> float:
        return (int.from_bytes(os.urandom(7), "big") >> 3) * 2.0**-53


def system_random() -> Random:
    """Random numbers of the operating system: two clones of one snapshot get different ones."""
    return _SystemRandom()
