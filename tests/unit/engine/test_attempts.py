"""Attempts that ran out of time, holders that are killed, leases of other lengths, wrong clocks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lambda_migrate.engine.target import new_owner
from lambda_migrate.errors import (
    ConfigurationError,
    LeaseLost,
    LeaseStoreUnavailable,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.events import CheckFinished, MigrationStarted
from lambda_migrate.lease.memory import InMemoryLeaseTable
from lambda_migrate.lease.record import Failure, Lease
from lambda_migrate.migrations import Manifest
from lambda_migrate.runner import Outcome
from tests.unit.engine.scene import Scene, manifest, migration, raises

V1, V2, V3 = manifest(1), manifest(1, 2), manifest(1, 2, 3)


def boom() -> MigrationFailed:
    return MigrationFailed("division by zero", migration="0002_m", sqlstate="22012")


def recorded(scene: Scene) -> Failure:
    failure = scene.table.state.failure
    assert failure is not None
    return failure


# --- out of time


def out_of_time(scene: Scene) -> None:
    """An attempt with 18 s, two being kept free at the end, in which the migration takes 30."""
    scene.database.on_script = lambda _version: scene.clock.advance(30)
    with pytest.raises(MigrationFailed, match="deadline"):
        scene.runner(V1).ensure(scene.deadline(20))


def test_running_out_of_time_refuses_instances_with_no_more_time(scene: Scene) -> None:
    out_of_time(scene)
    assert recorded(scene).had_ms == 18_000
    connections = scene.database.connections
    for seconds in (20, 21.7, 10):
        with pytest.raises(MigrationFailed, match="deadline"):
            scene.runner(V1).ensure(scene.deadline(seconds))
    assert scene.database.connections == connections


def test_an_instance_with_more_time_tries_at_once_whatever_the_pause(scene: Scene) -> None:
    out_of_time(scene)
    assert scene.runner(V1).ensure(scene.deadline(60)) is Outcome.MIGRATED
    assert scene.database.effects == ["0001_m"]
    assert scene.table.state.failure is None


def test_a_failure_of_another_kind_refuses_instances_whatever_their_time(scene: Scene) -> None:
    scene.database.fail(2, boom())
    with pytest.raises(MigrationFailed):
        scene.runner(V2).ensure(scene.deadline(20))
    assert recorded(scene).had_ms is None
    with pytest.raises(MigrationFailed, match="division by zero"):
        scene.runner(V2).ensure(scene.deadline(600))
    assert scene.database.connections == 1


def test_the_longest_insufficient_time_is_kept_after_a_shorter_attempt(
    scene: Scene,
) -> None:
    out_of_time(scene)
    scene.clock.advance(15)
    with pytest.raises(MigrationFailed, match="deadline"):
        scene.runner(V1).ensure(scene.deadline(6))
    assert (recorded(scene).had_ms, recorded(scene).attempts) == (18_000, 2)


# --- several that fail at the same time


def test_manifests_that_fail_by_turns_each_have_their_pause(scene: Scene) -> None:
    """The old and the new version of a canary, both of which have the broken migration."""
    scene.database.fail(2, boom())
    for number in range(20):
        with pytest.raises(MigrationFailed):
            scene.runner((V2, V3)[number % 2]).ensure(scene.deadline())
    assert scene.database.connections == 2
    assert {each.digest for each in scene.table.state.failures} == {V2.digest, V3.digest}


def test_a_failure_of_one_address_stops_no_other(scene: Scene) -> None:
    """A wrong password on a laptop, say: production has its own."""
    laptop = scene.through("laptop:5432/orders")
    laptop.environment = "nowhere"
    scene.environment = "production"
    scene.migrated(V1)
    for _ in range(3):
        with pytest.raises(ConfigurationError, match="belongs to environment 'production'"):
            laptop.maintenance(V2).up(scene.deadline())
    assert recorded(scene).address == "laptop:5432/orders"
    assert scene.runner(V2).ensure(scene.deadline()) is Outcome.MIGRATED


def test_code_that_succeeds_leaves_the_failure_of_newer_code_its_pause(scene: Scene) -> None:
    scene.database.fail(3, MigrationFailed("no", migration="0003_m"))
    with pytest.raises(MigrationFailed):
        scene.runner(V3).ensure(scene.deadline())
    scene.through("localhost:15432/orders").runner(V2).ensure(scene.deadline())
    assert recorded(scene).digest == V3.digest


def test_a_failure_is_over_once_a_corrected_file_of_its_version_is_applied(scene: Scene) -> None:
    scene.database.fail(2, boom())
    with pytest.raises(MigrationFailed):
        scene.runner(V2).ensure(scene.deadline())
    scene.database.fail(2, None)
    corrected = Manifest([migration(1), migration(2, "SELECT 'corrected'")])
    assert scene.runner(corrected).ensure(scene.deadline()) is Outcome.MIGRATED
    assert scene.table.state.failures == ()


# --- killed holders


def is_killed(scene: Scene, files: Manifest, *, at: int) -> None:
    """A process that ends without a word in the middle of a script."""

    def die(version: int) -> None:
        if version == at:
            scene.table.is_down = True
            raise SystemExit

    scene.database.on_script = die
    with pytest.raises(SystemExit):
        scene.runner(files).ensure(scene.deadline())
    scene.table.is_down = False
    scene.database.on_script = None
    scene.clock.advance(30)


def test_a_holder_publishes_what_it_begins_with_before_it_begins(scene: Scene) -> None:
    published: list[object] = []
    scene.database.on_script = lambda _version: published.append(scene.table.state.progress)
    scene.runner(V1).ensure(scene.deadline())
    (progress,) = published
    assert progress is not None
    assert progress.migration == "0001_m"  # type: ignore[attr-defined]  # it is a Progress


def test_three_holders_killed_in_a_row_at_one_migration_are_a_failure_with_a_pause(
    scene: Scene,
) -> None:
    scene.migrated(V1)
    for _ in range(3):
        is_killed(scene, V3, at=2)
    started = len(scene.observer.events_of(MigrationStarted))
    with pytest.raises(MigrationFailed, match="0002_m: 3 process"):
        scene.runner(V3).ensure(scene.deadline())
    failure = recorded(scene)
    assert (failure.is_kill, failure.migration, failure.version) == (True, "0002_m", "2")
    connections = scene.database.connections
    for _ in range(10):
        with pytest.raises(MigrationFailed, match="in a row ended"):
            scene.runner(V3).ensure(scene.deadline())
    assert scene.database.connections == connections
    assert len(scene.observer.events_of(MigrationStarted)) == started


def test_up_by_an_operator_runs_after_three_kills(scene: Scene) -> None:
    for _ in range(3):
        is_killed(scene, V1, at=1)
    scene.database.on_script = None
    assert scene.maintenance(V1).up(scene.deadline()) == ("0001_m",)


def test_after_the_pause_one_more_kill_is_reported_at_once(scene: Scene) -> None:
    scene.migrated(V1)
    for _ in range(3):
        is_killed(scene, V3, at=2)
    for attempts in (1, 2):
        with pytest.raises(MigrationFailed):
            scene.runner(V3).ensure(scene.deadline())
        assert recorded(scene).attempts == attempts
        scene.clock.advance(600)
        if attempts == 1:
            is_killed(scene, V3, at=2)
    assert scene.runner(V3).ensure(scene.deadline()) is Outcome.MIGRATED
    assert scene.database.effects == ["0001_m", "0002_m", "0003_m"]
    assert scene.table.state.failure is None


def test_holders_killed_at_different_migrations_are_no_failure(scene: Scene) -> None:
    for version in (1, 1, 2, 2, 3, 3):
        is_killed(scene, V3, at=version)
    assert scene.runner(V3).ensure(scene.deadline()) is Outcome.MIGRATED


def test_a_lease_given_back_between_two_kills_restarts_the_count(scene: Scene) -> None:
    for _ in range(2):
        is_killed(scene, V2, at=2)
        is_killed(scene, V2, at=2)
        scene.database.is_down = True
        with pytest.raises(NotReady):
            scene.runner(V2).ensure(scene.deadline())
        scene.database.is_down = False
    assert scene.runner(V2).ensure(scene.deadline()) is Outcome.MIGRATED


# --- leases of other lengths, and clocks


def test_a_lease_longer_than_ones_own_is_waited_for(scene: Scene) -> None:
    scene.held_by("long", seconds=60, length=60)
    began = scene.clock.monotonic()
    runner = scene.runner(V1, lease_seconds=6, wait_seconds=90)
    assert runner.ensure(scene.deadline(120)) is Outcome.MIGRATED
    assert 61 <= scene.clock.monotonic() - began < 63


def test_a_lease_shorter_than_ones_own_is_over_when_its_own_length_is(scene: Scene) -> None:
    scene.held_by("short", seconds=1_000, length=6)
    began = scene.clock.monotonic()
    runner = scene.runner(V1, lease_seconds=60, wait_seconds=90)
    assert runner.ensure(scene.deadline(120)) is Outcome.MIGRATED
    assert 7 <= scene.clock.monotonic() - began < 10


def test_a_clock_that_is_half_an_hour_behind_takes_no_live_lease(scene: Scene) -> None:
    true = 31 * 60_000
    lease = scene.held_by("alive")

    def renew() -> None:
        scene.change(lease_until_ms=scene.clock.wall_ms() + true + 20_000)

    scene.clock.jump(-31 * 60)
    renew()
    for second in range(5, 50, 5):
        scene.clock.at(second, renew)
    scene.clock.at(52, lambda: scene.finish(lease, V1))
    assert scene.runner(V1, wait_seconds=80).ensure(scene.deadline(120)) is Outcome.WAITED
    assert "acquire" not in scene.table.log


def test_a_clock_that_is_half_an_hour_behind_takes_a_dead_holders_lease(scene: Scene) -> None:
    scene.held_by("dead")
    scene.clock.jump(-31 * 60)
    assert scene.runner(V1, wait_seconds=80).ensure(scene.deadline(120)) is Outcome.MIGRATED
    assert scene.observer.events_of(CheckFinished)[0].waited_seconds < 25


# --- requests that come late


def test_a_late_duplicate_of_ones_own_acquisition_changes_nothing_while_the_lease_is_held(
    scene: Scene,
) -> None:
    seen, owner = scene.table.state, new_owner()
    lease = InMemoryLeaseTable.acquire(scene.table, owner, expected=seen)
    assert isinstance(lease, Lease)
    again = InMemoryLeaseTable.acquire(scene.table, owner, expected=seen)
    assert isinstance(again, Lease)
    assert again.fence == lease.fence == scene.table.state.fence
    InMemoryLeaseTable.renew(scene.table, lease)


def test_a_late_duplicate_of_ones_own_acquisition_takes_nothing_after_the_release(
    scene: Scene,
) -> None:
    late: list[object] = []
    real = InMemoryLeaseTable.acquire

    def acquire_later() -> None:
        state, owner = scene.table.state, "the same owner"
        late.append(lambda: real(scene.table, owner, expected=state))

    scene.table.before["acquire"] = acquire_later
    scene.runner(V1).ensure(scene.deadline())
    state = scene.table.state
    late[0]()  # type: ignore[operator]  # the request that was on its way for so long
    assert scene.table.state == state


# --- what a person settles


def test_a_repair_ends_the_pause(scene: Scene) -> None:
    scene.migrated(V1)
    scene.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    with pytest.raises(MigrationFailed):
        scene.runner(V2).ensure(scene.deadline())
    assert recorded(scene).retry_at_ms > scene.clock.wall_ms()
    scene.maintenance(V2).repair(2, scene.deadline(), declared="pending")
    assert scene.table.state.failure is None
    assert scene.runner(V2).ensure(scene.deadline()) is Outcome.MIGRATED


# --- what is served


def test_a_waiter_does_not_serve_by_an_old_reading(scene: Scene) -> None:
    """A rollback withdrew it; an eventually consistent read may show the past."""
    lease = scene.held_by("rolling back")
    old = replace(scene.table.state)
    scene.finish(lease, V1)
    old, now = scene.table.state, old
    scene.change(**{name: getattr(now, name) for name in ("owner", "lease_until_ms", "lease_ms")})
    scene.change(databases={})
    read = scene.table.read

    def stale(*, consistent: bool = False) -> object:
        answer = read(consistent=consistent)
        return answer if consistent else old

    scene.table.read = stale  # type: ignore[method-assign,assignment]  # a replica that is behind
    with pytest.raises(NotReady):
        scene.runner(V1, wait_seconds=3).ensure(scene.deadline())


def test_the_first_reading_is_strongly_consistent(scene: Scene) -> None:
    scene.migrated(V1)
    asked: list[bool] = []
    read = scene.table.read

    def told(*, consistent: bool = False) -> object:
        asked.append(consistent)
        return read(consistent=consistent)

    scene.table.read = told  # type: ignore[method-assign,assignment]  # writes down what is asked
    scene.runner(V1).ensure(scene.deadline())
    assert asked == [True]


def test_an_acquisition_is_made_on_the_reading_that_it_was_decided_on(scene: Scene) -> None:
    """Another may have held and failed meanwhile: what it left is looked at first."""

    def hold_and_release() -> None:
        lease = scene.held_by("faster")
        InMemoryLeaseTable.release(scene.table, lease)

    scene.table.before["acquire"] = hold_and_release
    assert scene.runner(V1).ensure(scene.deadline()) is Outcome.MIGRATED
    assert scene.table.log[:3] == ["read", "acquire", "read"]
    assert scene.table.state.fence == 2


def test_progress_that_cannot_be_published_at_once_stops_nothing(scene: Scene) -> None:
    """The lease is trusted for long enough, and the next renewal publishes it."""
    scene.table.before["renew"] = raises(LeaseStoreUnavailable("gone"))
    assert scene.runner(V1).ensure(scene.deadline()) is Outcome.MIGRATED
    assert scene.database.effects == ["0001_m"]


def test_a_lease_lost_when_progress_is_published_starts_nothing(scene: Scene) -> None:
    scene.table.before["renew"] = raises(LeaseLost("gone"))
    with pytest.raises(LeaseLost):
        scene.runner(V1).ensure(scene.deadline())
    assert scene.database.effects == []
