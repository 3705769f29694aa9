"""What a command answers: a document, and the exit code that goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["BUSY", "DONE", "FAILED", "PENDING", "WRONG", "Answer"]

DONE = 0
FAILED = 1
WRONG = 2
"""Wrong usage or configuration: the same command fails again until it, or a setting, is mended."""
PENDING = 3
BUSY = 4
"""Somebody else holds the lease: the same command may succeed later."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a command that did what it was told.

    Attributes:
        document: Fit for JSON; its shape is promised in ``docs/command-line.md``.
        exit_code: `DONE`, `FAILED` or `PENDING`.
    """

    document: dict[str, Any]
    exit_code: int = DONE

    @property
    def was_refused(self) -> bool:
        """Whether somebody was asked and said no; nothing was changed then."""
        return self.document.get("confirmed") is False
