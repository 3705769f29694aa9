"""The session of a holder on a real PostgreSQL: the real `FencedSession`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable, MigrationFailed
from lambda_migrate.migrations import HistoryRow, RowState, Script
from lambda_migrate.migrations.version import RepeatableVersion, parse_history_version
from lambda_migrate.postgresql.connection import ConnectionLost, PostgresError
from lambda_migrate.postgresql.holder_connection import TRANSIENT_SQLSTATES
from lambda_migrate.postgresql.non_transactional import (
    already_applied_error,
    apply_non_transactional,
    resolve_in_doubt,
    roll_back_non_transactional,
)
from lambda_migrate.postgresql.ports import DatabaseSession, Notice, ToolCommand
from lambda_migrate.postgresql.queries import ScriptProgress, parse_down_script
from lambda_migrate.postgresql.transactional import apply_in_transaction, roll_back_in_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lambda_migrate.clock import Deadline
    from lambda_migrate.migrations import Manifest, Migration
    from lambda_migrate.migrations.baseline import SyncedHistory, ToolHistory
    from lambda_migrate.migrations.version import Version
    from lambda_migrate.postgresql.fence import FencedConnection

__all__ = ["PostgreSQLSession", "parse_history_rows"]


class PostgreSQLSession(DatabaseSession):
    """`FencedSession` on a `FencedConnection` that has taken the fence.

    Args:
        connection: The connection.
        deadline: For calls without a deadline of their own.
    """

    def __init__(self, connection: FencedConnection, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._known_rows: dict[Version, HistoryRow] = {}
        connection.on_reconnected = self._require_known_rows_unchanged

    @property
    def identity(self) -> str:
        """See `FencedSession.identity`."""
        return self._connection.identity

    @property
    def is_new_or_copied_database(self) -> bool:
        """See `FencedSession.is_new_or_copied_database`."""
        return self._connection.is_new_or_copied_database

    @property
    def distrusted_identity(self) -> str:
        """See `FencedSession.distrusted_identity`."""
        return self._connection.distrusted_identity

    def read_history(self) -> Sequence[HistoryRow]:
        """See `FencedSession.read_history`.

        Raises:
            DatabaseUnavailable: A row that this holder has read or written is missing or changed.
        """
        rows = self._run_bookkeeping(lambda: self._read_and_compare_history(self._deadline))
        self._known_rows = {row.version: row for row in rows}
        return list(rows)

    def read_tool_histories(self) -> list[ToolHistory]:
        """See `FencedSession.read_tool_histories`."""
        from lambda_migrate.postgresql.other_tools import read_tool_histories

        def run(sql: str) -> list[list[Any]]:
            return self._connection.read(sql, self._deadline)

        found: list[ToolHistory] = self._run_bookkeeping(lambda: read_tool_histories(run))
        return found

    def add_revision_graph(self, *, command: ToolCommand | None = None) -> Sequence[HistoryRow]:  # noqa: ARG002
        """See `FencedSession.add_revision_graph`; this library knows its own files."""
        return self.read_history()

    def record_manifest(self, manifest: Manifest) -> None:
        """See `FencedSession.record_manifest`."""
        from lambda_migrate.migrations.repeatable import make_manifest_row

        row = make_manifest_row(manifest.version, manifest.repeatables_checksum)
        self.record_applied([(row, manifest.digest)], baseline=False)

    def apply(self, migration: Migration, digest: str, deadline: Deadline) -> int:
        """See `FencedSession.apply`."""
        self._known_rows.pop(migration.version, None)  # the connection may break meanwhile
        if migration.up.transactional:
            milliseconds = apply_in_transaction(self._connection, migration, digest, deadline)
        else:
            self._require_direct_connection(migration.name, deadline)
            if self._resolve_if_in_doubt(migration.version, deadline):
                raise already_applied_error(migration)
            milliseconds = apply_non_transactional(self._connection, migration, digest, deadline)
        self._known_rows[migration.version] = HistoryRow(
            migration.version, migration.name, migration.checksum, digest
        )
        return milliseconds

    def roll_back(self, row: HistoryRow, deadline: Deadline) -> int:
        """See `FencedSession.roll_back`."""
        self._known_rows.pop(row.version, None)
        is_transactional = row.down is None or row.down.transactional
        if not is_transactional:
            self._require_direct_connection(row.name, deadline)
        may_be_in_doubt = row.state is not RowState.APPLIED or not is_transactional
        if may_be_in_doubt and not self._resolve_if_in_doubt(row.version, deadline):
            return 0
        if is_transactional:
            return roll_back_in_transaction(self._connection, row, deadline)
        return roll_back_non_transactional(self._connection, row, deadline)

    def resolve_in_doubt(
        self, row: HistoryRow, deadline: Deadline, *, file: tuple[Migration, str] | None = None
    ) -> None:
        """See `FencedSession.resolve_in_doubt`."""
        self._known_rows.pop(row.version, None)
        resolve_in_doubt(self._connection, row, deadline, file=file)

    def _resolve_if_in_doubt(self, version: Version, deadline: Deadline) -> bool:
        """Resolve the version's row if it is in doubt; returns whether a row exists afterwards."""
        state = self._read_state(version, deadline)
        if state in (None, RowState.APPLIED.value):
            return state is not None
        for row in self.read_history():
            if row.version == version:
                self.resolve_in_doubt(row, deadline)
        return self._read_state(version, deadline) is not None

    def _read_state(self, version: Version, deadline: Deadline) -> str | None:
        read = self._connection.queries.read_row(version)
        rows = self._run_bookkeeping(lambda: self._connection.read(read, deadline))
        return rows[0][0] if rows else None

    def record_applied(
        self, migrations: Sequence[tuple[Migration, str]], *, baseline: bool
    ) -> None:
        """See `FencedSession.record_applied`."""
        for migration, _ in migrations:
            self._known_rows.pop(migration.version, None)
        if migrations:
            self._write(
                self._connection.queries.upsert_applied(
                    migrations, self._connection.grant, baseline=baseline
                )
            )

    def delete_rows(self, versions: Sequence[Version]) -> None:
        """See `FencedSession.delete_rows`."""
        for version in versions:
            self._known_rows.pop(version, None)
        if versions:
            self._write(self._connection.queries.delete_rows(versions))

    def resolve_revision(self, revision_id: str, *, is_applied: bool) -> str:  # noqa: ARG002
        """See `FencedSession.resolve_revision`; there are none."""
        raise ConfigurationError(f"{revision_id} is not a revision of another tool")

    def mark_repeatables_stale(self, name: str = "") -> None:
        """See `FencedSession.mark_repeatables_stale`."""
        for version in [v for v in self._known_rows if isinstance(v, RepeatableVersion)]:
            del self._known_rows[version]
        self._write(self._connection.queries.mark_repeatables_stale(name))

    def sync_tool_history(self, synced: SyncedHistory | None) -> None:
        """See `FencedSession.sync_tool_history`."""
        from lambda_migrate.postgresql.history_sync_queries import (
            create_sync_trigger,
            drop_sync_trigger,
        )

        schema = self._connection.queries.schema
        self._write(
            drop_sync_trigger(schema) if synced is None else create_sync_trigger(schema, synced)
        )

    def record_environment(self) -> None:
        """See `FencedSession.record_environment`."""
        environment = self._connection.grant.environment
        if environment != self._connection.environment:
            self._write(self._connection.queries.record_environment(environment))

    def abort(self) -> None:
        """See `FencedSession.abort`."""
        self._connection.abort()

    def take_notices(self) -> tuple[Notice, ...]:
        """See `DatabaseSession.take_notices`."""
        return self._connection.take_notices()

    def close(self) -> None:
        """See `FencedSession.close`."""
        self._connection.release_advisory_lock(self._deadline)
        self._connection.close()

    def _require_direct_connection(self, name: str, deadline: Deadline) -> None:
        """Refuse a non-transactional migration behind a pooler, before anything is written."""
        self._run_bookkeeping(lambda: self._connection.require_direct_connection(name, deadline))

    def _read_and_compare_history(self, deadline: Deadline) -> list[HistoryRow]:
        """Read the history, and check the rows that this holder, its only writer, knows."""
        rows = self._connection.read(self._connection.queries.read_history(), deadline)
        history = parse_history_rows(rows)
        current = {row.version: _identifying_fields(row) for row in history}
        for version, row in self._known_rows.items():
            if current.get(version) != _identifying_fields(row):
                raise DatabaseUnavailable(_lost_commit_message(row, exists=version in current))
        return history

    def _require_known_rows_unchanged(self, deadline: Deadline) -> None:
        self._read_and_compare_history(deadline)

    def _write(self, writes: str) -> None:
        self._run_bookkeeping(lambda: self._connection.write(f"{writes}; SELECT 1", self._deadline))

    def _run_bookkeeping(self, operation: Callable[[], Any]) -> Any:
        """Run one of the library's statements, once more on a new connection if this one breaks."""
        try:
            try:
                return operation()
            except ConnectionLost:
                self._connection.reconnect(self._deadline)
                return operation()
        except ConnectionLost as lost:
            raise DatabaseUnavailable(f"the connection to PostgreSQL broke: {lost}") from lost
        except PostgresError as error:
            cause = f"the lambda-migrate tables could not be used: {error.message}"
            if error.sqlstate.startswith(TRANSIENT_SQLSTATES):
                raise DatabaseUnavailable(f"{cause} [{error.sqlstate}]") from error
            raise MigrationFailed(cause, sqlstate=error.sqlstate) from error


