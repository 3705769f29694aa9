"""Run measured processes, one or several in turns, and read their figures."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_PROCESS_TIMEOUT_SECONDS = 400.0
_FIGURES_PREFIX = "BENCH "


class MeasurementFailed(RuntimeError):
    """A measured process failed; its row has no figure."""


def print_figures(figures: Any) -> None:
    """Write figures as one line, among everything else that a measured process writes."""
    sys.stdout.write(f"\n{_FIGURES_PREFIX}{json.dumps(figures)}\n")


def read_figures(output: str) -> Any:
    """The figures in what a process has written; a ValueError if there are none."""
    for line in output.splitlines():
        if line.startswith(_FIGURES_PREFIX):
            return json.loads(line.removeprefix(_FIGURES_PREFIX))
    raise ValueError(f"a measured process printed no figures:\n{output}")


class Program(NamedTuple):
    """A command to run in a fresh process, with its directory and all its variables."""

    command: Sequence[str]
    directory: Path
    variables: Mapping[str, str]


class ProcessResult(NamedTuple):
    """A process that has ended."""

    wall_seconds: float
    cpu_seconds: float  # of processor time, with its children's
    output: str  # what it wrote, both streams


def run(program: Program) -> ProcessResult:
    """Run one process to its end, alone; it must succeed."""
    started_at, cpu = time.monotonic(), _read_children_cpu()
    try:
        done = subprocess.run(
            program.command,
            cwd=program.directory,
            env=dict(program.variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_PROCESS_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementFailed(str(error)) from error
    if done.returncode != 0:
        raise MeasurementFailed(f"a measured process exited with {done.returncode}:\n{done.stdout}")
    return ProcessResult(time.monotonic() - started_at, _read_children_cpu() - cpu, done.stdout)


def _read_children_cpu() -> float:
    """Processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


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
