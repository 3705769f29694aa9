"""What a rehearsal's measurements advise: a lock held for long has a known way around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lambda_migrate.engine.dry_run import DryRunStep
    from lambda_migrate.postgresql.dry_run_effects import RelationLock, TableChange

__all__ = ["advice_on"]

_LONG_SECONDS = 1.0
"""From here on a request that waits is noticed by whoever sent it."""

_MANY_ROWS = 10_000
"""So many rows locked at once are in somebody's way."""


def advice_on(step: DryRunStep) -> Iterator[str]:
    """One sentence for each table that a migration keeps to itself for a second or more.

    Only what was seen counts: a lock that an earlier migration holds, and that nothing proves this
    one to take, is not held against it.
    """
    if step.measured is None or step.measured.seconds < _LONG_SECONDS:
        return
    changes = {change.table: change for change in step.measured.tables}
    blocking = {
        lock.relation
        for lock in step.measured.locks
        if lock.blocks and _is_its_own(lock, changes.get(lock.relation))
    }
    so_long = f"for up to {step.measured.seconds:.1f} s"
    for lock in step.measured.locks:
        if lock.relation in blocking:
            who = " and ".join({"reads": "readers", "writes": "writers"}[b] for b in lock.blocks)
            cure = _cure(lock, changes.get(lock.relation))
            yield f"{step.name} keeps {who} of {lock.relation} waiting {so_long}: {cure}"
    for change in step.measured.tables:
        written = (change.updated or 0) + (change.deleted or 0)
        if written >= _MANY_ROWS and change.table not in blocking and not change.is_new:
            yield f"{step.name} locks {written:,} rows of {change.table} {so_long}: {_IN_BATCHES}"


def _is_its_own(lock: RelationLock, change: TableChange | None) -> bool:
    return not lock.since or (
        change is not None and (change.rewritten or change.bytes_after is None)
    )


_IN_BATCHES = "write them in batches, each in a transaction of its own"


def _cure(lock: RelationLock, change: TableChange | None) -> str:
    if change is not None and change.rewritten:
        return (
            "it gives the table a new file; add a new column instead, fill it in batches, and drop "
            "the old one in a later release"
        )
    if lock.mode == "SHARE":
        return (
            "if it builds an index, build it CONCURRENTLY, in a file of its own marked "
            "`transaction:false`"
        )
    if change is not None and (change.inserted or change.updated or change.deleted):
        return "write the rows in a migration of their own, which does not take this lock"
    if change is not None and change.scanned:
        return (
            "it reads the whole table; add a constraint NOT VALID, and VALIDATE it in a later "
            "migration"
        )
    return "do what is slow in a migration of its own, which does not take this lock"
