"""What a connection and its role can do, read without a change; for ``lambda-migrate doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable
from lambda_migrate.postgresql.connection import ConnectionFailed, ConnectionLost, PostgresError
from lambda_migrate.postgresql.sql_fragments import SERVER_KEY, quote_literal

if TYPE_CHECKING:
    from lambda_migrate.postgresql.database import PostgreSQLDatabase

__all__ = ["ConnectionReport", "check_connection"]


@dataclass(frozen=True, slots=True)
class ConnectionReport:
    """One connection, its server and its role.

    Attributes:
        is_encrypted: Whether it goes over TLS.
        is_pooled: Whether a pooler stands between: the backend is not the one of the login.
        server_version: ``16.4``.
        user: The role of the login.
        role: The role that the statements run as; another one after ``ALTER ROLE ... SET role``.
        is_superuser: Whether that role is a superuser.
        may_create_schema: Whether it may create a schema in the database.
        has_schema: Whether the library's schema exists.
        may_use_schema: Whether it may use that schema; False if there is none.
        may_create_in_schema: Whether it may create tables there; False if there is none.
        is_read_only: Whether its transactions are read-only by default.
        is_replica: Whether the server is in recovery.
        connections: How many client connections the server has.
        max_connections: How many it accepts.
        server: See `SERVER_KEY`.
    """

    is_encrypted: bool
    is_pooled: bool
    server_version: str
    user: str
    role: str
    is_superuser: bool
    may_create_schema: bool
    has_schema: bool
    may_use_schema: bool
    may_create_in_schema: bool
    is_read_only: bool
    is_replica: bool
    connections: int
    max_connections: int
    server: str


def check_connection(database: PostgreSQLDatabase, seconds: float) -> ConnectionReport:
    """Open one connection and read what it can do.

    Args:
        database: The database.
        seconds: Timeout for everything.

    Raises:
        ConfigurationError: The login or a query was refused; see `open_connection`.
        DatabaseUnavailable: PostgreSQL did not respond.
    """
    try:
        with database.connect("lambda-migrate doctor", seconds) as connection:
            ((pid, *values),) = connection.run(_make_query(database.schema), timeout=seconds)
            is_pooled = pid != connection.pid
            return ConnectionReport(connection.is_encrypted, is_pooled, *values)
    except ConnectionFailed as failed:
        if failed.permanent:
            raise ConfigurationError(str(failed)) from failed
        raise DatabaseUnavailable(str(failed)) from failed
    except ConnectionLost as lost:
        raise DatabaseUnavailable(f"the connection to PostgreSQL broke: {lost}") from lost
    except PostgresError as error:
        raise ConfigurationError(
            f"PostgreSQL refused a query: {error.message} [{error.sqlstate}]"
        ) from error


def _make_query(schema: str) -> str:
    named = quote_literal(schema)
    found = f"(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = {named})"  # noqa: S608
    return f"""
        SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('server_version'),
            session_user::text, current_user::text,
            (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
            pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
            {found} IS NOT NULL,
            coalesce(pg_catalog.has_schema_privilege({found}, 'USAGE'), false),
            coalesce(pg_catalog.has_schema_privilege({found}, 'CREATE'), false),
            pg_catalog.current_setting('default_transaction_read_only')::bool,
            pg_catalog.pg_is_in_recovery(),
            (SELECT count(*)::int FROM pg_catalog.pg_stat_activity
             WHERE backend_type = 'client backend'),
            pg_catalog.current_setting('max_connections')::int,
            {SERVER_KEY}"""  # noqa: S608
