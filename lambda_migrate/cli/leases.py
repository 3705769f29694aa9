"""`lease` and `table`: what needs the lease table and no database."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from lambda_migrate.cli import lease_table
from lambda_migrate.cli.call import Call
from lambda_migrate.cli.documents import lease_document
from lambda_migrate.cli.failures import DONE, FAILED
from lambda_migrate.cli.registry import (
    Yes,
    command,
    lease_app,
    table_app,
)
from lambda_migrate.cli.render import (
    facts,
    lease_facts,
    number,
)
from lambda_migrate.errors import legible


@command(lease_app, "show")
def lease_show(call: Call) -> int:
    """Show the holder and the last failure."""
    state = call.store.read(consistent=True)
    settings = call.settings
    pairs = [
        ("target", settings.target),
        ("table", settings.table),
        *lease_facts(state, now_ms=call.clock.wall_ms()),
        ("ready", f"{number(len(state.ready), 'code version')} vouched for"),
        ("database", state.database or "none so far"),
    ]
    document = {"target": settings.target, "table": settings.table, **lease_document(state)}
    call.terminal.answer(document, facts(pairs))
    return DONE


@command(lease_app, "release")
def lease_release(call: Call, yes: Yes = False) -> int:
    """Free the lease of a holder that is dead."""
    from lambda_migrate.maintenance import release_lease

    state = call.store.read(consistent=True)
    shown = Group(
        facts(lease_facts(state, now_ms=call.clock.wall_ms())),
        Text("free it only if its holder is dead: one that lives loses what it is doing"),
    )
    place = {"target": call.settings.target, "table": call.settings.table}
    if state.owner is not None and not call.terminal.confirm("free it?", yes=yes, shown=shown):
        call.terminal.answer({**place, "confirmed": False}, "nothing was changed")
        return FAILED
    before = release_lease(call.store)
    said = f"freed; {legible(before.owner)} held it" if before.owner else "nobody holds it"
    call.terminal.answer(
        {**place, "released": before.owner is not None, "owner": before.owner},
        Text(said, style="green"),
    )
    return DONE


@command(table_app, "create")
def table_create(
    call: Call,
    cloudformation: Annotated[
        bool,
        typer.Option("--cloudformation", help="Only print what to put into a template."),
    ] = False,
) -> int:
    """Make the lease table: on demand, with point-in-time recovery."""
    name = call.settings.table
    if cloudformation:
        named = f"\n      TableName: {json.dumps(name)}" if name else ""
        snippet = Text(lease_table.SNIPPET.format(name=named).rstrip("\n"))
        call.terminal.answer(lease_table.resource(name), snippet)
        return DONE
    call.require_table()
    made = lease_table.create(lease_table.make_client(), name, sleep=call.clock.sleep)
    said = f"made table {name}" if made else f"table {name} is there already, with the right key"
    call.terminal.answer({"table": name, "created": made}, Text(said, style="green"))
    return DONE
