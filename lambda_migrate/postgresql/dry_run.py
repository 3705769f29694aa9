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
from lambda_migrate.postgresql.combined_script import CombinedScript
from lambda_migrate.postgresql.connection import ConnectionLost, PostgresError
from lambda_migrate.postgresql.dry_run_effects import (
    LOCK_MODES,
    AdvancedSequence,
    MigrationEffects,
    RelationLock,
    TableChange,
)
from lambda_migrate.postgresql.error_report import (
    TRANSACTION_TIMEOUT,
    deadline_cause,
    make_migration_failed,
)
from lambda_migrate.postgresql.fence import make_lease_held_error
from lambda_migrate.postgresql.holder_connection import LOCK_NOT_AVAILABLE, translate_server_error
from lambda_migrate.postgresql.ports import DatabaseSession, Notice, StaleFencingToken
from lambda_migrate.postgresql.session import parse_history_rows
from lambda_migrate.postgresql.transactional import (
    CANCEL_TOLERANCE_SECONDS,
    require_runnable_migration,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lambda_migrate.clock import Deadline
    from lambda_migrate.migrations import HistoryRow, Migration
    from lambda_migrate.postgresql.fence import FencedConnection
    from lambda_migrate.postgresql.sql_fragments import ServerTimeouts

__all__ = ["PostgreSQLDryRun"]

_CLOSE_SECONDS = 5.0
"""How long the final rollback may take; after that the server completes it by itself."""

_POLL_SECONDS = 2.0
_POLL_PAUSE_SECONDS = 0.1
"""How long and how often to check why the connection broke, and how the transaction ended."""

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
    file_node: int
    rows: int | None
    table_id: int | None


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The state of the database as the transaction sees it at one moment.

    Attributes:
        relations: User relations by object id.
        locks: Relation and mode, as in ``pg_locks``.
        counts: Table -> rows inserted, updated, deleted, scanned in this transaction.
        definitions: Relation -> subtransactions of this transaction that wrote its definition.
        is_counting: Whether the server counts rows (``track_counts``).
    """

    relations: Mapping[int, _Relation]
    locks: frozenset[tuple[int, str]]
    counts: Mapping[int, tuple[int, ...]]
    definitions: Mapping[int, str]
    is_counting: bool


class PostgreSQLDryRun(DatabaseSession):
    """`DryRunSession` on a `FencedConnection` that does not take over the fence.

    Args:
        connection: The connection, not open yet.
        deadline: For calls without a deadline of their own.
        lock_timeout_seconds: ``lock_timeout`` for reading sequences.
    """

    def __init__(
        self, connection: FencedConnection, deadline: Deadline, *, lock_timeout_seconds: float
    ) -> None:
        self._connection = connection
        self._deadline = deadline
        self._lock_ms = max(1, round(lock_timeout_seconds * 1000))
        self._has_begun = False
        self._is_open = False
        self._transaction = ""
        self._rows: list[HistoryRow] = []
        self._sequences: dict[str, int | None] = {}
        self._used_sequences: set[str] = set()
        self._initial_snapshot = self._snapshot_before = _EMPTY_SNAPSHOT
        self._lock_origins: dict[tuple[int, str], str] = {}
        self._sizes: dict[int, int] = {}

    # --- the port

    def begin(self, deadline: Deadline) -> None:
        """See `DryRunSession.begin`.

        Raises:
            StaleFencingToken: In the first call only; later ones raise `LeaseLost`.
            ConnectionLost: In the first call only.
        """
        if not self._has_begun:
            self._begin(deadline)
            self._has_begun = True
            return
        try:
            self._roll_back(deadline)
            self._begin(deadline)
        except StaleFencingToken as stale:
            raise self._connection.make_lease_lost_error(stale.current_token) from stale
        except ConnectionLost as connection_lost:
            raise DatabaseUnavailable(
                f"the connection to PostgreSQL broke: {connection_lost}"
            ) from connection_lost

    def _begin(self, deadline: Deadline) -> None:
        probe = self._connection.inspect_fence(deadline)
        try:
            self._sequences = self._read_sequences(deadline)
            self._used_sequences, self._lock_origins = set(), {}
            self._open(deadline, has_schema=probe.has_schema, has_tables=probe.has_history)
            self._connection.run(
                dry_run_queries.prepare_measuring(self._connection.timeouts(deadline)), deadline
            )
            rows = self._connection.run(self._connection.queries.read_history(), deadline)
            self._rows = parse_history_rows(rows)
            self._initial_snapshot = self._snapshot_before = self._take_snapshot(deadline)
            self._sizes = self._measure_sizes(deadline)
        except PostgresError as error:
            self.close()
            raise translate_server_error(error) from error
        except BaseException:
            self.close()
            raise

    def read_history(self) -> list[HistoryRow]:
        """See `DryRunSession.read_history`."""
        return list(self._rows)

    def run_migration(self, migration: Migration, deadline: Deadline) -> MigrationEffects:
        """See `DryRunSession.run_migration`."""
        require_runnable_migration(migration, self._connection.placeholders)
        if not migration.up.transactional:
            raise MigrationFailed(
                "it is marked transaction:false and cannot run in a dry run",
                migration=migration.name,
            )
        try:
            seconds = self._run_script(migration, deadline)
            return self._measure_effects(migration.name, seconds, deadline)
        except PostgresError as error:
            raise MigrationFailed(
                f"its effects could not be measured: {error.message}",
                migration=migration.name,
                sqlstate=error.sqlstate,
            ) from error
        except ConnectionLost as connection_lost:
            raise self._connection_loss_error(
                connection_lost, migration, deadline
            ) from connection_lost

    def roll_back(self) -> tuple[AdvancedSequence, ...]:
        """See `DryRunSession.roll_back`."""
        deadline = self._deadline.extended_by(_CLOSE_SECONDS)
        try:
            self._roll_back(deadline)
            self._require_rolled_back(deadline)
            after = self._read_sequences(deadline)
        except (PostgresError, ConnectionLost) as error:
            raise DatabaseUnavailable(
                f"PostgreSQL could not confirm how the dry run ended: {error}"
            ) from error
        return tuple(
            AdvancedSequence(name, self._sequences.get(name), after.get(name))
            for name in sorted(self._used_sequences)
            if self._sequences.get(name) != after.get(name) or after.get(name) is None
        )

    def abort(self) -> None:
        """See `DryRunSession.abort`."""
        self._connection.abort()

    def take_notices(self) -> tuple[Notice, ...]:
        """See `DatabaseSession.take_notices`."""
        return self._connection.take_notices()

    def close(self) -> None:
        """See `DryRunSession.close`."""
        # Release the locks now; without a connection they are released already.
        with contextlib.suppress(PostgresError, ConnectionLost, MigrateError):
            self._roll_back(self._deadline.extended_by(_CLOSE_SECONDS))
        self._connection.close()

    # --- the transaction

    def _open(self, deadline: Deadline, *, has_schema: bool, has_tables: bool) -> None:
        connection = self._connection
        begin = connection.queries.begin_dry_run(
            connection.timeouts(deadline),
            create_schema=not has_schema,
            create_tables=not has_tables,
        )
        self._is_open = True
        try:
            token, owner, self._transaction = connection.run(begin, deadline)[-1]
        except PostgresError as error:
            if error.sqlstate != LOCK_NOT_AVAILABLE:
                raise
            raise make_lease_held_error() from error
        is_own_token = (token, owner) == (connection.grant.fence, connection.grant.owner)
        if token >= connection.grant.fence and not is_own_token:
            raise connection.make_lease_lost_error(token)

    def _roll_back(self, deadline: Deadline) -> None:
        if self._is_open:
            self._is_open = False
            self._connection.reset_session(deadline)

    def _require_rolled_back(self, deadline: Deadline) -> None:
        """Check how the transaction ended; after a broken connection that may take a moment."""
        if not self._transaction:
            return
        limit = deadline.limited_to(_POLL_SECONDS)
        while (status := self._read_transaction_status(deadline)) == "in progress":
            if limit.is_over:
                raise DatabaseUnavailable(
                    "PostgreSQL has not noticed yet that the dry run's connection broke; it rolls "
                    "the transaction back when it does"
                )
            limit.clock.sleep(_POLL_PAUSE_SECONDS)
        if status not in ("aborted", None):  # None: PostgreSQL no longer knows it
            raise RepairRequired(
                f"PostgreSQL reports that the dry run's transaction {self._transaction} is "
                f"{status}; check the database"
            )

    def _read_transaction_status(self, deadline: Deadline) -> Any:
        return self._connection.read(
            dry_run_queries.read_transaction_status(self._transaction), deadline
        )[0][0]

    # --- one migration

    def _run_script(self, migration: Migration, deadline: Deadline) -> float:
        """Run the script and check deferred constraints; returns seconds."""
        connection, clock = self._connection, deadline.clock
        script = CombinedScript.of_migration(migration, connection.placeholders)
        connection.run(
            dry_run_queries.begin_migration(self._server_timeouts(migration, deadline)), deadline
        )
        began = clock.monotonic()
        tags: tuple[str, ...] | None = None
        try:
            connection.run(script.sql, deadline, keep_rows=0)
            tags = connection.raw_connection.tags
            deferred = self._check_deferred(deadline)
            seconds = clock.monotonic() - began
            timeouts = self._server_timeouts(migration, deadline)
            rows = connection.run(
                dry_run_queries.end_migration(timeouts, deferred_constraints=deferred), deadline
            )
        except PostgresError as error:
            completed_statements = (
                connection.raw_connection.completed_statements if tags is None else None
            )
            self._roll_back_migration(migration, tags or connection.raw_connection.tags, deadline)
            part, completed_statements = script.locate(error, completed_statements)
            raise make_migration_failed(
                error,
                part.script,
                name=migration.name,
                path=part.path,
                completed_statements=completed_statements,
                is_past_deadline=deadline.remaining() < CANCEL_TOLERANCE_SECONDS,
            ) from error
        if rows[-1][0] != self._transaction:
            raise _transaction_ended_error(migration, tags)
        return seconds

    def _server_timeouts(self, migration: Migration, deadline: Deadline) -> ServerTimeouts:
        try:
            return self._connection.timeouts(deadline)
        except DatabaseUnavailable:
            raise MigrationFailed(deadline_cause(), migration=migration.name) from None

    def _check_deferred(self, deadline: Deadline) -> str:
        """Check deferred constraints, as a commit would; returns those to defer again."""
        names, deferred = self._connection.run(
            dry_run_queries.find_deferrable_constraints(), deadline
        )[0]
        if names:
            self._connection.run(dry_run_queries.check_constraints(names), deadline)
        return deferred or ""

    def _roll_back_migration(
        self, migration: Migration, tags: Sequence[str], deadline: Deadline
    ) -> None:
        """Roll back one migration, so that the next one can run."""
        if not self._connection.raw_connection.in_transaction:
            # PostgreSQL refused its COMMIT, and rolled the whole dry run back.
            raise _transaction_ended_error(migration, tags)
        try:
            self._connection.run(dry_run_queries.ROLL_BACK_MIGRATION, deadline)
            self._connection.run(
                dry_run_queries.prepare_measuring(self._server_timeouts(migration, deadline)),
                deadline,
            )
            self._snapshot_before = self._take_snapshot(
                deadline
            )  # row counts include what was rolled back
        except PostgresError as error:
            raise _transaction_ended_error(migration, tags) from error

    def _connection_loss_error(
        self, connection_lost: ConnectionLost, migration: Migration, deadline: Deadline
    ) -> MigrateError:
        """The error for a connection that broke, and the transaction with it."""
        self._is_open = False
        if self._connection.is_aborted:
            return self._connection.make_lease_lost_error()
        if connection_lost.sqlstate == TRANSACTION_TIMEOUT:
            return MigrationFailed(
                deadline_cause(), migration=migration.name, sqlstate=connection_lost.sqlstate
            )
        successor_token = self._find_successor_token(deadline)
        if successor_token is not None:
            return self._connection.make_lease_lost_error(successor_token)
        return DatabaseUnavailable(
            f"the connection to PostgreSQL broke in {migration.name}: {connection_lost}; the dry "
            "run's transaction was rolled back with it"
        )

    def _find_successor_token(self, deadline: Deadline) -> int | None:
        """The token of a successor that terminated this backend; it is stored a moment later."""
        limit = deadline.limited_to(_POLL_SECONDS)
        while not limit.is_over:
            with contextlib.suppress(MigrateError, ConnectionLost):
                try:
                    self._connection.inspect_fence(limit)
                except StaleFencingToken as stale:
                    return stale.current_token
            limit.clock.sleep(min(_POLL_PAUSE_SECONDS, limit.remaining()))
        return None

    # --- measuring

    def _take_snapshot(self, deadline: Deadline) -> _Snapshot:
        run = self._connection.run
        return _Snapshot(
            relations={
                object_id: _Relation(name, kind, file, None if rows < 0 else rows, table)
                for object_id, name, kind, file, rows, table in run(
                    self._connection.queries.list_relations(), deadline
                )
            },
            locks=frozenset(
                (object_id, mode) for object_id, mode in run(dry_run_queries.READ_LOCKS, deadline)
            ),
            counts={
                object_id: tuple(rest)
                for object_id, *rest in run(dry_run_queries.READ_ROW_COUNTS, deadline)
            },
            definitions=dict(run(dry_run_queries.READ_CHANGED_DEFINITIONS, deadline)),
            is_counting=bool(run(dry_run_queries.READ_TRACK_COUNTS, deadline)[0][0]),
        )

    def _measure_sizes(self, deadline: Deadline, tables: set[int] | None = None) -> dict[int, int]:
        return dict(self._connection.run(dry_run_queries.read_sizes(tables), deadline))

    def _read_sequences(self, deadline: Deadline) -> dict[str, int | None]:
        """Last values; {} if another session has locked a sequence, which is no reason to fail."""
        try:
            rows = self._connection.read(
                dry_run_queries.read_sequences(lock_ms=self._lock_ms), deadline
            )
        except PostgresError as error:
            if error.sqlstate != LOCK_NOT_AVAILABLE:
                raise
            return {}
        return {name: None if value is None else int(value) for name, value in rows}

    def _measure_effects(self, name: str, seconds: float, deadline: Deadline) -> MigrationEffects:
        """The effects of migration ``name``: the difference between two snapshots."""
        diff = _MigrationDiff(
            self._initial_snapshot,
            self._snapshot_before,
            self._take_snapshot(deadline),
            self._lock_origins,
        )
        tables = diff.tables
        sizes = self._measure_sizes(deadline, tables & diff.snapshot_after.relations.keys())
        changes = [diff.change(object_id, before=self._sizes, after=sizes) for object_id in tables]
        self._used_sequences |= diff.sequences()
        self._lock_origins |= dict.fromkeys(diff.taken, name)
        self._snapshot_before = diff.snapshot_after
        self._sizes |= sizes
        return MigrationEffects(
            seconds=seconds,
            locks=diff.locks(),
            tables=tuple(sorted(changes, key=lambda change: change.table)),
        )


def _transaction_ended_error(migration: Migration, tags: Sequence[str]) -> MigrationFailed:
    """The error for a script that ended its transaction although the check had passed it.

    Args:
        migration: Its migration.
        tags: The command tags of its statements that finished.
    """
    if "COMMIT" in tags:
        return RepairRequired(
            "it ended its transaction and committed another one, so part of it may be committed: "
            "check the database, and remove its COMMIT",
            migration=migration.name,
        )
    return MigrationFailed(
        "it ends its transaction, which ended the dry run; remove its COMMIT or ROLLBACK",
        migration=migration.name,
    )


_EMPTY_SNAPSHOT = _Snapshot({}, frozenset(), {}, {}, is_counting=False)
_NO_ROWS: tuple[int, ...] = (0, 0, 0, 0)
_STRONGEST_DML_MODE = "RowExclusiveLock"
_MODES_WEAKEST_FIRST = list(LOCK_MODES)


class _MigrationDiff:
    """The difference that one migration made.

    Args:
        initial_snapshot: The snapshot before the dry run.
        snapshot_before: Before the migration.
        snapshot_after: After it.
        lock_origins: Lock -> the earlier migration that took it.
    """

    def __init__(
        self,
        initial_snapshot: _Snapshot,
        snapshot_before: _Snapshot,
        snapshot_after: _Snapshot,
        lock_origins: Mapping[tuple[int, str], str],
    ) -> None:
        self.snapshot_after = snapshot_after
        self.taken = snapshot_after.locks - snapshot_before.locks
        self._initial_snapshot = initial_snapshot
        self._snapshot_before = snapshot_before
        self._lock_origins = lock_origins

    @property
    def tables(self) -> set[int]:
        """Tables that it locked, read or changed."""
        object_ids = {object_id for object_id, _ in self.taken} | self.snapshot_after.counts.keys()
        object_ids |= self._snapshot_before.relations.keys() | self.snapshot_after.relations.keys()
        return {n for n in object_ids if self._kind(n) in _TABLES and self._is_affected(n)}

    def sequences(self) -> set[str]:
        """Sequences, older than the dry run, from which it may have taken numbers."""
        relations = self._initial_snapshot.relations
        return {
            relations[object_id].name
            for object_id, mode in self.taken
            if mode == "RowExclusiveLock"
            and object_id in relations
            and self._kind(object_id) == "S"
        }

    def locks(self) -> tuple[RelationLock, ...]:
        """One per relation, strongest first; without indexes whose table has as strong a lock."""
        object_ids = {object_id for object_id, _ in self.taken} | self.tables
        found = {
            object_id: lock for object_id in object_ids for lock in self._strongest_lock(object_id)
        }
        shown = [
            lock
            for object_id, lock in found.items()
            if not self._is_implied_by_table(object_id, found)
        ]
        return tuple(sorted(shown, key=lambda lock: (lock.is_new, -lock.strength, lock.relation)))

    def change(
        self, object_id: int, *, before: Mapping[int, int], after: Mapping[int, int]
    ) -> TableChange:
        """The change to one table.

        Args:
            object_id: The table.
            before: Sizes in bytes before the migration.
            after: Sizes in bytes after it.
        """
        rows: tuple[int | None, ...] = self._rows(object_id)
        if not self.snapshot_after.is_counting:
            rows = (None,) * len(rows)
        at_first = self._initial_snapshot.relations.get(object_id)
        return TableChange(
            table=self._relation(object_id).name,
            inserted=rows[0],
            updated=rows[1],
            deleted=rows[2],
            scanned=rows[3],
            rewritten=self._has_new_file(object_id),
            bytes_before=before.get(object_id),
            bytes_after=after.get(object_id),
            rows=at_first.rows if at_first is not None else None,
            is_new=at_first is None,
        )

    def _strongest_lock(self, object_id: int) -> Iterator[RelationLock]:
        kind = self._kind(object_id)
        if not kind:
            return  # a catalog or a temporary table
        own_modes = {mode for which, mode in self.taken if which == object_id}
        earlier_modes = {mode for which, mode in self._lock_origins if which == object_id}
        mode = self._estimate_mode(object_id, own_modes, earlier_modes)
        if mode is None:
            return
        yield RelationLock(
            self._relation(object_id).name,
            _KINDS[kind],
            LOCK_MODES[mode],
            is_new=object_id not in self._initial_snapshot.relations,
            earlier_migration="" if mode in own_modes else self._lock_origins[object_id, mode],
        )

    def _is_implied_by_table(self, object_id: int, found: Mapping[int, RelationLock]) -> bool:
        if self._kind(object_id) not in _INDEXES:
            return False
        table = found.get(self._relation(object_id).table_id or 0)
        strength = table.strength if table is not None else -1
        return not found[object_id].blocks or strength >= found[object_id].strength

    def _estimate_mode(
        self, object_id: int, own_modes: set[str], earlier_modes: set[str]
    ) -> str | None:
        """The strongest mode that it needed, estimated from its effects."""
        new, old = (
            max(own_modes, key=_MODES_WEAKEST_FIRST.index, default=None),
            max(earlier_modes, key=_MODES_WEAKEST_FIRST.index, default=""),
        )
        if self._has_new_file(object_id) or object_id not in self.snapshot_after.relations:
            return max(own_modes | earlier_modes, key=_MODES_WEAKEST_FIRST.index, default=None)
        if new is not None and _MODES_WEAKEST_FIRST.index(new) > _MODES_WEAKEST_FIRST.index(
            _STRONGEST_DML_MODE
        ):
            return new
        if old and self._has_new_definition(object_id):
            return old
        weak = {
            mode
            for mode in earlier_modes
            if _MODES_WEAKEST_FIRST.index(mode) <= _MODES_WEAKEST_FIRST.index(_STRONGEST_DML_MODE)
        }
        return new or max(weak, key=_MODES_WEAKEST_FIRST.index, default=None)

    def _relation(self, object_id: int) -> _Relation:
        """The relation with its current name, or, if it was dropped, its last one."""
        return (
            self.snapshot_after.relations.get(object_id)
            or self._snapshot_before.relations[object_id]
        )

    def _kind(self, object_id: int) -> str:
        is_known = (
            object_id in self.snapshot_after.relations
            or object_id in self._snapshot_before.relations
        )
        return self._relation(object_id).kind if is_known else ""

    def _is_affected(self, object_id: int) -> bool:
        return (
            any(which == object_id for which, _ in self.taken)
            or any(self._rows(object_id))
            or self._has_new_file(object_id)
            or self._has_new_definition(object_id)
            or object_id not in self.snapshot_after.relations
        )

    def _rows(self, object_id: int) -> tuple[int, ...]:
        """Rows inserted, updated, deleted and scanned.

        A TRUNCATE resets the counts that PostgreSQL has for the table.
        """
        now = self.snapshot_after.counts.get(object_id, _NO_ROWS)
        then = self._snapshot_before.counts.get(object_id, _NO_ROWS)
        return tuple(max(0, a - b) for a, b in zip(now, then, strict=True))

    def _has_new_file(self, object_id: int) -> bool:
        then, now = (
            self._snapshot_before.relations.get(object_id),
            self.snapshot_after.relations.get(object_id),
        )
        return then is not None and now is not None and then.file_node != now.file_node

    def _has_new_definition(self, object_id: int) -> bool:
        now = self.snapshot_after.definitions.get(object_id)
        return now is not None and now != self._snapshot_before.definitions.get(object_id)
