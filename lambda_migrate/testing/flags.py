"""Feature flags in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate.engine.flags import Flags
from lambda_migrate.errors import (
    FlagsUnavailable,
)

if TYPE_CHECKING:
    from lambda_migrate.clock import Deadline

__all__ = ["InMemoryFlags"]


class InMemoryFlags:
    """Feature flags that a test sets.

    ::

        flags = InMemoryFlags()
        target = Target("orders", table, database, flags=flags)
        flags.set(paused=True)  # from now on no runner migrates

    Args:
        flags: The first values; by default the flags allow everything.
    """

    def __init__(self, flags: Flags | None = None) -> None:
        self.flags = flags or Flags()
        """The values."""
        self.is_down = False
        """While True, reading raises `FlagsUnavailable`."""
        self.reads = 0
        """How many times they were read."""

    def set(self, **flags: Any) -> None:
        """Replace the flags; those that are not given get their defaults. See `Flags`."""
        self.flags = Flags(**flags)

    def read(self, deadline: Deadline) -> Flags:  # noqa: ARG002 - memory takes no time
        """See `FlagSource.read`."""
        self.reads += 1
        if self.is_down:
            raise FlagsUnavailable("the in-memory feature flags are down")
        return self.flags
