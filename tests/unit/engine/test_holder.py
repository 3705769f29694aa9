"""A lease is renewed while its holder works, and its loss stops the work."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.engine.holder import LeaseSession
from lambda_migrate.errors import (
    ConfigurationError,
    LeaseLost,
    LeaseStoreUnavailable,
    MigrateError,
    MigrationFailed,
    NotReady,
)
from lambda_migrate.events import Event, LeaseHeldTime, MigrationAttemptFailed, RenewalFailed
from lambda_migrate.lease.first_read import make_owner
from lambda_migrate.lease.progress import Progress
from lambda_migrate.lease.store import Lease
from lambda_migrate.testing import InMemorySession, RecordingObserver
from tests.unit.engine.fakes import LEASE_SECONDS, Fakes, manifest, raises

V2 = manifest(1, 2)

RENEWING = 0.03
"""A lease in real seconds that makes the heartbeat's thread renew every 10 ms; the table's own is
on the fake clock."""

TIMEOUT_SECONDS = 20.0
"""Real seconds after which a thread that never came is a failure."""


@pytest.fixture
def aborted(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the heartbeat has aborted the running statement."""
    event = threading.Event()
    abort = InMemorySession.abort

    def report(self: InMemorySession) -> None:
        abort(self)
        event.set()

    monkeypatch.setattr(InMemorySession, "abort", report)
    return event


def stalls(aborted: threading.Event, first: Callable[[], object]) -> Callable[[int], None]:
    """A migration that runs until it is aborted, and ignores the statement timeout."""

    def during(_version: int) -> None:
        first()
        assert aborted.wait(TIMEOUT_SECONDS)
        raise LeaseLost("the connection was closed by an abort")

    return during


def test_a_lease_lost_in_the_middle_aborts_the_running_migration(
    fakes: Fakes, aborted: threading.Event
) -> None:
    fakes.database.on_script = stalls(
        aborted, lambda: fakes.change(owner="successor", fence=fakes.table.state.fence + 1)
    )
    with pytest.raises(LeaseLost):
        fakes.runner(V2, lease_seconds=RENEWING).ensure(fakes.deadline())
    assert fakes.database.effects == []
    assert fakes.table.state.owner == "successor"
    assert fakes.table.state.failure is None
    assert not {"store_failure", "store_completion", "release"} & set(fakes.table.log)
    assert fakes.observer.events_of(MigrationAttemptFailed) == []


def test_a_migration_that_runs_past_the_deadline_is_aborted_and_a_failure(
    fakes: Fakes, aborted: threading.Event
) -> None:
    fakes.database.on_script = stalls(aborted, lambda: fakes.clock.advance(18.6))
    with pytest.raises(MigrationFailed, match=r"0001_m: it was still running when .* deadline"):
        fakes.runner(V2, lease_seconds=RENEWING, safety_margin_seconds=2).ensure(fakes.deadline(20))
    assert fakes.database.effects == []
    assert fakes.table.state.owner is None
    failure = fakes.table.state.failure
    assert failure is not None
    assert (failure.migration, failure.version) == ("0001_m", "1")
    assert [broke.migration for broke in fakes.observer.events_of(MigrationAttemptFailed)] == [
        "0001_m"
    ]


def test_a_rollback_that_runs_past_the_deadline_names_its_migration(
    fakes: Fakes, aborted: threading.Event
) -> None:
    fakes.migrated(V2)
    fakes.database.on_script = stalls(aborted, lambda: fakes.clock.advance(10.6))
    operations = fakes.operations(V2, lease_seconds=RENEWING)
    with pytest.raises(MigrationFailed, match=r"still running when .* deadline") as failed:
        operations.down(fakes.deadline(10), steps=1)
    assert (failed.value.migration, failed.value.is_timeout) == ("0002_m", True)
    assert fakes.database.rolled_back == []
    assert fakes.table.state.owner is None


@pytest.mark.parametrize("seconds", [19.7, 19.9], ids=["some time left", "none left"])
def test_an_unresponsive_table_does_not_delay_the_error_past_the_invocations_end(
    fakes: Fakes, aborted: threading.Event, seconds: float
) -> None:
    answered, written = threading.Event(), threading.Event()

    def silent() -> None:
        assert answered.wait(TIMEOUT_SECONDS)
        written.set()

    fakes.table.before["store_failure"] = silent
    fakes.database.on_script = stalls(aborted, lambda: fakes.clock.advance(seconds))
    with pytest.raises(MigrationFailed, match=r"0001_m: it was still running when .* deadline"):
        fakes.runner(V2, lease_seconds=RENEWING, safety_margin_seconds=2).ensure(fakes.deadline(20))
    assert not written.is_set()
    answered.set()
    assert written.wait(TIMEOUT_SECONDS)


def test_progress_is_published_with_the_renewals(fakes: Fakes) -> None:
    published: list[Progress] = []

    def during(_version: int) -> None:
        renewed = threading.Event()
        fakes.table.after["renew"] = renewed.set
        assert renewed.wait(TIMEOUT_SECONDS)
        assert fakes.table.state.progress is not None
        published.append(fakes.table.state.progress)

    fakes.database.on_script = during
    fakes.runner(V2, lease_seconds=RENEWING).ensure(fakes.deadline())
    now = fakes.clock.wall_ms()
    assert published == [Progress("0001_m", 0, 2, now), Progress("0002_m", 1, 2, now)]
    assert fakes.table.state.progress is None


