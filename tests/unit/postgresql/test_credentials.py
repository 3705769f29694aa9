"""Secrets and IAM tokens: what is requested, what is missing, and no message contains them."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from lambda_migrate.database_address import DatabaseAddress
from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable
from lambda_migrate.postgresql.connection import ConnectionFailed
from lambda_migrate.postgresql.credentials import (
    IAMCredentials,
    SecretCredentials,
    URLCredentials,
    open_connection,
)
from lambda_migrate.testing import FakeClock, FixedRandom

pytestmark = pytest.mark.usefixtures("mocked_aws")

FULL = {"username": "app", "password": "s3cr3t", "host": "db.example", "engine": "postgres"}
REMOTE = DatabaseAddress(database="orders", host="db.example", user="app")


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

    assert address.text == "db.example:5432/postgres"
    assert address.effective_sslmode == "verify-full"


def test_a_port_may_be_a_text() -> None:
    assert credentials_of(FULL | {"port": "6543"}).address().port == 6543


def test_a_given_address_takes_precedence_over_the_secrets() -> None:
    managed = {"username": "app", "password": "s3cr3t"}
    credentials = credentials_of(managed, address=REMOTE)

    assert credentials.address().text == "db.example:5432/orders"
    assert credentials.address().password == "s3cr3t"


def test_a_binary_secret_is_read_like_a_text() -> None:
    client = boto3.client("secretsmanager")
    client.create_secret(Name="db", SecretBinary=json.dumps(FULL).encode())

    assert SecretCredentials("db").address().password == "s3cr3t"


def test_an_address_text_needs_no_secret_to_be_read() -> None:
    assert SecretCredentials("no-such").address_text == "no-such"
    assert SecretCredentials("no-such", address=REMOTE).address_text == REMOTE.text
    assert URLCredentials(REMOTE).address_text == REMOTE.text
    assert IAMCredentials(REMOTE).address_text == REMOTE.text


def test_a_secret_is_cached_briefly_and_read_again_on_demand() -> None:
    credentials = credentials_of(FULL)
    assert credentials.address().password == "s3cr3t"
    boto3.client("secretsmanager").put_secret_value(
        SecretId="db", SecretString=json.dumps(FULL | {"password": "n3w"})
    )

    assert credentials.address().password == "s3cr3t"
    assert credentials.address(refresh=True).password == "n3w"


@pytest.mark.parametrize(
    ("content", "reported"),
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
        (FULL | {"engine": "mysql"}, "is not postgres"),
    ],
)
def test_a_secret_in_another_format_is_named_and_its_content_is_not(
    content: object, reported: str
) -> None:
    credentials = credentials_of(content) if content else SecretCredentials("db", client=Empty())

    with pytest.raises(ConfigurationError, match=reported) as error:
        credentials.address()

    assert "secret" in str(error.value)
    assert "s3cr3t" not in join_error_texts(error.value)


def join_error_texts(error: BaseException | None) -> str:
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


def answer(code: str, message: str = "no", operation: str = "GetSecretValue") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


@pytest.mark.parametrize(
    ("code", "reported"),
    [
        ("AccessDeniedException", "secretsmanager:GetSecretValue"),
        ("ResourceNotFoundException", "there is no such secret"),
        ("DecryptionFailure", "kms:Decrypt"),
        ("ExpiredTokenException", "expired"),
    ],
)
def test_a_permanent_error_of_secrets_manager_has_advice(code: str, reported: str) -> None:
    with pytest.raises(ConfigurationError, match=reported) as error:
        SecretCredentials("arn:db", client=Refusing(answer(code))).address()

    assert "arn:db" in str(error.value)


def test_a_refusal_by_a_key_or_an_endpoint_is_not_blamed_on_the_role() -> None:
    for message, reported in (
        ("Access to KMS is not allowed", "allow kms:Decrypt on that key"),
        ("not authorized because no VPC endpoint policy allows it", "that endpoint's policy"),
    ):
        refusing = Refusing(answer("AccessDeniedException", message))
        with pytest.raises(ConfigurationError, match=reported):
            SecretCredentials("arn:db", client=refusing).address()


@pytest.mark.parametrize(
    "error",
    [
        answer("ThrottlingException"),
        answer("InternalServiceError"),
        ConnectTimeoutError(endpoint_url="https://secretsmanager"),
        ReadTimeoutError(endpoint_url="https://secretsmanager"),
        EndpointConnectionError(endpoint_url="https://secretsmanager"),
        answer("InvalidSignatureException", "Signature expired: 1 is now earlier than 2"),
    ],
)
def test_a_service_that_does_not_respond_is_retryable(error: Exception) -> None:
    with pytest.raises(DatabaseUnavailable, match="arn:db") as unavailable:
        SecretCredentials("arn:db", client=Refusing(error)).address()

    assert unavailable.value.retryable


def test_a_secret_that_does_not_exist_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="there is no such secret"):
        SecretCredentials("no-such").address()


def test_a_missing_region_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    with pytest.raises(ConfigurationError, match="region"):
        SecretCredentials("db").address()
    with pytest.raises(ConfigurationError, match="region"):
        IAMCredentials(REMOTE).address()


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("orders.abc123.us-gov-west-1.rds.amazonaws.com", "us-gov-west-1"),
        ("orders.cluster-abc.cn-north-1.rds.amazonaws.com.cn", "cn-north-1"),
        ("db.example", "eu-central-1"),
    ],
)
def test_a_token_is_signed_for_the_region_of_the_database(host: str, region: str) -> None:
    address = IAMCredentials(DatabaseAddress(database="orders", host=host, user="app")).address()

    assert address.password is not None
    assert address.password.startswith(f"{host}:5432/?Action=connect&DBUser=app&")
    assert f"%2F{region}%2Frds-db%2F" in address.password


@pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer"])
def test_a_token_is_not_made_for_a_connection_without_tls(sslmode: str) -> None:
    with pytest.raises(ConfigurationError, match="needs TLS"):
        IAMCredentials(REMOTE.with_tls(sslmode=sslmode)).address()


def test_a_function_without_aws_credentials_gets_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCredentials:
        def generate_db_auth_token(self, **_: Any) -> str:
            return str(boto3.Session().client("rds").generate_db_auth_token(**_))

    monkeypatch.setattr("botocore.session.Session.get_credentials", lambda _: None)

    with pytest.raises(ConfigurationError, match="rds-db:connect"):
        IAMCredentials(REMOTE, client=NoCredentials()).address()


# --- a source that is silent, or whose own credentials are at fault


@pytest.fixture
def silent() -> Iterator[str]:
    """Something that accepts connections and never answers; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
