"""Real servers for the connection tests: one with TLS (a private certificate), one without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from lambda_migrate.database_address import DatabaseAddress
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.postgresql.connection import connect

PASSWORD = "päss wörd/@:%"

HBA = (
    "local all all trust",
    "hostssl all tls_only 127.0.0.1/32 trust",
    "hostnossl all plain_only 127.0.0.1/32 trust",
    "host all scram 127.0.0.1/32 scram-sha-256",
    "hostssl all token 127.0.0.1/32 password",
    "host all postgres 127.0.0.1/32 trust",
)
"""Who is on no line for the way that was taken is refused."""

ROLES = ("tls_only", "plain_only", "scram", "token", "shut_out")


@dataclass(frozen=True)
class Authorities:
    """Files of root certificates: the one that signed the server's, and a stranger's."""

    right: str
    wrong: str
    certificate: tuple[Path, Path]


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    folder = tmp_path_factory.mktemp("authorities")
    right, wrong = trustme.CA(), trustme.CA()
    right.cert_pem.write_to_path(str(folder / "right.pem"))
    wrong.cert_pem.write_to_path(str(folder / "wrong.pem"))
    issued = right.issue_cert("localhost")  # not for 127.0.0.1, where it listens as well
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    (folder / "server.crt").write_bytes(chain)
    issued.private_key_pem.write_to_path(str(folder / "server.key"))
    return Authorities(
        right=str(folder / "right.pem"),
        wrong=str(folder / "wrong.pem"),
        certificate=(folder / "server.crt", folder / "server.key"),
    )


@pytest.fixture(scope="session")
def tls_server(authorities: Authorities) -> Iterator[LocalPostgreSQL]:
    with LocalPostgreSQL(tcp_port=0, tls=authorities.certificate, hba=HBA) as server:
        for role in ROLES:
            server.execute(f"CREATE ROLE {role} LOGIN")
        server.execute(f"ALTER ROLE scram PASSWORD '{PASSWORD}'")
        yield server


@pytest.fixture(scope="session")
def plain_server() -> Iterator[LocalPostgreSQL]:
    with LocalPostgreSQL(tcp_port=0, databases=("other",)) as server:
        yield server


@pytest.fixture
def tls_address(tls_server: LocalPostgreSQL) -> DatabaseAddress:
    """By the name that the certificate holds."""
    return DatabaseAddress(
        database="postgres", host="localhost", port=tls_server.port, user="postgres"
    )


@pytest.fixture
def plain_address(plain_server: LocalPostgreSQL) -> DatabaseAddress:
    return DatabaseAddress(
        database="postgres", host="127.0.0.1", port=plain_server.port, user="postgres"
    )


@pytest.fixture
def socket_address(plain_server: LocalPostgreSQL) -> DatabaseAddress:
    return DatabaseAddress(
        database="postgres",
        socket_dir=str(plain_server.socket_directory),
        port=plain_server.port,
        user="postgres",
    )


def wait_until_asleep(address: DatabaseAddress, pid: int) -> None:
    """Wait until a session runs ``pg_sleep``."""
    with connect(address, application_name="wait", timeout=30) as other:
        sql = f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'"
        while not other.run(sql):
            pass
