"""The DynamoDB API as one target's environments see it, with faults.

A relay in front of a real engine. It does only what DynamoDB or the network could do: an error, a
late or a lost response, an eventually consistent read of the past; and it grants a lease twice,
which DynamoDB promises not to do and the library promises to survive.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from lambda_migrate.local.runtime.plain_http import (
    HttpServer,
    LocalHTTPRequest,
    LocalHTTPResponse,
    json_response,
)
from load.chaos.relay import SIGNAL_SECONDS, Loop, RecordFault

__all__ = ["AnsweredRequest", "DynamoDBRelay"]

_STALE_SECONDS = 6.0
"""How old an eventually consistent read may be here; the library never serves on one."""

_SLOW_SECONDS = (0.05, 1.4)
"""How late a response comes while DynamoDB is slow: also later than the client waits."""

_HOLDER_ATTRIBUTES = ("owner", "lease_until", "lease_ms", "progress")

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """A request that was answered."""

    at: float  # seconds since the epoch, of the response
    client: str  # access key
    operation: str  # GetItem, UpdateItem
    succeeded: bool


@dataclass(frozen=True)
class _LeaseRequest:
    """A request, as far as the faults depend on it."""

    http: LocalHTTPRequest

    @cached_property
    def arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = json.loads(self.http.body or b"{}")
        return arguments

    @property
    def operation(self) -> str:
        return self.http.headers.get("x-amz-target", "").rpartition(".")[2]

    @property
    def is_acquisition(self) -> bool:
        return self.operation == "UpdateItem" and "ADD fence" in self.arguments["UpdateExpression"]

    @property
    def is_stale_read(self) -> bool:
        """Whether it may be answered with the past."""
        return self.operation == "GetItem" and not self.arguments.get("ConsistentRead")

    @property
    def owner(self) -> str:
        """The owner in whose name a write is made."""
        values = self.arguments.get("ExpressionAttributeValues", {})
        return str(values.get(":owner", values.get(":own_owner", {})).get("S", ""))

    @property
    def client(self) -> str:
        """The access key that it is signed with."""
        signed = self.http.headers.get("authorization", "")
        return signed.partition("Credential=")[2].partition("/")[0]

    def rewrite(self, operation: str, arguments: dict[str, Any]) -> _LeaseRequest:
        """Another request of the same client; the engine does not check signatures."""
        target = self.http.headers["x-amz-target"].replace(self.operation, operation)
        headers = {**self.http.headers, "x-amz-target": target}
        body = json.dumps(arguments).encode()
        return _LeaseRequest(LocalHTTPRequest("POST", "/", body, headers))


class DynamoDBRelay:
    """Stands between the environments and a DynamoDB engine.

    Args:
        loop: Where it runs.
        engine: The engine's URL.
        record_fault: Called when a fault takes effect.
        rng: Chooses the requests that are hit.
    """

    def __init__(
        self, loop: Loop, engine: str, record_fault: RecordFault, *, rng: random.Random
    ) -> None:
        self.url = ""
        self.answered_requests: list[AnsweredRequest] = []
        self.written: list[str] = []
        """Bodies of all writes, to be searched for secrets."""
        parts = urlsplit(engine)
        self._engine = (parts.hostname, parts.port)
        self._loop = loop
        self._record_fault = record_fault
        self._rng = rng
        self._active: list[tuple[str, float, float]] = []  # kind, until when, probability
        self._double_grants: list[str] = []
        self._on_write: list[Callable[[str], None]] = []
        self._reads_shown_free = 0
        self._items: list[tuple[float, Item | None]] = [(0.0, None)]  # since when, the item
        self._writing = asyncio.Lock()
        self._server = HttpServer(self._answer)

    def __enter__(self) -> DynamoDBRelay:
        self.url = f"http://{self._loop.run(self._server.open())}"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._server.close())

    @property
    def owner(self) -> str | None:
        """Who holds the lease by the newest write that passed here."""
        item = self._items[-1][1]
        return item["owner"]["S"] if item is not None and "owner" in item else None

    # --- faults; each is called in any thread

    def inject(self, kind: str, seconds: float, probability: float) -> None:
        """Apply a fault for so long, to each request with this probability."""
        until = time.monotonic() + seconds
        self._loop.call(lambda: self._active.append((kind, until, probability)))

    def grant_twice(self, kind: str) -> None:
        """Grant the lease twice at the next opportunity.

        The next read shows the lease as free, as a replica may, so that its sender asks for it.
        """

        def add() -> None:
            self._double_grants.append(kind)
            self._reads_shown_free += 1

        self._loop.call(add)

    def on_next_write(self, callback: Callable[[str], None]) -> None:
        """Call back with the owner when the next write is done, before its response."""
        self._loop.call(lambda: self._on_write.append(callback))

    def lose_item(self) -> None:
        """Record that the item was deleted, past this relay."""
        self._loop.call(lambda: self._items.append((time.monotonic(), None)))

    def clear_faults(self) -> None:
        """End and disarm all faults."""

        def clear() -> None:
            self._active.clear()
            self._double_grants.clear()
            self._on_write.clear()
            self._reads_shown_free = 0

        self._loop.call(clear)

    # --- serving

    async def _answer(self, http: LocalHTTPRequest) -> LocalHTTPResponse:
        """Respond, or raise ConnectionError to close the connection instead."""
        request = _LeaseRequest(http)
        response = await self._respond(request, self._choose_fault(request))
        answered = AnsweredRequest(
            time.time(),
            request.client,
            request.operation,
            response.status == 200,
        )
        self.answered_requests.append(answered)
        return response

    async def _respond(self, request: _LeaseRequest, fault: str | None) -> LocalHTTPResponse:
        if fault == "dynamodb-error":
            return _error_response(500, "InternalServerError")
        if fault == "dynamodb-throttled":
            return _error_response(400, "ProvisionedThroughputExceededException")
        if fault == "dynamodb-unreached":
            raise ConnectionError(fault)
        if fault == "dynamodb-stale":
            moment = time.monotonic() - self._rng.uniform(0, _STALE_SECONDS)
            item = next(item for since, item in reversed(self._items) if since <= moment)
            return json_response({} if item is None else {"Item": item})
        if fault == "dynamodb-slow" and self._rng.random() < 0.5:
            await asyncio.sleep(self._rng.uniform(*_SLOW_SECONDS))
            fault = None
        response = await self._forward(request)
        if fault == "dynamodb-slow":
            await asyncio.sleep(self._rng.uniform(*_SLOW_SECONDS))
        if fault == "dynamodb-unanswered":
            raise ConnectionError(fault)
        return response

    def _choose_fault(self, request: _LeaseRequest) -> str | None:
        now = time.monotonic()
        self._active = [each for each in self._active if each[1] > now]
        for kind, _, probability in self._active:
            if kind == "dynamodb-stale" and not request.is_stale_read:
                continue
            if self._rng.random() < probability:
                self._record_fault(kind, request.operation)
                return kind
        return None

    async def _forward(self, request: _LeaseRequest) -> LocalHTTPResponse:
        if request.operation == "UpdateItem":
            # One at a time, so that what is remembered of the item has the engine's own order.
            async with self._writing:
                return await self._write(request)
        if self._reads_shown_free and request.is_stale_read and self.owner is not None:
            self._reads_shown_free -= 1
            item = self._items[-1][1] or {}
            return json_response(
                {"Item": {k: v for k, v in item.items() if k not in _HOLDER_ATTRIBUTES}}
            )
        return await self._ask_engine(request)

    async def _write(self, request: _LeaseRequest) -> LocalHTTPResponse:
        self.written.append(request.http.body.decode())
        is_held = self.owner not in (None, request.owner)
        if request.is_acquisition and self._double_grants and is_held:
            kind = self._double_grants.pop()
            self._record_fault(kind, "")
            if kind != "granted-twice-stolen":
                return self._forge_grant(request, is_new=kind == "granted-twice-unwritten")
            request = _drop_condition(request)
        response = await self._ask_engine(request)
        if response.status == 200:
            key = {name: request.arguments[name] for name in ("TableName", "Key")}
            read = request.rewrite("GetItem", {**key, "ConsistentRead": True})
            item = json.loads((await self._ask_engine(read)).body).get("Item")
            self._items.append((time.monotonic(), item))
            if self._on_write:
                self._on_write.pop()(request.owner)
                await asyncio.sleep(SIGNAL_SECONDS)
        return response

    def _forge_grant(self, request: _LeaseRequest, *, is_new: bool) -> LocalHTTPResponse:
        """A grant that the table does not know: the current fencing token, or the next one."""
        values = request.arguments["ExpressionAttributeValues"]
        item = dict(self._items[-1][1] or {})
        item |= {
            "fence": {"N": str(int(item["fence"]["N"]) + is_new)},
            "owner": values[":owner"],
            "lease_until": values[":until"],
            "lease_ms": values[":length"],
        }
        return json_response({"Attributes": item})

    async def _ask_engine(self, request: _LeaseRequest) -> LocalHTTPResponse:
        """Each request has a connection of its own: moto announces that it closes them."""
        body = request.http.body
        headers = {**request.http.headers, "content-length": str(len(body)), "connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        reader, writer = await asyncio.open_connection(*self._engine)
        try:
            writer.write(f"POST / HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
            status, _, rest = (await reader.readuntil(b"\r\n\r\n")).decode().partition("\r\n")
            pairs = (line.partition(":") for line in rest.splitlines() if line)
            found = {name.lower(): value.strip() for name, _, value in pairs}
            content = await reader.readexactly(int(found["content-length"]))
        finally:
            writer.transport.abort()
        kept = {k: v for k, v in found.items() if k not in ("connection", "content-length")}
        return LocalHTTPResponse(int(status.split()[1]), content, kept)


def _drop_condition(request: _LeaseRequest) -> _LeaseRequest:
    """The same write without its condition; every name and value in it is still used."""
    arguments = request.arguments
    condition = f"({arguments['ConditionExpression']}) OR attribute_exists(#any)"
    condition += " OR attribute_not_exists(#any)"
    names = {**arguments["ExpressionAttributeNames"], "#any": "target"}
    changed = {"ConditionExpression": condition, "ExpressionAttributeNames": names}
    return request.rewrite(request.operation, {**arguments, **changed})


def _error_response(status: int, code: str) -> LocalHTTPResponse:
    kind = f"com.amazonaws.dynamodb.v20120810#{code}"
    return json_response({"__type": kind, "message": "a fault"}, status=status)
