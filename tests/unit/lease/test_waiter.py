"""Waiting ends: with something to do, at the deadline, or with the store. No time passes."""

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
from lambda_migrate.lease.decision import Acquire, Refuse, Serve, Step, Wait
from lambda_migrate.lease.record import Failure, LeaseState, Progress
from lambda_migrate.lease.waiter import Waiter, describe_holder
from lambda_migrate.testing import FakeClock, FixedRandom

HELD = LeaseState(4, "holder", 1)
BUSY = LeaseState(4, "holder", 1, progress=Progress("0003_add_status", 2, 5, 1))
AWAY = LeaseStoreUnavailable("throttled")

Seen = Step | MigrateError


@dataclass
class Room:
    """A waiter with a list of what it sees, the last one for ever."""

    sights: list[Seen]
    seconds: float = 25.0
    store_timeout_seconds: float | None = None
    roll: float = 0.5
    looking_takes: float = 0.0
    looks: int = 0
    pauses: list[tuple[LeaseState, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.began = self.clock.monotonic()
        self.waiter = Waiter(
            self.look,
            deadline=Deadline.after(self.seconds, self.clock),
            backoff=Backoff(FixedRandom(self.roll)),
            on_wait=lambda *told: self.pauses.append(told),
            store_timeout_seconds=self.store_timeout_seconds,
        )

    def look(self) -> Step:
        self.looks += 1
        self.clock.advance(self.looking_takes)
        seen = self.sights.pop(0) if len(self.sights) > 1 else self.sights[0]
        if isinstance(seen, MigrateError):
            raise seen
        return seen

    @property
    def passed(self) -> float:
        return self.clock.monotonic() - self.began


# --- it ends with something to do


@pytest.mark.parametrize(
    "step",
    [Serve(), Acquire(HELD), Refuse(Failure("d", "", "", "", "no", 1, 1, 2))],
    ids=lambda step: type(step).__name__,
)
def test_the_first_step_that_is_not_to_wait_ends_it(step: Step) -> None:
    room = Room([Wait(HELD), Wait(HELD), step])
    assert room.waiter.wait(HELD) == step
    assert room.looks == 3


def test_it_sleeps_before_it_looks() -> None:
    room = Room([Serve()])
    room.waiter.wait(HELD)
    assert len(room.clock.slept) == room.looks == 1
    assert room.clock.slept[0] > 0


def test_each_pause_is_told_with_the_newest_reading() -> None:
    room = Room([Wait(BUSY), Serve()])
    room.waiter.wait(HELD)
    assert [state for state, _, _ in room.pauses] == [HELD, BUSY]
    assert [delay for _, _, delay in room.pauses] == room.clock.slept
    assert [waited for _, waited, _ in room.pauses] == [0.0, pytest.approx(room.clock.slept[0])]


# --- it is bounded


@pytest.mark.parametrize("seconds", [0.05, 1.0, 25.0, 900.0])
@pytest.mark.parametrize("roll", [0.1, 0.5, 0.999])
def test_it_ends_at_the_deadline_and_neither_before_nor_after(seconds: float, roll: float) -> None:
    room = Room([Wait(HELD)], seconds=seconds, roll=roll)
    with pytest.raises(NotReady):
        room.waiter.wait(HELD)
    assert room.passed == pytest.approx(seconds)
    assert max(room.clock.slept) <= MAX_DELAY_SECONDS


def test_it_looks_a_last_time_when_the_time_is_over() -> None:
    room = Room([Wait(HELD), Serve()], seconds=INITIAL_DELAY_SECONDS)
    assert room.waiter.wait(HELD) == Serve()
    assert room.passed == pytest.approx(INITIAL_DELAY_SECONDS)


def test_it_does_not_look_once_the_time_is_over() -> None:
    room = Room([Serve()], seconds=0.0)
    with pytest.raises(NotReady, match="holder holds the lease"):
        room.waiter.wait(HELD)
    assert (room.looks, room.clock.slept) == (0, [])


def test_slow_reads_count_as_waiting() -> None:
    room = Room([Wait(HELD)], seconds=10.0, looking_takes=3.0)
    with pytest.raises(NotReady):
        room.waiter.wait(HELD)
    assert room.passed <= 10.0 + 3.0


def test_not_ready_names_the_holder_its_progress_and_the_time() -> None:
    room = Room([Wait(BUSY)], seconds=12.0)
    with pytest.raises(NotReady) as caught:
        room.waiter.wait(HELD)
    told = str(caught.value)
    assert "after waiting 12.0 s" in told
    assert "holder is applying 0003_add_status (2 of 5 migrations done)" in told
    assert caught.value.retryable


@pytest.mark.parametrize(("seconds", "retry_after"), [(0.5, 1), (2, 1), (20, 10), (900, 30)])
def test_the_next_try_is_advised_after_half_of_what_was_waited(
    seconds: float, retry_after: float
) -> None:
    room = Room([Wait(HELD)], seconds=seconds)
    with pytest.raises(NotReady) as caught:
        room.waiter.wait(HELD)
    assert caught.value.retry_after_seconds == retry_after


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (LeaseState(), "no process is migrating it"),
        (HELD, "holder holds the lease"),
        (BUSY, "holder is applying 0003_add_status (2 of 5 migrations done)"),
    ],
)
def test_a_state_is_described_in_a_few_words(state: LeaseState, told: str) -> None:
    assert describe_holder(state) == told


