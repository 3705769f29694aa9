"""A migration and its history row commit together or not at all, and its errors are explained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.database_address import parse_url
from lambda_migrate.errors import (
    DatabaseUnavailable,
    LeaseLost,
    MigrationFailed,
    RepairRequired,
)
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.migrations import Migration, RowState, Script
from lambda_migrate.migrations.version import RepeatableVersion
from lambda_migrate.postgresql.connection import ConnectionLost
from lambda_migrate.testing import FakeClock

from .empty_database import NEWEST, TIMEOUT_SECONDS, EmptyDatabase, Running, migration, soon, until
from .proxy import Proxy, connect_through

INCREMENT = "UPDATE counter SET n = n + 1"


def _counter(db: EmptyDatabase) -> int:
    return int(db.column("SELECT n FROM counter")[0])


@pytest.fixture
def counting(db: EmptyDatabase) -> EmptyDatabase:
    db.execute("CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)")
    return db


def test_effects_and_history_row_commit_together(each_db: EmptyDatabase) -> None:
    each_db.apply(migration("CREATE TABLE a (x int); INSERT INTO a VALUES (1), (2)"))
    assert each_db.column("SELECT count(*) FROM a") == [2]
    (row,) = each_db.history()
    assert (row.version, row.name, row.state.value, row.digest) == (
        1,
        "0001_m",
        "applied",
        "digest-1",
    )


def test_a_failed_migration_leaves_no_effects_and_no_row(each_db: EmptyDatabase) -> None:
    with pytest.raises(MigrationFailed) as failed:
        each_db.apply(migration("CREATE TABLE a (); SELECT 1/0"))
    assert failed.value.sqlstate == "22012"
    assert (each_db.has("a"), each_db.versions()) == (False, [])


def test_after_a_failure_the_next_one_applies_on_the_same_connection(db: EmptyDatabase) -> None:
    with db.holder() as session:
        with pytest.raises(MigrationFailed):
            session.apply(migration("CREATE TABLE a (); SELECT nothing"), "d", soon())
        session.apply(migration("CREATE TABLE b ()", 2), "d", soon())
    assert (db.has("a"), db.has("b"), db.versions()) == (False, True, [2])


def test_a_migration_applies_once_however_often_it_is_requested(counting: EmptyDatabase) -> None:
    one = migration(INCREMENT)
    counting.apply(one)
    with pytest.raises(MigrationFailed) as failed:
        counting.apply(one, fence=2)
    assert (failed.value.sqlstate, _counter(counting)) == ("23505", 1)
    assert " | " not in str(failed.value), "no line of the script is to blame"


# --- how a failure reads


def _get_report(db: EmptyDatabase, script: str, *, line: int = 1) -> str:
    with pytest.raises(MigrationFailed) as failed:
        db.apply(migration(script, line=line))
    return str(failed.value)


@pytest.mark.parametrize(
    ("script", "word", "place"),
    [
        ("SELECT missing", "missing", "4:8"),
        ("SELECT 1;\n\n\tSELECT 1,\tmissing", "missing", "6:12"),
        ("SELECT 'größe ✓', missing", "missing", "4:19"),
        ("SELECT '漢字', missing", "missing", "4:14"),
        ("SELECT '😀', missing", "missing", "4:13"),
        ("CREATE TABLE t ();\r\nSELECT missing", "missing", "5:8"),
        ("SELECT 1 FRM t", "t", "4:14"),
    ],
)
def test_the_caret_is_below_the_fault(
    db: EmptyDatabase, script: str, word: str, place: str
) -> None:
    lines = _get_report(db, script, line=4).splitlines()
    assert lines[1] == f"  migrations/0001_m.sql:{place}"
    shown, caret = lines[2], lines[3]
    wide = sum(c in "漢字😀" for c in shown[: shown.rindex(word)])
    assert caret.rstrip() == " " * (shown.rindex(word) + wide) + "^"


def test_an_error_without_a_position_names_its_statement(db: EmptyDatabase) -> None:
    report = _get_report(db, "SELECT 1;\n-- why\nSELECT 2;\n\nSELECT 1 / 0;\nSELECT 3", line=10)
    assert "migrations/0001_m.sql:14\n" in report
    assert "14 | SELECT 1 / 0" in report
    assert "^" not in report


def test_detail_hint_and_next_step_are_reported(db: EmptyDatabase) -> None:
    db.execute("CREATE TABLE t (x int UNIQUE); INSERT INTO t VALUES (5)")
    report = _get_report(db, "INSERT INTO t VALUES (5)")
    assert "[23505]" in report
    assert "detail: Key (x)=(5) already exists." in report
    assert "hint: Perhaps you meant" in _get_report(db, "SELECT xx FROM (SELECT 1 AS xy) s")
    assert "lambda-migrate baseline" in _get_report(db, "CREATE TABLE t ()")


def test_a_password_in_a_failing_line_is_hidden(db: EmptyDatabase) -> None:
    report = _get_report(db, "CREATE ROLE r PASSWORD 'hush' NONSENSE")
    assert "hush" not in report


def test_a_script_may_not_choose_its_isolation(db: EmptyDatabase) -> None:
    """Neither in plain sight, which the check of scripts sees, nor hidden from it."""
    level = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"
    assert "write `isolation:serializable` on the marker" in _get_report(db, level)
    report = _get_report(db, f"DO $$ BEGIN EXECUTE '{level}'; END $$")
    assert "[25001]" in report
    assert "write `isolation:serializable`" in report
    assert "transaction:false" not in report


def test_a_violated_deferred_constraint_is_reported_and_nothing_is_committed(
    each_db: EmptyDatabase,
) -> None:
    each_db.execute(
        "CREATE TABLE p (id int PRIMARY KEY);"
        "CREATE TABLE c (p int REFERENCES p DEFERRABLE INITIALLY DEFERRED)"
    )
    with pytest.raises(MigrationFailed) as failed:
        each_db.apply(migration("INSERT INTO c VALUES (1)"))
    assert failed.value.sqlstate == "23503"
    assert (each_db.column("SELECT count(*) FROM c"), each_db.versions()) == ([0], [])


def test_deferred_triggers_run_in_the_session_as_the_script_left_it(db: EmptyDatabase) -> None:
    db.execute(
        "CREATE SCHEMA app; CREATE TABLE app.log (said text);"
        "CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO log VALUES ('ran'); RETURN NULL; END $$;"
        "CREATE TABLE app.t (x int); CREATE CONSTRAINT TRIGGER g AFTER INSERT ON app.t"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.note()"
    )
    db.apply(migration("SET search_path = app; INSERT INTO t VALUES (1)"))
    assert db.column("SELECT said FROM app.log") == ["ran"]


def test_a_constraint_of_the_users_is_not_taken_for_ours(db: EmptyDatabase) -> None:
    """A column called ``state`` that refuses NULL says nothing of transactions."""
    db.execute(
        "CREATE TABLE history (state text NOT NULL); CREATE TABLE t (x int);"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO history VALUES (NULL); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER g AFTER INSERT ON t"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()"
    )
    with pytest.raises(MigrationFailed) as failed:
        db.apply(migration("INSERT INTO t VALUES (1)"))
    assert not isinstance(failed.value, RepairRequired)
    assert failed.value.sqlstate == "23502"


def test_a_temporary_table_that_waits_for_its_triggers_is_dropped_all_the_same(
    db: EmptyDatabase,
) -> None:
    db.apply(
        migration(
            "CREATE TEMP TABLE p (id int PRIMARY KEY);"
            "CREATE TEMP TABLE c (p int REFERENCES p DEFERRABLE INITIALLY DEFERRED);"
            "INSERT INTO c VALUES (1); INSERT INTO p VALUES (1)"
        )
    )
    assert db.versions() == [1]


# --- what is tried again


def test_a_released_lock_is_acquired_in_the_end(each_db: EmptyDatabase) -> None:
    each_db.execute("CREATE TABLE t (x int)")
    with each_db.connect() as other, each_db.holder() as session:
        other.run("BEGIN; LOCK t")
        alter = migration("ALTER TABLE t ADD y int")
        waiting = Running(lambda: session.apply(alter, "d", soon()))
        until(lambda: each_db.is_running("ALTER"))
        until(lambda: not each_db.is_running("ALTER"))
        other.run("ROLLBACK")
        assert isinstance(waiting.outcome(), int)
    assert each_db.versions() == [1]


def test_a_lock_that_is_never_released_is_the_cause_at_the_deadline(db: EmptyDatabase) -> None:
    db.execute("CREATE TABLE t (x int)")
    with db.connect() as other, db.holder() as session:
        other.run("BEGIN; LOCK t")
        with pytest.raises(MigrationFailed) as failed:
            session.apply(migration("ALTER TABLE t ADD y int"), "d", soon(1.5))
        assert failed.value.sqlstate == "55P03"
        assert "lock timeout" in failed.value.cause
        assert "pg_locks" in str(failed.value)
    assert db.versions() == []


def test_the_lock_is_reported_even_if_the_deadline_comes_first(db: EmptyDatabase) -> None:
    """``statement_timeout`` would else fire first and hide what was waited for."""
    db.execute("CREATE TABLE t (x int)")
    with db.connect() as other, db.holder(lock_timeout_seconds=60) as session:
        other.run("BEGIN; LOCK t")
        with pytest.raises(MigrationFailed) as failed:
            session.apply(migration("ALTER TABLE t ADD y int"), "d", soon(1.5))
    assert failed.value.sqlstate == "55P03"


@pytest.mark.parametrize(("lock_timeout", "sqlstate"), [(60, "55P03"), (0.01, "57014")])
def test_the_last_attempt_does_not_hide_the_lock_that_the_one_before_waited_for(
    db: EmptyDatabase, lock_timeout: float, sqlstate: str
) -> None:
    """Cancelled at the deadline, it may have waited too, unless ``lock_timeout`` was shorter."""
    db.execute("CREATE SEQUENCE attempts")
    script = (
        "DO $$ BEGIN IF nextval('attempts') < 3 THEN RAISE EXCEPTION 'lock' USING ERRCODE ="
        " '55P03'; END IF; PERFORM pg_sleep(60); END $$"
    )
    with (
        db.holder(lock_timeout_seconds=lock_timeout) as session,
        pytest.raises(MigrationFailed) as failed,
    ):
        session.apply(migration(script), "d", soon(2))
    assert (failed.value.sqlstate, failed.value.is_timeout) == (sqlstate, sqlstate == "57014")


def test_a_deadlock_is_tried_again(counting: EmptyDatabase) -> None:
    counting.execute("CREATE TABLE a (); CREATE TABLE b ()")
    with counting.connect() as other, counting.holder(lock_timeout_seconds=10) as session:
        other.run("SET deadlock_timeout = '60s'; BEGIN; LOCK b")
        script = f"{INCREMENT}; LOCK a; LOCK b"
        ours = Running(lambda: session.apply(migration(script), "d", soon()))
        until(lambda: counting.pids("wait_event_type = 'Lock' AND query LIKE '%LOCK b%'"))
        theirs = Running(lambda: other.run("LOCK a; COMMIT"))
        assert isinstance(ours.outcome(), int)
        theirs.outcome()
    assert (counting.versions(), _counter(counting)) == ([1], 1)


def test_a_serialization_failure_is_tried_again(counting: EmptyDatabase) -> None:
    """Raised by what the script calls: its own transaction is READ COMMITTED."""
    counting.execute("CREATE SEQUENCE tries")
    script = (
        f"{INCREMENT}; DO $$ BEGIN IF nextval('tries') < 3 THEN"
        " RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END IF; END $$"
    )
    counting.apply(migration(script))
    assert counting.column("SELECT last_value FROM tries") == [3]
    assert _counter(counting) == 1


# --- isolation levels


def _with_isolation(sql: str, isolation: str, *, down: str | None = None) -> Migration:
    one = migration(sql, down=down)
    return replace(
        one,
        up=replace(one.up, isolation=isolation),
        down=one.down and replace(one.down, isolation=isolation),
    )


@pytest.mark.parametrize("isolation", ["repeatable-read", "serializable"])
def test_a_script_has_the_isolation_level_of_its_marker_in_both_directions(
    db: EmptyDatabase, isolation: str
) -> None:
    db.execute("CREATE TABLE seen (level text)")
    note = "INSERT INTO seen SELECT current_setting('transaction_isolation')"
    db.apply(_with_isolation(note, isolation, down=f"SELECT 1;\n{note}"))
    [row] = db.history()
    assert row.down is not None
    assert row.down == Script(f"SELECT 1;\n{note}", row.down.line, isolation=isolation)
    with db.holder(2) as session:
        session.roll_back(row, soon())
    assert db.column("SELECT level FROM seen") == [isolation.replace("-", " ")] * 2


@pytest.mark.parametrize("isolation", ["repeatable-read", "serializable"])
def test_a_takeover_that_commits_after_the_snapshot_is_seen(
    db: EmptyDatabase, isolation: str
) -> None:
    """The holder's snapshot holds the fence row as it was before the takeover."""
    with db.holder(lock_timeout_seconds=TIMEOUT_SECONDS) as session, db.connect() as other:
        other.run(
            "BEGIN; UPDATE lambda_migrate.fence SET token = 2, owner = 'successor'",
            timeout=TIMEOUT_SECONDS,
        )
        applying = Running(
            lambda: session.apply(_with_isolation("CREATE TABLE a ()", isolation), "d", soon())
        )
        until(lambda: db.pids("wait_event_type = 'Lock' AND query LIKE '%CREATE TABLE a%'"))
        other.run("COMMIT", timeout=TIMEOUT_SECONDS)
        assert isinstance(applying.outcome(), LeaseLost)
    assert (db.has("a"), db.versions()) == (False, [])


