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


# --- feature flags


class InMemoryFlags:
    """`FlagSource` that says what it was last told.

    ::

        flags = InMemoryFlags()
        target = Target("orders", table, database, flags=flags)
        flags.set(paused=True)  # from now on nobody migrates

    Args:
        flags: What it says at first: nothing that stops anybody, if None.
    """

    def __init__(self, flags: Flags | None = None) -> None:
        self.flags = flags or Flags()
        """What it says."""
        self.is_down = False
        """While True they cannot be read."""
        self.reads = 0
        """How many times they were."""

    def set(self, **flags: Any) -> None:
        """Say this instead of what was said, by the names of `Flags`; the others by default."""
        self.flags = Flags(**flags)

    def read(self, deadline: Deadline) -> Flags:  # noqa: ARG002 - memory takes no time
        """See `FlagSource.read`."""
        self.reads += 1
        if self.is_down:
            raise FlagsUnavailable("the in-memory feature flags are down")
        return self.flags
