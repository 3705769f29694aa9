"""Each migration of a dry run has the session state that its own transaction would have."""

from __future__ import annotations

import pytest

from lambda_migrate.errors import (
    MigrationFailed,
)

from .dry_runs import open_dry_run, run_in_dry_run
from .empty_database import EmptyDatabase, migration, soon


def test_nothing_of_a_session_reaches_the_next_migration(db: EmptyDatabase) -> None:
    with open_dry_run(db) as dry_run:
        dry_run.run_migration(
            migration(
                "CREATE SCHEMA s; CREATE TABLE s.t (); SET search_path = s; SET ROLE pg_monitor;"
                " SET LOCAL work_mem = '1MB'; CREATE TEMP TABLE scratch (); PREPARE p AS SELECT 1;"
                " DECLARE c CURSOR FOR SELECT 1; LISTEN x; SELECT pg_advisory_lock(1)"
            ),
            soon(),
        )
        for version, refused in enumerate(
            ("SELECT FROM t", "SELECT FROM scratch", "EXECUTE p", "FETCH c"), 2
        ):
            with pytest.raises(MigrationFailed):
                dry_run.run_migration(migration(refused, version), soon())
        dry_run.run_migration(
            migration(
                "DO $$BEGIN ASSERT current_user = session_user; ASSERT NOT EXISTS ("
                " SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
                " AND classid = 0 AND objid = 1); END$$; SELECT FROM s.t",
                9,
            ),
            soon(),
        )


DEFERRED = """
    CREATE TABLE parents (id int PRIMARY KEY);
    CREATE TABLE children (
        parent int CONSTRAINT kin REFERENCES parents DEFERRABLE INITIALLY DEFERRED)
"""


def test_deferred_constraints_are_checked_as_by_a_commit(each_db: EmptyDatabase) -> None:
    each_db.execute(DEFERRED)
    orphan = migration("INSERT INTO children VALUES (1)")
    with open_dry_run(each_db) as dry_run, pytest.raises(MigrationFailed) as reported:
        dry_run.run_migration(orphan, soon())
    with pytest.raises(MigrationFailed) as applied:
        each_db.apply(orphan)
    assert reported.value.sqlstate == "23503"
    assert str(reported.value) == str(applied.value)


def test_what_begins_deferred_is_deferred_again_for_each_migration(db: EmptyDatabase) -> None:
    db.execute(DEFERRED)
    run_in_dry_run(
        db,
        "INSERT INTO children VALUES (1); INSERT INTO parents VALUES (1)",
        "INSERT INTO children VALUES (2); INSERT INTO parents VALUES (2)",
        "CREATE TABLE pets (owner int REFERENCES parents DEFERRABLE INITIALLY DEFERRED);"
        " INSERT INTO pets VALUES (3); INSERT INTO parents VALUES (3)",
        "ALTER TABLE children ADD COLUMN x int",
    )


def test_what_does_not_begin_deferred_is_checked_at_once(db: EmptyDatabase) -> None:
    db.execute(DEFERRED.replace("INITIALLY DEFERRED", "INITIALLY IMMEDIATE"))
    with open_dry_run(db) as dry_run:
        dry_run.run_migration(migration("SELECT 1"), soon())
        with pytest.raises(MigrationFailed) as failed:
            dry_run.run_migration(
                migration("INSERT INTO children VALUES (1); INSERT INTO parents VALUES (1)", 2),
                soon(),
            )
    assert failed.value.sqlstate == "23503"


def test_an_error_has_file_line_and_caret(db: EmptyDatabase) -> None:
    with open_dry_run(db) as dry_run, pytest.raises(MigrationFailed) as failed:
        dry_run.run_migration(migration("SELECT 1;\nSELECT nothing", line=3), soon())
    assert "migrations/0001_m.sql:4:8\n  4 | SELECT nothing\n             ^" in str(failed.value)
