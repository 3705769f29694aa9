"""Statements outside a transaction: an intent before, the truth after, nothing half done."""

from __future__ import annotations

import pytest

from lambda_migrate.errors import MigrationFailed, RepairRequired
from lambda_migrate.migrations import Migration

from .bench import Bench, Running, migration, soon, until
from .proxy import Proxy, message, through

BUILD = "CREATE INDEX CONCURRENTLY i ON orders (id)"
UNIQUE = "CREATE UNIQUE INDEX CONCURRENTLY i ON orders (id)"


def outside(sql: str, version: int = 1, **more: object) -> Migration:
    return migration(sql, version, outside=True, **more)  # type: ignore[arg-type]  # passed on


@pytest.fixture
def orders(bench: Bench) -> Bench:
    bench.execute("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1), (1)")
    return bench


def _invalid(bench: Bench, name: str = "i") -> None:
    """Leave an INVALID index behind, as a crash does."""
    bench.execute("CREATE TABLE IF NOT EXISTS orders (id int); INSERT INTO orders VALUES (1), (1)")
    with bench.connect() as connection, pytest.raises(Exception, match="could not create unique"):
        connection.run(f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON orders (id)")
    assert bench.is_valid(name) is False


def _interrupted(bench: Bench, one: Migration, state: str = "started") -> None:
    """Leave a row in doubt behind, as a crash does."""
    with bench.holder() as held:
        queries, grant = held._fenced.queries, held._fenced.grant
        held._fenced.write(queries.insert_started(one, "d", grant), soon())
        held._fenced.write(
            f"UPDATE lambda_migrate.history SET state = '{state}' RETURNING 0", soon()
        )


def _settle(bench: Bench) -> None:
    with bench.holder(2) as held:
        (row,) = held.history()
        held.settle(row, soon())


def test_an_index_is_built_concurrently(each_bench: Bench) -> None:
    each_bench.execute("CREATE TABLE orders (id int)")
    each_bench.apply(outside(BUILD))
    assert (each_bench.is_valid("i"), each_bench.states()) == (True, {1: "applied"})


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
def test_each_kind_applies_with_its_row(orders: Bench, before: str, statement: str) -> None:
    orders.execute(before)
    with orders.holder() as held:
        held.apply(outside(statement), "d", soon())
        held.apply(migration("CREATE TABLE later ()", 2), "d", soon())
    assert orders.states() == {1: "applied", 2: "applied"}


def test_a_build_waits_for_an_old_transaction_longer_than_lock_timeout(orders: Bench) -> None:
    with orders.connect() as old, orders.holder(lock_timeout_seconds=0.01) as held:
        old.run("BEGIN; INSERT INTO orders VALUES (2)")
        build = Running(lambda: held.apply(outside(BUILD), "d", soon()))
        until(lambda: orders.pids("wait_event_type = 'Lock' AND query LIKE '%CREATE INDEX%'"))
        build.join(0.1)
        assert build.is_alive()
        old.run("COMMIT")
        assert isinstance(build.outcome(), int)
    assert orders.is_valid("i") is True


def test_a_failing_unique_build_leaves_neither_index_nor_row(each_bench: Bench) -> None:
    each_bench.execute("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1), (1)")
    with pytest.raises(MigrationFailed, match="could not create unique") as failed:
        each_bench.apply(outside(UNIQUE))
    assert failed.value.sqlstate == "23505"
    assert (each_bench.is_valid("i"), each_bench.versions()) == (None, [])


def test_a_build_past_its_deadline_is_cancelled_and_cleared_up_next(orders: Bench) -> None:
    with orders.connect() as old, orders.holder() as held:
        old.run("BEGIN; INSERT INTO orders VALUES (2)")
        with pytest.raises(MigrationFailed, match="deadline") as failed:
            held.apply(outside(BUILD), "d", soon(0.4))
        until(lambda: not orders.is_running("INDEX CONCURRENTLY"))
    assert failed.value.sqlstate == "57014"
    assert "clearing up failed" in str(failed.value)
    assert orders.states() == {1: "started"}
    _settle(orders)
    assert (orders.is_valid("i"), orders.versions()) == (None, [])


def test_a_backend_ended_while_it_builds_builds_once_in_the_end(orders: Bench) -> None:
    with orders.connect() as old, orders.holder() as held:
        old.run("BEGIN; INSERT INTO orders VALUES (2)")
        build = Running(lambda: held.apply(outside(BUILD), "d", soon()))
        until(lambda: orders.pids("wait_event_type = 'Lock' AND query LIKE '%CREATE INDEX%'"))
        orders.terminate(orders.holders()[0])
        old.run("COMMIT")
        assert isinstance(build.outcome(), int)
    assert (orders.is_valid("i"), orders.states()) == (True, {1: "applied"})


@pytest.mark.parametrize("needle", [b"'started'", message(BUILD), b"state = 'applied'"])
@pytest.mark.parametrize("deliver", [True, False], ids=["answer lost", "message lost"])
def test_a_connection_lost_at_any_step_builds_once(
    orders: Bench, needle: bytes, deliver: bool
) -> None:
    with (
        Proxy(orders.address, needle=needle, deliver=deliver) as proxy,
        orders.holder(**through(proxy)) as held,
    ):
        held.apply(outside(BUILD), "d", soon())
        assert proxy.cuts == 1
    assert (orders.is_valid("i"), orders.states()) == (True, {1: "applied"})


def test_a_connection_lost_between_two_migrations_is_opened_again(orders: Bench) -> None:
    with orders.holder() as held:
        orders.terminate(orders.holders()[0])
        held.apply(outside(BUILD), "d", soon())
    assert orders.is_valid("i") is True


def test_a_statement_applies_once_however_often_it_is_asked_for(orders: Bench) -> None:
    one = outside("INSERT INTO orders VALUES (7)")
    orders.apply(one)
    with pytest.raises(MigrationFailed) as failed:
        orders.apply(one, fence=2)
    assert failed.value.sqlstate == "23505"
    assert orders.column("SELECT count(*) FROM orders WHERE id = 7") == [1]
    assert orders.states() == {1: "applied"}


# --- what stands there before


def test_an_invalid_index_of_somebody_else_is_refused(bench: Bench) -> None:
    _invalid(bench)
    statement = "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON orders (id)"
    with pytest.raises(MigrationFailed, match=r"INVALID index i .*DROP INDEX CONCURRENTLY i"):
        bench.apply(outside(statement))
    assert (bench.is_valid("i"), bench.versions()) == (False, [])


@pytest.mark.parametrize("statement", ["DROP INDEX CONCURRENTLY i", "REINDEX INDEX CONCURRENTLY i"])
def test_an_invalid_index_may_be_what_a_migration_is_about(bench: Bench, statement: str) -> None:
    _invalid(bench)
    bench.execute("DELETE FROM orders")
    bench.apply(outside(statement))
    assert bench.is_valid("i") is not False


@pytest.mark.parametrize(
    ("before", "statement", "sqlstate"),
    [
        ("CREATE INDEX i ON orders (id)", BUILD, "42P07"),
        ("SELECT 1", "DROP INDEX CONCURRENTLY nothing", "42704"),
        ("CREATE TYPE mood AS ENUM ('ok')", "ALTER TYPE mood ADD VALUE 'ok'", "42710"),
    ],
)
def test_a_failure_is_not_taken_for_success_because_it_looks_done(
    orders: Bench, before: str, statement: str, sqlstate: str
) -> None:
    orders.execute(before)
    with pytest.raises(MigrationFailed) as failed:
        orders.apply(outside(statement))
    assert failed.value.sqlstate == sqlstate
    assert orders.versions() == []


# --- settling


def test_a_half_built_index_is_dropped_and_built_again(each_bench: Bench) -> None:
    _invalid(each_bench)
    _interrupted(each_bench, outside(UNIQUE))
    _settle(each_bench)
    assert (each_bench.is_valid("i"), each_bench.versions()) == (None, [])
    each_bench.execute("DELETE FROM orders")
    each_bench.apply(outside(UNIQUE), fence=3)
    assert (each_bench.is_valid("i"), each_bench.states()) == (True, {1: "applied"})


_SETTLED = [
    ("CREATE INDEX i ON orders (id)", BUILD, "applied"),
    ("SELECT 1", BUILD, None),
    ("SELECT 1", "DROP INDEX CONCURRENTLY i", "applied"),
    ("CREATE INDEX i ON orders (id)", "DROP INDEX CONCURRENTLY i", None),
    ("CREATE TYPE mood AS ENUM ('ok')", "ALTER TYPE mood ADD VALUE 'ok'", "applied"),
    ("CREATE TYPE mood AS ENUM ('ok')", "ALTER TYPE mood ADD VALUE 'good'", None),
    ("CREATE INDEX i ON orders (id)", "REINDEX INDEX CONCURRENTLY i", None),
    ("SELECT 1", "VACUUM orders", None),
]


@pytest.mark.parametrize(("before", "statement", "state"), _SETTLED)
def test_a_row_in_doubt_is_settled_by_what_stands_there(
    orders: Bench, before: str, statement: str, state: str | None
) -> None:
    orders.execute(before)
    _interrupted(orders, outside(statement))
    _settle(orders)
    assert orders.states() == ({} if state is None else {1: state})


def test_what_an_interrupted_reindex_left_is_dropped(bench: Bench) -> None:
    _invalid(bench, "i_ccnew")
    bench.execute("CREATE INDEX i ON orders (id)")
    _interrupted(bench, outside("REINDEX INDEX CONCURRENTLY i"))
    _settle(bench)
    assert (bench.is_valid("i_ccnew"), bench.is_valid("i")) == (None, True)


@pytest.mark.parametrize("statement", ["CREATE DATABASE other", "REINDEX SCHEMA public"])
def test_what_cannot_be_told_apart_names_the_repair_command(bench: Bench, statement: str) -> None:
    _interrupted(bench, outside(statement))
    with pytest.raises(RepairRequired, match="lambda-migrate repair 1 --as applied"):
        _settle(bench)
    assert bench.states() == {1: "started"}


def test_a_statement_lost_in_the_middle_that_cannot_be_told_apart_needs_repair(
    orders: Bench,
) -> None:
    statement = "INSERT INTO orders VALUES (7)"
    with (
        Proxy(orders.address, needle=message(statement), deliver=True) as proxy,
        orders.holder(**through(proxy)) as held,
        pytest.raises(RepairRequired, match="lambda-migrate repair"),
    ):
        held.apply(outside(statement), "d", soon())
    assert orders.states() == {1: "started"}


def test_a_row_without_its_statement_says_so(bench: Bench) -> None:
    _interrupted(bench, outside(BUILD))
    bench.execute("UPDATE lambda_migrate.history SET up = NULL")
    with pytest.raises(MigrationFailed, match="lambda-migrate repair"):
        _settle(bench)


@pytest.mark.parametrize(
    ("before", "states"),
    [("CREATE INDEX i ON orders (id)", {1: "applied"}), ("SELECT 1", {})],
)
def test_an_interrupted_rollback_is_settled_both_ways(
    orders: Bench, before: str, states: dict[int, str]
) -> None:
    down = "DROP INDEX CONCURRENTLY i"
    orders.execute(before)
    _interrupted(orders, outside(BUILD, down=down, down_outside=True), "reverting")
    _settle(orders)
    assert orders.states() == states


def test_an_interrupted_drop_is_finished(bench: Bench) -> None:
    _invalid(bench)
    one = outside(UNIQUE, down="DROP INDEX CONCURRENTLY i", down_outside=True)
    _interrupted(bench, one, "reverting")
    _settle(bench)
    assert (bench.is_valid("i"), bench.states()) == (None, {})
