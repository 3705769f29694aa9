"""The demo on a terminal while it runs: a table that lives there, plain lines elsewhere."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

from lambda_migrate.clock import SYSTEM_CLOCK, Clock
from lambda_migrate.local.demo.timeline import PHASES

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from lambda_migrate.local.demo.sampler import Sample
    from lambda_migrate.local.runtime.environment import EnvironmentEvent

__all__ = ["Board", "Tally"]

State = Literal["starting", "waiting", "serving", "failed", "ended"]


class Tally:
    """The states of one function's environments; an observer for `LocalFunction`.

    Args:
        label: How it is called on the board.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self._states: dict[str, State] = {}
        self._lock = threading.Lock()

    def note(self, happening: EnvironmentEvent) -> None:
        """Follow an environment."""
        following: dict[str, State] = {"started": "starting", "ended": "ended"}
        with self._lock:
            state = self._states.get(happening.environment_id)
            if happening.phase == "invoked" and state == "starting":
                self._states[happening.environment_id] = "waiting"
            elif happening.phase == "returned" and state == "waiting":
                self._states[happening.environment_id] = "serving"
            elif happening.phase in following and state not in ("failed", "ended"):
                self._states[happening.environment_id] = following[happening.phase]

    def put(self, environment_id: str, state: State) -> None:
        """What only somebody else can know: that it failed, or is there no more."""
        with self._lock:
            self._states[environment_id] = state

    def counts(self, *, migrating: int = 0) -> Counter[str]:
        """How many are in each phase.

        Args:
            migrating: Of those that were invoked and have not answered, so many migrate.
        """
        with self._lock:
            counts = Counter(str(state) for state in self._states.values())
        counts["migrating"] = min(migrating, counts["waiting"])
        counts["waiting"] -= counts["migrating"]
        return counts


class Board:
    """What is going on, for whoever watches.

    Args:
        console: A table is shown if it is a terminal.
        latest: The newest sample of connections.
        clock: For the time elapsed.
    """

    def __init__(
        self, console: Console, *, latest: Callable[[], Sample], clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._console = console
        self._latest = latest
        self._clock = clock
        self._began = clock.monotonic()
        self._tallies: list[Tally] = []
        self._most = [0, 0]
        self._now = ""

    def live(self) -> AbstractContextManager[object]:
        """Show the table for as long as the block lasts."""
        if not self._console.is_terminal:
            return nullcontext()
        from rich.live import Live

        return Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=8,
            transient=True,
        )

    def tally(self, label: str) -> Tally:
        """A further line of the table."""
        made = Tally(label)
        self._tallies.append(made)
        return made

    def now(self, what: str) -> None:
        """What is being done; a line of its own where there is no table."""
        self._now = what
        if not self._console.is_terminal:
            self._say(f"{what} ...")

    def done(self, what: str) -> None:
        """What has come to an end: a line that stays."""
        self._say(f"[green]✓[/] {what}" if self._console.is_terminal else what)

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{self._elapsed():6.1f} s[/]  {text}", highlight=False)

    def _elapsed(self) -> float:
        return self._clock.monotonic() - self._began

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        sample = self._latest()
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("environments", min_width=18)
        for phase, colour in PHASES.items():
            table.add_column(phase, justify="right", style=_TERMINAL.get(phase, colour))
        for tally in self._tallies:
            table.add_row(tally.label, *self._cells(tally, sample))
        head = Text.assemble((f"{self._elapsed():6.1f} s  ", "dim"), (self._now, "bold"))
        return Group(Text(), head, Text(), table, Text(), self._connections(sample))

    def _cells(self, tally: Tally, sample: Sample) -> list[str]:
        counts = tally.counts(migrating=sample.ours)
        return [str(counts[phase] or "·") for phase in PHASES]

    def _connections(self, sample: Sample) -> RenderableType:
        from rich.text import Text

        self._most = [max(self._most[0], sample.ours), max(self._most[1], sample.application)]
        return Text.assemble(
            ("PostgreSQL connections  ", "dim"),
            ("lambda-migrate ", ""),
            (f"{sample.ours}", "bold red" if sample.ours > 1 else "bold"),
            (f" (at most {self._most[0]})", "dim"),
            ("   the application ", ""),
            (f"{sample.application}", "bold"),
            (f" (at most {self._most[1]})", "dim"),
        )


_TERMINAL = {
    "starting": "dim",
    "waiting": "blue",
    "migrating": "bold dark_orange",
    "serving": "green",
    "failed": "bold red",
}
