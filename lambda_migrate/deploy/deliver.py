"""Delivers the response of a deployment hook in time, and once.

The work runs on its own thread, and the invocation's thread waits for it until a deadline. So a
socket, a statement or a C library that hangs cannot delay the response. Only the invocation's
thread responds, so there is one response, however the work ends later. Work that is still running
then is harmless, because lease and fence stop it like a holder that was frozen.

Two cases have no response: a process that is killed, and C code that never releases the
interpreter's lock, which stops every thread.

This module needs only the standard library, so that a failed import can be reported, too.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from lambda_migrate.clock import SYSTEM_CLOCK, Deadline
from lambda_migrate.randomness import system_random

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lambda_migrate.clock import Clock
    from lambda_migrate.randomness import Random

__all__ = [
    "DeliveryFailed",
    "InvocationDeadlines",
    "WorkTimeout",
    "deliver_response",
    "run_with_deadline",
]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_RESERVE_SECONDS = 10.0
"""Reserved at the end of an invocation for three attempts to deliver, each of which may hang."""

_ATTEMPT_SECONDS = 3.0
_FIRST_DELAY_SECONDS = 0.2
_MAX_DELAY_SECONDS = 2.0

_DELIVERY_SECONDS = 60.0
"""After this time delivery is left to the next invocation."""

_MAX_INVOCATION_SECONDS = 900.0


class WorkTimeout(Exception):
    """The work did not end before its deadline."""


class DeliveryFailed(Exception):
    """The response could not be delivered.

    The handler raises it, so that Lambda repeats the asynchronous invocation, twice and minutes
    later. The next invocation finds the schema as this one left it.
    """


@dataclass(frozen=True, slots=True)
class InvocationDeadlines:
    """The deadlines within one invocation.

    Attributes:
        work: When to stop waiting for the work.
        response: When to give up delivering the response.
    """

    work: Deadline
    response: Deadline

    @classmethod
    def from_context(cls, context: Any, clock: Clock = SYSTEM_CLOCK) -> InvocationDeadlines:
        """Divide the remaining time of an invocation; a short one reserves a quarter of it."""
        end = Deadline.from_context(context, clock)
        end = end or Deadline.after(_MAX_INVOCATION_SECONDS, clock)
        left = end.remaining()
        return cls(
            work=end.shortened_by(min(_RESERVE_SECONDS, left / 4)),
            response=end.shortened_by(min(0.5, left / 20)),
        )


def run_with_deadline(work: Callable[[], T], deadline: Deadline) -> T:
    """Return what ``work`` returns, or raise what it raises, before ``deadline``.

    Raises:
        WorkTimeout: It did not end in time; its thread keeps running.
    """
    future: Future[T] = Future()
    threading.Thread(
        target=_run_and_set_result, args=(future, work), name="hook", daemon=True
    ).start()
    wait([future], timeout=deadline.remaining())
    if not future.done():
        raise WorkTimeout
    return future.result()


def _run_and_set_result(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
        future.set_exception(error)


def deliver_response(
    send: Callable[[float], None], until: Deadline, *, random: Random | None = None
) -> None:
    """Send a response until it is accepted.

    Args:
        send: Sends the response within the given number of seconds; raises if it is not accepted.
        until: When to give up; at the latest a minute from now.
        random: Randomness of the pauses.

    Raises:
        DeliveryFailed: It was not accepted.
    """
    clock, random = until.clock, random or system_random()
    until = until.limited_to(_DELIVERY_SECONDS)
    for attempt in count():
        fault = _attempt(send, until.limited_to(_ATTEMPT_SECONDS))
        if not fault:
            return
        delay = min(_MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** min(attempt, 8))
        delay *= (1 + random.random()) / 2
        if clock.monotonic() + delay >= until.at:
            raise DeliveryFailed(
                f"the response was not accepted in {attempt + 1} attempts; the last error: {fault}"
            )
        _LOG.warning("the response was not accepted (%s); retrying", fault)
        clock.sleep(delay)


def _attempt(send: Callable[[float], None], deadline: Deadline) -> str:
    """Send once; return why it was not accepted, or ""."""
    try:
        run_with_deadline(lambda: send(deadline.remaining()), deadline)
    except WorkTimeout:
        return "no reply within the time for one attempt"
    except Exception as error:  # noqa: BLE001 - whatever it was, the response is still due
        return f"{type(error).__name__}: {error}"
    return ""
