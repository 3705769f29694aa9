"""A runner without a lease table: the database is asked, and PostgreSQL's fence excludes others."""

from __future__ import annotations

import pytest

from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable, MigrationFailed, NotReady
from lambda_migrate.events import WaitingForLease
from lambda_migrate.postgresql.ports import LeaseGrant
from lambda_migrate.runner import Outcome
from lambda_migrate.testing import InMemorySession
from tests.unit.engine.scene import Scene, manifest

V1, V2 = manifest(1), manifest(1, 2)


@pytest.fixture
def scene() -> Scene:
    return Scene(has_lease_table=False)


def another_process(scene: Scene) -> Scene:
    """A process on the same database, with an in-memory lease of its own."""
    other = Scene(clock=scene.clock, has_lease_table=False)
    other.database = scene.database
    return other


def hold_fence(scene: Scene) -> InMemorySession:
    """Another process migrates: its connection holds the fence."""
    grant = LeaseGrant("orders", 7, "other")
    return scene.database.take_over(grant, scene.deadline(), evict=False)


def test_pending_migrations_are_applied(scene: Scene) -> None:
    assert scene.runner(V2).ensure() is Outcome.MIGRATED
    assert scene.database.effects == ["0001_m", "0002_m"]


@pytest.mark.parametrize("mode", ["migrate", "require"])
def test_a_current_database_is_only_read(scene: Scene, mode: str) -> None:
    scene.migrated(V2)
    token = scene.database.token
    assert another_process(scene).runner(V2, mode=mode).ensure() is Outcome.UP_TO_DATE
    assert another_process(scene).runner(V1, mode=mode).ensure() is Outcome.UP_TO_DATE, "ahead"
    assert scene.database.token == token


def test_what_was_ready_before_is_read_again_after_it_was_forgotten(scene: Scene) -> None:
    runner = scene.runner(V2)
    runner.ensure()
    scene.lose(2)
    assert runner.ensure() is Outcome.UP_TO_DATE
    runner.forget()
    assert runner.ensure() is Outcome.MIGRATED
    assert scene.database.effects == ["0001_m", "0002_m", "0002_m"]


def test_a_live_holder_is_waited_for_and_not_evicted(scene: Scene) -> None:
    held = hold_fence(scene)

    def finish() -> None:
        for migration in V2:
            held.apply(migration, V2.digest_at(migration.version), scene.deadline())
        held.close()

    scene.clock.at(10, finish)
    assert scene.runner(V2).ensure() is Outcome.WAITED
    assert scene.database.effects == ["0001_m", "0002_m"]
    assert {event.holder for event in scene.observer.events_of(WaitingForLease)} == {
        "another process"
    }


def test_what_a_holder_left_is_applied_once_it_is_gone(scene: Scene) -> None:
    held = hold_fence(scene)
    scene.clock.at(10, held.close)
    assert scene.runner(V2).ensure() is Outcome.MIGRATED


def test_waiting_for_a_holder_ends(scene: Scene) -> None:
    hold_fence(scene)
    with pytest.raises(NotReady, match="another process holds the lease"):
        scene.runner(V2, wait_seconds=5).ensure()
    assert scene.clock.monotonic() == pytest.approx(1_005, abs=0.1)
    assert scene.table.state.owner is None
    assert scene.database.effects == []


def test_mode_require_waits_for_another_process(scene: Scene) -> None:
    scene.clock.at(10, lambda: another_process(scene).runner(V2).ensure())
    assert scene.runner(V2, mode="require").ensure() is Outcome.WAITED


def test_mode_require_never_migrates(scene: Scene) -> None:
    with pytest.raises(NotReady):
        scene.runner(V2, mode="require", wait_seconds=5).ensure()
    assert scene.database.effects == []
    assert scene.database.token == 0


def test_another_environments_database_is_refused_although_it_is_current(scene: Scene) -> None:
    scene.migrated(V2)
    scene.database.environment = "production"
    other = another_process(scene)
    other.environment = "staging"
    with pytest.raises(ConfigurationError, match="belongs to environment 'production'"):
        other.runner(V2).ensure()


def test_a_failure_pauses_the_next_attempt_of_this_process(scene: Scene) -> None:
    scene.database.fail(1, MigrationFailed("no", migration="0001_m"))
    for _ in range(2):
        with pytest.raises(MigrationFailed, match="no"):
            scene.runner(V1).ensure()
    assert scene.table.state.failures[0].attempts == 1


def test_a_database_that_is_down_is_not_ready(scene: Scene) -> None:
    scene.database.is_down = True
    with pytest.raises(DatabaseUnavailable):
        scene.runner(V1).ensure()
