"""Rows that were there before are found again, or missed, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.staging.records import (
    Records,
    Run,
    TableRecord,
    compare,
    differences,
    freeze,
    read_shape,
    read_sizes,
)
from load.staging.restore import connected, fill, restore, runner
from load.staging.shop import Shop

MIGRATIONS = Path(__file__).parents[3] / "examples" / "orders" / "migrations"

TABLES = """
CREATE TYPE mood AS ENUM ('sad', 'fine');
CREATE TABLE people (id int PRIMARY KEY, name text, feels mood);
CREATE TABLE seats ("row" int, "Seat" text, taken bool, PRIMARY KEY ("row", "Seat"));
CREATE TABLE log (line text);
INSERT INTO people VALUES (1, 'Ada', 'fine'), (2, NULL, 'sad'), (3, '', 'fine');
INSERT INTO seats VALUES (1, 'a', true), (1, 'b', false);
INSERT INTO log VALUES ('one'), ('one'), ('two');
"""


@pytest.fixture(scope="module")
def server() -> Iterator[LocalPostgreSQL]:
    with LocalPostgreSQL() as running:
        yield running


@pytest.fixture
def run(server: LocalPostgreSQL) -> Iterator[Run]:
    server.drop_database("rehearsed")
    server.create_database("rehearsed")
    with connected(server, "rehearsed") as connection:
        connection.run(TABLES)
        yield runner(connection)


def became(records: Records) -> dict[str, TableRecord]:
    return {table.table: table for table in records.tables}


def test_nothing_that_stays_is_missed(run: Run) -> None:
    kept = freeze(run)
    found = became(compare(run, kept))
    assert [found[one.table].checksum for one in kept] == [one.checksum for one in kept]
    assert all(one.is_whole() and not one.came for one in found.values())


def test_rows_that_come_meanwhile_are_counted_and_left_alone(run: Run) -> None:
    kept = freeze(run)
    run("INSERT INTO people VALUES (4, 'Zoë', 'fine')")
    run("INSERT INTO log VALUES ('one')")
    found = became(compare(run, kept))
    assert all(one.is_whole() for one in found.values())
    assert (found["people"].came, found["log"].came, found["seats"].came) == (1, 1, 0)


@pytest.mark.parametrize(
    ("sql", "table", "expected"),
    [
        ("DELETE FROM people WHERE id = 2", "people", {"lost": 1, "examples": ("2",)}),
        (
            "UPDATE people SET name = '' WHERE name IS NULL",
            "people",
            {"changed": {"name": 1}, "examples": ("2",)},
        ),
        ("UPDATE seats SET taken = NOT taken", "seats", {"changed": {"taken": 2}}),
        ("UPDATE seats SET \"Seat\" = 'c' WHERE \"Seat\" = 'b'", "seats", {"lost": 1, "came": 1}),
        ("ALTER TABLE people DROP COLUMN name", "people", {"gone": ("name",)}),
        ("ALTER TABLE people RENAME name TO called", "people", {"gone": ("name",)}),
        ("ALTER TABLE people DROP COLUMN id", "people", {"gone": ("id",)}),
        ("DROP TABLE people", "people", {"lost": 3}),
        ("TRUNCATE seats", "seats", {"lost": 2}),
        ("DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log)", "log", {"lost": 1}),
        ("UPDATE log SET line = 'three' WHERE line = 'two'", "log", {"lost": 1, "came": 1}),
    ],
)
def test_whatever_is_lost_or_changed_is_found(
    run: Run, sql: str, table: str, expected: dict[str, object]
) -> None:
    kept = freeze(run)
    run(sql)
    found = became(compare(run, kept))
    assert not found[table].is_whole()
    assert {name: getattr(found[table], name) for name in expected} == expected
    assert all(one.is_whole() for name, one in found.items() if name != table)


def test_what_may_change_is_no_loss(run: Run) -> None:
    kept = freeze(run)
    run("UPDATE people SET name = upper(name)")
    run("ALTER TABLE seats DROP COLUMN taken")
    found = became(compare(run, kept))
    assert found["people"].is_whole(frozenset({"people.name"}))
    assert found["seats"].is_whole(frozenset({"seats.taken"}))
    assert not found["seats"].is_whole(frozenset({"people.name"}))


def test_the_copies_are_in_no_migrations_way(run: Run) -> None:
    """A type that becomes another one, with the same values, has changed nothing."""
    kept = freeze(run)
    run("ALTER TABLE people ALTER feels TYPE text, ALTER id TYPE bigint")
    run("DROP TYPE mood")
    assert became(compare(run, kept))["people"].is_whole()


def test_the_shape_tells_columns_indexes_constraints_and_enums(run: Run) -> None:
    before = read_shape(run)
    run("CREATE INDEX by_name ON people (name)")
    run("ALTER TABLE people ADD COLUMN age int NOT NULL DEFAULT 0 CHECK (age >= 0)")
    run("ALTER TYPE mood ADD VALUE 'glad'")
    run("CREATE VIEW happy AS SELECT id FROM people")
    lines = list(differences(before, read_shape(run)))
    assert "+ column public.people.age integer NOT NULL DEFAULT 0" in lines
    assert "+ index CREATE INDEX by_name ON public.people USING btree (name)" in lines
    assert "+ enum public.mood sad, fine, glad" in lines
    assert "- enum public.mood sad, fine" in lines
    assert any(line.startswith("+ constraint public.people people_age_check") for line in lines)
    assert any(line.startswith("+ view public.happy") for line in lines)
    freeze(run)
    assert list(differences(read_shape(run), read_shape(run))) == []


def test_a_shop_is_loaded_whole_and_orders_can_be_placed_after(server: LocalPostgreSQL) -> None:
    server.drop_database("shop")
    server.create_database("shop")
    with connected(server, "shop") as connection:
        for path in sorted(MIGRATIONS.glob("000[123]*.sql")):
            connection.run(path.read_text().partition("-- migrate:down")[0])
        shop = Shop(2_000, 3, date(2026, 2, 2))
        fill(connection, shop)
        run = runner(connection)
        sizes = {size.table: size.rows for size in read_sizes(run)}
        assert (sizes["orders"], sizes["customers"]) == (2_000, shop.customers + 1)
        orphans = """
            SELECT count(*) FROM orders o LEFT JOIN customers c ON c.id = o.customer_id
            WHERE c.id IS NULL OR o.created_at < c.created_at - interval '1 hour'
        """
        assert run(orphans) == [[0]]
        run("INSERT INTO customers (email) VALUES ('new@example.com')")
        run("INSERT INTO orders (customer_id, item, quantity, unit_cents) VALUES (1, 'tea', 1, 1)")
        assert run("SELECT max(id) FROM orders") == [[2_001]]
        assert run("SELECT count(*) FROM customers WHERE name = 'Back\\slash'")[0][0] > 0


def test_a_dump_is_restored_and_one_that_is_none_is_told(
    server: LocalPostgreSQL, tmp_path: Path
) -> None:
    server.drop_database("dumped")
    server.create_database("dumped")
    good, bad = tmp_path / "good.sql", tmp_path / "bad.sql"
    good.write_text("CREATE TABLE t (a int);\nCOPY t FROM stdin;\n1\n2\n\\.\n")
    restore(server, "dumped", good)
    assert server.execute("SELECT count(*) FROM t", database="dumped") == [[2]]
    bad.write_text("SELEKT 1;")
    with pytest.raises(ConfigurationError, match=r'(?s)bad\.sql could not be restored.*"SELEKT"'):
        restore(server, "dumped", bad)
    with pytest.raises(ConfigurationError, match=r"none\.sql: No such file"):
        restore(server, "dumped", tmp_path / "none.sql")
