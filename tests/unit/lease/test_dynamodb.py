"""Every failure of DynamoDB has one outcome and a clear error."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore import exceptions
from botocore.exceptions import ClientError
from botocore.stub import ANY, Stubber
from moto import mock_aws

from lambda_migrate.clock import (
    CONNECT_TIMEOUT_SECONDS,
    READ_TIMEOUT_SECONDS,
    SYSTEM_CLOCK,
    Deadline,
)
from lambda_migrate.errors import ConfigurationError, LeaseLost, LeaseStoreUnavailable
from lambda_migrate.lease.boto3_item import make_client
from lambda_migrate.lease.decision import Acquire, decide
from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.lease.dynamodb_call import (
    set_credentials_deadline,
)
from lambda_migrate.lease.progress import Failure, Progress
from lambda_migrate.lease.record import CLOCK_SKEW_MS, DatabaseRecord, LeaseState
from lambda_migrate.lease.store import Lease
from lambda_migrate.testing import FakeClock
from tests.contract.leases import TableByOwnClock

TABLE = "leases"
LEASE = Lease("me", 3, 0.0, LeaseState(fence=3, owner="me"))
FAILURE = Failure("d", "0003_c", "3", "42P01", "no such table", 1, 1, 2)
DATABASES = {"5f": DatabaseRecord(b"8 bytes.", addresses={"db": (1, 1)}, fence=1)}

CALLS: dict[str, Callable[[DynamoDBLeaseStore, Lease], object]] = {
    "read": lambda table, _lease: table.read(),
    "acquire": lambda table, _lease: table.acquire("me"),
    "renew": lambda table, lease: table.renew(lease, Progress("0001_a", 0, 1, 1)),
    "advance_fence": lambda table, lease: table.advance_fence(lease, 9),
    "withdraw_readiness": lambda table, lease: table.withdraw_readiness(lease, DATABASES),
    "store_completion": lambda table, lease: table.store_completion(lease, DATABASES),
    "store_inspection": lambda table, lease: table.store_inspection(lease, DATABASES),
    "store_failure": lambda table, lease: table.store_failure(lease, FAILURE),
    "release": lambda table, lease: table.release(lease),
}
WRITES = {name: call for name, call in CALLS.items() if name not in ("read", "acquire")}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
every_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


class StubClient:
    """A client with a list of responses; the last one is repeated."""

    meta = SimpleNamespace(region_name="eu-west-1")

    def __init__(self, *responses: Any) -> None:
        self.responses = list(responses)
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def get_item(self, **arguments: Any) -> Any:
        return self._answer("get_item", arguments)

    def update_item(self, **arguments: Any) -> Any:
        return self._answer("update_item", arguments)

    def _answer(self, operation: str, arguments: dict[str, Any]) -> Any:
        self.calls.append((operation, arguments))
        answer = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def client_error(
    code: str, message: str = "a message", *, status: int = 400, item: dict[str, Any] | None = None
) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
        **({} if item is None else {"Item": item}),
    }
    return ClientError(response, "UpdateItem")


def table_with(client: Any, *, table: str = TABLE, target: str = "orders") -> DynamoDBLeaseStore:
    return TableByOwnClock(table, target, client=lambda: client, clock=FakeClock())


def table_with_server_clock(client: Any) -> DynamoDBLeaseStore:
    """A table that reads the server's clock from the responses."""
    return DynamoDBLeaseStore(TABLE, "orders", client=lambda: client, clock=FakeClock())


def item(fence: int, owner: str | None = None) -> dict[str, Any]:
    held = {} if owner is None else {"owner": {"S": owner}, "lease_until": {"N": "1"}}
    return {"format": {"N": "2"}, "fence": {"N": str(fence)}, **held}


# --- the store fails: try again later


