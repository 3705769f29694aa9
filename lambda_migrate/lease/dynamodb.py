"""Leases in DynamoDB: one item per target, every write one conditional request.

What this module is built on; each has a test:

- A write that is repeated because its response was lost finds its own result as a failed condition.
  The owner id is unique for every attempt, so the item shows whose write it was.
- Some engines report a failed condition without the item (``ALL_OLD``): that costs one consistent
  read.
- The retries of the SDK are off: no deadline can bound them. The caller's loop retries instead.
- The timeouts of the SDK bound neither name resolution nor a credentials provider (STS, a process),
  so each of its calls runs in a thread with a time limit. A call that was given up may still be
  sent once the name is resolved. It then has the effect of any delayed request: its condition names
  its own owner and fencing token.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.errors import ConfigurationError, LeaseLost, LeaseStoreUnavailable
from lambda_migrate.lease.codec import (
    FORMAT_VERSION,
    decode,
    encode_databases,
    encode_failure,
    encode_failures,
    encode_progress,
)
from lambda_migrate.lease.decision import CLOCK_SKEW_MS
from lambda_migrate.lease.dynamodb_errors import (
    CALL_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    EXPIRED_CREDENTIALS_CODES,
    READ_TIMEOUT_SECONDS,
    ConditionFailed,
    RequestDetails,
    ServerClock,
    translate_error,
)
from lambda_migrate.lease.record import Lease, LeaseState
from lambda_migrate.timeouts import TimeLimitExceeded, run_with_timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.lease.fast_client.client import FastClient
    from lambda_migrate.lease.record import DatabaseRecord, Failure, Progress

__all__ = ["DynamoDBItem", "DynamoDBLeaseTable", "make_client"]


def make_client(
    region: str | None = None,
    *,
    reload_variables: bool = False,
    credentials_timeout: float | None = None,
) -> Any:
    """Create a DynamoDB client without retries and with short timeouts; imports boto3.

    Args:
        region: Region; by default the one that boto3 finds.
        reload_variables: Read environment and profile again, instead of using the default session
            of boto3.
        credentials_timeout: How many seconds the credentials provider may take; None: see
            `_credentials_timeout`.

    Raises:
        ConfigurationError: No region is configured, or the endpoint's URL is invalid.
        LeaseStoreUnavailable: The credentials provider does not respond.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 1},
        tcp_keepalive=True,
    )
    timeout = _credentials_timeout() if credentials_timeout is None else credentials_timeout
    try:
        session = (None if reload_variables else boto3.DEFAULT_SESSION) or boto3.Session()
        run_with_timeout(timeout, session.get_credentials)
        return session.client("dynamodb", region_name=region, config=config)
    except TimeLimitExceeded:
        raise LeaseStoreUnavailable(_credentials_timeout_message(timeout)) from None
    except (BotoCoreError, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is not a URL
        from lambda_migrate.aws_errors import describe_sdk_error

        reason = describe_sdk_error(error)
        raise ConfigurationError(f"cannot create a DynamoDB client: {reason}") from error


def _credentials_timeout(deadline: Deadline | None = None) -> float:
    """How long a credentials provider may take; outside Lambda a user may have to sign in."""
    if deadline is not None:
        return max(CALL_TIMEOUT_SECONDS, min(60.0, deadline.remaining()))
    return CALL_TIMEOUT_SECONDS if "AWS_LAMBDA_FUNCTION_NAME" in os.environ else 60.0


def _credentials_timeout_message(seconds: float) -> str:
    return (
        f"no AWS credentials within {seconds:.1f} s: their provider (STS, SSO, a container, or a "
        "process of the profile) did not respond; in a VPC without a NAT gateway, create an "
        "interface endpoint for STS"
    )


class DynamoDBItem:
    """Reads and updates one item of a DynamoDB table.

    Args:
        table: Name or ARN of the table.
        target: Partition key of the item.
        client: Creates the boto3 client when it is first needed.
        fast_client: Used instead of boto3 as long as it can; not shared with other items.
        clock: Compared with the server's.

    Attributes:
        credentials_deadline: When waiting for credentials ends.
    """

    def __init__(
        self,
        table: str,
        target: str,
        *,
        client: Callable[[], Any] = make_client,
        fast_client: FastClient | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.credentials_deadline: Deadline | None = None
        self.table = table
        self.target = target
        self._clock = clock
        self._server_clock = ServerClock(clock) if fast_client is None else fast_client.server_clock
        self._boto3_request_count = 0
        self._create_client = client
        self._fast_client = fast_client
        self._boto3_client: Any = None

    @property
    def request_count(self) -> int:
        """See `LeaseStore.request_count`."""
        return self._boto3_request_count + (
            0 if self._fast_client is None else self._fast_client.request_count
        )

    @property
    def clock_offset_ms(self) -> int:
        """See `ServerClock.offset_ms`."""
        return self._server_clock.offset_ms

    def get(self, *, consistent: bool) -> Mapping[str, Any] | None:
        """Read with the fast client; with boto3 if that one declines."""
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
        from botocore.exceptions import BotoCoreError, ClientError

        if self._boto3_client is None:
            self._boto3_client = self._new_client()
        key = {"target": {"S": self.target}}
        request = {"TableName": self.table, "Key": key, **arguments}
        try:
            try:
                return self._send(operation, request)
            except ClientError as error:
                if not self._replace_credentials(error):
                    raise
                return self._send(operation, request)
        except ClientError as error:
            # Not chained: AWS may quote the signed request with its session token.
            raise self._response_error(operation, error) from None
        except BotoCoreError as error:
            raise self._connection_error(error) from error

    def _send(self, operation: str, request: Mapping[str, Any]) -> Any:
        """Fetch credentials if needed, then send one request; each within its own time limit."""
        client = self._boto3_client
        credentials = _credentials_of(client)
        if _can_refresh(credentials) and credentials.refresh_needed():
            seconds = _credentials_timeout(self.credentials_deadline)
            try:
                run_with_timeout(seconds, credentials.get_frozen_credentials)
            except TimeLimitExceeded:
                raise LeaseStoreUnavailable(_credentials_timeout_message(seconds)) from None
        self._boto3_request_count += 1
        try:
            response = run_with_timeout(
                CALL_TIMEOUT_SECONDS, lambda: getattr(client, operation)(**request)
            )
        except TimeLimitExceeded:
            raise LeaseStoreUnavailable(
                f"DynamoDB did not answer for table {self.table!r} within "
                f"{CALL_TIMEOUT_SECONDS:.1f} s, including name resolution"
            ) from None
        self._update_server_clock(response)
        return response

    def _update_server_clock(self, response: Any) -> None:
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        self._server_clock.update(headers.get("date", ""))

    def _replace_credentials(self, error: Any) -> bool:
        """Create another client if there are other credentials than the expired ones.

        boto3 refreshes what it can refresh, but reads environment and profile only once. During a
        long migration they may have been renewed.

        Returns:
            Whether there are.
        """
        if error.response.get("Error", {}).get("Code") not in EXPIRED_CREDENTIALS_CODES:
            return False
        try:
            new_client = self._new_client(reload_variables=True)
        except (ConfigurationError, LeaseStoreUnavailable):
            return False
        if _credentials_key(new_client) == _credentials_key(self._boto3_client):
            return False
        self._boto3_client = new_client
        return True

    def _new_client(self, *, reload_variables: bool = False) -> Any:
        if self._create_client is not make_client:
            return self._create_client()
        return make_client(
            reload_variables=reload_variables,
            credentials_timeout=_credentials_timeout(self.credentials_deadline),
        )

    def _response_error(self, operation: str, error: Any) -> Exception:
        self._update_server_clock(error.response)
        context = RequestDetails(
            operation,
            self.table,
            self.target,
            region=str(self._boto3_client.meta.region_name),
            clock_offset_ms=self.clock_offset_ms,
            can_refresh_credentials=_can_refresh(_credentials_of(self._boto3_client)),
        )
        return translate_error(error, context)

    def _connection_error(self, error: Exception) -> Exception:
        from lambda_migrate.aws_errors import is_configuration_error

        if is_configuration_error(error):
            return ConfigurationError(f"DynamoDB, table {self.table!r}: {error}")
        return LeaseStoreUnavailable(
            f"DynamoDB did not answer for table {self.table!r}: {type(error).__name__}: {error}"
        )


class DynamoDBLeaseTable(DynamoDBItem):
    """`LeaseStore` on one DynamoDB item.

    Args:
        table: Name or ARN of the table.
        target: Partition key of the item.
        client: Creates the boto3 client when it is first needed.
        fast_client: Used instead of boto3 as long as it can; not shared with other stores.
        lease_seconds: Length of a lease.
        clock: Time.
    """

    def __init__(
        self,
        table: str,
        target: str,
        *,
        client: Callable[[], Any] = make_client,
        fast_client: FastClient | None = None,
        lease_seconds: float = 20.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(table, target, client=client, fast_client=fast_client, clock=clock)
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
                    ":format": _encode_number(FORMAT_VERSION),
                },
                names={"#format": "format"},
            )
        except ConditionFailed as failed:
            state = self._read_state_after(failed)
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

    def raise_fence(self, lease: Lease, fence: int) -> Lease:
        """See `LeaseStore.raise_fence`."""
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
            state = self._read_state_after(failed)
            if state.owner is None and state.fence == lease.fence and has_result(state):
                return
            raise self._lost_lease(lease, state) from None

    def _update_own_lease(self, lease: Lease, changes: str, values: dict[str, Any]) -> None:
        try:
            self._update(changes, _IS_OWN_LEASE, {**values, **_own_lease_values(lease)})
        except ConditionFailed as failed:
            raise self._lost_lease(lease, self._read_state_after(failed)) from None

    def _lost_lease(self, lease: Lease, state: LeaseState) -> LeaseLost:
        holder = f"{state.owner} holds it" if state.owner else "no process holds it now"
        return LeaseLost(
            f"lost the lease on {self.target!r}: fencing token {lease.fence} was superseded by "
            f"{state.fence} ({holder}); this instance stops, the next invocation will continue"
            if state.fence != lease.fence
            else f"lost the lease on {self.target!r} under fencing token {lease.fence}: {holder}; "
            "this instance stops, the next invocation will continue"
        )

    def _read_state_after(self, failed: ConditionFailed) -> LeaseState:
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


def _credentials_of(client: Any) -> Any:
    """The credentials of a client; None if it has none, or is not a boto3 client."""
    return getattr(getattr(client, "_request_signer", None), "_credentials", None)


def _can_refresh(credentials: Any) -> bool:
    return hasattr(credentials, "refresh_needed")


def _credentials_key(client: Any) -> object:
    """Access key and session token, to compare."""
    credentials = _credentials_of(client)
    if credentials is None:
        return None
    if _can_refresh(credentials):
        return client  # another client fetches its own
    return (credentials.access_key, credentials.token)


def _own_lease_values(lease: Lease) -> dict[str, Any]:
    return {":own_owner": {"S": lease.owner}, ":own_fence": _encode_number(lease.fence)}


def _encode_number(number: int) -> dict[str, Any]:
    return {"N": str(number)}
