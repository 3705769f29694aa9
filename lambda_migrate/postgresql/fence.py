"""The fence: a holder takes it over, and every transaction of a holder compares it.

The package's docstring describes the protocol. In the code it is

- the takeover: `FencedConnection.connect_and_take_fence`, which compares the holder's token with
  the stored one in `FencedConnection._check_fence_row`, and again in `Queries.take_fence`, which
  stores it
- the comparison in a migration's transaction: on the server, in the message that contains the
  script (`FencedConnection.run_script`, `Queries._require_fence`)
- the comparison in the other transactions that commit, and before a statement outside one: in
  `FencedConnection.begin` and `FencedConnection.run_non_transactional`
- the comparison of a dry run: in `PostgreSQLDryRun._open`
- the condition of a history row: `Queries._state_if_fence_locked`
- the comparison in the child process of another tool: `FenceQueries.compare` of `sources`

`holder_connection` connects, and sends the messages.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LeaseHeld,
    MigrationFailed,
)
from lambda_migrate.postgresql.connection import PostgresError
from lambda_migrate.postgresql.holder_connection import (
    INSUFFICIENT_PRIVILEGE,
    LOCK_NOT_AVAILABLE,
    HolderConnection,
)
from lambda_migrate.postgresql.ports import (
    FenceRow,
    StaleFencingToken,
    is_behind_last_completion,
    require_environment,
)
from lambda_migrate.postgresql.queries import TABLE_LAYOUT, SchemaProbe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lambda_migrate.clock import Deadline
    from lambda_migrate.postgresql.queries import Queries

__all__ = [
    "FencedConnection",
    "ScriptRefused",
    "make_lease_held_error",
    "read_fence",
]

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

_ADVISORY_LOCK_SECONDS = 1.0
"""How long to retry the advisory lock. A process that may not terminate sessions takes it
briefly, before it finds that another process holds the lease."""

_UNRELATED_SQLSTATES = ("40", "53", "55", "57")
"""Classes of errors unrelated to the function that was called: no memory, a cancellation."""


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


class FencedConnection(HolderConnection):
    """One holder's connection, on which every transaction compares the fence."""

    identity = ""
    """See `FencedSession.identity`."""
    environment = ""
    """The environment that was recorded in the database before the takeover."""
    distrusted_identity = ""
    """See `FencedSession.distrusted_identity`."""
    is_new_or_copied_database = False
    """See `FencedSession.is_new_or_copied_database`."""
    on_reconnected: Callable[[Deadline], None] | None = None
    """Called by `reconnect`; an error in it closes the connection."""
    _terminate_holders = True

    # --- taking over and reconnecting

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
            if self.on_reconnected is not None:
                self.on_reconnected(deadline)
        except BaseException:
            self.close()
            raise

    # --- comparing

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

    def _advisory_lock_error(self, deadline: Deadline, name: str) -> MigrationFailed:
        rows = self.read(self.queries.find_advisory_lock_holders(), deadline)
        by = _describe_session(*rows[0]) if rows else "a session of another role"
        return MigrationFailed(
            f"{by} holds the advisory lock of schema {self.queries.schema}, which a "
            "migration marked transaction:false needs; terminate that session and migrate again",
            migration=name,
        )

    # --- the steps of a takeover

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
            lock_holders = self.read(self.queries.find_fence_lock_holders(self.grant), deadline)
            if not terminate_holders and lock_holders:
                raise make_lease_held_error(lock_holders[0])
            if self._set_token(fence_row, deadline, terminate_holders=terminate_holders):
                return
            for pid, transaction, *_ in lock_holders:
                self._terminate(self.queries.terminate_transaction(pid, transaction), deadline)
            if deadline.is_over:
                raise DatabaseUnavailable(_describe_lock_holders(lock_holders))

    def _take_advisory_lock(self, deadline: Deadline) -> None:
        """Admit one of several processes that may not end each other's sessions."""
        if (
            self.is_direct_connection
            and self.read(self.queries.try_advisory_lock(), deadline)[-1][0]
        ):
            return
        rows = self.read(self.queries.find_advisory_lock_holders(), deadline)
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
        sql = self.queries.terminate_advisory_lock_holders(wait_ms=_TERMINATE_WAIT_MS)
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


def _describe_session(pid: int, application: str | None, since: str | None) -> str:
    return f"backend {pid} ({application or 'no application name'}, since {since or 'unknown'})"


def make_lease_held_error(row: Sequence[Any] = ()) -> LeaseHeld:
    """The error while another process is migrating.

    Args:
        row: Of `Queries.find_fence_lock_holders`, `Queries.find_advisory_lock_holders` or
            `Queries.find_holders`, if one was read.
    """
    by = f": {_describe_session(row[0], row[-2], row[-1])}" if row else ""
    return LeaseHeld(f"another process is migrating this database{by}; try again when it is done")


def _describe_lock_holders(lock_holders: Sequence[Sequence[Any]]) -> str:
    by = (
        ", ".join(_describe_session(row[0], row[-2], row[-1]) for row in lock_holders)
        or "another session"
    )
    return f"the fence row was locked by {by} until the deadline"


_NEEDS_DIRECT_CONNECTION = (
    "it is marked transaction:false, and a pooler (PgBouncer, RDS Proxy) is between this process "
    "and PostgreSQL: run it over the database's own endpoint (LAMBDA_MIGRATE_DATABASE_URL, or the "
    "host in the secret), for example with `lambda-migrate up`"
)
