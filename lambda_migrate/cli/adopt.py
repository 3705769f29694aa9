"""`adopt` at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from lambda_migrate.cli.invocation import CommandInvocation
from lambda_migrate.cli.options import add_target_command
from lambda_migrate.cli.render import format_count
from lambda_migrate.errors import escape_text

if TYPE_CHECKING:
    from rich.console import RenderableType


@add_target_command("adopt")
def _show_adoption(
    document: dict[str, Any], _invocation: CommandInvocation, _options: Mapping[str, Any]
) -> list[RenderableType]:
    is_dry_run = document["dry_run"]
    if "removed" in document:
        files = format_count(len(document["removed"]), "file")
        rows = format_count(len(document["unmarked"]), "history row")
        verb = "would remove" if is_dry_run else "removed"
        return [Text(f"{verb} {files} and {rows}", style="green")]
    written = format_count(len(document["written"]), "file")
    marked = format_count(len(document["marked_as_applied"]), "migration")
    write, mark = ("would write", "mark") if is_dry_run else ("wrote", "marked")
    source = f"{document['tool']} ({document['source_folder']})"
    text = f"{write} {written} from {source}, {mark} {marked} as applied"
    shown: list[RenderableType] = [Text(escape_text(text), style="green")]
    pending = [
        each["file"] for each in document["compared"] if each["file"] and each["state"] == "pending"
    ]
    if pending:
        shown.append(Text(escape_text(f"pending: {', '.join(pending)}")))
    shown += [
        Text(escape_text(f"changed: {each['file']}: {each['change']}"))
        for each in document["changes"]
    ]
    shown += [
        Text(escape_text(f"not taken over: {each['file']}: {each['reason']}"), style="yellow")
        for each in document["skipped"]
    ]
    shown += [
        Text(escape_text(f"edit before it runs: {each}"), style="yellow")
        for each in document["faults"]
    ]
    if document["keeps_theirs"] and not is_dry_run:
        shown.append(Text(f"from now on {document['tool']}'s history table is written as well"))
    return shown
