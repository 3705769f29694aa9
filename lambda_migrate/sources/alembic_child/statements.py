"""Statements of a revision: fenced, and logged, because it may commit before it is complete.

Listeners on SQLAlchemy's class `Engine` reach every engine that ``env.py`` and the revisions make.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from lambda_migrate.migrations.revisions import LOG_ID_SEPARATOR
from lambda_migrate.migrations.sql.classify import classify
from lambda_migrate.migrations.sql.tokens import split_statements
from lambda_migrate.postgresql.sql_fragments import quote_literal
from lambda_migrate.sources.alembic_child.connections import (
    IDLE,
    OPEN,
    find_driver,
    find_session,
    get_session,
    is_autocommit,
    is_postgresql,
    query,
    query_all,
    read_status,
)
from lambda_migrate.sources.catalog_lookup import resolve_in_doubt
from lambda_migrate.sources.statement_log import (
    IN_DOUBT,
    LogMismatch,
    RerunKind,
    StatementLog,
    classify_statements,
    ends_transaction,
    find_function_names,
    make_entry,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from lambda_migrate.sources.alembic_child.connections import Session
    from lambda_migrate.sources.alembic_child.fence import CurrentStep, Fence
    from lambda_migrate.sources.notices import NoticeForwarder
    from lambda_migrate.sources.protocol import ChildError, ChildRequest

__all__ = ["StatementListener"]

_SET_ROLE = re.compile(r"\s*set\s+(?:\w+\s+)?(?:role|authorization)\b", re.IGNORECASE)

_FIND_VOLATILE = (
    "SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc WHERE provolatile OPERATOR(pg_catalog.=)"
    " 'v' AND proname OPERATOR(pg_catalog.=) ANY (ARRAY[{names}])"
)

_HARMLESS_FUNCTIONS = (
    *("clock_timestamp", "currval", "gen_random_uuid", "lastval", "nextval", "pg_notify"),
    *("pg_sleep", "random", "set_config", "setval", "statement_timestamp", "timeofday"),
)
"""Volatile ones whose effect need not happen exactly once, besides those of advisory locks."""


class StatementListener:
    """Listens to every engine of SQLAlchemy.

    Args:
        request: The request.
        fence: The fence.
    """

    def __init__(self, request: ChildRequest, fence: Fence) -> None:
        self._request = request
        self._fence = fence
        fence.on_idle = self._record_lost_transaction

    def listen(self, notices: NoticeForwarder) -> None:
        """Begin to listen, on every connection also for notices."""
        event.listen(Engine, "connect", lambda dbapi, _: notices.watch(find_driver(dbapi)))
        event.listen(Engine, "do_connect", self._name_connection)
        event.listen(Engine, "begin", self._on_begin)
        event.listen(Engine, "commit", self._on_commit)
        event.listen(Engine, "rollback", self._on_rollback)
        event.listen(Engine, "before_cursor_execute", self._before_execute, retval=True)
        event.listen(Engine, "after_cursor_execute", self._after_execute)
        event.listen(Engine, "handle_error", self._on_error)

    def _name_connection(self, dialect: Any, _record: Any, _args: Any, options: Any) -> None:
        if dialect.name != "postgresql" or not self._request.application_name:
            return
        if dialect.driver == "asyncpg":
            settings = options.get("server_settings") or {}
            name = {"application_name": self._request.application_name}
            options["server_settings"] = {**settings, **name}
        else:
            options["application_name"] = self._request.application_name

    def _on_begin(self, connection: Connection) -> None:
        if is_postgresql(connection) and not is_autocommit(connection):
            self._fence.enter_transaction(connection)

    def _on_commit(self, connection: Connection) -> None:
        if not is_postgresql(connection):
            return
        self._fence.raise_earlier_error()
        if self._fence.is_dry_run:
            self._fence.refuse_commit(connection)
        if read_status(connection) == OPEN:
            self._log_commit(connection)

    def _on_rollback(self, connection: Connection) -> None:
        session = find_session(connection)
        if session is not None and session.log is not None:
            session.log.record_rollback()
            session.has_marker = False

    def _before_execute(
        self,
        connection: Connection,
        _cursor: Any,
        sql: str,
        parameters: Any,
        _context: Any,
        _executemany: bool,
    ) -> tuple[str, Any]:
        if not is_postgresql(connection):
            return sql, parameters
        self._fence.raise_earlier_error()
        is_atomic = self._fence.enter_transaction(connection)
        current = self._fence.step
        if current is None or not current.is_running:
            self._fence.record_setting(connection, sql, parameters)
            if not is_atomic and classify_statements(sql) is not RerunKind.READ:
                self._fence.protect_session(connection)
            return sql, parameters
        if self._log_statement(connection, current, sql, parameters, is_atomic=is_atomic):
            return "SELECT", ()
        return sql, parameters

    def _after_execute(self, connection: Connection, *_: Any) -> None:
        session = find_session(connection)
        if session is None or session.log is None:
            return
        if session.in_doubt:
            session.log.committed.append(session.in_doubt)
            session.in_doubt = ""
            self._write_log(connection, session)
        elif session.has_marker and read_status(connection) == IDLE:
            session.log.record_commit()  # a text that ends the transaction
            session.has_marker = False
            self._write_log(connection, session)

    def _on_error(self, context: Any) -> None:
        """A statement outside a transaction failed: if it failed as a whole, it is not in doubt."""
        connection = context.connection
        session = find_session(connection) if connection is not None else None
        if session is None or not session.in_doubt or session.log is None:
            return
        is_lost = context.is_disconnect
        session.in_doubt = ""
        if session.atomic_in_doubt and not is_lost:
            self._write_log(connection, session)

    # --- the log of a step that commits before it is complete

    def find_further_logs(self, step: CurrentStep) -> set[str]:
        """The ids of the logs of a step besides its own row: of this attempt, and of earlier ones.

        Connections after the first one that writes have rows of their own, because a row is locked
        until its transaction ends.
        """
        logs = {*self._find_earlier_logs(step), *(each.log_id for each in step.sessions)}
        return logs - {"", step.row.id}

    def _find_earlier_logs(self, step: CurrentStep) -> list[str]:
        step_id = step.row.id
        return [
            each
            for each in self._request.started
            if each == step_id or each.startswith(step_id + LOG_ID_SEPARATOR)
        ]

    def refuse_unknown_state(self, step: CurrentStep) -> None:
        """Refuse a step that has committed what can be neither skipped nor repeated.

        Raises:
            ChildError: It has.
        """
        for log_id in self._find_earlier_logs(step):
            try:
                StatementLog.resume(self._request.started[log_id])
            except LogMismatch as mismatch:
                raise self._make_repair_required_error(step, mismatch) from mismatch

    def require_complete(self, step: CurrentStep) -> None:
        """Check, after the last statement of a step, that nothing of it is left in doubt.

        Raises:
            ChildError: A statement in doubt was not repeated.
        """
        for session in step.sessions:
            try:
                if session.log is not None:
                    session.log.require_complete()
            except LogMismatch as mismatch:
                raise self._make_repair_required_error(step, mismatch) from mismatch

    def _open_log(self, session: Session, current: CurrentStep) -> StatementLog:
        """The log of this connection: the first one that writes has the step's own row."""
        if session.log is None or session not in current.sessions:
            number = len(current.sessions)
            session.log_id = current.row.id + (f"{LOG_ID_SEPARATOR}{number + 1}" if number else "")
            session.log = StatementLog.resume(self._request.started.get(session.log_id, ()))
            session.has_marker = False
            current.sessions.append(session)
        return session.log

    def _log_statement(
        self,
        connection: Connection,
        current: CurrentStep,
        sql: str,
        parameters: Any,
        *,
        is_atomic: bool,
    ) -> bool:
        """Log a statement of the running step; returns whether to skip it."""
        session = get_session(connection)
        end, kind = ends_transaction(sql), classify_statements(sql)
        if self._fence.is_dry_run:
            if end or not is_atomic:
                raise self._fence.fail("it ends its transaction, so a dry run cannot roll it back")
            return False
        if kind is RerunKind.READ and self._calls_writing_function(connection, sql):
            kind = RerunKind.ROWS
        if end == "COMMIT" and is_atomic:
            self._log_commit(connection)
        elif end == "MIXED":
            self._fence.protect_session(connection)
        if session.log is not None:
            session.log.record_savepoint(sql)
        if is_atomic and _SET_ROLE.match(sql):
            self._open_log(session, current)
            self._mark_log(connection, session)  # now, as the other role may not write it
        if kind in (RerunKind.READ, RerunKind.SESSION):
            return False
        log = self._open_log(session, current)
        entry = make_entry(kind, sql, parameters)
        try:
            action = log.match(entry)
        except LogMismatch as mismatch:
            raise self._make_repair_required_error(current, mismatch) from mismatch
        if action == "look-up":
            action = self._resolve(connection, current, sql)
            if action == "skip":
                log.committed.append(entry)
        if action == "skip":
            return True
        if is_atomic:
            self._mark_log(connection, session)
            log.pending.append(entry)
        else:
            self._fence.protect_session(connection)
            session.in_doubt = entry
            session.atomic_in_doubt = all(
                classify(each).is_atomic for each in split_statements(sql)
            )
            self._write_log(connection, session, IN_DOUBT + entry)
        return False

    def _calls_writing_function(self, connection: Connection, sql: str) -> bool:
        names = [
            each
            for each in find_function_names(sql)
            if each not in _HARMLESS_FUNCTIONS and not each.startswith("pg_advisory_")
        ]
        if not names:
            return False
        literals = ", ".join(f"{quote_literal(each)}::pg_catalog.name" for each in names)
        row = query(connection, _FIND_VOLATILE.format(names=literals))
        return bool(row and row[0])

    def _mark_log(self, connection: Connection, session: Session) -> None:
        """Once in a transaction: if a driver commits it, the log says that it is incomplete."""
        if not session.has_marker:
            session.has_marker = True
            self._write_log(connection, session, IN_DOUBT, is_commit=False)

    def _log_commit(self, connection: Connection) -> None:
        """Write what the transaction did, just before it is committed."""
        session, current = get_session(connection), self._fence.step
        if current is None or not current.is_running or session.log is None:
            return
        if session.log.pending or session.has_marker:
            session.log.record_commit()
            self._write_log(connection, session)
            current.has_committed = True
        session.has_marker = False

    def _record_lost_transaction(self, connection: Connection, session: Session) -> None:
        """A transaction was ended behind SQLAlchemy's back: find out how."""
        if not session.has_marker or session.log is None:
            return
        session.has_marker = False
        row = query(connection, self._fence.queries.read_statements(session.log_id))
        if row and IN_DOUBT in (row[0] or ()):
            session.log.record_commit()
            if self._fence.step is not None:
                self._fence.step.has_committed = True
        else:
            session.log.record_rollback()
        if not is_autocommit(connection):
            connection.dialect.do_rollback(connection.connection)

    def _write_log(
        self, connection: Connection, session: Session, *last: str, is_commit: bool = True
    ) -> None:
        current = self._fence.step
        if current is None or session.log is None:
            return
        row = current.row._replace(id=session.log_id, statements=(*session.log.committed, *last))
        self._fence.write(connection, self._fence.queries.upsert_revision(row))
        current.has_committed = current.has_committed or is_commit

    def _resolve(self, connection: Connection, current: CurrentStep, sql: str) -> str:
        """Find out whether a statement in doubt took effect: ``skip`` it, or ``run`` it again."""
        version = int(query(connection, "SHOW server_version_num")[0])
        outcome = resolve_in_doubt(sql, lambda query: query_all(connection, query), version)
        if outcome is None:
            raise self._make_repair_required_error(
                current,
                LogMismatch("it cannot be determined whether its last statement took effect"),
            )
        return "skip" if outcome else "run"

    def _make_repair_required_error(
        self, current: CurrentStep, mismatch: LogMismatch
    ) -> ChildError:
        step_id = current.row.id
        if current.row.state == "rolling_back":
            advice = (
                f"finish the rollback by hand, `alembic stamp` its parent, then run "
                f"`lambda-migrate repair {step_id} --as pending`; or apply it again by hand, then "
                f"run `lambda-migrate repair {step_id} --as applied`"
            )
        else:
            advice = (
                f"finish it by hand, `alembic stamp {step_id}`, then run `lambda-migrate "
                f"repair {step_id} --as applied`; or reverse its changes by hand, then run "
                f"`lambda-migrate repair {step_id} --as pending`"
            )
        return self._fence.fail(
            f"it was interrupted after it had committed a part, and {mismatch}; check the "
            f"database: {advice}",
            kind="repair",
        )
