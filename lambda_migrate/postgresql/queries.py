"""All SQL of ours. Names are quoted as identifiers, values as literals; nothing is pasted.

Statements go out in the simple protocol, several in one message, because each message is a round
trip. The server reads the whole message before it runs any of it, so a `RESET` at its head comes
too late for a literal behind it: see `literal`.

Whoever may create objects in a schema of the role's ``search_path`` could have functions and
operators of theirs run by our role, by making one that fits our arguments better than
PostgreSQL's own (CVE-2018-1058). So each message of ours is said under `_OWN_PATH`, in its
transaction alone; the few that must look through the role's own path, because they look up what a
script named, name the schema of everything else. Scripts run under the role's path.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from lambda_migrate._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lambda_migrate.migrations import Migration, Script
    from lambda_migrate.postgresql.connection import PostgresError
    from lambda_migrate.postgresql.ports import FenceRow, LeaseGrant

__all__ = [
    "DEFAULT_SCHEMA",
    "LAYOUT",
    "Enclosed",
    "Limits",
    "Probe",
    "Queries",
    "application_name",
    "application_prefix",
    "identifier",
    "literal",
]

LAYOUT = 2
"""The layout of our schema that this version of the library reads and writes."""

_HISTORY_COLUMNS = (
    *("version", "name", "checksum", "digest", "state", "started_at", "applied_at", "duration_ms"),
    *("fence", "owner", "request_id", "library_version", "baseline", "up", "up_repeatable"),
    *("found", "down", "down_line", "down_transactional", "down_repeatable"),
)
"""By which ``history`` is recognized where the table that records the layout is not there."""

DEFAULT_SCHEMA = "lambda_migrate"

_NOT_NULL_VIOLATION = "23502"
_INVALID_TEXT = "22P02"

_FENCE_SEEN = "fence "
"""What a comparison that fails says before the token that it found."""

_NAME_BYTES = 63
"""PostgreSQL cuts ``application_name`` here (NAMEDATALEN - 1)."""


def literal(value: str | int | bool | None) -> str:
    """``value`` as an SQL literal, read alike whatever a script did to the session.

    With a backslash it is an ``E''`` string: plain ones mean something else once a script has
    turned ``standard_conforming_strings`` off.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    quoted = "'" + value.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in quoted else quoted


