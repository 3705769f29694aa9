"""Non-transactional migrations: each statement is announced by an intent row.

``CREATE INDEX CONCURRENTLY`` and the like cannot share a transaction with their history row. One
rule holds for up and down scripts:

1. A row in doubt is resolved before anything else begins.
2. Before the intent row is written, the catalog is read, and whatever conflicts with the statement
   is refused. So what is found afterwards is the statement's own work. The row keeps the object
   ids (OIDs) that it concerns, because a name may later mean another object.
3. The intent row is committed as ``started`` or ``rolling_back``. A process that finds it reads the
   catalog again:

==============  ====================================================================================
absent          no effect: the row returns to its former state
invalid         half done: an index is dropped, a DETACH finished; then the catalog is read again
complete        full effect: the row becomes ``applied``, or a rollback deletes it
unknown         cannot be determined: `RepairRequired`, unless the script is marked idempotent
==============  ====================================================================================

In a script of several statements the row also records how many are complete. A statement that can
run in a transaction commits together with that number, so it is never in doubt. After an
interruption the script continues where it stopped: an up script by the file as it is now, if its
first statements are still those that have run, and a down script as it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from lambda_migrate.errors import DatabaseUnavailable, MigrationFailed, RepairRequired
from lambda_migrate.migrations.history import RowState
from lambda_migrate.migrations.migration import Script
from lambda_migrate.migrations.sql.classify import classify
from lambda_migrate.migrations.sql.lint import (
    can_run_in_transaction,
    is_session_setting,
    list_statements,
)
from lambda_migrate.migrations.sql.tokens import TokenCursor, split_statements
from lambda_migrate.postgresql import catalog_queries
from lambda_migrate.postgresql.catalog_state import (
    DUPLICATE_OBJECT,
    DUPLICATE_TABLE,
    CatalogInspector,
    CatalogState,
    quote_qualified_name,
)
from lambda_migrate.postgresql.combined_script import CombinedScript, ScriptPart
from lambda_migrate.postgresql.connection import ConnectionLost, PostgresError
from lambda_migrate.postgresql.error_report import make_migration_failed
from lambda_migrate.postgresql.queries import ScriptProgress
from lambda_migrate.postgresql.transactional import (
    CANCEL_TOLERANCE_SECONDS,
    MAX_CONNECTION_LOSSES,
    RETRYABLE_SQLSTATES,
    ScriptRunner,
    require_runnable_migration,
    require_runnable_script,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from lambda_migrate.clock import Deadline
    from lambda_migrate.migrations import HistoryRow, Migration
    from lambda_migrate.migrations.version import Version
    from lambda_migrate.postgresql.fence import FencedConnection

__all__ = [
    "already_applied_error",
    "apply_non_transactional",
    "resolve_in_doubt",
    "roll_back_non_transactional",
]

_T = TypeVar("_T")

_UNIQUE_VIOLATION = "23505"
_ALREADY_EXISTS = (DUPLICATE_TABLE, DUPLICATE_OBJECT, "42P04")
_CREATE_KINDS = ("create-index", "add-enum-value", "create-object")

_CLEAN_UP_SECONDS = 1.0
"""How far beyond its deadline a failed statement may clean up: half the safety margin."""


def apply_non_transactional(
    connection: FencedConnection, migration: Migration, digest: str, deadline: Deadline
) -> int:
    """Apply one non-transactional migration; see `FencedSession.apply`."""
    path = migration.path or migration.name
    require_runnable_migration(migration)
    if _has_several_statements(migration.up):
        statements = _split_statements(migration.up)
        run = _StatementsRunner(
            connection, statements, migration.version, migration.name, path, deadline
        )
        return run.apply(migration, digest)
    statement = _NonTransactionalStatement(
        connection,
        migration.up,
        name=migration.name,
        path=path,
        deadline=deadline,
        version=migration.version,
    )
    object_ids = statement.check_before_start()
    queries = connection.queries
    started = queries.insert_started(migration, digest, connection.grant, object_ids=object_ids)
    if statement.write(started) != [True]:
        raise already_applied_error(migration)
    statement.run(clear_intent=queries.delete_rows([migration.version]) + " RETURNING 0")
    return int(statement.write(queries.mark_applied(migration.version))[0])


def already_applied_error(migration: Migration) -> MigrationFailed:
    """The error for a version that is in the history."""
    return MigrationFailed(
        f"version {migration.version} is in the history already",
        migration=migration.name,
        sqlstate=_UNIQUE_VIOLATION,
    )


def roll_back_non_transactional(
    connection: FencedConnection, row: HistoryRow, deadline: Deadline
) -> int:
    """Roll back one migration whose down script is non-transactional."""
    script = _require_script(row.down, row)
    path = f"{row.name} (stored down script)"
    require_runnable_script(script, name=row.name, path=path)
    if _has_several_statements(script):
        statements = _split_statements(script)
        run = _StatementsRunner(
            connection, statements, row.version, row.name, path, deadline, is_rollback=True
        )
        return run.roll_back()
    statement = _NonTransactionalStatement(
        connection,
        script,
        name=row.name,
        path=path,
        deadline=deadline,
        version=row.version,
        is_rollback=True,
    )
    queries = connection.queries
    began = deadline.clock.monotonic()
    object_ids = statement.check_before_start()
    statement.write(queries.mark_rolling_back(row.version, object_ids=object_ids) + " RETURNING 0")
    statement.run(clear_intent=queries.restore_applied(row.version) + " RETURNING 0")
    statement.write(queries.delete_rows([row.version]) + " RETURNING 0")
    return round((deadline.clock.monotonic() - began) * 1000)


def resolve_in_doubt(
    connection: FencedConnection,
    row: HistoryRow,
    deadline: Deadline,
    *,
    file: tuple[Migration, str] | None = None,
) -> None:
    """Complete or roll back a row in doubt; see `FencedSession.resolve_in_doubt`."""
    is_rollback = row.state is RowState.ROLLING_BACK
    script = _require_script(row.down if is_rollback else row.up, row)
    path = row.name
    if file is not None and not is_rollback and file[0].checksum == row.checksum:
        script, path = file[0].up, file[0].path or row.name  # the row does not know its line
    if _has_several_statements(script):
        statements = _split_statements(script)
        run = _StatementsRunner(
            connection, statements, row.version, row.name, path, deadline, is_rollback=is_rollback
        )
        run.resume(row, file)
        return
    statement = _NonTransactionalStatement(
        connection,
        script,
        name=row.name,
        path=path,
        deadline=deadline,
        version=row.version,
        is_rollback=is_rollback,
        object_ids=row.object_ids,
    )
    queries = connection.queries
    took_effect = statement.clean_up()
    if took_effect is None:
        raise statement.make_repair_required_error(
            f"it was interrupted while {'rolling back' if is_rollback else 'applying'}, and "
            "lambda-migrate cannot determine whether its statement took effect"
        )
    if took_effect and not is_rollback:
        statement.write(queries.mark_applied(row.version))
    elif is_rollback and not took_effect:
        statement.write(queries.restore_applied(row.version) + " RETURNING 0")
    else:
        statement.write(queries.delete_rows([row.version]) + " RETURNING 0")


def _require_script(script: Script | None, row: HistoryRow) -> Script:
    """The script of a history row.

    Raises:
        MigrationFailed: The row has none.
    """
    if script is None:
        raise MigrationFailed(
            "its history row contains no script; check the database, then run `lambda-migrate "
            f"repair {row.version} --as applied` or `--as pending`",
            migration=row.name,
        )
    return script


@dataclass(frozen=True, slots=True)
class _ScriptStatement:
    """One of several statements of a script.

    Attributes:
        script: The statement, at its line and column of the file.
        settings: The SET and RESET statements above it. Each statement has a session of its own.
    """

    script: Script
    settings: tuple[str, ...] = ()


def _has_several_statements(script: Script) -> bool:
    return len(split_statements(script.sql)) > 1


def _split_statements(script: Script) -> list[_ScriptStatement]:
    """At least one; a SET is in the list only if no other statement follows it."""
    found: list[_ScriptStatement] = []
    settings: list[str] = []
    statements = list_statements(script.sql)
    for statement in statements:
        if is_session_setting(statement) and statement is not statements[-1]:
            settings.append(statement.text)
            continue
        indent = " " * (statement.start - script.sql.rfind("\n", 0, statement.start) - 1)
        one = Script(
            indent + statement.text,
            script.line + statement.line - 1,
            transactional=can_run_in_transaction(statement),
            idempotent=script.idempotent,
        )
        found.append(_ScriptStatement(one, tuple(settings)))
    return found


def _make_local_search_path(settings: tuple[str, ...]) -> str:
    """The search path that the settings leave, for one of the library's transactions."""
    for setting in reversed(settings):
        cursor = TokenCursor(setting)
        if cursor.accept("RESET") and cursor.accept_any("SEARCH_PATH", "ALL"):
            return ""
        if not cursor.accept("SET", "SESSION"):
            cursor.accept("SET")
        if cursor.accept_any("SEARCH_PATH", "SCHEMA"):
            if not cursor.accept("TO"):
                cursor.accept_symbol("=")
            return f"SET LOCAL search_path TO {cursor.rest}; "
    return ""


