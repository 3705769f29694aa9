"""Reads the history tables of other migration tools.

A table is recognized by its name *and* its columns. Any role that may create tables could create
one with such a name, so reading it must not run that role's code: only columns of PostgreSQL's own
types are read (a cast of another type may call a function of its owner), and never through a row
security policy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations.baseline import ToolHistory, ToolHistoryEntry
from lambda_migrate.migrations.requirement_check import RequirementInspection, check_requirement
from lambda_migrate.migrations.version import parse_version
from lambda_migrate.postgresql.connection import PostgresError
from lambda_migrate.postgresql.queries import system_id_expression
from lambda_migrate.postgresql.sql_fragments import (
    SAFE_SEARCH_PATH,
    quote_identifier,
    quote_literal,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lambda_migrate.migrations.requirements import Requirement

    RunQuery = Callable[[str], list[list[Any]]]
    """Sends one message; returns its rows."""

__all__ = ["TOOLS", "Tool", "get_tool", "inspect_requirements", "read_tool_histories"]

_MAX_ROWS = 100_000
"""The most rows that are read: more than any project has migrations."""

_LOCK_MS = 2_000
"""How long to wait for a table that a running tool has locked; then it counts as unreadable."""

_BEGIN_READING = (
    f"{SAFE_SEARCH_PATH} SET LOCAL row_security = off; SET LOCAL lock_timeout = {_LOCK_MS};"
)
"""With row security off, PostgreSQL raises an error where a policy of a table's owner would run."""

_NOT_PERMITTED = "cannot be read by this role: GRANT SELECT on it, and USAGE on its schema"


@dataclass(frozen=True, slots=True)
class SyncedTable:
    """How a tool's table is written by this library as well; see `history_sync_queries`.

    Attributes:
        insert: SQL after ``INSERT INTO table``, with the variables ``tool_key``, ``tool_checksum``
            (NULL for a migration that the tool has no file of), ``history_name`` and
            ``history_duration`` (in milliseconds).
        key_without_file: SQL for the key of a migration that the tool has no file of, from
            ``history_name`` and ``history_version``.
        has_single_row: Whether it stores only the last version; ``tool_key`` is NULL without one.
        has_repeatables: Whether repeatable migrations have rows.
    """

    insert: str
    key_without_file: str = "substring(history_name from '^V?([0-9]+)')"
    has_single_row: bool = False
    has_repeatables: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """How one tool stores its history.

    Attributes:
        name: The tool's name.
        table: The default name of its table.
        columns: The table's columns, with types where another tool's differ.
        key: SQL that identifies the migration; a later row of the same key replaces an earlier one.
        label: SQL for the displayed version; the key unless given.
        state_expression: SQL for ``applied``, ``failed`` or ``rolled back``.
        covers_expression: SQL for whether the row covers all earlier versions.
        where: SQL for the rows that count.
        order: SQL for the order in which rows were written.
        requires_exact_columns: Whether the table has no other columns.
        required_table: A table that must exist in the same schema.
        version_pattern: Where in the key the version number of the library's file is.
        is_comparable: Whether keys can be compared with the library's files.
        checksum: SQL for the checksum of the migration, as text.
        lock_table: A table in the same schema that shows whether the tool is migrating.
        lock_condition: SQL for that, on a row of it.
        unlock: What removes a lock that was left behind.
        repair: What the tool's user does about a failed version.
        synced_table: How its table is written by this library as well; None if it cannot be.
    """

    name: str
    table: str
    columns: str
    key: str
    label: str = ""
    state_expression: str = "'applied'"
    covers_expression: str = "false"
    where: str = "true"
    order: str = "1"
    requires_exact_columns: bool = False
    required_table: str = ""
    version_pattern: str = r"(\d+)"
    is_comparable: bool = True
    checksum: str = "NULL"
    lock_table: str = ""
    lock_condition: str = ""
    unlock: str = ""
    repair: str = ""
    synced_table: SyncedTable | None = None

    @property
    def setting_name(self) -> str:
        """The name in the setting ``ready_when``."""
        return self.name.lower().replace(" ", "-")

    def fits(self, columns: dict[str, str], tables_in_schema: set[str]) -> bool:
        """Whether a table with these columns and types, next to these tables, is the tool's."""
        wanted = [each.partition(":")[::2] for each in self.columns.split()]
        return (
            all(name in columns and kind in ("", columns[name]) for name, kind in wanted)
            and not (self.requires_exact_columns and len(columns) > len(wanted))
            and (not self.required_table or self.required_table in tables_in_schema)
        )


