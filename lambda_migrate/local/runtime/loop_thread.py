"""An asyncio event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["LoopThread", "cancel_other_tasks"]

_T = TypeVar("_T")


class LoopThread:
    """Runs coroutines for other threads; when it is closed, those that still run are cancelled.

    Args:
        name: The thread's name.
        executor_threads: How many blocking calls run at the same time; asyncio's default if None.
    """

    def __init__(self, name: str, *, executor_threads: int | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        if executor_threads is not None:
            self.loop.set_default_executor(ThreadPoolExecutor(executor_threads))
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)

    def __enter__(self) -> LoopThread:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Cancel what still runs and end the thread."""
        try:
            self.run(cancel_other_tasks())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run in the loop and wait for the result."""
        return self.start(work).result()

    def start(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Run in the loop and return immediately."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)


async def cancel_other_tasks() -> None:
    """Cancel every other task of the running loop and wait for its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
