"""The fence in every transaction of Alembic's connections, and the limits of their statements."""

from __future__ import annotations

import re
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from lambda_migrate.sources.alembic_child.connections import (
    FAILED,
    IDLE,
    find_sqlstate,
    get_session,
    is_autocommit,
    query,
    read_backend_pid,
    read_status,
)
from lambda_migrate.sources.fence_queries import UNDEFINED_OBJECT_SQLSTATES, FenceQueries
from lambda_migrate.sources.protocol import ChildError
from lambda_migrate.sources.statement_log import RerunKind, classify_statements

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from lambda_migrate.sources.alembic_child.connections import Session
    from lambda_migrate.sources.fence_queries import RevisionRow
    from lambda_migrate.sources.protocol import ChildRequest

__all__ = ["CurrentStep", "Fence"]

_SET_LOCAL = re.compile(r"\s*set\s+local\b|\s*select\s.*\bset_config\s*\(", re.IGNORECASE)


class CurrentStep:
    """The revision that is being applied or rolled back."""

    def __init__(self, row: RevisionRow, path: str) -> None:
        self.row = row
        self.path = path
        self.is_running = False
        """Whether its function runs, as opposed to Alembic's own statements."""
        self.sessions: list[Session] = []
        self.has_committed = False
        self._began_at = time.monotonic()

    @property
    def duration_ms(self) -> int:
        """How long it has taken so far."""
        return round((time.monotonic() - self._began_at) * 1000)


