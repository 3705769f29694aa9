"""The store in memory and the one on DynamoDB return the same for any sequence of calls."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_migrate.errors import LeaseLost
from lambda_migrate.lease.progress import Progress
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.lease.store import Lease, LeaseStore
from lambda_migrate.testing import FakeClock
from tests.contract.leases import DATABASES, DynamoDBTables, MemoryTables, failure


class Call(NamedTuple):
    operation: str
    owner: str
    number: int


CALLS = st.builds(
    Call,
    operation=st.sampled_from(
        [
            "acquire",
            "acquire_expired",
            "read",
            "acquire_late",
            "renew",
            "advance_fence",
            "withdraw_readiness",
            "store_completion",
            "store_inspection",
            "store_failure",
            "release",
            "pass",
        ]
    ),
    owner=st.sampled_from("ab"),
    number=st.integers(0, 30),
)


class Instances:
    """Two owners of one store, each with the last lease that it acquired."""

    def __init__(self, store: LeaseStore, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.leases = {o: Lease(o, 1, 0.0, LeaseState()) for o in "ab"}
        self.last_read = LeaseState()

    def perform(self, call: Call) -> object:
        if call.operation == "pass":
            self.clock.advance(call.number)
            return None
        if call.operation == "read":
            self.last_read = self.store.read(consistent=True)
            return self.last_read
        try:
            answer = self._perform(call, self.leases[call.owner])
        except LeaseLost:
            return "lost"
        if isinstance(answer, Lease):
            self.leases[call.owner] = answer
            return answer.fence, answer.trusted_until
        return answer

    def _perform(self, call: Call, lease: Lease) -> object:
        store = self.store
        if call.operation == "acquire":
            return store.acquire(call.owner)
        if call.operation == "acquire_expired":
            return store.acquire(call.owner, expected=store.read(consistent=True), is_expired=True)
        if call.operation == "acquire_late":
            return store.acquire(call.owner, expected=self.last_read)
        if call.operation == "renew":
            return store.renew(lease, Progress("0001_a", call.number, 30, 1))
        if call.operation == "advance_fence":
            return store.advance_fence(lease, call.number)
        if call.operation == "withdraw_readiness":
            return store.withdraw_readiness(lease, {})
        if call.operation == "store_completion":
            store.store_completion(lease, DATABASES)
        elif call.operation == "store_inspection":
            store.store_inspection(lease, DATABASES)
        elif call.operation == "store_failure":
            store.store_failure(lease, failure(call.number))
        else:
            store.release(lease)
        return "freed"


@given(calls=st.lists(CALLS, max_size=15))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_memory_and_dynamodb_return_the_same_and_the_fencing_token_only_grows(
    tables: DynamoDBTables, calls: list[Call]
) -> None:
    sides = []
    for engine in (MemoryTables(), tables):
        clock = FakeClock()
        sides.append(Instances(engine.stores(1, clock)[0], clock))
    fence = 0
    for call in calls:
        first, second = (side.perform(call) for side in sides)
        assert first == second
        left, right = (side.store.read(consistent=True) for side in sides)
        assert left == right
        assert left.fence >= fence
        fence = left.fence
