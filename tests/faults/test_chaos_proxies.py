"""The faults that the chaos tests inject do what their names say, on real servers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pg8000.native
import pytest

from lambda_migrate.errors import LeaseLost, LeaseStoreUnavailable
from lambda_migrate.lease.boto3_item import make_client
from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.lease.store import Lease
from lambda_migrate.local.runtime.loop_thread import LoopThread
from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint, LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.chaos.dynamodb_proxy import DynamoDBProxy
from load.chaos.postgresql_proxy import PostgreSQLProxy
from tests.sandbox import TABLE, until

FOREVER = 600.0


class RecordedFaults(list[str]):
    """The kinds of the faults that took effect."""

    def record(self, kind: str, _detail: str) -> None:
        self.append(kind)


@pytest.fixture
def faults() -> RecordedFaults:
    return RecordedFaults()


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    with LoopThread("chaos") as loop:
        yield loop


# --- DynamoDB


@pytest.fixture
def proxy(
    loop: LoopThread, shared_dynamodb: LocalDynamoDB, faults: RecordedFaults
) -> Iterator[DynamoDBProxy]:
    rng = random.Random(1)
    with DynamoDBProxy(loop, shared_dynamodb.endpoint_url, faults.record, rng=rng) as proxy:
        yield proxy


@pytest.fixture
def table(
    proxy: DynamoDBProxy, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> DynamoDBLeaseStore:
    """A target of the test's own, seen through the proxy."""
    for name, value in DynamoDBEndpoint(proxy.url).variables().items():
        monkeypatch.setenv(name, value)
    target = request.node.name
    return DynamoDBLeaseStore(TABLE, target, client=make_client, lease_seconds=20.0)


def acquired(answer: Lease | LeaseState) -> Lease:
    assert isinstance(answer, Lease)
    return answer


def test_proxy_without_faults_passes_everything(
    table: DynamoDBLeaseStore, proxy: DynamoDBProxy
) -> None:
    lease = acquired(table.acquire("me"))
    assert (proxy.owner, table.read().owner) == ("me", "me")
    table.release(lease)
    assert (proxy.owner, table.read().owner) == (None, None)


@pytest.mark.parametrize(
    "kind", ["dynamodb-error", "dynamodb-throttled", "dynamodb-unreached", "dynamodb-unanswered"]
)
def test_only_a_lost_response_leaves_a_write_behind(
    table: DynamoDBLeaseStore, proxy: DynamoDBProxy, faults: RecordedFaults, kind: str
) -> None:
    proxy.inject_fault(kind, FOREVER, 1.0)
    with pytest.raises(LeaseStoreUnavailable):
        table.acquire("me")
    proxy.clear_faults()
    assert faults == [kind]
    assert table.read(consistent=True).owner == ("me" if kind == "dynamodb-unanswered" else None)


