"""What Locust's users invoke: a function behind Lambda's Invoke API, that of AWS or the local one.

Without lambda_migrate: Locust has patched the sockets, and what is under test runs elsewhere.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import time
from typing import Any, NamedTuple

_LAMBDA_SECONDS = 900.0  # Lambda's longest timeout; botocore's own 60 s would invoke again
_CONNECTIONS = 2_000  # of all users
_DURATION = re.compile(rb"\tDuration: ([0-9.]+) ms")
_INIT_DURATION = re.compile(rb"Init Duration: ([0-9.]+) ms")


class Response(NamedTuple):
    """One invocation, by Lambda's own report of it."""

    name: str  # cold or warm
    seconds: float
    failure: str  # its kind; "" if it was served
    init_seconds: float = 0.0
    payload: Any = None


@functools.cache
def _client() -> Any:
    import boto3
    from botocore.config import Config

    # A retry would hide a failure, and count one user's cold start twice.
    config = Config(
        max_pool_connections=_CONNECTIONS,
        read_timeout=_LAMBDA_SECONDS,
        retries={"total_max_attempts": 1},
    )
    return boto3.client("lambda", config=config)


def invoke(function: str, event: str) -> Response:
    """Invoke a function once, with the caller's own credentials.

    Args:
        function: Its name or ARN.
        event: JSON.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    started = time.perf_counter()
    try:
        response = _client().invoke(FunctionName=function, Payload=event, LogType="Tail")
        payload = json.loads(response["Payload"].read() or b"null")
    except ClientError as error:
        return Response("warm", time.perf_counter() - started, str(error.response["Error"]["Code"]))
    except BotoCoreError as error:
        return Response("warm", time.perf_counter() - started, type(error).__name__)
    failure = _failure_of(payload, has_failed="FunctionError" in response)
    report = base64.b64decode(response.get("LogResult", ""))
    duration, init = _DURATION.search(report), _INIT_DURATION.search(report)
    seconds = float(duration[1]) / 1000 if duration else time.perf_counter() - started
    if init is None:
        return Response("warm", seconds, failure, payload=payload)
    return Response("cold", seconds, failure, float(init[1]) / 1000, payload)


def _failure_of(payload: Any, *, has_failed: bool) -> str:
    if not isinstance(payload, dict):
        return "error" if has_failed else ""
    if has_failed:
        has_timed_out = "timed out" in str(payload.get("errorMessage", ""))
        return "timeout" if has_timed_out else str(payload.get("errorType", "error"))
    status = int(payload.get("statusCode", 200))
    return f"HTTP {status}" if status >= 500 else ""
