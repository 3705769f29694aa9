"""The loop of a rehearsal: pending migrations one by one, and what each outcome is worth.

What cannot run in a transaction is not rehearsed. A later one that fails may do so for that reason
alone: then it is not said to have failed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from lambda_migrate.errors import MigrateError, MigrationFailed, NotReady
from lambda_migrate.events import MigrationDryRun, MigrationStarted
from lambda_migrate.lease.record import Progress
from lambda_migrate.migrations.irreversible import lasting_effects
from lambda_migrate.migrations.sql.classify import classify
from lambda_migrate.migrations.sql.tokens import split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lambda_migrate.engine.holder import LeaseSession
    from lambda_migrate.migrations import HistoryRow, Migration, Plan, Script
    from lambda_migrate.postgresql.dry_run_effects import AdvancedSequence, MigrationEffects
    from lambda_migrate.postgresql.ports import DryRunSession

__all__ = [
    "FAILED",
    "INCOMPLETE",
    "NOT_REACHED",
    "NOT_REHEARSED",
    "PASSED",
    "REHEARSED",
    "DryRunResult",
    "DryRunStep",
    "lasting_effects_of",
    "rehearse",
]

PASSED, INCOMPLETE, FAILED = "passed", "incomplete", "failed"
REHEARSED, NOT_REHEARSED, NOT_REACHED = "rehearsed", "not rehearsed", "not reached"

_TRIES = 5
"""`up` tries until its deadline for a lock. A rehearsal is not worth that: others wait for it."""

_LONGEST_PAUSE_SECONDS = 5.0

_TRIED_AGAIN = frozenset({"55P03", "40P01", "40001"})
"""Lock not available, deadlock, serialization failure, for which `up` tries again as well."""

_NOBODYS_WANT = ("25", "53", "57", "58", "XX")
"""Classes of failures that no missing object explains: about the transaction itself, no room,
cancelled or ended, broken."""

_UNSAFE_NEW_ENUM_VALUE = "55P04"
_NO_MATCHING_INDEX = "42P10"

_OUTSIDE = "it runs outside a transaction, so there is no rolling it back"
_IN_DOUBT = "it is in doubt: `lambda-migrate up` settles it first, outside a transaction"
_NEW_VALUE = (
    "it uses a value of an enumerated type that an earlier one adds, which PostgreSQL allows only "
    "once that one is committed"
)


@dataclass(frozen=True, slots=True)
class DryRunStep:
    """One pending migration, and what came of it.

    Attributes:
        version: Its version.
        name: Its name.
        outcome: ``rehearsed``, ``failed``, ``not rehearsed`` or ``not reached``.
        reason: Why it was not rehearsed, in a sentence; else "".
        seconds: That it took, until its failure if it failed; None if it was not begun.
        measured: What it did; None unless it was rehearsed.
    """

    version: int
    name: str
    outcome: str
    reason: str = ""
    seconds: float | None = None
    measured: MigrationEffects | None = None


@dataclass(frozen=True, slots=True)
class DryRunResult:
    """A rehearsal that is over; nothing of it was committed.

    Attributes:
        steps: Every pending migration, in order.
        error: What ended it early, as `up` would report it; None if nothing did.
        retried: Locks that were not to be had, and the like: why it was begun anew, each time.
        sequences: Those that gave out numbers.
        lasting: What the scripts' own words say that a rollback does not undo.
        is_confirmed: Whether PostgreSQL said itself that the transaction was rolled back. It could
            not be asked where the connection broke, which rolls back as well.
        seconds: All of it, the measuring included: so long the last locks were held at most.
    """

    steps: tuple[DryRunStep, ...] = ()
    error: MigrateError | None = None
    retried: tuple[str, ...] = ()
    sequences: tuple[AdvancedSequence, ...] = ()
    lasting: tuple[str, ...] = ()
    is_confirmed: bool = True
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        """``passed``; ``incomplete`` if something could not be rehearsed; ``failed``."""
        if self.error is not None:
            return FAILED
        return PASSED if all(step.outcome == REHEARSED for step in self.steps) else INCOMPLETE

    @property
    def dead_rows(self) -> dict[str, int]:
        """Table -> row versions that stay in its file until it is vacuumed."""
        found: dict[str, int] = {}
        for change in (c for s in self.steps if s.measured for c in s.measured.tables):
            if change.dead_rows:
                found[change.table] = found.get(change.table, 0) + change.dead_rows
        return found


def lasting_effects_of(migrations: Sequence[Migration]) -> tuple[str, ...]:
    """What would last though it is rolled back, each with its migration's name."""
    return tuple(
        f"{migration.name}: {effect}"
        for migration in migrations
        if migration.up.transactional
        for effect in lasting_effects(migration.up)
    )


def rehearse(session: LeaseSession, rehearsal: DryRunSession, plan: Plan) -> DryRunResult:
    """Run what is pending, measure it, and roll it back.

    Args:
        session: The lease.
        rehearsal: Begun.
        plan: What is pending; it has no divergences.
    """
    clock = session.target.clock
    began = clock.monotonic()
    retried: list[str] = []
    for attempt in count(1):
        run = _Run(session, rehearsal, plan)
        run.all()
        if not (
            _may_succeed_later(run.error) and attempt < _TRIES and not session.deadline.is_over
        ):
            break
        retried.append(str(run.error.summary if isinstance(run.error, MigrationFailed) else ""))
        try:
            _begin_anew(session, rehearsal, attempt)
        except MigrateError as prevented:
            run.error = prevented
            break
    sequences, is_confirmed, error = _end(rehearsal, run.error)
    return DryRunResult(
        steps=tuple(run.steps),
        error=error,
        retried=tuple(retried),
        sequences=sequences,
        lasting=lasting_effects_of(plan.pending),
        is_confirmed=is_confirmed,
        seconds=clock.monotonic() - began,
    )