RETRYABLE_CODES = [
    client_error("ProvisionedThroughputExceededException"),
    client_error("ThrottlingException"),
    client_error("Throttling"),
    client_error("RequestLimitExceeded"),
    client_error("TransactionConflictException"),
    client_error("LimitExceededException"),
    client_error("ReplicatedWriteConflictException"),
    client_error("ResourceInUseException"),
    client_error("ItemCollectionSizeLimitExceededException"),
    client_error("TransactionInProgressException"),
    client_error("RequestTimeout"),
    client_error("InternalServerError", status=500),
    client_error("ServiceUnavailable", status=503),
    client_error("Something new", status=502),
    client_error("", "", status=504),
]
NO_RESPONSE = [
    exceptions.ConnectTimeoutError(endpoint_url="http://x"),
    exceptions.ReadTimeoutError(endpoint_url="http://x"),
    exceptions.EndpointConnectionError(endpoint_url="http://x"),
    exceptions.ConnectionClosedError(endpoint_url="http://x"),
    exceptions.ResponseStreamingError(error="cut off"),
    exceptions.SSLError(endpoint_url="http://x", error=OSError("handshake")),
]


def error_name(value: object) -> str | None:
    if isinstance(value, ClientError):
        return value.response["Error"]["Code"] or "no code"
    return type(value).__name__ if isinstance(value, Exception) else None


@pytest.mark.parametrize("fault", RETRYABLE_CODES, ids=error_name)
def test_throttling_and_server_errors_are_retryable_and_name_the_code(
    fault: ClientError,
) -> None:
    with pytest.raises(LeaseStoreUnavailable, match=f"'{TABLE}'") as caught:
        table_with(StubClient(fault)).read()
    assert caught.value.retryable
    assert fault.response["Error"]["Code"] in str(caught.value)


@pytest.mark.parametrize("fault", NO_RESPONSE, ids=error_name)
def test_no_response_is_retryable_and_names_the_error(fault: Exception) -> None:
    with pytest.raises(LeaseStoreUnavailable, match=f"'{TABLE}'") as caught:
        table_with(StubClient(fault)).read()
    assert type(fault).__name__ in str(caught.value)


@every_call
@pytest.mark.parametrize(
    "fault",
    [
        client_error("ThrottlingException"),
        client_error("InternalServerError", status=500),
        NO_RESPONSE[1],
    ],
)
def test_every_call_is_retryable_while_the_store_fails(
    call: Callable[[DynamoDBLeaseStore, Lease], object], fault: Exception
) -> None:
    with pytest.raises(LeaseStoreUnavailable):
        call(table_with(StubClient(fault)), LEASE)


# --- every call ends in time


class HangingClient(StubClient):
    """A client whose calls end only when the test lets them."""

    def __init__(self) -> None:
        super().__init__({})
        self.may_end = threading.Event()

    def _answer(self, operation: str, arguments: dict[str, Any]) -> Any:
        self.may_end.wait(20)
        return super()._answer(operation, arguments)


def test_a_call_of_boto3_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lambda_migrate.lease.boto3_item.CALL_TIMEOUT_SECONDS", 0.1)
    client = HangingClient()
    with pytest.raises(LeaseStoreUnavailable, match=f"did not respond for table '{TABLE}' within"):
        table_with(client).read()
    client.may_end.set()


class FetchedCredentials:
    """Credentials that a provider such as STS fetches."""

    access_key = token = "x"

    def __init__(self, fetch: Callable[[], object] = lambda: None) -> None:
        self.fetch = fetch
        self.is_fetched = False

    def refresh_needed(self) -> bool:
        return not self.is_fetched

    def get_frozen_credentials(self) -> None:
        self.fetch()
        self.is_fetched = True


def with_credentials(client: StubClient, credentials: object) -> StubClient:
    client._request_signer = SimpleNamespace(_credentials=credentials)  # type: ignore[attr-defined]  # as boto3's client has
    return client


