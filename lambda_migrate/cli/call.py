"""One call of the command line: its common options, its settings, and the parts made from them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from lambda_migrate.cli.progress import Reporter
from lambda_migrate.cli.render import question_view
from lambda_migrate.cli.terminal import Format, Terminal
from lambda_migrate.deadline import SYSTEM_CLOCK, Deadline
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.settings import Settings
from lambda_migrate.verbs.site import Site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from lambda_migrate.deadline import Clock
    from lambda_migrate.verbs.answer import Answer
    from lambda_migrate.verbs.attendant import Question

__all__ = ["TRACEBACK", "Call", "CommonOptions"]

TRACEBACK = "LAMBDA_MIGRATE_TRACEBACK"
"""The variable that asks for a traceback; it belongs to the command line, not to the library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """What every command takes; None stands for "not given"."""

    format: Format = Format.TABLE
    target: str | None = None
    table: str | None = None
    database_url: str | None = field(default=None, repr=False)
    directory: str | None = None
    environment: str | None = None
    schema: str | None = None
    timeout: float = 3600.0

    @property
    def settings(self) -> dict[str, object]:
        """Those that are settings of the library."""
        names = ("target", "table", "database_url", "directory", "environment", "schema")
        return {name: getattr(self, name) for name in names}


class Call:
    """One command at work, and the person who gave it, as its `Attendant`.

    Args:
        options: As given.
        environ: Where settings are read.
        clock: Time.
    """

    def __init__(
        self,
        options: CommonOptions,
        *,
        environ: Mapping[str, str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.options = options
        self.terminal = Terminal(options.format)
        self.clock = clock
        self.deadline = Deadline.after(options.timeout, clock)
        self.reporter = Reporter(self.terminal)
        self.yes = False
        """Whether every question was answered on the command line."""
        self._environ = os.environ if environ is None else environ

    @cached_property
    def settings(self) -> Settings:
        """Options, then variables, then defaults."""
        return Settings.load(self._environ, **self.options.settings)

    @cached_property
    def site(self) -> Site:
        """What the verbs work on."""
        return Site(
            self.settings,
            self.deadline,
            self._environ,
            attendant=self,
            observer=self.reporter,
            clock=self.clock,
        )

    # --- the attendant

    def confirm(self, question: Question) -> bool:
        """See `Attendant.confirm`."""
        shown = question_view(question, now_ms=self.clock.wall_ms())
        agreed = self.terminal.confirm(question.ask, yes=self.yes, shown=shown)
        if agreed and question.verb == "down":
            self.reporter.expect([each["name"] for each in question.migrations])
        return agreed

    def wait(self, reason: str, *, seconds: float) -> None:
        """See `Attendant.wait`."""
        self.reporter.wait(reason, seconds=seconds)

    def note(self, text: str) -> None:
        """See `Attendant.note`."""
        self.terminal.note(text)

    def answer(self, answer: Answer, *shown: RenderableType) -> int:
        """Show an answer: its document as JSON, or ``shown`` for a person; and its exit code."""
        self.terminal.answer(
            answer.document, *(["nothing was changed"] if answer.was_refused else shown)
        )
        return answer.exit_code


def require_positive(timeout: float) -> float:
    """Check ``--timeout``.

    Raises:
        ConfigurationError: It is not a number of seconds above 0.
    """
    if not 0 < timeout < float("inf"):
        raise ConfigurationError(f"--timeout {timeout:g}: write a number of seconds above 0")
    return timeout
