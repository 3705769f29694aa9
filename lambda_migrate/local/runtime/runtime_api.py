"""Lambda's side of the Runtime API: HTTP on 127.0.0.1, one port per environment.

The API's paths do not name the caller, and a runtime may reconnect at any time, so only the port
identifies an environment.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from lambda_migrate.local.runtime.plain_http import (
    LocalHTTPRequest,
    LocalHTTPResponse,
    LocalHTTPServer,
)

__all__ = ["Invocation", "RuntimeAPI", "RuntimeInitError", "RuntimeResponse"]

_PREFIX = "/2018-06-01/runtime/"


@dataclass(frozen=True, slots=True)
class Invocation:
    """What ``/next`` returns to the runtime.

    Attributes:
        request_id: Unique for every invocation.
        body: The event, JSON.
        deadline_ms: Milliseconds since the epoch.
        function_arn: For ``context.invoked_function_arn``.
    """

    request_id: str
    body: bytes
    deadline_ms: int
    function_arn: str

    def headers(self) -> dict[str, str]:
        """The headers that runtimes read."""
        return {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": self.request_id,
            "Lambda-Runtime-Deadline-Ms": str(self.deadline_ms),
            "Lambda-Runtime-InvokeCall-Function-Arn": self.function_arn,
            "Lambda-Runtime-Trace-Id": f"Root=1-00000000-{self.request_id[-24:]};Sampled=0",
        }


@dataclass(frozen=True, slots=True)
class RuntimeResponse:
    """What the runtime posted for an invocation.

    Attributes:
        failed: Whether it was posted as an error.
        payload: The JSON value, or the text if it is not JSON.
    """

    failed: bool
    payload: Any


class RuntimeInitError(Exception):
    """The runtime reported that it could not load the handler or that a hook failed.

    Attributes:
        error_type: ``Runtime.ImportModuleError``.
    """

    def __init__(self, error_type: str, message: str) -> None:
        self.error_type = error_type
        super().__init__(message)


class RuntimeAPI:
    """One environment's API. Call every method in the event loop that `open` ran in."""

    def __init__(self) -> None:
        self._server = LocalHTTPServer(self._handle)
        self._waiting_polls: asyncio.Queue[asyncio.Future[Invocation]] = asyncio.Queue()
        self._responses: dict[str, asyncio.Future[RuntimeResponse]] = {}
        self._poll: asyncio.Future[Invocation] | None = None
        self.init_error: asyncio.Future[RuntimeInitError] = (
            asyncio.get_running_loop().create_future()
        )

    async def open(self) -> str:
        """Listen, and return the value of ``AWS_LAMBDA_RUNTIME_API``."""
        return await self._server.open()

    async def close(self) -> None:
        """Stop listening and drop every connection. Idempotent."""
        await self._server.close()

    async def wait_for_poll(self) -> None:
        """Wait until the runtime waits in ``/next``."""
        if self._poll is None:
            self._poll = await self._waiting_polls.get()

    def deliver(self, invocation: Invocation) -> asyncio.Future[RuntimeResponse]:
        """Answer the waiting ``/next`` with ``invocation``; the future is its response."""
        if self._poll is None:
            raise RuntimeError("the runtime is not waiting for an invocation")
        response: asyncio.Future[RuntimeResponse] = asyncio.get_running_loop().create_future()
        self._responses = {invocation.request_id: response}
        self._poll.set_result(invocation)
        self._poll = None
        return response

    # -- HTTP ---------------------------------------------------------------------------------

    async def _handle(self, request: LocalHTTPRequest) -> LocalHTTPResponse:
        path = request.path.removeprefix(_PREFIX)
        if request.method == "GET":
            return await self._get(path)
        if path == "init/error" or path == "restore/error":
            return self._record_init_error(request.body)
        return self._record_result(path, request.body)

    async def _get(self, path: str) -> LocalHTTPResponse:
        if path == "restore/next":
            return LocalHTTPResponse(200)  # a snapshot is restored as soon as it was taken
        if path != "invocation/next":
            return LocalHTTPResponse(404)
        poll: asyncio.Future[Invocation] = asyncio.get_running_loop().create_future()
        self._waiting_polls.put_nowait(poll)
        invocation = await poll
        return LocalHTTPResponse(200, invocation.body, invocation.headers())

    def _record_init_error(self, body: bytes) -> LocalHTTPResponse:
        report = _decode(body)
        if not self.init_error.done():
            self.init_error.set_result(
                RuntimeInitError(
                    str(report.get("errorType", "")), str(report.get("errorMessage", ""))
                )
                if isinstance(report, dict)
                else RuntimeInitError("Runtime.Unknown", str(report))
            )
        return LocalHTTPResponse(202, b'{"status":"OK"}')

    def _record_result(self, path: str, body: bytes) -> LocalHTTPResponse:
        """``invocation/<id>/response`` or ``invocation/<id>/error``."""
        kind, _, rest = path.partition("/")
        request_id, _, outcome = rest.partition("/")
        future = self._responses.pop(request_id, None)
        if kind != "invocation" or outcome not in {"response", "error"} or future is None:
            return LocalHTTPResponse(404, b'{"errorType":"InvalidRequestID"}')
        if not future.done():
            future.set_result(RuntimeResponse(outcome == "error", _decode(body)))
        return LocalHTTPResponse(202, b'{"status":"OK"}')


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
