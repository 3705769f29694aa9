"""Attempts that ran out of time, killed holders, other lease lengths, and wrong clocks."""

from __future__ import annotations

import pytest

from lambda_migrate.errors import (
    ConfigurationError,
    LeaseLost,
    LeaseStoreUnavailable,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.events import CheckSucceeded, MigrationStarted
from lambda_migrate.lease.first_read import make_owner
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.lease.progress import Failure
from lambda_migrate.lease.store import Lease
from lambda_migrate.migrations import Manifest
from lambda_migrate.outcome import Outcome
from tests.unit.engine.fakes import Fakes, manifest, migration, raises

V1, V2, V3 = manifest(1), manifest(1, 2), manifest(1, 2, 3)


def boom() -> MigrationFailed:
    return MigrationFailed("division by zero", migration="0002_m", sqlstate="22012")


def recorded(fakes: Fakes) -> Failure:
    failure = fakes.table.state.failure
    assert failure is not None
    return failure


# --- out of time


def out_of_time(fakes: Fakes) -> None:
    """An attempt with 18 s, two being kept free at the end, in which the migration takes 30."""
    fakes.database.on_script = lambda _version: fakes.clock.advance(30)
    with pytest.raises(MigrationFailed, match="deadline"):
        fakes.runner(V1).ensure(fakes.deadline(20))


def test_running_out_of_time_refuses_instances_with_no_more_time(fakes: Fakes) -> None:
    out_of_time(fakes)
    assert recorded(fakes).available_ms == 18_000
    connections = fakes.database.connections
    for seconds in (20, 21.7, 10):
        with pytest.raises(MigrationFailed, match="deadline"):
            fakes.runner(V1).ensure(fakes.deadline(seconds))
    assert fakes.database.connections == connections


def test_an_instance_with_more_time_tries_at_once_whatever_the_pause(fakes: Fakes) -> None:
    out_of_time(fakes)
    assert fakes.runner(V1).ensure(fakes.deadline(60)) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m"]
    assert fakes.table.state.failure is None


def test_a_failure_of_another_kind_refuses_instances_whatever_their_time(fakes: Fakes) -> None:
    fakes.database.fail_on(2, boom())
    with pytest.raises(MigrationFailed):
        fakes.runner(V2).ensure(fakes.deadline(20))
    assert recorded(fakes).available_ms is None
    with pytest.raises(MigrationFailed, match="division by zero"):
        fakes.runner(V2).ensure(fakes.deadline(600))
    assert fakes.database.connections == 1


def test_the_longest_insufficient_time_is_kept_after_a_shorter_attempt(
    fakes: Fakes,
) -> None:
    out_of_time(fakes)
    fakes.clock.advance(15)
    with pytest.raises(MigrationFailed, match="deadline"):
        fakes.runner(V1).ensure(fakes.deadline(6))
    assert (recorded(fakes).available_ms, recorded(fakes).attempts) == (18_000, 2)


# --- several that fail at the same time


def test_manifests_that_fail_by_turns_each_have_their_pause(fakes: Fakes) -> None:
    """The old and the new version of a canary, both of which have the broken migration."""
    fakes.database.fail_on(2, boom())
    for number in range(20):
        with pytest.raises(MigrationFailed):
            fakes.runner((V2, V3)[number % 2]).ensure(fakes.deadline())
    assert fakes.database.connections == 2
    assert {each.digest for each in fakes.table.state.failures} == {V2.digest, V3.digest}


def test_a_failure_of_one_address_stops_no_other(fakes: Fakes) -> None:
    """For example, a wrong password on a laptop."""
    laptop = fakes.through("laptop:5432/orders")
    laptop.environment = "nowhere"
    fakes.environment = "production"
    fakes.migrated(V1)
    for _ in range(3):
        with pytest.raises(ConfigurationError, match="belongs to environment 'production'"):
            laptop.operations(V2).up(fakes.deadline())
    assert recorded(fakes).address == "laptop:5432/orders"
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.MIGRATED


def test_code_that_succeeds_leaves_the_failure_of_newer_code_its_pause(fakes: Fakes) -> None:
    fakes.database.fail_on(3, MigrationFailed("no", migration="0003_m"))
    with pytest.raises(MigrationFailed):
        fakes.runner(V3).ensure(fakes.deadline())
    fakes.through("localhost:15432/orders").runner(V2).ensure(fakes.deadline())
    assert recorded(fakes).digest == V3.digest


def test_a_failure_is_over_once_a_corrected_file_of_its_version_is_applied(
    fakes: Fakes,
) -> None:
    fakes.database.fail_on(2, boom())
    with pytest.raises(MigrationFailed):
        fakes.runner(V2).ensure(fakes.deadline())
    fakes.database.fail_on(2, None)
    corrected = Manifest([migration(1), migration(2, "SELECT 'corrected'")])
    assert fakes.runner(corrected).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.table.state.failures == ()


# --- killed holders


def is_killed(fakes: Fakes, files: Manifest, *, at: int) -> None:
    """A process that ends without a word in the middle of a script."""

    def die(version: int) -> None:
        if version == at:
            fakes.table.is_down = True
            raise SystemExit

    fakes.database.on_script = die
    with pytest.raises(SystemExit):
        fakes.runner(files).ensure(fakes.deadline())
    fakes.table.is_down = False
    fakes.database.on_script = None
    fakes.clock.advance(30)


def test_a_holder_publishes_what_it_begins_with_before_it_begins(fakes: Fakes) -> None:
    published: list[object] = []
    fakes.database.on_script = lambda _version: published.append(fakes.table.state.progress)
    fakes.runner(V1).ensure(fakes.deadline())
    (progress,) = published
    assert progress is not None
    assert progress.migration == "0001_m"  # type: ignore[attr-defined]  # it is a Progress


def test_three_holders_killed_in_a_row_at_one_migration_are_a_failure_with_a_pause(
    fakes: Fakes,
) -> None:
    fakes.migrated(V1)
    for _ in range(3):
        is_killed(fakes, V3, at=2)
    started = len(fakes.observer.events_of(MigrationStarted))
    with pytest.raises(MigrationFailed, match="0002_m: 3 process"):
        fakes.runner(V3).ensure(fakes.deadline())
    failure = recorded(fakes)
    assert (failure.is_process_killed, failure.migration, failure.version) == (True, "0002_m", "2")
    connections = fakes.database.connections
    for _ in range(10):
        with pytest.raises(MigrationFailed, match="in a row ended"):
            fakes.runner(V3).ensure(fakes.deadline())
    assert fakes.database.connections == connections
    assert len(fakes.observer.events_of(MigrationStarted)) == started


def test_up_by_an_operator_runs_after_three_kills(fakes: Fakes) -> None:
    for _ in range(3):
        is_killed(fakes, V1, at=1)
    fakes.database.on_script = None
    assert fakes.operations(V1).up(fakes.deadline()) == ("0001_m",)


def test_after_the_pause_one_more_kill_is_reported_at_once(fakes: Fakes) -> None:
    fakes.migrated(V1)
    for _ in range(3):
        is_killed(fakes, V3, at=2)
    for attempts in (1, 2):
        with pytest.raises(MigrationFailed):
            fakes.runner(V3).ensure(fakes.deadline())
        assert recorded(fakes).attempts == attempts
        fakes.clock.advance(600)
        if attempts == 1:
            is_killed(fakes, V3, at=2)
    assert fakes.runner(V3).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m", "0003_m"]
    assert fakes.table.state.failure is None


def test_holders_killed_at_different_migrations_are_not_a_failure(fakes: Fakes) -> None:
    for version in (1, 1, 2, 2, 3, 3):
        is_killed(fakes, V3, at=version)
    assert fakes.runner(V3).ensure(fakes.deadline()) is Outcome.MIGRATED


def test_a_lease_released_between_two_kills_restarts_the_count(fakes: Fakes) -> None:
    for _ in range(2):
        is_killed(fakes, V2, at=2)
        is_killed(fakes, V2, at=2)
        fakes.database.is_down = True
        with pytest.raises(NotReady):
            fakes.runner(V2).ensure(fakes.deadline())
        fakes.database.is_down = False
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.MIGRATED


# --- leases of other lengths, and clocks


def test_a_lease_longer_than_ones_own_is_waited_for(fakes: Fakes) -> None:
    fakes.held_by("long", seconds=60, length=60)
    began = fakes.clock.monotonic()
    runner = fakes.runner(V1, lease_seconds=6, wait_seconds=90)
    assert runner.ensure(fakes.deadline(120)) is Outcome.MIGRATED
    assert 61 <= fakes.clock.monotonic() - began < 63


def test_a_lease_shorter_than_ones_own_is_over_when_its_own_length_is(fakes: Fakes) -> None:
    fakes.held_by("short", seconds=1_000, length=6)
    began = fakes.clock.monotonic()
    runner = fakes.runner(V1, lease_seconds=60, wait_seconds=90)
    assert runner.ensure(fakes.deadline(120)) is Outcome.MIGRATED
    assert 7 <= fakes.clock.monotonic() - began < 10


def test_a_clock_that_is_half_an_hour_behind_acquires_no_live_lease(fakes: Fakes) -> None:
    true = 31 * 60_000
    lease = fakes.held_by("alive")

    def renew() -> None:
        fakes.change(lease_until_ms=fakes.clock.wall_ms() + true + 20_000)

    fakes.clock.step_wall_clock(-31 * 60)
    renew()
    for second in range(5, 50, 5):
        fakes.clock.at(second, renew)
    fakes.clock.at(52, lambda: fakes.finish(lease, V1))
    assert fakes.runner(V1, wait_seconds=80).ensure(fakes.deadline(120)) is Outcome.WAITED
    assert "acquire" not in fakes.table.log


def test_a_clock_that_is_half_an_hour_behind_acquires_a_dead_holders_lease(fakes: Fakes) -> None:
    fakes.held_by("dead")
    fakes.clock.step_wall_clock(-31 * 60)
    assert fakes.runner(V1, wait_seconds=80).ensure(fakes.deadline(120)) is Outcome.MIGRATED
    assert fakes.observer.events_of(CheckSucceeded)[0].waited_seconds < 25


# --- requests that come late


def test_a_late_duplicate_of_ones_own_acquisition_changes_nothing_while_the_lease_is_held(
    fakes: Fakes,
) -> None:
    seen, owner = fakes.table.state, make_owner()
    lease = InMemoryLeaseStore.acquire(fakes.table, owner, expected=seen)
    assert isinstance(lease, Lease)
    again = InMemoryLeaseStore.acquire(fakes.table, owner, expected=seen)
    assert isinstance(again, Lease)
    assert again.fence == lease.fence == fakes.table.state.fence
    InMemoryLeaseStore.renew(fakes.table, lease)


def test_a_late_duplicate_of_ones_own_acquisition_acquires_nothing_after_the_release(
    fakes: Fakes,
) -> None:
    late: list[object] = []
    real = InMemoryLeaseStore.acquire

    def acquire_later() -> None:
        state, owner = fakes.table.state, "the same owner"
        late.append(lambda: real(fakes.table, owner, expected=state))

    fakes.table.before["acquire"] = acquire_later
    fakes.runner(V1).ensure(fakes.deadline())
    state = fakes.table.state
    late[0]()  # type: ignore[operator]  # the request that was on its way for so long
    assert fakes.table.state == state


# --- what a person resolves


def test_a_repair_ends_the_pause(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    with pytest.raises(MigrationFailed):
        fakes.runner(V2).ensure(fakes.deadline())
    assert recorded(fakes).retry_at_ms > fakes.clock.wall_ms()
    fakes.operations(V2).repair(2, fakes.deadline(), declared_state="pending")
    assert fakes.table.state.failure is None
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.MIGRATED


# --- what is served


def test_a_waiter_does_not_serve_by_an_old_reading(fakes: Fakes) -> None:
    """A rollback withdrew it; an eventually consistent read may show the past."""
    lease = fakes.held_by("rolling back")
    old = fakes.table.state
    fakes.finish(lease, V1)
    old, now = fakes.table.state, old
    fakes.change(**{name: getattr(now, name) for name in ("owner", "lease_until_ms", "lease_ms")})
    fakes.change(databases={})
    read = fakes.table.read

    def stale(*, consistent: bool = False) -> object:
        answer = read(consistent=consistent)
        return answer if consistent else old

    fakes.table.read = stale  # type: ignore[method-assign,assignment]  # a replica that is behind
    with pytest.raises(NotReady):
        fakes.runner(V1, wait_seconds=3).ensure(fakes.deadline())


def test_the_first_reading_is_strongly_consistent(fakes: Fakes) -> None:
    fakes.migrated(V1)
    asked: list[bool] = []
    read = fakes.table.read

    def record_read(*, consistent: bool = False) -> object:
        asked.append(consistent)
        return read(consistent=consistent)

    fakes.table.read = record_read  # type: ignore[method-assign,assignment]  # records the calls
    fakes.runner(V1).ensure(fakes.deadline())
    assert asked == [True]


def test_an_acquisition_fails_if_the_item_changed_after_the_decision(fakes: Fakes) -> None:
    """Another may have held and failed meanwhile: what it left is looked at first."""

    def hold_and_release() -> None:
        lease = fakes.held_by("faster")
        InMemoryLeaseStore.release(fakes.table, lease)

    fakes.table.before["acquire"] = hold_and_release
    assert fakes.runner(V1).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.table.log[:3] == ["read", "acquire", "read"]
    assert fakes.table.state.fence == 2


def test_progress_that_cannot_be_published_at_once_stops_nothing(fakes: Fakes) -> None:
    """The lease is trusted for long enough, and the next renewal publishes it."""
    fakes.table.before["renew"] = raises(LeaseStoreUnavailable("gone"))
    assert fakes.runner(V1).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m"]


def test_a_lease_lost_when_progress_is_published_starts_nothing(fakes: Fakes) -> None:
    fakes.table.before["renew"] = raises(LeaseLost("gone"))
    with pytest.raises(LeaseLost):
        fakes.runner(V1).ensure(fakes.deadline())
    assert fakes.database.effects == []
