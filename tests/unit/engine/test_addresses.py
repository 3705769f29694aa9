"""Databases with several addresses, that are copied, restored, moved, or share a target."""

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
from lambda_migrate.lease.progress import Progress
from lambda_migrate.migrations import Manifest
from lambda_migrate.outcome import Outcome
from lambda_migrate.postgresql.ports import DatabaseInspection
from lambda_migrate.testing import InMemoryDatabase
from tests.unit.engine.fakes import Fakes, copy_database, manifest, migration, raises, restore

V1, V2, V3 = manifest(1), manifest(1, 2), manifest(1, 2, 3)


def cold_start(fakes: Fakes, files: Manifest, mode: str = "migrate") -> Outcome:
    return fakes.runner(files, mode=mode, wait_seconds=3).ensure(fakes.deadline())


# --- two addresses of one database


@pytest.mark.parametrize("pending", [V2, V3], ids=["nothing pending", "one pending"])
def test_up_through_a_tunnel_keeps_other_addresses_ready(fakes: Fakes, pending: Manifest) -> None:
    fakes.migrated(V2)
    tunnel = fakes.through("localhost:15432/orders")
    tunnel.operations(pending).up(fakes.deadline())
    connections = fakes.database.connections
    assert cold_start(fakes, V2, "require") is Outcome.UP_TO_DATE
    assert fakes.database.connections == connections
    assert tunnel.ready(V1, V2, pending) == [V1, V2, pending]


def test_require_functions_inspect_once_what_was_migrated_through_a_tunnel(
    fakes: Fakes,
) -> None:
    fakes.migrated(V2)
    fakes.through("localhost:15432/orders").operations(V3).up(fakes.deadline())
    connections, effects = fakes.database.connections, list(fakes.database.effects)
    assert {cold_start(fakes, V3, "require") for _ in range(100)} == {Outcome.UP_TO_DATE}
    assert fakes.database.connections == connections + 1
    assert fakes.database.effects == effects
    assert fakes.table.state.owner is None
    assert fakes.database.token < fakes.table.state.fence, "a look leaves the fence alone"


def test_many_require_functions_inspect_once_if_nothing_is_ready(fakes: Fakes) -> None:
    fakes.migrated(V1)
    elsewhere = fakes.through("localhost:15432/orders")
    connections = fakes.database.connections
    for _ in range(20):
        with pytest.raises(NotReady):
            cold_start(elsewhere, V3, "require")
    assert fakes.database.connections == connections + 1
    assert fakes.database.effects == ["0001_m"], "a require function never migrates"


def test_a_require_function_notices_a_migration_while_it_waits(fakes: Fakes) -> None:
    fakes.migrated(V1)
    tunnel = fakes.through("localhost:15432/orders")
    fakes.clock.at(1, lambda: tunnel.operations(V2).up(fakes.deadline()))
    assert cold_start(fakes, V2, "require") is Outcome.WAITED


def test_an_inspection_that_cannot_connect_releases_the_lease_and_publishes_nothing(
    fakes: Fakes,
) -> None:
    fakes.migrated(V2)
    state = fakes.table.state
    tunnel = fakes.through("localhost:15432/orders")
    fakes.database.is_down = True
    with pytest.raises(NotReady):
        cold_start(tunnel, V2, "require")
    assert (fakes.table.state.owner, fakes.table.state.databases) == (None, state.databases)


def test_an_inspection_that_cannot_be_published_at_once_is_published_later(
    fakes: Fakes,
) -> None:
    fakes.migrated(V2)
    tunnel = fakes.through("localhost:15432/orders")
    fakes.table.before["look"] = raises(LeaseStoreUnavailable("throttled"))
    assert cold_start(tunnel, V2, "require") is Outcome.UP_TO_DATE


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_inspection_whose_lease_was_not_released_blocks_others_for_one_lease(
    fakes: Fakes, when: str
) -> None:
    """Its process was killed between the two, or every answer to its writes was lost."""
    fakes.migrated(V2)
    tunnel = fakes.through("localhost:15432/orders")

    class Killed(BaseException):
        pass

    getattr(fakes.table, when)["acquire"] = raises(Killed())
    with pytest.raises(Killed):
        cold_start(tunnel, V2, "require")
    fakes.clock.advance(30)
    assert cold_start(tunnel, V2, "require") is Outcome.UP_TO_DATE
    assert fakes.table.state.owner is None


