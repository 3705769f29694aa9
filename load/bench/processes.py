"""Run measured processes: one, several in turns, or hundreds at once; and read their figures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

_TIMEOUT_SECONDS = 400.0
_PREFIX = "BENCH "


class MeasurementFailed(RuntimeError):
    """A measured process failed; its row has no figure."""


def print_figures(figures: Any) -> None:
    """Write figures as one line, among everything else that a measured process writes."""
    sys.stdout.write(f"\n{_PREFIX}{json.dumps(figures)}\n")


def read_figures(output: str) -> Any:
    """The figures in what a process has written.

    Raises:
        ValueError: There are none.
    """
    for line in output.splitlines():
        if line.startswith(_PREFIX):
            return json.loads(line.removeprefix(_PREFIX))
    raise ValueError(f"a measured process printed no figures:\n{output}")


class Program(NamedTuple):
    """A command to run in a fresh process, with its directory and all its variables."""

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]


class ProcessResult(NamedTuple):
    """A process that has ended."""

    pid: int  # its id
    status: int  # exit status, negative for a signal
    cpu: float  # seconds of processor time, user and system, its children's included
    wall: float  # seconds until its end, from its start or from the opening of the barrier
    output: str  # what it wrote, both streams


class Process:
    """A process that has been started; it is gone when its stack is closed."""

    def __init__(
        self, stack: ExitStack, program: Program, *, stdin: int = subprocess.DEVNULL
    ) -> None:
        self._log: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it is one
        self._popen = subprocess.Popen(
            program.command,
            cwd=program.directory,
            env=dict(program.environment),
            stdin=stdin,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.pid = self._popen.pid
        stack.callback(self._popen.wait)
        stack.callback(self._popen.kill)

    def read_output(self) -> str:
        """What it has written, without moving the position at which it writes."""
        log = self._log.fileno()
        return os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace")

    def kill(self) -> None:
        """End it at once, unless it has ended."""
        if self._popen.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Whether it has ended; `wait` still has its figures."""
        return bool(os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))

    def wait(self, started_at: float) -> ProcessResult:
        """Wait until it ends."""
        _, status, usage = os.wait4(self.pid, 0)
        wall = time.monotonic() - started_at
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        cpu = usage.ru_utime + usage.ru_stime
        return ProcessResult(self.pid, self._popen.returncode, cpu, wall, self.read_output())


@contextmanager
def _start(
    programs: Sequence[Program], *, stdin: int = subprocess.DEVNULL
) -> Iterator[list[Process]]:
    """Start all; those that hang are killed."""
    with ExitStack() as stack:
        processes = [Process(stack, program, stdin=stdin) for program in programs]
        timer = threading.Timer(_TIMEOUT_SECONDS, lambda: list(map(Process.kill, processes)))
        stack.callback(timer.cancel)
        timer.start()
        yield processes


def run(program: Program) -> ProcessResult:
    """Run one process to its end; it must succeed."""
    started_at = time.monotonic()
    with _start([program]) as [process]:
        result = process.wait(started_at)
    if result.status != 0:
        raise MeasurementFailed(f"a measured process exited with {result.status}:\n{result.output}")
    return result


def run_alternating(
    programs: Mapping[str, Program], *, rounds: int
) -> dict[str, list[ProcessResult]]:
    """Run each once in every round, so that other load on the machine affects all alike.

    One more round runs first, to fill caches; it is not counted.
    """
    results: dict[str, list[ProcessResult]] = {name: [] for name in programs}
    for _ in range(rounds + 1):
        for name, program in programs.items():
            results[name].append(run(program))
    return {name: each[1:] for name, each in results.items()}


def run_from_barrier(
    program: Program, count: int, *, on_open: Callable[[], object]
) -> list[ProcessResult]:
    """Start many, wait until each is at the start barrier, and open it for all at once.

    Loading libraries would otherwise spread their arrivals: they share this machine's cores, and
    have one each in Lambda.

    Args:
        program: With a start barrier in it; see `load.bench.tools.START_BARRIER`.
        count: How many.
        on_open: Called just before the barrier opens.
    """
    barrier, key = os.pipe()
    with tempfile.NamedTemporaryFile(prefix="lm-bench-") as ready:
        environment = {**program.environment, "BENCH_READY": ready.name}
        waiting = program._replace(environment=environment)
        with _start([waiting] * count, stdin=barrier) as processes:
            try:
                while Path(ready.name).stat().st_size < count:
                    for process in processes:
                        if process.has_ended():
                            error = f"did not reach the start barrier:\n{process.read_output()}"
                            raise MeasurementFailed(f"a process {error}")
                    time.sleep(0.02)
                on_open()
                opened_at = time.monotonic()
            finally:
                os.close(key)
                os.close(barrier)
            with ThreadPoolExecutor(count) as threads:  # each end is noticed when it happens
                return list(threads.map(lambda process: process.wait(opened_at), processes))
