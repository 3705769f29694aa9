"""The admin function: runs the commands of the command line inside the VPC.

``lambda-migrate --function NAME`` invokes it; so may a pipeline, or a user with the AWS tools::

    {"command": "up", "options": {"to": 3}}
    -> {"exit_code": 0, "document": {...}, "progress": [...], "library": "1.0", "request": "..."}
    -> {"exit_code": 1, "error": {...}, ...}

Documents, errors and exit codes are those of ``--format json``. The function has no trigger: every
identity that may invoke it may migrate. An expected failure is a response, not a failed invocation.

::

    validate the event     -> error: what to write instead
    read-only command      -> run it
    begin it in the log    -> new:   run it, log the response
                           -> known: return its response if it has ended
                                     wait for it as long as its invocation may run
                                     read the history if its invocation was killed
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lambda_migrate._version import __version__
from lambda_migrate.clock import SYSTEM_CLOCK, Deadline
from lambda_migrate.commands.context import CommandContext
from lambda_migrate.commands.documents import format_notice
from lambda_migrate.commands.errors import build_error_document, get_exit_code
from lambda_migrate.commands.request import CommandRequest, compute_confirmation_token
from lambda_migrate.commands.result import EXIT_BUSY, EXIT_FAILED, EXIT_USAGE_ERROR
from lambda_migrate.deploy.request_log import DynamoDBRequestLog, RequestRecord
from lambda_migrate.deploy.truncate import truncate_response
from lambda_migrate.errors import ConfigurationError, LeaseHeld, LeaseStoreUnavailable, MigrateError
from lambda_migrate.events import (
    CommandFinished,
    LeaseTakenOver,
    MigrationApplied,
    MigrationAttemptFailed,
    MigrationDryRun,
    MigrationNotice,
    MigrationRolledBack,
    catch_observer_errors,
)
from lambda_migrate.lease.first_read import is_owner_of
from lambda_migrate.settings import Settings
from lambda_migrate.wiring import default_observer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lambda_migrate.clock import Clock
    from lambda_migrate.commands.prompt import Question
    from lambda_migrate.deploy.request_log import RequestLog
    from lambda_migrate.events import Event, Observer

__all__ = ["AdminFunction", "handler"]

_DEFAULT_SECONDS = 900.0
_KILL_SECONDS = 3.0
"""After its deadline and this time an invocation has been killed, whatever the clocks' skew."""

_POLL_SECONDS = 1.0
"""Between two reads of the log while the first run of a request continues."""

_DISCONNECT_WAIT_SECONDS = 2.0
"""Before the history of a killed run is read: PostgreSQL checks every second whether the client of
a running statement is still connected."""

