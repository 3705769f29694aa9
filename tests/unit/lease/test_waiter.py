"""Waiting ends with a step, at the deadline, or when the store fails. No real time passes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.errors import (
    ConfigurationError,
    LeaseStoreUnavailable,
    MigrateError,
    NotReady,
)
from lambda_migrate.lease.backoff import INITIAL_DELAY_SECONDS, MAX_DELAY_SECONDS, Backoff
from lambda_migrate.lease.decision import Acquire, Decision, Refuse, Serve, Wait
from lambda_migrate.lease.progress import Failure, Progress
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.lease.waiter import Waiter, describe_holder
from lambda_migrate.testing import FakeClock, FixedRandom

HELD = LeaseState(4, "holder", 1)
BUSY = LeaseState(4, "holder", 1, progress=Progress("0003_add_status", 2, 5, 1))
AWAY = LeaseStoreUnavailable("throttled")

Result = Decision | MigrateError


@dataclass
class WaiterSetup:
    """A waiter with a list of the results of its reads; the last one is repeated."""

    results: list[Result]
    seconds: float = 25.0
    store_timeout_seconds: float | None = None
    roll: float = 0.5
    read_seconds: float = 0.0
    reads: int = 0
    pauses: list[tuple[LeaseState, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.began = self.clock.monotonic()
        self.waiter = Waiter(
            self.next_step,
            deadline=Deadline.after(self.seconds, self.clock),
            backoff=Backoff(FixedRandom(self.roll)),
            on_wait=lambda *arguments: self.pauses.append(arguments),
            store_timeout_seconds=self.store_timeout_seconds,
        )

    def next_step(self) -> Decision:
        self.reads += 1
        self.clock.advance(self.read_seconds)
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, MigrateError):
            raise result
        return result

    @property
    def elapsed(self) -> float:
        return self.clock.monotonic() - self.began


# --- it ends with a step


@pytest.mark.parametrize(
    "step",
    [Serve(), Acquire(HELD), Refuse(Failure("d", "", "", "", "no", 1, 1, 2))],
    ids=lambda step: type(step).__name__,
)
def test_the_first_step_that_is_not_wait_ends_the_wait(step: Decision) -> None:
    setup = WaiterSetup([Wait(HELD), Wait(HELD), step])
    assert setup.waiter.wait(HELD) == step
    assert setup.reads == 3


def test_it_sleeps_before_it_reads() -> None:
    setup = WaiterSetup([Serve()])
    setup.waiter.wait(HELD)
    assert len(setup.clock.slept) == setup.reads == 1
    assert setup.clock.slept[0] > 0


def test_on_wait_gets_the_newest_state_before_each_sleep() -> None:
    setup = WaiterSetup([Wait(BUSY), Serve()])
    setup.waiter.wait(HELD)
    assert [state for state, _, _ in setup.pauses] == [HELD, BUSY]
    assert [delay for _, _, delay in setup.pauses] == setup.clock.slept
    assert [waited for _, waited, _ in setup.pauses] == [0.0, pytest.approx(setup.clock.slept[0])]


# --- it is bounded


@pytest.mark.parametrize("seconds", [0.05, 1.0, 25.0, 900.0])
@pytest.mark.parametrize("roll", [0.1, 0.5, 0.999])
def test_it_ends_at_the_deadline_and_neither_before_nor_after(seconds: float, roll: float) -> None:
    setup = WaiterSetup([Wait(HELD)], seconds=seconds, roll=roll)
    with pytest.raises(NotReady):
        setup.waiter.wait(HELD)
    assert setup.elapsed == pytest.approx(seconds)
    assert max(setup.clock.slept) <= MAX_DELAY_SECONDS


def test_it_reads_once_more_at_the_deadline() -> None:
    setup = WaiterSetup([Wait(HELD), Serve()], seconds=INITIAL_DELAY_SECONDS)
    assert setup.waiter.wait(HELD) == Serve()
    assert setup.elapsed == pytest.approx(INITIAL_DELAY_SECONDS)


def test_it_does_not_read_after_the_deadline() -> None:
    setup = WaiterSetup([Serve()], seconds=0.0)
    with pytest.raises(NotReady, match="holder holds the lease"):
        setup.waiter.wait(HELD)
    assert (setup.reads, setup.clock.slept) == (0, [])


def test_slow_reads_count_as_waiting() -> None:
    setup = WaiterSetup([Wait(HELD)], seconds=10.0, read_seconds=3.0)
    with pytest.raises(NotReady):
        setup.waiter.wait(HELD)
    assert setup.elapsed <= 10.0 + 3.0


def test_not_ready_names_the_holder_its_progress_and_the_time() -> None:
    setup = WaiterSetup([Wait(BUSY)], seconds=12.0)
    with pytest.raises(NotReady) as caught:
        setup.waiter.wait(HELD)
    message = str(caught.value)
    assert "waited 12.0 s: " in message
    assert "holder is applying 0003_add_status (2 of 5 migrations done)" in message
    assert caught.value.retryable


@pytest.mark.parametrize(("seconds", "retry_after"), [(0.5, 1), (2, 1), (20, 10), (900, 30)])
def test_retry_after_is_half_of_the_time_waited(seconds: float, retry_after: float) -> None:
    setup = WaiterSetup([Wait(HELD)], seconds=seconds)
    with pytest.raises(NotReady) as caught:
        setup.waiter.wait(HELD)
    assert caught.value.retry_after_seconds == retry_after


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (LeaseState(), "no process holds the lease"),
        (HELD, "holder holds the lease"),
        (BUSY, "holder is applying 0003_add_status (2 of 5 migrations done)"),
    ],
)
def test_the_holder_and_its_progress_are_described(state: LeaseState, message: str) -> None:
    assert describe_holder(state) == message


# --- the store fails


def test_throttling_makes_it_wait_longer_and_raises_nothing() -> None:
    setup = WaiterSetup([AWAY, AWAY, AWAY, Serve()])
    assert setup.waiter.wait(HELD) == Serve()
    assert setup.clock.slept == sorted(setup.clock.slept)
    assert len(setup.clock.slept) == 4


def test_a_store_that_fails_at_the_deadline_is_the_error() -> None:
    setup = WaiterSetup([Wait(HELD), AWAY], seconds=10.0)
    with pytest.raises(LeaseStoreUnavailable, match="throttled"):
        setup.waiter.wait(HELD)
    assert setup.elapsed == pytest.approx(10.0)


def test_a_store_that_recovered_before_the_deadline_is_not_the_error() -> None:
    setup = WaiterSetup([AWAY, AWAY, Wait(BUSY)], seconds=10.0)
    with pytest.raises(NotReady, match="0003_add_status") as caught:
        setup.waiter.wait(HELD)
    assert not isinstance(caught.value, LeaseStoreUnavailable)


def test_the_last_state_is_kept_while_the_store_fails() -> None:
    setup = WaiterSetup([Wait(BUSY), AWAY, AWAY, Serve()])
    setup.waiter.wait(HELD)
    assert [state for state, _, _ in setup.pauses] == [HELD, BUSY, BUSY, BUSY]


@pytest.mark.parametrize("fault", [ConfigurationError("no such table"), NotReady("for a reason")])
def test_any_other_error_ends_the_wait_at_once(fault: MigrateError) -> None:
    setup = WaiterSetup([Wait(HELD), fault])
    with pytest.raises(type(fault), match=str(fault)):
        setup.waiter.wait(HELD)
    assert setup.reads == 2


def test_a_store_that_fails_for_too_long_is_given_up_early() -> None:
    setup = WaiterSetup([AWAY], seconds=25.0, store_timeout_seconds=2.0)
    with pytest.raises(LeaseStoreUnavailable):
        setup.waiter.wait(HELD)
    assert 2.0 <= setup.elapsed < 2.0 + MAX_DELAY_SECONDS


def test_a_response_in_between_restarts_the_store_timeout() -> None:
    now_and_then: list[Result] = [AWAY, AWAY, Wait(HELD)] * 15
    setup = WaiterSetup([*now_and_then, Serve()], seconds=900.0, store_timeout_seconds=30.0)
    assert setup.waiter.wait(HELD) == Serve()
    assert setup.elapsed > 2 * 30.0


def test_a_store_that_responds_is_never_given_up_early() -> None:
    setup = WaiterSetup([Wait(HELD)], seconds=25.0, store_timeout_seconds=0.0)
    with pytest.raises(NotReady) as caught:
        setup.waiter.wait(HELD)
    assert not isinstance(caught.value, LeaseStoreUnavailable)
    assert setup.elapsed == pytest.approx(25.0)
