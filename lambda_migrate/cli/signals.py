"""Ctrl-C, SIGTERM and a closed terminal as one exception, so that every ``finally`` runs."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["Interrupted", "raise_on_signals", "restore_keyboard_interrupt"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """The process received a signal to stop.

    Not a `KeyboardInterrupt`, which click would convert to an exit of its own.

    Attributes:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)

    @property
    def exit_code(self) -> int:
        """The exit code that a shell reports for this signal: 130 for Ctrl-C."""
        return 128 + self.signum


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Raise `Interrupted` in the main thread for the first signal; ignore those after it.

    Signals that were ignored before (``nohup``, a shell's background job) stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    has_raised = False

    def handle(signum: int, _frame: FrameType | None) -> None:
        nonlocal has_raised
        if not has_raised:  # a second signal would interrupt the clean-up
            has_raised = True
            raise Interrupted(signum)

    before = {each: signal.getsignal(each) for each in _SIGNALS}
    for each, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(each, handle)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def restore_keyboard_interrupt() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` again, for code that cleans up by itself."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
