"""What a connection of SQLAlchemy is in, as its driver says, and statements beside SQLAlchemy."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from lambda_migrate.sources.protocol import ChildError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from lambda_migrate.sources.statement_log import StatementLog

__all__ = [
    "FAILED",
    "IDLE",
    "OPEN",
    "Session",
    "find_driver",
    "find_session",
    "find_sqlstate",
    "get_session",
    "is_autocommit",
    "is_postgresql",
    "query",
    "query_all",
    "read_backend_pid",
    "read_status",
]

IDLE, OPEN, FAILED = "idle", "open", "failed"
_LIBPQ_STATUS = {0: IDLE, 1: OPEN, 2: OPEN, 3: FAILED}
_PG8000_STATUS = {b"T": OPEN, b"E": FAILED}
_INFO_KEY = "lambda_migrate"


class Session:
    """What is known of one connection of a driver."""

    def __init__(self) -> None:
        self.is_fenced = False
        """Whether the open transaction has compared the fence."""
        self.has_changes = False
        """Whether env.py has run more than reads and settings in the open transaction."""
        self.has_advisory_lock = False
        self.log: StatementLog | None = None
        """Of the running step; None until it writes over this connection."""
        self.log_id = ""
        self.has_marker = False
        """Whether the open transaction has marked the log as incomplete."""
        self.in_doubt = ""
        """The entry of the statement that runs outside a transaction."""
        self.atomic_in_doubt = False


def is_postgresql(connection: Connection) -> bool:
    """Whether it is a connection to PostgreSQL."""
    return connection.dialect.name == "postgresql"


def find_driver(dbapi: Any) -> Any:
    """The driver's own connection, also behind SQLAlchemy's adapter for asyncio."""
    return getattr(dbapi, "driver_connection", dbapi)


def _driver_of(connection: Connection) -> Any:
    return find_driver(connection.connection.dbapi_connection)


def is_autocommit(connection: Connection) -> bool:
    """Whether the driver commits each statement by itself."""
    return bool(connection.connection.dbapi_connection.autocommit)  # type: ignore[union-attr]


def read_status(connection: Connection) -> str:
    """Whether the driver has a transaction open."""
    driver = _driver_of(connection)
    info = getattr(driver, "info", None)
    if info is not None and hasattr(info, "transaction_status"):  # psycopg, psycopg2
        return _LIBPQ_STATUS.get(int(info.transaction_status), FAILED)
    if hasattr(driver, "is_in_transaction"):  # asyncpg
        return OPEN if driver.is_in_transaction() else IDLE
    if hasattr(driver, "_transaction_status"):  # pg8000
        return _PG8000_STATUS.get(driver._transaction_status, IDLE)
    raise ChildError(
        f"the driver {connection.dialect.driver} is not supported: use psycopg, psycopg2, asyncpg "
        "or pg8000 in env.py",
        kind="configuration",
    )


def read_backend_pid(connection: Connection) -> int:
    """The backend's process id, as the login reported it."""
    driver = _driver_of(connection)
    info = getattr(driver, "info", None)
    if info is not None:
        return int(info.backend_pid)
    if hasattr(driver, "get_server_pid"):
        return int(driver.get_server_pid())
    return int.from_bytes(driver._backend_key_data[:4], "big")


def get_session(connection: Connection) -> Session:
    """What is known of it, from now on."""
    session = connection.info.setdefault(_INFO_KEY, Session())
    assert isinstance(session, Session)  # noqa: S101 - the key is ours
    return session


def find_session(connection: Connection) -> Session | None:
    """What is known of it; None if it is closed."""
    if connection.closed or connection.invalidated:
        return None
    try:
        session: Session | None = connection.info.get(_INFO_KEY)
    except NotImplementedError:  # of the proxy with which SQLAlchemy inspects a new server
        return None
    return session


def query(connection: Connection, sql: str) -> Any:
    """Run one of our statements beside SQLAlchemy; returns its first row."""
    return next(iter(query_all(connection, sql)), None)


def query_all(connection: Connection, sql: str) -> list[list[Any]]:
    """Run one of our statements beside SQLAlchemy; returns its rows."""
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(sql)
        return [list(row) for row in cursor.fetchall()] if cursor.description else []


def find_sqlstate(error: BaseException | None) -> str:
    """The SQLSTATE in an error of any driver, or of SQLAlchemy around it."""
    original = getattr(error, "orig", None) or error
    for name in ("sqlstate", "pgcode"):
        code = getattr(original, name, None)
        if isinstance(code, str):
            return code
    fields = original.args[0] if isinstance(original, Exception) and original.args else None
    return str(fields.get("C", "")) if isinstance(fields, dict) else ""
