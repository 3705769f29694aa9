"""The local Lambda behind an HTTP server, for a Locust in another process.

In Locust's own process gevent would decide when what runs, which hides races. ``python -m
load.storm`` opens a host by itself; by hand, for Locust's distributed mode or its web page::

    python -m load.storm.host together -n 50        # prints the URL, serves until Ctrl-C
    python -m locust -f load/locustfile.py --storm together -n 50 --control http://127.0.0.1:PORT

=================  ===========================================  ==================================
``/cold``                                                       starts an environment, invokes it
``/invoke``        ``kind``, ``subject``, ``version``           an environment that is free
``/rollback``                                                   once the wave's gate is open
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
from lambda_migrate.local.demo.findings import is_served
from lambda_migrate.local.demo.stage import RollbackTimes, make_operator
from lambda_migrate.local.runtime.environment import InvocationResult
from lambda_migrate.local.runtime.function import Gate
from lambda_migrate.local.runtime.plain_http import HttpServer, Request, Response, json_response
from load.storm.packages import Package, package_of
from load.storm.scenarios import SCENARIOS, Wave, make
from load.storm.stage import StormStage, start_demo_servers

__all__ = ["Host", "Observed", "failure_of", "serve"]

_ROLLBACK_SECONDS = 900.0  # Lambda's longest timeout: so long may an admin function take


@dataclass(frozen=True, slots=True)
class Observed:
    """One invocation that Locust asked for.

    Attributes:
        kind: ``cold``, ``warm``, ``write``, ``read``.
        version: Of the code.
        wave: Which wave of cold starts; 0 for others than those.
        result: What became of it.
    """

    kind: str
    version: int
    wave: int
    result: InvocationResult

    @property
    def environment(self) -> str:
        """Its name among those of all versions."""
        return f"v{self.version} {self.result.environment_id}"


@dataclass(slots=True)
class _Muster:
    """A wave, and how many of it have come."""

    number: int
    wave: Wave
    gate: Gate
    came: int = 0


@dataclass(slots=True)
class Host:
    """Answers Locust's users. Every method but `prepare` belongs to the loop that it serves in.

    Attributes:
        stage: What the storm runs on.
        observed: Every invocation that was asked for, in the order of their answers.
        reversions: The down scripts of a rollback.
        rolled_back: How long it took; None if there was none, or it failed.
        troubles: What else went wrong.
    """

    stage: StormStage
    observed: list[Observed] = field(default_factory=list)
    reversions: RollbackTimes = field(default_factory=RollbackTimes)
    rolled_back: float | None = None
    troubles: list[str] = field(default_factory=list)
    _musters: list[_Muster] = field(default_factory=list)

    def __post_init__(self) -> None:
        scenario = self.stage.scenario
        for number, wave in enumerate(scenario.waves, 1):
            # An operator who rolls back comes through the same gate.
            guests = 1 if scenario.rollback and number == len(scenario.waves) else 0
            gate = Gate(wave.environments + guests if wave.together else 0)
            self._musters.append(_Muster(number, wave, gate))

    def prepare(self) -> None:
        """Before the storm: the version that is there already, and environments for its clients."""
        scenario, package = self.stage.scenario, self.stage.package
        if not scenario.ready:
            return
        first = self.stage.functions[scenario.ready].invoke(package.event("write", 0))
        if not is_served(first):
            self.troubles.append(f"before the storm: {first.error_message or first.payload}")
        if scenario.clients:
            warm = self.stage.functions[1].storm(scenario.clients, package.event("write", 0))
            self.troubles += [
                f"before the storm: {_why(one)}" for one in warm if not is_served(one)
            ]

    async def answer(self, request: Request) -> Response:
        """One of the requests above."""
        asked: dict[str, Any] = json.loads(request.body or b"{}")
        if request.path == "/cold":
            return await self._cold()
        if request.path == "/invoke":
            return await self._invoke(asked)
        if request.path == "/rollback":
            return await self._roll_back()
        if request.path == "/progress":
            return json_response({"answered": len(self.observed)})
        return json_response({"error": f"there is no {request.path}"}, status=404)

    async def _cold(self) -> Response:
        muster = next((one for one in self._musters if one.came < one.wave.environments), None)
        if muster is None:
            return json_response({"error": "every cold start of the storm has come"}, status=400)
        muster.came += 1
        if muster.came == 1 and muster.number > 1:
            await asyncio.to_thread(self._clear)
        function = self.stage.functions[muster.wave.version]
        gate = muster.gate if muster.wave.together else None
        event = self.stage.package.event("cold", muster.came)
        result = await asyncio.wrap_future(function.submit_cold(event, gate=gate))
        return self._observe(Observed("cold", muster.wave.version, muster.number, result))

    def _clear(self) -> None:
        """Lambda ends what nobody needs; here nobody does between two waves."""
        for function in self.stage.functions.values():
            function.end_idle()

    async def _invoke(self, asked: dict[str, Any]) -> Response:
        kind, version = str(asked["kind"]), int(asked.get("version", 1))
        event = self.stage.package.event(kind, int(asked.get("subject", 0)))
        result = await asyncio.wrap_future(self.stage.functions[version].submit(event))
        return self._observe(Observed(kind, version, 0, result))

    async def _roll_back(self) -> Response:
        await asyncio.wrap_future(self._musters[-1].gate.arrive())
        try:
            self.rolled_back = await asyncio.to_thread(self._take_back)
        except MigrateError as error:
            self.troubles.append(f"the rollback failed: {error}")
            return json_response({"error": str(error)}, status=500)
        return json_response({"seconds": self.rolled_back})

    def _take_back(self) -> float:
        stage = self.stage
        operator = make_operator(stage.codes[1], stage.variables(), stage.dynamodb, self.reversions)
        deadline = Deadline.after(_ROLLBACK_SECONDS)
        operator.down(deadline, to=operator.manifest.version)
        return _ROLLBACK_SECONDS - deadline.remaining()

    def _observe(self, observed: Observed) -> Response:
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


def _why(result: InvocationResult) -> str:
    return (result.error_message or json.dumps(result.payload)).partition("\n")[0]


@contextmanager
def serve(host: Host) -> Iterator[str]:
    """Answer Locust from a thread of its own; the URL."""
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
    """``python -m load.storm.host together -n 50``."""
    parser = argparse.ArgumentParser(prog="python -m load.storm.host", description=__doc__)
    parser.add_argument("storm", choices=SCENARIOS)
    parser.add_argument("-n", type=int, default=50, dest="environments")
    parser.add_argument("--engine", choices=("moto", "dynalite", "dynamodb-local"), default="moto")
    parser.add_argument("--processes", choices=("separate", "forked"), default="separate")
    asked = parser.parse_args(arguments)
    scenario = make(asked.storm, asked.environments, engine=asked.engine, processes=asked.processes)
    package: Package = package_of(scenario.kind)
    with (
        tempfile.TemporaryDirectory(prefix="lm-storm-") as home,
        start_demo_servers(scenario, package, Path(home)) as stage,
    ):
        host = Host(stage)
        host.prepare()
        with serve(host) as url, suppress(KeyboardInterrupt):
            print(url, flush=True)
            threading.Event().wait()
        print(f"{len(host.observed)} invocations answered")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
