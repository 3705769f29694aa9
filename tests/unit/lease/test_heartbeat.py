"""A lease is renewed during a block, and its loss aborts the block. No real time passes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.errors import ConfigurationError, LeaseLost, LeaseStoreUnavailable, MigrateError
from lambda_migrate.lease.heartbeat import RENEWALS_PER_LEASE, Heartbeat
from lambda_migrate.lease.progress import Progress
from lambda_migrate.lease.store import Lease
from lambda_migrate.testing import FakeClock, InMemoryLeaseStore

LEASE_SECONDS = 21.0
THIRD = LEASE_SECONDS / RENEWALS_PER_LEASE
PROGRESS = Progress("0001_a", 0, 1, 1_700_000_000_000)
TEST_TIMEOUT_SECONDS = 20.0
"""Real seconds until a test that hangs is given up."""


class CountingTable(InMemoryLeaseStore):
    """A table that can be unavailable, and that counts renewals."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(lease_seconds=LEASE_SECONDS, clock=clock)
        self.fault: Exception | None = None
        self.renewals = 0

    def renew(self, lease: Lease, progress: Progress | None = None) -> Lease:
        self.renewals += 1
        if self.fault is not None:
            raise self.fault
        return super().renew(lease, progress)


def do_nothing() -> None:
    """An event without an effect."""


@dataclass
class HeartbeatSetup:
    """A heartbeat with one event in each of its pauses; it is done when no event is left."""

    events: list[Callable[[], object]] = field(default_factory=list)
    deadline_seconds: float = 900.0
    pauses: list[float] = field(default_factory=list)
    aborts: int = 0

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.table = CountingTable(self.clock)
        lease = self.table.acquire("me")
        assert isinstance(lease, Lease)
        self.first_lease = lease
        self.is_done = threading.Event()
        self.heartbeat = Heartbeat(
            self.table,
            lease,
            lease_seconds=LEASE_SECONDS,
            deadline=Deadline.after(self.deadline_seconds, self.clock),
            clock=self.clock,
            wait=self.wait,
        )

    def wait(self, stopped: threading.Event, seconds: float) -> bool:
        self.pauses.append(seconds)
        if not self.events:
            self.is_done.set()
            return stopped.wait(TEST_TIMEOUT_SECONDS)
        event = self.events.pop(0)
        self.clock.advance(seconds)
        event()
        return stopped.is_set()

    def on_abort(self) -> None:
        self.aborts += 1
        self.is_done.set()

    @contextmanager
    def running(self) -> Iterator[Heartbeat]:
        """The running heartbeat, after all ``events`` have happened."""
        self.heartbeat.on_abort = self.on_abort
        with self.heartbeat as heartbeat:
            assert self.is_done.wait(TEST_TIMEOUT_SECONDS)
            yield heartbeat

    def make_unavailable(self) -> None:
        self.table.fault = LeaseStoreUnavailable("no answer")

    def make_available(self) -> None:
        self.table.fault = None

    def take_over(self) -> None:
        """Let a successor whose clock is ahead acquire the lease."""
        self.clock.step_wall_clock(3600)
        assert isinstance(self.table.acquire("successor"), Lease)

    @property
    def now(self) -> float:
        return self.clock.monotonic()


def heartbeat_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "lambda-migrate-heartbeat"]


# --- start and end


def test_the_thread_runs_only_inside_the_block() -> None:
    setup = HeartbeatSetup()
    assert heartbeat_threads() == []
    with setup.running():
        assert heartbeat_threads() == ["lambda-migrate-heartbeat"]
    assert heartbeat_threads() == []


def test_the_thread_ends_after_a_block_that_failed() -> None:
    setup = HeartbeatSetup()
    with pytest.raises(KeyError), setup.running():
        raise KeyError
    assert heartbeat_threads() == []
    assert setup.aborts == 0


def test_the_end_of_the_block_aborts_nothing() -> None:
    setup = HeartbeatSetup([do_nothing])
    with setup.running() as heartbeat:
        pass
    assert setup.aborts == 0
    assert not heartbeat.is_timeout
    heartbeat.check()


def test_stop_works_twice_and_before_the_start() -> None:
    setup = HeartbeatSetup()
    assert setup.heartbeat.stop() == setup.heartbeat.stop() == setup.first_lease


