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
from lambda_migrate.local.demo.stage import make_operator
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL, find_binaries
from load.staging.records import Run
from load.staging.shop import CUSTOMERS, ORDERS, Shop
from load.storm.stage import StormStage

__all__ = ["TUNING", "connected", "fill", "migrate", "restore"]

TUNING = {
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "maintenance_work_mem": "128MB",
    "work_mem": "32MB",
}
"""Somewhat more of a server than a storm needs."""

_RESTORE_SECONDS = 3_600.0
_ARCHIVE = b"PGDMP"


@contextmanager
def connected(server: LocalPostgreSQL, database: str) -> Iterator[Any]:
    """A connection of our own, which is none of the application and none of lambda-migrate."""
    import pg8000.native

    connection = pg8000.native.Connection(
        "postgres",
        database=database,
        unix_sock=str(server.socket),
        application_name="rehearsal",
    )
    try:
        yield connection
    finally:
        connection.close()


def runner(connection: Any) -> Run:
    """One statement at a time on this connection."""
    return lambda sql: connection.run(sql) or []


def migrate(stage: StormStage) -> tuple[str, ...]:
    """Bring the schema to the old version, as its own function would; what was applied."""
    operator = make_operator(stage.codes[1], stage.variables(), stage.dynamodb, null_observer)
    return operator.up(Deadline.after(_RESTORE_SECONDS))


def fill(connection: Any, shop: Shop) -> None:
    """Put a shop's data into the example's tables, and let the planner know it.

    As pg_restore does, foreign keys are not looked at row by row; a check looks at all of them.
    """
    connection.run("SET session_replication_role = replica")
    connection.run(f"COPY {CUSTOMERS} FROM STDIN", stream=shop.copy_customers())
    connection.run(f"COPY {ORDERS} FROM STDIN", stream=shop.copy_orders())
    connection.run("RESET session_replication_role")
    for table in ("customers", "orders"):
        connection.run(
            f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), "  # noqa: S608 - two names of our own
            f"(SELECT greatest(max(id), 1) FROM {table}))"
        )
    connection.run("ANALYZE")


def restore(server: LocalPostgreSQL, database: str, dump: Path) -> None:
    """Read a dump: of pg_dump in either format, or any other script for psql.

    Raises:
        ConfigurationError: It cannot be read, with what the program said.
    """
    try:
        with dump.open("rb") as file:
            is_archive = file.read(len(_ARCHIVE)) == _ARCHIVE
    except OSError as error:
        raise ConfigurationError(f"{dump}: {error.strerror}") from error
    binaries = find_binaries()
    where = ("-h", str(server.socket_directory), "-p", str(server.port), "-U", "postgres")
    reader: tuple[str, ...] = ("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(dump))
    if is_archive:
        reader = ("pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", str(dump))
    command = [str(binaries / reader[0]), *where, "-d", database, *reader[1:]]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_RESTORE_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise ConfigurationError(f"{command[0]} is not there: install the extra `local`") from error
    if done.returncode != 0:
        raise ConfigurationError(f"{dump} could not be restored: {done.stderr.strip()[-1000:]}")
