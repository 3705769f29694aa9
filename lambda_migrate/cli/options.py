"""The Typer app, and how commands are added to it with the common options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lambda_migrate._version import __version__
from lambda_migrate.cli.invocation import (
    CommandInvocation,
    CommonOptions,
    check_function_options,
    check_timeout,
)
from lambda_migrate.cli.terminal import Format
from lambda_migrate.commands.registry import COMMANDS
from lambda_migrate.settings import describe_settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lambda_migrate.commands.registry import Option

__all__ = [
    "COMMON_OPTIONS",
    "CURRENT_INVOCATION",
    "View",
    "add_local_command",
    "add_target_command",
    "app",
    "lease_app",
    "table_app",
]

View = Callable[[dict[str, Any], CommandInvocation, Mapping[str, Any]], "Sequence[RenderableType]"]
"""Renders a command's document for a terminal; the options are those that were given."""

_DESCRIPTION = "Migrate a PostgreSQL schema with the same lease and fence as AWS Lambda functions."
_COMMON_PANEL = "Common options"

app = typer.Typer(
    name="lambda-migrate",
    help=_DESCRIPTION,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
lease_app = typer.Typer(name="lease", no_args_is_help=True, help="Show or release the lease.")
table_app = typer.Typer(name="table", no_args_is_help=True, help="Create the lease table.")
app.add_typer(lease_app, name="lease")
app.add_typer(table_app, name="table")

_GROUPS = {"": app, "lease": lease_app, "table": table_app}

CURRENT_INVOCATION: list[CommandInvocation] = []
"""The running command, for error reports: what was committed, and in which format."""


# --- options


def _make_common(*names: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(
        *names, help=text, metavar=metavar, show_default=False, rich_help_panel=_COMMON_PANEL
    )


_SETTINGS = describe_settings()


def _make_setting(name: str, metavar: str = "NAME") -> tuple[Any, Any]:
    setting = _SETTINGS[name]
    default = f"; default: {setting.default}" if setting.default else ""
    text = f"{setting.description} [env: {setting.variable}{default}]"
    option = _make_common(f"--{name.replace('_', '-')}", text=text, metavar=metavar)
    return Annotated[str | None, option], None


_Function = Annotated[
    str | None,
    _make_common(
        "--function", text="Run the command in this admin function.", metavar="NAME[:ALIAS]"
    ),
]

COMMON_OPTIONS: dict[str, tuple[Any, Any]] = {
    "function": (_Function, None),
    "format": (
        Annotated[Format, _make_common("--format", text="Output format. [default: table]")],
        Format.TABLE,
    ),
    "target": _make_setting("target"),
    "table": _make_setting("table"),
    "database_url": _make_setting("database_url", "URL"),
    "directory": _make_setting("directory", "PATH"),
    "environment": _make_setting("environment"),
    "schema": _make_setting("schema"),
    "timeout": (
        Annotated[
            float,
            _make_common(
                "--timeout",
                text="Overall timeout in seconds; the command is cancelled when it expires. "
                "[default: 3600]",
                metavar="SECONDS",
            ),
        ],
        3600,
    ),
}
"""The options of every command by the name of their setting: annotation and default."""

_YES = inspect.Parameter(
    "yes",
    inspect.Parameter.KEYWORD_ONLY,
    annotation=Annotated[bool, typer.Option("--yes", "-y", help="Confirm without asking.")],
    default=False,
)
_SHOW_ALL = inspect.Parameter(
    "show_all",
    inspect.Parameter.KEYWORD_ONLY,
    annotation=Annotated[
        bool, typer.Option("--all", help="Show all migrations. Default: shorten long lists.")
    ],
    default=False,
)


def _make_parameter(option: Option) -> inspect.Parameter:
    """Turn an option of the registry into a parameter that Typer reads."""
    make = typer.Argument if option.is_positional else typer.Option
    info = make(*option.flags, help=option.help, metavar=option.metavar, show_default=False)
    value_type: Any = option.type
    if option.choices:
        value_type = _make_enum(option)
    is_flag = option.type is bool
    return inspect.Parameter(
        option.parameter_name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[value_type if is_flag else value_type | None, info],
        default=False if is_flag else None,
    )


def _make_enum(option: Option) -> Any:
    """Turn the choices of an option into the enumeration that Typer wants."""
    make: Any = Enum  # mypy reads only enumerations that are literals
    return make(option.name, {each: each for each in option.choices}, type=str)


# --- commands


def add_target_command(name: str, *, has_show_all: bool = False) -> Callable[[View], View]:
    """Add a command of `COMMANDS`; the decorated function renders its result.

    Args:
        name: ``up``, ``lease show``.
        has_show_all: Whether ``--all`` is one of its options.
    """
    command = COMMANDS[name]
    options = [each for each in command.options if not each.is_common]
    parameters = [_make_parameter(each) for each in options]
    parameters += [_SHOW_ALL] if has_show_all else []
    parameters += [_YES] if command.asks_to_confirm else []

    def add(view: View) -> View:
        def run(invocation: CommandInvocation, **values: Any) -> int:
            invocation.yes = values.get("yes", False)
            given = {each.name: _read_value(values[each.parameter_name]) for each in options}
            given |= {
                each.name: getattr(invocation.options, each.name)
                for each in command.options
                if each.is_common
            }
            shown = {**given, "show_all": values.get("show_all", False)}
            result = invocation.run_command(name, given)
            return invocation.show_result(
                result, lambda document: view(document, invocation, shown)
            )

        _add_command(name, run, parameters, text=command.help)
        return view

    return add


def _read_value(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def add_local_command(name: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Add a command that no function can run; it takes a `CommandInvocation` and its options."""

    def add(run: Callable[..., int]) -> Callable[..., int]:
        own = list(inspect.signature(run, eval_str=True).parameters.values())[1:]
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        _add_command(name, run, parameters, text=inspect.getdoc(run) or "")
        return run

    return add


def _add_command(
    name: str, run: Callable[..., int], own_options: Sequence[inspect.Parameter], *, text: str
) -> None:
    def act(**values: Any) -> int:
        check_timeout(values["timeout"])
        before: typer.Context = values.pop("context")
        if values["function"] is None:
            values["function"] = before.obj
        common = CommonOptions(**{key: values.pop(key) for key in COMMON_OPTIONS})
        invocation = CommandInvocation(common)
        CURRENT_INVOCATION[:] = [invocation]
        check_function_options(common, command=name)
        with invocation.reporter:
            return run(invocation, **values)

    kind = inspect.Parameter.KEYWORD_ONLY
    common = [
        inspect.Parameter(key, kind, annotation=annotation, default=default)
        for key, (annotation, default) in COMMON_OPTIONS.items()
    ]
    context = inspect.Parameter("context", kind, annotation=typer.Context)
    parameters = [context, *own_options, *common]
    # Typer reads the options from the signature and the annotations of the function.
    act.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # see above
    act.__annotations__ = {each.name: each.annotation for each in parameters}
    act.__doc__ = text
    group, _, short_name = name.rpartition(" ")
    _GROUPS[group].command(short_name)(act)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lambda-migrate {__version__}")
        raise typer.Exit


@app.callback(help=_DESCRIPTION)
def set_function(
    context: typer.Context,
    function: _Function = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Accept ``--function`` before the command as well."""
    context.obj = function
