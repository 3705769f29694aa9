"""Non-transactional migrations: one statement, an intent row before it, the truth looked up after.

``CREATE INDEX CONCURRENTLY`` and its like cannot share a transaction with their history row. So the
row is committed first as ``started``, and whoever finds it like that looks at the catalog:

==============  ==============================================================================
absent          nothing happened: the row goes, the migration is pending again
invalid         an index half built: it is dropped, then as above
complete        it happened: the row becomes ``applied``
unknown         nobody can tell from outside: `RepairRequired`
==============  ==============================================================================
"""

from __future__ import annotations

from enum import Enum
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from lambda_migrate.errors import DatabaseUnavailable, MigrationFailed, RepairRequired
from lambda_migrate.migrations.plan import RowState
from lambda_migrate.migrations.statements import classify, split
from lambda_migrate.postgresql import sql
from lambda_migrate.postgresql.apply import (
    CANCEL_SLACK_SECONDS,
    LOST_AT_MOST,
    RETRIED,
    require_migration,
    require_runnable,
)
from lambda_migrate.postgresql.connection import ConnectionLost, PostgresError
from lambda_migrate.postgresql.report import failure_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from lambda_migrate.deadline import Deadline
    from lambda_migrate.migrations import HistoryRow, Migration, Script
    from lambda_migrate.migrations.statements import Build, Identifier
    from lambda_migrate.postgresql.fenced import FencedConnection

__all__ = ["apply_outside", "revert_outside", "settle"]

UNIQUE_VIOLATION = "23505"
_T = TypeVar("_T")


class Left(Enum):
    """What a statement has left in the catalog."""

    ABSENT = "absent"
    INVALID = "invalid"
    COMPLETE = "complete"
    UNKNOWN = "unknown"


def apply_outside(
    fenced: FencedConnection, migration: Migration, digest: str, deadline: Deadline
) -> int:
    """Apply one non-transactional migration; see `HeldDatabase.apply`."""
    path = migration.path or migration.name
    require_migration(migration)
    statement = _Statement(fenced, migration.up, name=migration.name, path=path, deadline=deadline)
    statement.look_before()
    queries = fenced.queries
    if statement.write(queries.insert_started(migration, digest, fenced.grant)) != [True]:
        raise MigrationFailed(
            f"version {migration.version} stands in the history already",
            migration=migration.name,
            sqlstate=UNIQUE_VIOLATION,
        )
    statement.run(on_clean_failure=queries.delete([migration.version]) + " RETURNING 0")
    return int(statement.write(queries.finish_started(migration.version))[0])


def revert_outside(fenced: FencedConnection, row: HistoryRow, deadline: Deadline) -> int:
    """Revert one migration by its non-transactional down script; see `HeldDatabase.revert`."""
    script = script_of(row.down, name=row.name)
    path = f"{row.name} (stored down script)"
    require_runnable(script, name=row.name, path=path)
    statement = _Statement(fenced, script, name=row.name, path=path, deadline=deadline)
    queries = fenced.queries
    began = deadline.clock.monotonic()
    statement.look_before()
    statement.write(queries.start_reverting(row.version) + " RETURNING 0")
    statement.run(on_clean_failure=queries.still_applied(row.version) + " RETURNING 0")
    statement.write(queries.delete([row.version]) + " RETURNING 0")
    return round((deadline.clock.monotonic() - began) * 1000)


def settle(fenced: FencedConnection, row: HistoryRow, deadline: Deadline) -> None:
    """Bring a row in doubt to an end; see `HeldDatabase.settle`."""
    reverting = row.state is RowState.REVERTING
    script = script_of(row.down if reverting else row.up, name=row.name)
    statement = _Statement(fenced, script, name=row.name, path=row.name, deadline=deadline)
    queries = fenced.queries
    happened = statement.clear_up()
    if happened is None:
        raise RepairRequired(
            f"it was interrupted while {'reverting' if reverting else 'applying'}, and nobody can "
            "tell from outside whether its statement took effect; look, then say "
            f"`lambda-migrate repair {row.version} --as applied` or `--as pending`",
            migration=row.name,
        )
    if reverting:
        writes = queries.delete([row.version]) if happened else queries.still_applied(row.version)
        statement.write(f"{writes} RETURNING 0")
    elif happened:
        statement.write(queries.finish_started(row.version))
    else:
        statement.write(queries.delete([row.version]) + " RETURNING 0")


