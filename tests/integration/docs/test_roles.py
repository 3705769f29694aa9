"""The roles on the pages have the privileges that they need, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lambda_migrate.cli import main
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from tests.unit.docs.pages import DOCS, code_blocks


@pytest.fixture
def server() -> Iterator[LocalPostgreSQL]:
    """Start a server, because roles belong to a server; RDS has the role ``rds_iam``."""
    with LocalPostgreSQL(databases=["orders"]) as own:
        own.execute("CREATE ROLE rds_iam")
        yield own


def make_roles(server: LocalPostgreSQL) -> None:
    page = DOCS / "how-to" / "rds-proxy-and-iam.md"
    [script] = [block.text for block in code_blocks(page, "sql")]
    for line in script.splitlines():
        server.execute(line, "orders")


def test_the_application_role_may_write_rows_but_not_change_tables(
    server: LocalPostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_roles(server)
    (tmp_path / "0001_orders.sql").write_text(
        "-- migrate:up\nCREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY, item text);\n"
    )
    monkeypatch.setenv("LAMBDA_MIGRATE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("LAMBDA_MIGRATE_DATABASE_URL", server.url("orders", user="migrator"))
    assert main(["up"]) == 0
    server.execute("SET ROLE app; INSERT INTO orders (item) VALUES ('tea')", "orders")
    for forbidden in (
        "ALTER TABLE orders ADD COLUMN x int",
        "CREATE TABLE another ()",
        "DELETE FROM lambda_migrate.history",
        "UPDATE lambda_migrate.fence SET token = 99",
    ):
        with pytest.raises(Exception, match="42501"):
            server.execute(f"SET ROLE app; {forbidden}", "orders")
