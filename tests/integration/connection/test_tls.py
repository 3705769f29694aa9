"""libpq's sslmode, mode by mode, against servers that offer TLS, require it, or have none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lambda_migrate.database_address import SSLMODES, DatabaseAddress
from lambda_migrate.postgresql.connection import (
    Connection,
    ConnectionFailed,
    ConnectionLost,
    connect,
)

from .conftest import PASSWORD, Authorities, wait_until_asleep


def connect_to(address: DatabaseAddress) -> Connection:
    return connect(address, application_name="test_tls", timeout=30)


def is_encrypted(address: DatabaseAddress) -> bool:
    with connect_to(address) as connection:
        said = connection.run("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert said == [[connection.is_encrypted]]
        return said == [[True]]


def get_refusal(address: DatabaseAddress) -> ConnectionFailed:
    with pytest.raises(ConnectionFailed) as failed:
        connect_to(address)
    return failed.value


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca", "require", "prefer", "allow"])
def test_the_right_authority_is_trusted(
    mode: str, tls_address: DatabaseAddress, authorities: Authorities
) -> None:
    address = tls_address.replace(sslmode=mode, sslrootcert=authorities.right)

    assert is_encrypted(address) is (mode != "allow")


def test_a_root_certificate_without_a_mode_means_verify_full(
    tls_address: DatabaseAddress, authorities: Authorities
) -> None:
    assert is_encrypted(tls_address.replace(sslrootcert=authorities.right))
    assert get_refusal(tls_address.replace(sslrootcert=authorities.wrong)).permanent


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca", "require"])
def test_a_wrong_authority_is_refused_for_good(
    mode: str, tls_address: DatabaseAddress, authorities: Authorities
) -> None:
    failed = get_refusal(tls_address.replace(sslmode=mode, sslrootcert=authorities.wrong))

    assert failed.permanent
    assert "certificate is refused" in failed.reason
    assert "sslrootcert" in failed.reason


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca"])
def test_without_a_root_certificate_the_system_store_decides(
    mode: str, tls_address: DatabaseAddress
) -> None:
    failed = get_refusal(tls_address.replace(sslmode=mode))

    assert failed.permanent
    assert "global-bundle.pem" in failed.reason


def test_sslrootcert_system_decides_by_the_system_store(tls_address: DatabaseAddress) -> None:
    assert get_refusal(tls_address.replace(sslrootcert="system")).permanent


def test_the_system_store_is_openssls(
    tls_address: DatabaseAddress, authorities: Authorities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", authorities.right)

    assert is_encrypted(tls_address.replace(sslrootcert="system"))
    assert is_encrypted(tls_address.replace(sslmode="verify-ca"))


def test_a_wrong_host_name_is_refused_only_by_verify_full(
    tls_address: DatabaseAddress, authorities: Authorities
) -> None:
    address = tls_address.replace(host="127.0.0.1", sslrootcert=authorities.right)

    assert is_encrypted(address.replace(sslmode="verify-ca"))
    assert is_encrypted(address.replace(sslmode="require"))
    failed = get_refusal(address.replace(sslmode="verify-full"))
    assert failed.permanent
    assert "connect by a name that the certificate contains" in failed.reason


def test_require_without_a_root_certificate_encrypts_and_verifies_nothing(
    tls_address: DatabaseAddress,
) -> None:
    assert is_encrypted(tls_address.replace(host="127.0.0.1", sslmode="require"))


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_a_server_without_tls_is_refused_where_tls_is_required(
    mode: str, plain_address: DatabaseAddress
) -> None:
    failed = get_refusal(plain_address.replace(sslmode=mode))

    assert failed.permanent
    assert f"offers no TLS, and sslmode={mode} requires it" in failed.reason


@pytest.mark.parametrize("mode", ["prefer", "allow", "disable", ""])
def test_a_server_without_tls_accepts_modes_that_do_not_require_it(
    mode: str, plain_address: DatabaseAddress
) -> None:
    assert not is_encrypted(plain_address.replace(sslmode=mode))


@pytest.mark.parametrize("mode", SSLMODES)
def test_a_unix_socket_is_never_encrypted(mode: str, socket_address: DatabaseAddress) -> None:
    assert not is_encrypted(socket_address.replace(sslmode=mode))


def test_plaintext_to_a_server_that_requires_tls_is_refused_with_advice(
    tls_address: DatabaseAddress,
) -> None:
    failed = get_refusal(tls_address.replace(user="tls_only", sslmode="disable"))

    assert failed.permanent
    assert failed.sqlstate == "28000"
    assert "sslmode=disable" in failed.reason


@pytest.mark.parametrize(
    ("user", "mode", "encrypted"),
    [
        ("postgres", "allow", False),
        ("postgres", "prefer", True),
        ("tls_only", "allow", True),
        ("tls_only", "prefer", True),
        ("plain_only", "allow", False),
        ("plain_only", "prefer", False),
    ],
)
def test_allow_and_prefer_try_the_other_way_where_the_server_refuses_the_first(
    user: str, mode: str, encrypted: bool, tls_address: DatabaseAddress
) -> None:
    assert is_encrypted(tls_address.replace(user=user, sslmode=mode)) is encrypted


def test_prefer_falls_back_to_plaintext_where_the_certificate_is_refused(
    tls_address: DatabaseAddress, authorities: Authorities
) -> None:
    address = tls_address.replace(sslmode="prefer", sslrootcert=authorities.wrong)

    assert not is_encrypted(address)


def test_two_refusals_are_both_reported(tls_address: DatabaseAddress) -> None:
    failed = get_refusal(tls_address.replace(user="shut_out", sslmode="prefer"))

    assert failed.permanent
    assert failed.sqlstate == "28000"
    assert "SSL encryption" in failed.reason
    assert "no encryption" in failed.reason


def test_the_same_refusal_twice_is_reported_once(tls_address: DatabaseAddress) -> None:
    failed = get_refusal(tls_address.replace(user="scram", password="wrong", sslmode="prefer"))

    assert failed.permanent
    assert failed.reason.count("password authentication failed") == 1


@pytest.mark.parametrize("mode", ["disable", "require"])
def test_scram_accepts_the_right_password(mode: str, tls_address: DatabaseAddress) -> None:
    address = tls_address.replace(user="scram", password=PASSWORD, sslmode=mode)

    assert is_encrypted(address) is (mode == "require")


def test_scram_is_bound_to_the_tls_connection(tls_address: DatabaseAddress) -> None:
    address = tls_address.replace(
        user="scram",
        password=PASSWORD,
        sslmode="require",
        channel_binding="require",
    )

    assert is_encrypted(address)


@pytest.mark.parametrize("user", ["postgres", "token"])
def test_a_required_channel_binding_refuses_every_other_login(
    user: str, tls_address: DatabaseAddress
) -> None:
    address = tls_address.replace(user=user, password="secret-word", sslmode="require")
    failed = get_refusal(address.replace(channel_binding="require"))

    assert failed.permanent
    assert "channel_binding=require" in failed.reason


@pytest.mark.parametrize("mode", ["disable", "require"])
def test_a_wrong_password_is_permanent_and_shown_nowhere(
    mode: str, tls_address: DatabaseAddress
) -> None:
    failed = get_refusal(tls_address.replace(user="scram", password="s3cr3t", sslmode=mode))

    assert failed.permanent
    assert failed.is_authentication_error
    assert failed.sqlstate == "28P01"
    assert "s3cr3t" not in repr(failed)
    assert "user scram at localhost:" in failed.reason


def test_a_missing_password_is_reported_as_missing(tls_address: DatabaseAddress) -> None:
    failed = get_refusal(tls_address.replace(user="scram", sslmode="require"))

    assert failed.permanent
    assert "asks for a password and none is configured" in failed.reason


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_root_certificate_file_that_cannot_be_used_is_named(
    content: str | None, tls_address: DatabaseAddress, tmp_path: Path
) -> None:
    path = tmp_path / "roots.pem"
    if content is not None:
        path.write_text(content)

    failed = get_refusal(tls_address.replace(sslmode="require", sslrootcert=str(path)))

    assert failed.permanent
    assert str(path) in failed.reason
    assert "PEM" in failed.reason


def test_an_abort_ends_a_statement_over_tls_and_nothing_is_sent_in_plaintext(
    tls_address: DatabaseAddress,
) -> None:
    connection = connect_to(tls_address.replace(sslmode="require"))
    lost: list[ConnectionLost] = []
    runner = threading.Thread(target=make_query_that_collects(lost, connection))
    runner.start()
    wait_until_asleep(tls_address, connection.pid)

    connection.abort()
    runner.join(timeout=60)

    assert not runner.is_alive()
    assert [error.reason for error in lost] == ["the connection was aborted"]
    connection.close()


def make_query_that_collects(
    lost: list[ConnectionLost], connection: Connection
) -> Callable[[], None]:
    def run() -> None:
        try:
            connection.run("SELECT pg_sleep(120)")
        except ConnectionLost as error:
            lost.append(error)

    return run
