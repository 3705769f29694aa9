"""`BackgroundCheck`: a check in a thread, which any number of requests and event loops wait for."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from lambda_migrate.clock import Deadline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from lambda_migrate.errors import MigrationFailed, NotReady
    from lambda_migrate.guard import ColdStartGuard

__all__ = ["BackgroundCheck", "decorate_async"]

_MIN_EXTRA_SECONDS = 1.0
"""A request with that much more time than a check had makes another check after it."""


class _CheckFuture(Future["NotReady | MigrationFailed | None"]):
    """A check that runs, or its result.

    Args:
        deadline: The deadline of the request that started it.
    """

    def __init__(self, deadline: Deadline | None) -> None:
        super().__init__()
        self._deadline = deadline

    def had_less_time(self, deadline: Deadline | None) -> bool:
        """Whether it might have succeeded with the time that there is until ``deadline``."""
        from lambda_migrate.errors import NotReady

        if deadline is None or self._deadline is None or not isinstance(self.result(), NotReady):
            return False
        return self._deadline.at + _MIN_EXTRA_SECONDS < deadline.at


class BackgroundCheck:
    """Checks a guard in a thread of its own, one check at a time.

    The first request that finds the guard closed starts a check, which ends before that request's
    deadline. The requests that come meanwhile wait for the same check, each until its own deadline,
    and hold no thread of an event loop's pool. If it ended because its own request had less time,
    they start another one.

    Args:
        guard: What is opened.
    """

    def __init__(self, guard: ColdStartGuard) -> None:
        self.guard = guard
        self._lock = threading.Lock()
        self._check: _CheckFuture | None = None
        self._process_id = os.getpid()

    def _discard_inherited_check(self) -> None:
        """After a fork, forget the parent's check: its thread is not here."""
        if self._process_id != os.getpid():
            self._process_id = os.getpid()
            self._lock = threading.Lock()
            self._check = None

    def start(self, context: object) -> tuple[_CheckFuture, bool]:
        """Start a check unless one is running; return it, and whether it was started.

        Args:
            context: As for `ColdStartGuard.check`; of the request that starts the check.
        """
        self._discard_inherited_check()
        with self._lock:
            is_new = self._check is None or self._check.done()
            if is_new:
                self._check = _CheckFuture(Deadline.from_context(context))
                threading.Thread(
                    target=self._run,
                    args=(self._check, context),
                    name="lambda-migrate-check",
                    daemon=True,
                ).start()
            assert self._check is not None  # noqa: S101 - for mypy
            return self._check, is_new

    def _run(self, check: _CheckFuture, context: object) -> None:
        try:
            check.set_result(self.guard.check(context))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            check.set_exception(error)

    def wait(
        self, context: object, *, seconds: float | None = None
    ) -> NotReady | MigrationFailed | None:
        """Wait for the check; start one if none is running.

        Args:
            context: As for `ColdStartGuard.check`.
            seconds: How long to wait if the context has no deadline.

        Returns:
            Why the schema is not ready; None if it is.

        Raises:
            ConfigurationError: As `ColdStartGuard.check`.
        """
        deadline = Deadline.from_context(context)
        while True:
            check, is_own = self.start(context)
            wait([check], timeout=self._compute_max_wait(context, seconds, is_own=is_own))
            if not check.done():
                return _make_timeout_error()
            if is_own or not check.had_less_time(deadline):
                return check.result()

    async def wait_async(
        self, context: object, *, seconds: float | None = None
    ) -> NotReady | MigrationFailed | None:
        """As `wait`, without blocking the event loop."""
        _require_asyncio()
        deadline = Deadline.from_context(context)
        while True:
            check, is_own = self.start(context)
            waiting = asyncio.wrap_future(check)
            waiting.add_done_callback(lambda done: done.exception())  # asyncio logs unread ones
            limit = self._compute_max_wait(context, seconds, is_own=is_own)
            await asyncio.wait([waiting], timeout=limit)
            if not check.done():
                return _make_timeout_error()
            if is_own or not check.had_less_time(deadline):
                return check.result()

    def _compute_max_wait(
        self, context: object, seconds: float | None, *, is_own: bool
    ) -> float | None:
        """How long to wait.

        The request that started the check waits for its end: it ends before the request's deadline,
        and what it does last, releasing the lease and logging, must not be frozen with it.
        """
        deadline = Deadline.from_context(context)
        if deadline is None:
            return seconds
        return deadline.remaining() if is_own else self.guard.compute_max_wait(context)


def _require_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        from lambda_migrate.errors import ConfigurationError

        raise ConfigurationError(
            "the check needs asyncio's event loop, and this server runs another one: choose a "
            "worker for asyncio (Hypercorn: --worker-class asyncio)"
        ) from None


def _make_timeout_error() -> NotReady:
    from lambda_migrate.errors import NotReady

    return NotReady("the check of the schema is still running")


def decorate_async(
    function: Any,
    guard: ColdStartGuard,
    refuse: Callable[..., Any],
    *,
    find_context: Callable[[tuple[Any, ...], dict[str, Any]], Any],
    is_generator: bool,
) -> Any:
    """Return a coroutine function behind ``guard``; the check runs in a thread.

    Args:
        function: What is decorated.
        guard: What it is behind.
        refuse: Returns the response, or raises, from arguments and error.
        find_context: Returns the Lambda context among the arguments.
        is_generator: Whether ``function`` is an asynchronous generator function.
    """
    background = BackgroundCheck(guard)

    async def find_refusal(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
        error = await background.wait_async(find_context(args, kwargs))
        if error is None:
            return False, None
        response = refuse(args, kwargs, error)
        return True, (await response) if hasattr(response, "__await__") else response

    if is_generator:

        @functools.wraps(function)
        async def generate(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            if not guard.is_open:
                is_refused, response = await find_refusal(args, kwargs)
                if is_refused:
                    yield response
                    return
            items = function(*args, **kwargs)
            try:
                async for item in items:
                    yield item
            finally:
                await items.aclose()

        return generate

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        if not guard.is_open:
            is_refused, response = await find_refusal(args, kwargs)
            if is_refused:
                return response
        return await function(*args, **kwargs)

    return call
