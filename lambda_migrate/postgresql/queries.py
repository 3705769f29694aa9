"""The statements of the fence, the advisory lock and the history, for one schema.

Every name is quoted as an identifier, every value as a literal. The simple protocol carries several
statements in one message, which saves round trips. The server parses the whole message before it
runs any of it, so a ``RESET`` at its start does not affect how the literals after it are read: see
`quote_literal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lambda_migrate._version import __version__
from lambda_migrate.migrations import Script
from lambda_migrate.postgresql.dry_run_queries import READ_ONLY_AFTER_ROLLBACK
from lambda_migrate.postgresql.sql_fragments import (
    BEGIN,
    EQUALS,
    RESET_SESSION,
    SAFE_SEARCH_PATH,
    SYNCHRONOUS_COMMIT,
    SYNCHRONOUS_COMMIT_SESSION,
    advisory_lock_key,
    application_name,
    begin_transaction,
    format_iso_timestamp,
    quote_identifier,
    quote_literal,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lambda_migrate.migrations import Migration
    from lambda_migrate.migrations.version import Version
    from lambda_migrate.postgresql.connection import PostgresError
    from lambda_migrate.postgresql.ports import FenceRow, LeaseGrant
    from lambda_migrate.postgresql.sql_fragments import ServerTimeouts

__all__ = [
    "TABLE_LAYOUT",
    "Queries",
    "SchemaProbe",
    "ScriptProgress",
    "ScriptQuery",
    "parse_down_script",
    "system_id_expression",
]

TABLE_LAYOUT = 2
"""The layout of the lambda-migrate tables that this version reads and writes."""

_HISTORY_COLUMNS = (
    *("version", "name", "checksum", "digest", "state", "started_at", "applied_at", "duration_ms"),
    *("fence", "owner", "request_id", "library_version", "baseline", "up", "up_idempotent"),
    *("progress", "down", "down_line", "down_transactional", "down_idempotent"),
)
"""Identify a ``history`` table of this layout if the table that records the layout is missing."""
_NOT_NULL_VIOLATION = "23502"
_INVALID_TEXT = "22P02"

_AFTER_SCRIPT = "\n;"
"""A script may end in a comment, and its last statement may lack the semicolon."""

_CURRENT_FENCE_PREFIX = "fence "
"""Precedes the current token in the error of a failed comparison."""


class SchemaProbe(NamedTuple):
    """The state of the lambda-migrate schema according to the catalog.

    Attributes:
        has_schema: Whether the schema exists.
        has_history: Whether its table ``history`` exists, and the mirror of another tool's table
            if one is needed.
        has_fence: Whether its table ``fence`` exists.
        layout: The layout of these tables, as an SQL expression; None if unknown.
        can_read_system_id: Whether the role may read the cluster's identifier.
        is_replica: Whether the server is in recovery.
    """

    has_schema: bool
    has_history: bool
    has_fence: bool
    layout: str | None
    can_read_system_id: bool
    is_replica: bool


@dataclass(frozen=True, slots=True)
class ScriptQuery:
    """A script and the library's statements around it, as one message.

    Attributes:
        sql: The message.
        start: Where the script begins in it, in characters.
        end: Where the script ends.
        statements_before: The number of statements before the script.
        settings_before: How many of them are the script's settings, after the check of the fence.
    """

    sql: str
    start: int
    end: int
    statements_before: int
    settings_before: int = 0

    def script_position(self, position: int | None) -> int | None:
        """Convert a position in the message, from 1, to one in the script; None if outside it.

        The semicolon after the script is where PostgreSQL finds that the last statement is
        incomplete: that is the script's end.
        """
        if position is None or not self.start < position <= self.end + len(_AFTER_SCRIPT):
            return None
        return min(position, self.end + 1) - self.start

    def count_completed(self, completed_statements: int, position: int | None) -> int | None:
        """The number of script statements that finished; None if the script had not begun.

        The server parses a message as a whole before it runs any of it. So a syntax error in the
        script is reported before the first statement runs, at a position in the script.
        """
        if self.script_position(position) is not None:
            return max(0, completed_statements - self.statements_before)
        own = completed_statements - self.statements_before
        return own if own >= 0 else None

    def find_token(self, error: PostgresError, completed_statements: int) -> int | None:
        """The token in the fence row if the comparison failed, -1 without a row.

        None if ``error`` has another cause: only the statement that compares the token fails so.
        """
        check = self.statements_before - self.settings_before - 1
        if completed_statements != check or error.sqlstate != _INVALID_TEXT:
            return None
        token = error.message.rpartition(_CURRENT_FENCE_PREFIX)[2].strip('"')
        return int(token) if token.isdigit() else -1


class Queries:
    """The library's statements for one schema.

    Args:
        schema: The schema's name, unquoted.
        has_mirror: Whether the tables that mirror another tool's are needed as well.

    Attributes:
        schema: The schema's name, unquoted.
    """

    def __init__(self, schema: str, *, has_mirror: bool = False) -> None:
        self.schema = schema
        self._has_mirror = has_mirror
        self._schema = quote_identifier(schema)
        self._history = f"{self._schema}.history"
        self._fence = f"{self._schema}.fence"
        self._revision = f"{self._schema}.revision"
        self._satisfied = f"{self._schema}.satisfied"
        self._key = advisory_lock_key(schema)

    # --- the schema itself

    def probe(self) -> str:
        """One row, a `SchemaProbe`.

        ``history`` is looked up first. Both tables are created in one transaction, so the query
        cannot see it alone because another process creates them between the two lookups.
        """
        fence, history = quote_literal(self._fence), quote_literal(self._history)
        names = (self._revision, self._satisfied) if self._has_mirror else ()
        mirror = "".join(f" AND to_regclass({quote_literal(name)}) IS NOT NULL" for name in names)
        return f"""
            {SAFE_SEARCH_PATH}
            SELECT to_regnamespace({quote_literal(self._schema)}) IS NOT NULL,
                to_regclass({history}) IS NOT NULL{mirror}, to_regclass({fence}) IS NOT NULL,
                CASE WHEN to_regclass({fence}) IS NOT NULL
                THEN (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
                      JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
                      WHERE d.adrelid = to_regclass({fence}) AND a.attname = 'layout')
                ELSE (SELECT {quote_literal(str(TABLE_LAYOUT))} FROM pg_attribute
                      WHERE attrelid = to_regclass({history}) AND attnum > 0 AND NOT attisdropped
                      HAVING string_agg(attname::text, ' ' ORDER BY attname)
                          = {quote_literal(" ".join(sorted(_HISTORY_COLUMNS)))})
                END,
                has_function_privilege('pg_control_system()', 'EXECUTE'), pg_is_in_recovery()"""

    def read_session(self) -> str:
        """One row: the backend's process id, whether in recovery, whether read-only."""
        return (
            f"{SAFE_SEARCH_PATH} SELECT pg_backend_pid(), pg_is_in_recovery(),"
            " current_setting('transaction_read_only')::boolean"
        )

    def create_tables(self, timeouts: ServerTimeouts, *, create_schema: bool) -> str:
        """Create missing tables; an advisory lock admits one creator at a time.

        ``IF NOT EXISTS`` alone races: two processes both find nothing, and one of them fails on a
        unique index of the catalog (alembic #694, node-pg-migrate #821).
        """
        return (
            f"{BEGIN}; {timeouts.set_local()} {SYNCHRONOUS_COMMIT}"
            f" {self._create_tables_sql(create_schema=create_schema)} COMMIT;"
        )

    def _create_tables_sql(self, *, create_schema: bool) -> str:
        """Uses the role's own search path, because event triggers of the database expect it."""
        schema = f"CREATE SCHEMA IF NOT EXISTS {self._schema};" if create_schema else ""
        return f"""
            SET LOCAL search_path TO DEFAULT;
            SET LOCAL client_min_messages = warning;
            SELECT pg_catalog.pg_advisory_xact_lock(
                pg_catalog.hashtext({quote_literal("lambda-migrate " + self.schema)}));
            {schema}
            CREATE TABLE IF NOT EXISTS {self._fence} (
                singleton    boolean PRIMARY KEY DEFAULT true CHECK (singleton),
                layout       integer NOT NULL DEFAULT {TABLE_LAYOUT},
                token        bigint NOT NULL DEFAULT 0,
                owner        pg_catalog.text NOT NULL DEFAULT '',
                target       pg_catalog.text NOT NULL DEFAULT '',
                environment  pg_catalog.text NOT NULL DEFAULT '',
                identity     pg_catalog.uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
                system       pg_catalog.text NOT NULL DEFAULT '',
                backend_pid  integer,
                taken_at     pg_catalog.timestamptz
            );
            CREATE TABLE IF NOT EXISTS {self._history} (
                version      pg_catalog.text PRIMARY KEY CHECK (version OPERATOR(pg_catalog.<>) ''),
                name         pg_catalog.text NOT NULL,
                checksum     pg_catalog.text NOT NULL,
                digest       pg_catalog.text NOT NULL,
                state        pg_catalog.text NOT NULL CHECK (state {EQUALS}
                    ANY ('{{started,applied,rolling_back,stale}}'::pg_catalog.text[])),
                started_at   pg_catalog.timestamptz NOT NULL,
                applied_at   pg_catalog.timestamptz,
                duration_ms  bigint NOT NULL DEFAULT 0,
                fence        bigint NOT NULL,
                owner        pg_catalog.text NOT NULL,
                request_id   pg_catalog.text NOT NULL DEFAULT '',
                library_version pg_catalog.text NOT NULL,
                baseline     boolean NOT NULL DEFAULT false,
                up           pg_catalog.text,
                up_idempotent boolean,
                progress     pg_catalog.text,
                down         pg_catalog.text,
                down_line    integer,
                down_transactional boolean,
                down_idempotent boolean
            );
            {self._create_mirror_sql() if self._has_mirror else ""}
            INSERT INTO {self._fence} DEFAULT VALUES ON CONFLICT DO NOTHING;"""

    def _create_mirror_sql(self) -> str:
        return f"""
            CREATE TABLE IF NOT EXISTS {self._revision} (
                scope        pg_catalog.text NOT NULL,
                id           pg_catalog.text NOT NULL,
                parents      pg_catalog.text[] NOT NULL,
                position     integer NOT NULL,
                name         pg_catalog.text NOT NULL,
                state        pg_catalog.text NOT NULL CHECK (state {EQUALS}
                    ANY ('{{started,applied,rolling_back}}'::pg_catalog.text[])),
                statements   pg_catalog.text[] NOT NULL DEFAULT '{{}}',
                fence        bigint NOT NULL,
                owner        pg_catalog.text NOT NULL,
                request_id   pg_catalog.text NOT NULL DEFAULT '',
                library_version pg_catalog.text NOT NULL,
                started_at   pg_catalog.timestamptz,
                applied_at   pg_catalog.timestamptz,
                duration_ms  bigint NOT NULL DEFAULT 0,
                PRIMARY KEY (scope, id)
            );
            CREATE TABLE IF NOT EXISTS {self._satisfied} (
                scope        pg_catalog.text NOT NULL,
                digest       pg_catalog.text NOT NULL,
                heads        pg_catalog.text[] NOT NULL,
                version_table pg_catalog.text[] NOT NULL,
                at           pg_catalog.timestamptz NOT NULL,
                PRIMARY KEY (scope, digest)
            );"""

    # --- the fence

    def read_fence(self, *, can_read_system_id: bool = True) -> str:
        """The fence row as JSON, whatever its layout, and the current system; takes no lock.

        Args:
            can_read_system_id: Whether the role may read the cluster's identifier; see `probe`.
        """
        system = system_id_expression(can_read_system_id=can_read_system_id)
        return (
            f"{SAFE_SEARCH_PATH} SELECT to_jsonb(fence)::text, {system} FROM {self._fence} AS fence"
        )

    def find_fence_lock_holders(self, grant: LeaseGrant | None = None) -> str:
        """The backends that have locked the fence row: process, transaction, application, start.

        The ``xmax`` of a locked row is the transaction that locked it, and a running transaction
        holds a lock on its own id. So the query finds a backend that is inside a transaction of a
        migration or dry run right now. It finds neither one that only reads the table nor one under
        a token newer than ``grant``'s. The lock on the table distinguishes a transaction's id from
        that of a group of transactions that share a lock. The members of such a group, the
        connections of another tool's migrations, are those with an id and the table's lock for
        locking rows; a takeover has another one.
        """
        return f"""
            {SAFE_SEARCH_PATH}
            WITH locker AS (
                SELECT DISTINCT ON (l.pid) l.pid, l.transactionid, t.mode,
                    l.transactionid = f.xmax AS is_alone
                FROM {self._fence} f
                JOIN pg_locks t ON t.locktype = 'relation' AND t.granted
                    AND t.relation = f.tableoid AND t.mode IN ('RowShareLock', 'RowExclusiveLock')
                    AND t.database =
                        (SELECT oid FROM pg_database WHERE datname = current_database())
                JOIN pg_locks l ON l.locktype = 'transactionid' AND l.pid = t.pid
                    AND l.granted AND l.mode = 'ExclusiveLock' AND l.pid <> pg_backend_pid()
                WHERE f.xmax <> '0' AND {"TRUE" if grant is None else self._may_take_fence(grant)}
                ORDER BY l.pid, l.transactionid = f.xmax DESC, t.mode DESC)
            SELECT l.pid, l.transactionid::text, a.application_name,
                {format_iso_timestamp("a.xact_start")}
            FROM locker l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
            WHERE l.is_alone
                OR (l.mode = 'RowShareLock' AND NOT EXISTS (SELECT FROM locker WHERE is_alone))"""

    def terminate_transaction(self, pid: int, transaction: str) -> str:
        """Terminate a backend that is still in that very transaction; no row if it is not.

        Between the look at ``pg_locks`` and the signal there are microseconds in which the
        transaction may end and a pooler may pass the backend on. PostgreSQL offers no way to close
        this gap. It matters only for a transaction that lasts longer than a takeover waits and ends
        in that instant.
        """
        return f"""
            SET LOCAL ROLE NONE; {SAFE_SEARCH_PATH}
            SELECT pg_terminate_backend(pid) FROM pg_locks
            WHERE locktype = 'transactionid' AND granted AND pid <> pg_backend_pid()
              AND pid = {quote_literal(pid)}
              AND transactionid = {quote_literal(transaction)}::xid"""

    def take_fence(
        self, grant: LeaseGrant, timeouts: ServerTimeouts, fence_row: FenceRow, *, identity: str
    ) -> str:
        """Set the token if it is higher or already this owner's; leaves the transaction open.

        Environment and identity are compared again, because two first runs may overlap.

        Returns:
            SQL that returns the owner if the token was set, and then each session that holds the
            advisory lock. While the row is locked, no older holder is in a transaction of its own
            and no newer one can have taken over, so these sessions belong to older holders.
        """
        return f"""
            {BEGIN}; {timeouts.set_local()} {SAFE_SEARCH_PATH} {SYNCHRONOUS_COMMIT}
            UPDATE {self._fence} SET
                token = {quote_literal(grant.fence)}, owner = {quote_literal(grant.owner)},
                target = {quote_literal(grant.target)},
                identity = {quote_literal(identity)},
                system = {quote_literal(fence_row.system_id_to_store)},
                backend_pid = pg_backend_pid(), taken_at = clock_timestamp()
            WHERE {self._may_take_fence(grant)}
              AND (environment IN ('', {quote_literal(grant.environment)})
                   OR {quote_literal(grant.replaces_environment)})
              AND identity = {quote_literal(fence_row.identity)}
            RETURNING owner, NULL::integer;
            SELECT NULL, l.pid {self._advisory_lockers()}"""

    def _may_take_fence(self, grant: LeaseGrant) -> str:
        fence, owner = quote_literal(grant.fence), quote_literal(grant.owner)
        return f"(token < {fence} OR (token = {fence} AND owner = {owner}))"

    def record_environment(self, environment: str) -> str:
        """Record ``environment`` in the database."""
        return f"UPDATE {self._fence} SET environment = {quote_literal(environment)}"

    def commit_fence(self, *, is_direct_connection: bool) -> str:
        """Commit the token; a direct session takes the advisory lock."""
        return (self.keep_advisory_lock() if is_direct_connection else "") + " COMMIT;"

    def try_advisory_lock(self) -> str:
        """Take the advisory lock if it is free; returns whether this session has it.

        A holder has the lock as long as its session lasts. With it a successor finds the session of
        a holder that is between its intent row and its statement. The lock is never waited for: a
        session that waits for an advisory lock has a snapshot, and CREATE INDEX CONCURRENTLY would
        wait for that. Sessions behind a pooler do not take it.
        """
        return f"{SAFE_SEARCH_PATH} SELECT {self._advisory_lock_expression()}"

    def release_advisory_lock(self) -> str:
        """Release the advisory lock, even if it was taken several times."""
        return f"{SAFE_SEARCH_PATH} SELECT pg_advisory_unlock_all()"

    def _advisory_lock_expression(self) -> str:
        key = quote_literal(str(self._key))
        return f"pg_catalog.pg_try_advisory_lock({key}::pg_catalog.int8)"

    def find_advisory_lock_holders(self) -> str:
        """Sessions of other holders: process, application, start time."""
        return (
            f"{SAFE_SEARCH_PATH}"
            f" SELECT l.pid, a.application_name, {format_iso_timestamp('a.backend_start')}"
            f" {self._advisory_lockers()}"
        )

    def find_holders(self, grant: LeaseGrant | None = None) -> str:
        """The active holders: who has the lock of the fence row, or the advisory lock."""
        return f"{self.find_fence_lock_holders(grant)}; {self.find_advisory_lock_holders()}"

    def terminate_advisory_lock_holders(self, *, wait_ms: int) -> str:
        """End these sessions, waiting up to ``wait_ms`` for each; false for one that remains.

        SET ROLE NONE, because PostgreSQL checks the privileges of the current role, and another
        one than the login may be set.
        """
        return (
            f"SET LOCAL ROLE NONE; {SAFE_SEARCH_PATH} SELECT pg_terminate_backend(l.pid, {wait_ms})"
            f" {self._advisory_lockers()}"
        )

    def _advisory_lockers(self) -> str:
        """Other sessions with the advisory lock.

        Any login may take an advisory lock and so could block every migration. Therefore the lock
        counts only in a session that this role may end, or whose login can write the fence. A login
        with NOINHERIT writes it after SET ROLE, as a role that it is a member of. The table is
        looked up in the catalog, which needs no privilege on its schema.
        """
        fence = (
            "(SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            f" WHERE n.nspname = {quote_literal(self.schema)} AND c.relname = 'fence')"
        )
        return (
            "FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
            " WHERE l.locktype = 'advisory' AND l.granted AND l.pid <> pg_backend_pid()"
            " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            f" AND (l.classid, l.objid, l.objsubid) = ({self._key >> 32 & 0xFFFFFFFF}::bigint::oid,"
            f" {self._key & 0xFFFFFFFF}::bigint::oid, 1)"
            " AND (pg_has_role(session_user, a.usesysid, 'USAGE')"
            " OR pg_has_role(session_user, 'pg_signal_backend', 'USAGE')"
            " OR EXISTS (SELECT FROM pg_roles r WHERE pg_has_role(a.usesysid, r.oid, 'MEMBER')"
            f" AND has_table_privilege(r.oid, {fence}, 'UPDATE')))"
        )

    # --- sessions

    def reset_session(self, *, is_direct_connection: bool) -> str:
        """Do what DISCARD ALL does, in the form that is allowed inside a transaction.

        This releases the advisory lock. Meanwhile the transaction holds the same lock, until
        `keep_advisory_lock` has taken it again, so no other session can get it.
        """
        if not is_direct_connection:
            return RESET_SESSION
        transaction_lock = self._advisory_lock_expression().replace(
            "pg_try_advisory_lock", "pg_try_advisory_xact_lock"
        )
        return (
            f"SELECT WHERE {transaction_lock} IS NULL; {RESET_SESSION}{self.keep_advisory_lock()}"
        )

    def keep_advisory_lock(self) -> str:
        """Take the advisory lock and disable ``idle_session_timeout``; returns no row."""
        lock = self._advisory_lock_expression()
        return f" SELECT WHERE {lock} IS NULL; SET idle_session_timeout = 0;"

    def prepare_non_transactional(self, timeouts: ServerTimeouts) -> str:
        """Prepare the session for one non-transactional statement.

        Returns:
            SQL whose last row is the backend's process id, whether this session has the session
            lock, and token and owner of the fence.
        """
        return f"""
            {timeouts.set_session()} {SYNCHRONOUS_COMMIT_SESSION} {SAFE_SEARCH_PATH}
            SELECT pg_backend_pid(), {self._advisory_lock_expression()},
                (SELECT token FROM {self._fence}), (SELECT owner FROM {self._fence})"""

    def comment(self, grant: LeaseGrant) -> str:
        """A comment at the start of a message, for operators who read ``pg_stat_activity``."""
        return f"/* {application_name(grant.target, grant.fence, self.schema)} */ "

    # --- a migration's transaction

    def begin(self, timeouts: ServerTimeouts) -> str:
        """Open the transaction and lock the fence; returns token and owner."""
        return f"""
            {BEGIN};
            {timeouts.set_local()}
            SELECT token, owner
            FROM {self._fence} FOR UPDATE;"""

    def commit(self, writes: str, timeouts: ServerTimeouts, *, is_direct_connection: bool) -> str:
        """Reset the session, write and commit: all or nothing.

        Deferred constraints are checked first: their triggers must run in the session as the script
        left it, and a temporary table cannot be dropped while it has pending trigger events.
        """
        reset = self.reset_session(is_direct_connection=is_direct_connection)
        return (
            f"SET CONSTRAINTS ALL IMMEDIATE; {reset}"
            f" {timeouts.set_local()} {SAFE_SEARCH_PATH} {SYNCHRONOUS_COMMIT} {writes}; COMMIT;"
        )

    def wrap_script(
        self,
        script: str,
        writes: str,
        grant: LeaseGrant,
        timeouts: ServerTimeouts,
        *,
        is_direct_connection: bool,
        isolation: str = "",
        settings: Sequence[str] = (),
    ) -> ScriptQuery:
        """A script's whole transaction as one message: fence, script, ``writes``, commit.

        Nothing runs unless the fence row holds this grant: otherwise the comparison fails on the
        server, which skips the rest of the message. `ScriptQuery.find_token` reads that failure.

        With a snapshot for the whole transaction (REPEATABLE READ, SERIALIZABLE) the comparison,
        which takes the snapshot, is as strict: FOR UPDATE locks the newest version of the row, and
        fails with a serialization failure if that is not the one in the snapshot. No older holder
        can be inside a transaction by then, because this holder's takeover has waited for it or
        ended it; so the snapshot contains all that they committed.
        """
        head = (
            f"{self.comment(grant)}{begin_transaction(isolation)}; {timeouts.set_local()}"
            f" {self._require_fence(grant)};\n{''.join(f'{each};' for each in settings)}"
        )
        commit = self.commit(writes, timeouts, is_direct_connection=is_direct_connection)
        tail = f"{_AFTER_SCRIPT} {commit}"
        return ScriptQuery(
            head + script + tail,
            start=len(head),
            end=len(head) + len(script),
            statements_before=timeouts.statement_count + 2 + len(settings),
            settings_before=len(settings),
        )

    def _require_fence(self, grant: LeaseGrant) -> str:
        """Lock the fence row; fail unless it holds this grant.

        The row is compared as it is once it is locked. The current token becomes the text of a
        failed cast, because SQL has no other way to raise an error in an expression.
        """
        return (
            f"SELECT COALESCE((SELECT CASE WHEN token {EQUALS} {quote_literal(grant.fence)}"
            f" AND owner {EQUALS} {quote_literal(grant.owner)} THEN '0'"
            f" ELSE pg_catalog.concat('{_CURRENT_FENCE_PREFIX}', token) END"
            f" FROM {self._fence} FOR UPDATE), '{_CURRENT_FENCE_PREFIX}')::pg_catalog.int4"
        )

    # --- history

    def read_history(self) -> str:
        """All rows, in any order: the source of the migrations defines the order of versions."""
        return f"""
            {SAFE_SEARCH_PATH}
            SELECT version, name, checksum, digest, state, {format_iso_timestamp("started_at")},
                   {format_iso_timestamp("applied_at")}, duration_ms, fence, owner, baseline, up,
                   down, down_line, down_transactional, down_idempotent, up_idempotent, progress
            FROM {self._history}"""

    def read_row(self, version: Version) -> str:
        """State, checksum, duration and progress of one version; no row if it was never started."""
        return (
            f"{SAFE_SEARCH_PATH} SELECT state, checksum, duration_ms, progress FROM {self._history}"
            f" WHERE version = {_version_literal(version)}"
        )

    def insert_applied(self, migration: Migration, digest: str, grant: LeaseGrant) -> str:
        """Insert the history row of a migration in the transaction that locked the fence."""
        state = self._state_if_fence_locked("applied")
        return f"""
            INSERT INTO {self._history}
                ({_WRITTEN_COLUMNS}, state, started_at, applied_at, duration_ms)
            VALUES ({_row_values(migration, digest, grant)}, {state},
                transaction_timestamp(), clock_timestamp(), {_ELAPSED})
            RETURNING duration_ms"""

    def insert_started(
        self,
        migration: Migration,
        digest: str,
        grant: LeaseGrant,
        *,
        object_ids: Sequence[int] | None = None,
        progress: ScriptProgress | None = None,
    ) -> str:
        """Insert the intent row of a non-transactional migration; returns a row if it is in place.

        It may already exist, if an earlier commit succeeded and its response was lost. For another
        holder's row nothing is returned.

        Args:
            migration: The migration that is about to run.
            digest: The chain digest that ends with it.
            grant: The holder's grant.
            object_ids: See `HistoryRow.object_ids`.
            progress: Of a script of several statements.
        """
        up = migration.up
        return f"""
            INSERT INTO {self._history}
                ({_WRITTEN_COLUMNS}, state, started_at, up, up_idempotent, progress)
            VALUES ({_row_values(migration, digest, grant)}, 'started', clock_timestamp(),
                    {quote_literal(up.sql)}, {quote_literal(up.idempotent)},
                    {_progress_literal(object_ids, progress)})
            ON CONFLICT (version) DO UPDATE SET state = 'started'
            WHERE history.state = 'started' AND history.fence = {quote_literal(grant.fence)}
              AND history.owner = {quote_literal(grant.owner)}
            RETURNING true"""

    def mark_applied(self, version: Version) -> str:
        """Mark the intent row of a non-transactional migration as applied."""
        return f"""
            UPDATE {self._history} SET state = 'applied', {_CLEARED_INTENT_COLUMNS},
                applied_at = clock_timestamp(),
                duration_ms = extract(epoch FROM clock_timestamp() - started_at) * 1000
            WHERE version = {_version_literal(version)} RETURNING duration_ms"""

    def replace_started(self, migration: Migration, digest: str) -> str:
        """Replace the script of a row in doubt by a corrected file, of which part has run."""
        names = ("name", "checksum", "digest", "up", "up_idempotent", *_DOWN_COLUMNS)
        values = (
            *(migration.name, migration.checksum, digest),
            *(migration.up.sql, migration.up.idempotent, *_down_values(migration.down)),
        )
        changes = ", ".join(
            f"{name} = {quote_literal(value)}" for name, value in zip(names, values, strict=True)
        )
        where = f"WHERE version = {_version_literal(migration.version)} AND state = 'started'"
        return f"UPDATE {self._history} SET {changes} {where} RETURNING 0"

    def record_progress(self, version: Version, progress: ScriptProgress) -> str:
        """Record how far a script of several statements has come."""
        return (
            f"UPDATE {self._history} SET progress = {quote_literal(str(progress))}"
            f" WHERE version = {_version_literal(version)} RETURNING 0"
        )

    def record_progress_in_script(
        self, version: Version, progress: ScriptProgress, *, is_rollback: bool
    ) -> str:
        """`record_progress` in the transaction of a statement, which locked the fence."""
        state = self._state_if_fence_locked("rolling_back" if is_rollback else "started")
        return (
            f"UPDATE {self._history} SET state = {state}, progress = {quote_literal(str(progress))}"
            f" WHERE version = {_version_literal(version)} RETURNING {_ELAPSED}"
        )

    def mark_rolling_back(
        self,
        version: Version,
        *,
        object_ids: Sequence[int] | None = None,
        progress: ScriptProgress | None = None,
    ) -> str:
        """Turn a row into the intent to run its down script; see `insert_started`."""
        return f"""
            UPDATE {self._history}
            SET state = 'rolling_back', progress = {_progress_literal(object_ids, progress)}
            WHERE version = {_version_literal(version)}"""

    def restore_applied(self, version: Version) -> str:
        """Mark a row in doubt as applied again: its down script had no effect."""
        return f"""
            UPDATE {self._history} SET state = 'applied', {_CLEARED_INTENT_COLUMNS}
            WHERE version = {_version_literal(version)}"""

    def is_outside_transaction(self, error: PostgresError) -> bool:
        """Whether the history table refused a row because the script had ended its transaction."""
        return error.sqlstate == _NOT_NULL_VIOLATION and (
            error.schema,
            error.table,
            error.column,
        ) == (self.schema, "history", "state")

    def delete_rolled_back(self, version: Version) -> str:
        """Delete the row of a migration rolled back in the transaction that locked the fence."""
        state = self._state_if_fence_locked("rolling_back")
        where = f"WHERE version = {_version_literal(version)}"
        return (
            f"UPDATE {self._history} SET state = {state} {where};"
            f" DELETE FROM {self._history} {where} RETURNING {_ELAPSED}"
        )

    def _state_if_fence_locked(self, state: str) -> str:
        """``state`` in the very transaction that locked the fence row, else NULL.

        The column refuses NULL. So a script that ends its transaction in a way that the check of
        scripts did not recognize cannot get a history row in another transaction. The ``xmax`` of a
        locked row is the locking transaction (PostgreSQL, "System Columns"; this lock cannot be
        shared).
        """
        return (
            f"CASE WHEN (SELECT xmax::text FROM {self._fence})"
            f" = pg_current_xact_id_if_assigned()::xid::text THEN {quote_literal(state)} END"
        )

    def delete_rows(self, versions: Iterable[Version]) -> str:
        """Delete rows, so that their migrations are pending again."""
        listed = ", ".join(_version_literal(version) for version in versions)
        return f"DELETE FROM {self._history} WHERE version IN ({listed})"

    def mark_repeatables_stale(self, name: str = "") -> str:
        """Make the repeatable migrations, or the one of this name, pending again."""
        named = f" AND name = {quote_literal(name)}" if name else ""
        return (
            f"UPDATE {self._history} SET state = 'stale' WHERE starts_with(version, 'R__'){named};"
            f" DELETE FROM {self._history} WHERE starts_with(version, 'R:')"
        )

    def upsert_applied(
        self, migrations: Sequence[tuple[Migration, str]], grant: LeaseGrant, *, baseline: bool
    ) -> str:
        """Mark migrations as applied; existing rows are updated."""
        rows = ", ".join(
            f"({_row_values(migration, digest, grant)}, 'applied', clock_timestamp(),"
            f" clock_timestamp(), {quote_literal(baseline)})"
            for migration, digest in migrations
        )
        return f"""
            INSERT INTO {self._history}
                ({_WRITTEN_COLUMNS}, state, started_at, applied_at, baseline)
            VALUES {rows}
            ON CONFLICT (version) DO UPDATE SET
                name = excluded.name, checksum = excluded.checksum, digest = excluded.digest,
                state = 'applied', {_CLEARED_INTENT_COLUMNS}, down = excluded.down,
                applied_at = coalesce(history.applied_at, excluded.applied_at),
                down_line = excluded.down_line,
                down_transactional = excluded.down_transactional,
                down_idempotent = excluded.down_idempotent"""

    # --- dry run

    def begin_dry_run(
        self, timeouts: ServerTimeouts, *, create_schema: bool, create_tables: bool
    ) -> str:
        """As `begin`, for a transaction that is never committed; creates missing tables in it.

        One message, so that a pooler assigns the backend from the first setting on.
        """
        tables = self._create_tables_sql(create_schema=create_schema) if create_tables else ""
        return f"""
            {READ_ONLY_AFTER_ROLLBACK}; COMMIT;
            {BEGIN} READ WRITE; {timeouts.set_local()} {tables} {SAFE_SEARCH_PATH}
            SELECT token, owner, pg_current_xact_id()::text FROM {self._fence} FOR UPDATE;"""

    def list_relations(self) -> str:
        """Relations outside the library's schema: object id, name, kind, file, rows, table."""
        return f"""
            SELECT c.oid, format('%I.%I', n.nspname, c.relname), c.relkind::text,
                   c.relfilenode::bigint, c.reltuples::bigint, i.indrelid
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_index i ON i.indexrelid = c.oid
            WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema',
                  {quote_literal(self.schema)})
              AND c.relkind IN ('r', 'p', 'i', 'I', 'S', 'v', 'm', 'f')
            """


_DOWN_COLUMNS = ("down", "down_line", "down_transactional", "down_idempotent")

_WRITTEN_COLUMNS = (
    "version, name, checksum, digest, fence, owner, request_id, library_version,"
    " down, down_line, down_transactional, down_idempotent"
)

_CLEARED_INTENT_COLUMNS = "up = NULL, up_idempotent = NULL, progress = NULL"
"""Columns that only a row in doubt uses."""

_ELAPSED = "(extract(epoch FROM clock_timestamp() - transaction_timestamp()) * 1000)::bigint"


def _row_values(migration: Migration, digest: str, grant: LeaseGrant) -> str:
    values = (
        str(migration.version),
        migration.name,
        migration.checksum,
        digest,
        grant.fence,
        grant.owner,
        grant.request_id,
        __version__,
        *_down_values(migration.down),
    )
    return ", ".join(quote_literal(value) for value in values)


def _version_literal(version: Version) -> str:
    """A version as the tables store it: text, so that versions of other tools fit as well."""
    return quote_literal(str(version))


def system_id_expression(*, can_read_system_id: bool) -> str:
    """Cluster and database; they differ in a copy that was made by template or dump."""
    cluster = "(SELECT system_identifier FROM pg_control_system())" if can_read_system_id else "''"
    return (
        f"concat({cluster}, '/', (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )


def _down_values(script: Script | None) -> tuple[str | None, int | None, bool | None, bool | None]:
    if script is None:
        return None, None, None, None
    sql, line = script.sql, script.line
    if script.has_placeholders:
        sql, line = f"{_PLACEHOLDERS_LINE}{sql}", line - 1
    if script.isolation:
        sql, line = f"{_ISOLATION_PREFIX}{script.isolation}\n{sql}", line - 1
    return sql, line, script.transactional, script.idempotent


def parse_down_script(
    sql: str, line: int | None, *, transactional: bool | None, idempotent: bool | None
) -> Script:
    """The down script in a history row, from the columns that were written for it."""
    isolation, first_line = "", 1 if line is None else line
    if sql.startswith(_ISOLATION_PREFIX):
        isolation, _, sql = sql.removeprefix(_ISOLATION_PREFIX).partition("\n")
        first_line += 1
    has_placeholders = sql.startswith(_PLACEHOLDERS_LINE)
    if has_placeholders:
        sql, first_line = sql.removeprefix(_PLACEHOLDERS_LINE), first_line + 1
    return Script(
        sql,
        first_line,
        transactional=transactional is not False,
        idempotent=idempotent is True,
        isolation=isolation,
        has_placeholders=has_placeholders,
    )


_ISOLATION_PREFIX = "-- lambda-migrate isolation:"
"""The first line of a stored down script whose marker asks for an isolation level."""

_PLACEHOLDERS_LINE = "-- lambda-migrate placeholders\n"
"""The first line, or the second, of a stored down script that has placeholders."""


def _progress_literal(object_ids: Sequence[int] | None, progress: ScriptProgress | None) -> str:
    """What the column ``progress`` stores; NULL if nothing was read."""
    if progress is not None:
        return quote_literal(str(progress))
    return quote_literal(None if object_ids is None else " ".join(map(str, object_ids)))


class ScriptProgress(NamedTuple):
    """How far a script has come, as the column ``progress`` stores it.

    Attributes:
        completed: How many statements are complete.
        object_ids: The objects that the next one concerns, if it was about to run; None between
            two statements.
    """

    completed: int
    object_ids: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.object_ids is None:
            return f"after {self.completed}"
        return f"in {self.completed}: {' '.join(map(str, self.object_ids))}"

    @classmethod
    def parse(cls, column: str | None) -> ScriptProgress:
        """Parse a row's column; a script of one statement stores only the objects."""
        where, _, object_ids = (column or "").rpartition(":")
        if where.startswith("in "):
            return cls(int(where.removeprefix("in ")), tuple(map(int, object_ids.split())))
        if object_ids.startswith("after "):
            return cls(int(object_ids.removeprefix("after ")))
        return cls(0, tuple(map(int, object_ids.split())))
