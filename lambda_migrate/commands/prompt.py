"""How a running command reaches the user: questions, progress while waiting, and notes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lambda_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NonInteractivePrompter", "Prompter", "Question"]


@dataclass(frozen=True, slots=True)
class Question:
    """A yes-or-no question that a command asks before it changes anything.

    Attributes:
        command: The command that asks: ``down``, ``baseline``, ``repair``, ``lease release``,
            ``plan --dry-run``.
        text: The question itself.
        heading: What the command is about to do, as a sentence.
        location: The target and its database, as in the command's result.
        migrations: ``name`` and ``applied_at`` (or None) of each migration concerned, in order.
        compared: Each version in another tool's history and here; see `ComparedVersion`.
        lease: The lease concerned, from `build_lease_document`; None if there is none.
        notes: Sentences to read before answering.
        required_word: What the user has to type instead of "y". ``--yes`` does not answer such a
            question.
        option: The option that answers the question in advance.
    """

    command: str
    text: str
    heading: str
    location: dict[str, str]
    migrations: Sequence[dict[str, Any]] = ()
    compared: Sequence[dict[str, Any]] = ()
    lease: dict[str, Any] | None = None
    notes: Sequence[str] = ()
    required_word: str = ""
    option: str = ""


class Prompter(Protocol):
    """The port to the user who runs a command."""

    def confirm(self, question: Question) -> bool:
        """Ask before the command changes anything.

        Raises:
            ConfigurationError: There is no way to ask.
        """

    def report_waiting(self, reason: str, *, seconds: float) -> None:
        """Report, repeatedly, that the command has waited ``seconds`` for another process."""

    def notify(self, text: str) -> None:
        """Show a note that is not part of the result."""


class NonInteractivePrompter:
    """A prompter without a user: questions have to be answered in advance.

    Args:
        yes: Whether to confirm questions that ``--yes`` can answer.
    """

    def __init__(self, *, yes: bool = False) -> None:
        self._yes = yes

    def confirm(self, question: Question) -> bool:
        """See `Prompter.confirm`."""
        missing = question.option if question.required_word else "" if self._yes else "yes"
        if missing:
            raise ConfigurationError(
                f"{question.text} There is no terminal to answer on: pass `{missing}` to confirm"
            )
        return True

    def report_waiting(self, reason: str, *, seconds: float) -> None:
        """See `Prompter.report_waiting`."""

    def notify(self, text: str) -> None:
        """See `Prompter.notify`."""
