"""Cold starts as Locust users.

A storm on this machine, against ``python -m load.storm.host`` (``python -m load.storm`` does all of
it, and judges the outcome)::

    python -m locust -f load/locustfile.py --headless --storm together -n 100 --control http://127.0.0.1:PORT

A stack that is deployed::

    python -m locust -f load/locustfile.py --headless --storm together -n 100 --function orders
    python -m locust -f load/locustfile.py --headless --storm ramp -n 100 --host https://....amazonaws.com

What can be controlled differs. Here every cold start is a new environment, started for it, and
`together` means the same instant. Of a stack Lambda alone decides: it starts an environment when
all others are busy, so a storm is cold right after a deployment, as far as its requests overlap.
 ``--function`` reads from Lambda's own report whether an invocation
was cold; behind a URL that is unknown, and all are called ``request``.

``--master`` and ``--worker`` work as usual: the users are on the workers, the shape on the master.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from locust import LoadTestShape, User, events, task  # before boto3: it patches the sockets
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from load.storm.control import Control, ControlFailed
from load.storm.remote import DeployedFunction, DeployedUrl, Reply

STARTED_PER_SECOND = 100
"""Lambda starts 1,000 environments in 10 s for each function."""

CLIENTS_SECONDS = 3.0
"""How long only clients use the old version, before and after."""


class InvocationFailed(Exception):
    """An invocation that was not served; the message is the kind of failure."""


# -- options --------------------------------------------------------------------------------------


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # Locust's own
def _add_options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("cold-start storms")
    group.add_argument("--storm", choices=sorted(SHAPES), default="together", help="the shape")
    group.add_argument("-n", "--environments", type=int, default=10, help="cold starts")
    group.add_argument("--waves", type=int, default=3, help="of the shape `waves`")
    group.add_argument("--clients", type=int, default=0, help="clients of the old version")
    group.add_argument("--warm", type=int, default=1, help="warm invocations after each cold one")
    group.add_argument("--control", default="", help="URL of python -m load.storm.host")
    group.add_argument("--function", default="", help="name of a deployed function")
    group.add_argument("--event", default="{}", help="JSON event for a deployed function")


@events.init.add_listener  # type: ignore[untyped-decorator]  # Locust's own
def _choose_shape(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    if options is None:
        return
    shape = StormShape()  # type: ignore[no-untyped-call]  # Locust's own
    shape.runner = environment.runner
    shape.options = options
    environment.shape_class = shape


# -- users ----------------------------------------------------------------------------------------


class _StormUser(User):
    """Sends to the local Lambda or a stack, and reports to Locust."""

    abstract = True

    def on_start(self) -> None:
        """Connect to the host."""
        self.options: Any = self.environment.parsed_options
        self.control = Control(self.options.control) if self.options.control else None

    def fire(self, name: str, seconds: float, failure: str = "", *, length: int = 0) -> None:
        """Report one invocation to Locust."""
        self.environment.events.request.fire(
            request_type="lambda",
            name=name,
            response_time=seconds * 1000,
            response_length=length,
            exception=InvocationFailed(failure) if failure else None,
            context={},
        )

    def post(self, name: str, path: str, **body: Any) -> dict[str, Any] | None:
        """Send a request to the host; None, with a reported failure, if it failed."""
        began = time.perf_counter()
        try:
            if self.control is None:
                raise ControlFailed("--control is missing")
            return self.control.post(path, **body)
        except ControlFailed as error:
            self.fire(name, time.perf_counter() - began, f"control: {error}")
            return None

    def report(self, name: str, answer: dict[str, Any] | None) -> bool:
        """Report an invocation of the local Lambda; returns whether it was served."""
        if answer is None:
            return False
        self.fire(name, answer["duration_seconds"], answer["failure"])
        return not answer["failure"]

    def rest(self) -> None:
        """Do nothing more: an environment is cold once."""
        while True:
            time.sleep(3600)


class ColdStart(_StormUser):
    """One execution environment: cold once, then warm."""

    @task
    def live(self) -> None:
        """Start, and be invoked again."""
        if self.control is not None:
            self._start_here()
        else:
            for _ in range(1 + self.options.warm):
                self._report(_make_target(self.options, self.host)())
        self.rest()

    def _start_here(self) -> None:
        answer = self.post("cold", "/cold")
        if answer is None:
            return
        self.fire("init", answer["init_seconds"])
        self.report("cold", answer)
        for _ in range(self.options.warm):
            self.report(
                "warm", self.post("warm", "/invoke", kind="warm", version=answer["version"])
            )

    def _report(self, reply: Reply) -> None:
        if reply.init_seconds:
            self.fire("init", reply.init_seconds)
        self.fire(reply.name, reply.seconds, reply.failure, length=reply.length)


class Client(_StormUser):
    """A client of version 1, which writes and reads what it wrote, all the time."""

    @task
    def use(self) -> None:
        """Place an order, read it, pause."""
        placed = self.post("write", "/invoke", kind="write", subject=1)
        if self.report("write", placed) and placed is not None:
            order = _order_of(placed["payload"])
            self.report("read", self.post("read", "/invoke", kind="read", subject=order))
        time.sleep(0.2)


class Operator(_StormUser):
    """Rolls version 2 back when the storm starts."""

    @task
    def roll_back(self) -> None:
        """Once."""
        answer = self.post("rollback", "/rollback")
        if answer is not None:
            self.fire("rollback", answer["seconds"])
        self.rest()


def _order_of(payload: Any) -> int:
    """The order that was placed; 1 if the function is not the example."""
    import json

    try:
        return int(json.loads(payload["body"])["order_id"])
    except (KeyError, TypeError, ValueError):
        return 1


def _make_target(options: Any, host: str | None) -> Callable[[], Reply]:
    if options.function:
        return DeployedFunction(options.function, options.event)
    if host:
        return DeployedUrl(host)
    raise SystemExit("name --control, --function or --host")


# -- shapes ---------------------------------------------------------------------------------------

Tick = tuple[int, float, list[type[User]]]


class StormShape(LoadTestShape):
    """A shape of `SHAPES` that ends when all requests were answered, also on a master."""

    abstract = True  # chosen by --storm, not by Locust
    options: Any = None
    _ends_at: float | None = None

    def tick(self) -> Tick | None:
        """How many users should run now, how many start a second, and which; None: it is over."""
        return None if self._has_ended() else SHAPES[self.options.storm](self)

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - float(self.start_time)

    def answered(self, *names: str) -> int:
        """How many of these requests were answered, failed ones included."""
        if self.runner is None:
            return 0
        entries = self.runner.stats.entries  # not `get`, which makes what it does not find
        matching = (entries.get((name, "lambda")) for name in names)
        return sum(int(entry.num_requests) for entry in matching if entry is not None)

    def _has_ended(self) -> bool:
        wanted = self.options.environments * (1 + self.options.warm)
        is_missing_rollback = self.options.storm == "rollback" and not self.answered("rollback")
        if self.answered("cold", "warm", "request") < wanted or is_missing_rollback:
            return False
        if self._ends_at is None:
            has_clients = self.options.storm in ("deployment", "rollback")
            self._ends_at = self.age + (CLIENTS_SECONDS if has_clients else 0.0)
        return self.age >= self._ends_at


def _all_at_once(shape: StormShape) -> Tick:
    n = shape.options.environments
    return n, float(n), [ColdStart]


def _in_waves(shape: StormShape) -> Tick:
    """The next wave starts when the one before has been answered."""
    n, waves = shape.options.environments, shape.options.waves
    size = n // waves
    done = min(shape.answered("cold", "request") // size if size else 0, waves - 1)
    return n if done == waves - 1 else size * (done + 1), float(n), [ColdStart]


def _beside_clients(shape: StormShape) -> Tick:
    """Clients use version 1; then cold starts, and before them the operator of a rollback."""
    clients, n = shape.options.clients, shape.options.environments
    operators = int(shape.options.storm == "rollback")
    if shape.age < CLIENTS_SECONDS:
        return clients, float(clients), [Client]
    if operators and shape.age < CLIENTS_SECONDS + 1.5:
        return clients + 1, 1.0, [Operator]
    return clients + operators + n, float(n), [ColdStart]


SHAPES: dict[str, Callable[[StormShape], Tick]] = {
    "together": _all_at_once,
    "ramp": lambda shape: (shape.options.environments, float(STARTED_PER_SECOND), [ColdStart]),
    # Longer than several of the pauses after a failure.
    "trickle": lambda shape: (shape.options.environments, 4.0, [ColdStart]),
    "waves": _in_waves,
    "deployment": _beside_clients,
    "rollback": _beside_clients,
}
