"""A dry run: migrations run in one transaction that is never committed, and are measured in it.

Three safeguards keep it from being committed. Scripts that would end the transaction are refused
before they are sent. If the check did not recognize one, PostgreSQL itself refuses the COMMIT
(`dry_run_queries.FORBID_COMMIT`), and any write after a ROLLBACK
(`dry_run_queries.READ_ONLY_AFTER_ROLLBACK`). After each script the transaction id is compared, and
at the end PostgreSQL is asked how that transaction ended.

It is one transaction, because later migrations need what earlier ones did. Each runs under a
savepoint and finds the session as its own transaction would: no settings, cursors or temporary
tables from before, and deferred constraints deferred again.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lambda_migrate.errors import (
    DatabaseUnavailable,
    MigrateError,
    MigrationFailed,
    RepairRequired,
)
from lambda_migrate.postgresql import dry_run_queries
from lambda_migrate.postgresql.connection import ConnectionLost, PostgresError
from lambda_migrate.postgresql.dry_run_effects import (
    LOCK_MODES,
    AdvancedSequence,
    MigrationEffects,
    RelationLock,
    TableChange,
)
from lambda_migrate.postgresql.error_report import TRANSACTION_TIMEOUT, failure_of, overdue_cause
from lambda_migrate.postgresql.fence import (
    LOCK_NOT_AVAILABLE,
    holder_error,
    translate_refusal,
)
from lambda_migrate.postgresql.ports import StaleFencingToken
from lambda_migrate.postgresql.session import parse_history_rows
from lambda_migrate.postgresql.transactional import CANCEL_TOLERANCE_SECONDS, require_migration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from lambda_migrate.clock import Deadline
    from lambda_migrate.migrations import HistoryRow, Migration
    from lambda_migrate.postgresql.fence import FencedConnection
    from lambda_migrate.postgresql.sql_fragments import ServerTimeouts

__all__ = ["PostgreSQLDryRun"]

_CLOSE_SECONDS = 5.0
"""How long the rollback may take on the way out; what is left of it the server does by itself."""

_POLL_SECONDS = 2.0
_POLL_PAUSE_SECONDS = 0.1
"""For how long and how often to look who ended our connection, and what became of it."""

_KINDS = {
    "r": "table",
    "p": "partitioned table",
    "i": "index",
    "I": "partitioned index",
    "S": "sequence",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}
_TABLES = ("r", "p", "m", "f")
_INDEXES = ("i", "I")


@dataclass(frozen=True, slots=True)
class _Relation:
    name: str
    kind: str
    file: int
    rows: int | None
    table: int | None


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What can be seen from inside the transaction at one moment.

    Attributes:
        relations: Those of users, by number.
        locks: Relation and mode, as ``pg_locks`` has them.
        counts: Table -> rows inserted, updated, deleted, scanned in this transaction.
        definitions: Relation -> subtransactions of this transaction that wrote its definition.
        is_counting: Whether ``counts`` means anything.
    """

    relations: Mapping[int, _Relation]
    locks: frozenset[tuple[int, str]]
    counts: Mapping[int, tuple[int, ...]]
    definitions: Mapping[int, str]
    is_counting: bool