def test_stop_returns_the_lease_as_last_renewed() -> None:
    setup = HeartbeatSetup([do_nothing, do_nothing])
    with setup.running() as heartbeat:
        lease = heartbeat.stop()
    assert lease == heartbeat.lease
    assert lease.trusted_until == setup.first_lease.trusted_until + 2 * THIRD


def test_nothing_is_renewed_after_stop() -> None:
    setup = HeartbeatSetup()
    stops: list[threading.Event] = []

    def late(stopped: threading.Event, seconds: float) -> bool:
        """The pause ends by itself just when the heartbeat is stopped."""
        if not stops:
            stops.append(stopped)
            stopped.set()
            return False
        return True

    heartbeat = Heartbeat(
        setup.table,
        setup.first_lease,
        lease_seconds=LEASE_SECONDS,
        deadline=Deadline.after(900, setup.clock),
        clock=setup.clock,
        wait=late,
    )
    with heartbeat:
        pass
    assert setup.table.renewals == 0


# --- renewing


def test_it_renews_at_a_third_of_the_lease() -> None:
    setup = HeartbeatSetup([do_nothing] * 5)
    with setup.running():
        assert setup.table.renewals == 5
    assert setup.pauses == [pytest.approx(THIRD)] * 6
    assert (
        setup.table.state.lease_until_ms
        == setup.first_lease.state.lease_until_ms + 5 * THIRD * 1000
    )


def test_it_publishes_progress_with_the_next_renewal() -> None:
    setup = HeartbeatSetup()
    setup.events += [do_nothing, lambda: setattr(setup.heartbeat, "progress", PROGRESS)]
    with setup.running():
        assert setup.table.state.progress == PROGRESS


def test_a_lease_changed_by_a_write_is_the_one_that_is_renewed() -> None:
    setup = HeartbeatSetup()
    setup.events += [
        do_nothing,
        lambda: setup.heartbeat.run_write(lambda lease: setup.table.advance_fence(lease, 40)),
        do_nothing,
    ]
    with setup.running() as heartbeat:
        assert heartbeat.lease.fence == 40
        heartbeat.check()
    assert setup.table.renewals == 3
    assert setup.aborts == 0


def test_a_write_that_fails_keeps_the_lease() -> None:
    setup = HeartbeatSetup()

    def refuse(lease: Lease) -> Lease:
        raise LeaseStoreUnavailable("no answer")

    with pytest.raises(LeaseStoreUnavailable):
        setup.heartbeat.run_write(refuse)
    assert setup.heartbeat.lease == setup.first_lease


# --- losing the lease


def test_a_lost_lease_aborts_once_and_ends_the_thread() -> None:
    setup = HeartbeatSetup()
    setup.events += [do_nothing, setup.take_over, do_nothing, do_nothing]
    with setup.running() as heartbeat:
        heartbeat.stop()
        with pytest.raises(LeaseLost):
            heartbeat.check()
        with pytest.raises(LeaseLost):
            heartbeat.check()
    assert setup.aborts == 1
    assert setup.table.renewals == 2
    assert not heartbeat.is_timeout


def test_an_outage_that_ends_while_the_lease_is_trusted_is_survived() -> None:
    setup = HeartbeatSetup()
    setup.events += [
        setup.make_unavailable,
        do_nothing,
        do_nothing,
        setup.make_available,
        do_nothing,
    ]
    with setup.running() as heartbeat:
        heartbeat.check()
        assert heartbeat.lease.trusted_until > setup.first_lease.trusted_until
    assert setup.aborts == 0
    assert setup.pauses[1:4] == [pytest.approx(THIRD / 5)] * 3
    assert setup.pauses[4:] == [pytest.approx(THIRD)] * 2


