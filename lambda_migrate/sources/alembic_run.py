"""Runs Alembic in the child process, under the fence, with env.py and the revisions unchanged.

Listeners on SQLAlchemy's class `Engine` reach every engine that ``env.py`` and the revisions make.
Before a statement they ask the driver whether a transaction is open, rather than rely on what
SQLAlchemy believes: a revision may commit through the driver, or as SQL. If none is open, the fence
is compared first, and shared until the end of the transaction that this begins. So it does not
matter who began or committed: no transaction that SQLAlchemy has a part in commits under an older
token.

Every revision gets a transaction of its own. Where ``env.py`` has begun one before, it is committed
after each step by the dialect, and SQLAlchemy does not notice that it has ended.

What a revision commits before it is complete is in its log (`partial_commits`). Outside a
transaction the session has the advisory lock, with which a successor finds and ends it.
"""

from __future__ import annotations

import importlib
import random
import re
import time
import traceback
from argparse import Namespace
from contextlib import nullcontext
from functools import wraps
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from lambda_migrate.errors import ManifestError
from lambda_migrate.migrations.revisions import Revision
from lambda_migrate.migrations.sql.classify import classify
from lambda_migrate.migrations.sql.excerpt import redact
from lambda_migrate.migrations.sql.tokens import split_statements
from lambda_migrate.postgresql.sql_fragments import quote_identifier, quote_literal
from lambda_migrate.sources import alembic_files
from lambda_migrate.sources.catalog_lookup import resolve_in_doubt
from lambda_migrate.sources.fence_queries import (
    UNDEFINED_OBJECT_SQLSTATES,
    FenceQueries,
    RevisionRow,
)
from lambda_migrate.sources.partial_commits import (
    UNKNOWN,
    LogMismatch,
    StatementKind,
    StatementLog,
    classify_statements,
    ends_transaction,
    find_function_names,
    make_entry,
)
from lambda_migrate.sources.protocol import ChildError, make_import_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from alembic.runtime.migration import MigrationContext
    from alembic.script import Script
    from sqlalchemy.engine import Connection

    from lambda_migrate.sources.protocol import Channel, ChildRequest

__all__ = ["run"]

_RETRYABLE = ("55P03", "40P01", "40001")
"""Lock timeout, deadlock, serialization failure: the next attempt may succeed."""

_INFO_KEY = "lambda_migrate"

_SET_LOCAL = re.compile(r"\s*set\s+local\b|\s*select\s.*\bset_config\s*\(", re.IGNORECASE)

_HARMLESS_FUNCTIONS = (
    *("clock_timestamp", "currval", "gen_random_uuid", "lastval", "nextval", "pg_notify"),
    *("pg_sleep", "random", "set_config", "setval", "statement_timestamp", "timeofday"),
)
"""Volatile ones whose effect need not happen exactly once, besides those of advisory locks."""


def run(request: ChildRequest, channel: Channel) -> None:
    """Run one request; see `child`.

    Raises:
        ChildError: It failed.
    """
    with _open_setup(str(request.options.get("source_setup") or "")) as config:
        _AlembicRun(request, channel, config or _make_config(request)).run()


def _open_setup(name: str) -> Any:
    """The user's context manager, which may yield the `Config`."""
    if not name:
        return nullcontext()
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ChildError(
            f"LAMBDA_MIGRATE_SOURCE_SETUP={name} cannot be loaded: {error}", kind="configuration"
        ) from error
    return function()


def _make_config(request: ChildRequest) -> Config:
    """The configuration as the command ``alembic`` would make it."""
    files = _find_files(request)
    arguments: dict[str, Any] = {"toml_file": files.toml} if files.toml else {}
    # What env.py may read of a command line; get_x_argument() does.
    options = Namespace(config=files.ini or files.toml, name="alembic", x=None, raiseerr=True)
    config = Config(files.ini or None, cmd_opts=options, **arguments)
    if files.ini and not config.get_main_option("script_location") and not files.toml:
        config.set_main_option("script_location", files.script_location.replace("%", "%%"))
    return config


def _find_files(request: ChildRequest) -> alembic_files.AlembicFiles:
    try:
        return alembic_files.find_files(request.root, request.options)
    except ManifestError as error:
        raise ChildError(str(error), kind="manifest") from error


