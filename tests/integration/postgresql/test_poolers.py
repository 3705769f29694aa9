"""Behind a real PgBouncer, in both pool modes, a takeover terminates only the older holder."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.database_address import parse_url
from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LeaseHeld,
    MigrationFailed,
)
from lambda_migrate.local.runtime.process import read_state
from lambda_migrate.local.servers.pgbouncer import LocalPgBouncer, PoolMode
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.postgresql.connection import ConnectionFailed, _is_permanent, connect
from lambda_migrate.postgresql.ports import LeaseGrant

from .empty_database import EmptyDatabase, Running, migration, soon, until
from .releases import LEAVES_SESSION_STATE, LEFT, releases

POOL_MODES: tuple[PoolMode, ...] = ("session", "transaction")
WAYS = ("direct", *POOL_MODES)
_NUMBERS = count(1)
_HANDFUL = {"default_pool_size": "4"}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalPostgreSQL]:
    settings = {"deadlock_timeout": "100ms", "max_connections": "60"}
    with LocalPostgreSQL(tcp_port=0, settings=settings) as running:
        yield running


@pytest.fixture(scope="module")
def poolers(server: LocalPostgreSQL) -> Iterator[dict[str, LocalPgBouncer]]:
    with ExitStack() as stack:
        yield {
            mode: stack.enter_context(LocalPgBouncer(server, pool_mode=mode, settings=_HANDFUL))
            for mode in POOL_MODES
        }


@pytest.fixture
def db(server: LocalPostgreSQL) -> Iterator[EmptyDatabase]:
    """A database, without a pooler in between."""
    name = f"pooled_{next(_NUMBERS)}"
    server.create_database(name)
    yield EmptyDatabase(parse_url(server.tcp_url(name) + "?sslmode=disable"))
    server.drop_database(name)


Via = Callable[[str], EmptyDatabase]


@pytest.fixture
def via(db: EmptyDatabase, poolers: dict[str, LocalPgBouncer]) -> Via:
    """The same database, by one of `WAYS`."""

    def get_database(way: str) -> EmptyDatabase:
        if way == "direct":
            return db
        return EmptyDatabase(parse_url(poolers[way].url(db.address.database)))

    return get_database


@contextmanager
def open_small_pooler(
    server: LocalPostgreSQL, mode: PoolMode = "transaction", **settings: str
) -> Iterator[Any]:
    """A pooler with settings of its own: of the pooler, and of a database by it."""
    name = f"pooled_{next(_NUMBERS)}"
    server.create_database(name)
    with LocalPgBouncer(server, pool_mode=mode, settings=settings) as pooler:
        yield pooler, EmptyDatabase(parse_url(pooler.url(name)))
    server.drop_database(name)


# --- the application in the same pool


@pytest.mark.parametrize("mode", POOL_MODES)
@pytest.mark.parametrize("terminate_holders", [True, False])
def test_a_release_terminates_no_query_on_the_backend_of_the_release_before(
    db: EmptyDatabase, via: Via, mode: str, terminate_holders: bool
) -> None:
    """With a lease table, and without one: a backend that serves another now is not a holder."""
    pooled = via(mode)
    pooled.apply(migration("SELECT pg_backend_pid()"))
    (backend,) = db.pids("backend_type = 'client backend'")
    slow = "SELECT pg_backend_pid(), pg_advisory_xact_lock(77)"
    with db.connect() as other, pooled.connect("application") as application:
        other.run("SELECT pg_advisory_lock(77)")
        query = Running(lambda: application.run(slow))
        until(lambda: backend in db.pids("wait_event_type = 'Lock' AND query LIKE '%77%'"))
        pooled.apply(migration("SELECT 2", 2), fence=2, terminate_holders=terminate_holders)
        other.run("SELECT pg_advisory_unlock(77)")
        assert query.outcome() == [[backend, ""]]
    assert db.versions() == [1, 2]


@pytest.mark.parametrize("mode", POOL_MODES)
def test_releases_under_load_terminate_no_query_and_leave_no_settings(mode: PoolMode) -> None:
    """`python -m tests.integration.postgresql.releases` makes 200 of them."""
    counts = releases(mode, count=10)
    assert (counts.releases, dict(counts.ended), dict(counts.left)) == (10, {}, {})
    assert counts.queries > 0


@pytest.mark.parametrize("end", ["commits", "fails", "runs dry"])
def test_session_state_of_a_script_is_reset_before_the_pooler_reuses_the_backend(
    server: LocalPostgreSQL, end: str
) -> None:
    with open_small_pooler(server, default_pool_size="1") as (_, pooled):
        pooled.apply()
        grant = LeaseGrant("shop", 1, "me")
        if end == "runs dry":
            with pooled.database().begin_dry_run(replace(grant, fence=2), soon()) as dry_run:
                dry_run.run_migration(migration(LEAVES_SESSION_STATE), soon())
                dry_run.roll_back()
                assert pooled.execute(LEFT) == [[""]]
        else:
            with pooled.holder() as session:
                fails = "" if end == "commits" else "SELECT 1/0"
                one = Running(
                    lambda: session.apply(migration(LEAVES_SESSION_STATE + fails), "d", soon())
                )
                assert isinstance(one.outcome(), int if end == "commits" else MigrationFailed)
                assert pooled.execute(LEFT) == [[""]]


def test_a_direct_session_is_distinguished_from_a_pooled_one(via: Via) -> None:
    for way in WAYS:
        with via(way).holder(10 + WAYS.index(way)) as session:
            assert session._connection.is_direct_connection is (way == "direct")


@pytest.mark.parametrize("way", WAYS)
def test_the_session_lock_is_taken_in_a_session_of_our_own_and_no_other(
    db: EmptyDatabase, via: Via, way: str
) -> None:
    locks = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"
    with via(way).holder() as session:
        for version, script in enumerate(("SELECT 1", "SELECT pg_advisory_unlock_all()"), 1):
            session.apply(migration(script, version), "d", soon())
            expected = [session._connection.raw_connection.pid] if way == "direct" else []
            assert db.column(locks) == expected
    until(lambda: not db.column(locks))


# --- statements outside a transaction


@pytest.mark.parametrize("mode", POOL_MODES)
def test_a_non_transactional_statement_is_refused_before_its_intent(
    db: EmptyDatabase, via: Via, mode: str
) -> None:
    build = migration("CREATE INDEX CONCURRENTLY i ON t (id)", 2, non_transactional=True)
    with via(mode).holder() as session:
        session.apply(migration("CREATE TABLE t (id int)"), "d", soon())
        with pytest.raises(MigrationFailed, match=_DIRECT) as failed:
            session.apply(build, "d", soon())
    assert failed.value.migration == "0002_m"
    assert (db.states(), db.has("i")) == ({1: "applied"}, False)
    db.apply(build, fence=2)
    assert (db.states(), db.has("i")) == ({1: "applied", 2: "applied"}, True)


_DIRECT = re.compile(r"transaction:false.*pooler.*own endpoint.*LAMBDA_MIGRATE_DATABASE_URL")


@pytest.mark.parametrize("mode", POOL_MODES)
def test_a_non_transactional_down_script_is_refused_likewise(
    db: EmptyDatabase, via: Via, mode: str
) -> None:
    db.execute("CREATE TABLE t (id int)")
    drop = "DROP INDEX CONCURRENTLY i"
    db.apply(migration("CREATE INDEX i ON t (id)", down=drop, down_non_transactional=True))
    with via(mode).holder(2) as session:
        (row,) = session.read_history()
        with pytest.raises(MigrationFailed, match=_DIRECT):
            session.roll_back(row, soon())
    assert (db.states(), db.has("i")) == ({1: "applied"}, True)


@pytest.mark.parametrize("mode", POOL_MODES)
def test_an_interrupted_build_is_not_cleaned_up_through_a_pooler(
    db: EmptyDatabase, via: Via, mode: str
) -> None:
    db.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (1)")
    with db.connect() as connection, pytest.raises(Exception, match="could not create unique"):
        connection.run("CREATE UNIQUE INDEX CONCURRENTLY i ON t (id)")
    build = migration("CREATE UNIQUE INDEX CONCURRENTLY i ON t (id)", non_transactional=True)
    with db.holder() as session:
        queries = session._connection.queries
        session._connection.write(
            queries.insert_started(build, "d", session._connection.grant), soon()
        )
    with via(mode).holder(2) as session:
        (row,) = session.read_history()
        with pytest.raises(MigrationFailed, match=_DIRECT):
            session.resolve_in_doubt(row, soon())
    with db.holder(3) as session:
        session.resolve_in_doubt(row, soon())
    assert (db.versions(), db.has("i")) == ([], False)


def test_a_pooler_that_shows_the_backends_process_id_is_detected_when_it_switches_backends(
    db: EmptyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.execute("CREATE TABLE t (id int)")
    with db.holder() as session:
        require_direct_connection = session._connection.require_direct_connection

        def switch_backends(name: str, deadline: Deadline) -> None:
            require_direct_connection(name, deadline)
            session._connection.raw_connection.pid += 1

        monkeypatch.setattr(session._connection, "require_direct_connection", switch_backends)
        with pytest.raises(MigrationFailed, match=_DIRECT):
            session._connection.run_non_transactional(
                "CREATE INDEX CONCURRENTLY i ON t (id)", soon()
            )
    assert not db.has("i")


def test_settings_of_a_non_transactional_statement_end_with_it(db: EmptyDatabase) -> None:
    db.execute("CREATE TABLE t (id int)")
    with db.holder() as session:
        for statement in ("VACUUM t", "VACUUM missing"):
            ran = Running(
                lambda: session._connection.run_non_transactional(statement, soon())  # noqa: B023
            )
            assert (ran.outcome() is None) is (statement == "VACUUM t")
            ((found,),) = session._connection.run(LEFT, soon())
            assert found == "advisory lock"  # what a session of a holder has all the time


# --- a frozen holder, in a process of its own

_HOLDER = """
import os, signal, sys
from lambda_migrate.clock import Deadline
from lambda_migrate.migrations import Migration, Script
from lambda_migrate.database_address import parse_url
from lambda_migrate.postgresql.connection import connect
from lambda_migrate.postgresql.ports import LeaseGrant
from lambda_migrate.postgresql.fence import FencedConnection
from lambda_migrate.postgresql.database import PostgreSQLDatabase
url, sql, freeze = sys.argv[1:]
run_non_transactional = FencedConnection.run_non_transactional
def frozen(self, *arguments, **named):
    if freeze == "before the statement":
        os.kill(os.getpid(), signal.SIGSTOP)
    return run_non_transactional(self, *arguments, **named)