def test_a_credentials_provider_that_hangs_in_a_function_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    monkeypatch.setattr("lambda_migrate.lease.boto3_item.CALL_TIMEOUT_SECONDS", 0.1)
    may_end = threading.Event()
    client = with_credentials(StubClient({}), FetchedCredentials(lambda: may_end.wait(20)))
    with pytest.raises(LeaseStoreUnavailable, match="no AWS credentials within") as caught:
        table_with(client).read()
    assert "STS" in str(caught.value)
    assert client.calls == []
    may_end.set()


def test_credentials_are_fetched_before_the_time_of_the_call_is_counted() -> None:
    credentials = FetchedCredentials()
    assert table_with(with_credentials(StubClient({}), credentials)).read() == LeaseState()
    assert credentials.is_fetched


def test_an_error_of_the_credentials_provider_is_reported_as_its_own() -> None:
    def refuse() -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "AssumeRole")

    with pytest.raises(ConfigurationError, match="AssumeRole was refused: AccessDenied: no"):
        table_with(with_credentials(StubClient({}), FetchedCredentials(refuse))).read()


@pytest.mark.slow
@pytest.mark.parametrize("is_deferred", [True, False], ids=["a role", "a container"])
def test_credentials_providers_without_a_response_end_with_the_invocation(
    is_deferred: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[profile base]\naws_access_key_id = a\naws_secret_access_key = b\n"
        "[profile role]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr("lambda_migrate.lease.boto3_item.CALL_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if is_deferred:
            monkeypatch.setenv("AWS_PROFILE", "role")
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        else:
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        table = DynamoDBLeaseStore(TABLE, "orders")
        set_credentials_deadline(table, Deadline.after(0.4))
        with pytest.raises(LeaseStoreUnavailable, match=r"no AWS credentials within 0\.[234] s"):
            table.read()


# --- clocks


SERVER_DATE = {"HTTPHeaders": {"date": "Tue, 14 Nov 2023 22:27:20 GMT"}}
"""840 s after the fake clock."""


@pytest.mark.parametrize(
    "fault",
    [
        client_error("InvalidSignatureException", "Signature expired: 1 is now earlier than 2"),
        client_error(
            "InvalidSignatureException", "Signature not yet current: 2 is still later than 1"
        ),
        client_error("RequestTimeTooSkewed"),
        client_error("RequestExpired"),
    ],
)
def test_a_signature_refused_for_its_time_is_retryable_and_names_the_difference(
    fault: ClientError,
) -> None:
    table = table_with_server_clock(StubClient(fault))
    with pytest.raises(LeaseStoreUnavailable, match="clock differs from DynamoDB's"):
        table.read()
    fault.response["ResponseMetadata"] |= SERVER_DATE  # type: ignore[typeddict-item]  # the part that is read
    with pytest.raises(LeaseStoreUnavailable, match="clock is 840 s behind DynamoDB's; correct"):
        table.read()
    assert table.clock_offset_ms == 840_500


def test_the_server_clock_is_read_from_every_response() -> None:
    table = table_with_server_clock(StubClient({"ResponseMetadata": SERVER_DATE}))
    assert table.clock_offset_ms == 0
    table.read()
    assert table.clock_offset_ms == 840_500


def test_a_wrong_clock_is_replaced_by_the_servers_in_conditions_and_values() -> None:
    client = StubClient({"ResponseMetadata": SERVER_DATE}, {"Attributes": item(1, "me")})
    table = table_with_server_clock(client)
    table.read()
    acquire(table, "me")
    values = client.calls[-1][1]["ExpressionAttributeValues"]
    servers_ms = FakeClock().wall_ms() + 840_500
    assert table.now_ms() == servers_ms
    assert values[":over"] == {"N": str(servers_ms - CLOCK_SKEW_MS)}
    assert values[":until"] == {"N": str(servers_ms + 20_000)}


@pytest.mark.parametrize("step", [-1860, 1860])
def test_setting_the_clock_while_a_lease_is_held_moves_no_lease(step: int) -> None:
    clock = FakeClock(wall_ms=1_700_000_840_500)  # as the server's
    client = StubClient({"Attributes": item(1, "me"), "ResponseMetadata": SERVER_DATE})
    table = DynamoDBLeaseStore(TABLE, "orders", client=lambda: client, clock=clock)
    lease = acquire(table, "me")
    clock.advance(7)
    clock.step_wall_clock(step)
    client.responses = [{"Attributes": item(1, "me")}]
    table.renew(lease)
    values = client.calls[-1][1]["ExpressionAttributeValues"]
    assert values[":until"] == {"N": str(1_700_000_840_500 + 7_000 + 20_000)}
    assert table.now_ms() == 1_700_000_840_500 + 7_000


# --- credentials that expire


def test_expired_credentials_are_reported_with_dynamodbs_message_and_what_to_do() -> None:
    fault = client_error("ExpiredTokenException", "The security token is expired")
    with pytest.raises(ConfigurationError) as caught:
        table_with(StubClient(fault)).read()
    assert "ExpiredTokenException: The security token is expired" in str(caught.value)
    assert "outlive the migration" in str(caught.value)


def test_expired_credentials_that_can_be_refreshed_are_retryable() -> None:
    client = with_credentials(
        StubClient(client_error("ExpiredTokenException")), FetchedCredentials()
    )
    with pytest.raises(LeaseStoreUnavailable, match="ExpiredTokenException"):
        table_with(client).read()


def with_key(client: StubClient, key: str) -> StubClient:
    return with_credentials(client, SimpleNamespace(access_key=key, token=""))


def test_expired_credentials_are_replaced_by_a_client_with_others() -> None:
    old = with_key(StubClient({}, client_error("ExpiredTokenException")), "old")
    new = with_key(StubClient({"Item": item(7)}), "new")
    clients = iter([old, new])
    table = DynamoDBLeaseStore(TABLE, "orders", client=lambda: next(clients), clock=FakeClock())
    assert table.read().fence == 0
    assert [table.read().fence for _ in range(2)] == [7, 7]
    assert (len(old.calls), len(new.calls), table.request_count) == (2, 2, 4)


def test_the_same_expired_credentials_are_not_sent_twice() -> None:
    made = [with_key(StubClient(client_error("ExpiredTokenException")), "old") for _ in range(2)]
    clients = iter(made)
    table = DynamoDBLeaseStore(TABLE, "orders", client=lambda: next(clients), clock=FakeClock())
    with pytest.raises(ConfigurationError, match="ExpiredTokenException"):
        table.read()
    assert [len(each.calls) for each in made] == [1, 0]


def test_a_new_client_can_read_the_environment_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "old")
    boto3.setup_default_session()
    assert make_client()._request_signer._credentials.access_key == "old"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "new")
    assert make_client()._request_signer._credentials.access_key == "old"
    assert make_client(reload_variables=True)._request_signer._credentials.access_key == "new"


