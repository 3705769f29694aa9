"""A script is sent as written, stays in its transaction, and leaves no session state."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from lambda_migrate.errors import MigrationFailed, RepairRequired
from lambda_migrate.migrations import Migration
from lambda_migrate.migrations.migration import Script
from lambda_migrate.postgresql import transactional

from .dry_runs import open_dry_run
from .empty_database import EmptyDatabase, Running, migration, soon, until

# --- its own transaction


@pytest.mark.parametrize(
    "control",
    [
        "BEGIN",
        "START TRANSACTION",
        "COMMIT",
        "END",
        "ROLLBACK",
        "ABORT",
        "COMMIT AND CHAIN",
        "PREPARE TRANSACTION 'x'",
        "ROLLBACK PREPARED 'x'",
        "/* hidden */ Commit",
    ],
)
def test_a_script_that_controls_its_transaction_is_refused_before_it_runs(
    db: EmptyDatabase, control: str
) -> None:
    script = f"CREATE TABLE a ();\n\n{control};\nCREATE TABLE b ()"
    with pytest.raises(MigrationFailed, match=r"migrations/0001_m\.sql:6: ") as failed:
        db.apply(migration(script, line=4))
    assert failed.value.migration == "0001_m"
    assert (db.has("a"), db.has("b"), db.versions()) == (False, False, [])


_PROCEDURE = "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$; CALL p()"


@pytest.mark.parametrize("inner", ["DO $$ BEGIN COMMIT; END $$", _PROCEDURE])
def test_a_commit_inside_a_block_is_refused_by_postgresql(
    each_db: EmptyDatabase, inner: str
) -> None:
    with pytest.raises(MigrationFailed) as failed:
        each_db.apply(migration(f"CREATE TABLE a (); {inner}"))
    assert failed.value.sqlstate == "2D000"
    assert (each_db.has("a"), each_db.versions()) == (False, [])


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE a (); COMMIT",
        "CREATE TABLE a (); COMMIT; BEGIN; CREATE TABLE b ()",
        "CREATE TABLE a (); COMMIT AND CHAIN",
        "CREATE TABLE a (); ROLLBACK",
        "CREATE TABLE a (); ROLLBACK; BEGIN",
    ],
)
def test_a_script_that_fools_the_lexer_gets_no_history_row(
    db: EmptyDatabase, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(transactional, "check_script", lambda _script, **_more: [])
    with db.holder() as session:
        with pytest.raises(RepairRequired, match=r"ended its transaction.* repair 1 --as"):
            session.apply(migration(script), "d", soon())
        assert session.read_history() == []
        session.apply(migration("SELECT 1", 2), "d", soon())
    assert db.versions() == [2]
    assert not db.has("b")


def test_a_down_script_that_fools_the_lexer_keeps_its_history_row(
    db: EmptyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.apply(migration("SELECT 1", down="SELECT 1; COMMIT"))
    (row,) = db.history()
    monkeypatch.setattr(transactional, "check_script", lambda _script, **_more: [])
    with db.holder(2) as session, pytest.raises(RepairRequired):
        session.roll_back(row, soon())
    assert db.versions() == [1]


def test_savepoints_are_the_scripts_own(db: EmptyDatabase) -> None:
    db.apply(
        migration(
            "CREATE TABLE a (); SAVEPOINT s; CREATE TABLE b (); ROLLBACK TO SAVEPOINT s;"
            " SAVEPOINT again; CREATE TABLE c (); RELEASE again"
        )
    )
    assert [db.has(name) for name in "abc"] == [True, False, True]


def test_a_transaction_block_around_the_whole_script_changes_nothing(db: EmptyDatabase) -> None:
    block = "-- AlterEnum\nBEGIN;\nCREATE TABLE a ();\nCREATE TABLE b ({});\nCOMMIT;\n"
    with pytest.raises(MigrationFailed, match=r"migrations/0001_m\.sql:4:19") as failed:
        db.apply(migration(block.format("x nothing")))
    assert 'type "nothing" does not exist' in failed.value.cause
    assert (db.has("a"), db.versions()) == (False, [])
    db.apply(migration(block.format(""), down="BEGIN; DROP TABLE a, b; COMMIT"), fence=2)
    with db.holder(3) as session:
        session.roll_back(db.history()[0], soon())
    assert (db.has("a"), db.versions()) == (False, [])


@pytest.mark.parametrize(
    ("script", "place"),
    [
        ("SELECT 1;\nSELECT 'a;\n", "2:8: this string"),
        ('SELECT 1 AS "a', "1:13: this quoted identifier"),
        ("DO $x$ BEGIN END $$", "1:4: this dollar quote"),
        ("SELECT 1 /* b", "1:10: this comment"),
        ("SELECT (1", "1:8: this parenthesis"),
        ("SELECT 1 AS", "1:12"),
        ("SELECT 1;\nCREATE TABLE a\n-- to be done\n", "3:14"),
    ],
)
def test_an_incomplete_script_is_reported_at_its_own_place(
    db: EmptyDatabase, script: str, place: str
) -> None:
    with pytest.raises(MigrationFailed) as failed:
        db.apply(migration(script))
    assert f"migrations/0001_m.sql:{place}" in failed.value.detail
    assert "CONSTRAINTS" not in failed.value.detail, "the library's own SQL"


# --- what it leaves in the session

_LEFT_BEHIND = {
    "search_path": "CREATE SCHEMA s; SET search_path = s",
    "role": "SET ROLE pg_monitor",
    "authorization": "CREATE ROLE {role}; SET SESSION AUTHORIZATION {role}",
    "strings": "SET standard_conforming_strings = off",
    "encoding": "SET client_encoding = 'LATIN1'",
    "prepared": "PREPARE q AS SELECT 1",
    "listen": "LISTEN news",
    "temporary": "CREATE TEMP TABLE t (x int); INSERT INTO t VALUES (1)",
    "advisory": "SELECT pg_advisory_lock(42)",
    "cursor": "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "timeout": "SET statement_timeout = 0; SET lock_timeout = 0",
    "read only": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "isolation": "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "name": "SET application_name = 'disguised'",
    "datestyle": "SET datestyle = 'German'; SET timezone = 'Asia/Tokyo'",
    "sequence": "CREATE SEQUENCE n; SELECT nextval('n')",
    "replica": "SET session_replication_role = replica",
}

_SESSION = """
    CREATE TABLE public.seen AS SELECT
        current_setting('search_path') AS p, current_user = session_user AS same,
        current_setting('standard_conforming_strings') AS s,
        current_setting('client_encoding') AS e,
        (SELECT count(*) FROM pg_prepared_statements) AS q,
        (SELECT count(*) FROM pg_listening_channels()) AS l,
        to_regclass('pg_temp.t') AS t, (SELECT count(*) FROM pg_cursors) AS c,
        (SELECT count(*) FROM pg_locks
         WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid = 42) AS a,
        current_setting('lock_timeout') AS lt, current_setting('statement_timeout') <> '0' AS st,
        current_setting('transaction_read_only') AS ro,
        current_setting('transaction_isolation') AS i,
        current_setting('application_name') AS n, current_setting('session_replication_role') AS r
