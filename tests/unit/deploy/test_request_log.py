"""What can go wrong between the admin function and its log; the laws are in tests/contract."""

from __future__ import annotations

from typing import Any

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.deploy.request_log import RequestTable, Run
from lambda_migrate.errors import ConfigurationError, LeaseStoreUnavailable
from lambda_migrate.testing import FakeClock
from tests.unit.lease.test_dynamodb import Answers, refusal

BUSY = refusal("ThrottlingException")
LOST = refusal("ConditionalCheckFailedException")
RUN = Run(asked="[]", attempt="mine", invocation="i", began_ms=1, until_ms=2)


def log_of(*answers: Any) -> tuple[RequestTable, Answers, FakeClock]:
    client, clock = Answers(*answers), FakeClock()
    return RequestTable("leases", "orders", client=lambda: client, clock=clock), client, clock


def written(run: Run) -> dict[str, Any]:
    """The item that holds ``run``, as its writing would make it."""
    log, client, _ = log_of({}, {"Attributes": {}})
    log.begin("r", run)
    _, change = client.asked[-1]
    name = change["ExpressionAttributeNames"]["#run"]
    return {"Item": {name: change["ExpressionAttributeValues"][":run"]}}


def test_the_log_is_an_item_beside_the_targets() -> None:
    log, client, _ = log_of({}, {"Attributes": {}})
    assert log.begin("r", RUN) is None
    assert {each["Key"]["target"]["S"] for _, each in client.asked} == {"orders/requests"}


def test_a_busy_table_is_tried_again_before_anything_begins() -> None:
    log, client, clock = log_of(BUSY, {}, BUSY, {}, {"Attributes": {}})
    assert log.begin("r", RUN) is None
    assert len(client.asked) == 5
    assert len(clock.slept) == 2


def test_a_table_that_stays_away_lets_nothing_begin() -> None:
    log, _, clock = log_of(BUSY)
    with pytest.raises(LeaseStoreUnavailable):
        log.begin("r", RUN)
    assert sum(clock.slept) < 5


def test_a_beginning_whose_answer_was_lost_is_ones_own() -> None:
    log, _, _ = log_of({}, refusal("InternalServerError", status=500), written(RUN))
    assert log.begin("r", RUN) is None


def test_who_loses_to_another_finds_the_other() -> None:
    other = Run(asked="[]", attempt="other", invocation="i", began_ms=1, until_ms=2)
    log, _, _ = log_of({}, LOST, written(other))
    assert log.begin("r", RUN) == other


def test_what_vanished_between_two_looks_may_begin() -> None:
    log, _, _ = log_of({}, LOST, {})
    assert log.begin("r", RUN) is None


def test_an_answer_is_written_down_as_far_as_that_can_be_done() -> None:
    log, client, clock = log_of(BUSY, {"Attributes": {}})
    log.end("r", RUN, Deadline.after(60, clock))
    assert len(client.asked) == 2
    log, client, clock = log_of(BUSY)
    log.end("r", RUN, Deadline.after(60, clock))
    assert len(client.asked) == 4
    assert sum(clock.slept) < 5


def test_writing_an_answer_down_does_not_outlast_the_invocation() -> None:
    log, client, clock = log_of(BUSY)
    log.end("r", RUN, Deadline.after(1, clock))
    assert len(client.asked) == 1
    assert clock.slept == []


def test_an_answer_that_was_forgotten_meanwhile_is_no_fault() -> None:
    log, client, clock = log_of(LOST)
    log.end("r", RUN, Deadline.after(60, clock))
    assert len(client.asked) == 1


def test_a_missing_permission_names_the_item() -> None:
    log, _, _ = log_of({}, refusal("AccessDeniedException"))
    with pytest.raises(ConfigurationError, match="orders/requests"):
        log.begin("r", RUN)


def test_forgetting_is_done_as_far_as_it_can_be() -> None:
    answers: list[Any] = [{"Attributes": {}}, LOST, BUSY]
    for answer in answers:
        log, client, _ = log_of(answer)
        log.forget("r", RUN)
        assert len(client.asked) == 1
