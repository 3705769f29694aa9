"""The DynamoDB API as one target's environments see it, with faults.

An HTTP/1.1 relay in front of a real engine. It does only what DynamoDB or the network could do: an
error, a late or a lost answer, an eventually consistent read of the past; and it grants a lease
twice, which DynamoDB promises not to do and the library promises to survive.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from lambda_migrate.local.runtime.loopback import HOST
from load.chaos.relay import MOMENT_SECONDS, Loop, Note

__all__ = ["STALE_SECONDS", "AnsweredRequest", "DynamoDBRelay", "Request"]

STALE_SECONDS = 6.0
"""How old an eventually consistent read may be here; the library never serves on one."""

_SLOW_SECONDS = (0.05, 1.4)
"""How late an answer comes while DynamoDB is slow: from late to later than the client waits."""

Item = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One request, as it came."""

    operation: str
    head: bytes
    body: bytes

    @property
    def arguments(self) -> dict[str, Any]:
        """The body as JSON."""
        arguments: dict[str, Any] = json.loads(self.body or b"{}")
        return arguments

    @property
    def is_acquisition(self) -> bool:
        """Whether it asks for the lease."""
        return self.operation == "UpdateItem" and "ADD fence" in self.arguments["UpdateExpression"]

    @property
    def owner(self) -> str:
        """The owner in whose name a write is made."""
        values = self.arguments.get("ExpressionAttributeValues", {})
        return str(values.get(":owner", values.get(":own_owner", {})).get("S", ""))

    @property
    def client(self) -> str:
        """The access key that it is signed with."""
        signed = _header(self.head, b"authorization")
        return signed.partition("Credential=")[2].partition("/")[0]

    @property
    def is_stale_read(self) -> bool:
        """Whether it may be answered with the past."""
        return self.operation == "GetItem" and not self.arguments.get("ConsistentRead")


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """A request that was answered."""

    at: float  # seconds since the epoch, of the answer
    client: str  # access key
    operation: str  # GetItem, UpdateItem
    may_be_stale: bool  # an eventually consistent read
    succeeded: bool


@dataclass
class _ActiveFault:
    """A fault while it lasts."""

    kind: str
    until: float
    share: float


@dataclass
class _ItemHistory:
    """What the item was, and since when (monotonic)."""

    states: list[tuple[float, Item | None]] = field(default_factory=lambda: [(0.0, None)])

    def now(self) -> Item | None:
        return self.states[-1][1]

    def at(self, moment: float) -> Item | None:
        return next(item for since, item in reversed(self.states) if since <= moment)

    def add(self, item: Item | None) -> None:
        self.states.append((time.monotonic(), item))