@pytest.mark.parametrize(
    ("fault", "kind", "cause"),
    [
        (LeaseStoreUnavailable("no answer"), LeaseLost, "no answer"),
        (ConfigurationError("the table vanished"), ConfigurationError, "the table vanished"),
        (KeyError("a secret"), LeaseLost, "KeyError"),
    ],
    ids=["unavailable", "vanished table", "another error of the store"],
)
def test_a_store_that_fails_until_trust_ends_loses_the_lease_and_names_the_cause(
    fault: Exception, kind: type[MigrateError], cause: str
) -> None:
    setup = HeartbeatSetup([do_nothing] * 100)
    setup.table.fault = fault
    message = f"no other process held the lease, but .* could not be renewed under .*: {cause}$"
    with setup.running() as heartbeat, pytest.raises(kind, match=message):
        heartbeat.check()
    assert setup.aborts == 1
    assert setup.now == pytest.approx(setup.first_lease.trusted_until)


def test_the_thread_does_not_sleep_past_the_end_of_trust() -> None:
    setup = HeartbeatSetup([do_nothing] * 100)
    setup.make_unavailable()
    with setup.running():
        pass
    assert sum(setup.pauses) == pytest.approx(setup.first_lease.trusted_until - 1_000.0)


def test_a_loss_before_on_abort_is_set_is_found_by_check() -> None:
    setup = HeartbeatSetup()
    setup.events += [setup.take_over]
    with setup.heartbeat as heartbeat:
        heartbeat._thread.join(TEST_TIMEOUT_SECONDS)
        heartbeat.on_abort = setup.on_abort
        with pytest.raises(LeaseLost):
            heartbeat.check()
    assert setup.aborts == 0


# --- permanent errors


@dataclass
class PermanentErrors:
    """The errors passed to `Heartbeat.on_permanent_error`."""

    causes: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __call__(self, error: Exception, seconds: float) -> None:
        self.causes.append(str(error))
        self.seconds.append(seconds)


def test_a_permanent_error_is_reported_at_the_first_attempt_and_once_for_each_cause() -> None:
    setup, errors = HeartbeatSetup(), PermanentErrors()

    def refuse(cause: str) -> Callable[[], None]:
        return lambda: setattr(setup.table, "fault", ConfigurationError(cause))

    setup.events += [refuse("expired"), do_nothing, do_nothing, refuse("denied"), do_nothing]
    setup.heartbeat.on_permanent_error = errors
    with setup.running():
        assert errors.causes == ["expired", "denied"]
        assert errors.seconds[0] == pytest.approx(LEASE_SECONDS - 1 - THIRD)


def test_an_unavailable_store_is_not_a_permanent_error() -> None:
    setup, errors = HeartbeatSetup(), PermanentErrors()
    setup.events += [setup.make_unavailable, do_nothing, do_nothing]
    setup.heartbeat.on_permanent_error = errors
    with setup.running():
        assert errors.causes == []


def test_a_permanent_error_that_passes_before_the_lease_ends_aborts_nothing() -> None:
    setup = HeartbeatSetup()
    setup.events += [
        lambda: setattr(setup.table, "fault", ConfigurationError("expired")),
        do_nothing,
        setup.make_available,
        do_nothing,
    ]
    with setup.running() as heartbeat:
        heartbeat.check()
    assert (setup.aborts, heartbeat.lost_error) == (0, None)


def test_a_resumed_holder_whose_renewal_fails_reports_the_cause_and_not_another_holder() -> None:
    setup = HeartbeatSetup()
    setup.clock.advance(3600)
    setup.table.fault = ConfigurationError("expired")
    for _ in range(2):
        with pytest.raises(
            ConfigurationError, match=r"^the lease could not be renewed .*: expired"
        ):
            setup.heartbeat.check()
    assert setup.table.renewals == 1


# --- callbacks


@pytest.mark.slow
def test_renewals_continue_while_a_callback_hangs() -> None:
    setup, released, calls = HeartbeatSetup([do_nothing] * 4), threading.Event(), []

    def hang() -> None:
        calls.append(1)
        released.wait(TEST_TIMEOUT_SECONDS)

    setup.heartbeat.on_renewal_attempt = hang
    with setup.running():
        assert (setup.table.renewals, len(calls)) == (4, 1)
        released.set()


# --- the deadline


def test_the_deadline_aborts_and_is_not_a_loss() -> None:
    setup = HeartbeatSetup([do_nothing] * 100, deadline_seconds=30.0)
    with setup.running() as heartbeat:
        assert heartbeat.is_timeout
        heartbeat.check()
    assert setup.aborts == 1
    assert setup.now == pytest.approx(1_030.0, abs=0.02)


