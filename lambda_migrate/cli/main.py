"""From arguments to an exit code; the one place that reports what went wrong."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from lambda_migrate.cli.app import COMMON, CURRENT, app
from lambda_migrate.cli.errors import told
from lambda_migrate.cli.invocation import TRACEBACK, AnsweredError
from lambda_migrate.cli.signals import Interrupted, interruptible
from lambda_migrate.cli.terminal import Format, Terminal, written
from lambda_migrate.commands.errors import error_of, exit_code_of, failure_document
from lambda_migrate.commands.result import FAILED, WRONG
from lambda_migrate.errors import MigrateError, MigrationFailed
from lambda_migrate.migrations.sql.excerpt import redact

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

_INTERRUPTED = 130

_UsageError: Any = typer.BadParameter.__mro__[1]
"""click's own, or the one of the click inside newer versions of Typer."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    CURRENT.clear()
    arguments = _with_environment(list(arguments))
    terminal = Terminal(_format_of(arguments))
    try:
        with interruptible():
            answer = typer.main.get_command(app).main(
                arguments, prog_name="lambda-migrate", standalone_mode=False
            )
    except MigrateError as error:
        return _fail(
            terminal,
            failure_document(error),
            told(error, committed=_committed(), width=terminal.err.width),
            code=exit_code_of(error),
        )
    except AnsweredError as answered:
        return _answered(terminal, answered)
    except _UsageError as error:
        return _misused(terminal, error)
    except Interrupted as interrupted:
        return _interrupted(terminal, interrupted.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(terminal, _INTERRUPTED)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        return _surprised(terminal, error)
    return answer if isinstance(answer, int) else 0


def _answered(terminal: Terminal, answered: AnsweredError) -> int:
    """A function's error, shown as one from here."""
    document = answered.document
    committed = [str(name) for name in document.get("committed", ())]
    error = error_of(document)
    shown = told(error, committed=committed, width=terminal.err.width)
    if committed and not isinstance(error, MigrationFailed):
        shown.append(Text(f"committed before: {', '.join(committed[-3:])}"))
    return _fail(terminal, document, shown, code=answered.exit_code, committed=committed)


def _committed() -> list[str]:
    return CURRENT[0].reporter.done if CURRENT else []


def _with_environment(arguments: list[str]) -> list[str]:
    """``repair --environment`` without a name means the one that the variable holds."""
    command = [each for each in _without_function(arguments) if not each.startswith("-")]
    if command[:1] != ["repair"] or "--environment" not in arguments:
        return arguments
    at = arguments.index("--environment") + 1
    if at < len(arguments) and not arguments[at].startswith("-"):
        return arguments
    # A function has a variable of its own.
    is_here = len(_without_function(arguments)) == len(arguments)
    name = os.environ.get("LAMBDA_MIGRATE_ENVIRONMENT", "") if is_here else ""
    return [*arguments[:at], name, *arguments[at:]]


def _without_function(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    before = ""
    for each in arguments:
        if each != "--function" and not each.startswith("--function=") and before != "--function":
            kept.append(each)
        before = each
    return kept


def _format_of(arguments: Sequence[str]) -> Format:
    """What was asked for, known even where the options could not be read."""
    for option, value in zip(arguments, [*arguments[1:], ""], strict=False):
        if (option, value) == ("--format", "json") or option == "--format=json":
            return Format.JSON
    return Format.TABLE


def _fail(
    terminal: Terminal,
    error: dict[str, Any],
    shown: Sequence[Any],
    *,
    code: int,
    committed: list[str] | None = None,
) -> int:
    if terminal.is_json:
        committed = _committed() if committed is None else committed
        document = {"error": {**error, "exit_code": code, "committed": committed}}
        sys.stdout.write(written(document))
    else:
        terminal.note(*shown)
    return code


def _misused(terminal: Terminal, error: Any) -> int:
    """Whatever was typed may hold a connection string."""
    context = error.ctx
    command = context.command_path if context is not None else "lambda-migrate"
    message = redact(error.format_message())
    if message.startswith("Usage:") and not terminal.is_json:  # no command: the help itself
        sys.stderr.write(message + "\n")
        return WRONG
    option = str(getattr(error, "option_name", "") or "")
    if command == "lambda-migrate" and option.lstrip("-").replace("-", "_") in COMMON:
        message += f" Write {option} after the command."
    shown = [Text(message, style="bold red"), f"see `{command} --help`"]
    document = {"kind": "UsageError", "message": message, "retryable": False}
    return _fail(terminal, document, shown, code=WRONG)


def _interrupted(terminal: Terminal, code: int) -> int:
    message = "interrupted"
    if CURRENT and CURRENT[0].reporter.asked:
        function = CURRENT[0].reporter.asked
        message += f" here; {function} goes on: see `status` and `lease show` with --function"
    elif CURRENT and CURRENT[0].reporter.has_begun:
        message += ": the lease is free, and what was not committed is undone"
    if _committed():
        message += f"; committed before: {', '.join(_committed()[-3:])}"
    document = {"kind": "Interrupted", "message": message, "retryable": True}
    return _fail(terminal, document, [Text(message, style="bold red")], code=code)


def _surprised(terminal: Terminal, error: Exception) -> int:
    """Only its type: the text of an error that nobody foresaw may hold anything."""
    kind = type(error).__name__
    message = (
        f"this should not happen: {type(error).__module__}.{kind}; set {TRACEBACK}=1 for the "
        "traceback, and please report it"
    )
    document = {"kind": kind, "message": message, "retryable": False}
    return _fail(terminal, document, [Text(message, style="bold red")], code=FAILED)