_TRACEBACK_VARIABLE = "LAMBDA_MIGRATE_TRACEBACK"


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Run one command; see `AdminFunction`."""
    return AdminFunction(os.environ).handle(event, context)


class AdminFunction:
    """Runs the commands that events request.

    Args:
        environ: Where settings are read.
        make_log: Creates the log of requests.
        observer: Receives events. Default: Powertools' Logger and Metrics.
        clock: Time.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        make_log: Callable[[Settings], RequestLog] | None = None,
        observer: Observer | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._environ = environ
        self._make_log = make_log or self._make_default_log
        self._observer = catch_observer_errors(observer or default_observer())
        self._clock = clock

    def handle(self, event: Any, context: Any) -> dict[str, Any]:
        """Run the command that ``event`` requests.

        Args:
            event: See the module.
            context: Lambda's.

        Returns:
            The response. Expected failures are responses as well, because Lambda repeats an
            asynchronous invocation that fails.
        """
        started = self._clock.monotonic()
        invocation = _LambdaInvocation.from_context(context, self._clock)
        command, request_id = "", invocation.id
        progress = _ProgressObserver(self._observer)

        def run() -> dict[str, Any]:
            nonlocal command, request_id
            request = CommandRequest.parse(event, default_id=invocation.id or os.urandom(16).hex())
            command, request_id = request.command.name, request.request_id
            return self._run(request, invocation, progress)

        response = self._catch_errors(run, progress)
        error = response.get("error", {})
        self._observer.observe(
            CommandFinished(
                target=self._environ.get("LAMBDA_MIGRATE_TARGET") or "default",
                command=command,
                request_id=request_id,
                seconds=self._clock.monotonic() - started,
                exit_code=response["exit_code"],
                applied=tuple(progress.applied_migrations),
                error=str(error.get("kind", "")),
                message=str(error.get("message", "")),
                is_repeated=bool(response.get("repeated")),
            )
        )
        return truncate_response({**response, "library": __version__, "request": request_id})

    # --- running

    def _run(
        self, request: CommandRequest, invocation: _LambdaInvocation, progress: _ProgressObserver
    ) -> dict[str, Any]:
        # `repair --environment` without a name records the function's own environment.
        environment = request.options.get("environment") or None
        settings = Settings.load(self._environ, environment=environment).require_configured(
            table=True
        )
        deadline = invocation.deadline.shortened_by(settings.safety_margin_seconds)
        if request.timeout is not None:
            deadline = deadline.limited_to(request.timeout)
        prompter = _EventPrompter(request)
        command_context = CommandContext(
            settings,
            deadline,
            self._environ,
            prompter=prompter,
            observer=progress,
            request_id=request.request_id,
            clock=self._clock,
        )
        if not request.is_write:
            return _run_command(request, command_context, progress)
        return self._run_once(request, command_context, invocation, prompter, progress)

    def _run_once(
        self,
        request: CommandRequest,
        command_context: CommandContext,
        invocation: _LambdaInvocation,
        prompter: _EventPrompter,
        progress: _ProgressObserver,
    ) -> dict[str, Any]:
        """Run a command that changes something, unless this request was run before."""
        log = self._make_log(command_context.settings)
        record = self._make_record(request, invocation)

        def write_record(deadline: Deadline, **changes: Any) -> RequestRecord | None:
            nonlocal record
            record = replace(record, **changes)
            return log.write_record(request.request_id, record, deadline)

        def record_rollback(question: Question) -> None:
            if question.command == "down":
                names = tuple(each["name"] for each in question.migrations)
                write_record(command_context.deadline, rollback_migrations=names)

        repeated = self._find_response(request, command_context, progress, write_record)
        if repeated is not None:
            return repeated
        prompter.on_confirmed = record_rollback
        response = self._catch_errors(
            lambda: _run_command(request, command_context, progress), progress
        )
        is_refused = response["exit_code"] in (EXIT_USAGE_ERROR, EXIT_BUSY)
        if is_refused and not progress.committed_migrations:
            log.remove_record(request.request_id, record)
        else:
            with suppress(MigrateError):  # the caller gets the response nevertheless
                write_record(invocation.deadline, response=_remove_details(response))
        return response

    def _make_record(self, request: CommandRequest, invocation: _LambdaInvocation) -> RequestRecord:
        left = invocation.deadline.remaining() + _KILL_SECONDS
        return RequestRecord(
            command_text=request.command_text,
            attempt_id=os.urandom(16).hex(),
            invocation_id=invocation.id,
            ends_by_ms=self._clock.wall_ms() + round(left * 1000),
        )

    def _catch_errors(
        self, run: Callable[[], dict[str, Any]], progress: _ProgressObserver
    ) -> dict[str, Any]:
        """Return the response of ``run``, or its error as a response."""
        try:
            return run()
        except MigrateError as error:
            document = build_error_document(error)
            if isinstance(error, _ConfirmationRequired):
                document |= {"kind": "ConfigurationError", **error.facts}
            return _build_failure(document, get_exit_code(error), progress)
        except Exception as error:
            if self._environ.get(_TRACEBACK_VARIABLE):
                raise
            return _build_failure(_build_unexpected_error(error), EXIT_FAILED, progress)

    # --- a request that was run before

    def _find_response(
        self,
        request: CommandRequest,
        command_context: CommandContext,
        progress: _ProgressObserver,
        write_record: Callable[[Deadline], RequestRecord | None],
    ) -> dict[str, Any] | None:
        """Begin the request, or wait for the run of it that exists.

        Returns:
            The response of the run that exists; None: there is none, and this run has begun.
        """
        deadline = command_context.deadline
        existing = write_record(deadline)
        while existing is not None:
            if existing.command_text != request.command_text:
                raise ConfigurationError(
                    f"request {request.request_id} was used for another command: use a new id "
                    "for each command"
                )
            if existing.response is not None:
                return {**existing.response, "repeated": True}
            if (
                existing.invocation_id in request.ended_invocation_ids
                or self._clock.wall_ms() > existing.ends_by_ms
            ):
                self._clock.sleep(min(_DISCONNECT_WAIT_SECONDS, deadline.remaining()))
                return _report_interrupted(request, command_context, progress, existing)
            if deadline.remaining() <= _POLL_SECONDS:
                return _report_running(request, progress)
            self._clock.sleep(_POLL_SECONDS)
            with suppress(LeaseStoreUnavailable):  # the other run continues regardless
                existing = write_record(deadline)
        return None

    def _make_default_log(self, settings: Settings) -> RequestLog:
        return DynamoDBRequestLog(settings.table, settings.target, clock=self._clock)