def test_a_deadline_that_has_passed_aborts_at_once() -> None:
    setup = HeartbeatSetup([do_nothing], deadline_seconds=-1.0)
    with setup.running() as heartbeat:
        assert heartbeat.is_timeout
    assert (setup.aborts, setup.table.renewals) == (1, 0)


def test_no_unneeded_renewal_starts_just_before_the_deadline() -> None:
    setup = HeartbeatSetup([do_nothing] * 3, deadline_seconds=2 * THIRD + 2.0)
    with setup.running() as heartbeat:
        assert heartbeat.is_timeout
    assert setup.table.renewals == 1
    assert setup.now == pytest.approx(1_000.0 + 2 * THIRD + 2.0, abs=0.02)


def test_a_lease_that_ends_before_the_deadline_is_renewed_until_then() -> None:
    setup = HeartbeatSetup([do_nothing] * 100, deadline_seconds=LEASE_SECONDS - 0.5)
    setup.make_unavailable()
    with setup.running() as heartbeat:
        assert heartbeat.lost_error is not None
    assert not heartbeat.is_timeout
    assert setup.now == pytest.approx(setup.first_lease.trusted_until)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, LeaseLost("a successor has it")])
def test_stop_waits_for_a_renewal_until_the_deadline_only_and_aborts_nothing(
    fault: Exception | None,
) -> None:
    setup, begun, answered, attempts = HeartbeatSetup(), threading.Event(), threading.Event(), []

    def wait_for_answer(lease: Lease, progress: Progress | None = None) -> Lease:
        begun.set()
        assert answered.wait(TEST_TIMEOUT_SECONDS)
        if fault is not None:
            raise fault
        return lease

    setup.table.renew = wait_for_answer  # type: ignore[method-assign]  # until the end of the test
    setup.events += [do_nothing]
    setup.heartbeat.on_abort, setup.heartbeat.on_renewal_attempt = (
        setup.on_abort,
        lambda: attempts.append(1),
    )
    with setup.heartbeat as heartbeat:
        assert begun.wait(TEST_TIMEOUT_SECONDS)
        setup.clock.advance(setup.deadline_seconds)
        assert heartbeat.stop() == setup.first_lease
    assert heartbeat_threads() == ["lambda-migrate-heartbeat"]
    answered.set()
    heartbeat._thread.join(TEST_TIMEOUT_SECONDS)
    assert (heartbeat_threads(), setup.aborts, attempts) == ([], 0, [])


# --- a holder that was frozen and resumed


def test_a_check_while_the_lease_is_trusted_makes_no_request() -> None:
    setup = HeartbeatSetup()
    before = setup.table.request_count
    setup.clock.advance(LEASE_SECONDS - 1.001)
    setup.heartbeat.check()
    assert setup.table.request_count == before


def test_a_resumed_holder_renews_its_lease_if_it_still_has_it() -> None:
    setup = HeartbeatSetup()
    setup.clock.advance(3600)
    setup.heartbeat.check()
    assert setup.table.renewals == 1
    assert setup.heartbeat.lease.trusted_until == setup.now + LEASE_SECONDS - 1
    setup.heartbeat.check()
    assert setup.table.renewals == 1


def test_a_resumed_holder_whose_lease_was_taken_over_stops() -> None:
    setup = HeartbeatSetup()
    setup.clock.advance(3600)
    assert isinstance(setup.table.acquire("successor"), Lease)
    with pytest.raises(LeaseLost):
        setup.heartbeat.check()
    assert setup.table.state.owner == "successor"


def test_a_resumed_holder_without_a_store_does_not_trust_its_lease() -> None:
    setup = HeartbeatSetup()
    setup.clock.advance(3600)
    setup.make_unavailable()
    with pytest.raises(LeaseStoreUnavailable):
        setup.heartbeat.check()


def test_a_resumed_thread_finds_the_loss_by_itself() -> None:
    setup = HeartbeatSetup(deadline_seconds=10_000)

    def freeze() -> None:
        setup.clock.advance(3600 - THIRD)
        assert isinstance(setup.table.acquire("successor"), Lease)

    setup.events.append(freeze)
    with setup.running() as heartbeat, pytest.raises(LeaseLost):
        heartbeat.check()
    assert setup.aborts == 1
