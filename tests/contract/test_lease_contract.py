"""The contract of every lease store: in memory, and on DynamoDB over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from lambda_migrate.errors import LeaseLost
from lambda_migrate.lease.decision import Acquire, LeaseExpiryTracker, Wait, decide
from lambda_migrate.lease.progress import Failure, Progress
from lambda_migrate.lease.record import (
    CLOCK_SKEW_MS,
    MAX_READY_DIGESTS,
    DatabaseRecord,
    LeaseState,
    join_digests,
)
from lambda_migrate.lease.store import Lease, LeaseStore
from tests.contract.leases import ADDRESS, DATABASES, LEASE_SECONDS, LeaseTableUnderTest, failure

PROGRESS = Progress("0003_größer", 2, 5, 1_700_000_000_000, 2)
LENGTH_MS = round(LEASE_SECONDS * 1000)

Write = Callable[[LeaseStore, Lease], object]

KEEPS_LEASE: dict[str, Write] = {
    "renew": lambda store, lease: store.renew(lease, PROGRESS),
    "advance_fence": lambda store, lease: store.advance_fence(lease, 100),
    "withdraw_readiness": lambda store, lease: store.withdraw_readiness(lease, DATABASES),
}
RELEASES_LEASE: dict[str, Write] = {
    "store_completion": lambda store, lease: store.store_completion(lease, DATABASES),
    "store_inspection": lambda store, lease: store.store_inspection(lease, DATABASES),
    "store_failure": lambda store, lease: store.store_failure(lease, failure()),
    "release": lambda store, lease: store.release(lease),
}
WRITES = KEEPS_LEASE | RELEASES_LEASE

every_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
every_write_that_keeps_the_lease = pytest.mark.parametrize(
    "write", KEEPS_LEASE.values(), ids=KEEPS_LEASE
)
every_write_that_releases_the_lease = pytest.mark.parametrize(
    "write", RELEASES_LEASE.values(), ids=RELEASES_LEASE
)


# --- acquiring


def test_a_missing_item_reads_as_an_empty_state(leases: LeaseTableUnderTest) -> None:
    assert leases.store.read() == leases.state() == LeaseState()


def test_the_first_acquisition_has_fencing_token_one_and_the_new_state(
    leases: LeaseTableUnderTest,
) -> None:
    lease = leases.acquire("a")
    until_ms = leases.clock.wall_ms() + round(LEASE_SECONDS * 1000)
    assert (lease.owner, lease.fence) == ("a", 1)
    assert lease.state == LeaseState(
        fence=1, owner="a", lease_until_ms=until_ms, lease_ms=LENGTH_MS
    )
    assert leases.state() == lease.state


def test_a_lease_is_trusted_until_a_margin_before_its_end(leases: LeaseTableUnderTest) -> None:
    asked_at = leases.clock.monotonic()
    lease = leases.acquire("a")
    assert lease.trusted_until == asked_at + LEASE_SECONDS - CLOCK_SKEW_MS / 1000
    leases.clock.advance(5)
    assert leases.store.renew(lease).trusted_until == lease.trusted_until + 5


def test_the_loser_gets_the_current_state(leases: LeaseTableUnderTest) -> None:
    lease = leases.acquire("a")
    assert leases.lose_acquisition("b") == lease.state == leases.state()


def test_one_of_many_simultaneous_acquisitions_wins(leases: LeaseTableUnderTest) -> None:
    count = 20
    for _ in range(3):
        stores = leases.tables.stores(count, leases.clock)
        barrier = Barrier(count)

        def acquire_at_once(
            number: int, stores: list[LeaseStore] = stores, barrier_: Barrier = barrier
        ) -> object:
            barrier_.wait()
            return stores[number].acquire(f"owner-{number}")

        with ThreadPoolExecutor(count) as pool:
            answers = list(pool.map(acquire_at_once, range(count)))
        winners = [answer for answer in answers if isinstance(answer, Lease)]
        assert len(winners) == 1
        state = stores[0].read(consistent=True)
        assert (state.owner, state.fence) == (winners[0].owner, 1)
        assert {answer.owner for answer in answers if isinstance(answer, LeaseState)} == {
            winners[0].owner
        }


def test_one_of_many_takes_over_an_expired_lease(leases: LeaseTableUnderTest) -> None:
    count = 20
    stores = leases.tables.stores(count, leases.clock)
    stores[0].acquire("dead")
    leases.expire_lease()
    barrier = Barrier(count)

    def acquire_at_once(number: int) -> object:
        barrier.wait()
        return stores[number].acquire(f"owner-{number}")

    with ThreadPoolExecutor(count) as pool:
        winners = [
            answer
            for answer in pool.map(acquire_at_once, range(count))
            if isinstance(answer, Lease)
        ]
    assert [lease.fence for lease in winners] == [2]


def test_the_fence_grows_by_one_with_every_acquisition(leases: LeaseTableUnderTest) -> None:
    fences = []
    for owner in ("a", "b", "a", "c"):
        lease = leases.acquire(owner)
        fences.append(lease.fence)
        leases.store.release(lease)
    assert fences == [1, 2, 3, 4]


@every_write
def test_no_write_lowers_the_fence(leases: LeaseTableUnderTest, write: Write) -> None:
    leases.store.release(leases.acquire("a"))
    lease = leases.acquire("b")
    write(leases.store, lease)
    assert leases.state().fence >= 2


# --- expiry


@pytest.mark.parametrize("after", [0.0, LEASE_SECONDS, LEASE_SECONDS + CLOCK_SKEW_MS / 1000])
def test_a_live_lease_is_not_acquired(leases: LeaseTableUnderTest, after: float) -> None:
    leases.acquire("a")
    leases.clock.advance(after)
    assert leases.lose_acquisition("b").owner == "a"


def test_an_expired_lease_is_acquired_with_a_higher_fencing_token(
    leases: LeaseTableUnderTest,
) -> None:
    leases.acquire("a")
    leases.expire_lease()
    lease = leases.acquire("b")
    assert (lease.owner, lease.fence) == ("b", 2)


def test_a_renewed_lease_is_live_again(leases: LeaseTableUnderTest) -> None:
    lease = leases.acquire("a")
    leases.clock.advance(LEASE_SECONDS)
    leases.store.renew(lease)
    leases.clock.advance(LEASE_SECONDS)
    assert leases.lose_acquisition("b").owner == "a"


def test_a_takeover_returns_the_progress_of_the_previous_holder(
    leases: LeaseTableUnderTest,
) -> None:
    leases.store.renew(leases.acquire("a"), PROGRESS)
    leases.expire_lease()
    assert leases.acquire("b").state.progress == PROGRESS
    assert leases.state().progress == PROGRESS


@every_write_that_releases_the_lease
def test_releasing_the_lease_deletes_the_progress_except_after_an_inspection(
    leases: LeaseTableUnderTest, write: Write
) -> None:
    lease = leases.acquire("a")
    leases.store.renew(lease, PROGRESS)
    write(leases.store, lease)
    expected = PROGRESS if write is RELEASES_LEASE["store_inspection"] else None
    assert leases.acquire("b").state.progress == expected


def test_a_lease_unchanged_for_its_whole_length_is_acquired_whatever_the_clocks_show(
    leases: LeaseTableUnderTest,
) -> None:
    leases.acquire("a")
    leases.clock.step_wall_clock(-3600)
    watch = LeaseExpiryTracker()
    assert not watch.has_expired(leases.state(), leases.clock.monotonic())
    leases.clock.advance(LEASE_SECONDS + 1.001)
    state = leases.state()
    is_expired = watch.has_expired(state, leases.clock.monotonic())
    step = decide(
        state,
        digest="d" * 64,
        address=ADDRESS,
        owner="b",
        now_ms=leases.clock.wall_ms(),
        is_expired=is_expired,
    )
    assert step == Acquire(state, is_expired=True)
    assert leases.lose_acquisition("b").owner == "a"  # not without having observed it
    assert leases.lose_acquisition("b", expected=state).owner == "a"
    assert leases.acquire("b", expected=state, is_expired=True).fence == 2


def test_a_lease_renewed_since_the_expected_state_is_not_acquired(
    leases: LeaseTableUnderTest,
) -> None:
    lease = leases.acquire("a")
    state = leases.state()
    leases.clock.advance(1)
    leases.store.renew(lease)
    assert leases.lose_acquisition("b", expected=state, is_expired=True).owner == "a"


def test_a_lease_acquired_since_the_expected_state_is_not_acquired(
    leases: LeaseTableUnderTest,
) -> None:
    lease = leases.acquire("a")
    state = leases.state()
    leases.store.release(lease)
    leases.acquire("c")
    assert leases.lose_acquisition("b", expected=state, is_expired=True).owner == "c"


def test_an_empty_expected_state_acquires_no_held_lease(leases: LeaseTableUnderTest) -> None:
    leases.acquire("a")
    assert leases.lose_acquisition("b", expected=LeaseState(), is_expired=True).owner == "a"


def test_a_lease_is_acquired_only_with_the_newest_expected_state(
    leases: LeaseTableUnderTest,
) -> None:
    assert leases.acquire("a", expected=LeaseState()).fence == 1
    state = leases.state()
    leases.expire_lease()
    leases.store.release(leases.acquire("b", expected=state))
    assert leases.lose_acquisition("c", expected=state).fence == 2
    assert leases.acquire("c", expected=leases.state()).fence == 3


@pytest.mark.parametrize("ahead_seconds", [0.5, 1.0])
def test_clocks_that_differ_by_the_margin_acquire_no_live_lease(
    leases: LeaseTableUnderTest, ahead_seconds: float
) -> None:
    leases.acquire("a")
    leases.clock.advance(LEASE_SECONDS)
    leases.clock.step_wall_clock(ahead_seconds)
    assert leases.lose_acquisition("b").owner == "a"


def test_clocks_that_differ_by_an_hour_cost_a_lease_but_the_fencing_token_still_grows(
    leases: LeaseTableUnderTest,
) -> None:
    slow = leases.acquire("slow clock")
    leases.clock.step_wall_clock(3600)
    fast = leases.acquire("fast clock")
    assert fast.fence > slow.fence
    with pytest.raises(LeaseLost):
        leases.store.renew(slow)


# --- conditions


@every_write
def test_a_holder_whose_lease_was_taken_over_writes_nothing(
    leases: LeaseTableUnderTest, write: Write
) -> None:
    lease = leases.acquire("a")
    leases.expire_lease()
    leases.acquire("b")
    before = leases.state()
    with pytest.raises(LeaseLost, match=r"fenc(e|ing token) 1"):
        write(leases.store, lease)
    assert leases.state() == before


@every_write
def test_a_holder_whose_successor_has_finished_writes_nothing(
    leases: LeaseTableUnderTest, write: Write
) -> None:
    lease = leases.acquire("a")
    leases.expire_lease()
    leases.store.store_completion(leases.acquire("b"), DATABASES)
    before = leases.state()
    with pytest.raises(LeaseLost):
        write(leases.store, lease)
    assert leases.state() == before


@every_write
def test_the_owner_with_an_older_fencing_token_writes_nothing(
    leases: LeaseTableUnderTest, write: Write
) -> None:
    older = leases.acquire("a")
    leases.store.release(older)
    leases.acquire("a")
    before = leases.state()
    with pytest.raises(LeaseLost):
        write(leases.store, older)
    assert leases.state() == before


@every_write
def test_another_owner_with_the_same_fencing_token_writes_nothing(
    leases: LeaseTableUnderTest, write: Write
) -> None:
    lease = leases.acquire("a")
    with pytest.raises(LeaseLost):
        write(leases.store, lease._replace(owner="b"))
    assert leases.state() == lease.state


@every_write_that_keeps_the_lease
def test_a_released_lease_writes_nothing(leases: LeaseTableUnderTest, write: Write) -> None:
    lease = leases.acquire("a")
    leases.store.release(lease)
    before = leases.state()
    with pytest.raises(LeaseLost):
        write(leases.store, lease)
    assert leases.state() == before


@pytest.mark.parametrize("name", ["store_completion", "store_inspection", "store_failure"])
def test_a_result_after_the_release_is_lost(leases: LeaseTableUnderTest, name: str) -> None:
    lease = leases.acquire("a")
    leases.store.release(lease)
    with pytest.raises(LeaseLost):
        RELEASES_LEASE[name](leases.store, lease)
    assert leases.state() == LeaseState(fence=1)


@every_write
def test_a_lease_on_a_missing_item_is_lost(leases: LeaseTableUnderTest, write: Write) -> None:
    with pytest.raises(LeaseLost):
        write(leases.store, Lease("a", 7, 0.0, LeaseState()))
    assert leases.state() == LeaseState()


# --- repeated writes


def test_an_acquisition_that_arrives_twice_is_one(leases: LeaseTableUnderTest) -> None:
    """Because its response was lost, or because it was delivered again, late."""
    lease = leases.acquire("a")
    leases.clock.advance(5)
    again = leases.acquire("a", expected=LeaseState())
    assert again.fence == lease.fence
    assert again.trusted_until == lease.trusted_until + 5
    leases.store.renew(lease)
    leases.store.release(lease)


def test_an_acquisition_that_arrives_after_its_release_acquires_nothing(
    leases: LeaseTableUnderTest,
) -> None:
    leases.store.release(leases.acquire("a", expected=LeaseState()))
    assert leases.lose_acquisition("a", expected=LeaseState()) == LeaseState(fence=1)


@every_write
def test_a_write_whose_response_was_lost_is_done_not_lost(
    leases: LeaseTableUnderTest, write: Write
) -> None:
    lease = leases.acquire("a")
    write(leases.store, lease)
    once = leases.state()
    write(leases.store, lease)
    assert leases.state() == once


@every_write_that_releases_the_lease
def test_a_write_repeated_after_a_takeover_is_lost(
    leases: LeaseTableUnderTest, write: Write
) -> None:
    lease = leases.acquire("a")
    write(leases.store, lease)
    leases.acquire("b")
    before = leases.state()
    with pytest.raises(LeaseLost):
        write(leases.store, lease)
    assert leases.state() == before


def test_a_different_result_is_not_taken_for_the_stored_one(leases: LeaseTableUnderTest) -> None:
    lease = leases.acquire("a")
    leases.store.store_failure(lease, failure(attempts=1))
    with pytest.raises(LeaseLost):
        leases.store.store_failure(lease, failure(attempts=2))
    with pytest.raises(LeaseLost):
        leases.store.store_completion(lease, DATABASES)


# --- what each write does


def test_renew_extends_the_lease_and_publishes_progress(leases: LeaseTableUnderTest) -> None:
    lease = leases.acquire("a")
    leases.clock.advance(7)
    leases.store.renew(lease, PROGRESS)
    assert leases.state() == lease.state._replace(
        lease_until_ms=lease.state.lease_until_ms + 7_000, progress=PROGRESS
    )


def test_renew_without_progress_keeps_the_published_progress(leases: LeaseTableUnderTest) -> None:
    lease = leases.acquire("a")
    leases.store.renew(lease, PROGRESS)
    leases.store.renew(lease)
    assert leases.state().progress == PROGRESS


def test_complete_stores_the_records_releases_and_deletes_the_failure(
    leases: LeaseTableUnderTest,
) -> None:
    leases.store.store_failure(leases.acquire("a"), failure())
    lease = leases.acquire("b")
    leases.store.renew(lease, PROGRESS)
    leases.store.store_completion(lease, DATABASES)
    assert leases.state() == LeaseState(fence=2, databases=DATABASES)


def test_complete_replaces_the_records(leases: LeaseTableUnderTest) -> None:
    leases.store.store_completion(leases.acquire("a"), DATABASES)
    other = {"9c": DatabaseRecord(addresses={"elsewhere:5432/orders": (0, 2)})}
    leases.store.store_completion(leases.acquire("b"), other)
    assert leases.state() == LeaseState(fence=2, databases=other)


def test_an_inspection_stores_the_records_releases_and_keeps_the_failure(
    leases: LeaseTableUnderTest,
) -> None:
    leases.store.store_failure(leases.acquire("a"), failure())
    leases.store.store_inspection(leases.acquire("b"), DATABASES)
    assert leases.state() == LeaseState(fence=2, databases=DATABASES, failure=failure())


def test_fail_stores_the_failure_releases_and_keeps_the_records(
    leases: LeaseTableUnderTest,
) -> None:
    leases.store.store_completion(leases.acquire("a"), DATABASES)
    lease = leases.acquire("b")
    leases.store.renew(lease, PROGRESS)
    leases.store.store_failure(lease, failure())
    assert leases.state() == LeaseState(2, databases=DATABASES, failure=failure())


@pytest.mark.parametrize(
    "recorded",
    [
        failure()._replace(available_ms=4_000),
        failure()._replace(is_process_killed=True),
        failure()._replace(version="20240101000000_9"),
    ],
    ids=["out of time", "killed", "a version of another tool"],
)
def test_a_failure_is_read_as_it_was_written(
    leases: LeaseTableUnderTest, recorded: Failure
) -> None:
    leases.store.store_failure(leases.acquire("a"), recorded)
    assert leases.state().failure == recorded


def test_release_changes_nothing_else(leases: LeaseTableUnderTest) -> None:
    leases.store.store_completion(leases.acquire("a"), DATABASES)
    leases.store.store_failure(leases.acquire("b"), failure())
    before = leases.state()
    lease = leases.acquire("c")
    leases.store.renew(lease, PROGRESS)
    leases.store.release(lease)
    assert leases.state() == before._replace(fence=3)


def test_raise_fence_raises_the_fencing_token_and_keeps_the_lease(
    leases: LeaseTableUnderTest,
) -> None:
    lease = leases.acquire("a")
    lifted = leases.store.advance_fence(lease, 41)
    assert (lifted.owner, lifted.fence) == ("a", 41)
    assert (leases.state().owner, leases.state().fence) == ("a", 41)
    leases.store.renew(lifted)
    with pytest.raises(LeaseLost):
        leases.store.renew(lease)
    leases.store.release(lifted)
    assert leases.acquire("b").fence == 42


def test_raise_fence_never_lowers_the_fencing_token(leases: LeaseTableUnderTest) -> None:
    lifted = leases.store.advance_fence(leases.acquire("a"), 41)
    assert leases.store.advance_fence(lifted, 7).fence == 41
    assert leases.state().fence == 41


def test_withdraw_replaces_the_records_and_keeps_the_lease(leases: LeaseTableUnderTest) -> None:
    leases.store.store_completion(leases.acquire("a"), DATABASES)
    lease = leases.acquire("b")
    fewer = {
        "2a1f0a2e": DATABASES["2a1f0a2e"]._replace(ready_digests=b"", addresses={ADDRESS: (0, 5)})
    }
    withdrawn = leases.store.withdraw_readiness(lease, fewer)
    assert withdrawn.state.databases == leases.state().databases == fewer
    assert leases.state().owner == "b"
    leases.store.release(withdrawn)
    assert leases.state().databases == fewer


def test_all_stored_digests_are_read_as_written(leases: LeaseTableUnderTest) -> None:
    ready = join_digests(f"{n:064x}" for n in range(MAX_READY_DIGESTS))
    databases = {
        "2a1f0a2e": DatabaseRecord(ready, ready, addresses={ADDRESS: (MAX_READY_DIGESTS, 1)})
    }
    leases.store.store_completion(leases.acquire("a"), databases)
    assert leases.state().databases == databases


@every_write
def test_each_write_is_one_request(leases: LeaseTableUnderTest, write: Write) -> None:
    lease = leases.acquire("a")
    before = leases.store.request_count
    write(leases.store, lease)
    assert leases.store.request_count == before + 1


def test_the_loser_decides_from_the_returned_state(leases: LeaseTableUnderTest) -> None:
    leases.acquire("a")
    in_the_way = leases.lose_acquisition("b")
    step = decide(
        in_the_way,
        digest="d" * 64,
        address=ADDRESS,
        owner="b",
        now_ms=leases.clock.wall_ms(),
    )
    assert step == Wait(in_the_way)
