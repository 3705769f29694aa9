"""`examples/orders/roles.sql`: one role owns the schema, another serves and owns nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pg8000.native
import pytest
from pg8000.exceptions import DatabaseError

from lambda_migrate.clock import Deadline
from lambda_migrate.engine.operations import Operations
from lambda_migrate.engine.target import Target
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.local.package.build import ROOT
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.migrations.source import read_manifest
from lambda_migrate.settings import Settings
from lambda_migrate.wiring import make_database

EXAMPLE = ROOT / "examples" / "orders"
ROLES = (EXAMPLE / "roles.sql").read_text()
MAJORS = (14, 18)
"""Up to 14 everybody could make tables in the schema public; the newest."""

INSUFFICIENT_PRIVILEGE = "42501"


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def server(request: pytest.FixtureRequest) -> Iterator[LocalPostgreSQL]:
    """Of its own: roles are a server's."""
    with LocalPostgreSQL(major=request.param, databases=["orders"]) as running:
        yield running


def make_roles(server: LocalPostgreSQL, *, by: str = "postgres") -> None:
    as_role(server, by, ROLES)


def migrate(server: LocalPostgreSQL, *, to: int) -> None:
    url = server.url("orders", user="orders_migrator")
    target = Target(
        "orders", InMemoryLeaseStore(), make_database(Settings.load({}, database_url=url))
    )
    Operations(read_manifest(str(EXAMPLE / "migrations")), target).up(Deadline.after(60), to=to)


def as_role(server: LocalPostgreSQL, role: str, sql: str) -> list[list[Any]]:
    """Run one statement, prepared: two in one text would be refused, as by the RDS Data API."""
    connection = pg8000.native.Connection(role, database="orders", unix_sock=str(server.socket))
    try:
        return list(connection.prepare(sql).run() or [])
    finally:
        connection.close()


def assert_serves_and_no_more(server: LocalPostgreSQL) -> None:
    place = "INSERT INTO customers (email) VALUES ('ada@example.com') RETURNING id"
    assert as_role(server, "orders_app", place)
    as_role(server, "orders_app", "UPDATE customers SET email = lower(email)")
    assert as_role(server, "orders_app", "SELECT count(*) FROM orders") == [[0]]
    for forbidden in (
        "CREATE TABLE mine ()",
        "ALTER TABLE orders ADD COLUMN mine int",
        "DROP TABLE orders",
        "DELETE FROM orders",
        "TRUNCATE orders",
        "SELECT * FROM lambda_migrate.history",
        "UPDATE lambda_migrate.fence SET token = 99",
        "CREATE SCHEMA mine",
    ):
        with pytest.raises(DatabaseError, match=INSUFFICIENT_PRIVILEGE):
            as_role(server, "orders_app", forbidden)


def test_roles_created_before_the_first_migration(server: LocalPostgreSQL) -> None:
    make_roles(server)
    migrate(server, to=2)
    assert_serves_and_no_more(server)


def test_roles_created_after_all_migrations(server: LocalPostgreSQL) -> None:
    server.execute("CREATE ROLE orders_migrator LOGIN")
    server.execute("ALTER DATABASE orders OWNER TO orders_migrator")
    server.execute("GRANT CREATE ON SCHEMA public TO orders_migrator", "orders")
    migrate(server, to=2)
    make_roles(server)
    assert_serves_and_no_more(server)


def test_roles_created_by_a_migrator_that_owns_the_database(
    server: LocalPostgreSQL,
) -> None:
    """As the master user of a managed database; there it owns the schema public as well."""
    server.execute("CREATE ROLE orders_migrator LOGIN CREATEROLE")
    server.execute("ALTER DATABASE orders OWNER TO orders_migrator")
    if server.major < 15:  # where pg_database_owner owns it from the beginning
        server.execute("ALTER SCHEMA public OWNER TO orders_migrator", "orders")
    make_roles(server, by="orders_migrator")
    migrate(server, to=2)
    assert_serves_and_no_more(server)


def test_later_tables_are_accessible_and_the_script_is_idempotent(
    server: LocalPostgreSQL,
) -> None:
    make_roles(server)
    migrate(server, to=2)
    make_roles(server)
    as_role(server, "orders_migrator", "CREATE TABLE refunds (id int)")
    assert as_role(server, "orders_app", "SELECT count(*) FROM refunds") == [[0]]
    assert_serves_and_no_more(server)