class _StatementsRunner:
    """Runs a script of several statements from any of them on."""

    def __init__(
        self,
        connection: FencedConnection,
        statements: list[_ScriptStatement],
        version: Version,
        name: str,
        path: str,
        deadline: Deadline,
        *,
        is_rollback: bool = False,
    ) -> None:
        self._connection = connection
        self._queries = connection.queries
        self._statements = statements
        self._version = version
        self._name = name
        self._path = path
        self._deadline = deadline
        self._is_rollback = is_rollback

    def apply(self, migration: Migration, digest: str) -> int:
        """Run an up script from its first statement on; returns milliseconds."""
        started = self._queries.insert_started(
            migration, digest, self._connection.grant, progress=ScriptProgress(0)
        )
        if self._write(started) != [True]:
            raise already_applied_error(migration)
        return self._run_from(0)

    def roll_back(self) -> int:
        """Run a down script from its first statement on; returns milliseconds."""
        began = self._deadline.clock.monotonic()
        intent = self._queries.mark_rolling_back(self._version, progress=ScriptProgress(0))
        self._write(f"{intent} RETURNING 0")
        self._run_from(0)
        return round((self._deadline.clock.monotonic() - began) * 1000)

    def resume(self, row: HistoryRow, file: tuple[Migration, str] | None) -> None:
        """Resolve the statement in doubt, and continue after it.

        Raises:
            RepairRequired: Its outcome cannot be determined.
            MigrationFailed: Statements that have run were changed in the file.
        """
        completed = row.completed_statements
        if not row.is_between_statements:
            took_effect = self._make_statement(completed, row.object_ids).clean_up()
            if took_effect is None:
                raise self._make_statement(completed).make_repair_required_error(
                    "it was interrupted, and lambda-migrate cannot determine whether this "
                    "statement took effect"
                )
            completed += took_effect
            self._write(self._queries.record_progress(self._version, ScriptProgress(completed)))
        if completed == 0:
            self._write(self._clear_intent())
            return
        if file is not None and not self._is_rollback and file[0].checksum != row.checksum:
            self._continue_by_file(*file, completed=completed)
        self._run_from(completed)

    def _continue_by_file(self, migration: Migration, digest: str, *, completed: int) -> None:
        """Take the statements that remain from a corrected file."""
        require_runnable_migration(migration)
        statements = [] if migration.up.transactional else _split_statements(migration.up)
        finished = [each.script.sql.split() for each in self._statements[:completed]]
        if [each.script.sql.split() for each in statements[:completed]] != finished:
            raise MigrationFailed(
                f"its first {completed} statements are committed, but were changed in the file: "
                "restore them, and edit only the statements after them",
                migration=self._name,
            )
        self._write(self._queries.replace_started(migration, digest))
        self._statements = statements
        self._path = migration.path or migration.name

    def _run_from(self, first: int) -> int:
        for position in range(first, len(self._statements)):
            try:
                if self._statements[position].script.transactional:
                    self._run_in_transaction(position)
                else:
                    self._run_outside_transaction(position)
            except MigrationFailed as failure:
                if position > 0 and not isinstance(failure, RepairRequired):
                    self._add_committed_statements(failure, position)
                raise
        if self._is_rollback:
            return int(self._write(f"{self._queries.delete_rows([self._version])} RETURNING 0")[0])
        return int(self._write(self._queries.mark_applied(self._version))[0])

    def _add_committed_statements(self, failure: MigrationFailed, count: int) -> None:
        failure.detail = (
            f"{failure.detail or failure.summary}\n"
            f"  statement {count + 1} of {len(self._statements)}: "
            "those before it are committed, and the next run continues with it"
        )
        failure.args = (failure.detail,)
        failure.is_partly_committed = True

    def _run_in_transaction(self, position: int) -> None:
        """Commit the statement together with the number of statements that are complete."""
        statement, after = self._statements[position], ScriptProgress(position + 1)

        def read_duration_if_committed() -> int | None:
            rows = self._connection.read(self._queries.read_row(self._version), self._deadline)
            return 0 if rows and rows[0][3] == str(after) else None

        runner = ScriptRunner(
            self._connection,
            CombinedScript(ScriptPart(statement.script, self._path), placeholders={}),
            name=self._name,
            version=self._version,
            deadline=self._deadline,
            settings=statement.settings,
        )
        write = self._queries.record_progress_in_script(
            self._version, after, is_rollback=self._is_rollback
        )
        try:
            runner.run_until_committed(write, read_duration_if_committed)
        except RepairRequired:
            raise
        except MigrationFailed:
            if position == 0:
                self._write(self._clear_intent())
            raise

    def _run_outside_transaction(self, position: int) -> None:
        """Announce the statement by the intent row, run it, and record it."""
        statement = self._make_statement(position)
        before, after = ScriptProgress(position), ScriptProgress(position + 1)
        try:
            object_ids = statement.check_before_start()
        except MigrationFailed:
            if position == 0:
                self._write(self._clear_intent())
            raise
        during = ScriptProgress(position, object_ids)
        statement.write(self._queries.record_progress(self._version, during))
        clear = self._queries.record_progress(self._version, before)
        statement.run(clear_intent=self._clear_intent() if position == 0 else clear)
        statement.write(self._queries.record_progress(self._version, after))

    def _clear_intent(self) -> str:
        """SQL that removes the intent of a script of which nothing took effect."""
        if self._is_rollback:
            return self._queries.restore_applied(self._version) + " RETURNING 0"
        return self._queries.delete_rows([self._version]) + " RETURNING 0"

    def _write(self, writes: str) -> list[Any]:
        return self._make_statement(0).write(writes)

    def _make_statement(
        self, position: int, object_ids: tuple[int, ...] | None = None
    ) -> _NonTransactionalStatement:
        statement = self._statements[position]
        return _NonTransactionalStatement(
            self._connection,
            statement.script,
            name=self._name,
            path=self._path,
            deadline=self._deadline,
            version=self._version,
            is_rollback=self._is_rollback,
            object_ids=object_ids,
            settings=statement.settings,
            location=f"statement {position + 1} of {len(self._statements)}, "
            f"line {statement.script.line}" + " (those before it are committed)" * (position > 0),
        )


