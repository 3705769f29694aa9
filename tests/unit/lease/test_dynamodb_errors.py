"""The server's clock, as the ``Date`` of its answers has it."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_migrate.lease.dynamodb_errors import ServerClock
from lambda_migrate.testing import FakeClock

SECONDS = st.integers(0, 4_102_444_800)


def noted(date: str, wall_ms: int) -> tuple[FakeClock, ServerClock]:
    """Our clock, and what is known of the server's from an answer that has just come."""
    clock = FakeClock(wall_ms=wall_ms)
    server = ServerClock(clock)
    server.update(date)
    return clock, server


@given(seconds=SECONDS, offset_ms=st.integers(3_000, 10**10))
def test_a_difference_is_found_as_the_standard_library_would_count_it(
    seconds: int, offset_ms: int
) -> None:
    date = formatdate(seconds, usegmt=True)
    assert noted(date, seconds * 1000 + 500 - offset_ms)[1].offset_ms == offset_ms
    assert noted(date, seconds * 1000 + 500 + offset_ms)[1].offset_ms == -offset_ms


@given(seconds=SECONDS, travelled_ms=st.integers(0, 999))
def test_clocks_that_agree_differ_by_nothing(seconds: int, travelled_ms: int) -> None:
    for late in (0, 500, 1_000):
        now = seconds * 1000 + travelled_ms + late
        assert noted(formatdate(seconds, usegmt=True), now)[1].offset_ms == 0


@given(seconds=SECONDS, passed=st.integers(0, 10_000), step=st.integers(3, 10_000))
def test_a_step_of_our_clock_is_seen_before_the_next_answer(
    seconds: int, passed: int, step: int
) -> None:
    for way in (step, -step):
        clock, server = noted(formatdate(seconds, usegmt=True), seconds * 1000 + 500)
        clock.advance(passed)
        assert server.offset_ms == 0
        clock.jump(way)
        assert server.offset_ms == -way * 1000


def test_a_wrong_clock_that_is_corrected_is_not_corrected_twice() -> None:
    clock, server = noted(formatdate(1_700_000_840, usegmt=True), 1_700_000_000_500)
    assert server.offset_ms == 840_000
    clock.jump(840)
    assert server.offset_ms == 0


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
    _, server = noted(date, 0)
    assert server.offset_ms == 0
    server.update("Thu, 01 Jan 1970 00:01:00 GMT")
    server.update(date)
    assert server.offset_ms == 60_500