def test_an_unresponsive_secrets_manager_is_named_when_the_time_is_over(
    silent: str,
) -> None:
    config = Config(read_timeout=5, retries={"total_max_attempts": 1})
    client = boto3.client("secretsmanager", endpoint_url=silent, config=config)
    with mock_aws_off(), pytest.raises(DatabaseUnavailable) as caught:
        SecretCredentials("orders", client=client).address(seconds=0.2)
    reported = str(caught.value)
    assert reported.startswith(
        "Secrets Manager did not respond within 0.2 s for the secret orders; "
    )
    assert "interface endpoint" in reported


def test_a_secret_is_readable_again_after_a_read_that_was_given_up() -> None:
    class Hanging:
        def __init__(self) -> None:
            self.goes_on = threading.Event()

        def get_secret_value(self, **_: Any) -> dict[str, Any]:
            self.goes_on.wait(20)
            return {"SecretString": json.dumps(FULL)}

    client = Hanging()
    credentials = SecretCredentials("db", client=client)
    with pytest.raises(DatabaseUnavailable):
        credentials.address(seconds=0.05)
    client.goes_on.set()
    assert credentials.address().password == "s3cr3t"


def test_the_kind_of_a_timeout_is_reported() -> None:
    error = ReadTimeoutError(endpoint_url="https://secretsmanager")
    with pytest.raises(DatabaseUnavailable, match=r"did not respond .* \(ReadTimeoutError\)"):
        SecretCredentials("arn:db", client=Refusing(error)).address()


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (answer("AccessDenied", operation="AssumeRole"), "AssumeRole was refused: AccessDenied"),
        (CredentialRetrievalError(provider="process", error_msg="exit 1"), "exit 1"),
    ],
)
def test_what_the_provider_of_aws_credentials_was_refused_is_reported_as_its_own(
    error: Exception, reported: str
) -> None:
    with pytest.raises(ConfigurationError, match=reported):
        SecretCredentials("arn:db", client=Refusing(error)).address()


