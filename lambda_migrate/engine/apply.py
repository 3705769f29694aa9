"""The apply loop, under a lease: history, plan, settle, apply one by one, tell the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_migrate.engine.flag_gate import check_flags
from lambda_migrate.errors import (
    DatabaseUnavailable,
    Diverged,
    ManifestError,
    MigrateError,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.events import (
    MigrationApplied,
    MigrationAttemptFailed,
    MigrationStarted,
    TargetShared,
)
from lambda_migrate.lease.decision import MAX_PAUSE_MS
from lambda_migrate.lease.readiness import (
    DatabaseCheck,
    find_conflicting_records,
    record_check,
    withdraw_ready,
)
from lambda_migrate.lease.record import Failure, Progress
from lambda_migrate.migrations import EMPTY_DIGEST, RowState, chain, make_plan
from lambda_migrate.migrations.adoption import require_no_other_history

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lambda_migrate.engine.holder import LeaseSession
    from lambda_migrate.lease.record import LeaseState
    from lambda_migrate.migrations import HistoryRow, Manifest, Migration, Plan
    from lambda_migrate.postgresql.ports import FencedSession

__all__ = [
    "ApplyResult",
    "apply_pending",
    "complete",
    "make_plan_for",
    "next_failure",
    "record_failure",
    "require_no_divergence",
    "require_valid_scripts",
    "satisfied_digests",
    "withdraw",
]

_MAX_DIVERGENCES_SHOWN = 100

_MAX_CAUSE_LENGTH = 300
"""The item stays far below the 4 KB that half a read unit pays for."""


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What a holder has seen of a history.

    Attributes:
        history: All rows, after the last commit.
        before: Every digest that the history proved when the holder began.
    """

    history: tuple[HistoryRow, ...]
    before: tuple[str, ...]


def apply_pending(
    hold: LeaseSession,
    database: FencedSession,
    manifest: Manifest,
    *,
    on_applied: Callable[[str], None],
    refuse_after_kills: bool = True,
) -> ApplyResult:
    """Apply what is pending.

    Args:
        hold: The lease.
        database: The database under its fence.
        manifest: What is to be satisfied.
        on_applied: Told the name of each migration once it is committed.
        refuse_after_kills: Refuse to start a migration during which `_MAX_KILLS` holders were
            killed.

    Returns:
        The history at the end, read after the last commit, and what it proved at the beginning.

    Raises:
        ConfigurationError: Another tool has migrated this database; nothing was applied.
        Diverged: History and manifest contradict each other; nothing was applied.
        ManifestError: A pending script cannot be run; nothing was applied.
        MigrationFailed: One failed; those before it stay.
        NotReady: Time is over, or a feature flag says to stop, before the next one could begin;
            those before it stay.
        DatabaseUnavailable: What was committed is not in the history any more.
    """
    plan, history = _agreed_plan(hold, database, manifest)
    before = satisfied_digests(history)
    ignore = hold.target.policy.ignore_other_history
    require_no_other_history(plan, database.read_other_histories, ignore=ignore)
    if plan.in_doubt:
        total = len(plan.in_doubt) + len(plan.pending)
        _announce(hold, plan.in_doubt[0].name, total=total, refuses=refuse_after_kills)
        for row in plan.in_doubt:
            database.settle(row, hold.deadline)
        # What was settled is held against its file, and against what lies above it, only now.
        plan, history = _agreed_plan(hold, database, manifest)
    require_valid_scripts(plan)
    for position, migration in enumerate(plan.pending, 1):
        _apply(
            hold,
            database,
            migration,
            digest=manifest.digest_at(migration.version),
            position=position,
            total=len(plan.pending),
            refuse_after_kills=refuse_after_kills,
        )
        on_applied(migration.name)
    if plan.pending:
        history = database.read_history()
        plan = make_plan_for(hold, history, manifest)
    if not plan.is_current:
        names = ", ".join(migration.name for migration in plan.pending[:5])
        raise DatabaseUnavailable(
            f"the history no longer has what was committed a moment ago ({names}), as after a "
            "failover to a replica that was behind; nothing is marked ready, and the next "
            "invocation starts from what is there"
        )
    return ApplyResult(tuple(history), before)


def make_plan_for(hold: LeaseSession, history: Sequence[HistoryRow], manifest: Manifest) -> Plan:
    """The plan for a manifest and a history."""
    out_of_order = hold.target.policy.allow_out_of_order
    return make_plan(manifest, history, allow_out_of_order=out_of_order)


