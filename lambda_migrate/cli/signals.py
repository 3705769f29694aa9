"""Ctrl-C, SIGTERM and a closed terminal, as one exception that lets every ``finally`` run."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["Interrupted", "by_default", "interruptible"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Somebody wants us to stop.

    Not a `KeyboardInterrupt`, which the option parser would turn into an answer of its own.

    Attributes:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)

    @property
    def exit_code(self) -> int:
        """What a shell reports of a process that such a signal ended: 130 for Ctrl-C."""
        return 128 + self.signum


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the main thread for the first signal; the clean-up is left alone.

    What a caller has ignored (``nohup``, a shell's background job) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    raised = False

    def stop(signum: int, _frame: FrameType | None) -> None:
        nonlocal raised
        if not raised:  # a second Ctrl-C, or make's SIGTERM after it, would cut the clean-up short
            raised = True
            raise Interrupted(signum)

    before = {each: signal.getsignal(each) for each in _SIGNALS}
    for each, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def by_default() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` again, for a part that cleans up by itself."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
