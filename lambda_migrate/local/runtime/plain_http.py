"""A minimal HTTP/1.1 server for the Runtime API and the Invoke API on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lambda_migrate.local.runtime.loopback import HOST

__all__ = ["LocalHTTPRequest", "LocalHTTPResponse", "LocalHTTPServer", "json_response"]

_REASONS = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    404: "Not Found",
    413: "Payload Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
}
_BACKLOG = 1024  # a thousand clients may connect at the same time


@dataclass(frozen=True, slots=True)
class LocalHTTPRequest:
    """A client's request.

    Attributes:
        method: ``GET``.
        path: With its query string, as sent.
        body: May be empty.
        headers: By lower-case name.
    """

    method: str
    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LocalHTTPResponse:
    """The server's response."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(value: Any, *, status: int = 200) -> LocalHTTPResponse:
    """Encode ``value`` as JSON."""
    return LocalHTTPResponse(
        status, json.dumps(value).encode(), {"Content-Type": "application/json"}
    )


class LocalHTTPServer:
    """Serves requests on 127.0.0.1. Call every method in the event loop that `open` ran in.

    Args:
        handle: Returns the response to a request; a ConnectionError closes the connection instead.
    """

    def __init__(self, handle: Callable[[LocalHTTPRequest], Awaitable[LocalHTTPResponse]]) -> None:
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self, port: int = 0) -> str:
        """Listen, and return ``host:port``."""
        self._server = await asyncio.start_server(self._accept, HOST, port, backlog=_BACKLOG)
        return f"{HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening and drop every connection. Idempotent."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve_connection(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while request := await _read_request(reader):
                _write_response(writer, await self._handle(request))
                await writer.drain()
        except ConnectionError:
            pass  # the client has gone; who started it is notified otherwise
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> LocalHTTPRequest | None:
    """Read the next request of a connection; None when the client has closed it."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        pairs = [line.split(":", 1) for line in head[1:] if line]
        headers = {name.lower(): value.strip() for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except asyncio.IncompleteReadError:
        return None
    return LocalHTTPRequest(method, path, body, headers)


def _write_response(writer: asyncio.StreamWriter, response: LocalHTTPResponse) -> None:
    headers = {**response.headers, "Content-Length": str(len(response.body))}
    lines = [f"HTTP/1.1 {response.status} {_REASONS[response.status]}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + response.body)