def _agreed_plan(
    hold: LeaseSession, database: FencedSession, manifest: Manifest
) -> tuple[Plan, list[HistoryRow]]:
    history = database.read_history()
    plan = make_plan_for(hold, history, manifest)
    require_no_divergence(plan)
    return plan, history


def require_no_divergence(plan: Plan) -> None:
    """Refuse to go on while history and manifest contradict each other.

    Raises:
        Diverged: With every contradiction.
    """
    if plan.divergences:
        heading = "the history contradicts this code:"
        told = [f"  - {each}" for each in plan.divergences[:_MAX_DIVERGENCES_SHOWN]]
        if len(told) < len(plan.divergences):
            told.append(f"  - and {len(plan.divergences) - len(told)} more")
        raise Diverged(
            f"{heading} {plan.divergences[0]}",
            detail="\n".join([heading, *told]),
        )


def require_valid_scripts(plan: Plan) -> None:
    """Refuse scripts that cannot run before the first of them has.

    Raises:
        ManifestError: With every fault.
    """
    if plan.pending:
        from lambda_migrate.migrations.sql.lint import check

        faults = [fault for migration in plan.pending for fault in check(migration)]
        if faults:
            raise ManifestError(faults, heading="pending migrations cannot be applied:")


def _apply(
    hold: LeaseSession,
    database: FencedSession,
    migration: Migration,
    *,
    digest: str,
    position: int,
    total: int,
    refuse_after_kills: bool,
) -> None:
    target, clock = hold.target, hold.target.clock
    if hold.deadline.is_over:
        # Nothing was tried, so nothing failed: a pause would keep those from it who have time.
        raise NotReady(
            f"not enough time left to start {migration.name}; the next invocation will continue"
        )
    check_flags(target, hold.deadline, version=migration.version, what=migration.name)
    if position == 1:
        _announce(hold, migration.name, total=total, refuses=refuse_after_kills)
    else:
        hold.publish(Progress(migration.name, position - 1, total, clock.wall_ms()))
    target.observer.observe(MigrationStarted(target.name, migration.name, position, total))
    began, left = clock.monotonic(), hold.deadline.remaining()
    try:
        with hold.until_deadline(migration.name):
            milliseconds = database.apply(migration, digest, hold.deadline)
    except MigrationFailed as failed:
        failed.had_ms = round(left * 1000) if failed.is_timeout else None
        took = clock.monotonic() - began
        target.observer.observe(
            MigrationAttemptFailed(target.name, migration.name, failed.sqlstate, failed.cause, took)
        )
        raise
    target.observer.observe(
        MigrationApplied(target.name, migration.name, position, total, milliseconds / 1000)
    )


def _announce(hold: LeaseSession, name: str, *, total: int, refuses: bool) -> None:
    """Publish which migration this holder starts, unless earlier holders were killed during it.

    Raises:
        MigrationFailed: They were: `_MAX_KILLS` in a row, or one more after that was recorded.
    """
    state = hold.lease.state
    before = state.progress.attempts if state.progress and state.progress.migration == name else 0
    was_recorded = any(each.is_kill and each.migration == name for each in state.failures)
    if refuses and before >= (1 if was_recorded else _MAX_KILLS):
        raise MigrationFailed(
            f"{before} process(es) in a row ended without an error while they applied it: out of "
            "memory, a crash, or a timeout. Look at the last lines of their logs (REPORT: Max "
            "Memory Used), then give the function more memory or time, or run `lambda-migrate up` "
            "from elsewhere",
            migration=name,
            is_kill=True,
        )
    hold.announce(Progress(name, 0, total, hold.target.clock.wall_ms(), attempts=before + 1))


_MAX_KILLS = 3
"""Holders killed during one migration before that counts as its failure. Each costs a lease."""


