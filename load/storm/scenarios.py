"""Which storms there are: what is deployed, who comes when, and what is to come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["SCENARIOS", "STANDARD", "Engine", "Kind", "Processes", "Scenario", "Wave", "make"]

Kind = Literal["counting", "failing", "orders"]
Engine = Literal["moto", "dynalite", "dynamodb-local"]
Processes = Literal["separate", "forked"]


@dataclass(frozen=True, slots=True)
class Wave:
    """Some cold starts of one version.

    Attributes:
        version: Of what is deployed.
        environments: How many.
        together: Whether they are invoked at the same instant, once all have been loaded.
    """

    version: int
    environments: int
    together: bool = True


@dataclass(frozen=True, slots=True)
class Scenario:
    """One storm.

    Attributes:
        name: Of its report.
        shape: The Locust shape that drives it.
        kind: What is deployed: ``counting`` (10 migrations, one of 3 s, and two more in version
            2), ``failing`` (the fifth of them fails), ``orders`` (the example with its two
            versions).
        waves: Each begins when the one before has been answered.
        ready: A version that one environment has migrated to before the storm; 0: none.
        clients: So many use version 1 all the time, writing and reading.
        rollback: Whether version 2 is taken back while the last wave starts.
        warm: Warm invocations after each cold one.
        engine: The DynamoDB API.
        processes: ``separate`` interpreters, or ``forked`` from a warm one.
        settings: Of the library, above those of every storm.
    """

    name: str
    shape: str
    kind: Kind
    waves: tuple[Wave, ...]
    ready: int = 0
    clients: int = 0
    rollback: bool = False
    warm: int = 1
    engine: Engine = "moto"
    processes: Processes = "separate"
    settings: Mapping[str, str] | None = None

    @property
    def environments(self) -> int:
        """All cold starts of the storm itself."""
        return sum(wave.environments for wave in self.waves)

    @property
    def versions(self) -> tuple[int, ...]:
        """What has to be deployed, in order."""
        wanted = {wave.version for wave in self.waves} | ({self.ready} - {0})
        return tuple(sorted(wanted | ({1} if self.clients else set())))

    @property
    def last_version(self) -> int:
        """The highest that is deployed."""
        return self.versions[-1]


def _together(n: int) -> Scenario:
    return Scenario("together", "together", "counting", (Wave(1, n),))


def _ramp(n: int) -> Scenario:
    return Scenario("ramp", "ramp", "counting", (Wave(1, n, together=False),))


def _deployment(n: int) -> Scenario:
    return Scenario("deployment", "deployment", "orders", (Wave(2, n),), ready=1, clients=6)


def _rollback(n: int) -> Scenario:
    waves = (Wave(1, n),)
    return Scenario("rollback", "rollback", "orders", waves, ready=2, clients=6, rollback=True)


def _failing(n: int) -> Scenario:
    settings = {"LAMBDA_MIGRATE_FAILURE_PAUSE_SECONDS": "3"}
    waves = (Wave(1, n, together=False),)
    return Scenario("failing", "trickle", "failing", waves, settings=settings)


def _waves(n: int) -> Scenario:
    first, second = n // 3, n // 3
    waves = (Wave(1, first), Wave(1, second), Wave(2, n - first - second))
    return Scenario("waves", "waves", "counting", waves)


_MADE_BY = {
    "together": _together,
    "ramp": _ramp,
    "deployment": _deployment,
    "rollback": _rollback,
    "failing": _failing,
    "waves": _waves,
}
SCENARIOS = tuple(_MADE_BY)

STANDARD: tuple[tuple[str, int, Engine, Processes], ...] = (
    ("together", 100, "moto", "separate"),
    ("ramp", 200, "dynalite", "separate"),
    ("together", 1000, "dynalite", "forked"),
    ("ramp", 1000, "dynalite", "forked"),
    ("deployment", 40, "moto", "separate"),
    ("rollback", 40, "moto", "separate"),
    ("failing", 60, "dynalite", "forked"),
    ("waves", 150, "dynalite", "forked"),
)
"""What `make storm` runs."""


def make(name: str, n: int, *, engine: Engine, processes: Processes) -> Scenario:
    """A scenario by name, for ``n`` environments."""
    made = _MADE_BY[name](n)
    return replace(made, name=f"{name}-{n}-{processes}", engine=engine, processes=processes)