"""
_CLEAN = [
    '"$user", public', True, "on", "UTF8", 0, 0, None, 0, 0, "200ms", True, "off",
    "read committed", "lambda-migrate:shop:1", "origin",
]  # fmt: skip


@pytest.mark.parametrize("left", list(_LEFT_BEHIND))
def test_session_state_reaches_neither_our_row_nor_the_next_migration(
    db: EmptyDatabase, left: str
) -> None:
    role = f"left_{db.address.database}"
    down = "SELECT 'back\\slash', 'größe ✓', '\\'';"
    with db.holder() as session:
        session.apply(migration(_LEFT_BEHIND[left].format(role=role), down=down), "d", soon())
        session.apply(migration(_SESSION, 2), "d", soon())
        first, second = session.read_history()
    assert db.execute("SELECT * FROM public.seen") == [_CLEAN]
    assert first.down is not None
    assert first.down.sql == down
    assert second.started_at.endswith("Z")
    db.execute(f"DROP ROLE IF EXISTS {role}")


@pytest.mark.parametrize("left", ["prepared", "advisory", "temporary", "search_path", "encoding"])
def test_session_state_of_a_failed_script_is_reset_too(db: EmptyDatabase, left: str) -> None:
    with db.holder() as session:
        with pytest.raises(MigrationFailed):
            session.apply(migration(_LEFT_BEHIND[left] + "; SELECT 1/0"), "d", soon())
        session.apply(migration(_SESSION, 2), "d", soon())
    assert db.execute("SELECT * FROM public.seen") == [_CLEAN]


# --- as written

_AS_WRITTEN = {
    "dollar quotes": ("SELECT $a$it's; $$ -- $a$", "it's; $$ -- "),
    "dollar parameter": ("SELECT '$1 and $2'", "$1 and $2"),
    "percent": ("SELECT '100 % %s %(x)s %%'", "100 % %s %(x)s %%"),
    "colons": ("SELECT ':name :1' || '5'::text", ":name :15"),
    "slices": ("SELECT (ARRAY['a','b','c'])[1:2]::text", "{a,b}"),
    "question": ("SELECT ('{\"a\":1}'::jsonb ? 'a')::text", "true"),
    "backslash": (r"SELECT 'C:\new\' ", "C:\\new\\"),
    "escapes": (r"SELECT E'it\'s\tü\\'", "it's\tü\\"),
    "unicode escape": (r"SELECT U&'d\0061t\+000061'", "data"),
    "continued": ("SELECT 'a'\n  'b'", "ab"),
    "semicolon": ("SELECT ';' /* ; /* ; */ */ -- ;", ";"),
    "non-ascii": ("SELECT 'größe 漢字 😀'", "größe 漢字 😀"),
    "carriage return": ("SELECT 'a\r\nb'", "a\r\nb"),
}


@pytest.mark.parametrize("name", list(_AS_WRITTEN))
def test_a_script_reaches_the_server_as_written(db: EmptyDatabase, name: str) -> None:
    script, value = _AS_WRITTEN[name]
    db.apply(migration(f"CREATE TABLE t AS SELECT x FROM ({script}\n) AS s (x)"))
    assert db.column("SELECT x FROM t") == [value]


def test_names_may_be_of_any_language(each_db: EmptyDatabase) -> None:
    each_db.apply(migration('CREATE TABLE größe ("naïve ""col""" int); CREATE TABLE "漢字" ()'))
    assert each_db.has('"größe"')
    assert each_db.has('"漢字"')


