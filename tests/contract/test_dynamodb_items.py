"""Lease items that others changed, deleted or created again in a real DynamoDB table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from lambda_migrate.errors import ConfigurationError, LeaseLost
from lambda_migrate.lease.boto3_item import make_client
from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.lease.store import Lease
from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint
from lambda_migrate.testing import FakeClock
from tests.contract.leases import DATABASES, DynamoDBTables, failure


@pytest.fixture
def target() -> str:
    return f"orders-{uuid4().hex}"


@pytest.fixture
def store(tables: DynamoDBTables, target: str) -> DynamoDBLeaseStore:
    return tables.store(target, FakeClock())


def acquire(store: DynamoDBLeaseStore, owner: str) -> Lease:
    lease = store.acquire(owner)
    assert isinstance(lease, Lease)
    return lease


OTHER_LAYOUTS = pytest.mark.parametrize("layout", ["1", "3"])


@OTHER_LAYOUTS
def test_reading_an_item_of_another_layout_fails(
    tables: DynamoDBTables, store: DynamoDBLeaseStore, target: str, layout: str
) -> None:
    tables.put(target, format={"N": layout}, fence={"N": "7"})
    with pytest.raises(ConfigurationError, match=f"has layout {layout}, .* reads 2 only"):
        store.read()


@OTHER_LAYOUTS
def test_an_item_of_another_layout_is_never_acquired(
    tables: DynamoDBTables, store: DynamoDBLeaseStore, target: str, layout: str
) -> None:
    tables.put(target, format={"N": layout}, fence={"N": "7"})
    before = tables.item(target)
    with pytest.raises(ConfigurationError, match=f"has layout {layout}"):
        store.acquire("a")
    assert tables.item(target) == before


def test_an_attribute_of_another_type_is_refused_by_its_name(
    tables: DynamoDBTables, store: DynamoDBLeaseStore, target: str
) -> None:
    tables.put(target, format={"N": "2"}, fence={"S": "seven"})
    with pytest.raises(ConfigurationError, match=r"'fence' is not a number"):
        store.read()


def test_an_owner_without_lease_until_does_not_hold_the_lease(
    tables: DynamoDBTables, store: DynamoDBLeaseStore, target: str
) -> None:
    tables.put(target, format={"N": "2"}, fence={"N": "7"}, owner={"S": "unknown"})
    assert acquire(store, "a").fence == 8


def test_an_item_with_only_its_key_reads_as_an_empty_state(
    tables: DynamoDBTables, store: DynamoDBLeaseStore, target: str
) -> None:
    tables.put(target)
    assert store.read() == LeaseState()
    assert acquire(store, "a").fence == 1


def test_attributes_of_a_later_version_within_the_format_are_kept(
    tables: DynamoDBTables, store: DynamoDBLeaseStore, target: str
) -> None:
    tables.put(target, format={"N": "2"}, note={"S": "from a newer library"})
    store.store_completion(acquire(store, "a"), DATABASES)
    assert tables.item(target)["note"] == {"S": "from a newer library"}


def test_the_stored_item_is_the_documented_layout(
    tables: DynamoDBTables, store: DynamoDBLeaseStore, target: str
) -> None:
    store.store_completion(acquire(store, "a"), DATABASES)
    store.store_failure(acquire(store, "b"), failure())
    item = tables.item(target)
    assert {name: next(iter(value)) for name, value in item.items()} == {
        "target": "S",
        "format": "N",
        "fence": "N",
        "databases": "M",
        "failure": "M",
    }


def test_a_holder_whose_item_was_deleted_has_lost_its_lease(
    tables: DynamoDBTables, store: DynamoDBLeaseStore, target: str
) -> None:
    lease = acquire(store, "a")
    tables.delete(target)
    with pytest.raises(LeaseLost, match=r"superseded by 0 \(no process holds it now\)"):
        store.renew(lease)
    assert tables.item(target) == {}


def test_a_holder_whose_item_was_created_again_has_lost_its_lease(
    tables: DynamoDBTables, store: DynamoDBLeaseStore, target: str
) -> None:
    store.release(acquire(store, "a"))
    lease = acquire(store, "b")
    tables.delete(target)
    acquire(store, "c")
    with pytest.raises(LeaseLost, match=r"superseded by 1 \(c holds it\)"):
        store.store_completion(lease, DATABASES)


def test_the_fencing_token_of_a_new_item_is_raised_above_postgresqls(
    tables: DynamoDBTables, store: DynamoDBLeaseStore, target: str
) -> None:
    store.release(acquire(store, "a"))
    tables.delete(target)
    raised = store.advance_fence(acquire(store, "b"), 9)
    store.store_completion(raised, DATABASES)
    assert acquire(store, "c").fence == 10


def test_targets_in_one_table_are_independent(tables: DynamoDBTables, target: str) -> None:
    clock = FakeClock()
    first, second = tables.store(target, clock), tables.store(f"{target}-2", clock)
    assert [acquire(first, "a").fence, acquire(second, "b").fence] == [1, 1]


@pytest.fixture
def own_client(dynamodb: DynamoDBEndpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The client that a function makes, pointed here by botocore's own variables."""
    for name, value in dynamodb.variables().items():
        monkeypatch.setenv(name, value)
    client = make_client()
    yield client
    client.close()


def test_a_table_that_was_deleted_is_named_with_its_region(
    dynamodb: DynamoDBEndpoint, own_client: Any
) -> None:
    table = dynamodb.create_table(f"gone-{uuid4().hex[:8]}")
    store = DynamoDBLeaseStore(table, "orders", client=lambda: own_client)
    lease = acquire(store, "a")
    own_client.delete_table(TableName=table)
    with pytest.raises(ConfigurationError) as caught:
        store.renew(lease)
    message = str(caught.value)
    assert f"no table '{table}' in us-east-1" in message
    assert f"`lambda-migrate table create --table {table}`" in message


def test_a_table_that_was_created_again_starts_over(
    dynamodb: DynamoDBEndpoint, own_client: Any
) -> None:
    table = dynamodb.create_table(f"again-{uuid4().hex[:8]}")
    store = DynamoDBLeaseStore(table, "orders", client=lambda: own_client)
    store.release(acquire(store, "a"))
    lease = acquire(store, "b")
    own_client.delete_table(TableName=table)
    dynamodb.create_table(table)
    with pytest.raises(LeaseLost):
        store.renew(lease)
    assert acquire(store, "c").fence == 1


def test_a_table_with_another_key_is_an_error_that_names_the_key_it_needs(
    dynamodb: DynamoDBEndpoint, own_client: Any
) -> None:
    table = f"other-{uuid4().hex[:8]}"
    own_client.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    store = DynamoDBLeaseStore(table, "orders", client=lambda: own_client)
    with pytest.raises(ConfigurationError, match="partition key `target` of type S"):
        store.read()
