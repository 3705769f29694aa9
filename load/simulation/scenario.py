"""What happens in one simulated deployment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

__all__ = ["AT_ONCE", "RAMP", "Scenario", "arrivals"]

AT_ONCE = "at once"
"""Every environment starts at the same moment: several functions, or a test."""

RAMP = "ramp"
"""One function on Lambda: 1,000 environments at once, then 100 more a second. AWS documents a rate
of 1,000 in 10 s, refilled continuously and never saved up above 1,000."""

RAMP_BURST = 1_000
RAMP_RATE = 100.0

_SHORT_MIGRATIONS = (0.01,) * 9
"""The storms' deployment: ten pending migrations, nine of which take nearly no time."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One deployment. Times are seconds."""

    environments: int = 1_000  # cold starts
    migration: float = 3.0  # duration of the one long migration
    others: tuple[float, ...] = _SHORT_MIGRATIONS  # durations of those before it
    arrival: str = AT_ONCE
    replay: tuple[float, ...] = field(default=(), repr=False)  # first reads, as measured
    start_spread: float = 0.3  # process start of the slowest environment, less the fastest's
    connect: float = 0.1  # from the lease to the first migration
    read: float = 0.006  # median of a request, both ways
    read_minimum: float = 0.003  # what is above it is distributed exponentially
    stale_share: float = 1 / 3  # of reads that reach the replica that lags
    stale_mean: float = 0.02  # by how much it lags, exponentially distributed
    partition_read_units: float = 3_000.0  # that one partition serves in a second
    partition_write_units: float = 1_000.0
    lease: float = 20.0
    wait: float = 890.0  # how long an environment waits at most
    skew: float = 0.0  # the largest error of a wall clock, in both directions
    holder_dies_after: float | None = None  # the first holder, after it got the lease
    freeing: float = 0.0  # from the last commit to the write that frees the lease
    freeing_tries: int = 99  # of that write; the library tries while its lease can be trusted
    serving: float = 0.0  # from the read that shows "ready" to serving
    environments_represented: int = 1  # environments that each simulated one stands for

    @property
    def simulated(self) -> int:
        """How many environments are simulated."""
        return max(1, self.environments // self.environments_represented)


def arrivals(scenario: Scenario, random: Random) -> list[float]:
    """When each simulated environment reads for the first time, in order."""
    if scenario.replay:
        return sorted(scenario.replay)
    spread = scenario.start_spread
    return sorted(
        _start_time(scenario, number * scenario.environments_represented) + spread * random.random()
        for number in range(scenario.simulated)
    )


def _start_time(scenario: Scenario, number: int) -> float:
    if scenario.arrival == AT_ONCE:
        return 0.0
    return max(0, number - RAMP_BURST) / RAMP_RATE
