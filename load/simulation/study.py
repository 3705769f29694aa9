"""Which deployments are compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from load.simulation.figures import Figures, figures_of
from load.simulation.model import simulate
from load.simulation.policies import LIBRARY, POLICY_FAMILIES, MakePolicy
from load.simulation.scenario import AT_ONCE, RAMP, Scenario

__all__ = [
    "DEFAULT",
    "LENGTHS",
    "POLICY_FAMILIES",
    "SIZES",
    "Point",
    "frontier",
    "standard",
    "troubles",
]

DEFAULT = "library"

LENGTHS = (0.1, 3.0, 60.0, 600.0)
SIZES = (100, 1_000, 10_000, 100_000)

SIMULATED = 1_000
"""How many environments are simulated at most; each stands for as many as necessary, and the
partition serves a share as small. Tests show that this changes nothing for one of them."""

SIMULATED_LONG = 200
"""The same for the families and migrations of a minute and more, where each reads often."""


@dataclass(frozen=True, slots=True)
class Point:
    """One policy in one scenario, and what came of it."""

    study: str
    policy: str  # the family's name, or DEFAULT
    parameter: float | None  # the family's number
    scenario: Scenario
    figures: Figures


def frontier(seed: int) -> Iterator[Point]:
    """Every family over its parameter: 1,000 starts and four lengths, 3 s and four sizes."""
    for length in LENGTHS:
        at_most = SIMULATED if length < 10 else SIMULATED_LONG
        yield from _families("length", _sized(Scenario(migration=length), at_most), seed)
    for size in SIZES:
        yield from _families("size", _sized(Scenario(environments=size)), seed)


def standard(seed: int) -> Iterator[Point]:
    """The library's default in every size, length and kind of arrival."""
    for arrival in (RAMP, AT_ONCE):
        for length in LENGTHS:
            for size in SIZES:
                scenario = _sized(Scenario(environments=size, migration=length, arrival=arrival))
                yield _point("default", DEFAULT, None, scenario, LIBRARY, seed)


_TROUBLES: dict[str, Scenario] = {
    "nothing goes wrong": Scenario(),
    "the holder is killed after 1 s": Scenario(holder_dies_after=1.0),
    "clocks differ by up to 0.5 s, it is killed": Scenario(holder_dies_after=1.0, skew=0.5),
    "clocks differ by up to 60 s, it is killed": Scenario(holder_dies_after=1.0, skew=60.0),
    "clocks differ by up to 60 s": Scenario(skew=60.0),
    "replicas lag 0.5 s": Scenario(stale_mean=0.5),
    "requests take 50 ms": Scenario(read=0.05, read_minimum=0.02),
    "the partition serves 100 read, 33 write units": Scenario(
        partition_read_units=100.0, partition_write_units=33.0
    ),
    "60 s, waiting ends after 25 s": Scenario(migration=60.0, wait=25.0),
    "10,000 at once": Scenario(environments=10_000),
    "10,000 at once, its end written once": Scenario(environments=10_000, freeing_tries=1),
    "100,000 at once": Scenario(environments=100_000),
    "100,000 at once, 600 s": Scenario(environments=100_000, migration=600.0),
}


def troubles(seed: int) -> Iterator[Point]:
    """The library's default when something goes wrong; the study's name says what."""
    for name, scenario in _TROUBLES.items():
        rounds = 4 if scenario.migration < 100 else 1
        yield _point(name, DEFAULT, None, _sized(scenario), LIBRARY, seed, rounds=rounds)


def _families(study: str, scenario: Scenario, seed: int) -> Iterator[Point]:
    yield _point(study, DEFAULT, None, scenario, LIBRARY, seed)
    for family in POLICY_FAMILIES:
        for number in family.values:
            yield _point(study, family.name, number, scenario, family.make(number), seed)


def _point(
    study: str,
    policy: str,
    parameter: float | None,
    scenario: Scenario,
    make_policy: MakePolicy,
    seed: int,
    *,
    rounds: int | None = None,
) -> Point:
    count = rounds or max(1, SIMULATED // scenario.simulated if scenario.migration < 10 else 1)
    runs = [simulate(scenario, make_policy, seed=seed + number) for number in range(count)]
    return Point(study, policy, parameter, scenario, figures_of(runs))


def _sized(scenario: Scenario, at_most: int | None = None) -> Scenario:
    return replace(
        scenario, environments_represented=max(1, scenario.environments // (at_most or SIMULATED))
    )
