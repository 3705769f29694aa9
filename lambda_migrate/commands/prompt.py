"""Who is there while a verb works: to be asked, to be told, to be kept waiting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lambda_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Attendant", "Question", "Unattended"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is about to be destroyed or declared, to be answered with yes or no.

    Attributes:
        verb: The command that asks: ``down``, ``baseline``, ``repair``, ``lease release``, ``plan
            --execute``.
        ask: The question itself.
        heading: What the command is about to do, as a sentence.
        place: Where, as every answer of the command says it.
        migrations: ``name`` and ``applied_at`` (or None) of each one concerned, in order.
        compared: Each version in another tool's history and here, as `Compared` has it.
        lease: The lease concerned, as `lease_document` gives it, if it is one.
        notes: Sentences that should be read before it is answered.
        word: What has to be typed in place of "y"; a "yes" given beforehand does not answer it.
        flag: The option that says the same beforehand.
    """

    verb: str
    ask: str
    heading: str
    place: dict[str, str]
    migrations: Sequence[dict[str, Any]] = ()
    compared: Sequence[dict[str, Any]] = ()
    lease: dict[str, Any] | None = None
    notes: Sequence[str] = ()
    word: str = ""
    flag: str = ""


class Attendant(Protocol):
    """Whoever gave the command."""

    def confirm(self, question: Question) -> bool:
        """Ask before something is destroyed or declared.

        Raises:
            ConfigurationError: Nobody is there to be asked.
        """

    def wait(self, reason: str, *, seconds: float) -> None:
        """Told again and again while somebody else holds the lease, ``seconds`` so far."""

    def note(self, text: str) -> None:
        """Something to know that is not the answer."""


class Unattended:
    """Nobody to be asked: a pipeline, or a function.

    Args:
        yes: What to answer to every question.
    """

    def __init__(self, *, yes: bool = False) -> None:
        self._yes = yes

    def confirm(self, question: Question) -> bool:
        """See `Attendant.confirm`."""
        wanted = question.flag if question.word else "" if self._yes else "yes"
        if wanted:
            raise ConfigurationError(f"{question.ask} Nobody is here to say so: give `{wanted}`")
        return True

    def wait(self, reason: str, *, seconds: float) -> None:
        """See `Attendant.wait`."""

    def note(self, text: str) -> None:
        """See `Attendant.note`."""
