"""The local DynamoDB API, with real processes and clients."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from lambda_migrate.errors import ConfigurationError, LeaseStoreUnavailable
from lambda_migrate.lease.fast_client import FastClient
from lambda_migrate.local.runtime.process import ProcessError
from lambda_migrate.local.servers.dynamodb import (
    AmazonDynamoDBLocal,
    Dynalite,
    DynamoDBEndpoint,
    LocalDynamoDB,
    install_dynalite,
    main,
)

if TYPE_CHECKING:
    from typing import TypeAlias

CLIENTS = 50
ONCE: dict[str, Any] = {"retries": {"total_max_attempts": 1}}


Engine: TypeAlias = "LocalDynamoDB | Dynalite"


@pytest.fixture(scope="module", params=[LocalDynamoDB, Dynalite])
def dynamodb(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param is Dynalite:
        install_dynalite()  # nothing to do from the second time on
    with request.param() as running:
        running.create_table("leases")
        yield running


def test_a_conditional_write_has_one_winner_among_fifty_clients(dynamodb: Engine) -> None:
    barrier = Barrier(CLIENTS)
    answers: list[tuple[str, bool]] = []
    clients = [dynamodb.client(**ONCE) for _ in range(CLIENTS)]

    def attempt(number: int) -> list[bool]:
        won = []
        for key in range(5):
            barrier.wait()
            won.append(acquires(number, key))
        return won

    def acquires(number: int, key: int) -> bool:
        try:
            clients[number].put_item(
                TableName="leases",
                Item={"target": {"S": f"race-{key}"}, "owner": {"N": str(number)}},
                ConditionExpression="attribute_not_exists(target)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as refused:
            answers.append((refused.response["Error"]["Code"], "Item" in refused.response))
            return False
        return True

    with ThreadPoolExecutor(CLIENTS) as pool:
        won = list(pool.map(attempt, range(CLIENTS)))
    assert [sum(column) for column in zip(*won, strict=True)] == [1] * 5
    tells_the_item = isinstance(dynamodb, LocalDynamoDB)
    refused = ("ConditionalCheckFailedException", tells_the_item)
    assert answers == [refused] * (5 * (CLIENTS - 1))


def test_requests_are_counted_by_operation_and_by_client(dynamodb: Engine) -> None:
    client = dynamodb.client(access_key="counted")
    for _ in range(3):
        client.get_item(TableName="leases", Key={"target": {"S": "x"}})
    client.put_item(TableName="leases", Item={"target": {"S": "counted"}})
    assert dynamodb.requests("counted") == {"GetItem": 3, "PutItem": 1}
    assert dynamodb.requests()["GetItem"] >= 3
    assert "" not in dynamodb.requests()
    assert "counted" in dynamodb.access_keys()
    assert dynamodb.requests("nobody") == {}


def test_requests_are_counted_by_tenths_of_a_second(dynamodb: Engine) -> None:
    client = dynamodb.client(access_key="timed")
    before = dynamodb.rates()
    began = int(time.time() * 10)
    for _ in range(20):
        client.get_item(TableName="leases", Key={"target": {"S": "x"}})
    ended = int(time.time() * 10)
    fresh = {
        tenth: counts["GetItem"] - before.get(tenth, Counter())["GetItem"]
        for tenth, counts in dynamodb.rates().items()
    }
    assert sum(fresh.values()) == 20
    assert all(began <= tenth <= ended for tenth, count in fresh.items() if count)


def test_a_paused_api_accepts_requests_and_responds_after_resume(dynamodb: Engine) -> None:
    client = dynamodb.client(read_timeout=0.2, connect_timeout=0.2, **ONCE)
    dynamodb.pause()
    try:
        with pytest.raises(ReadTimeoutError):
            client.get_item(TableName="leases", Key={"target": {"S": "x"}})
    finally:
        dynamodb.resume()
    patient = dynamodb.client(**ONCE)
    assert "Item" not in patient.get_item(TableName="leases", Key={"target": {"S": "x"}})


def test_a_restart_keeps_the_address_but_not_the_tables(dynamodb: Engine) -> None:
    with type(dynamodb)() as own:
        own.create_table("leases")
        address, old = own.endpoint_url, own.pid
        own.restart()
        assert (own.endpoint_url, own.pid != old) == (address, True)
        assert own.client().list_tables()["TableNames"] == []
        with pytest.raises(ProcessError, match="running already"):
            own.start()
    with pytest.raises(ProcessError, match="not running"):
        own.pause()


def test_an_endpoint_is_an_api_that_another_process_runs(dynamodb: Engine) -> None:
    with DynamoDBEndpoint(dynamodb.endpoint_url) as other:
        assert other.variables()["AWS_ENDPOINT_URL_DYNAMODB"] == dynamodb.endpoint_url
        assert "leases" in other.client().list_tables()["TableNames"]
        assert (other.requests(), other.access_keys(), other.rates()) == ({}, (), None)
    assert dynamodb.pid  # leaving the endpoint did not end what another process runs


def test_a_missing_dynamodb_local_is_an_error_that_names_the_install_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("LAMBDA_MIGRATE_ENGINES", str(tmp_path_factory.mktemp("engines")))
    with pytest.raises(ConfigurationError, match="dynamodb install"):
        AmazonDynamoDBLocal().start()


def test_a_missing_dynalite_is_an_error_that_names_the_install_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="dynamodb install dynalite"):
        Dynalite(directory=tmp_path).start()


def test_a_server_is_downloaded_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "dynalite"]) == 0
    assert "dynalite is in" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["install", "redis"])
    assert ended.value.code == 2


def test_a_throttled_table_rejects_the_requests_and_lists_them() -> None:
    with LocalDynamoDB() as api:
        api.create_table("leases")
        client = api.client(**ONCE)
        key = {"target": {"S": "orders"}}
        api.throttle(2)
        for call in (client.get_item, client.update_item):
            with pytest.raises(ClientError, match="ProvisionedThroughputExceeded"):
                call(TableName="leases", Key=key)
        client.put_item(TableName="leases", Item=key)
        assert client.get_item(TableName="leases", Key=key)["Item"] == key
        assert [each[:2] for each in api.throttled()] == [("leases", "Read"), ("leases", "Write")]


def test_the_fast_client_reports_throttling_as_retryable() -> None:
    with LocalDynamoDB() as api:
        api.create_table("leases")
        environ = {**api.variables(), "AWS_SECRET_ACCESS_KEY": "local", "AWS_SESSION_TOKEN": "t"}
        fast_client = FastClient(environ)
        assert fast_client.get_item("leases", "orders", consistent=False) == {}
        api.throttle(1)
        with pytest.raises(LeaseStoreUnavailable, match="ProvisionedThroughputExceeded"):
            fast_client.get_item("leases", "orders", consistent=False)
        assert fast_client.get_item("leases", "orders", consistent=False) == {}
