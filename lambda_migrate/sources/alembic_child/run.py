"""Runs Alembic in the child process, under the fence, with env.py and the revisions unchanged.

Listeners on SQLAlchemy's class `Engine` reach every engine that ``env.py`` and the revisions make.
Before a statement they ask the driver whether a transaction is open, rather than rely on what
SQLAlchemy believes: a revision may commit through the driver, or as SQL. If none is open, the fence
is compared first, and shared until the end of the transaction that this begins. So it does not
matter who began or committed: no transaction that SQLAlchemy has a part in commits under an older
token.

Every revision gets a transaction of its own. Where ``env.py`` has begun one before, it is committed
after each step by the dialect, and SQLAlchemy does not notice that it has ended.

What a revision commits before it is complete is in its log (`statement_log`). Outside a
transaction the session has the advisory lock, with which a successor finds and ends it.
"""

from __future__ import annotations

import random
import time
from functools import wraps
from itertools import count
from typing import TYPE_CHECKING, Any

from alembic.runtime.environment import EnvironmentContext
from alembic.util import CommandError

from lambda_migrate.postgresql.sql_fragments import quote_identifier, quote_literal
from lambda_migrate.sources.alembic_child.connections import OPEN, query, read_status
from lambda_migrate.sources.alembic_child.errors import translate_error
from lambda_migrate.sources.alembic_child.fence import CurrentStep, Fence
from lambda_migrate.sources.alembic_child.project import AlembicProject
from lambda_migrate.sources.alembic_child.statements import StatementListener
from lambda_migrate.sources.fence_queries import RevisionRow
from lambda_migrate.sources.notices import NoticeForwarder
from lambda_migrate.sources.protocol import ChildError
from lambda_migrate.sources.user_code import open_setup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from alembic.runtime.migration import MigrationContext

    from lambda_migrate.sources.protocol import Channel, ChildRequest

__all__ = ["run"]

_RETRYABLE = ("55P03", "40P01", "40001")
"""Lock timeout, deadlock, serialization failure: the next attempt may succeed."""

_FIND_SCHEMA = (
    "SELECT COALESCE((SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
    " ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
    " WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({name})::pg_catalog.oid),"
    " pg_catalog.current_schema())"
)
"""Where the version table is, or where Alembic is about to create it."""


def run(request: ChildRequest, channel: Channel) -> None:
    """Run one request; see `child`.

    Raises:
        ChildError: It failed.
    """
    fence = Fence(request)
    listener = StatementListener(request, fence)
    # First, because the setup function may connect.
    listener.listen(NoticeForwarder(channel, fence.find_step_id))
    with open_setup(str(request.options.get("source_setup") or "")) as config:
        try:
            project = AlembicProject(request, config)
        except CommandError as error:
            raise ChildError(str(error), kind="manifest") from error
        _AlembicRun(request, channel, project, fence, listener).run()


class _StopEnvPy(BaseException):
    """Ends env.py early, so that its transactions are rolled back; no ``except Exception``."""


