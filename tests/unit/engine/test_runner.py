"""What a starting instance does: every step of docs/explanation/how-it-works.md."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lambda_migrate.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LeaseLost,
    LeaseStoreUnavailable,
    ManifestError,
    MigrateError,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.events import (
    CheckFailed,
    CheckSucceeded,
    LeaseHeldTime,
    LeaseTakenOver,
    MigrationApplied,
    MigrationStarted,
    WaitingForLease,
)
from lambda_migrate.lease.backoff import max_delay_after_errors
from lambda_migrate.lease.memory import InMemoryLeaseStore
from lambda_migrate.lease.progress import Failure, Progress
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.lease.store import Lease
from lambda_migrate.manifest_digest import EMPTY_DIGEST
from lambda_migrate.migrations.baseline import ToolHistory, ToolHistoryEntry
from lambda_migrate.migrations.deferred import DeferredManifest
from lambda_migrate.outcome import Outcome
from lambda_migrate.postgresql.ports import StaleFencingToken
from lambda_migrate.runner import MigrationRunner
from lambda_migrate.testing import InMemoryDatabase
from tests.unit.engine.fakes import Fakes, manifest, raises

V1, V2, V3 = manifest(1), manifest(1, 2), manifest(1, 2, 3)


def failure(fakes: Fakes, digest: str, *, pause_seconds: float = 60.0) -> Failure:
    now = fakes.clock.wall_ms()
    return Failure(
        digest=digest,
        migration="0002_m",
        version="2",
        sqlstate="42P01",
        cause="no such table",
        attempts=3,
        at_ms=now,
        retry_at_ms=now + round(pause_seconds * 1000),
    )


# --- serving


def test_the_fast_path_is_one_read_and_nothing_else(fakes: Fakes) -> None:
    fakes.migrated(V2)
    connections = fakes.database.connections
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.UP_TO_DATE
    assert fakes.table.log == ["read"]
    assert fakes.database.connections == connections
    assert fakes.clock.slept == []


def test_the_result_is_kept_until_it_is_forgotten(fakes: Fakes) -> None:
    fakes.migrated(V2)
    runner = fakes.runner(V2)
    assert [runner.ensure(), runner.ensure(), runner.ensure()] == [Outcome.UP_TO_DATE] * 3
    assert fakes.table.log == ["read"]
    runner.forget_result()
    runner.ensure()
    assert fakes.table.log == ["read", "read"]


def test_the_fast_path_serves_even_when_no_time_is_left(fakes: Fakes) -> None:
    fakes.migrated(V1)
    assert fakes.runner(V1).ensure(fakes.deadline(0)) is Outcome.UP_TO_DATE


def test_the_result_of_a_failed_check_is_not_kept(fakes: Fakes) -> None:
    fakes.database.is_down = True
    runner = fakes.runner(V1)
    with pytest.raises(DatabaseUnavailable):
        runner.ensure(fakes.deadline())
    fakes.database.is_down = False
    assert runner.ensure(fakes.deadline()) is Outcome.MIGRATED


def test_the_items_record_of_another_database_does_not_count(fakes: Fakes) -> None:
    elsewhere = Fakes(clock=fakes.clock)
    elsewhere.database = InMemoryDatabase(address_text="elsewhere:5432/other", clock=fakes.clock)
    elsewhere.migrated(V1)
    fakes.change(databases=elsewhere.table.state.databases)
    assert fakes.runner(V1).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m"]
    assert fakes.ready(V1, V2, V3) == [V1]


def test_mode_off_reads_nothing(fakes: Fakes) -> None:
    runner = fakes.runner(V1, mode="off")
    assert runner.ensure(fakes.deadline()) is Outcome.UP_TO_DATE
    assert (fakes.table.log, fakes.database.connections, fakes.observer.events) == ([], 0, [])


def test_constructing_a_runner_does_nothing(fakes: Fakes) -> None:
    MigrationRunner(V1, fakes.target())
    assert (fakes.table.log, fakes.database.connections) == ([], 0)


# --- require


def test_require_waits_until_another_process_has_migrated(fakes: Fakes) -> None:
    fakes.clock.at(5, lambda: fakes.finish(fakes.held_by("a-migrator"), V1))
    assert fakes.runner(V1, mode="require").ensure(fakes.deadline()) is Outcome.WAITED
    assert set(fakes.table.log) == {"read"}
    assert fakes.database.connections == 0


def test_require_never_acquires_and_gives_up_at_the_deadline(fakes: Fakes) -> None:
    began = fakes.clock.monotonic()
    message = r"^waited 8\.0 s: no process holds the lease; run `lambda-migrate up`, or start a "
    with pytest.raises(NotReady, match=message):
        fakes.runner(V1, mode="require").ensure(fakes.deadline(10))
    assert set(fakes.table.log) == {"read"}
    assert fakes.clock.monotonic() - began == pytest.approx(8)


def test_require_fails_at_once_on_a_recorded_failure(fakes: Fakes) -> None:
    fakes.change(failure=failure(fakes, V2.digest))
    with pytest.raises(MigrationFailed, match="no such table"):
        fakes.runner(V2, mode="require").ensure(fakes.deadline())
    assert fakes.table.log == ["read"]


def test_require_does_not_take_over_a_dead_holder(fakes: Fakes) -> None:
    fakes.held_by("dead", seconds=1)
    with pytest.raises(NotReady, match="dead holds the lease"):
        fakes.runner(V1, mode="require", wait_seconds=90).ensure(fakes.deadline(100))
    assert set(fakes.table.log) == {"read"}


# --- refusing


def test_a_recorded_failure_is_raised_after_one_read_and_no_connection(fakes: Fakes) -> None:
    fakes.change(failure=failure(fakes, V2.digest))
    with pytest.raises(MigrationFailed) as caught:
        fakes.runner(V2).ensure(fakes.deadline())
    report = caught.value
    assert (report.migration, report.sqlstate, report.cause) == ("0002_m", "42P01", "no such table")
    assert report.attempts == 3
    assert report.retry_at_ms == fakes.clock.wall_ms() + 60_000
    assert "attempt 3 failed in another instance" in str(report)
    assert "in 60 s" in str(report)
    assert (fakes.table.log, fakes.database.connections) == (["read"], 0)


def test_a_failure_of_other_migration_files_refuses_nothing(fakes: Fakes) -> None:
    fakes.change(failure=failure(fakes, V3.digest))
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.table.state.failure is None, "its version 2 is applied, by other files"


def test_a_waiter_raises_the_failure_of_the_holder_it_waits_for(fakes: Fakes) -> None:
    lease = fakes.held_by("holder")
    report = failure(fakes, V2.digest)
    fakes.clock.at(3, lambda: InMemoryLeaseStore.store_failure(fakes.table, lease, report))
    with pytest.raises(MigrationFailed, match="42P01"):
        fakes.runner(V2).ensure(fakes.deadline())
    assert fakes.database.connections == 0


# --- waiting


def test_a_waiter_serves_once_the_holder_has_finished(fakes: Fakes) -> None:
    lease = fakes.held_by("holder")
    fakes.clock.at(4, lambda: fakes.finish(lease, V2))
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.WAITED
    assert set(fakes.table.log) == {"read"}
    assert fakes.database.connections == 0
    event = fakes.observer.events_of(CheckSucceeded)[0]
    assert event.waited_seconds == event.seconds >= 4


def test_a_waiter_migrates_if_the_holder_finished_something_else(fakes: Fakes) -> None:
    fakes.migrated(V1)
    lease = fakes.held_by("older code")
    fakes.clock.at(4, lambda: fakes.finish(lease, V1))
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m"]


def test_the_loser_of_an_acquisition_waits_with_the_returned_item(fakes: Fakes) -> None:
    leases: list[Lease] = []
    fakes.table.before["acquire"] = lambda: leases.append(fakes.held_by("winner"))
    fakes.clock.at(1, lambda: fakes.finish(leases[0], V1))
    reads_before_the_first_pause: list[int] = []

    def count(seconds: float) -> None:
        reads_before_the_first_pause.append(fakes.table.log.count("read"))
        sleep(seconds)

    sleep = fakes.clock.sleep
    fakes.clock.sleep = count  # type: ignore[method-assign]  # the test counts what came before
    assert fakes.runner(V1).ensure(fakes.deadline()) is Outcome.WAITED
    assert fakes.table.log[:2] == ["read", "acquire"]
    assert reads_before_the_first_pause[0] == 1
    assert fakes.observer.events_of(WaitingForLease)[0].holder == "winner"


@pytest.mark.parametrize(
    ("invocation", "wait", "margin", "waited"),
    [(30, 25, 2, 25), (10, 25, 2, 8), (10, 25, 0, 10), (10, 3, 2, 3), (2, 25, 2, 0), (0, 25, 2, 0)],
)
def test_waiting_never_passes_the_deadline_less_the_margin_nor_the_bound(
    fakes: Fakes, invocation: float, wait: float, margin: float, waited: float
) -> None:
    fakes.held_by("holder", seconds=900, length=900)
    began = fakes.clock.monotonic()
    runner = fakes.runner(V1, wait_seconds=wait, safety_margin_seconds=margin)
    with pytest.raises(NotReady, match=f"waited {waited:.1f} s: holder holds the lease"):
        runner.ensure(fakes.deadline(invocation))
    assert fakes.clock.monotonic() - began == pytest.approx(waited)


def test_not_ready_names_the_holder_its_progress_and_when_to_retry(fakes: Fakes) -> None:
    fakes.held_by("orders/7/abc", seconds=900)
    fakes.change(progress=Progress("0002_m", 1, 3, fakes.clock.wall_ms()))
    with pytest.raises(NotReady) as caught:
        fakes.runner(V2, lease_seconds=900).ensure(fakes.deadline(12))
    assert "orders/7/abc is applying 0002_m (1 of 3 migrations done)" in str(caught.value)
    assert caught.value.retry_after_seconds == 5
    assert fakes.observer.events_of(WaitingForLease)[0].progress == "0002_m"


def test_without_a_deadline_the_bound_on_waiting_holds(fakes: Fakes) -> None:
    fakes.held_by("holder", seconds=900, length=900)
    with pytest.raises(NotReady, match=r"waited 25\.0 s"):
        fakes.runner(V1).ensure()


@pytest.mark.parametrize("seconds", [0, 2])
def test_nothing_is_begun_when_no_time_is_left(fakes: Fakes, seconds: float) -> None:
    with pytest.raises(NotReady, match="LAMBDA_MIGRATE_SAFETY_MARGIN_SECONDS"):
        fakes.runner(V1).ensure(fakes.deadline(seconds))
    assert fakes.table.log == ["read"]
    assert fakes.database.connections == 0


# --- acquiring


def test_the_first_instance_migrates_and_releases_the_lease(fakes: Fakes) -> None:
    assert fakes.runner(V3).ensure(fakes.deadline(), request_id="r-1") is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m", "0003_m"]
    assert fakes.table.log == ["read", "acquire", "renew", "store_completion"]
    assert fakes.table.state.owner is None
    assert fakes.ready(V1, V2, V3) == [V1, V2, V3]
    assert fakes.database.token == 1


def test_what_became_ready_before_the_acquisition_is_served_without_a_connection(
    fakes: Fakes,
) -> None:
    fakes.table.before["acquire"] = lambda: fakes.finish(fakes.held_by("faster"), V2)
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.UP_TO_DATE
    assert (fakes.table.log, fakes.database.connections) == (["read", "acquire"], 0)
    assert (fakes.table.state.owner, fakes.table.state.fence) == (None, 1)


def test_what_a_holder_completed_just_before_its_takeover_is_served(
    fakes: Fakes,
) -> None:
    lease = fakes.held_by("slow", seconds=-5)
    fakes.table.before["acquire"] = lambda: fakes.finish(lease, V2)
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.UP_TO_DATE
    assert (fakes.table.log, fakes.database.connections) == (["read", "acquire", "release"], 0)
    assert fakes.table.state.owner is None


def test_what_failed_before_the_acquisition_is_not_tried_again_before_its_pause(
    fakes: Fakes,
) -> None:
    fails = failure(fakes, V2.digest)
    fakes.table.before["acquire"] = lambda: fakes.change(failure=fails)
    with pytest.raises(MigrationFailed, match="no such table"):
        fakes.runner(V2).ensure(fakes.deadline())
    assert (fakes.table.log, fakes.database.connections) == (["read", "acquire", "release"], 0)
    assert (fakes.table.state.owner, fakes.table.state.failure) == (None, fails)


def test_a_lease_that_cannot_be_released_at_once_does_not_prevent_serving(
    fakes: Fakes,
) -> None:
    lease = fakes.held_by("slow", seconds=-5)
    fakes.table.before["acquire"] = lambda: fakes.finish(lease, V2)
    fakes.table.before["release"] = raises(LeaseStoreUnavailable("DynamoDB did not respond"))
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.UP_TO_DATE


def test_after_a_lost_response_to_an_acquisition_the_same_owner_holds_the_lease(
    fakes: Fakes,
) -> None:
    fakes.table.after["acquire"] = raises(LeaseStoreUnavailable("the answer was lost"))
    assert fakes.runner(V1).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.table.log == ["read", "acquire", "read", "acquire", "renew", "store_completion"]
    event = fakes.observer.events_of(CheckSucceeded)[0]
    assert event.fence == 1
    assert event.waited_seconds < 1
    assert fakes.observer.events_of(LeaseTakenOver) == []


def test_acquisitions_without_a_response_are_retried_with_growing_delays(fakes: Fakes) -> None:
    def again() -> None:
        fakes.table.before["acquire"] = again
        raise LeaseStoreUnavailable("throttled")

    fakes.table.before["acquire"] = again
    with pytest.raises(NotReady):
        fakes.runner(V1).ensure(fakes.deadline(27))
    delays = fakes.clock.slept
    assert delays == sorted(delays[:-1]) + delays[-1:]
    assert fakes.table.log.count("acquire") < 30


def test_a_lease_taken_over_is_announced_once(fakes: Fakes) -> None:
    fakes.held_by("dead", seconds=-5)
    assert fakes.runner(V1).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.observer.events_of(LeaseTakenOver) == [LeaseTakenOver("orders", "dead", 2)]


def test_a_free_lease_is_not_announced_as_taken_over(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.runner(V2).ensure(fakes.deadline())
    assert fakes.observer.events_of(LeaseTakenOver) == []


def test_a_lease_unchanged_for_its_whole_length_is_over_whatever_the_clocks_show(
    fakes: Fakes,
) -> None:
    fakes.held_by("dead", seconds=1_000)
    runner = fakes.runner(V1, wait_seconds=60)
    assert runner.ensure(fakes.deadline(120)) is Outcome.MIGRATED
    waited = fakes.observer.events_of(CheckSucceeded)[0].waited_seconds
    assert 21 < waited < 30
    assert fakes.observer.events_of(LeaseTakenOver) == [LeaseTakenOver("orders", "dead", 2)]


def test_a_holder_that_renews_is_not_taken_over(fakes: Fakes) -> None:
    lease = fakes.held_by("alive")
    for second in range(5, 50, 5):
        fakes.clock.at(second, lambda: InMemoryLeaseStore.renew(fakes.table, lease))
    fakes.clock.at(52, lambda: fakes.finish(lease, V1))
    assert fakes.runner(V1, wait_seconds=80).ensure(fakes.deadline(120)) is Outcome.WAITED
    assert "acquire" not in fakes.table.log


# --- the fence


def test_the_token_of_a_recreated_table_is_raised_above_postgresqls(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.database.token = 41
    fakes.change(fence=0, databases={})
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.table.log.count("advance_fence") == 1
    assert (fakes.table.state.fence, fakes.database.token) == (42, 42)
    assert fakes.observer.events_of(CheckSucceeded)[0].fence == 42
    assert fakes.database.effects == ["0001_m", "0002_m"]


def test_a_token_that_keeps_rising_above_the_lease_tables_is_a_configuration_error(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_stale_token(grant: object, *_: object, **__: object) -> None:
        raise StaleFencingToken(grant.fence + 10)  # type: ignore[attr-defined]  # it is a Grant

    monkeypatch.setattr(fakes.database, "open_session", raise_stale_token)
    with pytest.raises(ConfigurationError, match="keeps rising above the lease table's"):
        fakes.runner(V1).ensure(fakes.deadline())
    assert fakes.table.state.owner is None


# --- losing the lease


def test_a_holder_that_lost_its_lease_records_and_completes_nothing(fakes: Fakes) -> None:
    def supersede(_version: int) -> None:
        fakes.database.on_script = None
        fakes.change(owner="successor", fence=fakes.table.state.fence + 1)
        fakes.database.token += 1

    fakes.database.on_script = supersede
    with pytest.raises(LeaseLost):
        fakes.runner(V2).ensure(fakes.deadline())
    assert fakes.database.effects == []
    assert fakes.table.log == ["read", "acquire", "renew"]
    assert fakes.table.state.failure is None
    assert fakes.table.state.databases == {}
    assert fakes.table.state.owner == "successor"


def test_a_holder_thawed_after_its_lease_checks_it_before_the_next_migration(
    fakes: Fakes,
) -> None:
    def freeze(version: int) -> None:
        if version == 1:
            fakes.clock.advance(3600)
            fakes.held_by("successor")

    fakes.database.on_script = freeze
    with pytest.raises(LeaseLost):
        fakes.runner(V2).ensure(fakes.deadline(7200))
    assert fakes.database.effects == ["0001_m"]
    assert fakes.table.log == ["read", "acquire", "renew", "renew"]
    assert fakes.table.state.owner == "successor"


def test_an_instance_that_loses_its_lease_after_the_last_migration_waits_and_serves(
    fakes: Fakes,
) -> None:
    def take() -> None:
        fakes.clock.advance(60)
        lease = fakes.held_by("successor")
        fakes.clock.at(2, lambda: fakes.finish(lease, V2))

    fakes.table.before["store_completion"] = take
    assert fakes.runner(V2).ensure(fakes.deadline(120)) is Outcome.WAITED
    assert fakes.database.effects == ["0001_m", "0002_m"]
    assert fakes.observer.events_of(CheckSucceeded)[0].applied == ("0001_m", "0002_m")
    assert fakes.table.log.count("acquire") == 1


def test_a_store_that_fails_after_the_last_migration_does_not_prevent_serving(
    fakes: Fakes,
) -> None:
    def go() -> None:
        fakes.table.is_down = True
        raise LeaseStoreUnavailable("gone")

    fakes.table.before["store_completion"] = go
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.table.state.databases == {}
    fakes.table.is_down = False
    fakes.clock.advance(30)
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m"]
    assert fakes.ready(V2)


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_lost_response_does_not_make_others_wait_until_the_lease_expires(
    fakes: Fakes, lost: str
) -> None:
    planned = fakes.table.before if lost == "request" else fakes.table.after
    planned["store_completion"] = raises(LeaseStoreUnavailable("throttled"))
    began = fakes.clock.monotonic()
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.table.log.count("store_completion") == 2
    assert fakes.clock.monotonic() - began <= 0.2
    assert fakes.table.state.owner is None
    assert fakes.ready(V2)


def test_releasing_ends_with_the_leases_trust_or_the_deadline(fakes: Fakes) -> None:
    def go() -> None:
        fakes.table.is_down = True
        raise LeaseStoreUnavailable("gone")

    fakes.table.before["store_completion"] = go
    began = fakes.clock.monotonic()
    assert fakes.runner(V2).ensure(fakes.deadline(8)) is Outcome.MIGRATED
    assert fakes.clock.monotonic() - began <= 8
    assert fakes.table.log.count("store_completion") > 3


def test_waiting_starts_with_the_pause_after_an_error_if_the_first_read_failed(
    fakes: Fakes,
) -> None:
    fakes.migrated(V2)
    fakes.table.before["read"] = raises(LeaseStoreUnavailable("throttled"))
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.WAITED
    [pause] = fakes.observer.events_of(WaitingForLease)
    assert pause.delay_seconds >= max_delay_after_errors(1) / 2


def test_after_an_unavailable_store_an_untrusted_lease_is_read_again(
    fakes: Fakes,
) -> None:
    def thaw_after_a_rollback() -> None:
        fakes.clock.advance(30)
        fakes.operations(V2).down(fakes.deadline(), to=0)
        raise LeaseStoreUnavailable("gone")

    fakes.table.before["store_completion"] = thaw_after_a_rollback
    assert fakes.runner(V2).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m"] * 2
    assert fakes.database.rolled_back == ["0002_m", "0001_m"]


# --- PostgreSQL away


def test_an_unavailable_database_frees_the_lease_and_is_not_a_failure(fakes: Fakes) -> None:
    fakes.database.is_down = True
    with pytest.raises(DatabaseUnavailable) as caught:
        fakes.runner(V1).ensure(fakes.deadline())
    assert caught.value.retryable
    assert fakes.table.log == ["read", "acquire", "release"]
    assert fakes.table.state.owner is None
    assert fakes.table.state.failure is None


def test_a_database_lost_in_the_middle_frees_the_lease_and_keeps_what_was_committed(
    fakes: Fakes,
) -> None:
    def vanish(version: int) -> None:
        fakes.database.is_down = version == 2

    fakes.database.on_script = vanish
    with pytest.raises(DatabaseUnavailable):
        fakes.runner(V3).ensure(fakes.deadline())
    assert fakes.database.effects == ["0001_m"]
    assert fakes.table.state.failure is None
    fakes.database.is_down = False
    fakes.database.on_script = None
    assert fakes.runner(V3).ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == ["0001_m", "0002_m", "0003_m"]


# --- DynamoDB away


def test_without_a_store_waiting_ends_with_its_own_error_at_the_deadline(fakes: Fakes) -> None:
    fakes.table.is_down = True
    began = fakes.clock.monotonic()
    with pytest.raises(LeaseStoreUnavailable):
        fakes.runner(V1).ensure(fakes.deadline(12))
    assert fakes.clock.monotonic() - began == pytest.approx(10)
    assert fakes.database.connections == 0


@pytest.mark.parametrize(("invocation", "wait"), [(0, 25), (60, 0)])
def test_without_a_store_and_without_time_to_wait_the_error_is_the_stores(
    fakes: Fakes, invocation: float, wait: float
) -> None:
    fakes.table.is_down = True
    with pytest.raises(LeaseStoreUnavailable):
        fakes.runner(V1, wait_seconds=wait).ensure(fakes.deadline(invocation))
    assert fakes.table.log == ["read"]


def test_a_store_that_recovers_in_time_is_waited_for(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.table.is_down = True
    fakes.clock.at(5, lambda: setattr(fakes.table, "is_down", False))
    assert fakes.runner(V1).ensure(fakes.deadline()) is Outcome.WAITED


@pytest.mark.parametrize("wait", [25, 0])
def test_by_setting_a_current_database_is_served_without_a_store(fakes: Fakes, wait: float) -> None:
    fakes.migrated(V2)
    connections = fakes.database.connections
    fakes.table.is_down = True
    runner = fakes.runner(V2, check_database_if_store_unavailable=True, wait_seconds=wait)
    began = fakes.clock.monotonic()
    runner.ensure(fakes.deadline())
    assert fakes.database.connections == connections + 1
    assert fakes.clock.monotonic() - began < 4
    assert "acquire" not in fakes.table.log


def test_by_setting_a_database_that_is_not_current_fails_closed(fakes: Fakes) -> None:
    fakes.migrated(V1)
    fakes.table.is_down = True
    with pytest.raises(LeaseStoreUnavailable):
        fakes.runner(V2, check_database_if_store_unavailable=True).ensure(fakes.deadline())
    assert fakes.database.effects == ["0001_m"]


# --- telling


def test_a_check_that_migrated_is_one_event_with_all_fields(fakes: Fakes) -> None:
    fakes.database.on_script = lambda _version: fakes.clock.advance(1.5)
    fakes.runner(V2).ensure(fakes.deadline())
    assert [type(event) for event in fakes.observer.events] == [
        MigrationStarted,
        MigrationApplied,
        MigrationStarted,
        MigrationApplied,
        LeaseHeldTime,
        CheckSucceeded,
    ]
    assert fakes.observer.events_of(MigrationApplied)[1] == MigrationApplied(
        "orders", "0002_m", 2, 2, 1.5
    )
    event = fakes.observer.events_of(CheckSucceeded)[0]
    assert (event.target, event.digest, event.outcome) == ("orders", V2.digest, "MIGRATED")
    assert event.applied == ("0001_m", "0002_m")
    assert (event.fence, event.lease_calls) == (1, 4)
    assert (event.seconds, event.waited_seconds) == (3.0, 0.0)
    assert event.owner.startswith("cli/")


def _record_failure(fakes: Fakes) -> None:
    fakes.change(failure=failure(fakes, V2.digest))


def _break_migration(fakes: Fakes) -> None:
    fakes.database.fail_on(2, MigrationFailed("boom", migration="0002_m", sqlstate="22012"))


def _hold_lease(fakes: Fakes) -> None:
    fakes.held_by("holder", seconds=900)


def _make_store_unavailable(fakes: Fakes) -> None:
    fakes.table.is_down = True


def _make_database_unavailable(fakes: Fakes) -> None:
    fakes.database.is_down = True


def _raise_unexpected_error(fakes: Fakes) -> None:
    fakes.table.before["read"] = raises(RuntimeError("password=hunter2"))


@pytest.mark.parametrize(
    ("arrange", "error", "retryable", "migration", "sqlstate", "attempts"),
    [
        (_record_failure, "MigrationFailed", False, "0002_m", "42P01", 3),
        (_break_migration, "MigrationFailed", False, "0002_m", "22012", 1),
        (_hold_lease, "NotReady", True, "", "", 0),
        (_make_store_unavailable, "LeaseStoreUnavailable", True, "", "", 0),
        (_make_database_unavailable, "DatabaseUnavailable", True, "", "", 0),
        (_raise_unexpected_error, "RuntimeError", False, "", "", 0),
    ],
)
def test_a_failed_check_is_one_event_with_all_fields(
    fakes: Fakes,
    arrange: Callable[[Fakes], None],
    error: str,
    retryable: bool,
    migration: str,
    sqlstate: str,
    attempts: int,
) -> None:
    arrange(fakes)
    with pytest.raises((MigrateError, RuntimeError)):
        fakes.runner(V2, lease_seconds=900).ensure(fakes.deadline(10))
    assert fakes.observer.events_of(CheckSucceeded) == []
    (report,) = fakes.observer.events_of(CheckFailed)
    assert (report.error, report.retryable) == (error, retryable)
    assert (report.migration, report.sqlstate, report.attempts) == (migration, sqlstate, attempts)
    assert report.message
    assert "hunter2" not in report.message
    assert report.digest == V2.digest
    assert (report.retry_at_ms is not None) == (error == "MigrationFailed")


def test_an_owner_is_fresh_for_every_check(fakes: Fakes) -> None:
    for versions in (V1, V2, V3):
        fakes.runner(versions).ensure(fakes.deadline())
    assert len({event.owner for event in fakes.observer.events_of(CheckSucceeded)}) == 3


def test_an_empty_manifest_is_served_where_that_is_allowed(fakes: Fakes) -> None:
    first = fakes.runner(manifest(), allow_empty=True)
    assert first.ensure(fakes.deadline()) is Outcome.MIGRATED
    assert fakes.database.effects == []
    second = fakes.runner(manifest(), allow_empty=True)
    assert second.ensure(fakes.deadline()) is Outcome.UP_TO_DATE


@pytest.mark.parametrize("mode", ["migrate", "require"])
def test_an_empty_manifest_is_refused_before_the_lease_table_is_read(
    fakes: Fakes, mode: str
) -> None:
    fakes.migrated(V1)
    for shipped in (manifest(), DeferredManifest(EMPTY_DIGEST, manifest)):
        with pytest.raises(ManifestError, match="LAMBDA_MIGRATE_ALLOW_EMPTY=true"):
            MigrationRunner(shipped, fakes.target(mode=mode)).ensure(fakes.deadline())
    assert fakes.table.log == []
    [first, _] = [e for e in fakes.observer.events if isinstance(e, CheckFailed)]
    assert (first.error, first.retryable, first.lease_calls) == ("ManifestError", False, 0)


def test_a_cold_start_runs_nothing_on_a_database_that_another_tool_has_migrated(
    fakes: Fakes,
) -> None:
    fakes.database.other_histories = [
        ToolHistory("dbmate", "public.schema_migrations", (ToolHistoryEntry("0001", version=1),))
    ]
    with pytest.raises(ConfigurationError, match="dbmate has applied 1 version") as caught:
        fakes.runner(V2).ensure(fakes.deadline())
    assert not caught.value.retryable
    assert fakes.database.effects == []
    connections = fakes.database.connections
    with pytest.raises(MigrationFailed, match="dbmate has applied 1 version"):
        fakes.runner(V2).ensure(fakes.deadline())
    assert fakes.database.connections == connections, "a hundred starts are not a storm"
    other = fakes.runner(manifest(1, 2, 3), ignore_other_history=True)
    assert other.ensure(fakes.deadline()) is Outcome.MIGRATED


def test_a_missing_item_reads_as_an_empty_state(fakes: Fakes) -> None:
    assert fakes.table.state == LeaseState()
    assert fakes.runner(V1).ensure(fakes.deadline()) is Outcome.MIGRATED
