"""The real engine of the protocol tests: DynamoDB over HTTP, PostgreSQL message by message.

An instance stops in front of every message to PostgreSQL, so it can be frozen, killed or cut off
between any two: before a migration, which is one message from the fence to the commit; between the
lock on the fence and the commit of a write of our own; around a build outside a transaction.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any
from uuid import uuid4

from lambda_migrate.clock import Clock
from lambda_migrate.database_address import parse_url
from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.lease.store import LeaseStore
from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint
from lambda_migrate.migrations import Manifest, Migration
from lambda_migrate.postgresql.connection import Connection, ConnectionFailed, PostgresError
from lambda_migrate.postgresql.credentials import URLCredentials, open_connection
from lambda_migrate.postgresql.database import PostgreSQLDatabase
from lambda_migrate.postgresql.ports import Database
from lambda_migrate.postgresql.queries import Queries
from lambda_migrate.postgresql.sql_fragments import quote_identifier, quote_literal
from lambda_migrate.testing import FakeClock, FixedRandom
from tests.contract.databases import Server, migration
from tests.contract.leases import TableByOwnClock
from tests.contract.protocol import (
    LEASE_SECONDS,
    AddressKind,
    DatabaseSnapshot,
    Fault,
    Instance,
    Row,
)

UNDEFINED_TABLE = "42P01"
_SESSION_LOCK = re.compile(r"SELECT WHERE pg_catalog\.pg_try_advisory_lock\([^;]*;")
_INTENTS = ("SET state = 'started'", "SET state = 'rolling_back'")
_HISTORY = "pg_current_xact_id_if_assigned"  # only what a migration writes asks for it
_NUMBERS = count(1)


class RealServers:
    """What all examples share: the servers, a database, and a connection to look through."""

    def __init__(self, dynamodb: DynamoDBEndpoint, server: Server) -> None:
        self.table = dynamodb.create_table(f"machine-{uuid4().hex[:8]}")
        self.client = dynamodb.client(retries={"total_max_attempts": 1})
        self._server = parse_url(server.url)
        self._stack = ExitStack()

    def __enter__(self) -> RealServers:
        name = f"machine_{uuid4().hex[:12]}"
        self.credentials = URLCredentials(self._server)
        admin = self._stack.enter_context(self.open("admin"))
        admin.run(f"CREATE DATABASE {name}")
        self._stack.callback(admin.run, f"DROP DATABASE {name} WITH (FORCE)")
        self.credentials = URLCredentials(self._server.replace(database=name))
        self.outside = self._stack.enter_context(self.open("outside"))
        taken = Queries("any").commit_fence(is_direct_connection=True)
        assert len(_SESSION_LOCK.findall(taken)) == 1  # else nothing would be pooled
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def open(self, name: str) -> Connection:
        return open_connection(self.credentials, name, 20.0)


class RealEngine:
    """`Engine` on a target, a schema and tables of its own."""

    def __init__(self, servers: RealServers) -> None:
        self._servers = servers
        self._target = f"orders-{uuid4().hex}"
        self.schema = f"machine_{next(_NUMBERS)}"
        self._effects = quote_identifier(f"{self.schema}_effects")
        self._orders = f"{self.schema}_orders"
        self._index = f"{self.schema}_by_id"
        self._opened: list[SteppedConnection] = []
        self._view = self._table(servers.client, FakeClock())
        self._changed = True
        self._pooled = False
        servers.outside.run(
            f"CREATE TABLE {self._effects} (name text);"
            f"CREATE TABLE {quote_identifier(self._orders)} (id bigint)"
        )
        a, b, d = (self._noting(number, name) for number, name in ((1, "a"), (2, "b"), (4, "d")))
        c = self._building(3, "c")
        broken = self._noting(9, "broken", then="; DO $$BEGIN RAISE 'as planned'; END$$")
        self.manifests = [Manifest([a, b]), Manifest([a, b, c, d]), Manifest([a, b, c, d, broken])]

    def _noting(self, version: int, name: str, *, then: str = "") -> Migration:
        effect = f"'{version:04d}_{name}'"
        noting = f"INSERT INTO {self._effects} VALUES ({effect}){then}"
        taking_back = f"DELETE FROM {self._effects} WHERE name = {effect}"
        return migration(version, name, up=noting, down=taking_back)

    def _building(self, version: int, name: str) -> Migration:
        build = f"CREATE INDEX CONCURRENTLY {self._index} ON {self._orders} (id)"
        drop = f"DROP INDEX CONCURRENTLY {self._index}"
        return migration(version, name, up=build, down=drop)

    def store(self, instance: Instance) -> LeaseStore:
        return self._table(Client(self._servers.client, instance), instance.clock)

    def _table(self, client: Any, clock: Clock) -> DynamoDBLeaseStore:
        return TableByOwnClock(
            self._servers.table,
            self._target,
            client=lambda: client,
            lease_seconds=LEASE_SECONDS,
            clock=clock,
        )

    def database(self, instance: Instance) -> Database:
        by = "tunnel:" if instance.address is AddressKind.TUNNEL else ""
        return PostgreSQLDatabase(
            by + self._servers.credentials.address_text,
            partial(self._connect, instance),
            schema=self.schema,
            random=FixedRandom(0.5),
        )

    def _connect(self, instance: Instance, name: str, seconds: float) -> Connection:
        if instance.turn("connect") is Fault.REQUEST_LOST:
            raise ConnectionFailed("as planned: no answer", permanent=False)
        self._changed = True
        instance.opens_a_connection()
        connection = self._open(instance, name)
        self._opened.append(connection)
        return connection

    def _open(self, instance: Instance, name: str) -> SteppedConnection:
        self._pooled = not self._pooled
        if self._pooled:
            return PooledConnection(self, instance, self._servers.open(name))
        return SteppedConnection(self, instance, self._servers.open(name))

    def item(self) -> LeaseState:
        return self._view.read(consistent=True)

    def free_lease(self) -> None:
        if self.item() != LeaseState():
            self._servers.client.update_item(
                **self._key,
                UpdateExpression="REMOVE #owner, lease_until",
                ExpressionAttributeNames={"#owner": "owner"},
            )

    def delete_item(self) -> None:
        self._servers.client.delete_item(**self._key)

    @property
    def _key(self) -> dict[str, Any]:
        return {"TableName": self._servers.table, "Key": {"target": {"S": self._target}}}

    def touch(self) -> None:
        """A message went to PostgreSQL."""
        self._changed = True

    def has_changed(self) -> bool:
        changed, self._changed = self._changed, False
        return changed

    def copy(self) -> bool:
        """PostgreSQL copies no database that others are connected to; see test_identity."""
        return False

    def read_snapshot(self, address: AddressKind = AddressKind.ORIGINAL) -> DatabaseSnapshot:
        """All in one statement, so that it is all of one moment."""
        schema = quote_identifier(self.schema)
        index = f"to_regclass({quote_literal(self._index)})"
        built = f"SELECT 1 FROM pg_index WHERE indexrelid = {index} AND indisvalid"
        try:
            rows = self._servers.outside.run(f"""
                SELECT 'token', '', token, false FROM {schema}.fence
                UNION ALL SELECT 'row', name, fence, state = 'applied' FROM {schema}.history
                UNION ALL SELECT 'effect', name, 0, false FROM {self._effects}
                UNION ALL SELECT 'effect', '0003_c', 0, false WHERE EXISTS ({built})""")
        except PostgresError as error:
            if error.sqlstate != UNDEFINED_TABLE:
                raise
            return DatabaseSnapshot()
        found: list[tuple[str, str, int, bool]] = [(row[0], row[1], row[2], row[3]) for row in rows]
        return DatabaseSnapshot(
            max((number for kind, _, number, _ in found if kind == "token"), default=0),
            tuple(Row(name, n, applied) for kind, name, n, applied in found if kind == "row"),
            tuple(name for kind, name, _, _ in found if kind == "effect"),
        )

    def close(self) -> None:
        for connection in self._opened:
            connection.close_for_good()


class SteppedConnection(Connection):
    """A connection of one instance: each message waits for its turn, and may be cut off."""

    def __init__(self, engine: RealEngine, instance: Instance, plain: Connection) -> None:
        super().__init__(plain._driver, plain._sock)
        self._engine = engine
        self._instance = instance
        self._counts = True

    def run(
        self, sql: str, *, timeout: float | None = None, keep_rows: int | None = None
    ) -> list[list[Any]]:
        at = " ".join(sql.split())[:60]
        writes = _HISTORY in sql or (self.in_transaction and "history" in sql)
        if sql.endswith("COMMIT;") and writes:
            self._instance.begins_a_commit()
            at = "commit"
        fault = self._instance.turn(at)
        self._engine.touch()
        if fault is Fault.REQUEST_LOST:
            self.abort()
        rows = self.send(sql, timeout, keep_rows)
        if fault is Fault.ANSWER_LOST:
            self.abort()
            return super().run("SELECT 'as planned: the answer was lost'")
        return rows

    def send(self, sql: str, timeout: float | None, keep_rows: int | None) -> list[list[Any]]:
        """What happens when it is this message's turn."""
        return super().run(sql, timeout=timeout, keep_rows=keep_rows)

    def close(self) -> None:
        """A process that was killed says no goodbye: its session stays as it is."""
        if not self._instance.is_killed:
            self.close_for_good()

    def close_for_good(self) -> None:
        super().close()
        if self._counts:
            self._counts = False
            self._instance.closes_a_connection()


class PooledConnection(SteppedConnection):
    """One through a pooler: between transactions no successor finds a session to end.

    It can only be the comparison of the token that keeps such a holder from beginning another. What
    runs outside a transaction compares nothing, and has a session of its own, which can be ended.
    """

    def send(self, sql: str, timeout: float | None, keep_rows: int | None) -> list[list[Any]]:
        if not any(intent in sql for intent in _INTENTS):
            sql = _SESSION_LOCK.sub("", sql)
        return super().send(sql, timeout, keep_rows)


class Client:
    """A DynamoDB client whose requests may be long on their way."""

    def __init__(self, client: Any, instance: Instance) -> None:
        self._client = client
        self._instance = instance
        self.meta = client.meta

    def get_item(self, **arguments: Any) -> Any:
        return self._client.get_item(**arguments)

    def update_item(self, **arguments: Any) -> Any:
        self._instance.on_its_way()
        return self._client.update_item(**arguments)
