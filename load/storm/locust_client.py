"""What Locust's users invoke: the local Lambda in another process, or a deployed function.

Without lambda_migrate: Locust has patched the sockets, and what is under test runs elsewhere.
"""

from __future__ import annotations

import base64
import json
import re
import time
import urllib.error
import urllib.request
from typing import Any, NamedTuple

_HOST_SECONDS = 600.0  # a thousand environments may share two cores
_LAMBDA_SECONDS = 900.0  # Lambda's longest timeout; botocore's own 60 s would invoke again
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on the loopback
_INIT_DURATION = re.compile(rb"Init Duration: ([0-9.]+) ms")


class HostFailed(RuntimeError):
    """The host refused the request, or is gone: the storm proves nothing."""


def send_to_host(url: str, path: str, **body: Any) -> dict[str, Any]:
    """Send a request to a `load.storm.host.Host`; returns its response.

    Raises:
        HostFailed: With the error in the response.
    """
    if not url.startswith("http://"):
        raise HostFailed(f"--control {url}: write http://host:port")
    request = urllib.request.Request(url + path, json.dumps(body).encode())  # noqa: S310 - see above
    try:
        with _OPENER.open(request, timeout=_HOST_SECONDS) as response:
            document: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        raise HostFailed(f"{path}: {json.load(error)['error']}") from error
    except OSError as error:
        raise HostFailed(f"{path}: {error}") from error
    return document


class Response(NamedTuple):
    """One invocation of a deployed function."""

    name: str  # cold or warm
    seconds: float
    failure: str  # its kind; "" if it was served
    init_seconds: float = 0.0  # Lambda's "Init Duration"


class DeployedFunction:
    """A function by its name or ARN, with the caller's own credentials.

    Args:
        name: Of the function.
        event: JSON.
    """

    def __init__(self, name: str, event: str) -> None:
        import boto3
        from botocore.config import Config

        # A retry would hide a failure, and count one user's cold start twice.
        config = Config(read_timeout=_LAMBDA_SECONDS, retries={"total_max_attempts": 1})
        self._client = boto3.client("lambda", config=config)
        self._name = name
        self._event = event

    def invoke(self) -> Response:
        """Invoke it once."""
        from botocore.exceptions import BotoCoreError, ClientError

        started = time.perf_counter()
        try:
            response = self._client.invoke(
                FunctionName=self._name, Payload=self._event, LogType="Tail"
            )
            body = response["Payload"].read()
        except ClientError as error:
            failure = str(error.response["Error"]["Code"])
            return Response("warm", time.perf_counter() - started, failure)
        except BotoCoreError as error:
            return Response("warm", time.perf_counter() - started, type(error).__name__)
        seconds = time.perf_counter() - started
        failure = _failure_of(body, has_failed="FunctionError" in response)
        init = _INIT_DURATION.search(base64.b64decode(response.get("LogResult", "")))
        if init is None:
            return Response("warm", seconds, failure)
        init_seconds = float(init[1]) / 1000
        return Response("cold", seconds - init_seconds, failure, init_seconds)


def _failure_of(body: bytes, *, has_failed: bool) -> str:
    document = json.loads(body or b"null")
    if not isinstance(document, dict):
        return "error" if has_failed else ""
    if has_failed:
        has_timed_out = "timed out" in str(document.get("errorMessage", ""))
        return "timeout" if has_timed_out else str(document.get("errorType", "error"))
    status = int(document.get("statusCode", 200))
    return f"HTTP {status}" if status >= 500 else ""