def test_an_inspection_runs_if_the_response_to_its_acquisition_was_lost(fakes: Fakes) -> None:
    fakes.migrated(V2)
    fakes.table.after["acquire"] = raises(LeaseStoreUnavailable("no answer"))
    tunnel = fakes.through("localhost:15432/orders")
    assert cold_start(tunnel, V2, "require") is Outcome.WAITED


def test_an_inspection_after_an_idle_dead_holder_finds_what_is_ready(
    fakes: Fakes,
) -> None:
    fakes.migrated(V2)
    fakes.held_by("dead", seconds=-5)
    assert cold_start(fakes.through("localhost:15432/orders"), V2, "require") is Outcome.UP_TO_DATE


def test_an_inspection_after_a_dead_holder_with_the_fence_serves_nothing(
    fakes: Fakes,
) -> None:
    """It may be frozen in the middle of a rollback."""
    fakes.migrated(V2)
    lease = fakes.held_by("dead", seconds=-5)
    fakes.database.token, fakes.database._owner = lease.fence, lease.owner
    with pytest.raises(NotReady, match=r"dead began to migrate .* did not complete"):
        cold_start(fakes.through("localhost:15432/orders"), V2, "require")


def test_an_inspection_does_not_hide_a_killed_holder(fakes: Fakes) -> None:
    fakes.migrated(V2)
    progress = Progress("0003_m", 0, 1, 1, attempts=2)
    fakes.held_by("dead", seconds=-5)
    fakes.change(progress=progress)
    cold_start(fakes.through("localhost:15432/orders"), V2, "require")
    assert fakes.table.state.progress == progress


def test_a_replica_that_is_behind_withdraws_nothing_and_is_inspected_again(
    fakes: Fakes,
) -> None:
    fakes.migrated(V1)
    replica = fakes.through("reader:5432/orders")
    assert cold_start(replica, V1, "require") is Outcome.UP_TO_DATE
    behind = replace(fakes.database.inspect(fakes.deadline()), is_replica=True)
    fakes.operations(V2).up(fakes.deadline())
    shown = [behind]
    inspect = fakes.database.inspect
    fakes.database.inspect = lambda by: shown.pop() if shown else inspect(by)  # type: ignore[method-assign,assignment]
    assert cold_start(replica, V2, "require") is Outcome.WAITED
    assert cold_start(replica, V1, "require") is Outcome.UP_TO_DATE


def test_a_database_that_cannot_be_inspected_is_inspected_again_after_a_pause(
    fakes: Fakes,
) -> None:
    fakes.migrated(V2)
    other = fakes.through("localhost:15432/orders")
    inspect, refusals = fakes.database.inspect, [0]

    def refuse(_deadline: object) -> DatabaseInspection:
        refusals[0] += 1
        raise ConfigurationError("permission denied for table history")

    fakes.database.inspect = refuse  # type: ignore[method-assign,assignment]
    for _ in range(20):
        with pytest.raises((ConfigurationError, MigrationFailed), match="permission denied"):
            cold_start(other, V2, "require")
    assert refusals == [1]
    fakes.database.inspect = inspect  # type: ignore[method-assign]
    fakes.clock.advance(11)
    assert cold_start(other, V2, "require") is Outcome.UP_TO_DATE


def test_an_inspection_of_another_environments_database_serves_nothing(fakes: Fakes) -> None:
    fakes.environment = "production"
    fakes.migrated(V2)
    other = fakes.through("localhost:15432/orders")
    other.environment = "staging"
    with pytest.raises(ConfigurationError, match="belongs to environment 'production'"):
        cold_start(other, V2, "require")


def test_a_function_that_may_only_read_the_item_waits_and_reports_why(fakes: Fakes) -> None:
    fakes.migrated(V2)
    fakes.table.before["acquire"] = raises(ConfigurationError("UpdateItem is not allowed"))
    with pytest.raises(NotReady, match=r"could not check .*: UpdateItem is not allowed"):
        cold_start(fakes.through("localhost:15432/orders"), V2, "require")


