"""What happens in one simulated deployment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

__all__ = ["AT_ONCE", "RAMP", "Scenario", "arrivals"]

AT_ONCE = "at once"
"""Every environment is granted at the same moment: several functions, or a test bed."""

RAMP = "ramp"
"""One function on Lambda: 1,000 environments at once, then 100 more a second. AWS documents a rate
of 1,000 in 10 s, refilled continuously and never saved up above 1,000."""

RAMP_BURST = 1_000
RAMP_RATE = 100.0

SHORT_MIGRATIONS = 9
"""The storm's deployment: ten pending migrations, nine of which take nearly nothing."""

SHORT_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Scenario:
    """One deployment. Times are seconds.

    Attributes:
        environments: How many start cold.
        migration: How long the one long migration takes.
        others: How long the pending migrations before it take.
        arrival: `AT_ONCE` or `RAMP`; not asked where ``replay`` says when.
        replay: When each environment reads first, as measured.
        start_spread: The slowest environment's process start, less the fastest one's.
        connect: From the lease to the first migration.
        read: Median time of one request, its way there and back.
        read_minimum: The fastest request; what is above it is distributed exponentially.
        stale_share: How many reads reach the replica that lags: one of three.
        stale_mean: By how much it lags on average, exponentially distributed.
        partition_read_units: What one partition serves in a second.
        partition_write_units: The same for writes.
        lease: Length of the lease.
        wait: How long an environment waits at most.
        skew: How far an environment's wall clock is off at most, to either side.
        holder_dies_after: The first holder is killed so long after it got the lease.
        freeing: From the last commit to the write that frees the lease.
        freeing_tries: How often that write is tried when it is turned away; the library tries
            for as long as its lease can be trusted.
        serving: From the answer that says "ready" to serving.
        stands_for: How many environments each simulated one stands for.
    """

    environments: int = 1_000
    migration: float = 3.0
    others: tuple[float, ...] = (SHORT_SECONDS,) * SHORT_MIGRATIONS
    arrival: str = AT_ONCE
    replay: tuple[float, ...] = field(default=(), repr=False)
    start_spread: float = 0.3
    connect: float = 0.1
    read: float = 0.006
    read_minimum: float = 0.003
    stale_share: float = 1 / 3
    stale_mean: float = 0.02
    partition_read_units: float = 3_000.0
    partition_write_units: float = 1_000.0
    lease: float = 20.0
    wait: float = 890.0
    skew: float = 0.0
    holder_dies_after: float | None = None
    freeing: float = 0.0
    freeing_tries: int = 99
    serving: float = 0.0
    stands_for: int = 1

    @property
    def simulated(self) -> int:
        """How many environments are simulated."""
        return max(1, self.environments // self.stands_for)


def arrivals(scenario: Scenario, random: Random) -> list[float]:
    """When each simulated environment reads for the first time, in order."""
    if scenario.replay:
        return sorted(scenario.replay)
    spread = scenario.start_spread
    return sorted(
        _granted(scenario, number * scenario.stands_for) + spread * random.random()
        for number in range(scenario.simulated)
    )


def _granted(scenario: Scenario, number: int) -> float:
    if scenario.arrival == AT_ONCE:
        return 0.0
    return max(0, number - RAMP_BURST) / RAMP_RATE
