"""A lease kept alive while its holder works, and what ends the work."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.engine.holder import LeaseSession
from lambda_migrate.engine.target import new_owner
from lambda_migrate.errors import (
    ConfigurationError,
    LeaseLost,
    LeaseStoreUnavailable,
    MigrateError,
    MigrationFailed,
)
from lambda_migrate.events import Event, LeaseHeldTime, MigrationAttemptFailed, RenewalFailed
from lambda_migrate.lease.record import Lease, Progress
from lambda_migrate.testing import InMemorySession, RecordingObserver
from tests.unit.engine.scene import LEASE_SECONDS, Scene, manifest, raises

V2 = manifest(1, 2)

BEATING = 0.03
"""A lease in real seconds that makes the heartbeat's thread renew every 10 ms; the table's own is
on the fake clock."""

PATIENCE = 20.0
"""Real seconds after which a thread that never came is a failure."""


@pytest.fixture
def aborted(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the heartbeat has aborted the running statement."""
    event = threading.Event()
    abort = InMemorySession.abort

    def told(self: InMemorySession) -> None:
        abort(self)
        event.set()

    monkeypatch.setattr(InMemorySession, "abort", told)
    return event


def stalls(aborted: threading.Event, first: Callable[[], object]) -> Callable[[int], None]:
    """A migration that goes on until it is aborted, deaf to PostgreSQL's own timeout."""

    def during(_version: int) -> None:
        first()
        assert aborted.wait(PATIENCE)
        raise LeaseLost("the connection was closed by an abort")

    return during


def test_a_lease_lost_in_the_middle_aborts_the_running_migration(
    scene: Scene, aborted: threading.Event
) -> None:
    scene.database.on_script = stalls(
        aborted, lambda: scene.change(owner="successor", fence=scene.table.state.fence + 1)
    )
    with pytest.raises(LeaseLost):
        scene.runner(V2, lease_seconds=BEATING).ensure(scene.deadline())
    assert scene.database.effects == []
    assert scene.table.state.owner == "successor"
    assert scene.table.state.failure is None
    assert not {"fail", "complete", "release"} & set(scene.table.log)
    assert scene.observer.events_of(MigrationAttemptFailed) == []


def test_a_migration_that_runs_past_the_deadline_is_aborted_and_a_failure(
    scene: Scene, aborted: threading.Event
) -> None:
    scene.database.on_script = stalls(aborted, lambda: scene.clock.advance(18.6))
    with pytest.raises(MigrationFailed, match=r"0001_m: it was still running when .* deadline"):
        scene.runner(V2, lease_seconds=BEATING, safety_margin_seconds=2).ensure(scene.deadline(20))
    assert scene.database.effects == []
    assert scene.table.state.owner is None
    failure = scene.table.state.failure
    assert failure is not None
    assert (failure.migration, failure.version) == ("0001_m", "1")
    assert [broke.migration for broke in scene.observer.events_of(MigrationAttemptFailed)] == [
        "0001_m"
    ]


@pytest.mark.parametrize("seconds", [19.7, 19.9], ids=["some time left", "none left"])
def test_an_unresponsive_table_does_not_delay_the_error_past_the_invocations_end(
    scene: Scene, aborted: threading.Event, seconds: float
) -> None:
    answered, written = threading.Event(), threading.Event()

    def silent() -> None:
        assert answered.wait(PATIENCE)
        written.set()

    scene.table.before["fail"] = silent
    scene.database.on_script = stalls(aborted, lambda: scene.clock.advance(seconds))
    with pytest.raises(MigrationFailed, match=r"0001_m: it was still running when .* deadline"):
        scene.runner(V2, lease_seconds=BEATING, safety_margin_seconds=2).ensure(scene.deadline(20))
    assert not written.is_set()
    answered.set()
    assert written.wait(PATIENCE)


def test_progress_is_published_with_the_renewals(scene: Scene) -> None:
    published: list[Progress] = []

    def during(_version: int) -> None:
        renewed = threading.Event()
        scene.table.after["renew"] = renewed.set
        assert renewed.wait(PATIENCE)
        assert scene.table.state.progress is not None
        published.append(scene.table.state.progress)

    scene.database.on_script = during
    scene.runner(V2, lease_seconds=BEATING).ensure(scene.deadline())
    now = scene.clock.wall_ms()
    assert published == [Progress("0001_m", 0, 2, now), Progress("0002_m", 1, 2, now)]
    assert scene.table.state.progress is None


