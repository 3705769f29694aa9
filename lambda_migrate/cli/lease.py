"""`lease` and `table`: what needs the lease table and no database."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from lambda_migrate.cli import create_table
from lambda_migrate.cli.invocation import Call
from lambda_migrate.cli.options import (
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
from lambda_migrate.commands.result import DONE
from lambda_migrate.errors import escape_text


@command(lease_app, "show")
def lease_show(call: Call) -> int:
    """Show the holder and the last failure."""
    return call.answer(
        call.do("lease show"), lambda document: [_lease_facts(document, call.clock.wall_ms())]
    )


def _lease_facts(document: dict[str, Any], now_ms: int) -> Table:
    return facts(
        [
            ("target", document["target"]),
            ("table", document["table"]),
            *lease_facts(document, now_ms=now_ms),
            *(_database(each) for each in document["databases"]),
        ]
    )


def _database(database: dict[str, Any]) -> tuple[str, str]:
    addresses = ", ".join(escape_text(each["address"]) for each in database["addresses"])
    return "database", f"{addresses}: {number(database['versions_ready'], 'version')} ready"


@command(lease_app, "release")
def lease_release(call: Call, yes: Yes = False) -> int:
    """Free the lease of a holder that is dead."""
    call.yes = yes
    return call.answer(call.do("lease release"), _released)


def _released(document: dict[str, Any]) -> list[Text]:
    owner = document["owner"]
    said = f"freed; {escape_text(owner)} held it" if owner else "nobody holds it"
    return [Text(said, style="green")]


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
        snippet = Text(create_table.SNIPPET.format(name=named).rstrip("\n"))
        call.terminal.answer(create_table.resource(name), snippet)
        return DONE
    call.settings.require(table=True)
    made = create_table.create(create_table.make_client(), name, sleep=call.clock.sleep)
    said = f"made table {name}" if made else f"table {name} is there already, with the right key"
    call.terminal.answer({"table": name, "created": made}, Text(said, style="green"))
    return DONE