def test_a_token_waits_for_the_provider_of_aws_credentials_no_longer_than_it_may() -> None:
    class Hanging:
        def __init__(self) -> None:
            self.goes_on = threading.Event()

        def generate_db_auth_token(self, **_: Any) -> str:
            self.goes_on.wait(20)
            return "token"

    client = Hanging()
    with pytest.raises(DatabaseUnavailable, match=r"no AWS credentials within 0\.1 s"):
        IAMCredentials(REMOTE, client=client).address(seconds=0.1)
    client.goes_on.set()


class ByKey(http.server.BaseHTTPRequestHandler):
    """Secrets Manager for which the access key ``old`` has expired."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = 200, {"Name": "db", "SecretString": json.dumps(FULL)}
        if "Credential=old/" in self.headers["Authorization"]:
            status, body = 400, {"__type": "ExpiredTokenException", "message": "expired"}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_expired_credentials_of_the_environment_are_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ByKey)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "old")
    credentials = SecretCredentials("db")
    with mock_aws_off():
        with pytest.raises(ConfigurationError, match="have expired"):
            credentials.address()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "renewed")
        assert credentials.address().password == "s3cr3t"
    server.shutdown()
    server.server_close()


@contextmanager
def mock_aws_off() -> Iterator[None]:
    """Requests really leave the process, to servers of the test."""
    from moto.core.models import botocore_stubber

    was, botocore_stubber.enabled = botocore_stubber.enabled, False
    try:
        yield
    finally:
        botocore_stubber.enabled = was


# --- a refused login, while a secret is rotated

RANDOM = FixedRandom(0.5)
PASSWORD_REFUSED = ConnectionFailed(
    "refused", permanent=True, sqlstate="28P01", server_responded=True
)


class Rotation:
    """PostgreSQL that takes one password, and a secret whose versions change at their time.

    Args:
        takes: The password that PostgreSQL takes.
        versions: From so many seconds on: AWSCURRENT and AWSPENDING.
    """

    def __init__(self, takes: str, *versions: tuple[float, str, str | Exception | None]) -> None:
        self.takes = takes
        self.versions = versions
        self.clock = FakeClock()
        self.began = self.clock.monotonic()
        self.logins: list[tuple[float, str]] = []
        self.reads = 0

    @property
    def elapsed_seconds(self) -> float:
        return self.clock.monotonic() - self.began

    def get_secret_value(self, *, SecretId: str, VersionStage: str = "AWSCURRENT") -> Any:  # noqa: N803 - boto3's names
        self.reads += 1
        _, *stages = next(v for v in reversed(self.versions) if v[0] <= self.elapsed_seconds)
        found = stages[VersionStage == "AWSPENDING"]
        if not isinstance(found, str):
            raise found or answer("ResourceNotFoundException")
        return {"SecretString": json.dumps(FULL | {"password": found})}

    def opened(self, address: DatabaseAddress, **_: Any) -> Any:
        self.logins.append((round(self.elapsed_seconds, 1), str(address.password)))
        if address.password != self.takes:
            raise PASSWORD_REFUSED
        return address

    def open(self, seconds: float = 60.0) -> Any:
        credentials = SecretCredentials("db", client=self)
        return open_connection(
            credentials, "test", seconds, connect_to=self.opened, clock=self.clock, random=RANDOM
        )

    @property
    def passwords(self) -> list[str]:
        return [password for _, password in self.logins]


def test_a_password_that_postgresql_has_first_is_found_as_pending() -> None:
    rotation = Rotation("new", (0, "old", "new"))
    rotation.open()
    assert rotation.logins == [(0.0, "old"), (0.0, "new")]


@pytest.mark.parametrize("pending", [None, answer("AccessDeniedException"), "of another rotation"])
def test_without_a_usable_pending_version_the_current_one_is_waited_for(
    pending: str | Exception | None,
) -> None:
    rotation = Rotation("new", (0, "old", pending), (3, "new", None))
    rotation.open()
    assert rotation.passwords[-1] == "new"
    assert rotation.elapsed_seconds < 5
    assert len(rotation.logins) <= 4


def test_a_secret_that_is_ahead_of_the_database_is_tried_again() -> None:
    rotation = Rotation("new", (0, "new", "new"))
    rotation.takes = "not yet"

    def sleep(seconds: float) -> None:
        rotation.clock.advance(seconds)
        if rotation.elapsed_seconds > 3:
            rotation.takes = "new"

    rotation.clock.sleep = sleep  # type: ignore[method-assign]  # the database follows
    rotation.open()
    assert rotation.passwords.count("new") <= 4


def test_a_password_that_stays_wrong_is_tried_a_few_times_and_reported() -> None:
    rotation = Rotation("other", (0, "wrong", "too"))
    with pytest.raises(ConnectionFailed) as failed:
        rotation.open(900)
    assert failed.value.permanent
    assert len(rotation.logins) <= 6
    assert rotation.elapsed_seconds <= 20
    reported = str(failed.value)
    assert (
        f"{len(rotation.logins)} logins were refused within {rotation.elapsed_seconds:.0f} s"
        in reported
    )
    assert "AWSCURRENT" in reported
    assert "AWSPENDING" in reported


def test_a_rotation_is_waited_for_no_longer_than_the_caller_has() -> None:
    rotation = Rotation("other", (0, "wrong", None))
    with pytest.raises(ConnectionFailed):
        rotation.open(2.5)
    assert rotation.elapsed_seconds <= 2.5


def test_a_login_that_fails_for_another_reason_is_not_tried_again() -> None:
    rotation = Rotation("other", (0, "old", None))
    gone = ConnectionFailed("no answer", permanent=False)

    def opened(*_: Any, **__: Any) -> Any:
        rotation.logins.append((0.0, ""))
        raise gone

    rotation.opened = opened  # type: ignore[method-assign]  # the server is away
    with pytest.raises(ConnectionFailed) as failed:
        rotation.open()
    assert failed.value is gone
    assert len(rotation.logins) == 1


def test_a_secrets_manager_that_stops_responding_during_a_rotation_hides_no_refused_login() -> None:
    rotation = Rotation("new", (0, "old", None))
    credentials = SecretCredentials("db", client=rotation)

    def opened(address: DatabaseAddress, **_: Any) -> Any:
        rotation.versions = ((0, ReadTimeoutError(endpoint_url="x"), None),)  # type: ignore[assignment]  # any error
        return Rotation.opened(rotation, address)

    with pytest.raises(
        DatabaseUnavailable, match=r"^refused; after that: Secrets Manager did not respond"
    ):
        open_connection(credentials, "t", 9, connect_to=opened, clock=rotation.clock, random=RANDOM)


def test_a_refused_token_is_replaced_by_a_later_one_and_once_only() -> None:
    clock, logins = FakeClock(), []

    def opened(address: DatabaseAddress, **_: Any) -> Any:
        logins.append(clock.monotonic())
        raise PASSWORD_REFUSED

    with pytest.raises(ConnectionFailed, match=r"2 logins were refused .* rds-db:connect"):
        open_connection(
            IAMCredentials(REMOTE), "t", 60, connect_to=opened, clock=clock, random=RANDOM
        )
    assert len(logins) == 2
    assert logins[1] - logins[0] >= 1
