"""The lease table as environments meet it: throttled, stale, and used with clocks that differ.

The item and its conditions are `InMemoryLeaseTable`, which shares DynamoDB's contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from lambda_migrate.errors import LeaseStoreUnavailable
from lambda_migrate.lease.memory import InMemoryLeaseTable
from load.simulation.partition import CONSISTENT_UNITS, READ_UNITS, WRITE_UNITS, Partition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from simpy import Environment

    from lambda_migrate.lease.attempt import Progress
    from lambda_migrate.lease.record import DatabaseRecord, LeaseState
    from lambda_migrate.lease.store import Lease
    from load.simulation.scenario import Scenario

__all__ = ["EPOCH_MS", "LeaseTable", "SimulatedClock"]

EPOCH_MS = 1_700_000_000_000

T = TypeVar("T")


class SimulatedClock:
    """`Clock` of whichever environment is at work: simulated time, its own offset on the wall.

    Args:
        environment: Whose time it is.
    """

    def __init__(self, environment: Environment) -> None:
        self.skew_ms = 0
        self._environment = environment

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return float(self._environment.now)

    def wall_ms(self) -> int:
        """See `Clock.wall_ms`."""
        return EPOCH_MS + round(self._environment.now * 1000) + self.skew_ms

    def sleep(self, seconds: float) -> None:
        """Not used: SimPy processes wait for timeouts."""
        raise NotImplementedError(f"simulated time does not pass by sleeping {seconds} s")


class LeaseTable:
    """The item behind its partition, at the moment that a request arrives there.

    Every method may raise `LeaseStoreUnavailable`: the partition turned the request away.

    Args:
        environment: Time.
        scenario: Limits and staleness.
        random: Chance.
    """

    def __init__(self, environment: Environment, scenario: Scenario, random: Random) -> None:
        self.clock = SimulatedClock(environment)
        self.partition = Partition(
            scenario.partition_read_units / scenario.environments_represented,
            scenario.partition_write_units / scenario.environments_represented,
        )
        self._environment = environment
        self._item = InMemoryLeaseTable(lease_seconds=scenario.lease, clock=self.clock)
        self._holder_units = (
            WRITE_UNITS / scenario.environments_represented
        )  # a holder stands for itself alone
        self._versions = [(-1.0, self._item.state)]
        self._stale_share = scenario.stale_share
        self._stale_rate = 1 / scenario.stale_mean if scenario.stale_mean else 0.0
        self._random = random

    def read(self, *, consistent: bool) -> LeaseState:
        """What a read shows: the newest, or, if it is eventually consistent, perhaps the past."""
        now = self._environment.now
        if not self.partition.serves_read(now, CONSISTENT_UNITS if consistent else READ_UNITS):
            raise LeaseStoreUnavailable("throttled")
        newest = self._versions[-1]
        is_newest = consistent or not self._stale_rate
        if is_newest or self._random.random() >= self._stale_share:
            return newest[1]
        shown = now - self._random.expovariate(self._stale_rate)
        return next(state for at, state in reversed(self._versions) if at <= shown or at < 0)

    def acquire(
        self, owner: str, skew_ms: int, *, expected: LeaseState, is_expired: bool
    ) -> Lease | LeaseState:
        """Try to take the lease, by the caller's wall clock."""
        self._admit(WRITE_UNITS)
        return self._write(
            lambda: self._item.acquire(owner, expected=expected, is_expired=is_expired), skew_ms
        )

    def renew(self, lease: Lease, skew_ms: int, progress: Progress | None) -> Lease:
        """Renew it and publish progress."""
        self._admit(self._holder_units)
        return self._write(lambda: self._item.renew(lease, progress), skew_ms)

    def store_completion(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> None:
        """Mark the schema ready, and free the lease."""
        self._admit(self._holder_units)
        self._write(lambda: self._item.store_completion(lease, databases), 0)

    def _admit(self, units: float) -> None:
        if not self.partition.serves_write(self._environment.now, units):
            raise LeaseStoreUnavailable("throttled")

    def _write(self, write: Callable[[], T], skew_ms: int) -> T:
        self.clock.skew_ms = skew_ms
        answer = write()
        if self._item.state is not self._versions[-1][1]:
            self._versions.append((self._environment.now, self._item.state))
        return answer
