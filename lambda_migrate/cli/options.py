"""The Typer app, and how commands are added to it with the common options."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lambda_migrate._version import __version__
from lambda_migrate.cli.help import HELP, CommandHelp, CommandWithHelp, GroupHelp, GroupWithHelp
from lambda_migrate.cli.invocation import (
    DEFAULT_TIMEOUT_SECONDS,
    CommandInvocation,
    CommonOptions,
    check_common_options,
)
from lambda_migrate.cli.terminal import Format
from lambda_migrate.commands.registry import COMMANDS, Option
from lambda_migrate.commands.result import (
    EXIT_BUSY,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_PENDING,
    EXIT_USAGE_ERROR,
)
from lambda_migrate.errors import escape_text
from lambda_migrate.migrations.version import DottedVersion, parse_command_version
from lambda_migrate.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType


__all__ = [
    "COMMON_OPTIONS",
    "CURRENT_INVOCATION",
    "View",
    "add_local_command",
    "add_target_command",
    "app",
]

View = Callable[[dict[str, Any], CommandInvocation, Mapping[str, Any]], "Sequence[RenderableType]"]
"""Renders a command's document for a terminal; the options are those that were given."""

_DESCRIPTION = "Migrate a PostgreSQL schema with the same lease and fence as AWS Lambda functions."

