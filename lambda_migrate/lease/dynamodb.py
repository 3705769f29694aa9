"""Leases in DynamoDB: one item per target, every write one conditional request.

What this module is built on; each has a test:

- A write that is repeated because its response was lost finds its own result as a failed condition.
  The owner id is unique for every attempt, so the item shows whose write it was.
- Some engines report a failed condition without the item (``ALL_OLD``): that costs one consistent
  read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.errors import LeaseLost
from lambda_migrate.lease.codec import (
    ITEM_LAYOUT,
    decode,
    encode_databases,
    encode_failure,
    encode_failures,
    encode_progress,
)
from lambda_migrate.lease.dynamodb_call import ConditionFailed, ServerClock
from lambda_migrate.lease.record import CLOCK_SKEW_MS, LeaseState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.lease.boto3_item import Boto3ItemClient
    from lambda_migrate.lease.fast_client import FastClient
    from lambda_migrate.lease.first_read import FirstRead
    from lambda_migrate.lease.progress import Failure, Progress
    from lambda_migrate.lease.record import DatabaseRecord
    from lambda_migrate.lease.store import Lease

__all__ = ["DynamoDBItemClient", "DynamoDBLeaseStore"]


class DynamoDBItemClient:
    """Reads and updates one item of a DynamoDB table.

    Args:
        table: Name or ARN of the table.
        target: Partition key of the item.
        client: Creates the boto3 client when it is first needed; by default `make_client`.
        fast_client: Used instead of boto3 as long as it can; not shared with other items.
        first_read: What the fast client has read; the first `get` returns it.
        clock: Compared with the server's.

    Attributes:
        credentials_deadline: When waiting for credentials ends.
    """

    def __init__(
        self,
        table: str,
        target: str,
        *,
        client: Callable[[], Any] | None = None,
        fast_client: FastClient | None = None,
        first_read: FirstRead | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.credentials_deadline: Deadline | None = None
        self.table = table
        self.target = target
        self._clock = clock
        self._server_clock = ServerClock(clock) if fast_client is None else fast_client.server_clock
        self._create_client = client
        self._fast_client = fast_client
        self._first_read = first_read
        self._boto3_client: Boto3ItemClient | None = None

    @property
    def request_count(self) -> int:
        """See `LeaseStore.request_count`."""
        clients = (self._fast_client, self._boto3_client)
        return sum(client.request_count for client in clients if client is not None)

    @property
    def clock_offset_ms(self) -> int:
        """See `ServerClock.offset_ms`."""
        return self._server_clock.offset_ms

    def get(self, *, consistent: bool) -> Mapping[str, Any] | None:
        """Read with the fast client; with boto3 if that one declines.

        Raises:
            LeaseStoreUnavailable: DynamoDB is busy, or did not respond.
        """
        first_read, self._first_read = self._first_read, None
        if first_read is not None and first_read.error is not None:
            raise first_read.error
        if first_read is not None and first_read.item is not None:
            return first_read.item
        if self._fast_client is not None:
            item = self._fast_client.get_item(self.table, self.target, consistent=consistent)
            if item is not None:
                return item
        response: dict[str, Any] = self._call("get_item", ConsistentRead=consistent)
        return response.get("Item")

    def update(
        self, changes: str, condition: str, values: dict[str, Any], *, names: dict[str, str]
    ) -> Mapping[str, Any]:
        """Update the item if the condition holds; returns the updated item.

        Raises:
            ConditionFailed: The condition does not hold.
        """
        update = {
            "UpdateExpression": changes,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "ReturnValues": "ALL_NEW",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        if self._fast_client is not None:
            item = self._fast_client.update_item(self.table, self.target, update)
            if item is not None:
                return item
        response: dict[str, dict[str, Any]] = self._call("update_item", **update)
        return response["Attributes"]

    def close(self) -> None:
        """See `LeaseStore.close`."""
        if self._fast_client is not None:
            self._fast_client.close()
        if self._boto3_client is not None:
            self._boto3_client.close()

    def _call(self, operation: str, **arguments: Any) -> Any:
        if self._boto3_client is None:
            from lambda_migrate.lease.boto3_item import Boto3ItemClient

            self._boto3_client = Boto3ItemClient(
                self.table, self.target, client=self._create_client, server_clock=self._server_clock
            )
        return self._boto3_client.call(operation, arguments, self.credentials_deadline)


class DynamoDBLeaseStore(DynamoDBItemClient):
    """`LeaseStore` on one DynamoDB item.

    Args:
        table: Name or ARN of the table.
        target: Partition key of the item.
        client: Creates the boto3 client when it is first needed; by default `make_client`.
        fast_client: Used instead of boto3 as long as it can; not shared with other stores.
        first_read: What the fast client has read; the first `read` returns it.
        lease_seconds: Length of a lease.
        clock: Time.
    """

    def __init__(
        self,
        table: str,
        target: str,
        *,
        client: Callable[[], Any] | None = None,
        fast_client: FastClient | None = None,
        first_read: FirstRead | None = None,
        lease_seconds: float = 20.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(
            table,
            target,
            client=client,
            fast_client=fast_client,
            first_read=first_read,
            clock=clock,
        )
        self.lease_seconds = lease_seconds

    def read(self, *, consistent: bool = False) -> LeaseState:
        """See `LeaseStore.read`."""
        return decode(self.get(consistent=consistent), target=self.target)

    def now_ms(self) -> int:
        """See `LeaseStore.now_ms`."""
        return self._clock.wall_ms() + self.clock_offset_ms

    def acquire(
        self, owner: str, *, expected: LeaseState | None = None, is_expired: bool = False
    ) -> Lease | LeaseState:
        """See `LeaseStore.acquire`."""
        free = (
            "attribute_not_exists(#owner) OR attribute_not_exists(lease_until)"
            " OR (lease_until < :over AND #owner <> :owner)"
        )
        values: dict[str, Any] = {":over": _encode_number(self.now_ms() - CLOCK_SKEW_MS)}
        if is_expired and expected is not None and expected.owner != owner:
            free += " OR (#owner = :expected_owner AND lease_until = :expected_until)"
            values[":expected_owner"] = {"S": expected.owner or ""}
            values[":expected_until"] = _encode_number(expected.lease_until_ms)
        condition = f"(attribute_not_exists(#format) OR #format = :format) AND ({free})"
        if expected is not None:
            is_newest = "fence = :expected_fence"
            if not expected.fence:
                is_newest = f"(attribute_not_exists(fence) OR {is_newest})"
            condition += f" AND {is_newest}"
            values[":expected_fence"] = _encode_number(expected.fence)
        return self._acquire_if(owner, condition, values)

    def _acquire_if(self, owner: str, condition: str, values: dict[str, Any]) -> Lease | LeaseState:
        from lambda_migrate.lease.store import Lease

        trusted_until, term = self._compute_expiry()
        try:
            item = self._update(
                "SET #owner = :owner, lease_until = :until, lease_ms = :length, #format = :format"
                " ADD fence :one",
                condition,
                {
                    **values,
                    **term,
                    ":one": _encode_number(1),
                    ":owner": {"S": owner},
                    ":format": _encode_number(ITEM_LAYOUT),
                },
                names={"#format": "format"},
            )
        except ConditionFailed as failed:
            state = self._read_state_after_failure(failed)
            if state.owner != owner:
                return state
            # Our own write, whose response was lost. The lease counts from then, not from now.
            return self.renew(Lease(owner, state.fence, trusted_until, state))
        state = decode(item, target=self.target)
        return Lease(owner, state.fence, trusted_until, state)

    def renew(self, lease: Lease, progress: Progress | None = None) -> Lease:
        """See `LeaseStore.renew`."""
        trusted_until, values = self._compute_expiry()
        changes = "SET lease_until = :until, lease_ms = :length"
        if progress is not None:
            changes += ", progress = :progress"
            values[":progress"] = encode_progress(progress)
        self._update_own_lease(lease, changes, values)
        return lease._replace(trusted_until=trusted_until)

    def advance_fence(self, lease: Lease, fence: int) -> Lease:
        """See `LeaseStore.advance_fence`."""
        fence = max(fence, lease.fence)
        try:
            self._update_own_lease(lease, "SET fence = :fence", {":fence": _encode_number(fence)})
        except LeaseLost:
            # The response to our own write may have been lost: then the item has its result.
            state = self.read(consistent=True)
            if state.owner != lease.owner or state.fence != fence:
                raise
        return lease._replace(fence=fence)

    def withdraw_readiness(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> Lease:
        """See `LeaseStore.withdraw_readiness`."""
        values = {":databases": encode_databases(databases)}
        self._update_own_lease(lease, "SET databases = :databases", values)
        return lease._replace(state=lease.state._replace(databases=dict(databases)))

    def store_completion(
        self,
        lease: Lease,
        databases: Mapping[str, DatabaseRecord],
        failures: Sequence[Failure] = (),
    ) -> None:
        """See `LeaseStore.store_completion`."""
        remaining = LeaseState().with_failures(failures)
        changes, values = _failure_changes(remaining)
        values[":databases"] = encode_databases(databases)
        self._write_and_release(
            lease,
            f"SET databases = :databases{changes}",
            values,
            lambda state: (state.databases, state.failures) == (databases, remaining.failures),
        )

    def store_inspection(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> None:
        """See `LeaseStore.store_inspection`."""
        values = {":databases": encode_databases(databases)}
        changes = f"SET databases = :databases {_REMOVE_LEASE}"
        self._write_and_release(lease, changes, values, lambda state: state.databases == databases)

    def store_failure(self, lease: Lease, failure: Failure) -> None:
        """See `LeaseStore.store_failure`."""
        remaining = lease.state.with_failure(failure)
        changes, values = _failure_changes(remaining)
        self._write_and_release(
            lease,
            f"SET {changes.removeprefix(', ')}",
            values,
            lambda state: state.failures == remaining.failures,
        )

    def release(self, lease: Lease) -> None:
        """See `LeaseStore.release`."""
        self._write_and_release(lease, _REMOVE_LEASE_AND_PROGRESS, {}, lambda _state: True)

    def _compute_expiry(self) -> tuple[float, dict[str, Any]]:
        """Until when a lease requested now is trusted, and the values that the item stores."""
        trusted_until = self._clock.monotonic() + self.lease_seconds - CLOCK_SKEW_MS / 1000
        length_ms = round(self.lease_seconds * 1000)
        return trusted_until, {
            ":until": _encode_number(self.now_ms() + length_ms),
            ":length": _encode_number(length_ms),
        }

    def _write_and_release(
        self,
        lease: Lease,
        changes: str,
        values: dict[str, Any],
        has_result: Callable[[LeaseState], bool],
    ) -> None:
        """A write that releases the lease; repeated, it finds no owner, which is not a loss.

        Args:
            lease: The lease to release.
            changes: The update expression.
            values: Its values.
            has_result: Whether a state shows the result of this write.
        """
        try:
            self._update(changes, _IS_OWN_LEASE, {**values, **_own_lease_values(lease)})
        except ConditionFailed as failed:
            state = self._read_state_after_failure(failed)
            if state.owner is None and state.fence == lease.fence and has_result(state):
                return
            raise self._lost_lease(lease, state) from None

    def _update_own_lease(self, lease: Lease, changes: str, values: dict[str, Any]) -> None:
        try:
            self._update(changes, _IS_OWN_LEASE, {**values, **_own_lease_values(lease)})
        except ConditionFailed as failed:
            raise self._lost_lease(lease, self._read_state_after_failure(failed)) from None

    def _lost_lease(self, lease: Lease, state: LeaseState) -> LeaseLost:
        holder = f"{state.owner} holds it" if state.owner else "no process holds it now"
        return LeaseLost(
            f"lost the lease on {self.target!r}: fencing token {lease.fence} was superseded by "
            f"{state.fence} ({holder}); this instance stops, the next invocation will continue"
            if state.fence != lease.fence
            else f"lost the lease on {self.target!r} under fencing token {lease.fence}: {holder}; "
            "this instance stops, the next invocation will continue"
        )

    def _read_state_after_failure(self, failed: ConditionFailed) -> LeaseState:
        if failed.item is None:
            return self.read(consistent=True)
        return decode(failed.item, target=self.target)

    def _update(
        self,
        changes: str,
        condition: str,
        values: dict[str, Any],
        *,
        names: dict[str, str] | None = None,
    ) -> Mapping[str, Any]:
        return self.update(changes, condition, values, names={"#owner": "owner", **(names or {})})


_IS_OWN_LEASE = "#owner = :own_owner AND fence = :own_fence"
_REMOVE_LEASE = "REMOVE #owner, lease_until, lease_ms"
_REMOVE_LEASE_AND_PROGRESS = f"{_REMOVE_LEASE}, progress"


def _failure_changes(state: LeaseState) -> tuple[str, dict[str, Any]]:
    """The rest of an update that releases the lease and stores the failures, after a ``SET``."""
    stored: dict[str, Any] = {}
    if state.failure is not None:
        stored[":failure"] = encode_failure(state.failure)
    if state.older_failures:
        stored[":failures"] = encode_failures(state.older_failures)
    names = {":failure": "failure", ":failures": "failures"}
    changes = "".join(f", {names[value]} = {value}" for value in stored)
    removed = "".join(f", {name}" for value, name in names.items() if value not in stored)
    return f"{changes} {_REMOVE_LEASE_AND_PROGRESS}{removed}", stored


def _own_lease_values(lease: Lease) -> dict[str, Any]:
    return {":own_owner": {"S": lease.owner}, ":own_fence": _encode_number(lease.fence)}


def _encode_number(number: int) -> dict[str, Any]:
    return {"N": str(number)}
