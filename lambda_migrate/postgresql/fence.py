"""The holder's connection: takes over the fence, reconnects, and starts every transaction.

The package's docstring describes the protocol.
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
from lambda_migrate.migrations.sql.placeholders import hide_values
from lambda_migrate.postgresql.connection import ConnectFailed, ConnectionLost, PostgresError
from lambda_migrate.postgresql.ports import (
    FenceRow,
    Notice,
    StaleFencingToken,
    is_behind_last_completion,
    require_environment,
)
from lambda_migrate.postgresql.queries import TABLE_LAYOUT, SchemaProbe
from lambda_migrate.postgresql.sql_fragments import ServerTimeouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lambda_migrate.clock import Deadline
    from lambda_migrate.postgresql.connection import Connection
    from lambda_migrate.postgresql.ports import LeaseGrant
    from lambda_migrate.postgresql.queries import Queries
    from lambda_migrate.randomness import Random

__all__ = [
    "FencedConnection",
    "ScriptRefused",
    "make_lease_held_error",
    "read_fence",
    "translate_server_error",
]

_T = TypeVar("_T")

_FENCE_LOCK_MS = 500
"""How long a takeover waits for the fence row before it terminates the backend that locked it."""

_MAY_NOT_TERMINATE = (
    "the backend of an earlier holder belongs to another role, and this role may not terminate "
    "it: use the same role for all functions of a target, or GRANT pg_signal_backend"
)

_MAX_TOKEN_JUMP = 10**12
"""By how much a token may exceed the last one: 30 years of 1,000 acquisitions per second. Something
else has written a higher one, and to store it would leave no room above it."""

_TERMINATE_WAIT_MS = 2_000
"""How long it then waits for that backend to end."""

_SOCKET_GRACE_SECONDS = 1.0
"""By how much the socket's timeout exceeds ``statement_timeout``, whose error is more specific."""

_ADVISORY_LOCK_SECONDS = 1.0
"""How long to retry the advisory lock. A process that may not terminate sessions takes it
briefly, before it finds that another process holds the lease."""

_CLOSE_SECONDS = 1.0
"""How long to wait for the release of the advisory lock before the connection is closed anyway."""

LOCK_NOT_AVAILABLE = "55P03"
INSUFFICIENT_PRIVILEGE = "42501"
READ_ONLY_TRANSACTION = "25006"

TRANSIENT_SQLSTATES = ("08", "25006", "40", "53", "55P03", "55006", "57", "58")
"""SQLSTATEs (or their classes) with which a takeover is retried: a broken connection to another
server, a failover, a serialization failure, no memory, disk space or connection left, a lock, a
shutdown, an I/O error."""

_UNRELATED_SQLSTATES = ("40", "53", "55", "57")
"""Classes of errors unrelated to the function that was called: no memory, a cancellation."""

_CONCURRENT_DDL = re.compile(r"^tuple concurrently |\bpg_(namespace|class|type)\w*_index\b")
"""Another process created or changed the same object meanwhile, without our advisory lock."""


class ScriptRefused(Exception):
    """The server refused a script, or a statement after it; everything was rolled back.

    Attributes:
        error: The server's error; its position, if any, is one in the script.
        completed_statements: How many statements of the script had finished; None if it had not
            begun.
    """

    def __init__(self, error: PostgresError, *, completed_statements: int | None) -> None:
        self.error = error
        self.completed_statements = completed_statements
        super().__init__(str(error))


