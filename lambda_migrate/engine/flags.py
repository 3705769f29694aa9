"""What feature flags may say of migrating, the port that they are read through, and what it means.

They are asked when there is something to migrate, and only then. They can take from what the
settings allow and add nothing to it: a function in mode ``require`` or ``off`` never asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lambda_migrate.clock import Deadline
    from lambda_migrate.migrations import Manifest

__all__ = ["HOLD_BACK_AT", "MODE", "NAMES", "PAUSED", "FlagSource", "Flags"]

MODE = "lambda_migrate_mode"
HOLD_BACK_AT = "lambda_migrate_hold_back_at"
PAUSED = "lambda_migrate_paused"
NAMES = (MODE, HOLD_BACK_AT, PAUSED)


@dataclass(frozen=True, slots=True)
class Flags:
    """What the flags say for one target, environment and function.

    Attributes:
        mode: ``migrate``; ``require`` waits for others; ``off`` serves without a check.
        hold_back_at: Nothing above this version is applied; 0 holds nothing back.
        paused: Nothing at all is applied.
    """

    mode: str = "migrate"
    hold_back_at: int = 0
    paused: bool = False

    def refusal_reason(self, version: int) -> str:
        """Why ``version`` may not be applied now, naming the flag; empty if it may."""
        if self.paused:
            return f"migrating is paused by the feature flag {PAUSED}"
        if self.mode != "migrate":
            return f"the feature flag {MODE} says {self.mode}"
        if 0 < self.hold_back_at < version:
            return (
                f"the feature flag {HOLD_BACK_AT} holds everything above version "
                f"{self.hold_back_at} back"
            )
        return ""

    def limit(self, manifest: Manifest) -> Manifest:
        """The part of ``manifest`` that is not held back."""
        if not 0 < self.hold_back_at < manifest.version:
            return manifest
        return manifest.up_to(self.hold_back_at)


class FlagSource(Protocol):
    """Where the flags are kept: `appconfig` has the real one, `testing` a fake."""

    def read(self, deadline: Deadline) -> Flags:
        """The flags as they are, or were some seconds ago.

        Args:
            deadline: Has come back, or raised, by then.

        Raises:
            FlagsUnavailable: They could not be read, or are no flags of ours.
        """
