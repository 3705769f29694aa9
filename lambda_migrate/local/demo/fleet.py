"""The environments of one version of the example: cold starts, warm invocations, traffic."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK, Clock
from lambda_migrate.local.demo.checks import (
    ColdStartStorm,
    SchemaCheck,
    build_rows,
    connection_times_by_fence,
    read_check,
)
from lambda_migrate.local.demo.example import get_order, place_order, read_order_id
from lambda_migrate.local.demo.results import is_served
from lambda_migrate.local.demo.timeline import Row
from lambda_migrate.local.runtime.environment import EnvironmentView, InvocationResult
from lambda_migrate.local.runtime.function import LocalFunction

if TYPE_CHECKING:
    from types import TracebackType

    from lambda_migrate.local.demo.progress_table import StateCounter

__all__ = ["Fleet", "Traffic"]

_TIMEOUT_SECONDS = 120.0  # a hundred environments on a few cores are slow

_NICENESS = 19
"""In AWS the servers do not share processors with the functions; here they have priority."""

_CLIENTS = 2

_PAUSE_SECONDS = 0.25
"""Between two orders of a client."""


class Fleet:
    """The environments of one version.

    Args:
        version: The version of the example.
        code: Folder of the deployed code.
        variables: The function's environment variables.
        counter: Counts the environments by state.
        logs: Folder of their logs.
        clock_offset: Seconds since the epoch at monotonic time 0.
        clock: The clock of the timeline.
    """

    def __init__(
        self,
        version: int,
        code: Path,
        *,
        variables: Mapping[str, str],
        counter: StateCounter,
        logs: Path,
        clock_offset: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.version = version
        self.code = code
        self.checks: dict[str, SchemaCheck] = {}
        self._counter = counter
        self._clock_offset = clock_offset
        self._clock = clock
        self._closed: float | None = None
        self.function = LocalFunction(
            code=code,
            name=f"orders-v{version}",
            variables=variables,
            timeout=_TIMEOUT_SECONDS,
            init_timeout=_TIMEOUT_SECONDS,
            log_directory=logs,
            observer=counter.observe,
            niceness=_NICENESS,
        )

    def __enter__(self) -> Fleet:
        self.function.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every environment. Idempotent."""
        if self._closed is None:
            self._closed = self._clock.monotonic()
        self.function.close()

    def run_storm(self, environments: int) -> ColdStartStorm:
        """Invoke new environments at the same time; each places an order."""
        results = self.function.storm(environments, place_order(self.version))
        for result in results:
            log = self.function.logs(result.environment_id)
            check = read_check(result.environment_id, log, clock_offset=self._clock_offset)
            if check is not None:
                self.checks[result.environment_id] = check
            if not is_served(result):
                self._counter.set_state(result.environment_id, "failed")
        found = {result.environment_id for result in results} & set(self.checks)
        return ColdStartStorm(
            self.version, results, {name: self.checks[name] for name in sorted(found)}
        )

    def invoke_warm(self, storm: ColdStartStorm) -> list[InvocationResult]:
        """Invoke every environment again at the same time; each reads the order that it placed."""
        waiting = [
            self.function.submit(get_order(read_order_id(result)))
            for result in storm.results
            if is_served(result)
        ]
        return [one.result() for one in waiting]

    def shrink(self, to: int) -> None:
        """End all environments except the first ``to``, as Lambda ends idle ones."""
        idle = [view for view in self.function.environments() if view.state == "idle"]
        ending = sorted(idle, key=self._get_ready_time)[to:]
        self.function.end_idle(view.environment_id for view in ending)

    def _get_ready_time(self, view: EnvironmentView) -> float:
        check = self.checks.get(view.environment_id)
        return float("inf") if check is None else check.ended

    def rows(self, sessions: Mapping[str, float], *, until: float) -> list[Row]:
        """The rows of the timeline, in the order in which the environments were ready.

        Args:
            sessions: See `ConnectionSampler.sessions`.
            until: The end of the timeline.
        """
        return build_rows(
            self.function.timeline(),
            self.checks,
            label=f"v{self.version}",
            group=f"version {self.version}",
            connection_times=connection_times_by_fence(sessions, clock_offset=self._clock_offset),
            until=until if self._closed is None else min(until, self._closed),
        )


class Traffic:
    """Clients that place and read orders for the length of a ``with`` block.

    Args:
        fleet: The environments.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._stop = threading.Event()
        self._results: list[InvocationResult] = []
        self._threads = [
            threading.Thread(target=self._place_orders, args=(number,), name="client", daemon=True)
            for number in range(_CLIENTS)
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if error is not None:
            self._fleet.close()  # else the threads would wait for the running invocation
        for thread in self._threads:
            thread.join()

    @property
    def results(self) -> Sequence[InvocationResult]:
        """The results of all invocations so far."""
        return list(self._results)

    def _place_orders(self, number: int) -> None:
        # Once the function is closed an invocation fails with RuntimeError or is cancelled.
        with suppress(CancelledError, RuntimeError):
            while not self._stop.is_set():
                placed = self._invoke(place_order(1000 + number))
                if is_served(placed):
                    self._invoke(get_order(read_order_id(placed)))
                self._stop.wait(_PAUSE_SECONDS)

    def _invoke(self, event: object) -> InvocationResult:
        result = self._fleet.function.invoke(event)
        self._results.append(result)
        return result
