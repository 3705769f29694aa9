"""A dry run: pending migrations in one transaction, which is rolled back.

A migration that cannot run in a transaction is skipped. A later one that fails only because of that
is skipped as well, and does not count as failed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from lambda_migrate.errors import MigrateError, MigrationFailed, NotReady
from lambda_migrate.events import MigrationDryRun, MigrationStarted
from lambda_migrate.lease.progress import Progress
from lambda_migrate.migrations.irreversible import list_irreversible_effects
from lambda_migrate.migrations.sql.classify import classify
from lambda_migrate.migrations.sql.tokens import split_statements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lambda_migrate.engine.holder import LeaseSession
    from lambda_migrate.migrations import HistoryRow, Migration, Plan, Script
    from lambda_migrate.migrations.version import Version
    from lambda_migrate.postgresql.dry_run_effects import AdvancedSequence, MigrationEffects
    from lambda_migrate.postgresql.ports import DryRunSession

__all__ = [
    "FAILED",
    "INCOMPLETE",
    "NOT_REACHED",
    "PASSED",
    "RAN",
    "SKIPPED",
    "DryRunResult",
    "DryRunStep",
    "find_irreversible_effects",
    "run_dry_run",
]

PASSED, INCOMPLETE, FAILED = "passed", "incomplete", "failed"
RAN, SKIPPED, NOT_REACHED = "ran", "skipped", "not_reached"

_MAX_ATTEMPTS = 5
"""`up` retries until its deadline. A dry run stops earlier, because others wait for its locks."""

_MAX_DELAY_SECONDS = 5.0

_RETRYABLE = frozenset({"55P03", "40P01", "40001"})
"""Lock not available, deadlock, serialization failure: `up` retries these as well."""

_SQLSTATES_UNRELATED_TO_OBJECTS = ("25", "53", "57", "58", "XX")
"""Classes of SQLSTATEs that no missing object explains: the transaction's state, resources,
cancellation, system and internal errors."""

_UNSAFE_NEW_ENUM_VALUE = "55P04"
_NO_MATCHING_INDEX = "42P10"

_OUTSIDE_TRANSACTION_REASON = (
    "not run, because what runs outside a transaction cannot be rolled back"
)
_IN_DOUBT_REASON = "it is in doubt: `lambda-migrate up` resolves it first, outside a transaction"
_NEW_ENUM_VALUE_REASON = (
    "it uses a value of an enumerated type that an earlier migration adds, which PostgreSQL allows "
    "only after that one is committed"
)


@dataclass(frozen=True, slots=True)
class DryRunStep:
    """One pending migration and its outcome.

    Attributes:
        version: Its version.
        name: Its name.
        outcome: ``ran``, ``failed``, ``skipped`` or ``not_reached``.
        reason: Why it was skipped; "" otherwise.
        seconds: Its duration, up to the failure if it failed; None if it was not started.
        effects: Its effects; None unless it ran.
    """

    version: Version
    name: str
    outcome: str
    reason: str = ""
    seconds: float | None = None
    effects: MigrationEffects | None = None


@dataclass(frozen=True, slots=True)
class DryRunResult:
    """The result of a dry run; nothing of it was committed.

    Attributes:
        steps: Every pending migration, in order.
        error: What ended it early, as `up` would report it; or None.
        retry_causes: Why it was started again, each time: a lock timeout or a deadlock, for
            example.
        sequences: Those that advanced; a rollback does not reset them.
        irreversible_effects: Effects that are not rolled back, as far as the scripts show.
        is_rollback_confirmed: Whether PostgreSQL confirmed the rollback. It cannot if the
            connection broke, which rolls back as well.
        seconds: Overall, measurements included: the longest time that a lock was held.
    """

    steps: tuple[DryRunStep, ...] = ()
    error: MigrateError | None = None
    retry_causes: tuple[str, ...] = ()
    sequences: tuple[AdvancedSequence, ...] = ()
    irreversible_effects: tuple[str, ...] = ()
    is_rollback_confirmed: bool = True
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        """``passed``; ``incomplete`` if a migration was skipped; ``failed``."""
        if self.error is not None:
            return FAILED
        return PASSED if all(step.outcome == RAN for step in self.steps) else INCOMPLETE

    @property
    def dead_rows(self) -> dict[str, int]:
        """Table -> row versions that stay in its file until it is vacuumed."""
        found: dict[str, int] = {}
        for change in (c for s in self.steps if s.effects for c in s.effects.tables):
            if change.dead_rows:
                found[change.table] = found.get(change.table, 0) + change.dead_rows
        return found


def find_irreversible_effects(migrations: Sequence[Migration]) -> tuple[str, ...]:
    """Effects that a dry run would not roll back, each with its migration's name."""
    return tuple(
        f"{migration.name}: {effect}"
        for migration in migrations
        if migration.up.transactional
        for effect in list_irreversible_effects(migration.up)
    )


