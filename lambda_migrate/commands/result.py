"""The result of a command: a JSON document and an exit code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "EXIT_BUSY",
    "EXIT_CODES",
    "EXIT_DONE",
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_PENDING",
    "EXIT_USAGE_ERROR",
    "CommandResult",
]

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE_ERROR = 2
"""Wrong usage or configuration: the command fails until it, or a setting, is corrected."""
EXIT_PENDING = 3
EXIT_BUSY = 4
"""Another process holds the lease: the same command may succeed later."""
EXIT_INTERRUPTED = 130
"""By Ctrl-C; another signal has 128 plus its number."""

EXIT_CODES = {
    EXIT_DONE: "done",
    EXIT_FAILED: (
        "failed: a migration, a connection or a check of `doctor`; `plan` or `verify` found a "
        "contradiction; or you declined a confirmation"
    ),
    EXIT_USAGE_ERROR: (
        "wrong usage or configuration: correct the command or a setting before you run it again"
    ),
    EXIT_PENDING: "`status --exit-code`: migrations are pending or diverged",
    EXIT_BUSY: (
        "busy: another process holds the lease, or the function is still running the command; run "
        "the command again later (`up` can wait: `up --wait`)"
    ),
    EXIT_INTERRUPTED: "interrupted by Ctrl-C; 143 by SIGTERM, 129 if the terminal was closed",
}
"""What each code means, as ``--help`` and the reference page say it."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of a command that ran to its end.

    Attributes:
        document: JSON-serializable; its shape is documented in
            ``docs/reference/command-line.md``.
        exit_code: `EXIT_DONE`, `EXIT_FAILED` or `EXIT_PENDING`; that of the error for a dry run
            that failed.
    """

    document: dict[str, Any]
    exit_code: int = EXIT_DONE

    @property
    def was_declined(self) -> bool:
        """Whether the user declined the confirmation, so that nothing changed."""
        return self.document.get("confirmed") is False
