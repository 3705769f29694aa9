"""The server's clock is read from the ``Date`` of its responses."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_migrate.lease.dynamodb_call import ServerClock
from lambda_migrate.testing import FakeClock

SECONDS = st.integers(0, 4_102_444_800)


def clocks_after(date: str, wall_ms: int) -> tuple[FakeClock, ServerClock]:
    """Our clock, and the server's after a response that has just come."""
    clock = FakeClock(wall_ms=wall_ms)
    server = ServerClock(clock)
    server.update(date)
    return clock, server


@given(seconds=SECONDS, offset_ms=st.integers(3_000, 10**10))
def test_the_date_is_parsed_as_the_standard_library_parses_it(seconds: int, offset_ms: int) -> None:
    date = formatdate(seconds, usegmt=True)
    assert clocks_after(date, seconds * 1000 + 500 - offset_ms)[1].offset_ms == offset_ms
    assert clocks_after(date, seconds * 1000 + 500 + offset_ms)[1].offset_ms == -offset_ms


@given(seconds=SECONDS, delay_ms=st.integers(0, 999))
def test_clocks_that_agree_have_no_offset(seconds: int, delay_ms: int) -> None:
    for late in (0, 500, 1_000):
        now = seconds * 1000 + delay_ms + late
        assert clocks_after(formatdate(seconds, usegmt=True), now)[1].offset_ms == 0


@given(seconds=SECONDS, passed=st.integers(0, 10_000), step=st.integers(3, 10_000))
def test_setting_our_clock_is_noticed_before_the_next_response(
    seconds: int, passed: int, step: int
) -> None:
    for jump in (step, -step):
        clock, server = clocks_after(formatdate(seconds, usegmt=True), seconds * 1000 + 500)
        clock.advance(passed)
        assert server.offset_ms == 0
        clock.step_wall_clock(jump)
        assert server.offset_ms == -jump * 1000


def test_a_wrong_clock_that_is_set_right_is_not_corrected_twice() -> None:
    clock, server = clocks_after(formatdate(1_700_000_840, usegmt=True), 1_700_000_000_500)
    assert server.offset_ms == 840_000
    clock.step_wall_clock(840)
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
def test_any_other_text_than_a_date_is_ignored(date: str) -> None:
    _, server = clocks_after(date, 0)
    assert server.offset_ms == 0
    server.update("Thu, 01 Jan 1970 00:01:00 GMT")
    server.update(date)
    assert server.offset_ms == 60_500
