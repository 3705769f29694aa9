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
from lambda_migrate.lease.decision import Acquire, LeaseWatch, Serve, Wait, decide
from lambda_migrate.lease.heartbeat import RENEWALS_PER_LEASE
from lambda_migrate.lease.readiness import DatabaseCheck, record_check
from lambda_migrate.lease.record import Lease, LeaseState, Progress
from load.simulation.scenario import arrivals
from load.simulation.table import EPOCH_MS, LeaseTable

if TYPE_CHECKING:
    from collections.abc import Generator

    from lambda_migrate.lease.decision import Step
    from load.simulation.partition import Partition
    from load.simulation.policies import MakePolicy
    from load.simulation.scenario import Scenario

    Events = Generator[Any, Any, None]

__all__ = ["Run", "Start", "simulate"]

DIGEST, ADDRESS, IDENTITY = "d1" * 32, "address", "identity"


@dataclass(slots=True)
class Start:
    """What became of one cold start.

    Attributes:
        arrived: When it read first.
        calls: Its requests, those turned away included.
        waited: Whether it waited for another one's migrations.
        held: Whether it held the lease.
        served: When it served, or None: it gave up, or died.
    """

    arrived: float
    calls: int = 0
    waited: bool = False
    held: bool = False
    served: float | None = None


@dataclass
class Run:
    """A deployment, as it went.

    Attributes:
        scenario: What was simulated.
        starts: All cold starts, in the order of their arrival.
        acquired: When the lease was acquired, each time.
        committed: When the last migration was committed, or None.
        released: When the item said so, or None.
        partition: What was asked of DynamoDB.
    """

    scenario: Scenario
    starts: list[Start] = field(default_factory=list)
    acquired: list[float] = field(default_factory=list)
    committed: float | None = None
    released: float | None = None
    partition: Partition = field(init=False)


def simulate(scenario: Scenario, make_policy: MakePolicy, *, seed: int) -> Run:
    """Run one deployment to its end."""
    return _World(scenario, make_policy, Random(seed)).run()  # noqa: S311 - repeatable chance


class _World:
    """What all environments share: time, the table, and what PostgreSQL has committed."""

    def __init__(self, scenario: Scenario, make_policy: MakePolicy, random: Random) -> None:
        self.scenario = scenario
        self.random = random
        self.make_policy = make_policy
        self.environment = Environment()
        self.table = LeaseTable(self.environment, scenario, random)
        self.left = [*scenario.others, scenario.migration]
        self.record = Run(scenario)
        self.record.partition = self.table.partition
        self._way_rate = 2 / max(1e-9, (scenario.read - scenario.read_minimum) / _LN2)

    def run(self) -> Run:
        for number, arrival in enumerate(arrivals(self.scenario, self.random)):
            start = Start(arrival)
            self.record.starts.append(start)
            self.environment.process(_ColdStart(self, start, str(number)).run())
        self.environment.run()
        return self.record

    def way(self) -> float:
        """How long a request is under way to the partition, or its answer back."""
        return self.scenario.read_minimum / 2 + self.random.expovariate(self._way_rate)


_PAUSE_BETWEEN_TRIES = 0.2

_LN2 = 0.6931471805599453
"""The median of an exponential distribution is its mean times this."""


class _ColdStart:
    """One environment, from its first read to serving, giving up or dying."""

    def __init__(self, world: _World, start: Start, owner: str) -> None:
        self.world = world
        self.scenario = world.scenario
        self.start = start
        self.owner = owner
        skew = world.scenario.skew
        self.skew_ms = round(1000 * skew * (2 * world.random.random() - 1)) if skew else 0
        self.watch = LeaseWatch()
        self.policy = world.make_policy(world.random)

    def run(self) -> Events:
        """Read, decide and do, as `MigrationRunner` does."""
        environment, world, start = self.world.environment, self.world, self.start
        began: float | None = None
        failures = 0
        state = LeaseState()
        is_confirming = True  # the first read is strongly consistent, and so is the last one
        pause = start.arrived + world.way()
        while True:
            yield environment.timeout(pause)
            start.calls += 1
            way = world.way()  # back: what is decided now is decided that much later
            now = environment.now + way
            try:
                state = world.table.read(consistent=is_confirming)
                step = self._decide(state, now)
                failures = 0
                if isinstance(step, Serve) and not is_confirming:
                    is_confirming = True
                    pause = way + world.way()
                    continue
                is_confirming = False
            except LeaseStoreUnavailable:
                step = Wait(state)
                is_confirming = is_confirming and began is not None
                failures += began is not None
            if isinstance(step, Serve):
                start.served = now + self.scenario.serving
                return
            if isinstance(step, Acquire):
                there = world.way()
                yield environment.timeout(way + there)
                way = world.way()
                now = environment.now + way
                answer = self._acquire(step)
                if isinstance(answer, Lease):
                    yield from _Holder(self, answer).run(way)
                    return
                state, failures = answer, 0
                if isinstance(self._decide(state, now), Serve):
                    start.served = now + self.scenario.serving
                    return
            # To wait, also after a lost bid: nobody runs into the same item again at once.
            if began is None:
                began = now
            start.waited = True
            remaining = start.arrived + self.scenario.wait - now
            if remaining <= 0:
                return
            delay = self.policy.delay(
                now - began, state=state, now_ms=self._wall_ms(now), failures=failures
            )
            pause = way + min(delay, remaining) + world.way()

    def _decide(self, state: LeaseState, now: float) -> Step:
        return decide(
            state,
            digest=DIGEST,
            address=ADDRESS,
            owner=self.owner,
            now_ms=self._wall_ms(now),
            is_expired=self.watch.has_expired(state, now),
        )

    def _wall_ms(self, now: float) -> int:
        return EPOCH_MS + round(now * 1000) + self.skew_ms

    def _acquire(self, step: Acquire) -> Lease | LeaseState:
        self.start.calls += 1
        try:
            return self.world.table.acquire(
                self.owner, self.skew_ms, expected=step.state, is_expired=step.is_expired
            )
        except LeaseStoreUnavailable:
            return LeaseState()


