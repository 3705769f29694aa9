"""`FastClient`: reads and updates one item, and says nothing where it is not sure.

::

    the item, or an empty one     -> answered
    the condition did not hold    -> ConditionFailed, with the item
    throttled, 5xx                -> LeaseStoreUnavailable, as boto3's way would end
    silence                       -> LeaseStoreUnavailable, where DynamoDB is known to be there
    anything else                 -> no answer: the caller asks boto3

"Known to be there" means that it has answered this process before, or that a setting names the
endpoint: boto3 would then meet the same silence, a second time and 0.2 s of CPU later. Elsewhere
silence may be this client's own mistake, and boto3 is asked.

An update whose answer is in doubt, or was lost, may have been done. It is sent again all the same,
by the config, by boto3 or over a fresh connection: each of ours knows its own result when it meets
it.

A client that was once in doubt is never asked again in its process: boto3 is loaded by then, and
one call must not become two. A doubt that took long to arise ends the call as well, because what
is left before the deadline is kept for one call, not for two.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lambda_migrate._version import __version__
from lambda_migrate.clock import SYSTEM_CLOCK, Deadline
from lambda_migrate.errors import LeaseStoreUnavailable
from lambda_migrate.lease.dynamodb_errors import (
    CONNECT_TIMEOUT_SECONDS,
    READ_TIMEOUT_SECONDS,
    ConditionFailed,
    ServerClock,
)
from lambda_migrate.lease.fast_client.endpoint import resolve_config
from lambda_migrate.lease.fast_client.sigv4 import sign

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from typing import Any

    from lambda_migrate.clock import Clock
    from lambda_migrate.lease.fast_client.endpoint import ClientConfig
    from lambda_migrate.lease.fast_client.http import Connection, Response

__all__ = ["FALLBACK_LIMIT_SECONDS", "FastClient", "build_request"]

FALLBACK_LIMIT_SECONDS = 0.3
"""How late a doubt may be and boto3 still be asked within the default safety margin of 2 s."""

_IN_TABLE_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class FastClient:
    """Reads and updates items with the standard library alone.

    Constructing one does no I/O and loads nothing; several threads may share it.

    Args:
        environ: Where credentials, region and endpoint are found, anew for each call.
        clock: Time.

    Attributes:
        requests: How many were sent so far. One that is repeated over a fresh connection, because
            the kept one was found closed, counts once; one that found nobody to take it does not.
        server_clock: DynamoDB's clock, by the newest answer.
    """

    def __init__(self, environ: Mapping[str, str], *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.requests = 0
        self.server_clock = ServerClock(clock)
        self._environ = environ
        self._clock = clock
        self._kept: list[Connection] = []
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._has_answered = False
        self._is_retired = False

    def get_item(
        self, table: str, target: str, *, consistent: bool = False
    ) -> Mapping[str, Any] | None:
        """Ask for the item whose partition key ``target`` is ``target``.

        Args:
            table: Name of the table. Of an ARN it knows nothing.
            target: The key.
            consistent: Whether to read consistently.

        Returns:
            Attribute name -> typed value (``{"N": "7"}``), empty where there is no item; None
            where there is any doubt.

        Raises:
            LeaseStoreUnavailable: DynamoDB is busy, or silent.
        """
        from lambda_migrate.lease.fast_client.response import parse_item

        return self._ask("GetItem", table, target, {"ConsistentRead": consistent}, parse_item)

    def update_item(
        self, table: str, target: str, change: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Change the item whose partition key ``target`` is ``target``, if its condition holds.

        Args:
            table: Name of the table.
            target: The key.
            change: What UpdateItem takes besides; ``ReturnValues`` has to be ``ALL_NEW``.

        Returns:
            The item as it now is; None where there is any doubt.

        Raises:
            ConditionFailed: It did not.
            LeaseStoreUnavailable: DynamoDB is busy, or silent; perhaps it was done.
        """
        from lambda_migrate.lease.fast_client.response import parse_updated_item

        return self._ask("UpdateItem", table, target, change, parse_updated_item)

    def close(self) -> None:
        """Leave no connection open; the next call opens one again. Idempotent."""
        while (connection := self._take()) is not None:
            connection.close()

    def _retire(self) -> None:
        self._is_retired = True
        self.close()

    def _ask(
        self,
        operation: str,
        table: str,
        target: str,
        more: Mapping[str, Any],
        read: Callable[[Response, str], Mapping[str, Any]],
    ) -> Mapping[str, Any] | None:
        config = None if self._is_retired else resolve_config(self._environ)
        if config is None or not set(table) <= _IN_TABLE_NAME:
            self._retire()
            return None
        asked = {"TableName": table, "Key": {"target": {"S": target}}, **more}
        return self._answered(config, operation, asked, lambda answer: read(answer, target))

    def _answered(
        self,
        config: ClientConfig,
        operation: str,
        asked: Mapping[str, Any],
        read: Callable[[Response], Mapping[str, Any]],
    ) -> Mapping[str, Any] | None:
        from lambda_migrate.lease.fast_client.http import FallbackNeeded, NoResponse
        from lambda_migrate.lease.fast_client.response import RetryLater

        table = str(asked["TableName"])
        began = self._clock.monotonic()
        problem: Exception
        try:
            context = self._context(config)
            began = self._clock.monotonic()
            request = build_request(config, operation, asked, wall_ms=self._clock.wall_ms())
            answer = self._exchange(config, context, request)
            self.server_clock.note(answer.headers.get("date", ""))
            item = read(answer)
        except ConditionFailed:
            self._has_answered = True
            raise
        except RetryLater as busy:
            self._has_answered = True
            raise LeaseStoreUnavailable(f"DynamoDB, table {table!r}: {busy}") from None
        except NoResponse as silence:
            if self._has_answered or config.endpoint.is_given:
                raise _unavailable(table, silence) from None
            problem = silence
        except FallbackNeeded as doubt:
            problem = doubt
        else:
            self._has_answered = True
            return item
        self._retire()
        if self._clock.monotonic() - began > FALLBACK_LIMIT_SECONDS:
            raise _unavailable(table, problem)
        return None

    def _context(self, config: ClientConfig) -> ssl.SSLContext | None:
        """Made once, before any time is counted: reading the authorities is CPU, not waiting."""
        from lambda_migrate.lease.fast_client.http import tls_context

        if not config.endpoint.is_tls:
            return None
        if config.cafile not in self._contexts:
            self._contexts[config.cafile] = tls_context(config.cafile)
        return self._contexts[config.cafile]

    def _exchange(
        self, config: ClientConfig, context: ssl.SSLContext | None, request: bytes
    ) -> Response:
        """Ask over the connection kept from last time, or over a fresh one."""
        from lambda_migrate.lease.fast_client.http import NoResponse, connect

        until = Deadline.after(CONNECT_TIMEOUT_SECONDS + READ_TIMEOUT_SECONDS, self._clock)
        kept = self._take()
        if kept is not None and kept.endpoint != config.endpoint:
            kept.close()
            kept = None
        if kept is not None:
            self.requests += 1
            try:
                return self._over(kept, request, until)
            except NoResponse as problem:
                if not problem.is_stale:
                    raise
        fresh = connect(config.endpoint, context, until.at_most(CONNECT_TIMEOUT_SECONDS))
        self.requests += kept is None
        return self._over(fresh, request, until)

    def _over(self, connection: Connection, request: bytes, until: Deadline) -> Response:
        try:
            return connection.exchange(request, until.at_most(READ_TIMEOUT_SECONDS))
        finally:
            self._keep(connection)

    def _take(self) -> Connection | None:
        try:
            return self._kept.pop()
        except IndexError:
            return None

    def _keep(self, connection: Connection) -> None:
        if connection.is_reusable and not self._kept:
            self._kept.append(connection)
        else:
            connection.close()


