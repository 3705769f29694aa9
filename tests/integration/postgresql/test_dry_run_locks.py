"""The locks that a dry run reports are those that make other sessions wait."""

from __future__ import annotations

import pytest

from lambda_migrate.postgresql.connection import PostgresError
from lambda_migrate.postgresql.dry_run_effects import RelationLock

from .dry_runs import ORDERS, SHOP, change, open_dry_run, run_in_dry_run
from .empty_database import EmptyDatabase, migration, soon

LOCKS = [
    ("SELECT count(*) FROM orders", "ACCESS SHARE"),
    ("SELECT 1 FROM orders FOR UPDATE", "ROW SHARE"),
    ("UPDATE orders SET total = 0 WHERE id = 1", "ROW EXCLUSIVE"),
    ("ANALYZE orders", "SHARE UPDATE EXCLUSIVE"),
    ("ALTER TABLE orders ALTER COLUMN total SET STATISTICS 5", "SHARE UPDATE EXCLUSIVE"),
    ("CREATE INDEX i ON orders (customer)", "SHARE"),
    (
        "CREATE TRIGGER t BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION"
        " suppress_redundant_updates_trigger()",
        "SHARE ROW EXCLUSIVE",
    ),
    ("ALTER TABLE orders ADD FOREIGN KEY (customer) REFERENCES customers", "SHARE ROW EXCLUSIVE"),
    ("LOCK TABLE orders IN EXCLUSIVE MODE", "EXCLUSIVE"),
    ("ALTER TABLE orders ADD COLUMN x int", "ACCESS EXCLUSIVE"),
    ("TRUNCATE orders", "ACCESS EXCLUSIVE"),
    ("DROP TABLE orders", "ACCESS EXCLUSIVE"),
]


@pytest.mark.parametrize(("script", "mode"), LOCKS)
def test_the_strongest_lock_on_each_table_is_reported(
    shop: EmptyDatabase, script: str, mode: str
) -> None:
    (measured,) = run_in_dry_run(shop, script)
    assert next(lock for lock in measured.locks if lock.relation == ORDERS) == RelationLock(
        ORDERS, "table", mode
    )


@pytest.mark.parametrize(("script", "mode"), LOCKS)
def test_what_a_lock_is_reported_to_block_waits_and_nothing_else(
    shop: EmptyDatabase, script: str, mode: str
) -> None:
    def waits(statement: str) -> bool:
        try:
            shop.execute(f"SET lock_timeout = '50ms'; {statement}")
        except PostgresError as error:
            return error.sqlstate == "55P03"
        return False

    with open_dry_run(shop) as dry_run:
        (lock, *_) = (
            each
            for each in dry_run.run_migration(migration(script), soon()).locks
            if each.relation == ORDERS
        )
        blocked = {
            "reads": waits("SELECT FROM orders LIMIT 1"),
            "writes": waits("INSERT INTO orders (total) VALUES (1)"),
        }
    assert lock.mode == mode
    assert blocked == {what: what in lock.blocks for what in blocked}


def test_locks_are_reported_on_every_version(each_db: EmptyDatabase) -> None:
    each_db.execute(SHOP)
    added, filled = run_in_dry_run(
        each_db, "ALTER TABLE orders ADD COLUMN x int", "UPDATE orders SET x = 1"
    )
    assert added.locks == (RelationLock(ORDERS, "table", "ACCESS EXCLUSIVE"),)
    assert filled.locks == (RelationLock(ORDERS, "table", "ROW EXCLUSIVE"),)
    assert (change(filled, ORDERS).updated, change(filled, ORDERS).dead_rows) == (1000, 1000)


def test_the_strongest_locks_come_first_and_harmless_ones_last(shop: EmptyDatabase) -> None:
    (measured,) = run_in_dry_run(
        shop,
        "CREATE TABLE a (id int); CREATE INDEX ON a (id); UPDATE orders SET total = 1;"
        " ALTER TABLE customers ADD COLUMN x int",
    )
    assert measured.locks[:2] == (
        RelationLock("public.customers", "table", "ACCESS EXCLUSIVE"),
        RelationLock(ORDERS, "table", "ROW EXCLUSIVE"),
    )
    assert (measured.locks[-1].relation, measured.locks[-1].is_new) == ("public.a", True)
    assert measured.locks[-1].blocks == ()


def test_a_lock_of_an_earlier_migration_is_reported_with_its_name(shop: EmptyDatabase) -> None:
    _, altered, filled, indexed, dropped = run_in_dry_run(
        shop,
        "ALTER TABLE orders ADD COLUMN x int",
        "ALTER TABLE orders ADD COLUMN y int",
        "UPDATE orders SET x = 1",
        "CREATE INDEX i ON orders (x)",
        "DROP TABLE orders",
    )
    exclusive = RelationLock(ORDERS, "table", "ACCESS EXCLUSIVE", earlier_migration="0001_m")
    assert altered.locks == (exclusive,)
    assert filled.locks == (RelationLock(ORDERS, "table", "ROW EXCLUSIVE"),)
    assert indexed.locks == (RelationLock(ORDERS, "table", "SHARE"),)
    assert dropped.locks[0] == exclusive


def test_a_table_that_is_only_filled_again_has_no_stronger_lock(shop: EmptyDatabase) -> None:
    *_, again = run_in_dry_run(
        shop,
        "ALTER TABLE orders ADD COLUMN x int",
        "UPDATE orders SET x = 1",
        "UPDATE orders SET x = 2",
    )
    assert again.locks == (
        RelationLock(ORDERS, "table", "ROW EXCLUSIVE", earlier_migration="0002_m"),
    )


def test_an_index_lock_that_blocks_readers_of_its_table_is_reported(shop: EmptyDatabase) -> None:
    (measured,) = run_in_dry_run(shop, "REINDEX INDEX orders_pkey")
    assert measured.locks == (
        RelationLock("public.orders_pkey", "index", "ACCESS EXCLUSIVE"),
        RelationLock(ORDERS, "table", "SHARE"),
    )


def test_names_are_written_as_sql_needs_them(shop: EmptyDatabase) -> None:
    shop.execute('CREATE SCHEMA "My Shop"; CREATE TABLE "My Shop"."Order ""lines" (id int)')
    (measured,) = run_in_dry_run(shop, 'ALTER TABLE "My Shop"."Order ""lines" ADD COLUMN x int')
    assert [lock.relation for lock in measured.locks] == ['"My Shop"."Order ""lines"']
