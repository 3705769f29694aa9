"""Rows that were there before are found again, or missed, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.staging.database import (
    RunQuery,
    TableComparison,
    compare_tables,
    connect,
    copy_tables,
    make_runner,
    read_schema_objects,
    restore,
    schema_differences,
)
from load.staging.generated_orders import GeneratedOrders

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
def run(server: LocalPostgreSQL) -> Iterator[RunQuery]:
    server.drop_database("staging")
    server.create_database("staging")
    with connect(server, "staging") as connection:
        connection.run(TABLES)
        yield make_runner(connection)


def by_table(comparisons: list[TableComparison]) -> dict[str, TableComparison]:
    return {comparison.table: comparison for comparison in comparisons}


def is_intact(record: TableComparison) -> bool:
    return not (record.lost or record.changed or record.dropped)


def test_unchanged_tables_are_intact(run: RunQuery) -> None:
    copies = copy_tables(run)
    found = by_table(compare_tables(run, copies))
    assert sorted(found) == ["log", "people", "seats"]
    assert all(is_intact(one) and not one.added for one in found.values())


def test_rows_that_are_added_are_counted(run: RunQuery) -> None:
    copies = copy_tables(run)
    run("INSERT INTO people VALUES (4, 'Zoë', 'fine')")
    run("INSERT INTO log VALUES ('one')")
    found = by_table(compare_tables(run, copies))
    assert all(is_intact(one) for one in found.values())
    assert (found["people"].added, found["log"].added, found["seats"].added) == (1, 1, 0)


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
        ("UPDATE seats SET \"Seat\" = 'c' WHERE \"Seat\" = 'b'", "seats", {"lost": 1, "added": 1}),
        ("ALTER TABLE people DROP COLUMN name", "people", {"dropped": ("name",)}),
        ("ALTER TABLE people RENAME name TO called", "people", {"dropped": ("name",)}),
        ("ALTER TABLE people DROP COLUMN id", "people", {"dropped": ("id",)}),
        ("DROP TABLE people", "people", {"lost": 3}),
        ("TRUNCATE seats", "seats", {"lost": 2}),
        ("DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log)", "log", {"lost": 1}),
        ("UPDATE log SET line = 'three' WHERE line = 'two'", "log", {"lost": 1, "added": 1}),
    ],
)
def test_lost_and_changed_rows_are_found(
    run: RunQuery, sql: str, table: str, expected: dict[str, object]
) -> None:
    copies = copy_tables(run)
    run(sql)
    found = by_table(compare_tables(run, copies))
    assert not is_intact(found[table])
    assert {name: getattr(found[table], name) for name in expected} == expected
    assert all(is_intact(one) for name, one in found.items() if name != table)


def test_copies_do_not_block_a_type_change(run: RunQuery) -> None:
    """A type that becomes another one, with the same values, has changed nothing."""
    copies = copy_tables(run)
    run("ALTER TABLE people ALTER feels TYPE text, ALTER id TYPE bigint")
    run("DROP TYPE mood")
    assert is_intact(by_table(compare_tables(run, copies))["people"])


def test_schema_objects_include_columns_indexes_constraints_and_enums(run: RunQuery) -> None:
    before = read_schema_objects(run)
    run("CREATE INDEX by_name ON people (name)")
    run("ALTER TABLE people ADD COLUMN age int NOT NULL DEFAULT 0 CHECK (age >= 0)")
    run("ALTER TYPE mood ADD VALUE 'glad'")
    run("CREATE VIEW happy AS SELECT id FROM people")
    lines = list(schema_differences(before, read_schema_objects(run)))
    assert "+ column public.people.age integer NOT NULL DEFAULT 0" in lines
    assert "+ index CREATE INDEX by_name ON public.people USING btree (name)" in lines
    assert "+ enum public.mood sad, fine, glad" in lines
    assert "- enum public.mood sad, fine" in lines
    assert any(line.startswith("+ constraint public.people people_age_check") for line in lines)
    assert any(line.startswith("+ view public.happy") for line in lines)
    copy_tables(run)
    assert list(schema_differences(read_schema_objects(run), read_schema_objects(run))) == []


# --- the example's data

UNTIL = date(2026, 2, 2)


def load_generated(
    server: LocalPostgreSQL, generated: GeneratedOrders, *queries: str
) -> list[list[list[Any]]]:
    """Fill a new database, and answer the queries."""
    server.drop_database("shop")
    server.create_database("shop")
    with connect(server, "shop") as connection:
        for path in sorted(MIGRATIONS.glob("000[123]*.sql")):
            connection.run(path.read_text().partition("-- migrate:down")[0])
        generated.fill(connection)
        return [connection.run(query) for query in queries]


SUM = "SELECT sum(hashtextextended(o::text, 0)) FROM orders AS o"


def test_data_is_the_same_for_a_seed_and_differs_for_another(server: LocalPostgreSQL) -> None:
    sums = [
        load_generated(server, generated, SUM)[0][0][0]
        for generated in (
            GeneratedOrders(3_000, 1, UNTIL),
            GeneratedOrders(3_000, 1, UNTIL),
            GeneratedOrders(3_000, 2, UNTIL),
            GeneratedOrders(3_000, 1, date(2026, 2, 3)),
        )
    ]
    assert sums[0] == sums[1]
    assert len(set(sums)) == 3


@pytest.mark.parametrize("orders", [0, 1, 9, 2_000])
def test_data_is_complete_and_orders_can_be_placed_after(
    server: LocalPostgreSQL, orders: int
) -> None:
    generated = GeneratedOrders(orders, 3, UNTIL)
    counts, orphans, _, newest = load_generated(
        server,
        generated,
        "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM customers)",
        """SELECT count(*) FROM orders o LEFT JOIN customers c ON c.id = o.customer_id
        WHERE c.id IS NULL OR o.created_at < c.created_at""",
        "INSERT INTO orders (customer_id, item, quantity, unit_cents) VALUES (1, 'tea', 1, 1)",
        "SELECT max(id) FROM orders",
    )
    assert counts == [[orders, generated.customers + 1]]
    assert orphans == [[0]]
    assert newest == [[orders + 1 if orders else 2]]


def test_data_is_as_uneven_as_real_data(server: LocalPostgreSQL) -> None:
    generated = GeneratedOrders(100_000, 1, UNTIL)
    top, cents, notes, lengths, growth, days, names, emails = load_generated(
        server,
        generated,
        """SELECT sum(n) FILTER (WHERE place <= 1250), max(n) FROM (SELECT count(*) AS n,
        row_number() OVER (ORDER BY count(*) DESC) AS place FROM orders GROUP BY customer_id) x""",
        "SELECT avg(unit_cents), percentile_disc(0.5) WITHIN GROUP (ORDER BY unit_cents), "
        "min(unit_cents) FROM orders",
        "SELECT count(*) FILTER (WHERE note IS NULL), count(*) FILTER (WHERE note = '') "
        "FROM orders",
        "SELECT max(length(item)), max(length(note)) FROM orders",
        "SELECT count(*) FILTER (WHERE created_at > '2025-02-02'), count(*) FROM orders",
        "SELECT max(created_at) < '2026-02-02 00:00+00', bool_and(id = place) FROM (SELECT id, "
        "created_at, row_number() OVER (ORDER BY created_at, id) AS place FROM orders) x",
        "SELECT string_agg(DISTINCT name, '|') FROM customers WHERE length(name) < 100",
        "SELECT count(DISTINCT email), count(*) FROM customers",
    )
    assert top[0][0] > 60_000
    assert top[0][1] > 5_000
    assert float(cents[0][0]) > 1.3 * cents[0][1] > 0 == cents[0][2]
    assert 80_000 < notes[0][0] < 95_000
    assert notes[0][1] > 0
    assert min(lengths[0]) > 10_000
    assert growth[0][0] > growth[0][1] / 2, "of 1,200 days, the last 365 have most orders"
    assert days == [[True, True]]
    for name in ("王小明", "محمد", "Zoë", "👩‍🚀", "Robert');", "Back\\slash", "Tab\there"):
        assert name in names[0][0]
    assert emails[0][0] == emails[0][1]


def test_customer_numbers_name_every_customer(server: LocalPostgreSQL) -> None:
    generated = GeneratedOrders(800, 1, UNTIL)
    emails = {generated.email(number) for number in range(100)}
    assert len(emails) == generated.customers
    (rows,) = load_generated(server, generated, "SELECT email FROM customers")
    assert emails <= {email for (email,) in rows}


def test_dump_is_restored_and_a_bad_one_reported(server: LocalPostgreSQL, tmp_path: Path) -> None:
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
