"""What the admin function relies on when it looks for itself, on the fake and on DynamoDB."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.deploy.request_log import KEPT, RequestLog, RequestTable, Run
from lambda_migrate.testing import FakeClock, InMemoryRequestLog
from tests.contract.leases import DynamoDBTables

MakeLog = Callable[[], RequestLog]
SOON = Deadline.after(600)
ANSWER: dict[str, Any] = {"exit_code": 0, "document": {"applied": ["0001_größer"], "seconds": 0.5}}


@pytest.fixture(params=["memory", "dynamodb"])
def make_log(request: pytest.FixtureRequest) -> MakeLog:
    """Views of one log, as separate invocations have them."""
    if request.param == "memory":
        log = InMemoryRequestLog()
        return lambda: log
    tables: DynamoDBTables = request.getfixturevalue("tables")
    target = f"orders-{uuid4().hex}"
    return lambda: RequestTable(
        tables.table, target, client=lambda: tables._client, clock=FakeClock()
    )


def run_of(attempt: str = "a", *, began_ms: int = 1, **facts: Any) -> Run:
    run = Run(asked='["up"]', attempt=attempt, invocation="i", began_ms=began_ms, until_ms=9)
    return replace(run, **facts)


def test_only_one_of_many_concurrent_attempts_may_start(make_log: MakeLog) -> None:
    found: list[Run | None] = []
    gate = threading.Barrier(8)

    def begin(number: int) -> None:
        log = make_log()
        gate.wait()
        found.append(log.begin("r", run_of(str(number))))

    threads = [threading.Thread(target=begin, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(None) == 1
    (winner,) = {each.attempt for each in found if each is not None}
    mine = make_log().read("r")
    assert mine is not None
    assert mine.attempt == winner


def test_a_started_request_is_found(make_log: MakeLog) -> None:
    run = run_of(concerned=("0002_b", "0001_a"))
    assert make_log().begin("r", run) is None
    assert make_log().begin("r", run_of("b")) == run
    assert make_log().read("r") == run
    assert make_log().read("other") is None


def test_a_result_is_returned_as_recorded(make_log: MakeLog) -> None:
    make_log().begin("r", run_of())
    make_log().end("r", run_of(answer=ANSWER), SOON)
    found = make_log().begin("r", run_of("b"))
    assert found is not None
    assert found.answer == ANSWER


def test_the_same_attempt_may_start_again(make_log: MakeLog) -> None:
    """The answer to its own writing was lost."""
    assert make_log().begin("r", run_of()) is None
    assert make_log().begin("r", run_of()) is None


def test_the_plan_of_a_run_is_readable_while_it_runs(make_log: MakeLog) -> None:
    make_log().begin("r", run_of())
    make_log().concern("r", run_of(concerned=("0002_b",)))
    found = make_log().read("r")
    assert found is not None
    assert found.concerned == ("0002_b",)
    assert found.answer is None


def test_a_forgotten_request_may_start_again(make_log: MakeLog) -> None:
    make_log().begin("r", run_of("a"))
    make_log().forget("r", run_of("b"))  # another's
    assert make_log().read("r") is not None
    make_log().forget("r", run_of("a"))
    assert make_log().read("r") is None
    assert make_log().begin("r", run_of("b")) is None
    make_log().forget("none", run_of("a"))


def test_requests_are_independent(make_log: MakeLog) -> None:
    make_log().begin("r1", run_of("a"))
    make_log().begin("r2", run_of("b"))
    make_log().end("r1", run_of("a", answer=ANSWER), SOON)
    found = make_log().read("r2")
    assert found is not None
    assert found.answer is None


def test_dynamodb_keeps_the_newest_requests(tables: DynamoDBTables) -> None:
    target = f"orders-{uuid4().hex}"
    log = RequestTable(tables.table, target, client=lambda: tables._client)
    for number in range(KEPT + 5):
        assert log.begin(f"r{number}", run_of(str(number), began_ms=number)) is None
        log.end(f"r{number}", run_of(str(number), began_ms=number, answer=ANSWER), SOON)
    kept = [name for name in tables.item(f"{target}/requests") if name.startswith("request:")]
    assert len(kept) == KEPT
    assert log.read("r4") is None
    assert log.read("r5") is not None
    log.end("r4", run_of("4", answer=ANSWER), SOON)  # late, and forgotten
    assert log.read("r4") is None


def test_dynamodb_keeps_requests_that_may_still_run(tables: DynamoDBTables) -> None:
    target, clock = f"orders-{uuid4().hex}", FakeClock()
    log = RequestTable(tables.table, target, client=lambda: tables._client, clock=clock)
    long = run_of("long", until_ms=clock.wall_ms() + 900_000)
    assert log.begin("long", long) is None
    for number in range(KEPT + 5):
        assert log.begin(f"r{number}", run_of(str(number), began_ms=2 + number)) is None
        log.end(f"r{number}", run_of(str(number), began_ms=2 + number, answer=ANSWER), SOON)
    assert log.read("long") == long
    clock.advance(901)
    assert log.begin("last", run_of("last", began_ms=99)) is None
    assert log.read("long") is None


def test_twenty_results_of_any_length_fit_into_one_item(tables: DynamoDBTables) -> None:
    target = f"orders-{uuid4().hex}"
    log = RequestTable(tables.table, target, client=lambda: tables._client)
    names = [f"{n:05d}_{uuid4().hex}{uuid4().hex}" for n in range(5_000)]
    answer = {"exit_code": 0, "document": {"applied": names}}
    for number in range(KEPT):
        run = run_of(str(number), began_ms=number, concerned=tuple(names))
        assert log.begin(f"r{number}", run) is None
        log.end(f"r{number}", replace(run, answer=answer), SOON)
    found = log.read("r0")
    assert found is not None
    assert found.answer is not None
    applied, left_out = found.answer["document"]["applied"], found.answer["document"]["abridged"]
    assert len(applied) + left_out["applied"] == 5_000


def test_the_state_item_of_the_target_is_unchanged(tables: DynamoDBTables) -> None:
    target = f"orders-{uuid4().hex}"
    log = RequestTable(tables.table, target, client=lambda: tables._client)
    log.begin("r", run_of())
    assert tables.item(target) == {}
