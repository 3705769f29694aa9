"""The storms: what is deployed, which cold starts come when, and what else happens.

A package is what a storm deploys, what its clients send, and how its effects are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lambda_migrate.local.demo.example import (
    VERSIONS,
    Example,
    find_example,
    get_order,
    place_order,
)
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.bench.tools import (
    LAMBDA_MIGRATE_ALEMBIC,
    LAMBDA_MIGRATE_DJANGO,
    LONG_MIGRATION_SECONDS,
    TOOLS_BY_SOURCE,
    VERSION_TABLES,
    MigrationSource,
    write_project,
)

ScenarioKind = Literal["counting", "failing", "alembic", "django", "orders"]
"""What is deployed: 10 migrations, one of 3 s, and two more in version 2; the same, of which the
fifth fails; the same 10 for another tool; or the example, in two versions."""


@dataclass(frozen=True, slots=True)
class Wave:
    """Some cold starts of one version."""

    version: int
    environments: int
    simultaneous: bool = True  # invoked at the same instant, once all have been loaded


@dataclass(frozen=True, slots=True)
class Scenario:
    """One storm."""

    shape: str  # the Locust shape that drives it
    kind: ScenarioKind
    waves: tuple[Wave, ...]  # each begins when all of the one before has been answered
    ready: int = 0  # a version that one environment has migrated to before; 0: none
    clients: int = 0  # that use version 1 all the time, writing and reading
    rollback: bool = False  # version 2 is rolled back while the last wave starts
    kills: bool = False  # the first holder, and its child, in the middle of the slow migration
    warm: int = 1  # warm invocations after each cold one
    settings: Mapping[str, str] | None = None  # of the library, above those of every storm
    name: str = ""  # of its report

    @property
    def environments(self) -> int:
        """All cold starts of the storm itself."""
        return sum(wave.environments for wave in self.waves)

    @property
    def versions(self) -> tuple[int, ...]:
        """What has to be deployed, in order."""
        wanted = {wave.version for wave in self.waves} | ({self.ready} - {0})
        return tuple(sorted(wanted | ({1} if self.clients else set())))


_WAVE = Wave(1, 1)
_RAMP = replace(_WAVE, simultaneous=False)
_FAILURE_PAUSE_SETTINGS = {"LAMBDA_MIGRATE_FAILURE_PAUSE_SECONDS": "3"}
_TOGETHER = Scenario("together", "counting", (_WAVE,))
_ALEMBIC = replace(_TOGETHER, kind="alembic", settings=LAMBDA_MIGRATE_ALEMBIC.variables)
_DJANGO = replace(_TOGETHER, kind="django", settings=LAMBDA_MIGRATE_DJANGO.variables)

SCENARIOS = {
    "together": _TOGETHER,
    "ramp": Scenario("ramp", "counting", (_RAMP,)),
    "deployment": Scenario("together", "orders", (Wave(2, 1),), ready=1, clients=6),
    "rollback": Scenario("together", "orders", (_WAVE,), ready=2, clients=6, rollback=True),
    "failing": Scenario("trickle", "failing", (_RAMP,), settings=_FAILURE_PAUSE_SETTINGS),
    "waves": replace(_TOGETHER, waves=(_WAVE, _WAVE, Wave(2, 1))),
    "alembic": _ALEMBIC,
    "alembic-killed": replace(_ALEMBIC, kills=True),
    "django": _DJANGO,
    "django-killed": replace(_DJANGO, kills=True),
}
"""Of one environment in each wave; `make_scenario` gives them their size."""

STANDARD_SET = (
    *(("together", 100), ("ramp", 200), ("together", 1000), ("ramp", 1000)),
    *(("deployment", 40), ("rollback", 40), ("failing", 60), ("waves", 150)),
    *(("alembic", 1000), ("alembic-killed", 300), ("django", 1000), ("django-killed", 300)),
)
"""What `make storm` runs."""


def make_scenario(name: str, environments: int) -> Scenario:
    """A scenario by name, with ``environments`` in equal waves; the last one has the rest."""
    scenario = SCENARIOS[name]
    *first, last = scenario.waves
    each = environments // len(scenario.waves)
    waves = [replace(wave, environments=each) for wave in first]
    waves.append(replace(last, environments=environments - each * len(first)))
    return replace(scenario, name=f"{name}-{environments}", waves=tuple(waves))


MIGRATION_COUNTS = {1: 10, 2: 12}  # of each version of `CountingPackage`
SLOW_VERSION = 6
FAILING_VERSION = 5

HANDLER_CODE = """
import sys

from lambda_migrate import migrate_on_cold_start


@migrate_on_cold_start
def handler(event, context):
    return {"imported": sorted({"alembic", "django", "sqlalchemy"} & set(sys.modules))}