@dataclass(frozen=True, slots=True)
class _Table:
    """A table that may be a tool's.

    Attributes:
        schema: Its schema.
        name: Its name.
        columns: Name -> type, of the columns with a type of PostgreSQL's own.
        is_readable: Whether this role may read it.
        names_in_schema: The tables beside it, of the names that were searched for, and itself.
    """

    schema: str
    name: str
    columns: dict[str, str]
    is_readable: bool
    names_in_schema: set[str]

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


TOOLS = (
    Tool(
        "Rails",
        "schema_migrations",
        "version",
        key="version",
        requires_exact_columns=True,
        required_table="ar_internal_metadata",
        synced_table=SyncedTable("(version) VALUES (tool_key)"),
    ),
    Tool(
        "dbmate",
        "schema_migrations",
        "version",
        key="version",
        requires_exact_columns=True,
        synced_table=SyncedTable("(version) VALUES (tool_key)"),
    ),
    Tool(
        "Ecto",
        "schema_migrations",
        "version inserted_at",
        key="version",
        order="version, 1",
        synced_table=SyncedTable("(version, inserted_at) VALUES (tool_key::int8, now())"),
    ),
    Tool(
        "golang-migrate",
        "schema_migrations",
        "version dirty:bool",
        key="version",
        state_expression="CASE WHEN dirty THEN 'failed' ELSE 'applied' END",
        covers_expression="true",
        where="version >= 0",
        requires_exact_columns=True,
        repair="`migrate force VERSION`",
        synced_table=SyncedTable(
            "(version, dirty) SELECT tool_key::int8, false WHERE tool_key IS NOT NULL",
            has_single_row=True,
        ),
    ),
    Tool(
        "tern",
        "schema_version",
        "version:int4",
        key="version",
        covers_expression="true",
        where="version > 0",
        requires_exact_columns=True,
        synced_table=SyncedTable(
            "(version) VALUES (coalesce(tool_key, '0')::int4)", has_single_row=True
        ),
    ),
    Tool(
        "goose",
        "goose_db_version",
        "id version_id is_applied:bool",
        key="version_id",
        state_expression="CASE WHEN is_applied THEN 'applied' ELSE 'rolled back' END",
        where="version_id > 0",
        order="id",
        synced_table=SyncedTable("(version_id, is_applied) VALUES (tool_key::int8, true)"),
    ),
    Tool(
        "Flyway",
        "flyway_schema_history",
        "installed_rank version description type script success:bool checksum",
        key="version",
        label="concat(version, ' ', description)",
        state_expression="CASE WHEN NOT success THEN 'failed'"
        " WHEN type LIKE 'UNDO%' THEN 'rolled back' ELSE 'applied' END",
        covers_expression="type = 'BASELINE'",
        where="version IS NOT NULL AND type <> 'SCHEMA'",
        order="installed_rank",
        version_pattern=r"(\d+(?:[._]\d+)*)$",
        checksum="checksum",
        repair="`flyway repair`",
        synced_table=SyncedTable(
            "(installed_rank, version, description, type, script, checksum, installed_by,"
            " execution_time, success)"
            " SELECT coalesce(max(installed_rank), 0) + 1,"
            " CASE WHEN history_name LIKE 'R\\_\\_%' THEN NULL ELSE tool_key END,"
            " replace(regexp_replace(history_name, '^(R_|V?[0-9._]+_)_?', ''), '_', ' '), 'SQL',"
            " CASE WHEN history_name ~ '^[VR]' THEN history_name"
            " ELSE concat('V', tool_key, '__', regexp_replace(history_name, '^[0-9.]+_?', '')) END"
            " || '.sql', tool_checksum::int4, current_user, history_duration, true FROM {table}",
            key_without_file="history_version",
            has_repeatables=True,
        ),
    ),
    Tool(
        "Prisma",
        "_prisma_migrations",
        "migration_name started_at finished_at rolled_back_at checksum",
        key="migration_name",
        state_expression="CASE WHEN rolled_back_at IS NOT NULL THEN 'rolled back'"
        " WHEN finished_at IS NULL THEN 'failed' ELSE 'applied' END",
        order="started_at, finished_at",
        checksum="checksum",
        repair="`prisma migrate resolve`",
        synced_table=SyncedTable(
            "(id, checksum, finished_at, migration_name, started_at, applied_steps_count) VALUES"
            " (gen_random_uuid()::text, coalesce(tool_checksum, ''), now(), tool_key, now(), 1)",
            key_without_file="history_name",
        ),
    ),
    Tool(
        "sqlx",
        "_sqlx_migrations",
        "version description success:bool checksum",
        key="version",
        label="concat(version, ' ', description)",
        state_expression="CASE WHEN success THEN 'applied' ELSE 'failed' END",
        order="version, 1",
        checksum="encode(checksum, 'hex')",
        synced_table=SyncedTable(
            "(version, description, success, checksum, execution_time) VALUES (tool_key::int8,"
            " replace(regexp_replace(history_name, '^[0-9]+_', ''), '_', ' '), true,"
            " decode(coalesce(tool_checksum, ''), 'hex'), history_duration * 1000000)"
        ),
    ),
    Tool(
        "diesel",
        "__diesel_schema_migrations",
        "version run_on",
        key="version",
        synced_table=SyncedTable("(version, run_on) VALUES (tool_key, now())"),
    ),
    Tool(
        "refinery",
        "refinery_schema_history",
        "version name applied_on checksum",
        key="version",
        label="concat(version, ' ', name)",
        order="version, 1",
        checksum="checksum",
        synced_table=SyncedTable(
            "(version, name, applied_on, checksum) VALUES (tool_key::int4,"
            " regexp_replace(history_name, '^V?[0-9]+_+', ''),"
            " to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),"
            " coalesce(tool_checksum, '0'))"
        ),
    ),
    Tool(
        "Knex",
        "knex_migrations",
        "id name batch migration_time",
        key="name",
        order="id",
        lock_table="knex_migrations_lock",
        lock_condition="is_locked = 1",
        unlock="`knex migrate:unlock`",
        synced_table=SyncedTable(
            "(name, batch, migration_time)"
            " SELECT tool_key, coalesce(max(batch), 0) + 1, now() FROM {table}",
            key_without_file="history_name || '.js'",
        ),
    ),
    Tool(
        "TypeORM",
        "migrations",
        "id timestamp:int8 name",
        key='"timestamp"',
        label="name",
        order="id",
    ),
    Tool(
        "node-pg-migrate",
        "pgmigrations",
        "id name run_on",
        key="name",
        order="id",
        synced_table=SyncedTable(
            "(name, run_on) VALUES (tool_key, now())", key_without_file="history_name"
        ),
    ),
    Tool(
        "db-migrate",
        "migrations",
        "id name run_on",
        key="name",
        order="id",
        version_pattern=r"/?(\d+)",
    ),
    Tool("Sequelize", "SequelizeMeta", "name", key="name", requires_exact_columns=True),
    Tool(
        "graphile-migrate",
        "migrations",
        "hash previous_hash filename date",
        key="filename",
        checksum="hash",
    ),
    Tool(
        "yoyo",
        "_yoyo_migration",
        "migration_hash migration_id applied_at_utc",
        key="migration_id",
        order="applied_at_utc, 1",
        checksum="migration_hash",
        synced_table=SyncedTable(
            "(migration_hash, migration_id, applied_at_utc) VALUES"
            " (encode(sha256(tool_key::bytea), 'hex'), tool_key, now() AT TIME ZONE 'UTC')",
            key_without_file="history_name",
        ),
    ),
    Tool(
        "EF Core",
        "__EFMigrationsHistory",
        "MigrationId ProductVersion",
        key='"MigrationId"',
    ),
    # The tools below store no file names, or none from which a version number follows.
    Tool(
        "Alembic",
        "alembic_version",
        "version_num",
        key="version_num",
        requires_exact_columns=True,
        is_comparable=False,
    ),
    Tool(
        "Django",
        "django_migrations",
        "id app name applied",
        key="concat(app, '.', name)",
        order="id",
        is_comparable=False,
    ),
    Tool(
        "Laravel",
        "migrations",
        "id migration batch",
        key="migration",
        order="id",
        is_comparable=False,
    ),
    Tool(
        "Liquibase",
        "databasechangelog",
        "id author filename dateexecuted orderexecuted md5sum",
        key="concat(filename, ':', author, ':', id)",
        order="orderexecuted",
        is_comparable=False,
        lock_table="databasechangeloglock",
        lock_condition="locked",
        unlock="`liquibase release-locks`",
    ),
    Tool(
        "sqitch",
        "changes",
        "change_id script_hash change project committed_at planned_at",
        key="change_id",
        label="change",
        order="committed_at",
        is_comparable=False,
        checksum="script_hash",
    ),
    Tool(
        "drizzle",
        "__drizzle_migrations",
        "id hash created_at",
        key="created_at",
        label="hash",
        order="created_at, 1",
        is_comparable=False,
        checksum="hash",
        synced_table=SyncedTable(
            "(hash, created_at) VALUES (coalesce(tool_checksum, ''), tool_key::int8)",
            key_without_file="(extract(epoch FROM clock_timestamp()) * 1000)::int8::text",
        ),
    ),
)
"""A table is compared with them in this order; the first match counts."""


