"""The local DynamoDB API, with real processes and clients."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.child import EngineFailed
from lambda_migrate.local.dynamodb import (
    DynamoDBEndpoint,
    DynamoDBLocal,
    LocalDynamoDB,
    dynamodb_from_environment,
)

CLIENTS = 50
ONCE: dict[str, Any] = {"retries": {"total_max_attempts": 1}}


@pytest.fixture(scope="module")
def dynamodb() -> Iterator[LocalDynamoDB]:
    with LocalDynamoDB() as running:
        running.create_table("leases")
        yield running


def test_a_conditional_write_has_one_winner_among_fifty_clients(dynamodb: LocalDynamoDB) -> None:
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
    assert answers == [("ConditionalCheckFailedException", True)] * (5 * (CLIENTS - 1))


def test_requests_are_counted_by_operation_and_by_client(dynamodb: LocalDynamoDB) -> None:
    client = dynamodb.client(client="counted")
    for _ in range(3):
        client.get_item(TableName="leases", Key={"target": {"S": "x"}})
    client.put_item(TableName="leases", Item={"target": {"S": "counted"}})
    assert dynamodb.requests("counted") == {"GetItem": 3, "PutItem": 1}
    assert dynamodb.requests()["GetItem"] >= 3
    assert "" not in dynamodb.requests()
    assert "counted" in dynamodb.clients()
    assert dynamodb.requests("nobody") == {}


def test_a_paused_api_takes_requests_and_answers_them_later(dynamodb: LocalDynamoDB) -> None:
    client = dynamodb.client(read_timeout=0.2, connect_timeout=0.2, **ONCE)
    dynamodb.pause()
    try:
        with pytest.raises(ReadTimeoutError):
            client.get_item(TableName="leases", Key={"target": {"S": "x"}})
    finally:
        dynamodb.resume()
    patient = dynamodb.client(**ONCE)
    assert "Item" not in patient.get_item(TableName="leases", Key={"target": {"S": "x"}})


def test_a_restart_keeps_the_address_and_loses_the_tables() -> None:
    with LocalDynamoDB() as own:
        own.create_table("leases")
        address, old = own.endpoint_url, own.pid
        own.restart()
        assert (own.endpoint_url, own.pid != old) == (address, True)
        assert own.client().list_tables()["TableNames"] == []
        with pytest.raises(EngineFailed, match="running already"):
            own.start()
    with pytest.raises(EngineFailed, match="not running"):
        own.pause()


def test_the_environment_names_another_engine(
    monkeypatch: pytest.MonkeyPatch, dynamodb: LocalDynamoDB
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_DYNAMODB", raising=False)
    assert isinstance(dynamodb_from_environment(), LocalDynamoDB)
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.endpoint_url)
    with dynamodb_from_environment() as other:
        assert type(other) is DynamoDBEndpoint
        assert other.environment()["AWS_ENDPOINT_URL_DYNAMODB"] == dynamodb.endpoint_url
        assert "leases" in other.client().list_tables()["TableNames"]
        assert (other.requests(), other.clients()) == ({}, ())
    assert dynamodb.pid  # leaving the endpoint did not end what somebody else runs


def test_amazons_engine_that_is_not_there_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("LAMBDA_MIGRATE_ENGINES", str(tmp_path_factory.mktemp("engines")))
    with pytest.raises(ConfigurationError, match="dynamodb install"):
        DynamoDBLocal().start()