@pytest.mark.parametrize("isolation", ["repeatable-read", "serializable"])
def test_a_takeover_terminates_a_script_with_a_snapshot_of_its_own(
    db: EmptyDatabase, isolation: str
) -> None:
    slow = _with_isolation("CREATE TABLE a (); SELECT pg_sleep(60)", isolation)
    with db.holder() as session:
        applying = Running(lambda: session.apply(slow, "d", soon()))
        until(lambda: db.is_running("pg_sleep"))
        db.apply(migration("CREATE TABLE b ()"), fence=2, owner="successor")
        assert isinstance(applying.outcome(), LeaseLost)
    assert (db.has("a"), db.has("b"), db.versions()) == (False, True, [1])


def test_a_conflict_with_another_writer_is_tried_again_on_a_new_snapshot(
    counting: EmptyDatabase,
) -> None:
    """The first attempt read the counter before another session changed it."""
    counting.execute("CREATE SEQUENCE tries")
    script = (
        "SELECT n FROM counter; SELECT nextval('tries'); SELECT pg_advisory_xact_lock(1);"
        f" {INCREMENT}"
    )
    with counting.holder(lock_timeout_seconds=TIMEOUT_SECONDS) as session:
        with counting.connect() as other:
            other.run("SELECT pg_advisory_lock(1)", timeout=TIMEOUT_SECONDS)
            applying = Running(
                lambda: session.apply(_with_isolation(script, "repeatable-read"), "d", soon())
            )
            until(lambda: counting.pids("wait_event = 'advisory'"))
            other.run(INCREMENT, timeout=TIMEOUT_SECONDS)
        assert isinstance(applying.outcome(), int)
    assert (counting.versions(), _counter(counting)) == ([1], 2)
    assert counting.column("SELECT last_value FROM tries") == [2]