def complete(
    hold: LeaseSession,
    database: FencedSession,
    history: Sequence[HistoryRow],
    *,
    served: str = "",
    before: Sequence[str] = (),
    is_resync: bool = False,
    keeps_failures: bool = False,
) -> None:
    """Publish every manifest that the history proves, and give the lease back.

    Args:
        hold: The lease.
        database: The database that was checked.
        history: Its history.
        served: The digest that this was done for.
        before: Digests that the history proved at first, which the schema still satisfies.
        is_resync: Do not rely on anything that the item says of this database.
        keeps_failures: Keep those of other addresses and of manifests that are still pending.
    """
    target, state = hold.target, hold.lease.state
    check = DatabaseCheck(
        identity=database.identity,
        address=target.database.fingerprint,
        digests=satisfied_digests(history),
        fence=hold.lease.fence,
        owner=hold.lease.owner,
        at_ms=target.store.now_ms(),
        served=served,
        before=before,
        distrusted=database.identity if is_resync else database.distrusted,
        is_separate=database.is_separate,
    )
    applied = {str(row.version) for row in history}
    kept = [
        failure
        for failure in state.failures
        if keeps_failures
        and failure.digest not in (served, *check.digests)
        and failure.version not in applied  # a corrected file of that version succeeded
        and failure.address != check.address
    ]
    hold.complete(record_check(state.databases, check), kept)
    for other in find_conflicting_records(state.databases, check):
        target.observer.observe(
            TargetShared(target.name, check.address, ", ".join(other.addresses), other.owner)
        )


def withdraw(hold: LeaseSession, database: FencedSession, *, lowest: int) -> None:
    """Mark every manifest that needs ``lowest`` or anything above it as no longer ready."""
    kept = [row for row in database.read_history() if row.version < lowest]
    state, address = hold.lease.state, hold.target.database.fingerprint
    hold.withdraw(
        withdraw_ready(
            state.databases,
            database.identity,
            address,
            satisfied_digests(kept),
            is_separate=database.is_separate,
        )
    )


def record_failure(hold: LeaseSession, manifest: Manifest, error: MigrateError) -> None:
    """Store a failure, so that the others fail at once and nobody tries before its pause is over.

    ``error`` learns how many attempts there were and when the next one may begin.
    """
    name = error.migration if isinstance(error, MigrationFailed) else ""
    if isinstance(error, MigrationFailed) and error.is_timeout and error.had_ms is None:
        error.had_ms = hold.available_ms
    failure = next_failure(
        hold.lease.state,
        error,
        digest=manifest.digest,
        version=next((str(m.version) for m in manifest if m.name == name), ""),
        address=hold.target.database.fingerprint,
        pause_seconds=hold.target.policy.failure_pause_seconds,
        now_ms=hold.target.store.now_ms(),
    )
    hold.fail(failure)
    if isinstance(error, MigrationFailed):
        error.attempts = failure.attempts
        error.retry_at_ms = failure.retry_at_ms


def satisfied_digests(history: Sequence[HistoryRow]) -> tuple[str, ...]:
    """The digest of every manifest that the history satisfies, the longest last.

    Computed from versions and checksums: the digest in a row is from when it was applied, and
    what lies below it may have been rolled back, added or repaired since.
    """
    digests = [EMPTY_DIGEST]
    for row in sorted(history, key=lambda row: row.version):
        if row.state is not RowState.APPLIED:
            break
        digests.append(chain(digests[-1], row.version, row.checksum))
    return tuple(digests)


def next_failure(
    state: LeaseState,
    error: MigrateError,
    *,
    digest: str,
    version: str,
    address: str,
    pause_seconds: float,
    now_ms: int,
) -> Failure:
    """What to store for a failed attempt: the pause doubles with each one at the same digest."""
    address = "" if _is_of_the_files(error) else address
    key = (digest, address)
    before = next((f for f in state.failures if (f.digest, f.address) == key), None)
    attempts = max(0, before.attempts) + 1 if before is not None else 1
    pause_ms = min(MAX_PAUSE_MS, round(pause_seconds * 1000) * 2 ** min(attempts - 1, 20))
    failed = error if isinstance(error, MigrationFailed) else MigrationFailed(str(error))
    had_ms = failed.had_ms
    if had_ms is not None and before is not None:
        had_ms = max(had_ms, before.had_ms or 0)  # what did not suffice then does not now
    return Failure(
        digest=digest,
        migration=failed.migration,
        version=version,
        sqlstate=failed.sqlstate,
        cause=" ".join(failed.cause.split())[:_MAX_CAUSE_LENGTH],
        attempts=attempts,
        at_ms=now_ms,
        retry_at_ms=now_ms + pause_ms,
        had_ms=had_ms,
        is_kill=failed.is_kill,
        address=address,
    )


def _is_of_the_files(error: MigrateError) -> bool:
    """Whether every address would meet it: a password or a network is one address's own."""
    return isinstance(error, ManifestError) or (
        isinstance(error, MigrationFailed) and bool(error.migration)
    )