def test_functions_and_blocks_of_every_kind_apply(each_db: EmptyDatabase) -> None:
    each_db.apply(
        migration(
            """
            CREATE FUNCTION one() RETURNS int LANGUAGE sql
                BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END;
            CREATE FUNCTION two() RETURNS int LANGUAGE plpgsql AS $body$
                BEGIN RETURN 2; END; $body$;
            DO $$ BEGIN EXECUTE 'CREATE TABLE made ()'; END $$;;
            ;; -- nothing
            """
        )
    )
    assert each_db.execute("SELECT one(), two()") == [[1, 2]]
    assert each_db.has("made")


@pytest.mark.parametrize("end", ["", ";", "; -- no newline", "; /* the end */", ";;;", "\n\n"])
def test_a_script_may_end_as_it_likes(db: EmptyDatabase, end: str) -> None:
    db.apply(migration(f"CREATE TABLE t (){end}"))
    assert db.has("t")


def test_a_script_of_5_mb_applies(each_db: EmptyDatabase) -> None:
    rows = ",".join(f"({n}, '{'ü' * 40}')" for n in range(60_000))
    script = f"CREATE TABLE t (n int, s text); INSERT INTO t VALUES {rows}"
    assert len(script.encode()) > 5_000_000
    each_db.apply(migration(script))
    assert each_db.column("SELECT count(*) FROM t") == [60_000]


@pytest.mark.parametrize("character", ["\0", "\ud83d"])
@pytest.mark.parametrize("non_transactional", [False, True])
def test_what_cannot_be_sent_is_refused_with_its_place(
    db: EmptyDatabase, character: str, non_transactional: bool
) -> None:
    bad = Migration(
        1,
        "0001_m",
        Script(f"SELECT\n'{character}'", 3, not non_transactional),
        None,
        "c",
        "m/0001_m.sql",
    )
    with pytest.raises(MigrationFailed, match=r"m/0001_m\.sql:4: .* at offset 8"):
        db.apply(bad)
    assert db.versions() == []


def test_a_down_script_that_cannot_be_stored_is_refused_before_anything_runs(
    db: EmptyDatabase,
) -> None:
    bad = Migration(
        1, "0001_m", Script("CREATE TABLE t ()"), Script("SELECT '\0'", 5), "c", "m/0001_m.sql"
    )
    with pytest.raises(MigrationFailed, match=r"m/0001_m\.sql:5: a NUL at offset 8"):
        db.apply(bad)
    assert not db.has("t")


