"""The fence in every transaction of Django's connections, and the limits of their statements."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from django.db import Error

from lambda_migrate.postgresql.sql_fragments import ServerTimeouts
from lambda_migrate.sources.django_child.errors import find_message, find_sqlstate
from lambda_migrate.sources.fence_queries import UNDEFINED_OBJECT_SQLSTATES, FenceQueries
from lambda_migrate.sources.protocol import ChildError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lambda_migrate.sources.django_child.current_step import CurrentStep
    from lambda_migrate.sources.protocol import ChildRequest

__all__ = ["IDLE", "IN_TRANSACTION", "Fence"]

IDLE, IN_TRANSACTION = 0, 2
"""Transaction states of libpq, as both drivers report them."""

_INSUFFICIENT_PRIVILEGE = "42501"


class Fence:
    """Compares the fence on PostgreSQL connections of Django.

    Args:
        request: The request.

    Attributes:
        failure: Why nothing more may run, even if the project caught it.
        step: The migration that is running.
    """

    def __init__(self, request: ChildRequest) -> None:
        self.queries = FenceQueries(request)
        self.step: CurrentStep | None = None
        self.failure: ChildError | None = None
        self._request = request
        self._alias = request.options["django_database"]

    def find_step_id(self) -> str:
        """The id of the running migration; "" if none runs."""
        return self.step.id if self.step is not None else ""

    def check(self, connection: Any) -> None:
        """Share the fence row in the transaction that is open, or begin one.

        Raises:
            ChildError: It is another holder's; everything was rolled back.
        """
        try:
            rows = self.run(connection, self.queries.lock_fence_for_share())
            self.queries.compare(rows[0] if rows else None)
        except ChildError as error:
            self.fail(connection, error)
        except Error as error:
            sqlstate = find_sqlstate(error)
            if sqlstate in UNDEFINED_OBJECT_SQLSTATES:
                self.fail(connection, self.queries.wrong_database_error())
            if sqlstate == _INSUFFICIENT_PRIVILEGE:
                user = connection.settings_dict.get("USER") or "its user"
                self.fail(
                    connection,
                    ChildError(
                        f"Django connects as {user}, which may not lock lambda-migrate's fence: "
                        f"{find_message(error)}; use the same role for both, or grant it SELECT, "
                        f"INSERT, UPDATE and DELETE on all tables of schema {self._request.schema}",
                        kind="configuration",
                    ),
                )
            raise

    def fail(self, connection: Any, error: ChildError) -> None:
        """Roll back, and let nothing more run."""
        self.failure = error
        with suppress(Exception):
            connection.connection.rollback()
        raise error

    def write(self, connection: Any, *statements: str) -> None:
        """Write rows of the mirror, in the transaction that is open or in one of their own."""
        with self.fenced_transaction(connection):
            for statement in statements:
                self.run(connection, statement)

    def is_fenced(self, connection: Any) -> bool:
        """Whether it points to the database that was taken over; another alias may not."""
        if connection.alias == self._alias:
            return True
        known = connection.__dict__.get("_lambda_migrate_is_fenced")
        if known is None:
            rows = self.run(connection, self.queries.find_fence())
            rows = self.run(connection, self.queries.read_identity()) if rows[0][0] else []
            known = bool(rows) and rows[0][0] == self._request.identity
            connection._lambda_migrate_is_fenced = known
        return bool(known)

    @contextmanager
    def fenced_transaction(self, connection: Any) -> Iterator[None]:
        """A transaction that has shared the fence; none if one is open."""
        raw = connection.connection
        if raw.info.transaction_status != IDLE:
            yield
            return
        if not raw.autocommit:
            self.check(connection)
            yield
            return
        self.run(connection, "BEGIN")
        try:
            self.check(connection)
            yield
        except BaseException:
            with suppress(Exception):
                self.run(connection, "ROLLBACK")
            raise
        self.run(connection, "COMMIT")

    def require_direct_connection(self, connection: Any) -> None:
        """Refuse a pooler, which would hand the session on; take the advisory lock without one."""
        pid = connection.connection.info.backend_pid
        is_direct, _ = self.run(connection, self.queries.try_shared_advisory_lock(pid))[0]
        if not is_direct:
            self.fail(connection, self.queries.pooler_error())

    @contextmanager
    def limit_statement(self, connection: Any) -> Iterator[None]:
        """Limit a statement outside a transaction; the project's own limits return after it."""
        left = max(1, round(self._request.seconds_left * 1000))
        names = {
            "statement_timeout": left,
            "lock_timeout": 0,
            "client_connection_check_interval": ServerTimeouts.CLIENT_CHECK_MS,
        }
        before = {name: self.run(connection, f"SHOW {name}")[0][0] for name in names}
        for name, value in names.items():
            self.run(connection, f"SET {name} = {value}")
        try:
            yield
        finally:
            with suppress(Error):
                for name, value in before.items():
                    self.run(connection, f"SET {name} = '{value}'")

    def run(self, connection: Any, sql: str) -> list[Any]:
        """Run a message on the driver's connection; returns the rows of its last result."""
        with connection.wrap_database_errors, connection.connection.cursor() as cursor:
            cursor.execute(sql)
            # psycopg 2 keeps the last result only.
            while connection.Database.__name__ == "psycopg" and cursor.nextset():
                pass
            return list(cursor.fetchall()) if cursor.description else []
