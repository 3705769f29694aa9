"""The example function: its two versions, its requests, and the effects of its migrations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from lambda_migrate.local.runtime.environment import InvocationResult
    from lambda_migrate.local.servers.postgresql import LocalPostgreSQL

__all__ = [
    "APPLICATION",
    "DATABASE",
    "EXAMPLES",
    "TABLE",
    "VERSIONS",
    "Example",
    "find_example",
    "get_order",
    "place_order",
    "read_order_id",
]

APPLICATION = "orders"
"""The name, target and ``application_name`` of the example."""

DATABASE = "orders"
TABLE = "lambda-migrate"

EXAMPLES = {"sql": "orders", "alembic": "fastapi-alembic"}
"""The folder of each example below ``examples``, by the source of its migrations. Their requests
and migrations are the same."""

VERSIONS = {1: 4, 2: 7}
"""The last migration of each version of the example."""

_EFFECT_QUERIES = {
    1: "SELECT count(*) FROM changelog WHERE what = '0001: customers'",
    2: "SELECT count(*) FROM changelog WHERE what = '0002: orders'",
    3: "SELECT credit_cents / 500 FROM customers WHERE email = 'guest@example.com'",
    4: "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('orders_by_customer')",
    5: "SELECT count(*) FROM changelog WHERE what = '0005: totals and points'",
    6: "SELECT points FROM customers WHERE email = 'guest@example.com'",
    7: "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('placed_orders')",
}
"""Count how often each migration took effect: 3 and 6 add to a value, 1, 2 and 5 insert a row each
time, 4 and 7 create an index."""

_ROLLBACK_QUERIES = {
    5: "SELECT count(*) FROM changelog WHERE what = '0005: rolled back'",
    6: "SELECT count(*) FROM changelog WHERE what = '0006: rolled back'",
    7: "SELECT (to_regclass('placed_orders') IS NULL)::int",
}

_UNDEFINED = {"42P01", "42703"}  # undefined_table, undefined_column


@dataclass(frozen=True, slots=True)
class Example:
    """The example.

    Attributes:
        directory: The folder of ``app.py`` and ``migrations``.
        source: Where its migrations come from: a key of `EXAMPLES`.
    """

    directory: Path
    source: str = "sql"

    def deploy(self, version: int, home: Path) -> Path:
        """Copy the code with the migrations of ``version`` into ``home`` and return its folder."""
        code = home / f"version-{version}"
        shutil.copytree(
            self.directory, code, ignore=shutil.ignore_patterns("tests", "__pycache__", "*.md")
        )
        for path in self._list_migrations(code):
            if _number(path) > VERSIONS[version]:
                path.unlink()
        return code

    def _list_migrations(self, code: Path) -> list[Path]:
        return sorted((code / "migrations").rglob("[0-9]*_*.*"))

    def names(self) -> dict[int, str]:
        """The names of its migrations by version."""
        return {_number(path): path.stem for path in self._list_migrations(self.directory)}

    def count_effects(self, server: LocalPostgreSQL, *, through_version: int) -> dict[str, int]:
        """Count in the database how often each migration up to ``through_version`` took effect."""
        return dict(self._count_all(server, _EFFECT_QUERIES, through_version=through_version))

    def count_rollbacks(self, server: LocalPostgreSQL) -> dict[str, int]:
        """Count in the database how often each migration of version 2 was rolled back."""
        return dict(self._count_all(server, _ROLLBACK_QUERIES, through_version=VERSIONS[2]))

    def _count_all(
        self, server: LocalPostgreSQL, queries: Mapping[int, str], *, through_version: int
    ) -> Iterator[tuple[str, int]]:
        names = self.names()
        for version, query in queries.items():
            if version <= through_version and version in names:
                yield names[version], _count(server, query)


def find_example(source: str = "sql") -> Example:
    """The example of this checkout.

    Raises:
        ConfigurationError: This is not a checkout, or there is no such example.
    """
    if source not in EXAMPLES:
        raise ConfigurationError(f"--app {source}: write {' or '.join(EXAMPLES)}")
    directory = Path(__file__).parents[3] / "examples" / EXAMPLES[source]
    if not (directory / "app.py").is_file():
        raise ConfigurationError(
            f"the demo runs the example function examples/{EXAMPLES[source]}, which is not in an "
            "installed package: clone the repository and run `make demo`"
        )
    return Example(directory, source)


def place_order(number: int = 0) -> dict[str, Any]:
    """The event of API Gateway for ``POST /orders``."""
    body = {"email": f"customer{number}@example.com", "item": "tea", "unit_cents": 450}
    return _event("POST", "/orders", json.dumps(body))


def get_order(order_id: int) -> dict[str, Any]:
    """The event of API Gateway for ``GET /orders/<order_id>``."""
    return _event("GET", f"/orders/{order_id}")


def read_order_id(result: InvocationResult) -> int:
    """Read the order's id from a response of the API."""
    return int(json.loads(result.payload["body"])["order_id"])


def _event(method: str, path: str, body: str = "") -> dict[str, Any]:
    """An event of an HTTP API, payload format 2.0."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json"},
        "requestContext": {
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": "demo",
            },
            "requestId": "demo",
            "stage": "$default",
        },
        "body": body,
        "isBase64Encoded": False,
    }


def _number(path: Path) -> int:
    return int(path.name.partition("_")[0])


def _count(server: LocalPostgreSQL, query: str) -> int:
    """The count of ``query``; 0 if the table or column does not exist."""
    from pg8000.exceptions import DatabaseError

    try:
        rows = server.execute(query, database=DATABASE)
    except DatabaseError as error:
        fields = error.args[0]
        if isinstance(fields, dict) and fields.get("C") in _UNDEFINED:
            return 0
        raise
    return int(rows[0][0]) if rows else 0
