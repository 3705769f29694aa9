"""The contract of the admin function's request log: in memory, and on DynamoDB."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.deploy.request_log import (
    MAX_RECORDS,
    DynamoDBRequestLog,
    RequestLog,
    RequestRecord,
)
from lambda_migrate.testing import FakeClock, InMemoryRequestLog
from tests.contract.leases import DynamoDBTables

MakeLog = Callable[[], RequestLog]
DEADLINE = Deadline.after(600)
RESPONSE: dict[str, Any] = {"exit_code": 0, "document": {"applied": ["0001_größer"], "seconds": 1}}


@pytest.fixture(params=["memory", "dynamodb"])
def make_log(request: pytest.FixtureRequest) -> MakeLog:
    """Make views of one log, as separate invocations have them."""
    if request.param == "memory":
        log = InMemoryRequestLog()
        return lambda: log
    tables: DynamoDBTables = request.getfixturevalue("tables")
    target = f"orders-{uuid4().hex}"
    return lambda: DynamoDBRequestLog(
        tables.table, target, client=lambda: tables._client, clock=FakeClock()
    )


def make_record(attempt: str = "a", *, ends_by_ms: int = 9, **changes: Any) -> RequestRecord:
    record = RequestRecord(
        command_text='["up"]', attempt_id=attempt, invocation_id="i", ends_by_ms=ends_by_ms
    )
    return replace(record, **changes)


def begin(log: RequestLog, request_id: str, record: RequestRecord) -> RequestRecord | None:
    return log.write_record(request_id, record, DEADLINE)


def find(log: RequestLog, request_id: str) -> RequestRecord | None:
    """Read a record through the port, which only writes records."""
    probe = make_record("probe")
    found = begin(log, request_id, probe)
    if found is None:
        log.remove_record(request_id, probe)
    return found


def test_one_of_several_concurrent_runs_begins(make_log: MakeLog) -> None:
    found: list[RequestRecord | None] = []
    barrier = threading.Barrier(8)

    def run(number: int) -> None:
        log = make_log()
        barrier.wait()
        found.append(begin(log, "r", make_record(str(number))))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(None) == 1
    (winner,) = {each.attempt_id for each in found if each is not None}
    record = find(make_log(), "r")
    assert record is not None
    assert record.attempt_id == winner


def test_a_record_is_returned_unchanged(make_log: MakeLog) -> None:
    record = make_record(rollback_migrations=("0002_b", "0001_a"))
    assert begin(make_log(), "r", record) is None
    assert begin(make_log(), "r", make_record("b")) == record
    assert find(make_log(), "other") is None


def test_a_response_is_returned_unchanged(make_log: MakeLog) -> None:
    begin(make_log(), "r", make_record())
    assert begin(make_log(), "r", make_record(response=RESPONSE)) is None
    found = begin(make_log(), "r", make_record("b", response={"exit_code": 1}))
    assert found is not None
    assert found.response == RESPONSE


def test_the_same_attempt_may_begin_again(make_log: MakeLog) -> None:
    """The response to its own write was lost."""
    assert begin(make_log(), "r", make_record()) is None
    assert begin(make_log(), "r", make_record()) is None


def test_the_names_of_a_rollback_are_known_while_it_runs(make_log: MakeLog) -> None:
    begin(make_log(), "r", make_record())
    begin(make_log(), "r", make_record(rollback_migrations=("0002_b",)))
    found = find(make_log(), "r")
    assert found is not None
    assert found.rollback_migrations == ("0002_b",)
    assert found.response is None


def test_a_removed_request_may_begin_again(make_log: MakeLog) -> None:
    begin(make_log(), "r", make_record("a"))
    make_log().remove_record("r", make_record("b"))  # of another attempt
    assert find(make_log(), "r") is not None
    make_log().remove_record("r", make_record("a"))
    assert begin(make_log(), "r", make_record("b")) is None
    make_log().remove_record("none", make_record("a"))


def test_requests_are_independent(make_log: MakeLog) -> None:
    begin(make_log(), "r1", make_record("a"))
    begin(make_log(), "r2", make_record("b"))
    begin(make_log(), "r1", make_record("a", response=RESPONSE))
    found = find(make_log(), "r2")
    assert found is not None
    assert found.response is None


def run_requests(log: RequestLog, count: int, *, since_ms: int = 0) -> None:
    """Begin and end ``count`` requests, one after the other."""
    for number in range(count):
        record = make_record(str(number), ends_by_ms=since_ms + number)
        assert begin(log, f"r{number}", record) is None
        assert begin(log, f"r{number}", replace(record, response=RESPONSE)) is None


def test_dynamodb_keeps_the_newest_records(tables: DynamoDBTables) -> None:
    target = f"orders-{uuid4().hex}"
    log = DynamoDBRequestLog(tables.table, target, client=lambda: tables._client)
    run_requests(log, MAX_RECORDS + 5)
    item = tables.item(f"{target}/requests")
    kept = {name for name in item if name.startswith("request:")}
    assert kept == {f"request:r{number}" for number in range(5, MAX_RECORDS + 5)}
    assert begin(log, "r4", make_record("4", response=RESPONSE)) is None  # after it was dropped
    assert len(tables.item(f"{target}/requests")) == len(item)


def test_dynamodb_keeps_records_of_commands_that_may_still_run(tables: DynamoDBTables) -> None:
    target, clock = f"orders-{uuid4().hex}", FakeClock()
    log = DynamoDBRequestLog(tables.table, target, client=lambda: tables._client, clock=clock)
    long = make_record("long", ends_by_ms=clock.wall_ms() + 900_000)
    assert begin(log, "long", long) is None
    run_requests(log, MAX_RECORDS + 5, since_ms=long.ends_by_ms + 1)
    assert find(log, "long") == long
    clock.advance(901)
    assert begin(log, "last", make_record("last")) is None
    assert find(log, "long") is None


def test_twenty_responses_of_any_length_fit_into_one_item(tables: DynamoDBTables) -> None:
    target = f"orders-{uuid4().hex}"
    log = DynamoDBRequestLog(tables.table, target, client=lambda: tables._client)
    names = [f"{n:05d}_{uuid4().hex}{uuid4().hex}" for n in range(5_000)]
    response = {"exit_code": 0, "document": {"applied": names}}
    for number in range(MAX_RECORDS):
        record = make_record(str(number), ends_by_ms=number, rollback_migrations=tuple(names))
        assert begin(log, f"r{number}", record) is None
        assert begin(log, f"r{number}", replace(record, response=response)) is None
    found = find(log, "r0")
    assert found is not None
    assert found.response is not None
    document = found.response["document"]
    assert len(document["applied"]) + document["abridged"]["applied"] == 5_000


def test_the_item_of_the_target_is_not_touched(tables: DynamoDBTables) -> None:
    target = f"orders-{uuid4().hex}"
    log = DynamoDBRequestLog(tables.table, target, client=lambda: tables._client)
    begin(log, "r", make_record())
    assert tables.item(target) == {}
