"""Cold starts, holders and heartbeats in simulated time.

A cold start goes the way of `lambda_migrate.engine.cold_start` and `lambda_migrate.lease.waiter`:
the steps are `decide`'s, the delays the policy's. Only the sleeping is SimPy's. A request meets the
partition when it arrives there, and what it returns is known when the response is back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import inf, log, nan
from random import Random
from typing import Any, TypeVar

from simpy import Environment

from lambda_migrate.errors import LeaseLost, LeaseStoreUnavailable
from lambda_migrate.lease.decision import Acquire, Decision, LeaseExpiryTracker, Serve, Wait, decide
from lambda_migrate.lease.heartbeat import RENEWALS_PER_LEASE
from lambda_migrate.lease.readiness import CheckedDatabase, record_check
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.lease.store import Lease
from load.bench.results import percentile
from load.simulation.lease_table import EPOCH_MS, LeaseTable, Partition, Scenario
from load.simulation.policies import MakePolicy

Events = Generator[Any, Any, None]
_Response = TypeVar("_Response")

RAMP_BURST = 1_000
RAMP_RATE = 100.0
"""AWS documents a rate of 1,000 in 10 s, refilled continuously and never saved up above 1,000."""

READ_DOLLARS, WRITE_DOLLARS = 0.125e-6, 0.625e-6
"""A read, or write, request unit on demand in us-east-1 since November 2024. Other regions, and
tables with provisioned capacity: https://aws.amazon.com/dynamodb/pricing/on-demand/."""

_DIGEST, _ADDRESS, _IDENTITY = "d1" * 32, "address", "identity"
_SHORT_MIGRATION_SECONDS = (0.01,) * 9  # before the long one
_CONNECT_SECONDS = 0.1  # from the lease to the first migration
_WAIT_SECONDS = 890.0  # how long an environment waits at most
_RETRY_DELAY_SECONDS = 0.2


@dataclass(slots=True)
class SimulatedStart:
    """What became of one cold start."""

    arrived_at: float  # first read
    calls: int = 0  # requests, those refused included
    has_waited: bool = False  # for another environment's migrations
    has_held_lease: bool = False
    served_at: float | None = None  # None: it gave up, or lost the lease


@dataclass
class SimulatedDeployment:
    """A deployment that was simulated."""

    scenario: Scenario
    partition: Partition
    starts: list[SimulatedStart] = field(default_factory=list)  # in the order of their arrival
    acquired_at: list[float] = field(default_factory=list)  # each time the lease was acquired
    committed_at: float | None = None  # the last migration


@dataclass(slots=True)
class _Holder:
    """A cold start's lease, which its heartbeat renews, and whether it holds it."""

    lease: Lease
    is_holding: bool = True


