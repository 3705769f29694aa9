"""The parts of SQL that all messages share: quoting, the search path, timeouts.

A role that may create objects in a schema of the migrating role's ``search_path`` could make a
function or operator that matches the arguments better than PostgreSQL's own, and have it run with
the migrating role's rights (CVE-2018-1058). So the library sends its messages under
`SAFE_SEARCH_PATH`, set for their transaction only. A few look up names that a script uses, which
needs the role's own path: those qualify everything else with its schema. Scripts run under the
role's own path.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from lambda_migrate.database_address import DEFAULT_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BEGIN",
    "EQUALS",
    "RESET_SESSION",
    "SAFE_SEARCH_PATH",
    "SERVER_KEY",
    "SYNCHRONOUS_COMMIT",
    "SYNCHRONOUS_COMMIT_SESSION",
    "ServerTimeouts",
    "advisory_lock_key",
    "application_name",
    "begin_transaction",
    "format_iso_timestamp",
    "lock_timeout_below",
    "quote_identifier",
    "quote_literal",
    "quote_text_array",
]

_NAME_BYTES = 63
"""PostgreSQL truncates ``application_name`` to this length (NAMEDATALEN - 1)."""


def quote_literal(value: str | int | bool | None) -> str:
    """Quote ``value`` as an SQL literal that means the same whatever a script set in the session.

    A text with a backslash becomes an ``E''`` string, because a plain one changes its meaning when
    a script turns ``standard_conforming_strings`` off.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    quoted = "'" + value.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in quoted else quoted


def format_iso_timestamp(column: str) -> str:
    """An expression for a timestamp in UTC; JSON would have the session's zone, and 0 to 6 digits.

    Python 3.10 parses 3 or 6 digits only.
    """
    return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"


