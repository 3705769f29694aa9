"""The storms: what is deployed, which cold starts come when, and what else happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["counting", "failing", "orders"]

_MAX_SEPARATE = 200


@dataclass(frozen=True, slots=True)
class Wave:
    """Some cold starts of one version."""

    version: int
    environments: int
    simultaneous: bool = True  # invoked at the same instant, once all have been loaded


@dataclass(frozen=True, slots=True)
class Scenario:
    """One storm.

    Attributes:
        name: Of its report.
        shape: The Locust shape that drives it.
        kind: What is deployed: ``counting`` (10 migrations, one of 3 s, and two more in version
            2), ``failing`` (the fifth of them fails), ``orders`` (the example, two versions).
        waves: Each begins when the one before has been answered.
        ready: A version that one environment has migrated to before the storm; 0: none.
        clients: How many use version 1 all the time, writing and reading.
        rollback: Whether version 2 is rolled back while the last wave starts.
        warm: Warm invocations after each cold one.
        engine: The DynamoDB API: dynalite is faster.
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
    engine: Literal["moto", "dynalite"] = "moto"
    processes: Literal["separate", "forked"] = "separate"
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


_WAVE = Wave(1, 1)
_RAMP = replace(_WAVE, simultaneous=False)
_FAILURE_PAUSE = {"LAMBDA_MIGRATE_FAILURE_PAUSE_SECONDS": "3"}

SCENARIOS = {
    "together": Scenario("together", "together", "counting", (_WAVE,)),
    "ramp": Scenario("ramp", "ramp", "counting", (_RAMP,)),
    "deployment": Scenario("deployment", "deployment", "orders", (Wave(2, 1),), ready=1, clients=6),
    "rollback": Scenario(
        "rollback", "rollback", "orders", (_WAVE,), ready=2, clients=6, rollback=True
    ),
    "failing": Scenario("failing", "trickle", "failing", (_RAMP,), settings=_FAILURE_PAUSE),
    "waves": Scenario("waves", "waves", "counting", (_WAVE, _WAVE, Wave(2, 1))),
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
    return replace(
        scenario,
        name=f"{name}-{n}",
        waves=tuple(waves),
        engine="dynalite",
        processes="separate" if n <= _MAX_SEPARATE else "forked",
    )