def get_tool(name: str) -> Tool:
    """The tool of this name."""
    return next(each for each in TOOLS if each.name == name)


def read_tool_histories(run: RunQuery) -> list[ToolHistory]:
    """Read every history table of another tool in this database.

    Args:
        run: Sends one message.

    Raises:
        PostgresError: The catalog cannot be read.
    """
    names = {name for tool in TOOLS for name in (tool.table, tool.required_table, tool.lock_table)}
    return [
        _read_history(run, tool, table, check_lock=True)
        for table in _find_tables(run, names)
        if (tool := _find_tool(table)) is not None
    ]


def inspect_requirements(
    run: RunQuery, requirements: Sequence[Requirement]
) -> RequirementInspection:
    """Read whether other tools have applied what the setting ``ready_when`` requires.

    Args:
        run: Sends one message.
        requirements: What is required.

    Raises:
        ConfigurationError: A table may not be read, or several tables fit.
        PostgresError: The catalog cannot be read.
    """
    tools = {tool.setting_name: tool for tool in TOOLS}
    names = {each.table or tools[each.tool].table for each in requirements}
    names |= {tools[each.tool].required_table for each in requirements}
    tables = _find_tables(run, names)
    results = []
    for requirement in requirements:
        tool = tools[requirement.tool]
        found = _find_required_tables(requirement, tool, tables)
        histories = [_read_history(run, tool, table) for table in found]
        results.append(check_requirement(requirement, tool.name, histories))
    [[can_read_system_id]] = run(
        f"{SAFE_SEARCH_PATH} SELECT has_function_privilege('pg_control_system()', 'EXECUTE')"
    )
    system = system_id_expression(can_read_system_id=can_read_system_id)
    [[system_id]] = run(f"{SAFE_SEARCH_PATH} SELECT {system}")
    return RequirementInspection(tuple(results), system_id)