FencedConnection.run_non_transactional = frozen
database = PostgreSQLDatabase(
    "here", lambda name, s: connect(parse_url(url), application_name=name, timeout=s))
session = database.open_session(LeaseGrant("shop", 1, "frozen"), Deadline.after(60))
non_transactional = "CONCURRENTLY" in sql
one = Migration(1, "0001_m", Script(sql, transactional=not non_transactional), None, "c")
session.apply(one, "d", Deadline.after(60))
"""


@contextmanager
def holder_process(url: str, sql: str, *, freeze: str = "") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, url, sql, freeze], stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _url(db: EmptyDatabase) -> str:
    at = db.address
    return f"postgresql://{at.user}@{at.host}:{at.port}/{at.database}?sslmode=disable"


@pytest.mark.parametrize("way", WAYS)
def test_a_frozen_holders_running_statement_is_terminated(
    db: EmptyDatabase, via: Via, way: str
) -> None:
    slow = "CREATE TABLE b (); SELECT pg_sleep(40) /* slow */"
    with holder_process(_url(via(way)), slow) as frozen:
        until(lambda: db.is_running("slow"))
        frozen.send_signal(signal.SIGSTOP)
        via(way).apply(migration("CREATE TABLE after ()", 9), fence=2)
        assert not db.is_running("slow")
        frozen.send_signal(signal.SIGCONT)
        _, said = frozen.communicate(timeout=20)
    assert "LeaseLost" in said
    assert (db.has("b"), db.versions()) == (False, [9])


@pytest.mark.parametrize("way", WAYS)
def test_a_holder_frozen_between_its_intent_and_its_statement_never_runs_it(
    db: EmptyDatabase, via: Via, way: str
) -> None:
    """Its successor takes over by any way, resolves the doubt, and releases the schema."""
    db.execute("CREATE TABLE t (id int)")
    build = "CREATE INDEX CONCURRENTLY i ON t (id)"
    with holder_process(_url(db), build, freeze="before the statement") as frozen:
        until(lambda: read_state(frozen.pid) == "T")
        assert db.states() == {1: "started"}
        with via(way).holder(2) as session:
            (row,) = session.read_history()
            session.resolve_in_doubt(row, soon())
            frozen.send_signal(signal.SIGCONT)
            _, said = frozen.communicate(timeout=20)
        assert "LeaseLost" in said
    assert (db.has("i"), db.versions()) == (False, [])


def test_a_build_of_a_frozen_holder_is_terminated_by_a_successor_behind_a_pooler(
    db: EmptyDatabase, via: Via
) -> None:
    db.execute("CREATE TABLE t (id int)")
    with db.connect() as old:
        old.run("BEGIN; LOCK t IN SHARE MODE; SELECT count(*) FROM t")
        with holder_process(_url(db), "CREATE INDEX CONCURRENTLY i ON t (id)") as frozen:
            until(lambda: db.is_running("CREATE INDEX"))
            frozen.send_signal(signal.SIGSTOP)
            with via("transaction").holder(2):
                assert not db.is_running("CREATE INDEX")
                old.run("ROLLBACK")
                frozen.send_signal(signal.SIGCONT)
                _, said = frozen.communicate(timeout=20)
            assert "LeaseLost" in said
    assert db.is_valid("i") is not True


# --- a busy backend


@pytest.mark.parametrize("way", WAYS)
def test_without_a_lease_table_the_busy_backend_is_named(
    db: EmptyDatabase, via: Via, way: str
) -> None:
    slow_script = migration("SELECT pg_advisory_xact_lock(77) /* slow */")
    with db.connect() as other_work, via(way).holder(lock_timeout_seconds=20.0) as session:
        other_work.run("SELECT pg_advisory_lock(77)")
        slow = Running(lambda: session.apply(slow_script, "d", soon()))
        until(lambda: db.is_running("slow"))
        (backend,) = db.pids("query LIKE '%slow%' AND state = 'active'")
        for other in WAYS:
            with (
                pytest.raises(LeaseHeld, match=rf"backend {backend} \(.*since 20.*try again"),
                via(other).holder(2, terminate_holders=False),
            ):
                pass
        other_work.run("SELECT pg_advisory_unlock(77)")
        assert isinstance(slow.outcome(), int)
    until(lambda: not db.column("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"))
    via(way).apply(migration("SELECT 2", 2), fence=2, terminate_holders=False)
    assert db.versions() == [1, 2]


# --- a pooler that has no connection to give


def test_a_pooler_that_is_full_for_a_moment_is_waited_for(server: LocalPostgreSQL) -> None:
    with open_small_pooler(server, "session", max_client_conn="1") as (pooler, pooled):
        with until(lambda: _connection(pooled)) as other:
            late = Running(lambda: pooled.apply(migration("SELECT 1")))
            until(lambda: "no more connections allowed" in pooler.log.read_text())
            with pytest.raises(DatabaseUnavailable, match="no more connections allowed"):
                pooled.apply(deadline=Deadline.after(2))
            assert late.is_alive()
            other.run("SELECT 1")
        assert late.outcome() is None


def _connection(pooled: EmptyDatabase) -> Any:
    with suppress(ConnectionFailed):
        return pooled.connect()


def test_a_query_that_waited_too_long_for_a_backend_is_sent_again(server: LocalPostgreSQL) -> None:
    with open_small_pooler(server, default_pool_size="1", query_wait_timeout="1") as (
        pooler,
        pooled,
    ):
        with pooled.connect() as other:
            other.run("BEGIN")
            late = Running(lambda: pooled.apply(migration("SELECT 1")))
            until(lambda: "query_wait_timeout" in pooler.log.read_text())
            assert late.is_alive()
            other.run("COMMIT")
        assert late.outcome() is None


def test_a_pooler_whose_server_restarts_is_waited_for() -> None:
    with (
        LocalPostgreSQL(tcp_port=0, databases=["shop"]) as server,
        LocalPgBouncer(server, settings={"server_login_retry": "1"}) as pooler,
    ):
        pooled = EmptyDatabase(parse_url(pooler.url("shop")))
        server.stop()
        late = Running(lambda: pooled.apply(migration("SELECT 1")))
        until(lambda: "connect failed" in pooler.log.read_text())
        assert late.is_alive()
        server.start()
        assert late.outcome() is None
        assert pooled.versions() == [1]


def test_a_pooler_that_cannot_log_in_for_a_moment_is_waited_for(server: LocalPostgreSQL) -> None:
    """As while the server starts up, or has no connection to spare."""
    server.create_database("crowded")
    server.execute("CREATE ROLE app LOGIN CONNECTION LIMIT 0")
    server.execute("GRANT CREATE ON DATABASE crowded TO app")
    with LocalPgBouncer(server, settings={"server_login_retry": "1"}, users=["app"]) as pooler:
        pooled = EmptyDatabase(parse_url(pooler.url("crowded", "app")))
        late = Running(lambda: pooled.apply(migration("SELECT 1")))
        until(lambda: "pooler error: too many connections" in pooler.log.read_text())
        assert late.is_alive()
        server.execute("ALTER ROLE app CONNECTION LIMIT -1")
        assert late.outcome() is None
        assert pooled.versions() == [1]


@pytest.mark.parametrize(
    ("words", "permanent"),
    [
        *(
            (words, False)
            for words in (
                "no more connections allowed (max_client_conn)",
                "client connections exceeded (max_db_client_connections)",
                "query_wait_timeout",
                "client_login_timeout (server down)",
                "server login has been failing, try again later (server_login_retry)",
                "server login has been failing, cached error: password authentication failed for"
                ' user "app" (server_login_retry)',
                "pgbouncer cannot connect to server",
                "server conn crashed?",
                "server shutting down",
                "pooler is shutting down",
                "pause failed",
                "bouncer resources exhaustion",
                "the database system is starting up",
                "sorry, too many clients already",
            )
        ),
        *(
            (words, True)
            for words in (
                "unsupported startup parameter: extra_float_digits",
                "unsupported startup parameter in options: work_mem",
                "no such user",
                "no such database: shop",
                'database "shop" is disabled',
                'database "shop" does not exist',
                "password authentication failed",
                "SASL authentication failed",
                "certificate authentication failed",
                "login rejected",
                "SSL required",
                "bouncer config error",
            )
        ),
    ],
)
def test_a_poolers_message_shows_whether_its_error_is_transient(
    words: str, permanent: bool
) -> None:
    """As PgBouncer's source has them; its code for all of them is 08P01."""
    assert _is_permanent("08P01", words) is permanent


def test_a_parameter_that_the_pooler_rejects_is_named(server: LocalPostgreSQL) -> None:
    with open_small_pooler(server) as (_, pooled):

        def connect_with_work_mem(name: str, seconds: float) -> Any:
            startup = {"work_mem": "5MB"}
            return connect(pooled.address, application_name=name, startup=startup, timeout=seconds)

        advice = r"work_mem.*add work_mem to ignore_startup_parameters"
        with pytest.raises(ConfigurationError, match=advice):
            pooled.apply(connect=connect_with_work_mem)


@pytest.mark.parametrize("wrong", ["user", "database"])
def test_a_permanent_error_of_a_pooler_is_reported_at_once(
    server: LocalPostgreSQL, poolers: dict[str, LocalPgBouncer], wrong: str
) -> None:
    names = {"user": "postgres", "database": "postgres", wrong: "missing"}
    address = parse_url(poolers["session"].url(names["database"], names["user"]))
    with pytest.raises(ConnectionFailed) as failed:
        connect(address, application_name="test", timeout=10)
    assert failed.value.permanent
    assert failed.value.is_authentication_error is (wrong == "user")
