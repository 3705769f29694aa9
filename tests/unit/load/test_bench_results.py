"""A verdict follows from the figure and its bar alone."""

from __future__ import annotations

import pytest

from load.bench.results import Check, Section, Verdict, missed


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0.1, Verdict.PASS), (0.15, Verdict.PASS), (0.1501, Verdict.MISS), (None, "NOT MEASURED")],
)
def test_a_value_equal_to_its_bar_passes(value: float | None, verdict: str) -> None:
    assert Check("a ratio", limit=0.15, value=value).verdict == verdict


def test_a_bar_of_zero_allows_only_zero() -> None:
    assert Check("failed", limit=0, value=0).verdict is Verdict.PASS
    assert Check("failed", limit=0, value=1).verdict is Verdict.MISS


def test_a_check_that_was_not_measured_counts_as_missed() -> None:
    kept, lost, unknown = (Check("it", limit=1, value=value) for value in (1, 2, None))
    section = Section("key", "Title", [kept, lost, unknown])
    assert missed([section]) == [lost, unknown]


def test_a_figure_shows_its_range_and_its_unit() -> None:
    check = Check("it", limit=3, value=2.5, unit="MB", range=(2.0, 3.25))
    assert check.measured == "2.5 MB (2 to 3.25)"
    assert check.allowed == "3 MB"


def test_a_figure_that_is_missing_is_a_dash() -> None:
    assert Check("it", limit=8, value=None).measured == "-"


def test_the_json_report_has_the_verdicts() -> None:
    section = Section("key", "Title", [Check("it", limit=1, value=2)])
    assert section.as_json()["checks"][0]["verdict"] == "MISS"
