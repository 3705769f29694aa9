"""Non-transactional migrations: one statement, an intent row before it, the truth looked up after.

``CREATE INDEX CONCURRENTLY`` and its like cannot share a transaction with their history row. One
rule holds for up and down scripts:

1. A row that is in doubt is settled before anything else begins.
2. Before the intent row the catalog is read, and what conflicts with the statement is refused, so
   that what is found afterwards is the statement's own work. The numbers (OIDs) of the objects that
   it is about are kept in the row: a name may mean another object later.
3. The row is committed as ``started`` or ``reverting``. The next process that finds it looks again:

==============  ==============================================================================
absent          it did not take effect: the row is as it was before
invalid         half done: an index is dropped, a DETACH is finished; then it is looked at again
complete        it took effect: the row becomes ``applied``, or a rollback removes it
unknown         cannot be determined: `RepairRequired`, unless the script is repeatable
==============  ==============================================================================
"""

from __future__ import annotations

from enum import Enum
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from lambda_migrate.errors import DatabaseUnavailable, MigrationFailed, RepairRequired
from lambda_migrate.migrations.plan import RowState
from lambda_migrate.migrations.sql.classify import classify
from lambda_migrate.migrations.sql.tokens import split
from lambda_migrate.postgresql import catalog_queries
from lambda_migrate.postgresql.connection import ConnectionLost, PostgresError
from lambda_migrate.postgresql.error_report import failure_of
from lambda_migrate.postgresql.sql_fragments import identifier
from lambda_migrate.postgresql.transactional import (
    CANCEL_TOLERANCE_SECONDS,
    MAX_CONNECTION_LOSSES,
    RETRYABLE_SQLSTATES,
    require_migration,
    require_runnable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lambda_migrate.clock import Deadline
    from lambda_migrate.migrations import HistoryRow, Migration, Script
    from lambda_migrate.migrations.sql.classify import Build
    from lambda_migrate.migrations.sql.tokens import Identifier
    from lambda_migrate.postgresql.fence import FencedConnection

__all__ = [
    "already_applied_error",
    "apply_non_transactional",
    "roll_back_non_transactional",
    "settle",
]

UNIQUE_VIOLATION = "23505"
_T = TypeVar("_T")


class CatalogState(Enum):
    """What a statement has left in the catalog."""

    ABSENT = "absent"
    INVALID = "invalid"
    COMPLETE = "complete"
    UNKNOWN = "unknown"


class CatalogFinding(NamedTuple):
    """What the catalog says of a statement.

    Attributes:
        left: How far it is.
        numbers: Of the objects that it is about, to find these again and no others.
        obstacle: Why it cannot begin, and what to do about that; "" if it can.
        sqlstate: What PostgreSQL would say instead, as a rule.
    """

    left: CatalogState
    numbers: tuple[int, ...] = ()
    obstacle: str = ""
    sqlstate: str = ""


def apply_non_transactional(
    fenced: FencedConnection, migration: Migration, digest: str, deadline: Deadline
) -> int:
    """Apply one non-transactional migration; see `FencedSession.apply`."""
    path = migration.path or migration.name
    require_migration(migration)
    statement = _Statement(
        fenced,
        migration.up,
        name=migration.name,
        path=path,
        deadline=deadline,
        version=migration.version,
    )
    found = statement.check_before_start()
    queries = fenced.queries
    started = queries.insert_started(migration, digest, fenced.grant, found=found)
    if statement.write(started) != [True]:
        raise already_applied_error(migration)
    statement.run(undo_intent=queries.delete_rows([migration.version]) + " RETURNING 0")
    return int(statement.write(queries.mark_applied(migration.version))[0])


def already_applied_error(migration: Migration) -> MigrationFailed:
    """The error for a version that was applied before."""
    return MigrationFailed(
        f"version {migration.version} is in the history already",
        migration=migration.name,
        sqlstate=UNIQUE_VIOLATION,
    )


def roll_back_non_transactional(
    fenced: FencedConnection, row: HistoryRow, deadline: Deadline
) -> int:
    """Revert one migration by its non-transactional down script; see `FencedSession.roll_back`."""
    script = require_script(row.down, name=row.name)
    path = f"{row.name} (stored down script)"
    require_runnable(script, name=row.name, path=path)
    statement = _Statement(
        fenced,
        script,
        name=row.name,
        path=path,
        deadline=deadline,
        version=row.version,
        is_rollback=True,
    )
    queries = fenced.queries
    began = deadline.clock.monotonic()
    found = statement.check_before_start()
    statement.write(queries.mark_rolling_back(row.version, found=found) + " RETURNING 0")
    statement.run(undo_intent=queries.restore_applied(row.version) + " RETURNING 0")
    statement.write(queries.delete_rows([row.version]) + " RETURNING 0")
    return round((deadline.clock.monotonic() - began) * 1000)


def settle(fenced: FencedConnection, row: HistoryRow, deadline: Deadline) -> None:
    """Bring a row in doubt to an end; see `FencedSession.settle`."""
    is_rollback = row.state is RowState.ROLLING_BACK
    script = require_script(row.down if is_rollback else row.up, name=row.name)
    statement = _Statement(
        fenced,
        script,
        name=row.name,
        path=row.name,
        deadline=deadline,
        version=row.version,
        is_rollback=is_rollback,
        found=row.found,
    )
    queries = fenced.queries
    happened = statement.clean_up()
    if happened is None:
        raise statement.repair_required(
            f"it was interrupted while {'rolling back' if is_rollback else 'applying'}, and "
            "lambda-migrate cannot determine whether its statement took effect"
        )
    if is_rollback:
        writes = (
            queries.delete_rows([row.version]) if happened else queries.restore_applied(row.version)
        )
        statement.write(f"{writes} RETURNING 0")
    elif happened:
        statement.write(queries.mark_applied(row.version))
    else:
        statement.write(queries.delete_rows([row.version]) + " RETURNING 0")


def require_script(script: Script | None, *, name: str) -> Script:
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
        self,
        fenced: FencedConnection,
        script: Script,
        *,
        name: str,
        path: str,
        deadline: Deadline,
        version: int,
        is_rollback: bool = False,
        found: tuple[int, ...] | None = None,
    ) -> None:
        self._fenced = fenced
        self._script = script
        self._name = name
        self._path = path
        self._deadline = deadline
        self._version = version
        self._is_rollback = is_rollback
        self._found = found
        self._build: Build = classify(split(script.sql)[0])
        self._was_complete_before = False
        self._lost_connections = 0

    def write(self, writes: str) -> list[Any]:
        """A transaction of ours, repeated on another connection if this one breaks.

        Each of these writes may be repeated: they set a row to what it is to be.
        """
        try:
            return self._retry_on_new_connection(lambda: self._fenced.write(writes, self._deadline))
        except PostgresError as error:
            raise self._failure(error, is_own_statement=True) from error

    def check_before_start(self) -> tuple[int, ...]:
        """CatalogFinding at the objects of the statement, and refuse what conflicts with it.

        Returns:
            The numbers of the objects that it is about, for the intent row.

        Raises:
            MigrationFailed: It could not succeed, or its outcome could not be determined later.
        """
        look = self._read_catalog()
        if look.obstacle:
            raise MigrationFailed(look.obstacle, migration=self._name, sqlstate=look.sqlstate)
        self._was_complete_before = look.left is CatalogState.COMPLETE
        self._found = look.numbers
        return look.numbers

    def run(self, *, undo_intent: str) -> None:
        """Run it, for as long as the deadline allows.

        Args:
            undo_intent: What to write when it failed and left nothing.

        Raises:
            MigrationFailed: It failed, and nothing is left of it.
            RepairRequired: It failed, and part of it may be committed.
        """
        for attempt in count(1):
            try:
                self._fenced.run_non_transactional(
                    self._script.sql, self._deadline, name=self._name
                )
                break
            except PostgresError as error:
                failure = self._failure(error)
                if error.sqlstate in RETRYABLE_SQLSTATES and self._can_retry(error, attempt):
                    continue
                self._clean_up_after_failure(failure, error, undo_intent)
                raise failure from error
            except ConnectionLost as lost:
                if self._check_after_loss(lost, undo_intent):
                    break
                self._fenced.pause(attempt, self._deadline)

    def _can_retry(self, error: PostgresError, attempt: int) -> bool:
        """After a deadlock, say: clear up, wait a little, and see whether there is time."""
        if self._deadline.is_over or self._is_clean_after(error) is not True:
            return False
        self._fenced.pause(attempt, self._deadline)
        return not self._deadline.is_over

    def _clean_up_after_failure(
        self, failure: MigrationFailed, error: PostgresError, undo_intent: str
    ) -> None:
        """Leave nothing behind; what time does not allow, the next attempt does.

        Raises:
            RepairRequired: Part of it may be committed.
        """
        try:
            is_clean = self._is_clean_after(error)
            if is_clean:
                self._retry_on_new_connection(
                    lambda: self._fenced.write(undo_intent, self._clean_up_deadline)
                )
        except (ConnectionLost, PostgresError, MigrationFailed, DatabaseUnavailable) as another:
            failure.detail += f"\n  and clearing up failed, the next attempt repeats it: {another}"
            failure.args = (failure.detail,)
            return
        if is_clean is None:
            raise self.repair_required(
                f"{failure.cause}; part of it may be committed",
                sqlstate=failure.sqlstate,
                detail=failure.detail,
            ) from error

    def _is_clean_after(self, error: PostgresError) -> bool | None:
        """Whether a statement that failed is as if it had never run; None: cannot be determined."""
        if self._was_complete_before or self._proves_no_effect(error):
            return True
        happened = self.clean_up()
        return None if happened is None else not happened

    def _proves_no_effect(self, error: PostgresError) -> bool:
        """Whether the error itself is proof that nothing of the statement took effect.

        - PostgreSQL undoes most statements as a whole when they fail.
        - An error at a place in the statement, raised in no function, comes from reading it: not
          even a CALL or DO had begun. What a procedure raises names the function it was raised in.
        - An object that was there already is not the statement's, and not to be touched.
        """
        is_reading = error.position is not None and not error.where
        is_taken = error.sqlstate in _ALREADY_EXISTS and self._build.kind in _CREATE_KINDS
        return self._build.is_atomic or is_reading or is_taken

    def repair_required(
        self, cause: str, *, sqlstate: str = "", detail: str = ""
    ) -> RepairRequired:
        """The error for what cannot be determined, with what to do."""
        repair = f"lambda-migrate repair {self._version} --as"
        applied, pending = f"`{repair} applied`", f"`{repair} pending`"
        if self._is_rollback:
            advice = f"if it took effect, {pending}; if the migration is still in place, {applied}"
        else:
            advice = f"if it took effect, {applied}; to run it again, {pending}"
        next_step = f"look at the database: {advice}"
        return RepairRequired(
            f"{cause}; {next_step}",
            migration=self._name,
            sqlstate=sqlstate,
            detail=detail and f"{detail}\n  part of it may be committed\n  next: {next_step}",
        )

    def _check_after_loss(self, lost: ConnectionLost, undo_intent: str) -> bool:
        """The connection broke in the middle: look what became of it, on a new one.

        Returns:
            Whether the statement took effect; if not, it may be tried again.
        """
        if self._fenced.is_aborted:
            raise self._fenced.lease_lost() from lost
        self._lost_connections += 1
        self._retry_on_new_connection(lambda: self._fenced.reattach(self._deadline))
        happened = self.clean_up()
        can_retry = self._lost_connections < MAX_CONNECTION_LOSSES and not self._deadline.is_over
        if happened or (happened is False and can_retry):
            return happened
        failure = MigrationFailed(
            f"the connection to PostgreSQL broke in the middle: {lost}", migration=self._name
        )
        if happened is None:
            raise self.repair_required(
                f"{failure.cause}; lambda-migrate cannot determine whether it took effect"
            ) from lost
        self.write(undo_intent)
        raise failure

    def clean_up(self) -> bool | None:
        """Remove or finish what is half done.

        Returns:
            True if the statement took effect, False if it is as if it had never run, also
            for a repeatable one in doubt; None if that cannot be determined.
        """
        left = self._read_catalog().left
        if left is CatalogState.INVALID:
            self._finalize_detach()
            self._drop_invalid_indexes()
            left = self._read_catalog().left
        happened = {CatalogState.COMPLETE: True, CatalogState.ABSENT: False}.get(left)
        return False if happened is None and self._script.repeatable else happened

    def _drop_invalid_indexes(self) -> None:
        """Drop it, which waits for older transactions as building it does."""
        for name in self._find_invalid_indexes():
            drop = partial(
                self._fenced.run_non_transactional,
                catalog_queries.drop_index(name),
                name=self._name,
            )
            self._run_own_statement(partial(drop, self._clean_up_deadline))

    def _find_invalid_indexes(self) -> Iterator[str]:
        build = self._build
        if build.kind == "create-index":
            yield from (
                name
                for _, name, is_here, is_valid in self._find_same_name()
                if is_here and not is_valid
            )
        elif build.kind == "drop-index":
            yield from (name for _, name, is_valid in self._find_indexes_to_drop() if not is_valid)
        elif build.kind == "reindex":
            for _, name, may_drop in self._find_reindex_leftovers():
                if not may_drop:
                    self._report_leftover(name)
                    continue
                yield name

    def _report_leftover(self, name: str) -> None:
        """A leftover that this role may not drop stays, once it was reported to the user.

        Raises:
            RepairRequired: Unless the script is repeatable.
        """
        if not self._script.repeatable:
            raise self.repair_required(
                f"an interrupted REINDEX left the INVALID index {name}, which only a role that may "
                f"use its schema can drop, as a rule a superuser: DROP INDEX CONCURRENTLY {name}. "
                "The table can be used with it"
            )

    def _finalize_detach(self) -> None:
        """Finish a DETACH that was begun: it cannot be undone, and it is what was asked for."""
        pending = [row for row in self._find_partition() if row[3]]
        for _, _, _, _, whole, part in pending:
            self._write_with_retries(f"{catalog_queries.finalize_detach(whole, part)}; SELECT 0")

    def _write_with_retries(self, writes: str) -> None:
        """A transaction of ours that waits for locks as a migration does: briefly, and again."""
        for attempt in count(1):
            try:
                self._retry_on_new_connection(lambda: self._fenced.write(writes, self._deadline))
                return
            except PostgresError as error:
                if error.sqlstate not in RETRYABLE_SQLSTATES or self._deadline.is_over:
                    raise self._failure(error, is_own_statement=True) from error
                self._fenced.pause(attempt, self._deadline)

    # --- looking

    def _read_catalog(self) -> CatalogFinding:
        looks: dict[str, Callable[[], CatalogFinding]] = {
            "create-index": self._check_new_index,
            "drop-index": self._check_dropped_index,
            "reindex": self._check_reindex,
            "add-enum-value": self._check_enum_value,
            "attach-partition": self._check_partition,
            "detach-partition": self._check_partition,
            "create-object": self._check_object,
            "drop-object": self._check_object,
            "repeatable": lambda: CatalogFinding(CatalogState.ABSENT),
        }
        look = looks.get(self._build.kind)
        return look() if look is not None else CatalogFinding(CatalogState.UNKNOWN)

    def _check_new_index(self) -> CatalogFinding:
        if not self._build.names or self._build.table is None:
            return CatalogFinding(CatalogState.UNKNOWN)
        for number, name, is_here, is_valid in self._find_same_name():
            if not is_here:
                return CatalogFinding(
                    CatalogState.ABSENT,
                    (),
                    self._exists_already(f"the relation {name}"),
                    DUPLICATE_TABLE,
                )
            if not is_valid:
                obstacle = (
                    f"an INVALID index {name} stands in the way, left by something else; DROP "
                    f"INDEX CONCURRENTLY {name}, then run again"
                )
                return CatalogFinding(CatalogState.INVALID, (), obstacle, DUPLICATE_TABLE)
            return self._check_same_name(number, name)
        return CatalogFinding(CatalogState.ABSENT)

    def _check_same_name(self, number: int, name: str) -> CatalogFinding:
        """A complete index has the name: it counts only if it is the one that was asked for."""
        is_same = self._is_same_index(number)
        if is_same is None and self._found is None:
            left = CatalogState.UNKNOWN
        else:
            left = CatalogState.ABSENT if is_same is False else CatalogState.COMPLETE
        if is_same:
            is_in_the_way, what = (
                not self._build.conditional,
                f"the index {name}, defined like this,",
            )
        else:
            is_in_the_way, what = True, f"an index {name} with another definition"
            if is_same is None:
                what = f"an index {name}, which could not be compared with this one,"
        return CatalogFinding(
            left, (), self._exists_already(what) if is_in_the_way else "", DUPLICATE_TABLE
        )

    def _is_same_index(self, number: int) -> bool | None:
        """Whether an index is the one that the statement describes; None: cannot be determined."""
        build = self._build
        if build.table is None:
            return None
        asked = catalog_queries.compare_index(
            number,
            table=_quote(build.table),
            unique=build.unique,
            definition=build.definition,
            timeouts=self._fenced.timeouts(self._clean_up_deadline),
        )
        try:
            return bool(
                self._retry_on_new_connection(
                    lambda: self._fenced.run(asked, self._clean_up_deadline)
                )[-1][0]
            )
        except PostgresError:
            self._retry_on_new_connection(
                lambda: self._fenced.reset_session(self._clean_up_deadline)
            )
            return None

    def _check_dropped_index(self) -> CatalogFinding:
        """An index that is half dropped is invalid: finishing that is what was asked for."""
        build, rows = self._build, self._find_indexes_to_drop()
        obstacle = ""
        if self._found is None and len(rows) < len(build.names) and not build.conditional:
            there = {number for number, _, _ in rows}
            missing = next(n for n in build.names if not self._object_ids_of(n) & there)
            obstacle = self._does_not_exist(f"index {missing}")
        numbers = tuple(number for number, _, _ in rows)
        if not rows:
            return CatalogFinding(CatalogState.COMPLETE, numbers, obstacle, UNDEFINED_OBJECT)
        is_whole = all(is_valid for _, _, is_valid in rows)
        left = CatalogState.ABSENT if is_whole else CatalogState.INVALID
        return CatalogFinding(left, numbers, obstacle, UNDEFINED_OBJECT)

    def _check_reindex(self) -> CatalogFinding:
        """Rebuilding twice does no harm, what an interrupted one left behind does."""
        rows = self._find_reindex_leftovers()
        in_the_way = ", ".join(name for _, name, may_drop in rows if may_drop)
        obstacle = in_the_way and (
            f"an interrupted REINDEX left INVALID indexes, or one is running: {in_the_way}; "
            "DROP INDEX CONCURRENTLY each of them, then run again"
        )
        left = CatalogState.INVALID if rows else CatalogState.ABSENT
        return CatalogFinding(
            left, tuple(number for number, _, _ in rows), obstacle, DUPLICATE_TABLE
        )

    def _check_enum_value(self) -> CatalogFinding:
        build = self._build
        rows = self._read(catalog_queries.find_enum_value(_quote(build.names[0]), build.value))
        if not rows:
            return CatalogFinding(CatalogState.ABSENT)
        what = f"the value {build.value!r} of {build.names[0]}"
        obstacle = "" if build.conditional else self._exists_already(what)
        return CatalogFinding(CatalogState.COMPLETE, (), obstacle, DUPLICATE_OBJECT)

    def _check_partition(self) -> CatalogFinding:
        build, rows = self._build, self._find_partition()
        if not rows:
            obstacle = self._does_not_exist(f"{build.table} or {build.names[0]}")
            return CatalogFinding(
                CatalogState.UNKNOWN, (), "" if build.conditional else obstacle, UNDEFINED_TABLE
            )
        whole, part, is_attached, is_pending, whole_name, part_name = rows[0]
        numbers, detaches = (whole, part), build.kind == "detach-partition"
        named = f"{part_name} of {whole_name}"
        if is_pending:
            obstacle = (
                f"an interrupted DETACH PARTITION left {named} half detached; run "
                f"{catalog_queries.finalize_detach(whole_name, part_name)}, then run again"
            )
            left = CatalogState.INVALID if detaches else CatalogState.UNKNOWN
            return CatalogFinding(
                left, numbers, "" if build.finalize else obstacle, OBJECT_NOT_READY
            )
        if is_attached is detaches:
            obstacle = f"{named} is attached, and no DETACH of it was begun: nothing to FINALIZE"
            return CatalogFinding(
                CatalogState.ABSENT, numbers, obstacle if build.finalize else "", OBJECT_NOT_READY
            )
        obstacle = self._does_not_exist(f"partition {named}")
        if not detaches:
            # Attaching an index that is attached is not an error to PostgreSQL.
            obstacle = self._exists_already(f"the partition {named}") if build.of == "TABLE" else ""
        return CatalogFinding(CatalogState.COMPLETE, numbers, obstacle, UNDEFINED_TABLE)

    def _check_object(self) -> CatalogFinding:
        """A database, tablespace or subscription; for the last, another server has its share."""
        build = self._build
        name, creates = build.names[0].name, build.kind == "create-object"
        number = self._found[0] if self._found and not creates else None
        rows = self._read(catalog_queries.find_object(build.of, name, object_id=number))
        what = f"{build.of.lower()} {name}"
        if any(not is_whole for _, is_whole in rows):
            obstacle = self._exists_already(f"a {what}, half dropped,") if creates else ""
            return CatalogFinding(CatalogState.UNKNOWN, (rows[0][0],), obstacle, DUPLICATE_OBJECT)
        if bool(rows) is creates:
            obstacle = self._exists_already(f"a {what}") if creates else self._does_not_exist(what)
            done = "" if build.conditional else obstacle
            sqlstate = DUPLICATE_OBJECT if creates else UNDEFINED_OBJECT
            return CatalogFinding(CatalogState.COMPLETE, (), done, sqlstate)
        left = CatalogState.UNKNOWN if build.of == "SUBSCRIPTION" else CatalogState.ABSENT
        return CatalogFinding(left, tuple(number for number, _ in rows))

    def _exists_already(self, what: str) -> str:
        return (
            f"{what} exists already; drop or rename it, or, if the change was made, "
            f"{self._repair_command}"
        )

    def _does_not_exist(self, what: str) -> str:
        return (
            f"{what} does not exist; correct the script, or, if the change was made, "
            f"{self._repair_command}"
        )

    @property
    def _repair_command(self) -> str:
        """The command that records that nothing is left to do."""
        declared = "pending" if self._is_rollback else "applied"
        return f"`lambda-migrate repair {self._version} --as {declared}`"

    def _find_same_name(self) -> list[list[Any]]:
        build = self._build
        if not build.names or build.table is None:
            return []
        return self._read(
            catalog_queries.find_same_name(build.names[0].name, table=_quote(build.table))
        )

    def _find_indexes_to_drop(self) -> list[list[Any]]:
        """The indexes to drop: those that the names meant before it began, not others since."""
        if self._found is None:
            finds = [catalog_queries.find_relation(_quote(name)) for name in self._build.names]
        else:
            finds = [catalog_queries.find_relation_by_id(number) for number in self._found]
        return [row for find in finds for row in self._read(find)]

    def _object_ids_of(self, name: Identifier) -> set[int]:
        return {number for number, _, _ in self._read(catalog_queries.find_relation(_quote(name)))}

    def _find_reindex_leftovers(self) -> list[list[Any]]:
        """What an interrupted REINDEX CONCURRENTLY left, except what existed before it."""
        build = self._build
        if not build.concurrently or build.of not in ("INDEX", "TABLE", "SCHEMA", "DATABASE"):
            return []
        names = [name.name if build.of == "SCHEMA" else _quote(name) for name in build.names]
        rows = self._read(catalog_queries.find_reindex_leftovers(build.of, "".join(names[:1])))
        return [row for row in rows if row[0] not in (self._found or ())]

    def _find_partition(self) -> list[list[Any]]:
        build = self._build
        if not build.kind.endswith("-partition") or build.table is None:
            return []
        if self._found:
            whole, part = self._found
            return self._read(catalog_queries.find_partition_by_id(whole, part))
        return self._read(
            catalog_queries.find_partition(_quote(build.table), _quote(build.names[0]))
        )

    def _read(self, statement: str) -> list[list[Any]]:
        return self._run_own_statement(
            lambda: self._fenced.read(statement, self._clean_up_deadline)
        )

    def _run_own_statement(self, act: Callable[[], _T]) -> _T:
        try:
            return self._retry_on_new_connection(act)
        except PostgresError as error:
            raise self._failure(error, is_own_statement=True) from error

    @property
    def _clean_up_deadline(self) -> Deadline:
        return self._deadline.earlier(-_CLEAN_UP_SECONDS)

    def _retry_on_new_connection(self, act: Callable[[], _T]) -> _T:
        """Do what may be done twice, on a new connection if this one breaks.

        Raises:
            LeaseLost: `FencedConnection.abort` was called, or a successor has taken over.
            DatabaseUnavailable: It breaks again and again.
        """
        broken: ConnectionLost | None = None
        for _ in range(MAX_CONNECTION_LOSSES):
            try:
                if broken is not None:
                    self._fenced.reattach(self._deadline)
                return act()
            except ConnectionLost as lost:
                if self._fenced.is_aborted:
                    raise self._fenced.lease_lost() from lost
                broken = lost
            if self._deadline.is_over:
                break
        raise DatabaseUnavailable(f"the connection to PostgreSQL keeps breaking: {broken}")

    def _failure(self, error: PostgresError, *, is_own_statement: bool = False) -> MigrationFailed:
        return failure_of(
            error,
            self._script,
            name=self._name,
            path=self._path,
            completed=None if is_own_statement else 0,
            overdue=self._deadline.remaining() < CANCEL_TOLERANCE_SECONDS,
        )


_CLEAN_UP_SECONDS = 1.0
"""How far past its deadline a failed build may clear up after itself: half the safety margin."""


DUPLICATE_TABLE = "42P07"
DUPLICATE_OBJECT = "42710"
UNDEFINED_TABLE = "42P01"
UNDEFINED_OBJECT = "42704"
OBJECT_NOT_READY = "55000"
_ALREADY_EXISTS = (DUPLICATE_TABLE, DUPLICATE_OBJECT, "42P04")
_CREATE_KINDS = ("create-index", "add-enum-value", "create-object")


def _quote(name: Identifier) -> str:
    quoted = identifier(name.name)
    return f"{identifier(name.schema)}.{quoted}" if name.schema else quoted