class _AlembicRun:
    """One request."""

    def __init__(
        self,
        request: ChildRequest,
        channel: Channel,
        project: AlembicProject,
        fence: Fence,
        listener: StatementListener,
    ) -> None:
        self._request = request
        self._channel = channel
        self._project = project
        self._fence = fence
        self._listener = listener
        self._is_plan_only = request.command.startswith("describe")
        self._heads: Sequence[str] = ()
        self._version_table = ("", "")
        self._other_tables: list[str] = []
        """Version tables of other targets, for which env.py runs migrations as well."""
        self._total = 0
        self._has_plan = False
        self._has_run_migrations = False
        self._failure: ChildError | None = None
        """Of the step that failed last; env.py may catch it, and run the migrations again."""

    def run(self) -> None:
        """Run the command.

        Raises:
            ChildError: It failed.
        """
        for attempt in count(1):
            try:
                self._run_env()
                break
            except ChildError as error:
                if not self._may_retry(error):
                    raise
            time.sleep(min(5.0, 0.1 * 2**attempt) * random.random())  # noqa: S311 - jitter
            self._fence.reset()
            self._has_run_migrations = False
            self._failure = None
        self._channel.send_done(self._heads)

    def _may_retry(self, error: ChildError) -> bool:
        step = self._fence.step
        return (
            error.fields["sqlstate"] in _RETRYABLE
            and not (step is not None and step.has_committed)
            and self._request.seconds_left > 1
        )

    # --- env.py

    def _run_env(self) -> None:
        environment = EnvironmentContext(
            self._project.config,
            self._project.script,
            fn=self._make_steps,
            as_sql=False,
            starting_rev=None,
            destination_rev=self._project.destination,
            tag=None,
            dont_mutate=self._is_plan_only,
        )
        configure = environment.configure

        def configure_per_migration(*args: Any, **options: Any) -> None:
            callbacks = options.get("on_version_apply") or ()
            callbacks = callbacks if isinstance(callbacks, (tuple, list)) else (callbacks,)
            options["on_version_apply"] = (*callbacks, self._record)
            options["transaction_per_migration"] = self._fence.is_fenced
            configure(*args, **options)
            self._use_context(environment.get_context())

        run_migrations = environment.run_migrations

        def run_chosen_migrations(**options: Any) -> None:
            if self._is_chosen(environment.get_context()):
                run_migrations(**options)

        # On the instance: the module `alembic.context` calls what it finds there.
        environment.configure = configure_per_migration  # type: ignore[method-assign]
        environment.run_migrations = run_chosen_migrations  # type: ignore[method-assign]
        try:
            with environment:
                self._project.script.run_env()
        except _StopEnvPy:
            pass
        except BaseException as error:
            raise self._translate(error) from error
        swallowed = self._fence.error or self._failure
        if swallowed is not None:
            raise swallowed
        if self._other_tables and not self._has_run_migrations:
            raise ChildError(
                f"env.py runs no migrations for LAMBDA_MIGRATE_ALEMBIC_VERSION_TABLE="
                f"{self._chosen_table}; it does for {', '.join(self._other_tables)}",
                kind="configuration",
            )
        if not self._has_run_migrations:
            raise ChildError(
                "env.py returned without running the migrations: it must call "
                "context.run_migrations() and wait for it, even where an event loop runs"
            )

    @property
    def _chosen_table(self) -> str:
        return str(self._request.options.get("alembic_version_table") or "")

    def _is_chosen(self, context: MigrationContext) -> bool:
        """Whether the version table of this context is the target's."""
        if not self._chosen_table or context.connection is None:
            return True
        self._fence.enter_transaction(context.connection)
        schema, table = _find_version_table(context)
        if self._chosen_table in (table, f"{schema}.{table}"):
            return True
        self._other_tables.append(f"{schema}.{table}")
        return False

    def _use_context(self, context: MigrationContext) -> None:
        if context.dialect.name != "postgresql":
            raise self._fence.fail(
                f"env.py connects to {context.dialect.name}; lambda-migrate migrates PostgreSQL",
                kind="configuration",
            )
        if context.connection is None or context.as_sql:
            raise self._fence.fail(
                "env.py runs in offline mode; it must connect", kind="configuration"
            )
        connection = self._fence.connection = context.connection
        begin_block = context.autocommit_block

        def begin_direct_block() -> Any:
            """Alembic's method, which commits what the step has done."""
            if self._fence.is_fenced:
                self._fence.require_direct_connection(connection)
            return begin_block()

        context.autocommit_block = begin_direct_block  # type: ignore[method-assign]

    def _translate(self, error: BaseException) -> ChildError:
        if isinstance(error, ChildError):
            return self._fence.record_error(error)
        return self._fence.error or translate_error(
            error,
            self._fence.step,
            root=self._request.root,
            script_location=self._project.script.dir,
        )

    # --- the steps

    def _make_steps(self, heads: Any, context: MigrationContext) -> Iterable[Any]:
        """Alembic's work function: called with the heads of the version table."""
        if self._failure is not None:
            self._require_same_table(self._failure, context)
            self._failure = self._fence.step = None
        elif self._has_run_migrations:
            first, other = map(".".join, (self._version_table, _find_version_table(context)))
            raise self._fence.fail(
                f"env.py runs migrations for several version tables ({first}, then {other}): make "
                "each of them a target of its own, with its own LAMBDA_MIGRATE_TARGET, "
                "LAMBDA_MIGRATE_SCHEMA and LAMBDA_MIGRATE_ALEMBIC_VERSION_TABLE (for example "
                f"{first})",
                kind="configuration",
            )
        self._has_run_migrations = True
        self._heads = tuple(heads)
        assert context.connection is not None  # noqa: S101 - `_use_context`
        self._fence.enter_transaction(context.connection)  # SQLAlchemy 1.4 has left it
        try:
            graph = self._project.graph  # checked before Alembic reads it, also without heads
            is_known = all(each in graph for each in heads)
            steps = self._project.find_steps(heads) if is_known else []
        except Exception as error:
            raise self._fence.record_error(self._translate(error)) from error
        if not self._has_plan:
            self._send_plan(steps, context)
        if self._is_plan_only or not is_known:  # the parent decides about unknown revisions
            raise _StopEnvPy
        return self._iterate(steps, context)

    def _require_same_table(self, failure: ChildError, context: MigrationContext) -> None:
        """Let env.py try again what failed as a whole, and nothing else after it."""
        step = self._fence.step
        is_partly_committed = step is not None and step.has_committed
        if is_partly_committed or _find_version_table(context) != self._version_table:
            raise self._fence.record_error(failure)

    def _send_plan(self, steps: Sequence[Any], context: MigrationContext) -> None:
        self._version_table = _find_version_table(context)
        assert context.connection is not None  # noqa: S101 - `_use_context`
        server = self._fence.queries.read_server()
        self._channel.send_plan(
            [self._project.make_revision(each.revision) for each in steps],
            applied=self._heads,
            heads=self._project.find_needed_heads(),
            graph=[*self._project.graph.values()],
            version_table=self._version_table,
            server=query(context.connection, server) if self._is_plan_only else (),
        )
        self._has_plan, self._total = True, len(steps)

    def _iterate(self, steps: Sequence[Any], context: MigrationContext) -> Iterator[Any]:
        """The steps; between two of them the first one is committed."""
        for step in steps:
            revision = self._project.graph[step.revision.revision]
            if not self._channel.ask_to_continue(
                revision.id, position=self._fence.applied + 1, total=self._total
            ):
                return
            state = "started" if step.is_upgrade else "rolling_back"
            place = [*self._project.graph].index(revision.id) + 1
            row = RevisionRow(revision.id, revision.parents, place, revision.name, state)
            current = self._fence.step = CurrentStep(row, step.revision.path)
            step.migration_fn = self._wrap(step.migration_fn, context)
            yield step
            self._commit_open_transaction(context)
            self._fence.step = None
            self._fence.applied += 1
            self._channel.send_applied(revision.id, duration_ms=current.duration_ms)
        if self._fence.is_dry_run:
            raise _StopEnvPy

    def _wrap(self, function: Callable[..., Any], context: MigrationContext) -> Callable[..., Any]:
        @wraps(function)
        def migrate(**options: Any) -> Any:
            step, connection = self._fence.step, context.connection
            assert step is not None  # noqa: S101 - set before the step is yielded
            assert connection is not None  # noqa: S101 - `_use_context`
            self._listener.refuse_unknown_state(step)
            # Again, because env.py may have set longer limits, and a driver may be used directly.
            self._fence.enter_transaction(connection, again=True)
            step.is_running = True
            try:
                result = function(**options)
                self._listener.require_complete(step)
            except Exception as error:
                self._failure = self._translate(error)
                raise
            finally:
                step.is_running = False
            return result

        return migrate

    def _commit_open_transaction(self, context: MigrationContext) -> None:
        """Commit a step that SQLAlchemy has not: env.py began first, or the revision committed."""
        connection = context.connection
        assert connection is not None  # noqa: S101 - `_use_context`
        if self._fence.is_fenced and read_status(connection) == OPEN:
            connection.dialect.do_commit(connection.connection)

    def _record(self, *, ctx: MigrationContext, heads: Any, **_: Any) -> None:
        """Alembic's callback after the version table was changed: write our row beside it."""
        self._heads = sorted(heads)
        step, connection = self._fence.step, ctx.connection
        if not self._fence.is_fenced or step is None or connection is None:
            return
        queries, row = self._fence.queries, step.row
        if row.state == "started":
            row = row._replace(state="applied", duration_ms=step.duration_ms)
            self._fence.write(connection, queries.upsert_revision(row))
        else:
            self._fence.write(connection, queries.delete_revision(row.id))
        for log_id in self._listener.find_further_logs(step):
            self._fence.write(connection, queries.delete_revision(log_id))


def _find_version_table(context: MigrationContext) -> tuple[str, str]:
    schema, table = context.version_table_schema, context.version_table
    if not schema and context.connection is not None:
        name = quote_literal(quote_identifier(table))
        row = query(context.connection, _FIND_SCHEMA.format(name=name))
        schema = str(row[0] or "")
    return schema or "", table
