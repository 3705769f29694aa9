"""The library's schema is created once, by a role that may, for one environment and layout."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

import pytest

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.postgresql.connection import connect
from lambda_migrate.postgresql.ports import LeaseGrant, StaleFencingToken

from .empty_database import EmptyDatabase, Running, migration, soon, until


def test_twenty_concurrent_first_runs_create_one_schema_without_an_error(
    each_db: EmptyDatabase,
) -> None:
    barrier = threading.Barrier(20)

    def start(fence: int) -> str:
        barrier.wait()
        grant = LeaseGrant(target="shop", fence=fence, owner=f"o{fence}")
        try:
            session = each_db.database().open_session(grant, soon())
        except StaleFencingToken:
            return "stale"
        session.close()
        return "lease held"

    outcomes = [runner.outcome() for runner in [Running(partial(start, n)) for n in range(1, 21)]]
    assert set(outcomes) <= {"stale", "lease held"}
    assert "lease held" in outcomes
    assert each_db.column("SELECT token FROM lambda_migrate.fence") == [20]
    assert each_db.column(
        "SELECT relname FROM pg_class WHERE relnamespace = 'lambda_migrate'::regnamespace"
        " AND relkind = 'r' ORDER BY 1"
    ) == ["fence", "history"]


@pytest.mark.parametrize(
    "schema", ["Ours", 'a"b', "it's", "größe-schema ✓", "user", "back\\slash", "x" * 63]
)
def test_a_schema_may_have_any_name(db: EmptyDatabase, schema: str) -> None:
    with db.holder(schema=schema) as session:
        session.apply(migration("CREATE TABLE t ()"), "d", soon())
        with_row = session.read_history()
    assert [row.version for row in with_row] == [1]
    assert [row.version for row in db.database(schema=schema).read_history(soon())] == [1]
    assert schema in db.column("SELECT nspname FROM pg_namespace")


def _make_connect_as(db: EmptyDatabase, role: str) -> dict[str, Any]:
    address = db.address.replace(user=role)
    return {"connect": lambda name, s: connect(address, application_name=name, timeout=s)}


@pytest.fixture
def role(db: EmptyDatabase) -> str:
    name = f"poor_{db.address.database}"
    db.execute(f"CREATE ROLE {name} LOGIN")
    return name


def test_a_role_that_owns_the_schema_needs_no_right_on_the_database(
    db: EmptyDatabase, role: str
) -> None:
    db.execute(f"CREATE SCHEMA lambda_migrate AUTHORIZATION {role}")
    db.apply(migration("SELECT 1"), **_make_connect_as(db, role))
    assert db.versions() == [1]
    db.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_role_without_privileges_gets_an_error_that_names_the_missing_grant(
    db: EmptyDatabase, role: str
) -> None:
    with (
        pytest.raises(ConfigurationError, match="GRANT it CREATE on the database"),
        db.holder(**_make_connect_as(db, role)),
    ):
        pass
    assert not db.has("lambda_migrate.fence")
    db.execute(f"DROP ROLE {role}")


def test_a_role_that_may_not_read_the_history_gets_an_error(db: EmptyDatabase, role: str) -> None:
    db.apply()
    with pytest.raises(ConfigurationError, match="permission denied"):
        db.database(**_make_connect_as(db, role)).read_history(soon())
    db.execute(f"DROP ROLE {role}")


_DEFAULTS = {
    "default_transaction_isolation": "'serializable'",
    "default_transaction_deferrable": "on",
    "statement_timeout": "'250ms'",
    "lock_timeout": "'1ms'",
    "idle_in_transaction_session_timeout": "'1ms'",
    "idle_session_timeout": "'250ms'",
    "transaction_timeout": "'250ms'",
    "synchronous_commit": "off",
}


def test_defaults_of_the_database_do_not_affect_our_statements(each_db: EmptyDatabase) -> None:
    """In a transaction, outside of one, and between two: each statement here outlasts a default."""
    db = each_db
    known = set(db.column("SELECT name FROM pg_settings"))
    for name, value in _DEFAULTS.items():
        if name in known:
            db.execute(f"ALTER DATABASE {db.address.database} SET {name} = {value}")
    slow = "SELECT pg_sleep(0.4)"
    with db.holder(lock_timeout_seconds=5.0) as session:
        (backend,) = db.holders()
        session.apply(migration(f"CREATE TABLE t (id int); {slow}"), "d1", soon())
        time.sleep(0.4)
        session.apply(migration(f"/* outside */ {slow}", 2, non_transactional=True), "d2", soon())
        session.record_applied([(migration("SELECT 1", 3), "d3")], baseline=True)
        assert [row.version for row in session.read_history()] == [1, 2, 3]
        assert list(db.holders()) == [backend]  # no session was ended and replaced
    assert db.versions() == [1, 2, 3]


@pytest.mark.parametrize("who", ["a holder", "status"])
@pytest.mark.parametrize("default", ["statement_timeout", "lock_timeout", "transaction_timeout"])
def test_defaults_of_the_database_do_not_affect_what_we_read(
    db: EmptyDatabase, who: str, default: str
) -> None:
    db.apply(migration("SELECT 1"))
    db.execute(f"ALTER DATABASE {db.address.database} SET {default} = '200ms'")
    waits = "query LIKE '%history%' AND wait_event_type = 'Lock'"
    with db.holder(2) as session, db.connect() as other:
        other.run(f"SET {default} = 0")
        other.run("BEGIN; LOCK lambda_migrate.history IN ACCESS EXCLUSIVE MODE")
        reading = Running(session.read_history if who == "a holder" else db.history)
        until(lambda: db.pids(f"{waits} AND now() - query_start > interval '400 ms'"))
        other.run("ROLLBACK")
        assert [row.version for row in reading.outcome()] == [1]


@pytest.mark.parametrize("non_transactional", [False, True])
def test_a_database_that_is_read_only_by_default_is_refused_with_advice(
    db: EmptyDatabase, non_transactional: bool
) -> None:
    """By both kinds of scripts, at the first run and at the next."""
    name = db.address.database
    one = migration("CREATE TABLE t (id int)")
    two = migration(
        "VACUUM t" if non_transactional else "SELECT 2", 2, non_transactional=non_transactional
    )
    for is_first in (True, False):
        db.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with pytest.raises(ConfigurationError, match=r"read-only by default.*25006.*remove that"):
            db.apply(one, two)
        with db.connect() as connection:
            connection.run(f"BEGIN READ WRITE; ALTER DATABASE {name} RESET ALL; COMMIT")
        assert db.has("lambda_migrate.history") is not is_first
        if is_first:
            db.apply(one, fence=1)
    db.apply(two, fence=2)
    assert db.versions() == [1, 2]


# --- environment


def test_the_first_run_stamps_its_environment(db: EmptyDatabase) -> None:
    db.apply(grant={"environment": "staging"})
    assert db.column("SELECT environment FROM lambda_migrate.fence") == ["staging"]


@pytest.mark.parametrize("other", ["production", ""])
def test_a_function_of_another_environment_is_rejected(db: EmptyDatabase, other: str) -> None:
    db.apply(grant={"environment": "staging"})
    with (
        pytest.raises(ConfigurationError, match=r"'staging'.*LAMBDA_MIGRATE_ENVIRONMENT=staging"),
        db.holder(2, grant={"environment": other}),
    ):
        pass
    assert db.column("SELECT token FROM lambda_migrate.fence") == [1]


def test_a_database_without_a_stamp_accepts_the_first_environment(db: EmptyDatabase) -> None:
    db.apply()
    db.apply(fence=2, grant={"environment": "production"})
    assert db.column("SELECT environment FROM lambda_migrate.fence") == ["production"]


def test_storing_another_environment_needs_an_explicit_option(db: EmptyDatabase) -> None:
    db.apply(grant={"environment": "staging"})
    db.apply(fence=2, grant={"environment": "production", "replaces_environment": True})
    assert db.column("SELECT environment FROM lambda_migrate.fence") == ["production"]


def test_of_two_first_runs_at_once_the_second_environment_is_refused(db: EmptyDatabase) -> None:
    """The recorded environment is compared where it is set, not only where it was read."""
    db.apply()
    with db.connect() as slow:
        slow.run("BEGIN; UPDATE lambda_migrate.fence SET environment = 'staging'")
        late = Running(lambda: db.apply(fence=2, grant={"environment": "production"}))
        while not db.is_running('UPDATE "lambda_migrate"'):
            assert late.is_alive()
        slow.run("COMMIT")
    assert isinstance(late.outcome(), ConfigurationError)
    assert db.column("SELECT environment FROM lambda_migrate.fence") == ["staging"]


# --- layout and damage


def test_a_newer_layout_is_refused(db: EmptyDatabase) -> None:
    db.apply()
    db.execute("UPDATE lambda_migrate.fence SET layout = 99")
    with pytest.raises(ConfigurationError, match=r"layout 99.*newer library"), db.holder(2):
        pass
    with pytest.raises(ConfigurationError, match="layout 99"):
        db.history()


def test_a_deleted_fence_row_is_created_again(db: EmptyDatabase) -> None:
    db.apply(migration("SELECT 1"), fence=4)
    db.execute("DELETE FROM lambda_migrate.fence")
    db.apply(migration("SELECT 2", 2), fence=5)
    assert db.versions() == [1, 2]


@pytest.mark.parametrize("table", ["fence", "history"])
def test_a_dropped_library_table_is_created_again(each_db: EmptyDatabase, table: str) -> None:
    each_db.apply(migration("SELECT 1"), fence=4)
    each_db.execute(f"DROP TABLE lambda_migrate.{table}")
    assert each_db.history() == []
    each_db.apply(migration("SELECT 2", 2), fence=5)
    assert each_db.versions() == ([1, 2] if table == "fence" else [2])


def test_a_server_whose_identifier_function_fails_is_migrated(
    db: EmptyDatabase,
) -> None:
    """Some managed servers let every role call the function, and have it fail."""
    db.execute("""
        ALTER FUNCTION pg_catalog.pg_control_system() RENAME TO pg_control_system_hidden;
        CREATE FUNCTION pg_catalog.pg_control_system(OUT system_identifier bigint)
            LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not here'; END $$""")
    try:
        db.apply(migration("SELECT 1"))
        db.apply(migration("SELECT 2", 2), fence=2)
        db.database().begin_dry_run(LeaseGrant("shop", 3, "me"), soon()).close()
        assert db.versions() == [1, 2]
        fence = db.database().inspect(soon()).fence
        assert fence is not None
        assert fence.current_system_id.startswith("/")
    finally:  # other tests use the same database
        db.execute("""
            DROP FUNCTION pg_catalog.pg_control_system();
            ALTER FUNCTION pg_catalog.pg_control_system_hidden() RENAME TO pg_control_system""")


def test_no_schema_reads_as_no_history(each_db: EmptyDatabase) -> None:
    assert each_db.history() == []
    assert not each_db.has("lambda_migrate.history")
