"""What only a table that others can reach may meet: items that are not ours, or are gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from lambda_migrate.errors import ConfigurationError, LeaseLost
from lambda_migrate.lease.dynamodb import DynamoDBLeaseTable, make_client
from lambda_migrate.lease.record import Lease, LeaseState
from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint
from lambda_migrate.testing import FakeClock
from tests.contract.leases import DATABASES, DynamoDBTables, failure


@pytest.fixture
def target() -> str:
    return f"orders-{uuid4().hex}"


@pytest.fixture
def store(tables: DynamoDBTables, target: str) -> DynamoDBLeaseTable:
    return tables.store(target, FakeClock())


def acquired(store: DynamoDBLeaseTable, owner: str) -> Lease:
    lease = store.acquire(owner)
    assert isinstance(lease, Lease)
    return lease


OTHER_LAYOUTS = pytest.mark.parametrize("layout", ["1", "3"])


@OTHER_LAYOUTS
def test_reading_an_item_of_another_layout_fails(
    tables: DynamoDBTables, store: DynamoDBLeaseTable, target: str, layout: str
) -> None:
    tables.put(target, format={"N": layout}, fence={"N": "7"})
    with pytest.raises(ConfigurationError, match=f"has layout {layout}, .* reads 2 only"):
        store.read()


@OTHER_LAYOUTS
def test_an_item_of_another_layout_is_never_acquired(
    tables: DynamoDBTables, store: DynamoDBLeaseTable, target: str, layout: str
) -> None:
    tables.put(target, format={"N": layout}, fence={"N": "7"})
    before = tables.item(target)
    with pytest.raises(ConfigurationError, match=f"has layout {layout}"):
        store.acquire("a")
    assert tables.item(target) == before


def test_an_unknown_attribute_is_an_error_that_names_it(
    tables: DynamoDBTables, store: DynamoDBLeaseTable, target: str
) -> None:
    tables.put(target, format={"N": "2"}, fence={"S": "seven"})
    with pytest.raises(ConfigurationError, match=r"'fence' is not a number"):
        store.read()


def test_an_owner_without_an_expiry_holds_nothing(
    tables: DynamoDBTables, store: DynamoDBLeaseTable, target: str
) -> None:
    tables.put(target, format={"N": "2"}, fence={"N": "7"}, owner={"S": "nobody knows"})
    assert acquired(store, "a").fence == 8


def test_an_item_with_only_its_key_counts_as_missing(
    tables: DynamoDBTables, store: DynamoDBLeaseTable, target: str
) -> None:
    tables.put(target)
    assert store.read() == LeaseState()
    assert acquired(store, "a").fence == 1


def test_attributes_of_a_later_version_within_the_format_are_kept(
    tables: DynamoDBTables, store: DynamoDBLeaseTable, target: str
) -> None:
    tables.put(target, format={"N": "2"}, note={"S": "from a newer library"})
    store.complete(acquired(store, "a"), DATABASES)
    assert tables.item(target)["note"] == {"S": "from a newer library"}


def test_the_stored_item_is_the_documented_layout(
    tables: DynamoDBTables, store: DynamoDBLeaseTable, target: str
) -> None:
    store.complete(acquired(store, "a"), DATABASES)
    store.fail(acquired(store, "b"), failure())
    item = tables.item(target)
    assert {name: next(iter(value)) for name, value in item.items()} == {
        "target": "S",
        "format": "N",
        "fence": "N",
        "databases": "M",
        "failure": "M",
    }


def test_a_holder_whose_item_was_deleted_has_lost_its_lease(
    tables: DynamoDBTables, store: DynamoDBLeaseTable, target: str
) -> None:
    lease = acquired(store, "a")
    tables.delete(target)
    with pytest.raises(LeaseLost, match=r"superseded by 0 \(no process holds it now\)"):
        store.renew(lease)
    assert tables.item(target) == {}


def test_a_holder_whose_item_was_recreated_has_lost_its_lease(
    tables: DynamoDBTables, store: DynamoDBLeaseTable, target: str
) -> None:
    store.release(acquired(store, "a"))
    lease = acquired(store, "b")
    tables.delete(target)
    acquired(store, "c")
    with pytest.raises(LeaseLost, match=r"superseded by 1 \(c holds it\)"):
        store.complete(lease, DATABASES)


def test_the_fence_of_a_recreated_item_is_lifted_above_the_one_in_postgresql(
    tables: DynamoDBTables, store: DynamoDBLeaseTable, target: str
) -> None:
    store.release(acquired(store, "a"))
    tables.delete(target)
    lifted = store.raise_fence(acquired(store, "b"), 9)
    store.complete(lifted, DATABASES)
    assert acquired(store, "c").fence == 10


def test_targets_in_one_table_are_independent(tables: DynamoDBTables, target: str) -> None:
    clock = FakeClock()
    first, second = tables.store(target, clock), tables.store(f"{target}-2", clock)
    assert [acquired(first, "a").fence, acquired(second, "b").fence] == [1, 1]


@pytest.fixture
def own_client(dynamodb: DynamoDBEndpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The client that a function makes, pointed here by botocore's own variables."""
    for name, value in dynamodb.environment().items():
        monkeypatch.setenv(name, value)
    client = make_client()
    yield client
    client.close()


def test_a_table_deleted_meanwhile_is_an_error_that_names_it_and_the_region(
    dynamodb: DynamoDBEndpoint, own_client: Any
) -> None:
    table = dynamodb.create_table(f"gone-{uuid4().hex[:8]}")
    store = DynamoDBLeaseTable(table, "orders", client=lambda: own_client)
    lease = acquired(store, "a")
    own_client.delete_table(TableName=table)
    with pytest.raises(ConfigurationError) as caught:
        store.renew(lease)
    told = str(caught.value)
    assert f"no table '{table}' in us-east-1" in told
    assert f"`lambda-migrate table create --table {table}`" in told


def test_a_recreated_table_starts_over(dynamodb: DynamoDBEndpoint, own_client: Any) -> None:
    table = dynamodb.create_table(f"again-{uuid4().hex[:8]}")
    store = DynamoDBLeaseTable(table, "orders", client=lambda: own_client)
    store.release(acquired(store, "a"))
    lease = acquired(store, "b")
    own_client.delete_table(TableName=table)
    dynamodb.create_table(table)
    with pytest.raises(LeaseLost):
        store.renew(lease)
    assert acquired(store, "c").fence == 1


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
    store = DynamoDBLeaseTable(table, "orders", client=lambda: own_client)
    with pytest.raises(ConfigurationError, match="partition key `target` of type S"):
        store.read()