class FencedConnection:
    """One holder's connection, on which every transaction checks the fence.

    Attributes:
        is_direct_connection: Whether the session belongs to this client alone: the backend that
            responds is the one that the login reported. Behind PgBouncer or RDS Proxy it is another
            one.
        on_reconnected: Called by `reconnect`; an error in it closes the connection.

    Args:
        open_connection: Opens a connection within the given seconds.
        queries: The library's SQL.
        grant: The holder's grant.
        random: Random numbers, for jitter.
        lock_seconds: ``lock_timeout`` of a migration's transaction.
        placeholders: The values of placeholders in scripts, hidden in the server's messages.
    """

    def __init__(
        self,
        open_connection: Callable[[float], Connection],
        queries: Queries,
        grant: LeaseGrant,
        *,
        random: Random,
        lock_seconds: float,
        placeholders: Mapping[str, str],
    ) -> None:
        self.queries = queries
        self.placeholders = placeholders
        self.grant = grant
        self.is_aborted = False
        self.identity = ""
        """See `FencedSession.identity`."""
        self.environment = ""
        """The environment that was recorded in the database before the takeover."""
        self.distrusted_identity = ""
        """See `FencedSession.distrusted_identity`."""
        self.is_new_or_copied_database = False
        """See `FencedSession.is_new_or_copied_database`."""
        self.is_direct_connection = False
        self.on_reconnected: Callable[[Deadline], None] = _do_nothing
        self._open = open_connection
        self._random = random
        self._lock_ms = round(lock_seconds * 1000)
        self._connection: Connection | None = None
        self._terminate_holders = True

    # --- opening and ending

    def connect_and_take_fence(self, deadline: Deadline, *, terminate_holders: bool = True) -> None:
        """Connect, and take over the fence: only this grant can commit from now on.

        Raises:
            StaleFencingToken: A token at least as high was seen.
            LeaseLost: `abort` was called.
            LeaseHeld: An older holder is alive and ``terminate_holders`` is False.
            ConfigurationError: A privilege is missing, or the environment is another one.
            DatabaseUnavailable: The database could not be reached before the deadline.
        """
        self._terminate_holders = terminate_holders
        self._retry_until_deadline(
            lambda: self._connect_and_take_fence(deadline, terminate_holders=terminate_holders),
            deadline,
        )

    def _connect_and_take_fence(self, deadline: Deadline, *, terminate_holders: bool) -> None:
        self._open_session(deadline)
        probe = self._bootstrap(deadline)
        self._take_fence(probe, deadline, terminate_holders=terminate_holders)

    def inspect_fence(self, deadline: Deadline) -> SchemaProbe:
        """Connect without taking over the fence, for a dry run.

        Returns:
            The state of the schema; without a fence row it has no history.

        Raises:
            StaleFencingToken: A token at least as high was seen.
            LeaseLost: `abort` was called.
            LeaseHeld: A holder is alive.
            ConfigurationError: A privilege is missing, or the environment is another one.
            DatabaseUnavailable: The database could not be reached before the deadline.
        """
        return self._retry_until_deadline(lambda: self._inspect_fence(deadline), deadline)

    def _inspect_fence(self, deadline: Deadline) -> SchemaProbe:
        self._open_session(deadline)
        probe = self._probe_schema(deadline)
        row = self._read_fence(probe, deadline)
        if row is None:
            return probe._replace(has_history=False)
        self._check_fence_row(row)
        self._require_no_holder(deadline)
        return probe

    def reconnect(self, deadline: Deadline) -> None:
        """Connect again after the connection broke, under the same fence.

        A holder that may not terminate sessions waits: its own former session may take a moment to
        end, and another process with the advisory lock either takes over or gives up soon.

        Raises:
            LeaseLost: `abort` was called, or a successor has taken over.
            DatabaseUnavailable: A history row that existed before is missing now, or another
                session had the advisory lock until the deadline.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                self.connect_and_take_fence(deadline, terminate_holders=self._terminate_holders)
                break
            except StaleFencingToken as stale:
                raise self.make_lease_lost_error(stale.current_token) from stale
            except LeaseHeld as error:
                if deadline.is_over:
                    raise DatabaseUnavailable(
                        f"the connection broke, and reconnecting failed: {error}"
                    ) from error
            self.pause(attempt, deadline)
        try:
            self.on_reconnected(deadline)
        except BaseException:
            self.close()
            raise

    def abort(self) -> None:
        """Abort the running statement from another thread, and refuse any further one."""
        self.is_aborted = True
        connection = self._connection
        if connection is not None:
            connection.abort()

    def release_advisory_lock(self, deadline: Deadline) -> None:
        """Release the advisory lock before the connection closes, unless a transaction is open.

        The backend may outlive the connection for a moment. Another process that checks then would
        see a holder.
        """
        connection = self._connection
        if not self.is_direct_connection or connection is None or connection.in_transaction:
            return
        with suppress(PostgresError, ConnectionLost, MigrateError):
            self.read(self.queries.release_advisory_lock(), deadline.limited_to(_CLOSE_SECONDS))

    def take_notices(self) -> tuple[Notice, ...]:
        """See `DatabaseSession.take_notices`."""
        if self._connection is None:
            return ()
        found, dropped = self._connection.take_notices()
        notices = [
            Notice(each.get("V", "NOTICE"), _describe_notice(each, self.placeholders))
            for each in found
        ]
        if dropped:
            notices.append(Notice("NOTICE", f"{dropped} more messages were left out"))
        return tuple(notices)

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def make_lease_lost_error(self, current_token: int | None = None) -> LeaseLost:
        """The error for a holder whose fencing token was superseded."""
        by = f" by {current_token}" if current_token is not None else ""
        return LeaseLost(
            f"lost the lease on {self.grant.target!r}: fencing token {self.grant.fence} was "
            f"superseded{by}; nothing was committed after that"
        )

    # --- running

    @property
    def raw_connection(self) -> Connection:
        """The open connection.

        Raises:
            ConnectionLost: There is none.
        """
        if self.is_aborted:
            raise self.make_lease_lost_error()
        if self._connection is None:
            raise ConnectionLost("the connection is closed")
        return self._connection

    def run(self, sql: str, deadline: Deadline, *, keep_rows: int | None = None) -> list[list[Any]]:
        """Send one message and return its rows; waits no longer than the deadline allows.

        ``keep_rows`` is for messages that contain a script; see `Connection.run`.
        """
        timeout = deadline.remaining() + _SOCKET_GRACE_SECONDS
        try:
            return self.raw_connection.run(sql, timeout=timeout, keep_rows=keep_rows)
        except PostgresError as error:
            error.change_texts(partial(hide_values, values=self.placeholders))
            raise

    def read(self, sql: str, deadline: Deadline) -> list[list[Any]]:
        """`run` for queries. Outside a transaction it sets the timeouts itself.

        The database or the role may have other defaults.
        """
        if self.raw_connection.in_transaction:
            return self.run(sql, deadline)
        return self.run(
            f"{self._bookkeeping_timeouts(deadline).set_for_read_query()} {sql}", deadline
        )

    def timeouts(self, deadline: Deadline, *, waits_for_locks: bool = False) -> ServerTimeouts:
        """The server-side timeouts for work that must end by ``deadline``.

        Raises:
            DatabaseUnavailable: The deadline has passed; nothing was sent.
        """
        left = deadline.remaining()
        if left <= 0:
            raise DatabaseUnavailable(
                "the deadline has passed; the next invocation continues from what is committed"
            )
        statement = max(1, round(left * 1000))
        lock = 0 if waits_for_locks else _shorter_lock_timeout(self._lock_ms, statement)
        return self._server_timeouts(lock, statement)

    def _bookkeeping_timeouts(self, deadline: Deadline, *, lock_ms: int = 0) -> ServerTimeouts:
        """Timeouts for the library's own statements: as long as `run` waits."""
        statement = max(500, round(deadline.remaining() * 1000))
        return self._server_timeouts(
            _shorter_lock_timeout(lock_ms, statement) if lock_ms else 0, statement
        )

    def _server_timeouts(self, lock: int, statement: int) -> ServerTimeouts:
        version = self.raw_connection.server_version
        return ServerTimeouts(lock=lock, statement=statement, server_version=version)

    def begin(self, deadline: Deadline) -> None:
        """Open a transaction, lock the fence row, and compare its token.

        Raises:
            LeaseLost: The fence row holds another token.
        """
        self._end_open_transaction(deadline)
        try:
            rows = self.run(self.queries.begin(self.timeouts(deadline)), deadline)
        except PostgresError as error:
            self._close_if_read_only(error)
            raise
        token, owner = rows[-1] if rows else (None, "")
        if (token, owner) != (self.grant.fence, self.grant.owner):
            self.run("ROLLBACK", deadline)
            raise self.make_lease_lost_error(token)

    def commit(self, writes: str, deadline: Deadline) -> list[Any]:
        """Reset the session, write and commit; returns the last row."""
        sql = self.queries.commit(
            writes, self.timeouts(deadline), is_direct_connection=self.is_direct_connection
        )
        return self.run(sql, deadline)[-1]

    def run_script(
        self,
        script: str,
        writes: str,
        deadline: Deadline,
        *,
        isolation: str = "",
        settings: Sequence[str] = (),
    ) -> list[Any]:
        """Run a script's whole transaction in one message; returns the last row of ``writes``.

        Raises:
            LeaseLost: The fence row holds another token; the script did not begin.
            ScriptRefused: The server refused a statement; nothing was committed.
        """
        self._end_open_transaction(deadline)
        message = self.queries.wrap_script(
            script,
            writes,
            self.grant,
            self.timeouts(deadline),
            is_direct_connection=self.is_direct_connection,
            isolation=isolation,
            settings=settings,
        )
        try:
            return self.run(message.sql, deadline, keep_rows=1)[-1]
        except PostgresError as error:
            completed_statements = self.raw_connection.completed_statements
            self.reset_session(deadline)
            token = message.find_token(error, completed_statements)
            if token is not None:
                raise self.make_lease_lost_error(token if token >= 0 else None) from error
            completed_in_script = message.count_completed(completed_statements, error.position)
            if completed_in_script is None:
                self._close_if_read_only(error)
            error.position = message.script_position(error.position)
            raise ScriptRefused(error, completed_statements=completed_in_script) from error

    def write(self, writes: str, deadline: Deadline) -> list[Any]:
        """Begin under the fence, write, and commit."""
        try:
            self.begin(deadline)
            return self.commit(writes, deadline)
        except PostgresError:
            self.reset_session(deadline)
            raise

    def require_direct_connection(self, name: str, deadline: Deadline) -> None:
        """Refuse a non-transactional migration unless the connection is direct.

        Behind a pooler a successor could not terminate the session that is between an intent row
        and its statement, because that session may serve the application by then.

        Args:
            name: The migration's name.
            deadline: For the queries.

        Raises:
            MigrationFailed: There is a pooler, or another session has the advisory lock.
        """
        if not self.is_direct_connection:
            raise MigrationFailed(_NEEDS_DIRECT_CONNECTION, migration=name)
        limit = deadline.limited_to(_ADVISORY_LOCK_SECONDS)
        attempt = 0
        while not self.read(self.queries.try_advisory_lock(), deadline)[-1][0]:
            attempt += 1
            if limit.is_over:
                raise self._advisory_lock_error(deadline, name)
            self.pause(attempt, limit)

    def run_non_transactional(
        self, script: str, deadline: Deadline, *, name: str = "", settings: Sequence[str] = ()
    ) -> None:
        """Run one statement outside a transaction, with settings that are reset afterwards.

        It waits for locks as long as the deadline allows.

        Args:
            script: The statement.
            deadline: When PostgreSQL cancels it.
            name: The migration's name, for messages.
            settings: SET statements to run before it.

        Raises:
            PostgresError: The server refused it; its position is one in ``script``.
            ConnectionLost: Whether it took effect is unknown.
            LeaseLost: A successor has taken over; it did not begin.
            MigrationFailed: See `require_direct_connection`; it did not begin.
        """
        self.require_direct_connection(name, deadline)
        self._end_open_transaction(deadline)
        timeouts = self.timeouts(deadline, waits_for_locks=True)
        pid, is_locked, token, owner = self.run(
            self.queries.prepare_non_transactional(timeouts), deadline
        )[-1]
        if pid != self.raw_connection.pid:  # a pooler that reports a backend's own process id
            self.is_direct_connection = False
            self.reset_session(deadline)
            raise MigrationFailed(_NEEDS_DIRECT_CONNECTION, migration=name)
        if (token, owner) != (self.grant.fence, self.grant.owner):
            raise self.make_lease_lost_error(token)
        if not is_locked:
            raise self._advisory_lock_error(deadline, name)
        tag = self.queries.comment(self.grant)
        try:
            self._apply_settings(settings, deadline)
            self.run(tag + script, deadline, keep_rows=0)
        except PostgresError as error:
            if error.position is not None:
                error.position = max(1, error.position - len(tag))
            raise
        finally:
            self._reset_or_close(deadline)

    def _apply_settings(self, settings: Sequence[str], deadline: Deadline) -> None:
        try:
            if settings:
                self.run("; ".join(settings), deadline)
        except PostgresError as error:
            error.position = None  # it is not one in the statement
            raise

    def _reset_or_close(self, deadline: Deadline) -> None:
        """Reset the session's settings, or close the session."""
        if self._connection is None or self._connection.is_closed:
            return
        try:
            self.reset_session(deadline)
        except (PostgresError, ConnectionLost):
            self.close()

    def _advisory_lock_error(self, deadline: Deadline, name: str) -> MigrationFailed:
        rows = self.read(self.queries.find_advisory_lockers(), deadline)
        by = _describe_session(*rows[0]) if rows else "a session of another role"
        return MigrationFailed(
            f"{by} holds the advisory lock of schema {self.queries.schema}, which a "
            "migration marked transaction:false needs; terminate that session and migrate again",
            migration=name,
        )

    def reset_session(self, deadline: Deadline) -> None:
        """Roll back, and discard everything that a script left in the session.

        Prepared statements, for one, survive a rollback. It is one message, because between two a
        pooler could pass the backend on.
        """
        reset = self.queries.reset_session(is_direct_connection=self.is_direct_connection)
        self.run(f"ROLLBACK; {reset}", deadline)

    def _end_open_transaction(self, deadline: Deadline) -> None:
        """Roll back what is open: BEGIN would only warn, and the commit would include it."""
        if self.raw_connection.in_transaction:
            self.reset_session(deadline)

    def retry_delay(self, attempt: int) -> float:
        """Seconds to wait after the given attempt, counted from 1: full jitter, at most 5 s."""
        return float(min(5.0, 0.1 * 2 ** min(attempt, 10)) * self._random.random())

    def pause(self, attempt: int, deadline: Deadline) -> None:
        """Sleep for `retry_delay`, but not beyond the deadline."""
        deadline.clock.sleep(min(self.retry_delay(attempt), deadline.remaining()))

    # --- taking over

    def _retry_until_deadline(self, operation: Callable[[], _T], deadline: Deadline) -> _T:
        """Retry until the deadline what PostgreSQL may accept later."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return operation()
            except PostgresError as error:
                self.close()
                refusal = translate_server_error(error)
                if not refusal.retryable or deadline.is_over:
                    raise refusal from error
            except BaseException:
                self.close()
                raise
            self.pause(attempt, deadline)

    def _open_session(self, deadline: Deadline) -> None:
        """Connect, and check whether the session is direct and writable."""
        self.close()
        if self.is_aborted:
            raise self.make_lease_lost_error()
        self._connection = self._connect(deadline)
        pid, is_recovering, is_read_only = self.read(self.queries.read_session(), deadline)[0]
        self.is_direct_connection = pid == self._connection.pid
        if is_recovering:
            raise PostgresError({"C": READ_ONLY_TRANSACTION, "M": _IN_RECOVERY})
        if is_read_only:
            raise ConfigurationError(_READ_ONLY_BY_DEFAULT)

    def _close_if_read_only(self, error: PostgresError) -> None:
        """Close the connection if its server has become a replica.

        Raises:
            ConnectionLost: It has; a new connection may reach the new primary.
        """
        if error.sqlstate == READ_ONLY_TRANSACTION:
            self.close()
            raise ConnectionLost(error.message, sqlstate=error.sqlstate) from error

    def _connect(self, deadline: Deadline) -> Connection:
        from tenacity import RetryCallState, Retrying, retry_if_exception

        def wait(state: RetryCallState) -> float:
            return min(self.retry_delay(state.attempt_number), deadline.remaining())

        retrying = Retrying(
            retry=retry_if_exception(_is_transient),
            stop=lambda _state: deadline.is_over or self.is_aborted,
            wait=wait,
            sleep=deadline.clock.sleep,
            reraise=True,
        )
        try:
            connection = retrying(lambda: self._open(max(0.1, deadline.remaining())))
        except ConnectFailed as failed:
            if self.is_aborted:
                raise self.make_lease_lost_error() from failed
            if failed.permanent:
                raise ConfigurationError(str(failed)) from failed
            raise DatabaseUnavailable(str(failed)) from failed
        if self.is_aborted:
            connection.close()
            raise self.make_lease_lost_error()
        return connection

    def _bootstrap(self, deadline: Deadline) -> SchemaProbe:
        """Create missing tables, unless the existing ones have another layout."""
        probe = self._probe_schema(deadline)
        if probe.has_fence and probe.has_history:
            return probe
        self._read_fence(probe, deadline)
        self._create_tables(deadline, create_schema=not probe.has_schema)
        return self._probe_schema(deadline)

    def _probe_schema(self, deadline: Deadline) -> SchemaProbe:
        return SchemaProbe(*self.read(self.queries.probe(), deadline)[0])

    def _read_fence(self, probe: SchemaProbe, deadline: Deadline) -> FenceRow | None:
        return read_fence(partial(self.read, deadline=deadline), self.queries, probe)

    def _create_tables(self, deadline: Deadline, *, create_schema: bool) -> None:
        timeouts = self._bookkeeping_timeouts(deadline)
        self.run(self.queries.create_tables(timeouts, create_schema=create_schema), deadline)

    def _take_fence(
        self, probe: SchemaProbe, deadline: Deadline, *, terminate_holders: bool
    ) -> None:
        """Set the token, and terminate a backend that keeps the fence row locked meanwhile.

        A session that only reads or has released the row is not ended.
        """
        if not terminate_holders:
            self._take_advisory_lock(deadline)
        while True:
            fence_row = self._read_checked_fence(probe, deadline)
            lockers = self.read(self.queries.find_fence_lockers(self.grant), deadline)
            if not terminate_holders and lockers:
                raise make_lease_held_error(lockers[0])
            if self._set_token(fence_row, deadline, terminate_holders=terminate_holders):
                return
            for pid, transaction, *_ in lockers:
                self._terminate(self.queries.terminate_transaction(pid, transaction), deadline)
            if deadline.is_over:
                raise DatabaseUnavailable(_describe_lockers(lockers))

    def _take_advisory_lock(self, deadline: Deadline) -> None:
        """Admit one of several processes that may not end each other's sessions."""
        if (
            self.is_direct_connection
            and self.read(self.queries.try_advisory_lock(), deadline)[-1][0]
        ):
            return
        rows = self.read(self.queries.find_advisory_lockers(), deadline)
        if rows:
            raise make_lease_held_error(rows[0])

    def _read_checked_fence(self, probe: SchemaProbe, deadline: Deadline) -> FenceRow:
        """Read the fence row, and check it."""
        row = self._read_fence(probe, deadline)
        if row is None:
            # The table was emptied. Tokens are compared for equality, so no old one becomes valid.
            self._create_tables(deadline, create_schema=False)
            row = self._read_fence(probe, deadline)
        if row is None:
            raise ConfigurationError(
                "the fence table has no row, even after one was inserted: remove the trigger, rule "
                "or row security policy that prevents it"
            )
        self._check_fence_row(row)
        return row

    def _check_fence_row(self, row: FenceRow) -> None:
        if not self.grant.replaces_environment:
            require_environment(row.environment, self.grant.environment)
        is_mine = (row.token, row.owner) == (self.grant.fence, self.grant.owner)
        if not is_mine and row.token >= self.grant.fence:
            raise StaleFencingToken(row.token)
        if self.grant.fence - row.token > _MAX_TOKEN_JUMP:
            raise ConfigurationError(
                f"the fencing token of {self.grant.target!r} is {self.grant.fence} in the lease "
                f"table and {row.token} in PostgreSQL: another program writes to the item. Delete "
                "the item: the next start creates one with a token above PostgreSQL's"
            )

    def _choose_identity(self, row: FenceRow) -> str:
        """The identity to store: the database's own, or a new one for a copy.

        Raises:
            DatabaseUnavailable: After a reconnection it is another database than before.
        """
        if self.identity:
            if row.identity != self.identity:
                raise DatabaseUnavailable(
                    "after the connection broke, the same address pointed to a different database, "
                    f"or to a state before this takeover (identity {row.identity} instead of "
                    f"{self.identity}); nothing was applied there"
                )
            return self.identity
        self.is_new_or_copied_database = row.is_database_copy or (row.token, row.owner) == (0, "")
        if row.is_database_copy:
            return str(uuid4())
        if is_behind_last_completion(row, self.grant.completions_by_database):
            # Either restored in place, or a copy of the whole cluster: which one is unknown.
            self.distrusted_identity = row.identity
            return str(uuid4())
        return row.identity

    def _require_no_holder(self, deadline: Deadline) -> None:
        """Refuse to continue while another process is migrating."""
        for row in self.read(self.queries.find_holders(self.grant), deadline):
            raise make_lease_held_error(row)

    def _set_token(
        self, fence_row: FenceRow, deadline: Deadline, *, terminate_holders: bool
    ) -> bool:
        """Set the token and terminate older holders' sessions, then commit; False to try again."""
        identity = self._choose_identity(fence_row)
        timeouts = self._bookkeeping_timeouts(deadline, lock_ms=_FENCE_LOCK_MS)
        try:
            sql = self.queries.take_fence(self.grant, timeouts, fence_row, identity=identity)
            rows = self.run(sql, deadline)
            if rows[:1] != [[self.grant.owner, None]]:
                self.run("ROLLBACK", deadline)  # `_read_checked_fence` then finds the reason
                return False
            if rows[1:] and not terminate_holders:
                self.run("ROLLBACK", deadline)
                raise make_lease_held_error()
            if rows[1:]:
                self._terminate_sessions(deadline)
            self.run(
                self.queries.commit_fence(is_direct_connection=self.is_direct_connection), deadline
            )
            self.identity = identity
            self.environment = fence_row.environment
        except PostgresError as error:
            self.run("ROLLBACK", deadline)
            if error.sqlstate == LOCK_NOT_AVAILABLE:
                return False
            raise
        return True

    def _terminate_sessions(self, deadline: Deadline) -> None:
        """End older holders' sessions until none is left."""
        sql = self.queries.terminate_advisory_lockers(wait_ms=_TERMINATE_WAIT_MS)
        while self._terminate(sql, deadline):
            if deadline.is_over:
                raise DatabaseUnavailable(
                    "the session of an earlier holder did not end before the deadline"
                )

    def _terminate(self, sql: str, deadline: Deadline) -> list[list[Any]]:
        try:
            return self.run(sql, deadline)
        except PostgresError as error:
            if error.sqlstate == INSUFFICIENT_PRIVILEGE and "terminate" in error.message:
                raise ConfigurationError(_MAY_NOT_TERMINATE) from error
            raise


