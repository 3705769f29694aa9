"""A first migration from the schema as it is, for a tool whose migrations are code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from lambda_migrate.adopt.files import SourceMigration, SourceScript
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations.baseline import APPLIED
from lambda_migrate.migrations.sql.excerpt import redact
from lambda_migrate.migrations.tool_folders import ADOPTION_GUIDE
from lambda_migrate.postgresql.sql_fragments import quote_identifier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lambda_migrate.database_address import DatabaseAddress
    from lambda_migrate.migrations.baseline import ToolHistory

__all__ = ["dump_schema"]

_NAME = "0001_baseline"

# Commands of psql, and settings that would switch off the time limits of an invocation.
_UNWANTED_LINES = re.compile(r"^(?:\\|SET \w*_timeout =).*\n", re.MULTILINE)


def dump_schema(
    address: DatabaseAddress | None,
    history: ToolHistory,
    *,
    schema: str,
    timeout: float,
) -> SourceMigration:
    """Dump the schema, without the tool's own tables.

    Args:
        address: The database; None if a secret names it.
        history: The tool's history.
        schema: The schema of this library's tables.
        timeout: In seconds.

    Raises:
        ConfigurationError: pg_dump is missing, fails, or does not finish in time.
    """
    program = shutil.which("pg_dump")
    if program is None or address is None:
        missing = (
            "the database is named by a secret: write the dump yourself"
            if program
            else "pg_dump is not on the PATH: put it there, or write the dump yourself"
        )
        raise ConfigurationError(
            f"the migrations of {history.tool} are code, so the first migration is a dump of the "
            f"schema, and {missing}, see {ADOPTION_GUIDE}"
        )
    own_schema, table = history.schema_and_name
    tables = (table, f"{table}lock", f"{table}_lock", "ar_internal_metadata")
    command = [
        *(program, "--schema-only", "--no-owner", "--no-privileges"),
        f"--exclude-schema={quote_identifier(schema)}",
        *(
            f"--exclude-table={quote_identifier(own_schema)}.{quote_identifier(each)}"
            for each in tables
        ),
    ]
    sql = _UNWANTED_LINES.sub("", _run(command, _make_variables(address), timeout=timeout))
    sql = _remove_owned_sequences(sql, tables)
    return SourceMigration(
        key="\n".join(_list_applied(history)), name=_NAME, path="pg_dump", up=SourceScript(sql)
    )


def _run(command: Sequence[str], variables: Mapping[str, str], *, timeout: float) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - pg_dump with arguments that are no options
            command,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        raise ConfigurationError(
            f"{command[0]} cannot be run: {error.strerror}; install PostgreSQL's pg_dump, or "
            "correct the PATH"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(
            f"pg_dump did not finish in {timeout:.0f} s; give the command more time with --timeout"
        ) from error
    if done.returncode != 0:
        raise ConfigurationError(
            f"pg_dump failed: {redact(done.stderr.strip()[-500:])}; use a pg_dump of the server's "
            "version or a later one"
        )
    return done.stdout


def _list_applied(history: ToolHistory) -> Iterable[str]:
    return sorted(each.key for each in history.entries if each.state == APPLIED)


def _remove_owned_sequences(sql: str, tables: Iterable[str]) -> str:
    """pg_dump leaves out a table, but writes the sequence of its serial column."""
    names = "|".join(re.escape(f"{each}_id_seq") for each in tables)
    return re.sub(rf'CREATE SEQUENCE \S*?"?(?:{names})"?\n[^;]*;\n', "", sql)


def _make_variables(address: DatabaseAddress) -> dict[str, str]:
    """Libpq's variables: the arguments of a process are visible to other users."""
    found = {
        "PGHOST": address.socket_dir or address.host,
        "PGPORT": str(address.port),
        "PGDATABASE": address.database,
        "PGUSER": address.user,
        "PGPASSWORD": address.password or "",
        "PGPASSFILE": address.passfile,
        "PGSSLMODE": address.effective_sslmode,
        "PGSSLROOTCERT": address.sslrootcert,
        "PGOPTIONS": address.options,
    }
    return {name: value for name, value in found.items() if value}
