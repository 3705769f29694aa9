"""Statements outside a transaction take effect once, and an interrupted one is resolved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lambda_migrate.errors import MigrationFailed, RepairRequired
from lambda_migrate.migrations import Migration, Script
from lambda_migrate.postgresql.non_transactional import _NonTransactionalStatement

from .empty_database import EmptyDatabase, Running, migration, soon, until
from .proxy import Proxy, connect_through, message

BUILD = "CREATE INDEX CONCURRENTLY i ON orders (id)"
UNIQUE = "CREATE UNIQUE INDEX CONCURRENTLY i ON orders (id)"


def non_transactional(sql: str, version: int = 1, **more: object) -> Migration:
    return migration(sql, version, non_transactional=True, **more)  # type: ignore[arg-type]  # passed on


@pytest.fixture
def orders(db: EmptyDatabase) -> EmptyDatabase:
    db.execute("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1), (1)")
    return db


def _make_invalid_index(db: EmptyDatabase, name: str = "i") -> None:
    """Leave an INVALID index behind, as a crash does."""
    db.execute("CREATE TABLE IF NOT EXISTS orders (id int); INSERT INTO orders VALUES (1), (1)")
    with db.connect() as connection, pytest.raises(Exception, match="could not create unique"):
        connection.run(f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON orders (id)")
    assert db.is_valid(name) is False


def _interrupt(db: EmptyDatabase, one: Migration, state: str = "started") -> None:
    """Leave a row in doubt behind, as a crash does."""
    with db.holder() as session:
        queries, grant = session._connection.queries, session._connection.grant
        session._connection.write(queries.insert_started(one, "d", grant), soon())
        session._connection.write(
            f"UPDATE lambda_migrate.history SET state = '{state}' RETURNING 0", soon()
        )


def _resolve(db: EmptyDatabase) -> None:
    with db.holder(2) as session:
        (row,) = session.read_history()
        session.resolve_in_doubt(row, soon())


def test_an_index_is_built_concurrently(each_db: EmptyDatabase) -> None:
    each_db.execute("CREATE TABLE orders (id int)")
    each_db.apply(non_transactional(BUILD))
    assert (each_db.is_valid("i"), each_db.states()) == (True, {1: "applied"})


@pytest.mark.parametrize(
    ("before", "statement"),
    [
        ("CREATE INDEX i ON orders (id)", "DROP INDEX CONCURRENTLY i"),
        ("CREATE INDEX i ON orders (id)", "REINDEX INDEX CONCURRENTLY i"),
        ("CREATE INDEX i ON orders (id)", "REINDEX TABLE CONCURRENTLY orders"),
        ("CREATE TYPE mood AS ENUM ('ok')", "ALTER TYPE mood ADD VALUE 'good'"),
        ("SELECT 1", "VACUUM (ANALYZE) orders"),
        ("SELECT 1", 'CREATE INDEX CONCURRENTLY "Größe ""1""" ON public.orders (id)'),
        ("CREATE SCHEMA s; CREATE TABLE s.t (x int)", "CREATE INDEX CONCURRENTLY i ON s.t (x)"),
        (
            "CREATE INDEX i ON orders (id)",
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON orders (id)",
        ),
        ("SELECT 1", "DROP INDEX CONCURRENTLY IF EXISTS nothing"),
    ],
)
def test_each_kind_applies_with_its_row(orders: EmptyDatabase, before: str, statement: str) -> None:
    orders.execute(before)
    with orders.holder() as session:
        session.apply(non_transactional(statement), "d", soon())
        session.apply(migration("CREATE TABLE later ()", 2), "d", soon())
    assert orders.states() == {1: "applied", 2: "applied"}


def test_a_build_waits_for_an_old_transaction_longer_than_lock_timeout(
    orders: EmptyDatabase,
) -> None:
    with orders.connect() as old, orders.holder(lock_timeout_seconds=0.01) as session:
        old.run("BEGIN; INSERT INTO orders VALUES (2)")
        build = Running(lambda: session.apply(non_transactional(BUILD), "d", soon()))
        until(lambda: orders.pids("wait_event_type = 'Lock' AND query LIKE '%CREATE INDEX%'"))
        build.join(0.1)
        assert build.is_alive()
        old.run("COMMIT")
        assert isinstance(build.outcome(), int)
    assert orders.is_valid("i") is True