class _NonTransactionalStatement:
    """Runs one statement outside a transaction, and determines its outcome."""

    def __init__(
        self,
        connection: FencedConnection,
        script: Script,
        *,
        name: str,
        path: str,
        deadline: Deadline,
        version: Version,
        is_rollback: bool = False,
        object_ids: tuple[int, ...] | None = None,
        settings: tuple[str, ...] = (),
        location: str = "",
    ) -> None:
        self._connection = connection
        self._script = script
        self._settings = settings
        self._search_path = _make_local_search_path(settings)
        self._location = location
        self._name = name
        self._path = path
        self._deadline = deadline
        self._repair = f"lambda-migrate repair {version} --as"
        self._is_rollback = is_rollback
        self._info = classify(split_statements(script.sql)[0])
        self._catalog = CatalogInspector(
            self._info,
            read=self._read,
            is_same_index=self._is_same_index,
            repair_command=f"`{self._repair} {'pending' if is_rollback else 'applied'}`",
            object_ids=object_ids,
        )
        self._was_complete_before = False
        self._lost_connections = 0

    def write(self, writes: str) -> list[Any]:
        """Write in a transaction of its own, on a new connection if this one breaks.

        The write may run twice: it sets a row to its final state.
        """
        try:
            return self._retry_on_new_connection(
                lambda: self._connection.write(writes, self._deadline)
            )
        except PostgresError as error:
            raise self._failure(error, is_bookkeeping=True) from error

    def check_before_start(self) -> tuple[int, ...]:
        """Read the catalog, and refuse what conflicts with the statement.

        Returns:
            The ids of the objects that it concerns, for the intent row.

        Raises:
            MigrationFailed: It could not succeed, or its outcome could not be determined later.
        """
        finding = self._catalog.inspect()
        if finding.conflict:
            raise MigrationFailed(finding.conflict, migration=self._name, sqlstate=finding.sqlstate)
        self._was_complete_before = finding.state is CatalogState.COMPLETE
        self._catalog.object_ids = finding.object_ids
        return finding.object_ids

    def run(self, *, clear_intent: str) -> None:
        """Run the statement until the deadline, retrying after deadlocks and lost connections.

        Args:
            clear_intent: SQL that removes the intent after a failure without effect.

        Raises:
            MigrationFailed: It failed without any effect.
            RepairRequired: It failed, and part of it may be committed.
        """
        for attempt in count(1):
            try:
                self._connection.run_non_transactional(
                    self._script.sql, self._deadline, name=self._name, settings=self._settings
                )
                break
            except PostgresError as error:
                failure = self._failure(error)
                if error.sqlstate in RETRYABLE_SQLSTATES and self._can_retry(error, attempt):
                    continue
                self._clean_up_after_failure(failure, error, clear_intent)
                raise failure from error
            except ConnectionLost as connection_lost:
                if self._check_after_connection_loss(connection_lost, clear_intent):
                    break
                self._connection.pause(attempt, self._deadline)

    def _can_retry(self, error: PostgresError, attempt: int) -> bool:
        """Clean up, pause, and check whether time is left."""
        if self._deadline.is_over or self._is_clean_after(error) is not True:
            return False
        self._connection.pause(attempt, self._deadline)
        return not self._deadline.is_over

    def _clean_up_after_failure(
        self, failure: MigrationFailed, error: PostgresError, clear_intent: str
    ) -> None:
        """Remove what the statement left; without enough time, the next attempt does it.

        Raises:
            RepairRequired: Part of it may be committed.
        """
        try:
            is_clean = self._is_clean_after(error)
            if is_clean:
                self._retry_on_new_connection(
                    lambda: self._connection.write(clear_intent, self._clean_up_deadline)
                )
        except (ConnectionLost, PostgresError, MigrationFailed, DatabaseUnavailable) as another:
            failure.detail += f"\n  and cleaning up failed, the next attempt repeats it: {another}"
            failure.args = (failure.detail,)
            return
        if is_clean is None:
            raise self.make_repair_required_error(
                f"{failure.cause}; part of it may be committed",
                sqlstate=failure.sqlstate,
                detail=failure.detail,
            ) from error

    def _is_clean_after(self, error: PostgresError) -> bool | None:
        """Whether a failed statement left nothing behind; None: cannot be determined."""
        if self._was_complete_before or self._proves_no_effect(error):
            return True
        took_effect = self.clean_up()
        return None if took_effect is None else not took_effect

    def _proves_no_effect(self, error: PostgresError) -> bool:
        """Whether the error itself proves that the statement had no effect.

        - PostgreSQL rolls back most statements as a whole when they fail.
        - An error with a position, raised in no function, comes from parsing: not even a CALL or DO
          had begun. An error in a procedure names the function that raised it.
        - An object that existed before is not the statement's work and must not be changed.
        """
        is_parse_error = error.position is not None and not error.where
        existed_before = error.sqlstate in _ALREADY_EXISTS and self._info.kind in _CREATE_KINDS
        return self._info.is_atomic or is_parse_error or existed_before

    def make_repair_required_error(
        self, cause: str, *, sqlstate: str = "", detail: str = ""
    ) -> RepairRequired:
        """The error for an outcome that cannot be determined, with what to do."""
        location = f"{self._location}: " if self._location else ""
        cause = location + cause
        applied, pending = f"`{self._repair} applied`", f"`{self._repair} pending`"
        if self._location:  # the answer is for all statements
            done, undone = (pending, applied) if self._is_rollback else (applied, pending)
            advice = (
                f"finish the whole script by hand, then run {done}; or undo all of it, then run "
                f"{undone}"
            )
        elif self._is_rollback:
            advice = (
                f"if it took effect, run {pending}; if the migration is still in place, run "
                f"{applied}"
            )
        else:
            advice = f"if it took effect, run {applied}; to have it run again, run {pending}"
        next_step = f"check the database: {advice}"
        return RepairRequired(
            f"{cause}; {next_step}",
            migration=self._name,
            sqlstate=sqlstate,
            detail=detail
            and f"{detail}\n  {location}part of it may be committed\n  next: {next_step}",
        )

    def _check_after_connection_loss(
        self, connection_lost: ConnectionLost, clear_intent: str
    ) -> bool:
        """Determine the outcome on a new connection after the first one broke.

        Returns:
            Whether the statement took effect; if not, it may be retried.
        """
        if self._connection.is_aborted:
            raise self._connection.make_lease_lost_error() from connection_lost
        self._lost_connections += 1
        self._retry_on_new_connection(lambda: self._connection.reconnect(self._deadline))
        took_effect = self.clean_up()
        can_retry = self._lost_connections < MAX_CONNECTION_LOSSES and not self._deadline.is_over
        if took_effect or (took_effect is False and can_retry):
            return took_effect
        failure = MigrationFailed(
            f"the connection to PostgreSQL broke while it ran: {connection_lost}",
            migration=self._name,
        )
        if took_effect is None:
            raise self.make_repair_required_error(
                f"{failure.cause}; lambda-migrate cannot determine whether it took effect"
            ) from connection_lost
        self.write(clear_intent)
        raise failure

    def clean_up(self) -> bool | None:
        """Remove or finish what is half done.

        Returns:
            True if the statement took effect; False if nothing is left of it, or if it is in doubt
            and idempotent; None if that cannot be determined.
        """
        state = self._catalog.inspect().state
        if state is CatalogState.INVALID:
            self._finalize_detach()
            self._drop_invalid_indexes()
            state = self._catalog.inspect().state
        took_effect = {CatalogState.COMPLETE: True, CatalogState.ABSENT: False}.get(state)
        return False if took_effect is None and self._script.idempotent else took_effect

    def _drop_invalid_indexes(self) -> None:
        """Drop them CONCURRENTLY, which waits for older transactions as the build did.

        Raises:
            RepairRequired: This role may not drop one, and the script is not idempotent.
        """
        for name, may_drop in self._catalog.find_invalid_indexes():
            if may_drop:
                drop = partial(
                    self._connection.run_non_transactional,
                    catalog_queries.drop_index(name),
                    name=self._name,
                )
                self._run_bookkeeping(partial(drop, self._clean_up_deadline))
            elif not self._script.idempotent:
                raise self.make_repair_required_error(
                    f"an interrupted REINDEX left the INVALID index {name}. To drop it, a role "
                    "needs USAGE on its schema, usually a superuser: DROP INDEX CONCURRENTLY "
                    f"{name}. The index does not affect the table"
                )

    def _finalize_detach(self) -> None:
        """Finish a DETACH that was begun: it cannot be undone."""
        for table, partition in self._catalog.find_pending_detach():
            finalize = catalog_queries.finalize_detach(table, partition)
            self._write_with_retries(f"{finalize}; SELECT 0")

    def _write_with_retries(self, writes: str) -> None:
        """Write, waiting briefly for locks and retrying, as a transactional migration does."""
        for attempt in count(1):
            try:
                self._retry_on_new_connection(
                    lambda: self._connection.write(writes, self._deadline)
                )
                return
            except PostgresError as error:
                if error.sqlstate not in RETRYABLE_SQLSTATES or self._deadline.is_over:
                    raise self._failure(error, is_bookkeeping=True) from error
                self._connection.pause(attempt, self._deadline)

    def _is_same_index(self, object_id: int) -> bool | None:
        """Whether an index has the statement's definition; None: cannot be determined."""
        info = self._info
        if info.table is None:
            return None
        query = catalog_queries.compare_index(
            object_id,
            table=quote_qualified_name(info.table),
            unique=info.unique,
            definition=info.definition,
            timeouts=self._connection.timeouts(self._clean_up_deadline),
            search_path=self._search_path,
        )
        deadline = self._clean_up_deadline
        try:
            rows = self._retry_on_new_connection(lambda: self._connection.run(query, deadline))
            return bool(rows[-1][0])
        except PostgresError:
            self._retry_on_new_connection(lambda: self._connection.reset_session(deadline))
            return None

    def _read(self, query: str) -> list[list[Any]]:
        under_path = self._search_path + query
        return self._run_bookkeeping(
            lambda: self._connection.read(under_path, self._clean_up_deadline)
        )

    def _run_bookkeeping(self, operation: Callable[[], _T]) -> _T:
        try:
            return self._retry_on_new_connection(operation)
        except PostgresError as error:
            raise self._failure(error, is_bookkeeping=True) from error

    @property
    def _clean_up_deadline(self) -> Deadline:
        return self._deadline.extended_by(_CLEAN_UP_SECONDS)

    def _retry_on_new_connection(self, operation: Callable[[], _T]) -> _T:
        """Run ``operation``, and repeat it on a new connection if this one breaks.

        Raises:
            LeaseLost: `FencedConnection.abort` was called, or a successor has taken over.
            DatabaseUnavailable: The connection broke repeatedly.
        """
        broken: ConnectionLost | None = None
        for _ in range(MAX_CONNECTION_LOSSES):
            try:
                if broken is not None:
                    self._connection.reconnect(self._deadline)
                return operation()
            except ConnectionLost as connection_lost:
                if self._connection.is_aborted:
                    raise self._connection.make_lease_lost_error() from connection_lost
                broken = connection_lost
            if self._deadline.is_over:
                break
        raise DatabaseUnavailable(f"the connection to PostgreSQL keeps breaking: {broken}")

    def _failure(self, error: PostgresError, *, is_bookkeeping: bool = False) -> MigrationFailed:
        return make_migration_failed(
            error,
            self._script,
            name=self._name,
            path=self._path,
            completed_statements=None if is_bookkeeping else 0,
            is_past_deadline=self._deadline.remaining() < CANCEL_TOLERANCE_SECONDS,
        )
