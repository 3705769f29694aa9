"""Failures between the admin function and its request log; its laws are in tests/contract."""

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
    return RequestRecord(
        command_fingerprint="[]", attempt_id=attempt, invocation_id="i", started_ms=1, ends_by_ms=2
    )


RECORD = make_record("mine")


def make_log(*responses: Any) -> tuple[DynamoDBRequestLog, StubClient, FakeClock]:
    client, clock = StubClient(*responses), FakeClock()
    log = DynamoDBRequestLog("leases", "orders", client=lambda: client, clock=clock)
    return log, client, clock


def make_item(record: RequestRecord) -> dict[str, Any]:
    """Build the item that holds ``record``, as writing it would."""
    log, client, _ = make_log({}, WRITTEN)
    log.begin_request("r", record)
    _, change = client.calls[-1]
    name = change["ExpressionAttributeNames"]["#record"]
    return {"Item": {name: change["ExpressionAttributeValues"][":record"]}}


def test_the_log_is_an_item_beside_the_targets() -> None:
    log, client, _ = make_log({}, WRITTEN)
    assert log.begin_request("r", RECORD) is None
    assert {each["Key"]["target"]["S"] for _, each in client.calls} == {"orders/requests"}


def test_begin_retries_a_throttled_table() -> None:
    log, client, clock = make_log(THROTTLED, {}, THROTTLED, {}, WRITTEN)
    assert log.begin_request("r", RECORD) is None
    assert len(client.calls) == 5
    assert len(clock.slept) == 2


def test_begin_fails_if_the_table_stays_unavailable() -> None:
    log, _, clock = make_log(THROTTLED)
    with pytest.raises(LeaseStoreUnavailable):
        log.begin_request("r", RECORD)
    assert sum(clock.slept) < 5


def test_begin_recognizes_its_own_write_after_a_lost_response() -> None:
    log, _, _ = make_log({}, client_error("InternalServerError", status=500), make_item(RECORD))
    assert log.begin_request("r", RECORD) is None


def test_begin_returns_the_record_of_a_concurrent_run() -> None:
    other = make_record("other")
    log, _, _ = make_log({}, CONDITION_FAILED, make_item(other))
    assert log.begin_request("r", RECORD) == other


def test_begin_succeeds_if_the_concurrent_record_is_forgotten() -> None:
    log, _, _ = make_log({}, CONDITION_FAILED, {})
    assert log.begin_request("r", RECORD) is None


def test_update_retries_and_then_gives_up() -> None:
    log, client, clock = make_log(THROTTLED, WRITTEN)
    assert log.update("r", RECORD, Deadline.after(60, clock))
    assert len(client.calls) == 2
    log, client, clock = make_log(THROTTLED)
    assert not log.update("r", RECORD, Deadline.after(60, clock))
    assert len(client.calls) == 4
    assert sum(clock.slept) < 5


def test_update_ends_before_the_deadline() -> None:
    log, client, clock = make_log(THROTTLED)
    assert not log.update("r", RECORD, Deadline.after(1, clock))
    assert len(client.calls) == 1
    assert clock.slept == []


def test_update_of_a_dropped_record_is_not_an_error() -> None:
    log, client, clock = make_log(CONDITION_FAILED)
    assert log.update("r", RECORD, Deadline.after(60, clock))
    assert len(client.calls) == 1


def test_a_missing_permission_names_the_item() -> None:
    log, _, _ = make_log({}, client_error("AccessDeniedException"))
    with pytest.raises(ConfigurationError, match="orders/requests"):
        log.begin_request("r", RECORD)


def test_forget_never_raises() -> None:
    responses: list[Any] = [WRITTEN, CONDITION_FAILED, THROTTLED]
    for response in responses:
        log, client, _ = make_log(response)
        log.forget_request("r", RECORD)
        assert len(client.calls) == 1
