"""Whether the feature flags let a migration begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.errors import FlagsUnavailable, NotReady
from lambda_migrate.events import FlagsIgnored

if TYPE_CHECKING:
    from lambda_migrate.clock import Deadline
    from lambda_migrate.engine.target import Target
    from lambda_migrate.migrations.version import Version
from lambda_migrate.engine.flags import Flags

__all__ = ["check_flags", "make_flag_error", "read_flags"]


_RETRY_AFTER_SECONDS = 30.0
"""An operator changes a flag, and AppConfig's agent polls every 45 s: earlier is too early."""


def read_flags(target: Target, deadline: Deadline) -> Flags:
    """Read the flags of ``target``; all is allowed if it has none.

    Raises:
        FlagsUnavailable: They cannot be read, and the policy requires them.
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
    target: Target, deadline: Deadline, *, version: Version, operation: str, advice: str = ""
) -> None:
    """Check that the flags allow to apply ``version`` now.

    Args:
        target: The target with its flags.
        deadline: For reading them.
        version: The highest version that is about to be applied.
        operation: What would start, for the message.
        advice: What to do, as the end of the message.

    Raises:
        NotReady: They do not; the message names the flag.
    """
    refusal_reason = read_flags(target, deadline).refusal_reason(version)
    if refusal_reason:
        raise make_flag_error(f"{operation} was not started: {refusal_reason}{advice}")


def make_flag_error(message: str) -> NotReady:
    """The error of an attempt that a flag blocks."""
    return NotReady(message, retry_after_seconds=_RETRY_AFTER_SECONDS)