# --- configuration errors name what to fix


@every_call
def test_a_missing_table_is_named_with_its_region_and_the_command_that_creates_it(
    call: Callable[[DynamoDBLeaseStore, Lease], object],
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        call(table_with(StubClient(client_error("ResourceNotFoundException"))), LEASE)
    message = str(caught.value)
    assert f"no table '{TABLE}' in eu-west-1" in message
    assert f"`lambda-migrate table create --table {TABLE}`" in message
    assert "LAMBDA_MIGRATE_TABLE" in message


def test_the_command_that_creates_a_missing_table_has_its_name_and_not_its_arn() -> None:
    client = StubClient(client_error("ResourceNotFoundException"))
    with pytest.raises(ConfigurationError, match=f"no table '{ARN}' in .*--table leases`"):
        table_with(client, table=ARN).read()


ARN = "arn:aws-cn:dynamodb:cn-north-1:123456789012:table/leases"


@pytest.mark.parametrize(
    ("call", "action"),
    [
        (CALLS[name], "dynamodb:GetItem" if name == "read" else "dynamodb:UpdateItem")
        for name in CALLS
    ],
    ids=CALLS,
)
@pytest.mark.parametrize(
    ("table", "resource"),
    [(TABLE, f"arn:aws:dynamodb:eu-west-1:<account>:table/{TABLE}"), (ARN, ARN)],
    ids=["name", "arn"],
)
def test_a_missing_permission_is_named_with_the_statement_to_add(
    call: Callable[[DynamoDBLeaseStore, Lease], object], action: str, table: str, resource: str
) -> None:
    client = StubClient(client_error("AccessDeniedException", "User is not authorized"))
    with pytest.raises(ConfigurationError) as caught:
        call(table_with(client, table=table), LEASE)
    message = str(caught.value)
    assert message.startswith(
        f"{action} on table '{table}' is not allowed (User is not authorized)"
    )
    assert json.loads(message.partition("role:\n")[2]) == {
        "Effect": "Allow",
        "Action": ["dynamodb:GetItem", "dynamodb:UpdateItem"],
        "Resource": resource,
        "Condition": {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["orders"]}},
    }


