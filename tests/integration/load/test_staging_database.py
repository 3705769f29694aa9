"""The comparison of a staging database finds lost and changed rows, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.staging.database import (
    RunQuery,
    copy_tables,
    find_changed_rows,
    find_schema_differences,
    read_schema,
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
def run(server: LocalPostgreSQL) -> RunQuery:
    server.drop_database("staging")
    server.create_database("staging")
    server.execute(TABLES, "staging")
    return partial(server.execute, database="staging")


def test_added_rows_and_changed_types_are_not_reported_as_changes(run: RunQuery) -> None:
    copies = copy_tables(run)
    assert sorted(copy.table for copy in copies) == ["log", "people", "seats"]
    run("INSERT INTO people VALUES (4, 'Zoë', 'fine')")
    run("INSERT INTO log VALUES ('one')")
    run("ALTER TABLE people ALTER feels TYPE text, ALTER id TYPE bigint")
    run("DROP TYPE mood")
    assert list(find_changed_rows(run, copies)) == []


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("DELETE FROM people WHERE id = 2", "1 of 3 rows of people are lost or changed, such as"),
        ("UPDATE people SET name = '' WHERE name IS NULL", "1 of 3 rows of people are lost"),
        ("UPDATE seats SET taken = NOT taken", "2 of 2 rows of seats are lost or changed"),
        ("ALTER TABLE people DROP COLUMN name", "people: dropped name"),
        ("ALTER TABLE people RENAME name TO called", "people: dropped name"),
        ("DROP TABLE people", "people: dropped id, name, feels"),
        ("TRUNCATE seats", "2 of 2 rows of seats are lost or changed"),
        ("DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log)", "1 of 3 rows of log are lost"),
    ],
)
def test_lost_and_changed_rows_are_found(run: RunQuery, sql: str, found: str) -> None:
    copies = copy_tables(run)
    run(sql)
    [only] = find_changed_rows(run, copies)
    assert only.startswith(found)


@pytest.mark.parametrize(
    ("sql", "lines"),
    [
        ("CREATE INDEX by_name ON people (name)", ["+CREATE INDEX by_name ON public.people"]),
        (
            "ALTER TABLE seats ALTER taken SET NOT NULL",
            ["-    taken boolean", "+    taken boolean NOT"],
        ),
        ("ALTER TYPE mood ADD VALUE 'glad'", ["-    'fine'", "+    'fine',", "+    'glad'"]),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'by_line'::regclass",
            ["-CREATE INDEX by_line", "+INVALID index by_line"],
        ),
    ],
)
def test_schema_differences_are_found(
    server: LocalPostgreSQL, run: RunQuery, sql: str, lines: list[str]
) -> None:
    run("CREATE INDEX by_line ON log (line)")
    before = read_schema(server, "staging")
    copy_tables(run)
    assert find_schema_differences(before, read_schema(server, "staging")) == []
    run(sql)
    found = find_schema_differences(before, read_schema(server, "staging"))
    assert len(found) == len(lines)
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True)), found


# --- the example's data


def load_generated(
    server: LocalPostgreSQL, generated: GeneratedOrders, *queries: str
) -> list[list[list[Any]]]:
    """Fill a new database, and answer the queries."""
    server.drop_database("shop")
    server.create_database("shop")
    run = partial(server.execute, database="shop")
    for path in sorted(MIGRATIONS.glob("000[123]*.sql")):
        run(path.read_text().partition("-- migrate:down")[0])
    generated.insert_rows(run)
    return [run(query) for query in queries]


SUM = "SELECT sum(hashtextextended(o::text, 0)) FROM orders AS o"


def test_data_is_the_same_for_a_seed_and_differs_for_another(server: LocalPostgreSQL) -> None:
    sums = [
        load_generated(server, generated, SUM)[0][0][0]
        for generated in (
            GeneratedOrders(3_000, 1),
            GeneratedOrders(3_000, 1),
            GeneratedOrders(3_000, 2),
        )
    ]
    assert sums[0] == sums[1] != sums[2]


@pytest.mark.parametrize("orders", [0, 1, 9, 2_000])
def test_data_is_complete_and_orders_can_be_placed_after(
    server: LocalPostgreSQL, orders: int
) -> None:
    generated = GeneratedOrders(orders, 3)
    counts, orphans, _, newest = load_generated(
        server,
        generated,
        "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM customers)",
        """SELECT count(*) FROM orders o LEFT JOIN customers c ON c.id = o.customer_id
        WHERE c.id IS NULL OR o.created_at < c.created_at""",
        "INSERT INTO orders (customer_id, item, quantity, unit_cents) VALUES (1, 'tea', 1, 1)",
        "SELECT max(id) FROM orders",
    )
    assert counts == [[orders, generated.customer_count + 1]]
    assert orphans == [[0]]
    assert newest == [[orders + 1 if orders else 2]]


def test_data_is_as_uneven_as_real_data(server: LocalPostgreSQL) -> None:
    generated = GeneratedOrders(100_000, 1)
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
    generated = GeneratedOrders(800, 1)
    emails = {generated.make_email(number) for number in range(100)}
    assert len(emails) == generated.customer_count
    (rows,) = load_generated(server, generated, "SELECT email FROM customers")
    assert emails <= {email for (email,) in rows}