def test_one_waiter_inspects_an_unchanged_database_once(fakes: Fakes) -> None:
    """More migrations than are listed, older code, and a release that failed since."""
    fakes.migrated(manifest(*range(1, 261)))
    fakes.database.fail_on(261, MigrationFailed("no", migration="0261_m"))
    with pytest.raises(MigrationFailed):
        fakes.runner(manifest(*range(1, 262))).ensure(fakes.deadline(600))
    connections = fakes.database.connections
    with pytest.raises(NotReady):
        fakes.runner(manifest(*range(1, 31)), mode="require").ensure(fakes.deadline())
    assert fakes.database.connections == connections + 1


def test_another_database_of_the_same_target_keeps_the_first_one_ready(fakes: Fakes) -> None:
    fakes.migrated(V2)
    other = copy.copy(fakes)
    other.database = InMemoryDatabase(address_text="new:5432/orders", clock=fakes.clock)
    other.operations(V2).up(fakes.deadline())
    assert fakes.ready(V1, V2) == [V1, V2]
    assert other.ready(V1, V2) == [V1, V2]


def test_a_rollback_through_a_tunnel_withdraws_at_every_address_first(
    fakes: Fakes,
) -> None:
    fakes.migrated(V3)
    tunnel = fakes.through("localhost:15432/orders")
    seen: list[list[Manifest]] = []
    fakes.database.on_script = lambda _version: seen.append(fakes.ready(V1, V2, V3))
    tunnel.operations(V3).down(fakes.deadline(), to=1)
    assert seen == [[V1], [V1]]
    assert fakes.ready(V1, V2, V3) == [V1]
    assert cold_start(fakes, V3) is Outcome.MIGRATED


# --- copies and restores


def test_a_complete_copy_is_recognized_by_its_history(
    fakes: Fakes,
) -> None:
    fakes.migrated(V1)
    copy = fakes.copy_database("copy:5432/orders")
    fakes.migrated(V3)
    assert copy.ready(V1) == []
    assert cold_start(copy, V3) is Outcome.MIGRATED
    assert copy.database.effects == ["0001_m", "0002_m", "0003_m"]
    assert copy.database.identity != fakes.database.identity


def test_a_require_function_does_not_serve_a_copy_that_is_behind(fakes: Fakes) -> None:
    fakes.migrated(V1)
    copy = fakes.copy_database("copy:5432/orders")
    fakes.migrated(V2)
    with pytest.raises(NotReady):
        cold_start(copy, V2, "require")
    with pytest.raises(NotReady):
        cold_start(copy, V1, "require")


def test_a_rollback_of_a_copy_keeps_the_original_ready(fakes: Fakes) -> None:
    fakes.migrated(V1)
    copy = fakes.copy_database("copy:5432/orders")
    fakes.migrated(V3)
    cold_start(copy, V3)
    assert cold_start(fakes, V3) is Outcome.MIGRATED, "it looks once: a copy was distinguished"
    copy.operations(V3).down(fakes.deadline(), to=0)
    assert (copy.ready(V1, V2, V3), fakes.ready(V1, V2, V3)) == ([], [V1, V2, V3])
    assert cold_start(fakes, V3) is Outcome.UP_TO_DATE


def test_a_restore_in_place_is_found_by_verify_and_by_the_next_holder_at_any_address(
    fakes: Fakes,
) -> None:
    tunnel = fakes.through("localhost:15432/orders")
    fakes.migrated(V1)
    backup = copy_database(fakes.database, "backup")
    fakes.migrated(V3)
    tunnel.migrated(V3)
    restore(fakes.database, backup)
    (problem,) = fakes.operations(V3).verify(fakes.deadline()).problems
    assert "an earlier state of it" in problem
    tunnel.operations(V2).up(fakes.deadline())
    assert (tunnel.ready(V1, V2, V3), fakes.ready(V1, V2, V3)) == ([V1, V2], [])
    assert cold_start(fakes, V3) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m", "0003_m"]


def test_a_resync_after_a_restore_makes_every_other_address_inspect_again(fakes: Fakes) -> None:
    tunnel = fakes.through("localhost:15432/orders")
    fakes.migrated(V1)
    backup = copy_database(fakes.database, "backup")
    fakes.migrated(V3)
    tunnel.migrated(V3)
    restore(fakes.database, backup)
    tunnel.operations(V3).verify(fakes.deadline(), resync=True)
    assert (tunnel.ready(V1, V2, V3), fakes.ready(V1, V2, V3)) == ([V1], [])
    assert cold_start(fakes, V1, "require") is Outcome.UP_TO_DATE


