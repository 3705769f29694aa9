"""Databases that only a real PostgreSQL has: copies, restores, several schemas and addresses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lambda_migrate.engine.operations import Operations
from lambda_migrate.engine.target import Policy, Target
from lambda_migrate.errors import NotReady
from lambda_migrate.migrations import Manifest, Script
from lambda_migrate.outcome import Outcome
from lambda_migrate.postgresql.database import PostgreSQLDatabase
from lambda_migrate.postgresql.ports import Database
from lambda_migrate.runner import MigrationRunner
from lambda_migrate.testing import InMemoryLeaseStore
from tests.contract.databases import FIRST, SECOND, PostgreSQLUnderTest, grant, soon


def test_reading_the_history_creates_nothing(fresh_database: PostgreSQLUnderTest) -> None:
    before = fresh_database.tables()
    assert fresh_database.database.read_history(soon()) == []
    assert fresh_database.tables() == before


def test_each_function_can_have_its_own_schema(fresh_database: PostgreSQLUnderTest) -> None:
    database = fresh_database.database
    other = PostgreSQLDatabase(database.address_text, database.connect, schema='my "other" schema')
    with database.open_session(grant(5), soon()) as session:
        session.apply(FIRST, "digest", soon())
    with other.open_session(grant(6), soon()) as session:
        assert session.read_history() == []


def test_a_dry_run_of_the_first_run_creates_nothing(fresh_database: PostgreSQLUnderTest) -> None:
    before = fresh_database.tables()
    with fresh_database.database.begin_dry_run(grant(1), soon()) as dry_run:
        dry_run.run_migration(FIRST, soon())
        dry_run.roll_back()
    assert fresh_database.database.inspect(soon()).fence is None
    assert fresh_database.tables() == before


# --- identities


ONE, TWO = Manifest([FIRST]), Manifest([FIRST, SECOND])


def cold_start(
    database: Database, store: InMemoryLeaseStore, files: Manifest, mode: str = "migrate"
) -> Outcome:
    target = Target("orders", store, database, policy=Policy(mode=mode, wait_seconds=0.2))
    return MigrationRunner(files, target).ensure(soon())


def find_identity(database: Database) -> str:
    fence = database.inspect(soon()).fence
    assert fence is not None
    return fence.identity


def test_a_copy_by_template_gets_its_own_identity(fresh_database: PostgreSQLUnderTest) -> None:
    store, database = InMemoryLeaseStore(), fresh_database.database
    cold_start(database, store, ONE)
    identity = find_identity(database)
    with fresh_database.copied() as copy:
        found = copy.inspect(soon()).fence
        assert found is not None
        assert (found.identity, found.is_database_copy) == (identity, True)
        assert cold_start(copy, store, ONE) is Outcome.MIGRATED
        assert find_identity(copy) != identity
        assert cold_start(copy, store, ONE) is Outcome.UP_TO_DATE
        Operations(ONE, Target("orders", store, copy)).down(soon(), to=0)
        assert find_identity(database) == identity
        assert cold_start(database, store, ONE) is Outcome.UP_TO_DATE, "nothing was taken from it"


def test_a_copy_is_not_served_in_require_mode(
    fresh_database: PostgreSQLUnderTest,
) -> None:
    store = InMemoryLeaseStore()
    cold_start(fresh_database.database, store, ONE)
    with fresh_database.copied() as copy, pytest.raises(NotReady):
        cold_start(copy, store, ONE, "require")


def test_two_addresses_of_one_database_do_not_invalidate_each_other(
    fresh_database: PostgreSQLUnderTest,
) -> None:
    store, database = InMemoryLeaseStore(), fresh_database.database
    tunnel = PostgreSQLDatabase("localhost:15432/orders", database.connect)
    cold_start(database, store, ONE)
    Operations(ONE, Target("orders", store, tunnel)).up(soon())
    assert cold_start(database, store, ONE, "require") is Outcome.UP_TO_DATE
    Operations(TWO, Target("orders", store, tunnel)).up(soon())
    assert cold_start(database, store, TWO, "require") is Outcome.UP_TO_DATE
    assert fresh_database.effects() == ["0001_a", "0002_b"]
    assert len(store.state.databases) == 1


def test_two_schemas_of_one_database_with_one_target_are_independent(
    fresh_database: PostgreSQLUnderTest,
) -> None:
    store, database = InMemoryLeaseStore(), fresh_database.database
    other = PostgreSQLDatabase(database.address_text, database.connect, schema="other")
    theirs = Manifest(
        [replace(FIRST, checksum="theirs", up=Script("SELECT 1"), down=Script("SELECT 1"))]
    )
    cold_start(database, store, TWO)
    assert cold_start(other, store, theirs) is Outcome.MIGRATED
    assert len(store.state.databases) == 2
    assert not store.state.is_ready(TWO.digest, other.address_text)
    assert not store.state.is_ready(theirs.digest, database.address_text)
    Operations(theirs, Target("orders", store, other)).down(soon(), to=0)
    cold_start(database, store, TWO)
    assert cold_start(database, store, TWO, "require") is Outcome.UP_TO_DATE
    assert fresh_database.effects() == ["0001_a", "0002_b"]


def test_a_restore_in_place_is_detected(fresh_database: PostgreSQLUnderTest) -> None:
    store, database = InMemoryLeaseStore(), fresh_database.database
    cold_start(database, store, ONE)
    fence = fresh_database.run("SELECT token, owner FROM lambda_migrate.fence")
    cold_start(database, store, TWO)
    identity = find_identity(database)
    fresh_database.run(
        "DELETE FROM lambda_migrate.history WHERE version = '2';"
        " DELETE FROM effects WHERE name = '0002_b';"
        f" UPDATE lambda_migrate.fence SET token = {fence[0][0]}, owner = '{fence[0][1]}'"
    )
    tunnel = PostgreSQLDatabase("localhost:15432/orders", database.connect)
    with pytest.raises(NotReady):
        cold_start(tunnel, store, ONE, "require")
    Operations(ONE, Target("orders", store, database)).verify(soon(), resync=True)
    assert find_identity(database) != identity
    assert not store.state.is_ready(TWO.digest, database.address_text)
    assert cold_start(database, store, TWO) is Outcome.MIGRATED
    assert fresh_database.effects() == ["0001_a", "0002_b"]
