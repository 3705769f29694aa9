"""`up` and `down` at a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from lambda_migrate.cli.options import add_target_command
from lambda_migrate.cli.render import format_count
from lambda_migrate.cli.times import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lambda_migrate.cli.invocation import CommandInvocation


@add_target_command("up")
def _show_applied(
    document: dict[str, Any], _invocation: CommandInvocation, options: Mapping[str, Any]
) -> list[Text]:
    database, applied, to = document["database"], document["applied"], options["to"]
    if applied:
        duration = format_duration(document["seconds"])
        text = f"applied {format_count(len(applied), 'migration')} to {database} in {duration}"
    else:
        version = f" with version {to}" if to is not None else ""
        text = f"nothing to do: {database} is up to date{version}"
    return [Text(text, style="green")]


@add_target_command("down")
def _show_rolled_back(
    document: dict[str, Any], _invocation: CommandInvocation, _options: Mapping[str, Any]
) -> list[Text]:
    count = len(document["rolled_back"])
    text = f"rolled back {format_count(count, 'migration')}" if count else "nothing to roll back"
    warnings = [Text(f"warning: {each}", style="yellow") for each in document["warnings"]]
    return [Text(text, style="green"), *warnings]
