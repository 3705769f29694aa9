"""The databases that the contract tests run against: in memory, and a real PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

from lambda_migrate.clock import Deadline
from lambda_migrate.database_address import DatabaseAddress, parse_url
from lambda_migrate.errors import MigrateError, MigrationFailed
from lambda_migrate.manifest_digest import compute_checksum
from lambda_migrate.migrations import HistoryRow, Manifest, Migration, RowState, Script
from lambda_migrate.postgresql.connection import connect
from lambda_migrate.postgresql.credentials import URLCredentials, open_connection
from lambda_migrate.postgresql.database import PostgreSQLDatabase
from lambda_migrate.postgresql.ports import Database, FencedSession, LeaseGrant
from lambda_migrate.postgresql.queries import Queries
from lambda_migrate.postgresql.sql_fragments import quote_identifier, quote_literal
from lambda_migrate.testing import InMemoryDatabase

SCHEMA = "lambda_migrate"


def migration(version: int, name: str, up: str = "", down: str | None = "") -> Migration:
    """One whose scripts note down their own effects, unless they are given."""
    full = f"{version:04d}_{name}"
    up_sql = up or f"INSERT INTO effects VALUES ({quote_literal(full)})"
    down_sql = f"DELETE FROM effects WHERE name = {quote_literal(full)}" if down == "" else down
    return Migration(
        version,
        full,
        up=Script(up_sql, transactional="CONCURRENTLY" not in up_sql),
        down=None
        if down_sql is None
        else Script(down_sql, line=3, transactional="CONCURRENTLY" not in down_sql),
        checksum=compute_checksum(up_sql),
    )


FIRST, SECOND, THIRD = (migration(n, name) for n, name in enumerate(("a", "b", "c"), 1))
MANIFEST = Manifest([FIRST, SECOND, THIRD])


def grant(fence: int, owner: str = "", **fields: Any) -> LeaseGrant:
    return LeaseGrant("orders", fence, owner or f"owner-{fence}", **fields)


def soon() -> Deadline:
    """Far enough for everything, near enough for a test that hangs."""
    return Deadline.after(30)


def over() -> Deadline:
    return Deadline.after(0)


class DatabaseUnderTest(Protocol):
    """A database, and a view of it that the port does not give."""

    @property
    def database(self) -> Database:
        """The port."""

    def effects(self) -> list[str]:
        """Migrations whose effects are committed and not reverted, in the order of versions."""

    def breaking(self, broken: Migration, sqlstate: str) -> Migration:
        """The same migration, but it fails half-way."""

    def fix(self, broken: Migration) -> None:
        """Take away what makes it fail."""

    def in_the_middle(
        self, run: Callable[[Migration], object], slow: Migration, act: Callable[[], object]
    ) -> MigrateError | None:
        """Call ``act`` while ``run(slow)`` is in the middle of its script; how that ended."""

    def leave_in_doubt(
        self,
        session: FencedSession,
        interrupted: Migration,
        *,
        took_effect: bool | None,
        rolling_back: bool = False,
    ) -> HistoryRow:
        """What a holder leaves that is killed while a non-transactional script runs."""


class InMemoryUnderTest:
    def __init__(self) -> None:
        self.database = InMemoryDatabase()

    def effects(self) -> list[str]:
        return sorted(set(self.database.effects) - set(self.database.rolled_back))

    def breaking(self, broken: Migration, sqlstate: str) -> Migration:
        self.database.fail_on(
            broken.version,
            MigrationFailed("as planned", migration=broken.name, sqlstate=sqlstate),
        )
        return broken

    def fix(self, broken: Migration) -> None:
        self.database.fail_on(broken.version, None)

    def in_the_middle(
        self, run: Callable[[Migration], object], slow: Migration, act: Callable[[], object]
    ) -> MigrateError | None:
        def once(version: int) -> None:
            assert version == slow.version
            self.database.on_script = None
            act()

        self.database.on_script = once
        return _error_of(partial(run, slow))

    def leave_in_doubt(
        self,
        session: FencedSession,
        interrupted: Migration,
        *,
        took_effect: bool | None,
        rolling_back: bool = False,
    ) -> HistoryRow:
        self.database.leave_in_doubt(
            interrupted, "digest", took_effect=took_effect, rolling_back=rolling_back
        )
        return session.read_history()[-1]


class PostgreSQLUnderTest:
    """A database of its own on a real server; see `Server.fresh_database`."""

    def __init__(self, address: DatabaseAddress) -> None:
        credentials = URLCredentials(address)
        self._address = address
        self._run = partial(_run, address)
        self.database = PostgreSQLDatabase(
            credentials.address_text, partial(open_connection, credentials), schema=SCHEMA
        )
        self._run("CREATE TABLE effects (name text NOT NULL)")
        self._run("CREATE TABLE orders (id bigint)")

    def effects(self) -> list[str]:
        return [name for (name,) in self._run("SELECT name FROM effects ORDER BY name")]

    def breaking(self, broken: Migration, sqlstate: str) -> Migration:
        raising = f"DO $$BEGIN RAISE 'as planned' USING ERRCODE = {quote_literal(sqlstate)}; END$$"
        return replace(broken, up=Script(f"{broken.up.sql};\n{raising}"))

    def fix(self, broken: Migration) -> None:
        """The migration as it was succeeds from now on."""

    def in_the_middle(
        self, run: Callable[[Migration], object], slow: Migration, act: Callable[[], object]
    ) -> MigrateError | None:
        sleeping = replace(slow, up=Script(f"{slow.up.sql}; SELECT pg_sleep(60)"))
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(_error_of, partial(run, sleeping))
            self._wait_until_it_sleeps()
            act()
            return ended.result()

    def leave_in_doubt(
        self,
        session: FencedSession,
        interrupted: Migration,
        *,
        took_effect: bool | None,
        rolling_back: bool = False,
    ) -> HistoryRow:
        session.record_applied([(interrupted, "digest")], baseline=False)
        state = RowState.ROLLING_BACK if rolling_back else RowState.STARTED
        up = "NULL" if rolling_back else quote_literal(interrupted.up.sql)
        self._run(
            f"UPDATE {SCHEMA}.history SET state = {quote_literal(state.value)}, applied_at = NULL,"
            f" up = {up}, up_idempotent = {quote_literal(interrupted.up.idempotent)},"
            f" down_transactional = false WHERE version = '{interrupted.version}'"
        )
        if took_effect is not None and took_effect is not rolling_back:
            self._run(interrupted.up.sql)
        return session.read_history()[-1]

    def run(self, sql: str) -> list[list[Any]]:
        """What any other session may say."""
        return self._run(sql)

    @contextmanager
    def copied(self) -> Iterator[PostgreSQLDatabase]:
        """A copy by template; nothing of ours may be connected while it is made."""
        name = f"copy_{uuid4().hex[:12]}"
        server = self._address.replace(database="postgres")
        _run(server, f"CREATE DATABASE {name} TEMPLATE {quote_identifier(self._address.database)}")
        credentials = URLCredentials(self._address.replace(database=name))
        connect_copy = partial(open_connection, credentials)
        try:
            yield PostgreSQLDatabase(credentials.address_text, connect_copy, schema=SCHEMA)
        finally:
            _run(server, f"DROP DATABASE {name} WITH (FORCE)")

    def tables(self) -> list[str]:
        """The library's tables, which do not exist before the first run."""
        probe = Queries(SCHEMA).probe()
        return [str(row) for row in self._run(probe)]

    def _wait_until_it_sleeps(self) -> None:
        give_up = time.monotonic() + 20
        while not self._run(_SLEEPING):
            assert time.monotonic() < give_up, "the migration never came to its middle"
            time.sleep(0.02)


_SLEEPING = (
    "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
)


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server on which we may create databases.

    Attributes:
        url: Of a database on it, as a role that may.
    """

    url: str

    @contextmanager
    def fresh_database(self) -> Iterator[PostgreSQLUnderTest]:
        name = f"contract_{uuid4().hex[:12]}"
        address = parse_url(self.url)
        _run(address, f"CREATE DATABASE {quote_identifier(name)}")
        try:
            yield PostgreSQLUnderTest(address.replace(database=name))
        finally:
            _run(address, f"DROP DATABASE {quote_identifier(name)} WITH (FORCE)")


def _run(address: DatabaseAddress, sql: str) -> list[list[Any]]:
    with connect(address, application_name="contract tests", timeout=20) as connection:
        return connection.run(sql, timeout=20)


def _error_of(act: Callable[[], object]) -> MigrateError | None:
    try:
        act()
    except MigrateError as error:
        return error
    return None
