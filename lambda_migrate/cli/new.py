"""`new`: create a migration file."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from rich.text import Text

from lambda_migrate.cli.invocation import CommandInvocation
from lambda_migrate.cli.options import add_local_command
from lambda_migrate.commands.documents import build_version
from lambda_migrate.commands.registry import Option
from lambda_migrate.commands.result import EXIT_DONE
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.manifest_digest import find_version
from lambda_migrate.migrations.version import parse_version


@add_local_command(
    "new",
    "Create a migration file from a template.",
    usage="NAME",
    options=(
        Option(
            "name",
            str,
            "What the migration does, such as add_status.",
            is_positional=True,
            is_required=True,
        ),
        Option("no_transaction", bool, "Write a migration that runs outside a transaction."),
    ),
    common_options=("format", "directory"),
    examples=("new add_status", "new index_orders --no-transaction"),
)
def _new(invocation: CommandInvocation, *, name: str, no_transaction: bool) -> int:
    from lambda_migrate.cli.migration_template import write_migration

    settings = invocation.settings
    if settings.source != "sql":
        raise ConfigurationError(
            f"`new` creates SQL files, and LAMBDA_MIGRATE_SOURCE is {settings.source}: create the "
            "migration with that tool"
        )
    directory = settings.directory
    if directory.startswith("package:"):
        raise ConfigurationError(
            f"cannot create a file in {directory}: name a directory with --directory"
        )
    now = datetime.now(timezone.utc)
    path = write_migration(Path(directory), name, now=now, transactional=not no_transaction)
    version = parse_version(find_version(path.name) or "")
    invocation.terminal.show_result(
        {"path": str(path), "name": path.stem, "version": build_version(version)},
        Text.assemble("created ", (str(path), "bold")),
        "write your SQL in it; `lambda-migrate plan` shows what `up` will do",
    )
    return EXIT_DONE
