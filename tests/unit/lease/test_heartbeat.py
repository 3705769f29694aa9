"""A lease is kept alive for as long as a block, and its loss ends what runs. No time passes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.errors import ConfigurationError, LeaseLost, LeaseStoreUnavailable, MigrateError
from lambda_migrate.lease.heartbeat import RENEWALS_PER_LEASE, Heartbeat
from lambda_migrate.lease.record import Lease, Progress
from lambda_migrate.testing import FakeClock, InMemoryLeaseTable

LEASE_SECONDS = 21.0
THIRD = LEASE_SECONDS / RENEWALS_PER_LEASE
PROGRESS = Progress("0001_a", 0, 1, 1_700_000_000_000)
PATIENCE = 20.0
"""Real seconds until a test that hangs is given up."""


class Table(InMemoryLeaseTable):
    """One that can be away, and that counts renewals."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(lease_seconds=LEASE_SECONDS, clock=clock)
        self.fault: Exception | None = None
        self.renewals = 0

    def renew(self, lease: Lease, progress: Progress | None = None) -> Lease:
        self.renewals += 1
        if self.fault is not None:
            raise self.fault
        return super().renew(lease, progress)


def nothing() -> None:
    """A pause in which nothing happens."""


@dataclass
class Stage:
    """A heartbeat whose pauses are a list of what happens in them, and then end."""

    acts: list[Callable[[], object]] = field(default_factory=list)
    deadline_seconds: float = 900.0
    pauses: list[float] = field(default_factory=list)
    ends: int = 0

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.table = Table(self.clock)
        lease = self.table.acquire("me")
        assert isinstance(lease, Lease)
        self.first = lease
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
        if not self.acts:
            self.is_done.set()
            return stopped.wait(PATIENCE)
        act = self.acts.pop(0)
        self.clock.advance(seconds)
        act()
        return stopped.is_set()

    def on_abort(self) -> None:
        self.ends += 1
        self.is_done.set()

    @contextmanager
    def running(self) -> Iterator[Heartbeat]:
        """Inside the block, after everything in ``acts`` has happened."""
        self.heartbeat.on_abort = self.on_abort
        with self.heartbeat as heartbeat:
            assert self.is_done.wait(PATIENCE)
            yield heartbeat

    def go_away(self) -> None:
        self.table.fault = LeaseStoreUnavailable("no answer")

    def come_back(self) -> None:
        self.table.fault = None

    def be_taken_over(self) -> None:
        """A successor whose clock is ahead takes the lease."""
        self.clock.jump(3600)
        assert isinstance(self.table.acquire("successor"), Lease)

    @property
    def now(self) -> float:
        return self.clock.monotonic()


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "lambda-migrate-heartbeat"]


# --- its life


def test_it_lives_only_inside_the_block() -> None:
    stage = Stage()
    assert threads() == []
    with stage.running():
        assert threads() == ["lambda-migrate-heartbeat"]
    assert threads() == []


def test_it_is_gone_after_a_block_that_failed() -> None:
    stage = Stage()
    with pytest.raises(KeyError), stage.running():
        raise KeyError
    assert threads() == []
    assert stage.ends == 0


def test_a_block_that_ends_ends_nothing_else() -> None:
    stage = Stage([nothing])
    with stage.running() as heartbeat:
        pass
    assert stage.ends == 0
    assert not heartbeat.is_timeout
    heartbeat.check()


def test_it_can_be_stopped_twice_and_before_it_began() -> None:
    stage = Stage()
    assert stage.heartbeat.stop() == stage.heartbeat.stop() == stage.first


def test_stop_gives_the_lease_as_it_was_last_renewed() -> None:
    stage = Stage([nothing, nothing])
    with stage.running() as heartbeat:
        lease = heartbeat.stop()
    assert lease == heartbeat.lease
    assert lease.trusted_until == stage.first.trusted_until + 2 * THIRD


def test_nothing_is_renewed_once_it_was_stopped() -> None:
    stage = Stage()
    stops: list[threading.Event] = []

    def late(stopped: threading.Event, seconds: float) -> bool:
        """The pause ends by itself in the very moment of the stop."""
        if not stops:
            stops.append(stopped)
            stopped.set()
            return False
        return True

    heartbeat = Heartbeat(
        stage.table,
        stage.first,
        lease_seconds=LEASE_SECONDS,
        deadline=Deadline.after(900, stage.clock),
        clock=stage.clock,
        wait=late,
    )
    with heartbeat:
        pass
    assert stage.table.renewals == 0


# --- renewing


def test_it_renews_at_a_third_of_the_lease() -> None:
    stage = Stage([nothing] * 5)
    with stage.running():
        assert stage.table.renewals == 5
    assert stage.pauses == [pytest.approx(THIRD)] * 6
    assert stage.table.state.lease_until_ms == stage.first.state.lease_until_ms + 5 * THIRD * 1000


def test_it_publishes_progress_with_the_next_renewal() -> None:
    stage = Stage()
    stage.acts += [nothing, lambda: setattr(stage.heartbeat, "progress", PROGRESS)]
    with stage.running():
        assert stage.table.state.progress == PROGRESS


