"""Cold starts as Locust users.

``python -m load.storm`` runs this against the local Lambda, and checks the outcome. A stack that is
deployed::

    python -m locust -f load/locustfile.py --headless --storm together -n 100 --function orders

In the local Lambda every cold start is a new environment, and `together` means the same instant. Of
a stack Lambda alone decides: it starts an environment when all others are busy, so a storm is cold
right after a deployment, as far as its requests overlap. Lambda's own report of each invocation
says whether it was cold.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

from locust import LoadTestShape, User, events, task  # before boto3: it patches the sockets
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from load.storm.locust_client import Response, invoke

SPAWN_RATE = 100.0
"""Lambda starts 1,000 environments in 10 s for each function."""

CLIENT_PHASE_SECONDS = 3.0
"""How long only clients use the old version, before and after."""


class InvocationFailed(Exception):
    """An invocation that was not served; the message is the kind of failure."""


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # Locust's own
def _add_options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("cold-start storms")
    group.add_argument("--storm", choices=sorted(SHAPES), default="together", help="the shape")
    group.add_argument("-n", "--environments", type=int, default=10, help="cold starts")
    group.add_argument("--waves", type=int, default=3, help="of the shape `waves`")
    group.add_argument("--clients", type=int, default=0, help="clients of the old version")
    group.add_argument("--warm", type=int, default=1, help="warm invocations after each cold one")
    group.add_argument("--function", default="", help="name of the function")
    group.add_argument("--event", default="{}", help="JSON event")
    group.add_argument("--local", action="store_true", help="it is the local one of load.storm")


@events.init.add_listener  # type: ignore[untyped-decorator]  # Locust's own
def _choose_shape(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    if options is None:
        return
    if not options.function:
        raise SystemExit("name the deployed function with --function")
    shape = StormShape()  # type: ignore[no-untyped-call]  # Locust's own
    shape.runner = environment.runner
    shape.options = options
    environment.shape_class = shape


# -- users ----------------------------------------------------------------------------------------


class _StormUser(User):
    """Invokes the function, and emits what happened to Locust."""

    abstract = True
    _numbers = itertools.count(1)

    def on_start(self) -> None:
        """Read the options."""
        self.options: Any = self.environment.parsed_options
        self._number = next(self._numbers)

    def invoke(self, kind: str, *, name: str = "", **more: Any) -> Response:
        """Invoke the function, and count it under ``name``, or as a cold or a warm one.

        Args:
            kind: What the local Lambda is to do: ``cold``, ``warm``, ``write`` or ``read``.
            name: In Locust's statistics.
            more: For the local Lambda.
        """
        event = self.options.event
        if self.options.local:
            event = json.dumps({"kind": kind, "user": self._number, **more})
        response = invoke(self.options.function, event)
        if response.name == "cold":
            self._emit_request("init", response.init_seconds)
        self._emit_request(name or response.name, response.seconds, response.failure)
        return response

    def _emit_request(self, name: str, seconds: float, failure: str = "") -> None:
        """Count one request in Locust's statistics."""
        self.environment.events.request.fire(
            request_type="lambda",
            name=name,
            response_time=seconds * 1000,
            response_length=0,
            exception=InvocationFailed(failure) if failure else None,
            context={},
        )


class ColdStartUser(_StormUser):
    """One execution environment: cold once, then warm."""

    @task
    def run_lifecycle(self) -> None:
        """Start, be invoked again, and do nothing more: an environment is cold once."""
        self.invoke("cold")
        for _ in range(self.options.warm):
            self.invoke("warm")
        while True:
            time.sleep(3600)


class ClientUser(_StormUser):
    """A client of version 1, which writes and reads what it wrote, all the time."""

    @task
    def place_and_read_order(self) -> None:
        """Place an order, read it, pause."""
        placed = self.invoke("write", name="write", subject=1)
        if not placed.failure:
            self.invoke("read", name="read", subject=_order_id_of(placed.payload))
        time.sleep(0.2)


def _order_id_of(payload: Any) -> int:
    """The order that was placed; 1 if the function is not the example."""
    try:
        return int(json.loads(payload["body"])["order_id"])
    except (KeyError, TypeError, ValueError):
        return 1


# -- shapes ---------------------------------------------------------------------------------------

Tick = tuple[int, float, list[type[User]]]


class StormShape(LoadTestShape):
    """A shape of `SHAPES` that ends when all requests were answered."""

    abstract = True  # chosen by --storm, not by Locust
    options: Any = None
    _ends_at: float | None = None

    def tick(self) -> Tick | None:
        """How many users should run now, how many start a second, and which; None: it is over."""
        return None if self._has_ended() else SHAPES[self.options.storm](self)

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - float(self.start_time)

    def count_responses(self, *names: str) -> int:
        """How many of these requests were answered, failed ones included."""
        if self.runner is None:
            return 0
        entries = self.runner.stats.entries  # not `get`, which makes what it does not find
        matching = (entries.get((name, "lambda")) for name in names)
        return sum(int(entry.num_requests) for entry in matching if entry is not None)

    def _has_ended(self) -> bool:
        wanted = self.options.environments * (1 + self.options.warm)
        if self.count_responses("cold", "warm") < wanted:
            return False
        if self._ends_at is None:
            self._ends_at = self.elapsed_seconds
            if self.options.storm in ("deployment", "rollback"):
                self._ends_at += CLIENT_PHASE_SECONDS
        return self.elapsed_seconds >= self._ends_at


def _start_at_rate(shape: StormShape, rate: float) -> Tick:
    return shape.options.environments, rate, [ColdStartUser]


def _start_together(shape: StormShape) -> Tick:
    return _start_at_rate(shape, shape.options.environments)


def _start_in_waves(shape: StormShape) -> Tick:
    """The next wave starts when the one before has been answered."""
    n, waves = shape.options.environments, shape.options.waves
    size = n // waves
    finished = min(shape.count_responses("cold") // size if size else 0, waves - 1)
    return n if finished == waves - 1 else size * (finished + 1), float(n), [ColdStartUser]


def _start_beside_clients(shape: StormShape) -> Tick:
    """Clients use version 1; then cold starts, and in the host a rollback at the same moment."""
    clients, n = shape.options.clients, shape.options.environments
    if shape.elapsed_seconds < CLIENT_PHASE_SECONDS:
        return clients, float(clients), [ClientUser]
    return clients + n, float(n), [ColdStartUser]


SHAPES: dict[str, Callable[[StormShape], Tick]] = {
    "together": _start_together,
    "ramp": lambda shape: _start_at_rate(shape, SPAWN_RATE),
    # Longer than several of the pauses after a failure.
    "trickle": lambda shape: _start_at_rate(shape, 4.0),
    "waves": _start_in_waves,
    "deployment": _start_beside_clients,
    "rollback": _start_beside_clients,
}