# --- an address that is moved


def test_a_secret_that_names_another_database_is_found_by_verify_and_by_the_next_release(
    fakes: Fakes,
) -> None:
    fakes.migrated(V2)
    fakes.database = InMemoryDatabase(address_text=fakes.database.address_text, clock=fakes.clock)
    (problem,) = fakes.operations(V2).verify(fakes.deadline()).problems
    assert "points to a different database" in problem
    assert cold_start(fakes, V3) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m", "0003_m"]
    assert fakes.operations(V3).verify(fakes.deadline()).problems == ()


def test_a_secret_that_names_another_database_of_the_same_length_is_not_trusted_after_a_check(
    fakes: Fakes,
) -> None:
    fakes.migrated(V3)
    fakes.database = InMemoryDatabase(address_text=fakes.database.address_text, clock=fakes.clock)
    fakes.operations(V1).up(fakes.deadline())
    assert fakes.ready(V1, V2, V3) == [V1]
    with pytest.raises(NotReady):
        cold_start(fakes, V3, "require")


# --- old code


@pytest.mark.parametrize("newer", [22, 250])
def test_an_old_require_function_is_served_however_many_manifests_came_after(
    fakes: Fakes, newer: int
) -> None:
    files = Manifest(migration(version) for version in range(1, newer + 2))
    cold_start(fakes, V1)
    assert cold_start(fakes, V1, "require") is Outcome.UP_TO_DATE
    for version in range(2, newer + 2):
        cold_start(fakes, files.up_to(version))
    assert cold_start(fakes, V1, "require") is Outcome.UP_TO_DATE
    connections = fakes.database.connections
    assert {cold_start(fakes, V1, "require") for _ in range(5)} == {Outcome.UP_TO_DATE}
    assert fakes.database.connections == connections, "one look was enough"


def test_a_diverged_require_function_inspects_once_in_each_pause(fakes: Fakes) -> None:
    cold_start(fakes, Manifest(migration(version) for version in range(1, 252)))
    never = Manifest([migration(1, "SELECT 'another'")])
    connections = fakes.database.connections
    for _ in range(20):
        with pytest.raises(MigrationFailed, match="more than 200 applied migrations"):
            fakes.runner(never, mode="require").ensure(fakes.deadline())
    assert fakes.database.connections == connections + 1
    assert fakes.table.state.owner is None


# --- one target for two databases


def test_two_databases_with_different_migrations_that_take_turns_are_reported(
    fakes: Fakes,
) -> None:
    other = Fakes(clock=fakes.clock, observer=fakes.observer)
    other.table = fakes.table
    other.database = InMemoryDatabase(address_text="billing:5432/billing", clock=fakes.clock)
    theirs = Manifest([migration(1, "SELECT 'theirs'")])
    fakes.migrated(V1)
    assert cold_start(other, theirs) is Outcome.MIGRATED
    (shared,) = fakes.observer.events_of(TargetShared)
    assert (shared.target, shared.address) == ("orders", "billing:5432/billing")
    assert shared.other_addresses == fakes.database.address_text
    assert cold_start(fakes, V2) is Outcome.MIGRATED
    assert fakes.observer.events_of(TargetShared)[-1].other_addresses == "billing:5432/billing"
    assert other.ready(theirs, V1) == [theirs]
    assert fakes.ready(theirs, V1, V2) == [V1, V2]


def test_a_copy_that_is_behind_is_not_a_shared_target(fakes: Fakes) -> None:
    fakes.migrated(V3)
    other = Fakes(clock=fakes.clock, observer=fakes.observer)
    other.table = fakes.table
    other.database = InMemoryDatabase(address_text="staging:5432/orders", clock=fakes.clock)
    cold_start(other, V2)
    assert fakes.observer.events_of(TargetShared) == []


def test_a_failure_at_another_address_causes_no_inspection(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.database.fail_on(2, MigrationFailed("no", migration="0002_m"))
    with pytest.raises(MigrationFailed):
        fakes.through("localhost:15432/orders").operations(V2).up(fakes.deadline())
    connections = fakes.database.connections
    with pytest.raises(MigrationFailed, match="no"):
        cold_start(fakes, V2, "require")
    assert fakes.database.connections == connections