def identifier(name: str) -> str:
    """``name`` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def application_prefix(target: str, schema: str = DEFAULT_SCHEMA) -> str:
    """What the application names of all holders of a target begin with, fence excluded.

    Two services may share a database, each with a schema of its own and both with the default
    target: neither may take the other's backends for its own.
    """
    tag = "".join(c if c.isascii() and (c.isalnum() or c in "-_./") else "_" for c in target)
    room = _NAME_BYTES - len("lambda-migrate::") - 19
    if tag != target or len(tag) > room or schema != DEFAULT_SCHEMA:
        named = target if schema == DEFAULT_SCHEMA else f"{target}\0{schema}"
        tag = tag[: room - 9] + "." + sha256(named.encode()).hexdigest()[:8]
    return f"lambda-migrate:{tag}:"


def application_name(target: str, fence: int, schema: str = DEFAULT_SCHEMA) -> str:
    """The application name of a holder, for operators who look at ``pg_stat_activity``.

    Nothing is decided by it: any session may take the name, and a pooler may show it for another's
    session.
    """
    return f"{application_prefix(target, schema)}{fence}"


class Probe(NamedTuple):
    """What the catalog says of our schema.

    Attributes:
        has_schema: Whether it is there.
        has_history: Whether its table ``history`` is there.
        has_fence: Whether its table ``fence`` is there.
        layout: For which layout these tables were made, in SQL; None if that is unknown.
        reads_system: Whether the role may read the cluster's identifier.
        is_replica: Whether the server is in recovery.
    """

    has_schema: bool
    has_history: bool
    has_fence: bool
    layout: str | None
    reads_system: bool
    is_replica: bool


class Limits:
    """How long the server lets a transaction wait, run and idle, in milliseconds.

    Args:
        lock: Longest wait for one lock; 0 for no limit.
        statement: Longest single statement.
        server_version: ``server_version_num``; 17 and later can limit the whole transaction.
    """

    IDLE = 10_000
    """Our own pauses inside a transaction are round trips. A holder that is killed leaves its
    locks for no longer than this, even if nobody takes over."""

    CLIENT_CHECK = 1_000
    """While a statement runs the server looks this often whether we are still there."""

    LONGEST = 2**31 - 1
    """The highest value that PostgreSQL takes, 24 days: as good as no limit."""

    def __init__(self, *, lock: int, statement: int, server_version: int) -> None:
        lock, statement = min(lock, self.LONGEST), min(statement, self.LONGEST - 500)
        settings: list[tuple[str, int | str]] = [
            ("lock_timeout", lock),
            ("statement_timeout", statement),
            ("idle_in_transaction_session_timeout", self.IDLE),
            ("client_connection_check_interval", self.CLIENT_CHECK),
        ]
        # A database or a role may have defaults of its own for each of these.
        self._outside = [
            *settings,
            ("idle_session_timeout", 0),
            ("default_transaction_isolation", "'read committed'"),
            ("default_transaction_deferrable", "off"),
        ]
        self._local = settings
        if server_version >= 170000:
            self._outside = [*self._outside, ("transaction_timeout", 0)]
            # statement_timeout counts each statement of a script anew; this one counts them all.
            # It ends the session, so the gentler one is to come first. A default's timer that runs
            # already is only stopped by a 0.
            total = statement + 500
            self._local = [*settings, ("transaction_timeout", 0), ("transaction_timeout", total)]

    @property
    def count(self) -> int:
        """How many statements `set_local` is."""
        return len(self._local)

    def set_local(self) -> str:
        """For the current transaction."""
        return " ".join(f"SET LOCAL {name} = {value};" for name, value in self._local)

    def set_alone(self) -> str:
        """For a message of ours that reads and is a transaction of its own."""
        return f"SET TRANSACTION ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE; {self.set_local()}"

    def set_session(self) -> str:
        """For a statement outside a transaction, on a connection that no pooler hands on."""
        return " ".join(f"SET {name} = {value};" for name, value in self._outside)


@dataclass(frozen=True, slots=True)
class Enclosed:
    """A script between our own statements, as one message.

    Attributes:
        sql: The message.
        start: Where the script begins in it, in characters.
        end: Where the script ends.
        statements_before: How many statements of ours come first.
    """

    sql: str
    start: int
    end: int
    statements_before: int

    def position(self, position: int | None) -> int | None:
        """A place in the message, from 1, as a place in the script; None outside of it."""
        if position is None or not self.start < position <= self.end:
            return None
        return position - self.start

    def completed(self, completed: int, position: int | None) -> int | None:
        """How many of the script's own statements had finished; None if it had not begun.

        The server reads a message as a whole before it runs any of it, so that a script that it
        cannot read fails before our first statement, at a place in the script.
        """
        if self.position(position) is not None:
            return max(0, completed - self.statements_before)
        own = completed - self.statements_before
        return own if own >= 0 else None

    def seen(self, error: PostgresError, completed: int) -> int | None:
        """The token that the fence row holds instead of ours, -1 without a row.

        None if ``error`` is another one: it takes the very statement that compares.
        """
        if completed != self.statements_before - 1 or error.sqlstate != _INVALID_TEXT:
            return None
        token = error.message.rpartition(_FENCE_SEEN)[2].strip('"')
        return int(token) if token.isdigit() else -1


class Queries:
    """Our statements for one schema.

    Attributes:
        schema: Its name, unquoted.
    """

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._schema = identifier(schema)
        self._history = f"{self._schema}.history"
        self._fence = f"{self._schema}.fence"
        self._key = int.from_bytes(sha256(f"lambda-migrate {schema}".encode()).digest()[:8], "big")

    # --- the schema itself

    def probe(self) -> str:
        """One row, which is a `Probe`.

        ``history`` is looked up first: both tables are made in one transaction, so that it is
        never seen alone because another process made them between the two lookups.
        """
        fence, history = literal(self._fence), literal(self._history)
        return f"""
            {_OWN_PATH}
            SELECT to_regnamespace({literal(self._schema)}) IS NOT NULL,
                to_regclass({history}) IS NOT NULL, to_regclass({fence}) IS NOT NULL,
                CASE WHEN to_regclass({fence}) IS NOT NULL
                THEN (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
                      JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
                      WHERE d.adrelid = to_regclass({fence}) AND a.attname = 'layout')
                ELSE (SELECT {literal(str(LAYOUT))} FROM pg_attribute
                      WHERE attrelid = to_regclass({history}) AND attnum > 0 AND NOT attisdropped
                      HAVING string_agg(attname::text, ' ' ORDER BY attname)
                          = {literal(" ".join(sorted(_HISTORY_COLUMNS)))})
                END,
                has_function_privilege('pg_control_system()', 'EXECUTE'), pg_is_in_recovery()"""

    def session(self) -> str:
        """One row: our backend's process id, is the server in recovery, may we only read."""
        return (
            f"{_OWN_PATH} SELECT pg_backend_pid(), pg_is_in_recovery(),"
            " current_setting('transaction_read_only')::boolean"
        )

    def bootstrap(self, limits: Limits, *, create_schema: bool) -> str:
        """Create what is missing; the advisory lock lets one creator in at a time.

        ``IF NOT EXISTS`` alone races: two creators both find nothing, and one of them fails on a
        unique index of the catalog (alembic #694, node-pg-migrate #821).
        """
        return (
            f"{_BEGIN}; {limits.set_local()} {_DURABLE}"
            f" {self._creation(create_schema=create_schema)} COMMIT;"
        )

    def _creation(self, *, create_schema: bool) -> str:
        """Under the role's own path: event triggers of the database run here, and expect it."""
        schema = f"CREATE SCHEMA IF NOT EXISTS {self._schema};" if create_schema else ""
        return f"""
            SET LOCAL search_path TO DEFAULT;
            SET LOCAL client_min_messages = warning;
            SELECT pg_catalog.pg_advisory_xact_lock(
                pg_catalog.hashtext({literal("lambda-migrate " + self.schema)}));
            {schema}
            CREATE TABLE IF NOT EXISTS {self._fence} (
                singleton    boolean PRIMARY KEY DEFAULT true CHECK (singleton),
                layout       integer NOT NULL DEFAULT {LAYOUT},
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
                state        pg_catalog.text NOT NULL CHECK (state {_IS}
                    ANY ('{{started,applied,reverting}}'::pg_catalog.text[])),
                started_at   pg_catalog.timestamptz NOT NULL,
                applied_at   pg_catalog.timestamptz,
                duration_ms  bigint NOT NULL DEFAULT 0,
                fence        bigint NOT NULL,
                owner        pg_catalog.text NOT NULL,
                request_id   pg_catalog.text NOT NULL DEFAULT '',
                library_version pg_catalog.text NOT NULL,
                baseline     boolean NOT NULL DEFAULT false,
                up           pg_catalog.text,
                up_repeatable boolean,
                found        pg_catalog.text,
                down         pg_catalog.text,
                down_line    integer,
                down_transactional boolean,
                down_repeatable boolean
            );
            INSERT INTO {self._fence} DEFAULT VALUES ON CONFLICT DO NOTHING;"""

    # --- the fence

    def read_fence(self, *, reads_system: bool = True) -> str:
        """The fence row as JSON, of whatever layout it is, and the live `SYSTEM`; without a lock.

        Args:
            reads_system: Whether the role may read the cluster's identifier; see `probe`.
        """
        return (
            f"{_OWN_PATH} SELECT to_jsonb(fence)::text, {_system(reads_system=reads_system)}"
            f" FROM {self._fence} AS fence"
        )

    def find_fence_locker(self, grant: LeaseGrant | None = None) -> str:
        """The backend that has the fence row locked: process, transaction, application, since when.

        A locked row's ``xmax`` is the transaction that locked it, and a transaction that is not
        over has a lock on its own number. So this is a backend inside a migration's transaction,
        or a dry run's, at this moment; one that only reads the table is not found, nor one under a
        token newer than ``grant``'s. The lock on the table distinguishes a transaction's number
        from that of a group of transactions that share a lock.
        """
        return f"""
            {_OWN_PATH}
            SELECT l.pid, f.xmax::text, a.application_name, {_iso("a.xact_start")}
            FROM {self._fence} f
            JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = f.xmax
                AND l.granted AND l.pid <> pg_backend_pid()
            JOIN pg_locks t ON t.pid = l.pid AND t.locktype = 'relation' AND t.granted
                AND t.relation = f.tableoid AND t.mode IN ('RowShareLock', 'RowExclusiveLock')
                AND t.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            LEFT JOIN pg_stat_activity a ON a.pid = l.pid
            WHERE {"TRUE" if grant is None else self._may_take(grant)}
            LIMIT 1"""

    def end_transaction(self, pid: int, transaction: str) -> str:
        """End a backend that is still in that very transaction; no row if it is not.

        Between the look at ``pg_locks`` and the signal lie microseconds in which the transaction
        may end and a pooler may hand the backend on. PostgreSQL has no way to close them; they are
        only met by a transaction that lasts longer than a takeover waits and ends in that instant.
        """
        return f"""
            SET LOCAL ROLE NONE; {_OWN_PATH}
            SELECT pg_terminate_backend(pid) FROM pg_locks
            WHERE locktype = 'transactionid' AND granted AND pid <> pg_backend_pid()
              AND pid = {literal(pid)} AND transactionid = {literal(transaction)}::xid"""

    def take_fence(
        self, grant: LeaseGrant, limits: Limits, seen: FenceRow, *, identity: str
    ) -> str:
        """Set the token, if it is higher or already this owner's, in a transaction left open.

        Environment and identity are compared again, because two first runs may be in progress at
        once.

        Returns:
            SQL that returns the owner if the token was set, and then each session that holds the
            session lock. While the row is locked no older holder can be in a transaction of its
            own, and no newer one can have taken over: these sessions are older holders'.
        """
        return f"""
            {_BEGIN}; {limits.set_local()} {_OWN_PATH} {_DURABLE}
            UPDATE {self._fence} SET
                token = {literal(grant.fence)}, owner = {literal(grant.owner)},
                target = {literal(grant.target)}, environment = {literal(grant.environment)},
                identity = {literal(identity)}, system = {literal(seen.confirmed_system)},
                backend_pid = pg_backend_pid(), taken_at = clock_timestamp()
            WHERE {self._may_take(grant)}
              AND (environment IN ('', {literal(grant.environment)})
                   OR {literal(grant.restamps_environment)})
              AND identity = {literal(seen.identity)}
            RETURNING owner, NULL::integer;
            SELECT NULL, l.pid {self._session_lockers()}"""

    def _may_take(self, grant: LeaseGrant) -> str:
        fence, owner = literal(grant.fence), literal(grant.owner)
        return f"(token < {fence} OR (token = {fence} AND owner = {owner}))"

    def finish_take(self, *, is_direct: bool) -> str:
        """Commit the token; a session of our own takes the session lock."""
        return (self.keep() if is_direct else "") + " COMMIT;"

    def try_session_lock(self) -> str:
        """Take the session lock if it is free; returns whether it is ours.

        A holder has it for as long as its session lasts, so that a successor finds the session of
        a holder between its intent row and its statement. It is never waited for: a session
        that waits for an advisory lock has a snapshot, and CREATE INDEX CONCURRENTLY waits for
        that. It is not for sessions that a pooler hands on.
        """
        return f"{_OWN_PATH} SELECT {self._try_lock()}"

    def release_session_lock(self) -> str:
        """Release the session lock, however often it was taken."""
        return f"{_OWN_PATH} SELECT pg_advisory_unlock_all()"

    def _try_lock(self) -> str:
        return f"pg_catalog.pg_try_advisory_lock({literal(str(self._signed_key))}::pg_catalog.int8)"

    @property
    def _signed_key(self) -> int:
        return self._key - 2**64 if self._key >= 2**63 else self._key

    def find_session_lockers(self) -> str:
        """Sessions of other holders: process, application, since when."""
        return (
            f"{_OWN_PATH} SELECT l.pid, a.application_name, {_iso('a.backend_start')}"
            f" {self._session_lockers()}"
        )

    def end_session_lockers(self, *, wait_ms: int) -> str:
        """End them, and wait up to ``wait_ms`` for each; a row with false is one that stayed.

        As the role that logged in: it is the one that PostgreSQL compares, and another may be set.
        """
        return (
            f"SET LOCAL ROLE NONE; {_OWN_PATH} SELECT pg_terminate_backend(l.pid, {wait_ms})"
            f" {self._session_lockers()}"
        )

    def _session_lockers(self) -> str:
        """Other sessions with the session lock.

        Any login may take an advisory lock, so it counts only for a session that we may end, or
        whose login could have written the fence: else any login could block every migration. A
        login with NOINHERIT writes it as a role that it is a member of, after SET ROLE. The table
        is looked up in the catalog, which needs no right on its schema.
        """
        fence = (
            "(SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            f" WHERE n.nspname = {literal(self.schema)} AND c.relname = 'fence')"
        )
        return (
            "FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
            " WHERE l.locktype = 'advisory' AND l.granted AND l.pid <> pg_backend_pid()"
            " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            f" AND (l.classid, l.objid, l.objsubid) = ({self._key >> 32}::bigint::oid,"
            f" {self._key & 0xFFFFFFFF}::bigint::oid, 1)"
            " AND (pg_has_role(session_user, a.usesysid, 'USAGE')"
            " OR pg_has_role(session_user, 'pg_signal_backend', 'USAGE')"
            " OR EXISTS (SELECT FROM pg_roles r WHERE pg_has_role(a.usesysid, r.oid, 'MEMBER')"
            f" AND has_table_privilege(r.oid, {fence}, 'UPDATE')))"
        )

    # --- a session of our own, which no pooler hands on

    def forget(self, *, is_direct: bool) -> str:
        """What DISCARD ALL does, in the form that is allowed inside a transaction.

        It releases the session lock too. The same lock, held by the transaction until its end,
        keeps other sessions from it until `keep` has taken it again.
        """
        if not is_direct:
            return _FORGET
        bridge = self._try_lock().replace("pg_try_advisory_lock", "pg_try_advisory_xact_lock")
        return f"SELECT WHERE {bridge} IS NULL; {_FORGET}{self.keep()}"

    def keep(self) -> str:
        """What such a session has from its beginning to its end; returns no row."""
        return f" SELECT WHERE {self._try_lock()} IS NULL; SET idle_session_timeout = 0;"

    def prepare_outside(self, limits: Limits) -> str:
        """A session for one statement outside a transaction; returns what must hold.

        Returns:
            SQL whose last row is the backend's process id, whether the session lock is ours, and
            token and owner of the fence.
        """
        return f"""
            {limits.set_session()} {_DURABLE_SESSION} {_OWN_PATH}
            SELECT pg_backend_pid(), {self._try_lock()},
                (SELECT token FROM {self._fence}), (SELECT owner FROM {self._fence})"""

    def tag(self, grant: LeaseGrant) -> str:
        """A comment at the head of a message, for operators who look at ``pg_stat_activity``."""
        return f"/* {application_name(grant.target, grant.fence, self.schema)} */ "

    # --- a migration's transaction

    def begin(self, limits: Limits) -> str:
        """Open the transaction and lock the fence; answers token, owner, transaction id."""
        return f"""
            {_BEGIN};
            {limits.set_local()}
            SELECT token, owner, pg_catalog.pg_current_xact_id()::pg_catalog.text
            FROM {self._fence} FOR UPDATE;"""

    def commit(self, writes: str, limits: Limits, *, is_direct: bool) -> str:
        """Undo what the script left in the session, write, commit: all or nothing.

        Deferred constraints come first: their triggers are to run in the session as the script
        left it, and a temporary table cannot be dropped while it waits for some.
        """
        return (
            f"SET CONSTRAINTS ALL IMMEDIATE; {self.forget(is_direct=is_direct)}"
            f" {limits.set_local()} {_OWN_PATH} {_DURABLE} {writes}; COMMIT;"
        )

    def enclose(
        self, script: str, writes: str, grant: LeaseGrant, limits: Limits, *, is_direct: bool
    ) -> Enclosed:
        """A script's whole transaction as one message: fence, script, ``writes``, commit.

        Nothing runs unless the fence row holds this grant: the comparison fails on the server, and
        the rest of the message is then not looked at. `Enclosed.seen` reads the failure.
        """
        head = f"{self.tag(grant)}{_BEGIN}; {limits.set_local()} {self._demand_fence(grant)};\n"
        # A comment may stand at the script's end, and its last statement may lack the semicolon.
        tail = f"\n; {self.commit(writes, limits, is_direct=is_direct)}"
        return Enclosed(
            head + script + tail,
            start=len(head),
            end=len(head) + len(script),
            statements_before=limits.count + 2,
        )

    def _demand_fence(self, grant: LeaseGrant) -> str:
        """Lock the fence row; fail unless it is this grant's.

        The row is compared as it is once it is locked. What is said then becomes the text of a
        failed cast, because SQL has no other way to fail in an expression.
        """
        return (
            f"SELECT COALESCE((SELECT CASE WHEN token {_IS} {literal(grant.fence)}"
            f" AND owner {_IS} {literal(grant.owner)} THEN '0'"
            f" ELSE pg_catalog.concat('{_FENCE_SEEN}', token) END"
            f" FROM {self._fence} FOR UPDATE), '{_FENCE_SEEN}')::pg_catalog.int4"
        )

    # --- history

    def read_history(self) -> str:
        """All rows, in any order: their source defines the order of versions."""
        return f"""
            {_OWN_PATH}
            SELECT version, name, checksum, digest, state, {_iso("started_at")},
                   {_iso("applied_at")}, duration_ms, fence, owner, baseline, up,
                   down, down_line, down_transactional, down_repeatable, up_repeatable, found
            FROM {self._history}"""

    def read_row(self, version: int) -> str:
        """State, checksum and duration of one version; no row if it was never begun."""
        return (
            f"{_OWN_PATH} SELECT state, checksum, duration_ms FROM {self._history}"
            f" WHERE version = {_version(version)}"
        )

    def insert_applied(self, migration: Migration, digest: str, grant: LeaseGrant) -> str:
        """The history row of a migration that ran in the transaction that locked the fence."""
        state = self._only_under_fence("applied")
        return f"""
            INSERT INTO {self._history} ({_COLUMNS}, state, started_at, applied_at, duration_ms)
            VALUES ({_values(migration, digest, grant)}, {state},
                transaction_timestamp(), clock_timestamp(), {_ELAPSED})
            RETURNING duration_ms"""

    def insert_started(
        self,
        migration: Migration,
        digest: str,
        grant: LeaseGrant,
        *,
        found: Sequence[int] | None = None,
    ) -> str:
        """The intent to run a non-transactional migration; answers a row if it stands.

        It may stand already, committed before its answer was lost. Anybody else's row answers
        nothing.

        Args:
            migration: What is about to run.
            digest: The chain digest that ends with it.
            grant: Under which right.
            found: See `HistoryRow.found`.
        """
        up = migration.up
        return f"""
            INSERT INTO {self._history}
                ({_COLUMNS}, state, started_at, up, up_repeatable, found)
            VALUES ({_values(migration, digest, grant)}, 'started', clock_timestamp(),
                    {literal(up.sql)}, {literal(up.repeatable)}, {_numbers(found)})
            ON CONFLICT (version) DO UPDATE SET state = 'started'
            WHERE history.state = 'started' AND history.fence = {literal(grant.fence)}
              AND history.owner = {literal(grant.owner)}
            RETURNING true"""

    def finish_started(self, version: int) -> str:
        """A non-transactional migration is complete."""
        return f"""
            UPDATE {self._history} SET state = 'applied', {_SETTLED},
                applied_at = clock_timestamp(),
                duration_ms = extract(epoch FROM clock_timestamp() - started_at) * 1000
            WHERE version = {_version(version)} RETURNING duration_ms"""

    def start_reverting(self, version: int, *, found: Sequence[int] | None = None) -> str:
        """The intent to run a non-transactional down script; ``found`` as of `insert_started`."""
        return f"""
            UPDATE {self._history} SET state = 'reverting', found = {_numbers(found)}
            WHERE version = {_version(version)}"""

    def still_applied(self, version: int) -> str:
        """A row in doubt turned out to be untouched."""
        return f"""
            UPDATE {self._history} SET state = 'applied', {_SETTLED}
            WHERE version = {_version(version)}"""

    def is_out_of_transaction(self, error: PostgresError) -> bool:
        """Whether the history refused a row because the script had ended its transaction."""
        return error.sqlstate == _NOT_NULL_VIOLATION and (
            error.schema,
            error.table,
            error.column,
        ) == (self.schema, "history", "state")

    def delete_reverted(self, version: int) -> str:
        """Remove the row of a migration reverted in the transaction that locked the fence."""
        state = self._only_under_fence("reverting")
        return (
            f"UPDATE {self._history} SET state = {state} WHERE version = {_version(version)};"
            f" DELETE FROM {self._history} WHERE version = {_version(version)}"
            f" RETURNING {_ELAPSED}"
        )

    def _only_under_fence(self, state: str) -> str:
        """``state`` in the very transaction that locked the fence row, else NULL.

        The column refuses NULL. So a script that ends the transaction it was given, in a way that
        its reading did not notice, cannot get a history row in another one. A locked row's
        ``xmax`` is the locking transaction (PostgreSQL, "System Columns"; nobody can share this
        lock).
        """
        return (
            f"CASE WHEN (SELECT xmax::text FROM {self._fence})"
            f" = pg_current_xact_id_if_assigned()::xid::text THEN {literal(state)} END"
        )

    def delete(self, versions: Iterable[int]) -> str:
        """Remove rows; what they named is pending again."""
        listed = ", ".join(_version(version) for version in versions)
        return f"DELETE FROM {self._history} WHERE version IN ({listed})"

    def record(
        self, migrations: Sequence[tuple[Migration, str]], grant: LeaseGrant, *, baseline: bool
    ) -> str:
        """Declare migrations applied; rows that exist are stamped anew."""
        rows = ", ".join(
            f"({_values(migration, digest, grant)}, 'applied', clock_timestamp(),"
            f" clock_timestamp(), {literal(baseline)})"
            for migration, digest in migrations
        )
        return f"""
            INSERT INTO {self._history} ({_COLUMNS}, state, started_at, applied_at, baseline)
            VALUES {rows}
            ON CONFLICT (version) DO UPDATE SET
                name = excluded.name, checksum = excluded.checksum, digest = excluded.digest,
                state = 'applied', {_SETTLED}, down = excluded.down,
                applied_at = coalesce(history.applied_at, excluded.applied_at),
                down_line = excluded.down_line,
                down_transactional = excluded.down_transactional,
                down_repeatable = excluded.down_repeatable"""

    # --- a rehearsal: one transaction for all migrations, never committed

    def begin_rehearsal(self, limits: Limits, *, create_schema: bool, create_tables: bool) -> str:
        """As `begin`, never to be committed; where our tables are not there, they are made in it.

        One message, so that a pooler keeps the backend for us from the first setting on.
        """
        made = self._creation(create_schema=create_schema) if create_tables else ""
        return f"""
            {NEVER_WRITE_OUTSIDE}; COMMIT;
            {_BEGIN} READ WRITE; {limits.set_local()} {made} {_OWN_PATH}
            SELECT token, owner, pg_current_xact_id()::text FROM {self._fence} FOR UPDATE;"""

    def survey(self) -> str:
        """All relations of users, not ours: number, name, kind, file, estimated rows, table."""
        return f"""
            SELECT c.oid, format('%I.%I', n.nspname, c.relname), c.relkind::text,
                   c.relfilenode::bigint, c.reltuples::bigint, i.indrelid
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_index i ON i.indexrelid = c.oid
            WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema',
                  {literal(self.schema)}) AND c.relkind IN ('r', 'p', 'i', 'I', 'S', 'v', 'm', 'f')
            """


# --- a rehearsal

_TRIPWIRE = "lambda_migrate_rehearsal"
_STEP = "lambda_migrate_step"

NEVER_COMMIT = (
    f"DECLARE {_TRIPWIRE} NO SCROLL CURSOR WITH HOLD FOR"
    " SELECT 1 OPERATOR(pg_catalog./) pg_catalog.count(*)"
    " FROM (VALUES (pg_catalog.pg_backend_pid())) AS never(pid) WHERE pid IS NULL;"
)
"""Makes PostgreSQL refuse to commit this transaction.

A cursor WITH HOLD is carried out when its transaction commits, and this one divides by zero.
PREPARE TRANSACTION refuses such cursors altogether. Nobody fetches from it before.
"""

NEVER_WRITE_OUTSIDE = "SET default_transaction_read_only = on"
"""For whatever a script sends behind a ROLLBACK of its own.

Committed before the transaction begins, it is what a rollback goes back to. Ours says READ WRITE,
which `FencedConnection.look` has found to be what the database wants."""

ROLL_BACK_STEP = f"ROLLBACK TO SAVEPOINT {_STEP}; RELEASE SAVEPOINT {_STEP}"


def begin_step(limits: Limits) -> str:
    """A session as a migration finds it at the beginning of its own transaction."""
    return f"{_FORGET} {limits.set_local()} {NEVER_COMMIT} SAVEPOINT {_STEP}"


def end_step(limits: Limits, *, deferred: str) -> str:
    """Keep what a migration did and forget what it left in the session; for measuring.

    Args:
        limits: For what comes next.
        deferred: What `find_deferrable` named to be deferred again, as in a new transaction.
    """
    again = f"SET CONSTRAINTS {deferred} DEFERRED;" if deferred else ""
    return (
        f"RELEASE SAVEPOINT {_STEP}; {again} {_FORGET} {limits.set_local()} {NEVER_COMMIT}"
        f" {_OWN_PATH} SELECT pg_current_xact_id_if_assigned()::text"
    )


def measuring(limits: Limits) -> str:
    """A session for our own measuring, before the first migration."""
    return f"{_FORGET} {limits.set_local()} {_OWN_PATH}"


def find_deferrable() -> str:
    """Names of all deferrable constraints, and of those that begin a transaction deferred.

    SET CONSTRAINTS ALL would hold for the rest of the transaction and for constraints that later
    migrations make; by their names each is put back as a new transaction has it. A name that
    several constraints of a schema share is left immediate unless all of them begin deferred.
    """
    return f"""
        SELECT pg_catalog.string_agg(name, ', '),
               pg_catalog.string_agg(name, ', ') FILTER (WHERE is_deferred)
        FROM (SELECT pg_catalog.format('%I.%I', n.nspname, c.conname) AS name,
                     pg_catalog.bool_or(c.condeferrable) AS is_deferrable,
                     pg_catalog.bool_and(c.condeferred) AS is_deferred
              FROM pg_catalog.pg_constraint c
              JOIN pg_catalog.pg_namespace n ON n.oid {_IS} c.connamespace
              GROUP BY 1) AS constraints
        WHERE is_deferrable"""


def check_deferred(names: str) -> str:
    """Have deferred constraints checked now, as the commit would."""
    return f"SET CONSTRAINTS {names} IMMEDIATE"


LOCKS_HELD = """
    SELECT relation, mode FROM pg_locks
    WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
"""What our own backend has locked: relation, mode."""

ROWS_COUNTED = """
    SELECT relid, n_tup_ins, n_tup_upd, n_tup_del, seq_tup_read FROM pg_stat_xact_all_tables
    WHERE n_tup_ins + n_tup_upd + n_tup_del + seq_tup_read > 0"""
"""What this transaction has done so far: table, rows inserted, updated, deleted, scanned."""

DEFINITIONS_WRITTEN = """
    SELECT relation, string_agg(DISTINCT writer::text, ',') FROM (
        SELECT oid AS relation, xmin AS writer FROM pg_class
        UNION ALL SELECT attrelid, xmin FROM pg_attribute
        UNION ALL SELECT adrelid, xmin FROM pg_attrdef
        UNION ALL SELECT conrelid, xmin FROM pg_constraint
        UNION ALL SELECT indrelid, xmin FROM pg_index
        UNION ALL SELECT tgrelid, xmin FROM pg_trigger
        UNION ALL SELECT polrelid, xmin FROM pg_policy
        UNION ALL SELECT ev_class, xmin FROM pg_rewrite
    ) AS written WHERE age(writer) <= 0 AND relation <> 0 GROUP BY relation"""
"""Whose definition this transaction has written: relation, and the subtransactions that did.

Each migration is a subtransaction of its own, so that a new one here tells which migration it was.
"""

DOES_COUNT = "SELECT current_setting('track_counts')::boolean"


def sizes(tables: Iterable[int] | None = None) -> str:
    """Bytes of tables with their indexes and TOAST; of all, but for those that others have locked.

    Looking at a table takes a lock for an instant, so that one locked by ACCESS EXCLUSIVE would
    have us wait.
    """
    if tables is None:
        which = (
            "NOT EXISTS (SELECT FROM pg_locks l WHERE l.relation = c.oid AND l.granted"
            " AND l.mode = 'AccessExclusiveLock' AND l.pid <> pg_backend_pid())"
        )
    else:
        which = f"c.oid IN ({', '.join(map(literal, tables)) or 'NULL'})"
    return f"""
        SELECT c.oid, pg_total_relation_size(c.oid) FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_'
          AND n.nspname <> 'information_schema' AND {which}"""


def sequence_values(*, lock_ms: int) -> str:
    """Name and last value of every sequence that we may read."""
    return f"""
        {_OWN_PATH} SET LOCAL lock_timeout = {lock_ms};
        SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences"""


def transaction_status(transaction: str) -> str:
    """How a transaction ended, in PostgreSQL's own word: ``aborted``, ``committed``."""
    return f"{_OWN_PATH} SELECT pg_xact_status({literal(transaction)}::xid8)"


# --- what a non-transactional statement left behind


def find_namesake(index: str, *, table: str) -> str:
    """The relation that has the index's name where an index of ``table`` would be.

    Number, qualified name, whether it is an index of this table, whether it is complete. An index
    ``ON ONLY`` a partitioned table is complete although it is INVALID: it waits for those of the
    partitions.

    Args:
        index: The index's name, unquoted and without its schema.
        table: An SQL name, perhaps quoted.
    """
    return f"""
        SELECT c.oid, {_qualified("c.oid")}, (i.indrelid {_IS} t.oid) IS TRUE,
               {_COMPLETE} IS TRUE
        FROM pg_catalog.pg_class t JOIN pg_catalog.pg_class c
          ON c.relnamespace {_IS} t.relnamespace
        LEFT JOIN pg_catalog.pg_index i ON i.indexrelid {_IS} c.oid
        WHERE t.oid {_IS} {_oid_of(table)} AND c.relname {_IS} {literal(index)}::pg_catalog.name"""


def is_index_as_defined(
    number: int, *, table: str, unique: bool, definition: str, limits: Limits
) -> str:
    """Whether an index is the one that ``definition`` describes; the last row holds the result.

    PostgreSQL itself is asked what the definition means: it makes such an index on an empty copy
    of the table, in a transaction that is rolled back.

    Args:
        number: Of the index.
        table: An SQL name, perhaps quoted.
        unique: Whether its statement says UNIQUE.
        definition: What follows the table's name in its statement.
        limits: For the transaction.
    """
    copy = "pg_temp.lambda_migrate_like"
    asked = f"SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid {_IS} {_oid_of(copy)}"
    return f"""
        {_BEGIN}; {limits.set_local()}
        CREATE TEMPORARY TABLE lambda_migrate_like (LIKE {table});
        CREATE {"UNIQUE " if unique else ""}INDEX ON {copy} {definition}
        ; SELECT {_definition(str(number))} {_IS} {_definition(f"({asked})")};
        ROLLBACK"""


def _definition(number: str) -> str:
    """What PostgreSQL says of an index, without its name and its table's."""
    return f"""(
        SELECT pg_catalog.concat(i.indisunique, pg_catalog.substr(
            pg_catalog.pg_get_indexdef(i.indexrelid), pg_catalog.length(pg_catalog.format(
                'CREATE %sINDEX %I ON %s%I.%I', CASE WHEN i.indisunique THEN 'UNIQUE ' END,
                c.relname, CASE WHEN c.relkind {_IS} 'I' THEN 'ONLY ' END,
                CASE WHEN n.oid {_IS} pg_catalog.pg_my_temp_schema()
                       AND pg_catalog.current_setting('server_version_num')::pg_catalog.int4
                           OPERATOR(pg_catalog.>=) 150000
                     THEN 'pg_temp' ELSE n.nspname END, t.relname
            )) OPERATOR(pg_catalog.+) 1))
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid {_IS} i.indexrelid
        JOIN pg_catalog.pg_class t ON t.oid {_IS} i.indrelid
        JOIN pg_catalog.pg_namespace n ON n.oid {_IS} t.relnamespace
        WHERE i.indexrelid {_IS} {number})"""


def find_relation(name: str) -> str:
    """Number and qualified name of a relation, and whether it is not a half-dropped index."""
    return _relation(_oid_of(name))


def find_numbered(number: int) -> str:
    """As `find_relation`, by the number that it had."""
    return _relation(f"{literal(number)}::pg_catalog.oid")


def _relation(number: str) -> str:
    return f"""
        SELECT c.oid, {_qualified("c.oid")}, {_COMPLETE} IS NOT FALSE
        FROM pg_catalog.pg_class c
        LEFT JOIN pg_catalog.pg_index i ON i.indexrelid {_IS} c.oid
        WHERE c.oid {_IS} {number}"""


def find_rebuilds(of: str, name: str) -> str:
    """Invalid leftovers of REINDEX CONCURRENTLY: number, qualified name, whether we may drop it.

    They are looked for on the tables concerned, their partitions and their TOAST tables, whose
    indexes come last. Only a role that may use the schema ``pg_toast`` can drop one there: as a
    rule a superuser, and not the table's owner.

    Args:
        of: ``INDEX``, ``TABLE``, ``SCHEMA`` or ``DATABASE``.
        name: An SQL name, perhaps quoted; a schema's is unquoted.
    """
    tree = f"SELECT relid FROM pg_catalog.pg_partition_tree({_oid_of(name)}::pg_catalog.regclass)"
    tables = {
        "INDEX": f"""SELECT indrelid FROM pg_catalog.pg_index WHERE indexrelid {_IS} {_oid_of(name)}
                     OR indexrelid {_IS} ANY ({tree})""",
        "TABLE": f"SELECT {_oid_of(name)} UNION ALL {tree}",
        "SCHEMA": f"""SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
                      ON n.oid {_IS} c.relnamespace WHERE n.nspname {_IS} {literal(name)}""",
        "DATABASE": "SELECT oid FROM pg_catalog.pg_class",
    }[of]
    return f"""
        SELECT i.indexrelid, {_qualified("i.indexrelid")},
               pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE')
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid {_IS} i.indexrelid
        JOIN pg_catalog.pg_class t ON t.oid {_IS} i.indrelid
        WHERE NOT i.indisvalid AND c.relkind {_IS} 'i'
          AND c.relname::pg_catalog.text OPERATOR(pg_catalog.~) '_cc(new|old)[0-9]*$'
          AND (t.oid {_IS} ANY ({tables}) OR t.oid {_IS} ANY (
            SELECT reltoastrelid FROM pg_catalog.pg_class WHERE oid {_IS} ANY ({tables})))
        ORDER BY t.relkind {_IS} 't', 2"""


def find_partition(whole: str, part: str) -> str:
    """Numbers of both, whether it is a partition of the first, and whether a DETACH was begun.

    No row if either is not there. Both are SQL names, perhaps quoted.
    """
    return _partition(_oid_of(whole), _oid_of(part))


def find_partition_numbered(whole: int, part: int) -> str:
    """As `find_partition`, by the numbers that they had."""
    return _partition(f"{literal(whole)}::pg_catalog.oid", f"{literal(part)}::pg_catalog.oid")


def _partition(whole: str, part: str) -> str:
    return f"""
        SELECT w.oid, p.oid, h.inhrelid IS NOT NULL, h.inhdetachpending IS TRUE,
               {_full_name("w")}, {_full_name("p")}
        FROM pg_catalog.pg_class w JOIN pg_catalog.pg_class p ON p.oid {_IS} {part}
        LEFT JOIN pg_catalog.pg_inherits h
          ON h.inhparent {_IS} w.oid AND h.inhrelid {_IS} p.oid
        WHERE w.oid {_IS} {whole}"""


def _full_name(relation: str) -> str:
    """Its name with its schema, quoted: for a message under `_OWN_PATH`."""
    return (
        f"pg_catalog.concat({relation}.relnamespace::pg_catalog.regnamespace, '.',"
        f" pg_catalog.quote_ident({relation}.relname))"
    )


def finalize(whole: str, part: str) -> str:
    """Finish a DETACH that was begun; the names are as the catalog gave them."""
    return f"ALTER TABLE {whole} DETACH PARTITION {part} FINALIZE"


def find_object(of: str, name: str, *, number: int | None = None) -> str:
    """A database, tablespace or subscription: its number, and whether it is whole.

    Args:
        of: ``DATABASE``, ``TABLESPACE`` or ``SUBSCRIPTION``.
        name: Its name, unquoted.
        number: Look for the one that has this number instead.
    """
    catalog, column, is_whole = {
        # PostgreSQL says -2 of a database that was being dropped.
        "DATABASE": ("pg_database", "datname", "datconnlimit OPERATOR(pg_catalog.<>) -2"),
        "TABLESPACE": ("pg_tablespace", "spcname", "TRUE"),
        "SUBSCRIPTION": ("pg_subscription", "subname", "TRUE"),
    }[of]
    here = (
        f" AND subdbid {_IS} (SELECT oid FROM pg_catalog.pg_database"
        f" WHERE datname {_IS} pg_catalog.current_database())"
    )
    which = (
        f"{column} {_IS} {literal(name)}::pg_catalog.name"
        if number is None
        else f"oid {_IS} {literal(number)}::pg_catalog.oid"
    )
    return (
        f"SELECT oid, {is_whole} FROM pg_catalog.{catalog} WHERE {which}"
        f"{here if of == 'SUBSCRIPTION' else ''}"
    )


def find_enum_value(kind: str, value: str) -> str:
    """One row if the enum type has the value."""
    return f"""
        SELECT 1 FROM pg_catalog.pg_enum
        WHERE enumtypid {_IS} pg_catalog.to_regtype({literal(kind)})::pg_catalog.oid
          AND enumlabel {_IS} {literal(value)}::pg_catalog.name"""


def drop_index(qualified: str) -> str:
    """Drop an index by the name that the catalog gave, which is quoted already."""
    return f"DROP INDEX CONCURRENTLY IF EXISTS {qualified}"


def _oid_of(relation: str) -> str:
    """The relation's number; NULL without one."""
    return f"pg_catalog.to_regclass({literal(relation)})::pg_catalog.oid"


def _qualified(number: str) -> str:
    """The name of the relation with that number, quoted, with its schema where that is needed."""
    return f"{number}::pg_catalog.regclass::pg_catalog.text"


# --- other tools' history tables


def find_tables(names: Sequence[str]) -> str:
    """Tables of these names in all schemas: schema, name, ``column:type`` lines, may we read it.

    Columns of types that are not PostgreSQL's own are left out: to turn one into text may call a
    function of its owner's.
    """
    return f"""
        {_OWN_PATH}
        SELECT n.nspname, c.relname, string_agg(concat(a.attname, ':', t.typname), chr(10)),
               has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_type t ON t.oid = a.atttypid AND t.typnamespace = 'pg_catalog'::regnamespace
        WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
          AND n.nspname <> 'information_schema' AND c.relname IN ({", ".join(map(literal, names))})
        GROUP BY n.nspname, n.oid, c.relname, c.oid ORDER BY n.nspname, c.relname"""


def read_versions(
    table: tuple[str, str],
    columns: tuple[str, str, str, str],
    *,
    where: str,
    order: str,
    limit: int,
    lock_ms: int,
) -> str:
    """Rows of another tool's history table: key, label, state, whether it covers those before.

    With row security off PostgreSQL fails where a policy of the table's owner would have to run.

    Args:
        table: Its schema and name, unquoted.
        columns: SQL expressions of ours for the four.
        where: Which rows count, in SQL of ours.
        order: In which order, in SQL of ours.
        limit: How many rows at most.
        lock_ms: How long to wait for a lock on the table.
    """
    key, label, state, covers = columns
    return (
        f"{_OWN_PATH} SET LOCAL row_security = off; SET LOCAL lock_timeout = {lock_ms};"
        f" SELECT {key}::text, {label}::text, {state}, {covers}"
        f" FROM {'.'.join(map(identifier, table))} WHERE {where} ORDER BY {order} LIMIT {limit}"
    )


_IS = "OPERATOR(pg_catalog.=)"

_COMPLETE = "(i.indisvalid OR c.relkind OPERATOR(pg_catalog.=) 'I')"
"""Of an index ``i`` whose relation is ``c``; NULL of what is not an index."""

_OWN_PATH = "SET LOCAL search_path = pg_catalog, pg_temp;"
"""For the transaction that it stands in; a message of several statements is one."""

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE"
"""A role or a database may have other defaults. What is read-only by default stays so."""

_DURABLE = (
    "SELECT WHERE CASE WHEN pg_catalog.current_setting('synchronous_commit')"
    " OPERATOR(pg_catalog.<>) ALL ('{on,remote_apply}'::pg_catalog.text[])"
    " THEN pg_catalog.set_config('synchronous_commit', 'on', true) IS NULL END;"
)
"""What is acknowledged survives a crash: at least ``on``, whatever the database's default is.

It returns no row."""

_DURABLE_SESSION = _DURABLE.replace("true", "false")

_FORGET = (
    "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; CLOSE ALL; DEALLOCATE ALL; UNLISTEN *;"
    " SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES;"
)

_COLUMNS = (
    "version, name, checksum, digest, fence, owner, request_id, library_version,"
    " down, down_line, down_transactional, down_repeatable"
)

_SETTLED = "up = NULL, up_repeatable = NULL, found = NULL"
"""What only a row in doubt has."""

_ELAPSED = "(extract(epoch FROM clock_timestamp() - transaction_timestamp()) * 1000)::bigint"


def _values(migration: Migration, digest: str, grant: LeaseGrant) -> str:
    values = (
        str(migration.version),
        migration.name,
        migration.checksum,
        digest,
        grant.fence,
        grant.owner,
        grant.request_id,
        __version__,
        *_down(migration.down),
    )
    return ", ".join(literal(value) for value in values)


def _version(version: int) -> str:
    """A version as the tables store it: text, so that those of other tools fit."""
    return literal(str(version))


def _system(*, reads_system: bool) -> str:
    """Which cluster and which database this is: a copy by template or dump has another one."""
    cluster = "(SELECT system_identifier FROM pg_control_system())" if reads_system else "''"
    return (
        f"concat({cluster}, '/', (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )


def _down(script: Script | None) -> tuple[str | None, int | None, bool | None, bool | None]:
    if script is None:
        return None, None, None, None
    return script.sql, script.line, script.transactional, script.repeatable


def _numbers(found: Sequence[int] | None) -> str:
    """As the column ``found`` has them; NULL where they were not read."""
    return literal(None if found is None else " ".join(map(str, found)))


def _iso(column: str) -> str:
    return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
