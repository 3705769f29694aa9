"""The local Lambda behind an HTTP server, for a Locust in another process.

In Locust's own process gevent would schedule everything, which hides races. ``python -m
load.storm`` opens a host by itself; by hand, for Locust's distributed mode or its web page::

    python -m load.storm.host together -n 50        # prints the URL, serves until Ctrl-C
    python -m locust -f load/locustfile.py --storm together -n 50 --control http://127.0.0.1:PORT

=================  ===========================================  ==================================
``/cold``                                                       starts an environment, invokes it
``/invoke``        ``kind``, ``subject``, ``version``           an environment that is free
``/rollback``                                                   once the wave's barrier is open
``/progress``                                                   how many were answered
=================  ===========================================  ==================================
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lambda_migrate.clock import Deadline
from lambda_migrate.errors import MigrateError
from lambda_migrate.local.demo.results import is_served
from lambda_migrate.local.demo.servers import RollbackTimes, make_operations
from lambda_migrate.local.runtime.environment import InvocationResult
from lambda_migrate.local.runtime.function import StartBarrier
from lambda_migrate.local.runtime.plain_http import (
    HttpServer,
    LocalHTTPRequest,
    LocalHTTPResponse,
    json_response,
)
from load.storm.packages import package_of
from load.storm.scenarios import SCENARIOS, Wave, make
from load.storm.testbed import Testbed, open_testbed

__all__ = ["Host", "ObservedInvocation", "failure_of", "main", "serve"]

_ROLLBACK_SECONDS = 900.0  # Lambda's longest timeout, and so an admin function's


@dataclass(frozen=True, slots=True)
class ObservedInvocation:
    """One invocation that Locust asked for."""

    kind: str  # cold, warm, write, read
    version: int
    wave: int  # of cold starts; 0 for others
    result: InvocationResult

    @property
    def environment(self) -> str:
        """Its name among those of all versions."""
        return f"v{self.version} {self.result.environment_id}"


@dataclass(slots=True)
class _WaveState:
    number: int
    wave: Wave
    barrier: StartBarrier
    started: int = 0


@dataclass(slots=True)
class Host:
    """Answers Locust's users. Every method but `prepare` belongs to the loop that it serves in.

    Attributes:
        testbed: What the storm runs on.
        observed: Every invocation that was asked for, in the order of their answers.
        rollback_times: The down scripts of a rollback.
        rolled_back: How long it took; None if there was none, or it failed.
        troubles: What else went wrong.
    """

    testbed: Testbed
    observed: list[ObservedInvocation] = field(default_factory=list)
    rollback_times: RollbackTimes = field(default_factory=RollbackTimes)
    rolled_back: float | None = None
    troubles: list[str] = field(default_factory=list)
    _waves: list[_WaveState] = field(default_factory=list)

    def __post_init__(self) -> None:
        scenario = self.testbed.scenario
        for number, wave in enumerate(scenario.waves, 1):
            # An operator who rolls back waits at the same barrier.
            others = 1 if scenario.rollback and number == len(scenario.waves) else 0
            barrier = StartBarrier(wave.environments + others if wave.together else 0)
            self._waves.append(_WaveState(number, wave, barrier))

    def prepare(self) -> None:
        """Migrate to the version that is there before the storm, and start its environments."""
        testbed = self.testbed
        scenario, event = testbed.scenario, testbed.package.event
        if not scenario.ready:
            return
        results = [testbed.functions[scenario.ready].invoke(event("write", 0))]
        if is_served(results[0]) and scenario.clients:
            results += testbed.functions[1].storm(scenario.clients, event("write", 0))
        for one in results:
            if not is_served(one):
                why = (one.error_message or json.dumps(one.payload)).partition("\n")[0]
                self.troubles.append(f"before the storm: {why}")

    async def answer(self, request: LocalHTTPRequest) -> LocalHTTPResponse:
        """Answer one of the requests above."""
        body: dict[str, Any] = json.loads(request.body or b"{}")
        if request.path == "/cold":
            return await self._start_cold()
        if request.path == "/invoke":
            return await self._invoke(body)
        if request.path == "/rollback":
            return await self._roll_back()
        if request.path == "/progress":
            return json_response({"answered": len(self.observed)})
        return json_response({"error": f"there is no {request.path}"}, status=404)

    async def _start_cold(self) -> LocalHTTPResponse:
        current = next((one for one in self._waves if one.started < one.wave.environments), None)
        if current is None:
            return json_response({"error": "all cold starts were made"}, status=400)
        current.started += 1
        if current.started == 1 and current.number > 1:
            await asyncio.to_thread(self._end_idle)
        version = current.wave.version
        event = self.testbed.package.event("cold", current.started)
        barrier = current.barrier if current.wave.together else None
        submitted = self.testbed.functions[version].submit_cold(event, barrier=barrier)
        result = await asyncio.wrap_future(submitted)
        return self._observe(ObservedInvocation("cold", version, current.number, result))

    def _end_idle(self) -> None:
        """Lambda ends idle environments; here all of them, between two waves."""
        for function in self.testbed.functions.values():
            function.end_idle()

    async def _invoke(self, body: dict[str, Any]) -> LocalHTTPResponse:
        kind, version = str(body["kind"]), int(body.get("version", 1))
        event = self.testbed.package.event(kind, int(body.get("subject", 0)))
        result = await asyncio.wrap_future(self.testbed.functions[version].submit(event))
        return self._observe(ObservedInvocation(kind, version, 0, result))

    async def _roll_back(self) -> LocalHTTPResponse:
        await asyncio.wrap_future(self._waves[-1].barrier.arrive())
        try:
            self.rolled_back = await asyncio.to_thread(self._run_down)
        except MigrateError as error:
            self.troubles.append(f"the rollback failed: {error}")
            return json_response({"error": str(error)}, status=500)
        return json_response({"seconds": self.rolled_back})

    def _run_down(self) -> float:
        bed = self.testbed
        operations = make_operations(
            bed.codes[1], bed.variables(), bed.dynamodb, self.rollback_times
        )
        deadline = Deadline.after(_ROLLBACK_SECONDS)
        operations.down(deadline, to=operations.manifest.version)
        return _ROLLBACK_SECONDS - deadline.remaining()

    def _observe(self, observed: ObservedInvocation) -> LocalHTTPResponse:
        self.observed.append(observed)
        facts = asdict(observed.result)
        return json_response(
            {
                **{key: facts[key] for key in ("payload", "init_seconds", "duration_seconds")},
                "environment": observed.environment,
                "version": observed.version,
                "failure": failure_of(observed.result),
            }
        )


def failure_of(result: InvocationResult) -> str:
    """The kind of a failure: ``timeout``, ``crashed``, ``throttled``, or the error; "" if none."""
    if is_served(result):
        return ""
    if result.status in ("timeout", "crashed", "throttled"):
        return result.status
    return result.error_type or f"HTTP {result.payload['statusCode']}"


@contextmanager
def serve(host: Host) -> Iterator[str]:
    """Answer Locust from a thread of its own; yields the URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="control", daemon=True)
    thread.start()
    server = HttpServer(host.answer)
    try:
        address = asyncio.run_coroutine_threadsafe(server.open(), loop).result()
        yield f"http://{address}"
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m load.storm.host together -n 50``."""
    parser = argparse.ArgumentParser(prog="python -m load.storm.host", description=__doc__)
    parser.add_argument("storm", choices=SCENARIOS)
    parser.add_argument("-n", type=int, default=50, dest="environments")
    parser.add_argument("--engine", choices=("moto", "dynalite", "dynamodb-local"), default="moto")
    parser.add_argument("--processes", choices=("separate", "forked"), default="separate")
    options = parser.parse_args(arguments)
    scenario = make(
        options.storm, options.environments, engine=options.engine, processes=options.processes
    )
    with (
        tempfile.TemporaryDirectory(prefix="lm-storm-") as home,
        open_testbed(scenario, package_of(scenario.kind), Path(home)) as testbed,
    ):
        host = Host(testbed)
        host.prepare()
        with serve(host) as url, suppress(KeyboardInterrupt):
            print(url, flush=True)
            threading.Event().wait()
        print(f"{len(host.observed)} invocations answered")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
