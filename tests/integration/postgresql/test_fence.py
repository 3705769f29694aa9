"""A superseded holder commits nothing more, whatever it was doing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from lambda_migrate.clock import SYSTEM_CLOCK, Clock, Deadline
from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LeaseHeld,
    LeaseLost,
    MigrationFailed,
)
from lambda_migrate.postgresql.connection import ConnectionLost
from lambda_migrate.postgresql.fence import FencedConnection
from lambda_migrate.postgresql.ports import FenceRow, StaleFencingToken
from lambda_migrate.postgresql.queries import Queries
from lambda_migrate.postgresql.session import PostgreSQLSession

from .empty_database import EmptyDatabase, Running, migration, soon, until


@pytest.mark.parametrize(("fence", "owner"), [(2, "me"), (3, "me"), (1, "other"), (3, "")])
def test_a_stale_grant_gets_an_error_that_names_the_current_token(
    db: EmptyDatabase, fence: int, owner: str
) -> None:
    db.apply(fence=3, grant={"owner": "first"})
    with pytest.raises(StaleFencingToken) as stale, db.holder(fence, owner):
        pass
    assert stale.value.current_token == 3


def test_a_holder_may_acquire_its_own_fence_again(db: EmptyDatabase) -> None:
    with db.holder(3) as first, db.holder(3) as again:
        again.apply(migration("CREATE TABLE t ()"), "d", soon())
        assert len(first.read_history()) == 1


def test_no_holder_is_found_once_it_has_closed_however_long_its_backend_lives(
    db: EmptyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.holder() as session:
        session.apply(migration("CREATE TABLE t ()"), "d", soon())
        database = db.database()
        assert database.inspect(soon()).has_active_holder
        with monkeypatch.context() as slow:
            slow.setattr(session._connection.raw_connection, "close", lambda: None)
            session.close()
        assert not database.inspect(soon()).has_active_holder


def _supersede(db: EmptyDatabase) -> None:
    with db.holder(2, "successor"):
        pass


def test_a_holder_superseded_between_two_migrations_commits_nothing_more(db: EmptyDatabase) -> None:
    with db.holder() as session:
        session.apply(migration("CREATE TABLE a ()"), "d", soon())
        _supersede(db)
        with pytest.raises(LeaseLost):
            session.apply(migration("CREATE TABLE b ()", 2), "d", soon())
    assert (db.has("a"), db.has("b"), db.versions()) == (True, False, [1])


def _hide_session_lock(session: PostgreSQLSession) -> None:
    """As behind a pooler: no successor finds a session to end."""
    session._connection.is_direct_connection = False
    session._connection.run("SELECT pg_advisory_unlock_all()", soon())


def test_a_superseded_holder_that_could_not_be_terminated_commits_nothing(
    db: EmptyDatabase,
) -> None:
    with db.holder() as session:
        _hide_session_lock(session)
        _supersede(db)
        with pytest.raises(LeaseLost, match="token 1 was superseded by 2; nothing was"):
            session.apply(migration("CREATE TABLE b ()"), "d", soon())
        with pytest.raises(LeaseLost, match="token 1 was superseded by 2; nothing was"):
            session.record_applied([(migration("SELECT 1"), "d")], baseline=True)
    assert (db.has("b"), db.versions()) == (False, [])


def test_no_token_is_superseded_while_a_transaction_under_it_is_open(
    db: EmptyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        FencedConnection, "_terminate", lambda *_: []
    )  # a backend that does not end
    with db.holder() as session:
        _hide_session_lock(session)
        session._connection.begin(soon())
        with (
            pytest.raises(DatabaseUnavailable, match=r"by backend \d+ \(lambda-migrate:shop:1"),
            db.holder(2, deadline=Deadline.after(1)),
        ):
            pass
        session._connection.commit("SELECT 1", soon())
        session.apply(migration("CREATE TABLE b ()"), "d", soon())
    assert (db.has("b"), db.versions()) == (True, [1])


_SLOW = "CREATE TABLE b (); SELECT pg_sleep(30) /* slow */"


def test_a_holder_superseded_inside_its_script_commits_nothing(each_db: EmptyDatabase) -> None:
    with each_db.holder() as session:
        slow = Running(lambda: session.apply(migration(_SLOW), "d", soon()))
        until(lambda: each_db.is_running("slow"))
        _supersede(each_db)
        assert isinstance(slow.outcome(), LeaseLost)
    assert (each_db.has("b"), each_db.versions()) == (False, [])


def test_a_holder_superseded_before_its_transaction_begins_does_not_begin_it(
    db: EmptyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.execute("CREATE SEQUENCE tries")  # no rollback takes a try back
    with db.holder() as session:
        _hide_session_lock(session)
        run = session._connection.run

        def supersede_first(sql: str, deadline: Deadline, **more: int) -> list[list[object]]:
            monkeypatch.undo()
            _supersede(db)
            return run(sql, deadline, **more)

        monkeypatch.setattr(session._connection, "run", supersede_first)
        with pytest.raises(LeaseLost, match="token 1 was superseded by 2; nothing was"):
            session.apply(migration("SELECT nextval('tries'); CREATE TABLE b ()"), "d", soon())
    assert (db.has("b"), db.versions()) == (False, [])
    assert db.column("SELECT is_called FROM tries") == [False]


def test_a_holder_superseded_before_the_commit_of_a_write_of_its_own_commits_nothing(
    db: EmptyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.holder() as session:
        commit = session._connection.commit

        def supersede_first(writes: str, deadline: Deadline) -> list[object]:
            monkeypatch.undo()
            _supersede(db)
            return commit(writes, deadline)

        monkeypatch.setattr(session._connection, "commit", supersede_first)
        with pytest.raises(LeaseLost):
            session.record_applied([(migration("SELECT 1"), "d")], baseline=True)
    assert db.versions() == []


def test_a_holder_without_a_fence_row_does_not_begin(db: EmptyDatabase) -> None:
    with db.holder() as session:
        db.execute("DELETE FROM lambda_migrate.fence")
        with pytest.raises(LeaseLost):
            session.apply(migration("CREATE TABLE b ()"), "d", soon())
    assert (db.has("b"), db.versions()) == (False, [])


def test_a_holder_superseded_inside_a_statement_without_transaction_runs_nothing_more(
    db: EmptyDatabase,
) -> None:
    db.execute("CREATE TABLE orders (id int)")
    with db.connect() as old, db.holder() as session:
        old.run("BEGIN; SELECT count(*) FROM orders; LOCK orders IN SHARE MODE")
        build = migration("CREATE INDEX CONCURRENTLY i ON orders (id)", non_transactional=True)
        slow = Running(lambda: session.apply(build, "d", soon()))
        until(lambda: db.is_running("CREATE INDEX"))
        _supersede(db)
        assert not db.is_running("CREATE INDEX")
        assert isinstance(slow.outcome(), LeaseLost)
    assert db.states() == {1: "started"}
    assert db.is_valid("i") is not True


def test_a_superseded_holder_runs_no_non_transactional_statement(db: EmptyDatabase) -> None:
    """Not even one whose session no successor found, and who is alone by now."""
    db.execute("CREATE TABLE orders (id int)")
    with db.holder() as session:
        _hide_session_lock(session)
        session._connection.is_direct_connection = True
        _supersede(db)
        until(lambda: not db.column("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"))
        with pytest.raises(LeaseLost, match="token 1 was superseded by 2; nothing was"):
            session._connection.run_non_transactional(
                "CREATE INDEX CONCURRENTLY i ON orders (id)", soon()
            )
    assert not db.has("i")


@pytest.mark.parametrize("act", ["record", "forget"])
def test_a_superseded_holder_records_nothing(db: EmptyDatabase, act: str) -> None:
    one = migration("SELECT 1")
    with db.holder() as session:
        _supersede(db)
        acts = {
            "record": lambda: session.record_applied([(one, "d")], baseline=True),
            "forget": lambda: session.delete_rows([1]),
        }
        with pytest.raises(LeaseLost):
            acts[act]()
    assert db.versions() == []


# --- who is ended


@pytest.fixture
def older(db: EmptyDatabase) -> Iterator[PostgreSQLSession]:
    with db.holder() as session:
        yield session


def _assert_ended(db: EmptyDatabase, older: PostgreSQLSession) -> None:
    (before,) = db.holders() or db.pids("application_name = 'disguised'")
    with db.holder(2, "successor") as successor:
        successor.apply(migration("CREATE TABLE after ()", 9), "d", soon())
        assert before not in db.pids("true")
    assert db.versions() == [9]


def test_an_idle_older_holder_is_terminated(db: EmptyDatabase, older: PostgreSQLSession) -> None:
    _assert_ended(db, older)


def test_an_older_holder_with_the_fence_row_locked_is_terminated(
    db: EmptyDatabase, older: PostgreSQLSession
) -> None:
    older._connection.begin(soon())
    _assert_ended(db, older)


@pytest.mark.parametrize("count", [1, 3])
def test_every_connection_that_shares_the_fence_row_is_terminated(
    each_db: EmptyDatabase, count: int
) -> None:
    """The connections of another tool's migration, some of which may have ended already."""
    db = each_db
    db.apply()
    with ExitStack() as stack:
        ended, reader, *sharers = (stack.enter_context(db.connect()) for _ in range(2 + count))
        reader.run("BEGIN; SELECT token FROM lambda_migrate.fence; SELECT pg_current_xact_id()")
        for sharer in (ended, *sharers):
            sharer.run("BEGIN; SELECT token FROM lambda_migrate.fence FOR SHARE")
        ended.run("COMMIT")
        assert len(db.holders()) == 0
        assert db.database().inspect(soon()).has_active_holder
        with db.holder(2, "successor"):
            for sharer in sharers:
                with pytest.raises(ConnectionLost):
                    sharer.run("SELECT 1")
        assert reader.run("SELECT 1; COMMIT") == [[1]]
        assert ended.run("SELECT 1") == [[1]]