"""

TOOL_PROCESS_MARKER = "a tool runs in process"
# In what every process that runs the tool has to load.
_REPORT_PROCESS_CODE = f"import os\nprint({TOOL_PROCESS_MARKER!r}, os.getpid())\n"
_ATTEMPTS_SQL = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM attempts"


@dataclass(frozen=True, slots=True)
class CountingPackage:
    """Migrations whose effects are rows that can be counted; a handler that does nothing."""

    source: str = "sql"  # or the tool that its migrations are written for
    is_failing: bool = False  # one of the migrations
    handler: str = HANDLER_CODE
    slow_seconds: float = LONG_MIGRATION_SECONDS
    database: str = "storm"

    def deploy(self, version: int, home: Path) -> Path:
        """Write the code of ``version`` below ``home``; return where it is."""
        code = home / f"version-{version}"
        numbers = range(1, MIGRATION_COUNTS[version] + 1)
        files = dict(
            TOOLS_BY_SOURCE[self.source].files([self._make_migration(number) for number in numbers])
        )
        for path in files.keys() & {"alembic/env.py", "settings.py"}:
            files[path] = _REPORT_PROCESS_CODE + files[path]
        write_project(code, files | {"app.py": self.handler})
        return code

    def make_event(self, kind: str, subject: int) -> Any:
        """The event of a ``cold``, ``warm``, ``write`` or ``read`` invocation."""
        return {"kind": kind, "subject": subject}

    def count_effects(self, server: LocalPostgreSQL, version: int) -> dict[str, int]:
        """How often each migration of ``version`` took effect, counted in the database."""
        return self._count_rows(server, "effects", "name", self._list_names(version))

    def count_records(self, server: LocalPostgreSQL, version: int) -> dict[str, int]:
        """How often each is recorded, in the version table and, of another tool, in the mirror."""
        table, column = VERSION_TABLES[self.source]
        app = "shop." if self.source == "django" else ""
        ids = [app + name for name in self._list_names(version)]
        heads = ids[-1:] if self.source == "alembic" else ids  # all that its table has
        counts = {table: self._count_rows(server, table, column, heads)}
        if self.source != "sql":
            applied = "lambda_migrate.revision WHERE state = 'applied'"
            counts["the mirror"] = self._count_rows(server, applied, "id", ids)
        return {f"{one} in {at}": n for at, each in counts.items() for one, n in each.items()}

    def _list_names(self, version: int) -> list[str]:
        last = FAILING_VERSION - 1 if self.is_failing else MIGRATION_COUNTS[version]
        return [self._make_migration(number).stem for number in range(1, last + 1)]

    def _count_rows(
        self, server: LocalPostgreSQL, table: str, column: str, names: Sequence[str]
    ) -> dict[str, int]:
        rows = server.execute(f"SELECT {column} FROM {table}", database=self.database)  # noqa: S608 - our own names
        found = Counter(name for [name] in rows)
        return {name: found[name] for name in names}

    def count_attempts(self, server: LocalPostgreSQL) -> int | None:
        """How often the failing migration was tried; None if none fails."""
        return int(server.execute(_ATTEMPTS_SQL, self.database)[0][0]) if self.is_failing else None

    def _make_migration(self, number: int) -> MigrationSource:
        source = MigrationSource(number, "slow" if number == SLOW_VERSION else "effect", ())
        effect = f"INSERT INTO effects VALUES ('{source.stem}')"  # noqa: S608 - our own names
        statements = [effect]
        if number == 1:
            # A sequence is not transactional: it counts attempts, those that failed included.
            create = ("CREATE TABLE effects (name text NOT NULL)", "CREATE SEQUENCE attempts")
            statements[:0] = create
        if number == SLOW_VERSION:
            statements.insert(0, f"SELECT pg_sleep({self.slow_seconds})")
        if self.is_failing and number == FAILING_VERSION:
            statements[:0] = ("SELECT nextval('attempts')", "ALTER TABLE missing ADD COLUMN a text")
        return source._replace(statements=tuple(statements))


@dataclass(frozen=True, slots=True)
class OrdersPackage:
    """The example, whose handler writes and reads the migrated tables."""

    example: Example
    database: str = "orders"
    source: str = "sql"

    def deploy(self, version: int, home: Path) -> Path:
        """See `CountingPackage.deploy`."""
        return self.example.deploy(version, home)

    def make_event(self, kind: str, subject: int) -> Any:
        """See `CountingPackage.make_event`."""
        return get_order(subject) if kind == "read" else place_order(subject)

    def count_effects(self, server: LocalPostgreSQL, version: int) -> dict[str, int]:
        """See `CountingPackage.count_effects`."""
        return self.example.count_effects(server, through_version=VERSIONS[version])

    def count_rollbacks(self, server: LocalPostgreSQL) -> dict[str, int]:
        """How often each down script of version 2 took effect."""
        return self.example.count_rollbacks(server)


Package = CountingPackage | OrdersPackage


def make_package(kind: ScenarioKind) -> Package:
    """The package of a scenario."""
    if kind == "orders":
        return OrdersPackage(find_example())
    return CountingPackage(kind if kind in TOOLS_BY_SOURCE else "sql", is_failing=kind == "failing")
