"""A database under one holder's fence: the real `HeldDatabase`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate.errors import DatabaseUnavailable, MigrationFailed
from lambda_migrate.migrations import HistoryRow, RowState, Script
from lambda_migrate.postgresql.apply import apply_in_transaction, revert_in_transaction
from lambda_migrate.postgresql.concurrent import apply_outside, revert_outside, settle
from lambda_migrate.postgresql.connection import ConnectionLost, PostgresError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from lambda_migrate.deadline import Deadline
    from lambda_migrate.migrations import Migration
    from lambda_migrate.postgresql.fenced import FencedConnection

__all__ = ["HeldPostgreSQL", "history_row"]


class HeldPostgreSQL:
    """`HeldDatabase` on a `FencedConnection` that is attached.

    Args:
        fenced: The connection.
        deadline: For what has no deadline of its own.
    """

    def __init__(self, fenced: FencedConnection, deadline: Deadline) -> None:
        self._fenced = fenced
        self._deadline = deadline
        self._seen: dict[int, HistoryRow] = {}
        fenced.on_reattached = self._require_unchanged

    def history(self) -> list[HistoryRow]:
        """See `HeldDatabase.history`.

        Raises:
            DatabaseUnavailable: A row that this holder has seen or written vanished or changed.
        """
        rows = self._ours(lambda: self._read_unchanged(self._deadline))
        self._seen = {row.version: row for row in rows}
        return list(rows)

    def apply(self, migration: Migration, digest: str, deadline: Deadline) -> int:
        """See `HeldDatabase.apply`."""
        self._seen.pop(migration.version, None)  # a connection may break in the middle
        if migration.up.transactional:
            milliseconds = apply_in_transaction(self._fenced, migration, digest, deadline)
        else:
            self._require_direct(migration.name, deadline)
            milliseconds = apply_outside(self._fenced, migration, digest, deadline)
        self._seen[migration.version] = HistoryRow(
            migration.version, migration.name, migration.checksum, digest
        )
        return milliseconds

    def revert(self, row: HistoryRow, deadline: Deadline) -> int:
        """See `HeldDatabase.revert`."""
        self._seen.pop(row.version, None)
        if row.down is None or row.down.transactional:
            return revert_in_transaction(self._fenced, row, deadline)
        self._require_direct(row.name, deadline)
        return revert_outside(self._fenced, row, deadline)

    def settle(self, row: HistoryRow, deadline: Deadline) -> None:
        """See `HeldDatabase.settle`."""
        self._seen.pop(row.version, None)
        settle(self._fenced, row, deadline)

    def record(self, migrations: Sequence[tuple[Migration, str]], *, baseline: bool) -> None:
        """See `HeldDatabase.record`."""
        for migration, _ in migrations:
            self._seen.pop(migration.version, None)
        if migrations:
            self._write(
                self._fenced.queries.record(migrations, self._fenced.grant, baseline=baseline)
            )

    def forget(self, versions: Sequence[int]) -> None:
        """See `HeldDatabase.forget`."""
        for version in versions:
            self._seen.pop(version, None)
        if versions:
            self._write(self._fenced.queries.delete(versions))

    def abort(self) -> None:
        """See `HeldDatabase.abort`."""
        self._fenced.abort()

    def close(self) -> None:
        """See `HeldDatabase.close`."""
        self._fenced.close()

    def __enter__(self) -> HeldPostgreSQL:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _require_direct(self, name: str, deadline: Deadline) -> None:
        """Refuse before anything is written what must not run through a pooler."""
        self._ours(lambda: self._fenced.require_direct(name, deadline))

    def _read_unchanged(self, deadline: Deadline) -> list[HistoryRow]:
        """The history; only this holder may write it, so that it holds what was seen before."""
        rows = self._fenced.read(self._fenced.queries.read_history(), deadline)
        history = [history_row(row) for row in rows]
        now = {row.version: _essence(row) for row in history}
        for version, row in self._seen.items():
            if now.get(version) != _essence(row):
                raise DatabaseUnavailable(_vanished(row, is_there=version in now))
        return history

    def _require_unchanged(self, deadline: Deadline) -> None:
        self._read_unchanged(deadline)

    def _write(self, writes: str) -> None:
        self._ours(lambda: self._fenced.write(f"{writes}; SELECT 1", self._deadline))

    def _ours(self, act: Callable[[], Any]) -> Any:
        """Run a statement of ours; try once more on a new connection."""
        try:
            try:
                return act()
            except ConnectionLost:
                self._fenced.reattach(self._deadline)
                return act()
        except ConnectionLost as lost:
            raise DatabaseUnavailable(f"the connection to PostgreSQL broke: {lost}") from lost
        except PostgresError as error:
            raise MigrationFailed(
                f"the lambda-migrate tables could not be used: {error.message}",
                sqlstate=error.sqlstate,
            ) from error


def _essence(row: HistoryRow) -> tuple[object, ...]:
    return row.name, row.checksum, row.digest, row.state


def _vanished(row: HistoryRow, *, is_there: bool) -> str:
    what = "has changed" if is_there else "is gone"
    return (
        f"the history row of {row.name} was committed and {what} now: PostgreSQL has lost commits "
        "that it had acknowledged (a failover to a replica that was behind, or a crash without "
        "fsync); nothing was applied above it, and the next attempt starts from what is there"
    )


def history_row(row: list[Any]) -> HistoryRow:
    """A row of `Queries.read_history`."""
    down = None
    if row[12] is not None:
        down = Script(row[12], line=row[13] or 1, transactional=row[14] is not False)
    return HistoryRow(
        version=row[0],
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
        up=Script(row[11], transactional=False) if row[11] is not None else None,
        down=down,
    )
