"""A deployed function, as seen from outside."""

from __future__ import annotations

import base64
import json
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

__all__ = ["DeployedFunction", "DeployedUrl", "Reply"]

_SECONDS = 900.0  # Lambda's longest timeout; botocore's own 60 s would invoke a second time
_INIT = re.compile(rb"Init Duration: ([0-9.]+) ms")


@dataclass(frozen=True, slots=True)
class Reply:
    """One invocation, as far as it is visible from outside."""

    name: str  # cold or warm; request where that is unknown
    seconds: float  # until the answer
    failure: str  # its kind; "" if it was served
    init_seconds: float = 0.0  # Lambda's "Init Duration"; 0 if unknown
    length: int = 0  # bytes of the answer


class DeployedFunction:
    """A function by its name or ARN, with the caller's own credentials.

    Args:
        name: Of the function.
        event: JSON.
        client: A boto3 Lambda client; a new one if None.
    """

    def __init__(self, name: str, event: str, *, client: Any = None) -> None:
        self._name = name
        self._event = event
        self._client = client or _lambda_client()

    def __call__(self) -> Reply:
        """Invoke it once."""
        from botocore.exceptions import BotoCoreError, ClientError

        began = time.perf_counter()
        try:
            answer = self._client.invoke(
                FunctionName=self._name, Payload=self._event, LogType="Tail"
            )
        except ClientError as error:
            code = str(error.response["Error"]["Code"])
            failure = "throttled" if code == "TooManyRequestsException" else code
            return Reply("warm", time.perf_counter() - began, failure)
        except BotoCoreError as error:
            return Reply("warm", time.perf_counter() - began, type(error).__name__)
        body = answer["Payload"].read()
        seconds = time.perf_counter() - began
        cold = _INIT.search(base64.b64decode(answer.get("LogResult", "")))
        init = float(cold.group(1)) / 1000 if cold else 0.0
        failure = _failure_of(body, failed="FunctionError" in answer)
        return Reply("cold" if cold else "warm", seconds - init, failure, init, len(body))


def _lambda_client() -> Any:
    import boto3
    from botocore.config import Config

    # A retry would hide a failure, and count one user's cold start twice.
    return boto3.client(
        "lambda", config=Config(read_timeout=_SECONDS, retries={"total_max_attempts": 1})
    )


def _failure_of(body: bytes, *, failed: bool) -> str:
    document = json.loads(body or b"null")
    if not isinstance(document, dict):
        return "error" if failed else ""
    if failed:
        timed_out = "timed out" in str(document.get("errorMessage", ""))
        return "timeout" if timed_out else str(document.get("errorType", "error"))
    status = int(document.get("statusCode", 200))
    return f"HTTP {status}" if status >= 500 else ""


class DeployedUrl:
    """A function behind a URL.

    Args:
        url: Requested with GET.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise SystemExit(f"--host {url}: write http:// or https://")
        self._url = url

    def __call__(self) -> Reply:
        """Request it once."""
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(self._url, timeout=_SECONDS) as answer:  # noqa: S310 - http, see above
                length = len(answer.read())
            return Reply("request", time.perf_counter() - began, "", length=length)
        except urllib.error.HTTPError as error:
            failure = f"HTTP {error.code}" if error.code >= 500 else ""
            return Reply("request", time.perf_counter() - began, failure)
        except OSError as error:
            return Reply("request", time.perf_counter() - began, type(error).__name__)
