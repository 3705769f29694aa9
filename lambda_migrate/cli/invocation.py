"""One call of the command line: its common options, its settings, and the parts made from them."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lambda_migrate._version import __version__
from lambda_migrate.cli.progress import Reporter
from lambda_migrate.cli.render import question_view
from lambda_migrate.cli.terminal import Format, Terminal, written
from lambda_migrate.clock import SYSTEM_CLOCK, Deadline
from lambda_migrate.commands.context import Site
from lambda_migrate.commands.prompt import Question
from lambda_migrate.commands.registry import COMMANDS
from lambda_migrate.commands.request import Errand
from lambda_migrate.commands.result import FAILED, Answer
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import RenderableType

    from lambda_migrate.clock import Clock

__all__ = ["TRACEBACK", "AnsweredError", "Call", "CommonOptions", "require_positive"]

TRACEBACK = "LAMBDA_MIGRATE_TRACEBACK"
"""The variable that asks for a traceback; it belongs to the command line, not to the library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """What every command takes; None stands for "not given"."""

    function: str | None = None
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


class AnsweredError(Exception):
    """The function answered with an error.

    Attributes:
        document: See `failure_document`.
        exit_code: What to exit with.
    """

    def __init__(self, document: dict[str, Any], exit_code: int) -> None:
        self.document = document
        self.exit_code = exit_code
        super().__init__(str(document.get("message", "")))


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
        agreed = self.terminal.confirm(
            question.ask, yes=self.yes, shown=shown, word=question.word, flag=question.flag
        )
        if agreed and question.verb == "down" and self.options.function is None:
            self.reporter.expect([each["name"] for each in question.migrations])
        return agreed

    def wait(self, reason: str, *, seconds: float) -> None:
        """See `Attendant.wait`."""
        self.reporter.wait(reason, seconds=seconds)

    def note(self, text: str) -> None:
        """See `Attendant.note`."""
        self.terminal.note(text)

    # --- running

    def do(self, command: str, **options: object) -> Answer:
        """Run a command here, or have the function run it.

        Args:
            command: See `COMMANDS`.
            **options: By their names on the command line; None and False count as absent.

        Raises:
            AnsweredError: The function answered with an error.
            MigrateError: What went wrong here.
        """
        errand = Errand(
            command=COMMANDS[command],
            options={k: v for k, v in options.items() if v is not None and v is not False},
            request=str(uuid.uuid4()),
            yes=self.yes,
        )
        if self.options.function is not None:
            return self._ask(self.options.function, errand)
        return errand.command.act(self.site, **errand.arguments)

    def _ask(self, function: str, errand: Errand) -> Answer:
        from lambda_migrate.cli.remote import RemoteFunction, make_client

        remote = RemoteFunction(
            function,
            self.deadline,
            client=make_client,
            clock=self.clock,
            on_wait=lambda reason, seconds: self.reporter.wait(reason, seconds=seconds),
        )
        with self.reporter.asking(function, errand.command.name):
            answer = remote.ask(errand)
        question = answer.get("error", {}).get("question")
        if question is not None:
            question = Question(**question)
            if not self.confirm(question):
                return Answer({**question.place, "confirmed": False}, FAILED)
            mark = str(answer["error"]["mark"])
            errand = replace(errand, yes=mark, request=str(uuid.uuid4()))
            with self.reporter.asking(function, errand.command.name):
                answer = remote.ask(errand)
        self._tell(function, answer)
        if "error" in answer:
            raise AnsweredError(answer["error"], answer["exit_code"])
        return Answer(answer["document"], answer["exit_code"])

    def _tell(self, function: str, answer: Mapping[str, Any]) -> None:
        """What a person should know besides the answer itself."""
        self.reporter.tell(answer.get("told", ()))
        library = answer.get("library")
        if library != __version__:
            self.note(f"{function} runs lambda-migrate {library}, this is {__version__}")
        left_out = answer.get("document", answer.get("error", {})).get("abridged")
        if left_out:
            parts = ", ".join(f"{count} of {name}" for name, count in left_out.items())
            self.note(f"the answer was too long for Lambda; left out: {parts}")

    def answer(
        self, answer: Answer, view: Callable[[dict[str, Any]], Sequence[RenderableType]]
    ) -> int:
        """Show an answer: its document as JSON, or its view for a person; and its exit code."""
        document = answer.document
        if self.terminal.is_json:
            self.terminal.answer(document)
        elif answer.was_refused:
            self.terminal.answer(document, "nothing was changed")
        else:
            self.terminal.answer(document, *self._view(document, view))
        return answer.exit_code

    def _view(
        self,
        document: dict[str, Any],
        view: Callable[[dict[str, Any]], Sequence[RenderableType]],
    ) -> Sequence[RenderableType]:
        try:
            return view(document)
        except (KeyError, TypeError):
            if self.options.function is None:
                raise
            # Another version's document: better as it is than not at all.
            return [written(document).rstrip("\n")]


def refuse_what_the_function_knows(options: CommonOptions, *, command: str) -> None:
    """Check the options that go along with ``--function``.

    Raises:
        ConfigurationError: Some say what only the function's own settings can say.
    """
    if options.function is None:
        return
    if not options.function.strip():
        raise ConfigurationError("--function names none: write NAME or NAME:ALIAS")
    if command not in COMMANDS:
        raise ConfigurationError(f"`{command}` does its work here: leave --function out")
    given = [name for name, value in options.settings.items() if value is not None]
    if command == "repair":
        given = [name for name in given if name != "environment"]
    if given:
        names = [f"--{name.replace('_', '-')}" for name in given]
        raise ConfigurationError(
            f"{name}: with --function it is the function's own settings that say so; leave it out"
            for name in names
        )


def require_positive(timeout: float) -> float:
    """Check ``--timeout``.

    Raises:
        ConfigurationError: It is not a number of seconds above 0.
    """
    if not 0 < timeout < float("inf"):
        raise ConfigurationError(f"--timeout {timeout:g}: write a number of seconds above 0")
    return timeout
