"""`new`: writes a migration file."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from lambda_migrate.cli.invocation import Call
from lambda_migrate.cli.options import (
    app,
    command,
)
from lambda_migrate.commands.result import DONE
from lambda_migrate.errors import ConfigurationError


@command(app, "new")
def new(
    call: Call,
    name: Annotated[str, typer.Argument(help="What it does, such as add_status.")],
    no_transaction: Annotated[
        bool,
        typer.Option("--no-transaction", help="One statement outside a transaction."),
    ] = False,
) -> int:
    """Write a migration file that works as is."""
    from lambda_migrate.cli.migration_template import write_migration

    named = call.settings.directory
    if named.startswith("package:"):
        raise ConfigurationError(f"{named}: new files go into a folder; name it with --directory")
    now = datetime.now(timezone.utc)
    path = write_migration(Path(named), name, now=now, transactional=not no_transaction)
    version = path.name.partition("_")[0]
    call.terminal.answer(
        {"path": str(path), "name": path.stem, "version": int(version)},
        Text.assemble("wrote ", (str(path), "bold")),
        "put your SQL into it; `lambda-migrate plan` shows what `up` will do",
    )
    return DONE