def test_a_failing_unique_build_leaves_neither_index_nor_row(each_db: EmptyDatabase) -> None:
    each_db.execute("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1), (1)")
    with pytest.raises(MigrationFailed, match="could not create unique") as failed:
        each_db.apply(non_transactional(UNIQUE))
    assert failed.value.sqlstate == "23505"
    assert (each_db.is_valid("i"), each_db.versions()) == (None, [])


def test_a_build_past_its_deadline_is_cancelled_and_cleaned_up_by_the_next_holder(
    orders: EmptyDatabase,
) -> None:
    with orders.connect() as old, orders.holder() as session:
        old.run("BEGIN; INSERT INTO orders VALUES (2)")
        with pytest.raises(MigrationFailed, match="deadline") as failed:
            session.apply(non_transactional(BUILD), "d", soon(1.5))
        until(lambda: not orders.is_running("INDEX CONCURRENTLY"))
    assert failed.value.sqlstate == "57014"
    assert "cleaning up failed" in str(failed.value)
    assert orders.states() == {1: "started"}
    _resolve(orders)
    assert (orders.is_valid("i"), orders.versions()) == (None, [])


def test_an_index_whose_build_is_terminated_is_built_once_in_the_end(orders: EmptyDatabase) -> None:
    with orders.connect() as old, orders.holder() as session:
        old.run("BEGIN; INSERT INTO orders VALUES (2)")
        build = Running(lambda: session.apply(non_transactional(BUILD), "d", soon()))
        until(lambda: orders.pids("wait_event_type = 'Lock' AND query LIKE '%CREATE INDEX%'"))
        orders.terminate(orders.holders()[0])
        old.run("COMMIT")
        assert isinstance(build.outcome(), int)
    assert (orders.is_valid("i"), orders.states()) == (True, {1: "applied"})


@pytest.mark.parametrize("needle", [b"'started'", message(BUILD), b"state = 'applied'"])
@pytest.mark.parametrize("deliver", [True, False], ids=["answer lost", "message lost"])
def test_a_connection_lost_at_any_step_builds_once(
    orders: EmptyDatabase, needle: bytes, deliver: bool
) -> None:
    with (
        Proxy(orders.address, needle=needle, deliver=deliver) as proxy,
        orders.holder(**connect_through(proxy)) as session,
    ):
        session.apply(non_transactional(BUILD), "d", soon())
        assert proxy.cuts == 1
    assert (orders.is_valid("i"), orders.states()) == (True, {1: "applied"})


def test_a_connection_lost_between_two_migrations_is_opened_again(orders: EmptyDatabase) -> None:
    with orders.holder() as session:
        orders.terminate(orders.holders()[0])
        session.apply(non_transactional(BUILD), "d", soon())
    assert orders.is_valid("i") is True


def test_a_statement_applies_once_however_often_it_is_requested(orders: EmptyDatabase) -> None:
    one = non_transactional("INSERT INTO orders VALUES (7)")
    orders.apply(one)
    with pytest.raises(MigrationFailed) as failed:
        orders.apply(one, fence=2)
    assert failed.value.sqlstate == "23505"
    assert orders.column("SELECT count(*) FROM orders WHERE id = 7") == [1]
    assert orders.states() == {1: "applied"}


# --- what stands there before


def test_an_invalid_index_of_another_origin_is_refused(db: EmptyDatabase) -> None:
    _make_invalid_index(db)
    statement = "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON orders (id)"
    with pytest.raises(MigrationFailed, match=r"INVALID index i .*DROP INDEX CONCURRENTLY i"):
        db.apply(non_transactional(statement))
    assert (db.is_valid("i"), db.versions()) == (False, [])


class UnexpectedStatement(BaseException):
    """A statement began that was to be refused before its intent row."""


@pytest.fixture
def no_statement_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(_statement: _NonTransactionalStatement, _writes: str) -> None:
        raise UnexpectedStatement

    monkeypatch.setattr(_NonTransactionalStatement, "write", begin)


