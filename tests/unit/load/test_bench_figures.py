"""Medians, ratios and percentiles of measurements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.bench.figures import format_number, format_spread, percentile, ratios, spread

SIZES = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)


@given(st.lists(SIZES, min_size=1))
def test_a_median_lies_within_its_range(values: list[float]) -> None:
    found = spread(values)
    assert found.low <= found.median <= found.high


def test_nothing_measured_has_no_spread_and_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 50)


def test_a_ratio_is_taken_within_each_round() -> None:
    assert ratios([2, 5], [10, 25]) == [0.2, 0.2]


def test_a_round_in_which_the_other_cost_nothing_has_no_ratio() -> None:
    assert ratios([2, 2], [0, 10]) == [0.2]


def test_rounds_must_be_complete() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios([12], [20, 40])


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)]
)
def test_a_percentile_is_one_of_the_values(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


@given(st.lists(SIZES, min_size=1), st.floats(min_value=0, max_value=100))
def test_that_share_of_the_values_does_not_exceed_a_percentile(
    values: list[float], percent: float
) -> None:
    found = percentile(values, percent)
    within = sum(value <= found for value in values)
    assert within >= percent / 100 * len(values) - 1e-9


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.01234, "0.0123"), (12.34, "12.3"), (99.96, "100"), (1234.4, "1,234")],
)
def test_a_number_has_three_significant_digits(value: float, shown: str) -> None:
    assert format_number(value) == shown


def test_a_spread_shows_its_range_unless_all_values_are_the_same() -> None:
    assert format_spread([2, 1, 4]) == "2 (1 to 4)"
    assert format_spread([7, 7]) == "7"