def _run_command(
    request: CommandRequest, command_context: CommandContext, progress: _ProgressObserver
) -> dict[str, Any]:
    result = request.command.run(command_context, **request.call_arguments)
    return {"exit_code": result.exit_code, "document": result.document, "progress": progress.steps}


def _remove_details(value: Any) -> Any:
    """Remove PostgreSQL's error details, which may quote users' data, from a response."""
    if isinstance(value, dict):
        return {k: "" if k == "detail" else _remove_details(v) for k, v in value.items()}
    return [_remove_details(each) for each in value] if isinstance(value, list) else value


def _build_failure(
    document: dict[str, Any], code: int, progress: _ProgressObserver
) -> dict[str, Any]:
    error = {
        **document,
        "exit_code": code,
        "committed": progress.committed_migrations,
        "notices": progress.notices,
    }
    return {"exit_code": code, "error": error, "progress": progress.steps}


def _report_running(request: CommandRequest, progress: _ProgressObserver) -> dict[str, Any]:
    error = LeaseHeld(
        f"`{request.command.name}` is still running in the function: check `status` and `lease "
        "show` with --function before you run it again (with an event: send request "
        f"{request.request_id} again to get its result)"
    )
    return {**_build_failure(build_error_document(error), EXIT_BUSY, progress), "running": True}


def _report_interrupted(
    request: CommandRequest,
    command_context: CommandContext,
    progress: _ProgressObserver,
    record: RequestRecord,
) -> dict[str, Any]:
    """Report what a run that was killed has committed, according to the history."""
    history = command_context.operations.target.database.read_history(command_context.deadline)
    if request.command.name == "down":
        applied = {row.name for row in history}
        committed = [name for name in record.rollback_migrations if name not in applied]
        done = f"{len(committed)} of {len(record.rollback_migrations)} migrations were rolled back"
    else:
        committed = [row.name for row in history if is_owner_of(request.request_id, row.owner)]
        is_one = len(committed) == 1
        done = (
            "1 migration that it applied stays applied"
            if is_one
            else f"{len(committed)} migrations that it applied stay applied"
        )
    message = (
        f"the invocation that ran `{request.command.name}` was killed, or reached its timeout, "
        f"before it responded: {done}; PostgreSQL rolls back what was still running, and the "
        "lease expires by itself. This request is not run again: check `status`, then run the "
        "command again (with an event: as a new request)"
    )
    progress.committed_migrations.extend(committed)
    document = {"kind": "Interrupted", "message": message, "retryable": True}
    return {**_build_failure(document, EXIT_FAILED, progress), "repeated": True}