def _find_required_tables(
    requirement: Requirement, tool: Tool, tables: Sequence[_Table]
) -> list[_Table]:
    """The tool's table that a requirement is about, if it exists.

    Raises:
        ConfigurationError: This role may not read it, or several tables fit.
    """
    found = [
        table
        for table in tables
        if table.name == (requirement.table or tool.table)
        and table.schema == (requirement.schema or table.schema)
        and tool.fits(table.columns, table.names_in_schema)
    ]
    if len(found) > 1:
        shown = ", ".join(map(str, found))
        raise ConfigurationError(
            f"{requirement}: this database has {len(found)} history tables of {tool.name} "
            f"({shown}): name the schema of one, {requirement._replace(schema=found[0].schema)}"
        )
    for table in found:
        if not table.is_readable:
            raise ConfigurationError(
                f"{requirement}: the table {table} of {tool.name} {_NOT_PERMITTED}"
            )
    return found


def _find_tables(run: RunQuery, names: Iterable[str]) -> list[_Table]:
    """Find the tables of these names in all schemas; an empty name is ignored."""
    rows = run(_select_tables(sorted(set(names) - {""})))
    names_in_schema: dict[str, set[str]] = {}
    for schema, name, *_ in rows:
        names_in_schema.setdefault(schema, set()).add(name)
    return [
        _Table(
            schema,
            name,
            dict(each.rpartition(":")[::2] for each in columns.split("\n")),
            is_readable,
            names_in_schema[schema],
        )
        for schema, name, columns, is_readable in rows
    ]