def test_a_holder_reports_how_long_it_has_held_the_lease_while_a_migration_runs(
    scene: Scene,
) -> None:
    def during(_version: int) -> None:
        scene.clock.advance(7.0)
        beaten = threading.Event()
        told = scene.observer.observe

        def observe(event: Event) -> None:
            told(event)
            if isinstance(event, LeaseHeldTime) and event.held_seconds:
                beaten.set()

        scene.observer.observe = observe  # type: ignore[method-assign]  # tells us when
        assert beaten.wait(PATIENCE)

    scene.database.on_script = during
    scene.runner(manifest(1), lease_seconds=BEATING).ensure(scene.deadline())
    *going, end = scene.observer.events_of(LeaseHeldTime)
    assert {(each.fence, each.is_final) for each in going} == {(1, False)}
    assert going[-1].held_seconds == 7.0  # the first may come before the migration begins
    assert (end.held_seconds, end.is_final) == (7.0, True)


def test_a_holder_that_fails_reports_how_long_it_held_the_lease(scene: Scene) -> None:
    scene.database.fail(2, MigrationFailed("division by zero", migration="0002_m"))
    with pytest.raises(MigrationFailed):
        scene.runner(V2).ensure(scene.deadline())
    (end,) = scene.observer.events_of(LeaseHeldTime)
    assert end.is_final


def test_the_heartbeat_ends_with_the_work(scene: Scene) -> None:
    scene.runner(V2, lease_seconds=BEATING).ensure(scene.deadline())
    names = {thread.name for thread in threading.enumerate()}
    assert "lambda-migrate-heartbeat" not in names


# --- a lease that cannot be renewed, though no other process took it

EXPIRED = ConfigurationError("ExpiredTokenException: the security token is expired")
AWAY = LeaseStoreUnavailable("DynamoDB did not answer")


def refuses_to_renew(scene: Scene, error: MigrateError) -> Callable[[], None]:
    """From now on renewals fail, and in a moment the lease is over; everything else continues."""

    def renew(_lease: Lease, _progress: Progress | None = None) -> Lease:
        scene.table.log.append("renew")
        if len(scene.observer.events_of(RenewalFailed)) or error.retryable:
            scene.clock.advance(LEASE_SECONDS - 0.5)
        raise error

    def begin() -> None:
        scene.table.renew = renew  # type: ignore[assignment,method-assign]  # for the rest

    return begin


@pytest.mark.parametrize("error", [EXPIRED, AWAY])
def test_a_lease_that_could_not_be_renewed_ends_with_its_own_cause(
    scene: Scene, aborted: threading.Event, error: MigrateError
) -> None:
    scene.database.on_script = stalls(aborted, refuses_to_renew(scene, error))
    with pytest.raises(MigrateError) as caught:
        scene.runner(V2, lease_seconds=BEATING).ensure(scene.deadline())
    told = str(caught.value)
    assert told.startswith("0001_m was cancelled and its uncommitted work rolled back")
    assert "no other process held the lease" in told
    assert str(error) in told
    assert caught.value.retryable == error.retryable
    assert scene.database.effects == []
    assert scene.table.state.failure is None, "others may well migrate at once"


def test_a_permanently_refused_renewal_is_reported_once_while_the_migration_runs(
    scene: Scene, aborted: threading.Event
) -> None:
    scene.database.on_script = stalls(aborted, refuses_to_renew(scene, EXPIRED))
    with pytest.raises(ConfigurationError):
        scene.runner(V2, lease_seconds=BEATING).ensure(scene.deadline())
    (reported,) = scene.observer.events_of(RenewalFailed)
    assert (reported.error, reported.cause) == ("ConfigurationError", str(EXPIRED))
    assert reported.seconds_left > LEASE_SECONDS / 2


def test_a_lease_free_for_others_again_after_its_renewals_failed(
    scene: Scene, aborted: threading.Event
) -> None:
    scene.database.on_script = stalls(aborted, refuses_to_renew(scene, EXPIRED))
    with pytest.raises(ConfigurationError):
        scene.runner(V2, lease_seconds=BEATING).ensure(scene.deadline())
    assert scene.table.state.owner is None


def test_a_table_that_cannot_record_the_end_is_distinguished_from_a_migration_that_failed(
    scene: Scene,
) -> None:
    scene.table.before["complete"] = raises(EXPIRED)
    with pytest.raises(
        ConfigurationError, match=r"the work on the database is done, but .* expired"
    ):
        scene.runner(V2).ensure(scene.deadline())
    assert scene.database.effects == ["0001_m", "0002_m"]


