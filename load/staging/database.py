"""The database of a validation: copies all rows and the schema, and compares them later.

Each value is copied as text, so that a column may change its type. Rows that were added meanwhile,
as happens under traffic, are not compared.
"""

from __future__ import annotations

import difflib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lambda_migrate.local.runtime.process import ProcessError
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL, find_binaries
from lambda_migrate.postgresql.sql_fragments import quote_identifier

RunQuery = Callable[[str], list[list[Any]]]  # runs one statement, and returns its rows
_COPY_SCHEMA = "lambda_migrate_staging"  # the schema of the copies
_DUMP_TIMEOUT_SECONDS = 300.0

_COLUMNS_SQL = """
SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position)
FROM information_schema.columns
JOIN pg_tables ON schemaname = table_schema AND tablename = table_name
WHERE schemaname = 'public' GROUP BY 1 ORDER BY 1
"""

_INVALID_INDEXES_SQL = """
SELECT 'INVALID index ' || indexrelid::regclass FROM pg_index WHERE NOT indisvalid ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class TableCopy:
    """A table that was copied."""

    table: str
    columns: tuple[str, ...]
    rows: int


def copy_tables(run: RunQuery) -> list[TableCopy]:
    """Copy every table as it is now."""
    run(f"CREATE SCHEMA {_COPY_SCHEMA}")
    copies = []
    for table, columns in run(_COLUMNS_SQL):
        name = quote_identifier(table)
        texts = _cast_to_text(columns)
        run(f"CREATE UNLOGGED TABLE {_COPY_SCHEMA}.{name} AS SELECT {texts} FROM public.{name}")  # noqa: S608 - quoted names
        [[rows]] = run(f"SELECT count(*) FROM {_COPY_SCHEMA}.{name}")  # noqa: S608 - quoted names
        copies.append(TableCopy(table, tuple(columns), int(rows)))
    return copies


def find_changed_rows(run: RunQuery, copies: Sequence[TableCopy]) -> Iterator[str]:
    """Name each table in which not every row that was copied is as it was."""
    columns_now = {table: columns for table, columns in run(_COLUMNS_SQL)}  # noqa: C416 - lists
    for copy in copies:
        dropped = [one for one in copy.columns if one not in columns_now.get(copy.table, ())]
        if dropped:
            yield f"{copy.table}: dropped {', '.join(dropped)}"
            continue
        name = quote_identifier(copy.table)
        texts = _cast_to_text(copy.columns)
        [[count, examples]] = run(
            "SELECT count(*), (array_agg(left(row::text, 100)))[1:3] FROM ("  # noqa: S608 - quoted names
            f"SELECT {texts} FROM {_COPY_SCHEMA}.{name} "
            f"EXCEPT ALL SELECT {texts} FROM public.{name}"
            ") AS row"
        )
        if count:
            lost = f"{count:,} of {copy.rows:,} rows of {copy.table} are lost or changed"
            yield f"{lost}, such as {', '.join(examples)}"


def _cast_to_text(columns: Sequence[str]) -> str:
    names = [quote_identifier(one) for one in columns]
    return ", ".join(f"{name}::text AS {name}" for name in names)


def read_schema(server: LocalPostgreSQL, database: str) -> list[str]:
    """The lines that pg_dump writes, and the INVALID indexes, which it leaves out."""
    command = [
        *(str(find_binaries() / "pg_dump"), "--schema-only"),
        *("--exclude-schema=lambda_migrate", f"--exclude-schema={_COPY_SCHEMA}"),
        *("-h", str(server.socket_directory), "-p", str(server.port), "-U", "postgres", database),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_DUMP_TIMEOUT_SECONDS, check=False
    )
    if done.returncode != 0:
        raise ProcessError(f"pg_dump failed: {done.stderr.strip()[-1000:]}")
    # Comments, and commands of psql that contain a random key.
    skipped = ("--", "\\")
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith(skipped)]
    invalid = server.execute(_INVALID_INDEXES_SQL, database=database)
    return [*lines, *(str(line) for (line,) in invalid)]


def find_schema_differences(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The lines that a schema has gained (``+``) and lost (``-``), in order."""
    lines = difflib.unified_diff(before, after, n=0, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]
