"""One step after another."""

from __future__ import annotations

import pytest

from lambda_migrate.errors import ConfigurationError, LeaseHeld
from load.staging.steps import Step, StepOutcome, StepResult, run_steps
from load.storm.verdicts import Verdict

FINE = Verdict("it works", "passed", "")
BROKEN = Verdict("it works", "failed", "not at all")


def succeed() -> StepOutcome:
    return StepOutcome([FINE], {"rows": 1})


def stop() -> StepOutcome:
    return StepOutcome([BROKEN], is_last=True)


def raise_error() -> StepOutcome:
    raise LeaseHeld("another process holds the lease")


def refuse() -> StepOutcome:
    raise ConfigurationError("there is no such file")


def states(*steps: Step, last: str = "") -> list[list[str]]:
    reported: list[StepResult] = []
    results = list(run_steps(steps, reported.append, last=last))
    assert reported == results
    return [[one.state for one in result.verdicts] for result in results]


def test_steps_after_the_last_one_are_skipped() -> None:
    steps: list[Step] = [("one", succeed), ("two", stop), ("three", succeed), ("four", stop)]
    assert states(*steps) == [["passed"], ["failed"], ["not measured"], ["not measured"]]
    [*_, skipped] = run_steps(steps, lambda _: None)
    assert skipped.verdicts[0].found == "after 'two'"


def test_failed_verdict_does_not_stop_the_run() -> None:
    failing: Step = ("one", lambda: StepOutcome([BROKEN]))
    assert states(failing, ("two", succeed)) == [["failed"], ["passed"]]


def test_error_is_a_failed_verdict_and_stops_the_run() -> None:
    [failed, skipped] = run_steps([("one", raise_error), ("two", succeed)], lambda _: None)
    error = "another process holds the lease"
    assert failed.verdicts == [Verdict("the step completed", "failed", error)]
    assert skipped.verdicts[0].state == "not measured"


def test_configuration_error_is_raised() -> None:
    with pytest.raises(ConfigurationError):
        list(run_steps([("one", refuse)], lambda _: None))


def test_last_step_can_be_chosen() -> None:
    assert states(("one", succeed), ("two", succeed), last="one") == [["passed"]]
