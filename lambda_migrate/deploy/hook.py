"""The work of a deployment hook, as a value: migrate, or only check the schema on a rollback."""

from __future__ import annotations

import logging
import os
import traceback
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from lambda_migrate.deploy.deliver import WorkTimeout, run_with_deadline
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
    from lambda_migrate.outcome import Outcome
    from lambda_migrate.runner import MigrationRunner

__all__ = [
    "NOT_READY",
    "SCHEMA_UNCHECKED",
    "HookResult",
    "check_schema",
    "log_result",
    "migrate",
    "run_hook",
]

_LOG = logging.getLogger(__name__)

NOT_READY = "NOT_READY"
SCHEMA_UNCHECKED = "UNCHECKED"

_READY = ("UP_TO_DATE", "MIGRATED", "WAITED")

_WAIT_SECONDS = 900.0
"""A hook is not called again: it waits for another holder as long as it has time."""

_RETRY_LIMIT_SECONDS = 60.0
"""How long PostgreSQL or AppConfig may be unavailable: Aurora resumes in about 15 s."""

_MIN_ATTEMPT_SECONDS = 1.0
_FIRST_DELAY_SECONDS = 1.0
_MAX_DELAY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class HookResult:
    """The result of a hook.

    Attributes:
        outcome: A name of `Outcome`, ``UNCHECKED`` or ``NOT_READY``.
        cause: Why, in one line without secrets; may be "".
        needs_logging: Whether it still has to be logged; see `log_result`.
    """

    outcome: str
    cause: str = ""
    needs_logging: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether the schema is what the code needs."""
        return self.outcome in _READY

    @property
    def has_failed(self) -> bool:
        """Whether code that needs this schema should not serve."""
        return self.outcome == NOT_READY

    def __str__(self) -> str:
        return f"{self.outcome}: {self.cause}" if self.cause else self.outcome


_TIMED_OUT = (
    "the migration did not end before the hook had to respond; what was committed stays committed"
)
_SWITCHED_OFF = HookResult(
    SCHEMA_UNCHECKED, "LAMBDA_MIGRATE_MODE is off: the schema was not checked"
)
_SWITCHED_OFF_BY_FLAG = HookResult(
    SCHEMA_UNCHECKED, "the feature flag lambda_migrate_mode is off: nothing was migrated"
)


def run_hook(work: Callable[[Deadline], HookResult], deadline: Deadline) -> HookResult:
    """Return the result of ``work``, also if it raises, hangs, or cannot be imported."""
    try:
        return run_with_deadline(lambda: work(deadline), deadline)
    except WorkTimeout:
        return HookResult(NOT_READY, _TIMED_OUT, needs_logging=True)
    except MigrateError as error:
        return HookResult(NOT_READY, _format_error(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the hook has to respond in any case
        # Its message may contain secrets; its location does not.
        where = "".join(traceback.format_tb(error.__traceback__))
        _LOG.error("unexpected error %s:\n%s", type(error).__name__, where)
        return HookResult(NOT_READY, f"{_describe_unexpected(error)}; the log has its traceback")


def log_result(result: HookResult) -> None:
    """Log a result that was not logged yet, with its metric.

    Called after the response is delivered, so that it cannot delay it. It does not raise: Lambda
    would repeat the invocation.
    """
    if not result.needs_logging:
        return
    try:
        from lambda_migrate.wiring import report_check_failure

        report_check_failure(NotReady(result.cause))
    except Exception as error:  # noqa: BLE001 - see above; the log has it
        _LOG.error("cannot write metrics: %s", type(error).__name__)


def migrate(deadline: Deadline, *, request_id: str) -> HookResult:
    """Bring the database to this code's schema, or wait for another process that does.

    Temporary failures are retried here, because a hook is not invoked again.

    Raises:
        MigrateError: What `MigrationRunner.ensure` raises.
    """
    runner = _make_runner()
    if runner.target.policy.mode == "off":
        return _SWITCHED_OFF
    outcome = _ensure_with_retries(runner, deadline, request_id).value
    return _SWITCHED_OFF_BY_FLAG if outcome == "UNCHECKED" else HookResult(outcome)


def check_schema(deadline: Deadline) -> HookResult:
    """Check, without changing anything, whether the database has what this code needs.

    A schema that is ahead is ready as well. The check reads PostgreSQL through one short
    connection, and nothing else.

    Raises:
        MigrateError: The schema cannot be checked.
    """
    from lambda_migrate.engine.status import make_plan_with_revision_graph
    from lambda_migrate.manifest_digest import require_migrations

    runner = _make_runner()
    policy = runner.target.policy
    if policy.mode == "off":
        return _SWITCHED_OFF
    require_migrations(runner.manifest.digest, allow_empty=policy.allow_empty)
    history = runner.target.database.read_history(deadline)
    plan, _ = make_plan_with_revision_graph(runner.target, runner.manifest, history, deadline)
    if plan.is_current:
        return HookResult("UP_TO_DATE", "the schema is ahead of this code" if plan.ahead else "")
    return HookResult(
        NOT_READY, "the schema does not have what this code needs; nothing was changed"
    )


def _make_runner() -> MigrationRunner:
    """Create a runner for each event: what an earlier one found ready may have changed."""
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


def _ensure_with_retries(runner: MigrationRunner, deadline: Deadline, request_id: str) -> Outcome:
    target = runner.target
    # An attempt without enough time would hide why the attempts before it failed.
    last = deadline.shortened_by(target.policy.safety_margin_seconds + _MIN_ATTEMPT_SECONDS)
    retry_deadline = last.limited_to(_RETRY_LIMIT_SECONDS)
    for attempt in count():
        try:
            return runner.ensure(deadline, request_id=request_id)
        except (DatabaseUnavailable, FlagsUnavailable, LeaseLost) as error:
            # Another process has taken over the lease and is migrating: wait for it.
            until = last if isinstance(error, LeaseLost) else retry_deadline
            delay = min(_MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** min(attempt, 8))
            delay *= (1 + target.random.random()) / 2
            if target.clock.monotonic() + delay >= until.at:
                raise
            target.clock.sleep(delay)
    raise AssertionError("count() does not end")


def _format_error(error: MigrateError) -> str:
    """Format an error in one line; the log has the full report of a migration."""
    if isinstance(error, MigrationFailed) and error.detail:
        return error.summary
    return " ".join(str(error).split())


def _describe_unexpected(error: BaseException) -> str:
    if isinstance(error, ImportError) and error.name:
        return f"{error.name} could not be imported ({type(error).__name__})"
    return f"unexpected error ({type(error).__name__})"
