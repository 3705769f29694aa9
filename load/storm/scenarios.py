"""The storms: what is deployed, which cold starts come when, and what else happens.

A package is what a storm deploys, what its clients send, and how its effects are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lambda_migrate.local.demo.example import (
    VERSIONS,
    Example,
    find_example,
    get_order,
    place_order,
)

if TYPE_CHECKING:
    from lambda_migrate.local.servers.postgresql import LocalPostgreSQL


Kind = Literal["counting", "failing", "orders"]
"""What is deployed: 10 migrations, one of 3 s, and two more in version 2; the same, of which the
fifth fails; or the example, in two versions."""


@dataclass(frozen=True, slots=True)
class Wave:
    """Some cold starts of one version."""

    version: int
    environments: int
    simultaneous: bool = True  # invoked at the same instant, once all have been loaded


@dataclass(frozen=True, slots=True)
class Scenario:
    """One storm."""

    name: str  # of its report
    shape: str  # the Locust shape that drives it
    kind: Kind
    waves: tuple[Wave, ...]  # each begins when all of the one before has been answered
    ready: int = 0  # a version that one environment has migrated to before; 0: none
    clients: int = 0  # that use version 1 all the time, writing and reading
    rollback: bool = False  # version 2 is rolled back while the last wave starts
    warm: int = 1  # warm invocations after each cold one
    settings: Mapping[str, str] | None = None  # of the library, above those of every storm

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
_FAILURE_PAUSE = {"LAMBDA_MIGRATE_FAILURE_PAUSE_SECONDS": "3"}

SCENARIOS = {
    "together": Scenario("together", "together", "counting", (_WAVE,)),
    "ramp": Scenario("ramp", "ramp", "counting", (_RAMP,)),
    "deployment": Scenario("deployment", "together", "orders", (Wave(2, 1),), ready=1, clients=6),
    "rollback": Scenario(
        "rollback", "together", "orders", (_WAVE,), ready=2, clients=6, rollback=True
    ),
    "failing": Scenario("failing", "trickle", "failing", (_RAMP,), settings=_FAILURE_PAUSE),
    "waves": Scenario("waves", "together", "counting", (_WAVE, _WAVE, Wave(2, 1))),
}
"""Of one environment in each wave; `make_scenario` gives them their size."""

STANDARD_SET = (
    *(("together", 100), ("ramp", 200), ("together", 1000), ("ramp", 1000)),
    *(("deployment", 40), ("rollback", 40), ("failing", 60), ("waves", 150)),
)
"""What `make storm` runs."""


def make_scenario(name: str, n: int) -> Scenario:
    """A scenario by name, with ``n`` environments in equal waves; the last one has the rest."""
    scenario = SCENARIOS[name]
    *first, last = scenario.waves
    each = n // len(scenario.waves)
    waves = [replace(wave, environments=each) for wave in first]
    waves.append(replace(last, environments=n - each * len(first)))
    return replace(scenario, name=f"{name}-{n}", waves=tuple(waves))


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
