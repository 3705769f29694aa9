"""The API, on the schema that the first invocation migrates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lambda_migrate import (
    MigrationRunner,
    Policy,
    Target,
    errors,
    migrate_on_cold_start,
    read_manifest,
)
from lambda_migrate.local import LocalFunction, LocalPostgreSQL
from lambda_migrate.testing import FakeClock, InMemoryDatabase, InMemoryLeaseStore

Call = Callable[..., tuple[int, Any]]

APPLICATION_DIRECTORY = Path(__file__).parents[1]
TEA_ORDER = {"email": "Ada@example.com", "item": "tea", "quantity": 2, "unit_cents": 450}


def test_a_placed_order_can_be_read(call: Call) -> None:
    status, placed = call("POST", "/orders", TEA_ORDER)
    assert status == 201
    assert placed == {
        "order_id": placed["order_id"],
        "email": "ada@example.com",
        "item": "tea",
        "quantity": 2,
        "unit_cents": 450,
        "total_cents": 900,
        "status": "placed",
    }
    assert call("GET", f"/orders/{placed['order_id']}") == (200, placed)


def test_the_default_quantity_is_one(call: Call) -> None:
    order = {name: value for name, value in TEA_ORDER.items() if name != "quantity"}
    assert call("POST", "/orders", order)[1]["quantity"] == 1


def test_a_customer_sees_their_newest_twenty_orders(call: Call) -> None:
    placed = [
        call("POST", "/orders", {**TEA_ORDER, "email": "bob@example.com"})[1]["order_id"]
        for _ in range(21)
    ]
    call("POST", "/orders", TEA_ORDER)
    status, listed = call("GET", "/orders", email="bob@example.com")
    assert status == 200
    assert [order["order_id"] for order in listed["orders"]] == placed[:0:-1]


def test_an_unknown_customer_has_no_orders(call: Call) -> None:
    assert call("GET", "/orders", email="unknown@example.com") == (200, {"orders": []})


def test_cancelling_is_idempotent(call: Call) -> None:
    order_id = call("POST", "/orders", TEA_ORDER)[1]["order_id"]
    first = call("DELETE", f"/orders/{order_id}")
    assert first[1]["status"] == "cancelled"
    assert call("DELETE", f"/orders/{order_id}") == first


@pytest.mark.parametrize(
    "body",
    [
        "not json",
        None,
        [],
        {**TEA_ORDER, "email": "ada"},
        {**TEA_ORDER, "email": "ada@example.com\0"},
        {**TEA_ORDER, "item": " "},
        {**TEA_ORDER, "quantity": 0},
        {**TEA_ORDER, "quantity": True},
        {**TEA_ORDER, "quantity": 10**9},
        {**TEA_ORDER, "unit_cents": -1},
        {**TEA_ORDER, "unit_cents": "450"},
    ],
    ids=repr,
)
def test_an_invalid_order_is_rejected(call: Call, body: Any) -> None:
    status, response = call("POST", "/orders", body)
    assert (status, response["statusCode"]) == (400, 400)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("order_id", ["999999999", "tea", "9" * 19, "-1"])
def test_a_missing_order_is_not_found(call: Call, method: str, order_id: str) -> None:
    assert call(method, f"/orders/{order_id}")[0] == 404


def test_the_first_invocation_migrates_the_schema(call: Call, server: LocalPostgreSQL) -> None:
    call("GET", "/orders", email="ada@example.com")
    rows = server.execute("SELECT name FROM lambda_migrate.history ORDER BY 1", database="orders")
    assert [name for (name,) in rows][:2] == ["0001_customers", "0002_orders"]
    assert len(rows) == 7


def test_an_environment_keeps_one_connection_and_lambda_migrate_keeps_none(
    call: Call, server: LocalPostgreSQL
) -> None:
    for _ in range(3):
        call("GET", "/orders", email="ada@example.com")
    rows = server.execute(
        "SELECT application_name FROM pg_stat_activity WHERE datname = 'orders'"
        " AND backend_type = 'client backend' AND application_name <> 'lambda_migrate.local'"
    )
    assert rows == [["orders"]]


def test_after_a_lost_connection_one_request_fails_and_the_next_connects_again(
    call: Call, server: LocalPostgreSQL
) -> None:
    placed = call("POST", "/orders", TEA_ORDER)[1]
    server.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'orders'"
    )
    assert call("GET", f"/orders/{placed['order_id']}")[0] == 503
    assert call("GET", f"/orders/{placed['order_id']}") == (200, placed)


def test_business_metrics_are_written(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    call("POST", "/orders", TEA_ORDER)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert any(line.get("OrdersPlaced") == [1.0] for line in lines)


def test_no_order_is_placed_while_another_environment_migrates(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decorator raises a retryable error before the handler runs. On a fake clock."""
    clock = FakeClock()
    leases = InMemoryLeaseStore(clock=clock)
    leases.acquire("another environment")
    policy = Policy(wait_seconds=5)
    target = Target("orders", leases, InMemoryDatabase(), clock=clock, policy=policy)
    runner = MigrationRunner(read_manifest(str(APPLICATION_DIRECTORY / "migrations")), target)
    handler = migrate_on_cold_start(runner=runner)(app.api.resolve)
    monkeypatch.setattr(app, "get_order_repository", lambda: pytest.fail("the handler ran"))
    with pytest.raises(errors.NotReady, match="another environment"):
        handler({}, None)


def test_the_lambda_runtime_serves_without_an_xray_daemon(
    variables: dict[str, str], make_request: Callable[..., dict[str, Any]]
) -> None:
    """Tracing is enabled, as in Lambda, but no daemon receives the traces."""
    with LocalFunction(code=APPLICATION_DIRECTORY, variables=variables) as function:
        result = function.invoke(make_request("POST", "/orders", TEA_ORDER))
        log = function.logs(result.environment_id)
    assert result.ok, result.error_message
    assert result.payload["statusCode"] == 201
    assert "Traceback" not in log
