"""`baseline` and `repair`: what is so by a person's word."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from lambda_migrate.cli.invocation import Call
from lambda_migrate.cli.options import IgnoreOtherHistory, Yes, app, command
from lambda_migrate.cli.render import number
from lambda_migrate.commands.repair import gap_advice
from lambda_migrate.errors import escape_text

if TYPE_CHECKING:
    from rich.console import RenderableType


@command(app, "baseline")
def baseline(
    call: Call,
    version: Annotated[
        int | None,
        typer.Argument(
            help="Mark everything up to this version. Default: exactly what another tool's "
            "history table lists as applied."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Read this tool's history, or this table, where there are several.",
            metavar="TOOL",
        ),
    ] = None,
    ignore_other_history: IgnoreOtherHistory = False,
    yes: Yes = False,
) -> int:
    """Mark migrations as applied without running them."""
    call.yes = yes
    answer = call.do(
        "baseline",
        version=version,
        ignore_other_history=ignore_other_history,
        **{"from": source},
    )
    return call.answer(answer, _recorded)


def _recorded(document: dict[str, Any]) -> list[RenderableType]:
    count = number(len(document["declared"]), "migration")
    said = f"recorded {count} as applied; nothing was run"
    other = document["from"]
    if other is not None:
        said = f"recorded {count} as applied, as in {other['tool']}'s history; nothing was run"
    shown: list[RenderableType] = [Text(said, style="green")]
    unknown = [each["version"] for each in document["compared"] if each["here"] == "no file"]
    if unknown:
        shown.append(
            Text(f"without a file here: {escape_text(', '.join(unknown))}", style="yellow")
        )
    if document["gaps"]:
        shown.append(Text(gap_advice(document["gaps"]), style="yellow"))
    return shown


class Declared(str, Enum):
    """What a person says of a migration."""

    APPLIED = "applied"
    PENDING = "pending"
    EDITED = "edited"


@command(app, "repair")
def repair(
    call: Call,
    version: Annotated[int | None, typer.Argument(help="Which migration.")] = None,
    declared: Annotated[
        Declared | None,
        typer.Option(
            "--as",
            help="applied or pending: how one in doubt ended; edited: accept the changed file.",
        ),
    ] = None,
    yes: Yes = False,
) -> int:
    """Settle what only a person can tell."""
    call.yes = yes
    answer = call.do(
        "repair",
        version=version,
        environment=call.options.environment,
        **{"as": None if declared is None else declared.value},
    )
    return call.answer(answer, _repaired)


def _repaired(document: dict[str, Any]) -> list[Text]:
    if "stamped" in document:
        said = f"{document['database']} now belongs to {document['stamped']!r}"
    else:
        said = f"{document['repaired']} is recorded as {document['as']}"
    return [Text(said, style="green")]