def read_fence(
    run: Callable[[str], list[list[Any]]], queries: Queries, probe: SchemaProbe
) -> FenceRow | None:
    """Read the fence row; None if there is none.

    Args:
        run: Runs a query outside a transaction.
        queries: The library's SQL.
        probe: The state of the schema.

    Raises:
        ConfigurationError: The existing tables have another layout, or an unknown one.
    """
    rows: list[list[Any]] = []
    if probe.has_fence:
        try:
            rows = run(queries.read_fence(can_read_system_id=probe.can_read_system_id))
        except PostgresError as error:
            # On some managed servers every role may call the function, but it fails.
            if not probe.can_read_system_id or error.sqlstate.startswith(_UNRELATED_SQLSTATES):
                raise
            rows = run(queries.read_fence(can_read_system_id=False))
    if rows:
        return read_fence_row(rows[0])
    if probe.has_fence or probe.has_history:
        _require_layout(probe.layout)
    return None


def read_fence_row(row: list[Any]) -> FenceRow:
    """Parse a row of `Queries.read_fence`.

    Raises:
        ConfigurationError: The tables have another layout.
    """
    fields = json.loads(row[0])
    _require_layout(fields.get("layout"))
    return FenceRow(
        token=fields["token"],
        owner=fields["owner"],
        environment=fields["environment"],
        identity=fields["identity"],
        confirmed_system_id=fields["system"],
        current_system_id=row[1],
    )