_PARTITIONS = """CREATE TABLE p (id int) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p2 (id int)"""
_ANOTHER = "CREATE INDEX i ON orders (id DESC)"
_IN_THE_WAY = [
    ("CREATE INDEX i ON orders (id)", BUILD, "index i with the same definition exists"),
    (_ANOTHER, BUILD, "index i with another definition exists"),
    (_ANOTHER, "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON orders (id)", "another definition"),
    ("CREATE INDEX i ON orders (id)", UNIQUE.replace("i ON", "IF NOT EXISTS i ON"), "another def"),
    ("CREATE TABLE i ()", BUILD.replace("i ON", "IF NOT EXISTS i ON"), "the relation i exists"),
    (
        "CREATE TABLE other (id int); CREATE INDEX i ON other (id)",
        BUILD.replace("i ON", "IF NOT EXISTS i ON"),
        "the relation i exists",
    ),
    ("SELECT", "DROP INDEX CONCURRENTLY i", "index i does not exist"),
    ("CREATE INDEX i ON orders (id)", "DROP INDEX i, j", "index j does not exist"),
    ("CREATE TYPE mood AS ENUM ('ok')", "ALTER TYPE mood ADD VALUE 'ok'", "the value 'ok' of mood"),
    (_PARTITIONS, "ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY", "partition public.p2 of publ"),
    (_PARTITIONS, "ALTER TABLE p DETACH PARTITION p3 CONCURRENTLY", "p or p3 does not exist"),
    (_PARTITIONS, "ALTER TABLE p DETACH PARTITION p1 FINALIZE", "no DETACH of it is in progress"),
    (
        _PARTITIONS,
        "ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10)",
        "partition public.p1 of public.p exists",
    ),
    (
        f"{_PARTITIONS}; UPDATE pg_inherits SET inhdetachpending = true",
        "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY",
        "half detached; run `ALTER TABLE public.p DETACH PARTITION public.p1 FINALIZE`",
    ),
    ("SELECT", "CREATE DATABASE postgres", "a database postgres exists"),
    ("SELECT", "DROP DATABASE nowhere", "database nowhere does not exist"),
    ("SELECT", "DROP TABLESPACE nowhere", "tablespace nowhere does not exist"),
    ("SELECT", "DROP SUBSCRIPTION nowhere", "subscription nowhere does not exist"),
]


@pytest.mark.usefixtures("no_statement_begins")
@pytest.mark.parametrize(("before", "statement", "why"), _IN_THE_WAY)
def test_a_conflict_is_refused_before_the_intent(
    orders: EmptyDatabase, before: str, statement: str, why: str
) -> None:
    """Else a crash right after the intent would be taken for success, or for failure."""
    orders.execute(before)
    with pytest.raises(MigrationFailed, match=why):
        orders.apply(non_transactional(statement))
    assert orders.versions() == []


@pytest.mark.usefixtures("no_statement_begins")
@pytest.mark.parametrize("statement", ["REINDEX TABLE CONCURRENTLY orders", "REINDEX SCHEMA "])
def test_leftovers_of_a_reindex_are_refused_before_the_next_one(
    db: EmptyDatabase, statement: str
) -> None:
    _make_invalid_index(db, "i_ccnew")
    whole = statement if "TABLE" in statement else f"{statement}CONCURRENTLY public"
    with pytest.raises(MigrationFailed, match=r"INVALID indexes.*: i_ccnew; run `DROP INDEX"):
        db.apply(non_transactional(whole))


