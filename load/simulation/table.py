"""The lease table as environments meet it: throttled, stale, and used with clocks that differ.

The item and its conditions are `InMemoryLeaseTable`, which shares DynamoDB's contract. It lives in
one partition, which sustains 3,000 read units and 1,000 write units a second, or a mixture of both
in proportion. What DynamoDB may serve beyond, out of what went unused, is best effort and not
counted on. A request is served if anything is left in a bucket of one second's units, whatever the
request then takes out of it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

from lambda_migrate.errors import LeaseStoreUnavailable
from lambda_migrate.lease.memory import InMemoryLeaseTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from simpy import Environment

    from lambda_migrate.lease.attempt import Progress
    from lambda_migrate.lease.record import DatabaseRecord, LeaseState
    from lambda_migrate.lease.store import Lease
    from load.simulation.scenario import Scenario

__all__ = ["CONSISTENT_UNITS", "EPOCH_MS", "READ_UNITS", "WRITE_UNITS", "LeaseTable", "Partition"]

EPOCH_MS = 1_700_000_000_000

T = TypeVar("T")

READ_UNITS = 0.5
"""An eventually consistent read of up to 4 KB."""

CONSISTENT_UNITS = 1.0
"""A strongly consistent read of up to 4 KB."""

WRITE_UNITS = 1.0
"""A write of up to 1 KB, whether its condition held or not."""

BUCKET_SECONDS = 1.0


class Partition:
    """A bucket that fills with time, and the requests to it.

    Args:
        read_units: Served in a second if nothing is written.
        write_units: Served in a second if nothing is read.
    """

    def __init__(self, read_units: float, write_units: float) -> None:
        self.read_units = self.write_units = 0.0
        """Served so far: what is paid for. A request that is refused costs nothing."""
        self.requests = 0
        self.throttled = 0
        self.requested_units_in: defaultdict[int, float] = defaultdict(float)
        """Second -> units requested in it, reads and writes together."""
        self._seconds_a_read_unit = 1 / read_units
        self._seconds_a_write_unit = 1 / write_units
        self._level = BUCKET_SECONDS
        self._at = 0.0

    def serves_read(self, now: float, units: float = READ_UNITS) -> bool:
        """Whether a read is served at ``now``."""
        if not self._serves(now, units, units * self._seconds_a_read_unit):
            return False
        self.read_units += units
        return True

    def serves_write(self, now: float, units: float = WRITE_UNITS) -> bool:
        """Whether a write is served at ``now``."""
        if not self._serves(now, units, units * self._seconds_a_write_unit):
            return False
        self.write_units += units
        return True

    def _serves(self, now: float, units: float, seconds: float) -> bool:
        self.requests += 1
        self.requested_units_in[int(now)] += units
        self._level = min(BUCKET_SECONDS, self._level + now - self._at)
        self._at = now
        if self._level <= 0:
            self.throttled += 1
            return False
        self._level -= seconds
        return True


class _SimulatedClock:
    """Simulated time, and a wall clock with the error of the environment that writes."""

    def __init__(self, environment: Environment) -> None:
        self.clock_error_ms = 0
        self._environment = environment

    def monotonic(self) -> float:
        return float(self._environment.now)

    def wall_ms(self) -> int:
        return EPOCH_MS + round(self._environment.now * 1000) + self.clock_error_ms

    def sleep(self, seconds: float) -> None:
        raise NotImplementedError(f"simulated time does not pass by sleeping {seconds} s")


class LeaseTable:
    """The item behind its partition, at the moment that a request arrives there.

    Every method may raise `LeaseStoreUnavailable`: the partition refused the request.
    """

    def __init__(self, environment: Environment, scenario: Scenario, rng: Random) -> None:
        self.clock = _SimulatedClock(environment)
        self.partition = Partition(
            scenario.partition_read_units / scenario.represented,
            scenario.partition_write_units / scenario.represented,
        )
        self._environment = environment
        self._item = InMemoryLeaseTable(lease_seconds=scenario.lease_seconds, clock=self.clock)
        self._holder_units = WRITE_UNITS / scenario.represented  # it stands for itself alone
        self._versions = [(-1.0, self._item.state)]
        self._stale_share = scenario.stale_share
        self._stale_rate = 1 / scenario.stale_seconds if scenario.stale_seconds else 0.0
        self._rng = rng

    def read(self, *, consistent: bool) -> LeaseState:
        """What a read shows: the newest, or, if it is eventually consistent, perhaps the past."""
        now = self._environment.now
        if not self.partition.serves_read(now, CONSISTENT_UNITS if consistent else READ_UNITS):
            raise LeaseStoreUnavailable("throttled")
        newest = self._versions[-1]
        is_newest = consistent or not self._stale_rate
        if is_newest or self._rng.random() >= self._stale_share:
            return newest[1]
        shown = now - self._rng.expovariate(self._stale_rate)
        return next(state for at, state in reversed(self._versions) if at <= shown or at < 0)

    def acquire(
        self, owner: str, clock_error_ms: int, *, expected: LeaseState, is_expired: bool
    ) -> Lease | LeaseState:
        """Try to take the lease, by the caller's wall clock."""
        self._require_capacity(WRITE_UNITS)
        return self._apply_write(
            lambda: self._item.acquire(owner, expected=expected, is_expired=is_expired),
            clock_error_ms,
        )

    def renew(self, lease: Lease, clock_error_ms: int, progress: Progress | None) -> Lease:
        """Renew it and publish progress."""
        self._require_capacity(self._holder_units)
        return self._apply_write(lambda: self._item.renew(lease, progress), clock_error_ms)

    def store_completion(self, lease: Lease, databases: Mapping[str, DatabaseRecord]) -> None:
        """Mark the schema ready, and free the lease."""
        self._require_capacity(self._holder_units)
        self._apply_write(lambda: self._item.store_completion(lease, databases), 0)

    def _require_capacity(self, units: float) -> None:
        if not self.partition.serves_write(self._environment.now, units):
            raise LeaseStoreUnavailable("throttled")

    def _apply_write(self, write: Callable[[], T], clock_error_ms: int) -> T:
        self.clock.clock_error_ms = clock_error_ms
        answer = write()
        if self._item.state is not self._versions[-1][1]:
            self._versions.append((self._environment.now, self._item.state))
        return answer
