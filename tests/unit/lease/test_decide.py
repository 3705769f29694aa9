"""What a starting instance does next, for every reading of the item that there can be."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_migrate.lease.decide import (
    LONGEST_LEASE_MS,
    LONGEST_PAUSE_MS,
    SKEW_MS,
    Acquire,
    Refuse,
    Serve,
    Step,
    Wait,
    Watch,
    decide,
    lease_is_over,
)
from lambda_migrate.lease.state import Failure, LeaseState, Ready

NOW = 1_700_000_000_000
ME, OTHER = "me", "other"
MINE, OLDER = "mine", "older"
HERE, ELSEWHERE = "here:5432/orders", "elsewhere:5432/orders"

READY = {MINE: Ready(NOW - 1, 3)}
FREE = LeaseState(fence=4)
HELD = LeaseState(fence=4, owner=OTHER, lease_until_ms=NOW + 5_000)
OVER = replace(HELD, lease_until_ms=NOW - SKEW_MS - 1)
OWN = replace(HELD, owner=ME)


def failed(digest: str = MINE, retry_in_ms: int = 5_000) -> Failure:
    return Failure(digest, "0003_c", 3, "42P01", "no such table", 1, NOW - 1, NOW + retry_in_ms)


def step(
    state: LeaseState, *, now_ms: int = NOW, may_migrate: bool = True, watched: bool = False
) -> Step:
    return decide(
        state,
        digest=MINE,
        database=HERE,
        owner=ME,
        now_ms=now_ms,
        may_migrate=may_migrate,
        watched=watched,
    )


PAUSED = replace(FREE, failure=failed())
IN_OTHERS_HANDS = replace(HELD, failure=failed())

TABLE: dict[str, tuple[LeaseState, Step]] = {
    "nothing is there": (LeaseState(), Acquire()),
    "nobody holds it": (FREE, Acquire()),
    "it is ready": (replace(FREE, ready=READY, database=HERE), Serve()),
    "it is ready, and somebody migrates on": (replace(HELD, ready=READY, database=HERE), Serve()),
    "it is ready, and newer code failed": (
        replace(FREE, ready=READY, database=HERE, failure=failed("newer")),
        Serve(),
    ),
    "it is ready, though it failed before": (
        replace(FREE, ready=READY, database=HERE, failure=failed()),
        Serve(),
    ),
    "another database is ready": (replace(FREE, ready=READY, database=ELSEWHERE), Acquire()),
    "it is ready, nobody knows where": (replace(FREE, ready=READY), Acquire()),
    "an older manifest is ready": (
        replace(FREE, ready={OLDER: Ready(NOW, 2)}, database=HERE),
        Acquire(),
    ),
    "it failed a moment ago": (PAUSED, Refuse(failed())),
    "it failed, and somebody is at it": (IN_OTHERS_HANDS, Refuse(failed())),
    "it failed, and the pause ends now": (replace(FREE, failure=failed(retry_in_ms=0)), Acquire()),
    "it failed, the pause is over": (replace(FREE, failure=failed(retry_in_ms=-1)), Acquire()),
    "it failed, and has 1 ms to go": (
        replace(FREE, failure=failed(retry_in_ms=1)),
        Refuse(failed(retry_in_ms=1)),
    ),
    "it failed, for the longest pause": (
        replace(FREE, failure=failed(retry_in_ms=LONGEST_PAUSE_MS)),
        Refuse(failed(retry_in_ms=LONGEST_PAUSE_MS)),
    ),
    "it failed, by a clock that is far ahead": (
        replace(FREE, failure=failed(retry_in_ms=LONGEST_PAUSE_MS + 1)),
        Acquire(),
    ),
    "another manifest failed": (replace(FREE, failure=failed(OLDER)), Acquire()),
    "another manifest failed, somebody is at it": (
        replace(HELD, failure=failed(OLDER)),
        Wait(replace(HELD, failure=failed(OLDER))),
    ),
    "somebody holds it": (HELD, Wait(HELD)),
    "a lease ends now": (
        replace(HELD, lease_until_ms=NOW),
        Wait(replace(HELD, lease_until_ms=NOW)),
    ),
    "a lease ended a margin ago": (
        replace(HELD, lease_until_ms=NOW - SKEW_MS),
        Wait(replace(HELD, lease_until_ms=NOW - SKEW_MS)),
    ),
    "a lease ended more than a margin ago": (OVER, Acquire(OVER)),
    "it is mine, by a write whose answer was lost": (OWN, Acquire()),
    "it was mine, and is over": (replace(OVER, owner=ME), Acquire()),
}


@pytest.mark.parametrize(("state", "expected"), TABLE.values(), ids=TABLE)
def test_each_reading_has_one_step(state: LeaseState, expected: Step) -> None:
    assert step(state) == expected


@pytest.mark.parametrize(("state", "expected"), TABLE.values(), ids=TABLE)
def test_who_may_not_migrate_waits_where_others_would_acquire(
    state: LeaseState, expected: Step
) -> None:
    wanted = Wait(state) if isinstance(expected, Acquire) else expected
    assert step(state, may_migrate=False) == wanted


@pytest.mark.parametrize(("state", "expected"), TABLE.values(), ids=TABLE)
def test_having_watched_a_lease_changes_a_step_only_where_somebody_else_holds_it(
    state: LeaseState, expected: Step
) -> None:
    held = state.owner == OTHER and isinstance(expected, Wait | Acquire)
    assert step(state, watched=True) == (Acquire(state, watched=True) if held else expected)


def test_a_watched_lease_is_not_taken_by_who_may_not_migrate() -> None:
    assert step(HELD, may_migrate=False, watched=True) == Wait(HELD)


@pytest.mark.parametrize(
    ("is_ready", "is_failed", "holder", "may_migrate"),
    list(product([True, False], [True, False], [None, ME, OTHER], [True, False])),
)
def test_readiness_beats_failure_beats_holder_beats_mode(
    is_ready: bool, is_failed: bool, holder: str | None, may_migrate: bool
) -> None:
    state = replace(
        HELD if holder else FREE,
        owner=holder,
        ready=READY if is_ready else {},
        database=HERE,
        failure=failed() if is_failed else None,
    )
    if is_ready:
        expected: type[Step] = Serve
    elif is_failed:
        expected = Refuse
    elif holder == OTHER or not may_migrate:
        expected = Wait
    else:
        expected = Acquire
    assert isinstance(step(state, may_migrate=may_migrate), expected)


@given(until=st.integers(0, 2 * NOW), now=st.integers(0, 2 * NOW), skew=st.integers(0, SKEW_MS))
@settings(deadline=None)
def test_a_clock_that_is_ahead_by_the_margin_ends_no_lease(until: int, now: int, skew: int) -> None:
    if now <= until:
        assert not lease_is_over(LeaseState(1, OTHER, until), now + skew)


@given(wait_ms=st.integers(0, 10**13), behind_ms=st.integers(0, 15 * 60_000))
@settings(deadline=None)
def test_a_clock_that_is_behind_only_waits_longer(wait_ms: int, behind_ms: int) -> None:
    """By up to a quarter of an hour; beyond that it may take a lease for one that cannot be."""
    late, right = (step(HELD, now_ms=NOW + wait_ms - b) for b in (behind_ms, 0))
    assert isinstance(right, Acquire) or isinstance(late, Wait)


# --- watching


LEASE = 20.0
WHOLE = LEASE + SKEW_MS / 1000


def test_a_first_look_has_watched_nothing() -> None:
    assert not Watch(LEASE).unchanged(HELD, 10**6)


@pytest.mark.parametrize(
    ("after", "is_unchanged"), [(0.0, False), (WHOLE, False), (WHOLE + 0.001, True), (3600, True)]
)
def test_a_lease_is_watched_for_its_whole_length_and_a_margin(
    after: float, is_unchanged: bool
) -> None:
    watch = Watch(LEASE)
    watch.unchanged(HELD, 0.0)
    assert watch.unchanged(HELD, after) is is_unchanged


@pytest.mark.parametrize(
    "changed",
    [
        replace(HELD, lease_until_ms=HELD.lease_until_ms + 1),
        replace(HELD, fence=5),
        replace(HELD, owner="a third"),
        FREE,
    ],
    ids=["renewed", "taken again", "taken by another", "given back"],
)
def test_a_lease_that_changes_is_watched_anew(changed: LeaseState) -> None:
    watch = Watch(LEASE)
    watch.unchanged(HELD, 0.0)
    assert not watch.unchanged(changed, WHOLE + 1)
    assert not watch.unchanged(changed, 2 * WHOLE)
    assert watch.unchanged(changed, 2 * WHOLE + 1.001)


def test_what_a_holder_publishes_without_renewing_is_no_renewal() -> None:
    watch = Watch(LEASE)
    watch.unchanged(HELD, 0.0)
    assert watch.unchanged(replace(HELD, ready=READY, database=HERE), WHOLE + 1)


def test_a_stale_reading_starts_the_watch_again() -> None:
    renewed = replace(HELD, lease_until_ms=HELD.lease_until_ms + 1)
    watch = Watch(LEASE)
    for now, seen in enumerate([HELD, renewed, HELD, renewed]):
        assert not watch.unchanged(seen, now * WHOLE)


def test_a_lease_longer_than_any_keeps_nobody_waiting() -> None:
    planted = replace(HELD, lease_until_ms=NOW + LONGEST_LEASE_MS + 1)
    assert step(planted) == Acquire(planted, watched=True)
    assert step(planted, may_migrate=False) == Wait(planted)
    longest = replace(HELD, lease_until_ms=NOW + LONGEST_LEASE_MS)
    assert step(longest) == Wait(longest)


def test_a_free_item_is_free_whatever_else_it_says() -> None:
    odd = replace(FREE, lease_until_ms=NOW + LONGEST_LEASE_MS + 1)
    assert step(odd) == Acquire()
