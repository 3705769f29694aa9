"""Run measured processes: one, several in turns, or hundreds at once; and read their figures."""

from __future__ import annotations

import itertools
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
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

    pid: int
    status: int  # exit status, negative for a signal
    wall: float  # seconds until its end, from its start or from the opening of the barrier
    output: str  # what it wrote, both streams
    cpu: float = 0.0  # seconds of processor time with its children's, where it ran alone


def run(program: Program) -> ProcessResult:
    """Run one process to its end, alone; it must succeed."""
    started_at, cpu = time.monotonic(), _children_cpu()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = _start(program, subprocess.DEVNULL, log)
        result = _finish(process, log, started_at)
    if result.status != 0:
        raise MeasurementFailed(f"a measured process exited with {result.status}:\n{result.output}")
    return result._replace(cpu=_children_cpu() - cpu)


def _children_cpu() -> float:
    """Processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _start(program: Program, stdin: int, log: IO[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        program.command,
        cwd=program.directory,
        env=dict(program.environment),
        stdin=stdin,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def _finish(process: subprocess.Popen[bytes], log: IO[str], started_at: float) -> ProcessResult:
    """Wait until it ends; one that hangs is killed."""
    end = os.pidfd_open(process.pid)  # Popen.wait would poll: its times are up to 50 ms late
    if not select.select([end], [], [], _TIMEOUT_SECONDS)[0]:
        process.kill()
    os.close(end)
    status = process.wait()
    return ProcessResult(process.pid, status, time.monotonic() - started_at, _read(log))


def _read(log: IO[str]) -> str:
    log.seek(0)
    return log.read()


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
    with tempfile.NamedTemporaryFile(prefix="lm-bench-") as ready, ExitStack() as stack:
        waiting = program._replace(environment={**program.environment, "BENCH_READY": ready.name})
        logs = [
            stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            for _ in range(count)
        ]
        processes = [_start(waiting, barrier, log) for log in logs]
        for process in processes:
            stack.callback(process.wait)
            stack.callback(process.kill)
        try:
            while Path(ready.name).stat().st_size < count:
                for process, log in zip(processes, logs, strict=True):
                    if process.poll() is not None:
                        raise MeasurementFailed(
                            f"a process did not reach the barrier:\n{_read(log)}"
                        )
                time.sleep(0.02)
            on_open()
            opened_at = time.monotonic()
        finally:
            os.close(key)
            os.close(barrier)
        with ThreadPoolExecutor(count) as threads:  # each end is noticed when it happens
            return list(threads.map(_finish, processes, logs, itertools.repeat(opened_at)))