def _unavailable(table: str, problem: Exception) -> LeaseStoreUnavailable:
    from lambda_migrate.lease.fast_client.http import FallbackNeeded

    if isinstance(problem, FallbackNeeded):
        return LeaseStoreUnavailable(
            f"DynamoDB's answer for table {table!r} cannot be used: {problem}"
        )
    return LeaseStoreUnavailable(f"DynamoDB did not answer for table {table!r}: {problem}")


def build_request(
    config: ClientConfig, operation: str, asked: Mapping[str, Any], *, wall_ms: int
) -> bytes:
    """The signed request as it is sent."""
    from json import dumps

    body = dumps(asked, default=_base64).encode("ascii")
    moment = time.gmtime(wall_ms // 1000)
    signed = {
        "Host": config.endpoint.authority,
        "Content-Type": "application/x-amz-json-1.0",
        "X-Amz-Target": f"DynamoDB_20120810.{operation}",
        "X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", moment),
    }
    if config.key.token:
        signed["X-Amz-Security-Token"] = config.key.token
    headers = signed | {
        "Authorization": sign(
            signed, body, key=config.key, region=config.region, service="dynamodb"
        ),
        "Accept-Encoding": "identity",
        "Content-Length": str(len(body)),
        "User-Agent": f"lambda-migrate/{__version__}",
    }
    lines = ["POST / HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def _base64(value: bytes) -> str:
    """A binary attribute as JSON holds it."""
    from binascii import b2a_base64

    return b2a_base64(value, newline=False).decode("ascii")