def _find_tool(table: _Table) -> Tool | None:
    return next(
        (
            tool
            for tool in TOOLS
            if tool.table == table.name and tool.fits(table.columns, table.names_in_schema)
        ),
        None,
    )


def _read_history(
    run: RunQuery, tool: Tool, table: _Table, *, check_lock: bool = False
) -> ToolHistory:
    fault = _NOT_PERMITTED
    rows: Sequence[Sequence[Any]] = ()
    if table.is_readable:
        try:
            rows = run(_select_history(tool, table))
            fault = ""
        except PostgresError as error:
            fault = f"cannot be read: {error.message}"
    has_lock = check_lock and tool.lock_table in table.names_in_schema
    if not fault and has_lock and rows and run(_select_lock(tool, table)):
        fault = (
            f"is locked by a running {tool.name}, or by one that was killed: wait for it, or end "
            f"it and run {tool.unlock}"
        )
    return ToolHistory(
        tool.name,
        str(table),
        _parse_entries(tool, rows),
        tool.is_comparable,
        fault,
        schema_and_name=(table.schema, table.name),
    )


def _parse_entries(tool: Tool, rows: Sequence[Sequence[Any]]) -> tuple[ToolHistoryEntry, ...]:
    latest: dict[str, ToolHistoryEntry] = {}
    for key, label, state, covers, checksum in rows:
        latest.pop(key, None)  # so that it moves to the end, where the latest is
        number = re.match(tool.version_pattern, key) if tool.is_comparable else None
        version = parse_version(number[1].replace("_", ".")) if number is not None else None
        latest[key] = ToolHistoryEntry(label, state, version, covers, key, checksum or "")
    return tuple(latest.values())


def _select_tables(names: Sequence[str]) -> str:
    """Tables of these names in all schemas: schema, name, ``column:type`` lines, may it be read.

    Columns of other types than PostgreSQL's own are left out: to turn one into text may call a
    function of its owner.
    """
    return f"""
        {SAFE_SEARCH_PATH}
        SELECT n.nspname, c.relname, string_agg(concat(a.attname, ':', t.typname), chr(10)),
               has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_type t ON t.oid = a.atttypid AND t.typnamespace = 'pg_catalog'::regnamespace
        WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
          AND n.nspname <> 'information_schema'
          AND c.relname IN ({", ".join(map(quote_literal, names))})
        GROUP BY n.nspname, n.oid, c.relname, c.oid ORDER BY n.nspname, c.relname"""


def _select_history(tool: Tool, table: _Table) -> str:
    """Rows of a tool's history table: key, label, state, covers earlier ones, checksum."""
    return (
        f"{_BEGIN_READING} SELECT {tool.key}::text, {tool.label or tool.key}::text,"
        f" {tool.state_expression}, {tool.covers_expression}, ({tool.checksum})::text"
        f" FROM {quote_identifier(table.schema)}.{quote_identifier(table.name)}"
        f" WHERE {tool.where} ORDER BY {tool.order} LIMIT {_MAX_ROWS}"
    )


def _select_lock(tool: Tool, table: _Table) -> str:
    """A row if the tool's own lock is taken."""
    lock_table = f"{quote_identifier(table.schema)}.{quote_identifier(tool.lock_table)}"
    return f"{_BEGIN_READING} SELECT true FROM {lock_table} WHERE {tool.lock_condition} LIMIT 1"
