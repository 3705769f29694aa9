"""The database and lease item of one round, read and changed past every fault."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import pg8000.native

from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.bench.tools import VERSION_TABLES
from load.chaos.evidence import FinalState, RepairedMigration
from load.chaos.migrations import parse_version
from load.staging.database import read_schema

LEASE_TABLE = "lambda-migrate"

SECRETS = {
    "password": "planted-Passw0rd",
    "secret key": "planted/SecretAccessKey+of40characters00",
    "session token": "planted-SessionToken-0123456789",
}
"""Recognisable values of what must never be written anywhere."""

_TERMINATE_SQL = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'lambda-migrate%'"""

_CONNECTIONS_SQL = """
    SELECT application_name, state, left(query, 60) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend'"""

_INDEXES_SQL = """
    SELECT c.relname::text, i.indisvalid FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
    WHERE t.relname = 'orders' AND c.relname <> 'orders_pkey' ORDER BY 1"""

_RUNS_SQL = """
    SELECT version, direction, extract(epoch FROM pg_xact_commit_timestamp(xmin))
    FROM runs ORDER BY pg_xact_commit_timestamp(xmin), id"""

_ROWS_SQL = """
    SELECT concat_ws(' ', 'order', count(*), sum(amount)) FROM orders
    UNION ALL SELECT concat_ws(' ', 'effect', version) FROM effects
    UNION ALL SELECT concat_ws(' ', 'run', version, direction) FROM runs
    UNION ALL SELECT concat_ws(' ', 'balance', balance) FROM accounts"""

_WRITE_SQL = """
    UPDATE orders SET amount = amount WHERE id = 1 + floor(random() * 900);
    SELECT pg_sleep(0.4)"""
"""A short transaction of an application."""

_CONNECTION_ERRORS = (pg8000.native.Error, OSError)  # the server is being restarted


@dataclass(frozen=True)
class ServiceState:
    """One round's database and item."""

    server: LocalPostgreSQL
    client: Any  # of DynamoDB, past the proxy
    name: str  # of the database, and of the target
    source: str = "sql"  # where the migrations come from

    @property
    def lease_key(self) -> dict[str, Any]:
        """Arguments of the client that name the item."""
        return {"TableName": LEASE_TABLE, "Key": {"target": {"S": self.name}}}

    def query(self, sql: str) -> list[list[Any]]:
        """Rows of one statement in the round's database."""
        return self.server.execute(sql, database=self.name)

    def list_connections(self) -> list[str]:
        """Open connections of lambda-migrate, and of its child processes by whatever name."""
        rows = self.query(_CONNECTIONS_SQL)
        return [" ".join(str(cell) for cell in row) for row in rows]

    def terminate_connections(self) -> int:
        """End the connections of lambda-migrate; returns how many there were."""
        with contextlib.suppress(*_CONNECTION_ERRORS):
            return len(self.query(_TERMINATE_SQL))
        return 0

    def read_versions_and_indexes(self) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
        """The versions with an effect and the valid indexes; None if it cannot be reached."""
        for _ in range(100):
            try:
                valid = tuple(name for name, is_valid in self.query(_INDEXES_SQL) if is_valid)
                is_there = self._has_table("effects")
                rows = self.query("SELECT version FROM effects ORDER BY 1") if is_there else []
            except _CONNECTION_ERRORS:
                time.sleep(0.1)
                continue
            return tuple(version for (version,) in rows), valid
        return None, ()

    def write_order(self) -> None:
        """Write to the migrated table, if it is there, as an application does."""
        with contextlib.suppress(*_CONNECTION_ERRORS):
            self.query(_WRITE_SQL)

    def clear_failure_pause(self) -> None:
        """End the pause after a failure, as if its time had passed."""
        with contextlib.suppress(self.client.exceptions.ClientError):  # there is no failure
            self.client.update_item(
                **self.lease_key,
                UpdateExpression="SET failure.retry_at = :past",
                ExpressionAttributeValues={":past": {"N": "1"}},
            )

    def read_state(self) -> FinalState:
        """Everything that the database and the item hold."""
        state = FinalState()
        if self._has_table("effects"):
            rows = self.query("SELECT version, count(*) FROM effects GROUP BY version ORDER BY 1")
            state.effects = {int(version): int(count) for version, count in rows}
            state.balance = int(self.query("SELECT balance FROM accounts")[0][0])
            state.runs = [(int(v), str(way), float(at)) for v, way, at in self.query(_RUNS_SQL)]
        if self.source != "sql":
            state.history = [(version, "applied") for version in self._read_versions()]
            state.mirror = self._read_mirror()
        elif self._has_table("lambda_migrate.history"):
            rows = self.query("SELECT version::int, state FROM lambda_migrate.history ORDER BY 1")
            state.history = [(version, each) for version, each in rows]
        state.indexes = {str(name): bool(valid) for name, valid in self.query(_INDEXES_SQL)}
        item = self.client.get_item(**self.lease_key, ConsistentRead=True).get("Item", {})
        state.owner = item.get("owner", {}).get("S")
        until = int(item.get("lease_until", {}).get("N", 0)) / 1000
        state.lease_expires_in = until - time.time() if state.owner else 0.0
        return state

    # --- of a tool

    def read_schema(self, database: str) -> list[str]:
        """The schema and the rows of a database of this server, with the tool's versions."""
        if not self.server.execute("SELECT to_regclass('orders')", database=database)[0][0]:
            return ["nothing"]
        rows = self.server.execute(_ROWS_SQL, database=database)
        table, column = VERSION_TABLES[self.source]
        rows += self.server.execute(f"SELECT {column} FROM {table}", database=database)  # noqa: S608 - our own names
        return [*read_schema(self.server, database), *sorted(str(line) for (line,) in rows)]

    def remove_committed_part(self) -> RepairedMigration:
        """Remove by hand what the migration in doubt has committed."""
        doubts = [version for version, state in self._read_mirror() if state != "applied"]
        version = doubts[0] if doubts else 0
        [[rows]] = self.query(f"SELECT count(*) FROM effects WHERE version = {version}")  # noqa: S608
        listed = version in self._read_versions()
        self.query(
            f"DROP TABLE IF EXISTS made_{version}; DROP INDEX IF EXISTS orders_{version};"  # noqa: S608 - numbers
            f"DELETE FROM effects WHERE version = {version};"
            f"DELETE FROM runs WHERE version = {version}"
        )
        return RepairedMigration(version, has_committed_rows=bool(rows) and not listed)

    def _read_versions(self) -> list[int]:
        """The versions that the tool's own table lists, or implies."""
        table, column = VERSION_TABLES[self.source]
        if not self._has_table(table):
            return []
        listed = [parse_version(each) for (each,) in self.query(f"SELECT {column} FROM {table}")]  # noqa: S608 - our own names
        # A chain: Alembic lists only its end.
        first = listed[0] if self.source == "alembic" and listed else 0
        return [*range(1, first), *listed]

    def _read_mirror(self) -> list[tuple[int, str]]:
        if not self._has_table("lambda_migrate.revision"):
            return []
        rows = self.query("SELECT id, state FROM lambda_migrate.revision ORDER BY position, id")
        return [(parse_version(each), state) for each, state in rows]

    def _has_table(self, table: str) -> bool:
        return bool(self.query(f"SELECT to_regclass('{table}') IS NOT NULL")[0][0])