def test_an_older_holder_that_changed_its_name_is_terminated(
    db: EmptyDatabase, older: PostgreSQLSession
) -> None:
    script = migration("SET application_name = 'disguised'; SELECT pg_sleep(30) /* slow */")
    slow = Running(lambda: older.apply(script, "d", soon()))
    until(lambda: db.is_running("slow"))
    _assert_ended(db, older)
    assert isinstance(slow.outcome(), LeaseLost)


_LOCK = "BEGIN; SELECT token FROM lambda_migrate.fence FOR UPDATE"


def test_a_backend_that_unlocks_the_fence_row_during_the_wait_is_not_terminated(
    db: EmptyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary release: its backend may serve another client in the next instant."""
    db.apply()
    set_token = FencedConnection._set_token
    with db.connect() as other:

        def release_row_first(
            successor: FencedConnection,
            seen: FenceRow,
            deadline: Deadline,
            *,
            terminate_holders: bool,
        ) -> bool:
            other.run("COMMIT")
            return set_token(successor, seen, deadline, terminate_holders=terminate_holders)

        monkeypatch.setattr(FencedConnection, "_set_token", release_row_first)
        other.run(_LOCK)
        with db.holder(2):
            assert other.run("SELECT 1") == [[1]]


def test_a_backend_that_is_in_another_transaction_by_now_is_not_terminated(
    db: EmptyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.apply()
    set_token = FencedConnection._set_token
    with db.connect() as other:

        def release_row_after(
            successor: FencedConnection,
            seen: FenceRow,
            deadline: Deadline,
            *,
            terminate_holders: bool,
        ) -> bool:
            monkeypatch.undo()
            assert not set_token(successor, seen, deadline, terminate_holders=terminate_holders)
            other.run("COMMIT")
            other.run("BEGIN; SELECT pg_current_xact_id()")
            return False

        monkeypatch.setattr(FencedConnection, "_set_token", release_row_after)
        other.run(_LOCK)
        with db.holder(2):
            assert other.run("SELECT 1; COMMIT") == [[1]]


@contextmanager
def _make_logins(db: EmptyDatabase) -> Iterator[tuple[str, str, str]]:
    """The owner of everything, which cannot log in; a role that may act as it; and any other."""
    names = tuple(f"{who}_{db.address.database}" for who in ("owner", "deployer", "unprivileged"))
    owner, deployer, unprivileged = names
    db.execute(
        f"CREATE ROLE {owner} NOLOGIN; CREATE ROLE {deployer} LOGIN NOINHERIT IN ROLE {owner};"
        f" CREATE ROLE {unprivileged} LOGIN; ALTER ROLE {deployer} SET role = '{owner}';"
        f" CREATE SCHEMA lambda_migrate AUTHORIZATION {owner}"
    )
    yield owner, deployer, unprivileged
    db.execute(
        f"DROP SCHEMA lambda_migrate CASCADE; DROP OWNED BY {', '.join(names)};"
        f" DROP ROLE {', '.join(names)}"
    )


def _connect_as(db: EmptyDatabase, role: str) -> EmptyDatabase:
    return EmptyDatabase(db.address.replace(user=role))


@pytest.mark.parametrize("is_running", [False, True])
def test_a_holder_that_acts_as_another_role_is_terminated_by_one_that_does_too(
    db: EmptyDatabase, is_running: bool
) -> None:
    """PostgreSQL asks the role that is set, and the login role is one and the same."""
    with _make_logins(db) as (_, deployer, _):
        with _connect_as(db, deployer).holder() as session:
            (before,) = db.holders()
            if is_running:
                session._connection.begin(soon())
            _connect_as(db, deployer).apply(migration("SELECT 1"), fence=2)
            assert before not in db.pids("true")
        assert db.versions() == [1]


@pytest.mark.parametrize("acts_as", ["the owner", "a role with grants"])
def test_a_holder_that_only_a_set_role_lets_write_is_not_superseded_unnoticed(
    db: EmptyDatabase, acts_as: str
) -> None:
    """As with two users in turn: one login may not end the other's session, and both are NOINHERIT.

    Its statement outside a transaction would take effect after the successor has read the history.
    """
    with _make_logins(db) as (owner, deployer, unprivileged):
        _connect_as(db, deployer).apply()
        writer = owner
        if acts_as != "the owner":
            writer = f"writer_{db.address.database}"
            db.execute(
                f"CREATE ROLE {writer}; GRANT USAGE ON SCHEMA lambda_migrate TO {writer};"
                f" GRANT ALL ON ALL TABLES IN SCHEMA lambda_migrate TO {writer}"
            )
        db.execute(
            f"ALTER ROLE {unprivileged} NOINHERIT; GRANT {writer} TO {unprivileged};"
            f" ALTER ROLE {unprivileged} SET role = '{writer}'"
        )
        with _connect_as(db, unprivileged).holder(2) as session:
            (before,) = db.holders()
            with (
                pytest.raises(ConfigurationError, match="may not terminate it: use the same role"),
                _connect_as(db, deployer).holder(3),
            ):
                pass
            with (
                pytest.raises(LeaseHeld),
                _connect_as(db, deployer).holder(3, terminate_holders=False),
            ):
                pass
            session.apply(migration("VACUUM", non_transactional=True), "d", soon())
            assert db.holders() == [before]
        assert db.versions() == [1]
        if writer != owner:
            db.execute(f"DROP OWNED BY {writer}; DROP ROLE {writer}")


def test_a_login_that_may_not_write_our_tables_blocks_no_holder(db: EmptyDatabase) -> None:
    """Any login can take an advisory lock; only what needs it for itself is refused."""
    with (
        _make_logins(db) as (_, deployer, unprivileged),
        _connect_as(db, unprivileged).connect() as other,
    ):
        other.run(Queries("lambda_migrate").try_advisory_lock())
        for fence, terminate_holders in ((1, True), (2, False)):
            with _connect_as(db, deployer).holder(
                fence, terminate_holders=terminate_holders
            ) as session:
                session.apply(migration("SELECT 1", fence), "d", soon())
                with pytest.raises(MigrationFailed, match="advisory lock of schema"):
                    session.apply(migration("VACUUM", 9, non_transactional=True), "d", soon())
        assert other.run("SELECT 1") == [[1]]
        assert db.versions() == [1, 2]


def test_sessions_that_are_not_older_holders_are_not_terminated(db: EmptyDatabase) -> None:
    """Another target's holder, the same target's in another schema, and other sessions."""
    with (
        db.holder(schema="theirs", grant={"target": "billing"}),
        db.holder(schema="other service"),
        db.connect("unrelated"),
        db.connect("lambda-migrate:shop:1"),
    ):
        # What was a holder's backend may serve another by now, whatever its name is.
        db.apply(fence=6, grant={"owner": "earlier"})
        clients = "backend_type = 'client backend'"
        # A connection that was closed is listed until its backend has ended: the last look's, too.
        before = until(lambda: len(found := set(db.pids(clients))) == 4 and found)
        with db.holder(7, "successor"):
            assert before < set(db.pids(clients))


def test_a_live_older_holder_is_not_terminated_if_termination_is_off(db: EmptyDatabase) -> None:
    with db.holder() as session:
        with pytest.raises(LeaseHeld), db.holder(2, terminate_holders=False):
            pass
        session.apply(migration("SELECT 1"), "d", soon())
    db.apply(migration("SELECT 1", 2), fence=2, terminate_holders=False)
    assert db.versions() == [1, 2]


def test_of_two_holders_that_terminate_no_session_the_second_detects_the_first(
    db: EmptyDatabase,
) -> None:
    """Before either of them has set its token."""
    db.apply(migration("SELECT 1"))
    with db.connect("first") as first:
        until(lambda: first.run(Queries("lambda_migrate").try_advisory_lock()) == [[True]])
        with (
            pytest.raises(LeaseHeld, match=rf"backend {first.pid} \(first, since 20"),
            db.holder(2, terminate_holders=False),
        ):
            pass
    db.apply(migration("SELECT 1", 2), fence=2, terminate_holders=False)


# --- the advisory lock


@pytest.mark.parametrize("message", ["commit", "undo"])
def test_no_message_of_a_holder_releases_its_session_lock_for_an_instant(
    db: EmptyDatabase, message: str
) -> None:
    """What a session forgets is looked at in the middle: its temporary table is locked."""
    with db.holder() as session, db.connect() as other, db.connect() as locking:
        connection = session._connection
        connection.run("CREATE TEMPORARY TABLE forgotten ()", soon())
        (table,) = db.column(
            "SELECT format('%I.%I', relnamespace::regnamespace, relname) FROM pg_class"
            " WHERE relname = 'forgotten'"
        )
        locking.run(f"BEGIN; LOCK TABLE {table}")
        messages = {
            "commit": lambda: session.record_applied([(migration("SELECT 1"), "d")], baseline=True),
            "undo": lambda: connection.reset_session(soon()),
        }
        running = Running(messages[message])
        until(lambda: db.pids("wait_event_type = 'Lock'"))
        assert other.run(connection.queries.try_advisory_lock()) == [[False]]
        locking.run("ROLLBACK")
        assert running.outcome() is None
        assert other.run(connection.queries.try_advisory_lock()) == [[False]]


class _WhileAsleep(Clock):
    """The system's clock; what it is given is done in the first sleep."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._acts = [act]

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic()

    def wall_ms(self) -> int:
        return SYSTEM_CLOCK.wall_ms()

    def sleep(self, seconds: float) -> None:
        while self._acts:
            self._acts.pop()()
        SYSTEM_CLOCK.sleep(seconds)


def test_a_session_lock_that_another_session_has_for_a_moment_is_waited_for(
    db: EmptyDatabase,
) -> None:
    with db.holder() as session, db.connect() as other:
        _hide_session_lock(session)
        session._connection.is_direct_connection = True
        assert other.run(session._connection.queries.try_advisory_lock()) == [[True]]
        clock = _WhileAsleep(lambda: other.run("SELECT pg_advisory_unlock_all()"))
        session.apply(migration("VACUUM", non_transactional=True), "d", Deadline.after(20, clock))
    assert db.versions() == [1]


def test_a_holder_that_may_terminate_no_session_terminates_none_after_its_connection_broke(
    db: EmptyDatabase,
) -> None:
    """It waits for the other one, which has the advisory lock and may be about to take over."""
    with db.connect("claimant") as claimant:

        def release_lock() -> None:
            assert claimant.run("SELECT 1") == [[1]]
            claimant.run("SELECT pg_advisory_unlock_all()")

        deadline = Deadline.after(20, _WhileAsleep(release_lock))
        with db.holder(deadline=deadline, terminate_holders=False) as session:
            db.terminate(session._connection.raw_connection.pid)
            assert claimant.run(session._connection.queries.try_advisory_lock()) == [[True]]
            session.record_applied([(migration("SELECT 1"), "d")], baseline=True)
        assert claimant.run("SELECT 1") == [[1]]
    assert db.versions() == [1]


def test_a_holder_that_may_terminate_no_session_reports_one_that_stays(db: EmptyDatabase) -> None:
    with db.connect("claimant") as claimant:
        with db.holder(deadline=Deadline.after(2), terminate_holders=False) as session:
            db.terminate(session._connection.raw_connection.pid)
            claimant.run(session._connection.queries.try_advisory_lock())
            with pytest.raises(
                DatabaseUnavailable, match=r"reconnecting failed: .*\(claimant, since"
            ):
                session.record_applied([(migration("SELECT 1"), "d")], baseline=True)
        assert claimant.run("SELECT 1") == [[1]]
    assert db.versions() == []


def test_our_own_abort_ends_the_statement_and_everything_after(each_db: EmptyDatabase) -> None:
    with each_db.holder() as session:
        slow = Running(lambda: session.apply(migration(_SLOW), "d", soon()))
        until(lambda: each_db.is_running("slow"))
        session.abort()
        assert isinstance(slow.outcome(), LeaseLost)
        with pytest.raises(LeaseLost):
            session.apply(migration("SELECT 1", 2), "d", soon())
        with pytest.raises(LeaseLost):
            session.read_history()
    until(lambda: not each_db.is_running("slow"))
    assert (each_db.has("b"), each_db.versions()) == (False, [])


def test_an_abort_of_a_statement_without_transaction_is_left_for_the_successor_to_resolve(
    db: EmptyDatabase,
) -> None:
    with db.holder() as session:
        statement = migration("VACUUM /* slow */ t", non_transactional=True)
        db.execute("CREATE TABLE t ()")
        with db.connect() as old:
            old.run("BEGIN; LOCK t")
            slow = Running(lambda: session.apply(statement, "d", soon()))
            until(lambda: db.is_running("VACUUM /* slow"))
            session.abort()
            assert isinstance(slow.outcome(), LeaseLost)
    assert db.states() == {1: "started"}
