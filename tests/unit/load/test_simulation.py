"""The simulation follows the real protocol, and the default policy meets its limits."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from load.simulation.lease_table import CONSISTENT_READ_UNITS, READ_UNITS, Scenario
from load.simulation.model import (
    RAMP_BURST,
    RAMP_RATE,
    SimulationResult,
    find_waiters,
    make_start_times,
    simulate,
    summarize,
)
from load.simulation.policies import LIBRARY, MakePolicy, fixed, growing

CALM = Scenario(environments=400, stale_seconds=0.0, read_seconds=0.002, min_read_seconds=0.001)
"""Nothing in the way of a policy's own delays."""

SERVES_LITTLE = replace(CALM, partition_read_units=100.0, partition_write_units=33.0)


def run_simulations(
    scenario: Scenario, make: MakePolicy = LIBRARY, *, repetitions: int = 1
) -> SimulationResult:
    return summarize([simulate(scenario, make, seed=seed) for seed in range(repetitions)])


# --- the library's default


@pytest.mark.parametrize("seconds", [3.0, 3.1, 3.2])
def test_the_default_serves_a_hundred_waiters_soon_after_a_migration_of_three_seconds(
    seconds: float,
) -> None:
    result = run_simulations(Scenario(environments=100, migration_seconds=seconds), repetitions=10)
    assert result.delay_median <= 0.3
    assert result.delay_p99 <= 1.0


@pytest.mark.parametrize("arrival_takes", [0.3, 1.0])
@pytest.mark.parametrize("seconds", [3.0, 3.1, 3.2])
def test_default_needs_eight_reads_and_a_confirmation_for_three_seconds(
    seconds: float, arrival_takes: float
) -> None:
    result = run_simulations(
        Scenario(migration_seconds=seconds, start_spread_seconds=arrival_takes)
    )
    assert result.waiting > 900
    assert result.calls_median <= 8 + 1
    assert result.peak_units < 3_000 * 2 / 3
    assert result.throttled == 0


@pytest.mark.parametrize("seconds", [10.0, 30.0, 60.0])
def test_the_default_is_late_by_a_fifth_of_the_wait_at_most(seconds: float) -> None:
    result = run_simulations(replace(CALM, environments=100, migration_seconds=seconds))
    assert result.delay_p99 <= 0.2 * (seconds + 1)
    assert result.delay_median <= 0.1 * (seconds + 1)


def test_a_hundred_thousand_waiters_leave_capacity_for_the_holder() -> None:
    many = Scenario(
        environments=100_000,
        migration_seconds=400.0,
        environments_per_start=500,
    )
    run = simulate(many, LIBRARY, seed=1)
    late = [units for second, units in run.partition.requested_units_in.items() if second > 120]
    assert sum(late) / len(late) * many.environments_per_start < 2 * 3_000


def test_ten_thousand_at_once_are_served_despite_throttling() -> None:
    result = run_simulations(Scenario(environments=10_000, environments_per_start=10))
    assert result.throttled > 0.2
    assert result.not_served == 0
    assert result.delay_p99 < 10


# --- what is known of policies


@pytest.mark.parametrize("interval", [0.4, 1.0, 2.0])
def test_a_fixed_interval_is_late_by_half_of_itself(interval: float) -> None:
    run = simulate(replace(CALM, migration_seconds=10.0), fixed(interval), seed=1)
    assert run.committed_at is not None
    delays = [
        start.served_at - run.committed_at
        for start in find_waiters(run)
        if start.served_at is not None
    ]
    assert sum(delays) / len(delays) == pytest.approx(interval / 2, rel=0.1)
    assert max(delays) <= interval + 0.05


def test_a_fixed_interval_reads_once_for_each_interval_of_the_wait() -> None:
    result = run_simulations(replace(CALM, migration_seconds=20.0), fixed(0.5))
    assert result.calls_mean == pytest.approx(20 / 0.5 + 2.5, rel=0.03)