def script_of(script: Script | None, *, name: str) -> Script:
    """The script that a row must have.

    Raises:
        MigrationFailed: It has none.
    """
    if script is None:
        raise MigrationFailed(
            "its history row holds no script to go by; see `lambda-migrate repair`", migration=name
        )
    return script


class _Statement:
    """One statement outside a transaction, and what can be told of it afterwards."""

    def __init__(
        self, fenced: FencedConnection, script: Script, *, name: str, path: str, deadline: Deadline
    ) -> None:
        self._fenced = fenced
        self._script = script
        self._name = name
        self._path = path
        self._deadline = deadline
        self._build: Build = classify(split(script.sql)[0])
        self._stood_before = False
        self._losses = 0

    def write(self, writes: str) -> list[Any]:
        """A transaction of ours, begun anew on another connection if this one breaks.

        Each of these writes may be repeated: they set a row to what it is to be.
        """
        try:
            return self._persist(lambda: self._fenced.write(writes, self._deadline))
        except PostgresError as error:
            raise self._failure(error, is_ours=True) from error

    def look_before(self) -> None:
        """Remember what stands there already: the statement's error is not to be taken for it.

        An index whose name is taken by an INVALID one that no attempt of ours left is refused:
        ``IF NOT EXISTS`` would take it for the index that was asked for.
        """
        left = self._look()
        self._stood_before = left is Left.COMPLETE
        if left is Left.INVALID and self._build.kind == "create-index":
            raise MigrationFailed(
                f"an INVALID index {self._build.names[0]} stands in the way, left by something "
                f"else; DROP INDEX CONCURRENTLY {self._build.names[0]}, then try again",
                migration=self._name,
            )

    def run(self, *, on_clean_failure: str) -> None:
        """Run it, for as long as the deadline allows.

        Args:
            on_clean_failure: What to write when it failed and left nothing.

        Raises:
            MigrationFailed: It failed, and nothing is left of it.
            RepairRequired: It failed, and what is left cannot be told.
        """
        for attempt in count(1):
            try:
                self._fenced.run_outside(self._script.sql, self._deadline, name=self._name)
                break
            except PostgresError as error:
                failure = self._failure(error)
                if error.sqlstate in RETRIED and self._may_try_again(attempt):
                    continue
                self._after_failure(failure, on_clean_failure)
                raise failure from error
            except ConnectionLost as lost:
                if self._after_loss(lost, on_clean_failure):
                    break
                self._pause(attempt)

    def _may_try_again(self, attempt: int) -> bool:
        """After a deadlock, say: clear up, wait a little, and see whether there is time."""
        if self._deadline.is_over or self.clear_up() is not False:
            return False
        self._pause(attempt)
        return not self._deadline.is_over

    def _pause(self, attempt: int) -> None:
        seconds = min(self._fenced.jitter(attempt), self._deadline.remaining())
        self._deadline.clock.sleep(seconds)

    def _after_failure(self, failure: MigrationFailed, on_clean_failure: str) -> None:
        """Leave nothing behind; what time does not allow, the next attempt does."""
        try:
            if self._stood_before or self.clear_up() is not True:
                self._persist(lambda: self._fenced.write(on_clean_failure, self._extended))
        except (ConnectionLost, PostgresError, MigrationFailed, DatabaseUnavailable) as error:
            failure.detail += f"\n  and clearing up failed, which the next attempt does: {error}"
            failure.args = (failure.detail,)

    def _after_loss(self, lost: ConnectionLost, on_clean_failure: str) -> bool:
        """The connection broke in the middle: look what became of it, on a new one.

        Returns:
            Whether the statement took effect; if not, it may be tried again.
        """
        if self._fenced.is_aborted:
            raise self._fenced.lost() from lost
        self._losses += 1
        self._persist(lambda: self._fenced.reattach(self._deadline))
        happened = self.clear_up()
        may_try_again = self._losses < LOST_AT_MOST and not self._deadline.is_over
        if happened or (happened is False and may_try_again):
            return happened
        failure = MigrationFailed(
            f"the connection to PostgreSQL broke in the middle: {lost}", migration=self._name
        )
        if happened is None:
            raise RepairRequired(
                f"{failure.cause}; nobody can tell whether it took effect: look, then "
                "`lambda-migrate repair`",
                migration=self._name,
            )
        self.write(on_clean_failure)
        raise failure

    def clear_up(self) -> bool | None:
        """Remove what is half done; True if the statement took effect, None if nobody can tell."""
        left = self._look()
        if left is Left.INVALID:
            self._drop_half_built()
            left = self._look()
        return {Left.COMPLETE: True, Left.ABSENT: False}.get(left)

    def _drop_half_built(self) -> None:
        """Drop it, which waits for older transactions as building it does."""
        for name in self._invalid_indexes():
            drop = partial(self._fenced.run_outside, sql.drop_index(name), name=self._name)
            self._ours(partial(drop, self._extended))

    def _invalid_indexes(self) -> list[str]:
        build = self._build
        if build.kind == "create-index" and build.table is not None:
            rows = self._read(sql.find_index(build.names[0].name, table=_quoted(build.table)))
            return [name for name, is_valid in rows if not is_valid]
        if build.kind == "reindex":
            return [name for (name,) in self._read(sql.find_rebuilds(_quoted(build.names[0])))]
        return [_quoted(name) for name in build.names]

    def _look(self) -> Left:
        looks: dict[str, Callable[[], Left]] = {
            "create-index": self._look_at_index,
            "drop-index": self._look_at_drop,
            "reindex": self._look_at_rebuild,
            "add-enum-value": self._look_at_value,
            "repeatable": lambda: Left.ABSENT,
        }
        look = looks.get(self._build.kind)
        return look() if look is not None else Left.UNKNOWN

    def _look_at_index(self) -> Left:
        build = self._build
        if not build.names or build.table is None:
            return Left.UNKNOWN
        rows = self._read(sql.find_index(build.names[0].name, table=_quoted(build.table)))
        if not rows:
            return Left.ABSENT
        return Left.COMPLETE if rows[0][1] else Left.INVALID

    def _look_at_drop(self) -> Left:
        """An index that is half dropped is invalid: finishing that is what was asked for."""
        rows = [row for name in self._build.names for row in self._read(_find(name))]
        if not rows:
            return Left.COMPLETE
        return Left.ABSENT if all(is_valid is not False for _, is_valid in rows) else Left.INVALID

    def _look_at_rebuild(self) -> Left:
        """Rebuilding twice does no harm, what an interrupted one left behind does."""
        if self._build.of not in ("INDEX", "TABLE") or not self._build.names:
            return Left.UNKNOWN
        rows = self._read(sql.find_rebuilds(_quoted(self._build.names[0])))
        return Left.INVALID if rows else Left.ABSENT

    def _look_at_value(self) -> Left:
        kind = _quoted(self._build.names[0])
        rows = self._read(sql.find_enum_value(kind, self._build.value))
        return Left.COMPLETE if rows else Left.ABSENT

    def _read(self, statement: str) -> list[list[Any]]:
        return self._ours(lambda: self._fenced.read(statement, self._extended))

    def _ours(self, act: Callable[[], _T]) -> _T:
        try:
            return self._persist(act)
        except PostgresError as error:
            raise self._failure(error, is_ours=True) from error

    @property
    def _extended(self) -> Deadline:
        return self._deadline.earlier(-_CLEAR_UP_SECONDS)

    def _persist(self, act: Callable[[], _T]) -> _T:
        """Do what may be done twice, on a new connection if this one breaks.

        Raises:
            LeaseLost: `FencedConnection.abort` was called, or a successor has taken over.
            DatabaseUnavailable: It breaks again and again.
        """
        broken: ConnectionLost | None = None
        for _ in range(LOST_AT_MOST):
            try:
                if broken is not None:
                    self._fenced.reattach(self._deadline)
                return act()
            except ConnectionLost as lost:
                if self._fenced.is_aborted:
                    raise self._fenced.lost() from lost
                broken = lost
            if self._deadline.is_over:
                break
        raise DatabaseUnavailable(f"the connection to PostgreSQL keeps breaking: {broken}")

    def _failure(self, error: PostgresError, *, is_ours: bool = False) -> MigrationFailed:
        return failure_of(
            error,
            self._script,
            name=self._name,
            path=self._path,
            completed=None if is_ours else 0,
            overdue=self._deadline.remaining() < CANCEL_SLACK_SECONDS,
        )


_CLEAR_UP_SECONDS = 1.0
"""How far past its deadline a failed build may clear up after itself: half the safety margin."""


def _find(name: Identifier) -> str:
    return sql.find_relation(_quoted(name))


def _quoted(name: Identifier) -> str:
    quoted = sql.identifier(name.name)
    return f"{sql.identifier(name.schema)}.{quoted}" if name.schema else quoted
