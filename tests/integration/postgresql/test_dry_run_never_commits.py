"""PostgreSQL commits nothing of a dry run, whatever a script tries."""

from __future__ import annotations

import pytest

from lambda_migrate.errors import (
    DatabaseUnavailable,
    MigrationFailed,
    RepairRequired,
)
from lambda_migrate.postgresql.dry_run_effects import AdvancedSequence
from lambda_migrate.postgresql.dry_run_queries import _SAVEPOINT

from .dry_runs import ORDERS, fingerprint, open_dry_run
from .empty_database import EmptyDatabase, Running, migration, soon, until


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts are sent that should have been refused: as if reading them had failed."""
    monkeypatch.setattr(
        "lambda_migrate.postgresql.dry_run.require_runnable_migration",
        lambda _migration, _values: None,
    )


ESCAPES = [
    "CREATE TABLE leak (); COMMIT",
    "CREATE TABLE leak (); COMMIT AND CHAIN; CREATE TABLE leak2 ()",
    "CREATE TABLE leak (); COMMIT; BEGIN; CREATE TABLE leak2 ()",
    "CREATE TABLE leak (); END; CREATE TABLE leak2 ()",
    "CREATE TABLE leak (); PREPARE TRANSACTION 'gone'",
    "CREATE TABLE leak (); ROLLBACK; CREATE TABLE leak2 ()",
    "ROLLBACK; CREATE TABLE leak (); INSERT INTO orders (id) VALUES (5000)",
    "CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN CREATE TABLE leak (); COMMIT; END'; CALL p()",
    "DO $$BEGIN CREATE TABLE leak (); COMMIT; END$$",
]


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("script", ESCAPES)
def test_postgresql_itself_commits_nothing_of_a_script_that_was_misread(
    shop: EmptyDatabase, script: str
) -> None:
    before = fingerprint(shop)
    with open_dry_run(shop) as dry_run:
        dry_run.run_migration(
            migration("UPDATE orders SET total = 0; CREATE TABLE earlier ()"), soon()
        )
        with pytest.raises(MigrationFailed):
            dry_run.run_migration(migration(script, 2), soon())
        dry_run.roll_back()
        assert fingerprint(shop) == before
    assert fingerprint(shop) == before
    assert shop.column("SELECT count(*) FROM pg_prepared_xacts") == [0]


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("script", [ESCAPES[0], ESCAPES[4], ESCAPES[5]])
def test_no_version_commits_anything_of_a_misread_script(
    each_db: EmptyDatabase, script: str
) -> None:
    with open_dry_run(each_db) as dry_run:
        with pytest.raises(MigrationFailed, match="COMMIT or ROLLBACK"):
            dry_run.run_migration(migration(script), soon())
        dry_run.roll_back()
    assert (each_db.has("leak"), each_db.has("leak2")) == (False, False)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE leak (); CLOSE ALL; COMMIT",
        "ROLLBACK AND CHAIN; CREATE TABLE leak (); COMMIT",
        "ROLLBACK; BEGIN READ WRITE; CREATE TABLE leak (); COMMIT; BEGIN; SAVEPOINT x",
    ],
)
def test_a_commit_that_passes_every_check_is_reported(shop: EmptyDatabase, script: str) -> None:
    with open_dry_run(shop) as dry_run, pytest.raises(RepairRequired, match="may be committed"):
        dry_run.run_migration(migration(script), soon())


@pytest.mark.usefixtures("unread")
def test_what_was_committed_is_not_reported_as_rolled_back(shop: EmptyDatabase) -> None:
    with open_dry_run(shop) as dry_run:
        with pytest.raises(RepairRequired):
            dry_run.run_migration(migration("CREATE TABLE leak (); CLOSE ALL; COMMIT"), soon())
        with pytest.raises(RepairRequired, match="is committed"):
            dry_run.roll_back()


@pytest.mark.usefixtures("unread")
def test_a_transaction_begun_in_place_of_ours_is_detected(shop: EmptyDatabase) -> None:
    with open_dry_run(shop) as dry_run:
        with pytest.raises(MigrationFailed, match="COMMIT or ROLLBACK"):
            dry_run.run_migration(migration(f"ROLLBACK; BEGIN; SAVEPOINT {_SAVEPOINT}"), soon())
        dry_run.roll_back()
    assert not shop.has("leak")


def test_a_backend_that_dies_in_the_middle_leaves_nothing(shop: EmptyDatabase) -> None:
    before = fingerprint(shop)
    with open_dry_run(shop) as dry_run:
        dry_run.run_migration(migration("CREATE TABLE leak ()"), soon())
        slow = migration("UPDATE orders SET total = 0; SELECT pg_sleep(60)", 2)
        running = Running(lambda: dry_run.run_migration(slow, soon()))
        until(lambda: shop.is_running("pg_sleep(60)"))
        shop.terminate(shop.holders()[0])
        assert isinstance(running.outcome(), DatabaseUnavailable)
    assert fingerprint(shop) == before


def test_the_outcome_of_a_broken_transaction_is_read_over_another_connection(
    shop: EmptyDatabase,
) -> None:
    with open_dry_run(shop) as dry_run:
        dry_run.run_migration(migration("INSERT INTO orders (total) VALUES (1)"), soon())
        (pid,) = shop.holders()
        shop.execute(f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(DatabaseUnavailable):
            dry_run.run_migration(migration("SELECT 1", 2), soon())
        assert dry_run.roll_back() == (AdvancedSequence(f"{ORDERS}_id_seq", 1000, 1001),)
    assert shop.column("SELECT count(*) FROM orders") == [1000]


def test_a_vanished_client_leaves_nothing_and_blocks_no_session(shop: EmptyDatabase) -> None:
    with open_dry_run(shop) as dry_run:
        dry_run.run_migration(migration("TRUNCATE orders"), soon())
        dry_run.abort()
        until(lambda: not shop.holders())
        assert shop.column("SELECT count(*) FROM orders") == [1000]
