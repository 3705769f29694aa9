"""Feature flags that restrict migrating, and the port through which they are read.

They are read only when a migration is pending. They can restrict what the settings allow, and add
nothing to it: a function in mode ``require`` or ``off`` never reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lambda_migrate.clock import Deadline
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.migrations.version import Version

__all__ = ["FLAG_NAMES", "HOLD_BACK_AT", "MODE", "PAUSED", "FlagSource", "Flags"]

MODE = "lambda_migrate_mode"
HOLD_BACK_AT = "lambda_migrate_hold_back_at"
PAUSED = "lambda_migrate_paused"
FLAG_NAMES = (MODE, HOLD_BACK_AT, PAUSED)


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags' values for one target, environment and function.

    Attributes:
        mode: ``migrate``; ``require`` waits for others; ``off`` serves without a check.
        hold_back_at: The highest version that may be applied; 0 for no limit.
        paused: No migration may be applied.
    """

    mode: str = "migrate"
    hold_back_at: Version = 0
    paused: bool = False

    def refusal_reason(self, version: Version) -> str:
        """Why ``version`` may not be applied now, naming the flag; empty if it may.

        Args:
            version: The version of a pending migration.
        """
        if self.paused:
            return f"migrating is paused by the feature flag {PAUSED}"
        if self.mode != "migrate":
            return f"the feature flag {MODE} is {self.mode}"
        if 0 < self.hold_back_at < version:
            return (
                f"the feature flag {HOLD_BACK_AT} holds back everything above version "
                f"{self.hold_back_at}"
            )
        return ""

    def limit_manifest(self, manifest: Manifest) -> Manifest:
        """The part of ``manifest`` that is not held back.

        Args:
            manifest: The migrations that the code ships.
        """
        if not 0 < self.hold_back_at < manifest.version:
            return manifest
        return manifest.up_to(self.hold_back_at)


class FlagSource(Protocol):
    """Reads the feature flags; `InMemoryFlags` is one for tests."""

    def read(self, deadline: Deadline) -> Flags:
        """Return the flags as they are now, or were some seconds ago.

        Args:
            deadline: When it has to have returned or raised.

        Raises:
            FlagsUnavailable: The flags could not be read, or have an unknown format.
        """