# --- what PostgreSQL says meanwhile

RAISE = "DO $$ BEGIN RAISE {level} '{text}'; END $$"
WARN = RAISE.format(level="WARNING", text="3 orders were skipped")
SKIPPED = ("WARNING", "3 orders were skipped")


@pytest.mark.parametrize("non_transactional", [False, True])
def test_warnings_of_either_kind_of_script_are_kept_for_their_own_migration(
    db: EmptyDatabase, non_transactional: bool
) -> None:
    with db.holder() as session:
        up = migration(
            WARN,
            down=WARN,
            non_transactional=non_transactional,
            down_non_transactional=non_transactional,
        )
        session.apply(up, "d", soon())
        assert session.take_notices() == (SKIPPED,)
        assert session.take_notices() == ()
        session.roll_back(session.read_history()[0], soon())
        assert session.take_notices() == (SKIPPED,)
        session.apply(migration("SELECT 1", 2), "d", soon())
        assert session.take_notices() == ()


def test_the_warnings_of_several_statements_outside_a_transaction_are_all_kept(
    db: EmptyDatabase,
) -> None:
    with db.holder() as session:
        session.apply(migration(f"{WARN}; SELECT 1; {WARN}", non_transactional=True), "d", soon())
        assert session.take_notices() == (SKIPPED, SKIPPED)


def test_a_script_that_is_repeated_after_a_lock_timeout_warns_once(db: EmptyDatabase) -> None:
    db.execute("CREATE TABLE t ()")
    with db.connect() as other, db.holder() as session:
        other.run("BEGIN; LOCK t")
        running = Running(
            lambda: session.apply(migration(f"{WARN}; LOCK t IN SHARE MODE"), "d", soon())
        )
        until(lambda: db.execute("SELECT 1 FROM pg_locks WHERE NOT granted"))
        until(lambda: not db.execute("SELECT 1 FROM pg_locks WHERE NOT granted"))
        other.run("COMMIT")
        assert isinstance(running.outcome(), int)
        assert session.take_notices() == (SKIPPED,)


def test_a_notice_has_its_detail_and_hint_on_one_line_without_passwords(db: EmptyDatabase) -> None:
    with db.holder() as session:
        script = (
            "CREATE TABLE t (); DROP TABLE IF EXISTS u; CREATE VIEW v AS TABLE t; "
            "CREATE VIEW w AS TABLE t; DROP TABLE t CASCADE; DO $$ BEGIN "
            "RAISE WARNING 'password=hunter2' USING HINT = E'look\nthere'; END $$"
        )
        session.apply(migration(script), "d", soon())
        assert session.take_notices() == (
            ("NOTICE", 'table "u" does not exist, skipping'),
            (
                "NOTICE",
                "drop cascades to 2 other objects; detail: drop cascades to view v drop cascades "
                "to view w",
            ),
            ("WARNING", "password=***; hint: look there"),
        )


def test_notices_are_bounded_and_no_warning_is_lost_for_a_notice(db: EmptyDatabase) -> None:
    script = f"""DO $$ BEGIN
        FOR n IN 1..500 LOOP RAISE NOTICE '%', n; END LOOP;
        RAISE WARNING '%', repeat('x', 8000000);
    END $$; {WARN}"""
    with db.holder() as session:
        session.apply(migration(script), "d", soon())
        *first, long, warning, rest = session.take_notices()
    assert first == [("NOTICE", str(n)) for n in range(1, 19)]
    assert long == ("WARNING", "x" * 499 + "…")
    assert warning == SKIPPED
    assert rest == ("NOTICE", "482 more messages were left out")


def test_the_notices_of_a_failed_script_are_kept(db: EmptyDatabase) -> None:
    with db.holder() as session:
        with pytest.raises(MigrationFailed):
            session.apply(migration(f"{WARN}; SELECT 1/0"), "d", soon())
        assert session.take_notices() == (SKIPPED,)


def test_the_notices_of_a_dry_run_are_kept(db: EmptyDatabase) -> None:
    with open_dry_run(db) as dry_run:
        dry_run.run_migration(migration(WARN), soon())
        assert dry_run.take_notices() == (SKIPPED,)
        dry_run.roll_back()


# --- what it answers

