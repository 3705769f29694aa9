"""What a deployment costs, by a formula; the simulation says how good the formula is.

Prices are those of us-east-1, on demand, without the free tier; docs/explanation/
cost-per-deployment.md names their sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from load.simulation.results import READ_DOLLARS, WRITE_DOLLARS
from load.simulation.table import CONSISTENT_UNITS, READ_UNITS

__all__ = [
    "Cost",
    "cost_of_cold_starts",
    "cost_of_deployment",
]

GB_SECOND_DOLLARS = 13.3334e-6
"""A function on arm64; x86_64 costs a quarter more."""

LOG_GB_DOLLARS = 0.5
"""Taken into CloudWatch Logs, standard class."""

LOG_BYTES = 800
"""The line and the metrics of one check; a test measures them."""

ACQUIRES_PER_ENVIRONMENT = 0.013
"""Of environments that start within 0.3 s, so many ask for the lease before they can read that it
is taken, as simulated."""

LEASE_SECONDS = 20.0
RENEWALS_PER_LEASE = 3
OTHER_WRITES = 3
"""The holder's bid, the one that announces its first migration, and the one that frees the
lease."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Dollars."""

    dynamodb: float  # reads and writes of the item
    waiting: float  # Lambda's price of the time in which environments wait
    logs: float  # one line and one record of metrics for each check

    @property
    def total(self) -> float:
        """All of it."""
        return self.dynamodb + self.waiting + self.logs


def reads_of_waiter(migration_seconds: float) -> float:
    """How often an environment reads that waits for all of a migration, on average.

    Three reads are there in any case: the first, one that shows the schema ready, and the one that
    confirms it. Until 3.3 s two more a second; then the pauses grow with the time waited, until
    they are 9 s long on average.
    """
    if migration_seconds <= 3.3:
        return 3 + 2 * migration_seconds
    if migration_seconds <= 60:
        return 9 + 7.2 * math.log(migration_seconds / 3.3)
    return 30 + (migration_seconds - 60) / 9


def read_units_of_waiter(migration_seconds: float) -> float:
    """Its read units: the first read and the last one are strongly consistent."""
    polls = reads_of_waiter(migration_seconds) - 2
    return 2 * CONSISTENT_UNITS + polls * READ_UNITS


def writes(environments: int, migration_seconds: float) -> float:
    """Write units: attempts to acquire the lease, renewals, and its end."""
    renewals = migration_seconds * RENEWALS_PER_LEASE / LEASE_SECONDS
    return ACQUIRES_PER_ENVIRONMENT * environments + renewals + OTHER_WRITES


def cost_of_deployment(
    environments: int, migration_seconds: float, *, memory_gb: float = 0.5
) -> Cost:
    """One deployment: all environments start at once, one migrates, the others wait for all of it.

    Args:
        environments: How many start.
        migration_seconds: How long everything pending takes.
        memory_gb: Of the function.
    """
    return Cost(
        dynamodb=environments * read_units_of_waiter(migration_seconds) * READ_DOLLARS
        + writes(environments, migration_seconds) * WRITE_DOLLARS,
        waiting=environments * migration_seconds * memory_gb * GB_SECOND_DOLLARS,
        logs=environments * LOG_BYTES * 1e-9 * LOG_GB_DOLLARS,
    )


def cost_of_cold_starts(cold_starts: int, *, seconds: float = 0.22, memory_gb: float = 0.5) -> Cost:
    """Cold starts that find the schema ready.

    Args:
        cold_starts: How many.
        seconds: What the check adds to each at 512 MB; docs/explanation/cost-per-deployment.md.
        memory_gb: Of the function.
    """
    return Cost(
        dynamodb=cold_starts * CONSISTENT_UNITS * READ_DOLLARS,
        waiting=cold_starts * seconds * memory_gb * GB_SECOND_DOLLARS,
        logs=cold_starts * LOG_BYTES * 1e-9 * LOG_GB_DOLLARS,
    )
