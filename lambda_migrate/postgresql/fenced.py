"""A connection under a fence: opened by a takeover, opened again when it breaks, ended by a loss.

Every transaction of a holder begins here, with the fence row locked and its token compared, so
that a stale holder can begin none, and one that was frozen inside a transaction is ended by its
successor before the token changes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LeaseHeld,
    LeaseLost,
    MigrationFailed,
)
from lambda_migrate.postgresql.connection import ConnectFailed, ConnectionLost, PostgresError
from lambda_migrate.postgresql.database import FenceRow, FenceStale, is_behind
from lambda_migrate.postgresql.sql import DISCARD_ALL, LAYOUT, Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from lambda_migrate.deadline import Deadline, Random
    from lambda_migrate.postgresql.connection import Connection
    from lambda_migrate.postgresql.database import Grant
    from lambda_migrate.postgresql.sql import Queries

__all__ = ["FencedConnection", "Opener", "ScriptRefused", "as_configuration", "read_fence_row"]

Opener = "Callable[[float], Connection]"

_FENCE_LOCK_MS = 500
"""How long a takeover waits for the fence row before it looks again who holds it."""

_NOT_OURS_TO_END = (
    "an earlier holder's backend runs under another role and may not be ended: use one role for "
    "all functions of a target, or GRANT pg_signal_backend"
)

_FARTHEST_JUMP = 10**12
"""By how much a token may exceed the last one: 30 years of acquisitions, 1,000 a second. A higher
one was written by somebody else, and taking it over would leave PostgreSQL no room above it."""

_END_WAIT_MS = 2_000
"""How long it then waits for that backend to be gone."""

_GRACE_SECONDS = 1.0
"""By how much the socket outwaits ``statement_timeout``: the server's own word is the clearer."""

