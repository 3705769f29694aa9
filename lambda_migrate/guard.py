"""`ColdStartGuard`: closed until the schema is ready; what the decorator and the middlewares share.

A process makes one check for each guard. What a warm call needs is one attribute, `is_open`.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.errors import MigrationFailed, NotReady
    from lambda_migrate.first_check import FirstCheck
    from lambda_migrate.runner import MigrationRunner
    from lambda_migrate.settings_arguments import SettingsArguments

__all__ = [
    "LONG_INIT_TYPES",
    "ColdStartGuard",
    "has_deadline",
    "is_on_lambda",
]

MANAGED_INSTANCES = "lambda-managed-instances"

LONG_INIT_TYPES = frozenset({"provisioned-concurrency", "snap-start", MANAGED_INSTANCES})
"""Where initialization may take 130 s or the function's timeout, whichever is longer, instead of
10 s (AWS Lambda Developer Guide, "Understanding the Lambda execution environment lifecycle")."""

_INIT_SECONDS = 125.0

_TRACE_VARIABLE = "_X_AMZN_TRACE_ID"
"""Lambda's runtime sets it for each invocation; it is not set during initialization."""


def is_on_lambda() -> bool:
    """Whether this process runs in a Lambda function."""
    return "AWS_LAMBDA_FUNCTION_NAME" in os.environ


def has_deadline(context: object) -> bool:
    """Whether ``context`` is a Lambda context, which knows the invocation's deadline."""
    return hasattr(context, "get_remaining_time_in_millis")