@pytest.mark.parametrize(
    "definition",
    [
        "USING btree (id int4_ops) WITH (fillfactor = 70) WHERE (id > 3) -- the end",
        "((id + 1), id DESC NULLS LAST) INCLUDE (label)",
        "USING gin (to_tsvector('simple', label), \"odd USING (x\")",
        '(lower(label) COLLATE "C")',
    ],
)
def test_an_existing_index_is_recognized_by_its_definition(
    each_db: EmptyDatabase, definition: str
) -> None:
    """However its definition is written; and nothing of the comparison is left."""
    db = each_db
    db.execute(
        'CREATE TABLE "odd USING t" (gone int, id int, label text, "odd USING (x" tsvector);'
        'ALTER TABLE "odd USING t" DROP COLUMN gone;'
        f'CREATE INDEX "i USING x" ON "odd USING t" {definition}'
    )
    name = 'IF NOT EXISTS "i USING x" ON "odd USING t"'
    db.apply(non_transactional(f"CREATE INDEX CONCURRENTLY {name} {definition}"))
    with pytest.raises(MigrationFailed, match="another definition"):
        db.apply(non_transactional(f"CREATE INDEX CONCURRENTLY {name} (id)", 2), fence=2)
    assert db.states() == {1: "applied"}
    assert db.column("SELECT relname FROM pg_class WHERE relname LIKE '%_like%'") == []


@pytest.mark.parametrize("statement", ["DROP INDEX CONCURRENTLY i", "REINDEX INDEX CONCURRENTLY i"])
def test_a_migration_may_drop_or_rebuild_an_invalid_index(
    db: EmptyDatabase, statement: str
) -> None:
    _make_invalid_index(db)
    db.execute("DELETE FROM orders")
    db.apply(non_transactional(statement))
    assert db.is_valid("i") is not False


@pytest.mark.parametrize(
    ("before", "statement", "sqlstate"),
    [
        ("CREATE INDEX i ON orders (id)", BUILD, "42P07"),
        ("SELECT 1", "DROP INDEX CONCURRENTLY nothing", "42704"),
        ("CREATE TYPE mood AS ENUM ('ok')", "ALTER TYPE mood ADD VALUE 'ok'", "42710"),
    ],
)
def test_a_failure_is_not_taken_for_success_by_its_result(
    orders: EmptyDatabase, before: str, statement: str, sqlstate: str
) -> None:
    orders.execute(before)
    with pytest.raises(MigrationFailed) as failed:
        orders.apply(non_transactional(statement))
    assert failed.value.sqlstate == sqlstate
    assert orders.versions() == []


# --- resolving


def test_a_half_built_index_is_dropped_and_built_again(each_db: EmptyDatabase) -> None:
    _make_invalid_index(each_db)
    _interrupt(each_db, non_transactional(UNIQUE))
    _resolve(each_db)
    assert (each_db.is_valid("i"), each_db.versions()) == (None, [])
    each_db.execute("DELETE FROM orders")
    each_db.apply(non_transactional(UNIQUE), fence=3)
    assert (each_db.is_valid("i"), each_db.states()) == (True, {1: "applied"})


RESOLVE_CASES = [
    ("CREATE INDEX i ON orders (id)", BUILD, "applied"),
    ("SELECT 1", BUILD, None),
    ("SELECT 1", "DROP INDEX CONCURRENTLY i", "applied"),
    ("CREATE INDEX i ON orders (id)", "DROP INDEX CONCURRENTLY i", None),
    ("CREATE TYPE mood AS ENUM ('ok')", "ALTER TYPE mood ADD VALUE 'ok'", "applied"),
    ("CREATE TYPE mood AS ENUM ('ok')", "ALTER TYPE mood ADD VALUE 'good'", None),
    ("CREATE INDEX i ON orders (id)", "REINDEX INDEX CONCURRENTLY i", None),
    ("SELECT 1", "VACUUM orders", None),
    ("SELECT 1", "REINDEX SCHEMA public", None),
    ("SELECT 1", "CREATE DATABASE nowhere", None),
    ("SELECT 1", "DROP DATABASE nowhere", "applied"),
    ("SELECT 1", "DROP TABLESPACE nowhere", "applied"),
    ("SELECT 1", "ALTER DATABASE postgres SET TABLESPACE pg_default", None),
    (_PARTITIONS, "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY", None),
    (_PARTITIONS, "ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY", "applied"),
    (
        f"{_PARTITIONS}; CREATE INDEX i ON ONLY p (id); CREATE INDEX i1 ON p1 (id)",
        "ALTER INDEX i ATTACH PARTITION i1",
        None,
    ),
    # Another index of that name is not the one that was asked for.
    (_ANOTHER, BUILD, None),
]


