"""What the storms deploy, what their clients send, and how effects are counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


MIGRATION_COUNTS = {1: 10, 2: 12}
"""How many migrations each version of `CountingPackage` has."""

SLOW_VERSION = 6
FAILING_VERSION = 5

HANDLER = """\
from lambda_migrate import migrate_on_cold_start


@migrate_on_cold_start
def handler(event, context):
    return {"served": True}
"""

_FIRST_MIGRATION = """\
-- migrate:up
CREATE TABLE effects (version int NOT NULL);
-- A sequence is not transactional: it counts attempts, those that failed included.
CREATE SEQUENCE attempts;
INSERT INTO effects VALUES (1);
"""

_EFFECTS = "SELECT version, count(*) FROM effects GROUP BY version"
_ATTEMPTS = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM attempts"


@dataclass(frozen=True, slots=True)
class CountingPackage:
    """Migrations whose effects are rows that can be counted; a handler that does nothing."""

    fails: bool = False  # one of the migrations
    repeated_version: int = 0  # takes effect twice, to show that it is noticed
    handler: str = HANDLER
    database: str = "storm"

    def deploy(self, version: int, home: Path) -> Path:
        """Write the code of ``version`` below ``home``; return where it is."""
        code = home / f"version-{version}"
        (code / "migrations").mkdir(parents=True)
        (code / "app.py").write_text(self.handler)
        for number in range(1, MIGRATION_COUNTS[version] + 1):
            path = code / "migrations" / f"{_name_of(number)}.sql"
            path.write_text(_FIRST_MIGRATION if number == 1 else self._migration(number))
        return code

    def event(self, kind: str, subject: int) -> Any:
        """The event of a ``cold``, ``warm``, ``write`` or ``read`` invocation."""
        return {"kind": kind, "subject": subject}

    def effects(self, server: LocalPostgreSQL, version: int) -> dict[str, int]:
        """How often each migration of ``version`` took effect, counted in the database."""
        last = FAILING_VERSION - 1 if self.fails else MIGRATION_COUNTS[version]
        counted = dict(server.execute(_EFFECTS, database=self.database))
        return {_name_of(number): int(counted.get(number, 0)) for number in range(1, last + 1)}

    def rollback_effects(self, _server: LocalPostgreSQL) -> dict[str, int]:
        """None: it has no down scripts."""
        return {}

    def attempts(self, server: LocalPostgreSQL) -> int | None:
        """How often the failing migration was tried; None if none fails."""
        if not self.fails:
            return None
        return int(server.execute(_ATTEMPTS, database=self.database)[0][0])

    def _migration(self, number: int) -> str:
        body = "SELECT pg_sleep(3);\n" if number == SLOW_VERSION else ""
        if self.fails and number == FAILING_VERSION:
            body = "SELECT nextval('attempts');\nALTER TABLE missing ADD COLUMN colour text;\n"
        again = f", ({number})" if number == self.repeated_version else ""
        return f"-- migrate:up\n{body}INSERT INTO effects VALUES ({number}){again};\n"  # noqa: S608 - numbers only


@dataclass(frozen=True, slots=True)
class Orders:
    """The example, whose handler writes and reads the migrated tables."""

    example: Example
    database: str = "orders"

    def deploy(self, version: int, home: Path) -> Path:
        """See `CountingPackage.deploy`."""
        return self.example.deploy(version, home)

    def event(self, kind: str, subject: int) -> Any:
        """See `CountingPackage.event`."""
        return get_order(subject) if kind == "read" else place_order(subject)

    def effects(self, server: LocalPostgreSQL, version: int) -> dict[str, int]:
        """See `CountingPackage.effects`."""
        return self.example.count_effects(server, through_version=VERSIONS[version])

    def rollback_effects(self, server: LocalPostgreSQL) -> dict[str, int]:
        """How often each down script of version 2 took effect."""
        return self.example.count_rollbacks(server)

    def attempts(self, _server: LocalPostgreSQL) -> None:
        """None of its migrations fails."""


Package = CountingPackage | Orders


def _name_of(number: int) -> str:
    return f"{number:04d}_{'slow' if number == SLOW_VERSION else 'effect'}"


def package_of(kind: Kind) -> Package:
    """The package of a scenario."""
    if kind == "orders":
        return Orders(find_example())
    return CountingPackage(fails=kind == "failing")
