"""`Observer`, which receives the events of a check; its errors stop nothing."""

from __future__ import annotations

from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lambda_migrate.check_events import Event

__all__ = ["Observer", "catch_observer_errors", "null_observer"]


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
