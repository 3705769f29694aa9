"""Processes from the outside: one, by turns with others; or hundreds at once."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "Finished",
    "MeasurementFailed",
    "Program",
    "by_turns",
    "run",
    "run_at_once",
    "run_gated",
]

_TIMEOUT_SECONDS = 400.0


class MeasurementFailed(RuntimeError):
    """A measured process did not do what it was to do; its row has no figure."""


@dataclass(frozen=True, slots=True)
class Program:
    """Something to run in a fresh process.

    Attributes:
        command: Program and arguments.
        directory: Where it starts.
        environment: All its variables.
    """

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended.

    Attributes:
        pid: Its id.
        status: Exit status, negative for a signal.
        cpu: Seconds of processor time, user's and system's, with its children's.
        wall: Seconds to its end, from the start of all or the opening of their gate.
        output: What it wrote, both streams.
    """

    pid: int
    status: int
    cpu: float
    wall: float
    output: str

    def check(self) -> Finished:
        """Return self if it succeeded.

        Raises:
            MeasurementFailed: It failed; with its output.
        """
        if self.status != 0:
            raise MeasurementFailed(f"a measured process ended with {self.status}:\n{self.output}")
        return self


def run(program: Program) -> Finished:
    """Run one process to its end; it must succeed."""
    return run_at_once([program])[0].check()


def by_turns(programs: Mapping[str, Program], *, rounds: int) -> dict[str, list[Finished]]:
    """Run each once in every round: what the machine does meanwhile hits all alike.

    One round more runs before them, for the caches, and is not counted.
    """
    finished: dict[str, list[Finished]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            one = run(program)
            if number:
                finished[name].append(one)
    return finished


def run_at_once(programs: Sequence[Program]) -> list[Finished]:
    """Start all, then wait for all; in the order of their ends. What hangs is killed."""
    with _Crowd() as crowd:
        began = time.monotonic()
        for program in programs:
            crowd.start(program)
        return crowd.collect(began)


def run_gated(
    programs: Sequence[Program], *, on_open: Callable[[], object] = lambda: None
) -> list[Finished]:
    """Start all, wait until each stands at its gate, open it for all at the same moment.

    What loads before the gate would otherwise spread their arrivals: they share two cores here,
    and have one each in Lambda.

    Args:
        programs: Each with a gate in it; see `load.bench.peers.GATE`.
        on_open: Called just before it opens.
    """
    with _Crowd() as crowd, tempfile.NamedTemporaryFile(prefix="lm-bench-") as ready:
        gate, key = os.pipe()
        try:
            for program in programs:
                crowd.start(program, gate=gate, ready=Path(ready.name))
            crowd.wait_until(lambda: Path(ready.name).stat().st_size >= len(programs))
            on_open()
            began = time.monotonic()
        finally:
            os.close(key)
            os.close(gate)
        return crowd.collect(began)


class _Crowd:
    """Processes that are started, collected, and gone in the end."""

    def __init__(self) -> None:
        self._logs = tempfile.TemporaryDirectory(prefix="lm-bench-")
        self._running: dict[int, tuple[subprocess.Popen[bytes], Path]] = {}
        self._until = time.monotonic() + _TIMEOUT_SECONDS

    def __enter__(self) -> _Crowd:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process, _ in self._running.values():
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self._logs.cleanup()

    def start(
        self, program: Program, *, gate: int = subprocess.DEVNULL, ready: Path | None = None
    ) -> None:
        """Start one; its standard input is the gate."""
        log = Path(self._logs.name) / str(len(self._running))
        extra = {} if ready is None else {"BENCH_READY": str(ready)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                list(program.command),
                cwd=program.directory,
                env={**program.environment, **extra},
                stdin=gate,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._running[process.pid] = process, log

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that they do.

        Raises:
            MeasurementFailed: One of them ended, or time is over, and it did not come about.
        """
        while not holds():
            if time.monotonic() > self._until:
                raise MeasurementFailed("some processes never came to their gate")
            for process, log in self._running.values():
                if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    raise MeasurementFailed(f"one ended before its gate:\n{log.read_text()}")
            time.sleep(0.02)

    def collect(self, began: float) -> list[Finished]:
        """Wait for all of them."""
        return [self._next(began) for _ in tuple(self._running)]

    def _next(self, began: float) -> Finished:
        """Wait for the next of ours to end, and for nobody else's child."""
        while True:
            for pid, (process, log) in self._running.items():
                if time.monotonic() > self._until:
                    process.kill()
                ended, status, usage = os.wait4(pid, os.WNOHANG)
                if ended:
                    wall = time.monotonic() - began
                    process.returncode = os.waitstatus_to_exitcode(status)
                    del self._running[pid]
                    cpu = usage.ru_utime + usage.ru_stime
                    output = log.read_text(errors="replace")
                    return Finished(pid, process.returncode, cpu, wall, output)
            time.sleep(0.0005 if len(self._running) == 1 else 0.005)
