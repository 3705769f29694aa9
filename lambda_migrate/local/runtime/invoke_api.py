"""AWS Lambda's Invoke over HTTP on 127.0.0.1, in front of local functions: boto3 reaches them.

    with LocalFunction("app.handler", code=code, name="admin") as function:
        with InvokeApi([function]) as api:
            os.environ["AWS_ENDPOINT_URL_LAMBDA"] = api.endpoint_url
            boto3.client("lambda").invoke(FunctionName="admin", Payload=b"{}")

``RequestResponse`` and ``Event``, names, aliases and ARNs, ``X-Amz-Function-Error``, throttling,
the limit of 6 MB, the report at the log's end (``LogType=Tail``), the two tries more of an
asynchronous invocation that failed. Any credentials will do. Tests may have answers lost: the
invocation runs, and whoever asked hears nothing of it.

https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from lambda_migrate.local.runtime.plain_http import HttpServer, Request, Response, json_response

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from lambda_migrate.local.runtime.environment import InvocationResult
    from lambda_migrate.local.runtime.function import LocalFunction

__all__ = ["InvokeApi", "InvokeCall"]

_PATH = re.compile(r"/2015-03-31/functions/([^/?]+)/invocations")
_ARN = re.compile(
    r"(?:arn:[\w-]+:lambda:[\w-]+:)?(?:\d{12}:)?(?:function:)?([\w-]+)(?::([\w$-]+))?"
)
_LATEST = "$LATEST"
_PAYLOAD_BYTES = 6_291_556
_EVENT_BYTES = 1_048_576
_RETRIES = 2
_LOG = "X-Amz-Log-Result"
_POLL_SECONDS = 0.02

Moment = Literal["start", "end"]


@dataclass(frozen=True, slots=True)
class InvokeCall:
    """One call of Invoke that reached a function.

    Attributes:
        function: Its name.
        qualifier: Its alias or version; "" if none was named.
        event: What it was given.
        request_id: Lambda's id of the invocation.
        lost: Whether its answer was kept from whoever asked.
    """

    function: str
    qualifier: str
    event: Any
    request_id: str
    lost: bool


class InvokeApi:
    """Lambda's Invoke for some local functions, which are open for as long as this is.

    Args:
        functions: Known by their names.
        aliases: What may stand for a function's version, besides ``$LATEST``.
        port: Where to listen; 0 for any.
    """

    def __init__(
        self,
        functions: Iterable[LocalFunction],
        *,
        aliases: Iterable[str] = ("live",),
        port: int = 0,
    ) -> None:
        self.invoked: list[InvokeCall] = []
        """Every call so far that reached a function, in order; tries of ``Event`` are one each."""
        self._functions = {function.name: function for function in functions}
        self._qualifiers = {_LATEST, *aliases}
        self._port = port
        self._to_lose: list[Moment] = []
        self._to_throttle = 0
        self._background: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="lambda invoke api", daemon=True
        )
        self._server: HttpServer | None = None
        self._address = ""

    def __enter__(self) -> InvokeApi:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def endpoint_url(self) -> str:
        """For ``AWS_ENDPOINT_URL_LAMBDA``."""
        return f"http://{self._address}"

    def environment(self) -> dict[str, str]:
        """What a client's process needs to reach it."""
        return {
            "AWS_ENDPOINT_URL_LAMBDA": self.endpoint_url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    # --- faults

    def drop_responses(self, count: int = 1, *, at: Moment = "end") -> None:
        """Close the connections of the next calls instead of answering them.

        Args:
            count: Of how many calls.
            at: ``end``: when the invocation has ended; ``start``: when it has begun, and goes on.
        """
        self._to_lose += [at] * count

    def throttle(self, count: int = 1) -> None:
        """Answer the next calls with 429, without running anything."""
        self._to_throttle += count

    def clear_faults(self) -> None:
        """Forget the faults that have not come to pass."""
        self._to_lose.clear()
        self._to_throttle = 0

    # --- how, in the event loop

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> None:
        self._server = HttpServer(self._answer)
        self._address = await self._server.open(self._port)

    async def _close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._server is not None:
            await self._server.close()

    async def _answer(self, request: Request) -> Response:
        url = urlsplit(request.path)
        match = _PATH.fullmatch(url.path)
        if match is None or request.method != "POST":
            return _fault(404, "UnknownOperationException", "only Invoke is known here")
        named = _ARN.fullmatch(unquote(match[1]))
        if named is None:
            return _fault(400, "ValidationException", "this is no name of a function")
        asked = parse_qs(url.query).get("Qualifier", [""])[0]
        return await self._invoke(named[1], named[2] or asked, request)

    async def _invoke(self, name: str, qualifier: str, request: Request) -> Response:
        function = self._functions.get(name)
        if function is None or (qualifier or _LATEST) not in self._qualifiers:
            where = f"arn:aws:lambda:us-east-1:123456789012:function:{name}"
            full = f"{where}:{qualifier}" if qualifier else where
            return _fault(404, "ResourceNotFoundException", f"Function not found: {full}")
        kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
        if len(request.body) > (_EVENT_BYTES if kind == "Event" else _PAYLOAD_BYTES):
            return _fault(413, "RequestTooLargeException", "the payload is too large")
        try:
            event = json.loads(request.body or b"null")
        except ValueError:
            return _fault(400, "InvalidRequestContentException", "the payload is no JSON")
        if self._to_throttle:
            self._to_throttle -= 1
            return _fault(429, "TooManyRequestsException", "Rate Exceeded.")
        if kind == "Event":
            return self._later(function, qualifier, event)
        response = await self._now(function, qualifier, event)
        if request.headers.get("x-amz-log-type") == "Tail":
            return response
        headers = {name: value for name, value in response.headers.items() if name != _LOG}
        return Response(response.status, response.body, headers)

    async def _now(self, function: LocalFunction, qualifier: str, event: Any) -> Response:
        lost = self._to_lose.pop(0) if self._to_lose else None
        request_id = str(uuid.uuid4())
        self.invoked.append(
            InvokeCall(function.name, qualifier, event, request_id, lost is not None)
        )
        running = function.submit(event, request_id=request_id)
        if lost == "start":
            await _begun(function, request_id, running)
            raise ConnectionResetError("the answer is to be lost")
        result = await asyncio.wrap_future(running)
        if lost == "end":
            raise ConnectionResetError("the answer is to be lost")
        return _response(result)

    def _later(self, function: LocalFunction, qualifier: str, event: Any) -> Response:
        request_id = str(uuid.uuid4())
        task = asyncio.ensure_future(self._try(function, qualifier, event, request_id))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return Response(202, b"", {"x-amzn-RequestId": request_id})

    async def _try(
        self, function: LocalFunction, qualifier: str, event: Any, request_id: str
    ) -> None:
        for _ in range(1 + _RETRIES):
            self.invoked.append(InvokeCall(function.name, qualifier, event, request_id, lost=True))
            running = function.submit(event, request_id=request_id)
            if (await asyncio.wrap_future(running)).ok:
                return


async def _begun(
    function: LocalFunction, request_id: str, running: Future[InvocationResult]
) -> None:
    """Wait until the invocation was delivered."""
    while not running.done() and not any(
        each.phase == "invoked" and each.request_id == request_id for each in function.timeline()
    ):
        await asyncio.sleep(_POLL_SECONDS)


def _response(result: InvocationResult) -> Response:
    if result.status == "throttled":
        return _fault(429, "TooManyRequestsException", "Rate Exceeded.", result.request_id)
    headers = {
        "Content-Type": "application/json",
        "X-Amz-Executed-Version": _LATEST,
        "x-amzn-RequestId": result.request_id,
        _LOG: base64.b64encode(_report(result).encode()).decode(),
    }
    body = json.dumps(result.payload).encode()
    if result.ok and len(body) <= _PAYLOAD_BYTES:
        return Response(200, body, headers)
    if result.ok:
        broken: Any = {
            "errorType": "Function.ResponseSizeTooLarge",
            "errorMessage": "Response payload size exceeded maximum allowed payload size "
            f"({_PAYLOAD_BYTES} bytes).",
        }
    elif isinstance(result.payload, dict):
        broken = result.payload
    else:
        broken = {"errorType": result.error_type, "errorMessage": result.error_message}
    headers["X-Amz-Function-Error"] = "Unhandled"
    return Response(200, json.dumps(broken).encode(), headers)


def _report(result: InvocationResult) -> str:
    """The last line of an invocation's log, as Lambda writes it."""
    duration = f"Duration: {result.duration_seconds * 1000:.2f} ms"
    init = f"\tInit Duration: {result.init_seconds * 1000:.2f} ms" if result.cold else ""
    return f"REPORT RequestId: {result.request_id}\t{duration}{init}\n"


def _fault(status: int, code: str, message: str, request_id: str = "") -> Response:
    answer = json_response({"Type": "User", "Message": message}, status=status)
    headers = {
        **answer.headers,
        "x-amzn-ErrorType": code,
        "x-amzn-RequestId": request_id or str(uuid.uuid4()),
    }
    return Response(status, answer.body, headers)
