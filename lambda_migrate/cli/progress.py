"""Observers that show a person how far it is: a live bar on a terminal, plain lines elsewhere."""

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

from lambda_migrate.cli.times import duration
from lambda_migrate.errors import escape_text
from lambda_migrate.events import (
    LeaseTakenOver,
    MigrationApplied,
    MigrationAttemptFailed,
    MigrationDryRun,
    MigrationRolledBack,
    MigrationStarted,
    RenewalFailed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from lambda_migrate.cli.terminal import Terminal
    from lambda_migrate.events import Event

__all__ = ["Reporter"]


class _Bar(Protocol):
    def at(self, name: str, *, done: int, total: int) -> None: ...
    def close(self) -> None: ...


class Reporter:
    """Shows what happens while the block runs, and remembers what was committed.

    Args:
        terminal: Where to show it; JSON shows nothing.
    """

    def __init__(self, terminal: Terminal) -> None:
        self.done: list[str] = []
        """Names of the migrations that were committed, or taken back, so far."""
        self.has_begun = False
        """Whether a migration was started, or one was about to be taken back."""
        self.asked = ""
        """The function that is at work for us; it goes on if we end."""
        self._terminal = terminal
        self._bar: _Bar | None = None
        self._coming: Sequence[str] = ()
        self._is_waiting = False

    def expect(self, names: Sequence[str]) -> None:
        """These will be taken back, in this order."""
        self._coming = names
        self.has_begun = True
        if names:
            self._show(names[0], done=0, total=len(names))

    @contextmanager
    def asking(self, function: str, command: str) -> Iterator[None]:
        """A function runs a command; how far it is can only be told at the end."""
        self.asked = function
        self._show(f"{function}: {command}", done=0, total=0)
        yield
        self.asked = ""
        self._close()  # a question may follow

    def tell(self, told: Sequence[Mapping[str, Any]]) -> None:
        """What the function saw on the way to its answer."""
        for each in told:
            if "migration" in each:
                style = "bold red" if each.get("what") == "failed" else "green"
                what, seconds = str(each.get("what", "")), float(each.get("seconds", 0))
                self._line(what, str(each["migration"]), seconds, style=style)
            elif "owner" in each:
                self._took_over(str(each["owner"]))

    def wait(self, reason: str, *, seconds: float) -> None:
        """Somebody else is at it; said once, then shown on a terminal."""
        if not self._is_waiting:
            self._is_waiting = True
            self._terminal.say(f"waiting: {escape_text(reason)}")
        self._show(f"waiting {duration(seconds)}", done=0, total=0)

    def observe(self, event: Event) -> None:
        """See `Observer.observe`."""
        if isinstance(event, MigrationStarted):
            self.has_begun = True
            self._show(event.migration, done=event.position - 1, total=event.total)
        elif isinstance(event, MigrationApplied):
            self._finished("applied", event)
        elif isinstance(event, MigrationRolledBack):
            self._finished("reverted", event)
        elif isinstance(event, MigrationDryRun):
            self._line("ran", event.migration, event.seconds, style="green")
        elif isinstance(event, MigrationAttemptFailed):
            self._line("failed", event.migration, event.seconds, style="bold red")
        elif isinstance(event, LeaseTakenOver):
            self._took_over(event.previous_owner)
        elif isinstance(event, RenewalFailed):
            self._terminal.note(
                f"warning: the lease cannot be renewed: {escape_text(event.cause)}; the running "
                f"migration is cancelled in {duration(event.seconds_left)} unless this is fixed"
            )

    def _took_over(self, owner: str) -> None:
        self._terminal.say(f"took the lease over from {escape_text(owner)}, which is gone")

    def _finished(self, verb: str, event: MigrationApplied | MigrationRolledBack) -> None:
        self.done.append(event.migration)
        self._line(verb, event.migration, event.seconds, style="green")
        if self._coming and event.position < event.total:
            self._show(self._coming[event.position], done=event.position, total=event.total)

    def _line(self, verb: str, name: str, seconds: float, *, style: str) -> None:
        took = (f"  {duration(seconds)}", "dim")
        self._terminal.say(Text.assemble((f"{verb:<8}", style), f"  {escape_text(name)}", took))

    def _show(self, name: str, *, done: int, total: int) -> None:
        if self._terminal.is_json or not self._terminal.out.is_terminal:
            return
        if self._bar is None:
            self._bar = _LiveBar(self._terminal)
        self._bar.at(name, done=done, total=total)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _LiveBar:
    """One line below the finished ones: which migration, for how long, how many are done."""

    def __init__(self, terminal: Terminal) -> None:
        self._progress = Progress(
            SpinnerColumn(),
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

    def at(self, name: str, *, done: int, total: int) -> None:
        if name != self._name and total:
            self._progress.reset(self._task)  # the time is the migration's own
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
