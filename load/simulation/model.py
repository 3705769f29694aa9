"""Cold starts, holders and heartbeats in simulated time.

A cold start goes the way of `lambda_migrate.engine.cold_start` and `lambda_migrate.lease.waiter`:
the steps are `decide`'s, the delays the policy's, a dead holder is noticed by `LeaseWatch`. Only
the sleeping is SimPy's. One event is one request: it is simulated at the moment it reaches the
partition, and its two ways, there and back, are added to the sleeps before and after.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from simpy import Environment

from lambda_migrate.errors import LeaseLost, LeaseStoreUnavailable
from lambda_migrate.lease.attempt import Progress
from lambda_migrate.lease.decision import Acquire, LeaseWatch, Serve, Wait, decide
from lambda_migrate.lease.heartbeat import RENEWALS_PER_LEASE
from lambda_migrate.lease.readiness import DatabaseCheck, record_check
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.lease.store import Lease
from load.simulation.scenario import make_start_times
from load.simulation.table import EPOCH_MS, LeaseTable

if TYPE_CHECKING:
    from collections.abc import Generator

    from lambda_migrate.lease.decision import Decision
    from load.simulation.policies import MakePolicy
    from load.simulation.scenario import Scenario
    from load.simulation.table import Partition

    Events = Generator[Any, Any, None]

__all__ = ["Deployment", "SimulatedStart", "simulate"]

DIGEST, ADDRESS, IDENTITY = "d1" * 32, "address", "identity"


@dataclass(slots=True)
class SimulatedStart:
    """What became of one cold start."""

    arrived: float  # first read
    calls: int = 0  # requests, those refused included
    waited: bool = False  # for another environment's migrations
    held: bool = False  # the lease
    served: float | None = None  # None: it gave up, or died


@dataclass
class Deployment:
    """A deployment that was simulated."""

    scenario: Scenario
    partition: Partition
    starts: list[SimulatedStart] = field(default_factory=list)  # in the order of their arrival
    acquired: list[float] = field(default_factory=list)  # each time the lease was acquired
    committed: float | None = None  # the last migration


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
        self.pending = [*scenario.earlier_migrations, scenario.migration_seconds]
        self.record = Deployment(scenario, self.table.partition)
        self._network_delay_rate = 2 / max(
            1e-9, (scenario.read_seconds - scenario.min_read_seconds) / _LN2
        )

    def run(self) -> Deployment:
        for number, arrival in enumerate(make_start_times(self.scenario, self.rng)):
            start = SimulatedStart(arrival)
            self.record.starts.append(start)
            self.environment.process(_Environment(self, start, str(number)).run())
        self.environment.run()
        return self.record

    def network_delay(self) -> float:
        """How long a request is under way to the partition, or its answer back."""
        return self.scenario.min_read_seconds / 2 + self.rng.expovariate(self._network_delay_rate)


_PAUSE_BETWEEN_TRIES = 0.2

_LN2 = 0.6931471805599453
"""The median of an exponential distribution is its mean times this."""


class _Environment:
    """One environment, from its first read to serving, giving up or dying."""

    def __init__(self, simulation: _Simulation, start: SimulatedStart, owner: str) -> None:
        self.simulation = simulation
        self.scenario = simulation.scenario
        self.start = start
        self.owner = owner
        error = self.scenario.clock_error_seconds
        share = 2 * simulation.rng.random() - 1 if error else 0.0
        self.clock_error_ms = round(1000 * error * share)
        self.watch = LeaseWatch()
        self.policy = simulation.make_policy(simulation.rng)

    def run(self) -> Events:
        """Read, decide and do, as `MigrationRunner` does."""
        environment, simulation, start = self.simulation.environment, self.simulation, self.start
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
                state = simulation.table.read(consistent=is_confirming)
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
                there = simulation.network_delay()
                yield environment.timeout(response_delay + there)
                response_delay = simulation.network_delay()
                now = environment.now + response_delay
                answer = self._acquire(step)
                if isinstance(answer, Lease):
                    yield from _Holder(self, answer).run(response_delay)
                    return
                state, failures = answer, 0
                if isinstance(self._decide(state, now), Serve):
                    start.served = now
                    return
            # Wait, also after a lost bid: an immediate retry would meet the same item.
            if began is None:
                began = now
            start.waited = True
            remaining = start.arrived + self.scenario.wait_seconds - now
            if remaining <= 0:
                return
            delay = self.policy.delay(
                now - began, state=state, now_ms=self._wall_ms(now), error_count=failures
            )
            pause = response_delay + min(delay, remaining) + simulation.network_delay()

    def _decide(self, state: LeaseState, now: float) -> Decision:
        return decide(
            state,
            digest=DIGEST,
            address=ADDRESS,
            owner=self.owner,
            now_ms=self._wall_ms(now),
            is_expired=self.watch.has_expired(state, now),
        )

    def _wall_ms(self, now: float) -> int:
        return EPOCH_MS + round(now * 1000) + self.clock_error_ms

    def _acquire(self, step: Acquire) -> Lease | LeaseState:
        self.start.calls += 1
        try:
            return self.simulation.table.acquire(
                self.owner, self.clock_error_ms, expected=step.state, is_expired=step.is_expired
            )
        except LeaseStoreUnavailable:
            return LeaseState()


class _Holder:
    """What a cold start does once it holds the lease."""

    def __init__(self, cold_start: _Environment, lease: Lease) -> None:
        self.simulation = cold_start.simulation
        self.scenario = self.simulation.scenario
        self.start = cold_start.start
        self.clock_error_ms = cold_start.clock_error_ms
        self.lease = lease
        self.progress: Progress | None = None
        self.is_alive = True
        record = self.simulation.record
        record.acquired.append(self.simulation.environment.now)
        is_first = len(record.acquired) == 1
        self._dies_at = (
            self.simulation.environment.now + self.scenario.holder_dies_after_seconds
            if is_first and self.scenario.holder_dies_after_seconds is not None
            else float("inf")
        )

    def run(self, response_delay: float) -> Events:
        """Apply what is left, then record it; ``response_delay`` is that of the acquisition."""
        environment, simulation = self.simulation.environment, self.simulation
        self.start.held = True
        environment.process(self._heartbeat())
        yield from self._sleep(response_delay + self.scenario.connect_seconds)
        while simulation.pending and self.is_alive:
            self._publish()
            yield from self._sleep(simulation.pending[0])
            if self._may_commit():
                del simulation.pending[0]
        if not self.is_alive:
            return
        self.is_alive = False  # the heartbeat ends with the last migration
        if simulation.record.committed is None:
            simulation.record.committed = environment.now
        yield from self._release()
        self.start.served = environment.now + simulation.network_delay()

    def _sleep(self, seconds: float) -> Events:
        """Let time pass, if it lives that long and still has the lease afterwards."""
        environment = self.simulation.environment
        if environment.now + seconds >= self._dies_at:
            yield environment.timeout(max(0.0, self._dies_at - environment.now))
            self.is_alive = False
            return
        yield environment.timeout(seconds)

    def _may_commit(self) -> bool:
        """PostgreSQL's fence: a holder that was superseded commits nothing more."""
        self.is_alive = self.is_alive and self.lease.fence == len(self.simulation.record.acquired)
        return self.is_alive

    def _publish(self) -> None:
        """Publish the first migration at once, the others with the next renewal."""
        total = len(self.scenario.earlier_migrations) + 1
        now_ms = EPOCH_MS + round(self.simulation.environment.now * 1000) + self.clock_error_ms
        done = total - len(self.simulation.pending)
        is_first = self.progress is None
        self.progress = Progress(str(done), done, total, now_ms)
        if is_first:
            self._renew()

    def _renew(self) -> float:
        """Renew once; returns the pause before the next time, as `Heartbeat` does."""
        self.start.calls += 1
        interval = self.scenario.lease_seconds / RENEWALS_PER_LEASE
        try:
            self.lease = self.simulation.table.renew(self.lease, self.clock_error_ms, self.progress)
        except LeaseLost:
            self.is_alive = False
        except LeaseStoreUnavailable:
            trusted = self.lease.trusted_until - self.simulation.environment.now
            self.is_alive = self.is_alive and trusted > 0
            return min(interval / 5, max(0.0, trusted))
        return interval

    def _heartbeat(self) -> Events:
        pause = self.scenario.lease_seconds / RENEWALS_PER_LEASE
        while True:
            yield self.simulation.environment.timeout(pause)
            if not self.is_alive or self.simulation.environment.now >= self._dies_at:
                return
            pause = self._renew()

    def _release(self) -> Events:
        """Record the end in the table, in as many tries as the scenario has."""
        environment = self.simulation.environment
        for tries in range(1, self.scenario.release_tries + 1):
            yield environment.timeout(self.simulation.network_delay())
            if self._complete() or environment.now > self.lease.trusted_until:
                return
            yield environment.timeout(
                self.simulation.network_delay() + min(1.0, _PAUSE_BETWEEN_TRIES * tries)
            )

    def _complete(self) -> bool:
        """Whether the end is recorded, or the lease is lost."""
        self.start.calls += 1
        check = DatabaseCheck(
            identity=IDENTITY,
            address=ADDRESS,
            digests=(DIGEST,),
            fence=self.lease.fence,
            owner=self.lease.owner,
            at_ms=EPOCH_MS + round(self.simulation.environment.now * 1000),
        )
        try:
            self.simulation.table.store_completion(
                self.lease, record_check(self.lease.state.databases, check)
            )
        except LeaseLost:
            return True
        except LeaseStoreUnavailable:
            return False  # the lease expires, and the next environment records it
        return True
