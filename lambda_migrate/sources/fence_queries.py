"""What the child sends to PostgreSQL through the tool's own connections: the fence and the mirror.

Drivers disagree about parameters, so every value is a literal. Texts that the library itself
defines contain no ``%``; names and ids may. Functions and operators are named with their schema,
since the messages run under the role's own search path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lambda_migrate._version import __version__
from lambda_migrate.postgresql.sql_fragments import (
    EQUALS,
    SERVER_KEY,
    ServerTimeouts,
    advisory_lock_key,
    lock_timeout_below,
    quote_identifier,
    quote_literal,
    quote_text_array,
)
from lambda_migrate.sources.protocol import ChildError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lambda_migrate.sources.protocol import ChildRequest

__all__ = ["UNDEFINED_OBJECT_SQLSTATES", "FenceQueries", "RevisionRow"]

UNDEFINED_OBJECT_SQLSTATES = ("42P01", "3F000")
"""No table, no schema: the connection does not point to the database that was taken over."""


class RevisionRow(NamedTuple):
    """A row of the mirror; see `ChildRequest.started`.

    Attributes:
        id: The tool's id.
        parents: Ids that it depends on directly.
        position: Its place in the order of the code, from 1.
        name: What messages show.
        state: ``started``, ``applied`` or ``rolling_back``.
        statements: Hashes of the statements that are committed, while it is not ``applied``.
        duration_ms: How long it took.
    """

    id: str
    parents: Sequence[str] = ()
    position: int = 0
    name: str = ""
    state: str = "applied"
    statements: Sequence[str] = ()
    duration_ms: int = 0


class FenceQueries:
    """The statements of one request.

    Args:
        request: The request, which has schema, scope, token and deadline.
    """

    def __init__(self, request: ChildRequest) -> None:
        self._request = request
        self._where = "DATABASES" if request.tool == "django" else "env.py"
        schema = quote_identifier(request.schema)
        self._fence = f"{schema}.fence"
        self._revision = f"{schema}.revision"

    # --- the fence

    def lock_fence_for_share(self, *, statement_timeout: bool = True) -> str:
        """Lock the fence row for share, and limit this transaction; one row for `compare`.

        It must be the first statement of a transaction, and precede each statement outside one. A
        shorter timeout that is already set stays.

        Args:
            statement_timeout: Whether to limit the statements; not outside a transaction, where the
                setting would end with this statement.
        """
        columns = ["token", "owner", "identity::pg_catalog.text", "pg_catalog.pg_backend_pid()"]
        if statement_timeout:
            left = max(1, round(self._request.seconds_left * 1000))
            columns += [
                _set_shorter("statement_timeout", left),
                _set_shorter(
                    "lock_timeout", min(self._request.lock_timeout_ms, lock_timeout_below(left))
                ),
                _set_shorter("idle_in_transaction_session_timeout", max(left, 10_000)),
                _set("client_connection_check_interval", ServerTimeouts.CLIENT_CHECK_MS),
                _SYNCHRONOUS_COMMIT,
            ]
        return f"SELECT {', '.join(columns)} FROM {self._fence} FOR SHARE"

    def compare(self, row: Sequence[Any] | None) -> None:
        """Compare the first row of `lock_fence_for_share` with the request.

        Raises:
            ChildError: It is another holder's (``stale_fence``), or there is no row, or it belongs
                to another database (``configuration``).
        """
        request = self._request
        if row is None or str(row[2]) != request.identity:
            raise self.wrong_database_error()
        if (int(row[0]), str(row[1])) != (request.fence, request.owner):
            raise ChildError(
                f"fencing token {request.fence} was superseded by {row[0]}",
                kind="stale_fence",
                token=int(row[0]),
            )

    def find_fence(self) -> str:
        """One row: whether the fence's table exists on this connection."""
        return f"SELECT pg_catalog.to_regclass({quote_literal(self._fence)}) IS NOT NULL"

    def read_identity(self) -> str:
        """One row: the database's UUID."""
        return f"SELECT identity::pg_catalog.text FROM {self._fence}"

    def read_server(self) -> str:
        """One row: `SERVER_KEY`, and the address of this connection's database."""
        return (
            f"SELECT {SERVER_KEY}, pg_catalog.concat(coalesce(pg_catalog.host("
            "pg_catalog.inet_server_addr()), 'localhost'), ':',"
            " pg_catalog.current_setting('port'), '/', pg_catalog.current_database())"
        )

    def wrong_database_error(self) -> ChildError:
        """The error if there is no fence row, or no table (`UNDEFINED_OBJECT_SQLSTATES`)."""
        is_only_one = self._request.tool == "alembic"
        advice = ", and connect to no other in env.py" if is_only_one else ""
        return ChildError(
            f"{self._where} points to a different database than LAMBDA_MIGRATE_DATABASE_URL: set "
            f"both to the same host and database{advice}; nothing was committed",
            kind="configuration",
        )

    def try_shared_advisory_lock(self, pid: int) -> str:
        """Try to take the session's advisory lock, shared, before work outside a transaction.

        A successor terminates sessions that have it, also between a check of the fence and a
        statement that no transaction protects. One row: whether the connection is a direct one, and
        whether it has the lock. A pooler hands sessions on, so nothing is locked behind one.

        Args:
            pid: The backend's process id, as the login reported it.
        """
        key = f"{quote_literal(str(advisory_lock_key(self._request.schema)))}::pg_catalog.int8"
        is_direct = f"pg_catalog.pg_backend_pid() {EQUALS} {pid}"
        return (
            f"SELECT {is_direct}, CASE WHEN {is_direct}"
            f" THEN pg_catalog.pg_try_advisory_lock_shared({key}) END"
        )

    def pooler_error(self) -> ChildError:
        """The error of a step that needs a direct connection and does not have one."""
        return ChildError(
            "it runs statements outside a transaction, and a pooler (PgBouncer, RDS Proxy) is "
            f"between this process and PostgreSQL: let {self._where} connect to the database's own "
            "endpoint, at least for one `lambda-migrate up`"
        )

    # --- the mirror

    def upsert_revision(self, row: RevisionRow) -> str:
        """Write a row of the mirror; returns a row, or none if the fence is another holder's.

        For the transaction that also writes the tool's version row.
        """
        request = self._request
        applied_at = "pg_catalog.clock_timestamp()" if row.state == "applied" else "NULL"
        values = (
            f"{quote_literal(request.scope)}, {quote_literal(row.id)},"
            f" {quote_text_array(row.parents)}, {row.position}, {quote_literal(row.name)},"
            f" {quote_literal(row.state)},"
            f" {quote_text_array(row.statements)}, {request.fence}, {quote_literal(request.owner)},"
            f" {quote_literal(request.request_id)}, {quote_literal(__version__)},"
            f" pg_catalog.clock_timestamp(), {applied_at}, {row.duration_ms}"
        )
        return (
            f"INSERT INTO {self._revision} AS r ({_COLUMNS}) SELECT {values} {self._if_fenced()}"
            " ON CONFLICT (scope, id) DO UPDATE SET parents = excluded.parents,"
            " position = excluded.position, name = excluded.name, state = excluded.state,"
            " statements = excluded.statements, fence = excluded.fence, owner = excluded.owner,"
            " request_id = excluded.request_id, library_version = excluded.library_version,"
            " applied_at = excluded.applied_at, duration_ms = excluded.duration_ms RETURNING 1"
        )

    def read_statements(self, step_id: str) -> str:
        """The log of a step that has begun; no row if it has none.

        The row of an applied one is no log. It stays until the next run that completes if a person
        reverses the step with the tool.
        """
        return (
            f"SELECT statements FROM {self._revision} WHERE scope {EQUALS}"
            f" {quote_literal(self._request.scope)} AND id {EQUALS} {quote_literal(step_id)}"
            " AND state OPERATOR(pg_catalog.<>) 'applied'"
        )

    def append_statement(self, step_id: str, entry: str, *, replaces: str = "") -> str:
        """Add an entry to the statements of a row, in the transaction of that statement.

        Appending, instead of writing the whole list, forgets what a rolled back savepoint had
        added.

        Args:
            step_id: The row.
            entry: What the step's module logs; "" to add none.
            replaces: An entry that is removed.
        """
        statements = "statements"
        if replaces:
            statements = f"pg_catalog.array_remove(statements, {quote_literal(replaces)})"
        if entry:
            statements = f"pg_catalog.array_append({statements}, {quote_literal(entry)})"
        return (
            f"UPDATE {self._revision} SET statements = {statements}"
            f" WHERE scope {EQUALS} {quote_literal(self._request.scope)}"
            f" AND id {EQUALS} {quote_literal(step_id)}"
        )

    def delete_if_nothing_done(self, step_id: str) -> str:
        """Delete the row of a step of which nothing is committed, so that it is pending again."""
        return (
            f"DELETE FROM {self._revision} WHERE scope {EQUALS}"
            f" {quote_literal(self._request.scope)} AND id {EQUALS} {quote_literal(step_id)}"
            f" AND state {EQUALS} ANY ('{{started,rolling_back}}'::pg_catalog.text[])"
            f" AND statements {EQUALS} '{{}}'::pg_catalog.text[]"
        )

    def delete_revision(self, step_id: str) -> str:
        """Delete a row of the mirror, with a rollback; returns a row if the fence is ours."""
        request = self._request
        return (
            f"WITH fence AS (SELECT 1 {self._if_fenced()}), deleted AS (DELETE FROM"
            f" {self._revision} WHERE scope {EQUALS} {quote_literal(request.scope)}"
            f" AND id {EQUALS} {quote_literal(step_id)} AND EXISTS (SELECT FROM fence))"
            " SELECT 1 FROM fence"
        )

    def _if_fenced(self) -> str:
        request = self._request
        return (
            f"FROM {self._fence} WHERE token {EQUALS} {quote_literal(request.fence)}"
            f" AND owner {EQUALS} {quote_literal(request.owner)} FOR SHARE"
        )


_COLUMNS = (
    "scope, id, parents, position, name, state, statements, fence, owner, request_id,"
    " library_version, started_at, applied_at, duration_ms"
)

_SYNCHRONOUS_COMMIT = (
    "CASE WHEN pg_catalog.current_setting('synchronous_commit')"
    " OPERATOR(pg_catalog.<>) ALL ('{on,remote_apply}'::pg_catalog.text[])"
    " THEN pg_catalog.set_config('synchronous_commit', 'on', true) END"
)


def _set(name: str, milliseconds: int) -> str:
    return f"pg_catalog.set_config('{name}', '{milliseconds}', true)"


def _set_shorter(name: str, milliseconds: int) -> str:
    """Set a timeout, unless a shorter one is set; 0 means none."""
    milliseconds = min(milliseconds, ServerTimeouts.MAX_MS)
    return (
        f"(SELECT CASE WHEN setting::pg_catalog.int8 OPERATOR(pg_catalog.>) 0"
        f" AND setting::pg_catalog.int8 OPERATOR(pg_catalog.<) {milliseconds}"
        f" THEN setting ELSE {_set(name, milliseconds)} END"
        f" FROM pg_catalog.pg_settings WHERE name {EQUALS} '{name}')"
    )
