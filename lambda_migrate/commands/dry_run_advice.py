"""Advice from the measurements of a dry run: how to avoid a lock that is held for long."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lambda_migrate.engine.dry_run import DryRunStep
    from lambda_migrate.postgresql.dry_run_effects import RelationLock, TableChange

__all__ = ["advise"]

_LONG_SECONDS = 1.0
"""From this duration on, users notice that a request waits."""

_MANY_ROWS = 10_000
"""From this count on, rows that are locked together are likely to delay other transactions."""


def advise(step: DryRunStep) -> Iterator[str]:
    """Yield a sentence for each table that a migration blocks for a second or more.

    Only locks that this migration is known to take count, not those that an earlier migration of
    the dry run holds.
    """
    if step.effects is None or step.effects.seconds < _LONG_SECONDS:
        return
    changes = {change.table: change for change in step.effects.tables}
    blocking = {
        lock.relation
        for lock in step.effects.locks
        if lock.blocks and _is_own_lock(lock, changes.get(lock.relation))
    }
    duration = f"for up to {step.effects.seconds:.1f} s"
    for lock in step.effects.locks:
        if lock.relation in blocking:
            blocked = " and ".join(
                {"reads": "readers", "writes": "writers"}[b] for b in lock.blocks
            )
            advice = _suggest_alternative(lock, changes.get(lock.relation))
            yield f"{step.name} blocks {blocked} of {lock.relation} {duration}: {advice}"
    for change in step.effects.tables:
        written = (change.updated or 0) + (change.deleted or 0)
        if written >= _MANY_ROWS and change.table not in blocking and not change.is_new:
            yield f"{step.name} locks {written:,} rows of {change.table} {duration}: {_IN_BATCHES}"


def _is_own_lock(lock: RelationLock, change: TableChange | None) -> bool:
    return not lock.earlier_migration or (
        change is not None and (change.rewritten or change.bytes_after is None)
    )


_IN_BATCHES = "change them in batches, each in its own transaction"


def _suggest_alternative(lock: RelationLock, change: TableChange | None) -> str:
    if change is not None and change.rewritten:
        return (
            "it rewrites the table; add a new column instead, fill it in batches, and drop "
            "the old one in a later release"
        )
    if lock.mode == "SHARE":
        return (
            "if it builds an index, build it CONCURRENTLY, in a file of its own marked "
            "`transaction:false`"
        )
    if change is not None and (change.inserted or change.updated or change.deleted):
        return "move the data changes to a separate migration, which does not take this lock"
    if change is not None and change.scanned:
        return (
            "it scans the whole table; add the constraint NOT VALID, and VALIDATE it in a later "
            "migration"
        )
    return "move the slow part to a separate migration, which does not take this lock"