class _Unwind(BaseException):
    """Ends env.py early, so that its transactions are rolled back; no ``except Exception``."""


class _Session:
    """What is known of one connection of a driver."""

    def __init__(self) -> None:
        self.is_fenced = False
        """Whether the open transaction has compared the fence."""
        self.has_advisory_lock = False
        self.log: StatementLog | None = None
        """Of the running step; None until it writes over this connection."""
        self.log_id = ""
        self.has_marker = False
        """Whether the open transaction has marked the log as incomplete."""
        self.in_doubt = ""
        """The entry of the statement that runs outside a transaction."""
        self.atomic_in_doubt = False


class _CurrentStep:
    """The revision that is being applied or rolled back."""

    def __init__(self, row: RevisionRow, path: str) -> None:
        self.row = row
        self.path = path
        self.is_running = False
        """Whether its function runs, as opposed to Alembic's own statements."""
        self.sessions: list[_Session] = []
        self.has_committed = False
        self.began_at = time.monotonic()


class _AlembicRun:
    """One request."""

    def __init__(self, request: ChildRequest, channel: Channel, config: Config) -> None:
        self._request = request
        self._channel = channel
        self._config = config
        self._queries = FenceQueries(request)
        self._is_fenced = request.command in ("up", "down")
        self._is_dry_run = request.command == "dry-run"
        self._is_description = request.command.startswith("describe")
        self._is_down = request.command in ("down", "describe-down")
        self._error: ChildError | None = None
        self._context: MigrationContext | None = None
        self._current: _CurrentStep | None = None
        self._local_settings: list[tuple[str, Any]] = []
        self._heads: Sequence[str] = ()
        self._applied = 0
        self._total = 0
        self._has_plan = False
        self._has_run_migrations = False
        self._is_internal = False

    def run(self) -> None:
        """Run the command.

        Raises:
            ChildError: It failed.
        """
        try:
            self._script = ScriptDirectory.from_config(self._config)
            self._require_digested_folders()
            self._graph = self._read_graph()
            self._destination = self._find_destination()
        except CommandError as error:
            raise ChildError(str(error), kind="manifest") from error
        self._listen()
        for attempt in count(1):
            try:
                self._run_env()
                break
            except ChildError as error:
                if not self._may_retry(error):
                    raise
            time.sleep(min(5.0, 0.1 * 2**attempt) * random.random())  # noqa: S311 - jitter
            self._reset()
        self._channel.send_done(self._heads)

    def _may_retry(self, error: ChildError) -> bool:
        current = self._current
        return (
            error.fields["sqlstate"] in _RETRYABLE
            and not (current is not None and current.has_committed)
            and self._request.seconds_left > 1
        )

    def _reset(self) -> None:
        self._current = self._context = None
        self._local_settings.clear()
        self._has_run_migrations = False

    # --- the code

    def _require_digested_folders(self) -> None:
        """Refuse a Config that reads folders which the digest does not cover."""
        files = _find_files(self._request)
        covered = [
            Path(each).resolve() for each in (files.script_location, *files.version_locations)
        ]
        used = [Path(self._script.dir), *map(Path, self._script._version_locations)]
        for folder in (each.resolve() for each in used):
            if not any(folder.is_relative_to(each) for each in covered):
                raise ChildError(
                    f"Alembic reads {folder}, which {files.ini or files.toml} does not name: let "
                    "LAMBDA_MIGRATE_ALEMBIC_CONFIG name the file that the setup function uses",
                    kind="configuration",
                )

    def _read_graph(self) -> dict[str, Revision]:
        """Every revision of the code by its id, parents first."""
        scripts = [*self._script.walk_revisions()]
        return {each.revision: self._describe(each) for each in reversed(scripts)}

    def _describe(self, script: Script) -> Revision:
        path = Path(script.path)
        root = Path(self._request.root).resolve()
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        parents = tuple(script._normalized_down_revisions)
        return Revision(script.revision, parents, path.stem, str(shown))

    def _find_destination(self) -> str:
        request = self._request
        if self._is_down:
            return request.to if request.to is not None else f"-{request.steps or 1}"
        return request.to or str(request.options.get("alembic_revision") or "heads")

    def _find_needed_heads(self) -> list[str]:
        """The ids that the version table has after an upgrade."""
        setting = str(self._request.options.get("alembic_revision") or "heads")
        if setting != "heads":
            return [each.revision for each in self._script.get_revisions(setting) if each]
        parents = {parent for step in self._graph.values() for parent in step.parents}
        return [each for each in self._graph if each not in parents]

    # --- running env.py

    def _run_env(self) -> None:
        environment = EnvironmentContext(
            self._config,
            self._script,
            fn=self._make_steps,
            as_sql=False,
            starting_rev=None,
            destination_rev=self._destination,
            tag=None,
            dont_mutate=self._is_description,
        )
        configure = environment.configure

        def configure_per_migration(*args: Any, **options: Any) -> None:
            callbacks = options.get("on_version_apply") or ()
            callbacks = callbacks if isinstance(callbacks, (tuple, list)) else (callbacks,)
            options["on_version_apply"] = (*callbacks, self._record)
            options["transaction_per_migration"] = self._is_fenced
            configure(*args, **options)
            self._use_context(environment.get_context())

        # On the instance: the module `alembic.context` calls what it finds there.
        environment.configure = configure_per_migration  # type: ignore[method-assign]
        try:
            with environment:
                self._script.run_env()
        except _Unwind:
            pass
        except BaseException as error:
            raise self._translate(error) from error
        if self._error is not None:  # env.py has swallowed it
            raise self._error
        if not self._has_run_migrations:
            raise ChildError(
                "env.py returned without running the migrations: it must call "
                "context.run_migrations() and wait for it, even where an event loop runs"
            )

    def _use_context(self, context: MigrationContext) -> None:
        if context.dialect.name != "postgresql":
            raise self._fail(
                f"env.py connects to {context.dialect.name}; lambda-migrate migrates PostgreSQL",
                kind="configuration",
            )
        if context.connection is None or context.as_sql:
            raise self._fail("env.py runs in offline mode; it must connect", kind="configuration")
        self._context = context
        begin_block = context.autocommit_block

        def begin_direct_block() -> Any:
            """Alembic's method, which commits what the step has done."""
            if self._is_fenced and context.connection is not None:
                self._require_direct_connection(context.connection)
            return begin_block()

        context.autocommit_block = begin_direct_block  # type: ignore[method-assign]

    def _make_steps(self, heads: Any, context: MigrationContext) -> Iterable[Any]:
        """Alembic's work function: called with the heads of the version table."""
        if self._has_run_migrations:
            raise self._fail(
                "env.py calls context.run_migrations() more than once, for several version "
                "tables; lambda-migrate can migrate one of them",
                kind="configuration",
            )
        self._has_run_migrations = True
        self._heads = tuple(heads)
        is_known = all(each in self._graph for each in heads)
        steps = self._find_steps(heads) if is_known else []
        if not self._has_plan:
            self._send_plan(steps, context)
        if self._is_description or not is_known:  # the parent decides about unknown revisions
            raise _Unwind
        return self._iterate(steps, context)

    def _find_steps(self, heads: Any) -> Sequence[Any]:
        script = self._script
        revisions = script._downgrade_revs if self._is_down else script._upgrade_revs
        return revisions(self._destination, heads)

    def _send_plan(self, steps: Sequence[Any], context: MigrationContext) -> None:
        self._channel.send_plan(
            [self._describe(each.revision) for each in steps],
            applied=self._heads,
            heads=self._find_needed_heads(),
            graph=[*self._graph.values()],
            version_table=self._find_version_table(context),
        )
        self._has_plan, self._total = True, len(steps)

    def _find_version_table(self, context: MigrationContext) -> tuple[str, str]:
        schema, table = context.version_table_schema, context.version_table
        if not schema and context.connection is not None:
            name = quote_literal(quote_identifier(table))
            row = _query(context.connection, _FIND_SCHEMA.format(name=name))
            schema = str(row[0]) if row else ""
        return schema or "", table

    def _iterate(self, steps: Sequence[Any], context: MigrationContext) -> Iterator[Any]:
        """The steps; between two of them the first one is committed."""
        for step in steps:
            described = self._graph[step.revision.revision]
            position = self._applied + 1
            if not self._channel.ask_to_continue(
                described.id, position=position, total=self._total
            ):
                return
            state = "started" if step.is_upgrade else "reverting"
            place = [*self._graph].index(described.id) + 1
            row = RevisionRow(described.id, described.parents, place, described.name, state)
            current = self._current = _CurrentStep(row, step.revision.path)
            step.migration_fn = self._wrap(step.migration_fn, context)
            yield step
            self._commit_open_transaction(context)
            self._current = None
            self._applied += 1
            duration = time.monotonic() - current.began_at
            self._channel.send_applied(described.id, duration_ms=round(duration * 1000))
        if self._is_dry_run:
            raise _Unwind

    def _wrap(self, function: Callable[..., Any], context: MigrationContext) -> Callable[..., Any]:
        @wraps(function)
        def migrate(**options: Any) -> Any:
            current = self._current
            assert current is not None  # noqa: S101 - set before the step is yielded
            connection = context.connection
            assert connection is not None  # noqa: S101 - `_use_context`
            self._refuse_unknown_state(current)
            # Again, because env.py may have set longer limits, and a driver may be used directly.
            self._enter_transaction(connection, again=True)
            current.is_running = True
            try:
                result = function(**options)
                for session in current.sessions:
                    self._require_complete(session)
            finally:
                current.is_running = False
            return result

        return migrate

    def _commit_open_transaction(self, context: MigrationContext) -> None:
        """Commit a step that SQLAlchemy has not: env.py began first, or the revision committed."""
        connection = context.connection
        assert connection is not None  # noqa: S101 - `_use_context`
        if self._is_fenced and _read_status(connection) == _OPEN:
            connection.dialect.do_commit(connection.connection)

    def _record(self, *, ctx: MigrationContext, heads: Any, **_: Any) -> None:
        """Alembic's callback after the version table was changed: write our row beside it."""
        self._heads = sorted(heads)
        current, connection = self._current, ctx.connection
        if not self._is_fenced or current is None or connection is None:
            return
        row = current.row
        if row.state == "started":
            duration = round((time.monotonic() - current.began_at) * 1000)
            sql = self._queries.upsert_revision(row._replace(state="applied", duration_ms=duration))
        else:
            sql = self._queries.delete_revision(row.id)
        self._write(connection, sql)
        for log_id in {*self._find_log_ids(row.id), *(each.log_id for each in current.sessions)}:
            if log_id not in ("", row.id):
                self._write(connection, self._queries.delete_revision(log_id))

    # --- listeners

    def _listen(self) -> None:
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
        if _is_postgresql(connection) and not _is_autocommit(connection):
            self._enter_transaction(connection)

    def _on_commit(self, connection: Connection) -> None:
        if not _is_postgresql(connection):
            return
        self._raise_earlier_error()
        if self._is_dry_run:
            raise self._fail(
                "it commits, so a dry run cannot roll it back; nothing was committed",
                kind="migration",
            )
        if _read_status(connection) == _OPEN:
            self._log_commit(connection)

    def _on_rollback(self, connection: Connection) -> None:
        session = _find_session(connection)
        if session is not None and session.log is not None:
            session.log.note_rollback()
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
        if not _is_postgresql(connection):
            return sql, parameters
        self._raise_earlier_error()
        is_atomic = self._enter_transaction(connection)
        current = self._current
        if current is None or not current.is_running:
            if not self._applied and current is None and _SET_LOCAL.match(sql):
                self._local_settings.append((sql, parameters))
            if not is_atomic and classify_statements(sql) is not StatementKind.READ:
                self._protect_session(connection)
            return sql, parameters
        if self._log_statement(connection, current, sql, parameters, is_atomic=is_atomic):
            return "SELECT", ()
        return sql, parameters

    def _after_execute(self, connection: Connection, *_: Any) -> None:
        session = _find_session(connection)
        if session is None or session.log is None:
            return
        if session.in_doubt:
            session.log.committed.append(session.in_doubt)
            session.in_doubt = ""
            self._write_log(connection, session)
        elif session.has_marker and _read_status(connection) == _IDLE:
            session.log.note_commit()  # a text that ends the transaction
            session.has_marker = False
            self._write_log(connection, session)

    def _on_error(self, context: Any) -> None:
        """A statement outside a transaction failed: if it failed as a whole, it is not in doubt."""
        connection = context.connection
        session = _find_session(connection) if connection is not None else None
        if session is None or not session.in_doubt or session.log is None:
            return
        is_lost = context.is_disconnect
        session.in_doubt = ""
        if session.atomic_in_doubt and not is_lost:
            self._write_log(connection, session)

    # --- the fence

    def _enter_transaction(self, connection: Connection, *, again: bool = False) -> bool:
        """Compare the fence unless this transaction has; returns whether there is a transaction."""
        session = _get_session(connection)
        status = _read_status(connection)
        if status == _FAILED:
            return True
        if status == _IDLE:
            session.is_fenced = False
            self._note_lost_transaction(connection, session)
        if session.is_fenced and not again:
            return True
        if self._is_fenced:
            self._compare(self._run_check(connection))
        elif self._is_dry_run:
            self._forbid_commit(connection)
        else:
            return status != _IDLE or not _is_autocommit(connection)
        session.is_fenced = _read_status(connection) != _IDLE
        if session.is_fenced and status == _IDLE:
            self._restore_local_settings(connection)
        return session.is_fenced

    def _compare(self, row: Any) -> None:
        try:
            self._queries.compare(row)
        except ChildError as error:
            raise self._remember(error)  # noqa: B904 - the same error

    def _run_check(self, connection: Connection) -> Any:
        try:
            return _query(connection, self._queries.check())
        except Exception as error:
            sqlstate = _find_sqlstate(error)
            if sqlstate in UNDEFINED_OBJECT_SQLSTATES:
                raise self._remember(self._queries.wrong_database_error()) from error
            if sqlstate == "42501":
                schema = self._request.schema
                raise self._fail(
                    f"the role of env.py has no permission to lock {schema}.fence: run GRANT USAGE "
                    f"ON SCHEMA {schema} TO <role>; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL "
                    f"TABLES IN SCHEMA {schema} TO <role>; or use the role of "
                    "LAMBDA_MIGRATE_DATABASE_URL",
                    kind="configuration",
                    sqlstate=sqlstate,
                ) from error
            raise

    def _restore_local_settings(self, connection: Connection) -> None:
        """Repeat SET LOCAL of env.py, which ended with an earlier transaction."""
        context = self._context
        if context is None or context.connection is None:
            return
        if _get_session(context.connection) is not _get_session(connection):
            return
        for sql, parameters in self._local_settings:
            cursor = connection.connection.cursor()
            try:
                cursor.execute(sql, parameters) if parameters else cursor.execute(sql)
            finally:
                cursor.close()

    def _forbid_commit(self, connection: Connection) -> None:
        """Make every commit of a dry run fail, also one by a driver."""
        if _is_autocommit(connection):
            raise self._fail(
                "env.py or a revision uses the isolation level AUTOCOMMIT, so a dry run cannot "
                "roll it back; nothing was committed"
            )
        left = max(1, round(self._request.seconds_left * 1000))
        _query(connection, f"SELECT pg_catalog.set_config('statement_timeout', '{left}', true)")
        for sql in _NEVER_COMMIT:
            _query(connection, sql)

    def _protect_session(self, connection: Connection) -> None:
        """Before a statement outside a transaction: let a successor find this session."""
        if not self._is_fenced:
            return
        self._require_direct_connection(connection)
        left = max(1, round(self._request.seconds_left * 1000))
        _query(connection, _LIMIT_SESSION.format(left=left))
        self._compare(_query(connection, self._queries.check(statement_timeout=False)))

    def _require_direct_connection(self, connection: Connection) -> None:
        """Refuse a pooler, which would hand the session on; take the advisory lock without one."""
        session = _get_session(connection)
        if session.has_advisory_lock:
            return
        sql = self._queries.share_advisory_lock(_read_backend_pid(connection))
        is_direct, has_lock = _query(connection, sql)
        if not is_direct:
            raise self._remember(self._queries.pooler_error())
        # It is not free if the parent keeps it, which then excludes others instead.
        session.has_advisory_lock = bool(has_lock)

    # --- the log of a step that commits before it is complete

    def _find_log_ids(self, step_id: str) -> list[str]:
        return [
            each
            for each in self._request.started
            if each == step_id or each.startswith(step_id + _CONNECTION)
        ]

    def _refuse_unknown_state(self, current: _CurrentStep) -> None:
        for log_id in self._find_log_ids(current.row.id):
            try:
                StatementLog.resume(self._request.started[log_id])
            except LogMismatch as mismatch:
                raise self._repair(current, mismatch) from mismatch

    def _open_log(self, session: _Session, current: _CurrentStep) -> StatementLog:
        """The log of this connection: the first one that writes has the step's own row.

        Others have rows of their own, because a row is locked until its transaction ends.
        """
        if session.log is None or session not in current.sessions:
            number = len(current.sessions)
            session.log_id = current.row.id + (f"{_CONNECTION}{number + 1}" if number else "")
            session.log = StatementLog.resume(self._request.started.get(session.log_id, ()))
            session.has_marker = False
            current.sessions.append(session)
        return session.log

    def _log_statement(
        self,
        connection: Connection,
        current: _CurrentStep,
        sql: str,
        parameters: Any,
        *,
        is_atomic: bool,
    ) -> bool:
        """Log a statement of the running step; returns whether to skip it."""
        session = _get_session(connection)
        end, kind = ends_transaction(sql), classify_statements(sql)
        if self._is_dry_run:
            if end or not is_atomic:
                raise self._fail("it ends its transaction, so a dry run cannot roll it back")
            return False
        if kind is StatementKind.READ and self._calls_writing_function(connection, sql):
            kind = StatementKind.ROWS
        if end == "COMMIT" and is_atomic:
            self._log_commit(connection)
        elif end == "MIXED":
            self._protect_session(connection)
        if session.log is not None:
            session.log.note_control(sql)
        if kind in (StatementKind.READ, StatementKind.SESSION):
            return False
        log = self._open_log(session, current)
        entry = make_entry(kind, sql, parameters)
        try:
            action = log.match(entry)
        except LogMismatch as mismatch:
            raise self._repair(current, mismatch) from mismatch
        if action == "settle":
            action = self._settle(connection, current, sql)
            if action == "skip":
                log.committed.append(entry)
        if action == "skip":
            return True
        if is_atomic:
            self._mark_log(connection, session)
            log.pending.append(entry)
        else:
            self._protect_session(connection)
            session.in_doubt = entry
            session.atomic_in_doubt = all(
                classify(each).is_atomic for each in split_statements(sql)
            )
            self._write_log(connection, session, UNKNOWN + entry)
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
        row = _query(connection, _FIND_VOLATILE.format(names=literals))
        return bool(row and row[0])

    def _mark_log(self, connection: Connection, session: _Session) -> None:
        """Once in a transaction: if a driver commits it, the log says that it is incomplete."""
        if not session.has_marker:
            session.has_marker = True
            self._write_log(connection, session, UNKNOWN, is_commit=False)

    def _log_commit(self, connection: Connection) -> None:
        """Write what the transaction did, just before it is committed."""
        session, current = _get_session(connection), self._current
        if current is None or not current.is_running or session.log is None:
            return
        if session.log.pending:
            session.log.note_commit()
            self._write_log(connection, session)
            current.has_committed = True
        session.has_marker = False

    def _note_lost_transaction(self, connection: Connection, session: _Session) -> None:
        """A transaction was ended behind SQLAlchemy's back: find out how."""
        if not session.has_marker or session.log is None:
            return
        session.has_marker = False
        row = _query(connection, self._queries.read_statements(session.log_id))
        if row and UNKNOWN in (row[0] or ()):
            session.log.note_commit()
            if self._current is not None:
                self._current.has_committed = True
        else:
            session.log.note_rollback()
        if not _is_autocommit(connection):
            connection.dialect.do_rollback(connection.connection)

    def _write_log(
        self, connection: Connection, session: _Session, *last: str, is_commit: bool = True
    ) -> None:
        current = self._current
        if current is None or session.log is None:
            return
        row = current.row._replace(id=session.log_id, statements=(*session.log.committed, *last))
        self._write(connection, self._queries.upsert_revision(row))
        current.has_committed = current.has_committed or is_commit

    def _write(self, connection: Connection, sql: str) -> None:
        """Write a row of the mirror; it is not written under another fence."""
        if _query(connection, sql) is None:
            self._compare(_query(connection, self._queries.check()))
            raise self._fail("the fence row changed while it was compared", kind="stale_fence")

    def _require_complete(self, session: _Session) -> None:
        current = self._current
        if session.log is None or current is None:
            return
        try:
            session.log.require_complete()
        except LogMismatch as mismatch:
            raise self._repair(current, mismatch) from mismatch

    def _settle(self, connection: Connection, current: _CurrentStep, sql: str) -> str:
        """Find out whether a statement in doubt took effect: ``skip`` it, or ``run`` it again."""
        version = int(_query(connection, "SHOW server_version_num")[0])
        outcome = resolve_in_doubt(sql, lambda query: _query_all(connection, query), version)
        if outcome is None:
            raise self._repair(
                current,
                LogMismatch("it cannot be determined whether its last statement took effect"),
            )
        return "skip" if outcome else "run"

    # --- errors

    def _remember(self, error: ChildError) -> ChildError:
        """env.py or a revision may catch an error, so the next statement raises it again."""
        current = self._current
        if current is not None and not error.fields["id"]:
            error.fields["id"] = current.row.id
        self._error = error
        return error

    def _raise_earlier_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _fail(self, message: str, *, kind: str = "migration", sqlstate: str = "") -> ChildError:
        return self._remember(ChildError(message, kind=kind, sqlstate=sqlstate))

    def _repair(self, current: _CurrentStep, mismatch: LogMismatch) -> ChildError:
        step_id = current.row.id
        if current.row.state == "reverting":
            advice = (
                f"finish the rollback by hand, `alembic stamp` its parent, then `lambda-migrate "
                f"repair {step_id} --as pending`; or apply it again by hand, then "
                f"`lambda-migrate repair {step_id} --as applied`"
            )
        else:
            advice = (
                f"finish it by hand, `alembic stamp {step_id}`, then `lambda-migrate repair "
                f"{step_id} --as applied`; or reverse its changes by hand, then "
                f"`lambda-migrate repair {step_id} --as pending`"
            )
        return self._fail(
            f"it was interrupted after it had committed a part, and {mismatch}; look at the "
            f"database: {advice}",
            kind="repair",
        )

    def _translate(self, error: BaseException) -> ChildError:
        if isinstance(error, ChildError):
            return self._remember(error)
        if self._error is not None:
            return self._error
        current = self._current
        path, line = self._find_location(error)
        sqlstate = _find_sqlstate(error)
        detail = f"  {path}:{line}" if path else ""
        if isinstance(error, DBAPIError) and error.statement:
            detail += f"\n  statement: {_shorten(redact(error.statement))}"
        step_id = current.row.id if current is not None else ""
        if isinstance(error, ImportError):
            return make_import_error(error, step_id=step_id, path=path, line=line)
        return ChildError(
            redact(_describe(error)),
            kind=self._find_kind(error, sqlstate),
            step_id=step_id,
            is_partly_committed=current is not None and current.has_committed,
            sqlstate=sqlstate,
            detail=detail,
            path=path,
            line=line,
        )

    def _find_kind(self, error: BaseException, sqlstate: str) -> str:
        is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
        is_unreachable = isinstance(error, (DBAPIError, OSError)) and not sqlstate
        if is_lost or sqlstate.startswith(("08", "57P")):
            return "interrupted" if self._current is not None else "unavailable"
        if self._current is None and (is_unreachable or sqlstate.startswith("53")):
            return "unavailable"
        if sqlstate.startswith(("28", "3D")):
            return "configuration"
        return "manifest" if isinstance(error, CommandError) else "migration"

    def _find_location(self, error: BaseException) -> tuple[str, int | None]:
        """The last line of the user's code that the error came through."""
        root = Path(self._request.root).resolve()
        frames = [*traceback.extract_tb(error.__traceback__)]
        own = Path(self._script.dir).resolve()
        for frame in reversed(frames):
            path = Path(frame.filename).resolve()
            if path.is_relative_to(own) or (self._current and str(path) == self._current.path):
                shown = path.relative_to(root) if path.is_relative_to(root) else path
                return str(shown), frame.lineno
        return "", None


