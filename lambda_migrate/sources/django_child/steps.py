"""Migrations of Django, each run in one transaction or in parts, and recorded by us as well."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder

from lambda_migrate.migrations.revisions import LOG_ID_SEPARATOR
from lambda_migrate.sources.django_child.current_step import CurrentStep
from lambda_migrate.sources.django_child.errors import (
    ACTIVE_TRANSACTION,
    find_message,
    find_sqlstate,
    is_refusal,
)
from lambda_migrate.sources.django_child.plan import find_replaced, format_id
from lambda_migrate.sources.django_child.statements import COMMITTED_BY_ITSELF
from lambda_migrate.sources.django_statements import TRANSACTION
from lambda_migrate.sources.protocol import ChildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lambda_migrate.sources.django_child.fence import Fence
    from lambda_migrate.sources.django_child.plan import MigrationPlan
    from lambda_migrate.sources.django_child.statements import StatementWrapper
    from lambda_migrate.sources.protocol import Channel, ChildRequest

__all__ = ["StepRunner", "StopBeforeStep"]


class StopBeforeStep(BaseException):
    """The parent has decided to stop; no ``except Exception`` of a project may catch it."""


class _NoTransactionError(Exception):
    """The schema editor of the project's database backend opens no transaction."""


class StepRunner:
    """Runs the steps of a plan in place of Django's executor.

    Args:
        request: The request.
        channel: For the steps' events.
        plan: The plan.
        fence: The fence.
        statements: Logs the statements of a step.
    """

    def __init__(
        self,
        request: ChildRequest,
        channel: Channel,
        plan: MigrationPlan,
        fence: Fence,
        statements: StatementWrapper,
    ) -> None:
        self._request = request
        self._channel = channel
        self._plan = plan
        self._fence = fence
        self._statements = statements
        self._alias = request.options["django_database"]
        self._position = 0
        self._last_written = ""

    @property
    def _connection(self) -> Any:
        return connections[self._alias]

    @contextmanager
    def patch_django(self) -> Iterator[None]:
        """Replace methods of the executor and the recorder, for every subclass too."""
        hooks: list[tuple[type, str, Callable[..., Any]]] = [
            (MigrationExecutor, "apply_migration", partial(self._run_step, is_rollback=False)),
            (MigrationExecutor, "unapply_migration", partial(self._run_step, is_rollback=True)),
            (MigrationExecutor, "record_migration", self._record_migration),
            (MigrationRecorder, "record_applied", partial(self._record, self._write_applied)),
            (MigrationRecorder, "record_unapplied", partial(self._record, self._delete_row)),
        ]
        if self._plan.rolled_back is not None:
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
        if clean_start or self._plan.rolled_back is None:
            return original(executor, targets, clean_start=clean_start)
        nodes = executor.loader.graph.nodes
        return [(nodes[each.app_label, each.name], True) for each, _ in self._plan.rolled_back]

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
        step_id = self._plan.make_step_id(migration, self._position)
        if self._fence.step is not None:
            self._fence.fail(
                self._connection,
                ChildError(
                    f"it runs `migrate` itself, which would apply {step_id} inside it: remove the "
                    "call, and list that migration in its dependencies"
                ),
            )
        self._position += 1
        if not self._channel.ask_to_continue(
            step_id, position=self._position, total=self._plan.total
        ):
            raise StopBeforeStep
        began = time.monotonic()
        interrupted = self._request.started.get(step_id)
        step = CurrentStep(
            step_id,
            state="rolling_back" if is_rollback else "started",
            connection=self._connection,
            earlier_log=list(interrupted or ()),
            began_at=began,
        )
        self._fence.step = step
        if TRANSACTION in step.earlier_log:
            self._statements.raise_repair_required(step, COMMITTED_BY_ITSELF)
        if interrupted is None and (migration.atomic or self._may_run_in_transaction(migration)):
            result = self._try_in_transaction(migration, executor, run, state, step)
        else:
            result = self._run_in_parts(migration, run, state, step, executor)
        self._fence.step = None
        self._channel.send_applied(step_id, duration_ms=round((time.monotonic() - began) * 1000))
        return result

    def _try_in_transaction(
        self,
        migration: Any,
        executor: Any,
        run: Callable[[Any], Any],
        state: Any,
        step: CurrentStep,
    ) -> Any:
        """Run a migration in a transaction, or in parts if it turns out to refuse one."""
        own_state = state if migration.atomic else state.clone()
        try:
            return self._run_in_transaction(migration, executor, run, own_state, step)
        except _NoTransactionError:
            pass
        except Exception as error:
            if migration.atomic or self._fence.failure or not is_refusal(error, self._connection):
                raise
            self._statements.require_rolled_back(step)
            if find_sqlstate(error) == ACTIVE_TRANSACTION:
                self._fence.require_direct_connection(self._connection)
            self._channel.send_notice(
                step.id, "NOTICE", f"it runs outside a transaction: {find_message(error)}"
            )
        return self._run_in_parts(migration, run, state, step, executor)

    def _may_run_in_transaction(self, migration: Any) -> bool:
        """Whether to try a transaction; some operations refuse one."""
        return bool(self._request.options.get("django_try_atomic", True)) and not any(
            map(_refuses_transaction, migration.operations)
        )

    def _run_in_transaction(
        self,
        migration: Any,
        executor: Any,
        run: Callable[[Any], Any],
        state: Any,
        step: CurrentStep,
    ) -> Any:
        """The migration, its record and our row, in the transaction of Django's schema editor."""
        row = self._plan.find_row(step.id)._replace(state=step.state)

        def begin() -> None:
            if not self._connection.in_atomic_block:
                raise _NoTransactionError
            self._statements.begin_step_in_transaction(self._connection, row)

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
        step: CurrentStep,
        executor: Any,
    ) -> Any:
        """The migration as written; its row says beforehand that it has begun."""
        if self._request.command == "dry-run":
            raise ChildError(
                "it runs outside a transaction, which a dry run cannot roll back", step_id=step.id
            )
        if any(map(_refuses_transaction, migration.operations)):
            self._fence.require_direct_connection(self._connection)  # before a part is committed
        step.commits_in_parts = True
        if not step.earlier_log:
            self._fence.write(
                self._connection,
                self._fence.queries.upsert_revision(
                    self._plan.find_row(step.id)._replace(state=step.state)
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

    def _forget_if_nothing_done(self, step: CurrentStep) -> None:
        queries = self._fence.queries
        self._fence.write(self._connection, queries.delete_if_nothing_done(step.id))
        step.is_partly_committed = self._statements.has_log(step)
        if step.state == "rolling_back":
            self._fence.write(
                self._connection,
                queries.upsert_revision(self._plan.find_row(step.id)._replace(state="applied")),
            )

    @contextmanager
    def _replace_methods(
        self, migration: Any, executor: Any, step: CurrentStep, begin: Callable[[], None]
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
                for app, name in find_replaced(executor.loader, migration):
                    executor.recorder.record_unapplied(app, name)
            return state

        migration.apply, migration.unapply = apply, unapply
        try:
            yield
        finally:
            del migration.apply, migration.unapply

    # --- records

    @contextmanager
    def _recording(self, step: CurrentStep | None) -> Iterator[None]:
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
            is_mirrored = LOG_ID_SEPARATOR not in step.id
            if is_mirrored and step.state == "started" and self._last_written != step.id:
                self._write_applied(step.id)

    def _record(
        self,
        write: Callable[[str], None],
        original: Callable[..., Any],
        recorder: Any,
        app: str,
        name: str,
    ) -> None:
        """Change Django's row and ours in one transaction."""
        if recorder.connection.alias != self._alias:
            original(recorder, app, name)
            return
        step = self._fence.step
        with self._recording(step):
            original(recorder, app, name)
            if step is not None and LOG_ID_SEPARATOR in step.id:
                self._delete_row(step.id)  # the mirror has the plan's schema only
            else:
                write(format_id((app, name)))

    def _delete_row(self, step_id: str) -> None:
        self._fence.write(self._connection, self._fence.queries.delete_revision(step_id))

    def _write_applied(self, step_id: str) -> None:
        row, step = self._plan.find_row(step_id), self._fence.step
        if step is not None:
            row = row._replace(duration_ms=round((time.monotonic() - step.began_at) * 1000))
        self._fence.write(self._connection, self._fence.queries.upsert_revision(row))
        self._last_written = step_id


def _bind(hook: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **options: Any) -> Any:
        return hook(original, self, *args, **options)

    return method


def _refuses_transaction(operation: Any) -> bool:
    return hasattr(operation, "_ensure_not_in_transaction")


def _run_deferred_sql(schema_editor: Any) -> None:
    deferred, schema_editor.deferred_sql = schema_editor.deferred_sql, []
    for sql in deferred:
        schema_editor.execute(sql, None)
