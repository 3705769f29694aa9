"""`baseline` and `repair`: what is so by a person's word."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer
from rich.text import Text

from lambda_migrate.cli.call import Call
from lambda_migrate.cli.registry import Yes, app, command
from lambda_migrate.cli.render import number


@command(app, "baseline")
def baseline(
    call: Call,
    version: Annotated[int, typer.Argument(help="The last one that the database has already.")],
    yes: Yes = False,
) -> int:
    """Record migrations as applied unrun."""
    call.yes = yes
    return call.answer(call.do("baseline", version=version), _recorded)


def _recorded(document: dict[str, Any]) -> list[Text]:
    count = number(len(document["declared"]), "migration")
    return [Text(f"recorded {count} as applied; nothing was run", style="green")]


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