class _Holder:
    """What a cold start does that got the lease."""

    def __init__(self, cold_start: _ColdStart, lease: Lease) -> None:
        self.world = cold_start.world
        self.scenario = self.world.scenario
        self.start = cold_start.start
        self.skew_ms = cold_start.skew_ms
        self.lease = lease
        self.progress: Progress | None = None
        self.is_alive = True
        record = self.world.record
        record.acquired.append(self.world.environment.now)
        is_first = len(record.acquired) == 1
        self._dies_at = (
            self.world.environment.now + self.scenario.holder_dies_after
            if is_first and self.scenario.holder_dies_after is not None
            else float("inf")
        )

    def run(self, way: float) -> Events:
        """Apply what is left, then tell the table. ``way``: the answer's that gave the lease."""
        environment, world = self.world.environment, self.world
        self.start.held = True
        environment.process(self._heartbeat())
        yield from self._pass(way + self.scenario.connect)
        while world.left and self.is_alive:
            self._publish()
            yield from self._pass(world.left[0])
            if self._may_commit():
                del world.left[0]
        if not self.is_alive:
            return
        self.is_alive = False  # the heartbeat ends with the last migration
        if world.record.committed is None:
            world.record.committed = environment.now
        yield environment.timeout(self.scenario.freeing)
        yield from self._free()
        self.start.served = environment.now + world.way()

    def _pass(self, seconds: float) -> Events:
        """Let time pass, if it lives that long and still has the lease afterwards."""
        environment = self.world.environment
        if environment.now + seconds >= self._dies_at:
            yield environment.timeout(max(0.0, self._dies_at - environment.now))
            self.is_alive = False
            return
        yield environment.timeout(seconds)

    def _may_commit(self) -> bool:
        """PostgreSQL's fence: whoever was passed by a successor commits nothing more."""
        self.is_alive = self.is_alive and self.lease.fence == len(self.world.record.acquired)
        return self.is_alive

    def _publish(self) -> None:
        """Publish the first migration at once, the others with the next renewal."""
        total = len(self.scenario.others) + 1
        now_ms = EPOCH_MS + round(self.world.environment.now * 1000) + self.skew_ms
        done = total - len(self.world.left)
        is_first = self.progress is None
        self.progress = Progress(str(done), done, total, now_ms)
        if is_first:
            self._renew()

    def _renew(self) -> float:
        """Renew once; returns the pause before the next time, as `Heartbeat` does."""
        self.start.calls += 1
        interval = self.scenario.lease / RENEWALS_PER_LEASE
        try:
            self.lease = self.world.table.renew(self.lease, self.skew_ms, self.progress)
        except LeaseLost:
            self.is_alive = False
        except LeaseStoreUnavailable:
            trusted = self.lease.trusted_until - self.world.environment.now
            self.is_alive = self.is_alive and trusted > 0
            return min(interval / 5, max(0.0, trusted))
        return interval

    def _heartbeat(self) -> Events:
        pause = self.scenario.lease / RENEWALS_PER_LEASE
        while True:
            yield self.world.environment.timeout(pause)
            if not self.is_alive or self.world.environment.now >= self._dies_at:
                return
            pause = self._renew()

    def _free(self) -> Events:
        """Tell the table, as often as the scenario says."""
        environment = self.world.environment
        for tries in range(1, self.scenario.freeing_tries + 1):
            yield environment.timeout(self.world.way())
            if self._complete() or environment.now > self.lease.trusted_until:
                return
            yield environment.timeout(self.world.way() + min(1.0, _PAUSE_BETWEEN_TRIES * tries))

    def _complete(self) -> bool:
        """Whether there is nothing more to be told."""
        self.start.calls += 1
        check = DatabaseCheck(
            identity=IDENTITY,
            address=ADDRESS,
            digests=(DIGEST,),
            fence=self.lease.fence,
            owner=self.lease.owner,
            at_ms=EPOCH_MS + round(self.world.environment.now * 1000),
        )
        try:
            self.world.table.complete(self.lease, record_check(self.lease.state.databases, check))
        except LeaseLost:
            return True
        except LeaseStoreUnavailable:
            return False  # the lease runs out by itself, and the next instance tells the table
        self.world.record.released = self.world.environment.now
        return True
