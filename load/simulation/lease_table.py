"""The lease table as environments meet it: throttled, and read from replicas that lag.

The item and its conditions are `InMemoryLeaseStore`, which shares DynamoDB's contract. It lives in
one partition, which sustains 3,000 read units and 1,000 write units a second, or a mixture of both
in proportion. What DynamoDB may serve beyond, out of what went unused, is best effort and not
counted on. A request is served if anything is left in a bucket of one second's units, whatever the
request then takes out of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from simpy import Environment

from lambda_migrate.errors import LeaseStoreUnavailable
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.testing.clock import FakeClock

EPOCH_MS = 1_700_000_000_000

T = TypeVar("T")

READ_UNITS = 0.5  # an eventually consistent read of up to 4 KB
CONSISTENT_READ_UNITS = 1.0  # a strongly consistent read of up to 4 KB
WRITE_UNITS = 1.0  # a write of up to 1 KB, whether its condition held or not
BUCKET_SECONDS = 1.0
_STALE_READ_SHARE = 1 / 3  # of reads that reach the replica that lags


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens in one simulated deployment."""

    environments: int = 1_000  # cold starts
    migration_seconds: float = 3.0  # of the one long migration, after nine short ones
    is_ramp: bool = False  # as one function on Lambda: 1,000 immediately, then 100 more a second
    start_spread_seconds: float = 0.3  # between the fastest and the slowest process start
    read_seconds: float = 0.006  # median of a request, both ways
    min_read_seconds: float = 0.003  # what is above it is distributed exponentially
    stale_seconds: float = 0.02  # by how much a replica lags, exponentially distributed
    partition_read_units: float = 3_000.0  # that one partition serves in a second
    partition_write_units: float = 1_000.0
    environments_per_start: int = 1  # environments that each simulated one stands for


class Partition:
    """A bucket of so many reads or writes, which fills in a second, and the requests to it."""

    def __init__(self, read_units: float, write_units: float) -> None:
        self.read_units = self.write_units = 0.0
        """Served so far: what is paid for. A request that is refused costs nothing."""
        self.requests = 0
        self.throttled = 0
        self.requested_units_in: defaultdict[int, float] = defaultdict(float)
        """Second -> units requested in it, reads and writes together."""
        self._limits = read_units, write_units
        self._level = BUCKET_SECONDS
        self._filled_at = 0.0

    def try_serve(self, now: float, *, read_units: float = 0.0, write_units: float = 0.0) -> bool:
        """Whether a request is served at ``now``."""
        self.requests += 1
        self.requested_units_in[int(now)] += read_units + write_units
        self._level = min(BUCKET_SECONDS, self._level + now - self._filled_at)
        self._filled_at = now
        if self._level <= 0:
            self.throttled += 1
            return False
        self._level -= read_units / self._limits[0] + write_units / self._limits[1]
        self.read_units += read_units
        self.write_units += write_units
        return True


class LeaseTable:
    """The item behind its partition, at the moment that a request arrives there.

    Every method may raise `LeaseStoreUnavailable`: the partition refused the request.
    """

    def __init__(self, environment: Environment, scenario: Scenario, rng: Random) -> None:
        self.partition = Partition(
            scenario.partition_read_units / scenario.environments_per_start,
            scenario.partition_write_units / scenario.environments_per_start,
        )
        self._environment = environment
        self._clock = FakeClock(monotonic=0.0, wall_ms=EPOCH_MS)
        self._item = InMemoryLeaseStore(clock=self._clock)
        self.lease_seconds = self._item.lease_seconds
        # The holder stands for itself alone.
        self._holder_units = WRITE_UNITS / scenario.environments_per_start
        self._versions = [(-1.0, self._item.state)]
        self._stale_rate = 1 / scenario.stale_seconds if scenario.stale_seconds else 0.0
        self._rng = rng

    def read(self, *, is_consistent: bool) -> LeaseState:
        """What a read shows: the newest, or, if it is eventually consistent, perhaps the past."""
        now = self._environment.now
        units = CONSISTENT_READ_UNITS if is_consistent else READ_UNITS
        if not self.partition.try_serve(now, read_units=units):
            raise LeaseStoreUnavailable("throttled")
        is_newest = is_consistent or not self._stale_rate
        if is_newest or self._rng.random() >= _STALE_READ_SHARE:
            return self._versions[-1][1]
        shown = now - self._rng.expovariate(self._stale_rate)
        return next(state for at, state in reversed(self._versions) if at <= shown or at < 0)

    def write(self, call: Callable[[InMemoryLeaseStore], T], *, by_holder: bool = False) -> T:
        """Change the item."""
        units = self._holder_units if by_holder else WRITE_UNITS
        now = self._environment.now
        if not self.partition.try_serve(now, write_units=units):
            raise LeaseStoreUnavailable("throttled")
        self._clock.advance(now - self._clock.monotonic())
        answer = call(self._item)
        if self._item.state is not self._versions[-1][1]:
            self._versions.append((now, self._item.state))
        return answer