def quote_identifier(name: str) -> str:
    """Quote ``name`` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text_array(values: Iterable[str]) -> str:
    """Quote ``values`` as an SQL array of texts."""
    escaped = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    elements = ",".join(f'"{value}"' for value in escaped)
    return f"{quote_literal('{' + elements + '}')}::pg_catalog.text[]"


def application_name(target: str, fence: int, schema: str = DEFAULT_SCHEMA) -> str:
    """The application name of a holder, for operators who read ``pg_stat_activity``.

    It identifies target, schema and fencing token: two services that share a database may both
    have the default target, each with its own schema. The library decides nothing by this name,
    because any session may set it, and a pooler may show it for another client's session.
    """
    tag = "".join(c if c.isascii() and (c.isalnum() or c in "-_./") else "_" for c in target)
    room = _NAME_BYTES - len("lambda-migrate::") - 19
    if tag != target or len(tag) > room or schema != DEFAULT_SCHEMA:
        named = target if schema == DEFAULT_SCHEMA else f"{target}\0{schema}"
        tag = tag[: room - 9] + "." + sha256(named.encode()).hexdigest()[:8]
    return f"lambda-migrate:{tag}:{fence}"


def advisory_lock_key(schema: str) -> int:
    """The key of the holders' advisory lock: a signed 64-bit number."""
    digest = sha256(f"lambda-migrate {schema}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def lock_timeout_below(statement_timeout: int) -> int:
    """The longest ``lock_timeout`` that still ends before ``statement_timeout``, in milliseconds.

    The server starts to count the statement's time first, by as much as a busy machine needs to
    come to the lock: so there are 100 ms between the two, or half of a statement's shorter time.
    """
    margin = max(statement_timeout // 10, min(100, statement_timeout // 2))
    return max(1, statement_timeout - margin)


class ServerTimeouts:
    """The server-side timeouts of a transaction or session, in milliseconds.

    Args:
        lock: Longest wait for one lock; 0 for no limit. It is shortened to `lock_timeout_below`,
            so that PostgreSQL's error names the lock.
        statement: Longest time that one statement may run.
        server_version: ``server_version_num``. Version 17 and later can limit the whole
            transaction as well.
    """

    IDLE_MS = 10_000
    """A transaction is idle only for a round trip, so this is ample. A holder that is killed keeps
    its locks no longer than this, even if no process takes over."""

    CLIENT_CHECK_MS = 1_000
    """How often the server checks, while a statement runs, that the client is still connected."""

    MAX_MS = 2**31 - 1
    """The highest value that PostgreSQL accepts: 24 days."""

    def __init__(self, *, lock: int, statement: int, server_version: int) -> None:
        statement = min(statement, self.MAX_MS - 500)
        lock = lock and min(lock, lock_timeout_below(statement))
        settings: list[tuple[str, int | str]] = [
            ("lock_timeout", lock),
            ("statement_timeout", statement),
            ("idle_in_transaction_session_timeout", self.IDLE_MS),
            ("client_connection_check_interval", self.CLIENT_CHECK_MS),
        ]
        # The database or the role may have other defaults for each of these.
        self._session_settings = [
            *settings,
            ("idle_session_timeout", 0),
            ("default_transaction_isolation", "'read committed'"),
            ("default_transaction_deferrable", "off"),
        ]
        self._local_settings = settings
        if server_version >= 170000:
            self._session_settings = [*self._session_settings, ("transaction_timeout", 0)]
            # statement_timeout restarts with each statement of a script; transaction_timeout
            # covers all of them. It ends the session, so statement_timeout must fire first. Only a
            # 0 stops a timer that a default has already started.
            total = ("transaction_timeout", statement + 500)
            self._local_settings = [*settings, ("transaction_timeout", 0), total]

    @property
    def statement_count(self) -> int:
        """The number of statements in `set_local`."""
        return len(self._local_settings)

    def set_local(self) -> str:
        """Set the timeouts for the current transaction."""
        return " ".join(f"SET LOCAL {name} = {value};" for name, value in self._local_settings)

    def set_for_read_query(self) -> str:
        """Set the timeouts for one message that reads, and is a transaction of its own."""
        return f"SET TRANSACTION ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE; {self.set_local()}"

    def set_session(self) -> str:
        """Set the timeouts for the session, for a non-transactional statement.

        Only for a direct connection: a pooler would pass the settings on to another client.
        """
        return " ".join(f"SET {name} = {value};" for name, value in self._session_settings)


EQUALS = "OPERATOR(pg_catalog.=)"
"""``=`` for messages that run under the role's own path."""

SERVER_KEY = (
    "pg_catalog.concat_ws(' ', extract(epoch FROM pg_catalog.pg_postmaster_start_time()),"
    " (SELECT oid FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=)"
    " pg_catalog.current_database()))"
)
"""An expression that is the same only for connections to one database of one running server."""

SAFE_SEARCH_PATH = "SET LOCAL search_path = pg_catalog, pg_temp;"
"""Applies to the current transaction; a message of several statements is one transaction."""

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE"
"""Overrides the defaults of role and database, except for ``default_transaction_read_only``."""


def begin_transaction(isolation: str = "") -> str:
    """`BEGIN` with an isolation level as `Script.isolation` names it."""
    level = isolation.replace("-", " ").upper()
    return BEGIN.replace("READ COMMITTED", level) if level else BEGIN


SYNCHRONOUS_COMMIT = (
    "SELECT WHERE CASE WHEN pg_catalog.current_setting('synchronous_commit')"
    " OPERATOR(pg_catalog.<>) ALL ('{on,remote_apply}'::pg_catalog.text[])"
    " THEN pg_catalog.set_config('synchronous_commit', 'on', true) IS NULL END;"
)
"""Makes an acknowledged commit survive a crash: at least ``on``, whatever the default is.

Returns no row."""

SYNCHRONOUS_COMMIT_SESSION = SYNCHRONOUS_COMMIT.replace("true", "false")

RESET_SESSION = (
    "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; CLOSE ALL; DEALLOCATE ALL; UNLISTEN *;"
    " SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES;"
)
"""What DISCARD ALL does, in the form that is allowed inside a transaction."""