def run_dry_run(lease_session: LeaseSession, dry_run: DryRunSession, plan: Plan) -> DryRunResult:
    """Run what is pending, measure it, and roll it back.

    Args:
        lease_session: The lease.
        dry_run: The open transaction.
        plan: What is pending; it has no divergences.
    """
    clock = lease_session.target.clock
    began = clock.monotonic()
    retry_causes: list[str] = []
    for attempt in count(1):
        current = _Attempt(lease_session, dry_run, plan)
        current.run()
        if not (
            _is_retryable(current.error)
            and attempt < _MAX_ATTEMPTS
            and not lease_session.deadline.is_over
        ):
            break
        retry_causes.append(
            str(current.error.summary if isinstance(current.error, MigrationFailed) else "")
        )
        try:
            _start_again(lease_session, dry_run, attempt)
        except MigrateError as prevented:
            current.error = prevented
            break
    sequences, is_rollback_confirmed, error = _roll_back(dry_run, current.error)
    return DryRunResult(
        steps=tuple(current.steps),
        error=error,
        retry_causes=tuple(retry_causes),
        sequences=sequences,
        irreversible_effects=find_irreversible_effects(plan.pending),
        is_rollback_confirmed=is_rollback_confirmed,
        seconds=clock.monotonic() - began,
    )


def _is_retryable(error: MigrateError | None) -> bool:
    return isinstance(error, MigrationFailed) and error.sqlstate in _RETRYABLE


def _start_again(lease_session: LeaseSession, dry_run: DryRunSession, attempt: int) -> None:
    """Roll back before the pause, so that other transactions can continue."""
    dry_run.roll_back()
    pause = min(_MAX_DELAY_SECONDS, 0.1 * 2**attempt) * lease_session.target.random.random()
    lease_session.target.clock.sleep(min(pause, lease_session.deadline.remaining()))
    dry_run.begin(lease_session.deadline)


def _roll_back(
    dry_run: DryRunSession, error: MigrateError | None
) -> tuple[tuple[AdvancedSequence, ...], bool, MigrateError | None]:
    """Roll back; advanced sequences, whether PostgreSQL confirmed it, and the error to report."""
    try:
        return dry_run.roll_back(), True, error
    except NotReady as unavailable:
        return (), False, error or unavailable
    except MigrateError as worse:
        return (), False, worse


