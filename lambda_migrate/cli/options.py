"""The app, the options that every command takes, and how a command is added."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from lambda_migrate._version import __version__
from lambda_migrate.cli.invocation import (
    Call,
    CommonOptions,
    refuse_what_the_function_knows,
    require_positive,
)
from lambda_migrate.cli.terminal import Format

__all__ = [
    "COMMON",
    "CURRENT",
    "IgnoreOtherHistory",
    "Whole",
    "Yes",
    "app",
    "command",
    "lease_app",
    "table_app",
]


_EVERYWHERE = "Everywhere"


def _common(*names: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=_EVERYWHERE)


Function = Annotated[
    str | None,
    _common("--function", text="Have this admin function do it.", metavar="NAME[:ALIAS]"),
]

COMMON: dict[str, tuple[Any, Any]] = {
    "function": (Function, None),
    "format": (
        Annotated[Format, _common("--format", text="How to answer.")],
        Format.TABLE,
    ),
    "target": (
        Annotated[
            str | None,
            _common("--target", text="The item in the lease table: one per database."),
        ],
        None,
    ),
    "table": (
        Annotated[
            str | None,
            _common("--table", text="The lease table, name or ARN; without one, the fence alone."),
        ],
        None,
    ),
    "database_url": (
        Annotated[
            str | None,
            _common(
                "--database-url",
                text="postgresql://user@host/name; with a password better in the environment.",
                metavar="URL",
            ),
        ],
        None,
    ),
    "directory": (
        Annotated[str | None, _common("--directory", text="Where the migration files are.")],
        None,
    ),
    "environment": (
        Annotated[
            str | None,
            _common("--environment", text="staging, production: the database keeps to its first."),
        ],
        None,
    ),
    "schema": (
        Annotated[str | None, _common("--schema", text="Where history and fence are.")],
        None,
    ),
    "timeout": (
        Annotated[
            float,
            _common("--timeout", text="For all of it; then it is cancelled.", metavar="SECONDS"),
        ],
        3600,
    ),
}
"""The options of every command, by the name of their setting: annotation and default."""

CURRENT: list[Call] = []
"""The call at work, for whoever reports an error: what was committed, and in which format."""

app = typer.Typer(
    name="lambda-migrate",
    help="Migrate a PostgreSQL schema, as the functions that start on it do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
lease_app = typer.Typer(name="lease", no_args_is_help=True, help="Look at the lease, or free it.")
table_app = typer.Typer(name="table", no_args_is_help=True, help="The DynamoDB table of leases.")
app.add_typer(lease_app, name="lease")
app.add_typer(table_app, name="table")


def command(group: typer.Typer, name: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register a command that takes a `Call` first, with the common options after its own."""

    def register(act: Callable[..., int]) -> Callable[..., int]:
        own = list(inspect.signature(act, eval_str=True).parameters.values())[1:]
        common = [
            inspect.Parameter(
                key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
            for key, (annotation, default) in COMMON.items()
        ]
        own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]

        def run(**values: Any) -> int:
            require_positive(values["timeout"])
            before: typer.Context = values.pop("context")
            if values["function"] is None:
                values["function"] = before.obj
            call = Call(CommonOptions(**{key: values.pop(key) for key in COMMON}))
            CURRENT[:] = [call]
            full_name = f"{group.info.name} {name}" if group in (lease_app, table_app) else name
            refuse_what_the_function_knows(call.options, command=full_name)
            with call.reporter:
                return act(call, **values)

        context = inspect.Parameter(
            "context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context
        )
        parameters = [context, *own, *common]
        # Typer reads a command's options from its signature; this one has two authors.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # see above
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__doc__ = act.__doc__
        group.command(name)(run)
        return act

    return register


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lambda-migrate {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    function: Function = None,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say which it is."),
    ] = False,
) -> None:
    """Migrate a PostgreSQL schema, as the functions that start on it do."""
    context.obj = function


Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
IgnoreOtherHistory = Annotated[
    bool,
    typer.Option(
        "--ignore-other-history",
        help="Continue even if another tool's history table is in the database.",
    ),
]
Whole = Annotated[bool, typer.Option("--all", help="Every migration, however many there are.")]
