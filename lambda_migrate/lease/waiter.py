"""Reading again, later and later, until there is something else to do than wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.errors import LeaseStoreUnavailable, NotReady
from lambda_migrate.lease.decision import Step, Wait
from lambda_migrate.lease.record import LeaseState

if TYPE_CHECKING:
    from collections.abc import Callable

    from lambda_migrate.clock import Deadline
    from lambda_migrate.lease.backoff import Backoff

__all__ = ["Waiter", "describe"]


class Waiter:
    """Waits through reads of the state item.

    Throttling and an absent store are reasons to wait longer, not errors, until time is over. The
    loop is our own: tenacity, which the other retries are driven by, takes 31 ms of CPU to import,
    and with a hundred waiters on few processors that is in the way of the first request.

    Args:
        look: Reads the item and decides.
        until: When to give up.
        backoff: How long to sleep between two reads.
        on_wait: Told the newest reading, the seconds waited and the delay, before each sleep.
        now_ms: The wall clock that leases are judged by; the deadline's own by default.
        store_timeout_seconds: Give up early if the store has not answered for so long.
    """

    def __init__(
        self,
        look: Callable[[], Step],
        *,
        until: Deadline,
        backoff: Backoff,
        on_wait: Callable[[LeaseState, float, float], None],
        now_ms: Callable[[], int] | None = None,
        store_timeout_seconds: float | None = None,
    ) -> None:
        self._look = look
        self._until = until
        self._clock = until.clock
        self._backoff = backoff
        self._on_pause = on_wait
        self._now_ms = now_ms or self._clock.wall_ms
        self._store_seconds = store_timeout_seconds
        self._began = self._clock.monotonic()
        self._answered = self._began
        self._state = LeaseState()
        self._failures = 0

    def wait(self, state: LeaseState, *, failures: int = 0) -> Step:
        """Wait, beginning with ``state``, which was just read.

        Args:
            state: The reading.
            failures: How many readings had failed before; then ``state`` is none, but a blank.

        Returns:
            The first step that is not to wait.

        Raises:
            NotReady: Time is over.
            LeaseStoreUnavailable: Time is over and the store was not there at the end.
        """
        self._note(state)
        self._failures = failures
        while isinstance(step := self._look_later(), Wait):
            self._note(step.state)
        return step

    def _look_later(self) -> Step:
        """Sleep and look, again and again until there is an answer."""
        while True:
            self._pause()
            try:
                return self._look()
            except LeaseStoreUnavailable:
                self._failures += 1
                if self._until.is_over or self._is_silent:
                    raise

    def _pause(self) -> None:
        if self._until.is_over:
            raise NotReady(
                f"the schema is not ready after waiting {self._waited:.1f} s: "
                f"{describe(self._state)}",
                retry_after_seconds=round(min(30.0, max(1.0, self._waited / 2))),
            )
        delay = self._backoff.delay(
            self._waited,
            state=self._state,
            now_ms=self._now_ms(),
            failures=self._failures,
        )
        delay = min(delay, self._until.remaining())
        self._on_pause(self._state, self._waited, delay)
        self._clock.sleep(delay)

    def _note(self, state: LeaseState) -> None:
        self._state = state
        self._failures = 0
        self._answered = self._clock.monotonic()

    @property
    def _waited(self) -> float:
        return self._clock.monotonic() - self._began

    @property
    def _is_silent(self) -> bool:
        """Whether the store has been away for as long as it may be."""
        silence = self._clock.monotonic() - self._answered
        return self._store_seconds is not None and silence >= self._store_seconds


def describe(state: LeaseState) -> str:
    """The holder and its progress, in a few words."""
    if state.owner is None:
        return "no process is migrating it"
    progress = state.progress
    if progress is None:
        return f"{state.owner} holds the lease"
    return (
        f"{state.owner} is applying {progress.migration} "
        f"({progress.done} of {progress.total} migrations done)"
    )
