"""PostgreSQL's errors during a takeover are reported, and retried if they are transient."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.database_address import parse_url
from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.postgresql.connection import PostgresError, connect
from lambda_migrate.postgresql.holder_connection import translate_server_error
from lambda_migrate.postgresql.ports import LeaseGrant

from .empty_database import EmptyDatabase, Running, migration, soon, until

_ON_DDL = "CREATE EVENT TRIGGER on_ddl ON ddl_command_end EXECUTE FUNCTION public.on_ddl()"


@pytest.fixture
def guarded(db: EmptyDatabase) -> Iterator[EmptyDatabase]:
    yield db
    db.execute("DROP EVENT TRIGGER IF EXISTS on_ddl")


def _on_ddl(db: EmptyDatabase, body: str) -> None:
    db.execute(
        "CREATE FUNCTION public.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS"
        f" $$ DECLARE made record; BEGIN {body} END $$; {_ON_DDL}"
    )


def test_an_audit_trigger_that_works_elsewhere_works_for_our_tables(
    guarded: EmptyDatabase,
) -> None:
    """It finds its tables by the role's own path, and may make one there."""
    _on_ddl(
        guarded,
        "IF to_regclass('ddl_log') IS NULL THEN CREATE TABLE ddl_log (tag text); END IF;"
        " INSERT INTO ddl_log VALUES (tg_tag);",
    )
    guarded.apply(migration("CREATE TABLE t (id int)"))
    guarded.execute("DROP EVENT TRIGGER on_ddl")
    tags = guarded.column("SELECT tag FROM public.ddl_log")
    assert tags.count("CREATE TABLE") == 4  # its own, the two of ours, and the migration's
    assert "CREATE SCHEMA" in tags


def test_a_ddl_guard_that_refuses_our_tables_is_reported_with_code_context_and_advice(
    guarded: EmptyDatabase,
) -> None:
    _on_ddl(
        guarded,
        "FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP"
        " IF made.schema_name <> 'public' THEN RAISE EXCEPTION 'new tables belong into public'"
        " USING HINT = 'ask the platform team'; END IF; END LOOP;",
    )
    began = time.monotonic()
    with pytest.raises(ConfigurationError) as refused:
        guarded.apply()
    assert time.monotonic() < began + 20  # at once, and not when the deadline came
    for reported in (
        "new tables belong into public [P0001]",
        "where: PL/pgSQL function on_ddl()",
        "hint: ask the platform team",
        "exempt that schema",
    ):
        assert reported in str(refused.value)
    assert not guarded.has("lambda_migrate.fence")


def test_an_audit_trigger_that_is_broken_is_reported_by_its_name(guarded: EmptyDatabase) -> None:
    _on_ddl(guarded, "INSERT INTO missing VALUES (tg_tag);")
    with pytest.raises(ConfigurationError, match=r"42P01.*function on_ddl"):
        guarded.apply()


def test_a_grant_that_is_missing_on_our_tables_is_named(db: EmptyDatabase) -> None:
    db.apply()
    role = f"poor_{db.address.database}"
    db.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA lambda_migrate TO {role};"
        f" GRANT SELECT ON ALL TABLES IN SCHEMA lambda_migrate TO {role}"
    )
    address = db.address.replace(user=role)
    try:
        with pytest.raises(ConfigurationError, match=r"denied for table fence \[42501\]"):
            EmptyDatabase(address).apply(fence=2)
    finally:
        db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize(
    ("sqlstate", "retryable"),
    [
        *((code, True) for code in ("25006", "40001", "40P01", "53300", "55P03", "57P01", "57014")),
        *((code, False) for code in ("42501", "42P01", "P0001", "3D000", "0A000", "22P02")),
    ],
)
def test_transient_errors_are_distinguished_from_permanent_ones(
    sqlstate: str, retryable: bool
) -> None:
    error = translate_server_error(PostgresError({"C": sqlstate, "M": "as planned"}))
    assert error.retryable is retryable
    assert f"as planned [{sqlstate}]" in str(error)


@pytest.mark.parametrize(
    ("sqlstate", "message", "retryable"),
    [
        ("XX000", "tuple concurrently updated", True),
        (
            "23505",
            'duplicate key value violates unique constraint "pg_type_typname_nsp_index"',
            True,
        ),
        ("XX000", "refused by an extension that gives no code", False),
        ("23505", 'duplicate key value violates unique constraint "audit_pkey"', False),
    ],
)
def test_a_catalog_race_is_distinguished_from_a_refusal_with_the_same_code(
    sqlstate: str, message: str, retryable: bool
) -> None:
    error = translate_server_error(PostgresError({"C": sqlstate, "M": message}))
    assert error.retryable is retryable


def test_a_transient_error_is_waited_for(guarded: EmptyDatabase) -> None:
    guarded.execute("CREATE TABLE public.patience (left_over int); INSERT INTO patience VALUES (2)")
    guarded.execute("CREATE SEQUENCE public.tries")  # no rollback takes a try back
    _on_ddl(
        guarded,
        "IF nextval('public.tries') <= 2 THEN"
        " RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END IF;",
    )
    guarded.apply(migration("SELECT 1"))
    assert guarded.versions() == [1]


# --- readers


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[LocalPostgreSQL]:
    """A server in recovery, as a replica is; `promote` makes it the writer."""
    with LocalPostgreSQL(tcp_port=0, databases=["shop"]) as server:
        server.stop()
        (server.data / "standby.signal").touch()
        server.start()
        yield server


