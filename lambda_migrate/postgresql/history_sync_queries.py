"""Keeps another tool's history table up to date, by a trigger on this library's history.

The row of that tool is written in the transaction of the row here, whatever writes it: a migration,
a rollback, `repair`, a function of an older version of this library. So the two tables cannot
disagree, and a start pays nothing for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.postgresql.other_tools import get_tool
from lambda_migrate.postgresql.sql_fragments import quote_identifier, quote_literal

if TYPE_CHECKING:
    from lambda_migrate.migrations.baseline import SyncedHistory
    from lambda_migrate.postgresql.other_tools import SyncedTable, Tool

__all__ = ["create_sync_trigger", "drop_sync_trigger"]

_NAME = "sync_tool_history"


def create_sync_trigger(schema: str, synced: SyncedHistory) -> str:
    """Create the trigger, and store what the other tool calls each migration.

    Args:
        schema: The schema of this library's tables.
        synced: The other tool's table.
    """
    tool = get_tool(synced.tool)
    if tool.synced_table is None:
        raise AssertionError(synced.tool)  # `adopt` has refused it
    library = quote_identifier(schema)
    body = _trigger_body(
        library, ".".join(map(quote_identifier, synced.table)), tool, tool.synced_table
    )
    rows = ", ".join(
        f"({quote_literal(version)}, {quote_literal(key)}, {quote_literal(checksum or None)})"
        for version, key, checksum in synced.rows
    )
    insert = f"INSERT INTO {library}.synced_migration VALUES {rows};" if rows else ""
    return f"""
        DROP TABLE IF EXISTS {library}.synced_migration;
        CREATE TABLE {library}.synced_migration (
            version pg_catalog.text PRIMARY KEY, key pg_catalog.text NOT NULL,
            checksum pg_catalog.text);
        {insert}
        CREATE OR REPLACE FUNCTION {library}.{_NAME}() RETURNS trigger LANGUAGE plpgsql
            SET search_path = pg_catalog, pg_temp AS {quote_literal(body)};
        CREATE OR REPLACE TRIGGER {_NAME} AFTER INSERT OR UPDATE OF state OR DELETE
            ON {library}.history FOR EACH ROW EXECUTE FUNCTION {library}.{_NAME}()"""


def drop_sync_trigger(schema: str) -> str:
    """Remove what `create_sync_trigger` created, if it is there."""
    library = quote_identifier(schema)
    return f"""
        DROP TRIGGER IF EXISTS {_NAME} ON {library}.history;
        DROP FUNCTION IF EXISTS {library}.{_NAME}();
        DROP TABLE IF EXISTS {library}.synced_migration"""


def _trigger_body(library: str, table: str, tool: Tool, synced_table: SyncedTable) -> str:
    write = _write_last_version if synced_table.has_single_row else _write_row
    skip = f"history_version LIKE '{'R:%' if synced_table.has_repeatables else 'R%'}'"
    return f"""
DECLARE
    history_version text; history_name text; history_duration bigint; was_applied boolean := false;
    becomes_applied boolean := false; tool_key text; tool_checksum text;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        was_applied := OLD.state IN ('applied', 'rolling_back');
        history_version := OLD.version; history_name := OLD.name;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        becomes_applied := NEW.state IN ('applied', 'rolling_back');
        history_version := NEW.version; history_name := NEW.name;
        history_duration := NEW.duration_ms;
    END IF;
    IF was_applied = becomes_applied OR {skip} THEN
        RETURN NULL;
    END IF;
    {write(library, table, tool, synced_table)}
    RETURN NULL;
END"""


def _look_up(library: str, synced_table: SyncedTable) -> str:
    return f"""
    SELECT key, checksum INTO tool_key, tool_checksum FROM {library}.synced_migration
        WHERE version =
            CASE WHEN history_version LIKE 'R%' THEN history_name ELSE history_version END;
    IF NOT FOUND THEN
        tool_key := {synced_table.key_without_file};
        INSERT INTO {library}.synced_migration VALUES (history_version, tool_key);
    END IF;"""


def _write_row(library: str, table: str, tool: Tool, synced_table: SyncedTable) -> str:
    """One row for each migration; an application of a repeatable one is always a new row."""
    insert = synced_table.insert.replace("{table}", table)
    return f"""{_look_up(library, synced_table)}
    IF NOT becomes_applied THEN
        DELETE FROM {table} WHERE ({tool.key})::text = tool_key AND history_version NOT LIKE 'R%';
    ELSIF history_version LIKE 'R%' OR 'applied' IS DISTINCT FROM (
        SELECT {tool.state_expression} FROM {table}
        WHERE ({tool.key})::text = tool_key ORDER BY {tool.order} DESC LIMIT 1) THEN
        INSERT INTO {table} {insert};
    END IF;"""


def _write_last_version(library: str, table: str, _tool: Tool, synced_table: SyncedTable) -> str:
    return f"""
    SELECT version, name INTO history_version, history_name FROM {library}.history
        WHERE state IN ('applied', 'rolling_back') AND version ~ '^[0-9.]+$'
        ORDER BY string_to_array(version, '.')::numeric[] DESC LIMIT 1;
    IF FOUND THEN{_look_up(library, synced_table)}
    END IF;
    DELETE FROM {table};
    INSERT INTO {table} {synced_table.insert.replace("{table}", table)};"""
