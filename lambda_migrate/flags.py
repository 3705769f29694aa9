"""What feature flags may say of migrating, the port that they are read through, and what it means.

They are asked when there is something to migrate, and only then. They can take from what the
settings allow and add nothing to it: a function in mode ``require`` or ``off`` never asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from lambda_migrate.errors import FlagsUnavailable, NotReady
from lambda_migrate.events import FlagsIgnored
from lambda_migrate.values import dataclass

if TYPE_CHECKING:
    from lambda_migrate.deadline import Deadline
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.target import Target

__all__ = [
    "HOLD_BACK_AT",
    "MODE",
    "NAMES",
    "PAUSED",
    "FlagSource",
    "Flags",
    "flags_in_force",
    "held_back",
    "permit",
]

MODE = "lambda_migrate_mode"
HOLD_BACK_AT = "lambda_migrate_hold_back_at"
PAUSED = "lambda_migrate_paused"
NAMES = (MODE, HOLD_BACK_AT, PAUSED)

_RETRY_AFTER_SECONDS = 30.0
"""A person lifts a flag, and AppConfig's agent looks every 45 s: sooner is for nothing."""


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

    def objection(self, version: int) -> str:
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

    def allowed(self, manifest: Manifest) -> Manifest:
        """As much of ``manifest`` as is not held back."""
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


def flags_in_force(target: Target, deadline: Deadline) -> Flags:
    """What holds for ``target`` now.

    Raises:
        FlagsUnavailable: They cannot be read, and the policy says that this stops migrating.
    """
    if target.flags is None:
        return Flags()
    try:
        return target.flags.read(deadline)
    except FlagsUnavailable as error:
        if target.policy.stops_without_flags:
            raise
        target.observer.observe(FlagsIgnored(target.name, str(error)))
        return Flags()


def permit(
    target: Target, deadline: Deadline, *, version: int, what: str, advice: str = ""
) -> None:
    """Ask whether ``version`` may be applied now.

    Args:
        target: Whose flags.
        deadline: For asking.
        version: The highest that is about to be applied.
        what: What would begin, for the message.
        advice: What else could be done, as the end of the message.

    Raises:
        NotReady: It may not, by the flag that the message names.
    """
    objection = flags_in_force(target, deadline).objection(version)
    if objection:
        raise held_back(f"{what} was not begun: {objection}{advice}")


def held_back(message: str) -> NotReady:
    """The error of whoever a flag stops."""
    return NotReady(message, retry_after_seconds=_RETRY_AFTER_SECONDS)