@pytest.mark.parametrize(("before", "statement", "state"), RESOLVE_CASES)
def test_a_row_in_doubt_is_resolved_by_the_catalog(
    orders: EmptyDatabase, before: str, statement: str, state: str | None
) -> None:
    orders.execute(before)
    _interrupt(orders, non_transactional(statement))
    _resolve(orders)
    assert orders.states() == ({} if state is None else {1: state})


def test_what_an_interrupted_reindex_left_is_dropped(db: EmptyDatabase) -> None:
    _make_invalid_index(db, "i_ccnew")
    db.execute("CREATE INDEX i ON orders (id)")
    _interrupt(db, non_transactional("REINDEX INDEX CONCURRENTLY i"))
    _resolve(db)
    assert (db.is_valid("i_ccnew"), db.is_valid("i")) == (None, True)


@pytest.mark.parametrize(
    "statement",
    [
        "CALL p()",
        "DO 'BEGIN END'",
        "INSERT INTO orders VALUES (7)",
        "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p",
        "ALTER SUBSCRIPTION s REFRESH PUBLICATION",
    ],
)
def test_an_undetermined_outcome_names_the_repair_command(
    db: EmptyDatabase, statement: str
) -> None:
    _interrupt(db, non_transactional(statement))
    with pytest.raises(RepairRequired, match="lambda-migrate repair 1 --as applied"):
        _resolve(db)
    assert db.states() == {1: "started"}


def test_a_lost_statement_of_undetermined_outcome_needs_repair(
    orders: EmptyDatabase,
) -> None:
    statement = "INSERT INTO orders VALUES (7)"
    with (
        Proxy(orders.address, needle=message(statement), deliver=True) as proxy,
        orders.holder(**connect_through(proxy)) as session,
        pytest.raises(RepairRequired, match="lambda-migrate repair"),
    ):
        session.apply(non_transactional(statement), "d", soon())
    assert orders.states() == {1: "started"}


def test_a_row_without_its_statement_is_refused(db: EmptyDatabase) -> None:
    _interrupt(db, non_transactional(BUILD))
    db.execute("UPDATE lambda_migrate.history SET up = NULL")
    with pytest.raises(MigrationFailed, match="lambda-migrate repair"):
        _resolve(db)


@pytest.mark.parametrize(
    ("before", "states"),
    [("CREATE INDEX i ON orders (id)", {1: "applied"}), ("SELECT 1", {})],
)
def test_an_interrupted_rollback_is_resolved_both_ways(
    orders: EmptyDatabase, before: str, states: dict[int, str]
) -> None:
    down = "DROP INDEX CONCURRENTLY i"
    orders.execute(before)
    _interrupt(
        orders, non_transactional(BUILD, down=down, down_non_transactional=True), "rolling_back"
    )
    _resolve(orders)
    assert orders.states() == states


def test_an_interrupted_drop_is_finished(db: EmptyDatabase) -> None:
    _make_invalid_index(db)
    one = non_transactional(UNIQUE, down="DROP INDEX CONCURRENTLY i", down_non_transactional=True)
    _interrupt(db, one, "rolling_back")
    _resolve(db)
    assert (db.is_valid("i"), db.states()) == (None, {})


def test_an_interrupted_drop_does_not_drop_another_index_of_the_same_name(
    db: EmptyDatabase,
) -> None:
    """The index that the statement was about is gone: another schema's is not dropped for it."""
    db.execute(
        "CREATE SCHEMA first; CREATE SCHEMA second;"
        "CREATE TABLE first.t (id int); CREATE INDEX i ON first.t (id);"
        "CREATE TABLE second.t (id int); CREATE INDEX i ON second.t (id);"
        "DO $$BEGIN EXECUTE format("
        "'ALTER DATABASE %I SET search_path = first, second', current_database()); END$$"
    )
    one = non_transactional("DROP INDEX CONCURRENTLY i")
    with db.holder() as session, pytest.MonkeyPatch.context() as patched:
        _kill_after_the_statement(patched)
        with pytest.raises(Killed):
            session.apply(one, "d", soon())
    with db.holder(2) as session:
        with pytest.raises(MigrationFailed, match="in the history already"):
            session.apply(one, "d", soon())
        assert [row.state.value for row in session.read_history()] == ["applied"]
    assert db.column("SELECT to_regclass('second.i') IS NOT NULL") == [True]