DENIED = "User: arn:aws:sts::1:assumed-role/fn is not authorized to perform: dynamodb:GetItem"


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("KMS key access denied error: you are not allowed", "allow kms:Decrypt on that key"),
        (f"{DENIED} with an explicit deny in a VPC endpoint policy", "that endpoint's policy"),
        (f"{DENIED} because no VPC endpoint policy allows it", "that endpoint's policy"),
        (f"{DENIED} with an explicit deny in a service control policy", "(SCP)"),
        (f"{DENIED} because no service control policy allows it", "(SCP)"),
        (f"{DENIED} with an explicit deny in a resource control policy", "(RCP)"),
        (f"{DENIED} because no permissions boundary allows it", "in the boundary"),
        (f"{DENIED} because no session policy allows it", "AssumeRole is called with"),
        (f"{DENIED} because no resource-based policy allows it", "the policy of the resource"),
        (f"{DENIED} with an explicit deny in an identity-based policy", "no Allow overrides"),
    ],
)
def test_advice_for_a_refusal_fits_the_policy_that_refused(message: str, advice: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        table_with(StubClient(client_error("AccessDeniedException", message))).read()
    assert message in str(caught.value)
    assert advice in str(caught.value).partition(message)[2]
    assert "add to the function's role" not in str(caught.value)


@pytest.mark.parametrize(
    ("region", "partition"),
    [
        ("cn-north-1", "aws-cn"),
        ("us-gov-west-1", "aws-us-gov"),
        ("us-iso-east-1", "aws-iso"),
        ("us-isob-east-1", "aws-iso-b"),
        ("us-west-2", "aws"),
    ],
)
def test_the_statement_to_add_is_of_the_regions_partition(
    monkeypatch: pytest.MonkeyPatch, region: str, partition: str
) -> None:
    monkeypatch.setattr(StubClient, "meta", SimpleNamespace(region_name=region))
    with pytest.raises(ConfigurationError, match="add to the function's role") as caught:
        table_with(StubClient(client_error("AccessDeniedException", DENIED))).read()
    assert f"arn:{partition}:dynamodb:{region}:<account>:table/{TABLE}" in str(caught.value)


@pytest.mark.parametrize("code", ["UnrecognizedClientException", "ExpiredTokenException"])
def test_refused_credentials_are_not_a_missing_permission(code: str) -> None:
    with pytest.raises(ConfigurationError, match="does not accept the credentials") as caught:
        table_with(StubClient(client_error(code))).read()
    assert "Effect" not in str(caught.value)


def test_a_table_with_another_key_is_reported_with_the_key_it_needs() -> None:
    fault = client_error(
        "ValidationException", "The provided key element does not match the schema"
    )
    with pytest.raises(ConfigurationError) as caught:
        table_with(StubClient(fault)).read()
    message = str(caught.value)
    assert "does not match the schema" in message
    assert "partition key `target` of type S" in message


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (client_error("", "Forbidden", status=403), "HTTP 403: Forbidden"),
        (client_error("RequestEntityTooLarge", "", status=413), "RequestEntityTooLarge"),
    ],
)
def test_any_other_error_is_reported_unchanged_without_advice_about_keys(
    fault: ClientError, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"'{TABLE}': {message}$"):
        table_with(StubClient(fault)).read()


