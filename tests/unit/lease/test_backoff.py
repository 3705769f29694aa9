"""How long a waiter sleeps: bounded, spread, and no longer than the holder needs."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lambda_migrate.lease.backoff import CAP_SECONDS, FIRST_SECONDS, GROWTH, Backoff
from lambda_migrate.lease.state import LeaseState, Progress
from lambda_migrate.testing import FixedRandom

NOW = 1_700_000_000_000
ALMOST_ONE = 1 - 2**-53

waiting = st.floats(0, 10_000)
chance = st.floats(0, ALMOST_ONE)
milliseconds = st.integers(-(10**9), 10**9)


def busy(remaining_ms: int | None, *, started_ms: int = NOW) -> LeaseState:
    return LeaseState(1, "other", NOW, progress=Progress("0001_a", 0, 1, started_ms, remaining_ms))


def bound(waited: float, state: LeaseState | None = None) -> float:
    return Backoff(FixedRandom(ALMOST_ONE)).delay(waited, state=state, now_ms=NOW)


@given(waited=waiting, roll=chance, remaining=st.none() | milliseconds)
@settings(deadline=None)
def test_a_delay_is_never_negative_and_never_above_the_cap(
    waited: float, roll: float, remaining: int | None
) -> None:
    delay = Backoff(FixedRandom(roll)).delay(waited, state=busy(remaining), now_ms=NOW)
    assert 0 <= delay <= CAP_SECONDS


@given(waited=waiting)
@settings(deadline=None)
def test_a_waiter_comes_back_late_by_a_share_of_what_it_has_waited(waited: float) -> None:
    assert bound(waited) <= max(FIRST_SECONDS, GROWTH * waited)


@given(waited=waiting, roll=chance)
@settings(deadline=None)
def test_jitter_is_full(waited: float, roll: float) -> None:
    delay = Backoff(FixedRandom(roll)).delay(waited)
    assert delay == pytest.approx(bound(waited) * roll)


@given(first=waiting, second=waiting)
@settings(deadline=None)
def test_who_has_waited_longer_sleeps_no_less(first: float, second: float) -> None:
    assume(first <= second)
    assert bound(first) <= bound(second)


@given(waited=waiting, remaining=milliseconds)
@settings(deadline=None)
def test_known_progress_only_ever_shortens_a_delay(waited: float, remaining: int) -> None:
    assert bound(waited, busy(remaining)) <= bound(waited)


@given(waited=waiting, remaining=st.integers(1, 10**9))
@settings(deadline=None)
def test_nobody_sleeps_past_the_expected_end_by_more_than_a_first_delay(
    waited: float, remaining: int
) -> None:
    assert bound(waited, busy(remaining)) <= max(FIRST_SECONDS, remaining / 1000)


@pytest.mark.parametrize(
    "state",
    [
        None,
        LeaseState(),
        busy(None),
        busy(0),
        busy(-5),
        busy(1_000, started_ms=NOW - 1_000),
        busy(1_000, started_ms=NOW - 3_600_000),
    ],
    ids=["no item", "no holder", "unknown", "none left", "below none", "just over", "long over"],
)
def test_an_estimate_that_is_missing_or_over_says_nothing(state: LeaseState | None) -> None:
    assert bound(60.0, state) == bound(60.0) == pytest.approx(CAP_SECONDS)


def test_a_thousand_waiters_stay_far_below_what_one_partition_sustains() -> None:
    waited = reads = 0.0
    backoff = Backoff(FixedRandom(0.5))  # the mean of a uniform roll
    while waited < 900:
        waited += backoff.delay(waited)
        reads += 1
    units_a_second = 1_000 * reads / 900 / 2  # an eventually consistent read is half a unit
    assert units_a_second < 3_000 / 8


@pytest.mark.parametrize(
    ("failures", "bound"), [(1, 0.4), (2, 0.8), (4, 3.2), (6, 8.0), (999, 8.0)]
)
def test_reads_that_fail_come_back_ever_later_up_to_a_bound(failures: int, bound: float) -> None:
    almost_one = FixedRandom(0.999999)
    assert Backoff(almost_one).delay(0.0, failures=failures) == pytest.approx(bound, rel=1e-3)
