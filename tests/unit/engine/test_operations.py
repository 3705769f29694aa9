"""Operators' commands, under the same lease and fence as a starting function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lambda_migrate.engine.operations import Operations, RollbackPlan, release_lease
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
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.migrations import Manifest, RowState
from lambda_migrate.migrations.baseline import ToolHistory, ToolHistoryEntry
from lambda_migrate.migrations.version import Version
from lambda_migrate.outcome import Outcome
from tests.unit.engine.fakes import Fakes, manifest, migration, raises

V1, V2, V3 = manifest(1), manifest(1, 2), manifest(1, 2, 3)


def dbmate(*versions: int) -> ToolHistory:
    """Versions that dbmate has applied here."""
    entries = (ToolHistoryEntry(f"{version:04d}", version=version) for version in versions)
    return ToolHistory("dbmate", "public.schema_migrations", tuple(entries))


def make_failure() -> MigrationFailed:
    return MigrationFailed("division by zero", migration="0002_m", sqlstate="22012")


# --- looking


def test_status_shows_history_plan_and_item_and_changes_nothing(fakes: Fakes) -> None:
    fakes.migrated(V2)
    state = fakes.table.state
    status = fakes.operations(V3).status(fakes.deadline())
    assert [row.version for row in status.history] == [1, 2]
    assert [each.version for each in status.plan.pending] == [3]
    assert not status.is_marked_ready
    assert fakes.operations(V2).status(fakes.deadline()).is_marked_ready
    assert fakes.table.log == ["read", "read"]
    assert fakes.table.state == state


def test_status_of_a_new_database(fakes: Fakes) -> None:
    status = fakes.operations(V1).status(fakes.deadline())
    assert (status.history, status.is_marked_ready) == ((), False)


def test_plan_is_what_up_would_do(fakes: Fakes) -> None:
    fakes.migrated(V1)
    plan, goal = fakes.operations(V3).plan(fakes.deadline(), to=2)
    assert ([each.version for each in plan.pending], goal) == ([2], V2)
    plan, goal = fakes.operations(V3).plan(fakes.deadline())
    assert ([each.version for each in plan.pending], goal) == ([2, 3], V3)
    assert fakes.table.log == []


def _restore_database(fakes: Fakes) -> Manifest:
    fakes.migrated(V3)
    fakes.lose(3)
    return V3


def _edit_file(fakes: Fakes) -> Manifest:
    fakes.migrated(V2)
    return Manifest([migration(1), migration(2, "SELECT 'edited'")])


def _leave_in_doubt(fakes: Fakes) -> Manifest:
    fakes.migrated(V1)
    fakes.database.leave_in_doubt(migration(2), V2.digest, took_effect=True)
    return V2


def _mark_without_history(fakes: Fakes) -> Manifest:
    fakes.migrated(V2)
    fakes.finish(fakes.held_by("another"), V3)
    return V2


def _roll_back_between(fakes: Fakes) -> Manifest:
    fakes.migrated(V3)
    fakes.lose(2)
    return manifest(1, 3)


@pytest.mark.parametrize(
    ("arrange", "problems"),
    [
        (_restore_database, ["the database was restored or changed by hand"]),
        (_edit_file, ["0002_m: the file"]),
        (_leave_in_doubt, ["0002_m: it is in doubt (started); the next `up` resolves it"]),
        (_mark_without_history, ["marks 1 code version ready that the history does not support"]),
        (
            _roll_back_between,
            ["marks 2 code versions ready that the history does not support"],
        ),
    ],
)
def test_verify_reports_each_disagreement(
    fakes: Fakes, arrange: Callable[[Fakes], Manifest], problems: list[str]
) -> None:
    here = arrange(fakes)
    found = fakes.operations(here).verify(fakes.deadline()).problems
    assert len(found) == len(problems)
    assert all(text in problem for problem, text in zip(found, problems, strict=True))


@pytest.mark.parametrize("here", [V1, V2, V3])
def test_verify_reports_nothing_if_all_agree(fakes: Fakes, here: Manifest) -> None:
    fakes.migrated(V1)
    fakes.migrated(V2)
    verification = fakes.operations(here).verify(fakes.deadline())
    assert (verification.problems, verification.resynced) == ((), False)
    assert set(fakes.table.log) == {"read"}


def test_verify_resync_corrects_the_item_after_a_restore(fakes: Fakes) -> None:
    here = _restore_database(fakes)
    assert fakes.operations(here).verify(fakes.deadline(), resync=True).resynced
    assert not fakes.ready(here)
    assert fakes.table.state.owner is None
    assert fakes.operations(here).verify(fakes.deadline()).problems == ()
    assert fakes.runner(here).ensure(fakes.deadline()) is Outcome.MIGRATED


def test_resync_keeps_what_the_history_supports_and_adds_this_manifest(fakes: Fakes) -> None:
    fakes.migrated(V3)
    fakes.finish(fakes.held_by("another"), manifest(1, 2, 3, 9))
    fakes.operations(V2).resync(fakes.deadline())
    assert fakes.ready(V1, V2, V3) == [V1, V2, V3]


# --- up


def test_up_applies_and_marks_ready(fakes: Fakes) -> None:
    assert fakes.operations(V2).up(fakes.deadline()) == ("0001_m", "0002_m")
    assert fakes.operations(V2).up(fakes.deadline()) == ()
    assert fakes.ready(V2)
    assert fakes.table.state.owner is None


def test_up_to_a_version_marks_nothing_beyond_it_ready(fakes: Fakes) -> None:
    assert fakes.operations(V3).up(fakes.deadline(), to=2) == ("0001_m", "0002_m")
    assert fakes.ready(V1, V2, V3) == [V1, V2]


def test_up_to_a_version_without_a_file_is_refused_before_anything(fakes: Fakes) -> None:
    with pytest.raises(ConfigurationError, match="file of version 7; existing versions: 1, 2"):
        fakes.operations(V2).up(fakes.deadline(), to=7)
    with pytest.raises(ConfigurationError, match="existing versions: none"):
        fakes.operations(manifest(), allow_empty=True).up(fakes.deadline(), to=7)
    assert fakes.table.log == []


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
    fakes: Fakes, act: Callable[[Operations, Fakes], object]
) -> None:
    with pytest.raises(ManifestError, match="contains no migrations"):
        act(fakes.operations(manifest()), fakes)
    assert "acquire" not in fakes.table.log


def test_up_ignores_a_pause_and_starts_the_next_one(fakes: Fakes) -> None:
    fakes.database.fail_on(2, make_failure())
    for attempts in (1, 2):
        with pytest.raises(MigrationFailed) as caught:
            fakes.operations(V2).up(fakes.deadline())
        assert caught.value.attempts == attempts
    fakes.database.fail_on(2, None)
    assert fakes.operations(V2).up(fakes.deadline()) == ("0002_m",)
    assert fakes.table.state.failure is None


def test_up_releases_the_lease_if_the_database_is_unavailable(fakes: Fakes) -> None:
    fakes.database.is_down = True
    with pytest.raises(DatabaseUnavailable):
        fakes.operations(V2).up(fakes.deadline())
    assert (fakes.table.state.owner, fakes.table.state.failure) == (None, None)


def test_up_refuses_a_contradiction(fakes: Fakes) -> None:
    here = _edit_file(fakes)
    with pytest.raises(Diverged):
        fakes.operations(here).up(fakes.deadline())
    assert fakes.table.state.owner is None


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
    fakes: Fakes, choice: dict[str, Any], names: list[str], left: Manifest
) -> None:
    fakes.migrated(V3)
    # Code that knows none of them rolls back, from the stored scripts.
    assert fakes.operations(manifest()).down(fakes.deadline(), **choice) == tuple(names)
    assert fakes.database.rolled_back == names
    total = len(names)
    assert fakes.observer.events_of(MigrationRolledBack) == [
        MigrationRolledBack("orders", name, position, total, 0.0)
        for position, name in enumerate(names, 1)
    ]
    still = [each for each in (V1, V2, V3) if each.version < int(names[-1][:4])]
    assert fakes.ready(V1, V2, V3) == still
    assert fakes.ready(left) == [left]
    assert fakes.table.state.owner is None


def test_code_that_needs_a_rolled_back_migration_is_not_ready(fakes: Fakes) -> None:
    fakes.migrated(V3)
    fakes.operations(V3).down(fakes.deadline(), only=2)
    with pytest.raises(Diverged):
        fakes.runner(V3).ensure(fakes.deadline())
    assert fakes.runner(manifest(1, 3)).ensure(fakes.deadline()) is Outcome.UP_TO_DATE


def test_ready_is_withdrawn_before_the_first_down_script_without_waiting(
    fakes: Fakes,
) -> None:
    fakes.migrated(V3)
    seen: list[list[Manifest]] = []
    fakes.database.on_script = lambda _version: seen.append(fakes.ready(V1, V2, V3))
    fakes.operations(V3).down(fakes.deadline(), to=1)
    assert seen == [[V1]] * 2
    assert fakes.clock.slept == []


def test_a_row_that_another_process_is_applying_is_not_in_doubt(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    fakes.held_by("another")
    with pytest.raises(LeaseHeld, match="another"):
        fakes.operations(V2).down(fakes.deadline(), to=0)
    fakes.clock.advance(30)  # now no process is
    with pytest.raises(RepairRequired, match="lambda-migrate repair 2 --as"):
        fakes.operations(V2).down(fakes.deadline(), to=0)


@pytest.mark.parametrize("took_effect", [True, False])
def test_a_rollback_that_was_interrupted_is_resolved_and_then_chosen_again(
    fakes: Fakes, took_effect: bool
) -> None:
    """Whether its statement took effect or not, it takes effect once, and nothing else does."""
    fakes.migrated(V2)
    fakes.database.leave_in_doubt(
        migration(2), V2.digest, took_effect=took_effect, rolling_back=True
    )
    assert fakes.operations(V2).down(fakes.deadline(), steps=1) == ("0002_m",)
    assert fakes.database.rolled_back == ["0002_m"]
    assert [row.version for row in fakes.database.read_history(fakes.deadline())] == [1]


@pytest.mark.parametrize(("took_effect", "reverted"), [(True, ("0002_m",)), (False, ())])
def test_an_up_that_was_interrupted_is_resolved_before_it_is_rolled_back(
    fakes: Fakes, took_effect: bool, reverted: tuple[str, ...]
) -> None:
    fakes.migrated(V1)
    fakes.database.leave_in_doubt(migration(2), V2.digest, took_effect=took_effect)
    assert fakes.operations(V2).down(fakes.deadline(), to=1) == reverted
    assert fakes.database.rolled_back == list(reverted)


def test_a_row_that_turns_out_to_be_applied_without_a_down_script_is_not_rolled_back(
    fakes: Fakes,
) -> None:
    fakes.migrated(V1)
    one = replace(migration(2), down=None)
    fakes.database.leave_in_doubt(one, V2.digest, took_effect=True)
    with pytest.raises(ConfigurationError, match="without a down script"):
        fakes.operations(V2).down(fakes.deadline(), to=0)
    assert fakes.database.rolled_back == []


def test_a_withdrawal_without_a_response_rolls_nothing_back(fakes: Fakes) -> None:
    fakes.migrated(V2)
    fakes.table.after["withdraw_readiness"] = raises(
        LeaseStoreUnavailable("DynamoDB did not respond")
    )
    with pytest.raises(LeaseStoreUnavailable):
        fakes.operations(V2).down(fakes.deadline(), steps=1)
    assert fakes.database.rolled_back == []
    assert fakes.operations(V2).down(fakes.deadline(), steps=1) == ("0002_m",)


def test_a_rollback_does_not_mark_ready_what_was_ready_at_another_address(fakes: Fakes) -> None:
    fakes.migrated(V2)
    elsewhere = fakes.copy_database("other:5432/db")
    elsewhere.database.identity = "another"
    elsewhere.migrated(V3)
    fakes.operations(V2).down(fakes.deadline(), steps=1)
    assert fakes.ready(V1, V2, V3) == [V1]
    assert elsewhere.ready(V1, V2, V3) == [V1, V2, V3]


def test_a_row_without_a_down_script_is_refused_before_anything_is_done(fakes: Fakes) -> None:
    fakes.migrated(Manifest([migration(1, down=None), migration(2)]))
    state = fakes.table.state
    with pytest.raises(ConfigurationError, match="0001_m was applied without a down script"):
        fakes.operations(V2).down(fakes.deadline(), to=0)
    assert fakes.database.rolled_back == []
    assert (fakes.table.log, fakes.table.state) == ([], state)


def test_down_asks_with_the_rows_and_does_nothing_unless_confirmed(fakes: Fakes) -> None:
    fakes.migrated(V3)
    asked: list[list[Version]] = []

    def confirm(plan: RollbackPlan) -> bool:
        asked.append([row.version for row in plan.rows])
        return False

    assert fakes.operations(V3).down(fakes.deadline(), to=1, confirm=confirm) == ()
    assert asked == [[3, 2]]
    assert (fakes.table.log, fakes.database.rolled_back) == ([], [])


def test_down_with_nothing_to_do_does_not_ask(fakes: Fakes) -> None:
    fakes.migrated(V3)

    def confirm(_plan: RollbackPlan) -> bool:
        pytest.fail("there is nothing to confirm")

    assert fakes.operations(V3).down(fakes.deadline(), to=3, confirm=confirm) == ()
    assert fakes.table.log == []


def test_a_history_that_changed_before_the_confirmation_is_not_changed(fakes: Fakes) -> None:
    fakes.migrated(V2)

    def confirm(_plan: RollbackPlan) -> bool:
        fakes.migrated(V3)
        return True

    with pytest.raises(LeaseHeld, match="changed the history meanwhile"):
        fakes.operations(V3).down(fakes.deadline(), steps=1, confirm=confirm)
    assert fakes.database.rolled_back == []
    assert fakes.table.state.owner is None
    assert fakes.ready(V3)


def test_a_failed_down_script_keeps_its_row(fakes: Fakes) -> None:
    fakes.migrated(V3)
    fakes.database.fail_on(2, make_failure())
    with pytest.raises(MigrationFailed):
        fakes.operations(V3).down(fakes.deadline(), to=0)
    assert fakes.database.rolled_back == ["0003_m"]
    assert fakes.table.state.owner is None
    assert fakes.table.state.failure is None
    assert fakes.ready(V1, V2, V3) == []


def test_a_rollback_leaves_a_row_in_doubt_below_it(fakes: Fakes) -> None:
    fakes.migrated(V3)
    fakes.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    fakes.operations(V3).down(fakes.deadline(), steps=1)
    assert fakes.ready(V1, V2, V3) == [V1]


# --- baseline


def test_a_baseline_records_migrations_without_running_them(fakes: Fakes) -> None:
    assert fakes.operations(V3).baseline(2, fakes.deadline()) == ("0001_m", "0002_m")
    assert fakes.database.effects == []
    rows = fakes.database.read_history(fakes.deadline())
    assert [(row.version, row.baseline, row.state) for row in rows] == [
        (1, True, RowState.APPLIED),
        (2, True, RowState.APPLIED),
    ]
    assert fakes.ready(V1, V2, V3) == [V1, V2]
    assert fakes.runner(V3).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == ["0003_m"]


def test_a_baseline_keeps_existing_rows(fakes: Fakes) -> None:
    fakes.migrated(V1)
    assert fakes.operations(V2).baseline(2, fakes.deadline()) == ("0002_m",)
    assert fakes.operations(V2).baseline(2, fakes.deadline()) == ()
    rows = fakes.database.read_history(fakes.deadline())
    assert [row.baseline for row in rows] == [False, True]


def test_without_a_version_a_baseline_records_what_the_other_tool_applied(fakes: Fakes) -> None:
    fakes.database.other_histories = [dbmate(1, 3)]
    shown = fakes.operations(V3).preview_baseline(None, fakes.deadline())
    assert shown.gaps == ("0002_m",)
    recorded = fakes.operations(V3).baseline(None, fakes.deadline(), expected=shown)
    assert recorded == ("0001_m", "0003_m")
    assert fakes.database.effects == []
    assert fakes.table.state.owner is None
    assert V3 not in fakes.ready(V3)
    with pytest.raises(Diverged, match="pending below version 3"):
        fakes.operations(V3).up(fakes.deadline())
    out_of_order = fakes.operations(V3, allow_out_of_order=True)
    assert out_of_order.up(fakes.deadline()) == ("0002_m",)
    assert V3 in fakes.ready(V3)


def test_a_baseline_that_leaves_nothing_pending_makes_its_code_ready(fakes: Fakes) -> None:
    fakes.database.other_histories = [dbmate(1, 2)]
    fakes.operations(V2).baseline(None, fakes.deadline())
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.UP_TO_DATE
    assert fakes.database.effects == []


def test_a_baseline_that_is_no_longer_what_was_shown_records_nothing(fakes: Fakes) -> None:
    fakes.database.other_histories = [dbmate(1)]
    shown = fakes.operations(V3).preview_baseline(None, fakes.deadline())
    fakes.database.other_histories = [dbmate(1, 2)]
    with pytest.raises(LeaseHeld, match="another process changed the history meanwhile"):
        fakes.operations(V3).baseline(None, fakes.deadline(), expected=shown)
    assert fakes.database.read_history(fakes.deadline()) == []
    assert fakes.table.state.owner is None


@pytest.mark.parametrize("version", [2, 3])
def test_a_baseline_that_another_tools_history_contradicts_records_nothing(
    fakes: Fakes, version: int
) -> None:
    fakes.database.other_histories = [dbmate(1, 3)]
    with pytest.raises(ConfigurationError, match="0002_m is not applied there"):
        fakes.operations(V3).baseline(version, fakes.deadline())
    assert fakes.database.read_history(fakes.deadline()) == []
    given: Any = {"ignore_other_history": True}
    recorded = fakes.operations(V3).baseline(version, fakes.deadline(), **given)
    assert len(recorded) == version


def test_an_ignored_history_contradicts_no_baseline(
    fakes: Fakes,
) -> None:
    fakes.database.other_histories = [dbmate(1, 3)]
    desk = fakes.operations(V3, ignore_other_history=True)
    assert desk.baseline(2, fakes.deadline()) == ("0001_m", "0002_m")
    assert desk.baseline(None, fakes.deadline()) == ("0003_m",)


# --- a database that another tool has migrated


def test_up_and_plan_and_a_dry_run_refuse_another_tools_database(fakes: Fakes) -> None:
    fakes.database.other_histories = [dbmate(1, 2)]
    desk = fakes.operations(V3)
    for act in (desk.plan, desk.dry_run, desk.up):
        with pytest.raises(ConfigurationError, match="dbmate has applied 2 versions"):
            act(fakes.deadline())
    assert fakes.database.effects == []
    failure = fakes.table.state.failure
    assert failure is not None
    assert "lambda-migrate baseline" in failure.cause


def test_another_tools_history_can_be_ignored(fakes: Fakes) -> None:
    fakes.database.other_histories = [dbmate(1, 2)]
    desk = fakes.operations(V2)
    assert desk.plan(fakes.deadline(), ignore_other_history=True)[0].pending
    assert desk.dry_run(fakes.deadline(), ignore_other_history=True)
    assert desk.up(fakes.deadline(), ignore_other_history=True) == ("0001_m", "0002_m")
    assert fakes.operations(V3).up(fakes.deadline()) == ("0003_m",)


def test_a_baseline_that_contradicts_the_history_is_not_marked_ready(fakes: Fakes) -> None:
    here = _edit_file(fakes)
    fakes.operations(here).baseline(2, fakes.deadline())
    assert not fakes.ready(here)
    assert fakes.table.state.owner is None


# --- repair


def test_a_row_in_doubt_can_be_declared_applied(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    assert fakes.operations(V2).repair(2, fakes.deadline(), declared_state="applied") == "0002_m"
    assert fakes.ready(V2)
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.UP_TO_DATE
    assert fakes.database.effects == ["0001_m"]


def test_a_row_in_doubt_can_be_declared_pending(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    assert fakes.operations(V2).repair(2, fakes.deadline(), declared_state="pending") == "0002_m"
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m"]


def test_what_is_declared_pending_is_no_longer_ready(fakes: Fakes) -> None:
    fakes.migrated(V3)
    with pytest.raises(ConfigurationError, match="0003_m is applied, not in doubt"):
        fakes.operations(V3).repair(3, fakes.deadline(), declared_state="pending")
    assert fakes.ready(V1, V2, V3) == [V1, V2, V3]
    fakes.operations(V3).repair(3, fakes.deadline(), declared_state="pending", force=True)
    assert fakes.ready(V1, V2, V3) == [V1, V2]


def test_an_edited_file_can_be_accepted(fakes: Fakes) -> None:
    here = _edit_file(fakes)
    fakes.operations(here).repair(2, fakes.deadline(), declared_state="edited")
    assert fakes.ready(here)
    assert fakes.operations(here).status(fakes.deadline()).plan.is_current
    assert fakes.database.effects == ["0001_m", "0002_m"]


@pytest.mark.parametrize(
    ("version", "declared", "fault"),
    [
        (9, "applied", "no migration file of version 9"),
        (9, "edited", "no migration file of version 9"),
        (9, "pending", "no migration file of version 9"),
        (3, "edited", "0003_m was never applied"),
        (2, "edited", "0002_m is in doubt .*use --as applied or --as pending"),
        (2, "done", "'done' is not an outcome of version 2: write one of applied, pending, edited"),
    ],
)
def test_an_invalid_repair_is_refused_and_releases_the_lease(
    fakes: Fakes, version: int, declared: str, fault: str
) -> None:
    fakes.migrated(V1)
    fakes.database.leave_in_doubt(migration(2), V2.digest, took_effect=None)
    before = fakes.database.read_history(fakes.deadline())
    with pytest.raises(ConfigurationError, match=fault):
        fakes.operations(V3).repair(version, fakes.deadline(), declared_state=declared)
    assert fakes.database.read_history(fakes.deadline()) == before
    assert fakes.table.state.owner is None
    assert fakes.table.state.failure is None


# --- the environment


@pytest.mark.parametrize(("failing", "environment"), [(1, ""), (2, "production")])
def test_the_first_command_that_commits_a_migration_stamps_the_database(
    fakes: Fakes, failing: int, environment: str
) -> None:
    fakes.environment = "production"
    fakes.database.fail_on(failing, make_failure())
    with pytest.raises(MigrationFailed):
        fakes.operations(V3).up(fakes.deadline())
    assert len(fakes.database.effects) == failing - 1
    assert fakes.database.environment == environment


def test_a_command_without_a_pending_migration_stamps_the_database(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.environment = "production"
    fakes.operations(V1).up(fakes.deadline())
    assert fakes.database.environment == "production"


def test_a_copied_database_can_be_given_its_new_environment(fakes: Fakes) -> None:
    fakes.environment = "production"
    fakes.migrated(V1)
    fakes.environment = "staging"
    advice = r"belongs to environment 'production'.* run `lambda-migrate repair --environment NAME`"
    with pytest.raises(ConfigurationError, match=advice):
        fakes.operations(V2).up(fakes.deadline())
    fakes.operations(V1).record_environment(fakes.deadline())
    assert fakes.database.environment == "staging"
    assert fakes.operations(V2).up(fakes.deadline()) == ("0002_m",)


# --- the lease


def test_the_lease_of_a_dead_holder_is_freed_at_once(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.held_by("dead", seconds=900)
    assert fakes.operations(V2).release_lease().owner == "dead"
    assert fakes.table.state.owner is None
    assert fakes.ready(V1)
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.MIGRATED


def test_a_freed_holder_that_was_alive_can_neither_renew_nor_complete(fakes: Fakes) -> None:
    lease = fakes.held_by("alive after all")
    release_lease(fakes.table)
    with pytest.raises(LeaseLost):
        InMemoryLeaseStore.renew(fakes.table, lease)


def test_a_lease_that_was_just_renewed_is_not_freed(fakes: Fakes) -> None:
    lease = fakes.held_by("alive", seconds=900)

    def renew() -> None:
        fakes.clock.advance(1)
        InMemoryLeaseStore.renew(fakes.table, lease)

    fakes.table.before["acquire"] = renew
    with pytest.raises(LeaseHeld, match=r"the holder is alive.*alive holds the lease"):
        fakes.operations(V1).release_lease()
    assert fakes.table.state.owner == "alive"


def test_a_lease_that_its_holder_has_just_released_is_free(fakes: Fakes) -> None:
    lease = fakes.held_by("done", seconds=900)

    def hand_over() -> None:
        InMemoryLeaseStore.release(fakes.table, lease)
        InMemoryLeaseStore.release(fakes.table, fakes.held_by("brief"))

    fakes.table.before["acquire"] = hand_over
    assert fakes.operations(V1).release_lease().owner is None


def test_a_lease_that_another_process_had_a_moment_ago_is_not_called_held(fakes: Fakes) -> None:
    fakes.table.before["acquire"] = lambda: InMemoryLeaseStore.release(
        fakes.table, fakes.held_by("brief")
    )
    with pytest.raises(LeaseHeld, match=r"^another process had the lease a moment ago; try again"):
        fakes.operations(V1).up(fakes.deadline())


def test_freeing_a_free_lease_changes_nothing(fakes: Fakes) -> None:
    fakes.migrated(V1)
    state = fakes.table.state
    assert fakes.operations(V1).release_lease() == state
    assert fakes.table.log == ["read"]


WRITES: dict[str, Callable[[Operations, Fakes], object]] = {
    "up": lambda m, s: m.up(s.deadline()),
    "down": lambda m, s: m.down(s.deadline(), steps=1),
    "baseline": lambda m, s: m.baseline(1, s.deadline()),
    "repair": lambda m, s: m.repair(1, s.deadline(), declared_state="applied"),
    "record_environment": lambda m, s: m.record_environment(s.deadline()),
    "resync": lambda m, s: m.resync(s.deadline()),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_every_write_is_refused_while_another_process_holds_the_lease(
    fakes: Fakes, write: Callable[[Operations, Fakes], object]
) -> None:
    fakes.migrated(V1)
    fakes.held_by("orders/7/abc")
    before = fakes.database.read_history(fakes.deadline())
    with pytest.raises(LeaseHeld, match=r"another process .*: orders/7/abc holds the lease"):
        write(fakes.operations(V1), fakes)
    assert fakes.table.state.owner == "orders/7/abc"
    assert fakes.database.read_history(fakes.deadline()) == before


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_every_write_releases_the_lease(
    fakes: Fakes, write: Callable[[Operations, Fakes], object]
) -> None:
    fakes.migrated(V1)
    write(fakes.operations(V1), fakes)
    assert fakes.table.state.owner is None


def test_a_dead_holders_lease_is_taken_over_and_reported(fakes: Fakes) -> None:
    fakes.held_by("dead", seconds=-5)
    fakes.operations(V1).up(fakes.deadline())
    assert fakes.observer.events_of(LeaseTakenOver) == [LeaseTakenOver("orders", "dead", 2)]


def test_without_a_table_a_live_holder_is_not_terminated(fakes: Fakes) -> None:
    def second(_version: int) -> None:
        fakes.database.on_script = None
        other = Fakes(clock=fakes.clock, has_lease_table=False)
        other.database = fakes.database
        other.change(fence=99)
        with pytest.raises(LeaseHeld, match="another process is migrating this database"):
            other.operations(V1).up(fakes.deadline())
        assert other.table.state.owner is None

    fakes.has_lease_table = False
    fakes.database.on_script = second
    assert fakes.operations(V1).up(fakes.deadline()) == ("0001_m",)


def test_a_lost_lease_is_not_released(fakes: Fakes) -> None:
    def supersede(_version: int) -> None:
        fakes.change(owner="successor", fence=fakes.table.state.fence + 1)
        fakes.database.token += 1

    fakes.database.on_script = supersede
    with pytest.raises(LeaseLost):
        fakes.operations(V1).up(fakes.deadline())
    assert fakes.table.state.owner == "successor"
    assert "release" not in fakes.table.log


def test_an_interrupt_of_an_operation_releases_the_lease(fakes: Fakes) -> None:
    def interrupt(_version: int) -> None:
        raise KeyboardInterrupt

    fakes.database.on_script = interrupt
    with pytest.raises(KeyboardInterrupt):
        fakes.operations(V1).up(fakes.deadline())
    assert fakes.table.state.owner is None
