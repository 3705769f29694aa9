"""One step after another."""

from __future__ import annotations

import pytest

from lambda_migrate.errors import ConfigurationError, LeaseHeld
from load.staging.steps import Findings, Halted, Step, StepResult, run_steps
from load.storm.verdicts import Verdict

FINE = Verdict("it works", "passed", "")
BROKEN = Verdict("it works", "failed", "not at all")


def fine() -> Findings:
    return [FINE], {"figure": 1}


def halts() -> Findings:
    raise Halted(([BROKEN], {}))


def fails() -> Findings:
    raise LeaseHeld("another process holds the lease")


def refuses() -> Findings:
    raise ConfigurationError("there is no such file")


def states(*steps: Step, last: str = "") -> list[list[str]]:
    heard: list[StepResult] = []
    results = list(run_steps(steps, heard.append, last=last))
    assert heard == results
    return [[one.state for one in result.verdicts] for result in results]


def test_steps_after_a_halt_are_skipped() -> None:
    steps = (Step("one", fine), Step("two", halts), Step("three", fine), Step("four", halts))
    assert states(*steps) == [["passed"], ["failed"], ["not measured"], ["not measured"]]
    [*_, left_out] = run_steps(steps, lambda _: None)
    assert left_out.verdicts[0].found == "after 'two'"


def test_failed_verdict_does_not_halt() -> None:
    assert states(Step("one", lambda: ([BROKEN], {})), Step("two", fine)) == [
        ["failed"],
        ["passed"],
    ]


def test_error_is_a_failed_verdict() -> None:
    [step, _] = run_steps([Step("one", fails), Step("two", fine)], lambda _: None)
    assert step.halts
    assert step.verdicts == (
        Verdict("the step completed", "failed", "another process holds the lease"),
    )


def test_configuration_error_is_raised() -> None:
    with pytest.raises(ConfigurationError):
        list(run_steps([Step("one", refuses)], lambda _: None))


def test_last_step_can_be_chosen() -> None:
    assert states(Step("one", fine), Step("two", fine), last="one") == [["passed"]]


def test_result_has_figures_and_storm() -> None:
    [step] = run_steps([Step("one", fine, "deployment")], lambda _: None)
    assert (step.facts, step.storm) == ({"figure": 1}, "deployment")
