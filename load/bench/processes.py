"""Run measured processes: one, several in turns, or hundreds at once."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "MeasurementFailed",
    "ProcessResult",
    "Program",
    "run",
    "run_alternating",
    "run_from_barrier",
]

_TIMEOUT_SECONDS = 400.0


class MeasurementFailed(RuntimeError):
    """A measured process failed; its row has no figure."""


@dataclass(frozen=True, slots=True)
class Program:
    """A command to run in a fresh process, with its directory and all its variables."""

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """A process that has ended.

    Attributes:
        pid: Its id.
        status: Exit status, negative for a signal.
        cpu: Seconds of processor time, user and system, its children's included.
        wall: Seconds until its end, from its start or from the opening of its gate.
        output: What it wrote, both streams.
    """

    pid: int
    status: int
    cpu: float
    wall: float
    output: str

    def check(self) -> ProcessResult:
        """Return self if it succeeded.

        Raises:
            MeasurementFailed: It failed; with its output.
        """
        if self.status != 0:
            raise MeasurementFailed(f"a measured process exited with {self.status}:\n{self.output}")
        return self


def run(program: Program) -> ProcessResult:
    """Run one process to its end; it must succeed."""
    with _processes() as started:
        began = time.monotonic()
        started.start(program)
        return started.wait(began)[0].check()


def run_alternating(
    programs: Mapping[str, Program], *, rounds: int
) -> dict[str, list[ProcessResult]]:
    """Run each once in every round, so that other load on the machine affects all alike.

    One more round runs first, to fill caches; it is not counted.
    """
    for program in programs.values():
        run(program)
    finished: dict[str, list[ProcessResult]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            finished[name].append(run(program))
    return finished


def run_from_barrier(
    programs: Sequence[Program], *, on_open: Callable[[], object] = lambda: None
) -> list[ProcessResult]:
    """Start all, wait until each is at its gate, and open it for all at the same moment.

    Loading libraries would otherwise spread their arrivals: they share this machine's cores, and
    have one each in Lambda.

    Args:
        programs: Each with a start barrier in it; see `load.bench.peers.START_BARRIER`.
        on_open: Called just before the gate opens.
    """
    with _processes() as started, tempfile.NamedTemporaryFile(prefix="lm-bench-") as ready:
        gate, key = os.pipe()
        try:
            for program in programs:
                started.start(program, gate=gate, ready=ready.name)
            while Path(ready.name).stat().st_size < len(programs):
                started.check_running()
                time.sleep(0.02)
            on_open()
            began = time.monotonic()
        finally:
            os.close(key)
            os.close(gate)
        return started.wait(began)


class _Processes:
    """Processes that write to files of one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []
        self.is_late = False

    def start(self, program: Program, *, gate: int = subprocess.DEVNULL, ready: str = "") -> None:
        """Start one; its standard input is the gate."""
        log = self._directory / str(len(self._running))
        with log.open("wb") as output:
            process = subprocess.Popen(
                program.command,
                cwd=program.directory,
                env={**program.environment, "BENCH_READY": ready},
                stdin=gate,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._running.append((process, log))

    def check_running(self) -> None:
        """Raise `MeasurementFailed` if one has ended or has taken too long."""
        for process, log in self._running:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if self.is_late or os.waitid(os.P_PID, process.pid, options):
                raise MeasurementFailed(f"a process did not reach its gate:\n{log.read_text()}")

    def wait(self, began: float) -> list[ProcessResult]:
        """Wait for all; each in a thread, so that each end is noticed when it happens."""

        def finish(process: subprocess.Popen[bytes], log: Path) -> ProcessResult:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.monotonic() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu = usage.ru_utime + usage.ru_stime
            output = log.read_text(errors="replace")
            return ProcessResult(process.pid, process.returncode, cpu, wall, output)

        with ThreadPoolExecutor(len(self._running)) as threads:
            return list(threads.map(finish, *zip(*self._running, strict=True)))

    def kill(self) -> None:
        """Kill those that still run, because time is over."""
        self.is_late = True
        for process, _ in self._running:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    def clean_up(self) -> None:
        """Kill and reap those that were not waited for."""
        for process, _ in self._running:
            process.kill()
            process.wait()


@contextmanager
def _processes() -> Iterator[_Processes]:
    """Processes that are all gone in the end; those that hang are killed."""
    with tempfile.TemporaryDirectory(prefix="lm-bench-") as directory:
        started = _Processes(Path(directory))
        timer = threading.Timer(_TIMEOUT_SECONDS, started.kill)
        timer.start()
        try:
            yield started
        finally:
            timer.cancel()
            started.clean_up()
