"""What a hook does before it answers: migrate, or on the way back only look; told as a value."""

from __future__ import annotations

import logging
import os
import traceback
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from lambda_migrate.deploy.deliver import Overdue, in_time
from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    FlagsUnavailable,
    LeaseLost,
    MigrateError,
    MigrationFailed,
    NotReady,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from lambda_migrate.clock import Deadline
    from lambda_migrate.runner import MigrationRunner, Outcome

__all__ = ["NOT_READY", "UNCHECKED", "Ending", "ending_of", "look", "migrate", "tell"]

_LOG = logging.getLogger(__name__)

NOT_READY = "NOT_READY"
UNCHECKED = "UNCHECKED"

_READY = ("UP_TO_DATE", "MIGRATED", "WAITED")

_WAIT_SECONDS = 900.0
"""Nobody calls a hook again: it waits for another holder for as long as it has time."""

_PATIENCE_SECONDS = 60.0
"""How long PostgreSQL, or AppConfig, may be away: Aurora resumes from a pause in about 15 s."""

_SHORTEST_ATTEMPT_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended.

    Attributes:
        outcome: A name of `Outcome`, ``UNCHECKED`` or ``NOT_READY``.
        cause: Why, in a line without secrets; "" where the outcome says it all.
        is_untold: Whether nobody has written a line and a metric of it yet; see `tell`.
    """

    outcome: str
    cause: str = ""
    is_untold: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether the schema has been seen to be what the code needs."""
        return self.outcome in _READY

    @property
    def failed(self) -> bool:
        """Whether code that needs this schema should not be served."""
        return self.outcome == NOT_READY

    def __str__(self) -> str:
        return f"{self.outcome}: {self.cause}" if self.cause else self.outcome


_TIMED_OUT = (
    "it had not ended when its time was over, and nothing more was heard of it; what had been "
    "committed stays"
)
_SWITCHED_OFF = Ending(UNCHECKED, "LAMBDA_MIGRATE_MODE is off: nothing was looked at")
_SWITCHED_OFF_BY_FLAG = Ending(
    UNCHECKED, "the feature flag lambda_migrate_mode says off: nothing was migrated"
)


def ending_of(work: Callable[[Deadline], Ending], deadline: Deadline) -> Ending:
    """How ``work`` ends, whatever it does: it raises, it hangs, its imports fail."""
    try:
        return in_time(lambda: work(deadline), deadline)
    except Overdue:
        return Ending(NOT_READY, _TIMED_OUT, is_untold=True)
    except MigrateError as error:
        return Ending(NOT_READY, _line(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - an answer is owed all the same
        # Its message may hold anything, secrets included; where it happened cannot.
        where = "".join(traceback.format_tb(error.__traceback__))
        _LOG.error("an error that nobody expected, %s:\n%s", type(error).__name__, where)
        return Ending(NOT_READY, f"{_unexpected(error)}; the log has its traceback")


def tell(ending: Ending) -> None:
    """Write the line and the metric of an ending that nobody else could tell of.

    Called when the answer is delivered, so that nothing here can be in its way. Nor may it fail
    what is over: Lambda would invoke again.
    """
    if not ending.is_untold:
        return
    try:
        from lambda_migrate.wiring import report_check_failure

        report_check_failure(NotReady(ending.cause))
    except Exception as error:  # noqa: BLE001 - as said above; the log has it
        _LOG.error("the metrics could not be written: %s", type(error).__name__)


def migrate(deadline: Deadline, *, request_id: str) -> Ending:
    """Bring the database to this code's schema, or wait until somebody else has.

    What another invocation might find mended is tried again here, because there is no other one.

    Raises:
        MigrateError: What `MigrationRunner.ensure` raises.
    """
    runner = _make_runner()
    if runner.target.policy.mode == "off":
        return _SWITCHED_OFF
    outcome = _ensure_patiently(runner, deadline, request_id).value
    return _SWITCHED_OFF_BY_FLAG if outcome == "UNCHECKED" else Ending(outcome)


def look(deadline: Deadline) -> Ending:
    """Say whether the database has what this code needs; change nothing. Ahead is as good.

    PostgreSQL is asked, read-only, through one short connection, and nobody else.

    Raises:
        MigrateError: It cannot be said.
    """
    from lambda_migrate.migrations import make_plan
    from lambda_migrate.migrations.digest import require_migrations

    runner = _make_runner()
    policy = runner.target.policy
    if policy.mode == "off":
        return _SWITCHED_OFF
    require_migrations(runner.manifest.digest, allow_empty=policy.allow_empty)
    history = runner.target.database.read_history(deadline)
    plan = make_plan(runner.manifest, history, allow_out_of_order=policy.allow_out_of_order)
    if plan.is_current:
        return Ending("UP_TO_DATE", "the schema is ahead of this code" if plan.ahead else "")
    return Ending(NOT_READY, "the schema does not have what this code needs; nothing was changed")


def _make_runner() -> MigrationRunner:
    """A fresh one for every event: what an earlier one found ready may be so no longer."""
    from lambda_migrate.runner import MigrationRunner
    from lambda_migrate.wiring import default_observer, report_check_failure

    is_set = os.environ.get("LAMBDA_MIGRATE_WAIT_SECONDS", "").strip()
    try:
        return MigrationRunner.from_settings(
            observer=default_observer(), wait_seconds=None if is_set else _WAIT_SECONDS
        )
    except ConfigurationError as error:
        report_check_failure(error)
        raise


def _ensure_patiently(runner: MigrationRunner, deadline: Deadline, request_id: str) -> Outcome:
    target = runner.target
    # One more attempt without the time for it would only hide why the others failed.
    last = deadline.earlier(target.policy.safety_margin_seconds + _SHORTEST_ATTEMPT_SECONDS)
    patience = last.at_most(_PATIENCE_SECONDS)
    for attempt in count():
        try:
            return runner.ensure(deadline, request_id=request_id)
        except (DatabaseUnavailable, FlagsUnavailable, LeaseLost) as error:
            # Whoever took our lease over is at it: that is worth all the time there is.
            until = last if isinstance(error, LeaseLost) else patience
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(attempt, 8))
            pause *= (1 + target.random.random()) / 2
            if target.clock.monotonic() + pause >= until.at:
                raise
            target.clock.sleep(pause)
    raise AssertionError("count() does not end")


def _line(error: MigrateError) -> str:
    """One line: a migration's report for terminals is for the log."""
    if isinstance(error, MigrationFailed) and error.detail:
        return error.summary
    return " ".join(str(error).split())


def _unexpected(error: BaseException) -> str:
    if isinstance(error, ImportError) and error.name:
        return f"{error.name} could not be imported ({type(error).__name__})"
    return f"an error that nobody expected ({type(error).__name__})"
