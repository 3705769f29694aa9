"""Databases that several addresses lead to, that are copied, restored, moved, or share a target."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from lambda_migrate.errors import (
    ConfigurationError,
    LeaseStoreUnavailable,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.events import TargetShared
from lambda_migrate.lease.record import Progress
from lambda_migrate.migrations import Manifest
from lambda_migrate.postgresql.ports import Inspection
from lambda_migrate.runner import Outcome
from lambda_migrate.testing import InMemoryDatabase
from tests.unit.engine.scene import Scene, copied, manifest, migration, raises, restore

V1, V2, V3 = manifest(1), manifest(1, 2), manifest(1, 2, 3)


def cold_start(scene: Scene, files: Manifest, mode: str = "migrate") -> Outcome:
    return scene.runner(files, mode=mode, wait_seconds=3).ensure(scene.deadline())


# --- two addresses of one database


@pytest.mark.parametrize("pending", [V2, V3], ids=["nothing pending", "one pending"])
def test_up_through_a_tunnel_keeps_other_addresses_ready(scene: Scene, pending: Manifest) -> None:
    scene.migrated(V2)
    tunnel = scene.through("localhost:15432/orders")
    tunnel.maintenance(pending).up(scene.deadline())
    connections = scene.database.connections
    assert cold_start(scene, V2, "require") is Outcome.UP_TO_DATE
    assert scene.database.connections == connections
    assert tunnel.ready(V1, V2, pending) == [V1, V2, pending]


def test_require_functions_inspect_once_what_was_migrated_through_a_tunnel(
    scene: Scene,
) -> None:
    scene.migrated(V2)
    scene.through("localhost:15432/orders").maintenance(V3).up(scene.deadline())
    connections, effects = scene.database.connections, list(scene.database.effects)
    assert {cold_start(scene, V3, "require") for _ in range(100)} == {Outcome.UP_TO_DATE}
    assert scene.database.connections == connections + 1
    assert scene.database.effects == effects
    assert scene.table.state.owner is None
    assert scene.database.token < scene.table.state.fence, "a look leaves the fence alone"


def test_many_require_functions_inspect_once_if_nothing_is_ready(scene: Scene) -> None:
    scene.migrated(V1)
    elsewhere = scene.through("localhost:15432/orders")
    connections = scene.database.connections
    for _ in range(20):
        with pytest.raises(NotReady):
            cold_start(elsewhere, V3, "require")
    assert scene.database.connections == connections + 1
    assert scene.database.effects == ["0001_m"], "a require function never migrates"


def test_a_require_function_notices_a_migration_while_it_waits(scene: Scene) -> None:
    scene.migrated(V1)
    tunnel = scene.through("localhost:15432/orders")
    scene.clock.at(1, lambda: tunnel.maintenance(V2).up(scene.deadline()))
    assert cold_start(scene, V2, "require") is Outcome.WAITED


def test_an_inspection_that_cannot_connect_releases_the_lease_and_publishes_nothing(
    scene: Scene,
) -> None:
    scene.migrated(V2)
    state = scene.table.state
    tunnel = scene.through("localhost:15432/orders")
    scene.database.is_down = True
    with pytest.raises(NotReady):
        cold_start(tunnel, V2, "require")
    assert (scene.table.state.owner, scene.table.state.databases) == (None, state.databases)


def test_an_inspection_that_cannot_be_published_at_once_is_published_later(scene: Scene) -> None:
    scene.migrated(V2)
    tunnel = scene.through("localhost:15432/orders")
    scene.table.before["look"] = raises(LeaseStoreUnavailable("throttled"))
    assert cold_start(tunnel, V2, "require") is Outcome.UP_TO_DATE


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_inspection_whose_lease_was_not_released_blocks_others_for_one_lease(
    scene: Scene, when: str
) -> None:
    """Its process was killed between the two, or every answer to its writes was lost."""
    scene.migrated(V2)
    tunnel = scene.through("localhost:15432/orders")

    class Killed(BaseException):
        pass

    getattr(scene.table, when)["acquire"] = raises(Killed())
    with pytest.raises(Killed):
        cold_start(tunnel, V2, "require")
    scene.clock.advance(30)
    assert cold_start(tunnel, V2, "require") is Outcome.UP_TO_DATE
    assert scene.table.state.owner is None


def test_an_inspection_runs_if_the_response_to_its_acquisition_was_lost(scene: Scene) -> None:
    scene.migrated(V2)
    scene.table.after["acquire"] = raises(LeaseStoreUnavailable("no answer"))
    tunnel = scene.through("localhost:15432/orders")
    assert cold_start(tunnel, V2, "require") is Outcome.WAITED


def test_an_inspection_after_an_idle_dead_holder_finds_what_is_ready(
    scene: Scene,
) -> None:
    scene.migrated(V2)
    scene.held_by("dead", seconds=-5)
    assert cold_start(scene.through("localhost:15432/orders"), V2, "require") is Outcome.UP_TO_DATE


def test_an_inspection_after_a_dead_holder_with_the_fence_serves_nothing(
    scene: Scene,
) -> None:
    """It may be frozen in the middle of a rollback."""
    scene.migrated(V2)
    lease = scene.held_by("dead", seconds=-5)
    scene.database.token, scene.database._owner = lease.fence, lease.owner
    with pytest.raises(NotReady, match=r"dead has migrated .* did not complete"):
        cold_start(scene.through("localhost:15432/orders"), V2, "require")


def test_an_inspection_does_not_hide_a_killed_holder(scene: Scene) -> None:
    scene.migrated(V2)
    progress = Progress("0003_m", 0, 1, 1, attempts=2)
    scene.held_by("dead", seconds=-5)
    scene.change(progress=progress)
    cold_start(scene.through("localhost:15432/orders"), V2, "require")
    assert scene.table.state.progress == progress


def test_a_replica_that_is_behind_withdraws_nothing_and_is_inspected_again(
    scene: Scene,
) -> None:
    scene.migrated(V1)
    replica = scene.through("reader:5432/orders")
    assert cold_start(replica, V1, "require") is Outcome.UP_TO_DATE
    behind = replace(scene.database.inspect(scene.deadline()), is_replica=True)
    scene.maintenance(V2).up(scene.deadline())
    shown = [behind]
    inspect = scene.database.inspect
    scene.database.inspect = lambda by: shown.pop() if shown else inspect(by)  # type: ignore[method-assign,assignment]
    assert cold_start(replica, V2, "require") is Outcome.WAITED
    assert cold_start(replica, V1, "require") is Outcome.UP_TO_DATE


def test_a_database_that_cannot_be_inspected_is_inspected_again_after_a_pause(
    scene: Scene,
) -> None:
    scene.migrated(V2)
    other = scene.through("localhost:15432/orders")
    inspect, refusals = scene.database.inspect, [0]

    def refuse(_deadline: object) -> Inspection:
        refusals[0] += 1
        raise ConfigurationError("permission denied for table history")

    scene.database.inspect = refuse  # type: ignore[method-assign,assignment]
    for _ in range(20):
        with pytest.raises((ConfigurationError, MigrationFailed), match="permission denied"):
            cold_start(other, V2, "require")
    assert refusals == [1]
    scene.database.inspect = inspect  # type: ignore[method-assign]
    scene.clock.advance(11)
    assert cold_start(other, V2, "require") is Outcome.UP_TO_DATE


def test_an_inspection_of_another_environments_database_serves_nothing(scene: Scene) -> None:
    scene.environment = "production"
    scene.migrated(V2)
    other = scene.through("localhost:15432/orders")
    other.environment = "staging"
    with pytest.raises(ConfigurationError, match="belongs to environment 'production'"):
        cold_start(other, V2, "require")


def test_a_function_that_may_only_read_the_item_waits_and_reports_why(scene: Scene) -> None:
    scene.migrated(V2)
    scene.table.before["acquire"] = raises(ConfigurationError("UpdateItem is not allowed"))
    with pytest.raises(NotReady, match=r"could not check .*: UpdateItem is not allowed"):
        cold_start(scene.through("localhost:15432/orders"), V2, "require")


def test_one_waiter_inspects_an_unchanged_database_once(scene: Scene) -> None:
    """More migrations than are listed, older code, and a release that failed since."""
    scene.migrated(manifest(*range(1, 261)))
    scene.database.fail(261, MigrationFailed("no", migration="0261_m"))
    with pytest.raises(MigrationFailed):
        scene.runner(manifest(*range(1, 262))).ensure(scene.deadline(600))
    connections = scene.database.connections
    with pytest.raises(NotReady):
        scene.runner(manifest(*range(1, 31)), mode="require").ensure(scene.deadline())
    assert scene.database.connections == connections + 1


def test_another_database_of_the_same_target_keeps_the_first_one_ready(scene: Scene) -> None:
    scene.migrated(V2)
    other = copy.copy(scene)
    other.database = InMemoryDatabase(fingerprint="new:5432/orders", clock=scene.clock)
    other.maintenance(V2).up(scene.deadline())
    assert scene.ready(V1, V2) == [V1, V2]
    assert other.ready(V1, V2) == [V1, V2]


def test_a_rollback_through_a_tunnel_withdraws_at_every_address_first(
    scene: Scene,
) -> None:
    scene.migrated(V3)
    tunnel = scene.through("localhost:15432/orders")
    seen: list[list[Manifest]] = []
    scene.database.on_script = lambda _version: seen.append(scene.ready(V1, V2, V3))
    tunnel.maintenance(V3).down(scene.deadline(), to=1)
    assert seen == [[V1], [V1]]
    assert scene.ready(V1, V2, V3) == [V1]
    assert cold_start(scene, V3) is Outcome.MIGRATED


# --- copies and restores


def test_a_complete_copy_is_recognized_by_its_history(
    scene: Scene,
) -> None:
    scene.migrated(V1)
    copy = scene.copied("copy:5432/orders")
    scene.migrated(V3)
    assert copy.ready(V1) == []
    assert cold_start(copy, V3) is Outcome.MIGRATED
    assert copy.database.effects == ["0001_m", "0002_m", "0003_m"]
    assert copy.database.identity != scene.database.identity


def test_a_require_function_does_not_serve_a_copy_that_is_behind(scene: Scene) -> None:
    scene.migrated(V1)
    copy = scene.copied("copy:5432/orders")
    scene.migrated(V2)
    with pytest.raises(NotReady):
        cold_start(copy, V2, "require")
    with pytest.raises(NotReady):
        cold_start(copy, V1, "require")


def test_a_rollback_of_a_copy_keeps_the_original_ready(scene: Scene) -> None:
    scene.migrated(V1)
    copy = scene.copied("copy:5432/orders")
    scene.migrated(V3)
    cold_start(copy, V3)
    assert cold_start(scene, V3) is Outcome.MIGRATED, "it looks once: a copy was distinguished"
    copy.maintenance(V3).down(scene.deadline(), to=0)
    assert (copy.ready(V1, V2, V3), scene.ready(V1, V2, V3)) == ([], [V1, V2, V3])
    assert cold_start(scene, V3) is Outcome.UP_TO_DATE


def test_a_restore_in_place_is_found_by_verify_and_by_the_next_holder_at_any_address(
    scene: Scene,
) -> None:
    tunnel = scene.through("localhost:15432/orders")
    scene.migrated(V1)
    backup = copied(scene.database, "backup")
    scene.migrated(V3)
    tunnel.migrated(V3)
    restore(scene.database, backup)
    (problem,) = scene.maintenance(V3).verify(scene.deadline()).problems
    assert "an earlier state of it" in problem
    tunnel.maintenance(V2).up(scene.deadline())
    assert (tunnel.ready(V1, V2, V3), scene.ready(V1, V2, V3)) == ([V1, V2], [])
    assert cold_start(scene, V3) is Outcome.MIGRATED
    assert scene.database.effects == ["0001_m", "0002_m", "0003_m"]


def test_a_resync_after_a_restore_makes_every_other_address_inspect_again(scene: Scene) -> None:
    tunnel = scene.through("localhost:15432/orders")
    scene.migrated(V1)
    backup = copied(scene.database, "backup")
    scene.migrated(V3)
    tunnel.migrated(V3)
    restore(scene.database, backup)
    tunnel.maintenance(V3).verify(scene.deadline(), resync=True)
    assert (tunnel.ready(V1, V2, V3), scene.ready(V1, V2, V3)) == ([V1], [])
    assert cold_start(scene, V1, "require") is Outcome.UP_TO_DATE


# --- an address that is moved


def test_a_secret_that_names_another_database_is_found_by_verify_and_by_the_next_release(
    scene: Scene,
) -> None:
    scene.migrated(V2)
    scene.database = InMemoryDatabase(fingerprint=scene.database.fingerprint, clock=scene.clock)
    (problem,) = scene.maintenance(V2).verify(scene.deadline()).problems
    assert "leads to another database" in problem
    assert cold_start(scene, V3) is Outcome.MIGRATED
    assert scene.database.effects == ["0001_m", "0002_m", "0003_m"]
    assert scene.maintenance(V3).verify(scene.deadline()).problems == ()


def test_a_secret_that_names_another_database_of_the_same_length_is_not_trusted_after_a_check(
    scene: Scene,
) -> None:
    scene.migrated(V3)
    scene.database = InMemoryDatabase(fingerprint=scene.database.fingerprint, clock=scene.clock)
    scene.maintenance(V1).up(scene.deadline())
    assert scene.ready(V1, V2, V3) == [V1]
    with pytest.raises(NotReady):
        cold_start(scene, V3, "require")


# --- old code


@pytest.mark.parametrize("newer", [22, 250])
def test_an_old_require_function_is_served_however_many_manifests_came_after(
    scene: Scene, newer: int
) -> None:
    files = Manifest(migration(version) for version in range(1, newer + 2))
    cold_start(scene, V1)
    assert cold_start(scene, V1, "require") is Outcome.UP_TO_DATE
    for version in range(2, newer + 2):
        cold_start(scene, files.up_to(version))
    assert cold_start(scene, V1, "require") is Outcome.UP_TO_DATE
    connections = scene.database.connections
    assert {cold_start(scene, V1, "require") for _ in range(5)} == {Outcome.UP_TO_DATE}
    assert scene.database.connections == connections, "one look was enough"


def test_a_diverged_require_function_inspects_once_in_each_pause(scene: Scene) -> None:
    cold_start(scene, Manifest(migration(version) for version in range(1, 252)))
    never = Manifest([migration(1, "SELECT 'another'")])
    connections = scene.database.connections
    for _ in range(20):
        with pytest.raises(MigrationFailed, match="different migrations for a long time"):
            scene.runner(never, mode="require").ensure(scene.deadline())
    assert scene.database.connections == connections + 1
    assert scene.table.state.owner is None


# --- one target for two databases


def test_two_databases_with_different_migrations_that_take_turns_are_reported(scene: Scene) -> None:
    other = Scene(clock=scene.clock, observer=scene.observer)
    other.table = scene.table
    other.database = InMemoryDatabase(fingerprint="billing:5432/billing", clock=scene.clock)
    theirs = Manifest([migration(1, "SELECT 'theirs'")])
    scene.migrated(V1)
    assert cold_start(other, theirs) is Outcome.MIGRATED
    (shared,) = scene.observer.events_of(TargetShared)
    assert (shared.target, shared.address) == ("orders", "billing:5432/billing")
    assert shared.other_addresses == scene.database.fingerprint
    assert cold_start(scene, V2) is Outcome.MIGRATED
    assert scene.observer.events_of(TargetShared)[-1].other_addresses == "billing:5432/billing"
    assert other.ready(theirs, V1) == [theirs]
    assert scene.ready(theirs, V1, V2) == [V1, V2]


def test_a_copy_that_is_behind_is_not_a_shared_target(scene: Scene) -> None:
    scene.migrated(V3)
    other = Scene(clock=scene.clock, observer=scene.observer)
    other.table = scene.table
    other.database = InMemoryDatabase(fingerprint="staging:5432/orders", clock=scene.clock)
    cold_start(other, V2)
    assert scene.observer.events_of(TargetShared) == []


def test_a_failure_at_another_address_causes_no_inspection(scene: Scene) -> None:
    scene.migrated(V1)
    scene.database.fail(2, MigrationFailed("no", migration="0002_m"))
    with pytest.raises(MigrationFailed):
        scene.through("localhost:15432/orders").maintenance(V2).up(scene.deadline())
    connections = scene.database.connections
    with pytest.raises(MigrationFailed, match="no"):
        cold_start(scene, V2, "require")
    assert scene.database.connections == connections
