"""One version of the example, deployed: its storm, its warm invocations, its steady traffic."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK, Clock
from lambda_migrate.local.demo.deployment import get_order, place_order, read_order_id
from lambda_migrate.local.demo.evidence import (
    Check,
    Storm,
    connection_times_by_fence,
    read_check,
    rows_of,
)
from lambda_migrate.local.demo.findings import is_served
from lambda_migrate.local.demo.timeline import Row
from lambda_migrate.local.runtime.environment import EnvironmentView, InvocationResult
from lambda_migrate.local.runtime.function import LocalFunction

if TYPE_CHECKING:
    from types import TracebackType

    from lambda_migrate.local.demo.progress_table import Tally

__all__ = ["Fleet", "Traffic"]

_TIMEOUT_SECONDS = 120.0  # a hundred environments share a few cores: each is slow, none is stuck

_NICENESS = 19
"""PostgreSQL, DynamoDB and whoever counts connections are not on the functions' processors in AWS:
here they come first."""


class Fleet:
    """The environments of one version.

    Args:
        version: Of the example.
        code: Where it was deployed.
        variables: The function's environment variables.
        tally: Follows the environments.
        logs: Where they write.
        epoch: Seconds since the epoch when the monotonic clock stood at 0.
        clock: For what is noted here.
    """

    def __init__(
        self,
        version: int,
        code: Path,
        *,
        variables: Mapping[str, str],
        tally: Tally,
        logs: Path,
        epoch: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.version = version
        self.code = code
        self.checks: dict[str, Check] = {}
        self._tally = tally
        self._epoch = epoch
        self._clock = clock
        self._closed: float | None = None
        self.function = LocalFunction(
            code=code,
            name=f"orders-v{version}",
            environment=variables,
            timeout=_TIMEOUT_SECONDS,
            init_timeout=_TIMEOUT_SECONDS,
            log_directory=logs,
            observer=tally.note,
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

    def storm(self, environments: int) -> Storm:
        """Invoke so many new environments at the same instant: each places an order."""
        results = self.function.storm(environments, place_order(self.version))
        for result in results:
            log = self.function.logs(result.environment_id)
            check = read_check(result.environment_id, log, epoch=self._epoch)
            if check is not None:
                self.checks[result.environment_id] = check
            if not is_served(result):
                self._tally.put(result.environment_id, "failed")
        found = {result.environment_id for result in results} & set(self.checks)
        return Storm(self.version, results, {name: self.checks[name] for name in sorted(found)})

    def warm(self, storm: Storm) -> list[InvocationResult]:
        """Invoke every environment once more, at the same time: each reads the order it placed."""
        waiting = [
            self.function.submit(get_order(read_order_id(result)))
            for result in storm.results
            if is_served(result)
        ]
        return [one.result() for one in waiting]

    def shrink(self, to: int) -> None:
        """End all but the ``to`` that were ready first, as Lambda ends what nobody needs."""
        idle = [view for view in self.function.environments() if view.state == "idle"]
        ending = sorted(idle, key=self._since)[to:]
        self.function.end_idle(view.environment_id for view in ending)

    def _since(self, view: EnvironmentView) -> float:
        check = self.checks.get(view.environment_id)
        return float("inf") if check is None else check.ended

    def rows(self, sessions: Mapping[str, float], *, until: float) -> list[Row]:
        """The timeline's rows, in the order in which the environments could serve.

        Args:
            sessions: Application names of lambda-migrate's connections and when each was opened.
            until: Where the picture ends.
        """
        return rows_of(
            self.function.timeline(),
            self.checks,
            label=f"v{self.version}",
            connected=connection_times_by_fence(sessions, epoch=self._epoch),
            until=until if self._closed is None else min(until, self._closed),
        )


class Traffic:
    """Clients who place an order, read it, pause a little, and again, until told to stop.

    Args:
        fleet: Who serves them.
        clients: How many there are.
        pause: Seconds.
    """

    def __init__(self, fleet: Fleet, *, clients: int = 2, pause: float = 0.25) -> None:
        self._fleet = fleet
        self._pause = pause
        self._stop = threading.Event()
        self._results: list[InvocationResult] = []
        self._threads = [
            threading.Thread(target=self._shop, args=(number,), name="client", daemon=True)
            for number in range(clients)
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
            self._fleet.close()  # or else an invocation under way would be waited for
        for thread in self._threads:
            thread.join()

    @property
    def results(self) -> Sequence[InvocationResult]:
        """Of all invocations so far that have ended."""
        return list(self._results)

    def _shop(self, number: int) -> None:
        # Once the function is closed there is nobody to serve: RuntimeError, or cancelled.
        with suppress(CancelledError, RuntimeError):
            while not self._stop.is_set():
                placed = self._invoke(place_order(1000 + number))
                if is_served(placed):
                    self._invoke(get_order(read_order_id(placed)))
                self._stop.wait(self._pause)

    def _invoke(self, event: object) -> InvocationResult:
        result = self._fleet.function.invoke(event)
        self._results.append(result)
        return result
