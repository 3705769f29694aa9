"""One invocation of the command line: its options, settings, terminal and progress."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lambda_migrate._version import __version__
from lambda_migrate.cli.progress import ProgressReporter
from lambda_migrate.cli.render import render_question
from lambda_migrate.cli.terminal import Format, Terminal, format_json
from lambda_migrate.clock import SYSTEM_CLOCK, Deadline
from lambda_migrate.commands.context import CommandContext
from lambda_migrate.commands.prompt import Question
from lambda_migrate.commands.registry import COMMANDS
from lambda_migrate.commands.request import CommandRequest
from lambda_migrate.commands.result import EXIT_FAILED, CommandResult
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import RenderableType

    from lambda_migrate.clock import Clock

__all__ = [
    "DEFAULT_TIMEOUT_SECONDS",
    "TRACEBACK_VARIABLE",
    "CommandInvocation",
    "CommonOptions",
    "FunctionError",
    "check_common_options",
]

DEFAULT_TIMEOUT_SECONDS = 3600


TRACEBACK_VARIABLE = "LAMBDA_MIGRATE_TRACEBACK"
"""Turns tracebacks on; it belongs to the command line, not to the library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """The options that several commands share; None: not given."""

    function: str | None = None
    format: str = Format.TABLE.value
    quiet: bool = False
    target: str | None = None
    table: str | None = None
    database_url: str | None = field(default=None, repr=False)
    directory: str | None = None
    environment: str | None = None
    schema: str | None = None
    timeout: float = DEFAULT_TIMEOUT_SECONDS

    @property
    def settings(self) -> dict[str, object]:
        """Those that are settings of the library."""
        names = ("target", "table", "database_url", "directory", "environment", "schema")
        return {name: getattr(self, name) for name in names}


class FunctionError(Exception):
    """The admin function returned an error.

    Attributes:
        document: See `build_error_document`.
        exit_code: The exit code of the command.
    """

    def __init__(self, document: dict[str, Any], exit_code: int) -> None:
        self.document = document
        self.exit_code = exit_code
        super().__init__(str(document.get("message", "")))


