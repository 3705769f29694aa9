"""`lease` and `table` at a terminal: commands that need the lease table but no database."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.text import Text

from lambda_migrate.cli import create_table
from lambda_migrate.cli.invocation import CommandInvocation
from lambda_migrate.cli.options import add_local_command, add_target_command
from lambda_migrate.cli.render import build_lease_rows, format_count, render_summary_rows
from lambda_migrate.commands.registry import Option
from lambda_migrate.commands.result import EXIT_DONE
from lambda_migrate.errors import escape_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType


@add_target_command("lease show")
def _show_lease(
    document: dict[str, Any], invocation: CommandInvocation, _options: Mapping[str, Any]
) -> list[RenderableType]:
    if not document["is_known"]:
        return [_describe_unknown_target(document)]
    return [
        render_summary_rows(
            [
                ("target", document["target"]),
                ("table", document["table"]),
                *build_lease_rows(document, now_ms=invocation.clock.wall_ms()),
                *(_build_database_row(each) for each in document["databases"]),
            ]
        )
    ]


def _describe_unknown_target(document: Mapping[str, Any]) -> Text:
    target, table = escape_text(document["target"]), escape_text(document["table"])
    return Text(
        f"target {target} is not in the lease table {table}: nothing has been migrated with this "
        "name yet; if you expected it, check --target (LAMBDA_MIGRATE_TARGET)",
        style="yellow",
    )


def _build_database_row(database: dict[str, Any]) -> tuple[str, str]:
    addresses = ", ".join(escape_text(each["address"]) for each in database["addresses"])
    count = format_count(database["versions_ready"], "code version")
    return "database", f"{addresses}: ready for {count}"


@add_target_command("lease release")
def _show_released(
    document: dict[str, Any], _invocation: CommandInvocation, _options: Mapping[str, Any]
) -> list[Text]:
    if not document["is_known"]:
        return [_describe_unknown_target(document)]
    owner = document["owner"]
    text = f"released the lease of {escape_text(owner)}" if owner else "no process holds the lease"
    return [Text(text, style="green")]


@add_local_command(
    "table create",
    "Create the DynamoDB lease table, on demand and with point-in-time recovery.",
    usage="(--table NAME | --cloudformation)",
    options=(
        Option(
            "table",
            str,
            "Name of the table to create.",
            "NAME",
            setting="table",
            is_common=True,
        ),
        Option(
            "cloudformation", bool, "Print a CloudFormation resource instead of creating a table."
        ),
    ),
    common_options=("format",),
    examples=("table create --table leases", "table create --cloudformation"),
)
def _create_table(invocation: CommandInvocation, *, cloudformation: bool) -> int:
    name = invocation.settings.table
    if cloudformation:
        name_line = f"\n      TableName: {json.dumps(name)}" if name else ""
        snippet = Text(create_table.CLOUDFORMATION_SNIPPET.format(name=name_line).rstrip("\n"))
        invocation.terminal.show_result(create_table.build_resource(name), snippet)
        return EXIT_DONE
    invocation.settings.require_configured(table=True)
    client, sleep = create_table.make_client(), invocation.clock.sleep
    is_new = create_table.create_table(client, name, sleep=sleep)
    text = f"created table {name}" if is_new else f"table {name} already exists with the right key"
    document = {"table": name, "created": is_new}
    invocation.terminal.show_result(document, Text(text, style="green"))
    return EXIT_DONE