PERMANENT = [
    exceptions.NoCredentialsError(),
    exceptions.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
    exceptions.CredentialRetrievalError(provider="process", error_msg="exit 1"),
    exceptions.NoRegionError(),
    exceptions.InvalidRegionError(region_name="e u"),
    exceptions.ParamValidationError(report="no"),
    exceptions.UnauthorizedSSOTokenError(),
    exceptions.TokenRetrievalError(provider="sso", error_msg="expired"),
]


@pytest.mark.parametrize("fault", PERMANENT, ids=error_name)
def test_an_error_that_no_retry_changes_is_a_configuration_error(fault: Exception) -> None:
    with pytest.raises(ConfigurationError, match=f"'{TABLE}'"):
        table_with(StubClient(fault)).read()


def test_an_error_of_our_own_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        table_with(StubClient(ZeroDivisionError())).read()


# --- a failed condition, with and without the item


def condition_failed(old: dict[str, Any] | None) -> ClientError:
    return client_error("ConditionalCheckFailedException", item=old)


def test_a_failed_condition_with_the_item_needs_no_read() -> None:
    client = StubClient(condition_failed(item(7, "other")))
    state = table_with(client).acquire("me")
    assert state == LeaseState(fence=7, owner="other", lease_until_ms=1)
    assert [operation for operation, _ in client.calls] == ["update_item"]


def test_a_failed_condition_without_the_item_costs_one_consistent_read() -> None:
    client = StubClient(condition_failed(None), {"Item": item(7, "other")})
    table = table_with(client)
    assert table.acquire("me") == LeaseState(fence=7, owner="other", lease_until_ms=1)
    assert [operation for operation, _ in client.calls] == ["update_item", "get_item"]
    assert client.calls[1][1]["ConsistentRead"] is True
    assert table.request_count == 2


@every_write
@pytest.mark.parametrize(
    ("old", "message"),
    [
        (item(4, "other"), "other holds it"),
        (item(4), "no process holds it now"),
        (item(1), "no process holds it now"),
    ],
    ids=["taken over", "successor has finished", "item was created again"],
)
@pytest.mark.parametrize("has_item", [True, False], ids=["with item", "without"])
def test_a_failed_condition_is_a_lost_lease_that_names_the_holder(
    write: Callable[[DynamoDBLeaseStore, Lease], object],
    old: dict[str, Any],
    message: str,
    has_item: bool,
) -> None:
    client = StubClient(condition_failed(old if has_item else None), {"Item": old})
    with pytest.raises(
        LeaseLost, match=f"lost the lease on 'orders': fencing token 3 was.*{message}"
    ):
        write(table_with(client), LEASE)


@every_write
def test_a_deleted_item_is_a_lost_lease(
    write: Callable[[DynamoDBLeaseStore, Lease], object],
) -> None:
    client = StubClient(condition_failed(None), {})
    with pytest.raises(LeaseLost, match=r"was superseded by 0 .no process"):
        write(table_with(client), LEASE)


@every_call
def test_every_call_refuses_an_item_of_an_unknown_layout(
    call: Callable[[DynamoDBLeaseStore, Lease], object],
) -> None:
    unknown = item(3, "other") | {"format": {"N": "3"}}
    client = StubClient(
        *([{"Item": unknown}] if call is CALLS["read"] else [condition_failed(unknown)])
    )
    with pytest.raises(ConfigurationError, match="has layout 3"):
        call(table_with(client), LEASE)


# --- the write was done, and its response was lost