def make_start_times(scenario: Scenario, rng: Random) -> list[float]:
    """When each simulated environment reads for the first time, in order."""
    times = []
    for number in range(max(1, scenario.environments // scenario.environments_per_start)):
        beyond = number * scenario.environments_per_start - RAMP_BURST if scenario.is_ramp else 0
        times.append(max(0, beyond) / RAMP_RATE + scenario.start_spread_seconds * rng.random())
    return sorted(times)


def simulate(scenario: Scenario, make_policy: MakePolicy, *, seed: int) -> SimulatedDeployment:
    """Simulate one deployment to its end."""
    return _Simulation(scenario, make_policy, Random(seed)).run()  # noqa: S311 - repeatable chance


class _Simulation:
    """All environments, and what they share: time, the table, and what PostgreSQL committed."""

    def __init__(self, scenario: Scenario, make_policy: MakePolicy, rng: Random) -> None:
        self._scenario = scenario
        self._rng = rng
        self._make_policy = make_policy
        self._environment = Environment()
        self._table = LeaseTable(self._environment, scenario, rng)
        self._pending = [*_SHORT_MIGRATION_SECONDS, scenario.migration_seconds]
        self._deployment = SimulatedDeployment(scenario, self._table.partition)
        # The median of an exponential distribution is its mean times log(2).
        mean = (scenario.read_seconds - scenario.min_read_seconds) / log(2)
        self._network_delay_rate = 2 / max(1e-9, mean)

    def run(self) -> SimulatedDeployment:
        for number, arrival in enumerate(make_start_times(self._scenario, self._rng)):
            start = SimulatedStart(arrival)
            self._deployment.starts.append(start)
            self._environment.process(self._start_cold(start, str(number)))
        self._environment.run()
        return self._deployment

    @property
    def _now(self) -> float:
        return float(self._environment.now)

    @property
    def _now_ms(self) -> int:
        return EPOCH_MS + round(self._now * 1000)

    def _network_delay(self) -> Any:
        """Wait while a request is under way to the partition, or its response back."""
        delay = self._rng.expovariate(self._network_delay_rate)
        return self._environment.timeout(self._scenario.min_read_seconds / 2 + delay)

    def _request(
        self, start: SimulatedStart, call: Callable[[], _Response]
    ) -> Generator[Any, Any, _Response | None]:
        """Send a request and wait for the response; None if the partition refused it."""
        yield self._network_delay()
        start.calls += 1
        response: _Response | None = None
        with suppress(LeaseStoreUnavailable):
            response = call()
        yield self._network_delay()
        return response

    # --- a cold start

    def _start_cold(self, start: SimulatedStart, owner: str) -> Events:
        """Read, decide and do, as `MigrationRunner` does."""
        watch, policy = LeaseExpiryTracker(), self._make_policy(self._rng)
        began: float | None = None
        failures = 0
        state = LeaseState()
        is_confirming = True  # the first read is strongly consistent, and so is the last one
        yield self._environment.timeout(start.arrived_at)
        while True:
            read = partial(self._table.read, is_consistent=is_confirming)
            response = yield from self._request(start, read)
            step: Decision = Wait(state)
            if response is None:
                is_confirming = is_confirming and began is not None
                failures += began is not None
            else:
                state, failures = response, 0
                step = self._decide(state, owner, watch)
                is_confirming = isinstance(step, Serve) and not is_confirming
                if is_confirming:
                    continue
            if isinstance(step, Acquire):
                answer = yield from self._request(start, partial(self._acquire, owner, step))
                if isinstance(answer, Lease):
                    yield from self._migrate(start, _Holder(answer))
                    return
                state, failures = answer or LeaseState(), 0
                step = self._decide(state, owner, watch)
            if isinstance(step, Serve):
                start.served_at = self._now
                return
            # Wait, also after a lost bid: an immediate retry would meet the same item.
            began = self._now if began is None else began
            start.has_waited = True
            remaining = start.arrived_at + _WAIT_SECONDS - self._now
            if remaining <= 0:
                return
            waited = self._now - began
            delay = policy.delay(waited, state=state, now_ms=self._now_ms, error_count=failures)
            yield self._environment.timeout(min(delay, remaining))

    def _decide(self, state: LeaseState, owner: str, watch: LeaseExpiryTracker) -> Decision:
        return decide(
            state,
            digest=_DIGEST,
            address=_ADDRESS,
            owner=owner,
            now_ms=self._now_ms,
            is_expired=watch.has_expired(state, self._now),
        )

    def _acquire(self, owner: str, step: Acquire) -> Lease | LeaseState:
        answer = self._table.write(
            lambda item: item.acquire(owner, expected=step.state, is_expired=step.is_expired)
        )
        if isinstance(answer, Lease):
            self._deployment.acquired_at.append(self._now)
        return answer

    # --- the holder

    def _migrate(self, start: SimulatedStart, holder: _Holder) -> Events:
        """Apply what is left, then record it."""
        start.has_held_lease = True
        self._environment.process(self._renew_regularly(start, holder))
        yield self._environment.timeout(_CONNECT_SECONDS)
        # It publishes the first migration immediately, the others with the heartbeat.
        self._renew(start, holder)
        while self._pending and holder.is_holding:
            yield self._environment.timeout(self._pending[0])
            # PostgreSQL's fence: a holder that was superseded commits nothing more.
            if holder.lease.fence != len(self._deployment.acquired_at):
                holder.is_holding = False
            if holder.is_holding:
                del self._pending[0]
        if not holder.is_holding:
            return
        holder.is_holding = False  # the heartbeat ends with the last migration
        if self._deployment.committed_at is None:
            self._deployment.committed_at = self._now
        yield from self._release(start, holder.lease)
        start.served_at = self._now

    def _renew_regularly(self, start: SimulatedStart, holder: _Holder) -> Events:
        pause = self._table.lease_seconds / RENEWALS_PER_LEASE
        while True:
            yield self._environment.timeout(pause)
            if not holder.is_holding:
                return
            pause = self._renew(start, holder)

    def _renew(self, start: SimulatedStart, holder: _Holder) -> float:
        """Renew once; returns the pause before the next time, as `Heartbeat` does."""
        interval = self._table.lease_seconds / RENEWALS_PER_LEASE
        start.calls += 1
        try:
            holder.lease = self._table.write(lambda item: item.renew(holder.lease), by_holder=True)
        except LeaseLost:
            holder.is_holding = False
        except LeaseStoreUnavailable:
            trusted = holder.lease.trusted_until - self._now
            holder.is_holding = holder.is_holding and trusted > 0
            return min(interval / 5, max(0.0, trusted))
        return interval

    def _release(self, start: SimulatedStart, lease: Lease) -> Events:
        """Record the end in the table, in as many tries as the lease can be trusted."""
        for tries in count(1):
            is_over = yield from self._request(start, partial(self._complete, lease))
            # If it is not, the lease expires, and the next environment records it.
            if is_over or self._now > lease.trusted_until:
                return
            yield self._environment.timeout(min(1.0, _RETRY_DELAY_SECONDS * tries))

    def _complete(self, lease: Lease) -> bool:
        """Record the end, unless the lease is lost."""
        check = CheckedDatabase(
            identity=_IDENTITY,
            address=_ADDRESS,
            digests=(_DIGEST,),
            fence=lease.fence,
            owner=lease.owner,
            at_ms=self._now_ms,
        )
        with suppress(LeaseLost):
            databases = record_check(lease.state.databases, check)
            self._table.write(lambda item: item.store_completion(lease, databases), by_holder=True)
        return True


# --- what came of it


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What is compared. NaN where no environment waited."""

    waiting: int  # environments that waited for another one's migrations, and served
    not_served: int  # those that gave up
    mean_acquisitions: float  # how often the lease was acquired
    delay_median: float  # from the last commit to serving, of those that waited; seconds
    delay_p99: float  # the same, 99th percentile
    calls_median: float  # their DynamoDB calls, the first read and a lost bid included
    calls_mean: float
    read_units: float  # paid for each environment on average, whether it waited or not
    peak_units: float  # most units requested of the partition within one second
    throttled: float  # share of all requests that the partition did not serve
    dollars: float  # of DynamoDB, for all environments


def find_waiters(run: SimulatedDeployment) -> list[SimulatedStart]:
    """Those that came before the last commit, waited for it, and served, as in a storm."""
    committed = inf if run.committed_at is None else run.committed_at
    return [
        start
        for start in run.starts
        if start.has_waited and not start.has_held_lease and start.served_at is not None
        if start.arrived_at < committed
    ]


def summarize(runs: Sequence[SimulatedDeployment]) -> SimulationResult:
    """The result of several runs of one scenario; costs are those of one run."""
    seen = [(run, start) for run in runs for start in find_waiters(run)]
    delays = [(start.served_at or 0.0) - (run.committed_at or 0.0) for run, start in seen] or [nan]
    calls = [float(start.calls) for _, start in seen] or [nan]
    environments_per_start, count = runs[0].scenario.environments_per_start, len(runs)
    read_units = sum(run.partition.read_units for run in runs)
    write_units = sum(run.partition.write_units for run in runs)
    unserved = sum(start.served_at is None for run in runs for start in run.starts)
    return SimulationResult(
        waiting=round(len(seen) * environments_per_start / count),
        not_served=round(unserved * environments_per_start / count),
        mean_acquisitions=sum(len(run.acquired_at) for run in runs) / count,
        delay_median=percentile(delays, 50),
        delay_p99=percentile(delays, 99),
        calls_median=percentile(calls, 50),
        calls_mean=sum(calls) / len(calls),
        read_units=read_units / sum(len(run.starts) for run in runs),
        peak_units=max(max(run.partition.requested_units_in.values()) for run in runs)
        * environments_per_start,
        throttled=sum(run.partition.throttled for run in runs)
        / sum(run.partition.requests for run in runs),
        dollars=(read_units * READ_DOLLARS + write_units * WRITE_DOLLARS)
        * environments_per_start
        / count,
    )
