"""`baseline` and `repair`: what is so by a person's word."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.text import Text

from lambda_migrate.cli.call import Call
from lambda_migrate.cli.failures import DONE
from lambda_migrate.cli.registry import (
    Yes,
    app,
    command,
    left_alone,
)
from lambda_migrate.cli.render import (
    number,
)
from lambda_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lambda_migrate.maintenance import Maintenance


@command(app, "baseline")
def baseline(
    call: Call,
    version: Annotated[int, typer.Argument(help="The last one that the database has already.")],
    yes: Yes = False,
) -> int:
    """Record migrations as applied unrun."""
    maintenance = call.maintenance
    planned, _ = maintenance.plan(call.deadline, to=version)
    names = [migration.name for migration in planned.pending]
    heading = Text(f"this records as applied, without running them, on {call.place['database']}:")
    question = f"record {number(len(names), 'migration')} as applied?"
    shown = Group(heading, _name_list(names))
    if names and not call.terminal.confirm(question, yes=yes, shown=shown):
        return left_alone(call)
    declared = maintenance.baseline(version, call.deadline)
    done = f"recorded {number(len(declared), 'migration')} as applied; nothing was run"
    call.terminal.answer({**call.place, "declared": list(declared)}, Text(done, style="green"))
    return DONE


def _name_list(names: Sequence[str], *, most: int = 25) -> Text:
    shown = [f"  {name}" for name in names[:most]]
    if len(names) > most:
        shown.append(f"  … and {len(names) - most} more")
    return Text("\n".join(shown))


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
    if version is None and declared is None and call.options.environment is not None:
        return _stamp(call, yes=yes)
    if version is None or declared is None:
        raise ConfigurationError(
            "say what to repair: `repair VERSION --as applied|pending|edited`, or "
            "`repair --environment NAME` for a database that changed hands"
        )
    maintenance = call.maintenance
    name = _name_of(maintenance, version, call)
    question = f"record {name} as {declared.value}?"
    shown = Text(_CONSEQUENCES[declared].format(name=name, database=call.place["database"]))
    if not call.terminal.confirm(question, yes=yes, shown=shown):
        return left_alone(call)
    mended = maintenance.repair(version, call.deadline, declared=declared.value)
    call.terminal.answer(
        {**call.place, "repaired": mended, "as": declared.value},
        Text(f"{mended} is recorded as {declared.value}", style="green"),
    )
    return DONE


_CONSEQUENCES = {
    Declared.APPLIED: "{name} is recorded as applied on {database}; nothing of it is run.",
    Declared.PENDING: (
        "the row of {name} is removed from the history of {database}; nothing is undone, and the "
        "next `up` runs it again."
    ),
    Declared.EDITED: (
        "the history of {database} takes over the text of {name} as it is now; nothing is run."
    ),
}


def _name_of(maintenance: Maintenance, version: int, call: Call) -> str:
    history = maintenance.target.database.read_history(call.deadline)
    row = next((row for row in history if row.version == version), None)
    migration = maintenance.manifest.get(version)
    if row is not None:
        return row.name
    return migration.name if migration is not None else f"version {version}"


def _stamp(call: Call, *, yes: bool) -> int:
    environment = call.settings.environment
    if not environment:
        raise ConfigurationError("say which: repair --environment NAME")
    where = call.place["database"]
    text = Text(f"{where} will belong to {environment!r}; functions of others are refused there.")
    question = f"stamp it with {environment!r}?"
    if not call.terminal.confirm(question, yes=yes, shown=text):
        return left_alone(call)
    call.maintenance.stamp_environment(call.deadline)
    call.terminal.answer(
        {**call.place, "stamped": environment},
        Text(f"{where} now belongs to {environment!r}", style="green"),
    )
    return DONE