def _build_unexpected_error(error: Exception) -> dict[str, Any]:
    """Build the document of an unexpected error, without its text, which may contain secrets."""
    for frame in traceback.extract_tb(error.__traceback__):
        sys.stderr.write(f"{frame.filename}:{frame.lineno} in {frame.name}\n")
    kind = type(error).__name__
    message = (
        f"unexpected error {type(error).__module__}.{kind}: the function's log has its location. "
        f"Set {_TRACEBACK_VARIABLE}=1 on the function for the traceback, and please report it"
    )
    return {"kind": kind, "message": message, "retryable": False}


# --- the parts of one invocation


@dataclass(frozen=True, slots=True)
class _LambdaInvocation:
    """One invocation of the function.

    Attributes:
        id: Lambda's id; the same for all attempts of an asynchronous invocation.
        deadline: When Lambda kills it.
    """

    id: str
    deadline: Deadline

    @classmethod
    def from_context(cls, context: Any, clock: Clock) -> _LambdaInvocation:
        """Read Lambda's context; without a deadline in it, assume 15 minutes."""
        return cls(
            str(getattr(context, "aws_request_id", "")),
            Deadline.from_context(context, clock) or Deadline.after(_DEFAULT_SECONDS, clock),
        )


class _ConfirmationRequired(ConfigurationError):
    """The command needs a confirmation that the event does not contain."""

    def __init__(self, question: Question) -> None:
        self.facts = {
            "question": asdict(question),
            "confirmation": compute_confirmation_token(question),
        }
        option = question.option or "yes"
        super().__init__(
            f"{question.heading} {_format_names(question)}To confirm, send a new request with "
            f'the option "{option}": true'
        )


def _format_names(question: Question) -> str:
    names = [str(each["name"]) for each in question.migrations]
    if not names:
        return ""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{', '.join(names[:10])}{more}. "


class _EventPrompter:
    """A prompter that reads the confirmation from the event, for any question or for one."""

    def __init__(self, request: CommandRequest) -> None:
        self._confirmation = request.confirmation
        self.on_confirmed: Callable[[Question], None] = lambda _question: None

    def confirm(self, question: Question) -> bool:
        """See `Prompter.confirm`."""
        if not self._confirmation or (question.required_word and self._confirmation is True):
            raise _ConfirmationRequired(question)
        if self._confirmation not in (True, compute_confirmation_token(question)):
            raise LeaseHeld(
                "nothing was changed: the database has changed since the question was asked; "
                "check `status` and try again"
            )
        self.on_confirmed(question)
        return True

    def report_waiting(self, reason: str, *, seconds: float) -> None:
        """See `Prompter.report_waiting`."""

    def notify(self, text: str) -> None:
        """See `Prompter.notify`."""


class _ProgressObserver:
    """`Observer` that records the progress that a terminal would have shown."""

    def __init__(self, inner: Observer) -> None:
        self.steps: list[dict[str, Any]] = []
        self.notices: list[dict[str, str]] = []
        self.committed_migrations: list[str] = []
        self.applied_migrations: list[str] = []
        self._inner = inner

    def observe(self, event: Event) -> None:
        """See `Observer.observe`."""
        self._inner.observe(event)
        if isinstance(event, MigrationApplied):
            self.applied_migrations.append(event.migration)
            self._record_committed("applied", event)
        elif isinstance(event, MigrationRolledBack):
            self._record_committed("rolled back", event)
        elif isinstance(event, MigrationDryRun):
            self._record_action("ran", event.migration, event.seconds)
        elif isinstance(event, MigrationAttemptFailed):
            self._record_action("failed", event.migration, event.seconds)
        elif isinstance(event, MigrationNotice):
            self.notices.append(format_notice(event))
        elif isinstance(event, LeaseTakenOver):
            self.steps.append({"action": "took over", "owner": event.previous_owner})

    def _record_committed(self, action: str, event: MigrationApplied | MigrationRolledBack) -> None:
        self.committed_migrations.append(event.migration)
        self._record_action(action, event.migration, event.seconds)

    def _record_action(self, action: str, migration: str, seconds: float) -> None:
        self.steps.append({"action": action, "migration": migration, "seconds": round(seconds, 3)})