_CONNECTION = " #"
"""Between a revision's id and the number of a further connection, in the log's id."""

_FIND_SCHEMA = (
    "SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
    " ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
    " WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({name})::pg_catalog.oid"
)

_LIMIT_SESSION = (
    "SELECT pg_catalog.set_config('client_connection_check_interval', '1s', false),"
    " CASE WHEN setting::pg_catalog.int8 OPERATOR(pg_catalog.>) 0"
    " AND setting::pg_catalog.int8 OPERATOR(pg_catalog.<) {left} THEN NULL"
    " ELSE pg_catalog.set_config('statement_timeout', '{left}', false) END"
    " FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'statement_timeout'"
)

_FIND_VOLATILE = (
    "SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc WHERE provolatile OPERATOR(pg_catalog.=)"
    " 'v' AND proname OPERATOR(pg_catalog.=) ANY (ARRAY[{names}])"
)

_NEVER_COMMIT = (
    "CREATE TEMPORARY TABLE IF NOT EXISTS lambda_migrate_dry_run (never_commits pg_catalog.int4"
    " UNIQUE DEFERRABLE INITIALLY DEFERRED) ON COMMIT DROP",
    "INSERT INTO pg_temp.lambda_migrate_dry_run VALUES (1), (1)",
)


# --- drivers

