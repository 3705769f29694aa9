"""What happens in one simulated deployment."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

__all__ = ["ALL_AT_ONCE", "RAMP", "Scenario", "make_start_times"]

ALL_AT_ONCE = "at once"
"""Every environment starts at the same moment: several functions, or a test."""

RAMP = "ramp"
"""One function on Lambda: 1,000 environments at once, then 100 more a second. AWS documents a rate
of 1,000 in 10 s, refilled continuously and never saved up above 1,000."""

RAMP_BURST = 1_000
RAMP_RATE = 100.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One deployment."""

    environments: int = 1_000  # cold starts
    migration_seconds: float = 3.0  # of the one long migration
    earlier_migrations: tuple[float, ...] = (0.01,) * 9  # seconds of those before it
    arrival: str = ALL_AT_ONCE
    start_times: tuple[float, ...] = field(default=(), repr=False)  # instead of `arrival`
    start_spread_seconds: float = 0.3  # between the fastest and the slowest process start
    connect_seconds: float = 0.1  # from the lease to the first migration
    read_seconds: float = 0.006  # median of a request, both ways
    min_read_seconds: float = 0.003  # what is above it is distributed exponentially
    stale_share: float = 1 / 3  # of reads that reach the replica that lags
    stale_seconds: float = 0.02  # by how much it lags, exponentially distributed
    partition_read_units: float = 3_000.0  # that one partition serves in a second
    partition_write_units: float = 1_000.0
    lease_seconds: float = 20.0
    wait_seconds: float = 890.0  # how long an environment waits at most
    clock_error_seconds: float = 0.0  # the largest error of a wall clock, in both directions
    holder_dies_after_seconds: float | None = None  # the first holder, after it got the lease
    release_tries: int = 99  # the library tries while its lease can be trusted
    represented: int = 1  # environments that each simulated one stands for


def make_start_times(scenario: Scenario, rng: Random) -> list[float]:
    """When each simulated environment reads for the first time, in order."""
    if scenario.start_times:
        return sorted(scenario.start_times)
    times = []
    for number in range(max(1, scenario.environments // scenario.represented)):
        is_ramp = scenario.arrival == RAMP
        beyond = max(0, number * scenario.represented - RAMP_BURST) if is_ramp else 0
        times.append(beyond / RAMP_RATE + scenario.start_spread_seconds * rng.random())
    return sorted(times)
