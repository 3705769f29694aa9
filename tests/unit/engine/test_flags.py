"""What feature flags stop, when they are read, and that they never allow more."""

from __future__ import annotations

from typing import Any

import pytest

from lambda_migrate.engine.flags import HOLD_BACK_AT, MODE, PAUSED, Flags
from lambda_migrate.errors import FlagsUnavailable, LeaseStoreUnavailable, MigrationFailed, NotReady
from lambda_migrate.events import CheckFailed, CheckSucceeded, FlagsIgnored
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.outcome import Outcome
from lambda_migrate.testing import InMemoryFlags
from tests.unit.engine.fakes import Fakes, manifest, raises

V1, V2, V3 = manifest(1), manifest(1, 2), manifest(1, 2, 3)


@pytest.fixture
def flags() -> InMemoryFlags:
    return InMemoryFlags()


@pytest.fixture
def fakes(flags: InMemoryFlags) -> Fakes:
    return Fakes(flags=flags)


# --- when they are asked


def test_the_fast_path_reads_no_flags(fakes: Fakes, flags: InMemoryFlags) -> None:
    fakes.migrated(V2)
    flags.reads, flags.is_down = 0, True
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.UP_TO_DATE
    assert flags.reads == 0


def test_a_waiter_for_a_holder_that_succeeds_reads_no_flags(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    lease = fakes.held_by("another")
    fakes.clock.at(3, lambda: fakes.finish(lease, V1))
    assert fakes.runner(V1).ensure(fakes.deadline()) is Outcome.WAITED
    assert flags.reads == 0


@pytest.mark.parametrize("mode", ["require", "off"])
def test_a_function_that_never_migrates_reads_no_flags(
    fakes: Fakes, flags: InMemoryFlags, mode: str
) -> None:
    flags.set(mode="migrate")
    runner = fakes.runner(V1, mode=mode, wait_seconds=1)
    if mode == "off":
        runner.ensure(fakes.deadline())
    else:
        with pytest.raises(NotReady, match="no process holds the lease"):
            runner.ensure(fakes.deadline())
    assert flags.reads == 0
    assert fakes.database.effects == []


def test_flags_are_read_before_acquiring_and_between_two_migrations(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    asked: list[int] = []
    fakes.database.on_script = lambda _version: asked.append(flags.reads)
    assert fakes.runner(V3).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert asked == [2, 3, 4]


def test_without_flags_nothing_changes(fakes: Fakes) -> None:
    fakes.flags = None
    assert fakes.runner(V3).ensure(fakes.deadline()) is Outcome.MIGRATED


# --- paused


def test_while_paused_no_instance_acquires_and_the_error_names_the_flag(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    flags.set(paused=True)
    with pytest.raises(NotReady, match=f"paused by the feature flag {PAUSED}") as refused:
        fakes.runner(V2).ensure(fakes.deadline())
    assert refused.value.retryable
    assert refused.value.retry_after_seconds == 30
    assert fakes.table.log == ["read"]
    assert fakes.database.connections == 0
    (report,) = fakes.observer.events_of(CheckFailed)
    assert (report.error, report.retryable) == ("NotReady", True)
    assert PAUSED in report.message


def test_when_the_pause_is_lifted_the_next_invocation_migrates(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    flags.set(paused=True)
    runner = fakes.runner(V2)
    with pytest.raises(NotReady):
        runner.ensure(fakes.deadline())
    flags.set()
    assert runner.ensure(fakes.deadline()) is Outcome.MIGRATED


def test_what_is_ready_is_served_while_paused(fakes: Fakes, flags: InMemoryFlags) -> None:
    fakes.migrated(V1)
    flags.set(paused=True)
    assert fakes.runner(V1).ensure(fakes.deadline()) is Outcome.UP_TO_DATE


def test_a_waiter_that_would_take_over_finds_the_pause(fakes: Fakes, flags: InMemoryFlags) -> None:
    lease = fakes.held_by("another")
    flags.set(paused=True)
    fakes.clock.at(3, lambda: fakes.table.release(lease))
    with pytest.raises(NotReady, match=PAUSED):
        fakes.runner(V1).ensure(fakes.deadline())
    assert "acquire" not in fakes.table.log


def test_a_pause_stops_the_holder_between_two_migrations_and_frees_the_lease(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    fakes.database.on_script = lambda version: flags.set(paused=version == 2)
    with pytest.raises(NotReady, match=f"0003_m was not started: .*{PAUSED}"):
        fakes.runner(V3).ensure(fakes.deadline())
    assert fakes.database.effects == ["0001_m", "0002_m"]
    assert fakes.table.state.owner is None
    assert fakes.table.state.failure is None, "nothing failed, so that no instance has to wait"
    (report,) = fakes.observer.events_of(CheckFailed)
    assert report.applied == ("0001_m", "0002_m")
    flags.set()
    fakes.database.on_script = None
    assert fakes.runner(V3).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m", "0003_m"]


# --- the mode


def test_mode_off_serves_with_pending_migrations_and_reports_it_each_time(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    flags.set(mode="off")
    runner = fakes.runner(V2)
    assert [runner.ensure(fakes.deadline()) for _ in range(2)] == [Outcome.UNCHECKED] * 2
    assert fakes.table.log == ["read", "read"]
    assert fakes.database.effects == []
    assert [end.outcome for end in fakes.observer.events_of(CheckSucceeded)] == ["UNCHECKED"] * 2
    flags.set()
    assert runner.ensure(fakes.deadline()) is Outcome.MIGRATED, "it was not remembered"


def test_mode_off_serves_past_a_migration_that_keeps_failing(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    fakes.database.fail_on(2, MigrationFailed("no such table", migration="0002_m"))
    runner = fakes.runner(V2)
    with pytest.raises(MigrationFailed):
        runner.ensure(fakes.deadline())
    with pytest.raises(MigrationFailed):
        runner.ensure(fakes.deadline())
    flags.set(mode="off")
    assert runner.ensure(fakes.deadline()) is Outcome.UNCHECKED


def test_mode_off_serves_even_while_paused(fakes: Fakes, flags: InMemoryFlags) -> None:
    flags.set(mode="off", paused=True)
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.UNCHECKED


def test_a_recorded_failure_is_reported_even_if_the_flags_cannot_be_read(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    fakes.database.fail_on(1, MigrationFailed("no such table", migration="0001_m"))
    for is_down in (False, True):
        flags.is_down = is_down
        with pytest.raises(MigrationFailed, match="no such table"):
            fakes.runner(V1).ensure(fakes.deadline())


def test_mode_require_waits_until_another_process_has_migrated(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    flags.set(mode="require")
    fakes.clock.at(5, lambda: fakes.finish(fakes.held_by("a-migrator"), V1))
    assert fakes.runner(V1).ensure(fakes.deadline()) is Outcome.WAITED
    assert set(fakes.table.log) == {"read"}
    assert flags.reads == 1


def test_mode_require_names_the_flag_when_time_is_over(fakes: Fakes, flags: InMemoryFlags) -> None:
    flags.set(mode="require")
    with pytest.raises(NotReady, match=f"waited 8.0 s: .*; the feature flag {MODE} is req"):
        fakes.runner(V1).ensure(fakes.deadline(10))
    assert "acquire" not in fakes.table.log


@pytest.mark.parametrize("mode", ["require", "off"])
def test_a_mode_that_changes_while_migrations_run_stops_between_two(
    fakes: Fakes, flags: InMemoryFlags, mode: str
) -> None:
    fakes.database.on_script = lambda _version: flags.set(mode=mode)
    with pytest.raises(
        NotReady, match=f"0002_m was not started: the feature flag {MODE} is {mode}"
    ):
        fakes.runner(V2).ensure(fakes.deadline())
    assert fakes.database.effects == ["0001_m"]


# --- held back


def test_held_back_at_a_version_everything_up_to_it_is_applied_and_the_rest_is_not_ready(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    flags.set(hold_back_at=2)
    with pytest.raises(NotReady, match=f"{HOLD_BACK_AT} holds back everything above version 2"):
        fakes.runner(V3).ensure(fakes.deadline())
    assert fakes.database.effects == ["0001_m", "0002_m"]
    assert fakes.table.state.owner is None
    assert fakes.ready(V1, V2, V3) == [V1, V2], "code that needs no more is served"
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.UP_TO_DATE


def test_once_all_that_is_allowed_is_applied_others_fail_after_one_read(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    fakes.migrated(V2)
    connections = fakes.database.connections
    flags.set(hold_back_at=2)
    for _ in range(2):
        with pytest.raises(NotReady, match=HOLD_BACK_AT):
            fakes.runner(V3).ensure(fakes.deadline())
    assert fakes.table.log == ["read", "read"]
    assert fakes.database.connections == connections


def test_held_back_below_the_first_version_nothing_is_applied(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    flags.set(hold_back_at=1)
    with pytest.raises(NotReady, match=HOLD_BACK_AT):
        fakes.runner(manifest(5, 6)).ensure(fakes.deadline())
    assert fakes.table.log == ["read"]


@pytest.mark.parametrize("version", [0, 3, 9])
def test_a_limit_at_or_above_the_manifest_has_no_effect(
    fakes: Fakes, flags: InMemoryFlags, version: int
) -> None:
    flags.set(hold_back_at=version)
    assert fakes.runner(V3).ensure(fakes.deadline()) is Outcome.MIGRATED


def test_what_was_applied_before_it_was_held_back_is_served(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    fakes.migrated(V3)
    fakes.change(databases={})
    flags.set(hold_back_at=2)
    assert fakes.runner(V3).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.ready(V1, V2, V3) == [V1, V2, V3]


def test_an_instance_that_acquires_after_all_that_is_allowed_was_applied_does_not_connect(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    flags.set(hold_back_at=2)

    def other_is_faster() -> None:
        with pytest.raises(NotReady, match=HOLD_BACK_AT):
            fakes.runner(V3).ensure(fakes.deadline())

    fakes.table.before["acquire"] = other_is_faster
    with pytest.raises(NotReady, match=HOLD_BACK_AT):
        fakes.runner(V3).ensure(fakes.deadline())
    assert fakes.database.connections == 1
    assert fakes.table.state.owner is None


def test_a_limit_set_while_migrations_run_stops_before_the_next_version(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    fakes.database.on_script = lambda _version: flags.set(hold_back_at=2)
    with pytest.raises(NotReady, match=f"0003_m was not started: .*{HOLD_BACK_AT}"):
        fakes.runner(V3).ensure(fakes.deadline())
    assert fakes.database.effects == ["0001_m", "0002_m"]


# --- when they cannot be read


def test_unreadable_flags_stop_migrating_by_default(fakes: Fakes, flags: InMemoryFlags) -> None:
    flags.is_down = True
    with pytest.raises(FlagsUnavailable):
        fakes.runner(V1).ensure(fakes.deadline())
    assert fakes.table.log == ["read"]
    assert [end.error for end in fakes.observer.events_of(CheckFailed)] == ["FlagsUnavailable"]


def test_unreadable_flags_can_be_ignored_and_are_reported(
    fakes: Fakes, flags: InMemoryFlags
) -> None:
    flags.is_down = True
    runner = fakes.runner(V1, require_flags=False)
    assert runner.ensure(fakes.deadline()) is Outcome.MIGRATED
    report = fakes.observer.events_of(FlagsIgnored)
    assert {each.target for each in report} == {"orders"}
    assert "down" in report[0].reason


@pytest.mark.parametrize("stops", [True, False], ids=["store_failure", "ignore"])
def test_unreadable_flags_between_two_migrations_are_treated_alike(
    fakes: Fakes, flags: InMemoryFlags, stops: bool
) -> None:
    def go_down(_version: int) -> None:
        flags.is_down = True

    fakes.database.on_script = go_down
    runner = fakes.runner(V2, require_flags=stops)
    if stops:
        with pytest.raises(FlagsUnavailable):
            runner.ensure(fakes.deadline())
        assert fakes.database.effects == ["0001_m"]
        assert fakes.table.state.owner is None
    else:
        assert runner.ensure(fakes.deadline()) is Outcome.MIGRATED


def test_the_lease_table_is_read_before_the_flags(fakes: Fakes, flags: InMemoryFlags) -> None:
    fakes.table.is_down = True
    flags.set(mode="off")
    with pytest.raises(LeaseStoreUnavailable):
        fakes.runner(V1, wait_seconds=2).ensure(fakes.deadline())
    assert flags.reads == 0


# --- operators


@pytest.mark.parametrize(
    ("values", "named"),
    [({"paused": True}, PAUSED), ({"mode": "off"}, MODE), ({"hold_back_at": 1}, HOLD_BACK_AT)],
)
def test_up_is_refused_before_it_acquires_the_lease_unless_flags_are_ignored(
    fakes: Fakes, flags: InMemoryFlags, values: dict[str, Any], named: str
) -> None:
    flags.set(**values)
    up = fakes.operations(V2).up
    advice = "`lambda-migrate up --despite-flags`"
    with pytest.raises(NotReady, match=f"`up` was not started: .*{named}.*{advice}"):
        up(fakes.deadline())
    assert fakes.table.log == []
    assert up(fakes.deadline(), despite_flags=True) == ("0001_m", "0002_m")


def test_up_to_what_is_not_held_back_is_not_refused(fakes: Fakes, flags: InMemoryFlags) -> None:
    flags.set(hold_back_at=2)
    assert fakes.operations(V3).up(fakes.deadline(), to=2) == ("0001_m", "0002_m")


@pytest.mark.parametrize("despite_flags", [False, True])
def test_a_pause_stops_up_between_two_migrations_unless_flags_are_ignored(
    fakes: Fakes, flags: InMemoryFlags, despite_flags: bool
) -> None:
    fakes.database.on_script = lambda _version: flags.set(paused=True)
    up = fakes.operations(V2).up
    if despite_flags:
        assert up(fakes.deadline(), despite_flags=True) == ("0001_m", "0002_m")
        assert flags.reads == 0
    else:
        with pytest.raises(NotReady, match="0002_m was not started"):
            up(fakes.deadline())
        assert fakes.database.effects == ["0001_m"]
    assert fakes.table.state.owner is None


def test_a_rollback_reads_no_flags(fakes: Fakes, flags: InMemoryFlags) -> None:
    fakes.migrated(V2)
    flags.set(paused=True)
    assert fakes.operations(V2).down(fakes.deadline(), steps=1) == ("0002_m",)


# --- the value


@pytest.mark.parametrize(
    ("values", "version", "named"),
    [
        ({}, 9, ""),
        ({"paused": True}, 1, PAUSED),
        ({"mode": "off"}, 1, MODE),
        ({"mode": "require"}, 1, MODE),
        ({"hold_back_at": 4}, 4, ""),
        ({"hold_back_at": 4}, 5, HOLD_BACK_AT),
        ({"hold_back_at": 4, "paused": True}, 5, PAUSED),
    ],
)
def test_a_refusal_names_its_flag(values: dict[str, Any], version: int, named: str) -> None:
    refusal_reason = Flags(**values).refusal_reason(version)
    assert (named in refusal_reason) if named else refusal_reason == ""


def test_a_blank_state_does_not_block(fakes: Fakes, flags: InMemoryFlags) -> None:
    flags.set(hold_back_at=2)
    fakes.table.before["acquire"] = raises(LeaseStoreUnavailable("the answer was lost"))
    with pytest.raises(NotReady, match=HOLD_BACK_AT):
        fakes.runner(V3).ensure(fakes.deadline())
    assert fakes.database.effects == ["0001_m", "0002_m"]
    assert isinstance(fakes.table.state, LeaseState)