app = typer.Typer(
    name="lambda-migrate",
    cls=GroupWithHelp,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_GROUPS = {"": app}

CURRENT_INVOCATION: list[CommandInvocation] = []
"""The running command, for error reports: what was committed, and in which format."""


def _add_group(name: str, text: str) -> None:
    _GROUPS[name] = typer.Typer(name=name, cls=GroupWithHelp, no_args_is_help=True)
    app.add_typer(_GROUPS[name], name=name)
    HELP[name] = GroupHelp(name=name, text=text)


_add_group("lease", "Show or release the lease.")
_add_group("table", "Create the lease table.")


# --- options


def _make_setting_option(name: str, metavar: str = "NAME") -> Option:
    return Option(name, str, SETTINGS[name].description, metavar, setting=name)


_FUNCTION = Option("function", str, "Run the command in this admin function.", "NAME[:ALIAS]")
_COMMON_OPTIONS = (
    _FUNCTION,
    Option(
        "format",
        str,
        "Output format.",
        choices=tuple(each.value for each in Format),
        default=Format.TABLE.value,
    ),
    Option(
        "env_file",
        str,
        "Read variables from this file; those that are set already take precedence.",
        "FILE",
        default="none",
    ),
    Option(
        "quiet",
        bool,
        "Write no progress and no notes; a command that changes something writes only warnings "
        "and errors.",
        alias="q",
    ),
    _make_setting_option("target"),
    _make_setting_option("table"),
    _make_setting_option("database_url", "URL"),
    _make_setting_option("directory", "PATH"),
    _make_setting_option("environment"),
    _make_setting_option("schema"),
    Option(
        "timeout",
        float,
        "Overall timeout in seconds; the command is cancelled when it expires.",
        "SECONDS",
        default=str(DEFAULT_TIMEOUT_SECONDS),
    ),
)
COMMON_OPTIONS = {option.name: option for option in _COMMON_OPTIONS}
"""Options that several commands share, by name."""

_YES = Option("yes", bool, "Confirm without asking.", alias="y")
_SHOW_ALL = Option("all", bool, "Show all migrations, and do not shorten long lists.")


def _make_parameter(option: Option, *, is_hidden: bool = False) -> inspect.Parameter:
    """Turn an option into a parameter that Typer reads."""
    make = typer.Argument if option.is_positional else typer.Option
    metavar = option.name.upper() if option.is_positional else option.metavar
    info = make(*option.flags, help=option.full_help, metavar=metavar, hidden=is_hidden)
    value_type: Any = option.type
    if option.type is DottedVersion:
        value_type = str  # what it may be depends on the source, which a function knows: see `act`
    if option.choices:
        value_type = _make_enum(option)
    is_flag = option.type is bool
    default: Any = False if is_flag else None
    return inspect.Parameter(
        option.parameter_name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[
            value_type if is_flag or option.is_required else value_type | None, info
        ],
        default=inspect.Parameter.empty if option.is_required else default,
    )


def _check_version(option: Option, text: str) -> None:
    try:
        parse_command_version(text, os.environ)
    except ValueError as error:
        message = f"{escape_text(text)!r} is {error}"
        hint = f"'{option.flags[0] if option.flags else option.name.upper()}'"
        raise typer.BadParameter(message, param_hint=hint) from None


def _make_enum(option: Option) -> Any:
    """Turn the choices of an option into the enumeration that Typer wants."""
    make: Any = Enum  # mypy reads only enumerations that are literals
    return make(option.name, {each: each for each in option.choices}, type=str)


def _read_value(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


# --- commands


def add_target_command(name: str, *, has_show_all: bool = False) -> Callable[[View], View]:
    """Add a command of `COMMANDS`; the decorated function renders its result.

    Args:
        name: ``up``, ``lease show``.
        has_show_all: Whether ``--all`` is one of its options.
    """
    command = COMMANDS[name]
    options = [each for each in command.options if not each.is_common]
    own_names = {each.name for each in command.options}
    terminal_options = [_SHOW_ALL] * has_show_all + [_YES] * command.asks_to_confirm

    def add(view: View) -> View:
        def run(invocation: CommandInvocation, **values: Any) -> int:
            invocation.yes = values.get("yes", False)
            given = {each.name: values[each.parameter_name] for each in options}
            given |= {
                each.name: getattr(invocation.options, each.name)
                for each in command.options
                if each.is_common
            }
            shown = {**given, "all": values.get("all", False)}
            result = invocation.run_command(name, given)
            return invocation.show_result(
                result,
                lambda document: view(document, invocation, shown),
                is_report=not (command.is_write or name == "wait"),
            )

        codes = [EXIT_DONE, EXIT_FAILED, EXIT_USAGE_ERROR, EXIT_BUSY]
        if any(option.name == "exit_code" for option in options):
            codes.insert(-1, EXIT_PENDING)
        _add_command(
            run,
            CommandHelp(
                name=name,
                text=command.help,
                usage=command.usage,
                options=(*command.options, *terminal_options),
                common_options=_choose_common(
                    "function",
                    "format",
                    "env_file",
                    "quiet",
                    *(each for each in command.settings if each not in own_names),
                    "timeout",
                ),
                examples=command.examples,
                exit_codes=tuple(codes),
            ),
        )
        return view

    return add


def add_local_command(
    name: str,
    text: str,
    *,
    usage: str = "",
    options: tuple[Option, ...] = (),
    common_options: tuple[str, ...] = (),
    examples: tuple[str, ...] = (),
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Add a command that no function can run; it takes a `CommandInvocation` and its options.

    Args:
        name: ``new``, ``table create``.
        text: What it does, in one sentence.
        usage: Its arguments and the options that it needs.
        options: Its own options.
        common_options: Names of the `COMMON_OPTIONS` that it uses.
        examples: Complete command lines without the program's name.
    """

    def add(run: Callable[..., int]) -> Callable[..., int]:
        help_text = CommandHelp(
            name=name,
            text=text,
            usage=usage,
            options=options,
            common_options=_choose_common("env_file", *common_options),
            examples=examples,
            exit_codes=(EXIT_DONE, EXIT_FAILED, EXIT_USAGE_ERROR),
        )
        _add_command(run, help_text)
        return run

    return add


def _choose_common(*names: str) -> tuple[Option, ...]:
    return tuple(option for option in _COMMON_OPTIONS if option.name in names)


def _add_command(run: Callable[..., int], command_help: CommandHelp) -> None:
    name = command_help.name
    own_options = [each for each in command_help.options if not each.is_common]
    shown_names = {each.name for each in (*command_help.options, *command_help.common_options)}

    def act(**values: Any) -> int:
        before: typer.Context = values.pop("context")
        given = {key: _read_value(value) for key, value in values.items()}
        common = {name: given.pop(name) for name in COMMON_OPTIONS}
        del common["env_file"]  # `load_env_files` has removed it
        if common["function"] is None:
            common["function"] = before.obj
        invocation = CommandInvocation(
            CommonOptions(**{key: value for key, value in common.items() if value is not None})
        )
        CURRENT_INVOCATION[:] = [invocation]
        check_common_options(invocation.options, command=name)
        if invocation.options.function is None:
            for option in own_options:
                if option.type is DottedVersion and given[option.parameter_name] is not None:
                    _check_version(option, given[option.parameter_name])
        with invocation.reporter:
            return run(invocation, **given)

    kind = inspect.Parameter.KEYWORD_ONLY
    context = inspect.Parameter("context", kind, annotation=typer.Context)
    parameters = [
        context,
        *map(_make_parameter, own_options),
        # One that a command has no use for is accepted, like its environment variable.
        *(
            _make_parameter(option, is_hidden=option.name not in shown_names)
            for option in _COMMON_OPTIONS
        ),
    ]
    # Typer reads the options from the signature and the annotations of the function.
    act.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # see above
    act.__annotations__ = {each.name: each.annotation for each in parameters}
    HELP[name] = command_help
    group, _, short_name = name.rpartition(" ")
    _GROUPS[group].command(short_name, cls=CommandWithHelp, help=command_help.text)(act)


# --- the program's own options


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lambda-migrate {__version__}")
        raise typer.Exit


_VERSION = Option("version", bool, "Print the version and exit.")
HELP[""] = GroupHelp(
    name="",
    text=_DESCRIPTION,
    options=(
        _FUNCTION,
        _VERSION,
        Option("install_completion", bool, "Install completion for the current shell."),
        Option("show_completion", bool, "Print the script of the completion."),
    ),
    examples=(
        "new add_status",
        "status",
        "up --database-url postgresql://app@localhost/orders",
        "--function orders-admin status",
        "up --help",
    ),
)


@app.callback(help=_DESCRIPTION)
def set_function(
    context: typer.Context,
    function: Annotated[
        str | None, typer.Option("--function", help=_FUNCTION.help, metavar=_FUNCTION.metavar)
    ] = None,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help=_VERSION.help),
    ] = False,
) -> None:
    """Accept ``--function`` before the command as well."""
    context.obj = function