class CommandInvocation:
    """One command with its options; also the `Prompter` of that command.

    Args:
        options: The common options.
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
        self.terminal = Terminal(Format(options.format), is_quiet=options.quiet)
        self.clock = clock
        self.deadline = Deadline.after(options.timeout, clock)
        self.reporter = ProgressReporter(self.terminal)
        self.yes = False
        """Whether ``--yes`` was given."""
        self._environ = os.environ if environ is None else environ

    @cached_property
    def settings(self) -> Settings:
        """Options, then variables, then defaults."""
        return Settings.load(self._environ, **self.options.settings)

    def _make_context(self, *, is_write: bool) -> CommandContext:
        """What the command works on."""
        return CommandContext(
            self.settings,
            self.deadline,
            self._environ,
            prompter=self,
            observer=self.reporter,
            clock=self.clock,
            is_write=is_write,
        )

    # --- the prompter

    def confirm(self, question: Question) -> bool:
        """See `Prompter.confirm`."""
        renderable = render_question(question, now_ms=self.clock.wall_ms())
        confirmed = self.terminal.confirm(
            question.text,
            yes=self.yes,
            renderable=renderable,
            required_word=question.required_word,
            option=question.option,
        )
        if confirmed and question.command == "down" and self.options.function is None:
            self.reporter.start_rollback([each["name"] for each in question.migrations])
        return confirmed

    def report_waiting(self, reason: str, *, seconds: float) -> None:
        """See `Prompter.report_waiting`."""
        self.reporter.show_waiting(reason, seconds=seconds)

    def notify(self, text: str) -> None:
        """See `Prompter.notify`."""
        if not self.options.quiet:
            self.terminal.notify(text)

    # --- running

    def run_command(self, command: str, options: Mapping[str, object]) -> CommandResult:
        """Run a command here, or in the admin function.

        Args:
            command: See `COMMANDS`.
            options: By their names in the registry; None and False count as not given.

        Raises:
            FunctionError: The function returned an error.
            MigrateError: The command failed here.
        """
        request = CommandRequest(
            command=COMMANDS[command],
            options={k: v for k, v in options.items() if v is not None and v is not False},
            request_id=str(uuid.uuid4()),
            confirmation=self.yes,
        )
        if self.options.function is not None:
            return self._run_in_function(self.options.function, request)
        context = self._make_context(is_write=request.is_write)
        return request.command.run(context, **request.call_arguments)

    def _run_in_function(self, function: str, request: CommandRequest) -> CommandResult:
        from lambda_migrate.cli.remote import RemoteFunction, make_client

        remote = RemoteFunction(
            function,
            self.deadline,
            client=make_client,
            clock=self.clock,
            on_wait=lambda reason, seconds: self.reporter.show_waiting(reason, seconds=seconds),
        )
        with self.reporter.show_waiting_for(function, request.command.name):
            response = remote.run(request)
        question = response.get("error", {}).get("question")
        if question is not None:
            question = Question(**question)
            if not self.confirm(question):
                return CommandResult({**question.location, "confirmed": False}, EXIT_FAILED)
            confirmation = str(response["error"]["confirmation"])
            request = replace(request, confirmation=confirmation, request_id=str(uuid.uuid4()))
            with self.reporter.show_waiting_for(function, request.command.name):
                response = remote.run(request)
        self._show_notes(function, response)
        if "error" in response:
            raise FunctionError(response["error"], response["exit_code"])
        return CommandResult(response["document"], response["exit_code"])

    def _show_notes(self, function: str, response: Mapping[str, Any]) -> None:
        """Show what the response has besides its document."""
        self.reporter.show_remote_progress(response.get("progress", ()))
        body = response.get("document", response.get("error", {}))
        self.reporter.show_remote_notices(body.get("notices", ()))
        library = response.get("library")
        if library != __version__:
            self.notify(
                f"{function} runs lambda-migrate {library}; this command line is version "
                f"{__version__}"
            )
        left_out = body.get("abridged")
        if left_out:
            parts = ", ".join(f"{count} of {name}" for name, count in left_out.items())
            self.notify(f"the response was too long for Lambda and was cut; left out: {parts}")

    def show_result(
        self,
        result: CommandResult,
        view: Callable[[dict[str, Any]], Sequence[RenderableType]],
        *,
        is_report: bool,
    ) -> int:
        """Show a result, as JSON or rendered by ``view``, and return its exit code.

        Args:
            result: The result.
            view: Renders its document.
            is_report: Whether the command was run to show it; ``--quiet`` hides any other.
        """
        document = result.document
        self.reporter.close()
        if self.terminal.is_json:
            self.terminal.show_result(document)
        elif self.options.quiet and not is_report:
            return result.exit_code
        elif result.was_declined:
            self.terminal.show_result(document, "nothing was changed")
        else:
            self.terminal.show_result(document, *self._render(document, view))
        return result.exit_code

    def _render(
        self,
        document: dict[str, Any],
        view: Callable[[dict[str, Any]], Sequence[RenderableType]],
    ) -> Sequence[RenderableType]:
        try:
            return view(document)
        except (KeyError, TypeError):
            if self.options.function is None:
                raise
            # The function runs another version of the library: show its document as it is.
            return [format_json(document).rstrip("\n")]


def check_common_options(options: CommonOptions, *, command: str) -> None:
    """Check the common options, alone and together with ``--function``.

    Raises:
        ConfigurationError: The timeout is no time; the command runs only here; or an option belongs
            to the function's own settings.
    """
    if not 0 < options.timeout < float("inf"):
        raise ConfigurationError(
            f"--timeout {options.timeout:g}: write a number of seconds above 0"
        )
    if options.function is None:
        return
    if not options.function.strip():
        raise ConfigurationError("--function is empty: write NAME or NAME:ALIAS")
    if command not in COMMANDS:
        raise ConfigurationError(f"`{command}` runs on this machine: remove --function")
    given = [name for name, value in options.settings.items() if value is not None]
    if command == "repair":
        given = [name for name in given if name != "environment"]
    if given:
        raise ConfigurationError(
            f"--{name.replace('_', '-')}: the function uses its own settings; remove this option "
            "or --function"
            for name in given
        )