class PostgreSQLDryRun:
    """`DryRunSession` on a `FencedConnection` that takes no fence.

    Args:
        fenced: The connection, not attached.
        deadline: For what has no deadline of its own.
        lock_seconds: For looking at sequences.
    """

    def __init__(
        self, fenced: FencedConnection, deadline: Deadline, *, lock_seconds: float
    ) -> None:
        self._fenced = fenced
        self._deadline = deadline
        self._lock_ms = max(1, round(lock_seconds * 1000))
        self._has_begun = False
        self._is_open = False
        self._transaction = ""
        self._rows: list[HistoryRow] = []
        self._sequences: dict[str, int | None] = {}
        self._used_sequences: set[str] = set()
        self._first = self._before = _EMPTY_SNAPSHOT
        self._lock_takers: dict[tuple[int, str], str] = {}
        self._sizes: dict[int, int] = {}

    # --- the port

    def begin(self, deadline: Deadline) -> None:
        """See `DryRunSession.begin`; whoever begins for the first time is told of a stale fence.

        Raises:
            StaleFencingToken: Of the first time.
            ConnectionLost: Of the first time.
        """
        if not self._has_begun:
            self._begin(deadline)
            self._has_begun = True
            return
        try:
            self._roll_back(deadline)
            self._begin(deadline)
        except StaleFencingToken as stale:
            raise self._fenced.lease_lost(stale.current_token) from stale
        except ConnectionLost as lost:
            raise DatabaseUnavailable(f"the connection to PostgreSQL broke: {lost}") from lost

    def _begin(self, deadline: Deadline) -> None:
        has_schema, has_tables = self._fenced.inspect_fence(deadline)
        try:
            self._sequences = self._read_sequences(deadline)
            self._used_sequences, self._lock_takers = set(), {}
            self._open(deadline, has_schema=has_schema, has_tables=has_tables)
            self._fenced.run(
                dry_run_queries.prepare_measuring(self._fenced.timeouts(deadline)), deadline
            )
            rows = self._fenced.run(self._fenced.queries.read_history(), deadline)
            self._rows = parse_history_rows(rows)
            self._first = self._before = self._take_snapshot(deadline)
            self._sizes = self._measure_sizes(deadline)
        except PostgresError as error:
            self.close()
            raise translate_refusal(error) from error
        except BaseException:
            self.close()
            raise

    def read_history(self) -> list[HistoryRow]:
        """See `DryRunSession.read_history`."""
        return list(self._rows)

    def run_migration(self, migration: Migration, deadline: Deadline) -> MigrationEffects:
        """See `DryRunSession.run_migration`."""
        require_migration(migration)
        if not migration.up.transactional:
            raise MigrationFailed(
                "it runs outside a transaction and cannot be rehearsed", migration=migration.name
            )
        try:
            seconds = self._run_script(migration, deadline)
            return self._measure_effects(migration.name, seconds, deadline)
        except PostgresError as error:
            raise MigrationFailed(
                f"what it did could not be measured: {error.message}",
                migration=migration.name,
                sqlstate=error.sqlstate,
            ) from error
        except ConnectionLost as lost:
            raise self._connection_loss_error(lost, migration, deadline) from lost

    def roll_back(self) -> tuple[AdvancedSequence, ...]:
        """See `DryRunSession.roll_back`."""
        deadline = self._deadline.earlier(-_CLOSE_SECONDS)
        try:
            self._roll_back(deadline)
            self._require_rolled_back(deadline)
            after = self._read_sequences(deadline)
        except (PostgresError, ConnectionLost) as error:
            raise DatabaseUnavailable(
                f"PostgreSQL could not be asked how the rehearsal ended: {error}"
            ) from error
        return tuple(
            AdvancedSequence(name, self._sequences.get(name), after.get(name))
            for name in sorted(self._used_sequences)
            if self._sequences.get(name) != after.get(name) or after.get(name) is None
        )

    def abort(self) -> None:
        """See `DryRunSession.abort`."""
        self._fenced.abort()

    def close(self) -> None:
        """See `DryRunSession.close`."""
        # Whoever waits for our locks goes on now; a connection that is gone has let them go.
        with contextlib.suppress(PostgresError, ConnectionLost, MigrateError):
            self._roll_back(self._deadline.earlier(-_CLOSE_SECONDS))
        self._fenced.close()

    def __enter__(self) -> PostgreSQLDryRun:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- the transaction

    def _open(self, deadline: Deadline, *, has_schema: bool, has_tables: bool) -> None:
        fenced = self._fenced
        begin = fenced.queries.begin_dry_run(
            fenced.timeouts(deadline), create_schema=not has_schema, create_tables=not has_tables
        )
        self._is_open = True
        try:
            token, owner, self._transaction = fenced.run(begin, deadline)[-1]
        except PostgresError as error:
            if error.sqlstate != LOCK_NOT_AVAILABLE:
                raise
            raise holder_error() from error
        is_ours = (token, owner) == (fenced.grant.fence, fenced.grant.owner)
        if token >= fenced.grant.fence and not is_ours:
            raise fenced.lease_lost(token)

    def _roll_back(self, deadline: Deadline) -> None:
        if self._is_open:
            self._is_open = False
            self._fenced.reset_session(deadline)

    def _require_rolled_back(self, deadline: Deadline) -> None:
        """Ask how the transaction ended; one whose connection broke may take a moment to end."""
        if not self._transaction:
            return
        limit = deadline.at_most(_POLL_SECONDS)
        while (status := self._read_transaction_status(deadline)) == "in progress":
            if limit.is_over:
                raise DatabaseUnavailable(
                    "PostgreSQL has not noticed yet that the rehearsal's connection broke; it "
                    "rolls back when it does"
                )
            limit.clock.sleep(_POLL_PAUSE_SECONDS)
        if status not in ("aborted", None):  # None: so old that nobody remembers it
            raise RepairRequired(
                f"PostgreSQL says that the rehearsal's transaction {self._transaction} is "
                f"{status}; look at the database"
            )

    def _read_transaction_status(self, deadline: Deadline) -> Any:
        return self._fenced.read(
            dry_run_queries.read_transaction_status(self._transaction), deadline
        )[0][0]

    # --- one migration

    def _run_script(self, migration: Migration, deadline: Deadline) -> float:
        """Run the script and check what it deferred; returns seconds."""
        fenced, clock = self._fenced, deadline.clock
        fenced.run(
            dry_run_queries.begin_migration(self._server_timeouts(migration, deadline)), deadline
        )
        began = clock.monotonic()
        tags: tuple[str, ...] | None = None
        try:
            fenced.run(migration.up.sql, deadline, keep=0)
            tags = fenced.connection.tags
            deferred = self._check_deferred(deadline)
            seconds = clock.monotonic() - began
            timeouts = self._server_timeouts(migration, deadline)
            rows = fenced.run(dry_run_queries.end_migration(timeouts, deferred=deferred), deadline)
        except PostgresError as error:
            completed = fenced.connection.completed if tags is None else None
            self._roll_back_migration(migration, tags or fenced.connection.tags, deadline)
            raise failure_of(
                error,
                migration.up,
                name=migration.name,
                path=migration.path or migration.name,
                completed=completed,
                overdue=deadline.remaining() < CANCEL_TOLERANCE_SECONDS,
            ) from error
        if rows[-1][0] != self._transaction:
            raise _transaction_ended_error(migration, tags)
        return seconds

    def _server_timeouts(self, migration: Migration, deadline: Deadline) -> ServerTimeouts:
        try:
            return self._fenced.timeouts(deadline)
        except MigrationFailed:
            raise MigrationFailed(overdue_cause(), migration=migration.name) from None

    def _check_deferred(self, deadline: Deadline) -> str:
        """Have the constraints checked that the commit would check; which to defer again."""
        names, deferred = self._fenced.run(dry_run_queries.find_deferrable_constraints(), deadline)[
            0
        ]
        if names:
            self._fenced.run(dry_run_queries.check_constraints(names), deadline)
        return deferred or ""

    def _roll_back_migration(
        self, migration: Migration, tags: Sequence[str], deadline: Deadline
    ) -> None:
        """Undo one migration, so that the next one can be tried."""
        if not self._fenced.connection.in_transaction:
            # It tried to commit, PostgreSQL refused, and all of the rehearsal is gone with it.
            raise _transaction_ended_error(migration, tags)
        try:
            self._fenced.run(dry_run_queries.ROLL_BACK_MIGRATION, deadline)
            self._fenced.run(
                dry_run_queries.prepare_measuring(self._server_timeouts(migration, deadline)),
                deadline,
            )
            self._before = self._take_snapshot(deadline)  # what was undone is counted all the same
        except PostgresError as error:
            raise _transaction_ended_error(migration, tags) from error

    def _connection_loss_error(
        self, lost: ConnectionLost, migration: Migration, deadline: Deadline
    ) -> MigrateError:
        """Why the connection is gone, and the transaction with it."""
        self._is_open = False
        if self._fenced.is_aborted:
            return self._fenced.lease_lost()
        if lost.sqlstate == TRANSACTION_TIMEOUT:
            return MigrationFailed(
                overdue_cause(), migration=migration.name, sqlstate=lost.sqlstate
            )
        seen = self._find_successor_token(deadline)
        if seen is not None:
            return self._fenced.lease_lost(seen)
        return DatabaseUnavailable(
            f"the connection to PostgreSQL broke in {migration.name}: {lost}; a transaction ends "
            "with its connection, and what was rehearsed is undone"
        )

    def _find_successor_token(self, deadline: Deadline) -> int | None:
        """The fence of whoever ended our backend to take over, which is set a moment later."""
        limit = deadline.at_most(_POLL_SECONDS)
        while not limit.is_over:
            with contextlib.suppress(MigrateError, ConnectionLost):
                try:
                    self._fenced.inspect_fence(limit)
                except StaleFencingToken as stale:
                    return stale.current_token
            limit.clock.sleep(min(_POLL_PAUSE_SECONDS, limit.remaining()))
        return None

    # --- prepare_measuring

    def _take_snapshot(self, deadline: Deadline) -> _Snapshot:
        run = self._fenced.run
        return _Snapshot(
            relations={
                number: _Relation(name, kind, file, None if rows < 0 else rows, table)
                for number, name, kind, file, rows, table in run(
                    self._fenced.queries.list_relations(), deadline
                )
            },
            locks=frozenset(
                (number, mode) for number, mode in run(dry_run_queries.READ_LOCKS, deadline)
            ),
            counts={
                number: tuple(rest)
                for number, *rest in run(dry_run_queries.READ_ROW_COUNTS, deadline)
            },
            definitions=dict(run(dry_run_queries.READ_CHANGED_DEFINITIONS, deadline)),
            is_counting=bool(run(dry_run_queries.READ_TRACK_COUNTS, deadline)[0][0]),
        )

    def _measure_sizes(self, deadline: Deadline, tables: set[int] | None = None) -> dict[int, int]:
        return dict(self._fenced.run(dry_run_queries.read_sizes(tables), deadline))

    def _read_sequences(self, deadline: Deadline) -> dict[str, int | None]:
        """Last values; of none if somebody has one of them locked, which is no reason to fail."""
        try:
            rows = self._fenced.read(
                dry_run_queries.read_sequences(lock_ms=self._lock_ms), deadline
            )
        except PostgresError as error:
            if error.sqlstate != LOCK_NOT_AVAILABLE:
                raise
            return {}
        return {name: None if value is None else int(value) for name, value in rows}

    def _measure_effects(self, name: str, seconds: float, deadline: Deadline) -> MigrationEffects:
        """What migration ``name`` did: what can be seen now, less what could be seen before it."""
        deed = _MigrationDiff(
            self._first, self._before, self._take_snapshot(deadline), self._lock_takers
        )
        tables = deed.tables
        sizes = self._measure_sizes(deadline, tables & deed.after.relations.keys())
        changes = [deed.change(number, before=self._sizes, after=sizes) for number in tables]
        self._used_sequences |= deed.sequences()
        self._lock_takers |= dict.fromkeys(deed.taken, name)
        self._before = deed.after
        self._sizes |= sizes
        return MigrationEffects(
            seconds=seconds,
            locks=deed.locks(),
            tables=tuple(sorted(changes, key=lambda change: change.table)),
        )


