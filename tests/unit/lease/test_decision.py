"""The next step of a starting instance, for every possible reading of the item."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_migrate.lease.decision import (
    MAX_FAILURE_PAUSE_MS,
    MAX_LEASE_MS,
    REQUIRED_TIME_FACTOR,
    Acquire,
    BlockByFlags,
    Decision,
    LeaseExpiryTracker,
    Permission,
    Refuse,
    Serve,
    Wait,
    decide,
    is_lease_expired,
)
from lambda_migrate.lease.progress import Failure
from lambda_migrate.lease.record import CLOCK_SKEW_MS, DatabaseRecord, LeaseState, join_digests

NOW = 1_700_000_000_000
ME, OTHER = "me", "other"
DIGEST, OLDER, NEWER = "ab" * 32, "cd" * 32, "ef" * 32
HERE, ELSEWHERE = "here:5432/orders", "elsewhere:5432/orders"

READY = DatabaseRecord(
    ready_digests=join_digests([OLDER, DIGEST]),
    addresses={HERE: (2, 3)},
    fence=3,
    owner=OTHER,
    at_ms=NOW - 1,
)
FREE = LeaseState(fence=4)
HELD = LeaseState(fence=4, owner=OTHER, lease_until_ms=NOW + 5_000, lease_ms=20_000)
EXPIRED = HELD._replace(lease_until_ms=NOW - CLOCK_SKEW_MS - 1)
OWN_LEASE = HELD._replace(owner=ME)


MAY_MIGRATE = Permission()
REQUIRE = Permission("require")
SWITCHED_OFF = Permission("off")
PAUSED_BY_FLAG = Permission(is_paused=True)


def with_record(state: LeaseState, record: DatabaseRecord) -> LeaseState:
    return state._replace(databases={"one": record})


def failed(digest: str = DIGEST, retry_in_ms: int = 5_000) -> Failure:
    return Failure(digest, "0003_c", "3", "42P01", "no such table", 1, NOW - 1, NOW + retry_in_ms)


def step(
    state: LeaseState,
    *,
    now_ms: int = NOW,
    remaining_ms: int = 60_000,
    length: int = 3,
    permission: Permission = MAY_MIGRATE,
    is_expired: bool = False,
    is_database_current: bool = False,
    fence_at_inspection: int | None = None,
    has_lost_acquisition: bool = False,
) -> Decision:
    return decide(
        state,
        digest=DIGEST,
        address=HERE,
        owner=ME,
        now_ms=now_ms,
        remaining_ms=remaining_ms,
        manifest_length=length,
        permission=permission,
        is_expired=is_expired,
        is_database_current=is_database_current,
        fence_at_inspection=fence_at_inspection,
        has_lost_acquisition=has_lost_acquisition,
    )


FAILED = FREE._replace(failure=failed())
FAILED_AND_HELD = HELD._replace(failure=failed())

OLDER_READY = READY._replace(addresses={HERE: (1, 3)})
"""Of what the database satisfies only the shorter manifest was confirmed through this address."""

READY_STATES: dict[str, LeaseState] = {
    "it is ready": with_record(FREE, READY),
    "it is ready, and another process migrates on": with_record(HELD, READY),
    "it is ready, and newer code failed": with_record(FREE._replace(failure=failed(NEWER)), READY),
    "it is ready, though it failed before": with_record(FREE._replace(failure=failed()), READY),
    "it is ready, and so are newer ones": with_record(
        FREE,
        READY._replace(
            ready_digests=join_digests([OLDER, DIGEST, NEWER]), addresses={HERE: (3, 3)}
        ),
    ),
    "it is ready, and a newer one was confirmed elsewhere alone": with_record(
        FREE,
        READY._replace(
            ready_digests=join_digests([OLDER, DIGEST, NEWER]),
            addresses={HERE: (2, 3), ELSEWHERE: (3, 4)},
        ),
    ),
    "it is an older one, all that is newer being confirmed": with_record(
        FREE,
        READY._replace(
            ready_digests=join_digests([NEWER]),
            older_digests=join_digests([DIGEST]),
            addresses={HERE: (1, 3)},
        ),
    ),
}

FREE_STATES: dict[str, LeaseState] = {
    "nothing is there": LeaseState(),
    "no process holds it": FREE,
    "another database is ready": with_record(FREE, READY._replace(addresses={ELSEWHERE: (2, 3)})),
    "it is ready, through no address": with_record(FREE, READY._replace(addresses={})),
    "an older manifest is ready": with_record(
        FREE, READY._replace(ready_digests=join_digests([OLDER]))
    ),
    "it is ready, but not confirmed here": with_record(FREE, OLDER_READY),
    "it was withdrawn": with_record(FREE, READY._replace(addresses={HERE: (0, 3)})),
    "it is an older one, and what is newer is not all confirmed": with_record(
        FREE,
        READY._replace(
            ready_digests=join_digests([OLDER, NEWER]),
            older_digests=join_digests([DIGEST]),
            addresses={HERE: (1, 3)},
        ),
    ),
    "it is an older one, and nothing is confirmed": with_record(
        FREE,
        READY._replace(
            ready_digests=b"", older_digests=join_digests([DIGEST]), addresses={HERE: (0, 3)}
        ),
    ),
    "it failed, and the pause ends now": FREE._replace(failure=failed(retry_in_ms=0)),
    "it failed, the pause is over": FREE._replace(failure=failed(retry_in_ms=-1)),
    "it failed, by a clock that is far ahead": FREE._replace(
        failure=failed(retry_in_ms=MAX_FAILURE_PAUSE_MS + 2 * CLOCK_SKEW_MS + 1)
    ),
    "another manifest failed": FREE._replace(failure=failed(OLDER)),
    "it failed through another address": FREE._replace(
        failure=failed()._replace(address=ELSEWHERE)
    ),
    "a lease ended more than a margin ago": EXPIRED,
    "it is mine, by a write whose answer was lost": OWN_LEASE,
    "it was mine, and is over": EXPIRED._replace(owner=ME),
}

FAILED_STATES: dict[str, LeaseState] = {
    "it failed a moment ago": FAILED,
    "it failed, and another process holds the lease": FAILED_AND_HELD,
    "it failed, and has 1 ms to go": FREE._replace(failure=failed(retry_in_ms=1)),
    "it failed, for the longest pause": FREE._replace(
        failure=failed(retry_in_ms=MAX_FAILURE_PAUSE_MS)
    ),
    "it failed, for the longest pause, by a clock that is a little behind": FREE._replace(
        failure=failed(retry_in_ms=MAX_FAILURE_PAUSE_MS + 2 * CLOCK_SKEW_MS)
    ),
    "it failed here, and something else failed since": FREE._replace(
        failure=failed(OLDER), older_failures=(failed(),)
    ),
    "it failed through this address": FREE._replace(failure=failed()._replace(address=HERE)),
}

HELD_STATES: dict[str, LeaseState] = {
    "another manifest failed, and another process holds it": HELD._replace(failure=failed(OLDER)),
    "another process holds it": HELD,
    "a lease ends now": HELD._replace(lease_until_ms=NOW),
    "a lease ended a margin ago": HELD._replace(lease_until_ms=NOW - CLOCK_SKEW_MS),
    "a lease ends farther ahead than any lasts": HELD._replace(
        lease_until_ms=NOW + 2 * MAX_LEASE_MS + 60_000
    ),
}

STEPS: dict[str, tuple[LeaseState, Decision]] = {
    **{name: (state, Serve()) for name, state in READY_STATES.items()},
    **{name: (state, Acquire(state)) for name, state in FREE_STATES.items()},
    **{
        name: (state, Refuse(failed_here))
        for name, state in FAILED_STATES.items()
        if (failed_here := state.find_failure(DIGEST, HERE)) is not None
    },
    **{name: (state, Wait(state)) for name, state in HELD_STATES.items()},
}


@pytest.mark.parametrize(("state", "expected"), STEPS.values(), ids=STEPS)
def test_each_reading_has_one_step(state: LeaseState, expected: Decision) -> None:
    assert step(state) == expected


@pytest.mark.parametrize(("state", "expected"), STEPS.values(), ids=STEPS)
def test_mode_require_waits_or_inspects_where_others_would_acquire(
    state: LeaseState, expected: Decision
) -> None:
    got = step(state, permission=REQUIRE)
    if isinstance(expected, Acquire):
        assert got in (Wait(state), Acquire(state, inspect_only=True))
    else:
        assert got == expected


@pytest.mark.parametrize(("state", "expected"), STEPS.values(), ids=STEPS)
def test_an_observed_expiry_changes_a_step_only_where_another_process_holds_the_lease(
    state: LeaseState, expected: Decision
) -> None:
    held = state.owner == OTHER and isinstance(expected, Wait | Acquire)
    assert step(state, is_expired=True) == (Acquire(state, is_expired=True) if held else expected)


def test_mode_require_does_not_acquire_a_lease_that_it_observed_expiring() -> None:
    assert step(HELD, permission=REQUIRE, is_expired=True) == Wait(HELD)


CHECKED_ELSEWHERE = READY._replace(addresses={ELSEWHERE: (2, 7)}, fence=7)


@pytest.mark.parametrize(
    ("state", "length", "looks"),
    [
        (FREE, 3, False),
        (with_record(FREE, CHECKED_ELSEWHERE), 3, True),
        (with_record(FREE, READY._replace(fence=9, addresses={HERE: (1, 3)})), 3, True),
        (with_record(FREE, READY._replace(fence=9, addresses={HERE: (1, 9)})), 3, False),
        (with_record(EXPIRED, CHECKED_ELSEWHERE), 3, True),
        (with_record(HELD, CHECKED_ELSEWHERE), 3, False),
        (with_record(FREE, OLDER_READY._replace(unlisted_count=40)), 39, True),
        (with_record(FREE, OLDER_READY._replace(unlisted_count=40)), 40, False),
    ],
    ids=[
        "nothing was ever checked",
        "an address that no check went through",
        "another address was checked since",
        "nothing was checked since",
        "a holder died",
        "another process holds the lease",
        "too old to be listed",
        "not too old to be listed",
    ],
)
def test_mode_require_inspects_only_where_that_may_show_something_new(
    state: LeaseState, length: int, looks: bool
) -> None:
    wanted = Acquire(state, inspect_only=True) if looks else Wait(state)
    assert step(state, permission=REQUIRE, length=length) == wanted


@pytest.mark.parametrize(
    ("is_ready", "is_failed", "holder", "may_migrate"),
    list(product([True, False], [True, False], [None, ME, OTHER], [True, False])),
)
def test_readiness_comes_before_failure_before_holder_before_mode(
    is_ready: bool, is_failed: bool, holder: str | None, may_migrate: bool
) -> None:
    state = (HELD if holder else FREE)._replace(
        owner=holder,
        databases={"one": READY} if is_ready else {},
        failure=failed() if is_failed else None,
    )
    if is_ready:
        expected: type[Decision] = Serve
    elif is_failed:
        expected = Refuse
    elif holder == OTHER or not may_migrate:
        expected = Wait
    else:
        expected = Acquire
    assert isinstance(step(state, permission=MAY_MIGRATE if may_migrate else REQUIRE), expected)


@pytest.mark.parametrize(("state", "expected"), STEPS.values(), ids=STEPS)
def test_mode_off_serves_unchecked_what_is_not_ready(state: LeaseState, expected: Decision) -> None:
    unchecked = Serve(is_schema_checked=False)
    assert step(state, permission=SWITCHED_OFF) == (
        expected if isinstance(expected, Serve) else unchecked
    )


@pytest.mark.parametrize(("state", "expected"), STEPS.values(), ids=STEPS)
def test_while_paused_only_an_acquisition_is_blocked(state: LeaseState, expected: Decision) -> None:
    blocked = BlockByFlags() if isinstance(expected, Acquire) else expected
    assert step(state, permission=PAUSED_BY_FLAG) == blocked


@pytest.mark.parametrize(
    ("state", "allowed", "is_blocked"),
    [
        (FREE, None, False),
        (FREE, OLDER, False),
        (FREE, "", True),
        (with_record(FREE, OLDER_READY), OLDER, True),
        (with_record(FREE, OLDER_READY._replace(addresses={ELSEWHERE: (2, 3)})), OLDER, False),
        (with_record(HELD, OLDER_READY), OLDER, False),
    ],
    ids=[
        "nothing is held back",
        "what is allowed is pending",
        "nothing is allowed",
        "all that is allowed is ready",
        "all that is allowed is ready elsewhere alone",
        "all that is allowed is ready, and another process holds the lease",
    ],
)
def test_a_version_that_is_held_back_blocks_once_all_before_it_is_ready(
    state: LeaseState, allowed: str | None, is_blocked: bool
) -> None:
    got = step(state, permission=Permission(allowed_digest=allowed))
    assert isinstance(got, BlockByFlags) == is_blocked


def test_an_inspection_is_not_repeated_before_another_check_was_made() -> None:
    state = with_record(FREE, CHECKED_ELSEWHERE)
    assert step(state, permission=REQUIRE, fence_at_inspection=7) == Wait(state)
    assert step(state, permission=REQUIRE, fence_at_inspection=6) == Acquire(
        state, inspect_only=True
    )


@pytest.mark.parametrize("permission", [MAY_MIGRATE, REQUIRE, PAUSED_BY_FLAG])
@pytest.mark.parametrize(("state", "expected"), STEPS.values(), ids=STEPS)
def test_an_instance_that_just_lost_an_acquisition_waits_instead_of_retrying(
    state: LeaseState, expected: Decision, permission: Permission
) -> None:
    got = step(state, permission=permission, has_lost_acquisition=True)
    assert got == (Wait(state) if isinstance(expected, Acquire) else expected)


@pytest.mark.parametrize("state", [FREE, HELD, FAILED], ids=["free", "held", "failed"])
def test_a_database_that_is_current_is_served_whatever_the_item_holds(state: LeaseState) -> None:
    assert step(state, is_database_current=True) == Serve()


@given(had=st.integers(0, 900_000), left=st.integers(0, 900_000))
@settings(deadline=None)
def test_a_failure_for_lack_of_time_refuses_only_attempts_without_more_time(
    had: int, left: int
) -> None:
    state = FREE._replace(failure=failed()._replace(available_ms=had))
    refused = isinstance(step(state, remaining_ms=left), Refuse)
    assert refused == (left <= had * REQUIRED_TIME_FACTOR)


@given(
    until=st.integers(0, 2 * NOW), now=st.integers(0, 2 * NOW), skew=st.integers(0, CLOCK_SKEW_MS)
)
@settings(deadline=None)
def test_a_clock_that_is_ahead_by_the_margin_expires_no_lease(
    until: int, now: int, skew: int
) -> None:
    if now <= until:
        assert not is_lease_expired(LeaseState(1, OTHER, until), now + skew)


@given(wait_ms=st.integers(0, 10**13), behind_ms=st.integers(0, 10**12))
@settings(deadline=None)
def test_a_clock_that_is_behind_only_waits_longer(wait_ms: int, behind_ms: int) -> None:
    late, right = (step(HELD, now_ms=NOW + wait_ms - b) for b in (behind_ms, 0))
    assert isinstance(right, Acquire) or isinstance(late, Wait)


# --- observing the expiry


LEASE = 20.0
WHOLE_LEASE = LEASE + CLOCK_SKEW_MS / 1000


def test_the_first_reading_shows_no_expiry() -> None:
    assert not LeaseExpiryTracker().has_expired(HELD, 10**6)


@pytest.mark.parametrize(
    ("after", "is_unchanged"),
    [(0.0, False), (WHOLE_LEASE, False), (WHOLE_LEASE + 0.001, True), (3600, True)],
)
def test_a_lease_expires_when_unchanged_for_its_whole_length_and_a_margin(
    after: float, is_unchanged: bool
) -> None:
    watch = LeaseExpiryTracker()
    watch.has_expired(HELD, 0.0)
    assert watch.has_expired(HELD, after) is is_unchanged


@pytest.mark.parametrize(
    "changed",
    [
        HELD._replace(lease_until_ms=HELD.lease_until_ms + 1),
        HELD._replace(fence=5),
        HELD._replace(owner="a third"),
        FREE._replace(lease_ms=20_000),
    ],
    ids=["renewed", "acquired again", "acquired by another", "released"],
)
def test_a_change_restarts_the_watch(changed: LeaseState) -> None:
    watch = LeaseExpiryTracker()
    watch.has_expired(HELD, 0.0)
    assert not watch.has_expired(changed, WHOLE_LEASE + 1)
    assert not watch.has_expired(changed, 2 * WHOLE_LEASE)
    assert watch.has_expired(changed, 2 * WHOLE_LEASE + 1.001)


def test_a_published_record_is_not_a_renewal() -> None:
    watch = LeaseExpiryTracker()
    watch.has_expired(HELD, 0.0)
    assert watch.has_expired(with_record(HELD, READY), WHOLE_LEASE + 1)


def test_a_stale_reading_restarts_the_watch() -> None:
    renewed = HELD._replace(lease_until_ms=HELD.lease_until_ms + 1)
    watch = LeaseExpiryTracker()
    for now, seen in enumerate([HELD, renewed, HELD, renewed]):
        assert not watch.has_expired(seen, now * WHOLE_LEASE)


def test_the_length_of_the_holders_lease_counts() -> None:
    watch = LeaseExpiryTracker()
    long = HELD._replace(lease_ms=60_000)
    watch.has_expired(long, 0.0)
    assert not watch.has_expired(long, 60.9)
    assert watch.has_expired(long, 61.1)


@pytest.mark.parametrize("planted", [0, MAX_LEASE_MS + 1, 10**18])
def test_a_length_that_no_setting_allows_counts_as_the_longest(planted: int) -> None:
    watch, state = LeaseExpiryTracker(), HELD._replace(lease_ms=planted)
    watch.has_expired(state, 0.0)
    assert not watch.has_expired(state, MAX_LEASE_MS / 1000)
    assert watch.has_expired(state, (MAX_LEASE_MS + CLOCK_SKEW_MS) / 1000 + 0.1)


def test_an_item_without_an_owner_is_free_whatever_else_it_contains() -> None:
    odd = FREE._replace(lease_until_ms=NOW + MAX_LEASE_MS + 1)
    assert step(odd) == Acquire(odd)