def test_a_holder_reports_how_long_it_has_held_the_lease_while_a_migration_runs(
    fakes: Fakes,
) -> None:
    def during(_version: int) -> None:
        fakes.clock.advance(7.0)
        beaten = threading.Event()
        report = fakes.observer.observe

        def observe(event: Event) -> None:
            report(event)
            if isinstance(event, LeaseHeldTime) and event.held_seconds:
                beaten.set()

        fakes.observer.observe = observe  # type: ignore[method-assign]  # tells us when
        assert beaten.wait(TIMEOUT_SECONDS)

    fakes.database.on_script = during
    fakes.runner(manifest(1), lease_seconds=RENEWING).ensure(fakes.deadline())
    *going, end = fakes.observer.events_of(LeaseHeldTime)
    assert {(each.fence, each.is_final) for each in going} == {(1, False)}
    assert going[-1].held_seconds == 7.0  # the first may come before the migration begins
    assert (end.held_seconds, end.is_final) == (7.0, True)


def test_a_holder_that_fails_reports_how_long_it_held_the_lease(fakes: Fakes) -> None:
    fakes.database.fail_on(2, MigrationFailed("division by zero", migration="0002_m"))
    with pytest.raises(MigrationFailed):
        fakes.runner(V2).ensure(fakes.deadline())
    (end,) = fakes.observer.events_of(LeaseHeldTime)
    assert end.is_final


def test_the_heartbeat_ends_with_the_work(fakes: Fakes) -> None:
    fakes.runner(V2, lease_seconds=RENEWING).ensure(fakes.deadline())
    names = {thread.name for thread in threading.enumerate()}
    assert "lambda-migrate-heartbeat" not in names


# --- a lease that cannot be renewed, though no other process took it

EXPIRED = ConfigurationError("ExpiredTokenException: the security token is expired")
AWAY = LeaseStoreUnavailable("DynamoDB did not respond")


def refuses_to_renew(fakes: Fakes, error: MigrateError) -> Callable[[], None]:
    """From now on renewals fail, and in a moment the lease is over; everything else continues."""

    def renew(_lease: Lease, _progress: Progress | None = None) -> Lease:
        fakes.table.log.append("renew")
        if len(fakes.observer.events_of(RenewalFailed)) or error.retryable:
            fakes.clock.advance(LEASE_SECONDS - 0.5)
        raise error

    def begin() -> None:
        fakes.table.renew = renew  # type: ignore[assignment,method-assign]  # for the rest

    return begin


@pytest.mark.parametrize("error", [EXPIRED, AWAY])
def test_a_lease_that_could_not_be_renewed_ends_with_its_own_cause(
    fakes: Fakes, aborted: threading.Event, error: MigrateError
) -> None:
    fakes.database.on_script = stalls(aborted, refuses_to_renew(fakes, error))
    with pytest.raises(MigrateError) as caught:
        fakes.runner(V2, lease_seconds=RENEWING).ensure(fakes.deadline())
    report = str(caught.value)
    assert report.startswith("0001_m was cancelled and its uncommitted work rolled back")
    assert "no other process held the lease" in report
    assert str(error) in report
    assert caught.value.retryable == error.retryable
    assert fakes.database.effects == []
    assert fakes.table.state.failure is None, "others may well migrate at once"


def test_a_permanently_refused_renewal_is_reported_once_while_the_migration_runs(
    fakes: Fakes, aborted: threading.Event
) -> None:
    fakes.database.on_script = stalls(aborted, refuses_to_renew(fakes, EXPIRED))
    with pytest.raises(ConfigurationError):
        fakes.runner(V2, lease_seconds=RENEWING).ensure(fakes.deadline())
    (reported,) = fakes.observer.events_of(RenewalFailed)
    assert (reported.error, reported.cause) == ("ConfigurationError", str(EXPIRED))
    assert reported.seconds_left > LEASE_SECONDS / 2


def test_a_lease_is_free_for_others_after_its_renewals_failed(
    fakes: Fakes, aborted: threading.Event
) -> None:
    fakes.database.on_script = stalls(aborted, refuses_to_renew(fakes, EXPIRED))
    with pytest.raises(ConfigurationError):
        fakes.runner(V2, lease_seconds=RENEWING).ensure(fakes.deadline())
    assert fakes.table.state.owner is None


def test_a_table_that_cannot_record_the_end_is_distinguished_from_a_migration_that_failed(
    fakes: Fakes,
) -> None:
    fakes.table.before["store_completion"] = raises(EXPIRED)
    with pytest.raises(
        ConfigurationError, match=r"the work on the database is done, but .* expired"
    ):
        fakes.runner(V2).ensure(fakes.deadline())
    assert fakes.database.effects == ["0001_m", "0002_m"]


