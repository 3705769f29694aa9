"""Runs one step after another, until one that makes the rest pointless."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lambda_migrate.errors import ConfigurationError, MigrateError
from lambda_migrate.local.runtime.process import ProcessError
from load.storm.verdicts import Verdict

__all__ = ["Step", "StepOutcome", "StepResult", "run_steps"]


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a step returns: verdicts, facts for the report, whether later steps are pointless."""

    verdicts: Sequence[Verdict]
    facts: Mapping[str, Any] = field(default_factory=dict)
    is_last: bool = False


Step = tuple[str, Callable[[], StepOutcome]]
"""A step's name, and what it does."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that has run, or was skipped."""

    name: str
    seconds: float
    verdicts: Sequence[Verdict]
    facts: Mapping[str, Any] = field(default_factory=dict)


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
    stopped_by = ""
    for name, run in steps:
        if stopped_by:
            skipped = Verdict("not run", "not measured", f"after {stopped_by!r}")
            result = StepResult(name, 0.0, [skipped])
        else:
            began = time.monotonic()
            outcome = _run(run)
            stopped_by = name if outcome.is_last else ""
            seconds = time.monotonic() - began
            result = StepResult(name, seconds, outcome.verdicts, outcome.facts)
        on_result(result)
        yield result
        if name == last:
            return


def _run(run: Callable[[], StepOutcome]) -> StepOutcome:
    try:
        return run()
    except ConfigurationError:
        raise
    except (MigrateError, ProcessError) as error:
        return StepOutcome([Verdict("the step completed", "failed", str(error))], is_last=True)