_SELECT = "SELECT repeat('x', 20) || n FROM generate_series(1, {n}) n"
_ANSWERS = {
    "select": _SELECT,
    "several": f"{_SELECT}; {_SELECT}; SELECT 1",
    "returning": f"CREATE TABLE t (x text); INSERT INTO t {_SELECT} RETURNING x",
    "execute": f"PREPARE q AS {_SELECT}; EXECUTE q",
    "fetch": f"DECLARE c CURSOR FOR {_SELECT}; FETCH ALL FROM c",
    "notices": "DO $$ BEGIN FOR n IN 1..{n} LOOP RAISE NOTICE '%', n; END LOOP; END $$",
    "a long row": "SELECT repeat('x', 100 * {n})",
    "a long notice": "DO $$ BEGIN RAISE NOTICE '%', repeat('x', 100 * {n}); END $$",
}
"""Scripts whose answer has {n} rows, or {n} times 100 bytes."""


def _apply(db: EmptyDatabase, script: str) -> None:
    db.apply(migration(script))


def _fail(db: EmptyDatabase, script: str) -> None:
    with pytest.raises(MigrationFailed, match="P0001"):
        db.apply(migration(script))


def _apply_non_transactional(db: EmptyDatabase, script: str) -> None:
    db.apply(migration(script, non_transactional=True))


def _roll_back(db: EmptyDatabase, script: str) -> None:
    with db.holder() as session:
        session.apply(migration("SELECT 1", down=script), "d", soon())
        session.roll_back(session.read_history()[0], soon())


def _roll_back_non_transactional(db: EmptyDatabase, script: str) -> None:
    with db.holder() as session:
        session.apply(migration("SELECT 1", down=script, down_non_transactional=True), "d", soon())
        session.roll_back(session.read_history()[0], soon())


def _dry_run(db: EmptyDatabase, script: str) -> None:
    with open_dry_run(db) as dry_run:
        dry_run.run_migration(migration(script), soon())
        dry_run.roll_back()


def _peak(call: Callable[[EmptyDatabase, str], None], db: EmptyDatabase, script: str) -> int:
    """The most bytes that Python had allocated at any moment of a call."""
    db.execute(
        "SET client_min_messages = error;"
        " DROP SCHEMA IF EXISTS lambda_migrate CASCADE; DROP TABLE IF EXISTS t"
    )
    tracemalloc.start()
    try:
        call(db, script)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _growth(call: Callable[[EmptyDatabase, str], None], db: EmptyDatabase, script: str) -> float:
    """Memory for 100,000 rows (or 10 MB) against memory for 2,000."""
    few, many = script.format(n=2_000), script.format(n=100_000)
    call(db, few)  # what is loaded only once belongs to neither
    base = _peak(call, db, few)
    return _peak(call, db, many) / base


@pytest.mark.parametrize("answer", list(_ANSWERS))
def test_memory_does_not_grow_with_what_a_script_returns(db: EmptyDatabase, answer: str) -> None:
    assert _growth(_apply, db, _ANSWERS[answer]) < 2


def test_memory_does_not_grow_with_an_error(db: EmptyDatabase) -> None:
    script = "DO $$ BEGIN RAISE EXCEPTION 'no' USING DETAIL = repeat('x', 100 * {n}); END $$"
    assert _growth(_fail, db, script) < 2


@pytest.mark.parametrize(
    "call", [_apply_non_transactional, _roll_back, _roll_back_non_transactional, _dry_run]
)
@pytest.mark.parametrize("answer", ["select", "a long row"])
def test_memory_does_not_grow_however_a_script_is_run(
    db: EmptyDatabase, answer: str, call: Callable[[EmptyDatabase, str], None]
) -> None:
    assert _growth(call, db, _ANSWERS[answer]) < 2


def test_an_error_of_megabytes_is_truncated_visibly(db: EmptyDatabase) -> None:
    script = """
        DO $$ DECLARE long text := repeat('x', 8000000); BEGIN
            EXECUTE format(
                'DO $do$ BEGIN RAISE EXCEPTION ''no %s'' USING DETAIL = %L, HINT = %L; END $do$',
                long, long, long);
        END $$"""
    with pytest.raises(MigrationFailed, match="no x") as failed:
        db.apply(migration(script))
    lines = str(failed.value).splitlines()
    assert max(len(line) for line in lines) < 5_000
    assert sum(line.endswith("[...]") for line in lines) == 3
