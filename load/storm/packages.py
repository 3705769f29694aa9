"""What the storms deploy, what their clients send, and how effects are counted."""

from __future__ import annotations

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

MIGRATION_COUNTS = {1: 10, 2: 12}
"""How many migrations each version of `CountingPackage` has."""

SLOW_VERSION = 6
SLOW_SECONDS = 3
FAILING_VERSION = 5

HANDLER = """\
from lambda_migrate import migrate_on_cold_start


@migrate_on_cold_start
def handler(event, context):
    return {"served": True}
"""

_FIRST_MIGRATION = """\
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

    def rollback_effects(self, server: LocalPostgreSQL) -> dict[str, int]:  # noqa: ARG002 - not counted
        """How often each down script of version 2 took effect."""
        return {}

    def attempts(self, server: LocalPostgreSQL) -> int | None:  # noqa: ARG002 - none fails
        """How often the failing migration was tried; None if none fails."""
        return None


@dataclass(frozen=True, slots=True)
class CountingPackage(Package):
    """Migrations whose effects are rows that can be counted; a handler that does nothing."""

    fails: bool = False  # one of the migrations
    repeated_version: int = 0  # takes effect twice, to show that it is noticed
    handler: str = HANDLER
    database: str = "storm"

    def deploy(self, version: int, home: Path) -> Path:
        """See `Package.deploy`."""
        code = home / f"version-{version}"
        (code / "migrations").mkdir(parents=True)
        (code / "app.py").write_text(self.handler)
        for number in range(1, MIGRATION_COUNTS[version] + 1):
            path = code / "migrations" / f"{_name_of(number)}.sql"
            path.write_text(_FIRST_MIGRATION if number == 1 else self._migration(number))
        return code

    def event(self, kind: str, subject: int) -> Any:
        """See `Package.event`."""
        return {"kind": kind, "subject": subject}

    def effects(self, server: LocalPostgreSQL, version: int) -> dict[str, int]:
        """See `Package.effects`."""
        last = FAILING_VERSION - 1 if self.fails else MIGRATION_COUNTS[version]
        counted = dict(server.execute(_EFFECTS, database=self.database))
        return {_name_of(number): int(counted.get(number, 0)) for number in range(1, last + 1)}

    def attempts(self, server: LocalPostgreSQL) -> int | None:
        """See `Package.attempts`."""
        if not self.fails:
            return None
        return int(server.execute(_ATTEMPTS, database=self.database)[0][0])

    def _migration(self, number: int) -> str:
        body = f"SELECT pg_sleep({SLOW_SECONDS});\n" if number == SLOW_VERSION else ""
        if self.fails and number == FAILING_VERSION:
            body = "SELECT nextval('attempts');\nALTER TABLE missing ADD COLUMN colour text;\n"
        again = f", ({number})" if number == self.repeated_version else ""
        return (
            f"-- migrate:up\n{body}INSERT INTO effects (version) VALUES ({number}){again};\n"  # noqa: S608 - numbers only
            f"-- migrate:down\nDELETE FROM effects WHERE version = {number};\n"
        )


@dataclass(frozen=True, slots=True)
class Orders(Package):
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


def _name_of(number: int) -> str:
    return f"{number:04d}_{'slow' if number == SLOW_VERSION else 'effect'}"


def package_of(kind: Kind) -> Package:
    """The package of a scenario."""
    if kind == "orders":
        return Orders(find_example())
    return CountingPackage(fails=kind == "failing")
