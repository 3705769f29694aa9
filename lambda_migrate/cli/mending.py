"""`baseline` and `repair`: what is so by a person's word."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer
from rich.text import Text

from lambda_migrate.cli.call import Call
from lambda_migrate.cli.registry import Yes, app, command
from lambda_migrate.cli.render import number
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.verbs import mending


@command(app, "baseline")
def baseline(
    call: Call,
    version: Annotated[int, typer.Argument(help="The last one that the database has already.")],
    yes: Yes = False,
) -> int:
    """Record migrations as applied unrun."""
    call.yes = yes
    answer = mending.baseline(call.site, version)
    count = len(answer.document.get("declared", ()))
    said = f"recorded {number(count, 'migration')} as applied; nothing was run"
    return call.answer(answer, Text(said, style="green"))


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
    if version is None and declared is None and call.options.environment is not None:
        return _stamp(call)
    if version is None or declared is None:
        raise ConfigurationError(
            "say what to repair: `repair VERSION --as applied|pending|edited`, or "
            "`repair --environment NAME` for a database that changed hands"
        )
    answer = mending.repair(call.site, version, declared=declared.value)
    said = f"{answer.document.get('repaired')} is recorded as {declared.value}"
    return call.answer(answer, Text(said, style="green"))


def _stamp(call: Call) -> int:
    answer = mending.stamp(call.site)
    said = f"{answer.document['database']} now belongs to {answer.document.get('stamped')!r}"
    return call.answer(answer, Text(said, style="green"))
