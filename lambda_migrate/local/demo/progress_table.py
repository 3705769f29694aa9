"""The progress of the demo: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

from lambda_migrate.clock import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from lambda_migrate.local.demo.sampler import Sample
    from lambda_migrate.local.runtime.environment import EnvironmentEvent

__all__ = ["ProgressTable", "StateCounter"]

CounterState = Literal["starting", "ready", "waiting", "serving", "failed", "ended"]
_COLUMNS = ("starting", "ready", "waiting", "migrating", "serving", "failed")
_REPORTED_SHARES = 4
"""Without a terminal, a line is printed whenever so large a part of the environments is ready."""


class StateCounter:
    """Counts the environments of one function by state; an observer for `LocalFunction`.

    Args:
        label: The row's label in the table.
        on_ready: Called whenever an environment is ready for its first invocation, with the number
            of those that are or were.
    """

    def __init__(
        self, label: str, *, on_ready: Callable[[int], None] = lambda _count: None
    ) -> None:
        self.label = label
        self._on_ready = on_ready
        self._ready_count = 0
        self._states: dict[str, CounterState] = {}
        self._lock = threading.Lock()

    def observe(self, event: EnvironmentEvent) -> None:
        """Update the state of an environment."""
        states: dict[str, CounterState] = {"started": "starting", "ended": "ended"}
        with self._lock:
            state = self._states.get(event.environment_id)
            if event.phase == "ready" and state == "starting":
                self._states[event.environment_id] = "ready"
                self._ready_count += 1
                self._on_ready(self._ready_count)
            elif event.phase == "invoked" and state in ("starting", "ready"):
                self._states[event.environment_id] = "waiting"
            elif event.phase == "returned" and state == "waiting":
                self._states[event.environment_id] = "serving"
            elif event.phase in states and state not in ("failed", "ended"):
                self._states[event.environment_id] = states[event.phase]

    def set_state(self, environment_id: str, state: CounterState) -> None:
        """Set a state that the events do not show."""
        with self._lock:
            self._states[environment_id] = state

    def counts(self, *, migrating: int = 0) -> Counter[str]:
        """The number of environments in each phase.

        Args:
            migrating: How many of the waiting environments migrate.
        """
        with self._lock:
            counts = Counter(str(state) for state in self._states.values())
        counts["migrating"] = min(migrating, counts["waiting"])
        counts["waiting"] -= counts["migrating"]
        return counts


class ProgressTable:
    """Shows the current step and the environments by state.

    Args:
        console: Shows a table if it is a terminal, else lines.
        latest: Returns the newest sample of connections.
        clock: The clock of the elapsed time.
    """

    def __init__(
        self, console: Console, *, latest: Callable[[], Sample], clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._console = console
        self._latest = latest
        self._clock = clock
        self._began = clock.monotonic()
        self._counters: list[StateCounter] = []
        self._maximum = [0, 0]
        self._step = ""

    def live(self) -> AbstractContextManager[object]:
        """Show the table for the length of the block."""
        if not self._console.is_terminal:
            return nullcontext()
        from rich.live import Live

        return Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=8,
            transient=True,
        )

    def add_counter(self, label: str, *, environments: int) -> StateCounter:
        """Add a row to the table.

        Args:
            label: The row's label.
            environments: How many environments will start together.
        """

        def report(ready: int) -> None:
            share = max(1, environments // _REPORTED_SHARES)
            if not self._console.is_terminal and ready % share == 0 and ready <= environments:
                self._print(f"{label}: {ready} of {environments} environments are ready")

        counter = StateCounter(label, on_ready=report)
        self._counters.append(counter)
        return counter

    def start_step(self, text: str) -> None:
        """Show the current step."""
        self._step = text
        if not self._console.is_terminal:
            self._print(f"{text} ...")

    def finish_step(self, text: str) -> None:
        """Print a line about a finished step."""
        self._print(f"[green]{text}[/]" if self._console.is_terminal else text)

    def _print(self, text: str) -> None:
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
        for column in _COLUMNS:
            table.add_column(column, justify="right", style=_TERMINAL[column])
        for counter in self._counters:
            table.add_row(counter.label, *self._cells(counter, sample))
        head = Text.assemble((f"{self._elapsed():6.1f} s  ", "dim"), (self._step, "bold"))
        return Group(Text(), head, Text(), table, Text(), self._connections(sample))

    def _cells(self, counter: StateCounter, sample: Sample) -> list[str]:
        counts = counter.counts(migrating=sample.library_connections)
        return [str(counts[column] or "-") for column in _COLUMNS]

    def _connections(self, sample: Sample) -> RenderableType:
        from rich.text import Text

        self._maximum = [
            max(self._maximum[0], sample.library_connections),
            max(self._maximum[1], sample.application_connections),
        ]
        return Text.assemble(
            ("PostgreSQL connections: ", "dim"),
            ("lambda-migrate ", ""),
            (
                f"{sample.library_connections}",
                "bold red" if sample.library_connections > 1 else "bold",
            ),
            (f" (max {self._maximum[0]})", "dim"),
            (", application ", ""),
            (f"{sample.application_connections}", "bold"),
            (f" (max {self._maximum[1]})", "dim"),
        )


_TERMINAL = {
    "starting": "dim",
    "ready": "",
    "waiting": "blue",
    "migrating": "bold dark_orange",
    "serving": "green",
    "failed": "bold red",
}
