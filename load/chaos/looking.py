"""Looking at database, item and logs, past every fault."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.chaos.evidence import Facts

__all__ = ["SECRETS", "TABLE", "Looker", "search"]

TABLE = "lambda-migrate"

SECRETS = {
    "password": "planted-Passw0rd",
    "secret key": "planted/SecretAccessKey+of40characters00",
    "session token": "planted-SessionToken-0123456789",
}
"""Recognisable values of what must never be written anywhere."""

_OURS = (
    "FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name LIKE 'lambda-migrate%'"
)


class Looker:
    """One round's database and item.

    Args:
        server: Where the database is.
        client: Of the DynamoDB engine itself.
        name: Of the database, and of the target.
    """

    def __init__(self, server: LocalPostgreSQL, client: Any, name: str) -> None:
        self._server = server
        self._client = client
        self._name = name
        self._key = {"TableName": TABLE, "Key": {"target": {"S": name}}}

    def query(self, sql: str) -> list[list[Any]]:
        """Rows of one statement in the round's database."""
        return self._server.execute(sql, database=self._name)

    def backends(self) -> list[str]:
        """Our connections, in words."""
        rows = self.query(f"SELECT application_name, state, left(query, 60) {_OURS}")
        return [" ".join(str(cell) for cell in row) for row in rows]

    def cut(self) -> int:
        """End our connections; returns how many there were."""
        return len(self.query(f"SELECT pg_terminate_backend(pid) {_OURS}"))

    def delete_item(self) -> None:
        """Lose the item."""
        self._client.delete_item(**self._key)

    def end_pause(self) -> None:
        """Let the pause after a failure be over, as if its time had passed."""
        with contextlib.suppress(self._client.exceptions.ClientError):  # there is no failure
            self._client.update_item(
                **self._key,
                UpdateExpression="SET failure.retry_at = :past",
                ExpressionAttributeValues={":past": {"N": "1"}},
            )

    def look(self) -> Facts:
        """All that is there."""
        facts = Facts()
        if self._is_there("effects"):
            self._look_at_effects(facts)
        if self._is_there("lambda_migrate.history"):
            rows = self.query("SELECT version::int, state FROM lambda_migrate.history ORDER BY 1")
            facts.history = [(version, state) for version, state in rows]
        facts.indexes = {str(name): bool(valid) for name, valid in self.query(_INDEXES)}
        self._look_at_item(facts)
        return facts

    def _is_there(self, table: str) -> bool:
        return bool(self.query(f"SELECT to_regclass('{table}') IS NOT NULL")[0][0])

    def _look_at_effects(self, facts: Facts) -> None:
        counted = self.query("SELECT version, count(*) FROM effects GROUP BY version ORDER BY 1")
        facts.effects = {int(version): int(count) for version, count in counted}
        facts.balance = int(self.query("SELECT balance FROM accounts")[0][0])
        facts.deeds = [
            (int(version), str(way), float(at)) for version, way, at in self.query(_DEEDS)
        ]

    def _look_at_item(self, facts: Facts) -> None:
        item = self._client.get_item(**self._key, ConsistentRead=True).get("Item", {})
        facts.owner = item.get("owner", {}).get("S")
        until = int(item.get("lease_until", {}).get("N", 0)) / 1000
        facts.lease_over_in = until - time.time() if facts.owner else 0.0


_INDEXES = """
    SELECT c.relname::text, i.indisvalid FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
    WHERE t.relname = 'orders' AND c.relname <> 'orders_pkey'"""

_DEEDS = """
    SELECT version, way, extract(epoch FROM pg_xact_commit_timestamp(xmin))
    FROM deeds ORDER BY pg_xact_commit_timestamp(xmin), id"""


def search(places: dict[str, str]) -> list[str]:
    """Where a secret stands, and which.

    Args:
        places: Name -> text.
    """
    return [
        f"{what} in {place}"
        for place, text in places.items()
        for what, secret in SECRETS.items()
        if secret in text
    ]
