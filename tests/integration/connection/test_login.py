"""Logins to a real server with credentials from a secret, from IAM or from a password file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from lambda_migrate.database_address import DatabaseAddress
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.postgresql.connection import ConnectionFailed
from lambda_migrate.postgresql.credentials import (
    Credentials,
    IAMCredentials,
    SecretCredentials,
    URLCredentials,
    open_connection,
)
from lambda_migrate.testing import FakeClock

from .conftest import PASSWORD, Authorities

pytestmark = pytest.mark.usefixtures("mocked_aws")

SECRET = "orders/database"


def put_secret(address: DatabaseAddress, password: str) -> None:
    content = {
        "engine": "postgres",
        "host": address.host,
        "port": address.port,
        "username": "scram",
        "password": password,
        "dbname": address.database,
    }
    client = boto3.client("secretsmanager")
    try:
        client.create_secret(Name=SECRET, SecretString=json.dumps(content))
    except client.exceptions.ResourceExistsException:
        client.put_secret_value(SecretId=SECRET, SecretString=json.dumps(content))


def log_in(credentials: Credentials, clock: FakeClock | None = None) -> str:
    opening = open_connection(credentials, "test_login", 30, clock=clock or FakeClock())
    with opening as connection:
        assert connection.is_encrypted
        return str(connection.run("SELECT current_user")[0][0])


def test_a_secret_has_address_and_user(
    tls_address: DatabaseAddress, authorities: Authorities
) -> None:
    put_secret(tls_address, PASSWORD)

    assert log_in(SecretCredentials(SECRET, sslrootcert=authorities.right)) == "scram"


def test_a_rotated_secret_is_read_again_when_the_old_password_is_refused(
    tls_address: DatabaseAddress, authorities: Authorities
) -> None:
    credentials = SecretCredentials(SECRET, sslrootcert=authorities.right)
    put_secret(tls_address, "the old one")
    assert credentials.address().password == "the old one"
    put_secret(tls_address, PASSWORD)
    assert credentials.address().password == "the old one"

    assert log_in(credentials) == "scram"


def test_a_login_that_is_refused_during_a_rotation_succeeds_when_the_secret_follows(
    tls_address: DatabaseAddress, authorities: Authorities
) -> None:
    class Clock(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if sum(self.slept) > 1:
                put_secret(tls_address, PASSWORD)

    put_secret(tls_address, "the old one")

    assert log_in(SecretCredentials(SECRET, sslrootcert=authorities.right), Clock()) == "scram"


def test_the_pending_version_of_a_rotation_is_tried_at_once(
    tls_address: DatabaseAddress, authorities: Authorities
) -> None:
    put_secret(tls_address, "the old one")
    client = boto3.client("secretsmanager")
    current = client.get_secret_value(SecretId=SECRET)["SecretString"]
    client.put_secret_value(
        SecretId=SECRET,
        SecretString=current.replace("the old one", PASSWORD),
        VersionStages=["AWSPENDING"],
    )
    clock = FakeClock()

    assert log_in(SecretCredentials(SECRET, sslrootcert=authorities.right), clock) == "scram"
    assert clock.slept in ([], [0.0])


def test_a_secret_with_a_wrong_password_is_named_and_its_content_is_not(
    tls_address: DatabaseAddress, authorities: Authorities
) -> None:
    put_secret(tls_address, "s3cr3t")

    with pytest.raises(ConnectionFailed, match=SECRET) as failed:
        log_in(SecretCredentials(SECRET, sslrootcert=authorities.right))

    assert failed.value.permanent
    assert "s3cr3t" not in repr(failed.value)


def test_a_wrong_password_that_was_replaced_by_a_wrong_password_is_refused(
    tls_address: DatabaseAddress, authorities: Authorities
) -> None:
    credentials = SecretCredentials(SECRET, sslrootcert=authorities.right)
    put_secret(tls_address, "one")
    credentials.address()
    put_secret(tls_address, "two")

    with pytest.raises(ConnectionFailed, match="whether it was rotated"):
        log_in(credentials)


def test_a_wrong_password_in_a_url_is_refused_once(tls_address: DatabaseAddress) -> None:
    address = tls_address.replace(user="scram", password="wrong", sslmode="require")

    with pytest.raises(ConnectionFailed) as failed:
        log_in(URLCredentials(address))

    assert failed.value.reason.endswith("[28P01]")


# --- libpq's password file


def scram_without_password(address: DatabaseAddress, passfile: Path) -> URLCredentials:
    return URLCredentials(address.replace(user="scram", sslmode="require", passfile=str(passfile)))


def write_passfile(path: Path, *lines: str, mode: int = 0o600) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.chmod(mode)
    return path


ESCAPED = PASSWORD.replace(":", "\\:")


@pytest.mark.parametrize(
    "line",
    ["localhost:{port}:postgres:scram:", "*:*:*:*:", "loc\\alhost:*:postgres:*:"],
)
def test_the_password_comes_from_the_first_line_that_matches(
    line: str, tls_address: DatabaseAddress, tmp_path: Path
) -> None:
    passfile = write_passfile(
        tmp_path / "pgpass",
        "# a comment",
        "",
        "elsewhere:*:*:*:wrong",
        "localhost:1:*:*:wrong",
        "localhost:*:*:another:wrong",
        line.format(port=tls_address.port) + ESCAPED,
        "*:*:*:*:wrong",
    )
    assert log_in(scram_without_password(tls_address, passfile)) == "scram"


def test_the_default_password_file_is_in_the_home_directory(
    tls_address: DatabaseAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_passfile(tmp_path / ".pgpass", f"*:*:*:scram:{ESCAPED}")
    monkeypatch.setenv("HOME", str(tmp_path))
    credentials = URLCredentials(tls_address.replace(user="scram", sslmode="require"))
    assert log_in(credentials) == "scram"


@pytest.mark.parametrize(("mode", "reported"), [(0o640, "chmod 0600"), (0o604, "chmod 0600")])
def test_a_password_file_that_others_may_read_is_not_used_and_the_error_explains_why(
    mode: int, reported: str, tls_address: DatabaseAddress, tmp_path: Path
) -> None:
    passfile = write_passfile(tmp_path / "pgpass", f"*:*:*:*:{ESCAPED}", mode=mode)
    with pytest.raises(ConnectionFailed, match="none is configured") as failed:
        log_in(scram_without_password(tls_address, passfile))
    assert f"{reported} {passfile}" in failed.value.reason
    assert PASSWORD not in failed.value.reason
    trusted = tls_address.replace(user="tls_only", sslmode="require", passfile=str(passfile))
    assert log_in(URLCredentials(trusted)) == "tls_only"  # the server asks for none


def test_options_are_defaults_that_a_reset_keeps(tls_address: DatabaseAddress) -> None:
    address = tls_address.replace(
        user="tls_only", sslmode="require", options='-csearch_path="my\\ app",public'
    )
    with open_connection(URLCredentials(address), "test", 30) as connection:
        for reset in ("", "SET search_path = other; RESET ALL; "):
            assert connection.run(f"{reset}SHOW search_path") == [['"my app",public']]


class RecordingTokenClient:
    """The RDS client, asked once: a token's text depends on the second in which it is made."""

    def __init__(self, address: DatabaseAddress) -> None:
        self.token = boto3.client("rds").generate_db_auth_token(
            DBHostname=address.host, Port=address.port, DBUsername="token"
        )
        self.requests: list[dict[str, Any]] = []

    def generate_db_auth_token(self, **arguments: Any) -> str:
        self.requests.append(arguments)
        return str(self.token)


def test_an_iam_token_is_sent_as_the_password(
    tls_address: DatabaseAddress, tls_server: LocalPostgreSQL, authorities: Authorities
) -> None:
    tokens = RecordingTokenClient(tls_address)
    tls_server.execute(f"ALTER ROLE token PASSWORD '{tokens.token}'")
    address = tls_address.replace(user="token", sslrootcert=authorities.right)

    assert log_in(IAMCredentials(address, client=tokens)) == "token"
    place = {"DBHostname": "localhost", "Port": tls_server.port, "DBUsername": "token"}
    assert tokens.requests == [place]


def test_a_refused_iam_login_names_the_permission(
    tls_address: DatabaseAddress, tls_server: LocalPostgreSQL
) -> None:
    tls_server.execute("ALTER ROLE token PASSWORD 'no token'")
    tokens = RecordingTokenClient(tls_address)
    address = tls_address.replace(user="token", sslmode="require")

    with pytest.raises(ConnectionFailed, match="rds-db:connect") as failed:
        log_in(IAMCredentials(address, client=tokens))

    assert failed.value.permanent
    assert tokens.token not in repr(failed.value)
