"""A connection under a fence: opened by a takeover, opened again when it breaks, ended by a loss.

Every transaction of a holder begins here, with the fence row locked and its token compared, so
that a stale holder can begin none, and one that was frozen inside a transaction is ended by its
successor before the token changes.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LeaseHeld,
    LeaseLost,
    MigrateError,
    MigrationFailed,
)
from lambda_migrate.migrations.sql.excerpt import redact
from lambda_migrate.postgresql.connection import ConnectFailed, ConnectionLost, PostgresError
from lambda_migrate.postgresql.ports import (
    FenceRow,
    StaleFencingToken,
    is_behind_last_completion,
    require_environment,
)
from lambda_migrate.postgresql.queries import LAYOUT, Limits, Probe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lambda_migrate.clock import Deadline, Random
    from lambda_migrate.postgresql.connection import Connection
    from lambda_migrate.postgresql.ports import LeaseGrant
    from lambda_migrate.postgresql.queries import Queries

__all__ = ["FencedConnection", "Opener", "ScriptRefused", "as_configuration", "read_fence"]

_T = TypeVar("_T")

Opener = "Callable[[float], Connection]"

_FENCE_LOCK_MS = 500
"""How long a takeover waits for the fence row before it ends the backend that has it locked."""

_NOT_OURS_TO_END = (
    "an earlier holder's backend logged in as another role and may not be ended: use one role for "
    "all functions of a target, or GRANT pg_signal_backend"
)

_FARTHEST_JUMP = 10**12
"""By how much a token may exceed the last one: 30 years of acquisitions, 1,000 a second. A higher
one was written by somebody else, and taking it over would leave PostgreSQL no room above it."""

_END_WAIT_MS = 2_000
"""How long it then waits for that backend to be gone."""

_GRACE_SECONDS = 1.0
"""By how much the socket outwaits ``statement_timeout``: the server's own word is the clearer."""

_SESSION_LOCK_SECONDS = 1.0
"""How long to retry the session lock. A process that may end no session takes it for a few messages
before it finds that another one holds the lease."""

_GOODBYE_SECONDS = 1.0
"""How long a server may take to release the session lock; then the connection is closed anyway."""

LOCK_NOT_AVAILABLE = "55P03"
INSUFFICIENT_PRIVILEGE = "42501"
READ_ONLY_TRANSACTION = "25006"

MAY_PASS = ("08", "25006", "40", "53", "55P03", "55006", "57", "58")
"""What is refused with one of these while we take over may be accepted a moment later: a broken
connection to elsewhere, a failover, a serialization failure, no memory or disk or connection left,
a lock, a shutdown, an I/O error."""

_INTERRUPTED = ("40", "53", "55", "57")
"""Classes of errors that say nothing of the function that was called: no memory, a cancel."""

_CATALOG_RACES = re.compile(r"^tuple concurrently |\bpg_(namespace|class|type)\w*_index\b")
"""Another process made or changed the same thing at the same time, by other means than ours."""


class ScriptRefused(Exception):
    """The server refused a script, or what we wrote after it; all of it is undone.

    Attributes:
        error: What the server said; its position, if any, is one in the script.
        completed: How many statements of the script had finished; None if it had not begun.
    """

    def __init__(self, error: PostgresError, *, completed: int | None) -> None:
        self.error = error
        self.completed = completed
        super().__init__(str(error))


