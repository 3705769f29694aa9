"""The lease stores that the contract tests run against: in memory, and DynamoDB over HTTP."""

from __future__ import annotations

from typing import Any, Protocol
from uuid import uuid4

from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.lease.fast_client import FastClient
from lambda_migrate.lease.progress import Failure
from lambda_migrate.lease.record import DatabaseRecord, LeaseState, join_digests
from lambda_migrate.lease.store import Lease, LeaseStore
from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint
from lambda_migrate.testing import FakeClock, InMemoryLeaseStore

LEASE_SECONDS = 20.0
ADDRESS = "db.internal:5432/orders"
DATABASES = {
    "2a1f0a2e": DatabaseRecord(
        ready_digests=join_digests(["a" * 64, "b" * 64]),
        older_digests=join_digests(["c" * 64]),
        unlisted_count=7,
        addresses={ADDRESS: (2, 5), "größer:5432/orders": (1, 3)},
        fence=5,
        owner="orders/1/ab",
        at_ms=1_700_000_000_000,
    )
}


def failure(attempts: int = 1) -> Failure:
    return Failure(
        digest="a" * 64,
        migration="0003_größer",
        version="3",
        sqlstate="42P01",
        cause='relation "orders" does not exist',
        attempts=attempts,
        at_ms=1_700_000_000_000,
        retry_at_ms=1_700_000_010_000,
    )


class Tables(Protocol):
    """An engine."""

    def stores(self, count: int, clock: FakeClock) -> list[LeaseStore]:
        """So many instances' views of the item of one new target."""


class MemoryTables:
    def stores(self, count: int, clock: FakeClock) -> list[LeaseStore]:
        return [InMemoryLeaseStore(lease_seconds=LEASE_SECONDS, clock=clock)] * count


class TableByOwnClock(DynamoDBLeaseStore):
    """A table whose answers come from a server that does not know the test's clock."""

    clock_offset_ms = 0


class DynamoDBTables:
    """Stores on a real table.

    Args:
        engine: Where it is.
        table: Its name.
        uses_fast_client: Whether the stores use the fast client rather than boto3.
    """

    def __init__(
        self, engine: DynamoDBEndpoint, table: str, *, uses_fast_client: bool = False
    ) -> None:
        self.table = table
        self._environ = {**engine.variables(), "HOME": "/nonexistent"} if uses_fast_client else None
        self._client = engine.client(retries={"total_max_attempts": 1}, max_pool_connections=50)

    def store(self, target: str, clock: FakeClock) -> DynamoDBLeaseStore:
        return TableByOwnClock(
            self.table,
            target,
            client=lambda: self._client,
            fast_client=None if self._environ is None else FastClient(self._environ),
            lease_seconds=LEASE_SECONDS,
            clock=clock,
        )

    def stores(self, count: int, clock: FakeClock) -> list[LeaseStore]:
        target = f"orders-{uuid4().hex}"
        return [self.store(target, clock) for _ in range(count)]

    def put(self, target: str, **attributes: Any) -> None:
        self._client.put_item(TableName=self.table, Item={"target": {"S": target}, **attributes})

    def delete(self, target: str) -> None:
        self._client.delete_item(TableName=self.table, Key={"target": {"S": target}})

    def item(self, target: str) -> dict[str, Any]:
        answer = self._client.get_item(
            TableName=self.table, Key={"target": {"S": target}}, ConsistentRead=True
        )
        item: dict[str, Any] = answer.get("Item", {})
        return item


class LeaseTableUnderTest:
    """One target's item, with a clock that the test moves."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.clock = FakeClock()
        self.store = tables.stores(1, self.clock)[0]

    def state(self) -> LeaseState:
        return self.store.read(consistent=True)

    def acquire(
        self, owner: str, expected: LeaseState | None = None, *, is_expired: bool = False
    ) -> Lease:
        """Acquire and win."""
        lease = self.store.acquire(owner, expected=expected, is_expired=is_expired)
        assert isinstance(lease, Lease)
        return lease

    def lose_acquisition(
        self, owner: str, expected: LeaseState | None = None, *, is_expired: bool = False
    ) -> LeaseState:
        """Try to acquire and lose."""
        state = self.store.acquire(owner, expected=expected, is_expired=is_expired)
        assert isinstance(state, LeaseState)
        return state

    def expire_lease(self) -> None:
        """Let the lease run out, the margin for clocks that differ included."""
        self.clock.advance(LEASE_SECONDS + 1.001)
