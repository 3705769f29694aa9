"""The connection of a holder: connects with retries, and limits every message by the deadline.

`fence.FencedConnection` takes over the fence on it, and compares it in every transaction.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LeaseLost,
    MigrateError,
)
from lambda_migrate.migrations.sql.excerpt import redact
from lambda_migrate.migrations.sql.placeholders import redact_values
from lambda_migrate.postgresql.connection import ConnectionFailed, ConnectionLost, PostgresError
from lambda_migrate.postgresql.ports import Notice
from lambda_migrate.postgresql.sql_fragments import ServerTimeouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lambda_migrate.clock import Deadline
    from lambda_migrate.postgresql.connection import Connection
    from lambda_migrate.postgresql.ports import LeaseGrant
    from lambda_migrate.postgresql.queries import Queries
    from lambda_migrate.randomness import Random

__all__ = ["HolderConnection", "translate_server_error"]

_T = TypeVar("_T")

_SOCKET_GRACE_SECONDS = 1.0
"""By how much the socket's timeout exceeds ``statement_timeout``, whose error is more specific."""

_CLOSE_SECONDS = 1.0
"""How long to wait for the release of the advisory lock before the connection is closed anyway."""

LOCK_NOT_AVAILABLE = "55P03"
INSUFFICIENT_PRIVILEGE = "42501"
READ_ONLY_TRANSACTION = "25006"

TRANSIENT_SQLSTATES = ("08", "25006", "40", "53", "55P03", "55006", "57", "58")
"""SQLSTATEs (or their classes) with which a takeover is retried: a broken connection to another
server, a failover, a serialization failure, no memory, disk space or connection left, a lock, a
shutdown, an I/O error."""

_CONCURRENT_DDL = re.compile(r"^tuple concurrently |\bpg_(namespace|class|type)\w*_index\b")
"""Another process created or changed the same object meanwhile, without our advisory lock."""


class HolderConnection:
    """One holder's connection.

    Attributes:
        is_direct_connection: Whether the session belongs to this client alone: the backend that
            responds is the one that the login reported. Behind PgBouncer or RDS Proxy it is another
            one.
        lock_timeout_seconds: As given.

    Args:
        open_connection: Opens a connection within the given seconds.
        queries: The library's SQL.
        grant: The holder's grant.
        random: Random numbers, for jitter.
        lock_timeout_seconds: ``lock_timeout`` of a migration's transaction.
        placeholders: The values of placeholders in scripts, hidden in the server's messages.
    """

    def __init__(
        self,
        open_connection: Callable[[float], Connection],
        queries: Queries,
        grant: LeaseGrant,
        *,
        random: Random,
        lock_timeout_seconds: float,
        placeholders: Mapping[str, str],
    ) -> None:
        self.queries = queries
        self.placeholders = placeholders
        self.grant = grant
        self.is_aborted = False
        self.is_direct_connection = False
        self._open = open_connection
        self._random = random
        self.lock_timeout_seconds = lock_timeout_seconds
        self._connection: Connection | None = None

    # --- opening and ending

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
        except ConnectionFailed as failed:
            if self.is_aborted:
                raise self.make_lease_lost_error() from failed
            if failed.permanent:
                raise ConfigurationError(str(failed)) from failed
            raise DatabaseUnavailable(str(failed)) from failed
        if self.is_aborted:
            connection.close()
            raise self.make_lease_lost_error()
        return connection

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

    # --- sending messages

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
            error.change_texts(partial(redact_values, values=self.placeholders))
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
        lock_ms = round(self.lock_timeout_seconds * 1000)
        return self._server_timeouts(0 if waits_for_locks else lock_ms, statement)

    def _bookkeeping_timeouts(self, deadline: Deadline, *, lock_ms: int = 0) -> ServerTimeouts:
        """Timeouts for the library's own statements: as long as `run` waits."""
        statement = max(500, round(deadline.remaining() * 1000))
        return self._server_timeouts(lock_ms, statement)

    def _server_timeouts(self, lock: int, statement: int) -> ServerTimeouts:
        version = self.raw_connection.server_version
        return ServerTimeouts(lock=lock, statement=statement, server_version=version)

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

    def _reset_or_close(self, deadline: Deadline) -> None:
        """Reset the session's settings, or close the session."""
        if self._connection is None or self._connection.is_closed:
            return
        try:
            self.reset_session(deadline)
        except (PostgresError, ConnectionLost):
            self.close()

    def _close_if_read_only(self, error: PostgresError) -> None:
        """Close the connection if its server has become a replica.

        Raises:
            ConnectionLost: It has; a new connection may reach the new primary.
        """
        if error.sqlstate == READ_ONLY_TRANSACTION:
            self.close()
            raise ConnectionLost(error.message, sqlstate=error.sqlstate) from error

    def retry_delay(self, attempt: int) -> float:
        """Seconds to wait after the given attempt, counted from 1: full jitter, at most 5 s."""
        return float(min(5.0, 0.1 * 2 ** min(attempt, 10)) * self._random.random())

    def pause(self, attempt: int, deadline: Deadline) -> None:
        """Sleep for `retry_delay`, but not beyond the deadline."""
        deadline.clock.sleep(min(self.retry_delay(attempt), deadline.remaining()))


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, ConnectionFailed) and not error.permanent


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
        return DatabaseUnavailable(f"PostgreSQL refused lambda-migrate's own statement: {refusal}")
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
    fields = {letter: redact_values(text, placeholders) for letter, text in fields.items()}
    parts = [fields.get("M", "")]
    parts += [
        f"{label}: {fields[letter]}"
        for letter, label in (("D", "detail"), ("H", "hint"))
        if fields.get(letter)
    ]
    text = redact(" ".join("; ".join(parts).split()))
    return text if len(text) <= _MAX_NOTICE_LENGTH else text[: _MAX_NOTICE_LENGTH - 1] + "…"


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