class ResponseLosingClient:
    """A client that can lose the next response; it may also return no item."""

    meta = StubClient.meta

    def __init__(self, client: Any, *, hides_items: bool) -> None:
        self._client = client
        self._hides_items = hides_items
        self.loses_next = False

    def get_item(self, **arguments: Any) -> Any:
        return self._client.get_item(**arguments)

    def update_item(self, **arguments: Any) -> Any:
        if self._hides_items:
            arguments.pop("ReturnValuesOnConditionCheckFailure")
        answer = self._client.update_item(**arguments)
        if self.loses_next:
            self.loses_next = False
            raise exceptions.ReadTimeoutError(endpoint_url="http://x")
        return answer


@pytest.fixture(scope="module")
def moto_client() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("dynamodb", region_name="eu-west-1")
        client.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "target", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "target", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield client


@pytest.fixture(params=[False, True], ids=["ALL_OLD", "no ALL_OLD"])
def losing_client(request: pytest.FixtureRequest, moto_client: Any) -> ResponseLosingClient:
    return ResponseLosingClient(moto_client, hides_items=request.param)


@pytest.fixture
def table(
    request: pytest.FixtureRequest, losing_client: ResponseLosingClient
) -> DynamoDBLeaseStore:
    return table_with(losing_client, target=request.node.name)


def acquire(table: DynamoDBLeaseStore, owner: str) -> Lease:
    lease = table.acquire(owner)
    assert isinstance(lease, Lease)
    return lease


def lose_response(losing_client: ResponseLosingClient, write: Callable[[], object]) -> None:
    losing_client.loses_next = True
    with pytest.raises(LeaseStoreUnavailable):
        write()


def test_an_acquisition_without_a_response_is_recognized_and_keeps_its_fencing_token(
    table: DynamoDBLeaseStore, losing_client: ResponseLosingClient
) -> None:
    lose_response(losing_client, lambda: table.acquire("me"))
    state = table.read(consistent=True)
    assert (state.owner, state.fence) == ("me", 1)
    step = decide(state, digest="d" * 64, address="db", owner="me", now_ms=state.lease_until_ms - 1)
    assert step == Acquire(state)
    assert acquire(table, "me").fence == 1


def test_an_acquisition_without_a_response_excludes_other_owners(
    table: DynamoDBLeaseStore, losing_client: ResponseLosingClient
) -> None:
    lose_response(losing_client, lambda: table.acquire("me"))
    assert isinstance(table.acquire("other"), LeaseState)


@every_write
def test_a_repeated_write_finds_its_own_result(
    table: DynamoDBLeaseStore,
    losing_client: ResponseLosingClient,
    write: Callable[[DynamoDBLeaseStore, Lease], object],
) -> None:
    lease = acquire(table, "me")
    lose_response(losing_client, lambda: write(table, lease))
    done = table.read(consistent=True)
    write(table, lease)
    assert table.read(consistent=True) == done


@pytest.mark.parametrize(
    "name", ["store_completion", "store_inspection", "store_failure", "release"]
)
def test_a_repeated_release_after_a_takeover_is_a_lost_lease(
    table: DynamoDBLeaseStore, losing_client: ResponseLosingClient, name: str
) -> None:
    lease = acquire(table, "me")
    lose_response(losing_client, lambda: WRITES[name](table, lease))
    successor = acquire(table, "other")
    with pytest.raises(LeaseLost, match=r"superseded by 2 .other holds it"):
        WRITES[name](table, lease)
    table.renew(successor)


# --- what is sent


def test_the_lease_is_trusted_from_before_the_call_however_slow_it_is() -> None:
    clock = FakeClock()

    class Slow(StubClient):
        def update_item(self, **arguments: Any) -> Any:
            clock.advance(5)
            return super().update_item(**arguments)

    client = Slow({"Attributes": item(1, "me")})
    table = DynamoDBLeaseStore(TABLE, "orders", client=lambda: client, clock=clock)
    before = clock.monotonic()
    lease = acquire(table, "me")
    assert lease.trusted_until == before + 19
    before = clock.monotonic()
    assert table.renew(lease).trusted_until == before + 19