class _Attempt:
    """One attempt: all migrations, from the first to the last that can run."""

    def __init__(self, lease_session: LeaseSession, dry_run: DryRunSession, plan: Plan) -> None:
        self.steps: list[DryRunStep] = []
        self.error: MigrateError | None = None
        self._lease_session = lease_session
        self._dry_run = dry_run
        self._plan = plan
        self._skipped_scripts: dict[str, Script] = {}
        """Scripts that were skipped because they run outside a transaction."""
        self._unknown_effects: list[str] = []
        """Skipped migrations whose effects are unknown: a later migration may need them."""

    def run(self) -> None:
        for row in self._plan.in_doubt:
            self._skip_in_doubt(row)
        total = len(self._plan.pending)
        for position, migration in enumerate(self._plan.pending, 1):
            self.steps.append(self._run_step(migration, position=position, total=total))

    def _skip_in_doubt(self, row: HistoryRow) -> None:
        self.steps.append(DryRunStep(row.version, row.name, SKIPPED, _IN_DOUBT_REASON))
        if row.up is not None:
            self._record_skipped(row.name, row.up)

    def _record_skipped(self, name: str, script: Script) -> None:
        self._skipped_scripts[name] = script
        if any(build.kind == "other" for build in map(classify, split_statements(script.sql))):
            self._unknown_effects.append(name)

    def _run_step(self, migration: Migration, *, position: int, total: int) -> DryRunStep:
        step = DryRunStep(migration.version, migration.name, NOT_REACHED)
        if self.error is not None:
            return step
        if not migration.up.transactional:
            self._record_skipped(migration.name, migration.up)
            return replace(step, outcome=SKIPPED, reason=_OUTSIDE_TRANSACTION_REASON)
        began = self._lease_session.target.clock.monotonic()
        try:
            effects = self._run_migration(migration, position=position, total=total)
        except MigrateError as error:
            took = self._lease_session.target.clock.monotonic() - began
            return self._set_outcome(replace(step, seconds=took), migration, error)
        return replace(step, outcome=RAN, seconds=effects.seconds, effects=effects)

    def _run_migration(
        self, migration: Migration, *, position: int, total: int
    ) -> MigrationEffects:
        lease_session, target, name = (
            self._lease_session,
            self._lease_session.target,
            migration.name,
        )
        now_ms = target.clock.wall_ms()
        lease_session.set_next_progress(Progress(f"{name} (dry run)", position - 1, total, now_ms))
        target.observer.observe(MigrationStarted(target.name, name, position, total))
        with lease_session.report_notices(self._dry_run, name):
            with lease_session.explain_abort(name):
                effects = self._dry_run.run_migration(migration, lease_session.deadline)
            target.observer.observe(
                MigrationDryRun(target.name, name, position, total, effects.seconds)
            )
        return effects

    def _set_outcome(
        self, step: DryRunStep, migration: Migration, error: MigrateError
    ) -> DryRunStep:
        """Fail, or skip a migration that failed only because an earlier one was skipped."""
        excuse = ""
        if isinstance(error, MigrationFailed):
            excuse = self._explain_by_skipped(migration, error)
        if not excuse:
            self.error = error
            return replace(step, outcome=FAILED)
        self._unknown_effects.append(migration.name)
        return replace(step, outcome=SKIPPED, reason=excuse)

    def _explain_by_skipped(self, migration: Migration, error: MigrationFailed) -> str:
        """Why the failure is inconclusive, with its message; "" if it is conclusive."""
        reason = self._find_inconclusive_reason(migration, error)
        return f"{reason}: {error.cause} [{error.sqlstate}]" if reason else ""

    def _find_inconclusive_reason(self, migration: Migration, error: MigrationFailed) -> str:
        code = error.sqlstate
        if not code or code in _RETRYABLE or code.startswith(_SQLSTATES_UNRELATED_TO_OBJECTS):
            return ""
        if code == _UNSAFE_NEW_ENUM_VALUE:
            own = (classify(each).enum_value for each in split_statements(migration.up.sql))
            return (
                ""
                if any(value and value in error.cause for value in own)
                else _NEW_ENUM_VALUE_REASON
            )
        for name, script in self._skipped_scripts.items():
            if _needs_skipped_script(script, error):
                return f"it needs what {name} creates, which the dry run skipped"
        if self._unknown_effects:
            return f"it may need what {self._unknown_effects[0]} does, which the dry run skipped"
        return ""


def _needs_skipped_script(script: Script, error: MigrationFailed) -> bool:
    """Whether the failure names what the one statement of ``script`` would have created."""
    for build in map(classify, split_statements(script.sql)):
        if build.kind == "create-index" and error.sqlstate == _NO_MATCHING_INDEX:
            return True
        created = [build.enum_value] if build.enum_value else [name.name for name in build.names]
        if any(
            _mentions_name(error.cause, name) or _mentions_name(error.detail, name)
            for name in created
        ):
            return True
    return False


def _mentions_name(text: str, name: str) -> bool:
    return f'"{name}"' in text
