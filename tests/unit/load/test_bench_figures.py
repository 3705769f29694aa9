"""What several measurements say, they say without a word too many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.bench.figures import mean_interval, percentile, ratios, slope, spread
from load.bench.growth import SEEN

SIZES = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)


@given(st.lists(SIZES, min_size=1))
def test_a_median_lies_within_its_range(values: list[float]) -> None:
    found = spread(values)
    assert found.low <= found.median <= found.high
    assert found.runs == len(values)


def test_nothing_measured_has_no_spread_and_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 50)


def test_a_ratio_is_of_what_each_adds_to_the_base_of_its_own_round() -> None:
    assert ratios([12, 25], [20, 45], base=[10, 20]) == [0.2, 0.2]


def test_drift_that_hits_a_whole_round_leaves_its_ratio_alone() -> None:
    quiet, busy = ratios([12, 24], [20, 40], base=[10, 20])
    assert quiet == busy


def test_a_round_in_which_the_other_added_nothing_has_no_ratio() -> None:
    assert ratios([12, 12], [10, 20], base=[10, 10]) == [0.2]


def test_rounds_belong_together() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios([12], [20, 40], base=[10, 20])


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)]
)
def test_a_percentile_is_one_of_the_values(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


@given(st.lists(SIZES, min_size=1), st.floats(min_value=0, max_value=100))
def test_so_many_in_a_hundred_do_not_exceed_a_percentile(
    values: list[float], percent: float
) -> None:
    found = percentile(values, percent)
    within = sum(value <= found for value in values)
    assert within >= percent / 100 * len(values) - 1e-9


def test_what_stays_the_same_has_no_slope() -> None:
    assert slope([0, 50, 100], [4096, 4096, 4096]) == 0


def test_a_slope_is_the_growth_of_one_call() -> None:
    assert slope([0, 50, 100], [1000, 1150, 1300]) == pytest.approx(3)


def test_an_interval_is_students() -> None:
    found = mean_interval([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.high - found.mean == pytest.approx(4.303 / 3**0.5)
    assert found.mean - found.low == pytest.approx(4.303 / 3**0.5)


def test_between_two_degrees_the_wider_interval_is_taken() -> None:
    values = [float(n % 2) for n in range(13)]
    with_12, with_10 = mean_interval(values), mean_interval(values[:11])
    assert with_12.high > with_12.mean
    assert (with_10.high - with_10.mean) > (with_12.high - with_12.mean)


def test_one_measurement_has_no_interval() -> None:
    with pytest.raises(ValueError, match="no interval"):
        mean_interval([1.0])


@pytest.mark.parametrize(
    ("slopes", "grows"),
    [
        ([0.0, 0.0, 0.0], False),
        ([5.0, -4.0, 1.0], False),
        ([-3.0, -3.1, -2.9], False),
        ([30.0, 0.0, 0.0], False),
        ([0.3, 0.3, 0.3], False),
        ([16.0, 16.1, 15.9], True),
    ],
)
def test_an_object_left_behind_by_each_call_is_growth_and_chance_is_not(
    slopes: list[float], grows: bool
) -> None:
    assert (mean_interval(slopes).low > SEEN) is grows
