"""The events of a cold start that does not migrate, and the observer that receives events.

Every cold start imports this module, so it defines no more than these, and they are no dataclasses:
to define one takes half a millisecond of CPU. `lambda_migrate.events` has all events.
"""

from __future__ import annotations

from threading import current_thread, main_thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object  # see `clock`

__all__ = [
    "CheckFinished",
    "Event",
    "Observer",
    "WaitingForLease",
    "catch_observer_errors",
    "null_observer",
]


class Event:
    """Something that happened. `lambda_migrate.events` lists what."""

    __slots__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        values = (f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({', '.join(values)})"


class CheckFinished(Event):
    """The schema is ready. Each check ends with one `CheckFinished` or one `CheckFailed`.

    Attributes:
        target: The database's item.
        digest: The manifest of the code that serves.
        outcome: ``UP_TO_DATE``, ``MIGRATED``, ``WAITED`` or ``UNCHECKED``.
        seconds: Duration of the check.
        waited_seconds: The part of it that was spent waiting for another instance.
        lease_calls: Requests to the lease table.
        applied: Names of the migrations that this instance applied.
        fence: The fencing token under which it migrated; 0 if it did not.
        owner: This instance's owner id in the lease table.
    """

    __slots__ = (
        "applied",
        "digest",
        "fence",
        "lease_calls",
        "outcome",
        "owner",
        "seconds",
        "target",
        "waited_seconds",
    )

    def __init__(
        self,
        target: str,
        digest: str,
        outcome: str,
        seconds: float,
        waited_seconds: float,
        lease_calls: int,
        applied: tuple[str, ...],
        fence: int,
        owner: str,
    ) -> None:
        self.target = target
        self.digest = digest
        self.outcome = outcome
        self.seconds = seconds
        self.waited_seconds = waited_seconds
        self.lease_calls = lease_calls
        self.applied = applied
        self.fence = fence
        self.owner = owner


class WaitingForLease(Event):
    """Another instance holds the lease; one event for each delay before the next read."""

    __slots__ = ("delay_seconds", "holder", "progress", "target", "waited_seconds")

    def __init__(
        self, target: str, holder: str, waited_seconds: float, delay_seconds: float, progress: str
    ) -> None:
        self.target = target
        self.holder = holder
        self.waited_seconds = waited_seconds
        self.delay_seconds = delay_seconds
        self.progress = progress


class Observer(Protocol):
    """Receives events: a telemetry backend, a progress bar, a test."""

    def observe(self, event: Event) -> None:
        """Handle ``event``. Should return immediately; exceptions are logged and ignored."""


class _NullObserver:
    def observe(self, event: Event) -> None:
        """Ignore it."""


null_observer: Observer = _NullObserver()


def catch_observer_errors(observer: Observer) -> Observer:
    """Wrap ``observer`` so that its exceptions are logged and ignored.

    Only the first exception is logged, without its message, which may contain secrets. In the main
    thread KeyboardInterrupt and SystemExit are raised: they concern the process.
    """
    return (
        observer
        if isinstance(observer, (_ErrorCatchingObserver, _NullObserver))
        else _ErrorCatchingObserver(observer)
    )


class _ErrorCatchingObserver:
    def __init__(self, inner: Observer) -> None:
        self.inner = inner
        self._has_failed = False

    def observe(self, event: Event) -> None:
        try:
            self.inner.observe(event)
        except Exception as error:  # noqa: BLE001 - any exception: see `catch_observer_errors`
            self._report(error)
        except BaseException as error:
            if current_thread() is main_thread():
                raise
            self._report(error)

    def _report(self, error: BaseException) -> None:
        if self._has_failed:
            return
        self._has_failed = True
        import logging

        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = (
            f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
            if trace is not None
            else ""
        )
        logging.getLogger("lambda_migrate").warning(
            "the observer %s raised %s%s; this and its further errors are ignored",
            type(self.inner).__name__,
            type(error).__name__,
            place,
        )
