"""Secrets and tokens: what is asked for, what is missing, and that nothing of them is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError
from moto import mock_aws

from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable
from lambda_migrate.postgresql.address import DatabaseAddress
from lambda_migrate.postgresql.credentials import (
    IamCredentials,
    SecretCredentials,
    UrlCredentials,
)

FULL = {"username": "app", "password": "s3cr3t", "host": "db.example", "engine": "postgres"}
REMOTE = DatabaseAddress(database="orders", host="db.example", user="app")


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        yield


def credentials_of(content: object, **arguments: Any) -> SecretCredentials:
    text = content if isinstance(content, str) else json.dumps(content)
    arn = boto3.client("secretsmanager").create_secret(Name="db", SecretString=text)["ARN"]
    return SecretCredentials(arn, **arguments)


def test_a_secret_in_the_rds_format_is_a_whole_address() -> None:
    content = FULL | {"port": 6543, "dbname": "orders"}
    address = credentials_of(content, sslmode="verify-ca").address()

    assert address == DatabaseAddress(
        database="orders",
        host="db.example",
        port=6543,
        user="app",
        password="s3cr3t",
        sslmode="verify-ca",
    )


def test_what_a_secret_leaves_out_has_the_defaults_that_aws_documents() -> None:
    address = credentials_of(FULL).address()

    assert address.fingerprint == "db.example:5432/postgres"
    assert address.tls_mode == "verify-full"


def test_a_port_may_be_a_text() -> None:
    assert credentials_of(FULL | {"port": "6543"}).address().port == 6543


def test_a_given_address_beats_the_secrets_place() -> None:
    managed = {"username": "app", "password": "s3cr3t"}
    credentials = credentials_of(managed, address=REMOTE)

    assert credentials.address().fingerprint == "db.example:5432/orders"
    assert credentials.address().password == "s3cr3t"


def test_a_binary_secret_is_read_like_a_text() -> None:
    client = boto3.client("secretsmanager")
    client.create_secret(Name="db", SecretBinary=json.dumps(FULL).encode())

    assert SecretCredentials("db").address().password == "s3cr3t"


def test_a_fingerprint_needs_no_secret_to_be_read() -> None:
    assert SecretCredentials("no-such").fingerprint == "no-such"
    assert SecretCredentials("no-such", address=REMOTE).fingerprint == REMOTE.fingerprint
    assert UrlCredentials(REMOTE).fingerprint == REMOTE.fingerprint
    assert IamCredentials(REMOTE).fingerprint == REMOTE.fingerprint


def test_a_secret_is_kept_for_a_while_and_read_anew_on_demand() -> None:
    credentials = credentials_of(FULL)
    assert credentials.address().password == "s3cr3t"
    boto3.client("secretsmanager").put_secret_value(
        SecretId="db", SecretString=json.dumps(FULL | {"password": "n3w"})
    )

    assert credentials.address().password == "s3cr3t"
    assert credentials.address(fresh=True).password == "n3w"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("s3cr3t", "not a JSON object"),
        ("", "not a JSON object|cannot be read"),
        (["s3cr3t"], "not a JSON object"),
        ({"password": "s3cr3t", "host": "h"}, "'username'"),
        ({"username": "app", "host": "h"}, "'password'"),
        (FULL | {"password": ""}, "'password'"),
        (FULL | {"password": 5}, "'password'"),
        ({"username": "app", "password": "s3cr3t"}, "'host'.*LAMBDA_MIGRATE_DATABASE_URL"),
        (FULL | {"port": "s3cr3t"}, "'port'"),
        (FULL | {"port": 99999}, "'port'"),
        (FULL | {"engine": "mysql"}, "another engine"),
    ],
)
def test_a_secret_in_another_format_is_named_and_its_content_is_not(
    content: object, told: str
) -> None:
    credentials = credentials_of(content) if content else SecretCredentials("db", client=Empty())

    with pytest.raises(ConfigurationError, match=told) as error:
        credentials.address()

    assert "secret" in str(error.value)
    assert "s3cr3t" not in everything_said(error.value)


def everything_said(error: BaseException | None) -> str:
    """The texts of an error and of all that it was raised from."""
    said = ""
    while error is not None:
        said += f"{error!r} {vars(error)} "
        error = error.__cause__ or error.__context__
    return said


class Empty:
    """Secrets Manager with a secret whose text is empty."""

    def get_secret_value(self, **_: Any) -> dict[str, Any]:
        return {"SecretString": ""}


class Refusing:
    """Secrets Manager that answers every request with one error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def get_secret_value(self, **_: Any) -> dict[str, Any]:
        raise self.error


def answer(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "GetSecretValue")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("AccessDeniedException", "secretsmanager:GetSecretValue"),
        ("ResourceNotFoundException", "there is no such secret"),
        ("DecryptionFailure", "kms:Decrypt"),
        ("ExpiredTokenException", "expired"),
    ],
)
def test_what_waiting_does_not_mend_says_what_does(code: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as error:
        SecretCredentials("arn:db", client=Refusing(answer(code))).address()

    assert "arn:db" in str(error.value)


@pytest.mark.parametrize(
    "error",
    [
        answer("ThrottlingException"),
        answer("InternalServiceError"),
        ConnectTimeoutError(endpoint_url="https://secretsmanager"),
    ],
)
def test_a_service_that_does_not_answer_is_retryable(error: Exception) -> None:
    with pytest.raises(DatabaseUnavailable, match="arn:db") as unavailable:
        SecretCredentials("arn:db", client=Refusing(error)).address()

    assert unavailable.value.retryable


def test_a_secret_that_does_not_exist_is_a_fault_of_configuration() -> None:
    with pytest.raises(ConfigurationError, match="there is no such secret"):
        SecretCredentials("no-such").address()


def test_no_region_is_a_fault_of_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    with pytest.raises(ConfigurationError, match="region"):
        SecretCredentials("db").address()
    with pytest.raises(ConfigurationError, match="region"):
        IamCredentials(REMOTE).address()


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("orders.abc123.us-gov-west-1.rds.amazonaws.com", "us-gov-west-1"),
        ("orders.cluster-abc.cn-north-1.rds.amazonaws.com.cn", "cn-north-1"),
        ("db.example", "eu-central-1"),
    ],
)
def test_a_token_is_signed_for_the_region_of_the_database(host: str, region: str) -> None:
    address = IamCredentials(DatabaseAddress(database="orders", host=host, user="app")).address()

    assert address.password is not None
    assert address.password.startswith(f"{host}:5432/?Action=connect&DBUser=app&")
    assert f"%2F{region}%2Frds-db%2F" in address.password


@pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer"])
def test_a_token_is_not_made_for_a_connection_without_tls(sslmode: str) -> None:
    with pytest.raises(ConfigurationError, match="needs TLS"):
        IamCredentials(REMOTE.with_tls(sslmode=sslmode)).address()


def test_a_function_without_aws_credentials_gets_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCredentials:
        def generate_db_auth_token(self, **_: Any) -> str:
            return str(boto3.Session().client("rds").generate_db_auth_token(**_))

    monkeypatch.setattr("botocore.session.Session.get_credentials", lambda _: None)

    with pytest.raises(ConfigurationError, match="rds-db:connect"):
        IamCredentials(REMOTE, client=NoCredentials()).address()