def test_the_store_receives_the_deadline_for_credentials(fakes: Fakes) -> None:
    deadlines: list[float] = []

    class Table(type(fakes.table)):  # type: ignore[misc]  # a store that has to know
        @property
        def credentials_deadline(self) -> Deadline:
            return Deadline.after(0, fakes.clock)

        @credentials_deadline.setter
        def credentials_deadline(self, deadline: Deadline) -> None:
            deadlines.append(deadline.at)

    fakes.table = Table(clock=fakes.clock)
    end = fakes.deadline()
    fakes.runner(V2, safety_margin_seconds=2).ensure(end)
    assert deadlines == [end.at - 2, end.at - 2]


# --- observers


class Raising(RecordingObserver):
    """A metrics backend that is down."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def observe(self, event: Event) -> None:
        super().observe(event)
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("down: s3cr3t"), AssertionError()])
def test_an_observer_that_raises_does_not_affect_a_holder(
    fakes: Fakes, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    fakes.observer = Raising(error)

    def during(_version: int) -> None:
        renewed = threading.Event()
        for _ in range(2):
            renewed.clear()
            fakes.table.after["renew"] = renewed.set
            assert renewed.wait(TIMEOUT_SECONDS)

    fakes.database.on_script = during
    assert fakes.runner(V2, lease_seconds=RENEWING).ensure(fakes.deadline()).value == "MIGRATED"
    assert fakes.observer.events_of(LeaseHeldTime)
    (line,) = [record for record in caplog.records if "observer" in record.message]
    assert f"the observer Raising raised {type(error).__name__} at " in line.message
    assert "s3cr3t" not in caplog.text


def test_an_exit_in_the_heartbeats_thread_ends_no_heartbeat(fakes: Fakes) -> None:
    class Leaving(RecordingObserver):
        def observe(self, event: Event) -> None:
            super().observe(event)
            if threading.current_thread() is not threading.main_thread():
                raise SystemExit

    fakes.observer = Leaving()

    def during(_version: int) -> None:
        for _ in range(2):
            renewed = threading.Event()
            fakes.table.after["renew"] = renewed.set
            assert renewed.wait(TIMEOUT_SECONDS)

    fakes.database.on_script = during
    assert fakes.runner(V2, lease_seconds=RENEWING).ensure(fakes.deadline()).value == "MIGRATED"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_the_main_thread_passes_and_frees_the_lease(
    fakes: Fakes, error: type[BaseException]
) -> None:
    fakes.observer = Raising(error())
    with pytest.raises(error):
        fakes.runner(V2).ensure(fakes.deadline())
    assert fakes.table.state.owner is None


def session(fakes: Fakes, **policy: float) -> LeaseSession:
    lease = fakes.table.acquire(make_owner())
    assert isinstance(lease, Lease)
    return LeaseSession(fakes.target(**policy), lease, fakes.deadline())


def test_a_lease_lost_while_connecting_starts_nothing(fakes: Fakes) -> None:
    held = session(fakes)
    open_session = fakes.database.open_session

    def slowly(*arguments: object, **options: object) -> object:
        answer = open_session(*arguments, **options)  # type: ignore[arg-type]  # passed on as it came
        fakes.clock.advance(3600)
        fakes.held_by("successor")
        return answer

    fakes.database.open_session = slowly  # type: ignore[assignment,method-assign]  # a slow connection
    with pytest.raises(LeaseLost), held.open_database():
        pytest.fail("the block must not begin")


def test_a_lost_lease_is_not_taken_for_the_deadline(fakes: Fakes) -> None:
    held = session(fakes)
    with pytest.raises(LeaseLost, match="gone"), held.explain_abort("0001_m"):
        raise LeaseLost("gone")


def test_the_deadline_is_not_blamed_on_a_migration_while_none_runs(fakes: Fakes) -> None:
    held = session(fakes)
    held._heartbeat.is_timeout = True
    with pytest.raises(NotReady, match="while no migration"), held.explain_abort():
        raise LeaseLost("gone")


@pytest.mark.parametrize(
    "error", [LeaseLost("x"), LeaseStoreUnavailable("x"), ConfigurationError("x")]
)
def test_releasing_never_hides_the_error(fakes: Fakes, error: MigrateError) -> None:
    held = session(fakes)
    fakes.table.before["release"] = raises(error)
    held.release()
    again = ["release"] if isinstance(error, LeaseStoreUnavailable) else []
    assert fakes.table.log == ["acquire", "release", *again]


def test_owner_ids_are_unique_and_name_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    owners = {make_owner() for _ in range(1_000)}
    assert len(owners) == 1_000
    assert all(owner.startswith("orders/") for owner in owners)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "")
    assert make_owner().startswith("cli/")


def test_the_environment_guard_refuses_and_frees_the_lease(fakes: Fakes) -> None:
    fakes.environment = "production"
    fakes.migrated(manifest(1))
    fakes.environment = "staging"
    with pytest.raises(ConfigurationError, match="belongs to environment 'production'"):
        fakes.runner(V2).ensure(fakes.deadline())
    assert fakes.table.state.owner is None
    assert fakes.database.effects == ["0001_m"]
