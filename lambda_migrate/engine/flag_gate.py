"""Whether the feature flags let a migration begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.errors import FlagsUnavailable, NotReady
from lambda_migrate.events import FlagsIgnored

if TYPE_CHECKING:
    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.target import Target
from lambda_migrate.engine.flags import Flags

__all__ = ["check_flags", "make_flag_error", "read_flags"]


_RETRY_AFTER_SECONDS = 30.0
"""A person lifts a flag, and AppConfig's agent looks every 45 s: sooner is for nothing."""


def read_flags(target: Target, deadline: Deadline) -> Flags:
    """What holds for ``target`` now.

    Raises:
        FlagsUnavailable: They cannot be read, and the policy says that this stops migrating.
    """
    if target.flags is None:
        return Flags()
    try:
        return target.flags.read(deadline)
    except FlagsUnavailable as error:
        if target.policy.require_flags:
            raise
        target.observer.observe(FlagsIgnored(target.name, str(error)))
        return Flags()


def check_flags(
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
    refusal_reason = read_flags(target, deadline).refusal_reason(version)
    if refusal_reason:
        raise make_flag_error(f"{what} was not started: {refusal_reason}{advice}")


def make_flag_error(message: str) -> NotReady:
    """The error of whoever a flag stops."""
    return NotReady(message, retry_after_seconds=_RETRY_AFTER_SECONDS)
