"""The admin function: the command line's verbs inside the VPC, where the database is.

``lambda-migrate --function NAME`` invokes it; so may a pipeline, or a person by AWS's own tools::

    {"command": "up", "options": {"to": 3}}
    -> {"exit_code": 0, "document": {...}, "told": [...], "library": "1.0", "request": "..."}
    -> {"exit_code": 1, "error": {...}, ...}

Documents, errors and exit codes are those of ``--format json``. It has no trigger: whoever may
invoke it may migrate. What is expected to go wrong is an answer and never a failed invocation.

::

    read the event        -> error: what to write
    changes nothing?      -> do it
    begin it in the log   -> new: do it, log the answer
                          -> known: its answer, if it has ended
                                    wait for it, as long as it may run
                                    what the history tells of it, if its invocation was killed
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
from lambda_migrate.commands.context import Site
from lambda_migrate.commands.errors import exit_code_of, failure_document
from lambda_migrate.commands.request import Errand, mark_of
from lambda_migrate.commands.result import BUSY, FAILED, WRONG
from lambda_migrate.deploy.request_log import RequestTable, Run
from lambda_migrate.deploy.truncate import abridged
from lambda_migrate.engine.target import is_owner_of
from lambda_migrate.errors import ConfigurationError, LeaseHeld, LeaseStoreUnavailable, MigrateError
from lambda_migrate.events import (
    CommandEnded,
    LeaseTakenOver,
    MigrationApplied,
    MigrationAttemptFailed,
    MigrationDryRun,
    MigrationRolledBack,
    guard_observer,
)
from lambda_migrate.settings import Settings
from lambda_migrate.wiring import default_observer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lambda_migrate.clock import Clock
    from lambda_migrate.commands.prompt import Question
    from lambda_migrate.deploy.request_log import RequestLog
    from lambda_migrate.events import Event, Observer

__all__ = ["AdminFunction", "handler"]

_WITHOUT_DEADLINE_SECONDS = 900.0
_KILL_SECONDS = 3.0
"""How long after its deadline an invocation has surely been killed, clocks that differ included."""

_LOOK_SECONDS = 1.0
"""Between two looks at a run of the same request."""

_SETTLING_SECONDS = 2.0
"""PostgreSQL looks every second whether the client of a running statement is still there."""

_TRACEBACK = "LAMBDA_MIGRATE_TRACEBACK"


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Run one command; see `AdminFunction`."""
    return AdminFunction(os.environ).answer(event, context)


