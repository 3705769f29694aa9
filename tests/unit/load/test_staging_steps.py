"""One step after another."""

from __future__ import annotations

import pytest

from lambda_migrate.errors import ConfigurationError, LeaseHeld
from load.staging.steps import Deed, Halted, Told, played
from load.staging.verdicts import Step
from load.storm.verdicts import Verdict

FINE = Verdict("it works", "passed", "")
BROKEN = Verdict("it works", "failed", "not at all")


def fine() -> Told:
    return [FINE], {"figure": 1}


def halts() -> Told:
    raise Halted(([BROKEN], {}))


def fails() -> Told:
    raise LeaseHeld("somebody else is at it")


def refuses() -> Told:
    raise ConfigurationError("there is no such file")


def states(*deeds: Deed, last: str = "") -> list[list[str]]:
    heard: list[Step] = []
    steps = list(played(deeds, heard.append, last=last))
    assert heard == steps
    return [[one.state for one in step.verdicts] for step in steps]


def test_after_a_step_that_halts_the_others_are_not_done() -> None:
    deeds = (Deed("one", fine), Deed("two", halts), Deed("three", fine), Deed("four", halts))
    assert states(*deeds) == [["passed"], ["failed"], ["not measured"], ["not measured"]]
    [*_, left_out] = played(deeds, lambda _: None)
    assert left_out.verdicts[0].found == "after 'two'"


def test_a_failed_verdict_alone_halts_nothing() -> None:
    assert states(Deed("one", lambda: ([BROKEN], {})), Deed("two", fine)) == [
        ["failed"],
        ["passed"],
    ]


def test_what_a_step_could_not_do_is_its_verdict() -> None:
    [step, _] = played([Deed("one", fails), Deed("two", fine)], lambda _: None)
    assert step.halts
    assert step.verdicts == (Verdict("it came to its end", "failed", "somebody else is at it"),)


def test_wrong_usage_is_no_verdict() -> None:
    with pytest.raises(ConfigurationError):
        list(played([Deed("one", refuses)], lambda _: None))


def test_one_may_end_before_the_end() -> None:
    assert states(Deed("one", fine), Deed("two", fine), last="one") == [["passed"]]


def test_a_step_has_its_figures_and_its_storm() -> None:
    [step] = played([Deed("one", fine, "deployment")], lambda _: None)
    assert (step.facts, step.phase) == ({"figure": 1}, "deployment")
