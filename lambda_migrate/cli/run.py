"""Runs the command line and reports every error, as text or as JSON, with its exit code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from lambda_migrate.cli.app import COMMON_OPTIONS, CURRENT_INVOCATION, HELP, app
from lambda_migrate.cli.env_file import load_env_files
from lambda_migrate.cli.errors import render_error
from lambda_migrate.cli.invocation import TRACEBACK_VARIABLE, FunctionError
from lambda_migrate.cli.output import escape_unencodable_output
from lambda_migrate.cli.signals import Interrupted, raise_on_signals
from lambda_migrate.cli.terminal import Format, Terminal, format_json
from lambda_migrate.commands.errors import (
    build_error_document,
    get_exit_code,
    parse_error_document,
)
from lambda_migrate.commands.result import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE_ERROR,
)
from lambda_migrate.errors import MigrateError, MigrationFailed
from lambda_migrate.migrations.sql.excerpt import redact

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

_UsageError: Any = typer.BadParameter.__mro__[1]
"""click's UsageError; newer versions of Typer contain a click of their own."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    with escape_unencodable_output() as output:
        code = _run(arguments)
        output.flush()
        if output.fault:
            sys.stderr.write(f"error: cannot write to standard output: {output.fault}\n")
        return code or (EXIT_FAILED if output.fault else EXIT_DONE)


