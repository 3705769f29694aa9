"""Transactional migrations: a script and its history row, committed together or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lambda_migrate.errors import DatabaseUnavailable, MigrationFailed, RepairRequired
from lambda_migrate.migrations.sql.lint import check_script
from lambda_migrate.migrations.version import RepeatableVersion
from lambda_migrate.postgresql.combined_script import CombinedScript, ScriptPart
from lambda_migrate.postgresql.connection import ConnectionLost
from lambda_migrate.postgresql.error_report import (
    TRANSACTION_TIMEOUT,
    deadline_cause,
    make_migration_failed,
)
from lambda_migrate.postgresql.fence import ScriptRefused
from lambda_migrate.postgresql.holder_connection import LOCK_NOT_AVAILABLE

if TYPE_CHECKING:
    from lambda_migrate.clock import Deadline
    from lambda_migrate.migrations import HistoryRow, Migration, Script
    from lambda_migrate.migrations.version import Version
    from lambda_migrate.postgresql.connection import PostgresError
    from lambda_migrate.postgresql.fence import FencedConnection

__all__ = [
    "CANCEL_TOLERANCE_SECONDS",
    "MAX_CONNECTION_LOSSES",
    "RETRYABLE_SQLSTATES",
    "ScriptRunner",
    "apply_in_transaction",
    "require_runnable_migration",
    "require_runnable_script",
    "roll_back_in_transaction",
]

RETRYABLE_SQLSTATES = frozenset({LOCK_NOT_AVAILABLE, "40P01", "40001"})
"""Lock not available, deadlock, serialization failure: a retry may succeed."""

_READ_AFTER_DEADLINE_SECONDS = 1.0
"""How far beyond the deadline the outcome of a script is read: half the safety margin."""

MAX_CONNECTION_LOSSES = 5
"""If the connection breaks this often during a script, the script is assumed to be the cause."""


def require_runnable_migration(
    migration: Migration, placeholders: Mapping[str, str] | None = None
) -> None:
    """Refuse a migration whose script cannot run, or whose history row cannot be stored.

    Raises:
        MigrationFailed: Names every fault and its line.
    """
    path = migration.path or migration.name
    require_runnable_script(migration.up, name=migration.name, path=path, placeholders=placeholders)
    for hook in (*migration.before, *migration.after):
        require_runnable_script(
            hook.script, name=migration.name, path=hook.path, placeholders=placeholders
        )
    if migration.down is not None and _find_forbidden_characters(migration.down, path=path):
        require_runnable_script(migration.down, name=migration.name, path=path)


def require_runnable_script(
    script: Script, *, name: str, path: str, placeholders: Mapping[str, str] | None = None
) -> None:
    """Refuse a script that would end its transaction, or that needs a client such as psql.

    Raises:
        MigrationFailed: Names every fault and its line.
    """
    faults = _find_forbidden_characters(script, path=path) or check_script(
        script, path=path, placeholders=placeholders
    )
    if faults:
        raise MigrationFailed(faults[0], migration=name, detail="\n".join([f"{name}:", *faults]))


def _find_forbidden_characters(script: Script, *, path: str) -> list[str]:
    """Find characters that PostgreSQL cannot store; migrations made in code may contain some."""
    match = _FORBIDDEN_CHARACTERS.search(script.sql)
    if match is None:
        return []
    line = script.line + script.sql.count("\n", 0, match.start())
    what = "a NUL" if match[0] == "\0" else "an unpaired surrogate"
    return [f"{path}:{line}: {what} at offset {match.start()}, which PostgreSQL cannot store"]


_FORBIDDEN_CHARACTERS = re.compile("[\0\ud800-\udfff]")


def apply_in_transaction(
    connection: FencedConnection, migration: Migration, digest: str, deadline: Deadline
) -> int:
    """Apply one migration; see `FencedSession.apply`."""
    require_runnable_migration(migration, connection.placeholders)

    def read_duration_if_committed() -> int | None:
        rows = connection.read(connection.queries.read_row(migration.version), deadline)
        return rows[0][2] if rows and rows[0][:2] == ["applied", migration.checksum] else None

    script = CombinedScript.of_migration(migration, connection.placeholders)
    run = ScriptRunner(
        connection, script, name=migration.name, version=migration.version, deadline=deadline
    )
    row = connection.queries.insert_applied(migration, digest, connection.grant)
    return run.run_until_committed(row, read_duration_if_committed)


def roll_back_in_transaction(
    connection: FencedConnection, row: HistoryRow, deadline: Deadline
) -> int:
    """Roll back one migration by its stored down script; see `FencedSession.roll_back`."""
    script = row.down
    if script is None:
        raise MigrationFailed(
            "it was applied without a down script; write a new migration that reverses it",
            migration=row.name,
        )
    path = f"{row.name} (stored down script)"
    values = connection.placeholders
    require_runnable_script(script, name=row.name, path=path, placeholders=values)

    def read_duration_if_committed() -> int | None:
        return None if connection.read(connection.queries.read_row(row.version), deadline) else 0

    combined = CombinedScript(ScriptPart(script, path), placeholders=values)
    run = ScriptRunner(connection, combined, name=row.name, version=row.version, deadline=deadline)
    return run.run_until_committed(
        connection.queries.delete_rolled_back(row.version), read_duration_if_committed
    )


class _RetryableFailure(Exception):
    """An attempt was rolled back, and the next one may succeed."""

    def __init__(self, failure: MigrationFailed) -> None:
        self.failure = failure
        super().__init__(str(failure))


class ScriptRunner:
    """Runs one script until it is committed, fails permanently, or the deadline passes."""

    def __init__(
        self,
        connection: FencedConnection,
        script: CombinedScript,
        *,
        name: str,
        version: Version,
        deadline: Deadline,
        settings: tuple[str, ...] = (),
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._script = script
        self._name = name
        self._version = version
        self._deadline = deadline
        self._lost_connections = 0
        self._is_outcome_unknown = False
        self._last_failure: MigrationFailed | None = None
        self._is_shorter_than_lock_timeout = False

    def run_until_committed(
        self, write: str, read_duration_if_committed: Callable[[], int | None]
    ) -> int:
        """Run the script with ``write`` in its transaction; returns milliseconds.

        Args:
            write: The history statement.
            read_duration_if_committed: Reads the history after a connection was lost; returns the
                duration of a migration that was committed, else None.
        """
        from tenacity import Retrying, retry_if_exception_type

        retrying = Retrying(
            retry=retry_if_exception_type(_RetryableFailure),
            stop=lambda _state: self._deadline.is_over,
            wait=lambda state: min(
                self._connection.retry_delay(state.attempt_number),
                self._deadline.remaining(),
            ),
            sleep=self._deadline.clock.sleep,
            reraise=True,
        )
        try:
            return int(retrying(self._attempt, write, read_duration_if_committed))
        except (_RetryableFailure, MigrationFailed) as failed:
            duration = self._read_after_last_loss(read_duration_if_committed)
            if duration is not None:
                return duration
            if isinstance(failed, _RetryableFailure):
                raise failed.failure from failed
            raise

    def _read_after_last_loss(
        self, read_duration_if_committed: Callable[[], int | None]
    ) -> int | None:
        """Look up whether the script is committed, if that is unknown after the last attempt."""
        if not self._is_outcome_unknown:
            return None
        try:
            self._connection.reconnect(self._deadline.extended_by(_READ_AFTER_DEADLINE_SECONDS))
            return read_duration_if_committed()
        except (ConnectionLost, DatabaseUnavailable):
            return None

    def _attempt(self, write: str, read_duration_if_committed: Callable[[], int | None]) -> int:
        left = self._deadline.remaining()
        if self._last_failure is not None:
            # It says more than that the deadline has passed.
            if left < CANCEL_TOLERANCE_SECONDS:
                raise self._last_failure
            self._connection.take_notices()  # those of the failed attempt
        elif left <= 0:
            raise MigrationFailed("the deadline has passed", migration=self._name, is_timeout=True)
        self._is_shorter_than_lock_timeout = left < self._connection.lock_timeout_seconds
        try:
            if self._lost_connections:
                self._connection.reconnect(self._deadline)
                duration = read_duration_if_committed()
                self._is_outcome_unknown = False
                if duration is not None:
                    return duration
            return self._run_once(write)
        except _RetryableFailure as again:
            self._last_failure = again.failure
            raise
        except ConnectionLost as connection_lost:
            raise self._connection_loss_error(connection_lost) from connection_lost

    def _run_once(self, write: str) -> int:
        try:
            row = self._connection.run_script(
                self._script.sql,
                write,
                self._deadline,
                isolation=self._script.isolation,
                settings=self._settings,
            )
            return int(row[0])
        except ScriptRefused as refused:
            if self._connection.queries.is_outside_transaction(refused.error):
                raise self._transaction_ended_error() from refused
            raise self._script_error(
                refused.error, completed_statements=refused.completed_statements
            ) from refused

    def _script_error(self, error: PostgresError, *, completed_statements: int | None) -> Exception:
        part, completed_statements = self._script.locate(error, completed_statements)
        failure = make_migration_failed(
            error,
            part.script,
            name=self._name,
            path=part.path,
            completed_statements=completed_statements,
            is_past_deadline=self._deadline.remaining() < CANCEL_TOLERANCE_SECONDS,
        )
        if error.sqlstate in RETRYABLE_SQLSTATES:
            return _RetryableFailure(failure)
        last = self._last_failure
        if (
            failure.is_timeout
            and self._is_shorter_than_lock_timeout
            and last is not None
            and last.sqlstate == LOCK_NOT_AVAILABLE
        ):
            # This attempt may have waited for the same lock: which timeout comes first is chance.
            return last
        return failure

    def _connection_loss_error(self, connection_lost: ConnectionLost) -> Exception:
        """`FencedConnection.abort` ends the run; after any other loss it is retried."""
        if self._connection.is_aborted:
            return self._connection.make_lease_lost_error()
        self._lost_connections += 1
        self._is_outcome_unknown = True
        self._last_failure = failure = MigrationFailed(
            deadline_cause()
            if connection_lost.sqlstate == TRANSACTION_TIMEOUT
            else f"the connection to PostgreSQL broke: {connection_lost.reason}",
            migration=self._name,
            sqlstate=connection_lost.sqlstate,
            is_timeout=connection_lost.sqlstate == TRANSACTION_TIMEOUT,
        )
        return (
            _RetryableFailure(failure)
            if self._lost_connections < MAX_CONNECTION_LOSSES
            else failure
        )

    def _transaction_ended_error(self) -> RepairRequired:
        version = self._version
        name = version.name if isinstance(version, RepeatableVersion) else version
        return RepairRequired(
            "the script ended its transaction, so part of it may be committed without a history "
            f"row; check the database, then run `lambda-migrate repair {name} --as applied`, or "
            "undo its changes by hand",
            migration=self._name,
        )


CANCEL_TOLERANCE_SECONDS = 0.1
"""A statement that is cancelled with less than this left was cancelled by ``statement_timeout``,
which is set from the deadline a round trip earlier, and not by a person."""