# --- what failed, and may have done a part


class Killed(BaseException):
    """The process is gone."""


def _raise_killed(_statement: _NonTransactionalStatement, **_arguments: Any) -> None:
    raise Killed


def _kill_after_the_statement(patched: pytest.MonkeyPatch) -> None:
    real = _NonTransactionalStatement.run

    def dying(self: _NonTransactionalStatement, **arguments: Any) -> None:
        real(self, **arguments)
        raise Killed

    patched.setattr(_NonTransactionalStatement, "run", dying)


def _declare_idempotent(one: Migration) -> Migration:
    return replace(one, up=Script(one.up.sql, one.up.line, transactional=False, idempotent=True))


_IN_PARTS = """DO $$ BEGIN INSERT INTO orders VALUES (7); COMMIT;
    IF EXISTS (SELECT FROM broken) THEN RAISE 'the second part failed'; END IF; END $$"""


@pytest.fixture
def in_parts(orders: EmptyDatabase) -> EmptyDatabase:
    orders.execute("""CREATE TABLE broken (x int); INSERT INTO broken VALUES (1);
        CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO orders VALUES (7); COMMIT;
            IF EXISTS (SELECT FROM broken) THEN PERFORM nothing(); END IF; END $$""")
    return orders


def _count_sevens(db: EmptyDatabase) -> int:
    return int(db.column("SELECT count(*) FROM orders WHERE id = 7")[0])


@pytest.mark.parametrize("statement", [_IN_PARTS, "CALL p()"], ids=["DO", "CALL"])
def test_what_commits_in_parts_and_fails_stays_in_doubt_and_is_not_run_again(
    in_parts: EmptyDatabase, statement: str
) -> None:
    one = non_transactional(statement)
    with pytest.raises(RepairRequired, match="part of it may be committed") as failed:
        in_parts.apply(one)
    assert "`lambda-migrate repair 1 --as applied`" in str(failed.value)
    assert "`lambda-migrate repair 1 --as pending`" in failed.value.cause
    assert failed.value.sqlstate in ("P0001", "42883")
    in_parts.execute("DELETE FROM broken")
    with pytest.raises(RepairRequired):
        in_parts.apply(one, fence=2)
    assert (_count_sevens(in_parts), in_parts.states()) == (1, {1: "started"})


@pytest.mark.parametrize("statement", [_IN_PARTS, "CALL p()"], ids=["DO", "CALL"])
def test_what_is_declared_idempotent_is_pending_again(
    in_parts: EmptyDatabase, statement: str
) -> None:
    one = _declare_idempotent(non_transactional(statement))
    with pytest.raises(MigrationFailed) as failed:
        in_parts.apply(one)
    assert (type(failed.value), in_parts.versions()) == (MigrationFailed, [])
    _interrupt(in_parts, one)
    _resolve(in_parts)
    assert in_parts.versions() == []
    in_parts.execute("DELETE FROM broken")
    in_parts.apply(one, fence=3)
    assert (_count_sevens(in_parts), in_parts.states()) == (2, {1: "applied"})


def test_a_down_script_declared_idempotent_is_run_again(in_parts: EmptyDatabase) -> None:
    down = Script("CALL p()", 7, transactional=False, idempotent=True)
    one = replace(migration("SELECT 1"), down=down)
    in_parts.apply(one)
    for fence in (2, 3):
        with in_parts.holder(fence) as session:
            (row,) = session.read_history()
            assert row.down == down
            with pytest.raises(MigrationFailed):
                session.roll_back(row, soon())
        assert in_parts.states() == {1: "applied"}
    assert _count_sevens(in_parts) == 2


