"""Dry runs from the lease to the rollback, on every version of PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lambda_migrate.engine.dry_run import DryRunResult
from lambda_migrate.engine.operations import Operations
from lambda_migrate.engine.target import Target
from lambda_migrate.errors import (
    ConfigurationError,
    LeaseHeld,
    MigrationFailed,
)
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.migrations import Manifest, Migration
from lambda_migrate.postgresql.dry_run_effects import AdvancedSequence
from lambda_migrate.postgresql.ports import LeaseGrant

from .dry_runs import ORDERS, SHOP, change, fingerprint, open_dry_run
from .empty_database import EmptyDatabase, Running, migration, soon, until


def test_an_unavailable_lock_is_reported_after_lock_timeout(shop: EmptyDatabase) -> None:
    with shop.connect() as other:
        other.run("BEGIN; LOCK TABLE orders")
        with open_dry_run(shop) as dry_run:
            with pytest.raises(MigrationFailed) as failed:
                dry_run.run_migration(migration("ALTER TABLE orders ADD COLUMN x int"), soon())
            dry_run.run_migration(migration("ALTER TABLE customers ADD COLUMN x int", 2), soon())
    assert failed.value.sqlstate == "55P03"


def test_a_table_that_others_have_locked_does_not_prevent_its_start(shop: EmptyDatabase) -> None:
    with shop.connect() as other:
        other.run("BEGIN; LOCK TABLE orders")
        with open_dry_run(shop) as dry_run:
            measured = dry_run.run_migration(migration("UPDATE customers SET name = 'x'"), soon())
    assert change(measured, "public.customers").updated == 10


def test_a_sequence_that_others_have_locked_does_not_prevent_its_start(shop: EmptyDatabase) -> None:
    with shop.connect() as other:
        other.run("BEGIN; ALTER SEQUENCE orders_id_seq INCREMENT 2")
        with open_dry_run(shop) as dry_run:
            dry_run.run_migration(migration("UPDATE customers SET name = 'x'"), soon())
            assert dry_run.roll_back() == ()


def test_what_is_not_done_by_the_deadline_is_cancelled(each_db: EmptyDatabase) -> None:
    with open_dry_run(each_db) as dry_run, pytest.raises(MigrationFailed, match="deadline"):
        dry_run.run_migration(migration("SELECT pg_sleep(60)"), soon(0.5))


def test_a_holder_inside_its_transaction_is_not_terminated(shop: EmptyDatabase) -> None:
    shop.apply()
    with shop.connect() as other:
        other.run("BEGIN; SELECT FROM lambda_migrate.fence FOR UPDATE")
        with pytest.raises(LeaseHeld):
            shop.database().begin_dry_run(LeaseGrant("shop", 2, "me"), soon())
        other.run("COMMIT")


def test_a_first_run_that_may_not_create_our_schema_is_refused_as_by_up(db: EmptyDatabase) -> None:
    db.execute(
        "DROP ROLE IF EXISTS role_without_grants;"
        " CREATE ROLE role_without_grants LOGIN PASSWORD 'x'"
    )
    unprivileged = replace(db, address=db.address.replace(user="role_without_grants", password="x"))
    try:
        with pytest.raises(ConfigurationError, match="refused to prepare"):
            unprivileged.database().begin_dry_run(LeaseGrant("shop", 1, "me"), soon())
    finally:
        db.execute("DROP ROLE role_without_grants")


# --- from the lease to the rollback


def run_dry_run(db: EmptyDatabase, *migrations: Migration) -> DryRunResult:
    target = Target("shop", InMemoryLeaseStore(), db.database())
    found = Operations(Manifest(migrations), target).dry_run(soon())
    assert found is not None
    assert target.store.read().owner is None
    return found


def outcomes(found: DryRunResult) -> list[str]:
    return [step.outcome for step in found.steps]


def test_a_dry_run_is_confirmed_by_postgresql_and_leaves_no_connection(
    each_db: EmptyDatabase,
) -> None:
    each_db.execute(SHOP)
    before = fingerprint(each_db)
    found = run_dry_run(
        each_db,
        migration("ALTER TABLE orders ADD COLUMN status text"),
        migration("UPDATE orders SET status = 'old'", 2),
    )
    assert (found.outcome, found.is_rollback_confirmed, found.error) == ("passed", True, None)
    assert found.dead_rows == {ORDERS: 1000}
    assert fingerprint(each_db) == before
    until(lambda: not each_db.holders())


def test_a_role_that_owns_only_what_it_migrates_can_dry_run(db: EmptyDatabase) -> None:
    db.execute(
        "DROP ROLE IF EXISTS migrator; CREATE ROLE migrator LOGIN PASSWORD 'x';"
        f" GRANT CREATE ON DATABASE {db.address.database} TO migrator; CREATE SEQUENCE others;"
        " CREATE TABLE secrets (id int); CREATE SCHEMA own AUTHORIZATION migrator;"
        " SET ROLE migrator; CREATE TABLE own.t (id bigserial)"
    )
    own = replace(db, address=db.address.replace(user="migrator", password="x"))
    try:
        script = "ALTER TABLE own.t ADD COLUMN x int; INSERT INTO own.t (x) VALUES (1)"
        found = run_dry_run(own, migration(script))
        assert (found.outcome, found.is_rollback_confirmed) == ("passed", True)
        assert found.sequences == (AdvancedSequence("own.t_id_seq", None, 1),)
    finally:
        db.execute("DROP OWNED BY migrator CASCADE; DROP ROLE migrator")


def test_an_enum_value_added_by_an_earlier_migration_cannot_be_used_yet_without_a_failure(
    each_db: EmptyDatabase,
) -> None:
    each_db.execute("CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE moods (m mood)")
    adds = migration("ALTER TYPE mood ADD VALUE 'happy'")
    uses = migration("INSERT INTO moods VALUES ('happy')", 2)
    found = run_dry_run(each_db, adds, uses)
    assert (outcomes(found), found.outcome) == (["ran", "skipped"], "incomplete")
    assert "after that one is committed" in found.steps[1].reason
    each_db.apply(adds, uses)


def test_an_enum_value_added_by_the_same_migration_fails_as_for_up(db: EmptyDatabase) -> None:
    db.execute("CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE moods (m mood)")
    both = migration("ALTER TYPE mood ADD VALUE 'happy'; INSERT INTO moods VALUES ('happy')")
    found = run_dry_run(db, both)
    assert (outcomes(found), found.outcome) == (["failed"], "failed")
    with pytest.raises(MigrationFailed):
        db.apply(both)


def test_a_failure_caused_by_a_skipped_index_is_reported_as_such(each_db: EmptyDatabase) -> None:
    each_db.execute(SHOP)
    builds = migration(
        "CREATE UNIQUE INDEX CONCURRENTLY orders_total ON orders (total)", non_transactional=True
    )
    uses = migration("ALTER TABLE orders ADD UNIQUE USING INDEX orders_total", 2)
    upserts = migration("INSERT INTO orders (total) VALUES (1) ON CONFLICT (total) DO NOTHING", 3)
    found = run_dry_run(each_db, builds, uses, upserts)
    assert outcomes(found) == ["skipped"] * 3
    assert [step.reason.partition(":")[0] for step in found.steps] == [
        "not run, because what runs outside a transaction cannot be rolled back",
        "it needs what 0001_m creates, which the dry run skipped",
        "it needs what 0001_m creates, which the dry run skipped",
    ]
    assert found.outcome == "incomplete"
    each_db.apply(builds, uses, upserts)


def test_a_lock_that_is_released_meanwhile_is_requested_again(shop: EmptyDatabase) -> None:
    with shop.connect() as other:
        other.run("BEGIN; LOCK TABLE orders")
        running = Running(
            lambda: run_dry_run(shop, migration("ALTER TABLE orders ADD COLUMN x int"))
        )
        until(lambda: shop.is_running("ALTER TABLE orders"))
        until(lambda: not shop.is_running("ALTER TABLE orders"))
        other.run("COMMIT")
        found = running.outcome()
    assert isinstance(found, DryRunResult)
    assert found.outcome == "passed"
    assert "0001_m: canceling statement due to lock timeout [55P03]" in found.retry_causes


def test_a_lock_that_is_never_released_ends_the_dry_run_soon(shop: EmptyDatabase) -> None:
    with shop.connect() as other:
        other.run("BEGIN; LOCK TABLE orders")
        found = run_dry_run(shop, migration("ALTER TABLE orders ADD COLUMN x int"))
    assert (found.outcome, len(found.retry_causes)) == ("failed", 4)
    assert isinstance(found.error, MigrationFailed)
    assert found.error.sqlstate == "55P03"