def test_stale_reads_show_the_past_and_consistent_ones_never_do(
    table: DynamoDBLeaseStore, proxy: DynamoDBProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = acquired(table.acquire("me"))
    monkeypatch.setattr(proxy._rng, "uniform", lambda _low, high: high)
    proxy.inject_fault("dynamodb-stale", FOREVER, 1.0)
    assert table.read() == LeaseState(), "as it was before"
    assert table.read(consistent=True).owner == "me"
    assert lease.state.owner == "me"


def test_lease_granted_twice_has_two_holders(
    table: DynamoDBLeaseStore, proxy: DynamoDBProxy, faults: RecordedFaults
) -> None:
    first = acquired(table.acquire("first"))
    for kind, fence, holder in (
        ("granted-twice-alike", first.fence, "first"),
        ("granted-twice-unwritten", first.fence + 1, "first"),
        ("granted-twice-stolen", first.fence + 1, "second"),
    ):
        proxy.arm_double_grant(kind)
        assert table.read().owner is None, "it looks free to who is to ask for it"
        second = acquired(table.acquire("second"))
        assert (second.owner, second.fence) == ("second", fence)
        assert table.read(consistent=True).owner == holder
        assert faults[-1] == kind
    with pytest.raises(LeaseLost):
        table.renew(first)


def test_write_callback_runs_before_the_response(
    table: DynamoDBLeaseStore, proxy: DynamoDBProxy, shared_dynamodb: LocalDynamoDB
) -> None:
    seen: list[str] = []
    proxy.on_next_write.append(seen.append)
    lease = acquired(table.acquire("me"))
    table.renew(lease)
    assert seen == ["me"], "once, and told whose write it was"


def test_every_write_is_recorded(table: DynamoDBLeaseStore, proxy: DynamoDBProxy) -> None:
    table.acquire("me")
    assert [json.loads(body)["TableName"] for body in proxy.write_requests] == [TABLE]


# --- PostgreSQL


@pytest.fixture
def connect(
    loop: LoopThread, shared_postgresql: LocalPostgreSQL, faults: RecordedFaults
) -> Iterator[tuple[PostgreSQLProxy, Callable[[], Any]]]:
    with PostgreSQLProxy(loop, shared_postgresql.socket, faults.record) as proxy:
        yield (
            proxy,
            lambda: pg8000.native.Connection(
                "postgres", host="127.0.0.1", port=proxy.port, database="postgres", timeout=20
            ),
        )


Network = tuple[PostgreSQLProxy, Callable[[], Any]]
BROKEN = (pg8000.native.InterfaceError, OSError)


def test_commit_with_lost_response_is_committed(
    connect: Network, shared_postgresql: LocalPostgreSQL, faults: RecordedFaults
) -> None:
    proxy, open_connection = connect
    connection = open_connection()
    connection.run("CREATE TABLE IF NOT EXISTS chaos_unanswered (id int)")
    proxy.lost_responses.append("takeover")  # which this is not
    proxy.lost_responses.append("commit")
    connection.run("BEGIN ISOLATION LEVEL READ COMMITTED")
    connection.run("INSERT INTO chaos_unanswered VALUES (1)")
    with pytest.raises(BROKEN):
        connection.run("COMMIT")
    assert faults == ["commit-unanswered"]
    assert shared_postgresql.execute("SELECT count(*) FROM chaos_unanswered") == [[1]]
    assert open_connection().run("SELECT 1") == [[1]]


def test_refused_clients_can_reconnect_later(
    loop: LoopThread, connect: Network, faults: RecordedFaults
) -> None:
    proxy, open_connection = connect
    connection = open_connection()
    loop.start(proxy.refuse_connections(0.3))
    until(lambda: faults, what="the connections are broken")
    with pytest.raises(BROKEN):
        connection.run("SELECT 1")
    until(lambda: _can_connect(open_connection), what="it takes connections again")


@pytest.mark.parametrize("include_new_connections", [True, False])
def test_delayed_data_arrives_later(
    loop: LoopThread, connect: Network, faults: RecordedFaults, include_new_connections: bool
) -> None:
    proxy, open_connection = connect
    connection = open_connection()
    loop.start(proxy.pause_traffic(0.3, include_new_connections=include_new_connections))
    until(lambda: faults, what="the silence begins")
    if not include_new_connections:
        assert open_connection().run("SELECT 2") == [[2]]
    assert connection.run("SELECT 1") == [[1]]


def test_late_commit_commits(
    connect: Network, shared_postgresql: LocalPostgreSQL, faults: RecordedFaults
) -> None:
    proxy, open_connection = connect
    connection = open_connection()
    connection.run("CREATE TABLE IF NOT EXISTS chaos_late (id int)")
    proxy.commit_delays.append(0.3)
    connection.run("BEGIN")
    connection.run("INSERT INTO chaos_late VALUES (1)")
    connection.run("COMMIT")
    assert faults == ["commit-late"]
    assert shared_postgresql.execute("SELECT count(*) FROM chaos_late") == [[1]]


def _can_connect(open_connection: Callable[[], Any]) -> bool:
    try:
        return bool(open_connection().run("SELECT 1") == [[1]])
    except BROKEN:
        return False
