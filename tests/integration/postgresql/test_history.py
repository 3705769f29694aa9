"""The history table: what its rows record, and rollbacks by its stored scripts."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable, MigrationFailed
from lambda_migrate.migrations import Script
from lambda_migrate.postgresql.connection import connect
from lambda_migrate.postgresql.ports import LeaseGrant

from .empty_database import EmptyDatabase, migration, soon


def test_the_down_script_is_stored_unchanged(each_db: EmptyDatabase) -> None:
    down = "-- why\nDROP TABLE t; -- größe '\\' $1\n"
    each_db.apply(migration("CREATE TABLE t ()", down=down), migration("SELECT 1", 2))
    first, second = each_db.history()
    assert first.down == Script(down, 7, transactional=True)
    assert second.down is None


def test_a_row_has_owner_time_and_duration(db: EmptyDatabase) -> None:
    with db.holder(3, "o'wner\\", grant={"request_id": "r-1"}) as session:
        took = session.apply(migration("SELECT pg_sleep(0.02)"), "d", soon())
    (row,) = db.history()
    assert (row.fence, row.owner, row.duration_ms, row.baseline) == (3, "o'wner\\", took, False)
    assert took >= 20
    assert row.applied_at is not None
    for moment in (row.started_at, row.applied_at):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moment)
    assert row.started_at <= row.applied_at
    assert db.column("SELECT request_id FROM lambda_migrate.history") == ["r-1"]


def test_times_are_utc_whatever_the_sessions_time_zone(db: EmptyDatabase) -> None:
    db.apply(migration("SELECT 1"))
    (before,) = db.history()
    db.execute(f"ALTER DATABASE {db.address.database} SET timezone = 'Asia/Tokyo'")
    assert db.history() == [before]


def test_rows_come_in_the_order_of_versions(db: EmptyDatabase) -> None:
    versions = [10, 9, 20240101123000]
    db.apply(*(migration("SELECT 1", version) for version in versions))
    assert db.versions() == sorted(versions)


@pytest.mark.parametrize("down_non_transactional", [False, True])
def test_a_migration_is_rolled_back_by_its_stored_script(
    each_db: EmptyDatabase, down_non_transactional: bool
) -> None:
    down = "DROP INDEX CONCURRENTLY i" if down_non_transactional else "DROP INDEX i"
    each_db.execute("CREATE TABLE t (x int)")
    each_db.apply(
        migration(
            "CREATE INDEX i ON t (x)", down=down, down_non_transactional=down_non_transactional
        )
    )
    (row,) = each_db.history()
    with each_db.holder(2) as session:
        assert session.roll_back(row, soon()) >= 0
    assert (each_db.has("i"), each_db.versions()) == (False, [])


def test_a_migration_without_a_down_script_is_not_rolled_back(db: EmptyDatabase) -> None:
    db.apply(migration("SELECT 1"))
    with db.holder(2) as session, pytest.raises(MigrationFailed, match="without a down script"):
        session.roll_back(session.read_history()[0], soon())
    assert db.versions() == [1]


@pytest.mark.parametrize("down_non_transactional", [False, True])
def test_a_failing_down_script_changes_nothing(
    db: EmptyDatabase, down_non_transactional: bool
) -> None:
    down = "DROP INDEX CONCURRENTLY nothing" if down_non_transactional else "DROP INDEX nothing"
    db.apply(migration("SELECT 1", down=down, down_non_transactional=down_non_transactional))
    missing = 'index "?nothing"? does not exist'
    with db.holder(2) as session, pytest.raises(MigrationFailed, match=missing):
        session.roll_back(session.read_history()[0], soon())
    assert db.states() == {1: "applied"}


def test_a_down_script_may_not_control_its_transaction(db: EmptyDatabase) -> None:
    db.apply(migration("SELECT 1", down="SELECT 1;\nCOMMIT"))
    with (
        db.holder(2) as session,
        pytest.raises(MigrationFailed, match=r"down script\):8: COMMIT"),
    ):
        session.roll_back(session.read_history()[0], soon())
    assert db.versions() == [1]


def test_recording_runs_nothing(db: EmptyDatabase) -> None:
    one, two = migration("CREATE TABLE t ()", down="DROP TABLE t"), migration("SELECT 1", 2)
    with db.holder() as session:
        session.record_applied([(one, "d1"), (two, "d2")], baseline=True)
        session.record_applied([], baseline=True)
    assert [(row.version, row.digest, row.baseline) for row in db.history()] == [
        (1, "d1", True),
        (2, "d2", True),
    ]
    assert not db.has("t")


def test_recording_updates_an_existing_row(db: EmptyDatabase) -> None:
    db.apply(migration("SELECT 1"))
    (before,) = db.history()
    edited = migration("SELECT 2", down="SELECT 3")
    with db.holder(2) as session:
        session.record_applied([(edited, "new")], baseline=False)
    (row,) = db.history()
    assert (row.checksum, row.digest, row.down) == (edited.checksum, "new", edited.down)
    assert (row.applied_at, row.baseline) == (before.applied_at, False)


def test_forgetting_only_removes_rows(db: EmptyDatabase) -> None:
    db.apply(migration("CREATE TABLE t ()"), migration("SELECT 1", 2))
    with db.holder(2) as session:
        session.delete_rows([1, 5])
        session.delete_rows([])
    assert db.versions() == [2]
    assert db.has("t")


def test_a_failed_write_of_ours_leaves_no_transaction_open(db: EmptyDatabase) -> None:
    with db.holder() as session:
        db.execute("ALTER TABLE lambda_migrate.history ADD CONSTRAINT c CHECK (version <> '1')")
        with pytest.raises(MigrationFailed, match="tables could not be used"):
            session.record_applied([(migration("SELECT 1"), "d")], baseline=True)
        session.apply(migration("SELECT 1", 2), "d", soon())
        assert [row.version for row in session.read_history()] == [2]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"database": "no_such_database"}, ConfigurationError),
        ({"socket_dir": "/nonexistent", "host": ""}, DatabaseUnavailable),
    ],
)
def test_an_unreachable_server_is_not_ready_and_a_missing_database_is_a_setting(
    db: EmptyDatabase, change: dict[str, Any], error: type[Exception]
) -> None:
    address = db.address.replace(**change)
    database = db.database(
        connect=lambda name, s: connect(address, application_name=name, timeout=s)
    )
    with pytest.raises(error):
        database.read_history(soon(0.3))
    with pytest.raises(error):
        database.open_session(LeaseGrant("shop", 1, "me"), soon(0.3))