class DynamoDBRelay:
    """Stands between the environments and a DynamoDB engine.

    Args:
        loop: Where it runs.
        engine: The engine's URL.
        note: Called when a fault takes effect.
        rng: Chooses the requests that are hit.
    """

    def __init__(self, loop: Loop, engine: str, note: Note, *, rng: random.Random) -> None:
        self.port = 0
        self.operations: Counter[str] = Counter()
        self.answered_requests: list[AnsweredRequest] = []
        self.written: list[str] = []
        """Bodies of all writes, to be searched for secrets."""
        parts = urlsplit(engine)
        self._upstream = _Upstream((parts.hostname or HOST, parts.port or 80))
        self._loop = loop
        self._note = note
        self._rng = rng
        self._active: list[_ActiveFault] = []
        self._armed: list[str] = []
        self._moments: list[Callable[[str], None]] = []
        self._shown_free = 0
        self._past = _ItemHistory()
        self._writing = asyncio.Lock()
        self._clients: set[asyncio.StreamWriter] = set()
        self._server: asyncio.AbstractServer | None = None

    def __enter__(self) -> DynamoDBRelay:
        self._server = self._loop.run(asyncio.start_server(self._serve, HOST, 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        async def close() -> None:
            assert self._server is not None  # noqa: S101 - it was entered
            self._server.close()
            for writer in list(self._clients):
                writer.transport.abort()
            await asyncio.sleep(0)

        self._loop.run(close())

    @property
    def url(self) -> str:
        """What the environments are given."""
        return f"http://{HOST}:{self.port}"

    @property
    def owner(self) -> str | None:
        """Who holds the lease by the newest write that passed here."""
        item = self._past.now()
        return item["owner"]["S"] if item is not None and "owner" in item else None

    # --- faults; each is called in any thread

    def inject(self, kind: str, seconds: float, share: float) -> None:
        """Apply a fault for so long; it hits this share of the requests."""
        self._loop.call(
            lambda: self._active.append(_ActiveFault(kind, time.monotonic() + seconds, share))
        )

    def grant_twice(self, kind: str) -> None:
        """Grant the lease twice at the next opportunity.

        The next read shows the lease as free, as a replica may, so that its sender asks for it.
        """

        def add() -> None:
            self._armed.append(kind)
            self._shown_free += 1

        self._loop.call(add)

    def on_next_write(self, act: Callable[[str], None]) -> None:
        """Call ``act`` with the owner when the next write is done, before it is answered."""
        self._loop.call(lambda: self._moments.append(act))

    def lose_item(self, item: None = None) -> None:
        """Record that the item was deleted, past this relay."""
        self._loop.call(lambda: self._past.add(item))

    def clear_faults(self) -> None:
        """End and disarm all faults."""

        def end() -> None:
            self._active.clear()
            self._armed.clear()
            self._moments.clear()
            self._shown_free = 0

        self._loop.call(end)

    # --- serving

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            while (request := await _read(reader)) is not None:
                self.operations[request.operation] += 1
                answer = await self._answer(request)
                if answer is None:
                    break
                self.answered_requests.append(_make_answered_request(request, answer))
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client is gone, perhaps killed
        finally:
            self._clients.discard(writer)
            writer.transport.abort()

    async def _answer(self, request: Request) -> bytes | None:
        """The answer, or None to close the connection without one."""
        kind = self._choose_fault(request)
        if kind == "dynamodb-error":
            return _failure(500, "InternalServerError", "a fault")
        if kind == "dynamodb-throttled":
            return _failure(400, "ProvisionedThroughputExceededException", "slow down")
        if kind == "dynamodb-unreached":
            return None
        if kind == "dynamodb-stale":
            return self._stale()
        if kind == "dynamodb-slow" and self._rng.random() < 0.5:
            await asyncio.sleep(self._rng.uniform(*_SLOW_SECONDS))
            kind = None
        answer = await self._forward(request)
        if kind == "dynamodb-slow":
            await asyncio.sleep(self._rng.uniform(*_SLOW_SECONDS))
        return None if kind == "dynamodb-unanswered" else answer

    def _choose_fault(self, request: Request) -> str | None:
        now = time.monotonic()
        self._active = [each for each in self._active if each.until > now]
        for each in self._active:
            if each.kind == "dynamodb-stale" and not request.is_stale_read:
                continue
            if self._rng.random() < each.share:
                self._note(each.kind, request.operation)
                return each.kind
        return None

    def _stale(self) -> bytes:
        moment = time.monotonic() - self._rng.uniform(0, STALE_SECONDS)
        item = self._past.at(moment)
        return _success({} if item is None else {"Item": item})

    async def _forward(self, request: Request) -> bytes:
        if request.operation == "UpdateItem":
            # One at a time, so that what is remembered of the item has the engine's own order.
            async with self._writing:
                return await self._write(request)
        if self._shown_free and request.is_stale_read and self.owner is not None:
            self._shown_free -= 1
            shown = {
                k: v for k, v in (self._past.now() or {}).items() if k not in _HOLDER_ATTRIBUTES
            }
            return _success({"Item": shown})
        return await self._upstream.ask(request.head, request.body)

    async def _write(self, request: Request) -> bytes:
        self.written.append(request.body.decode())
        if request.is_acquisition and self._armed and self._is_held_by_another(request):
            kind = self._armed.pop()
            self._note(kind, "")
            if kind != "granted-twice-stolen":
                return self._forge_grant(request, written=kind == "granted-twice-alike")
            request = _drop_condition(request)
        answer = await self._upstream.ask(request.head, request.body)
        if _is_success(answer):
            key = {name: request.arguments[name] for name in ("TableName", "Key")}
            look = _rewrite_request(request, "GetItem", {**key, "ConsistentRead": True})
            self._past.add(_json(await self._upstream.ask(look.head, look.body)).get("Item"))
            if self._moments:
                self._moments.pop()(request.owner)
                await asyncio.sleep(MOMENT_SECONDS)
        return answer

    def _is_held_by_another(self, request: Request) -> bool:
        return self.owner not in (None, request.owner)

    def _forge_grant(self, request: Request, *, written: bool) -> bytes:
        """A grant that the table does not know: the current fencing token, or the next one."""
        values = request.arguments["ExpressionAttributeValues"]
        item = dict(self._past.now() or {})
        fence = int(item["fence"]["N"]) + (0 if written else 1)
        item |= {
            "fence": {"N": str(fence)},
            "owner": values[":owner"],
            "lease_until": values[":until"],
            "lease_ms": values[":length"],
        }
        return _success({"Attributes": item})


_HOLDER_ATTRIBUTES = ("owner", "lease_until", "lease_ms", "progress")


class _Upstream:
    """The engine. Each request has a connection of its own: moto announces that it closes them."""

    def __init__(self, engine: tuple[str, int]) -> None:
        self._engine = engine

    async def ask(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._engine)
        try:
            writer.write(head + body)
            await writer.drain()
            answer = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_length(answer))
        finally:
            writer.transport.abort()
        return answer.replace(b"Connection: close\r\n", b"") + body


def _make_answered_request(request: Request, answer: bytes) -> AnsweredRequest:
    stale = request.is_stale_read
    return AnsweredRequest(
        time.time(), request.client, request.operation, stale, _is_success(answer)
    )


async def _read(reader: asyncio.StreamReader) -> Request | None:
    with contextlib.suppress(asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(_length(head))
        return Request(_header(head, b"x-amz-target").rpartition(".")[2], head, body)
    return None


def _header(head: bytes, name: bytes) -> str:
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().decode()
    return ""


def _length(head: bytes) -> int:
    return int(_header(head, b"content-length") or 0)


def _drop_condition(request: Request) -> Request:
    """The same write without its condition; every name and value in it is still used."""
    arguments = request.arguments
    arguments["ConditionExpression"] = (
        f"({arguments['ConditionExpression']}) OR attribute_exists(#any)"
        " OR attribute_not_exists(#any)"
    )
    arguments["ExpressionAttributeNames"]["#any"] = "target"
    return _rewrite_request(request, request.operation, arguments)


def _rewrite_request(request: Request, operation: str, arguments: dict[str, Any]) -> Request:
    """Another request of the same client; the engine does not check signatures."""
    body = json.dumps(arguments).encode()
    lines = []
    for line in request.head.split(b"\r\n"):
        name = line.partition(b":")[0].lower()
        if name == b"content-length":
            line = b"Content-Length: " + str(len(body)).encode()
        elif name == b"x-amz-target":
            line = line.replace(request.operation.encode(), operation.encode())
        lines.append(line)
    return Request(operation, b"\r\n".join(lines), body)


def _is_success(answer: bytes) -> bool:
    return b" 200 " in answer.partition(b"\r\n")[0]


def _json(answer: bytes) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return body


def _success(body: dict[str, Any]) -> bytes:
    return _http(200, "OK", body)


def _failure(status: int, code: str, message: str) -> bytes:
    kind = f"com.amazonaws.dynamodb.v20120810#{code}"
    return _http(status, "Not OK", {"__type": kind, "message": message})


def _http(status: int, reason: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/x-amz-json-1.0\r\n"
        f"Content-Length: {len(data)}\r\nx-amzn-RequestId: chaos\r\n\r\n"
    )
    return head.encode() + data
