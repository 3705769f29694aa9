"""``python -m load.profile.measured_process time|memory|run``: a cold start that measures itself.

What runs within a phase belongs to it, except for what belongs to a phase of its own: importing a
module, for instance, belongs to ``imports`` wherever it happens.
"""

from __future__ import annotations

import builtins
import functools
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import awslambdaric.bootstrap  # noqa: F401 - Lambda has imported it before the handler's module

from load.bench.processes import print_figures

_PHASE_BY_FUNCTION = {
    "ssl:create_default_context": "TLS",
    "ssl:SSLContext.wrap_socket": "TLS",
    "lambda_migrate.lease.first_read:FirstRead.__init__": "read",
    "lambda_migrate.lease.dynamodb:DynamoDBLeaseStore.read": "read",
    "lambda_migrate.lease.dynamodb:DynamoDBLeaseStore.acquire": "acquire",
    "lambda_migrate.lease.waiter:Waiter.wait": "wait",
    "lambda_migrate.postgresql.credentials:SecretCredentials.address": "secret",
    "lambda_migrate.postgresql.holder_connection:HolderConnection._open_session": "connect",
    "lambda_migrate.postgresql.fence:FencedConnection.connect_and_take_fence": "fence",
    "lambda_migrate.postgresql.session:PostgreSQLSession.read_history": "history",
    "lambda_migrate.postgresql.session:PostgreSQLSession.apply": "apply",
    "lambda_migrate.engine.holder:LeaseSession.store_completion": "complete",
}

PHASES = ("imports", *dict.fromkeys(_PHASE_BY_FUNCTION.values()), "rest")


class PhaseProfiler:
    """Adds what passes between two changes of phase to the phase that was left.

    With ``peaks`` the last counter that is read is a peak, of which each phase keeps the highest.
    """

    def __init__(self, read: Callable[[], tuple[float, ...]], *, peaks: bool) -> None:
        self._read = read
        self._peaks = peaks
        self._stack = ["rest"]
        self._last = read()
        self._start = self._last
        self._thread = threading.get_ident()
        self.totals = {phase: [0.0] * len(self._last) for phase in PHASES}

    def _end_interval(self) -> None:
        now = self._read()
        total = self.totals[self._stack[-1]]
        for number, (value, last) in enumerate(zip(now, self._last, strict=True)):
            if self._peaks and number == len(now) - 1:
                total[number] = max(total[number], value - self._start[0])
            else:
                total[number] += value - last
        self._last = now

    def call(self, phase: str, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call within a phase; other threads' work counts where the main one is meanwhile."""
        if threading.get_ident() != self._thread:
            return function(*args, **named)
        self._end_interval()
        self._stack.append(phase)
        try:
            return function(*args, **named)
        finally:
            self._end_interval()
            self._stack.pop()

    def finish(self) -> dict[str, list[float]]:
        """The counters of each phase."""
        self._end_interval()
        return self.totals


def _instrument(profiler: PhaseProfiler) -> None:
    """Measure imports, and each function of `_PHASE_BY_FUNCTION` once its module is imported."""
    original, waiting = builtins.__import__, dict(_PHASE_BY_FUNCTION)

    def measured_import(name: str, *args: Any, **named: Any) -> Any:
        is_loaded = name in sys.modules
        if is_loaded or threading.current_thread() is not threading.main_thread():
            return original(name, *args, **named)
        module = profiler.call("imports", original, name, *args, **named)
        for location in [each for each in waiting if each.partition(":")[0] in sys.modules]:
            if _wrap(location, profiler):
                del waiting[location]
        return module

    builtins.__import__ = measured_import


def _wrap(location: str, profiler: PhaseProfiler) -> bool:
    """Wrap one function; False while its module is still being imported."""
    module, _, path = location.partition(":")
    owner: Any = sys.modules[module]
    *classes, name = path.split(".")
    if getattr(getattr(owner, "__spec__", None), "_initializing", False):
        return False
    for each in classes:
        owner = getattr(owner, each)
    function, phase = getattr(owner, name), _PHASE_BY_FUNCTION[location]

    @functools.wraps(function)
    def wrapper(*args: Any, **named: Any) -> Any:
        return profiler.call(phase, function, *args, **named)

    setattr(owner, name, wrapper)
    return True


def _read_times() -> tuple[float, ...]:
    return time.process_time(), time.perf_counter()


def _read_memory() -> tuple[float, ...]:
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    return size, peak


def _invoke_handler() -> None:
    app: Any = __import__("app")  # as an import statement does, which is measured
    app.handler({}, app.Context())


def main(metric: str) -> None:
    """Start cold, and print the figures of each phase.

    ``time``: CPU and wall seconds; ``memory``: bytes that remain allocated, and the peak; ``run``:
    nothing, for a profiler from outside.
    """
    if metric == "run":
        _invoke_handler()
        return
    if metric == "memory":
        tracemalloc.start()
    read = _read_memory if metric == "memory" else _read_times
    profiler = PhaseProfiler(read, peaks=metric == "memory")
    _instrument(profiler)
    _invoke_handler()
    print_figures(profiler.finish())


if __name__ == "__main__":
    main(sys.argv[1])
