"""The result of a command: a JSON document and an exit code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "EXIT_BUSY",
    "EXIT_DONE",
    "EXIT_FAILED",
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
        """Whether the user answered the command's question with no, so that nothing changed."""
        return self.document.get("confirmed") is False
