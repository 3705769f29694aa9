"""Runs Django's own ``migrate`` command under the fence, in the child process.

Apps and settings stay as they are. An execute wrapper on each PostgreSQL connection compares the
fence before the first statement of every transaction, and makes a statement outside one a
transaction of its own. Django records a migration that has deferred SQL after its transaction has
committed; here deferred SQL runs before Django looks for it, so the record, and our row, are part
of the migration's transaction.

A migration with ``atomic = False`` is tried in a transaction first. If it refuses, it runs as
written, statement by statement; see `django_statements`.
"""

from __future__ import annotations

import importlib
import inspect
import os
import time
import traceback
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import (
    Error,
    InterfaceError,
    NotSupportedError,
    OperationalError,
    connections,
    transaction,
)
from django.db.backends.signals import connection_created
from django.db.migrations.exceptions import (
    AmbiguityError,
    BadMigrationError,
    CircularDependencyError,
    InconsistentMigrationHistory,
    InvalidBasesError,
    NodeNotFoundError,
)
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder
from django.utils.connection import ConnectionDoesNotExist

from lambda_migrate.errors import ManifestError
from lambda_migrate.migrations.revisions import Revision
from lambda_migrate.postgresql.sql_fragments import ServerTimeouts
from lambda_migrate.sources.catalog_lookup import find_conflict, resolve_in_doubt
from lambda_migrate.sources.django_files import check_manifest, find_loaded_modules
from lambda_migrate.sources.django_statements import (
    IN_DOUBT,
    TRANSACTION,
    MessageKind,
    classify_message,
    hash_message,
)
from lambda_migrate.sources.fence_queries import (
    UNDEFINED_OBJECT_SQLSTATES,
    FenceQueries,
    RevisionRow,
)
from lambda_migrate.sources.protocol import ChildError, make_import_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lambda_migrate.sources.protocol import Channel, ChildRequest

__all__ = ["run"]

_COMMITTED_BY_ITSELF = "it had committed a part of its work (a COMMIT in the migration?)"

_IDLE, _IN_TRANSACTION = 0, 2
"""Transaction states of libpq, as both drivers report them."""

_INSUFFICIENT_PRIVILEGE = "42501"
_ACTIVE_TRANSACTION = "25001"
_REFUSALS = (_ACTIVE_TRANSACTION, "25P02", "2D000", "55006", "55P04")
"""SQLSTATEs of what works only outside a transaction: a concurrent build, statements after a caught
error, a procedure that commits, ALTER TABLE after changed rows, a new value of an enumerated type.
"""

_GRAPH_ERRORS = (
    AmbiguityError,
    BadMigrationError,
    CircularDependencyError,
    InconsistentMigrationHistory,
    InvalidBasesError,
    NodeNotFoundError,
)


def run(request: ChildRequest, channel: Channel) -> None:
    """Carry out one request; see `ChildRequest.command`."""
    with _enter_setup(request.options.get("source_setup") or ""):
        if not settings.configured and "DJANGO_SETTINGS_MODULE" not in os.environ:
            raise ChildError(
                "DJANGO_SETTINGS_MODULE is not set; set it as manage.py does (for example "
                "mysite.settings)",
                kind="configuration",
            )
        fence = _Fence(request)
        # Before the apps are loaded: they may connect, or connect receivers of their own.
        connection_created.connect(fence.install, weak=False)
        django.setup()
        modules = find_loaded_modules(request.root) or {}
        if request.command == "manifest":
            channel.send("manifest", modules=modules)
            return
        try:
            check_manifest(request.options["django_manifest"], modules, root=request.root)
            _Migrator(request, channel, fence).run()
        except ManifestError as error:
            raise ChildError(str(error), kind="manifest") from error
        finally:
            connections.close_all()


@contextmanager
def _enter_setup(setup: str) -> Iterator[None]:
    """Enter the user's context manager, ``module:callable``, if one is set."""
    module, _, name = setup.partition(":")
    with getattr(importlib.import_module(module), name)() if setup else nullcontext():
        yield


class _StopBeforeStep(BaseException):
    """The parent has decided to stop; no ``except Exception`` of a project may catch it."""


