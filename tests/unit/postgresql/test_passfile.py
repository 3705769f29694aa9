"""libpq's password file: which line matches, and which files are not used."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambda_migrate.database_address import parse_url
from lambda_migrate.postgresql.passfile import PassfileIgnored, find_password


def find(folder: Path, text: str, *, url: str = "postgresql://app@db:5433/orders") -> str | None:
    path = folder / "pgpass"
    path.write_text(text)
    path.chmod(0o600)
    return find_password(parse_url(url).replace(passfile=str(path)))


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("db:5433:orders:app:secret", "secret"),
        ("*:*:*:*:secret", "secret"),
        ("other:5433:orders:app:secret", None),
        ("db:5432:orders:app:secret", None),
        ("#db:5433:orders:app:secret", None),
        ("db:5433:orders:app", None),
        (r"db:5433:orders:app:a\:b\\c", r"a:b\c"),
        ("other:*:*:*:first\ndb:*:*:*:second\n*:*:*:*:third", "second"),
        ("", None),
    ],
)
def test_the_first_line_that_matches_counts(
    tmp_path: Path, line: str, password: str | None
) -> None:
    assert find(tmp_path, line) == password


def test_a_default_socket_is_localhost(tmp_path: Path) -> None:
    url = "postgresql://app@/orders?host=/var/run/postgresql"
    assert find(tmp_path, "localhost:5432:orders:app:secret", url=url) == "secret"


def test_a_file_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "pgpass"
    path.write_text("*:*:*:*:secret")
    path.chmod(0o644)
    address = parse_url("postgresql://app@db/orders").replace(passfile=str(path))
    with pytest.raises(PassfileIgnored, match="chmod 0600"):
        find_password(address)
    with pytest.raises(PassfileIgnored, match="not a regular file"):
        find_password(address.replace(passfile=str(tmp_path)))
    assert find_password(address.replace(passfile=str(tmp_path / "none"))) is None
