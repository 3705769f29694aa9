"""The history table: what its rows record, and rollbacks by its stored scripts."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable, MigrationFailed
from lambda_migrate.migrations import Script
from lambda_migrate.postgresql.connection import connect
from lambda_migrate.postgresql.ports import LeaseGrant

from .bench import Bench, migration, soon


def test_the_down_script_is_stored_unchanged(each_bench: Bench) -> None:
    down = "-- why\nDROP TABLE t; -- größe '\\' $1\n"
    each_bench.apply(migration("CREATE TABLE t ()", down=down), migration("SELECT 1", 2))
    first, second = each_bench.history()
    assert first.down == Script(down, 7, transactional=True)
    assert second.down is None


def test_a_row_has_owner_time_and_duration(bench: Bench) -> None:
    with bench.holder(3, "o'wner\\", grant={"request_id": "r-1"}) as session:
        took = session.apply(migration("SELECT pg_sleep(0.02)"), "d", soon())
    (row,) = bench.history()
    assert (row.fence, row.owner, row.duration_ms, row.baseline) == (3, "o'wner\\", took, False)
    assert took >= 20
    assert row.applied_at is not None
    for moment in (row.started_at, row.applied_at):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moment)
    assert row.started_at <= row.applied_at
    assert bench.column("SELECT request_id FROM lambda_migrate.history") == ["r-1"]


def test_times_are_utc_whatever_the_sessions_time_zone(bench: Bench) -> None:
    bench.apply(migration("SELECT 1"))
    (before,) = bench.history()
    bench.execute(f"ALTER DATABASE {bench.address.database} SET timezone = 'Asia/Tokyo'")
    assert bench.history() == [before]


def test_rows_come_in_the_order_of_versions(bench: Bench) -> None:
    versions = [10, 9, 20240101123000]
    bench.apply(*(migration("SELECT 1", version) for version in versions))
    assert bench.versions() == sorted(versions)


@pytest.mark.parametrize("down_non_transactional", [False, True])
def test_a_migration_is_rolled_back_by_its_stored_script(
    each_bench: Bench, down_non_transactional: bool
) -> None:
    down = "DROP INDEX CONCURRENTLY i" if down_non_transactional else "DROP INDEX i"
    each_bench.execute("CREATE TABLE t (x int)")
    each_bench.apply(
        migration(
            "CREATE INDEX i ON t (x)", down=down, down_non_transactional=down_non_transactional
        )
    )
    (row,) = each_bench.history()
    with each_bench.holder(2) as session:
        assert session.roll_back(row, soon()) >= 0
    assert (each_bench.has("i"), each_bench.versions()) == (False, [])


def test_a_migration_without_a_down_script_is_not_rolled_back(bench: Bench) -> None:
    bench.apply(migration("SELECT 1"))
    with bench.holder(2) as session, pytest.raises(MigrationFailed, match="without a down script"):
        session.roll_back(session.read_history()[0], soon())
    assert bench.versions() == [1]


@pytest.mark.parametrize("down_non_transactional", [False, True])
def test_a_failing_down_script_changes_nothing(bench: Bench, down_non_transactional: bool) -> None:
    down = "DROP INDEX CONCURRENTLY nothing" if down_non_transactional else "DROP INDEX nothing"
    bench.apply(migration("SELECT 1", down=down, down_non_transactional=down_non_transactional))
    missing = 'index "?nothing"? does not exist'
    with bench.holder(2) as session, pytest.raises(MigrationFailed, match=missing):
        session.roll_back(session.read_history()[0], soon())
    assert bench.states() == {1: "applied"}


def test_a_down_script_may_not_control_its_transaction(bench: Bench) -> None:
    bench.apply(migration("SELECT 1", down="SELECT 1;\nCOMMIT"))
    with (
        bench.holder(2) as session,
        pytest.raises(MigrationFailed, match=r"down script\):8: COMMIT"),
    ):
        session.roll_back(session.read_history()[0], soon())
    assert bench.versions() == [1]


def test_recording_runs_nothing(bench: Bench) -> None:
    one, two = migration("CREATE TABLE t ()", down="DROP TABLE t"), migration("SELECT 1", 2)
    with bench.holder() as session:
        session.record_applied([(one, "d1"), (two, "d2")], baseline=True)
        session.record_applied([], baseline=True)
    assert [(row.version, row.digest, row.baseline) for row in bench.history()] == [
        (1, "d1", True),
        (2, "d2", True),
    ]
    assert not bench.has("t")


def test_recording_updates_an_existing_row(bench: Bench) -> None:
    bench.apply(migration("SELECT 1"))
    (before,) = bench.history()
    edited = migration("SELECT 2", down="SELECT 3")
    with bench.holder(2) as session:
        session.record_applied([(edited, "new")], baseline=False)
    (row,) = bench.history()
    assert (row.checksum, row.digest, row.down) == (edited.checksum, "new", edited.down)
    assert (row.applied_at, row.baseline) == (before.applied_at, False)


def test_forgetting_removes_rows_and_nothing_else(bench: Bench) -> None:
    bench.apply(migration("CREATE TABLE t ()"), migration("SELECT 1", 2))
    with bench.holder(2) as session:
        session.delete_rows([1, 5])
        session.delete_rows([])
    assert bench.versions() == [2]
    assert bench.has("t")


def test_a_failed_write_of_ours_leaves_no_transaction_open(bench: Bench) -> None:
    with bench.holder() as session:
        bench.execute("ALTER TABLE lambda_migrate.history ADD CONSTRAINT c CHECK (version <> '1')")
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
    bench: Bench, change: dict[str, Any], error: type[Exception]
) -> None:
    address = bench.address.replace(**change)
    database = bench.database(
        connect=lambda name, s: connect(address, application_name=name, timeout=s)
    )
    with pytest.raises(error):
        database.read_history(soon(0.3))
    with pytest.raises(error):
        database.open_session(LeaseGrant("shop", 1, "me"), soon(0.3))
