"""A script of several statements outside a transaction runs each statement once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from lambda_migrate.errors import MigrationFailed, RepairRequired
from lambda_migrate.manifest_digest import compute_checksum
from lambda_migrate.migrations import Migration
from lambda_migrate.postgresql.non_transactional import _NonTransactionalStatement

from .empty_database import EmptyDatabase, migration, soon
from .killed import Kill, make_operations

UP = """SET lock_timeout = '30s';
CREATE INDEX CONCURRENTLY i ON orders (id);
UPDATE counter SET n = n + 1;
ALTER TYPE mood ADD VALUE 'good';
INSERT INTO moods VALUES ('good');
"""
DOWN = """DELETE FROM moods;
DROP INDEX CONCURRENTLY i;
UPDATE counter SET n = n - 1;
ALTER TYPE mood RENAME TO old; CREATE TYPE mood AS ENUM ('ok');
ALTER TABLE moods ALTER m TYPE mood USING 'ok'; DROP TYPE old
"""
SCHEMA = """CREATE TABLE orders (id int);
CREATE TABLE counter (n int); INSERT INTO counter VALUES (0);
CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE moods (m mood)"""
STATE = """SELECT (SELECT n FROM counter), (SELECT count(*) FROM moods),
    (SELECT string_agg(concat(relname, indisvalid), ' ') FROM pg_index
     JOIN pg_class ON pg_class.oid = indexrelid WHERE relname LIKE 'i%'),
    (SELECT string_agg(enumlabel, ' ' ORDER BY enumsortorder) FROM pg_enum)"""
APPLIED, EMPTY = [[1, 1, "it", "ok good"]], [[0, 0, None, "ok"]]


def several(up: str, down: str | None = None) -> Migration:
    one = migration(up, down=down, non_transactional=True, down_non_transactional=True, line=3)
    return replace(one, checksum=compute_checksum(up))


@pytest.fixture
def shop(db: EmptyDatabase) -> EmptyDatabase:
    db.execute(SCHEMA)
    return db


def test_each_statement_takes_effect_in_both_directions(shop: EmptyDatabase) -> None:
    operations = make_operations(shop, several(UP, DOWN))
    operations.up(soon())
    assert (shop.execute(STATE), shop.states()) == (APPLIED, {1: "applied"})
    operations.down(soon(), to=0)
    assert (shop.execute(STATE), shop.states()) == (EMPTY, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "is_sent"), [("up", False), ("up", True), ("down", False)], ids=str
)
def test_a_process_killed_at_any_message_changes_nothing_in_the_end(
    shop: EmptyDatabase, command: str, is_sent: bool
) -> None:
    one = several(UP, DOWN)
    if command == "down":
        make_operations(shop, one).up(soon())
    for message in count(1):
        was_killed = Kill(shop, one, command, message, is_sent).run()
        make_operations(shop, one).up(soon())
        assert (shop.execute(STATE), shop.states()) == (APPLIED, {1: "applied"}), message
        if not was_killed:
            break
        if command == "up":
            make_operations(shop, one).down(soon(), to=0)
            assert (shop.execute(STATE), shop.states()) == (EMPTY, {}), message
    assert message > 20, "it was killed between all statements"


def test_settings_apply_to_the_statements_below_them(db: EmptyDatabase) -> None:
    db.execute("CREATE SCHEMA app; CREATE ROLE owner_of_app; GRANT ALL ON SCHEMA app TO public")
    db.apply(
        several(
            "SET search_path TO app;\nCREATE TABLE a (x int);\nSET ROLE owner_of_app; "
            "CREATE TABLE b (x int);\nRESET ROLE;CREATE INDEX CONCURRENTLY i ON app.a (x);"
            "CREATE TABLE public.c (x int)"
        )
    )
    owners = (
        "SELECT tableowner FROM pg_tables WHERE tablename IN ('a', 'b', 'c') ORDER BY tablename"
    )
    assert db.column(owners)[1] == "owner_of_app"
    assert db.column(owners)[0] == db.column(owners)[2] != "owner_of_app"
    assert db.is_valid("app.i")
    db.execute("DROP OWNED BY owner_of_app; DROP ROLE owner_of_app")


@pytest.mark.parametrize("point", ["before", "after"])
@pytest.mark.parametrize("path", ["SET search_path TO app", 'SET SESSION search_path = "app", x'])
def test_an_index_is_found_again_by_the_search_path_of_its_script(
    db: EmptyDatabase, monkeypatch: pytest.MonkeyPatch, path: str, point: str
) -> None:
    db.execute("CREATE SCHEMA app; CREATE TABLE app.a (x int); CREATE TABLE a (y int)")
    one = several(
        f"{path};\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON a (x)",
        f"{path};\nDROP INDEX CONCURRENTLY i;",
    )
    real = _NonTransactionalStatement.run

    def run_and_die(self: _NonTransactionalStatement, **arguments: Any) -> None:
        if point == "after":
            real(self, **arguments)
        raise KeyboardInterrupt

    def interrupt(command: Callable[[], object]) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(_NonTransactionalStatement, "run", run_and_die)
            with pytest.raises(KeyboardInterrupt):
                command()

    operations = make_operations(db, one)
    interrupt(lambda: operations.up(soon()))
    make_operations(db, one).up(soon())
    assert (db.is_valid("app.i"), db.states()) == (True, {1: "applied"})
    interrupt(lambda: operations.down(soon(), to=0))
    make_operations(db, one).down(soon(), to=0)
    assert (db.has("app.i"), db.states()) == (False, {})


FAILING = "UPDATE counter SET n = n + 1;\nCREATE INDEX CONCURRENTLY i ON orders (id);\n  {};\n"


@pytest.mark.parametrize(
    "wrong", ["INSERT INTO nothing VALUES (1)", "CREATE INDEX CONCURRENTLY j ON orders (nothing)"]
)
def test_after_a_failure_the_corrected_file_continues_where_it_stopped(
    shop: EmptyDatabase, wrong: str
) -> None:
    report = r"(?s)0001_m\.sql:5.*statement 3 of 3: those before it are committed"
    with pytest.raises(MigrationFailed, match=report):
        make_operations(shop, several(FAILING.format(wrong))).up(soon())
    assert shop.execute(STATE) == [[1, 0, "it", "ok"]]
    corrected = several(FAILING.format("CREATE TABLE more ()"), "DROP TABLE more; SELECT 1")
    assert make_operations(shop, corrected).up(soon()) == ("0001_m",)
    assert (shop.execute(STATE), shop.has("more")) == ([[1, 0, "it", "ok"]], True)
    [row] = shop.history()
    assert (row.checksum, row.down) == (corrected.checksum, corrected.down)


def test_a_statement_in_a_transaction_is_complete_once_it_is_committed(shop: EmptyDatabase) -> None:
    script = "UPDATE counter SET n = n + 1;\nSELECT {};\nSELECT 3"
    for _ in range(2):
        with pytest.raises(MigrationFailed):
            make_operations(shop, several(script.format("1/0"))).up(soon())
        assert shop.execute(STATE) == [[1, 0, None, "ok"]]
    make_operations(shop, several(script.format("2"))).up(soon())
    assert (shop.execute(STATE), shop.states()) == ([[1, 0, None, "ok"]], {1: "applied"})


def test_statements_that_have_run_must_stay_in_the_corrected_file(shop: EmptyDatabase) -> None:
    with pytest.raises(MigrationFailed):
        make_operations(shop, several(FAILING.format("SELECT 1/0"))).up(soon())
    changed = several(FAILING.format("SELECT 1").replace("n + 1", "n + 2"))
    with pytest.raises(MigrationFailed, match="its first 2 statements are committed"):
        make_operations(shop, changed).up(soon())
    assert shop.execute(STATE) == [[1, 0, "it", "ok"]]


def test_a_failure_of_the_first_statement_leaves_no_row(shop: EmptyDatabase) -> None:
    for first in ("SELECT 1/0", "CREATE INDEX CONCURRENTLY i ON nothing (id)"):
        with pytest.raises(MigrationFailed):
            make_operations(shop, several(f"{first}; SELECT 1")).up(soon())
        assert shop.states() == {}
    make_operations(shop, several("SELECT 1; SELECT 2", "SELECT 1/0; SELECT 1")).up(soon())
    with pytest.raises(MigrationFailed):
        make_operations(shop).down(soon(), to=0)
    assert shop.states() == {1: "applied"}


def test_a_statement_whose_outcome_is_unknown_is_named(shop: EmptyDatabase) -> None:
    shop.execute("CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN COMMIT; RAISE 'no'; END $$")
    one = several("UPDATE counter SET n = n + 1;\nCALL p();\nSELECT 1")
    for _ in range(2):
        with pytest.raises(RepairRequired, match=r"(?s)statement 2 of 3, line 4 .*whole script"):
            make_operations(shop, one).up(soon())
    assert shop.execute(STATE) == [[1, 0, None, "ok"]]


def test_a_commit_before_a_concurrent_build_is_ignored(shop: EmptyDatabase) -> None:
    one = several(
        "UPDATE counter SET n = n + 1;\nCOMMIT;\nCREATE INDEX CONCURRENTLY i ON orders (id)"
    )
    make_operations(shop, one).up(soon())
    assert (shop.execute(STATE), shop.states()) == ([[1, 0, "it", "ok"]], {1: "applied"})


def test_a_script_with_only_settings_is_applied(db: EmptyDatabase) -> None:
    db.apply(several("SET a.b = 1; SET a.c = 2"))
    assert db.states() == {1: "applied"}


def test_a_single_statement_below_settings_is_found_again(shop: EmptyDatabase) -> None:
    """The row in doubt concerns the statement, and not the SET above it."""
    one = several("SET lock_timeout = 0; CREATE INDEX CONCURRENTLY i ON orders (id)")
    make_operations(shop, one).up(soon())
    assert (shop.is_valid("i"), shop.states()) == (True, {1: "applied"})
