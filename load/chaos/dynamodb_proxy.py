"""The DynamoDB API as one target's environments see it, with faults.

A proxy in front of a real server. It does only what DynamoDB or the network could do: an error, a
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
from functools import partial
from typing import Any

import urllib3

from lambda_migrate.local.runtime.loop_thread import LoopThread
from lambda_migrate.local.runtime.plain_http import (
    LocalHTTPRequest,
    LocalHTTPResponse,
    LocalHTTPServer,
    json_response,
)
from load.chaos.postgresql_proxy import SIGNAL_WAIT_SECONDS, RecordFault

_MAX_STALE_SECONDS = 6.0  # how old an eventually consistent read may be; none is ever served on
_SLOW_SECONDS = (0.05, 1.4)  # how late a response may be: also later than the client waits

_ERROR_RESPONSES = {
    "dynamodb-error": (500, "InternalServerError"),
    "dynamodb-throttled": (400, "ProvisionedThroughputExceededException"),
}

_HOLDER_ATTRIBUTES = ("owner", "lease_until", "lease_ms", "progress")

_HTTP_POOL = urllib3.PoolManager(maxsize=64)

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _LeaseRequest:
    """A request, as far as the faults depend on it."""

    operation: str  # GetItem, UpdateItem
    arguments: dict[str, Any]
    headers: dict[str, str]

    @classmethod
    def parse(cls, http_request: LocalHTTPRequest) -> _LeaseRequest:
        operation = http_request.headers.get("x-amz-target", "").rpartition(".")[2]
        return cls(operation, json.loads(http_request.body or b"{}"), dict(http_request.headers))

    @property
    def may_be_stale(self) -> bool:
        return self.operation == "GetItem" and not self.arguments.get("ConsistentRead")

    @property
    def owner(self) -> str:
        """The owner in whose name a write is made."""
        values = self.arguments.get("ExpressionAttributeValues", {})
        return str(values.get(":owner", values.get(":own_owner", {})).get("S", ""))


class DynamoDBProxy:
    """Stands between the environments and a server of the DynamoDB API."""

    def __init__(
        self, loop: LoopThread, endpoint_url: str, record_fault: RecordFault, *, rng: random.Random
    ) -> None:
        self.url = ""
        self.write_requests: list[str] = []  # all writes, to be searched for secrets
        # Called with the owner when the next write is done, before its response.
        self.on_next_write: list[Callable[[str], object]] = []
        self._endpoint_url = endpoint_url
        self._loop = loop
        self._record_fault = record_fault
        self._rng = rng  # chooses the requests that are hit
        self._active_faults: list[tuple[str, float, float]] = []  # kind, until when, probability
        self._double_grants: list[str] = []
        self._reads_shown_free: list[str] = []
        self._items: list[tuple[float, Item | None]] = [(0.0, None)]  # since when, the item
        self._write_lock = asyncio.Lock()
        self._server = LocalHTTPServer(self._handle_request)

    def __enter__(self) -> DynamoDBProxy:
        self.url = f"http://{self._loop.run(self._server.open())}"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._server.close())

    @property
    def owner(self) -> str | None:
        """Who holds the lease by the newest write that passed here."""
        item = self._items[-1][1]
        return item["owner"]["S"] if item is not None and "owner" in item else None

    def inject_fault(self, kind: str, seconds: float, probability: float) -> None:
        """Apply a fault for so long, to each request with this probability."""
        self._active_faults.append((kind, time.monotonic() + seconds, probability))

    def arm_double_grant(self, kind: str) -> None:
        """Grant the lease twice at the next opportunity.

        The next read shows the lease as free, as a replica may, so that its sender asks for it.
        """
        self._double_grants.append(kind)
        self._reads_shown_free.append(kind)

    def record_item_deletion(self) -> None:
        """Record that the item was deleted, past this proxy."""
        self._items.append((time.monotonic(), None))

    def clear_faults(self) -> None:
        """End and disarm all faults."""
        self._active_faults.clear()
        self._double_grants.clear()
        self._reads_shown_free.clear()
        self.on_next_write.clear()

    # --- serving

    async def _handle_request(self, http_request: LocalHTTPRequest) -> LocalHTTPResponse:
        """Respond, or raise ConnectionError to close the connection instead."""
        request = _LeaseRequest.parse(http_request)
        fault = self._choose_fault(request)
        if fault in _ERROR_RESPONSES:
            status, code = _ERROR_RESPONSES[fault]
            kind = f"com.amazonaws.dynamodb.v20120810#{code}"
            return json_response({"__type": kind, "message": "a fault"}, status=status)
        if fault == "dynamodb-unreached":
            raise ConnectionError(fault)
        if fault == "dynamodb-stale":
            moment = time.monotonic() - self._rng.uniform(0, _MAX_STALE_SECONDS)
            item = next(item for since, item in reversed(self._items) if since <= moment)
            return json_response({} if item is None else {"Item": item})
        slow_seconds = self._rng.uniform(*_SLOW_SECONDS) if fault == "dynamodb-slow" else 0.0
        is_request_slow = self._rng.random() < 0.5  # or its response
        await asyncio.sleep(slow_seconds * is_request_slow)
        response = await self._forward(request)
        await asyncio.sleep(slow_seconds * (not is_request_slow))
        if fault == "dynamodb-unanswered":
            raise ConnectionError(fault)
        return response

    def _choose_fault(self, request: _LeaseRequest) -> str:
        for kind, until, probability in list(self._active_faults):
            is_hit = request.may_be_stale or kind != "dynamodb-stale"
            if is_hit and time.monotonic() < until and self._rng.random() < probability:
                self._record_fault(kind, request.operation)
                return kind
        return ""

    async def _forward(self, request: _LeaseRequest) -> LocalHTTPResponse:
        if request.operation == "UpdateItem":
            # One at a time, so that what is remembered of the item has the server's own order.
            async with self._write_lock:
                return await self._write(request)
        if self._reads_shown_free and request.may_be_stale and self.owner is not None:
            self._reads_shown_free.pop()
            item = self._items[-1][1] or {}
            shown = {name: item[name] for name in item if name not in _HOLDER_ATTRIBUTES}
            return json_response({"Item": shown})
        return await self._send(request)

    async def _write(self, request: _LeaseRequest) -> LocalHTTPResponse:
        self.write_requests.append(json.dumps(request.arguments))
        is_acquisition = "ADD fence" in request.arguments["UpdateExpression"]
        is_held = self.owner not in (None, request.owner)
        if is_acquisition and self._double_grants and is_held:
            kind = self._double_grants.pop()
            self._record_fault(kind, "")
            if kind != "granted-twice-stolen":
                return self._make_fake_grant(request, is_new=kind == "granted-twice-unwritten")
            request = _drop_condition(request)
        response = await self._send(request)
        if response.status == 200:
            key = {name: request.arguments[name] for name in ("TableName", "Key")}
            read = _LeaseRequest("GetItem", {**key, "ConsistentRead": True}, request.headers)
            item = json.loads((await self._send(read)).body).get("Item")
            self._items.append((time.monotonic(), item))
            if self.on_next_write:
                self.on_next_write.pop()(request.owner)
                await asyncio.sleep(SIGNAL_WAIT_SECONDS)
        return response

    def _make_fake_grant(self, request: _LeaseRequest, *, is_new: bool) -> LocalHTTPResponse:
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

    async def _send(self, request: _LeaseRequest) -> LocalHTTPResponse:
        """The server does not check signatures, so that a request may have changed."""
        prefix = request.headers["x-amz-target"].rpartition(".")[0]
        headers = {**request.headers, "x-amz-target": f"{prefix}.{request.operation}"}
        headers["connection"] = "close"  # none meets a connection that the server has just closed
        del headers["content-length"]
        body = json.dumps(request.arguments).encode()
        send = partial(_HTTP_POOL.request, "POST", self._endpoint_url, body=body, headers=headers)
        response = await asyncio.to_thread(send, timeout=30.0, retries=False)
        own = ("connection", "content-length")
        kept = {name: text for name, text in response.headers.items() if name.lower() not in own}
        return LocalHTTPResponse(response.status, response.data, kept)


def _drop_condition(request: _LeaseRequest) -> _LeaseRequest:
    """The same write without its condition; every name and value in it is still used."""
    arguments = request.arguments
    condition = f"({arguments['ConditionExpression']}) OR attribute_exists(#any)"
    condition += " OR attribute_not_exists(#any)"
    names = {**arguments["ExpressionAttributeNames"], "#any": "target"}
    changed = {"ConditionExpression": condition, "ExpressionAttributeNames": names}
    return _LeaseRequest(request.operation, {**arguments, **changed}, request.headers)
