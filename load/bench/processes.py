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
from pathlib import Path
from typing import NamedTuple

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


class Program(NamedTuple):
    """A command to run in a fresh process, with its directory and all its variables."""

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]


class ProcessResult(NamedTuple):
    """A process that has ended.

    Attributes:
        pid: Its id.
        status: Exit status, negative for a signal.
        cpu: Seconds of processor time, user and system, its children's included.
        wall: Seconds until its end, from its start or from the opening of the barrier.
        output: What it wrote, both streams.
    """

    pid: int
    status: int
    cpu: float
    wall: float
    output: str


def run(program: Program) -> ProcessResult:
    """Run one process to its end; it must succeed."""
    started_at = time.monotonic()
    with _start([program]) as processes:
        [result] = _wait_for_all(processes, started_at)
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
    programs: Sequence[Program], *, on_open: Callable[[], object] = lambda: None
) -> list[ProcessResult]:
    """Start all, wait until each is at the start barrier, and open it for all at once.

    Loading libraries would otherwise spread their arrivals: they share this machine's cores, and
    have one each in Lambda.

    Args:
        programs: Each with a start barrier in it; see `load.bench.tools.START_BARRIER`.
        on_open: Called just before the barrier opens.
    """
    barrier, key = os.pipe()
    with (
        tempfile.NamedTemporaryFile(prefix="lm-bench-") as ready,
        _start(programs, barrier=barrier, ready_file=ready.name) as processes,
    ):
        try:
            while Path(ready.name).stat().st_size < len(programs):
                for process, log in processes:
                    if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                        raise MeasurementFailed(
                            f"a process did not reach the start barrier:\n{log.read_text()}"
                        )
                time.sleep(0.02)
            on_open()
            opened_at = time.monotonic()
        finally:
            os.close(key)
            os.close(barrier)
        return _wait_for_all(processes, opened_at)


_Processes = Sequence[tuple["subprocess.Popen[bytes]", Path]]


@contextmanager
def _start(
    programs: Sequence[Program], *, barrier: int = subprocess.DEVNULL, ready_file: str = ""
) -> Iterator[_Processes]:
    """Processes, each with its log, that are all gone in the end; those that hang are killed."""
    processes: list[tuple[subprocess.Popen[bytes], Path]] = []

    def kill_all() -> None:
        for process, _ in processes:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    timer = threading.Timer(_TIMEOUT_SECONDS, kill_all)
    with tempfile.TemporaryDirectory(prefix="lm-bench-") as directory:
        timer.start()
        try:
            for number, program in enumerate(programs):
                log = Path(directory, str(number))
                with log.open("wb") as output:
                    process = subprocess.Popen(
                        program.command,
                        cwd=program.directory,
                        env={**program.environment, "BENCH_READY": ready_file},
                        stdin=barrier,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                processes.append((process, log))
            yield processes
        finally:
            timer.cancel()
            for process, _ in processes:
                process.kill()
                process.wait()


def _wait_for_all(processes: _Processes, started_at: float) -> list[ProcessResult]:
    """Wait for each in a thread, so that each end is noticed when it happens."""

    def wait(process: subprocess.Popen[bytes], log: Path) -> ProcessResult:
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started_at
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu = usage.ru_utime + usage.ru_stime
        output = log.read_text(errors="replace")
        return ProcessResult(process.pid, process.returncode, cpu, wall, output)

    with ThreadPoolExecutor(len(processes)) as threads:
        return list(threads.map(wait, *zip(*processes, strict=True)))
