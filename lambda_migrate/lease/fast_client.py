"""`FastClient`: DynamoDB's GetItem and UpdateItem with the standard library alone, without boto3.

`dynamodb_request` makes the signed request, and `dynamodb_http` sends it and reads what comes back.
The client never decides an unclear case. Where the environment asks for anything unusual (a
profile, a proxy, FIPS, dual-stack or account-based endpoints) or a response is not what DynamoDB
sends, it declines, and the same operation is done by boto3 from the beginning.

::

    an item, or none              -> returned
    the condition did not hold    -> ConditionFailed, with the item
    throttled, HTTP 5xx           -> LeaseStoreUnavailable
    no response                   -> LeaseStoreUnavailable, if DynamoDB is known to be there
    anything else                 -> None: use boto3

DynamoDB is known to be there if it has responded to this process before, or if a setting names the
endpoint: boto3 would then wait for the same endpoint once more. Otherwise the missing response may
be this client's own mistake, and boto3 is used.

An update that got no usable response may have been done. It is repeated anyway, over another
connection or by boto3: the condition of each of our updates lets it recognize its own result.

A client that has declined once is disabled: boto3 is loaded by then, and one call must not become
two. If that took long, the call ends with an error, because the time left before the deadline is
enough for one call and not for two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_migrate.clock import (
    CONNECT_TIMEOUT_SECONDS,
    READ_TIMEOUT_SECONDS,
    SYSTEM_CLOCK,
    Deadline,
)
from lambda_migrate.lease.dynamodb_request import build_request, resolve_config

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from typing import Any

    from lambda_migrate.clock import Clock
    from lambda_migrate.errors import LeaseStoreUnavailable
    from lambda_migrate.lease.dynamodb_call import ServerClock
    from lambda_migrate.lease.dynamodb_http import HTTPConnection, HTTPResponse
    from lambda_migrate.lease.dynamodb_request import ClientConfig, Endpoint

__all__ = ["MAX_SECONDS_BEFORE_FALLBACK", "FastClient"]

MAX_SECONDS_BEFORE_FALLBACK = 0.3
"""boto3 is used for the same call only if this client declined sooner than that, so that both
together fit into the default safety margin of 2 s."""

_TABLE_NAME_CHARACTERS = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
)


class FastClient:
    """Reads and updates items without boto3.

    Constructing one does no I/O and imports nothing; several threads may share it.

    Args:
        environ: Source of credentials, region and endpoint, read at each call.
        clock: Time.

    Attributes:
        request_count: Requests sent so far. A request that was repeated because an idle connection
            turned out to be closed counts once; one that found no server does not count.
    """

    def __init__(self, environ: Mapping[str, str], *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.request_count = 0
        self._server_clock: ServerClock | None = None
        self._last_date = "", 0.0  # of the newest response, and our monotonic seconds then
        self._environ = environ
        self._clock = clock
        self._idle_connections: list[HTTPConnection] = []
        self._tls_contexts: dict[str, ssl.SSLContext] = {}
        self._has_responded = False
        self._is_disabled = False

    @property
    def server_clock(self) -> ServerClock:
        """DynamoDB's clock, from its newest response; a start that only reads never asks it."""
        if self._server_clock is None:
            from lambda_migrate.lease.dynamodb_call import ServerClock

            self._server_clock = ServerClock(self._clock)
            self._server_clock.update(*self._last_date)
        return self._server_clock

    def get_item(
        self, table: str, target: str, *, consistent: bool = False
    ) -> Mapping[str, Any] | None:
        """Read the item whose partition key ``target`` is ``target``.

        Args:
            table: Name of the table; an ARN is left to boto3.
            target: The key.
            consistent: Whether to read consistently.

        Returns:
            Attribute name -> typed value (``{"N": "7"}``), empty if there is no item; None if
            boto3 has to do it.

        Raises:
            LeaseStoreUnavailable: DynamoDB is busy, or did not respond.
        """
        from lambda_migrate.lease.dynamodb_http import parse_item

        return self._call("GetItem", table, target, {"ConsistentRead": consistent}, parse_item)

    def update_item(
        self, table: str, target: str, update: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Update the item whose partition key ``target`` is ``target``, if its condition holds.

        Args:
            table: Name of the table; an ARN is left to boto3.
            target: The key.
            update: The other parameters of UpdateItem; ``ReturnValues`` must be ``ALL_NEW``.

        Returns:
            The item as updated; None if boto3 has to do it.

        Raises:
            ConditionFailed: The condition did not hold.
            LeaseStoreUnavailable: DynamoDB is busy, or did not respond; it may have updated.
        """
        from lambda_migrate.lease.dynamodb_http import parse_updated_item

        return self._call("UpdateItem", table, target, update, parse_updated_item)

    def close(self) -> None:
        """Close the idle connection; the next call opens another one. Idempotent."""
        while (connection := self._take_idle_connection()) is not None:
            connection.close()

    def _call(
        self,
        operation: str,
        table: str,
        target: str,
        parameters: Mapping[str, Any],
        parse: Callable[[HTTPResponse, str], Mapping[str, Any]],
    ) -> Mapping[str, Any] | None:
        config = None if self._is_disabled else resolve_config(self._environ)
        if config is None or not set(table) <= _TABLE_NAME_CHARACTERS:
            self._disable()
            return None
        from lambda_migrate.lease.dynamodb_http import FallbackNeeded, NoResponse, RetryLater

        started = self._clock.monotonic()
        try:
            tls_context = self._tls_context(config)
            started = self._clock.monotonic()  # reading the certificates is CPU, not waiting
            body = {"TableName": table, "Key": {"target": {"S": target}}, **parameters}
            request = build_request(config, operation, body, wall_ms=self._clock.wall_ms())
            response = self._send(config.endpoint, tls_context, request)
            self._has_responded = True
            self._record_date(response.headers.get("date", ""))
            return parse(response, target)
        except RetryLater as error:
            raise _unavailable(f"DynamoDB, table {table!r}: {error}") from None
        except NoResponse as error:
            problem = f"DynamoDB did not respond for table {table!r}: {error}"
            if self._has_responded or config.endpoint.is_configured:
                raise _unavailable(problem) from None
        except FallbackNeeded as error:
            problem = f"the response of DynamoDB for table {table!r} cannot be used: {error}"
        self._disable()
        if self._clock.monotonic() - started > MAX_SECONDS_BEFORE_FALLBACK:
            raise _unavailable(problem)
        return None

    def _record_date(self, date: str) -> None:
        self._last_date = date, self._clock.monotonic()
        if self._server_clock is not None:
            self._server_clock.update(*self._last_date)

    def _disable(self) -> None:
        self._is_disabled = True
        self.close()

    def _tls_context(self, config: ClientConfig) -> ssl.SSLContext | None:
        from lambda_migrate.lease.dynamodb_http import make_tls_context

        if not config.endpoint.is_tls:
            return None
        if config.ca_bundle not in self._tls_contexts:
            self._tls_contexts[config.ca_bundle] = make_tls_context(config.ca_bundle)
        return self._tls_contexts[config.ca_bundle]

    def _send(
        self, endpoint: Endpoint, tls_context: ssl.SSLContext | None, request: bytes
    ) -> HTTPResponse:
        """Send over the idle connection; if that is closed, or there is none, over a new one."""
        from lambda_migrate.lease.dynamodb_http import NoResponse, connect

        deadline = Deadline.after(CONNECT_TIMEOUT_SECONDS + READ_TIMEOUT_SECONDS, self._clock)
        idle = self._take_idle_connection()
        if idle is not None and idle.endpoint.url != endpoint.url:
            idle.close()
            idle = None
        if idle is not None:
            self.request_count += 1
            try:
                return self._exchange(idle, request, deadline)
            except NoResponse as error:
                if not error.is_stale:
                    raise
        connection = connect(endpoint, tls_context, deadline.limited_to(CONNECT_TIMEOUT_SECONDS))
        self.request_count += idle is None
        return self._exchange(connection, request, deadline)

    def _exchange(
        self, connection: HTTPConnection, request: bytes, deadline: Deadline
    ) -> HTTPResponse:
        try:
            return connection.exchange(request, deadline.limited_to(READ_TIMEOUT_SECONDS))
        finally:
            if connection.is_reusable and not self._idle_connections:
                self._idle_connections.append(connection)
            else:
                connection.close()

    def _take_idle_connection(self) -> HTTPConnection | None:
        try:
            return self._idle_connections.pop()
        except IndexError:
            return None


def _unavailable(message: str) -> LeaseStoreUnavailable:
    from lambda_migrate.errors import LeaseStoreUnavailable  # most starts need no error

    return LeaseStoreUnavailable(message)
