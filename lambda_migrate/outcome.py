"""`Outcome`: what a check returns. A start that finds the schema ready does not load it."""

from __future__ import annotations

from enum import Enum

__all__ = ["Outcome"]


class Outcome(str, Enum):
    """Why a cold start may serve."""

    UP_TO_DATE = "UP_TO_DATE"
    """The schema was ready; or the mode is ``off``, and nothing was checked."""
    MIGRATED = "MIGRATED"
    """This instance held the lease and made it ready."""
    WAITED = "WAITED"
    """Another instance made it ready while this one waited."""
    UNCHECKED = "UNCHECKED"
    """Migrations are pending, and a feature flag sets mode ``off``: served without a check."""