class ColdStartGuard:
    """Closed until the schema is ready; one for each decorated handler or middleware of a process.

    Args:
        runner: A runner of the user's own, instead of settings.
        settings: The settings that were passed as arguments.

    Raises:
        ConfigurationError: An argument has an unknown name or an unusable value.
        TypeError: There are a runner and settings.
    """

    def __init__(self, runner: MigrationRunner | None, settings: SettingsArguments) -> None:
        self.is_open = False
        self._own_runner = runner
        self._runner = runner
        self._first_check: FirstCheck | None = None
        self._settings = settings
        self._lock = threading.Lock()
        self._process_id = os.getpid()
        if runner is not None and settings.keys() - {"init"}:
            names = ", ".join(sorted(settings.keys() - {"init"}))
            raise TypeError(
                f"got a runner and settings ({names}), but a runner has settings of its own: pass "
                "one or the other"
            )
        if settings:
            from lambda_migrate.settings import Settings

            Settings.check_arguments(**settings)

    def _discard_inherited_check(self) -> None:
        """After a fork, forget the parent's check: its thread, which has the lock, is not here."""
        if self._process_id != os.getpid():
            self._process_id = os.getpid()
            self._lock = threading.Lock()
            self._runner, self._first_check = self._own_runner, None

    def check(self, context: object) -> NotReady | MigrationFailed | None:
        """Open, if the schema is ready or can be made so before the invocation's deadline.

        Args:
            context: The Lambda context of the invocation, or anything with its
                ``get_remaining_time_in_millis``. Without one there are 15 minutes.

        Returns:
            Why the schema is not ready; None if it is.

        Raises:
            ConfigurationError: A setting, a permission or a resource is wrong, or the function runs
                on Lambda and was called without a context.
        """
        self._discard_inherited_check()
        try:
            self._acquire_thread_lock(context)
            try:
                if not self.is_open:  # another thread may have opened it meanwhile
                    self.is_open = self.is_switched_off() or self._ensure(context)
            finally:
                self._lock.release()
        except Exception as error:
            from lambda_migrate.errors import MigrationFailed, NotReady

            if isinstance(error, (NotReady, MigrationFailed)):
                return error
            raise
        return None

    def _acquire_thread_lock(self, context: object) -> None:
        """Wait for another thread's check, at most until this invocation's deadline.

        Raises:
            NotReady: The other check is still running.
        """
        if self._lock.acquire(blocking=False):
            return
        from lambda_migrate.errors import NotReady

        seconds = self.compute_max_wait(context)
        if not self._lock.acquire(timeout=seconds):
            raise NotReady(
                f"waited {seconds:.1f} s: another invocation in this process is still checking "
                "the schema"
            )

    def compute_max_wait(self, context: object) -> float:
        """Seconds that an invocation may wait for a check that another one began."""
        from lambda_migrate.clock import Deadline
        from lambda_migrate.engine.check import DEFAULT_DEADLINE_SECONDS
        from lambda_migrate.engine.target import Policy

        deadline = Deadline.from_context(context)
        if deadline is None:
            return DEFAULT_DEADLINE_SECONDS
        margin = Policy().safety_margin_seconds
        if self._runner is not None:
            margin = self._runner.target.policy.safety_margin_seconds
        elif self._first_check is not None:
            margin = self._first_check.settings.safety_margin_seconds
        return deadline.shortened_by(margin).remaining()

    def _ensure(self, context: object) -> bool:
        """Check; return whether the result holds for later invocations."""
        from lambda_migrate.clock import Deadline

        clock = self._prepare()
        if is_on_lambda() and not has_deadline(context):
            from lambda_migrate.errors import ConfigurationError

            raise ConfigurationError(
                "the handler was called without its Lambda context, so the invocation's deadline "
                "is unknown: pass the context that Lambda passes, as the argument after the event"
            )
        request_id = str(getattr(context, "aws_request_id", None) or "")
        return self._run(Deadline.from_context(context, clock), request_id)

    def _run(self, deadline: Deadline | None, request_id: str) -> bool:
        """Run the check; return whether the result holds for later invocations."""
        is_managed = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == MANAGED_INSTANCES
        if self._runner is None and self._first_check is not None:
            if not is_managed and self._first_check.check_ready():
                return True
            from lambda_migrate.runner import MigrationRunner

            self._runner = MigrationRunner.from_first_check(self._first_check)
        assert self._runner is not None  # noqa: S101 - `_prepare` has made sure of one of the two
        if not is_managed:
            outcome = self._runner.ensure(deadline, request_id=request_id)
        else:
            from lambda_migrate.managed_instances import ensure_once

            outcome = ensure_once(self._runner, deadline, request_id=request_id)
        return outcome.value != "UNCHECKED"

    def is_switched_off(self) -> bool:
        """Whether the mode is ``off``, as argument or variable, whatever the other settings are.

        The variable switches off a handler with another mode as argument too: in a unit test, and
        in an emergency.
        """
        modes = self._settings.get("mode"), os.environ.get("LAMBDA_MIGRATE_MODE")
        is_off = any(str(mode).strip().lower() == "off" for mode in modes)
        return self._own_runner is None and is_off

    def _prepare(self) -> Clock:
        """Read the settings in the first invocation, unless there is a runner; return the clock.

        A configuration error is logged like every other failed check: in one structured line.
        """
        if self._runner is not None:
            return self._runner.clock
        if self._first_check is None:
            from lambda_migrate.first_check import FirstCheck

            try:
                self._first_check = FirstCheck.from_settings(**self._settings)
            except Exception as error:
                self._report_unusable_settings(error)
                raise
        return self._first_check.clock

    def _report_unusable_settings(self, error: Exception) -> None:
        """Log a configuration error; outside Lambda, raise it with advice for a unit test."""
        from lambda_migrate.errors import ConfigurationError
        from lambda_migrate.wiring import report_check_failure

        if not isinstance(error, ConfigurationError):
            return
        report_check_failure(error, target_name=str(self._settings.get("target") or ""))
        if not is_on_lambda():
            raise ConfigurationError(
                (*error.faults, _UNIT_TEST_ADVICE), heading=_NO_SETTINGS
            ) from None

    def run_at_init(self) -> None:
        """Check during initialization, if the setting ``init`` asks for it and there is time.

        An error is logged, and the first invocation checks again, so that it can raise it.
        """
        if _TRACE_VARIABLE in os.environ:
            return  # Starlette creates middlewares during the first request, which has a deadline
        kind = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
        if kind == "snap-start":
            from snapshot_restore_py import register_after_restore

            register_after_restore(self.forget_result)
        init = self._settings.get("init") or os.environ.get("LAMBDA_MIGRATE_INIT", "")
        if str(init).strip().lower() != "when-long" or kind not in LONG_INIT_TYPES:
            return
        from lambda_migrate.clock import Deadline
        from lambda_migrate.errors import MigrateError

        if self.is_switched_off():
            return
        try:
            deadline = Deadline.after(_INIT_SECONDS, self._prepare())
            self.is_open = self._run(deadline, "")
        except MigrateError:
            self.is_open = False

    def forget_result(self) -> None:
        """Close again after a snapshot was restored: the schema may have changed since."""
        self.is_open = False
        self._runner, self._first_check = self._own_runner, None
        if self._own_runner is not None:
            self._own_runner.forget_result()


_NO_SETTINGS = "called outside Lambda, without usable settings:"
_UNIT_TEST_ADVICE = "in a unit test, set LAMBDA_MIGRATE_MODE=off: nothing is checked then"