def test_a_read_is_eventually_consistent_by_default() -> None:
    client = StubClient({})
    table = table_with(client)
    table.read()
    table.read(consistent=True)
    assert [arguments["ConsistentRead"] for _, arguments in client.calls] == [False, True]


@every_call
def test_every_call_is_valid_for_dynamodb(
    call: Callable[[DynamoDBLeaseStore, Lease], object], moto_client: Any
) -> None:
    with Stubber(moto_client) as stubber:
        expected = {"TableName": TABLE, "Key": {"target": {"S": "orders"}}}
        if call is CALLS["read"]:
            stubber.add_response("get_item", {}, expected | {"ConsistentRead": False})
        else:
            stubber.add_response(
                "update_item",
                {"Attributes": item(3, "me")},
                expected
                | {
                    "UpdateExpression": ANY,
                    "ConditionExpression": ANY,
                    "ExpressionAttributeNames": ANY,
                    "ExpressionAttributeValues": ANY,
                    "ReturnValues": "ALL_NEW",
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                },
            )
        call(table_with(moto_client), LEASE)
        stubber.assert_no_pending_responses()


# --- the client that a function creates


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No region, credentials or endpoint in the environment or in files."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL_DYNAMODB"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    return monkeypatch


@pytest.fixture
def own_client(bare_environment: pytest.MonkeyPatch) -> Any:
    bare_environment.setenv("AWS_ACCESS_KEY_ID", "test")
    bare_environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return make_client("eu-west-1")


def test_retries_and_timeouts_do_not_depend_on_botocores_defaults(
    own_client: Any,
) -> None:
    config = own_client.meta.config
    assert config.retries["mode"] == "standard"
    assert config.retries["total_max_attempts"] == 1
    assert (config.connect_timeout, config.read_timeout) == (
        CONNECT_TIMEOUT_SECONDS,
        READ_TIMEOUT_SECONDS,
    )
    assert CONNECT_TIMEOUT_SECONDS + READ_TIMEOUT_SECONDS < 2.0  # the default safety margin


def test_without_a_region_the_setting_is_named(bare_environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"set AWS_REGION \(or AWS_DEFAULT_REGION\)"):
        make_client()


def test_an_endpoint_that_is_not_a_url_is_a_configuration_error(
    bare_environment: pytest.MonkeyPatch,
) -> None:
    bare_environment.setenv("AWS_ENDPOINT_URL_DYNAMODB", "nonsense")
    with pytest.raises(ConfigurationError, match="nonsense"):
        make_client("eu-west-1")


def test_without_credentials_nothing_is_sent(bare_environment: pytest.MonkeyPatch) -> None:
    table = DynamoDBLeaseStore(TABLE, "orders", client=lambda: make_client("eu-west-1"))
    with pytest.raises(ConfigurationError, match="credentials"):
        table.read()


def test_a_closed_port_is_tried_once_and_is_retryable(own_client: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        client = boto3.client(
            "dynamodb",
            region_name="eu-west-1",
            endpoint_url=endpoint,
            config=own_client.meta.config,
        )
        tries: list[object] = []
        client.meta.events.register("before-send", lambda **_: tries.append(1))
        with pytest.raises(LeaseStoreUnavailable, match="EndpointConnectionError"):
            table_with(client).read()
    assert tries == [1]


def test_constructing_a_table_creates_no_client() -> None:
    def refuse() -> Any:
        raise AssertionError("a constructor does no I/O")

    table = DynamoDBLeaseStore(TABLE, "orders", client=refuse)
    assert (table.request_count, table.lease_seconds) == (0, 20.0)


def test_one_client_serves_all_calls() -> None:
    made: list[StubClient] = []

    def make() -> StubClient:
        made.append(StubClient({}))
        return made[-1]

    table = DynamoDBLeaseStore(TABLE, "orders", client=make, clock=SYSTEM_CLOCK)
    table.read()
    table.read()
    assert len(made) == 1
    assert table.request_count == 2