def _transaction_ended_error(migration: Migration, tags: Sequence[str]) -> MigrationFailed:
    """The error for a script that reading it took for one that would not.

    Args:
        migration: Its migration.
        tags: The command tags of its statements that were done.
    """
    if "COMMIT" in tags:
        return RepairRequired(
            "it ended the transaction that it ran in and committed another, so part of it may be "
            "committed: look at the database, and take its COMMIT out",
            migration=migration.name,
        )
    return MigrationFailed(
        "it tries to end the transaction that it runs in, and has ended the rehearsal; take its "
        "COMMIT or ROLLBACK out",
        migration=migration.name,
    )


_EMPTY_SNAPSHOT = _Snapshot({}, frozenset(), {}, {}, is_counting=False)
_NO_ROWS: tuple[int, ...] = (0, 0, 0, 0)
_STRONGEST_DML_MODE = "RowExclusiveLock"
_LOCK_MODES = list(LOCK_MODES)


class _MigrationDiff:
    """What one migration did.

    Args:
        first: Before the rehearsal.
        before: Before the migration.
        after: After it.
        holders: RelationLock -> the earlier migration that took it.
    """

    def __init__(
        self,
        first: _Snapshot,
        before: _Snapshot,
        after: _Snapshot,
        holders: Mapping[tuple[int, str], str],
    ) -> None:
        self.after = after
        self.taken = after.locks - before.locks
        self._first = first
        self._before = before
        self._lock_takers = holders

    @property
    def tables(self) -> set[int]:
        """Those that it locked, read or changed."""
        numbers = {number for number, _ in self.taken} | self.after.counts.keys()
        numbers |= self._before.relations.keys() | self.after.relations.keys()
        return {n for n in numbers if self._kind(n) in _TABLES and self._is_affected(n)}

    def sequences(self) -> set[str]:
        """Names of those, older than the rehearsal, that it may have drawn from."""
        relations = self._first.relations
        return {
            relations[number].name
            for number, mode in self.taken
            if mode == "RowExclusiveLock" and number in relations and self._kind(number) == "S"
        }

    def locks(self) -> tuple[RelationLock, ...]:
        """One for each relation, strongest first; of indexes what their table's does not tell."""
        numbers = {number for number, _ in self.taken} | self.tables
        found = {number: lock for number in numbers for lock in self._strongest_lock(number)}
        told = [
            lock for number, lock in found.items() if not self._is_implied_by_table(number, found)
        ]
        return tuple(sorted(told, key=lambda lock: (lock.is_new, -lock.strength, lock.relation)))

    def change(
        self, number: int, *, before: Mapping[int, int], after: Mapping[int, int]
    ) -> TableChange:
        """What it did to one table.

        Args:
            number: The table.
            before: Sizes in bytes before the migration.
            after: Sizes in bytes after it.
        """
        rows: tuple[int | None, ...] = self._rows(number)
        if not self.after.is_counting:
            rows = (None,) * len(rows)
        at_first = self._first.relations.get(number)
        return TableChange(
            table=self._relation(number).name,
            inserted=rows[0],
            updated=rows[1],
            deleted=rows[2],
            scanned=rows[3],
            rewritten=self._has_new_file(number),
            bytes_before=before.get(number),
            bytes_after=after.get(number),
            rows=at_first.rows if at_first is not None else None,
            is_new=at_first is None,
        )

    def _strongest_lock(self, number: int) -> Iterator[RelationLock]:
        kind = self._kind(number)
        if not kind:
            return  # the catalog's own, or a temporary table
        own = {mode for which, mode in self.taken if which == number}
        held = {mode for which, mode in self._lock_takers if which == number}
        mode = self._estimate_mode(number, own, held)
        if mode is None:
            return
        yield RelationLock(
            self._relation(number).name,
            _KINDS[kind],
            LOCK_MODES[mode],
            is_new=number not in self._first.relations,
            since="" if mode in own else self._lock_takers[number, mode],
        )

    def _is_implied_by_table(self, number: int, found: Mapping[int, RelationLock]) -> bool:
        if self._kind(number) not in _INDEXES:
            return False
        table = found.get(self._relation(number).table or 0)
        strength = table.strength if table is not None else -1
        return not found[number].blocks or strength >= found[number].strength

    def _estimate_mode(self, number: int, own: set[str], held: set[str]) -> str | None:
        """The strongest mode that it needed, as far as can be told from what it did."""
        new, old = (
            max(own, key=_LOCK_MODES.index, default=None),
            max(held, key=_LOCK_MODES.index, default=""),
        )
        if self._has_new_file(number) or number not in self.after.relations:
            return max(own | held, key=_LOCK_MODES.index, default=None)
        if new is not None and _LOCK_MODES.index(new) > _LOCK_MODES.index(_STRONGEST_DML_MODE):
            return new
        if old and self._has_new_definition(number):
            return old
        weak = {
            mode
            for mode in held
            if _LOCK_MODES.index(mode) <= _LOCK_MODES.index(_STRONGEST_DML_MODE)
        }
        return new or max(weak, key=_LOCK_MODES.index, default=None)

    def _relation(self, number: int) -> _Relation:
        """Under its new name, if it has one; a dropped one under its last."""
        return self.after.relations.get(number) or self._before.relations[number]

    def _kind(self, number: int) -> str:
        is_known = number in self.after.relations or number in self._before.relations
        return self._relation(number).kind if is_known else ""

    def _is_affected(self, number: int) -> bool:
        return (
            any(which == number for which, _ in self.taken)
            or any(self._rows(number))
            or self._has_new_file(number)
            or self._has_new_definition(number)
            or number not in self.after.relations
        )

    def _rows(self, number: int) -> tuple[int, ...]:
        """Rows inserted, updated, deleted and scanned.

        A TRUNCATE has PostgreSQL forget what it counted in the table before.
        """
        now = self.after.counts.get(number, _NO_ROWS)
        then = self._before.counts.get(number, _NO_ROWS)
        return tuple(max(0, a - b) for a, b in zip(now, then, strict=True))

    def _has_new_file(self, number: int) -> bool:
        then, now = self._before.relations.get(number), self.after.relations.get(number)
        return then is not None and now is not None and then.file != now.file

    def _has_new_definition(self, number: int) -> bool:
        now = self.after.definitions.get(number)
        return now is not None and now != self._before.definitions.get(number)