class FencedConnection:
    """One holder's connection; `run` and `transaction` only ever act under its fence.

    Attributes:
        is_direct: Whether the session is ours alone: the backend that answers is the one that the
            login named. Behind PgBouncer or RDS Proxy another one answers.
        on_reattached: Called by `reattach`; what it raises ends the connection.

    Args:
        open_connection: Opens a connection, given the seconds that it may take.
        queries: Our SQL.
        grant: The holder's right.
        random: Chance, for jitter.
        lock_seconds: ``lock_timeout`` of a migration's transaction.
    """

    def __init__(
        self,
        open_connection: Callable[[float], Connection],
        queries: Queries,
        grant: LeaseGrant,
        *,
        random: Random,
        lock_seconds: float,
    ) -> None:
        self.queries = queries
        self.grant = grant
        self.is_aborted = False
        self.identity = ""
        """Of the database that was taken over; see `FencedSession.identity`."""
        self.distrusted = ""
        """See `FencedSession.distrusted`."""
        self.is_separate = False
        """See `FencedSession.is_separate`."""
        self.is_direct = False
        self.on_reattached: Callable[[Deadline], None] = _do_nothing
        self._open = open_connection
        self._random = random
        self._lock_ms = round(lock_seconds * 1000)
        self._connection: Connection | None = None
        self._evict = True

    # --- opening and ending

    def attach(self, deadline: Deadline, *, evict: bool = True) -> None:
        """Connect and make this grant the only one that can commit.

        Raises:
            StaleFencingToken: A token at least as high was seen.
            LeaseLost: `abort` was called.
            LeaseHeld: An older holder is alive and ``evict`` is False.
            ConfigurationError: Privileges or the environment are wrong.
            DatabaseUnavailable: Not before the deadline.
        """
        self._evict = evict
        self._until_accepted(lambda: self._take_over(deadline, evict=evict), deadline)

    def _take_over(self, deadline: Deadline, *, evict: bool) -> None:
        self._open_session(deadline)
        probe = self._bootstrap(deadline)
        self._take(probe, deadline, evict=evict)

    def look(self, deadline: Deadline) -> tuple[bool, bool]:
        """Connect without taking the fence, for who commits nothing and ends nobody.

        Returns:
            Whether our schema is there, and whether our tables are, with a fence in them.

        Raises:
            StaleFencingToken: A token at least as high was seen.
            LeaseLost: `abort` was called.
            LeaseHeld: A holder is alive.
            ConfigurationError: Privileges or the environment are wrong.
            DatabaseUnavailable: Not before the deadline.
        """
        return self._until_accepted(lambda: self._look(deadline), deadline)

    def _look(self, deadline: Deadline) -> tuple[bool, bool]:
        self._open_session(deadline)
        probe = self._probe(deadline)
        row = self._read_fence(probe, deadline)
        if row is not None:
            self._judge_fence(row)
            self._refuse_if_held(deadline)
        return probe.has_schema, row is not None and probe.has_history

    def reattach(self, deadline: Deadline) -> None:
        """Connect again after the connection broke, under the same fence.

        A holder that may end no session waits: its own former one may take a moment to end, and
        another process that has claimed the session lock is about to take over, or to give up.

        Raises:
            LeaseLost: `abort` was called, or a successor has taken over.
            DatabaseUnavailable: A row of the history that was there before is not there any more,
                or another session had the session lock until the deadline.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                self.attach(deadline, evict=self._evict)
                break
            except StaleFencingToken as stale:
                raise self.lost(stale.current_token) from stale
            except LeaseHeld as held:
                if deadline.is_over:
                    raise DatabaseUnavailable(
                        f"after the connection broke, the database was not free: {held}"
                    ) from held
            deadline.clock.sleep(min(self.jitter(attempt), deadline.remaining()))
        try:
            self.on_reattached(deadline)
        except BaseException:
            self.close()
            raise

    def abort(self) -> None:
        """End the running statement from another thread; nothing runs on this grant any more."""
        self.is_aborted = True
        connection = self._connection
        if connection is not None:
            connection.abort()

    def release_session_lock(self, deadline: Deadline) -> None:
        """Release it at once, where nothing is open: the backend may outlive the connection.

        A process that looks in that moment would find a holder at work.
        """
        connection = self._connection
        if not self.is_direct or connection is None or connection.in_transaction:
            return
        with suppress(PostgresError, ConnectionLost, MigrateError):
            self.read(self.queries.release_session_lock(), deadline.at_most(_GOODBYE_SECONDS))

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def lost(self, seen: int | None = None) -> LeaseLost:
        """The error for a holder that was overtaken."""
        by = f" by {seen}" if seen is not None else ""
        return LeaseLost(
            f"lost the lease on {self.grant.target!r}: fencing token {self.grant.fence} was "
            f"superseded{by}; nothing more of it was committed"
        )

    # --- running

    @property
    def connection(self) -> Connection:
        """The open connection.

        Raises:
            ConnectionLost: There is none.
        """
        if self.is_aborted:
            raise self.lost()
        if self._connection is None:
            raise ConnectionLost("the connection is closed")
        return self._connection

    def run(self, sql: str, deadline: Deadline, *, keep: int | None = None) -> list[list[Any]]:
        """Send one message and read its rows, for no longer than the deadline allows.

        ``keep`` is for messages with a script in them; see `Connection.run`.
        """
        timeout = deadline.remaining() + _GRACE_SECONDS
        return self.connection.run(sql, timeout=timeout, keep=keep)

    def read(self, sql: str, deadline: Deadline) -> list[list[Any]]:
        """`run` for what changes nothing: outside a transaction it has limits of its own.

        The database or the role may have others by default.
        """
        if self.connection.in_transaction:
            return self.run(sql, deadline)
        return self.run(f"{self._own_limits(deadline).set_alone()} {sql}", deadline)

    def limits(self, deadline: Deadline, *, waits_for_locks: bool = False) -> Limits:
        """The server-side limits for what is to be done by ``deadline``.

        Raises:
            MigrationFailed: No time is left.
        """
        left = deadline.remaining()
        if left <= 0:
            raise MigrationFailed("the deadline has passed", is_timeout=True)
        statement = max(1, round(left * 1000))
        lock = 0 if waits_for_locks else _shorter(self._lock_ms, statement)
        return self._limits(lock, statement)

    def _own_limits(self, deadline: Deadline, *, lock_ms: int = 0) -> Limits:
        """For statements of our own: as long as `run` listens."""
        statement = max(500, round(deadline.remaining() * 1000))
        return self._limits(_shorter(lock_ms, statement) if lock_ms else 0, statement)

    def _limits(self, lock: int, statement: int) -> Limits:
        version = self.connection.server_version
        return Limits(lock=lock, statement=statement, server_version=version)

    def begin(self, deadline: Deadline) -> str:
        """Open a transaction, lock the fence, compare it; returns the transaction's id.

        Raises:
            LeaseLost: The token is another's.
        """
        if self.connection.in_transaction:
            # BEGIN would only warn, and what stands open would be committed with what is to come.
            self.undo(deadline)
        try:
            rows = self.run(self.queries.begin(self.limits(deadline)), deadline)
        except PostgresError as error:
            self._give_up_reader(error)
            raise
        token, owner, transaction = rows[-1] if rows else (None, "", "")
        if (token, owner) != (self.grant.fence, self.grant.owner):
            self.run("ROLLBACK", deadline)
            raise self.lost(token)
        return str(transaction)

    def commit(self, writes: str, deadline: Deadline) -> list[Any]:
        """Undo what a script left in the session, write and commit; returns the last row."""
        sql = self.queries.commit(writes, self.limits(deadline), is_direct=self.is_direct)
        return self.run(sql, deadline)[-1]

    def run_enclosed(self, script: str, writes: str, deadline: Deadline) -> list[Any]:
        """Run a script's whole transaction in one message; returns the last row of ``writes``.

        Raises:
            LeaseLost: The token is another's; the script did not begin.
            ScriptRefused: The server refused something; nothing of it was committed.
        """
        if self.connection.in_transaction:
            # BEGIN would only warn, and what stands open would be committed with what is to come.
            self.undo(deadline)
        message = self.queries.enclose(
            script, writes, self.grant, self.limits(deadline), is_direct=self.is_direct
        )
        try:
            return self.run(message.sql, deadline, keep=1)[-1]
        except PostgresError as error:
            completed = self.connection.completed
            self.undo(deadline)
            seen = message.seen(error, completed)
            if seen is not None:
                raise self.lost(seen if seen >= 0 else None) from error
            completed_of_script = message.completed(completed, error.position)
            if completed_of_script is None:
                self._give_up_reader(error)
            error.position = message.position(error.position)
            raise ScriptRefused(error, completed=completed_of_script) from error

    def write(self, writes: str, deadline: Deadline) -> list[Any]:
        """A transaction of our own: begin under the fence, write, commit."""
        try:
            self.begin(deadline)
            return self.commit(writes, deadline)
        except PostgresError:
            self.undo(deadline)
            raise

    def require_direct(self, name: str, deadline: Deadline) -> None:
        """Refuse what must run in a session that is ours alone.

        Behind a pooler a successor could not end the session that is between an intent row and
        its statement: it may serve the application by then.

        Args:
            name: The migration's.
            deadline: For asking.

        Raises:
            MigrationFailed: A pooler is in between, or another session has the session lock.
        """
        if not self.is_direct:
            raise MigrationFailed(_NEEDS_DIRECT, migration=name)
        limit = deadline.at_most(_SESSION_LOCK_SECONDS)
        attempt = 0
        while not self.read(self.queries.try_session_lock(), deadline)[-1][0]:
            attempt += 1
            if limit.is_over:
                raise self._session_lock_taken(deadline, name)
            deadline.clock.sleep(min(self.jitter(attempt), limit.remaining()))

    def run_outside(self, script: str, deadline: Deadline, *, name: str = "") -> None:
        """Run one statement outside a transaction, with settings that end with it.

        It waits for locks as long as the deadline allows.

        Args:
            script: The statement.
            deadline: When PostgreSQL cancels it.
            name: The migration's, for messages.

        Raises:
            PostgresError: The server refused it; its position is one in ``script``.
            ConnectionLost: Whether it took effect is unknown.
            LeaseLost: A successor has taken over; it did not begin.
            MigrationFailed: See `require_direct`; it did not begin.
        """
        self.require_direct(name, deadline)
        if self.connection.in_transaction:
            self.undo(deadline)
        limits = self.limits(deadline, waits_for_locks=True)
        pid, is_locked, token, owner = self.run(self.queries.prepare_outside(limits), deadline)[-1]
        if pid != self.connection.pid:  # a pooler that shows a backend's own number
            self.is_direct = False
            self.undo(deadline)
            raise MigrationFailed(_NEEDS_DIRECT, migration=name)
        if (token, owner) != (self.grant.fence, self.grant.owner):
            raise self.lost(token)
        if not is_locked:
            raise self._session_lock_taken(deadline, name)
        tag = self.queries.tag(self.grant)
        try:
            self.run(tag + script, deadline, keep=0)
        except PostgresError as error:
            if error.position is not None:
                error.position = max(1, error.position - len(tag))
            raise
        finally:
            self._forget_or_close(deadline)

    def _forget_or_close(self, deadline: Deadline) -> None:
        """Settings of a session end with it, too."""
        if self._connection is None or self._connection.is_closed:
            return
        try:
            self.undo(deadline)
        except (PostgresError, ConnectionLost):
            self.close()

    def _session_lock_taken(self, deadline: Deadline, name: str) -> MigrationFailed:
        rows = self.read(self.queries.find_session_lockers(), deadline)
        by = _session(*rows[0]) if rows else "a session of another role"
        return MigrationFailed(
            f"{by} holds the advisory lock of schema {self.queries.schema}, without which nothing "
            "can run outside a transaction; end that session and run again",
            migration=name,
        )

    def undo(self, deadline: Deadline) -> None:
        """Roll back, and forget what a script left in the session.

        Prepared statements, for one, outlive a rollback. One message: between two a pooler would
        hand the backend on.
        """
        self.run(f"ROLLBACK; {self.queries.forget(is_direct=self.is_direct)}", deadline)

    def jitter(self, attempt: int) -> float:
        """Seconds before the next attempt, the first being 1: up to 5, full jitter."""
        return float(min(5.0, 0.1 * 2 ** min(attempt, 10)) * self._random.random())

    # --- inside attach

    def _until_accepted(self, act: Callable[[], _T], deadline: Deadline) -> _T:
        """Try again what PostgreSQL refuses now and may accept later, until the deadline."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return act()
            except PostgresError as error:
                self.close()
                refusal = as_configuration(error)
                if not refusal.retryable or deadline.is_over:
                    raise refusal from error
            except BaseException:
                self.close()
                raise
            deadline.clock.sleep(min(self.jitter(attempt), deadline.remaining()))

    def _open_session(self, deadline: Deadline) -> None:
        """Connect, and see what kind of session it is."""
        self.close()
        if self.is_aborted:
            raise self.lost()
        self._connection = self._connect(deadline)
        pid, is_recovering, is_read_only = self.read(self.queries.session(), deadline)[0]
        self.is_direct = pid == self._connection.pid
        if is_recovering:
            raise PostgresError({"C": READ_ONLY_TRANSACTION, "M": _RECOVERING})
        if is_read_only:
            raise ConfigurationError(_READ_ONLY_BY_DEFAULT)

    def _give_up_reader(self, error: PostgresError) -> None:
        """Close the connection if its server has become a reader; it will not be a writer again.

        Raises:
            ConnectionLost: It has; another connection may find the new writer.
        """
        if error.sqlstate == READ_ONLY_TRANSACTION:
            self.close()
            raise ConnectionLost(error.message, sqlstate=error.sqlstate) from error

    def _connect(self, deadline: Deadline) -> Connection:
        from tenacity import RetryCallState, Retrying, retry_if_exception

        def wait(state: RetryCallState) -> float:
            return min(self.jitter(state.attempt_number), deadline.remaining())

        retrying = Retrying(
            retry=retry_if_exception(_is_worth_retrying),
            stop=lambda _state: deadline.is_over or self.is_aborted,
            wait=wait,
            sleep=deadline.clock.sleep,
            reraise=True,
        )
        try:
            connection = retrying(lambda: self._open(max(0.1, deadline.remaining())))
        except ConnectFailed as failed:
            if self.is_aborted:
                raise self.lost() from failed
            if failed.permanent:
                raise ConfigurationError(str(failed)) from failed
            raise DatabaseUnavailable(str(failed)) from failed
        if self.is_aborted:
            connection.close()
            raise self.lost()
        return connection

    def _bootstrap(self, deadline: Deadline) -> Probe:
        """Create what is missing, unless what is there is of another layout."""
        probe = self._probe(deadline)
        if probe.has_fence and probe.has_history:
            return probe
        self._read_fence(probe, deadline)
        self._create(deadline, create_schema=not probe.has_schema)
        return self._probe(deadline)

    def _probe(self, deadline: Deadline) -> Probe:
        return Probe(*self.read(self.queries.probe(), deadline)[0])

    def _read_fence(self, probe: Probe, deadline: Deadline) -> FenceRow | None:
        return read_fence(partial(self.read, deadline=deadline), self.queries, probe)

    def _create(self, deadline: Deadline, *, create_schema: bool) -> None:
        limits = self._own_limits(deadline)
        self.run(self.queries.bootstrap(limits, create_schema=create_schema), deadline)

    def _take(self, probe: Probe, deadline: Deadline, *, evict: bool) -> None:
        """Set the token; end the backend that has the row locked for longer than we wait, no other.

        A release unlocks the row at once, so that it ends no session.
        """
        if not evict:
            self._claim(deadline)
        while True:
            seen = self._check_fence(probe, deadline)
            lockers = self.read(self.queries.find_fence_locker(self.grant), deadline)
            if not evict and lockers:
                raise _held_by(lockers[0])
            if self._set_token(seen, deadline, evict=evict):
                return
            for pid, transaction, *_ in lockers:
                self._end(self.queries.end_transaction(pid, transaction), deadline)
            if deadline.is_over:
                raise DatabaseUnavailable(_still_locked(lockers))

    def _claim(self, deadline: Deadline) -> None:
        """Let one process continue of several that may not end each other."""
        if self.is_direct and self.read(self.queries.try_session_lock(), deadline)[-1][0]:
            return
        rows = self.read(self.queries.find_session_lockers(), deadline)
        if rows:
            raise _held_by(rows[0])

    def _check_fence(self, probe: Probe, deadline: Deadline) -> FenceRow:
        """Read the fence row, and check it."""
        row = self._read_fence(probe, deadline)
        if row is None:
            # The table was emptied. Tokens are compared for equality: no old one is valid again.
            self._create(deadline, create_schema=False)
            row = self._read_fence(probe, deadline)
        if row is None:
            raise ConfigurationError(
                "the fence table shows no row even after one was inserted: remove the trigger, "
                "rule or row security policy that prevents it"
            )
        self._judge_fence(row)
        return row

    def _judge_fence(self, row: FenceRow) -> None:
        if not self.grant.restamps_environment:
            require_environment(row.environment, self.grant.environment)
        is_mine = (row.token, row.owner) == (self.grant.fence, self.grant.owner)
        if not is_mine and row.token >= self.grant.fence:
            raise StaleFencingToken(row.token)
        if self.grant.fence - row.token > _FARTHEST_JUMP:
            raise ConfigurationError(
                f"the lease table's fence of {self.grant.target!r} is {self.grant.fence}, and "
                f"PostgreSQL's is {row.token}: something else writes to the item. Delete the "
                "item: the next start makes a new one above what PostgreSQL has seen"
            )

    def _identify(self, row: FenceRow) -> str:
        """The identity of the database from now on: its own, or a new one for a copy.

        Raises:
            DatabaseUnavailable: After a reconnection it is another database than before.
        """
        if self.identity:
            if row.identity != self.identity:
                raise DatabaseUnavailable(
                    "after the connection broke, the same address led to another database, or to "
                    f"a state from before this takeover (identity {row.identity} instead of "
                    f"{self.identity}); nothing was applied there"
                )
            return self.identity
        self.is_separate = row.is_copy or (row.token, row.owner) == (0, "")
        if row.is_copy:
            return str(uuid4())
        if is_behind_last_completion(row, self.grant.completions):
            # Restored in place, or copied with its cluster's identifier: which one is unknown.
            self.distrusted = row.identity
            return str(uuid4())
        return row.identity

    def _refuse_if_held(self, deadline: Deadline) -> None:
        """Refuse to continue while another process is migrating."""
        queries = self.queries
        for query in (queries.find_fence_locker(self.grant), queries.find_session_lockers()):
            for row in self.read(query, deadline):
                raise _held_by(row)

    def _set_token(self, seen: FenceRow, deadline: Deadline, *, evict: bool) -> bool:
        """Set it, and end older holders' sessions before it is committed; False if it waits."""
        identity = self._identify(seen)
        limits = self._own_limits(deadline, lock_ms=_FENCE_LOCK_MS)
        try:
            sql = self.queries.take_fence(self.grant, limits, seen, identity=identity)
            rows = self.run(sql, deadline)
            if rows[:1] != [[self.grant.owner, None]]:
                self.run("ROLLBACK", deadline)  # the next look at the fence says why
                return False
            if rows[1:] and not evict:
                self.run("ROLLBACK", deadline)
                raise LeaseHeld(f"{_BUSY}; {_LATER}")
            if rows[1:]:
                self._end_sessions(deadline)
            self.run(self.queries.finish_take(is_direct=self.is_direct), deadline)
            self.identity = identity
        except PostgresError as error:
            self.run("ROLLBACK", deadline)
            if error.sqlstate == LOCK_NOT_AVAILABLE:
                return False
            raise
        return True

    def _end_sessions(self, deadline: Deadline) -> None:
        """End them until none is left."""
        sql = self.queries.end_session_lockers(wait_ms=_END_WAIT_MS)
        while self._end(sql, deadline):
            if deadline.is_over:
                raise DatabaseUnavailable("an earlier holder's session could not be ended")

    def _end(self, sql: str, deadline: Deadline) -> list[list[Any]]:
        try:
            return self.run(sql, deadline)
        except PostgresError as error:
            if error.sqlstate == INSUFFICIENT_PRIVILEGE and "terminate" in error.message:
                raise ConfigurationError(_NOT_OURS_TO_END) from error
            raise


