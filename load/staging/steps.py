"""Runs one step after another, each with its verdicts, until one that makes the rest pointless."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lambda_migrate.errors import ConfigurationError, MigrateError
from lambda_migrate.local.runtime.process import ProcessError
from load.storm.verdicts import Verdict

__all__ = ["Findings", "Halted", "Step", "StepResult", "run_steps"]

Findings = tuple[list[Verdict], dict[str, Any]]
"""What a step has found: verdicts, and figures for the report."""


class Halted(Exception):
    """The step's findings make all later steps pointless."""

    def __init__(self, findings: Findings) -> None:
        super().__init__("halted")
        self.findings = findings


@dataclass(frozen=True, slots=True)
class Step:
    """A step to run, and the name of the storm that it is, if it is one."""

    name: str
    run: Callable[[], Findings]
    storm: str = ""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step found, and whether it halts the run."""

    name: str
    seconds: float
    verdicts: tuple[Verdict, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    halts: bool = False
    storm: str = ""


def run_steps(
    steps: Sequence[Step], on_result: Callable[[StepResult], object], *, last: str = ""
) -> Iterator[StepResult]:
    """Run the steps in order.

    Args:
        steps: All of them.
        on_result: Called with each result, also of steps that are skipped.
        last: The name of the step after which to end; "" for all of them.

    Raises:
        ConfigurationError: Something cannot be read, or is not installed.
    """
    halted_by = ""
    for step in steps:
        if halted_by:
            skipped = Verdict("not run", "not measured", f"after {halted_by!r}")
            result = StepResult(step.name, 0.0, (skipped,))
        else:
            result = _run(step)
        halted_by = halted_by or (step.name if result.halts else "")
        on_result(result)
        yield result
        if step.name == last:
            return


def _run(step: Step) -> StepResult:
    began, halts = time.monotonic(), False
    try:
        verdicts, facts = step.run()
    except Halted as halted:
        (verdicts, facts), halts = halted.findings, True
    except ConfigurationError:
        raise
    except (MigrateError, ProcessError) as error:
        verdicts, facts, halts = [Verdict("the step completed", "failed", str(error))], {}, True
    seconds = time.monotonic() - began
    return StepResult(step.name, seconds, tuple(verdicts), facts, halts=halts, storm=step.storm)