def test_a_changed_lease_is_the_one_that_is_renewed() -> None:
    stage = Stage()
    stage.acts += [
        nothing,
        lambda: stage.heartbeat.run_write(lambda lease: stage.table.raise_fence(lease, 40)),
        nothing,
    ]
    with stage.running() as heartbeat:
        assert heartbeat.lease.fence == 40
        heartbeat.check()
    assert stage.table.renewals == 3
    assert stage.ends == 0


def test_a_change_that_fails_changes_nothing() -> None:
    stage = Stage()

    def refuse(lease: Lease) -> Lease:
        raise LeaseStoreUnavailable("no answer")

    with pytest.raises(LeaseStoreUnavailable):
        stage.heartbeat.run_write(refuse)
    assert stage.heartbeat.lease == stage.first


# --- losing the lease


def test_a_lost_lease_ends_what_runs_once_and_ends_the_thread() -> None:
    stage = Stage()
    stage.acts += [nothing, stage.be_taken_over, nothing, nothing]
    with stage.running() as heartbeat:
        heartbeat.stop()
        with pytest.raises(LeaseLost):
            heartbeat.check()
        with pytest.raises(LeaseLost):
            heartbeat.check()
    assert stage.ends == 1
    assert stage.table.renewals == 2
    assert not heartbeat.is_timeout


def test_an_outage_shorter_than_trust_is_survived() -> None:
    stage = Stage()
    stage.acts += [stage.go_away, nothing, nothing, stage.come_back, nothing]
    with stage.running() as heartbeat:
        heartbeat.check()
        assert heartbeat.lease.trusted_until > stage.first.trusted_until
    assert stage.ends == 0
    assert stage.pauses[1:4] == [pytest.approx(THIRD / 5)] * 3
    assert stage.pauses[4:] == [pytest.approx(THIRD)] * 2


@pytest.mark.parametrize(
    ("fault", "kind", "cause"),
    [
        (LeaseStoreUnavailable("no answer"), LeaseLost, "no answer"),
        (ConfigurationError("the table vanished"), ConfigurationError, "the table vanished"),
        (KeyError("a secret"), LeaseLost, "KeyError"),
    ],
    ids=["unavailable", "vanished table", "a fault of the store's own"],
)
def test_a_store_that_stays_away_until_trust_ends_has_lost_the_lease_for_its_cause(
    fault: Exception, kind: type[MigrateError], cause: str
) -> None:
    stage = Stage([nothing] * 100)
    stage.table.fault = fault
    told = f"no other process held the lease, but .* could not be renewed under .*: {cause}$"
    with stage.running() as heartbeat, pytest.raises(kind, match=told):
        heartbeat.check()
    assert stage.ends == 1
    assert stage.now == pytest.approx(stage.first.trusted_until)


def test_the_end_of_trust_is_not_slept_over() -> None:
    stage = Stage([nothing] * 100)
    stage.go_away()
    with stage.running():
        pass
    assert sum(stage.pauses) == pytest.approx(stage.first.trusted_until - 1_000.0)


def test_a_loss_before_anybody_listens_is_found_by_the_check() -> None:
    stage = Stage()
    stage.acts += [stage.be_taken_over]
    with stage.heartbeat as heartbeat:
        heartbeat._thread.join(PATIENCE)
        heartbeat.on_abort = stage.on_abort
        with pytest.raises(LeaseLost):
            heartbeat.check()
    assert stage.ends == 0


# --- a renewal that is refused for a reason that will not pass


@dataclass
class Told:
    """What `Heartbeat.on_permanent_error` was given."""

    causes: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __call__(self, error: Exception, seconds: float) -> None:
        self.causes.append(str(error))
        self.seconds.append(seconds)


def test_a_refusal_is_reported_with_the_first_beat_and_once_for_each_cause() -> None:
    stage, told = Stage(), Told()

    def refuse(cause: str) -> Callable[[], None]:
        return lambda: setattr(stage.table, "fault", ConfigurationError(cause))

    stage.acts += [refuse("expired"), nothing, nothing, refuse("denied"), nothing]
    stage.heartbeat.on_permanent_error = told
    with stage.running():
        assert told.causes == ["expired", "denied"]
        assert told.seconds[0] == pytest.approx(LEASE_SECONDS - 1 - THIRD)


def test_silence_is_no_refusal() -> None:
    stage, told = Stage(), Told()
    stage.acts += [stage.go_away, nothing, nothing]
    stage.heartbeat.on_permanent_error = told
    with stage.running():
        assert told.causes == []


def test_a_refusal_that_passes_before_the_lease_is_over_ends_nothing() -> None:
    stage = Stage()
    stage.acts += [
        lambda: setattr(stage.table, "fault", ConfigurationError("expired")),
        nothing,
        stage.come_back,
        nothing,
    ]
    with stage.running() as heartbeat:
        heartbeat.check()
    assert (stage.ends, heartbeat.lost_error) == (0, None)


