"""The apply loop, under a lease: history, plan, settle, apply one by one, tell the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.errors import (
    Diverged,
    ManifestError,
    MigrateError,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.events import MigrationApplied, MigrationBroke, MigrationStarted
from lambda_migrate.flags import permit
from lambda_migrate.lease.decide import LONGEST_PAUSE_MS
from lambda_migrate.lease.state import READY_KEPT, Failure, Progress, Ready
from lambda_migrate.migrations import EMPTY_DIGEST, RowState, chain, make_plan
from lambda_migrate.migrations.adoption import require_no_other_history

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lambda_migrate.holder import Hold
    from lambda_migrate.lease.state import LeaseState
    from lambda_migrate.migrations import HistoryRow, Manifest, Migration, Plan
    from lambda_migrate.postgresql.database import HeldDatabase

__all__ = [
    "bring_up_to_date",
    "complete",
    "next_failure",
    "plan_for",
    "proved",
    "ready_of",
    "record_failure",
    "require_agreement",
    "require_sound",
    "with_ready",
]

_DIVERGENCES_TOLD = 100

_CAUSE_LENGTH = 300
"""The item stays far below the 4 KB that half a read unit pays for."""


def bring_up_to_date(
    hold: Hold, database: HeldDatabase, manifest: Manifest, *, on_applied: Callable[[str], None]
) -> None:
    """Apply what is pending.

    Args:
        hold: The lease.
        database: The database under its fence.
        manifest: What is to be satisfied.
        on_applied: Told the name of each migration once it is committed.

    Raises:
        ConfigurationError: Another tool has migrated this database; nothing was applied.
        Diverged: History and manifest contradict each other; nothing was applied.
        ManifestError: A pending script cannot be run; nothing was applied.
        MigrationFailed: One failed; those before it stay.
        NotReady: Time is over, or a feature flag says to stop, before the next one could begin;
            those before it stay.
    """
    plan = _agreed_plan(hold, database, manifest)
    ignore = hold.target.policy.ignore_other_history
    require_no_other_history(plan, database.other_histories, ignore=ignore)
    if plan.in_doubt:
        for row in plan.in_doubt:
            database.settle(row, hold.deadline)
        # What was settled is held against its file, and against what lies above it, only now.
        plan = _agreed_plan(hold, database, manifest)
    require_sound(plan)
    for position, migration in enumerate(plan.pending, 1):
        _apply(
            hold,
            database,
            migration,
            digest=manifest.digest_at(migration.version),
            position=position,
            total=len(plan.pending),
        )
        on_applied(migration.name)


def plan_for(hold: Hold, database: HeldDatabase, manifest: Manifest) -> Plan:
    """The plan for a manifest, from the history as it stands."""
    out_of_order = hold.target.policy.allow_out_of_order
    return make_plan(manifest, database.history(), allow_out_of_order=out_of_order)


def _agreed_plan(hold: Hold, database: HeldDatabase, manifest: Manifest) -> Plan:
    plan = plan_for(hold, database, manifest)
    require_agreement(plan)
    return plan


def require_agreement(plan: Plan) -> None:
    """Refuse to go on while history and manifest contradict each other.

    Raises:
        Diverged: With every contradiction.
    """
    if plan.divergences:
        heading = "the history contradicts this code:"
        told = [f"  - {each}" for each in plan.divergences[:_DIVERGENCES_TOLD]]
        if len(told) < len(plan.divergences):
            told.append(f"  - and {len(plan.divergences) - len(told)} more")
        raise Diverged(
            f"{heading} {plan.divergences[0]}",
            detail="\n".join([heading, *told]),
        )


def require_sound(plan: Plan) -> None:
    """Refuse scripts that cannot run before the first of them has.

    Raises:
        ManifestError: With every fault.
    """
    if plan.pending:
        from lambda_migrate.migrations.statements import check

        faults = [fault for migration in plan.pending for fault in check(migration)]
        if faults:
            raise ManifestError(faults, heading="pending migrations cannot be applied:")


def _apply(
    hold: Hold,
    database: HeldDatabase,
    migration: Migration,
    *,
    digest: str,
    position: int,
    total: int,
) -> None:
    target, clock = hold.target, hold.target.clock
    if hold.deadline.is_over:
        # Nothing was tried, so nothing failed: a pause would keep those from it who have time.
        raise NotReady(f"no time is left to begin {migration.name}; the next invocation goes on")
    permit(target, hold.deadline, version=migration.version, what=migration.name)
    hold.publish(Progress(migration.name, position - 1, total, clock.wall_ms()))
    target.observer.observe(MigrationStarted(target.name, migration.name, position, total))
    began = clock.monotonic()
    try:
        with hold.until_deadline(migration.name):
            milliseconds = database.apply(migration, digest, hold.deadline)
    except MigrationFailed as failed:
        took = clock.monotonic() - began
        target.observer.observe(
            MigrationBroke(target.name, migration.name, failed.sqlstate, failed.cause, took)
        )
        raise
    target.observer.observe(
        MigrationApplied(target.name, migration.name, position, total, milliseconds / 1000)
    )


def complete(hold: Hold, manifest: Manifest) -> None:
    """Tell the table that the database satisfies ``manifest``, and give the lease back."""
    target = hold.target
    hold.complete(
        with_ready(
            hold.lease.state,
            target.database.fingerprint,
            manifest.digest,
            version=manifest.version,
            now_ms=target.clock.wall_ms(),
        )
    )


def record_failure(hold: Hold, manifest: Manifest, error: MigrateError) -> None:
    """Store a failure, so that the others fail at once and nobody tries before its pause is over.

    ``error`` learns how many attempts there were and when the next one may begin.
    """
    name = error.migration if isinstance(error, MigrationFailed) else ""
    failure = next_failure(
        hold.lease.state,
        error,
        digest=manifest.digest,
        version=next((m.version for m in manifest if m.name == name), 0),
        pause_seconds=hold.target.policy.failure_pause_seconds,
        now_ms=hold.target.clock.wall_ms(),
    )
    hold.fail(failure)
    if isinstance(error, MigrationFailed):
        error.attempts = failure.attempts
        error.retry_at_ms = failure.retry_at_ms


def with_ready(
    state: LeaseState, database: str, digest: str, *, version: int, now_ms: int
) -> dict[str, Ready]:
    """``ready`` of a database with one more digest, the oldest forgotten.

    What the item says of another database does not count.
    """
    known = ready_of(state, database)
    known.pop(digest, None)
    newest = sorted(known.items(), key=lambda entry: entry[1].at_ms, reverse=True)
    # Whatever the clocks said: what has just become true is never what is forgotten.
    return {digest: Ready(at_ms=now_ms, version=version), **dict(newest[: READY_KEPT - 1])}


def ready_of(state: LeaseState, database: str) -> dict[str, Ready]:
    """What the item says of ``database``: nothing, if it speaks of another one."""
    return dict(state.ready) if state.database == database else {}


def proved(history: Sequence[HistoryRow]) -> dict[str, int]:
    """Digest -> last version of every manifest that the history satisfies, the longest last.

    Counted anew from versions and checksums: the digest in a row is the one of its day, and what
    lies below it may have been taken back, added or mended since.
    """
    digests = {EMPTY_DIGEST: 0}
    digest = EMPTY_DIGEST
    for row in sorted(history, key=lambda row: row.version):
        if row.state is not RowState.APPLIED:
            break
        digest = chain(digest, row.version, row.checksum)
        digests[digest] = row.version
    return digests


def next_failure(
    state: LeaseState,
    error: MigrateError,
    *,
    digest: str,
    version: int,
    pause_seconds: float,
    now_ms: int,
) -> Failure:
    """What to store for a failed attempt: the pause doubles with each one at the same digest."""
    before = state.failure
    is_same = before is not None and before.digest == digest
    attempts = max(0, before.attempts) + 1 if before is not None and is_same else 1
    pause_ms = min(LONGEST_PAUSE_MS, round(pause_seconds * 1000) * 2 ** min(attempts - 1, 20))
    failed = error if isinstance(error, MigrationFailed) else MigrationFailed(str(error))
    return Failure(
        digest=digest,
        migration=failed.migration,
        version=version,
        sqlstate=failed.sqlstate,
        cause=" ".join(failed.cause.split())[:_CAUSE_LENGTH],
        attempts=attempts,
        at_ms=now_ms,
        retry_at_ms=now_ms + pause_ms,
    )
