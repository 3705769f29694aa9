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
from lambda_migrate.postgresql import queries
from lambda_migrate.postgresql.connection import ConnectionLost, PostgresError
from lambda_migrate.postgresql.error_report import failure_of
from lambda_migrate.postgresql.transactional import (
    CANCEL_SLACK_SECONDS,
    LOST_AT_MOST,
    RETRIED,
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

__all__ = ["apply_outside", "in_history", "revert_outside", "settle"]

UNIQUE_VIOLATION = "23505"
_T = TypeVar("_T")


class Left(Enum):
    """What a statement has left in the catalog."""

    ABSENT = "absent"
    INVALID = "invalid"
    COMPLETE = "complete"
    UNKNOWN = "unknown"


class Look(NamedTuple):
    """What the catalog says of a statement.

    Attributes:
        left: How far it is.
        numbers: Of the objects that it is about, to find these again and no others.
        obstacle: Why it cannot begin, and what to do about that; "" if it can.
        sqlstate: What PostgreSQL would say instead, as a rule.
    """

    left: Left
    numbers: tuple[int, ...] = ()
    obstacle: str = ""
    sqlstate: str = ""


def apply_outside(
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
    found = statement.look_before()
    queries = fenced.queries
    started = queries.insert_started(migration, digest, fenced.grant, found=found)
    if statement.write(started) != [True]:
        raise in_history(migration)
    statement.run(on_clean_failure=queries.delete([migration.version]) + " RETURNING 0")
    return int(statement.write(queries.finish_started(migration.version))[0])


def in_history(migration: Migration) -> MigrationFailed:
    """The error for a version that was applied before."""
    return MigrationFailed(
        f"version {migration.version} is in the history already",
        migration=migration.name,
        sqlstate=UNIQUE_VIOLATION,
    )


def revert_outside(fenced: FencedConnection, row: HistoryRow, deadline: Deadline) -> int:
    """Revert one migration by its non-transactional down script; see `FencedSession.roll_back`."""
    script = script_of(row.down, name=row.name)
    path = f"{row.name} (stored down script)"
    require_runnable(script, name=row.name, path=path)
    statement = _Statement(
        fenced,
        script,
        name=row.name,
        path=path,
        deadline=deadline,
        version=row.version,
        reverting=True,
    )
    queries = fenced.queries
    began = deadline.clock.monotonic()
    found = statement.look_before()
    statement.write(queries.start_reverting(row.version, found=found) + " RETURNING 0")
    statement.run(on_clean_failure=queries.still_applied(row.version) + " RETURNING 0")
    statement.write(queries.delete([row.version]) + " RETURNING 0")
    return round((deadline.clock.monotonic() - began) * 1000)


def settle(fenced: FencedConnection, row: HistoryRow, deadline: Deadline) -> None:
    """Bring a row in doubt to an end; see `FencedSession.settle`."""
    reverting = row.state is RowState.REVERTING
    script = script_of(row.down if reverting else row.up, name=row.name)
    statement = _Statement(
        fenced,
        script,
        name=row.name,
        path=row.name,
        deadline=deadline,
        version=row.version,
        reverting=reverting,
        found=row.found,
    )
    queries = fenced.queries
    happened = statement.clear_up()
    if happened is None:
        raise statement.repair_required(
            f"it was interrupted while {'rolling back' if reverting else 'applying'}, and "
            "lambda-migrate cannot determine whether its statement took effect"
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
        self,
        fenced: FencedConnection,
        script: Script,
        *,
        name: str,
        path: str,
        deadline: Deadline,
        version: int,
        reverting: bool = False,
        found: tuple[int, ...] | None = None,
    ) -> None:
        self._fenced = fenced
        self._script = script
        self._name = name
        self._path = path
        self._deadline = deadline
        self._version = version
        self._reverting = reverting
        self._found = found
        self._build: Build = classify(split(script.sql)[0])
        self._stood_before = False
        self._losses = 0

    def write(self, writes: str) -> list[Any]:
        """A transaction of ours, repeated on another connection if this one breaks.

        Each of these writes may be repeated: they set a row to what it is to be.
        """
        try:
            return self._persist(lambda: self._fenced.write(writes, self._deadline))
        except PostgresError as error:
            raise self._failure(error, is_ours=True) from error

    def look_before(self) -> tuple[int, ...]:
        """Look at the objects of the statement, and refuse what conflicts with it.

        Returns:
            The numbers of the objects that it is about, for the intent row.

        Raises:
            MigrationFailed: It could not succeed, or its outcome could not be determined later.
        """
        look = self._look()
        if look.obstacle:
            raise MigrationFailed(look.obstacle, migration=self._name, sqlstate=look.sqlstate)
        self._stood_before = look.left is Left.COMPLETE
        self._found = look.numbers
        return look.numbers

    def run(self, *, on_clean_failure: str) -> None:
        """Run it, for as long as the deadline allows.

        Args:
            on_clean_failure: What to write when it failed and left nothing.

        Raises:
            MigrationFailed: It failed, and nothing is left of it.
            RepairRequired: It failed, and part of it may be committed.
        """
        for attempt in count(1):
            try:
                self._fenced.run_outside(self._script.sql, self._deadline, name=self._name)
                break
            except PostgresError as error:
                failure = self._failure(error)
                if error.sqlstate in RETRIED and self._may_try_again(error, attempt):
                    continue
                self._after_failure(failure, error, on_clean_failure)
                raise failure from error
            except ConnectionLost as lost:
                if self._after_loss(lost, on_clean_failure):
                    break
                self._pause(attempt)

    def _may_try_again(self, error: PostgresError, attempt: int) -> bool:
        """After a deadlock, say: clear up, wait a little, and see whether there is time."""
        if self._deadline.is_over or self._has_left_nothing(error) is not True:
            return False
        self._pause(attempt)
        return not self._deadline.is_over

    def _pause(self, attempt: int) -> None:
        seconds = min(self._fenced.jitter(attempt), self._deadline.remaining())
        self._deadline.clock.sleep(seconds)

    def _after_failure(
        self, failure: MigrationFailed, error: PostgresError, on_clean_failure: str
    ) -> None:
        """Leave nothing behind; what time does not allow, the next attempt does.

        Raises:
            RepairRequired: Part of it may be committed.
        """
        try:
            is_clean = self._has_left_nothing(error)
            if is_clean:
                self._persist(lambda: self._fenced.write(on_clean_failure, self._extended))
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

    def _has_left_nothing(self, error: PostgresError) -> bool | None:
        """Whether a statement that failed is as if it had never run; None: cannot be determined."""
        if self._stood_before or self._did_nothing(error):
            return True
        happened = self.clear_up()
        return None if happened is None else not happened

    def _did_nothing(self, error: PostgresError) -> bool:
        """Whether the error itself is proof that nothing of the statement took effect.

        - PostgreSQL undoes most statements as a whole when they fail.
        - An error at a place in the statement, raised in no function, comes from reading it: not
          even a CALL or DO had begun. What a procedure raises names the function it was raised in.
        - An object that was there already is not the statement's, and not to be touched.
        """
        is_reading = error.position is not None and not error.where
        is_taken = error.sqlstate in _TAKEN and self._build.kind in _CREATING
        return self._build.is_atomic or is_reading or is_taken

    def repair_required(
        self, cause: str, *, sqlstate: str = "", detail: str = ""
    ) -> RepairRequired:
        """The error for what cannot be determined, with what to do."""
        repair = f"lambda-migrate repair {self._version} --as"
        applied, pending = f"`{repair} applied`", f"`{repair} pending`"
        if self._reverting:
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
            raise self.repair_required(
                f"{failure.cause}; lambda-migrate cannot determine whether it took effect"
            ) from lost
        self.write(on_clean_failure)
        raise failure

    def clear_up(self) -> bool | None:
        """Remove or finish what is half done.

        Returns:
            True if the statement took effect, False if it is as if it had never run, also
            for a repeatable one in doubt; None if that cannot be determined.
        """
        left = self._look().left
        if left is Left.INVALID:
            self._finish_detach()
            self._drop_half_built()
            left = self._look().left
        happened = {Left.COMPLETE: True, Left.ABSENT: False}.get(left)
        return False if happened is None and self._script.repeatable else happened

    def _drop_half_built(self) -> None:
        """Drop it, which waits for older transactions as building it does."""
        for name in self._invalid_indexes():
            drop = partial(self._fenced.run_outside, queries.drop_index(name), name=self._name)
            self._ours(partial(drop, self._extended))

    def _invalid_indexes(self) -> Iterator[str]:
        build = self._build
        if build.kind == "create-index":
            yield from (
                name for _, name, is_here, is_valid in self._namesakes() if is_here and not is_valid
            )
        elif build.kind == "drop-index":
            yield from (name for _, name, is_valid in self._to_drop() if not is_valid)
        elif build.kind == "reindex":
            for _, name, may_drop in self._leftovers():
                if not may_drop:
                    self._leave(name)
                    continue
                yield name

    def _leave(self, name: str) -> None:
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

    def _finish_detach(self) -> None:
        """Finish a DETACH that was begun: it cannot be undone, and it is what was asked for."""
        pending = [row for row in self._partitions() if row[3]]
        for _, _, _, _, whole, part in pending:
            self._insist(f"{queries.finalize(whole, part)}; SELECT 0")

    def _insist(self, writes: str) -> None:
        """A transaction of ours that waits for locks as a migration does: briefly, and again."""
        for attempt in count(1):
            try:
                self._persist(lambda: self._fenced.write(writes, self._deadline))
                return
            except PostgresError as error:
                if error.sqlstate not in RETRIED or self._deadline.is_over:
                    raise self._failure(error, is_ours=True) from error
                self._pause(attempt)

    # --- looking

    def _look(self) -> Look:
        looks: dict[str, Callable[[], Look]] = {
            "create-index": self._look_at_index,
            "drop-index": self._look_at_drop,
            "reindex": self._look_at_rebuild,
            "add-enum-value": self._look_at_value,
            "attach-partition": self._look_at_partition,
            "detach-partition": self._look_at_partition,
            "create-object": self._look_at_object,
            "drop-object": self._look_at_object,
            "repeatable": lambda: Look(Left.ABSENT),
        }
        look = looks.get(self._build.kind)
        return look() if look is not None else Look(Left.UNKNOWN)

    def _look_at_index(self) -> Look:
        if not self._build.names or self._build.table is None:
            return Look(Left.UNKNOWN)
        for number, name, is_here, is_valid in self._namesakes():
            if not is_here:
                return Look(Left.ABSENT, (), self._taken(f"the relation {name}"), _DUPLICATE_TABLE)
            if not is_valid:
                obstacle = (
                    f"an INVALID index {name} stands in the way, left by something else; DROP "
                    f"INDEX CONCURRENTLY {name}, then run again"
                )
                return Look(Left.INVALID, (), obstacle, _DUPLICATE_TABLE)
            return self._look_at_namesake(number, name)
        return Look(Left.ABSENT)

    def _look_at_namesake(self, number: int, name: str) -> Look:
        """A complete index has the name: it counts only if it is the one that was asked for."""
        is_same = self._is_as_defined(number)
        if is_same is None and self._found is None:
            left = Left.UNKNOWN
        else:
            left = Left.ABSENT if is_same is False else Left.COMPLETE
        if is_same:
            is_in_the_way, what = (
                not self._build.conditional,
                f"the index {name}, defined like this,",
            )
        else:
            is_in_the_way, what = True, f"an index {name} with another definition"
            if is_same is None:
                what = f"an index {name}, which could not be compared with this one,"
        return Look(left, (), self._taken(what) if is_in_the_way else "", _DUPLICATE_TABLE)

    def _is_as_defined(self, number: int) -> bool | None:
        """Whether an index is the one that the statement describes; None: cannot be determined."""
        build = self._build
        if build.table is None:
            return None
        asked = queries.is_index_as_defined(
            number,
            table=_quoted(build.table),
            unique=build.unique,
            definition=build.definition,
            limits=self._fenced.limits(self._extended),
        )
        try:
            return bool(self._persist(lambda: self._fenced.run(asked, self._extended))[-1][0])
        except PostgresError:
            self._persist(lambda: self._fenced.undo(self._extended))
            return None

    def _look_at_drop(self) -> Look:
        """An index that is half dropped is invalid: finishing that is what was asked for."""
        build, rows = self._build, self._to_drop()
        obstacle = ""
        if self._found is None and len(rows) < len(build.names) and not build.conditional:
            there = {number for number, _, _ in rows}
            missing = next(n for n in build.names if not self._numbers_of(n) & there)
            obstacle = self._gone(f"index {missing}")
        numbers = tuple(number for number, _, _ in rows)
        if not rows:
            return Look(Left.COMPLETE, numbers, obstacle, _UNDEFINED_OBJECT)
        is_whole = all(is_valid for _, _, is_valid in rows)
        left = Left.ABSENT if is_whole else Left.INVALID
        return Look(left, numbers, obstacle, _UNDEFINED_OBJECT)

    def _look_at_rebuild(self) -> Look:
        """Rebuilding twice does no harm, what an interrupted one left behind does."""
        rows = self._leftovers()
        in_the_way = ", ".join(name for _, name, may_drop in rows if may_drop)
        obstacle = in_the_way and (
            f"an interrupted REINDEX left INVALID indexes, or one is running: {in_the_way}; "
            "DROP INDEX CONCURRENTLY each of them, then run again"
        )
        left = Left.INVALID if rows else Left.ABSENT
        return Look(left, tuple(number for number, _, _ in rows), obstacle, _DUPLICATE_TABLE)

    def _look_at_value(self) -> Look:
        build = self._build
        rows = self._read(queries.find_enum_value(_quoted(build.names[0]), build.value))
        if not rows:
            return Look(Left.ABSENT)
        what = f"the value {build.value!r} of {build.names[0]}"
        obstacle = "" if build.conditional else self._taken(what)
        return Look(Left.COMPLETE, (), obstacle, _DUPLICATE_OBJECT)

    def _look_at_partition(self) -> Look:
        build, rows = self._build, self._partitions()
        if not rows:
            obstacle = self._gone(f"{build.table} or {build.names[0]}")
            return Look(Left.UNKNOWN, (), "" if build.conditional else obstacle, _UNDEFINED_TABLE)
        whole, part, is_attached, is_pending, whole_name, part_name = rows[0]
        numbers, detaches = (whole, part), build.kind == "detach-partition"
        named = f"{part_name} of {whole_name}"
        if is_pending:
            obstacle = (
                f"an interrupted DETACH PARTITION left {named} half detached; run "
                f"{queries.finalize(whole_name, part_name)}, then run again"
            )
            left = Left.INVALID if detaches else Left.UNKNOWN
            return Look(left, numbers, "" if build.finalize else obstacle, _NOT_READY)
        if is_attached is detaches:
            obstacle = f"{named} is attached, and no DETACH of it was begun: nothing to FINALIZE"
            return Look(Left.ABSENT, numbers, obstacle if build.finalize else "", _NOT_READY)
        obstacle = self._gone(f"partition {named}")
        if not detaches:
            # Attaching an index that is attached is not an error to PostgreSQL.
            obstacle = self._taken(f"the partition {named}") if build.of == "TABLE" else ""
        return Look(Left.COMPLETE, numbers, obstacle, _UNDEFINED_TABLE)

    def _look_at_object(self) -> Look:
        """A database, tablespace or subscription; for the last, another server has its share."""
        build = self._build
        name, creates = build.names[0].name, build.kind == "create-object"
        number = self._found[0] if self._found and not creates else None
        rows = self._read(queries.find_object(build.of, name, number=number))
        what = f"{build.of.lower()} {name}"
        if any(not is_whole for _, is_whole in rows):
            obstacle = self._taken(f"a {what}, half dropped,") if creates else ""
            return Look(Left.UNKNOWN, (rows[0][0],), obstacle, _DUPLICATE_OBJECT)
        if bool(rows) is creates:
            obstacle = self._taken(f"a {what}") if creates else self._gone(what)
            done = "" if build.conditional else obstacle
            sqlstate = _DUPLICATE_OBJECT if creates else _UNDEFINED_OBJECT
            return Look(Left.COMPLETE, (), done, sqlstate)
        left = Left.UNKNOWN if build.of == "SUBSCRIPTION" else Left.ABSENT
        return Look(left, tuple(number for number, _ in rows))

    def _taken(self, what: str) -> str:
        return f"{what} exists already; drop or rename it, or, if the change is made, {self._done}"

    def _gone(self, what: str) -> str:
        return f"{what} does not exist; correct the script, or, if the change is made, {self._done}"

    @property
    def _done(self) -> str:
        """The command that records that nothing is left to do."""
        declared = "pending" if self._reverting else "applied"
        return f"`lambda-migrate repair {self._version} --as {declared}`"

    def _namesakes(self) -> list[list[Any]]:
        build = self._build
        if not build.names or build.table is None:
            return []
        return self._read(queries.find_namesake(build.names[0].name, table=_quoted(build.table)))

    def _to_drop(self) -> list[list[Any]]:
        """The indexes to drop: those that the names meant before it began, not others since."""
        if self._found is None:
            finds = [queries.find_relation(_quoted(name)) for name in self._build.names]
        else:
            finds = [queries.find_numbered(number) for number in self._found]
        return [row for find in finds for row in self._read(find)]

    def _numbers_of(self, name: Identifier) -> set[int]:
        return {number for number, _, _ in self._read(queries.find_relation(_quoted(name)))}

    def _leftovers(self) -> list[list[Any]]:
        """What an interrupted REINDEX CONCURRENTLY left, except what existed before it."""
        build = self._build
        if not build.concurrently or build.of not in ("INDEX", "TABLE", "SCHEMA", "DATABASE"):
            return []
        names = [name.name if build.of == "SCHEMA" else _quoted(name) for name in build.names]
        rows = self._read(queries.find_rebuilds(build.of, "".join(names[:1])))
        return [row for row in rows if row[0] not in (self._found or ())]

    def _partitions(self) -> list[list[Any]]:
        build = self._build
        if not build.kind.endswith("-partition") or build.table is None:
            return []
        if self._found:
            whole, part = self._found
            return self._read(queries.find_partition_numbered(whole, part))
        return self._read(queries.find_partition(_quoted(build.table), _quoted(build.names[0])))

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


_DUPLICATE_TABLE = "42P07"
_DUPLICATE_OBJECT = "42710"
_UNDEFINED_TABLE = "42P01"
_UNDEFINED_OBJECT = "42704"
_NOT_READY = "55000"
_TAKEN = (_DUPLICATE_TABLE, _DUPLICATE_OBJECT, "42P04")
_CREATING = ("create-index", "add-enum-value", "create-object")


def _quoted(name: Identifier) -> str:
    quoted = queries.identifier(name.name)
    return f"{queries.identifier(name.schema)}.{quoted}" if name.schema else quoted