def test_a_read_only_replica_is_reported_as_a_reader(reader: LocalPostgreSQL) -> None:
    db = EmptyDatabase(parse_url(reader.url("shop")))
    with pytest.raises(DatabaseUnavailable, match=r"reader, or a failover.*writer endpoint.*25006"):
        db.apply(deadline=Deadline.after(3))
    with pytest.raises(DatabaseUnavailable, match="writer endpoint"):
        db.database().begin_dry_run(LeaseGrant("shop", 1, "me"), Deadline.after(3))


def test_an_inspection_shows_whether_the_server_is_a_replica(reader: LocalPostgreSQL) -> None:
    db = EmptyDatabase(parse_url(reader.url("shop")))
    assert db.database().inspect(soon()).is_replica
    reader.execute("SELECT pg_promote()")
    db.apply(migration("SELECT 1"))
    assert not db.database().inspect(soon()).is_replica
    reader.stop()
    (reader.data / "standby.signal").touch()
    reader.start()
    inspection = db.database().inspect(soon())
    assert (inspection.is_replica, len(inspection.history)) == (True, 1)


def test_a_failover_is_waited_for(reader: LocalPostgreSQL) -> None:
    db = EmptyDatabase(parse_url(reader.url("shop")))
    tries: list[str] = []

    def counting(name: str, seconds: float) -> object:
        tries.append(name)
        return connect(db.address, application_name=name, timeout=seconds)

    late = Running(lambda: db.apply(migration("SELECT 1"), connect=counting))
    until(lambda: len(tries) > 1)
    assert late.is_alive()
    reader.execute("SELECT pg_promote()")
    assert late.outcome() is None
    assert db.versions() == [1]


def test_a_holder_leaves_a_primary_that_becomes_a_replica(
    db: EmptyDatabase,
) -> None:
    """Between two migrations: the fence cannot be locked, and nothing was tried."""
    with db.holder() as session:
        first = session._connection.raw_connection
        first.run("SET default_transaction_read_only = on")
        session.apply(migration("SELECT 1"), "d", soon())
        first = session._connection.raw_connection
        first.run("SET default_transaction_read_only = on")
        session.record_applied([(migration("SELECT 2", 2), "d")], baseline=True)
    assert db.versions() == [1, 2]


# --- commits that vanish


@pytest.mark.parametrize("vanished", ["gone", "changed"])
def test_a_holder_does_not_continue_after_a_lost_commit(db: EmptyDatabase, vanished: str) -> None:
    lose = {
        "gone": "DELETE FROM lambda_migrate.history WHERE version = '2'; DROP TABLE two",
        "changed": "UPDATE lambda_migrate.history SET digest = 'other' WHERE version = '2'",
    }
    with db.holder() as session:
        session.apply(migration("CREATE TABLE one ()"), "d1", soon())
        session.apply(migration("CREATE TABLE two ()", 2), "d2", soon())
        db.terminate(session._connection.raw_connection.pid)
        db.execute(lose[vanished])
        with pytest.raises(DatabaseUnavailable, match=r"0002_m was committed and.*continues from"):
            session.apply(migration("CREATE TABLE three ()", 3), "d3", soon())
    assert not db.has("three")


def test_a_history_that_lost_a_row_is_not_read_as_complete(db: EmptyDatabase) -> None:
    db.apply(migration("SELECT 1"), migration("SELECT 2", 2))
    with db.holder(2) as session:
        assert len(session.read_history()) == 2
        session.apply(migration("SELECT 3", 3), "d", soon())
        db.execute("DELETE FROM lambda_migrate.history WHERE version = '1'")
        with pytest.raises(DatabaseUnavailable, match="0001_m was committed and is gone"):
            session.read_history()


def test_rows_that_a_holder_deleted_itself_are_not_lost(db: EmptyDatabase) -> None:
    one, two = migration("SELECT 1", down="SELECT 1"), migration("SELECT 2", 2)
    with db.holder() as session:
        session.apply(one, "d1", soon())
        session.apply(two, "d2", soon())
        row, _ = session.read_history()
        session.delete_rows([2])
        session.roll_back(row, soon())
        db.terminate(session._connection.raw_connection.pid)
        session.record_applied([(two, "other")], baseline=True)
        assert [row.digest for row in session.read_history()] == ["other"]


@pytest.mark.parametrize(
    ("default", "expected"),
    [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")],
)
def test_what_is_acknowledged_is_durable(db: EmptyDatabase, default: str, expected: str) -> None:
    """At each commit of ours, whatever a script sets: a deferred trigger sees it."""
    db.execute(f"ALTER DATABASE {db.address.database} SET synchronous_commit = {default}")
    db.apply()
    db.execute("""
        CREATE TABLE public.seen (at text, setting text);
        CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.seen VALUES (tg_table_name, current_setting('synchronous_commit'));
            RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER see AFTER INSERT OR UPDATE ON lambda_migrate.history
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.see();
        CREATE CONSTRAINT TRIGGER see AFTER UPDATE ON lambda_migrate.fence
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.see()""")
    with db.holder(2) as session:
        session.apply(migration("SET synchronous_commit = off"), "d", soon())
        session.apply(migration("VACUUM public.seen", 2, non_transactional=True), "d", soon())
        session._connection.run_non_transactional(
            "INSERT INTO public.seen VALUES ('outside', current_setting('synchronous_commit'))",
            soon(),
        )
    seen = db.execute("SELECT at, setting FROM public.seen")
    assert {at for at, _ in seen} == {"fence", "history", "outside"}
    assert {setting for _, setting in seen} == {expected}
