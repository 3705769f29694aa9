"""What people do to a target, on the same lease and fence as a starting function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from lambda_migrate.engine.operations import Operations, release_lease
from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    Diverged,
    LeaseHeld,
    LeaseLost,
    LeaseStoreUnavailable,
    ManifestError,
    MigrationFailed,
    RepairRequired,
)
from lambda_migrate.events import LeaseTakenOver, MigrationRolledBack
from lambda_migrate.lease.memory import InMemoryLeaseTable
from lambda_migrate.migrations import HistoryRow, Manifest, RowState
from lambda_migrate.migrations.adoption import OtherEntry, OtherHistory
from lambda_migrate.runner import Outcome
from tests.unit.engine.scene import Scene, manifest, migration, raises

V1, V2, V3 = manifest(1), manifest(1, 2), manifest(1, 2, 3)


def dbmate(*versions: int) -> OtherHistory:
    """Versions that dbmate has applied here."""
    entries = (OtherEntry(f"{version:04d}", version=version) for version in versions)
    return OtherHistory("dbmate", "public.schema_migrations", tuple(entries))


def boom() -> MigrationFailed:
    return MigrationFailed("division by zero", migration="0002_m", sqlstate="22012")


# --- looking


def test_status_shows_history_plan_and_item_and_changes_nothing(scene: Scene) -> None:
    scene.migrated(V2)
    state = scene.table.state
    status = scene.maintenance(V3).status(scene.deadline())
    assert [row.version for row in status.history] == [1, 2]
    assert [each.version for each in status.plan.pending] == [3]
    assert not status.is_marked_ready
    assert scene.maintenance(V2).status(scene.deadline()).is_marked_ready
    assert scene.table.log == ["read", "read"]
    assert scene.table.state == state


def test_status_of_a_new_database(scene: Scene) -> None:
    status = scene.maintenance(V1).status(scene.deadline())
    assert (status.history, status.is_marked_ready) == ((), False)


def test_plan_is_what_up_would_do(scene: Scene) -> None:
    scene.migrated(V1)
    plan, goal = scene.maintenance(V3).plan(scene.deadline(), to=2)
    assert ([each.version for each in plan.pending], goal) == ([2], V2)
    plan, goal = scene.maintenance(V3).plan(scene.deadline())
    assert ([each.version for each in plan.pending], goal) == ([2, 3], V3)
    assert scene.table.log == []


def _restored(scene: Scene) -> Manifest:
    scene.migrated(V3)
    scene.lose(3)
    return V3


def _edited(scene: Scene) -> Manifest:
    scene.migrated(V2)
    return Manifest([migration(1), migration(2, "SELECT 'edited'")])


def _in_doubt(scene: Scene) -> Manifest:
    scene.migrated(V1)
    scene.database.leave_in_doubt(migration(2), V2.digest, took_effect=True)
    return V2


def _vouched_for_by_nobody(scene: Scene) -> Manifest:
    scene.migrated(V2)
    scene.finish(scene.held_by("somebody"), V3)
    return V2


def _taken_back_in_the_middle(scene: Scene) -> Manifest:
    scene.migrated(V3)
    scene.lose(2)
    return manifest(1, 3)


@pytest.mark.parametrize(
    ("arrange", "problems"),
    [
        (_restored, ["the database was restored or changed by hand"]),
        (_edited, ["0002_m: the file"]),
        (_in_doubt, ["0002_m: it is in doubt (started); the next `up` settles it"]),
        (_vouched_for_by_nobody, ["marks 1 version(s) ready that the history does not support"]),
        (_taken_back_in_the_middle, ["marks 2 version(s) ready that the history does not support"]),
    ],
)
def test_verify_reports_each_disagreement(
    scene: Scene, arrange: Callable[[Scene], Manifest], problems: list[str]
) -> None:
    here = arrange(scene)
    found = scene.maintenance(here).verify(scene.deadline()).problems
    assert len(found) == len(problems)
    assert all(text in told for told, text in zip(found, problems, strict=True))


@pytest.mark.parametrize("here", [V1, V2, V3])
def test_verify_reports_nothing_if_all_agree(scene: Scene, here: Manifest) -> None:
    scene.migrated(V1)
    scene.migrated(V2)
    verification = scene.maintenance(here).verify(scene.deadline())
    assert (verification.problems, verification.resynced) == ((), False)
    assert set(scene.table.log) == {"read"}


def test_verify_resync_corrects_the_item_after_a_restore(scene: Scene) -> None:
    here = _restored(scene)
    assert scene.maintenance(here).verify(scene.deadline(), resync=True).resynced
    assert not scene.ready(here)
    assert scene.table.state.owner is None
    assert scene.maintenance(here).verify(scene.deadline()).problems == ()
    assert scene.runner(here).ensure(scene.deadline()) is Outcome.MIGRATED


def test_resync_keeps_what_the_history_supports_and_adds_this_manifest(scene: Scene) -> None:
    scene.migrated(V3)
    scene.finish(scene.held_by("somebody"), manifest(1, 2, 3, 9))
    scene.maintenance(V2).resync(scene.deadline())
    assert scene.ready(V1, V2, V3) == [V1, V2, V3]


# --- up


def test_up_applies_and_marks_ready(scene: Scene) -> None:
    assert scene.maintenance(V2).up(scene.deadline()) == ("0001_m", "0002_m")
    assert scene.maintenance(V2).up(scene.deadline()) == ()
    assert scene.ready(V2)
    assert scene.table.state.owner is None


def test_up_to_a_version_marks_nothing_beyond_it_ready(scene: Scene) -> None:
    assert scene.maintenance(V3).up(scene.deadline(), to=2) == ("0001_m", "0002_m")
    assert scene.ready(V1, V2, V3) == [V1, V2]


def test_up_to_a_version_without_a_file_is_refused_before_anything(scene: Scene) -> None:
    with pytest.raises(ConfigurationError, match="file of version 7; existing versions: 1, 2"):
        scene.maintenance(V2).up(scene.deadline(), to=7)
    with pytest.raises(ConfigurationError, match="existing versions: none"):
        scene.maintenance(manifest(), allow_empty=True).up(scene.deadline(), to=7)
    assert scene.table.log == []


@pytest.mark.parametrize(
    "act",
    [
        lambda m, s: m.status(s.deadline()),
        lambda m, s: m.verify(s.deadline()),
        lambda m, s: m.plan(s.deadline()),
        lambda m, s: m.dry_run(s.deadline()),
        lambda m, s: m.up(s.deadline()),
        lambda m, s: m.baseline(1, s.deadline()),
    ],
)
def test_an_empty_manifest_is_refused_before_anything(
    scene: Scene, act: Callable[[Operations, Scene], object]
) -> None:
    with pytest.raises(ManifestError, match="holds no migrations"):
        act(scene.maintenance(manifest()), scene)
    assert "acquire" not in scene.table.log


def test_up_ignores_a_pause_and_starts_the_next_one(scene: Scene) -> None:
    scene.database.fail(2, boom())
    for attempts in (1, 2):
        with pytest.raises(MigrationFailed) as caught:
            scene.maintenance(V2).up(scene.deadline())
        assert caught.value.attempts == attempts
    scene.database.fail(2, None)
    assert scene.maintenance(V2).up(scene.deadline()) == ("0002_m",)
    assert scene.table.state.failure is None


def test_up_releases_the_lease_if_the_database_is_unavailable(scene: Scene) -> None:
    scene.database.is_down = True
    with pytest.raises(DatabaseUnavailable):
        scene.maintenance(V2).up(scene.deadline())
    assert (scene.table.state.owner, scene.table.state.failure) == (None, None)


def test_up_refuses_a_contradiction(scene: Scene) -> None:
    here = _edited(scene)
    with pytest.raises(Diverged):
        scene.maintenance(here).up(scene.deadline())
    assert scene.table.state.owner is None


# --- down


@pytest.mark.parametrize(
    ("choice", "names", "left"),
    [
        ({"steps": 1}, ["0003_m"], V2),
        ({"to": 1}, ["0003_m", "0002_m"], V1),
        ({"to": 0}, ["0003_m", "0002_m", "0001_m"], manifest()),
        ({"only": 2}, ["0002_m"], manifest(1, 3)),
    ],
)
def test_down_rolls_back_the_newest_first_and_marks_the_rest_ready(
    scene: Scene, choice: dict[str, Any], names: list[str], left: Manifest
) -> None:
    scene.migrated(V3)
    # Code that knows none of them rolls back, from the stored scripts.
    assert scene.maintenance(manifest()).down(scene.deadline(), **choice) == tuple(names)
    assert scene.database.rolled_back == names
    total = len(names)
    assert scene.observer.events_of(MigrationRolledBack) == [
        MigrationRolledBack("orders", name, position, total, 0.0)
        for position, name in enumerate(names, 1)
    ]
    still = [each for each in (V1, V2, V3) if each.version < int(names[-1][:4])]
    assert scene.ready(V1, V2, V3) == still
    assert scene.ready(left) == [left]
    assert scene.table.state.owner is None


def test_code_that_needs_a_rolled_back_migration_is_not_ready(scene: Scene) -> None:
    scene.migrated(V3)
    scene.maintenance(V3).down(scene.deadline(), only=2)
    with pytest.raises(Diverged):
        scene.runner(V3).ensure(scene.deadline())
    assert scene.runner(manifest(1, 3)).ensure(scene.deadline()) is Outcome.UP_TO_DATE


def test_ready_is_withdrawn_before_the_first_down_script_without_waiting(
    scene: Scene,
) -> None:
    scene.migrated(V3)
    seen: list[list[Manifest]] = []
    scene.database.on_script = lambda _version: seen.append(scene.ready(V1, V2, V3))
    scene.maintenance(V3).down(scene.deadline(), to=1)
    assert seen == [[V1]] * 2
    assert scene.clock.slept == []


def test_a_row_that_another_process_is_applying_is_not_in_doubt(scene: Scene) -> None:
    scene.migrated(V1)
    scene.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    scene.held_by("somebody")
    with pytest.raises(LeaseHeld, match="somebody"):
        scene.maintenance(V2).down(scene.deadline(), to=0)
    scene.clock.advance(30)  # now nobody is
    with pytest.raises(RepairRequired, match="lambda-migrate repair 2 --as"):
        scene.maintenance(V2).down(scene.deadline(), to=0)


@pytest.mark.parametrize("took_effect", [True, False])
def test_a_rollback_that_was_interrupted_is_settled_and_then_chosen_again(
    scene: Scene, took_effect: bool
) -> None:
    """Whether its statement took effect or not, it takes effect once, and nothing else does."""
    scene.migrated(V2)
    scene.database.leave_in_doubt(
        migration(2), V2.digest, took_effect=took_effect, rolling_back=True
    )
    assert scene.maintenance(V2).down(scene.deadline(), steps=1) == ("0002_m",)
    assert scene.database.rolled_back == ["0002_m"]
    assert [row.version for row in scene.database.read_history(scene.deadline())] == [1]


@pytest.mark.parametrize(("took_effect", "reverted"), [(True, ("0002_m",)), (False, ())])
def test_an_up_that_was_interrupted_is_settled_before_it_is_rolled_back(
    scene: Scene, took_effect: bool, reverted: tuple[str, ...]
) -> None:
    scene.migrated(V1)
    scene.database.leave_in_doubt(migration(2), V2.digest, took_effect=took_effect)
    assert scene.maintenance(V2).down(scene.deadline(), to=1) == reverted
    assert scene.database.rolled_back == list(reverted)


def test_a_row_that_turns_out_to_be_applied_without_a_down_script_is_not_rolled_back(
    scene: Scene,
) -> None:
    scene.migrated(V1)
    one = replace(migration(2), down=None)
    scene.database.leave_in_doubt(one, V2.digest, took_effect=True)
    with pytest.raises(ConfigurationError, match="without a down script"):
        scene.maintenance(V2).down(scene.deadline(), to=0)
    assert scene.database.rolled_back == []


def test_a_withdrawal_without_a_response_rolls_nothing_back(scene: Scene) -> None:
    scene.migrated(V2)
    scene.table.after["withdraw"] = raises(LeaseStoreUnavailable("DynamoDB did not answer"))
    with pytest.raises(LeaseStoreUnavailable):
        scene.maintenance(V2).down(scene.deadline(), steps=1)
    assert scene.database.rolled_back == []
    assert scene.maintenance(V2).down(scene.deadline(), steps=1) == ("0002_m",)


def test_a_rollback_does_not_mark_ready_what_was_ready_at_another_address(scene: Scene) -> None:
    scene.migrated(V2)
    elsewhere = scene.copied("other:5432/db")
    elsewhere.database.identity = "another"
    elsewhere.migrated(V3)
    scene.maintenance(V2).down(scene.deadline(), steps=1)
    assert scene.ready(V1, V2, V3) == [V1]
    assert elsewhere.ready(V1, V2, V3) == [V1, V2, V3]


def test_a_row_without_a_down_script_is_refused_before_anything_is_done(scene: Scene) -> None:
    scene.migrated(Manifest([migration(1, down=None), migration(2)]))
    state = scene.table.state
    with pytest.raises(ConfigurationError, match="0001_m was applied without a down script"):
        scene.maintenance(V2).down(scene.deadline(), to=0)
    assert scene.database.rolled_back == []
    assert (scene.table.log, scene.table.state) == ([], state)


def test_down_asks_with_the_rows_and_does_nothing_unless_confirmed(scene: Scene) -> None:
    scene.migrated(V3)
    asked: list[list[int]] = []

    def confirm(rows: Sequence[HistoryRow]) -> bool:
        asked.append([row.version for row in rows])
        return False

    assert scene.maintenance(V3).down(scene.deadline(), to=1, confirm=confirm) == ()
    assert asked == [[3, 2]]
    assert (scene.table.log, scene.database.rolled_back) == ([], [])


def test_down_with_nothing_to_do_does_not_ask(scene: Scene) -> None:
    scene.migrated(V3)

    def confirm(_rows: Sequence[HistoryRow]) -> bool:
        pytest.fail("there is nothing to confirm")

    assert scene.maintenance(V3).down(scene.deadline(), to=3, confirm=confirm) == ()
    assert scene.table.log == []


def test_a_history_that_changed_before_the_confirmation_is_not_changed(scene: Scene) -> None:
    scene.migrated(V2)

    def confirm(_rows: Sequence[HistoryRow]) -> bool:
        scene.migrated(V3)
        return True

    with pytest.raises(LeaseHeld, match="changed the history meanwhile"):
        scene.maintenance(V3).down(scene.deadline(), steps=1, confirm=confirm)
    assert scene.database.rolled_back == []
    assert scene.table.state.owner is None
    assert scene.ready(V3)


def test_a_failed_down_script_keeps_its_row(scene: Scene) -> None:
    scene.migrated(V3)
    scene.database.fail(2, boom())
    with pytest.raises(MigrationFailed):
        scene.maintenance(V3).down(scene.deadline(), to=0)
    assert scene.database.rolled_back == ["0003_m"]
    assert scene.table.state.owner is None
    assert scene.table.state.failure is None
    assert scene.ready(V1, V2, V3) == []


def test_a_rollback_leaves_a_row_in_doubt_below_it(scene: Scene) -> None:
    scene.migrated(V3)
    scene.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    scene.maintenance(V3).down(scene.deadline(), steps=1)
    assert scene.ready(V1, V2, V3) == [V1]


# --- baseline


def test_a_baseline_records_migrations_without_running_them(scene: Scene) -> None:
    assert scene.maintenance(V3).baseline(2, scene.deadline()) == ("0001_m", "0002_m")
    assert scene.database.effects == []
    rows = scene.database.read_history(scene.deadline())
    assert [(row.version, row.baseline, row.state) for row in rows] == [
        (1, True, RowState.APPLIED),
        (2, True, RowState.APPLIED),
    ]
    assert scene.ready(V1, V2, V3) == [V1, V2]
    assert scene.runner(V3).ensure(scene.deadline()) is Outcome.MIGRATED
    assert scene.database.effects == ["0003_m"]


def test_a_baseline_keeps_existing_rows(scene: Scene) -> None:
    scene.migrated(V1)
    assert scene.maintenance(V2).baseline(2, scene.deadline()) == ("0002_m",)
    assert scene.maintenance(V2).baseline(2, scene.deadline()) == ()
    rows = scene.database.read_history(scene.deadline())
    assert [row.baseline for row in rows] == [False, True]


def test_without_a_version_a_baseline_records_what_the_other_tool_applied(scene: Scene) -> None:
    scene.database.other_histories = [dbmate(1, 3)]
    shown = scene.maintenance(V3).preview_baseline(None, scene.deadline())
    assert shown.gaps == ("0002_m",)
    recorded = scene.maintenance(V3).baseline(None, scene.deadline(), expected=shown)
    assert recorded == ("0001_m", "0003_m")
    assert scene.database.effects == []
    assert scene.table.state.owner is None
    assert V3 not in scene.ready(V3)
    with pytest.raises(Diverged, match="pending below version 3"):
        scene.maintenance(V3).up(scene.deadline())
    out_of_order = scene.maintenance(V3, allow_out_of_order=True)
    assert out_of_order.up(scene.deadline()) == ("0002_m",)
    assert V3 in scene.ready(V3)


def test_a_baseline_that_leaves_nothing_pending_makes_its_code_ready(scene: Scene) -> None:
    scene.database.other_histories = [dbmate(1, 2)]
    scene.maintenance(V2).baseline(None, scene.deadline())
    assert scene.runner(V2).ensure(scene.deadline()) is Outcome.UP_TO_DATE
    assert scene.database.effects == []


def test_a_baseline_that_is_no_longer_what_was_shown_records_nothing(scene: Scene) -> None:
    scene.database.other_histories = [dbmate(1)]
    shown = scene.maintenance(V3).preview_baseline(None, scene.deadline())
    scene.database.other_histories = [dbmate(1, 2)]
    with pytest.raises(LeaseHeld, match="the applied migrations changed meanwhile"):
        scene.maintenance(V3).baseline(None, scene.deadline(), expected=shown)
    assert scene.database.read_history(scene.deadline()) == []
    assert scene.table.state.owner is None


@pytest.mark.parametrize("version", [2, 3])
def test_a_baseline_that_another_tools_history_contradicts_records_nothing(
    scene: Scene, version: int
) -> None:
    scene.database.other_histories = [dbmate(1, 3)]
    with pytest.raises(ConfigurationError, match="0002_m is not applied there"):
        scene.maintenance(V3).baseline(version, scene.deadline())
    assert scene.database.read_history(scene.deadline()) == []
    given: Any = {"ignore_other_history": True}
    recorded = scene.maintenance(V3).baseline(version, scene.deadline(), **given)
    assert len(recorded) == version


def test_an_ignored_history_contradicts_no_baseline(
    scene: Scene,
) -> None:
    scene.database.other_histories = [dbmate(1, 3)]
    desk = scene.maintenance(V3, ignore_other_history=True)
    assert desk.baseline(2, scene.deadline()) == ("0001_m", "0002_m")
    assert desk.baseline(None, scene.deadline()) == ("0003_m",)


# --- a database that another tool has migrated


def test_up_and_plan_and_a_dry_run_refuse_another_tools_database(scene: Scene) -> None:
    scene.database.other_histories = [dbmate(1, 2)]
    desk = scene.maintenance(V3)
    for act in (desk.plan, desk.dry_run, desk.up):
        with pytest.raises(ConfigurationError, match="dbmate has applied 2 versions"):
            act(scene.deadline())
    assert scene.database.effects == []
    failure = scene.table.state.failure
    assert failure is not None
    assert "lambda-migrate baseline" in failure.cause


def test_another_tools_history_can_be_ignored(scene: Scene) -> None:
    scene.database.other_histories = [dbmate(1, 2)]
    desk = scene.maintenance(V2)
    assert desk.plan(scene.deadline(), ignore_other_history=True)[0].pending
    assert desk.dry_run(scene.deadline(), ignore_other_history=True)
    assert desk.up(scene.deadline(), ignore_other_history=True) == ("0001_m", "0002_m")
    assert scene.maintenance(V3).up(scene.deadline()) == ("0003_m",)


def test_a_baseline_that_contradicts_the_history_is_not_marked_ready(scene: Scene) -> None:
    here = _edited(scene)
    scene.maintenance(here).baseline(2, scene.deadline())
    assert not scene.ready(here)
    assert scene.table.state.owner is None


# --- repair


def test_a_row_in_doubt_can_be_declared_applied(scene: Scene) -> None:
    scene.migrated(V1)
    scene.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    assert scene.maintenance(V2).repair(2, scene.deadline(), declared="applied") == "0002_m"
    assert scene.ready(V2)
    assert scene.runner(V2).ensure(scene.deadline()) is Outcome.UP_TO_DATE
    assert scene.database.effects == ["0001_m"]


def test_a_row_in_doubt_can_be_declared_pending(scene: Scene) -> None:
    scene.migrated(V1)
    scene.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    assert scene.maintenance(V2).repair(2, scene.deadline(), declared="pending") == "0002_m"
    assert scene.runner(V2).ensure(scene.deadline()) is Outcome.MIGRATED
    assert scene.database.effects == ["0001_m", "0002_m"]


def test_what_is_declared_pending_is_no_longer_ready(scene: Scene) -> None:
    scene.migrated(V3)
    scene.maintenance(V3).repair(3, scene.deadline(), declared="pending")
    assert scene.ready(V1, V2, V3) == [V1, V2]


def test_an_edited_file_can_be_accepted(scene: Scene) -> None:
    here = _edited(scene)
    scene.maintenance(here).repair(2, scene.deadline(), declared="edited")
    assert scene.ready(here)
    assert scene.maintenance(here).status(scene.deadline()).plan.is_current
    assert scene.database.effects == ["0001_m", "0002_m"]


@pytest.mark.parametrize(
    ("version", "declared", "fault"),
    [
        (9, "applied", "no migration file of version 9"),
        (9, "edited", "no migration file of version 9"),
        (9, "pending", "version 9 is pending already"),
        (3, "edited", "0003_m was never applied"),
        (2, "edited", "0002_m is in doubt .*declare it applied or pending"),
        (2, "done", "'done' is not an outcome of version 2: write one of applied, pending, edited"),
    ],
)
def test_an_invalid_repair_is_refused_and_releases_the_lease(
    scene: Scene, version: int, declared: str, fault: str
) -> None:
    scene.migrated(V1)
    scene.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    before = scene.database.read_history(scene.deadline())
    with pytest.raises(ConfigurationError, match=fault):
        scene.maintenance(V3).repair(version, scene.deadline(), declared=declared)
    assert scene.database.read_history(scene.deadline()) == before
    assert scene.table.state.owner is None
    assert scene.table.state.failure is None


# --- the environment


def test_a_copied_database_can_be_stamped_with_its_new_environment(scene: Scene) -> None:
    scene.environment = "production"
    scene.migrated(V1)
    scene.environment = "staging"
    with pytest.raises(ConfigurationError, match="belongs to environment 'production'"):
        scene.maintenance(V2).up(scene.deadline())
    scene.maintenance(V1).stamp_environment(scene.deadline())
    assert scene.database.environment == "staging"
    assert scene.maintenance(V2).up(scene.deadline()) == ("0002_m",)


# --- the lease


def test_the_lease_of_a_dead_holder_is_freed_at_once(scene: Scene) -> None:
    scene.migrated(V1)
    scene.held_by("dead", seconds=900)
    assert scene.maintenance(V2).release_lease().owner == "dead"
    assert scene.table.state.owner is None
    assert scene.ready(V1)
    assert scene.runner(V2).ensure(scene.deadline()) is Outcome.MIGRATED


def test_a_freed_holder_that_was_alive_can_neither_renew_nor_complete(scene: Scene) -> None:
    lease = scene.held_by("alive after all")
    release_lease(scene.table)
    with pytest.raises(LeaseLost):
        InMemoryLeaseTable.renew(scene.table, lease)


def test_a_lease_that_was_just_renewed_is_not_freed(scene: Scene) -> None:
    lease = scene.held_by("alive", seconds=900)

    def renew() -> None:
        scene.clock.advance(1)
        InMemoryLeaseTable.renew(scene.table, lease)

    scene.table.before["acquire"] = renew
    with pytest.raises(LeaseHeld, match=r"the holder is alive.*alive holds the lease"):
        scene.maintenance(V1).release_lease()
    assert scene.table.state.owner == "alive"


def test_freeing_a_free_lease_changes_nothing(scene: Scene) -> None:
    scene.migrated(V1)
    state = scene.table.state
    assert scene.maintenance(V1).release_lease() == state
    assert scene.table.log == ["read"]


WRITES: dict[str, Callable[[Operations, Scene], object]] = {
    "up": lambda m, s: m.up(s.deadline()),
    "down": lambda m, s: m.down(s.deadline(), steps=1),
    "baseline": lambda m, s: m.baseline(1, s.deadline()),
    "repair": lambda m, s: m.repair(1, s.deadline(), declared="applied"),
    "stamp_environment": lambda m, s: m.stamp_environment(s.deadline()),
    "resync": lambda m, s: m.resync(s.deadline()),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_every_write_is_refused_while_another_process_holds_the_lease(
    scene: Scene, write: Callable[[Operations, Scene], object]
) -> None:
    scene.migrated(V1)
    scene.held_by("orders/7/abc")
    before = scene.database.read_history(scene.deadline())
    with pytest.raises(LeaseHeld, match=r"another process .*: orders/7/abc holds the lease"):
        write(scene.maintenance(V1), scene)
    assert scene.table.state.owner == "orders/7/abc"
    assert scene.database.read_history(scene.deadline()) == before


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_every_write_releases_the_lease(
    scene: Scene, write: Callable[[Operations, Scene], object]
) -> None:
    scene.migrated(V1)
    write(scene.maintenance(V1), scene)
    assert scene.table.state.owner is None


def test_a_dead_holders_lease_is_taken_over_and_reported(scene: Scene) -> None:
    scene.held_by("dead", seconds=-5)
    scene.maintenance(V1).up(scene.deadline())
    assert scene.observer.events_of(LeaseTakenOver) == [LeaseTakenOver("orders", "dead", 2)]


def test_without_a_table_a_live_holder_is_not_evicted(scene: Scene) -> None:
    def second(_version: int) -> None:
        scene.database.on_script = None
        other = Scene(clock=scene.clock, has_lease_table=False)
        other.database = scene.database
        other.change(fence=99)
        with pytest.raises(LeaseHeld, match="another process is migrating this database"):
            other.maintenance(V1).up(scene.deadline())
        assert other.table.state.owner is None

    scene.has_lease_table = False
    scene.database.on_script = second
    assert scene.maintenance(V1).up(scene.deadline()) == ("0001_m",)


def test_a_lost_lease_is_not_released(scene: Scene) -> None:
    def usurp(_version: int) -> None:
        scene.change(owner="successor", fence=scene.table.state.fence + 1)
        scene.database.token += 1

    scene.database.on_script = usurp
    with pytest.raises(LeaseLost):
        scene.maintenance(V1).up(scene.deadline())
    assert scene.table.state.owner == "successor"
    assert "release" not in scene.table.log


def test_an_interrupt_of_an_operation_releases_the_lease(scene: Scene) -> None:
    def interrupt(_version: int) -> None:
        raise KeyboardInterrupt

    scene.database.on_script = interrupt
    with pytest.raises(KeyboardInterrupt):
        scene.maintenance(V1).up(scene.deadline())
    assert scene.table.state.owner is None
