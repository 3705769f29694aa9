"""What a migration was seen to do while it was rehearsed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LOCK_MODES", "AdvancedSequence", "MigrationEffects", "RelationLock", "TableChange"]

LOCK_MODES = {
    "AccessShareLock": "ACCESS SHARE",
    "RowShareLock": "ROW SHARE",
    "RowExclusiveLock": "ROW EXCLUSIVE",
    "ShareUpdateExclusiveLock": "SHARE UPDATE EXCLUSIVE",
    "ShareLock": "SHARE",
    "ShareRowExclusiveLock": "SHARE ROW EXCLUSIVE",
    "ExclusiveLock": "EXCLUSIVE",
    "AccessExclusiveLock": "ACCESS EXCLUSIVE",
}
"""Lock modes as ``pg_locks`` has them, and as the manual and ``LOCK TABLE`` do; weakest first."""

_STRENGTH = {mode: strength for strength, mode in enumerate(LOCK_MODES.values())}
_BLOCKS_WRITES = _STRENGTH["SHARE"]
_BLOCKS_READS = _STRENGTH["ACCESS EXCLUSIVE"]


@dataclass(frozen=True, slots=True)
class RelationLock:
    """The strongest lock that a migration took on one relation.

    Attributes:
        relation: Its name with its schema, quoted where it must be.
        kind: ``table``, ``index``, ``sequence``, ``view``, ...
        mode: As the manual writes it: ``ACCESS EXCLUSIVE``.
        is_new: Whether the rehearsal itself made the relation, so that nobody can wait for it.
        since: The earlier migration of the same rehearsal that took it, "" for this one. What is
            held already cannot be seen to be taken again, so whether this migration takes it too is
            certain only where it rewrote or dropped the table.
    """

    relation: str
    kind: str
    mode: str
    is_new: bool = False
    since: str = ""

    @property
    def strength(self) -> int:
        """0 for the weakest mode, 7 for the strongest."""
        return _STRENGTH[self.mode]

    @property
    def blocks(self) -> tuple[str, ...]:
        """Which of ``reads`` (SELECT) and ``writes`` (INSERT, UPDATE, DELETE) wait for it."""
        if self.is_new or self.strength < _BLOCKS_WRITES:
            return ()
        return ("reads", "writes") if self.strength >= _BLOCKS_READS else ("writes",)


@dataclass(frozen=True, slots=True)
class TableChange:
    """What a migration did to one table, as PostgreSQL counted it in the transaction.

    Attributes:
        table: Its name with its schema, quoted where it must be.
        inserted: Rows; None where the server does not count (``track_counts`` is off).
        updated: Rows.
        deleted: Rows; those that TRUNCATE takes away are not counted.
        scanned: Rows read from its beginning to its end, as a validation or a new index does.
        rewritten: Whether it got a new file: a rewrite, or TRUNCATE.
        bytes_before: With its indexes and TOAST; None where it was not there, or not to be seen.
        bytes_after: The same before the rollback; None where the migration dropped it.
        rows: About how many it had before the rehearsal, by the last ANALYZE; None without one.
        is_new: Whether the rehearsal itself made it.
    """

    table: str
    inserted: int | None = None
    updated: int | None = None
    deleted: int | None = None
    scanned: int | None = None
    rewritten: bool = False
    bytes_before: int | None = None
    bytes_after: int | None = None
    rows: int | None = None
    is_new: bool = False

    @property
    def dead_rows(self) -> int:
        """Row versions that stay in the table's file after the rollback, until it is vacuumed."""
        if self.is_new or self.rewritten:
            return 0
        return (self.inserted or 0) + (self.updated or 0)


@dataclass(frozen=True, slots=True)
class MigrationEffects:
    """One migration, rehearsed.

    Attributes:
        seconds: That its script and the check of deferred constraints took.
        locks: The strongest one on each relation that it touched, strongest first.
        tables: Each table that it locked, read or changed.
    """

    seconds: float
    locks: tuple[RelationLock, ...] = ()
    tables: tuple[TableChange, ...] = ()


@dataclass(frozen=True, slots=True)
class AdvancedSequence:
    """A sequence that the rehearsal drew from: numbers that are used up, rolled back or not.

    Attributes:
        sequence: Its name with its schema.
        before: Last value before; None if it had given none, or may not be read.
        after: Last value after the rollback.
    """

    sequence: str
    before: int | None
    after: int | None