def _require_layout(layout: int | str | None) -> None:
    if str(layout) == str(TABLE_LAYOUT):
        return
    known = "an unknown layout" if layout is None else f"layout {layout}"
    is_newer = str(layout).isdecimal() and int(str(layout)) > TABLE_LAYOUT
    raise ConfigurationError(
        f"the database's lambda-migrate tables have {known}, and this version of the library "
        f"supports layout {TABLE_LAYOUT} only; nothing was changed. "
        + (
            "Deploy the newer library"
            if is_newer
            else "They cannot be converted: drop their schema, then mark the applied migrations "
            "with `lambda-migrate baseline VERSION`"
        )
    )


def _do_nothing(deadline: Deadline) -> None:
    """The default of `on_reconnected`."""


def _shorter_lock_timeout(lock: int, statement: int) -> int:
    """A ``lock_timeout`` below ``statement_timeout``, because its error names the lock."""
    return max(1, min(lock, statement * 9 // 10))


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, ConnectFailed) and not error.permanent


def translate_server_error(error: PostgresError) -> MigrateError:
    """Translate an error of the library's own statements, outside migrations."""
    refusal = f"{redact(error.message)} [{error.sqlstate}]"
    for label, text in (("where", error.where), ("hint", error.hint)):
        refusal += (
            f"; {label}: {redact(' '.join(text.split()))[:_MAX_CONTEXT_LENGTH]}" if text else ""
        )
    if error.message == _IN_RECOVERY:
        return DatabaseUnavailable(refusal)
    if error.sqlstate.startswith(TRANSIENT_SQLSTATES) or _CONCURRENT_DDL.search(error.message):
        return DatabaseUnavailable(f"PostgreSQL refused the takeover: {refusal}")
    return ConfigurationError(
        f"PostgreSQL refused to prepare the lambda-migrate schema: {refusal}; {_advice(error)}"
    )


def _advice(error: PostgresError) -> str:
    if error.where:
        return (
            "a trigger of this database caused it: exempt that schema, or correct the function "
            "that `where` names"
        )
    if error.sqlstate == INSUFFICIENT_PRIVILEGE:
        return "make the migrating role that schema's owner, or GRANT it CREATE on the database"
    return "correct the cause, then deploy again"


def _describe_notice(fields: Mapping[str, str], placeholders: Mapping[str, str]) -> str:
    fields = {letter: hide_values(text, placeholders) for letter, text in fields.items()}
    parts = [fields.get("M", "")]
    parts += [
        f"{label}: {fields[letter]}"
        for letter, label in (("D", "detail"), ("H", "hint"))
        if fields.get(letter)
    ]
    text = redact(" ".join("; ".join(parts).split()))
    return text if len(text) <= _MAX_NOTICE_LENGTH else text[: _MAX_NOTICE_LENGTH - 1] + "…"


def _describe_session(pid: int, application: str | None, since: str | None) -> str:
    return f"backend {pid} ({application or 'no application name'}, since {since or 'unknown'})"


def make_lease_held_error(row: Sequence[Any] = ()) -> LeaseHeld:
    """The error while another process is migrating.

    Args:
        row: Of `Queries.find_fence_lockers`, `Queries.find_advisory_lockers` or
            `Queries.find_holders`, if one was read.
    """
    by = f": {_describe_session(row[0], row[-2], row[-1])}" if row else ""
    return LeaseHeld(f"another process is migrating this database{by}; try again when it is done")


def _describe_lockers(lockers: Sequence[Sequence[Any]]) -> str:
    by = (
        ", ".join(_describe_session(row[0], row[-2], row[-1]) for row in lockers)
        or "another session"
    )
    return f"the fence row was locked by {by} until the deadline"


_MAX_NOTICE_LENGTH = 500

_MAX_CONTEXT_LENGTH = 300
"""Characters of a call stack, whose innermost function comes first."""

_IN_RECOVERY = (
    "the server is in recovery: this endpoint is a reader, or a failover is in progress; use the "
    "writer endpoint"
)

_READ_ONLY_BY_DEFAULT = (
    f"the database is read-only by default, so nothing was migrated [{READ_ONLY_TRANSACTION}]; "
    "remove that default (ALTER DATABASE ... RESET default_transaction_read_only), or exempt the "
    "migrating role (ALTER ROLE ... SET default_transaction_read_only = off)"
)

_NEEDS_DIRECT_CONNECTION = (
    "it is marked transaction:false, and a pooler (PgBouncer, RDS Proxy) is between this process "
    "and PostgreSQL: run it over the database's own endpoint (LAMBDA_MIGRATE_DATABASE_URL, or the "
    "host in the secret), for example with `lambda-migrate up`"
)
