"""The server's clock, as the ``Date`` of its answers has it."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_migrate.lease.calling import clock_offset_ms


@given(seconds=st.integers(0, 4_102_444_800), offset_ms=st.integers(3_000, 10**10))
def test_a_difference_is_found_as_the_standard_library_would_count_it(
    seconds: int, offset_ms: int
) -> None:
    date = formatdate(seconds, usegmt=True)
    assert clock_offset_ms(date, seconds * 1000 + 500 - offset_ms) == offset_ms
    assert clock_offset_ms(date, seconds * 1000 + 500 + offset_ms) == -offset_ms


@given(seconds=st.integers(0, 4_102_444_800), travelled_ms=st.integers(0, 999))
def test_clocks_that_agree_differ_by_nothing(seconds: int, travelled_ms: int) -> None:
    for late in (0, 500, 1_000):
        now = seconds * 1000 + travelled_ms + late
        assert clock_offset_ms(formatdate(seconds, usegmt=True), now) == 0


@pytest.mark.parametrize(
    "date",
    [
        "",
        "today",
        "Thu, 15 Mar 2012 23:56:23 CET",
        "Thu, 15 Mär 2012 23:56:23 GMT",
        "Thu, 15 Foo 2012 23:56:23 GMT",
        "Thursday, 15-Mar-12 23:56 GMT",
        "Thu, xx Mar 2012 23:56:23 GMT",
    ],
)
def test_what_is_no_date_says_nothing(date: str) -> None:
    assert clock_offset_ms(date, 0) is None