@pytest.mark.parametrize(
    "statement",
    [
        "CALL nothing()",
        "DO $$ BEGIN; selec; END $$",
        "CALL p(",
        "INSERT INTO orders SELECT 1 / (id - id) FROM orders",
        "ALTER TABLE orders ADD CHECK (id > 1)",
        "DELETE FROM nothing",
        "REVOKE SELECT ON nothing FROM PUBLIC",
    ],
)
def test_a_statement_that_cannot_have_taken_effect_leaves_no_row_in_doubt(
    in_parts: EmptyDatabase, statement: str
) -> None:
    """PostgreSQL could not read it, or it undoes as a whole what it cannot finish."""
    with pytest.raises(MigrationFailed) as failed:
        in_parts.apply(non_transactional(statement))
    assert (type(failed.value), in_parts.versions()) == (MigrationFailed, [])


# --- interrupted for real


def _cancel_half_way(db: EmptyDatabase, one: Migration, old: str) -> None:
    """Run it until its deadline, while an older transaction keeps it from its second half."""
    with db.connect() as older, db.holder() as session:
        older.run("BEGIN")
        older.run(old)
        with pytest.raises(MigrationFailed, match="deadline"):
            session.apply(one, "d", soon(1.5))
        until(lambda: not db.is_running("CONCURRENTLY"))
    assert db.states() == {1: "started"}


def test_an_index_is_not_compared_where_the_role_may_not_make_a_copy(db: EmptyDatabase) -> None:
    """What was not there before the intent is the statement's own; without an intent it counts not.

    A database may refuse temporary tables.
    """
    db.execute(
        """DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'plain')
            THEN CREATE ROLE plain LOGIN; END IF;
            EXECUTE format('GRANT CREATE ON DATABASE %I TO plain', current_database());
            EXECUTE format('REVOKE TEMP ON DATABASE %I FROM PUBLIC', current_database()); END$$;
            CREATE TABLE orders (id int); ALTER TABLE orders OWNER TO plain;
            GRANT CREATE ON SCHEMA public TO plain"""
    )
    plain = EmptyDatabase(db.address.replace(user="plain"))
    with plain.holder() as session, pytest.MonkeyPatch.context() as patched:
        _kill_after_the_statement(patched)
        with pytest.raises(Killed):
            session.apply(non_transactional(BUILD), "d", soon())
    _resolve(plain)
    assert plain.states() == {1: "applied"}
    with pytest.raises(MigrationFailed, match="could not be compared"):
        plain.apply(non_transactional(BUILD.replace("i ON", "IF NOT EXISTS i ON"), 2), fence=3)
    grant = "GRANT TEMP ON DATABASE %I TO PUBLIC"
    db.execute(f"DO $$BEGIN EXECUTE format('{grant}', current_database()); END$$")


def test_a_detach_that_was_interrupted_is_finished(each_db: EmptyDatabase) -> None:
    each_db.execute(_PARTITIONS)
    detach = non_transactional("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY")
    _cancel_half_way(each_db, detach, "SELECT * FROM p")
    assert each_db.column("SELECT inhdetachpending FROM pg_inherits") == [True]
    _resolve(each_db)
    assert each_db.column("SELECT count(*) FROM pg_inherits") == [0]
    assert each_db.states() == {1: "applied"}


_TOAST = """CREATE TABLE docs (id int PRIMARY KEY, t text);
    INSERT INTO docs SELECT g, g FROM generate_series(1, 9) g"""


@pytest.mark.parametrize("what", ["TABLE CONCURRENTLY docs", "SCHEMA CONCURRENTLY public"])
def test_what_an_interrupted_reindex_left_on_the_toast_table_is_dropped(
    each_db: EmptyDatabase, what: str
) -> None:
    each_db.execute(_TOAST)
    _cancel_half_way(each_db, non_transactional(f"REINDEX {what}"), "SELECT * FROM docs")
    _resolve(each_db)
    assert each_db.column("SELECT indexrelid FROM pg_index WHERE NOT indisvalid") == []
    each_db.apply(non_transactional(f"REINDEX {what}"), fence=3)
    assert each_db.states() == {1: "applied"}