def read_fence(
    run: Callable[[str], list[list[Any]]], queries: Queries, probe: Probe
) -> FenceRow | None:
    """The fence row; None without one.

    Args:
        run: Runs a message that reads, outside of a transaction.
        queries: Our SQL.
        probe: What the catalog says.

    Raises:
        ConfigurationError: What is there of our tables has another layout, or an unknown one.
    """
    rows: list[list[Any]] = []
    if probe.has_fence:
        try:
            rows = run(queries.read_fence(reads_system=probe.reads_system))
        except PostgresError as error:
            # Some managed servers let every role call the function, and have it fail.
            if not probe.reads_system or error.sqlstate.startswith(_INTERRUPTED):
                raise
            rows = run(queries.read_fence(reads_system=False))
    if rows:
        return read_fence_row(rows[0])
    if probe.has_fence or probe.has_history:
        _require_layout(probe.layout)
    return None


def read_fence_row(row: list[Any]) -> FenceRow:
    """A row of `Queries.read_fence`.

    Raises:
        ConfigurationError: Another version of the library has laid out the tables.
    """
    fields = json.loads(row[0])
    _require_layout(fields.get("layout"))
    return FenceRow(
        token=fields["token"],
        owner=fields["owner"],
        environment=fields["environment"],
        identity=fields["identity"],
        system=fields["system"],
        live_system=row[1],
    )


