"""The measured effects of a migration in a dry run."""

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
"""Lock modes in ``pg_locks``, and in the manual and ``LOCK TABLE``; weakest first."""

_STRENGTH = {mode: strength for strength, mode in enumerate(LOCK_MODES.values())}
_BLOCKS_WRITES = _STRENGTH["SHARE"]
_BLOCKS_READS = _STRENGTH["ACCESS EXCLUSIVE"]


@dataclass(frozen=True, slots=True)
class RelationLock:
    """The strongest lock that a migration took on one relation.

    Attributes:
        relation: Its name with its schema, quoted if necessary.
        kind: ``table``, ``index``, ``sequence``, ``view``, ...
        mode: As in the manual: ``ACCESS EXCLUSIVE``.
        is_new: Whether the dry run itself created the relation, so that no session waits for it.
        earlier_migration: The one of the same dry run that took it, "" for this one. A lock that
            is held already does not show again in ``pg_locks``, so whether this migration takes it
            too is certain only if it rewrote or dropped the table.
    """

    relation: str
    kind: str
    mode: str
    is_new: bool = False
    earlier_migration: str = ""

    @property
    def strength(self) -> int:
        """0 for the weakest mode, 7 for the strongest."""
        return _STRENGTH[self.mode]

    @property
    def blocks(self) -> tuple[str, ...]:
        """What waits for it: ``reads`` (SELECT), ``writes`` (INSERT, UPDATE, DELETE)."""
        if self.is_new or self.strength < _BLOCKS_WRITES:
            return ()
        return ("reads", "writes") if self.strength >= _BLOCKS_READS else ("writes",)


@dataclass(frozen=True, slots=True)
class TableChange:
    """What a migration did to one table, as PostgreSQL counted it in the transaction.

    Attributes:
        table: Its name with its schema, quoted if necessary.
        inserted: Rows; None if the server does not count (``track_counts`` is off).
        updated: Rows.
        deleted: Rows; those that TRUNCATE removes are not counted.
        scanned: Rows of sequential scans, such as a validation or a new index needs.
        rewritten: Whether it got a new file: a rewrite, or TRUNCATE.
        bytes_before: With indexes and TOAST; None if it did not exist or could not be read.
        bytes_after: The same before the rollback; None if the migration dropped it.
        rows: The estimated row count before the dry run, by the last ANALYZE; None without one.
        is_new: Whether the dry run itself created it.
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
        """Row versions that remain in the table's file after the rollback, until VACUUM."""
        if self.is_new or self.rewritten:
            return 0
        return (self.inserted or 0) + (self.updated or 0)


@dataclass(frozen=True, slots=True)
class MigrationEffects:
    """The effects of one migration in a dry run.

    Attributes:
        seconds: The duration of its script and the check of deferred constraints.
        locks: The strongest lock on each relation, strongest first.
        tables: Each table that it locked, read or changed.
    """

    seconds: float
    locks: tuple[RelationLock, ...] = ()
    tables: tuple[TableChange, ...] = ()


@dataclass(frozen=True, slots=True)
class AdvancedSequence:
    """A sequence from which the dry run took numbers, which no rollback returns.

    Attributes:
        sequence: Its name with its schema.
        before: The last value before; None if there was none, or if it may not be read.
        after: The last value after the rollback.
    """

    sequence: str
    before: int | None
    after: int | None