def test_what_an_interrupted_reindex_left_on_partitions_is_dropped(each_db: EmptyDatabase) -> None:
    each_db.execute(
        "CREATE SCHEMA s; CREATE TABLE p (id int PRIMARY KEY, t text) PARTITION BY RANGE (id);"
        'CREATE TABLE s."P 1" PARTITION OF p FOR VALUES FROM (0) TO (10)'
    )
    one = non_transactional("REINDEX TABLE CONCURRENTLY p")
    _cancel_half_way(each_db, one, "SELECT * FROM p")
    assert each_db.column("SELECT 1 FROM pg_index WHERE NOT indisvalid") != []
    _resolve(each_db)
    assert each_db.column("SELECT 1 FROM pg_index WHERE NOT indisvalid") == []
    assert each_db.versions() == []


def test_a_leftover_that_the_role_may_not_drop_is_reported_once_and_then_left(
    db: EmptyDatabase,
) -> None:
    """No owner of a table may use the schema of its TOAST table."""
    db.execute(
        f"""{_TOAST}; CREATE TABLE s (x int); DO $$BEGIN IF NOT EXISTS (
            SELECT FROM pg_roles WHERE rolname = 'plain') THEN CREATE ROLE plain LOGIN; END IF;
            EXECUTE format('GRANT CREATE ON DATABASE %I TO plain', current_database()); END$$;
            ALTER TABLE docs OWNER TO plain; GRANT CREATE ON SCHEMA public TO plain"""
    )
    plain = EmptyDatabase(db.address.replace(user="plain"))
    one = non_transactional("REINDEX TABLE CONCURRENTLY docs")
    _cancel_half_way(plain, one, "SELECT * FROM docs")
    with pytest.raises(RepairRequired, match=r"DROP INDEX CONCURRENTLY pg_toast\..*--as pending"):
        _resolve(plain)
    with plain.holder(3) as session, pytest.MonkeyPatch.context() as patched:
        session.delete_rows([1])
        patched.setattr(_NonTransactionalStatement, "run", _raise_killed)
        with pytest.raises(Killed):
            session.apply(one, "d", soon())
    with plain.holder(4) as session:
        session.apply(one, "d", soon())
    assert plain.states() == {1: "applied"}
    assert len(db.column("SELECT indexrelid FROM pg_index WHERE NOT indisvalid")) == 1


def test_an_index_on_only_a_partitioned_table_is_complete_although_invalid(
    each_db: EmptyDatabase,
) -> None:
    each_db.execute(f"{_PARTITIONS}; CREATE INDEX i ON ONLY p (id)")
    assert each_db.is_valid("i") is False
    _interrupt(each_db, non_transactional("CREATE INDEX i ON ONLY p (id)"))
    _resolve(each_db)
    assert each_db.states() == {1: "applied"}


# --- a row in doubt is resolved before anything else begins


@pytest.mark.parametrize("is_there", [True, False])
def test_applying_over_a_row_in_doubt_resolves_it_first(
    orders: EmptyDatabase, is_there: bool
) -> None:
    if is_there:
        orders.execute(BUILD.replace("CONCURRENTLY", ""))
    _interrupt(orders, non_transactional(BUILD))
    with orders.holder(2) as session:
        if is_there:
            with pytest.raises(MigrationFailed, match="in the history already"):
                session.apply(non_transactional(BUILD), "d", soon())
        else:
            session.apply(non_transactional(BUILD), "d", soon())
    assert (orders.is_valid("i"), orders.states()) == (True, {1: "applied"})


@pytest.mark.parametrize("outside_down", [True, False])
@pytest.mark.parametrize("is_there", [True, False])
def test_rolling_back_a_row_in_doubt_resolves_it_first(
    orders: EmptyDatabase, is_there: bool, outside_down: bool
) -> None:
    down = "DROP INDEX CONCURRENTLY i" if outside_down else "DROP INDEX i"
    if is_there:
        orders.execute(BUILD.replace("CONCURRENTLY", ""))
    _interrupt(orders, non_transactional(BUILD, down=down, down_non_transactional=outside_down))
    with orders.holder(2) as session:
        (row,) = session.read_history()
        session.roll_back(row, soon())
    assert (orders.is_valid("i"), orders.states()) == (None, {})