# --- the store is away


def test_throttling_is_a_reason_to_wait_longer_and_no_error() -> None:
    room = Room([AWAY, AWAY, AWAY, Serve()])
    assert room.waiter.wait(HELD) == Serve()
    assert room.clock.slept == sorted(room.clock.slept)
    assert len(room.clock.slept) == 4


def test_a_store_that_is_away_when_time_is_over_is_told() -> None:
    room = Room([Wait(HELD), AWAY], seconds=10.0)
    with pytest.raises(LeaseStoreUnavailable, match="throttled"):
        room.waiter.wait(HELD)
    assert room.passed == pytest.approx(10.0)


def test_a_store_that_came_back_before_the_end_is_not_told() -> None:
    room = Room([AWAY, AWAY, Wait(BUSY)], seconds=10.0)
    with pytest.raises(NotReady, match="0003_add_status") as caught:
        room.waiter.wait(HELD)
    assert not isinstance(caught.value, LeaseStoreUnavailable)


def test_the_last_reading_is_kept_while_the_store_is_away() -> None:
    room = Room([Wait(BUSY), AWAY, AWAY, Serve()])
    room.waiter.wait(HELD)
    assert [state for state, _, _ in room.pauses] == [HELD, BUSY, BUSY, BUSY]


@pytest.mark.parametrize("fault", [ConfigurationError("no such table"), NotReady("for a reason")])
def test_any_other_error_ends_it_at_once(fault: MigrateError) -> None:
    room = Room([Wait(HELD), fault])
    with pytest.raises(type(fault), match=str(fault)):
        room.waiter.wait(HELD)
    assert room.looks == 2


def test_a_store_that_is_silent_for_too_long_is_given_up_early() -> None:
    room = Room([AWAY], seconds=25.0, store_timeout_seconds=2.0)
    with pytest.raises(LeaseStoreUnavailable):
        room.waiter.wait(HELD)
    assert 2.0 <= room.passed < 2.0 + MAX_DELAY_SECONDS


def test_an_answer_in_between_starts_the_silence_anew() -> None:
    now_and_then: list[Seen] = [AWAY, AWAY, Wait(HELD)] * 15
    room = Room([*now_and_then, Serve()], seconds=900.0, store_timeout_seconds=30.0)
    assert room.waiter.wait(HELD) == Serve()
    assert room.passed > 2 * 30.0


def test_a_store_that_answers_is_never_given_up_early() -> None:
    room = Room([Wait(HELD)], seconds=25.0, store_timeout_seconds=0.0)
    with pytest.raises(NotReady) as caught:
        room.waiter.wait(HELD)
    assert not isinstance(caught.value, LeaseStoreUnavailable)
    assert room.passed == pytest.approx(25.0)
