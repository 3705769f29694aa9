"""The fast client against a real DynamoDB API over HTTP: it returns what boto3 returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import uuid4

import boto3
import pytest
from boto3.dynamodb.types import TypeSerializer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.lease.codec import decode
from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.lease.fast_client import FastClient
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint
from lambda_migrate.testing import FakeClock
from tests.contract.leases import DATABASES, DynamoDBTables, LeaseTableUnderTest, failure


@pytest.fixture
def environ(dynamodb: DynamoDBEndpoint) -> dict[str, str]:
    return {**dynamodb.variables(), "HOME": "/nonexistent"}


@pytest.fixture
def fast_client(environ: dict[str, str]) -> Iterator[FastClient]:
    made = FastClient(environ)
    yield made
    made.close()


@pytest.fixture
def target() -> str:
    return f"orders-{uuid4().hex}"


def test_a_missing_item_is_returned_as_an_empty_one(
    fast_client: FastClient, tables: DynamoDBTables, target: str
) -> None:
    assert fast_client.get_item(tables.table, target) == {}


@pytest.mark.parametrize("consistent", [True, False])
def test_both_clients_read_an_item_of_boto3_alike(
    fast_client: FastClient, tables: DynamoDBTables, target: str, consistent: bool
) -> None:
    store = tables.store(target, FakeClock())
    lease = LeaseTableUnderTest(tables).acquire("other target")
    assert lease.fence == 1
    mine = store.acquire("größer")
    assert not isinstance(mine, LeaseState)
    store.store_completion(mine, DATABASES)
    again = store.acquire("again")
    assert not isinstance(again, LeaseState)
    store.store_failure(again, failure())
    item = fast_client.get_item(tables.table, target, consistent=consistent)
    by_boto3 = tables.item(target)
    assert item is not None
    assert item.keys() == by_boto3.keys()
    # Binaries are bytes there and base64 here.
    assert decode(item, target=target) == decode(by_boto3, target=target)
    assert decode(item, target=target).databases == DATABASES


values = st.recursive(
    st.text(min_size=1, max_size=20)  # the oldest engine takes no empty text
    | st.booleans()
    | st.none()
    | st.integers(-(10**30), 10**30)
    | st.sets(st.integers(0, 99), min_size=1, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    target=st.text(min_size=1, max_size=20),
    attributes=st.dictionaries(st.from_regex(r"[a-s_]{1,12}", fullmatch=True), values, max_size=4),
)
def test_any_item_is_read_as_boto3_reads_it(
    fast_client: FastClient, tables: DynamoDBTables, target: str, attributes: dict[str, Any]
) -> None:
    serialize: Callable[[Any], Any] = TypeSerializer().serialize
    tables.put(target, **{name: serialize(value) for name, value in attributes.items()})
    assert _sorted(fast_client.get_item(tables.table, target)) == _sorted(tables.item(target))


def _sorted(item: Mapping[str, Any] | None) -> object:
    """Sets have no order, in either answer."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: sorted(inner) if name in ("NS", "SS") else plain(inner)
                for name, inner in value.items()
            }
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    return plain(item)


def test_a_missing_table_falls_back_to_boto3_whose_error_names_the_next_step(
    environ: dict[str, str], dynamodb: DynamoDBEndpoint
) -> None:
    table = f"never-{uuid4().hex[:8]}"
    client = dynamodb.client()
    fast_client = FastClient(environ)
    store = DynamoDBLeaseStore(table, "orders", client=lambda: client, fast_client=fast_client)
    with pytest.raises(ConfigurationError, match=f"no table '{table}'"):
        store.read()
    store.close()
    assert store.request_count == 2


def test_a_table_with_another_key_falls_back_to_boto3(
    fast_client: FastClient, dynamodb: DynamoDBEndpoint
) -> None:
    table = f"other-{uuid4().hex[:8]}"
    client = dynamodb.client()
    client.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    client.close()
    assert fast_client.get_item(table, "orders") is None


def test_the_server_counts_its_requests_as_getitem(
    dynamodb: DynamoDBEndpoint, tables: DynamoDBTables, target: str
) -> None:
    name = f"READER{uuid4().hex[:12]}"
    fast_client = FastClient({**dynamodb.variables(access_key=name), "HOME": "/nonexistent"})
    assert [fast_client.get_item(tables.table, target) for _ in range(3)] == [{}] * 3
    fast_client.close()
    assert fast_client.request_count == 3
    if name in dynamodb.access_keys():  # some engines do not count
        assert dynamodb.requests(name) == {"GetItem": 3}


def test_the_stores_of_the_contract_suite_use_the_fast_client(
    fast_client_tables: DynamoDBTables, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boto3, "client", _refuse)
    store = fast_client_tables.store(target, FakeClock())
    monkeypatch.setattr(store, "_create_client", _refuse)
    assert store.read(consistent=True) == store.read() == LeaseState()
    store.close()
    assert store.request_count == 2


def _refuse(*_: object, **__: object) -> Any:
    raise AssertionError("boto3 is not needed to read")