def _run(arguments: Sequence[str]) -> int:
    CURRENT_INVOCATION.clear()
    terminal = Terminal(_find_format(arguments))
    try:
        arguments = load_env_files(arguments)
        if region := os.environ.get("AWS_REGION"):  # boto3 alone of AWS's tools does not read it
            os.environ.setdefault("AWS_DEFAULT_REGION", region)
        arguments = _add_environment_name(arguments)
        with raise_on_signals():
            code = typer.main.get_command(app).main(
                arguments, prog_name="lambda-migrate", standalone_mode=False
            )
    except MigrateError as error:
        return _report(
            terminal,
            build_error_document(error),
            render_error(
                error,
                committed_migrations=_get_committed_migrations(),
                width=terminal.err.width,
                command=_find_command(arguments),
                function=_get_function(),
            ),
            code=get_exit_code(error),
        )
    except FunctionError as error:
        return _report_function_error(terminal, error, command=_find_command(arguments))
    except _UsageError as error:
        return _report_usage_error(terminal, error, command=_find_command(arguments))
    except Interrupted as interrupted:
        return _report_interruption(terminal, interrupted.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _report_interruption(terminal, EXIT_INTERRUPTED)
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        return _report_unexpected_error(terminal, error)
    return code if isinstance(code, int) else 0


def _report_function_error(terminal: Terminal, error: FunctionError, *, command: str) -> int:
    """Report an error that the admin function returned like one from here."""
    document = error.document
    committed_migrations = [str(name) for name in document.get("committed", ())]
    parsed = parse_error_document(document)
    renderables = render_error(
        parsed,
        committed_migrations=committed_migrations,
        width=terminal.err.width,
        command=command,
        function=_get_function(),
    )
    if committed_migrations and not isinstance(parsed, MigrationFailed):
        renderables.append(Text(_format_committed_migrations(committed_migrations)))
    return _report(
        terminal,
        document,
        renderables,
        code=error.exit_code,
        committed_migrations=committed_migrations,
    )


def _get_committed_migrations() -> list[str]:
    return CURRENT_INVOCATION[0].reporter.committed_migrations if CURRENT_INVOCATION else []


def _get_function() -> str | None:
    return CURRENT_INVOCATION[0].options.function if CURRENT_INVOCATION else None


def _format_committed_migrations(names: Sequence[str]) -> str:
    return f"committed before: {', '.join(names[-3:])}"


def _add_environment_name(arguments: list[str]) -> list[str]:
    """Let ``repair --environment`` without a name mean the name in the environment variable."""
    if _find_command(arguments) != "repair" or "--environment" not in arguments:
        return arguments
    at = arguments.index("--environment") + 1
    if at < len(arguments) and not arguments[at].startswith("-"):
        return arguments
    # With --function, it is the variable of the function that counts.
    is_local = len(_remove_function_option(arguments)) == len(arguments)
    name = os.environ.get("LAMBDA_MIGRATE_ENVIRONMENT", "") if is_local else ""
    return [*arguments[:at], name, *arguments[at:]]


def _remove_function_option(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    before = ""
    for each in arguments:
        if each != "--function" and not each.startswith("--function=") and before != "--function":
            kept.append(each)
        before = each
    return kept


def _find_format(arguments: Sequence[str]) -> Format:
    """Find ``--format`` even if the other options are wrong."""
    for option, value in zip(arguments, [*arguments[1:], ""], strict=False):
        if (option, value) == ("--format", "json") or option == "--format=json":
            return Format.JSON
    return Format.TABLE


def _report(
    terminal: Terminal,
    error: dict[str, Any],
    renderables: Sequence[Any],
    *,
    code: int,
    committed_migrations: list[str] | None = None,
) -> int:
    if terminal.is_json:
        if committed_migrations is None:
            committed_migrations = _get_committed_migrations()
        notices = CURRENT_INVOCATION[0].reporter.notices if CURRENT_INVOCATION else []
        committed = {"committed": committed_migrations}
        document = {"error": {"notices": notices, **error, "exit_code": code, **committed}}
        sys.stdout.write(format_json(document, encoding=terminal.out.encoding))
    else:
        terminal.notify(*renderables)
    return code


def _report_usage_error(terminal: Terminal, error: Any, *, command: str) -> int:
    """Report wrong usage; what was typed may contain a connection string."""
    message = redact(error.format_message())
    for text, replacement in _PLAIN_TEXTS.items():
        message = message.replace(text, replacement)
    if message.startswith("Usage:") and not terminal.is_json:  # no command: this is the help
        sys.stderr.write(message + "\n")
        return EXIT_USAGE_ERROR
    option = str(getattr(error, "option_name", "") or "")
    if not command and option.lstrip("-").replace("-", "_") in COMMON_OPTIONS:
        message = f"{message.rstrip('.')}. Write {option} after the command."
    see = " ".join(part for part in ("lambda-migrate", command, "--help") if part)
    renderables = [Text(message, style="bold red"), f"see `{see}`"]
    document = {"kind": "UsageError", "message": message, "retryable": False}
    return _report(terminal, document, renderables, code=EXIT_USAGE_ERROR)


_PLAIN_TEXTS = {
    "Value error, ": "",
    "Input should be a valid number, unable to parse string as a number": "write a number",
    "Input should be a valid integer, unable to parse string as an integer": "write a whole number",
}
"""What Typer says in the words of a library that it uses."""


def _find_command(arguments: Sequence[str]) -> str:
    """The command or group that the arguments name; "" if there is none."""
    words = [each for each in _remove_function_option(arguments) if not each.startswith("-")]
    names = (" ".join(words[:count]) for count in (2, 1))
    return next((name for name in names if name in HELP), "")


def _report_interruption(terminal: Terminal, code: int) -> int:
    message = "interrupted"
    reporter = CURRENT_INVOCATION[0].reporter if CURRENT_INVOCATION else None
    if reporter and reporter.running_function:
        function = reporter.running_function
        message += (
            f" here; {function} is still running the command: check `status` and `lease show` "
            "with --function"
        )
    elif reporter and reporter.has_started:
        message += ": the lease is released, and uncommitted changes are rolled back"
    if _get_committed_migrations():
        message += f"; {_format_committed_migrations(_get_committed_migrations())}"
    document = {"kind": "Interrupted", "message": message, "retryable": True}
    return _report(terminal, document, [Text(message, style="bold red")], code=code)


def _report_unexpected_error(terminal: Terminal, error: Exception) -> int:
    """Report only the type of an unexpected error; its text may contain secrets."""
    kind = type(error).__name__
    message = (
        f"unexpected error {type(error).__module__}.{kind}: run the command again with "
        f"{TRACEBACK_VARIABLE}=1 for the traceback, and please report it"
    )
    document = {"kind": kind, "message": message, "retryable": False}
    return _report(terminal, document, [Text(message, style="bold red")], code=EXIT_FAILED)