_IDLE, _OPEN, _FAILED = "idle", "open", "failed"
_LIBPQ_STATUS = {0: _IDLE, 1: _OPEN, 2: _OPEN, 3: _FAILED}
_PG8000_STATUS = {b"T": _OPEN, b"E": _FAILED}


def _is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def _driver_of(connection: Connection) -> Any:
    """The driver's own connection, also behind SQLAlchemy's adapter for asyncio."""
    dbapi = connection.connection.dbapi_connection
    return getattr(dbapi, "driver_connection", dbapi)


def _is_autocommit(connection: Connection) -> bool:
    return bool(connection.connection.dbapi_connection.autocommit)  # type: ignore[union-attr]


def _read_status(connection: Connection) -> str:
    """Whether the driver has a transaction open."""
    driver = _driver_of(connection)
    info = getattr(driver, "info", None)
    if info is not None and hasattr(info, "transaction_status"):  # psycopg, psycopg2
        return _LIBPQ_STATUS.get(int(info.transaction_status), _FAILED)
    if hasattr(driver, "is_in_transaction"):  # asyncpg
        return _OPEN if driver.is_in_transaction() else _IDLE
    if hasattr(driver, "_transaction_status"):  # pg8000
        return _PG8000_STATUS.get(driver._transaction_status, _IDLE)
    raise ChildError(
        f"the driver {connection.dialect.driver} is not supported: use psycopg, psycopg2, asyncpg "
        "or pg8000 in env.py",
        kind="configuration",
    )


