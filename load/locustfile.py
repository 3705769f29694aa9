"""Cold starts as Locust users.

``python -m load.storm`` runs this against the local Lambda, where every cold start is a new
environment. docs/reference/storm.md has the command for a stack that is deployed, in which Lambda
decides which starts are cold, and reports it.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
import re
import time
from typing import Any

import gevent
from locust import User, events, task  # before boto3: it patches the sockets
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

START_RATES = {
    "together": 0.0,
    "ramp": 100.0,  # Lambda starts 1,000 environments in 10 s for each function
    "trickle": 4.0,  # longer than several of the pauses after a failure
}
"""Cold starts a second by the storm's shape; 0: all at the same moment."""

CLIENT_PHASE_SECONDS = 3.0
"""How long only clients use the old version, before and after; Locust writes its statistics once a
second, so that they are complete by then."""


class InvocationFailed(Exception):
    """An invocation that was not served; the message is the kind of failure."""


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # Locust's own
def _add_options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("cold-start storms")
    group.add_argument("--storm", choices=sorted(START_RATES), default="together", help="the shape")
    group.add_argument("-n", "--environments", type=int, default=10, help="cold starts")
    group.add_argument("--clients", type=int, default=0, help="clients of the old version")
    group.add_argument("--warm", type=int, default=1, help="warm invocations after each cold one")
    group.add_argument("--function", default="", help="name of the function")
    group.add_argument("--event", default="{}", help="JSON event")
    group.add_argument("--local", action="store_true", help="it is the local one of load.storm")


@events.init.add_listener  # type: ignore[untyped-decorator]  # Locust's own
def _plan_users(environment: Environment, **_: Any) -> None:
    """Plan as many users as there are cold starts and clients, and an end."""
    options = environment.parsed_options
    if options is None:
        return
    if not options.function:
        raise SystemExit("name the deployed function with --function")
    ColdStartUser.fixed_count, ClientUser.fixed_count = options.environments, options.clients
    options.num_users = options.environments + options.clients
    options.spawn_rate = START_RATES[options.storm] or options.num_users
    missing = options.environments * (1 + options.warm)

    def count_response(name: str, **_: Any) -> None:
        nonlocal missing
        missing -= name in ("cold", "warm")
        if not missing and name in ("cold", "warm") and environment.runner is not None:
            gevent.spawn_later(CLIENT_PHASE_SECONDS, environment.runner.quit)

    environment.events.request.add_listener(count_response)  # type: ignore[no-untyped-call]


# -- Lambda's Invoke API, that of AWS or the local one ---------------------------------------------

_MAX_LAMBDA_SECONDS = 900.0  # Lambda's longest timeout; botocore's own 60 s would invoke again
_MAX_CONNECTIONS = 2_000  # of all users
_DURATION_PATTERN = re.compile(rb"\tDuration: ([0-9.]+) ms")
_INIT_DURATION_PATTERN = re.compile(rb"Init Duration: ([0-9.]+) ms")


@functools.cache
def _get_client() -> Any:
    import boto3
    from botocore.config import Config

    # A retry would hide a failure, and count one user's cold start twice.
    config = Config(
        max_pool_connections=_MAX_CONNECTIONS,
        read_timeout=_MAX_LAMBDA_SECONDS,
        retries={"total_max_attempts": 1},
    )
    return boto3.client("lambda", config=config)


def _classify_failure(payload: Any, *, has_failed: bool) -> str:
    if not isinstance(payload, dict):
        return "error" if has_failed else ""
    if has_failed:
        has_timed_out = "timed out" in str(payload.get("errorMessage", ""))
        return "timeout" if has_timed_out else str(payload.get("errorType", "error"))
    status = int(payload.get("statusCode", 200))
    return f"HTTP {status}" if status >= 500 else ""


# -- users ----------------------------------------------------------------------------------------


class _StormUser(User):
    """Invokes the function, and emits what happened to Locust."""

    abstract = True
    _user_numbers = itertools.count(1)

    def on_start(self) -> None:
        """Read the options."""
        self.options: Any = self.environment.parsed_options
        self._user_number = next(self._user_numbers)

    def invoke(self, kind: str, *, name: str = "", **more: Any) -> tuple[str, Any]:
        """Invoke the function once; returns the kind of its failure, or "", and the payload.

        It is counted under ``name``, or as a cold or a warm one by Lambda's own report. The local
        Lambda gets the ``kind`` (``cold``, ``warm``, ``write`` or ``read``) and more.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        function, event = self.options.function, self.options.event
        if self.options.local:
            event = json.dumps({"kind": kind, "user": self._user_number, **more})
        started, report, payload = time.perf_counter(), b"", None
        try:
            response = _get_client().invoke(FunctionName=function, Payload=event, LogType="Tail")
            report = base64.b64decode(response.get("LogResult", ""))
            payload = json.loads(response["Payload"].read() or b"null")
            failure = _classify_failure(payload, has_failed="FunctionError" in response)
        except ClientError as error:
            failure = str(error.response["Error"]["Code"])
        except BotoCoreError as error:
            failure = type(error).__name__
        duration, init = _DURATION_PATTERN.search(report), _INIT_DURATION_PATTERN.search(report)
        seconds = float(duration[1]) / 1000 if duration else time.perf_counter() - started
        if init is not None:
            self._emit_request("init", float(init[1]) / 1000)
        self._emit_request(name or ("warm" if init is None else "cold"), seconds, failure)
        return failure, payload

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
        if self.options.clients:
            time.sleep(CLIENT_PHASE_SECONDS)
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
        failure, payload = self.invoke("write", name="write", subject=1)
        if not failure:
            self.invoke("read", name="read", subject=_read_order_id(payload))
        time.sleep(0.2)


def _read_order_id(payload: Any) -> int:
    """The order that was placed; 1 if the function is not the example."""
    try:
        return int(json.loads(payload["body"])["order_id"])
    except (KeyError, TypeError, ValueError):
        return 1
