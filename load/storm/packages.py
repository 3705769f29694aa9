"""What the storms deploy, what their clients send, and how effects are counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lambda_migrate.local.demo.example import (
    VERSIONS,
    Example,
    find_example,
    get_order,
    place_order,
)

if TYPE_CHECKING:
    from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
    from load.storm.scenarios import Kind

__all__ = ["HANDLER", "CountingPackage", "Orders", "Package", "package_of"]

PENDING = {1: 10, 2: 12}
"""How many migrations each version of `CountingPackage` has."""

SLOW = 6
SLOW_SECONDS = 3
FAILING = 5

HANDLER = """\
from lambda_migrate import migrate_on_cold_start


@migrate_on_cold_start
def handler(event, context):
    return {"served": True}
"""

_FIRST = """\
-- migrate:up
CREATE TABLE effects (version int NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
-- A sequence is not transactional: it counts attempts, those that failed included.
CREATE SEQUENCE attempts;
INSERT INTO effects VALUES (1);
-- migrate:down
DROP SEQUENCE attempts;
DROP TABLE effects;
"""

_EFFECTS = "SELECT version, count(*) FROM effects GROUP BY version"
_ATTEMPTS = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM attempts"


class Package(Protocol):
    """Something to deploy."""

    @property
    def database(self) -> str:
        """The name of its database."""

    def deploy(self, version: int, home: Path) -> Path:
        """Write the code of ``version`` below ``home``; return where it is."""

    def event(self, kind: str, subject: int) -> Any:
        """The event of a ``cold``, ``warm``, ``write`` or ``read`` invocation."""

    def effects(self, server: LocalPostgreSQL, version: int) -> dict[str, int]:
        """How often each migration of ``version`` took effect, counted in the database."""

    def rollback_effects(self, server: LocalPostgreSQL) -> dict[str, int]:
        """How often each down script of version 2 took effect."""

    def attempts(self, server: LocalPostgreSQL) -> int | None:
        """How often the failing migration was tried; None if none fails."""


@dataclass(frozen=True, slots=True)
class CountingPackage:
    """Migrations whose effects are rows that can be counted; a handler that does nothing."""

    fails: bool = False  # one of the migrations
    double: int = 0  # a migration that takes effect twice, to show that it is noticed
    handler: str = HANDLER
    database: str = "storm"

    def deploy(self, version: int, home: Path) -> Path:
        """See `Package.deploy`."""
        code = home / f"version-{version}"
        (code / "migrations").mkdir(parents=True)
        (code / "app.py").write_text(self.handler)
        for number in range(1, PENDING[version] + 1):
            path = code / "migrations" / f"{_name(number)}.sql"
            path.write_text(_FIRST if number == 1 else self._migration(number))
        return code

    def event(self, kind: str, subject: int) -> Any:
        """See `Package.event`."""
        return {"kind": kind, "subject": subject}

    def effects(self, server: LocalPostgreSQL, version: int) -> dict[str, int]:
        """See `Package.effects`."""
        wanted = range(1, FAILING if self.fails else PENDING[version] + 1)
        counted = dict(server.execute(_EFFECTS, database=self.database))
        return {_name(number): int(counted.get(number, 0)) for number in wanted}

    def rollback_effects(self, server: LocalPostgreSQL) -> dict[str, int]:  # noqa: ARG002 - not counted
        """See `Package.rollback_effects`."""
        return {}

    def attempts(self, server: LocalPostgreSQL) -> int | None:
        """See `Package.attempts`."""
        if not self.fails:
            return None
        return int(server.execute(_ATTEMPTS, database=self.database)[0][0])

    def _migration(self, number: int) -> str:
        body = f"SELECT pg_sleep({SLOW_SECONDS});\n" if number == SLOW else ""
        if self.fails and number == FAILING:
            body = "SELECT nextval('attempts');\nALTER TABLE missing ADD COLUMN colour text;\n"
        again = f", ({number})" if number == self.double else ""
        return (
            f"-- migrate:up\n{body}INSERT INTO effects (version) VALUES ({number}){again};\n"  # noqa: S608 - numbers only
            f"-- migrate:down\nDELETE FROM effects WHERE version = {number};\n"
        )


@dataclass(frozen=True, slots=True)
class Orders:
    """The example, whose handler writes and reads the migrated tables."""

    example: Example
    database: str = "orders"

    def deploy(self, version: int, home: Path) -> Path:
        """See `Package.deploy`."""
        return self.example.deploy(version, home)

    def event(self, kind: str, subject: int) -> Any:
        """See `Package.event`."""
        return get_order(subject) if kind == "read" else place_order(subject)

    def effects(self, server: LocalPostgreSQL, version: int) -> dict[str, int]:
        """See `Package.effects`."""
        return self.example.count_effects(server, through_version=VERSIONS[version])

    def rollback_effects(self, server: LocalPostgreSQL) -> dict[str, int]:
        """See `Package.rollback_effects`."""
        return self.example.count_rollbacks(server)

    def attempts(self, server: LocalPostgreSQL) -> int | None:  # noqa: ARG002 - none of it fails
        """See `Package.attempts`."""
        return None


def _name(number: int) -> str:
    return f"{number:04d}_{'slow' if number == SLOW else 'effect'}"


def package_of(kind: Kind) -> Package:
    """The package of a scenario."""
    packages: Mapping[str, Package] = {
        "counting": CountingPackage(),
        "failing": CountingPackage(fails=True),
    }
    return packages[kind] if kind in packages else Orders(find_example())