def _may_succeed_later(error: MigrateError | None) -> bool:
    return isinstance(error, MigrationFailed) and error.sqlstate in _TRIED_AGAIN


def _begin_anew(session: LeaseSession, rehearsal: DryRunSession, attempt: int) -> None:
    """Let go of everything before the pause: whoever was in the way may be waiting for us."""
    rehearsal.roll_back()
    pause = min(_LONGEST_PAUSE_SECONDS, 0.1 * 2**attempt) * session.target.random.random()
    session.target.clock.sleep(min(pause, session.deadline.remaining()))
    rehearsal.begin(session.deadline)


def _end(
    rehearsal: DryRunSession, error: MigrateError | None
) -> tuple[tuple[AdvancedSequence, ...], bool, MigrateError | None]:
    """Roll back; sequences moved, whether PostgreSQL confirmed it, and the error to tell."""
    try:
        return rehearsal.roll_back(), True, error
    except NotReady as unavailable:
        return (), False, error or unavailable
    except MigrateError as worse:
        return (), False, worse


class _Run:
    """One attempt: all migrations, from the first to the last that can be run."""

    def __init__(self, session: LeaseSession, rehearsal: DryRunSession, plan: Plan) -> None:
        self.steps: list[DryRunStep] = []
        self.error: MigrateError | None = None
        self._session = session
        self._rehearsal = rehearsal
        self._plan = plan
        self._outside: dict[str, Script] = {}
        """What was not rehearsed because it runs outside a transaction."""
        self._unknown: list[str] = []
        """What was not rehearsed and may have any effect: what comes later may need it."""

    def all(self) -> None:
        for row in self._plan.in_doubt:
            self._leave_in_doubt(row)
        total = len(self._plan.pending)
        for position, migration in enumerate(self._plan.pending, 1):
            self.steps.append(self._step(migration, position=position, total=total))

    def _leave_in_doubt(self, row: HistoryRow) -> None:
        self.steps.append(DryRunStep(row.version, row.name, NOT_REHEARSED, _IN_DOUBT))
        if row.up is not None:
            self._leave_out(row.name, row.up)

    def _leave_out(self, name: str, script: Script) -> None:
        self._outside[name] = script
        if any(build.kind == "other" for build in map(classify, split(script.sql))):
            self._unknown.append(name)

    def _step(self, migration: Migration, *, position: int, total: int) -> DryRunStep:
        step = DryRunStep(migration.version, migration.name, NOT_REACHED)
        if self.error is not None:
            return step
        if not migration.up.transactional:
            self._leave_out(migration.name, migration.up)
            return replace(step, outcome=NOT_REHEARSED, reason=_OUTSIDE)
        began = self._session.target.clock.monotonic()
        try:
            measured = self._measured(migration, position=position, total=total)
        except MigrateError as error:
            took = self._session.target.clock.monotonic() - began
            return self._judged(replace(step, seconds=took), migration, error)
        return replace(step, outcome=REHEARSED, seconds=measured.seconds, measured=measured)

    def _measured(self, migration: Migration, *, position: int, total: int) -> MigrationEffects:
        session, target, name = self._session, self._session.target, migration.name
        now_ms = target.clock.wall_ms()
        session.set_progress(Progress(f"{name} (rehearsed)", position - 1, total, now_ms))
        target.observer.observe(MigrationStarted(target.name, name, position, total))
        with session.explain_abort(name):
            measured = self._rehearsal.run_migration(migration, session.deadline)
        target.observer.observe(
            MigrationDryRun(target.name, name, position, total, measured.seconds)
        )
        return measured

    def _judged(self, step: DryRunStep, migration: Migration, error: MigrateError) -> DryRunStep:
        """A failure, or no more than a sign of what was not rehearsed before."""
        excuse = ""
        if isinstance(error, MigrationFailed):
            excuse = self._excuse(migration, error)
        if not excuse:
            self.error = error
            return replace(step, outcome=FAILED)
        self._unknown.append(migration.name)
        return replace(step, outcome=NOT_REHEARSED, reason=excuse)

    def _excuse(self, migration: Migration, failed: MigrationFailed) -> str:
        """Why the failure proves nothing, and how it read; "" if it does."""
        reason = self._reason(migration, failed)
        return f"{reason}: {failed.cause} [{failed.sqlstate}]" if reason else ""

    def _reason(self, migration: Migration, failed: MigrationFailed) -> str:
        code = failed.sqlstate
        if not code or code in _TRIED_AGAIN or code.startswith(_NOBODYS_WANT):
            return ""
        if code == _UNSAFE_NEW_ENUM_VALUE:
            own = (classify(each).enum_value for each in split(migration.up.sql))
            return "" if any(value and value in failed.cause for value in own) else _NEW_VALUE
        for name, script in self._outside.items():
            if _is_wanted(script, failed):
                return f"it needs what {name} makes, which was not rehearsed"
        if self._unknown:
            return f"it may need what {self._unknown[0]} does, which could not be rehearsed"
        return ""


def _is_wanted(script: Script, failed: MigrationFailed) -> bool:
    """Whether a failure tells of what the one statement of ``script`` would have made."""
    for build in map(classify, split(script.sql)):
        if build.kind == "create-index" and failed.sqlstate == _NO_MATCHING_INDEX:
            return True
        made = [build.enum_value] if build.enum_value else [name.name for name in build.names]
        if any(_names(failed.cause, name) or _names(failed.detail, name) for name in made):
            return True
    return False


def _names(text: str, name: str) -> bool:
    return f'"{name}"' in text