class AdminFunction:
    """Answers events.

    Args:
        environ: Where settings are read.
        make_log: Makes the log of requests.
        observer: Who sees events besides the answer; Powertools' Logger and Metrics by default.
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
        self._make_log = make_log or self._default_log
        self._observer = guard_observer(observer or default_observer())
        self._clock = clock

    def answer(self, event: Any, context: Any) -> dict[str, Any]:
        """Run the command that ``event`` names.

        Args:
            event: See the module.
            context: Lambda's.

        Returns:
            The answer. It is an answer in every case that can be foreseen, so that Lambda does not
            take the invocation for a failed one and repeat it.
        """
        began = self._clock.monotonic()
        invocation = _Invocation.of(context, self._clock)
        command, request = "", invocation.request_id
        recorder = _Recorder(self._observer)

        def run() -> dict[str, Any]:
            nonlocal command, request
            errand = Errand.read(event, request=invocation.request_id or os.urandom(16).hex())
            command, request = errand.command.name, errand.request
            return self._run(errand, invocation, recorder)

        answer = self._answered(run, recorder)
        self._observer.observe(
            self._ended(
                answer,
                command=command,
                request=request,
                seconds=self._clock.monotonic() - began,
                applied=tuple(recorder.applied),
            )
        )
        return abridged({**answer, "library": __version__, "request": request})

    def _ended(self, answer: dict[str, Any], **facts: Any) -> CommandEnded:
        error = answer.get("error", {})
        return CommandEnded(
            target=self._environ.get("LAMBDA_MIGRATE_TARGET") or "default",
            exit_code=answer["exit_code"],
            error=str(error.get("kind", "")),
            message=str(error.get("message", "")),
            is_repeated=bool(answer.get("repeated")),
            **facts,
        )

    # --- running

    def _run(self, errand: Errand, invocation: _Invocation, recorder: _Recorder) -> dict[str, Any]:
        # An empty one is the function's own: it stamps its database anew.
        environment = errand.options.get("environment") or None
        settings = Settings.load(self._environ, environment=environment).require(table=True)
        deadline = invocation.deadline.earlier(settings.safety_margin_seconds)
        if errand.timeout is not None:
            deadline = deadline.at_most(errand.timeout)
        attendant = _Attendant(errand)
        site = Site(
            settings,
            deadline,
            self._environ,
            attendant=attendant,
            observer=recorder,
            request_id=errand.request,
            clock=self._clock,
        )
        if not errand.writes:
            return _done(errand, site, recorder)
        return self._run_once(errand, site, invocation, attendant, recorder)

    def _run_once(
        self,
        errand: Errand,
        site: Site,
        invocation: _Invocation,
        attendant: _Attendant,
        recorder: _Recorder,
    ) -> dict[str, Any]:
        """Run what changes something, unless this request was run already."""
        log = self._make_log(site.settings)
        run = self._new_run(errand, invocation)
        found = log.begin(errand.request, run)
        if found is not None:
            return self._find(errand, site, log, found)

        def note(question: Question) -> None:
            nonlocal run
            if question.verb == "down":
                names = tuple(each["name"] for each in question.migrations)
                run = replace(run, concerned=names)
                log.concern(errand.request, run)

        attendant.on_yes = note
        answer = self._answered(lambda: _done(errand, site, recorder), recorder)
        if answer["exit_code"] in (WRONG, BUSY) and not recorder.committed:
            log.forget(errand.request, run)  # it was turned away before it did anything
        else:
            ended = replace(run, answer=_without_reports(answer))
            log.end(errand.request, ended, invocation.deadline)
        return answer

    def _new_run(self, errand: Errand, invocation: _Invocation) -> Run:
        now_ms = self._clock.wall_ms()
        left = invocation.deadline.remaining() + _KILL_SECONDS
        return Run(
            asked=errand.asked,
            attempt=os.urandom(16).hex(),
            invocation=invocation.request_id,
            began_ms=now_ms,
            until_ms=now_ms + round(left * 1000),
        )

    def _answered(self, act: Callable[[], dict[str, Any]], recorder: _Recorder) -> dict[str, Any]:
        """What ``act`` answers, or what went wrong with it as an answer."""
        try:
            return act()
        except MigrateError as error:
            document = failure_document(error)
            if isinstance(error, _Unconfirmed):
                document |= {"kind": "ConfigurationError", **error.facts}
            return _failed(document, exit_code_of(error), recorder)
        except Exception as error:
            if self._environ.get(_TRACEBACK):
                raise
            return _failed(_surprise(error), FAILED, recorder)

    # --- finding itself

    def _find(self, errand: Errand, site: Site, log: RequestLog, found: Run) -> dict[str, Any]:
        """What became of a run of the same request; wait for it as long as it may run."""
        if found.asked != errand.asked:
            raise ConfigurationError(
                f"request {errand.request} was another command: each needs an id of its own"
            )
        while found.answer is None:
            if found.invocation in errand.ended or self._clock.wall_ms() > found.until_ms:
                self._clock.sleep(min(_SETTLING_SECONDS, site.deadline.remaining()))
                return _post_mortem(errand, site, found)
            if site.deadline.remaining() <= _LOOK_SECONDS:
                return self._still_runs(errand, found)
            self._clock.sleep(_LOOK_SECONDS)
            with suppress(LeaseStoreUnavailable):  # it goes on all the same
                found = log.read(errand.request) or found
        return {**found.answer, "repeated": True}

    def _still_runs(self, errand: Errand, found: Run) -> dict[str, Any]:
        seconds = max(0, self._clock.wall_ms() - found.began_ms) / 1000
        error = LeaseHeld(
            f"`{errand.command.name}` still runs, for {seconds:.0f} s so far: ask again with the "
            f"same request, {errand.request}, to hear how it ends"
        )
        document = {**failure_document(error), "committed": []}
        return {"exit_code": BUSY, "error": document, "running": True}

    def _default_log(self, settings: Settings) -> RequestLog:
        return RequestTable(settings.table, settings.target, clock=self._clock)


def _done(errand: Errand, site: Site, recorder: _Recorder) -> dict[str, Any]:
    done = errand.command.act(site, **errand.arguments)
    return {"exit_code": done.exit_code, "document": done.document, "told": recorder.told}


def _without_reports(value: Any) -> Any:
    """An answer as it may be stored: PostgreSQL's own report may quote rows of users' data."""
    if isinstance(value, dict):
        return {k: "" if k == "detail" else _without_reports(v) for k, v in value.items()}
    return [_without_reports(each) for each in value] if isinstance(value, list) else value


def _failed(document: dict[str, Any], code: int, recorder: _Recorder) -> dict[str, Any]:
    error = {**document, "exit_code": code, "committed": recorder.committed}
    return {"exit_code": code, "error": error, "told": recorder.told}


def _post_mortem(errand: Errand, site: Site, run: Run) -> dict[str, Any]:
    """What the history tells of a run that ended without an answer."""
    history = site.maintenance.target.database.read_history(site.deadline)
    if errand.command.name == "down":
        there = {row.name for row in history}
        committed = [name for name in run.concerned if name not in there]
        what = f"{len(committed)} of {len(run.concerned)} migrations that it set out to take back"
    else:
        committed = [row.name for row in history if is_owner_of(errand.request, row.owner)]
        what = f"{len(committed)} migration{'s' * (len(committed) != 1)} that it recorded"
    message = (
        f"the invocation that ran `{errand.command.name}` ended without an answer: its time was "
        f"over, or it was stopped. {what[0].upper()}{what[1:]} stayed committed; what ran then is "
        "undone as soon as PostgreSQL misses its client, and the lease runs out by itself. It is "
        "not run again: see `status`, then give the command anew"
    )
    error = {
        "kind": "Interrupted",
        "exit_code": FAILED,
        "message": message,
        "retryable": True,
        "committed": committed,
    }
    return {"exit_code": FAILED, "error": error, "repeated": True}


def _surprise(error: Exception) -> dict[str, Any]:
    """Its type, and where it came from: its text may hold anything."""
    for frame in traceback.extract_tb(error.__traceback__):
        sys.stderr.write(f"{frame.filename}:{frame.lineno} in {frame.name}\n")
    kind = type(error).__name__
    message = (
        f"this should not happen: {type(error).__module__}.{kind}; the function's log says where. "
        f"Set {_TRACEBACK}=1 on the function for the traceback, and please report it"
    )
    return {"kind": kind, "message": message, "retryable": False}


# --- the parts of one invocation


@dataclass(frozen=True, slots=True)
class _Invocation:
    """Lambda's own facts.

    Attributes:
        request_id: Lambda's id; the same for all tries of an asynchronous invocation.
        deadline: When Lambda kills.
    """

    request_id: str
    deadline: Deadline

    @classmethod
    def of(cls, context: Any, clock: Clock) -> _Invocation:
        """What the context tells; 15 minutes where it tells no end."""
        return cls(
            str(getattr(context, "aws_request_id", "")),
            Deadline.from_context(context, clock)
            or Deadline.after(_WITHOUT_DEADLINE_SECONDS, clock),
        )


class _Unconfirmed(ConfigurationError):
    """A question that nobody has answered yet."""

    def __init__(self, question: Question) -> None:
        self.facts = {"question": asdict(question), "mark": mark_of(question)}
        super().__init__(
            f"{question.heading} {_names(question)}To have it done, give the option "
            f'"{question.flag or "yes"}": true with a new request'
        )


def _names(question: Question) -> str:
    names = [str(each["name"]) for each in question.migrations]
    if not names:
        return ""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{', '.join(names[:10])}{more}. "


class _Attendant:
    """Whoever sent the event: they have said yes, to everything or to one question, or not yet."""

    def __init__(self, errand: Errand) -> None:
        self._yes = errand.yes
        self.on_yes: Callable[[Question], None] = lambda _question: None

    def confirm(self, question: Question) -> bool:
        """See `Attendant.confirm`."""
        if not self._yes or (question.word and self._yes is True):
            raise _Unconfirmed(question)
        if self._yes is not True and self._yes != mark_of(question):
            raise LeaseHeld(
                "what it would do is no longer what was asked about: somebody else was here "
                "meanwhile; look and try again"
            )
        self.on_yes(question)
        return True

    def wait(self, reason: str, *, seconds: float) -> None:
        """See `Attendant.wait`."""

    def note(self, text: str) -> None:
        """See `Attendant.note`."""


class _Recorder:
    """`Observer` that keeps what a terminal would have shown on the way to the answer."""

    def __init__(self, inner: Observer) -> None:
        self.told: list[dict[str, Any]] = []
        self.committed: list[str] = []
        self.applied: list[str] = []
        self._inner = inner

    def observe(self, event: Event) -> None:
        """See `Observer.observe`."""
        self._inner.observe(event)
        if isinstance(event, MigrationApplied):
            self.applied.append(event.migration)
            self._tell("applied", event)
        elif isinstance(event, MigrationRolledBack):
            self._tell("reverted", event)
        elif isinstance(event, MigrationDryRun):
            self.told.append(_line("ran", event.migration, event.seconds))
        elif isinstance(event, MigrationAttemptFailed):
            self.told.append(_line("failed", event.migration, event.seconds))
        elif isinstance(event, LeaseTakenOver):
            self.told.append({"what": "took over", "owner": event.previous_owner})

    def _tell(self, what: str, event: MigrationApplied | MigrationRolledBack) -> None:
        self.committed.append(event.migration)
        self.told.append(_line(what, event.migration, event.seconds))


def _line(what: str, migration: str, seconds: float) -> dict[str, Any]:
    return {"what": what, "migration": migration, "seconds": round(seconds, 3)}