def test_the_store_receives_the_deadline_for_credentials(scene: Scene) -> None:
    deadlines: list[float] = []

    class Table(type(scene.table)):  # type: ignore[misc]  # a store that has to know
        @property
        def credentials_deadline(self) -> Deadline:
            return Deadline.after(0, scene.clock)

        @credentials_deadline.setter
        def credentials_deadline(self, deadline: Deadline) -> None:
            deadlines.append(deadline.at)

    scene.table = Table(clock=scene.clock)
    end = scene.deadline()
    scene.runner(V2, safety_margin_seconds=2).ensure(end)
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
    scene: Scene, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    scene.observer = Raising(error)

    def during(_version: int) -> None:
        renewed = threading.Event()
        for _ in range(2):
            renewed.clear()
            scene.table.after["renew"] = renewed.set
            assert renewed.wait(PATIENCE)

    scene.database.on_script = during
    assert scene.runner(V2, lease_seconds=BEATING).ensure(scene.deadline()).value == "MIGRATED"
    assert scene.observer.events_of(LeaseHeldTime)
    (line,) = [record for record in caplog.records if "observer" in record.message]
    assert f"the observer Raising raised {type(error).__name__} at " in line.message
    assert "s3cr3t" not in caplog.text


def test_an_exit_in_the_heartbeats_thread_ends_no_heartbeat(scene: Scene) -> None:
    class Leaving(RecordingObserver):
        def observe(self, event: Event) -> None:
            super().observe(event)
            if threading.current_thread() is not threading.main_thread():
                raise SystemExit

    scene.observer = Leaving()

    def during(_version: int) -> None:
        for _ in range(2):
            renewed = threading.Event()
            scene.table.after["renew"] = renewed.set
            assert renewed.wait(PATIENCE)

    scene.database.on_script = during
    assert scene.runner(V2, lease_seconds=BEATING).ensure(scene.deadline()).value == "MIGRATED"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_the_main_thread_passes_and_frees_the_lease(
    scene: Scene, error: type[BaseException]
) -> None:
    scene.observer = Raising(error())
    with pytest.raises(error):
        scene.runner(V2).ensure(scene.deadline())
    assert scene.table.state.owner is None


def session(scene: Scene, **policy: float) -> LeaseSession:
    lease = scene.table.acquire(new_owner())
    assert isinstance(lease, Lease)
    return LeaseSession(scene.target(**policy), lease, scene.deadline())


def test_a_lease_lost_while_connecting_starts_nothing(scene: Scene) -> None:
    held = session(scene)
    take_over = scene.database.take_over

    def slowly(*arguments: object, **options: object) -> object:
        answer = take_over(*arguments, **options)  # type: ignore[arg-type]  # passed on as it came
        scene.clock.advance(3600)
        scene.held_by("successor")
        return answer

    scene.database.take_over = slowly  # type: ignore[assignment,method-assign]  # a slow connection
    with pytest.raises(LeaseLost), held.open_database():
        pytest.fail("the block must not begin")


def test_a_lost_lease_is_not_taken_for_the_deadline(scene: Scene) -> None:
    held = session(scene)
    with pytest.raises(LeaseLost, match="gone"), held.explain_abort("0001_m"):
        raise LeaseLost("gone")


@pytest.mark.parametrize(
    "error", [LeaseLost("x"), LeaseStoreUnavailable("x"), ConfigurationError("x")]
)
def test_releasing_never_hides_the_error(scene: Scene, error: MigrateError) -> None:
    held = session(scene)
    scene.table.before["release"] = raises(error)
    held.release()
    again = ["release"] if isinstance(error, LeaseStoreUnavailable) else []
    assert scene.table.log == ["acquire", "release", *again]


def test_owner_ids_are_unique_and_name_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    owners = {new_owner() for _ in range(1_000)}
    assert len(owners) == 1_000
    assert all(owner.startswith("orders/") for owner in owners)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "")
    assert new_owner().startswith("cli/")


def test_the_environment_guard_refuses_and_frees_the_lease(scene: Scene) -> None:
    scene.environment = "production"
    scene.migrated(manifest(1))
    scene.environment = "staging"
    with pytest.raises(ConfigurationError, match="belongs to environment 'production'"):
        scene.runner(V2).ensure(scene.deadline())
    assert scene.table.state.owner is None
    assert scene.database.effects == ["0001_m"]