def test_half_jitter_reads_less_often_than_full_jitter_for_the_same_delay() -> None:
    full = run_simulations(replace(CALM, migration_seconds=30.0), growing(0.4, min_share=0.0))
    half = run_simulations(replace(CALM, migration_seconds=30.0), growing(0.35, min_share=0.5))
    assert half.delay_median <= full.delay_median * 1.1
    assert half.calls_mean < full.calls_mean * 0.8


# --- the world


def test_one_seed_is_one_history() -> None:
    first, again = (simulate(Scenario(environments=50), LIBRARY, seed=7) for _ in range(2))
    other = simulate(Scenario(environments=50), LIBRARY, seed=8)
    assert first.starts == again.starts
    assert first.starts != other.starts


def test_one_environment_holds_the_lease_and_all_serve_after_the_commit() -> None:
    run = simulate(CALM, LIBRARY, seed=1)
    assert run.committed_at is not None
    assert sum(start.has_held_lease for start in run.starts) == len(run.acquired_at) == 1
    assert all(
        start.served_at is not None and start.served_at > run.committed_at for start in run.starts
    )


def test_late_start_reads_once_and_serves() -> None:
    ramp = replace(CALM, environments=2_000, is_ramp=True, migration_seconds=3.0)
    run = simulate(ramp, LIBRARY, seed=1)
    assert run.committed_at is not None
    late = [start for start in run.starts if start.arrived_at > run.committed_at + 1.0]
    assert len(late) > 500
    assert {start.calls for start in late} == {1}
    assert not any(start.has_waited for start in late)


def test_waiter_uses_two_consistent_reads_and_cheap_polls() -> None:
    run = simulate(replace(CALM, environments=2, start_spread_seconds=0.01), LIBRARY, seed=1)
    (waiter,) = find_waiters(run)
    bids = len(run.acquired_at) - 1
    polls = waiter.calls - bids - 2
    assert polls > 4
    assert run.partition.read_units == 3 * CONSISTENT_READ_UNITS + polls * READ_UNITS


def test_live_holder_keeps_its_lease() -> None:
    run = simulate(replace(CALM, environments=50, migration_seconds=600.0), LIBRARY, seed=1)
    assert len(run.acquired_at) == 1


def test_the_partition_serves_no_more_than_its_limit() -> None:
    run = simulate(SERVES_LITTLE, LIBRARY, seed=1)
    ended = max(start.served_at or 0.0 for start in run.starts)
    seconds = run.partition.read_units / 100 + run.partition.write_units / 33
    assert run.partition.throttled > 0
    assert seconds <= ended + 1.5


def test_stale_reads_delay_and_mislead_but_never_serve_too_early() -> None:
    run = simulate(replace(CALM, stale_seconds=0.5), LIBRARY, seed=1)
    assert run.committed_at is not None
    waited = find_waiters(run)
    assert min(start.served_at or 0.0 for start in waited) >= run.committed_at
    assert summarize([run]).delay_median > run_simulations(CALM).delay_median


def test_a_scaled_simulation_gives_the_same_results() -> None:
    every = Scenario(environments=2_000, migration_seconds=1.0, partition_read_units=1_500.0)
    whole = run_simulations(every)
    tenth = run_simulations(replace(every, environments_per_start=10), repetitions=4)
    assert tenth.calls_mean == pytest.approx(whole.calls_mean, rel=0.1)
    assert tenth.delay_median == pytest.approx(whole.delay_median, rel=0.15)
    assert tenth.peak_units == pytest.approx(whole.peak_units, rel=0.15)
    assert tenth.dollars == pytest.approx(whole.dollars, rel=0.1)


# --- arrivals


def test_lambdas_ramp_is_a_thousand_at_once_and_then_a_hundred_a_second() -> None:
    at = make_start_times(
        Scenario(environments=3_000, is_ramp=True, start_spread_seconds=0.0), Random(1)
    )
    assert sum(moment == 0 for moment in at) == RAMP_BURST + 1
    assert at[-1] == pytest.approx((3_000 - RAMP_BURST) / RAMP_RATE, abs=0.02)


def test_simultaneous_starts_differ_only_by_their_process_start() -> None:
    at = make_start_times(Scenario(environments=500, start_spread_seconds=0.3), Random(1))
    assert 0 <= at[0] <= at[-1] < 0.3
