"""Lambda's Runtime API, the side that Lambda plays: HTTP on 127.0.0.1, one port per environment.

The API's paths are fixed and carry no name of the caller, and a runtime may reconnect whenever it
likes; a port of its own is what surely tells one environment from another.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from lambda_migrate.local.runtime.plain_http import HttpServer, Request, Response

__all__ = ["Answer", "Invocation", "RuntimeApi", "RuntimeInitError"]

_PREFIX = "/2018-06-01/runtime/"


@dataclass(frozen=True, slots=True)
class Invocation:
    """What the runtime gets from ``/next``.

    Attributes:
        request_id: Fresh for every invocation.
        body: The event, JSON.
        deadline_ms: Milliseconds since the epoch.
        function_arn: For ``context.invoked_function_arn``.
    """

    request_id: str
    body: bytes
    deadline_ms: int
    function_arn: str

    def headers(self) -> dict[str, str]:
        """The names that runtimes look for."""
        return {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": self.request_id,
            "Lambda-Runtime-Deadline-Ms": str(self.deadline_ms),
            "Lambda-Runtime-InvokeCall-Function-Arn": self.function_arn,
            "Lambda-Runtime-Trace-Id": f"Root=1-00000000-{self.request_id[-24:]};Sampled=0",
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What the runtime posted for an invocation.

    Attributes:
        failed: Whether it was posted as an error.
        payload: The JSON value, or the text where it is none.
    """

    failed: bool
    payload: Any


class RuntimeInitError(Exception):
    """The runtime could not load the handler, or its hooks failed; it has said so.

    Attributes:
        error_type: ``Runtime.ImportModuleError``.
    """

    def __init__(self, error_type: str, message: str) -> None:
        self.error_type = error_type
        super().__init__(message)


class RuntimeApi:
    """One environment's API. Every method belongs to the event loop that `open` ran in."""

    def __init__(self) -> None:
        self._server = HttpServer(self._answer)
        self._polls: asyncio.Queue[asyncio.Future[Invocation]] = asyncio.Queue()
        self._answers: dict[str, asyncio.Future[Answer]] = {}
        self._poll: asyncio.Future[Invocation] | None = None
        self.init_fault: asyncio.Future[RuntimeInitError] = (
            asyncio.get_running_loop().create_future()
        )

    async def open(self) -> str:
        """Listen, and return the value of ``AWS_LAMBDA_RUNTIME_API``."""
        return await self._server.open()

    async def close(self) -> None:
        """Stop listening and drop every connection. Idempotent."""
        await self._server.close()

    async def polled(self) -> None:
        """Return when the runtime waits in ``/next``."""
        if self._poll is None:
            self._poll = await self._polls.get()

    def deliver(self, invocation: Invocation) -> asyncio.Future[Answer]:
        """Answer the runtime that waits in ``/next``; the future is what it will post."""
        if self._poll is None:
            raise RuntimeError("the runtime does not wait for an invocation")
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers = {invocation.request_id: answer}
        self._poll.set_result(invocation)
        self._poll = None
        return answer

    # -- HTTP ---------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> Response:
        path = request.path.removeprefix(_PREFIX)
        if request.method == "GET":
            return await self._get(path)
        if path == "init/error" or path == "restore/error":
            return self._failed_init(request.body)
        return self._posted(path, request.body)

    async def _get(self, path: str) -> Response:
        if path == "restore/next":
            return Response(200)  # a snapshot is restored the moment it was taken
        if path != "invocation/next":
            return Response(404)
        poll: asyncio.Future[Invocation] = asyncio.get_running_loop().create_future()
        self._polls.put_nowait(poll)
        invocation = await poll
        return Response(200, invocation.body, invocation.headers())

    def _failed_init(self, body: bytes) -> Response:
        said = _decode(body)
        if not self.init_fault.done():
            self.init_fault.set_result(
                RuntimeInitError(str(said.get("errorType", "")), str(said.get("errorMessage", "")))
                if isinstance(said, dict)
                else RuntimeInitError("Runtime.Unknown", str(said))
            )
        return Response(202, b'{"status":"OK"}')

    def _posted(self, path: str, body: bytes) -> Response:
        """``invocation/<id>/response`` or ``invocation/<id>/error``."""
        kind, _, rest = path.partition("/")
        request_id, _, outcome = rest.partition("/")
        future = self._answers.pop(request_id, None)
        if kind != "invocation" or outcome not in {"response", "error"} or future is None:
            return Response(404, b'{"errorType":"InvalidRequestID"}')
        if not future.done():
            future.set_result(Answer(outcome == "error", _decode(body)))
        return Response(202, b'{"status":"OK"}')


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
