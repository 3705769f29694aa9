"""The answer comes in time, and there is one, whatever the work does."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.deploy.deliver import Overdue, Schedule, Undelivered, deliver, in_time
from lambda_migrate.testing import FakeClock, FixedRandom
from tests.unit.entrypoints.lines import Context


class Answerer:
    """Takes the answer after so many failures."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.sent: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.sent.append(seconds)
        if self.failures:
            raise self.failures.pop(0)


# --- when what is over


@pytest.mark.parametrize(
    ("left", "work", "answer"),
    [(900.0, 890.0, 899.5), (40.0, 30.0, 39.5), (8.0, 6.0, 7.6), (0.0, 0.0, 0.0)],
)
def test_a_share_of_every_invocation_is_kept_for_answering(
    left: float, work: float, answer: float
) -> None:
    clock = FakeClock()
    schedule = Schedule.of(Context(left), clock)
    assert schedule.work.remaining() == pytest.approx(work)
    assert schedule.answer.remaining() == pytest.approx(answer)


def test_a_context_that_tells_no_deadline_gets_the_longest_one() -> None:
    assert Schedule.of(object(), FakeClock()).work.remaining() == pytest.approx(890)


# --- work in time


def test_what_the_work_returns_or_raises_is_what_its_caller_gets() -> None:
    assert in_time(lambda: 7, Deadline.after(30)) == 7
    for error in (ValueError("x"), TimeoutError("its own"), SystemExit(1), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised:
            in_time(_raising(error), Deadline.after(30))
        assert raised.value is error


def test_work_that_hangs_is_left_alone_at_its_deadline() -> None:
    let_go = threading.Event()
    with pytest.raises(Overdue):
        in_time(let_go.wait, Deadline.after(0.05))
    let_go.set()


def test_without_time_nothing_is_waited_for() -> None:
    let_go = threading.Event()
    with pytest.raises(Overdue):
        in_time(let_go.wait, Deadline.after(0, FakeClock()))
    let_go.set()


# --- delivering


def _raising(error: BaseException) -> Any:
    def act(*_: Any) -> None:
        raise error

    return act


def test_an_answer_that_was_taken_is_not_sent_again() -> None:
    send = Answerer()
    deliver(send, Deadline.after(30, FakeClock()))
    assert len(send.sent) == 1


def test_an_answer_is_sent_until_it_is_taken_with_growing_pauses() -> None:
    clock, send = FakeClock(), Answerer(*[OSError("refused")] * 6)
    deliver(send, Deadline.after(30, clock), random=FixedRandom(0.0))
    assert len(send.sent) == 7
    assert clock.slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_an_attempt_may_take_three_seconds_and_no_longer_than_there_is() -> None:
    clock, send = FakeClock(), Answerer(*[OSError("refused")] * 100)
    with pytest.raises(Undelivered):
        deliver(send, Deadline.after(5, clock), random=FixedRandom(0.5))
    assert send.sent[0] == pytest.approx(3)
    assert all(seconds <= 3 for seconds in send.sent)
    assert send.sent[-1] < 3


def test_delivering_is_given_up_before_the_end_and_after_a_minute_at_the_latest() -> None:
    for left, most in ((4.0, 4.0), (900.0, 60.0)):
        clock = FakeClock()
        began = clock.monotonic()
        send = Answerer(*[OSError("refused")] * 1000)
        with pytest.raises(Undelivered, match="OSError: refused"):
            deliver(send, Deadline.after(left, clock))
        assert most - 2 <= clock.monotonic() - began <= most


def test_an_attempt_that_hangs_is_followed_by_another() -> None:
    let_go = threading.Event()
    sent: list[int] = []

    def send(seconds: float) -> None:
        sent.append(1)
        if len(sent) == 1:
            let_go.wait()

    class Impatient(FakeClock):
        """Three seconds pass at once for whoever waits for an attempt."""

        def monotonic(self) -> float:
            self.advance(1.5)
            return super().monotonic()

    deliver(send, Deadline.after(30, Impatient()), random=FixedRandom(0.0))
    let_go.set()
    assert len(sent) == 2


def test_whatever_an_attempt_raises_the_answer_is_still_owed() -> None:
    send = Answerer(ValueError("a"), MemoryError(), ImportError("no boto3"))
    deliver(send, Deadline.after(30, FakeClock()))
    assert len(send.sent) == 4


# --- what answering needs


@pytest.mark.parametrize("module", ["custom_resource", "codedeploy"])
def test_a_handler_is_loaded_without_anything_that_could_be_missing(module: str) -> None:
    """A handler that cannot be loaded cannot answer."""
    program = f"import sys, lambda_migrate.deploy.{module}; print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    loaded = {name.partition(".")[0] for name in printed.split()}
    assert not loaded & {"boto3", "botocore", "pg8000", "aws_lambda_powertools", "tenacity"}
    assert "lambda_migrate.wiring" not in printed.split()