LOCK_NOT_AVAILABLE = "55P03"
INSUFFICIENT_PRIVILEGE = "42501"


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
        grant: Grant,
        *,
        random: Random,
        lock_seconds: float,
    ) -> None:
        self.queries = queries
        self.grant = grant
        self.is_aborted = False
        self.identity = ""
        """Of the database that was taken over; see `HeldDatabase.identity`."""
        self.distrusted = ""
        """See `HeldDatabase.distrusted`."""
        self._open = open_connection
        self._random = random
        self._lock_ms = round(lock_seconds * 1000)
        self._connection: Connection | None = None
        self._reads_system = False

    # --- opening and ending

    def attach(self, deadline: Deadline, *, evict: bool = True) -> None:
        """Connect and make this grant the only one that can commit.

        Raises:
            FenceStale: A token at least as high was seen.
            LeaseLost: `abort` was called.
            LeaseHeld: An older holder is alive and ``evict`` is False.
            ConfigurationError: Privileges or the environment are wrong.
            DatabaseUnavailable: Not before the deadline.
        """
        self.close()
        if self.is_aborted:
            raise self.lost()
        self._connection = self._connect(deadline)
        try:
            self._bootstrap(deadline)
            self._take(deadline, evict=evict)
        except PostgresError as error:
            self.close()
            raise as_configuration(error) from error
        except BaseException:
            self.close()
            raise

    def look(self, deadline: Deadline) -> tuple[bool, bool]:
        """Connect without taking the fence, for who commits nothing and ends nobody.

        Returns:
            Whether our schema is there, and whether our tables are, with a fence in them.

        Raises:
            FenceStale: A token at least as high was seen.
            LeaseLost: `abort` was called.
            LeaseHeld: A holder is alive.
            ConfigurationError: Privileges or the environment are wrong.
            DatabaseUnavailable: Not before the deadline.
        """
        self.close()
        if self.is_aborted:
            raise self.lost()
        self._connection = self._connect(deadline)
        try:
            has_schema, has_tables, reads_system = self.run(self.queries.probe(), deadline)[0]
            read_fence = self.queries.read_fence(reads_system=reads_system)
            rows = self.run(read_fence, deadline) if has_tables else []
            for row in rows:
                self._judge_fence(read_fence_row(row))
                self._refuse_if_held(deadline)
        except PostgresError as error:
            self.close()
            raise as_configuration(error) from error
        except BaseException:
            self.close()
            raise
        return has_schema, bool(rows)

    def reattach(self, deadline: Deadline) -> None:
        """Connect again after the connection broke, under the same fence.

        Raises:
            LeaseLost: `abort` was called, or a successor has taken over.
        """
        try:
            self.attach(deadline)
        except FenceStale as stale:
            raise self.lost(stale.seen) from stale

    def abort(self) -> None:
        """End the running statement from another thread; nothing runs on this grant any more."""
        self.is_aborted = True
        connection = self._connection
        if connection is not None:
            connection.abort()

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def lost(self, seen: int | None = None) -> LeaseLost:
        """The error for a holder that was overtaken."""
        by = f" by fence {seen}" if seen is not None else ""
        return LeaseLost(
            f"this instance's fence {self.grant.fence} on {self.grant.target!r} was passed{by}; "
            "nothing more of it was committed"
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

    def limits(self, deadline: Deadline, *, waits_for_locks: bool = False) -> Limits:
        """The server-side limits for what is to be done by ``deadline``.

        Raises:
            MigrationFailed: No time is left.
        """
        left = deadline.remaining()
        if left <= 0:
            raise MigrationFailed("the deadline has passed", is_overdue=True)
        statement = max(1, round(left * 1000))
        return Limits(
            lock=0 if waits_for_locks else _shorter(self._lock_ms, statement),
            statement=statement,
            server_version=self.connection.server_version,
        )

    def begin(self, deadline: Deadline) -> str:
        """Open a transaction, lock the fence, compare it; returns the transaction's id.

        Raises:
            LeaseLost: The token is another's.
        """
        if self.connection.in_transaction:
            # BEGIN would only warn, and what stands open would be committed with what is to come.
            self.undo(deadline)
        rows = self.run(self.queries.begin(self.limits(deadline)), deadline)
        token, owner, transaction = rows[-1] if rows else (None, "", "")
        if (token, owner) != (self.grant.fence, self.grant.owner):
            self.run("ROLLBACK", deadline)
            raise self.lost(token)
        return str(transaction)

    def commit(self, writes: str, deadline: Deadline) -> list[Any]:
        """Undo what a script left in the session, write and commit; returns the last row."""
        rows = self.run(self.queries.commit(writes, self.limits(deadline)), deadline)
        return rows[-1]

    def run_enclosed(self, script: str, writes: str, deadline: Deadline) -> list[Any]:
        """Run a script's whole transaction in one message; returns the last row of ``writes``.

        Raises:
            LeaseLost: The token is another's; the script did not begin.
            ScriptRefused: The server refused something; nothing of it was committed.
        """
        if self.connection.in_transaction:
            # BEGIN would only warn, and what stands open would be committed with what is to come.
            self.undo(deadline)
        message = self.queries.enclose(script, writes, self.grant, self.limits(deadline))
        try:
            return self.run(message.sql, deadline, keep=1)[-1]
        except PostgresError as error:
            completed = self.connection.completed
            self.undo(deadline)
            seen = message.seen(error, completed)
            if seen is not None:
                raise self.lost(seen if seen >= 0 else None) from error
            completed_of_script = message.completed(completed, error.position)
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

    def undo(self, deadline: Deadline) -> None:
        """Roll back, and forget what a script left in the session.

        Prepared statements, for one, outlive a rollback.
        """
        self.run("ROLLBACK", deadline)
        self.run(DISCARD_ALL, deadline)

    def jitter(self, attempt: int) -> float:
        """Seconds before the next attempt, the first being 1: up to 5, full jitter."""
        return float(min(5.0, 0.1 * 2 ** min(attempt, 10)) * self._random.random())

    # --- inside attach

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

    def _bootstrap(self, deadline: Deadline) -> None:
        has_schema, has_tables, self._reads_system = self.run(self.queries.probe(), deadline)[0]
        if not has_tables:
            self._create(deadline, create_schema=not has_schema)

    def _create(self, deadline: Deadline, *, create_schema: bool) -> None:
        self.run(self.queries.bootstrap(create_schema=create_schema), deadline)

    def _take(self, deadline: Deadline, *, evict: bool) -> None:
        """Set the token; end whoever is in the way, then and after, and see them gone."""
        while True:
            seen = self._check_fence(deadline)
            if not evict:
                self._refuse_if_held(deadline)
            if self._set_token(seen, deadline, evict=evict):
                break
        self._end_others(deadline)

    def _check_fence(self, deadline: Deadline) -> FenceRow:
        """The fence as it stands, with the identity that it is to have from now on."""
        read_fence = self.queries.read_fence(reads_system=self._reads_system)
        rows = self.run(read_fence, deadline)
        if not rows:
            # The table was emptied. A token is compared for equality, so none comes alive.
            self._create(deadline, create_schema=False)
            rows = self.run(read_fence, deadline)
        row = read_fence_row(rows[0])
        self._judge_fence(row)
        return row

    def _judge_fence(self, row: FenceRow) -> None:
        self._check_environment(row.environment)
        is_mine = (row.token, row.owner) == (self.grant.fence, self.grant.owner)
        if not is_mine and row.token >= self.grant.fence:
            raise FenceStale(row.token)
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
        if row.is_copy:
            return str(uuid4())
        if is_behind(row, self.grant.known):
            # Restored in place or copied with all that tells clusters apart: nobody can say which.
            self.distrusted = row.identity
            return str(uuid4())
        return row.identity

    def _check_environment(self, stamped: str) -> None:
        mine = self.grant.environment
        if stamped in ("", mine) or self.grant.restamp:
            return
        named = f"environment {mine!r}" if mine else "no environment"
        raise ConfigurationError(
            f"this database belongs to environment {stamped!r}, this function names {named}; "
            f"correct its database, or set LAMBDA_MIGRATE_ENVIRONMENT={stamped}. If the database "
            "is a copy that changed hands, run `lambda-migrate repair --environment`"
        )

    def _refuse_if_held(self, deadline: Deadline) -> None:
        others = self.run(self.queries.count_other_holders(self.grant), deadline)[0][0]
        if others:
            raise LeaseHeld("somebody else is migrating this database; try again when it is done")

    def _end_others(self, deadline: Deadline) -> None:
        """End earlier holders' backends until none is left."""
        while True:
            try:
                sql = self.queries.end_other_holders(self.grant, wait_ms=_END_WAIT_MS)
                if all(ended for (ended,) in self.run(sql, deadline)):
                    return
            except PostgresError as error:
                if error.sqlstate != INSUFFICIENT_PRIVILEGE:
                    raise
                raise ConfigurationError(_NOT_OURS_TO_END) from error
            if deadline.is_over:
                raise DatabaseUnavailable("an earlier holder's backend could not be ended")

    def _set_token(self, seen: FenceRow, deadline: Deadline, *, evict: bool) -> bool:
        identity = self._identify(seen)
        sql = self.queries.take_fence(
            self.grant,
            seen,
            identity=identity,
            lock_ms=_FENCE_LOCK_MS,
            statement_ms=max(1, round(deadline.remaining() * 1000)),
            evict=evict,
        )
        try:
            is_set = self.run(sql, deadline)[-1:] == [[self.grant.owner]]
            self.identity = identity if is_set else self.identity
            return is_set
        except PostgresError as error:
            self.run("ROLLBACK", deadline)
            if error.sqlstate == INSUFFICIENT_PRIVILEGE and "terminate" in error.message:
                raise ConfigurationError(_NOT_OURS_TO_END) from error
            if error.sqlstate != LOCK_NOT_AVAILABLE or deadline.is_over:
                raise
            return False


def read_fence_row(row: list[Any]) -> FenceRow:
    """A row of `Queries.read_fence`.

    Raises:
        ConfigurationError: Another version of the library has laid out the tables.
    """
    fields = json.loads(row[0])
    layout = fields.get("layout")
    if layout != LAYOUT:
        raise ConfigurationError(
            f"the database's lambda-migrate tables have layout {layout}, and this version of the "
            f"library reads {LAYOUT} only; nothing was changed. "
            + (
                "Deploy the newer library"
                if isinstance(layout, int) and layout > LAYOUT
                else "There is no way to convert them: drop the schema that holds them, then "
                "record what is applied with `lambda-migrate baseline`"
            )
        )
    return FenceRow(
        token=fields["token"],
        owner=fields["owner"],
        environment=fields["environment"],
        identity=fields["identity"],
        system=fields["system"],
        live_system=row[1],
    )


def _shorter(lock: int, statement: int) -> int:
    """A ``lock_timeout`` that comes before ``statement_timeout``: it tells what was waited for."""
    return max(1, min(lock, statement * 9 // 10))


def _is_worth_retrying(error: BaseException) -> bool:
    return isinstance(error, ConnectFailed) and not error.permanent


def as_configuration(error: PostgresError) -> Exception:
    """What a refusal of our own preparations is to a caller."""
    if error.sqlstate == INSUFFICIENT_PRIVILEGE:
        return ConfigurationError(
            f"PostgreSQL refused to prepare the lambda-migrate schema: {error.message}; let the "
            "migrating role own that schema, or GRANT it CREATE on the database"
        )
    return DatabaseUnavailable(f"PostgreSQL failed while taking over: {error.message}")