def test_a_thawed_holder_whose_renewal_is_refused_says_why_and_not_who_held_it_meanwhile() -> None:
    stage = Stage()
    stage.clock.advance(3600)
    stage.table.fault = ConfigurationError("expired")
    for _ in range(2):
        with pytest.raises(
            ConfigurationError, match=r"^the lease could not be renewed .*: expired"
        ):
            stage.heartbeat.check()
    assert stage.table.renewals == 1


# --- observers of beats


def test_renewing_goes_on_while_an_observer_of_the_last_beat_hangs() -> None:
    stage, released, calls = Stage([nothing] * 4), threading.Event(), []

    def hang() -> None:
        calls.append(1)
        released.wait(PATIENCE)

    stage.heartbeat.on_renewal_attempt = hang
    with stage.running():
        assert (stage.table.renewals, len(calls)) == (4, 1)
        released.set()


# --- the deadline


def test_the_deadline_ends_what_runs_and_is_not_a_loss() -> None:
    stage = Stage([nothing] * 100, deadline_seconds=30.0)
    with stage.running() as heartbeat:
        assert heartbeat.is_timeout
        heartbeat.check()
    assert stage.ends == 1
    assert stage.now == pytest.approx(1_030.0, abs=0.02)


def test_a_deadline_that_is_over_already_ends_it_at_once() -> None:
    stage = Stage([nothing], deadline_seconds=-1.0)
    with stage.running() as heartbeat:
        assert heartbeat.is_timeout
    assert (stage.ends, stage.table.renewals) == (1, 0)


def test_no_renewal_that_the_lease_does_not_need_begins_just_before_the_deadline() -> None:
    stage = Stage([nothing] * 3, deadline_seconds=2 * THIRD + 2.0)
    with stage.running() as heartbeat:
        assert heartbeat.is_timeout
    assert stage.table.renewals == 1
    assert stage.now == pytest.approx(1_000.0 + 2 * THIRD + 2.0, abs=0.02)


def test_a_lease_that_ends_before_the_deadline_is_renewed_until_then() -> None:
    stage = Stage([nothing] * 100, deadline_seconds=LEASE_SECONDS - 0.5)
    stage.go_away()
    with stage.running() as heartbeat:
        assert heartbeat.lost_error is not None
    assert not heartbeat.is_timeout
    assert stage.now == pytest.approx(stage.first.trusted_until)


@pytest.mark.parametrize("fault", [None, LeaseLost("a successor has it")])
def test_a_renewal_without_an_answer_is_not_waited_for_past_the_deadline_and_ends_nothing(
    fault: Exception | None,
) -> None:
    stage, begun, answered, beats = Stage(), threading.Event(), threading.Event(), []

    def silent(lease: Lease, progress: Progress | None = None) -> Lease:
        begun.set()
        assert answered.wait(PATIENCE)
        if fault is not None:
            raise fault
        return lease

    stage.table.renew = silent  # type: ignore[method-assign]  # for the rest
    stage.acts += [nothing]
    stage.heartbeat.on_abort, stage.heartbeat.on_renewal_attempt = (
        stage.on_abort,
        lambda: beats.append(1),
    )
    with stage.heartbeat as heartbeat:
        assert begun.wait(PATIENCE)
        stage.clock.advance(stage.deadline_seconds)
        assert heartbeat.stop() == stage.first
    assert threads() == ["lambda-migrate-heartbeat"]
    answered.set()
    heartbeat._thread.join(PATIENCE)
    assert (threads(), stage.ends, beats) == ([], 0, [])


# --- a holder that was stopped and thawed


def test_a_check_within_trust_asks_nobody() -> None:
    stage = Stage()
    before = stage.table.calls
    stage.clock.advance(LEASE_SECONDS - 1.001)
    stage.heartbeat.check()
    assert stage.table.calls == before


def test_a_thawed_holder_asks_whose_the_lease_is_and_goes_on_if_it_is_its_own() -> None:
    stage = Stage()
    stage.clock.advance(3600)
    stage.heartbeat.check()
    assert stage.table.renewals == 1
    assert stage.heartbeat.lease.trusted_until == stage.now + LEASE_SECONDS - 1
    stage.heartbeat.check()
    assert stage.table.renewals == 1


def test_a_thawed_holder_whose_lease_was_taken_over_stops() -> None:
    stage = Stage()
    stage.clock.advance(3600)
    assert isinstance(stage.table.acquire("successor"), Lease)
    with pytest.raises(LeaseLost):
        stage.heartbeat.check()
    assert stage.table.state.owner == "successor"


def test_a_thawed_holder_whose_store_is_away_trusts_nothing() -> None:
    stage = Stage()
    stage.clock.advance(3600)
    stage.go_away()
    with pytest.raises(LeaseStoreUnavailable):
        stage.heartbeat.check()


def test_a_thawed_thread_finds_the_loss_by_itself() -> None:
    stage = Stage(deadline_seconds=10_000)

    def freeze() -> None:
        stage.clock.advance(3600 - THIRD)
        assert isinstance(stage.table.acquire("successor"), Lease)

    stage.acts.append(freeze)
    with stage.running() as heartbeat, pytest.raises(LeaseLost):
        heartbeat.check()
    assert stage.ends == 1
