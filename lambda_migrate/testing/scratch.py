"""Databases for one test each, on a PostgreSQL server that tests may use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

from lambda_migrate.database_address import DatabaseAddress, parse_url
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.events import null_observer
from lambda_migrate.postgresql.connection import ConnectionFailed, connect
from lambda_migrate.settings import Settings
from lambda_migrate.wiring import make_manifest, make_target

if TYPE_CHECKING:
    from lambda_migrate.engine.target import Target
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.postgresql.connection import Connection

__all__ = ["ScratchDatabase", "ScratchServer", "connect_to", "open_migrations"]

_PREFIX = "lambda_migrate_test_"
_CONNECT_SECONDS = 30.0


@dataclass(frozen=True)
class ScratchDatabase:
    """A database that one test has for itself.

    Attributes:
        url: The database's libpq URL, as for ``LAMBDA_MIGRATE_DATABASE_URL``.
        name: The database's name.
    """

    url: str
    name: str

    def execute(self, sql: str) -> list[list[Any]]:
        """Run SQL, any number of statements, and return the rows.

        Booleans, integers and floats are converted, NULL is None, everything else is text.

        Args:
            sql: The statements. They are one transaction, unless they have a BEGIN of their own.

        Raises:
            ConfigurationError: The database cannot be reached.
            PostgresError: A statement was refused; its ``sqlstate`` has the reason.
            ValueError: The SQL contains a NUL or an unpaired surrogate. Nothing was sent.
        """
        with connect_to(self) as connection:
            return connection.run(sql)


class ScratchServer:
    """Creates and drops databases on a server. Other processes may do so at the same time.

    Args:
        url: A libpq URL of any database on the server; its role may create databases.
    """

    def __init__(self, url: str) -> None:
        self._url, self._address = url, parse_url(url)

    def create(self, *, template: ScratchDatabase | None = None) -> ScratchDatabase:
        """Create an empty database, or a copy of a template."""
        name = f"{_PREFIX}{uuid4().hex[:16]}"
        source = "" if template is None else f' TEMPLATE "{template.name}"'
        self.execute(f'CREATE DATABASE "{name}"{source}')
        return ScratchDatabase(_replace_database(self._url, name), name)

    def make_template(self, database: ScratchDatabase) -> None:
        """Refuse connections to a database from now on: one would prevent copying it."""
        self.execute(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false')

    def drop(self, database: ScratchDatabase) -> None:
        """Drop a database and terminate the sessions that use it."""
        self.execute(f'DROP DATABASE IF EXISTS "{database.name}" WITH (FORCE)')

    def execute(self, sql: str) -> None:
        """Run SQL that concerns the whole server, such as ``CREATE ROLE``."""
        with _connect(self._address) as connection:
            connection.run(sql)


def connect_to(database: ScratchDatabase) -> Connection:
    """Open a connection to a database.

    Raises:
        ConfigurationError: The database cannot be reached.
    """
    return _connect(parse_url(database.url))


def open_migrations(
    database: ScratchDatabase, directory: str, *, schema: str
) -> tuple[Manifest, Target]:
    """Read the migration files, and make a target of the database, without a lease table.

    Raises:
        ManifestError: The migration files cannot be used.
    """
    arguments = {"database_url": database.url, "directory": directory, "schema": schema}
    values = os.environ.get("LAMBDA_MIGRATE_PLACEHOLDERS") or None
    settings = Settings.load({}, placeholders=values, **arguments)
    return make_manifest(settings, {}), make_target(settings, observer=null_observer)


def _connect(address: DatabaseAddress) -> Connection:
    try:
        return connect(address, application_name="lambda_migrate.testing", timeout=_CONNECT_SECONDS)
    except ConnectionFailed as failed:
        raise ConfigurationError(str(failed)) from failed


def _replace_database(url: str, name: str) -> str:
    """The same server, role and parameters, and another database."""
    location, _, query = url.partition("?")
    scheme, _, rest = location.partition("://")
    authority = rest.partition("/")[0]
    return f"{scheme}://{authority}/{quote(name)}" + (f"?{query}" if query else "")