def _identifying_fields(row: HistoryRow) -> tuple[object, ...]:
    return row.name, row.checksum, row.digest, row.state


def _lost_commit_message(row: HistoryRow, *, exists: bool) -> str:
    return (
        f"the history row of {row.name} was committed and {'has changed' if exists else 'is gone'} "
        "now: PostgreSQL has lost commits that it had acknowledged (a failover to a replica that "
        "lagged behind, or a crash without fsync); nothing was applied after it, and the next "
        "attempt continues from the current history"
    )


def parse_history_rows(rows: list[list[Any]]) -> list[HistoryRow]:
    """Parse the rows of `Queries.read_history`, in the order of versions."""
    return sorted(map(_parse_history_row, rows), key=lambda row: row.version)


def _parse_history_row(row: list[Any]) -> HistoryRow:
    down = None
    if row[12] is not None:
        down = parse_down_script(row[12], row[13], transactional=row[14], idempotent=row[15])
    up = None
    if row[11] is not None:
        up = Script(row[11], transactional=False, idempotent=row[16] is True)
    progress = ScriptProgress.parse(row[17])
    return HistoryRow(
        version=_parse_version(row[0]),
        name=row[1],
        checksum=row[2],
        digest=row[3],
        state=RowState(row[4]),
        started_at=row[5],
        applied_at=row[6],
        duration_ms=row[7],
        fence=row[8],
        owner=row[9],
        baseline=row[10],
        up=up,
        down=down,
        object_ids=None if row[17] is None else progress.object_ids,
        completed_statements=progress.completed,
        is_between_statements=progress.object_ids is None,
    )


def _parse_version(version: str) -> Version:
    """Parse a version of the library's own format; the table may hold versions of other tools.

    Raises:
        ConfigurationError: The version is neither a number nor numbers separated by dots.
    """
    try:
        return parse_history_version(version)
    except ValueError:
        raise ConfigurationError(
            f"the history contains version {version!r}, which is not a number: another source of "
            "migrations wrote it, which this version of the library does not support"
        ) from None
