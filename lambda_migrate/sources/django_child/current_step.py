"""The migration that is running, as its statements, errors and fence see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["CurrentStep"]


@dataclass
class CurrentStep:
    """The migration that is running.

    Attributes:
        id: Its id in the mirror.
        state: The state of its row meanwhile.
        connection: The connection that it migrates; another thread has its own.
        earlier_log: The log that an interrupted run has left, to be matched.
        began_at: When it began.
        commits_in_parts: Whether each statement is logged, because each may be committed by itself.
        is_recorded: Whether Django is recording it; that is not logged.
        matched_count: How many entries of ``earlier_log`` have been matched.
        is_partly_committed: Whether it has failed after it had committed a part.
    """

    id: str
    state: str
    connection: Any
    earlier_log: list[str]
    began_at: float
    commits_in_parts: bool = False
    is_recorded: bool = False
    matched_count: int = 0
    is_partly_committed: bool = False
