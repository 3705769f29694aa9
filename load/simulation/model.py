"""Cold starts, holders and heartbeats in simulated time.

A cold start goes the way of `lambda_migrate.engine.cold_start` and `lambda_migrate.lease.waiter`:
the steps are `decide`'s, the delays the policy's. Only the sleeping is SimPy's. One event is one
request: it is simulated at the moment it reaches the partition, and its two ways, there and back,
are added to the sleeps before and after.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import count
from math import log
from random import Random
from typing import Any

from simpy import Environment

from lambda_migrate.errors import LeaseLost, LeaseStoreUnavailable
from lambda_migrate.lease.decision import Acquire, Decision, LeaseWatch, Serve, Wait, decide
from lambda_migrate.lease.heartbeat import RENEWALS_PER_LEASE
from lambda_migrate.lease.readiness import DatabaseCheck, record_check
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.lease.store import Lease
from load.simulation.policies import MakePolicy
from load.simulation.table import EPOCH_MS, LeaseTable, Partition, Scenario

Events = Generator[Any, Any, None]

RAMP_BURST = 1_000
RAMP_RATE = 100.0
"""AWS documents a rate of 1,000 in 10 s, refilled continuously and never saved up above 1,000."""

_DIGEST, _ADDRESS, _IDENTITY = "d1" * 32, "address", "identity"

_SHORT_MIGRATIONS_SECONDS = (0.01,) * 9
"""Before the long one."""

_CONNECT_SECONDS = 0.1
"""From the lease to the first migration."""

_WAIT_SECONDS = 890.0
"""How long an environment waits at most."""

_PAUSE_BETWEEN_TRIES = 0.2


@dataclass(slots=True)
class SimulatedStart:
    """What became of one cold start."""

    arrived: float  # first read
    calls: int = 0  # requests, those refused included
    waited: bool = False  # for another environment's migrations
    held: bool = False  # the lease
    served: float | None = None  # None: it gave up, or lost the lease


@dataclass
class Deployment:
    """A deployment that was simulated."""

    scenario: Scenario
    partition: Partition
    starts: list[SimulatedStart] = field(default_factory=list)  # in the order of their arrival
    acquired: list[float] = field(default_factory=list)  # each time the lease was acquired
    committed: float | None = None  # the last migration


def make_start_times(scenario: Scenario, rng: Random) -> list[float]:
    """When each simulated environment reads for the first time, in order."""
    times = []
    for number in range(max(1, scenario.environments // scenario.represented)):
        beyond = number * scenario.represented - RAMP_BURST if scenario.is_ramp else 0
        times.append(max(0, beyond) / RAMP_RATE + scenario.start_spread_seconds * rng.random())
    return sorted(times)


def simulate(scenario: Scenario, make_policy: MakePolicy, *, seed: int) -> Deployment:
    """Simulate one deployment to its end."""
    return _Simulation(scenario, make_policy, Random(seed)).run()  # noqa: S311 - repeatable chance


class _Simulation:
    """What all environments share: time, the table, and what PostgreSQL has committed."""

    def __init__(self, scenario: Scenario, make_policy: MakePolicy, rng: Random) -> None:
        self.scenario = scenario
        self.rng = rng
        self.make_policy = make_policy
        self.environment = Environment()
        self.table = LeaseTable(self.environment, scenario, rng)
        self.pending = [*_SHORT_MIGRATIONS_SECONDS, scenario.migration_seconds]
        self.record = Deployment(scenario, self.table.partition)
        # The median of an exponential distribution is its mean times log(2).
        mean = (scenario.read_seconds - scenario.min_read_seconds) / log(2)
        self._network_delay_rate = 2 / max(1e-9, mean)

    def run(self) -> Deployment:
        for number, arrival in enumerate(make_start_times(self.scenario, self.rng)):
            start = SimulatedStart(arrival)
            self.record.starts.append(start)
            self.environment.process(_ColdStart(self, start, str(number)).run())
        self.environment.run()
        return self.record

    def network_delay(self) -> float:
        """How long a request is under way to the partition, or its answer back."""
        return self.scenario.min_read_seconds / 2 + self.rng.expovariate(self._network_delay_rate)


class _ColdStart:
    """One environment, from its first read to serving or giving up."""

    def __init__(self, simulation: _Simulation, start: SimulatedStart, owner: str) -> None:
        self._simulation = simulation
        self._start = start
        self._owner = owner
        self._watch = LeaseWatch()
        self._policy = simulation.make_policy(simulation.rng)

    def run(self) -> Events:
        """Read, decide and do, as `MigrationRunner` does."""
        environment, simulation, start = self._simulation.environment, self._simulation, self._start
        began: float | None = None
        failures = 0
        state = LeaseState()
        is_confirming = True  # the first read is strongly consistent, and so is the last one
        pause = start.arrived + simulation.network_delay()
        while True:
            yield environment.timeout(pause)
            start.calls += 1
            # What is decided on the response is decided that much later.
            response_delay = simulation.network_delay()
            now = environment.now + response_delay
            try:
                state = simulation.table.read(is_consistent=is_confirming)
                step = self._decide(state, now)
                failures = 0
                if isinstance(step, Serve) and not is_confirming:
                    is_confirming = True
                    pause = response_delay + simulation.network_delay()
                    continue
                is_confirming = False
            except LeaseStoreUnavailable:
                step = Wait(state)
                is_confirming = is_confirming and began is not None
                failures += began is not None
            if isinstance(step, Serve):
                start.served = now
                return
            if isinstance(step, Acquire):
                yield environment.timeout(response_delay + simulation.network_delay())
                response_delay = simulation.network_delay()
                now = environment.now + response_delay
                answer = self._acquire(step)
                if isinstance(answer, Lease):
                    yield from _Holder(simulation, start, answer).run(response_delay)
                    return
                state, failures = answer, 0
                if isinstance(self._decide(state, now), Serve):
                    start.served = now
                    return
            # Wait, also after a lost bid: an immediate retry would meet the same item.
            if began is None:
                began = now
            start.waited = True
            remaining = start.arrived + _WAIT_SECONDS - now
            if remaining <= 0:
                return
            delay = self._policy.delay(
                now - began, state=state, now_ms=_to_wall_ms(now), error_count=failures
            )
            pause = response_delay + min(delay, remaining) + simulation.network_delay()

    def _decide(self, state: LeaseState, now: float) -> Decision:
        return decide(
            state,
            digest=_DIGEST,
            address=_ADDRESS,
            owner=self._owner,
            now_ms=_to_wall_ms(now),
            is_expired=self._watch.has_expired(state, now),
        )

    def _acquire(self, step: Acquire) -> Lease | LeaseState:
        self._start.calls += 1
        try:
            table = self._simulation.table
            return table.acquire(self._owner, step.state, is_expired=step.is_expired)
        except LeaseStoreUnavailable:
            return LeaseState()


def _to_wall_ms(now: float) -> int:
    return EPOCH_MS + round(now * 1000)


class _Holder:
    """What a cold start does once it holds the lease."""

    def __init__(self, simulation: _Simulation, start: SimulatedStart, lease: Lease) -> None:
        self._simulation = simulation
        self._environment = simulation.environment
        self._start = start
        self._lease = lease
        self._interval = simulation.table.lease_seconds / RENEWALS_PER_LEASE
        self._is_holding = True
        simulation.record.acquired.append(simulation.environment.now)

    def run(self, response_delay: float) -> Events:
        """Apply what is left, then record it; ``response_delay`` is that of the acquisition."""
        environment, simulation = self._environment, self._simulation
        self._start.held = True
        environment.process(self._heartbeat())
        yield environment.timeout(response_delay + _CONNECT_SECONDS)
        self._renew()  # it publishes the first migration at once, the others with the heartbeat
        while simulation.pending and self._is_holding:
            yield environment.timeout(simulation.pending[0])
            # PostgreSQL's fence: a holder that was superseded commits nothing more.
            if self._lease.fence != len(simulation.record.acquired):
                self._is_holding = False
            if self._is_holding:
                del simulation.pending[0]
        if not self._is_holding:
            return
        self._is_holding = False  # the heartbeat ends with the last migration
        if simulation.record.committed is None:
            simulation.record.committed = environment.now
        yield from self._release()
        self._start.served = environment.now + simulation.network_delay()

    def _renew(self) -> float:
        """Renew once; returns the pause before the next time, as `Heartbeat` does."""
        self._start.calls += 1
        try:
            self._lease = self._simulation.table.renew(self._lease)
        except LeaseLost:
            self._is_holding = False
        except LeaseStoreUnavailable:
            trusted = self._lease.trusted_until - self._environment.now
            self._is_holding = self._is_holding and trusted > 0
            return min(self._interval / 5, max(0.0, trusted))
        return self._interval

    def _heartbeat(self) -> Events:
        pause = self._interval
        while True:
            yield self._environment.timeout(pause)
            if not self._is_holding:
                return
            pause = self._renew()

    def _release(self) -> Events:
        """Record the end in the table, in as many tries as the lease can be trusted."""
        for tries in count(1):
            yield self._environment.timeout(self._simulation.network_delay())
            if self._complete() or self._environment.now > self._lease.trusted_until:
                return
            pause = min(1.0, _PAUSE_BETWEEN_TRIES * tries)
            yield self._environment.timeout(self._simulation.network_delay() + pause)

    def _complete(self) -> bool:
        """Whether the end is recorded, or the lease is lost."""
        self._start.calls += 1
        check = DatabaseCheck(
            identity=_IDENTITY,
            address=_ADDRESS,
            digests=(_DIGEST,),
            fence=self._lease.fence,
            owner=self._lease.owner,
            at_ms=_to_wall_ms(self._environment.now),
        )
        databases = record_check(self._lease.state.databases, check)
        try:
            self._simulation.table.store_completion(self._lease, databases)
        except LeaseLost:
            return True
        except LeaseStoreUnavailable:
            return False  # the lease expires, and the next environment records it
        return True
