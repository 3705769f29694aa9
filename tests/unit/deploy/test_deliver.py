"""A response is delivered in time and once, whatever the work does."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.deploy.deliver import (
    DeliveryFailed,
    InvocationDeadlines,
    WorkTimeout,
    deliver_response,
    run_with_deadline,
)
from lambda_migrate.testing import FakeClock, FixedRandom
from tests.unit.entrypoints.lines import Context


class FlakyReceiver:
    """Accepts a response after these failures."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.sent: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.sent.append(seconds)
        if self.failures:
            raise self.failures.pop(0)


# --- deadlines


@pytest.mark.parametrize(
    ("left", "work", "answer"),
    [(900.0, 890.0, 899.5), (40.0, 30.0, 39.5), (8.0, 6.0, 7.6), (0.0, 0.0, 0.0)],
)
def test_a_share_of_every_invocation_is_reserved_for_the_response(
    left: float, work: float, answer: float
) -> None:
    clock = FakeClock()
    deadlines = InvocationDeadlines.from_context(Context(left), clock)
    assert deadlines.work.remaining() == pytest.approx(work)
    assert deadlines.response.remaining() == pytest.approx(answer)


def test_a_context_without_a_deadline_gets_the_longest_one() -> None:
    assert InvocationDeadlines.from_context(
        object(), FakeClock()
    ).work.remaining() == pytest.approx(890)


# --- work with a deadline


def test_the_caller_gets_what_the_work_returns_or_raises() -> None:
    assert run_with_deadline(lambda: 7, Deadline.after(30)) == 7
    for error in (ValueError("x"), TimeoutError("its own"), SystemExit(1), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised:
            run_with_deadline(_make_raising(error), Deadline.after(30))
        assert raised.value is error


def test_work_that_hangs_is_left_alone_at_its_deadline() -> None:
    release = threading.Event()
    with pytest.raises(WorkTimeout):
        run_with_deadline(release.wait, Deadline.after(0.05))
    release.set()


def test_without_time_nothing_is_waited_for() -> None:
    release = threading.Event()
    with pytest.raises(WorkTimeout):
        run_with_deadline(release.wait, Deadline.after(0, FakeClock()))
    release.set()


# --- delivery


def _make_raising(error: BaseException) -> Any:
    def act(*_: Any) -> None:
        raise error

    return act


def test_an_accepted_response_is_not_sent_again() -> None:
    send = FlakyReceiver()
    deliver_response(send, Deadline.after(30, FakeClock()))
    assert len(send.sent) == 1


def test_a_response_is_sent_until_it_is_accepted_with_growing_pauses() -> None:
    clock, send = FakeClock(), FlakyReceiver(*[OSError("refused")] * 6)
    deliver_response(send, Deadline.after(30, clock), random=FixedRandom(0.0))
    assert len(send.sent) == 7
    assert clock.slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_an_attempt_takes_at_most_three_seconds_and_the_remaining_time() -> None:
    clock, send = FakeClock(), FlakyReceiver(*[OSError("refused")] * 100)
    with pytest.raises(DeliveryFailed):
        deliver_response(send, Deadline.after(5, clock), random=FixedRandom(0.5))
    assert send.sent[0] == pytest.approx(3)
    assert all(seconds <= 3 for seconds in send.sent)
    assert send.sent[-1] < 3


def test_delivery_is_given_up_before_the_deadline_and_after_a_minute() -> None:
    for left, most in ((4.0, 4.0), (900.0, 60.0)):
        clock = FakeClock()
        began = clock.monotonic()
        send = FlakyReceiver(*[OSError("refused")] * 1000)
        with pytest.raises(DeliveryFailed, match="OSError: refused"):
            deliver_response(send, Deadline.after(left, clock))
        assert most - 2 <= clock.monotonic() - began <= most


def test_an_attempt_that_hangs_is_followed_by_another() -> None:
    release = threading.Event()
    sent: list[int] = []

    def send(seconds: float) -> None:
        sent.append(1)
        if len(sent) == 1:
            release.wait()

    class Impatient(FakeClock):
        """A clock on which an attempt times out at once."""

        def monotonic(self) -> float:
            self.advance(1.5)
            return super().monotonic()

    deliver_response(send, Deadline.after(30, Impatient()), random=FixedRandom(0.0))
    release.set()
    assert len(sent) == 2


def test_any_error_of_an_attempt_is_retried() -> None:
    send = FlakyReceiver(ValueError("a"), MemoryError(), ImportError("no boto3"))
    deliver_response(send, Deadline.after(30, FakeClock()))
    assert len(send.sent) == 4


# --- imports


@pytest.mark.parametrize("module", ["custom_resource", "codedeploy"])
def test_a_handler_imports_no_third_party_package(module: str) -> None:
    """A handler that cannot be imported cannot respond."""
    program = f"import sys, lambda_migrate.deploy.{module}; print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    loaded = {name.partition(".")[0] for name in printed.split()}
    assert not loaded & {"boto3", "botocore", "pg8000", "aws_lambda_powertools", "tenacity"}
    assert "lambda_migrate.wiring" not in printed.split()
