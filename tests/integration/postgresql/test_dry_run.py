"""What a dry run measures: rows, sizes, rewritten tables and used sequences."""

from __future__ import annotations

import pytest

from lambda_migrate.errors import (
    MigrationFailed,
)
from lambda_migrate.postgresql.dry_run_effects import AdvancedSequence, RelationLock

from .dry_runs import ORDERS, SHOP, change, open_dry_run, run_in_dry_run
from .empty_database import EmptyDatabase, migration, soon


def test_rows_are_counted_as_postgresql_counts_them(each_db: EmptyDatabase) -> None:
    each_db.execute(SHOP)
    first, second = run_in_dry_run(
        each_db,
        "INSERT INTO orders (total) SELECT 1 FROM generate_series(1, 7);"
        " DELETE FROM orders WHERE id <= 3; UPDATE orders SET total = 2 WHERE id <= 13",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS"
        " 'UPDATE orders SET total = 3 WHERE id <= 5'; SELECT f()",
    )
    reported = change(first, ORDERS)
    assert (reported.inserted, reported.updated, reported.deleted, reported.rows) == (
        7,
        10,
        3,
        1000,
    )
    assert reported.dead_rows == 17
    again = change(second, ORDERS)
    assert (again.inserted, again.updated, again.deleted) == (0, 2, 0)


def test_rows_of_a_table_created_in_the_dry_run_are_marked_as_new(shop: EmptyDatabase) -> None:
    made, filled = run_in_dry_run(
        shop, "CREATE TABLE totals (n int)", "INSERT INTO totals SELECT id FROM orders"
    )
    assert change(made, "public.totals").is_new
    reported = change(filled, "public.totals")
    assert (reported.inserted, reported.is_new, reported.rows, reported.dead_rows) == (
        1000,
        True,
        None,
        0,
    )
    assert change(filled, ORDERS).scanned == 1000


def test_a_rewrite_is_recognized_by_the_tables_new_file(each_db: EmptyDatabase) -> None:
    each_db.execute(SHOP)
    plain, rewriting = run_in_dry_run(
        each_db,
        "ALTER TABLE orders ADD COLUMN x int NOT NULL DEFAULT 1",
        "ALTER TABLE orders ALTER COLUMN customer TYPE numeric",
    )
    assert not change(plain, ORDERS).rewritten
    reported = change(rewriting, ORDERS)
    assert reported.rewritten
    assert reported.scanned is not None
    assert reported.scanned >= 1000
    assert rewriting.locks[0] == RelationLock(
        ORDERS, "table", "ACCESS EXCLUSIVE", earlier_migration="0001_m"
    )


def test_sizes_are_reported_before_and_after(shop: EmptyDatabase) -> None:
    size = shop.column("SELECT pg_total_relation_size('orders')")[0]
    grown, gone = run_in_dry_run(
        shop,
        "INSERT INTO orders (total) SELECT 1 FROM generate_series(1, 20000)",
        "DROP TABLE orders",
    )
    reported = change(grown, ORDERS)
    assert reported.bytes_before == size
    assert reported.bytes_after is not None
    assert reported.bytes_after > size + 20_000 * 30
    assert change(gone, ORDERS).bytes_before == reported.bytes_after
    assert change(gone, ORDERS).bytes_after is None


def test_rows_are_unknown_where_postgresql_does_not_count(shop: EmptyDatabase) -> None:
    shop.execute("ALTER DATABASE " + shop.address.database + " SET track_counts = off")
    (measured,) = run_in_dry_run(shop, "UPDATE orders SET total = 1")
    reported = change(measured, ORDERS)
    assert (reported.inserted, reported.updated, reported.deleted, reported.scanned) == (None,) * 4


def test_a_failed_migration_is_not_counted_with_the_next(shop: EmptyDatabase) -> None:
    with open_dry_run(shop) as dry_run:
        with pytest.raises(MigrationFailed):
            dry_run.run_migration(migration("UPDATE orders SET total = 1; SELECT 1/0"), soon())
        measured = dry_run.run_migration(
            migration("UPDATE orders SET total = 1 WHERE id = 1", 2), soon()
        )
    assert change(measured, ORDERS).updated == 1


def test_a_used_sequence_is_reported_with_its_values(each_db: EmptyDatabase) -> None:
    each_db.execute(SHOP + "; CREATE SEQUENCE idle; CREATE SEQUENCE fresh")
    with open_dry_run(each_db) as dry_run:
        dry_run.run_migration(
            migration("INSERT INTO orders (total) VALUES (1), (2); SELECT nextval('fresh')"), soon()
        )
        moved = dry_run.roll_back()
    assert moved == (
        AdvancedSequence("public.fresh", None, 1),
        AdvancedSequence("public.orders_id_seq", 1000, 1002),
    )