def _require_layout(layout: int | str | None) -> None:
    if str(layout) == str(LAYOUT):
        return
    known = "an unknown layout" if layout is None else f"layout {layout}"
    is_newer = str(layout).isdecimal() and int(str(layout)) > LAYOUT
    raise ConfigurationError(
        f"the database's lambda-migrate tables have {known}, and this version of the "
        f"library reads {LAYOUT} only; nothing was changed. "
        + (
            "Deploy the newer library"
            if is_newer
            else "There is no way to convert them: drop the schema that holds them, then "
            "record what is applied with `lambda-migrate baseline VERSION`"
        )
    )


def _do_nothing(deadline: Deadline) -> None:
    """For a connection that has read no history."""


def _shorter(lock: int, statement: int) -> int:
    """A ``lock_timeout`` that comes before ``statement_timeout``: it tells what was waited for."""
    return max(1, min(lock, statement * 9 // 10))


def _is_worth_retrying(error: BaseException) -> bool:
    return isinstance(error, ConnectFailed) and not error.permanent


def as_configuration(error: PostgresError) -> MigrateError:
    """What a refusal of our own preparations is to a caller."""
    refusal = f"{redact(error.message)} [{error.sqlstate}]"
    for label, text in (("where", error.where), ("hint", error.hint)):
        refusal += f"; {label}: {redact(' '.join(text.split()))[:_CONTEXT_AT_MOST]}" if text else ""
    if error.message == _RECOVERING:
        return DatabaseUnavailable(refusal)
    if error.sqlstate.startswith(MAY_PASS) or _CATALOG_RACES.search(error.message):
        return DatabaseUnavailable(f"PostgreSQL refused to let a holder take over: {refusal}")
    return ConfigurationError(
        f"PostgreSQL refused to prepare the lambda-migrate schema: {refusal}; {_advice(error)}"
    )


def _advice(error: PostgresError) -> str:
    if error.where:
        return (
            "a trigger of this database refused it: exempt that schema, or correct the "
            "function that `where` names"
        )
    if error.sqlstate == INSUFFICIENT_PRIVILEGE:
        return "let the migrating role own that schema, or GRANT it CREATE on the database"
    return "correct what it names, then deploy again"


def _session(pid: int, application: str | None, since: str | None) -> str:
    return f"backend {pid} ({application or 'no application name'}, since {since or 'unknown'})"


def _held_by(row: Sequence[Any]) -> LeaseHeld:
    """Of a row of `Queries.find_fence_locker` or `Queries.find_session_lockers`."""
    return LeaseHeld(f"{_BUSY}: {_session(row[0], row[-2], row[-1])}; {_LATER}")


def _still_locked(lockers: Sequence[Sequence[Any]]) -> str:
    by = ", ".join(_session(row[0], row[-2], row[-1]) for row in lockers) or "another session"
    return f"the fence row is locked by {by}, and was not free before the deadline"


_CONTEXT_AT_MOST = 300
"""Characters of a call stack, whose innermost function comes first."""

_BUSY = "another process is migrating this database"
_LATER = "try again when it is done"

_RECOVERING = (
    "the server is in recovery, so this endpoint is a reader or a failover is in progress; use the "
    "writer endpoint"
)

_READ_ONLY_BY_DEFAULT = (
    f"the database is read-only by default, so nothing was migrated [{READ_ONLY_TRANSACTION}]; "
    "lift it (ALTER DATABASE ... RESET default_transaction_read_only), or exempt the migrating "
    "role (ALTER ROLE ... SET default_transaction_read_only = off)"
)

_NEEDS_DIRECT = (
    "it is marked transaction:false, and a pooler (PgBouncer, RDS Proxy) is between this process "
    "and PostgreSQL: run it over the database's own endpoint (LAMBDA_MIGRATE_DATABASE_URL, or the "
    "host in the secret), for example with `lambda-migrate up`"
)
