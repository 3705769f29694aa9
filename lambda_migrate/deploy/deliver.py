"""Answer in time, and once: what a hook of a deployment owes to whoever waits for it.

The work runs on a thread of its own, and the invocation's own thread waits for it no longer than it
may. So a socket, a statement or a library in C that hangs cannot keep the answer back. Only the
invocation's thread answers, so that there is one answer, whatever the work comes to later; what
still runs then is harmless, because the lease and the fence bind it as they bind a frozen holder.

What cannot be answered for: a process that is killed, and code in C that never lets go of the
interpreter's lock, which stops every thread.

Nothing here needs more than the standard library: answers are owed where imports fail, too.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from lambda_migrate.clock import SYSTEM_CLOCK, Deadline, system_random

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lambda_migrate.clock import Clock, Random

__all__ = ["Overdue", "Schedule", "Undelivered", "deliver", "in_time"]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_RESERVE_SECONDS = 10.0
"""Kept free at an invocation's end for answering: three attempts, each of which may hang."""

_ATTEMPT_SECONDS = 3.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 2.0

_DELIVERY_SECONDS = 60.0
"""An answer that could not be delivered for so long is left to another invocation."""

_LONGEST_INVOCATION_SECONDS = 900.0


class Overdue(Exception):
    """The work had not ended when its time was over."""


class Undelivered(Exception):
    """Nobody took the answer.

    Raised out of the handler on purpose: Lambda then repeats an asynchronous invocation, twice and
    minutes later, and the next one finds the schema as this one left it.
    """


@dataclass(frozen=True, slots=True)
class Schedule:
    """When what has to be over in an invocation.

    Attributes:
        work: From here on the work is not waited for any more.
        answer: From here on delivering is given up.
    """

    work: Deadline
    answer: Deadline

    @classmethod
    def of(cls, context: Any, clock: Clock = SYSTEM_CLOCK) -> Schedule:
        """Divide what is left of an invocation; a short one keeps a quarter for answering."""
        end = Deadline.from_context(context, clock)
        end = end or Deadline.after(_LONGEST_INVOCATION_SECONDS, clock)
        left = end.remaining()
        return cls(
            work=end.earlier(min(_RESERVE_SECONDS, left / 4)),
            answer=end.earlier(min(0.5, left / 20)),
        )


def in_time(work: Callable[[], T], deadline: Deadline) -> T:
    """What ``work`` returns, or raises, if it does so before ``deadline``.

    Raises:
        Overdue: It does not; its thread is left alone.
    """
    future: Future[T] = Future()
    threading.Thread(target=_fulfil, args=(future, work), name="hook", daemon=True).start()
    wait([future], timeout=deadline.remaining())
    if not future.done():
        raise Overdue
    return future.result()


def _fulfil(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for it
        future.set_exception(error)


def deliver(
    send: Callable[[float], None], until: Deadline, *, random: Random | None = None
) -> None:
    """Send an answer until it is taken.

    Args:
        send: Sends it, always the same one; told how many seconds it may take. It raises if the
            answer was not taken.
        until: When to give up; at the latest a minute from now.
        random: Chance, for the pauses.

    Raises:
        Undelivered: Nobody took it.
    """
    clock, random = until.clock, random or system_random()
    until = until.at_most(_DELIVERY_SECONDS)
    for attempt in count():
        fault = _try_to(send, until.at_most(_ATTEMPT_SECONDS))
        if not fault:
            return
        pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(attempt, 8))
        pause *= (1 + random.random()) / 2
        if clock.monotonic() + pause >= until.at:
            raise Undelivered(
                f"the answer was not taken, {attempt + 1} times, the last time because of {fault}"
            )
        _LOG.warning("the answer was not taken (%s); trying again", fault)
        clock.sleep(pause)


def _try_to(send: Callable[[float], None], deadline: Deadline) -> str:
    """Why it was not taken; "" if it was."""
    try:
        in_time(lambda: send(deadline.remaining()), deadline)
    except Overdue:
        return "no answer within the time for one attempt"
    except Exception as error:  # noqa: BLE001 - whatever it was, the answer is still owed
        return f"{type(error).__name__}: {error}"
    return ""
