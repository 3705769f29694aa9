"""How long a waiter sleeps: bounded, spread, and not past the end of the lease."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lambda_migrate.lease.backoff import (
    DELAY_GROWTH,
    INITIAL_DELAY_SECONDS,
    MAX_DELAY_AFTER_ERROR_SECONDS,
    MAX_DELAY_SECONDS,
    MAX_EARLY_DELAY_SECONDS,
    Backoff,
)
from lambda_migrate.lease.record import CLOCK_SKEW_MS, LeaseState
from lambda_migrate.settings import Settings
from lambda_migrate.testing import FixedRandom

NOW = 1_700_000_000_000
ALMOST_ONE = 1 - 2**-53

waited_seconds = st.floats(0, 1e9)
rolls = st.floats(0, ALMOST_ONE)
milliseconds = st.integers(-(10**9), 10**9)
failure_counts = st.integers(0, 10**6)


def held_for(left_ms: int) -> LeaseState:
    return LeaseState(1, "other", NOW + left_ms)


def delay(
    waited: float, roll: float, state: LeaseState | None = None, *, failures: int = 0
) -> float:
    backoff = Backoff(FixedRandom(roll))
    return backoff.delay(waited, state=state, now_ms=NOW, error_count=failures)


def bound(waited: float, state: LeaseState | None = None, *, failures: int = 0) -> float:
    return delay(waited, ALMOST_ONE, state, failures=failures)


# --- bounded


@given(waited=waited_seconds, roll=rolls, left_ms=milliseconds)
@settings(deadline=None)
def test_a_delay_is_above_zero_and_never_above_the_maximum(
    waited: float, roll: float, left_ms: int
) -> None:
    assert 0 < delay(waited, roll) <= MAX_DELAY_SECONDS
    assert 0 < delay(waited, roll, held_for(left_ms)) <= MAX_DELAY_SECONDS


@given(waited=waited_seconds, roll=rolls, failures=failure_counts)
@settings(deadline=None)
def test_failures_never_raise_a_delay_above_their_own_maximum(
    waited: float, roll: float, failures: int
) -> None:
    assert 0 < delay(waited, roll, failures=failures) <= MAX_DELAY_AFTER_ERROR_SECONDS


@given(waited=waited_seconds)
@settings(deadline=None)
def test_a_delay_is_at_most_a_share_of_the_time_waited(waited: float) -> None:
    assert bound(waited) <= max(MAX_EARLY_DELAY_SECONDS, DELAY_GROWTH * waited)


@pytest.mark.parametrize(
    ("waited", "expected"),
    [
        (0.0, INITIAL_DELAY_SECONDS),
        (0.1, INITIAL_DELAY_SECONDS + 0.1),
        (1.0, MAX_EARLY_DELAY_SECONDS),
        (MAX_EARLY_DELAY_SECONDS / DELAY_GROWTH, MAX_EARLY_DELAY_SECONDS),
        (10.0, 10 * DELAY_GROWTH),
        (MAX_DELAY_SECONDS / DELAY_GROWTH, MAX_DELAY_SECONDS),
        (1e9, MAX_DELAY_SECONDS),
    ],
)
def test_the_bound_starts_short_stays_level_and_then_grows_to_a_maximum(
    waited: float, expected: float
) -> None:
    assert bound(waited) == pytest.approx(expected)


@given(first=waited_seconds, second=waited_seconds, failures=failure_counts)
@settings(deadline=None)
def test_the_bound_never_shrinks_with_the_time_waited(
    first: float, second: float, failures: int
) -> None:
    assume(first <= second)
    assert bound(first, failures=failures) <= bound(second, failures=failures)


def test_even_the_longest_delay_is_shorter_than_the_time_that_waiting_may_take() -> None:
    assert Settings().wait_seconds > MAX_DELAY_AFTER_ERROR_SECONDS


# --- spread


@given(waited=waited_seconds, roll=rolls, failures=failure_counts)
@settings(deadline=None)
def test_half_of_each_delay_is_random(waited: float, roll: float, failures: int) -> None:
    low, high = delay(waited, 0.0, failures=failures), bound(waited, failures=failures)
    assert low == pytest.approx(high / 2)
    assert delay(waited, roll, failures=failures) == pytest.approx(low + (high - low) * roll)


# --- the end of the lease


@given(waited=waited_seconds, roll=rolls, left=st.integers(0, 10**9))
@settings(deadline=None)
def test_no_waiter_sleeps_long_past_the_moment_when_the_lease_may_have_expired(
    waited: float, roll: float, left: int
) -> None:
    over = (left + CLOCK_SKEW_MS + 1) / 1000
    slept = delay(waited, roll, held_for(left))
    assert slept == delay(waited, roll) or over <= slept <= over + INITIAL_DELAY_SECONDS


@pytest.mark.parametrize("left_ms", [-CLOCK_SKEW_MS - 1, -10_000, -(10**9)])
def test_an_expired_lease_shortens_no_delay(left_ms: int) -> None:
    assert bound(600.0, held_for(left_ms)) == bound(600.0)


# --- a table that cannot keep up


@pytest.mark.parametrize(
    ("failures", "doublings"), [(0, 0), (1, 1), (2, 2), (3, 3), (5, 5), (6, 99), (10**9, 99)]
)
def test_the_delay_doubles_with_each_failed_read_up_to_a_maximum(
    failures: int, doublings: int
) -> None:
    doubled = min(MAX_DELAY_AFTER_ERROR_SECONDS, MAX_EARLY_DELAY_SECONDS * 2**doublings)
    assert bound(1.0, failures=failures) == pytest.approx(doubled)


@given(waited=waited_seconds, failures=st.integers(1, 10**6))
@settings(deadline=None)
def test_a_failed_read_never_shortens_a_delay(waited: float, failures: int) -> None:
    assert bound(waited, failures=failures) >= bound(waited)
    assert bound(waited, failures=failures) >= bound(waited, failures=failures - 1)


@given(waited=waited_seconds, left_ms=milliseconds)
@settings(deadline=None)
def test_a_state_from_before_a_failed_read_shortens_no_delay(waited: float, left_ms: int) -> None:
    assert bound(waited, held_for(left_ms), failures=1) == bound(waited, failures=1)


@pytest.mark.parametrize("state", [None, LeaseState()], ids=["no item", "no holder"])
def test_without_a_holder_no_delay_is_shortened(state: LeaseState | None) -> None:
    assert bound(600.0, state) == bound(600.0) == pytest.approx(MAX_DELAY_SECONDS)


def test_a_thousand_waiters_stay_far_below_the_limit_of_a_partition() -> None:
    waited = reads = 0.0
    backoff = Backoff(FixedRandom(0.5))  # the mean of a uniform roll
    while waited < 900:
        waited += backoff.delay(waited)
        reads += 1
    units_a_second = 1_000 * reads / 900 / 2  # an eventually consistent read is half a unit
    assert units_a_second < 3_000 / 40
    assert 1_000 / backoff.delay(1.0) / 2 < 3_000 / 2  # at their fastest
