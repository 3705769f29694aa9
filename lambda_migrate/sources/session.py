"""A holder's session on a database that another tool migrates, with steps run by a child."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn

from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LeaseLost,
    ManifestError,
    MigrateError,
    MigrationFailed,
    NotReady,
    RepairRequired,
)
from lambda_migrate.migrations.revisions import (
    LOG_ID_SEPARATOR,
    Revision,
    RevisionGraph,
    RevisionHistory,
    make_sql_only_error,
)
from lambda_migrate.postgresql.error_report import TRANSACTION_TIMEOUT, deadline_cause
from lambda_migrate.postgresql.ports import DatabaseSession, Notice, ToolCommand
from lambda_migrate.postgresql.transactional import RETRYABLE_SQLSTATES
from lambda_migrate.sources.process import ChildEnded, ChildProcess, ChildTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lambda_migrate.clock import Deadline
    from lambda_migrate.migrations import HistoryRow, Manifest, Migration
    from lambda_migrate.migrations.baseline import SyncedHistory, ToolHistory
    from lambda_migrate.migrations.version import Version
    from lambda_migrate.postgresql.mirror import RevisionSession
    from lambda_migrate.sources.protocol import ChildRequest

__all__ = ["ToolSession", "read_modules", "read_revision_graph"]

_MIN_START_SECONDS = 3.0
"""With less time left no child is started: importing a tool and its application takes 1 to 14 s."""

_CANCEL_TOLERANCE_SECONDS = 0.5
"""A statement that is cancelled with less than this left was cancelled by ``statement_timeout``,
which the child sets from the deadline."""

_TIMEOUT_SQLSTATES = ("57014", "25P03", TRANSACTION_TIMEOUT)
"""Of a statement, an idle transaction, or a transaction, which the child limits by the deadline."""

_USE_TOOL = "use the tool itself"

_WITHOUT_APPLYING = {
    "alembic": "does env.py call context.run_migrations(), even while an event loop is running?",
    "django": "does the project replace Django's `migrate` command or its executor?",
}


class _ToolProcess:
    """A child with the events that it has sent, and its errors translated.

    Args:
        request: What it is to do.

    Raises:
        NotReady: Too little time is left to start it.
    """

    def __init__(self, request: ChildRequest) -> None:
        if request.deadline_seconds < _MIN_START_SECONDS:
            raise NotReady(
                f"not enough time left to start {request.tool}; the next invocation will continue"
            )
        self._request = request
        self._tool = request.tool
        self._child = ChildProcess(request)
        self._names: dict[str, str] = {}
        self._notices: list[Notice] = []
        self._running_step = ""
        self._has_applied = False
        self._is_killed = False

    def read_revision_graph(self, deadline: Deadline) -> RevisionGraph:
        """The plan, which comes first."""
        event = self._read(deadline, expected="plan")
        revisions = tuple(
            Revision(each["id"], tuple(each["parents"]), each["name"]) for each in event["graph"]
        )
        steps = tuple(
            Revision(each["id"], tuple(each["parents"]), each["name"], each["path"])
            for each in event["steps"]
        )
        self._names = {each.id: each.name for each in (*revisions, *steps)}
        schema, table = event["version_table"]
        return RevisionGraph(
            revisions,
            tuple(event["heads"]),
            steps,
            tuple(event["applied"]),
            (schema, table),
            tuple(event["server"]),
        )

    def read_modules(self, deadline: Deadline) -> tuple[dict[str, str], dict[str, str]]:
        """The answer to the command ``manifest``."""
        event = self._read(deadline, expected="manifest")
        return event["modules"], event["folders"]

    def run_step(self, step_id: str, deadline: Deadline) -> int:
        """Let the child run the step that it announces next; the duration in milliseconds."""
        name = self._names.get(step_id) or step_id
        event = self._read(deadline, expected="start", name=name)
        if event["id"] != step_id:
            raise MigrationFailed(
                f"{self._tool} began {event['id']} instead: the code or the database changed "
                "while it ran",
                migration=name,
            )
        self._running_step = step_id
        self._child.answer(may_continue=True)
        duration_ms = int(self._read(deadline, expected="applied", name=name)["duration_ms"])
        self._running_step = ""
        self._has_applied = True
        return duration_ms

    def finish(self, deadline: Deadline) -> None:
        """Wait for the end of the child, after its last step."""
        self._read(deadline, expected="done")
        self._child.close()

    def take_notices(self) -> tuple[Notice, ...]:
        """The messages of PostgreSQL since the last call."""
        notices, self._notices = tuple(self._notices), []
        return notices

    def kill(self) -> None:
        """End the child, whatever it is doing."""
        self._is_killed = True
        self._child.kill()

    def stop(self) -> None:
        """End the child; one that waits before a step rolls back and ends by itself."""
        if self._running_step:
            self._child.kill()
        else:
            self._child.answer(may_continue=False)
        self._child.close()

    def _read(self, deadline: Deadline, *, expected: str, name: str = "") -> dict[str, Any]:
        while True:
            try:
                event = self._child.read_event(deadline)
            except ChildTimeout:
                raise self._make_timeout_error(name) from None
            except ChildEnded as ended:
                if self._is_killed and deadline.is_over:
                    raise self._make_timeout_error(name) from None
                raise MigrationFailed(
                    f"the process that ran {self._tool} {ended}; what it printed is in the log",
                    migration=name,
                    is_process_killed=ended.status < 0,
                ) from None
            kind = event.get("event")
            if kind in ("start", "applied") and LOG_ID_SEPARATOR in event["id"]:
                name = self._continue_in_other_schema(event, deadline)
            elif kind == expected:
                return event
            elif kind == "notice":
                self._notices.append(Notice(event["severity"], event["message"]))
            elif kind == "start" and event["id"] == self._running_step:
                self._child.answer(may_continue=True)  # it did not get a lock, and tries again
            elif kind == "failed":
                step = name if self._running_step else ""  # before it, env.py or an app failed
                failed_name = self._names.get(event["id"]) or _name_step(event["id"]) or step
                is_late = deadline.remaining() < _CANCEL_TOLERANCE_SECONDS
                error = _translate_failure(event, self._request, failed_name, is_late=is_late)
                is_timeout = isinstance(error, MigrationFailed) and error.is_timeout
                if is_timeout and self._has_applied and not failed_name:
                    raise self._make_timeout_error("")
                raise error
            elif kind == "done":
                raise MigrationFailed(
                    f"{self._tool} ended without an error and without applying it: "
                    + _WITHOUT_APPLYING[self._tool],
                    migration=name,
                )
            else:
                raise MigrationFailed(
                    f"{self._tool} sent {kind!r} where {expected!r} was expected", migration=name
                )

    def _make_timeout_error(self, name: str) -> MigrateError:
        """The deadline passed while a migration ran, or while the tool began or ended.

        A tool that takes all the time before its first step would do so in one instance after the
        other, so that is a failure. After a step, the next instance continues from there.
        """
        if self._has_applied and not name:
            return NotReady(
                f"the deadline passed while {self._tool} ended, after its last migration was "
                "committed; the next invocation continues from there"
            )
        return MigrationFailed(deadline_cause(), migration=name, is_timeout=True)

    def _continue_in_other_schema(self, event: Mapping[str, Any], deadline: Deadline) -> str:
        """The name of the step that runs then; "" if one has ended."""
        if event["event"] == "applied":
            self._running_step, self._has_applied = "", True
            return ""
        name = _name_step(event["id"])
        if deadline.is_over:
            raise NotReady(
                f"not enough time left to start {name}; the next invocation will continue"
            )
        self._running_step = event["id"]
        self._child.answer(may_continue=True)
        return name


def _name_step(step_id: str) -> str:
    return step_id.replace(LOG_ID_SEPARATOR, " in schema ")


def read_revision_graph(request: ChildRequest, deadline: Deadline) -> RevisionGraph:
    """Let the tool load its revisions and read its own table; it changes nothing."""
    child = _ToolProcess(request)
    try:
        return child.read_revision_graph(deadline)
    finally:
        child.stop()


def read_modules(
    request: ChildRequest, deadline: Deadline
) -> tuple[dict[str, str], dict[str, str]]:
    """The module of migrations of each app and its folder, from Django itself."""
    child = _ToolProcess(request)
    try:
        return child.read_modules(deadline)
    finally:
        child.stop()


def _translate_failure(
    event: Mapping[str, Any], request: ChildRequest, name: str, *, is_late: bool
) -> MigrateError:
    """The error of the event ``failed``.

    Args:
        event: Its fields.
        request: What the child was to do.
        name: Of the migration that failed; "" if none did.
        is_late: Whether the deadline has passed, or is about to.
    """
    kind, message, sqlstate = event["kind"], event["message"], event["sqlstate"]
    place = ":".join(str(each) for each in (event["path"], event["line"]) if each)
    where = f" ({place})" if place else ""
    if kind == "stale_fence":
        return LeaseLost(
            f"lost the lease on {request.target!r}: fencing token {request.fence} was superseded "
            f"by {event['token']}; nothing was committed after that"
        )
    if kind in _ERRORS_BY_KIND:
        prefix = f"{name}: " if name else ""
        return _ERRORS_BY_KIND[kind](f"{prefix}{message}{where}")
    is_timeout = is_late and sqlstate in _TIMEOUT_SQLSTATES
    cause = deadline_cause() if is_timeout else message
    is_partly_committed = kind != "repair" and bool(event["is_partly_committed"])
    note = _PARTLY_COMMITTED if is_partly_committed else ""
    code = f" [{sqlstate}]" if sqlstate else ""
    heading = f"{name or request.tool} failed: {cause}{code}{where}"
    failure = RepairRequired if kind == "repair" else MigrationFailed
    return failure(
        cause,
        migration=name,
        sqlstate=sqlstate,
        detail="\n".join(filter(None, (heading, event["detail"], note))),
        is_timeout=is_timeout,
        is_partly_committed=is_partly_committed,
    )


_PARTLY_COMMITTED = "  a part of it is committed"

_ERRORS_BY_KIND: dict[str, type[ConfigurationError] | type[DatabaseUnavailable]] = {
    "configuration": ConfigurationError,
    "manifest": ManifestError,
    "unavailable": DatabaseUnavailable,
}


class ToolSession(DatabaseSession):
    """`FencedSession` whose migrations run in a child.

    Its own connection is closed while the child runs, so that a holder has one at a time.

    Args:
        session: The holder's session.
        request: A request of this holder; each child gets a copy with its own command.
        deadline: For calls without a deadline of their own.
        keeps_connection: Whether the connection stays open, so that other processes see a holder:
            without a lease table nothing else shows one.
    """

    def __init__(
        self,
        session: RevisionSession,
        request: ChildRequest,
        deadline: Deadline,
        *,
        keeps_connection: bool,
    ) -> None:
        self._session = session
        self._request = request
        self._deadline = deadline
        self._keeps_connection = keeps_connection
        self._command = ToolCommand()
        self._child: _ToolProcess | None = None
        self._history = RevisionHistory()
        self._is_aborted = False
        self._must_record_environment = False

    @property
    def identity(self) -> str:
        """See `FencedSession.identity`."""
        return self._session.identity

    @property
    def is_new_or_copied_database(self) -> bool:
        """See `FencedSession.is_new_or_copied_database`."""
        return self._session.is_new_or_copied_database

    @property
    def distrusted_identity(self) -> str:
        """See `FencedSession.distrusted_identity`."""
        return self._session.distrusted_identity

    def read_history(self) -> RevisionHistory:
        """See `FencedSession.read_history`; a child that has run its steps ends first."""
        self._finish_child()
        graph = self._history.revision_graph
        self._history = self._session.read_history()
        if graph is not None:
            applied = tuple(self._history.current_ids or ())
            self._history = self._history.with_revision_graph(replace(graph, applied=applied))
        return self._history

    def _finish_child(self) -> None:
        """Wait for the end of the child; until then, `abort` can kill it."""
        if self._child is None:
            return
        try:
            with self._explain_abort():
                self._child.finish(self._deadline)
        except BaseException:
            self._child.stop()
            raise
        finally:
            self._child = None

    @contextmanager
    def _explain_abort(self) -> Iterator[None]:
        """Replace the error of a child that `abort` has killed, unless the deadline was why."""
        try:
            yield
        except MigrateError:
            if self._is_aborted and not self._deadline.is_over:
                raise self._session.make_lease_lost_error() from None
            raise

    def add_revision_graph(self, *, command: ToolCommand | None = None) -> RevisionHistory:
        """See `FencedSession.add_revision_graph`; the tool waits before its first step."""
        self._command = command or ToolCommand()
        return self._start()

    def _start(self) -> RevisionHistory:
        if self._child is not None:  # it has failed, and is about to end
            self._child.stop()
        if not self._keeps_connection:
            self._session.disconnect()
        started = {
            each: list(row.statements)
            for each, row in self._history.mirror.items()
            if row.row.is_in_doubt
        }
        request = replace(
            self._request,
            command=self._command.name,
            identity=self.identity,
            application_name=self._session.application_name,
            deadline_seconds=self._deadline.remaining(),
            started=started,
            to=self._command.to or None,
            steps=self._command.steps,
        )
        self._child = _ToolProcess(request)
        if self._is_aborted:
            self._child.kill()
        with self._explain_abort():
            graph = self._child.read_revision_graph(self._deadline)
        self._session.version_table = graph.version_table
        self._history = self._history.with_revision_graph(graph)
        return self._history

    def apply(self, migration: Migration, digest: str, deadline: Deadline) -> int:  # noqa: ARG002
        """See `FencedSession.apply`; a lock that was not available is tried again.

        The tool ends with an error then, so it is started again.
        """
        revision_id = str(migration.version)
        for attempt in count(1):
            try:
                milliseconds = self._run_step(revision_id, deadline)
                break
            except MigrationFailed as failed:
                if failed.sqlstate not in RETRYABLE_SQLSTATES:
                    raise
                self._session.pause(attempt, deadline)
                if deadline.remaining() < _MIN_START_SECONDS:
                    raise
            if revision_id in self._start().applied:
                milliseconds = 0  # committed, though the tool reported an error after that
                break
        self._must_record_environment = self._command.name != "dry-run"
        return milliseconds

    def roll_back(self, row: HistoryRow, deadline: Deadline) -> int:
        """See `FencedSession.roll_back`; `add_revision_graph` has chosen the rows."""
        return self._run_step(str(row.version), deadline)

    def _run_step(self, revision_id: str, deadline: Deadline) -> int:
        assert self._child is not None  # noqa: S101 - the plan, which names the steps, came from it
        with self._explain_abort():
            return self._child.run_step(revision_id, deadline)

    def resolve_in_doubt(
        self,
        row: HistoryRow,
        deadline: Deadline,  # noqa: ARG002
        *,
        file: tuple[Migration, str] | None = None,  # noqa: ARG002
    ) -> None:
        """See `FencedSession.resolve_in_doubt`.

        Raises:
            RepairRequired: Always: what was interrupted while it was applied is pending, and only
                a rollback is in doubt.
        """
        raise RepairRequired(
            "its rollback was interrupted after a part of it was committed: complete it with "
            "`lambda-migrate down`, or with the tool itself",
            migration=row.name,
        )

    def record_manifest(self, manifest: Manifest) -> None:
        """See `FencedSession.record_manifest`; a child that has applied nothing ends first.

        It may have to record a squash, and to run what the tool runs after every migration.
        """
        if self._child is not None:
            self.read_history()
        self._session.record_satisfied(manifest, self._history)

    def record_environment(self) -> None:
        """See `FencedSession.record_environment`; not while a child runs."""
        if self._child is None:
            self._session.record_environment()
            self._must_record_environment = False

    def resolve_revision(self, revision_id: str, *, is_applied: bool) -> str:
        """See `FencedSession.resolve_revision`."""
        history = self.read_history()
        mirrored = history.mirror.get(revision_id)
        if mirrored is None or not mirrored.row.is_in_doubt:
            raise ConfigurationError(f"{revision_id} is not in doubt: there is nothing to resolve")
        is_in_other_schema = LOG_ID_SEPARATOR in revision_id  # whose version table is not read here
        if not is_in_other_schema and (revision_id in history.applied) is not is_applied:
            listed, advice = ("does not list", "add") if is_applied else ("lists", "remove")
            raise ConfigurationError(
                f"the version table of {self._request.tool} {listed} {revision_id}: {advice} it "
                "with the tool (`alembic stamp`, `manage.py migrate --fake`), then run this again"
            )
        self._session.delete_revision(revision_id)
        return mirrored.row.name

    def read_tool_histories(self) -> list[ToolHistory]:
        """See `ToolDatabase.read_tool_histories`."""
        return []

    def record_applied(
        self,
        migrations: Sequence[tuple[Migration, str]],  # noqa: ARG002
        *,
        baseline: bool,  # noqa: ARG002
    ) -> NoReturn:
        """See `FencedSession.record_applied`; the tool's own table decides."""
        raise make_sql_only_error(self._request.tool, "marking a migration", _USE_TOOL)

    def delete_rows(self, versions: Sequence[Version]) -> NoReturn:  # noqa: ARG002
        """See `FencedSession.delete_rows`; the tool's own table decides."""
        raise make_sql_only_error(self._request.tool, "deleting a history row", _USE_TOOL)

    def sync_tool_history(self, synced: SyncedHistory | None) -> NoReturn:  # noqa: ARG002
        """See `FencedSession.sync_tool_history`; the tool's own table decides."""
        raise make_sql_only_error(self._request.tool, "writing another history", _USE_TOOL)

    def mark_repeatables_stale(self, name: str = "") -> None:
        """See `FencedSession.mark_repeatables_stale`; there are none."""

    def abort(self) -> None:
        """See `FencedSession.abort`."""
        self._is_aborted = True
        child = self._child
        if child is not None:
            child.kill()
        self._session.abort()

    def take_notices(self) -> tuple[Notice, ...]:
        """See `DatabaseSession.take_notices`."""
        return self._child.take_notices() if self._child is not None else ()

    def close(self) -> None:
        """See `FencedSession.close`."""
        child, self._child = self._child, None
        if child is not None:
            child.stop()
        if self._must_record_environment and not self._is_aborted:
            with suppress(MigrateError):  # a later success records it, too
                self.record_environment()
        self._session.close()
