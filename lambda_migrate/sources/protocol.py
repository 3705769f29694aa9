"""The messages between the parent and the child process: JSON, one object a line.

The parent writes the request, then one line per step, to the child's standard input. The child
writes events to what was its standard output when it started; what the tool prints goes to standard
error. Standard library only: both sides import this before anything of the tool.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import BinaryIO

    from lambda_migrate.migrations.revisions import Revision

__all__ = [
    "Channel",
    "ChildError",
    "ChildRequest",
    "make_import_error",
    "read_request",
]

EXIT_PARENT_GONE = 75
"""The child's exit status after its parent has closed the pipe."""


@dataclass(frozen=True, slots=True)
class ChildRequest:
    """What the child is to do.

    Attributes:
        tool: ``alembic`` or ``django``.
        command: ``up``, ``down``, ``dry-run`` (``up`` in one transaction that is rolled back);
            ``describe`` and ``describe-down`` only send the plan of ``up`` and ``down``.
        root: The folder of the code, which is also the working directory.
        options: The settings of the tool, by the names of `Settings`.
        scope: The mirror's key: ``alembic``, or ``django:`` and the alias.
        schema: The library's schema.
        target: For messages.
        fence: The fencing token that the fence row must hold; 0 for the commands that describe.
        owner: The owner that it must hold.
        identity: The database's UUID: a fence row with another one is another database.
        request_id: The invocation's id, for the mirror.
        application_name: For every connection that the tool opens.
        deadline_seconds: The time left when the request was sent.
        lock_timeout_ms: The longest wait for a lock in PostgreSQL.
        to: Roll back to this revision, or apply up to it; None: the setting's.
        steps: Roll back this many revisions.
        started: Rows of the mirror in state ``started`` or ``rolling_back``: id -> hashes of the
            statements that are committed.
    """

    tool: str
    command: str
    root: str
    options: Mapping[str, Any]
    scope: str
    schema: str
    target: str = ""
    fence: int = 0
    owner: str = ""
    identity: str = ""
    request_id: str = ""
    application_name: str = ""
    deadline_seconds: float = 900.0
    lock_timeout_ms: int = 3000
    to: str | None = None
    steps: int | None = None
    started: Mapping[str, Sequence[str]] = field(default_factory=dict)
    received_at: float = 0.0
    """When the child received it, on `time.monotonic`."""

    def to_line(self) -> bytes:
        """The request as the child reads it."""
        return encode_line(asdict(self))

    @property
    def seconds_left(self) -> float:
        """The time left now, in the child."""
        return max(0.0, self.received_at + self.deadline_seconds - time.monotonic())


class ChildError(Exception):
    """Why a command failed in the child; `child` reports it as the event ``failed``.

    Args:
        message: One sentence for the user.
        kind: ``migration``, ``stale_fence``, ``repair``, ``configuration``, ``unavailable``
            or ``manifest``.
        step_id: The step that failed.
        sqlstate: PostgreSQL's code.
        detail: A report of several lines, with file and line.
        path: The file at fault.
        line: The line in it.
        token: The fencing token that superseded this one.
        is_partly_committed: Whether a part of the step is committed.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "migration",
        step_id: str = "",
        sqlstate: str = "",
        detail: str = "",
        path: str = "",
        line: int | None = None,
        token: int | None = None,
        is_partly_committed: bool = False,
    ) -> None:
        super().__init__(message)
        self.fields = {
            "id": step_id,
            "kind": kind,
            "sqlstate": sqlstate,
            "message": message,
            "detail": detail,
            "path": path,
            "line": line,
            "token": token,
            "is_partly_committed": is_partly_committed,
        }


def make_import_error(error: ImportError, **fields: Any) -> ChildError:
    """The error of code that imports what is not installed.

    Args:
        error: Python's error.
        **fields: Further ones of `ChildError`: the step, the file.
    """
    message = f"{type(error).__name__}: {error}; install it where the migrations run"
    return ChildError(message, kind="configuration", **fields)


class Channel:
    """The child's end: sends events, and waits for the parent's answers.

    Args:
        events: Where events are written.
        answers: Where the parent's lines are read.
    """

    def __init__(self, events: BinaryIO, answers: BinaryIO) -> None:
        self._events = events
        self._answers = answers
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    @classmethod
    def open(cls) -> Channel:
        """Take over standard output for events; what is printed later goes to standard error."""
        sys.stdout.flush()
        events = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        return cls(events, os.fdopen(os.dup(0), "rb"))

    def watch_parent(self) -> None:
        """Read the parent's lines in a thread; its end of the pipe is closed when it dies."""
        threading.Thread(target=self._read_answers, daemon=True).start()

    def _read_answers(self) -> None:
        for line in self._answers:
            self._lines.put(line)
        os._exit(EXIT_PARENT_GONE)

    def read_line(self) -> bytes:
        """The parent's next line; waits for it."""
        return self._lines.get()

    def send(self, event: str, **fields: Any) -> None:
        """Send one event; threads may share the channel."""
        with self._lock:
            self._events.write(encode_line({"event": event, **fields}))

    def send_plan(
        self,
        steps: Sequence[Revision],
        *,
        applied: Sequence[str],
        heads: Sequence[str],
        graph: Sequence[Revision],
        version_table: tuple[str, str],
        server: Sequence[str] = (),
    ) -> None:
        """Send what will be done, before anything is done.

        Args:
            steps: In the order in which they run.
            applied: The ids in the version table: Alembic's heads, all of Django's rows.
            heads: The ids that the code needs.
            graph: Every revision of the code, parents first.
            version_table: Schema and name of the tool's table; the schema may be "" while it does
                not exist.
            server: `SERVER_KEY` and address of the database; only if nothing is applied.
        """
        self.send(
            "plan",
            steps=[each._asdict() for each in steps],
            applied=list(applied),
            heads=list(heads),
            version_table=list(version_table),
            server=list(server),
            graph=[
                {"id": each.id, "parents": list(each.parents), "name": each.name} for each in graph
            ],
        )

    def ask_to_continue(self, step_id: str, *, position: int, total: int) -> bool:
        """Announce a step, from 1, and ask whether to begin it.

        False: the deadline, a feature flag or a lost lease stops here. Roll back what is open, and
        send ``done``.

        Raises:
            ChildError: This is a fork of the process that has the channel.
        """
        if os.getpid() != self._pid:
            raise ChildError(
                f"{step_id} would run in a further process, where it is not fenced: let the "
                "project run all migrations in one process",
                kind="configuration",
            )
        self.send("start", id=step_id, position=position, total=total)
        return bool(json.loads(self.read_line())["continue"])

    def send_applied(self, step_id: str, *, duration_ms: int) -> None:
        """Report a step after its commit."""
        self.send("applied", id=step_id, duration_ms=duration_ms)

    def send_notice(self, step_id: str, severity: str, message: str) -> None:
        """Report a message that PostgreSQL sent."""
        self.send("notice", id=step_id, severity=severity, message=message)

    def send_done(self, applied: Sequence[str]) -> None:
        """Report the end, with the ids that the version table has now."""
        self.send("done", applied=list(applied))


def encode_line(message: Mapping[str, Any]) -> bytes:
    """One message as a line."""
    return json.dumps(message, default=str).encode() + b"\n"


def read_request(channel: Channel) -> ChildRequest:
    """Read the request, the parent's first line."""
    fields = json.loads(channel.read_line())
    return ChildRequest(**(fields | {"received_at": time.monotonic()}))
