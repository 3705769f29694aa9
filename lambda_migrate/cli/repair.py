"""`baseline` and `repair` at a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from lambda_migrate.cli.options import add_target_command
from lambda_migrate.cli.render import format_count
from lambda_migrate.commands.repair import format_gap_advice
from lambda_migrate.errors import escape_text
from lambda_migrate.manifest_digest import is_repeatable_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from lambda_migrate.cli.invocation import CommandInvocation


@add_target_command("baseline")
def _show_baseline(
    document: dict[str, Any], _invocation: CommandInvocation, _options: Mapping[str, Any]
) -> list[RenderableType]:
    other = document["from"]
    source = f", as in {other['tool']}'s history" if other is not None else ""
    count = format_count(len(document["marked_as_applied"]), "migration")
    text = f"marked {count} as applied{source}; nothing was run"
    shown: list[RenderableType] = [Text(text, style="green")]
    unknown = [each["version"] for each in document["compared"] if each["state"] == "no file"]
    if unknown:
        versions = escape_text(", ".join(unknown))
        shown.append(Text(f"versions without a migration file: {versions}", style="yellow"))
    if document["gaps"]:
        shown.append(Text(format_gap_advice(document["gaps"]), style="yellow"))
    return shown


_RESOLUTIONS = {
    "applied": "marked {name} as applied",
    "pending": "removed {name} from the history; it is pending",
    "edited": "accepted the current file of {name}",
}


@add_target_command("repair")
def _show_repaired(
    document: dict[str, Any], _invocation: CommandInvocation, _options: Mapping[str, Any]
) -> list[Text]:
    if "recorded_environment" in document:
        recorded = document["recorded_environment"]
        text = f"recorded environment {recorded!r} in {document['database']}"
    else:
        name, resolution = document["repaired"], _RESOLUTIONS[document["as"]]
        if document["as"] == "pending" and is_repeatable_name(name):
            resolution = "marked {name} as pending"
        text = resolution.format(name=name)
    return [Text(text, style="green")]
