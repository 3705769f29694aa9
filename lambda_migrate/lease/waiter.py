"""Waits for the lease: reads the item at growing intervals until there is something else to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.errors import LeaseStoreUnavailable, NotReady
from lambda_migrate.lease.decision import Decision, Wait
from lambda_migrate.lease.record import LeaseState

if TYPE_CHECKING:
    from collections.abc import Callable

    from lambda_migrate.clock import Deadline
    from lambda_migrate.lease.backoff import Backoff

__all__ = ["Waiter", "describe_holder"]


class Waiter:
    """Waits by reading the state item.

    While the store throttles or does not answer it waits longer, and raises an error only when the
    time is over. The loop is our own because tenacity, which runs the other retries, takes 31 ms of
    CPU to import: with a hundred waiters on few processors that would delay the first request.

    Args:
        read_and_decide: Reads the item and decides.
        deadline: When to give up.
        backoff: How long to sleep between two reads.
        on_wait: Called before each sleep with the newest state, the seconds waited and the delay.
        now_ms: The wall clock that leases are compared with; the deadline's clock by default.
        store_timeout_seconds: Give up before the deadline if the store does not answer for so long.
    """

    def __init__(
        self,
        read_and_decide: Callable[[], Decision],
        *,
        deadline: Deadline,
        backoff: Backoff,
        on_wait: Callable[[LeaseState, float, float], None],
        now_ms: Callable[[], int] | None = None,
        store_timeout_seconds: float | None = None,
    ) -> None:
        self._read_and_decide = read_and_decide
        self._deadline = deadline
        self._clock = deadline.clock
        self._backoff = backoff
        self._on_wait = on_wait
        self._now_ms = now_ms or self._clock.wall_ms
        self._store_timeout_seconds = store_timeout_seconds
        self._started = self._clock.monotonic()
        self._last_answer = self._started
        self._state = LeaseState()
        self._error_count = 0

    @property
    def has_holder(self) -> bool:
        """Whether a process held the lease when it was last read."""
        return self._state.owner is not None

    def wait(self, state: LeaseState, *, error_count: int = 0) -> Decision:
        """Wait, starting from ``state``, which was just read.

        Args:
            state: The state; an empty one if the read failed.
            error_count: How many reads have failed before.

        Returns:
            The first step that is not to wait.

        Raises:
            NotReady: The deadline has passed.
            LeaseStoreUnavailable: The store did not respond at the end.
        """
        self._record_store_response(state)
        self._error_count = error_count
        while isinstance(decision := self._sleep_and_read(), Wait):
            self._record_store_response(decision.state)
        return decision

    def _sleep_and_read(self) -> Decision:
        """Sleep and read, repeatedly until the store answers."""
        while True:
            self._sleep()
            try:
                return self._read_and_decide()
            except LeaseStoreUnavailable:
                self._error_count += 1
                if self._deadline.is_over or self._is_store_unavailable:
                    raise

    def _sleep(self) -> None:
        if self._deadline.is_over:
            raise NotReady(
                f"waited {self._waited_seconds:.1f} s: {describe_holder(self._state)}",
                retry_after_seconds=round(min(30.0, max(1.0, self._waited_seconds / 2))),
            )
        delay = self._backoff.delay(
            self._waited_seconds,
            state=self._state,
            now_ms=self._now_ms(),
            error_count=self._error_count,
        )
        delay = min(delay, self._deadline.remaining())
        self._on_wait(self._state, self._waited_seconds, delay)
        self._clock.sleep(delay)

    def _record_store_response(self, state: LeaseState) -> None:
        self._state = state
        self._error_count = 0
        self._last_answer = self._clock.monotonic()

    @property
    def _waited_seconds(self) -> float:
        return self._clock.monotonic() - self._started

    @property
    def _is_store_unavailable(self) -> bool:
        """Whether the store has not answered for as long as the caller allows."""
        seconds = self._clock.monotonic() - self._last_answer
        return self._store_timeout_seconds is not None and seconds >= self._store_timeout_seconds


def describe_holder(state: LeaseState) -> str:
    """The holder and its progress, for messages."""
    if state.owner is None:
        return "no process holds the lease"
    progress = state.progress
    if progress is None:
        return f"{state.owner} holds the lease"
    return (
        f"{state.owner} is applying {progress.migration} "
        f"({progress.done} of {progress.total} migrations done)"
    )