@dataclass
class _CurrentStep:
    """The migration that is running.

    Attributes:
        id: Its id in the mirror.
        state: The state of its row meanwhile.
        connection: The connection that it migrates; another thread has its own.
        interrupted: The log that an interrupted run has left, to be followed.
        began: When it began.
        in_parts: Whether each statement is logged, because each may be committed by itself.
        is_recorded: Whether Django is recording it; that is not logged.
        followed: How many entries of ``interrupted`` have been followed.
        is_partly_committed: Whether it has failed after it had committed a part.
    """

    id: str
    state: str
    connection: Any
    interrupted: list[str]
    began: float
    in_parts: bool = False
    is_recorded: bool = False
    followed: int = 0
    is_partly_committed: bool = False


class _Fence:
    """Checks the fence on every PostgreSQL connection, and logs steps that commit in parts.

    Args:
        request: The request; no connection is fenced for ``describe``.
    """

    def __init__(self, request: ChildRequest) -> None:
        self.queries = FenceQueries(request)
        self.step: _CurrentStep | None = None
        self.failure: ChildError | None = None
        """Why nothing more may run, even if the project caught it."""
        self._request = request
        self._alias = request.options["django_database"]

    def install(self, connection: Any, **_: Any) -> None:
        """Receive ``connection_created``, in any thread."""
        if not self._request.fence or connection.vendor != "postgresql":
            return
        if self._wrap not in connection.execute_wrappers:
            connection.execute_wrappers.insert(0, self._wrap)

    def check(self, connection: Any) -> None:
        """Share the fence row in the transaction that is open, or begin one.

        Raises:
            ChildError: It is another holder's; everything was rolled back.
        """
        try:
            rows = self._run(connection, self.queries.check())
            self.queries.compare(rows[0] if rows else None)
        except ChildError as error:
            self.fail(connection, error)
        except Error as error:
            sqlstate = _find_sqlstate(error)
            if sqlstate in UNDEFINED_OBJECT_SQLSTATES:
                self.fail(connection, self.queries.wrong_database_error())
            if sqlstate == _INSUFFICIENT_PRIVILEGE:
                user = connection.settings_dict.get("USER") or "its user"
                self.fail(
                    connection,
                    ChildError(
                        f"Django connects as {user}, which may not lock lambda-migrate's fence: "
                        f"{_first_line(error)}; let both use the same role, or grant it SELECT, "
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
        with self._own_transaction(connection):
            for statement in statements:
                self._run(connection, statement)

    def begin_step_in_transaction(self, connection: Any, row: RevisionRow) -> None:
        """Write the row that is visible only if the migration commits by itself."""
        self.check(connection)
        self._run(connection, self.queries.upsert_revision(row._replace(statements=[TRANSACTION])))

    # --- the wrapper

    def _wrap(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
    ) -> Any:
        if self.failure is not None:
            raise self.failure
        connection = context["connection"]
        raw = connection.connection
        if not self._is_fenced(connection):
            return execute(sql, params, many, context)
        text = sql if isinstance(sql, str) else sql.as_string(raw)
        step = self.step if self.step is not None and connection is self.step.connection else None
        if step is not None and step.is_recorded:
            step = None
        message = _Message(
            kind=classify_message(text),
            text=text,
            entry=hash_message(text, params),
            execute=partial(execute, sql, params, many, context),
        )
        is_idle = raw.info.transaction_status == _IDLE
        if is_idle and not raw.autocommit:
            self.check(connection)
        if (
            is_idle
            and raw.autocommit
            and message.kind in (MessageKind.OUTSIDE, MessageKind.CONTROL)
        ):
            return self._run_outside(connection, message, step)
        with self._own_transaction(connection):
            return self._run_inside(connection, message, step)

    def _run_inside(self, connection: Any, message: _Message, step: _CurrentStep | None) -> Any:
        """Run a statement in a transaction that has shared the fence, and log it there."""
        is_logged = message.kind not in (MessageKind.READ, MessageKind.SETTING)
        if step is None or not step.in_parts or not is_logged:
            return message.execute()
        if message.kind is MessageKind.CONTROL:
            return self._run_control(connection, message, step)
        if self._is_done(message, step):
            return None
        result = message.execute()
        self._run(connection, self.queries.append_statement(step.id, message.entry))
        return result

    def _run_control(self, connection: Any, message: _Message, step: _CurrentStep) -> Any:
        """Run a COMMIT and the like, which may commit a part of the migration."""
        if self._is_done(message, step):
            return None
        doubt = IN_DOUBT + message.entry
        self._run(connection, self.queries.append_statement(step.id, doubt))
        result = message.execute()
        self._confirm(connection, step, message, doubt)
        return result

    def _run_outside(self, connection: Any, message: _Message, step: _CurrentStep | None) -> Any:
        """Run a statement outside a transaction, the fence checked before and after it."""
        doubt = IN_DOUBT + message.entry
        run = partial(self._run, connection)
        version = connection.pg_version
        is_known = message.kind is MessageKind.OUTSIDE
        with self._own_transaction(connection):
            self.require_direct_connection(connection)
        if step is not None:
            if step.interrupted[step.followed :] == [doubt]:
                step.followed += 1
                outcome = resolve_in_doubt(message.text, run, version) if is_known else None
                if outcome is None:
                    self.require_repair(step, f"this may have taken effect: {message.excerpt}")
                self.write(
                    connection,
                    self.queries.append_statement(
                        step.id, message.entry if outcome else "", replaces=doubt
                    ),
                )
                if outcome:
                    return None
            elif self._is_done(message, step):
                return None
            if is_known and (conflict := find_conflict(message.text, run, version)):
                self.fail(connection, ChildError(conflict))
        with self._own_transaction(connection):
            if step is not None:
                self._run(connection, self.queries.append_statement(step.id, doubt))
        with self._timeouts_outside(connection):
            try:
                result = message.execute()
            except Error:
                if step is not None and is_known and self._is_undone(message, run, version):
                    self.write(
                        connection, self.queries.append_statement(step.id, "", replaces=doubt)
                    )
                raise
        self._confirm(connection, step, message, doubt)
        return result

    def _is_undone(self, message: _Message, run: Callable[[str], Any], version: int) -> bool:
        try:
            return resolve_in_doubt(message.text, run, version) is False
        except Error:
            return False  # the next run looks again

    def _confirm(
        self, connection: Any, step: _CurrentStep | None, message: _Message, doubt: str
    ) -> None:
        """Check the fence again, and log the statement as committed."""
        if connection.connection.info.transaction_status == _IN_TRANSACTION:
            self.check(connection)  # the statement has begun a transaction
        with self._own_transaction(connection):
            if step is not None:
                self._run(
                    connection,
                    self.queries.append_statement(step.id, message.entry, replaces=doubt),
                )

    # --- the log

    def _is_done(self, message: _Message, step: _CurrentStep) -> bool:
        """Whether an interrupted run has committed this statement; follow its log."""
        remaining = step.interrupted[step.followed :]
        if not remaining:
            return False
        step.followed += 1
        if remaining[0] != message.entry:
            self.require_repair(
                step,
                f"statement {step.followed} differs from what it had committed: {message.excerpt}",
            )
        if message.kind in (MessageKind.ROWS, MessageKind.CONTROL):
            self.require_repair(
                step,
                f"this is committed and can be neither skipped nor repeated: {message.excerpt}",
            )
        return True

    def require_rolled_back(self, step: _CurrentStep) -> None:
        """Check that a step which failed in a transaction has not committed a part of it."""
        if self.has_log(step):
            self.require_repair(step, _COMMITTED_BY_ITSELF)

    def has_log(self, step: _CurrentStep) -> bool:
        """Whether the mirror has a row of the step, as it has while a part of it is committed."""
        with self._own_transaction(step.connection):
            return bool(self._run(step.connection, self.queries.read_statements(step.id)))

    def require_repair(self, step: _CurrentStep, why: str) -> None:
        """Stop, because what an interrupted migration has done cannot be determined."""
        done, undone = ("applied", "pending") if step.state == "started" else ("pending", "applied")
        fake = f"manage.py migrate --fake {step.id.replace('.', ' ', 1)}"
        self.fail(
            step.connection,
            ChildError(
                f"it was interrupted, and {why}; look at the database: finish the migration by "
                f"hand{f', `{fake}`' * (done == 'applied')}, then `lambda-migrate repair {step.id} "
                f"--as {done}`; or reverse its changes, then `lambda-migrate repair "
                f"{step.id} --as {undone}`",
                kind="repair",
            ),
        )

    # --- the connection

    def _is_fenced(self, connection: Any) -> bool:
        """Whether it leads to the database that was taken over; another alias may not."""
        if connection.alias == self._alias:
            return True
        known = connection.__dict__.get("_lambda_migrate_is_fenced")
        if known is None:
            rows = self._run(connection, self.queries.find_fence())
            rows = self._run(connection, self.queries.read_identity()) if rows[0][0] else []
            known = bool(rows) and rows[0][0] == self._request.identity
            connection._lambda_migrate_is_fenced = known
        return bool(known)

    @contextmanager
    def _own_transaction(self, connection: Any) -> Iterator[None]:
        """A transaction that has shared the fence; none if one is open."""
        raw = connection.connection
        if raw.info.transaction_status != _IDLE:
            yield
            return
        if not raw.autocommit:
            self.check(connection)
            yield
            return
        self._run(connection, "BEGIN")
        try:
            self.check(connection)
            yield
        except BaseException:
            with suppress(Exception):
                self._run(connection, "ROLLBACK")
            raise
        self._run(connection, "COMMIT")

    def require_direct_connection(self, connection: Any) -> None:
        """Refuse a pooler, which would hand the session on; take the advisory lock without one."""
        pid = connection.connection.info.backend_pid
        is_direct, _ = self._run(connection, self.queries.share_advisory_lock(pid))[0]
        if not is_direct:
            self.fail(connection, self.queries.pooler_error())

    @contextmanager
    def _timeouts_outside(self, connection: Any) -> Iterator[None]:
        """Limit a statement outside a transaction; the project's own limits return after it."""
        left = max(1, round(self._request.seconds_left * 1000))
        names = {
            "statement_timeout": left,
            "lock_timeout": 0,
            "client_connection_check_interval": ServerTimeouts.CLIENT_CHECK_MS,
        }
        before = {name: self._run(connection, f"SHOW {name}")[0][0] for name in names}
        for name, value in names.items():
            self._run(connection, f"SET {name} = {value}")
        try:
            yield
        finally:
            with suppress(Error):
                for name, value in before.items():
                    self._run(connection, f"SET {name} = '{value}'")

    def _run(self, connection: Any, sql: str) -> list[Any]:
        """Run a message on the driver's connection; returns the rows of its last result."""
        with connection.wrap_database_errors, connection.connection.cursor() as cursor:
            cursor.execute(sql)
            # psycopg 2 keeps the last result only.
            while connection.Database.__name__ == "psycopg" and cursor.nextset():
                pass
            return list(cursor.fetchall()) if cursor.description else []


@dataclass(frozen=True)
class _Message:
    """What the project sends to PostgreSQL in one call."""

    kind: MessageKind
    text: str
    entry: str
    execute: Callable[[], Any]

    @property
    def excerpt(self) -> str:
        """The beginning of its text on one line."""
        return " ".join(self.text.split())[:200]


class _Migrator:
    """Runs ``migrate`` for one database alias."""

    def __init__(self, request: ChildRequest, channel: Channel, fence: _Fence) -> None:
        self._request = request
        self._channel = channel
        self._fence = fence
        self._alias = request.options["django_database"]
        self._rows: dict[str, RevisionRow] = {}
        self._position = 0
        self._total = 0
        self._plan: list[tuple[Any, bool]] | None = None
        self._paths: dict[str, str] = {}
        self._last_written = ""

    @property
    def _connection(self) -> Any:
        return connections[self._alias]

    def run(self) -> None:
        """Send the plan, migrate, and report what is applied then."""
        self._prepare_connections()
        with self._translate_errors():
            executor = MigrationExecutor(self._connection)
            arguments = self._find_arguments(executor)
            self._send_plan(executor, arguments)
            if self._request.command.startswith("describe"):
                return
            with self._patch_django(), suppress(_StopBeforeStep):
                self._migrate(arguments)
            if self._fence.failure is not None:
                raise self._fence.failure
            applied = MigrationRecorder(self._connection).applied_migrations()
        self._channel.send_done([_format_id(key) for key in applied])

    def _migrate(self, arguments: list[str]) -> None:
        is_dry_run = self._request.command == "dry-run"
        with transaction.atomic(self._alias) if is_dry_run else nullcontext():
            call_command(
                "migrate", *arguments, database=self._alias, interactive=False, skip_checks=True
            )
            if is_dry_run:
                transaction.set_rollback(True, self._alias)

    def _prepare_connections(self) -> None:
        """Name our connections, and do without a pool, which would keep them."""
        try:
            target = self._connection
        except ConnectionDoesNotExist:
            raise ChildError(
                f"DATABASES has no {self._alias!r}, which LAMBDA_MIGRATE_DJANGO_DATABASE names",
                kind="configuration",
            ) from None
        if target.vendor != "postgresql":
            raise ChildError(
                f"DATABASES[{self._alias!r}] is {target.settings_dict['ENGINE']}; lambda-migrate "
                "migrates PostgreSQL only",
                kind="configuration",
            )
        for alias in connections:
            with suppress(ImproperlyConfigured):  # the driver of another alias is not installed
                connection = connections[alias]
                if connection.vendor == "postgresql":
                    connection.close()
                    options = connection.settings_dict["OPTIONS"]
                    options.pop("pool", None)
                    if self._request.application_name:
                        options["application_name"] = self._request.application_name

    # --- the plan

    def _find_arguments(self, executor: Any) -> list[str]:
        """App and migration for the command; a number of steps becomes a plan of our own."""
        graph = executor.loader.graph
        if self._request.steps is not None:
            rows = executor.recorder.applied_migrations()
            newest = sorted(rows, key=lambda key: rows[key].pk, reverse=True)
            keys = [key for key in newest if key in graph.nodes][: self._request.steps]
            self._plan = [(graph.nodes[key], True) for key in keys]
            return []
        if not self._request.to:
            return []
        app, _, name = self._request.to.partition(".")
        return [app, name or "zero"]

    def _send_plan(self, executor: Any, arguments: list[str]) -> None:
        graph = executor.loader.graph
        order = executor.migration_plan(graph.leaf_nodes(), clean_start=True)
        steps = {
            _format_id(key): Revision(
                id=_format_id(key),
                name=_format_id(key),
                parents=[_format_id(parent.key) for parent in sorted(graph.node_map[key].parents)],
                path=self._find_path(migration),
            )
            for migration, _ in order
            for key in [(migration.app_label, migration.name)]
        }
        for position, step in enumerate(steps.values(), start=1):
            self._rows[step.id] = RevisionRow(step.id, step.parents, position, step.name)
            self._paths[step.id] = step.path
        plan = self._plan
        if plan is None:
            plan = executor.migration_plan(self._find_targets(executor, arguments))
            if not any(backwards for _, backwards in plan):
                # The executor follows the order of the whole graph.
                places = {migration: place for place, (migration, _) in enumerate(order)}
                plan = sorted(plan, key=lambda step: places.get(step[0], 0))
        self._total = len(plan)
        self._channel.send_plan(
            [
                steps.get(step_id, Revision(step_id, name=step_id))
                for migration, _ in plan
                for step_id in [_format_id((migration.app_label, migration.name))]
            ],
            applied=[_format_id(key) for key in executor.loader.applied_migrations],
            heads=[_format_id(key) for key in graph.leaf_nodes()],
            graph=list(steps.values()),
            version_table=self._find_version_table(),
        )

    def _find_version_table(self) -> tuple[str, str]:
        """Where Django's search path leads, which may be another one than lambda-migrate's."""
        table = MigrationRecorder.Migration._meta.db_table
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT coalesce((SELECT n.nspname FROM pg_catalog.pg_class c"
                " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
                " WHERE c.oid = pg_catalog.to_regclass(%s)), pg_catalog.current_schema(), '')",
                [table],
            )
            return cursor.fetchone()[0], table

    def _find_targets(self, executor: Any, arguments: list[str]) -> list[Any]:
        if not arguments:
            return list(executor.loader.graph.leaf_nodes())
        app, name = arguments
        if name == "zero":
            return [(app, None)]
        try:
            return [(app, executor.loader.get_migration_by_prefix(app, name).name)]
        except KeyError:
            raise ChildError(
                f"there is no migration {app}.{name}; write it as app.name, app.zero rolls back "
                "the whole app",
                kind="configuration",
            ) from None

    def _find_path(self, migration: Any) -> str:
        try:
            path = Path(inspect.getfile(type(migration))).resolve()
        except (TypeError, OSError):
            return ""
        root = Path(self._request.root).resolve()
        return str(path.relative_to(root) if path.is_relative_to(root) else path)

    # --- the hooks

    @contextmanager
    def _patch_django(self) -> Iterator[None]:
        """Replace methods of the executor and the recorder, for every subclass too."""
        hooks: list[tuple[type, str, Callable[..., Any]]] = [
            (MigrationExecutor, "apply_migration", partial(self._run_step, is_rollback=False)),
            (MigrationExecutor, "unapply_migration", partial(self._run_step, is_rollback=True)),
            (MigrationExecutor, "record_migration", self._record_migration),
            (MigrationRecorder, "record_applied", self._record_applied),
            (MigrationRecorder, "record_unapplied", self._record_unapplied),
        ]
        if self._plan is not None:
            hooks.append((MigrationExecutor, "migration_plan", self._make_plan))
        originals = [(owner, name, getattr(owner, name)) for owner, name, _ in hooks]
        for owner, name, hook in hooks:
            setattr(owner, name, _bind(hook, getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)

    def _make_plan(
        self, original: Callable[..., Any], executor: Any, targets: Any, clean_start: bool = False
    ) -> Any:
        if clean_start or self._plan is None:
            return original(executor, targets, clean_start=clean_start)
        nodes = executor.loader.graph.nodes
        return [(nodes[each.app_label, each.name], True) for each, _ in self._plan]

    def _run_step(
        self,
        original: Callable[..., Any],
        executor: Any,
        state: Any,
        migration: Any,
        *,
        is_rollback: bool,
        **options: Any,
    ) -> Any:
        """In place of the executor's ``apply_migration`` and ``unapply_migration``."""

        def run(state: Any) -> Any:
            return original(executor, state, migration, **options)

        if executor.connection.alias != self._alias:
            return run(state)  # another database, migrated by the project itself
        step_id = _format_id((migration.app_label, migration.name))
        self._position += 1
        if not self._channel.ask_to_continue(step_id, position=self._position, total=self._total):
            raise _StopBeforeStep
        began = time.monotonic()
        interrupted = self._request.started.get(step_id)
        step = _CurrentStep(
            step_id,
            state="reverting" if is_rollback else "started",
            connection=self._connection,
            interrupted=list(interrupted or ()),
            began=began,
        )
        self._fence.step = step
        is_first_run = interrupted is None
        if TRANSACTION in step.interrupted:
            self._fence.require_repair(step, _COMMITTED_BY_ITSELF)
        if is_first_run and (migration.atomic or self._may_try(migration)):
            try:
                result = self._run_in_transaction(
                    migration, executor, run, state if migration.atomic else state.clone(), step
                )
            except Exception as error:
                if migration.atomic or self._fence.failure or not _is_refusal(error):
                    raise
                self._fence.require_rolled_back(step)
                if _find_sqlstate(error) == _ACTIVE_TRANSACTION:
                    self._fence.require_direct_connection(self._connection)
                self._channel.send_notice(
                    step_id, "NOTICE", f"it runs outside a transaction: {_first_line(error)}"
                )
                result = self._run_in_parts(migration, run, state, step, executor)
        else:
            result = self._run_in_parts(migration, run, state, step, executor)
        self._fence.step = None
        self._channel.send_applied(step_id, duration_ms=round((time.monotonic() - began) * 1000))
        return result

    def _may_try(self, migration: Any) -> bool:
        """Whether to try it in a transaction; some operations say that they refuse one."""
        return bool(self._request.options.get("django_try_atomic", True)) and not any(
            map(_refuses_transaction, migration.operations)
        )

    def _run_in_transaction(
        self,
        migration: Any,
        executor: Any,
        run: Callable[[Any], Any],
        state: Any,
        step: _CurrentStep,
    ) -> Any:
        """The migration, its record and our row, in the transaction of Django's schema editor."""
        row = self._known_row(step.id)._replace(state=step.state)

        def begin() -> None:
            self._fence.begin_step_in_transaction(self._connection, row)

        with self._replace_methods(migration, executor, step, begin):
            was_atomic, migration.atomic = migration.atomic, True
            try:
                return run(state)
            finally:
                migration.atomic = was_atomic

    def _run_in_parts(
        self,
        migration: Any,
        run: Callable[[Any], Any],
        state: Any,
        step: _CurrentStep,
        executor: Any,
    ) -> Any:
        """The migration as written; its row says beforehand that it has begun."""
        if self._request.command == "dry-run":
            raise ChildError("it cannot be tried: it runs outside a transaction", step_id=step.id)
        if any(map(_refuses_transaction, migration.operations)):
            self._fence.require_direct_connection(self._connection)  # before a part is committed
        step.in_parts = True
        if not step.interrupted:
            self._fence.write(
                self._connection,
                self._fence.queries.upsert_revision(
                    self._known_row(step.id)._replace(state=step.state)
                ),
            )
        try:
            with self._replace_methods(migration, executor, step, lambda: None):
                return run(state)
        except BaseException:
            if self._fence.failure is None:
                with suppress(Exception):
                    self._forget_if_nothing_done(step)
            raise

    def _forget_if_nothing_done(self, step: _CurrentStep) -> None:
        queries = self._fence.queries
        self._fence.write(self._connection, queries.delete_if_nothing_done(step.id))
        step.is_partly_committed = self._fence.has_log(step)
        if step.state == "reverting":
            self._fence.write(
                self._connection,
                queries.upsert_revision(self._known_row(step.id)._replace(state="applied")),
            )

    @contextmanager
    def _replace_methods(
        self, migration: Any, executor: Any, step: _CurrentStep, begin: Callable[[], None]
    ) -> Iterator[None]:
        """Run deferred SQL inside ``apply``, so that the executor records the migration there."""

        def apply(state: Any, schema_editor: Any, collect_sql: bool = False) -> Any:
            begin()
            state = type(migration).apply(migration, state, schema_editor, collect_sql)
            _run_deferred_sql(schema_editor)
            return state

        def unapply(state: Any, schema_editor: Any, collect_sql: bool = False) -> Any:
            begin()
            state = type(migration).unapply(migration, state, schema_editor, collect_sql)
            _run_deferred_sql(schema_editor)
            # The executor records it after the transaction; then nothing is left to delete.
            with self._recording(step):
                for app, name in _find_replaced(executor.loader, migration):
                    executor.recorder.record_unapplied(app, name)
            return state

        migration.apply, migration.unapply = apply, unapply
        try:
            yield
        finally:
            del migration.apply, migration.unapply

    # --- records

    @contextmanager
    def _recording(self, step: _CurrentStep | None) -> Iterator[None]:
        if step is not None:
            step.is_recorded = True
        with transaction.atomic(self._alias, savepoint=False):
            yield

    def _record_migration(
        self, original: Callable[..., Any], executor: Any, *args: Any, **options: Any
    ) -> None:
        step = self._fence.step
        if executor.connection.alias != self._alias or step is None:
            original(executor, *args, **options)
            return
        with self._recording(step):
            original(executor, *args, **options)
            if step.state == "started" and self._last_written != step.id:
                self._write_applied(step.id)

    def _record_applied(
        self, original: Callable[..., Any], recorder: Any, app: str, name: str
    ) -> None:
        if recorder.connection.alias != self._alias:
            original(recorder, app, name)
            return
        with self._recording(self._fence.step):
            original(recorder, app, name)
            self._write_applied(_format_id((app, name)))

    def _record_unapplied(
        self, original: Callable[..., Any], recorder: Any, app: str, name: str
    ) -> None:
        if recorder.connection.alias != self._alias:
            original(recorder, app, name)
            return
        with self._recording(self._fence.step):
            original(recorder, app, name)
            self._fence.write(
                self._connection, self._fence.queries.delete_revision(_format_id((app, name)))
            )

    def _write_applied(self, step_id: str) -> None:
        row, step = self._known_row(step_id), self._fence.step
        if step is not None:
            row = row._replace(duration_ms=round((time.monotonic() - step.began) * 1000))
        self._fence.write(self._connection, self._fence.queries.upsert_revision(row))
        self._last_written = step_id

    def _known_row(self, step_id: str) -> RevisionRow:
        return self._rows.get(step_id, RevisionRow(step_id, name=step_id))

    # --- errors

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except ChildError as error:
            raise self._complete(error) from error
        except Exception as error:
            if self._fence.failure is not None:
                raise self._complete(self._fence.failure) from error
            raise self._translate(error) from error

    def _complete(self, error: ChildError) -> ChildError:
        if self._fence.step is not None:
            error.fields["id"] = error.fields["id"] or self._fence.step.id
        return error

    def _translate(self, error: Exception) -> ChildError:
        step = self._fence.step
        step_id = step.id if step else ""
        sqlstate = _find_sqlstate(error)
        kind = "migration"
        if isinstance(error, _GRAPH_ERRORS) or (
            isinstance(error, CommandError) and "Conflicting migrations" in str(error)
        ):
            kind = "manifest"
        elif isinstance(error, ImproperlyConfigured):
            kind = "configuration"
        elif isinstance(error, (OperationalError, InterfaceError)) and (
            not sqlstate or sqlstate.startswith(("08", "57P"))
        ):
            kind = "unavailable"
        path = self._paths.get(step_id, "")
        line = self._find_line(error, path)
        if isinstance(error, ImportError):
            return make_import_error(error, step_id=step_id, path=path, line=line)
        return ChildError(
            _first_line(error),
            kind=kind,
            step_id=step_id,
            sqlstate=sqlstate,
            detail="\n".join(_list_server_fields(error)),
            path=path,
            line=line,
            is_partly_committed=step is not None and step.is_partly_committed,
        )

    def _find_line(self, error: Exception, path: str) -> int | None:
        """The line of the migration that failed, unless an operation of Django's own did."""
        file = (Path(self._request.root) / path).resolve()
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve() == file
        ]
        return lines[-1] if path and lines else None


def _bind(hook: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **options: Any) -> Any:
        return hook(original, self, *args, **options)

    return method


def _format_id(key: tuple[str, str]) -> str:
    return f"{key[0]}.{key[1]}"


def _run_deferred_sql(schema_editor: Any) -> None:
    deferred, schema_editor.deferred_sql = schema_editor.deferred_sql, []
    for sql in deferred:
        schema_editor.execute(sql, None)


def _find_replaced(loader: Any, migration: Any) -> Iterator[tuple[str, str]]:
    """The migration, and before it those that it replaces, which may be squashes themselves."""
    for key in migration.replaces:
        replaced = loader.disk_migrations.get(tuple(key))
        if replaced is None:
            yield tuple(key)
        else:
            yield from _find_replaced(loader, replaced)
    yield migration.app_label, migration.name


def _refuses_transaction(operation: Any) -> bool:
    return hasattr(operation, "_ensure_not_in_transaction")


def _is_refusal(error: BaseException) -> bool:
    """Whether it failed because it ran in a transaction."""
    if isinstance(error, (NotSupportedError, transaction.TransactionManagementError)):
        return True
    if isinstance(error, RuntimeError) and "durable" in str(error):
        return True
    return _find_sqlstate(error) in _REFUSALS


def _find_driver_error(error: BaseException) -> BaseException | None:
    found: BaseException | None = error
    while found is not None and not hasattr(found, "diag"):
        found = found.__cause__
    return found


def _find_sqlstate(error: BaseException) -> str:
    found = _find_driver_error(error)
    return str(getattr(found, "sqlstate", None) or getattr(found, "pgcode", None) or "")


def _list_server_fields(error: BaseException) -> list[str]:
    diagnosis = getattr(_find_driver_error(error), "diag", None)
    fields = [
        (name, getattr(diagnosis, f"message_{name}", None)) for name in ("detail", "hint")
    ] + [("where", getattr(diagnosis, "context", None))]
    return [f"  {name}: {' '.join(text.split())}" for name, text in fields if text]


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    diagnosis = getattr(_find_driver_error(error), "diag", None)
    primary = getattr(diagnosis, "message_primary", None)
    if primary:
        return str(primary)
    first = text.splitlines()[0]
    return first if isinstance(error, (Error, CommandError)) else f"{type(error).__name__}: {first}"