class Fence:
    """Compares the fence on every connection that SQLAlchemy makes.

    Args:
        request: The request; a dry run, which commits nothing, compares the fence without writing.

    Attributes:
        error: Why nothing more may run, even if env.py or a revision has caught it.
        step: The revision that is running.
        applied: How many steps are committed.
        connection: The one that env.py has configured.
    """

    def __init__(self, request: ChildRequest) -> None:
        self.queries = FenceQueries(request)
        self.is_fenced = request.command in ("up", "down")
        self.is_dry_run = request.command == "dry-run"
        self.error: ChildError | None = None
        self.step: CurrentStep | None = None
        self.applied = 0
        self.connection: Connection | None = None
        self.on_idle: Callable[[Connection, Session], None] = lambda *_: None
        """Called before a statement if no transaction is open."""
        self._request = request
        self._settings: list[tuple[Session, str, Any]] = []

    def find_step_id(self) -> str:
        """The id of the running step; "" if none runs."""
        return self.step.row.id if self.step is not None else ""

    def reset(self) -> None:
        """Forget what belongs to a run of env.py, before another one."""
        self.step = self.connection = None
        self._settings.clear()

    def enter_transaction(self, connection: Connection, *, again: bool = False) -> bool:
        """Compare the fence unless this transaction has; returns whether there is a transaction."""
        session = get_session(connection)
        status = read_status(connection)
        if status == FAILED:
            return True
        if status == IDLE:
            session.is_fenced = session.has_changes = False
            self.on_idle(connection, session)
        if session.is_fenced and not again:
            return True
        if self.is_fenced:
            self._compare(self._query(connection, self.queries.lock_fence_for_share()))
        elif self.is_dry_run:
            self._forbid_commit(connection)
        else:
            return status != IDLE or not is_autocommit(connection)
        session.is_fenced = read_status(connection) != IDLE
        if session.is_fenced and status == IDLE:
            self._restore_settings(connection)
        return session.is_fenced

    def _compare(self, row: Any) -> None:
        try:
            self.queries.compare(row)
        except ChildError as error:
            raise self.record_error(error)  # noqa: B904 - the same error

    def _query(self, connection: Connection, sql: str) -> Any:
        try:
            return query(connection, sql)
        except Exception as error:
            sqlstate = find_sqlstate(error)
            if sqlstate in UNDEFINED_OBJECT_SQLSTATES:
                raise self.record_error(self.queries.wrong_database_error()) from error
            if sqlstate == "42501":
                schema = self._request.schema
                raise self.fail(
                    "the role of env.py or of a revision has no permission to lock "
                    f"{schema}.fence or to write beside it: run GRANT USAGE ON SCHEMA {schema} TO "
                    f"<role>; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema}"
                    " TO <role>; or use the role of LAMBDA_MIGRATE_DATABASE_URL",
                    kind="configuration",
                    sqlstate=sqlstate,
                ) from error
            raise

    @property
    def _is_before_steps(self) -> bool:
        return self.step is None and not self.applied

    def record_setting(self, connection: Connection, sql: str, parameters: Any) -> None:
        """Keep SET LOCAL of env.py, in a dry run SET too, to repeat it in later transactions."""
        if not self._is_before_steps:
            return
        session, kind = get_session(connection), classify_statements(sql)
        if kind not in (RerunKind.READ, RerunKind.SESSION):
            session.has_changes = True
        if _SET_LOCAL.match(sql) or (self.is_dry_run and kind is RerunKind.SESSION):
            self._settings.append((session, sql, parameters))

    def refuse_commit(self, connection: Connection) -> None:
        """Refuse a commit in a dry run.

        One of env.py's settings only is rolled back instead, and the next transaction repeats them.
        """
        if not self._is_before_steps or get_session(connection).has_changes:
            subject = "it" if self.step is not None else "env.py"
            raise self.fail(
                f"{subject} commits, so a dry run cannot roll it back; nothing was committed"
            )
        connection.dialect.do_rollback(connection.connection)

    def _restore_settings(self, connection: Connection) -> None:
        """Repeat what env.py has set, which ended with an earlier transaction."""
        for session, sql, parameters in self._settings:
            if session is get_session(connection):
                with closing(connection.connection.cursor()) as cursor:
                    cursor.execute(sql, parameters) if parameters else cursor.execute(sql)

    def _forbid_commit(self, connection: Connection) -> None:
        """Make every commit of a dry run fail, also one by a driver."""
        if is_autocommit(connection):
            raise self.fail(
                "env.py or a revision uses the isolation level AUTOCOMMIT, so a dry run cannot "
                "roll it back; nothing was committed"
            )
        # Also here, because env.py may connect to another database than the report names.
        self._compare(self._query(connection, self.queries.lock_fence_for_share()))
        for sql in _NEVER_COMMIT:
            query(connection, sql)

    def protect_session(self, connection: Connection) -> None:
        """Before a statement outside a transaction: let a successor find this session."""
        if not self.is_fenced:
            return
        self.require_direct_connection(connection)
        left = max(1, round(self._request.seconds_left * 1000))
        query(connection, _LIMIT_SESSION.format(left=left))
        self._compare(query(connection, self.queries.lock_fence_for_share(statement_timeout=False)))

    def require_direct_connection(self, connection: Connection) -> None:
        """Refuse a pooler, which would hand the session on; take the advisory lock without one."""
        session = get_session(connection)
        if session.has_advisory_lock:
            return
        sql = self.queries.try_shared_advisory_lock(read_backend_pid(connection))
        is_direct, has_lock = query(connection, sql)
        if not is_direct:
            raise self.record_error(self.queries.pooler_error())
        # It is not free if the parent keeps it, which then excludes others instead.
        session.has_advisory_lock = bool(has_lock)

    def write(self, connection: Connection, sql: str) -> None:
        """Write a row of the mirror; it is not written under another fence."""
        if self._query(connection, sql) is None:
            self._compare(query(connection, self.queries.lock_fence_for_share()))
            raise self.fail("the fence row changed while it was compared", kind="stale_fence")

    def record_error(self, error: ChildError) -> ChildError:
        """env.py or a revision may catch an error, so the next statement raises it again."""
        current = self.step
        if current is not None and not error.fields["id"]:
            error.fields["id"] = current.row.id
        self.error = error
        return error

    def raise_earlier_error(self) -> None:
        """Raise an error that env.py or a revision has caught.

        Raises:
            ChildError: There is one.
        """
        if self.error is not None:
            raise self.error

    def fail(self, message: str, *, kind: str = "migration", sqlstate: str = "") -> ChildError:
        """An error of the running step, remembered."""
        return self.record_error(ChildError(message, kind=kind, sqlstate=sqlstate))


_LIMIT_SESSION = (
    "SELECT pg_catalog.set_config('client_connection_check_interval', '1s', false),"
    " CASE WHEN setting::pg_catalog.int8 OPERATOR(pg_catalog.>) 0"
    " AND setting::pg_catalog.int8 OPERATOR(pg_catalog.<) {left} THEN NULL"
    " ELSE pg_catalog.set_config('statement_timeout', '{left}', false) END"
    " FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'statement_timeout'"
)

_NEVER_COMMIT = (
    "CREATE TEMPORARY TABLE IF NOT EXISTS lambda_migrate_dry_run (never_commits pg_catalog.int4"
    " UNIQUE DEFERRABLE INITIALLY DEFERRED) ON COMMIT DROP",
    "INSERT INTO pg_temp.lambda_migrate_dry_run VALUES (1), (1)",
)
