"""AWS Lambda's Invoke API over HTTP on 127.0.0.1, for boto3, in front of local functions.

    with LocalFunction("app.handler", code=code, name="admin") as function:
        with InvokeAPI([function]) as api:
            os.environ["AWS_ENDPOINT_URL_LAMBDA"] = api.endpoint_url
            boto3.client("lambda").invoke(FunctionName="admin", Payload=b"{}")

It supports ``RequestResponse`` and ``Event``, names, aliases and ARNs, ``X-Amz-Function-Error``,
throttling, the limit of 6 MB, the REPORT line (``LogType=Tail``), and the two retries of a failed
asynchronous invocation. It accepts any credentials. Tests can have responses dropped: the
invocation runs, but the caller's connection is closed.

https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from lambda_migrate.local.runtime.loop_thread import LoopThread
from lambda_migrate.local.runtime.plain_http import (
    LocalHTTPRequest,
    LocalHTTPResponse,
    LocalHTTPServer,
    json_response,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

    from lambda_migrate.local.runtime.environment import InvocationResult
    from lambda_migrate.local.runtime.function import LocalFunction

__all__ = ["InvokeAPI", "InvokeCall"]

_PATH = re.compile(r"/2015-03-31/functions/([^/?]+)/invocations")
_ARN = re.compile(
    r"(?:arn:[\w-]+:lambda:[\w-]+:)?(?:\d{12}:)?(?:function:)?([\w-]+)(?::([\w$-]+))?"
)
_LATEST = "$LATEST"
_PAYLOAD_BYTES = 6_291_556
_EVENT_BYTES = 1_048_576
_RETRIES = 2
_LOG_HEADER = "X-Amz-Log-Result"
_POLL_SECONDS = 0.02

DropMoment = Literal["start", "end"]


@dataclass(frozen=True, slots=True)
class InvokeCall:
    """One call of Invoke that started an invocation.

    Attributes:
        function: Its name.
        qualifier: The alias or version that was named, or "".
        event: Its payload.
        request_id: Lambda's id of the invocation.
        is_response_dropped: Whether the caller got no response.
    """

    function: str
    qualifier: str
    event: Any
    request_id: str
    is_response_dropped: bool


class InvokeAPI:
    """Lambda's Invoke API for local functions, which must stay open as long as it is.

    Args:
        functions: The functions, by their names.
        aliases: Accepted qualifiers besides ``$LATEST``.
        port: The port to listen on; 0 for a free one.
    """

    def __init__(
        self,
        functions: Iterable[LocalFunction],
        *,
        aliases: Iterable[str] = ("live",),
        port: int = 0,
    ) -> None:
        self.calls: list[InvokeCall] = []
        """All calls so far that started an invocation, in order, retries of ``Event`` included."""
        self._functions = {function.name: function for function in functions}
        self._qualifiers = {_LATEST, *aliases}
        self._port = port
        self._to_drop: list[DropMoment] = []
        self._to_throttle = 0
        self._background: set[asyncio.Task[None]] = set()
        self._loop = LoopThread("lambda invoke api")
        self._server = LocalHTTPServer(self._handle)
        self._address = ""

    def __enter__(self) -> InvokeAPI:
        self._loop.open()
        self._address = self._loop.run(self._server.open(self._port))
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._server.close())
        self._loop.close()

    @property
    def endpoint_url(self) -> str:
        """The value of ``AWS_ENDPOINT_URL_LAMBDA``."""
        return f"http://{self._address}"

    def variables(self) -> dict[str, str]:
        """Variables that point boto3 in another process here."""
        return {
            "AWS_ENDPOINT_URL_LAMBDA": self.endpoint_url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    # -- faults -------------------------------------------------------------------------------

    def drop_responses(self, count: int = 1, *, at: DropMoment = "end") -> None:
        """Close the connections of the next calls instead of responding.

        Args:
            count: Number of calls.
            at: ``end``: after the invocation; ``start``: while it runs.
        """
        self._to_drop += [at] * count

    def throttle(self, count: int = 1) -> None:
        """Answer the next calls with 429 without starting an invocation."""
        self._to_throttle += count

    def clear_faults(self) -> None:
        """Cancel the faults that have not happened yet."""
        self._to_drop.clear()
        self._to_throttle = 0

    # -- in the event loop --------------------------------------------------------------------

    async def _handle(self, request: LocalHTTPRequest) -> LocalHTTPResponse:
        url = urlsplit(request.path)
        match = _PATH.fullmatch(url.path)
        if match is None or request.method != "POST":
            return _error_response(404, "UnknownOperationException", "only Invoke is supported")
        name = _ARN.fullmatch(unquote(match[1]))
        if name is None:
            return _error_response(400, "ValidationException", "this is not the name of a function")
        qualifier = parse_qs(url.query).get("Qualifier", [""])[0]
        return await self._invoke(name[1], name[2] or qualifier, request)

    async def _invoke(
        self, name: str, qualifier: str, request: LocalHTTPRequest
    ) -> LocalHTTPResponse:
        function = self._functions.get(name)
        if function is None or (qualifier or _LATEST) not in self._qualifiers:
            where = f"arn:aws:lambda:us-east-1:123456789012:function:{name}"
            full = f"{where}:{qualifier}" if qualifier else where
            return _error_response(404, "ResourceNotFoundException", f"Function not found: {full}")
        kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
        if len(request.body) > (_EVENT_BYTES if kind == "Event" else _PAYLOAD_BYTES):
            return _error_response(413, "RequestTooLargeException", "the payload is too large")
        try:
            event = json.loads(request.body or b"null")
        except ValueError:
            return _error_response(400, "InvalidRequestContentException", "the payload is not JSON")
        if self._to_throttle:
            self._to_throttle -= 1
            return _error_response(429, "TooManyRequestsException", "Rate Exceeded.")
        if kind == "Event":
            return self._invoke_async(function, qualifier, event)
        response = await self._invoke_sync(function, qualifier, event)
        if request.headers.get("x-amz-log-type") == "Tail":
            return response
        headers = {name: value for name, value in response.headers.items() if name != _LOG_HEADER}
        return LocalHTTPResponse(response.status, response.body, headers)

    async def _invoke_sync(
        self, function: LocalFunction, qualifier: str, event: Any
    ) -> LocalHTTPResponse:
        dropped_at = self._to_drop.pop(0) if self._to_drop else None
        request_id = str(uuid.uuid4())
        self.calls.append(
            InvokeCall(function.name, qualifier, event, request_id, dropped_at is not None)
        )
        running = function.submit(event, request_id=request_id)
        if dropped_at == "start":
            await _wait_until_delivered(function, request_id, running)
            raise ConnectionResetError("a test had this response dropped")
        result = await asyncio.wrap_future(running)
        if dropped_at == "end":
            raise ConnectionResetError("a test had this response dropped")
        return _response(result)

    def _invoke_async(
        self, function: LocalFunction, qualifier: str, event: Any
    ) -> LocalHTTPResponse:
        request_id = str(uuid.uuid4())
        task = asyncio.ensure_future(self._run_with_retries(function, qualifier, event, request_id))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return LocalHTTPResponse(202, b"", {"x-amzn-RequestId": request_id})

    async def _run_with_retries(
        self, function: LocalFunction, qualifier: str, event: Any, request_id: str
    ) -> None:
        for _ in range(1 + _RETRIES):
            self.calls.append(
                InvokeCall(function.name, qualifier, event, request_id, is_response_dropped=True)
            )
            running = function.submit(event, request_id=request_id)
            if (await asyncio.wrap_future(running)).ok:
                return


async def _wait_until_delivered(
    function: LocalFunction, request_id: str, running: Future[InvocationResult]
) -> None:
    """Wait until the invocation was delivered to an environment."""
    while not running.done() and not any(
        each.phase == "invoked" and each.request_id == request_id for each in function.timeline()
    ):
        await asyncio.sleep(_POLL_SECONDS)


def _response(result: InvocationResult) -> LocalHTTPResponse:
    if result.status == "throttled":
        return _error_response(429, "TooManyRequestsException", "Rate Exceeded.", result.request_id)
    headers = {
        "Content-Type": "application/json",
        "X-Amz-Executed-Version": _LATEST,
        "x-amzn-RequestId": result.request_id,
        _LOG_HEADER: base64.b64encode(_format_report(result).encode()).decode(),
    }
    body = json.dumps(result.payload).encode()
    if result.ok and len(body) <= _PAYLOAD_BYTES:
        return LocalHTTPResponse(200, body, headers)
    if result.ok:
        error: Any = {
            "errorType": "Function.ResponseSizeTooLarge",
            "errorMessage": "Response payload size exceeded maximum allowed payload size "
            f"({_PAYLOAD_BYTES} bytes).",
        }
    elif isinstance(result.payload, dict):
        error = result.payload
    else:
        error = {"errorType": result.error_type, "errorMessage": result.error_message}
    headers["X-Amz-Function-Error"] = "Unhandled"
    return LocalHTTPResponse(200, json.dumps(error).encode(), headers)


def _format_report(result: InvocationResult) -> str:
    """The last line of an invocation's log, as Lambda formats it."""
    duration = f"Duration: {result.duration_seconds * 1000:.2f} ms"
    init = f"\tInit Duration: {result.init_seconds * 1000:.2f} ms" if result.cold else ""
    return f"REPORT RequestId: {result.request_id}\t{duration}{init}\n"


def _error_response(
    status: int, code: str, message: str, request_id: str = ""
) -> LocalHTTPResponse:
    answer = json_response({"Type": "User", "Message": message}, status=status)
    headers = {
        **answer.headers,
        "x-amzn-ErrorType": code,
        "x-amzn-RequestId": request_id or str(uuid.uuid4()),
    }
    return LocalHTTPResponse(status, answer.body, headers)