# --- one message


def test_a_migration_is_one_message(db: EmptyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message is a round trip, in which locks are held and a holder can be frozen."""
    with db.holder() as session:
        run = session._connection.run
        sent: list[str] = []

        def record_and_run(sql: str, deadline: Deadline, **more: int) -> list[list[object]]:
            sent.append(sql)
            return run(sql, deadline, **more)

        monkeypatch.setattr(session._connection, "run", record_and_run)
        session.apply(migration("CREATE TABLE a (); CREATE TABLE b ()"), "d", soon())
        assert len(sent) == 1
    assert db.versions() == [1]


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE a ()",
        "CREATE TABLE a ();",
        "CREATE TABLE a () -- with a comment",
        "CREATE TABLE a () /* with a comment */",
        "CREATE TABLE a ();;\n;",
        "-- first\nCREATE TABLE a ()\n;\n-- last",
    ],
)
def test_a_script_may_end_as_it_likes(db: EmptyDatabase, script: str) -> None:
    db.apply(migration(script))
    assert (db.has("a"), db.versions()) == (True, [1])


@pytest.mark.parametrize(
    ("script", "place"),
    [
        ("SELECT 1;\n\nSELECT oops", r"0001_m\.sql:3:8"),
        ("CREATE SEQUENCE n;\n\nCREAT TABLE a ();", r"0001_m\.sql:3:1"),
        ("SELECT 1;\nSELECT 1/0;", r"0001_m\.sql:2\n"),
        ("SELECT 1 AS\n-- b", r"0001_m\.sql:2:5"),
        ("é;\nSELECT 1", r"0001_m\.sql:1:1"),
    ],
    ids=["unknown column", "cannot be read", "no position", "ends too early", "not ASCII"],
)
def test_an_error_has_its_position_in_the_script(
    db: EmptyDatabase, script: str, place: str
) -> None:
    with pytest.raises(MigrationFailed, match=place):
        db.apply(migration(script))
    assert (db.has("n"), db.versions()) == (False, [])


# --- the deadline


def test_one_long_statement_is_cancelled_at_the_deadline(each_db: EmptyDatabase) -> None:
    with each_db.holder() as session, pytest.raises(MigrationFailed) as failed:
        session.apply(migration("CREATE TABLE t (); SELECT pg_sleep(30)"), "d", soon(1.5))
    assert (failed.value.sqlstate, each_db.has("t")) == ("57014", False)
    assert "deadline" in failed.value.cause
    assert "longer timeout" in str(failed.value)
    assert "with `--timeout`" in str(failed.value)


def test_many_short_statements_are_cancelled_at_the_deadline(each_db: EmptyDatabase) -> None:
    """PostgreSQL 17 limits the whole transaction; before that the heartbeat's abort does."""
    script = "CREATE TABLE t ();" + "SELECT pg_sleep(0.1);" * 300
    with each_db.holder() as session:
        version = session._connection.raw_connection.server_version
        slow = Running(lambda: session.apply(migration(script), "d", soon(1.5)))
        if version < 170000:
            until(lambda: each_db.is_running("pg_sleep"))
            session.abort()
        error = slow.outcome()
    if version >= 170000:
        assert isinstance(error, MigrationFailed)
        assert (error.sqlstate, "deadline" in error.cause) == ("25P04", True)
    until(lambda: not each_db.is_running("pg_sleep"))
    assert (each_db.has("t"), each_db.versions()) == (False, [])


def test_nothing_begins_after_the_deadline(db: EmptyDatabase) -> None:
    with db.holder() as session, pytest.raises(MigrationFailed, match=r"0001_m.*deadline"):
        session.apply(migration("CREATE TABLE t ()"), "d", soon(0))
    assert db.versions() == []


def test_no_row_of_ours_is_written_after_the_deadline(db: EmptyDatabase) -> None:
    clock = FakeClock()
    one = migration("SELECT 1")
    with db.holder(deadline=Deadline.after(TIMEOUT_SECONDS, clock)) as session:
        clock.advance(TIMEOUT_SECONDS)
        with pytest.raises(DatabaseUnavailable, match="deadline"):
            session.record_applied([(one, "d")], baseline=False)
    assert db.versions() == []


def test_a_lock_on_our_tables_is_not_a_failure_of_a_migration(db: EmptyDatabase) -> None:
    with db.holder() as session, db.connect() as other:
        session.apply(migration("CREATE TABLE t ()"), "d", soon())
        other.run("BEGIN; LOCK TABLE lambda_migrate.fence", timeout=TIMEOUT_SECONDS)
        with pytest.raises(DatabaseUnavailable, match=r"tables could not be used.*55P03"):
            session.delete_rows([1])


def test_no_commit_begins_when_the_deadline_came_inside_the_transaction(db: EmptyDatabase) -> None:
    one = migration("SELECT 1")
    with db.holder() as session:
        connection = session._connection
        connection.begin(soon())
        with pytest.raises(DatabaseUnavailable, match="deadline"):
            connection.commit(
                connection.queries.insert_applied(one, "d", connection.grant), soon(0)
            )
    assert db.versions() == []


def test_no_script_begins_when_reconnecting_took_the_time_that_was_left(
    db: EmptyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would not stop it: each of its statements may be shorter than a millisecond."""
    clock = FakeClock()
    with db.holder() as session:
        reconnect = session._connection.reconnect

        def slow(deadline: Deadline) -> None:
            reconnect(deadline)
            clock.advance(TIMEOUT_SECONDS)

        monkeypatch.setattr(session._connection, "reconnect", slow)
        db.terminate(session._connection.raw_connection.pid)
        with pytest.raises(DatabaseUnavailable, match="deadline"):
            session.apply(
                migration("CREATE TABLE t ()"), "d", Deadline.after(TIMEOUT_SECONDS, clock)
            )
    assert (db.has("t"), db.versions()) == (False, [])


def test_the_server_enforces_its_own_time_limits(each_db: EmptyDatabase) -> None:
    names = (
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "client_connection_check_interval",
    )
    shown = ", ".join(f"current_setting('{name}') AS {name}" for name in names)
    each_db.apply(migration(f"CREATE TABLE limits AS SELECT {shown}"))
    assert each_db.execute("SELECT * FROM limits") == [["200ms", "10s", "1s"]]


# --- lost connections


@pytest.mark.parametrize("deliver", [True, False], ids=["answer lost", "commit lost"])
def test_a_commit_in_doubt_takes_effect_once(counting: EmptyDatabase, deliver: bool) -> None:
    one = migration(INCREMENT)
    with (
        Proxy(counting.address, needle=one.checksum.encode(), deliver=deliver) as proxy,
        counting.holder(**connect_through(proxy)) as session,
    ):
        assert isinstance(session.apply(one, "d", soon()), int)
        assert proxy.cuts == 1
    assert (counting.versions(), _counter(counting)) == ([1], 1)


@pytest.mark.parametrize("deliver", [True, False], ids=["answer lost", "commit lost"])
def test_a_commit_in_doubt_at_the_deadline_is_looked_up(
    counting: EmptyDatabase, monkeypatch: pytest.MonkeyPatch, deliver: bool
) -> None:
    one, clock = migration(INCREMENT), FakeClock()
    with (
        Proxy(counting.address, needle=one.checksum.encode(), deliver=deliver) as proxy,
        counting.holder(**connect_through(proxy)) as session,
    ):
        run = session._connection.run

        def run_until_deadline(sql: str, deadline: Deadline, **more: int) -> list[list[object]]:
            try:
                return run(sql, deadline, **more)
            except ConnectionLost:
                clock.advance(TIMEOUT_SECONDS)
                raise

        monkeypatch.setattr(session._connection, "run", run_until_deadline)
        deadline = Deadline.after(TIMEOUT_SECONDS, clock)
        if deliver:
            assert isinstance(session.apply(one, "d", deadline), int)
        else:
            with pytest.raises(MigrationFailed, match="the connection to PostgreSQL broke"):
                session.apply(one, "d", deadline)
    assert _counter(counting) == int(deliver)


@pytest.mark.parametrize("deliver", [True, False], ids=["answer lost", "commit lost"])
def test_a_repeatable_commit_in_doubt_takes_effect_once(
    counting: EmptyDatabase, deliver: bool
) -> None:
    version = RepeatableVersion("R__m:1:1")
    one = replace(migration(INCREMENT), version=version, name="R__m")
    with (
        Proxy(counting.address, needle=one.checksum.encode(), deliver=deliver) as proxy,
        counting.holder(**connect_through(proxy)) as session,
    ):
        session.apply(one, "d", soon())
        assert proxy.cuts == 1
        assert [row.version for row in session.read_history()] == [version]
    assert _counter(counting) == 1


def test_marking_texts_stale_in_doubt_is_done_once(db: EmptyDatabase) -> None:
    one = replace(migration("SELECT 1"), version=RepeatableVersion("R__m:1:1"), name="R__m")
    with (
        Proxy(db.address, needle=b"'stale'", deliver=True) as proxy,
        db.holder(**connect_through(proxy)) as session,
    ):
        session.apply(one, "d", soon())
        session.mark_repeatables_stale()
        assert proxy.cuts == 1
        assert [row.state for row in session.read_history()] == [RowState.STALE]


@pytest.mark.parametrize("deliver", [True, False], ids=["answer lost", "commit lost"])
def test_a_rollback_in_doubt_takes_effect_once(counting: EmptyDatabase, deliver: bool) -> None:
    counting.apply(migration("SELECT 1", down=INCREMENT))
    (row,) = counting.history()
    with (
        Proxy(counting.address, needle=b"DELETE FROM", deliver=deliver) as proxy,
        counting.holder(2, **connect_through(proxy)) as session,
    ):
        session.roll_back(row, soon())
        assert proxy.cuts == 1
    assert (counting.versions(), _counter(counting)) == ([], 1)


def test_recording_in_doubt_happens_once(db: EmptyDatabase) -> None:
    one = migration("SELECT 1")
    with (
        Proxy(db.address, needle=one.checksum.encode(), deliver=True) as proxy,
        db.holder(**connect_through(proxy)) as session,
    ):
        session.record_applied([(one, "d")], baseline=True)
        assert proxy.cuts == 1
    assert [row.baseline for row in db.history()] == [True]


def test_a_script_that_breaks_every_connection_fails(counting: EmptyDatabase) -> None:
    with (
        Proxy(counting.address, needle=b"n + 1", deliver=False, times=99) as proxy,
        counting.holder(**connect_through(proxy)) as session,
        pytest.raises(MigrationFailed, match="connection"),
    ):
        session.apply(migration(INCREMENT), "d", soon())
    assert (proxy.cuts, _counter(counting)) == (5, 0)


def test_a_migration_whose_backend_is_terminated_applies_once_in_the_end(
    counting: EmptyDatabase,
) -> None:
    with counting.connect() as other, counting.holder(lock_timeout_seconds=20) as session:
        counting.execute("CREATE TABLE gate ()")
        other.run("BEGIN; LOCK gate")
        script = migration(f"{INCREMENT}; LOCK gate /* slow */")
        slow = Running(lambda: session.apply(script, "d", soon()))
        until(lambda: counting.is_running("slow"))
        counting.terminate(counting.holders()[0])
        other.run("COMMIT")
        assert isinstance(slow.outcome(), int)
    assert (counting.versions(), _counter(counting)) == ([1], 1)


def test_a_takeover_that_loses_its_connection_tries_again(db: EmptyDatabase) -> None:
    with (
        Proxy(db.address, needle=b"to_regclass", deliver=True, times=2) as proxy,
        db.holder(**connect_through(proxy)) as session,
    ):
        assert proxy.cuts == 2
        assert session.read_history() == []


def test_a_migration_applies_once_although_the_server_restarts() -> None:
    durable = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    with LocalPostgreSQL(major=NEWEST, settings=durable) as server:
        db = EmptyDatabase(parse_url(server.url()))
        db.execute("CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)")
        db.execute("CREATE TABLE gate ()")
        with db.holder(lock_timeout_seconds=20) as session:
            other = db.connect()
            other.run("BEGIN; LOCK gate")
            script = migration(f"{INCREMENT}; LOCK gate /* slow */")
            slow = Running(lambda: session.apply(script, "d", soon()))
            until(lambda: db.is_running("slow"))
            server.restart("immediate")
            assert isinstance(slow.outcome(), int)
            other.close()
        assert (db.versions(), _counter(db)) == ([1], 1)
