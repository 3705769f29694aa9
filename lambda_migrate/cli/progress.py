"""Progress of a running command: a live bar on a terminal, one line per migration elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from lambda_migrate.cli.times import format_duration
from lambda_migrate.commands.documents import format_notice
from lambda_migrate.errors import escape_text
from lambda_migrate.events import (
    LeaseTakenOver,
    MigrationApplied,
    MigrationAttemptFailed,
    MigrationDryRun,
    MigrationNotice,
    MigrationRolledBack,
    MigrationStarted,
    RenewalFailed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from lambda_migrate.cli.terminal import Terminal
    from lambda_migrate.events import Event

__all__ = ["ProgressReporter"]

_APPLIED, _ROLLED_BACK, _RAN, _FAILED = "applied", "rolled back", "ran", "failed"


class _ProgressBar(Protocol):
    def show(self, name: str, *, done: int, total: int) -> None: ...
    def close(self) -> None: ...


class ProgressReporter:
    """Shows progress while its block runs, and remembers what was committed.

    Args:
        terminal: Where to show it; nothing is shown with ``--format json``.
    """

    def __init__(self, terminal: Terminal) -> None:
        self.committed_migrations: list[str] = []
        """Names of the migrations applied or rolled back so far."""
        self.notices: list[dict[str, str]] = []
        """What PostgreSQL reported meanwhile; see `format_notice`."""
        self.has_started = False
        """Whether a migration or a rollback has started."""
        self.running_function = ""
        """The function that runs the command; it continues if this process ends."""
        self._terminal = terminal
        self._bar: _ProgressBar | None = None
        self._rollback: Sequence[str] = ()
        self._is_waiting = False

    def start_rollback(self, names: Sequence[str]) -> None:
        """Show that these migrations will be rolled back, in this order."""
        self._rollback = names
        self.has_started = True
        if names:
            self._show(names[0], done=0, total=len(names))

    @contextmanager
    def show_waiting_for(self, function: str, command: str) -> Iterator[None]:
        """Show that a function runs a command; its progress is known only at the end."""
        self.running_function = function
        self._show(f"{function}: {command}", done=0, total=0)
        yield
        self.running_function = ""
        self.close()  # a question may follow

    def show_remote_progress(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Show the progress that the function recorded in its response."""
        for each in steps:
            if "migration" in each:
                style = "bold red" if each.get("action") == "failed" else "green"
                label = str(each.get("action", ""))
                seconds = float(each.get("seconds", 0))
                name = str(each["migration"])
                self._show_line(label, name, seconds, style=style)
            elif "owner" in each:
                self._show_takeover(str(each["owner"]))

    def show_remote_notices(self, notices: Sequence[Mapping[str, Any]]) -> None:
        """Show what PostgreSQL reported while the function ran migrations."""
        for each in notices:
            message = f"{each.get('migration', '')}: {each.get('message', '')}"
            self._show_notice(str(each.get("severity", "")), message)

    def show_waiting(self, reason: str, *, seconds: float) -> None:
        """Show that the command waits: the reason once, then the time on a terminal."""
        if not self._is_waiting:
            self._is_waiting = True
            self._terminal.show_progress(f"waiting: {escape_text(reason)}")
        self._show(f"waiting {format_duration(seconds)}", done=0, total=0)

    def observe(self, event: Event) -> None:
        """See `Observer.observe`."""
        if isinstance(event, MigrationStarted):
            self.has_started = True
            self._show(event.migration, done=event.position - 1, total=event.total)
        elif isinstance(event, MigrationApplied):
            self._show_committed(_APPLIED, event)
        elif isinstance(event, MigrationRolledBack):
            self._show_committed(_ROLLED_BACK, event)
        elif isinstance(event, MigrationDryRun):
            self._show_line(_RAN, event.migration, event.seconds, style="green")
        elif isinstance(event, MigrationAttemptFailed):
            self._show_line(_FAILED, event.migration, event.seconds, style="bold red")
        elif isinstance(event, MigrationNotice):
            self.notices.append(format_notice(event))
            self._show_notice(event.severity, event.message)
        elif isinstance(event, LeaseTakenOver):
            self._show_takeover(event.previous_owner)
        elif isinstance(event, RenewalFailed):
            self._terminal.notify(
                f"warning: cannot renew the lease: {escape_text(event.cause)}; the running "
                f"migration is cancelled in {format_duration(event.seconds_left)} unless a "
                "renewal succeeds"
            )

    def _show_notice(self, severity: str, message: str) -> None:
        style = "yellow" if severity == "WARNING" else "dim"
        line = Text.assemble((f"  {severity.lower()}: ", style), escape_text(message))
        if severity == "WARNING" and self._terminal.is_quiet and not self._terminal.is_json:
            self._terminal.notify(line)
        else:
            self._terminal.show_progress(line)

    def _show_takeover(self, owner: str) -> None:
        self._terminal.show_progress(f"took over the expired lease of {escape_text(owner)}")

    def _show_committed(self, label: str, event: MigrationApplied | MigrationRolledBack) -> None:
        self.committed_migrations.append(event.migration)
        self._show_line(label, event.migration, event.seconds, style="green")
        if self._rollback and event.position < event.total:
            self._show(self._rollback[event.position], done=event.position, total=event.total)

    def _show_line(self, label: str, name: str, seconds: float, *, style: str) -> None:
        duration = (f"  {format_duration(seconds)}", "dim")
        self._terminal.show_progress(
            Text.assemble((f"{label:<8}", style), f"  {escape_text(name)}", duration)
        )

    def _show(self, name: str, *, done: int, total: int) -> None:
        terminal = self._terminal
        if terminal.is_json or terminal.is_quiet or not terminal.out.is_terminal:
            return
        if self._bar is None:
            self._bar = _LiveBar(self._terminal)
        self._bar.show(name, done=done, total=total)

    def __enter__(self) -> ProgressReporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _LiveBar:
    """One line at the bottom: the running migration, its elapsed time, how many are done."""

    def __init__(self, terminal: Terminal) -> None:
        self._progress = Progress(
            SpinnerColumn("line" if terminal.out.options.ascii_only else "dots"),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            console=terminal.out,
            transient=True,
        )
        self._progress.start()
        self._task = self._progress.add_task("", total=None)
        self._name = ""

    def show(self, name: str, *, done: int, total: int) -> None:
        if name != self._name and total:
            self._progress.reset(self._task)  # measure the time of this migration
        self._name = name
        self._progress.update(
            self._task,
            description=escape_text(name),
            completed=done,
            total=total or None,
            refresh=True,
        )

    def close(self) -> None:
        self._progress.stop()
