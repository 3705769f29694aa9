"""Reading again, later and later, until there is something else to do than wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenacity import Retrying, retry_if_exception_type, retry_if_result

from lambda_migrate.errors import LeaseStoreUnavailable, NotReady
from lambda_migrate.lease.decide import Step, Wait
from lambda_migrate.lease.state import LeaseState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity import RetryCallState

    from lambda_migrate.deadline import Deadline
    from lambda_migrate.lease.backoff import Backoff

__all__ = ["Waiter", "describe"]


class Waiter:
    """Waits through reads of the state item.

    Throttling and an absent store are reasons to wait longer, not errors, until time is over.

    Args:
        look: Reads the item and decides.
        until: When to give up.
        backoff: How long to sleep between two reads.
        on_pause: Told the newest reading, the seconds waited and the delay, before each sleep.
        store_seconds: Give up early if the store has not answered for so long.
    """

    def __init__(
        self,
        look: Callable[[], Step],
        *,
        until: Deadline,
        backoff: Backoff,
        on_pause: Callable[[LeaseState, float, float], None],
        store_seconds: float | None = None,
    ) -> None:
        self._look = look
        self._until = until
        self._clock = until.clock
        self._backoff = backoff
        self._on_pause = on_pause
        self._store_seconds = store_seconds
        self._began = self._clock.monotonic()
        self._answered = self._began
        self._state = LeaseState()
        self._failures = 0

    def wait(self, state: LeaseState) -> Step:
        """Wait, beginning with ``state``, which was just read.

        Returns:
            The first step that is not to wait.

        Raises:
            NotReady: Time is over.
            LeaseStoreUnavailable: Time is over and the store was not there at the end.
        """
        looks = iter((lambda: Wait(state),))
        retrying = Retrying(
            retry=retry_if_result(lambda step: isinstance(step, Wait))
            | retry_if_exception_type(LeaseStoreUnavailable),
            wait=self._delay,
            stop=self._is_over,
            before_sleep=self._tell,
            sleep=self._clock.sleep,
            retry_error_callback=self._give_up,
        )
        step: Step = retrying(lambda: next(looks, self._look)())
        return step

    @property
    def _waited(self) -> float:
        return self._clock.monotonic() - self._began

    def _delay(self, call: RetryCallState) -> float:
        self._note(call)
        delay = self._backoff.delay(
            self._waited,
            state=self._state,
            now_ms=self._clock.wall_ms(),
            failures=self._failures,
        )
        return min(delay, self._until.remaining())

    def _note(self, call: RetryCallState) -> None:
        if call.outcome is None:
            return
        if call.outcome.failed:
            self._failures += 1
            return
        self._failures = 0
        self._state = call.outcome.result().state
        self._answered = self._clock.monotonic()

    def _is_over(self, call: RetryCallState) -> bool:
        if self._until.is_over:
            return True
        is_away = call.outcome is not None and call.outcome.failed
        silence = self._clock.monotonic() - self._answered
        return is_away and self._store_seconds is not None and silence >= self._store_seconds

    def _tell(self, call: RetryCallState) -> None:
        self._on_pause(self._state, self._waited, call.upcoming_sleep)

    def _give_up(self, call: RetryCallState) -> Step:
        self._note(call)
        if call.outcome is not None and call.outcome.failed:
            error = call.outcome.exception()
            assert isinstance(error, LeaseStoreUnavailable)  # noqa: S101 - nothing else is retried
            raise error
        raise NotReady(
            f"the schema is not ready after waiting {self._waited:.1f} s: {describe(self._state)}",
            retry_after_seconds=round(min(30.0, max(1.0, self._waited / 2))),
        )


def describe(state: LeaseState) -> str:
    """Who is at it and how far, in a few words."""
    if state.owner is None:
        return "nobody is migrating it"
    progress = state.progress
    if progress is None:
        return f"{state.owner} holds the lease"
    return (
        f"{state.owner} is at {progress.migration} "
        f"({progress.done} of {progress.total} migrations done)"
    )