def _read_backend_pid(connection: Connection) -> int:
    """The backend's process id, as the login reported it."""
    driver = _driver_of(connection)
    info = getattr(driver, "info", None)
    if info is not None:
        return int(info.backend_pid)
    if hasattr(driver, "get_server_pid"):
        return int(driver.get_server_pid())
    return int.from_bytes(driver._backend_key_data[:4], "big")


def _get_session(connection: Connection) -> _Session:
    session = connection.info.setdefault(_INFO_KEY, _Session())
    assert isinstance(session, _Session)  # noqa: S101 - the key is ours
    return session


def _find_session(connection: Connection) -> _Session | None:
    if connection.closed or connection.invalidated:
        return None
    session: _Session | None = connection.info.get(_INFO_KEY)
    return session


def _query(connection: Connection, sql: str) -> Any:
    """Run one of our statements beside SQLAlchemy; returns its first row."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql)
        return cursor.fetchone() if cursor.description else None
    finally:
        cursor.close()


def _query_all(connection: Connection, sql: str) -> list[list[Any]]:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql)
        return [list(row) for row in cursor.fetchall()] if cursor.description else []
    finally:
        cursor.close()


def _find_sqlstate(error: BaseException | None) -> str:
    """The SQLSTATE in an error of any driver, or of SQLAlchemy around it."""
    original = getattr(error, "orig", None) or error
    for name in ("sqlstate", "pgcode"):
        code = getattr(original, name, None)
        if isinstance(code, str):
            return code
    fields = original.args[0] if isinstance(original, Exception) and original.args else None
    return str(fields.get("C", "")) if isinstance(fields, dict) else ""


def _describe(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    fields = original.args[0] if original.args else None
    if isinstance(fields, dict):
        return str(fields.get("M", fields))
    text = str(original).strip()
    if isinstance(error, (DBAPIError, CommandError)):
        lines = text.splitlines() or [type(error).__name__]
        return re.sub(r"^<class '[^']*'>: ", "", lines[0])
    return f"{type(error).__name__}: {text}"


def _shorten(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 300 else flat[:299] + "…"
