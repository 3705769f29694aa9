"""Failures between the admin function and its request log; its contract is in tests/contract."""

from __future__ import annotations

from typing import Any

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.deploy.request_log import DynamoDBRequestLog, RequestRecord
from lambda_migrate.errors import ConfigurationError, LeaseStoreUnavailable
from lambda_migrate.testing import FakeClock
from tests.unit.lease.test_dynamodb import StubClient, client_error

THROTTLED = client_error("ThrottlingException")
CONDITION_FAILED = client_error("ConditionalCheckFailedException")
WRITTEN: dict[str, Any] = {"Attributes": {}}


def make_record(attempt: str) -> RequestRecord:
    return RequestRecord(command_text="[]", attempt_id=attempt, invocation_id="i", ends_by_ms=2)


RECORD = make_record("mine")


class RequestLogUnderTest:
    """A log whose table returns these responses, one after the other."""

    def __init__(self, *responses: Any) -> None:
        self.client, self.clock = StubClient(*responses), FakeClock()
        self.log = DynamoDBRequestLog(
            "leases", "orders", client=lambda: self.client, clock=self.clock
        )

    def write(self, record: RequestRecord, *, seconds: float = 60.0) -> RequestRecord | None:
        return self.log.write_record("r", record, Deadline.after(seconds, self.clock))


def make_item(record: RequestRecord) -> dict[str, Any]:
    """Build the item that holds ``record``, as writing it would."""
    tested = RequestLogUnderTest({}, WRITTEN)
    tested.write(record)
    _, change = tested.client.calls[-1]
    name = change["ExpressionAttributeNames"]["#record"]
    return {"Item": {name: change["ExpressionAttributeValues"][":record"]}}


def test_the_log_is_an_item_beside_the_targets() -> None:
    tested = RequestLogUnderTest({}, WRITTEN)
    assert tested.write(RECORD) is None
    assert {each["Key"]["target"]["S"] for _, each in tested.client.calls} == {"orders/requests"}


def test_a_write_to_a_throttled_table_is_retried() -> None:
    tested = RequestLogUnderTest(THROTTLED, {}, THROTTLED, {}, WRITTEN)
    assert tested.write(RECORD) is None
    assert len(tested.client.calls) == 5
    assert len(tested.clock.slept) == 2


def test_a_write_fails_if_the_table_stays_unavailable() -> None:
    tested = RequestLogUnderTest(THROTTLED)
    with pytest.raises(LeaseStoreUnavailable):
        tested.write(RECORD)
    assert len(tested.client.calls) == 4
    assert sum(tested.clock.slept) < 5


def test_a_write_ends_before_the_deadline() -> None:
    tested = RequestLogUnderTest(THROTTLED)
    with pytest.raises(LeaseStoreUnavailable):
        tested.write(RECORD, seconds=1)
    assert len(tested.client.calls) == 1
    assert tested.clock.slept == []


def test_a_write_whose_response_is_lost_is_repeated() -> None:
    lost = client_error("InternalServerError", status=500)
    tested = RequestLogUnderTest({}, lost, make_item(RECORD), WRITTEN)
    assert tested.write(RECORD) is None


def test_a_write_returns_the_record_of_a_concurrent_run() -> None:
    other = make_record("other")
    tested = RequestLogUnderTest({}, CONDITION_FAILED, make_item(other))
    assert tested.write(RECORD) == other


def test_a_write_succeeds_if_the_concurrent_record_is_removed() -> None:
    tested = RequestLogUnderTest({}, CONDITION_FAILED, {}, WRITTEN)
    assert tested.write(RECORD) is None
    assert len(tested.client.calls) == 4


def test_a_missing_permission_names_the_item() -> None:
    tested = RequestLogUnderTest({}, client_error("AccessDeniedException"))
    with pytest.raises(ConfigurationError, match="orders/requests"):
        tested.write(RECORD)


def test_remove_never_raises() -> None:
    responses: list[Any] = [WRITTEN, CONDITION_FAILED, THROTTLED]
    for response in responses:
        tested = RequestLogUnderTest(response)
        tested.log.remove_record("r", RECORD)
        assert len(tested.client.calls) == 1
