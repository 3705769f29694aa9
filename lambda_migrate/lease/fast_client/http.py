"""One HTTP/1.1 exchange at a time on a socket, bounded in time and size.

It knows as much of HTTP as the responses of DynamoDB need; for any other it raises
`FallbackNeeded`.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_migrate.timeouts import connect_tcp

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from lambda_migrate.clock import Deadline
    from lambda_migrate.lease.fast_client.endpoint import Endpoint

__all__ = ["Connection", "FallbackNeeded", "NoResponse", "Response", "connect", "tls_context"]

MAX_HEAD = 16 * 1024
MAX_BODY = 1024 * 1024
"""DynamoDB's own limit for one item is 400 KB, in a form shorter than JSON."""


class FallbackNeeded(Exception):
    """What came back is not what DynamoDB says, or not to be trusted."""


class NoResponse(Exception):
    """Nothing came back, or not all of it.

    Attributes:
        is_stale: The other side had hung up before it answered with a single byte.
    """

    def __init__(self, message: str, *, is_stale: bool = False) -> None:
        self.is_stale = is_stale
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Response:
    """A response; one of 5xx has no body, because nobody asks for its reasons."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def tls_context(cafile: str) -> ssl.SSLContext:
    """What verifies a server's certificate and name.

    Args:
        cafile: PEM file of the authorities to trust; "" for the system's.

    Raises:
        FallbackNeeded: The file cannot be used.
    """
    import ssl

    try:
        return ssl.create_default_context(cafile=cafile or None)
    except OSError as error:  # SSLError is one
        raise FallbackNeeded(f"the CA bundle cannot be used: {error}") from None


def connect(endpoint: Endpoint, context: ssl.SSLContext | None, until: Deadline) -> Connection:
    """Open a connection.

    Args:
        endpoint: Where to.
        context: For TLS.
        until: When to give up.

    Raises:
        NoResponse: Nobody is there, or not in time.
        FallbackNeeded: TLS failed: somebody is there, but perhaps not DynamoDB.
    """
    plain = _dial(endpoint, until)
    if context is None:
        return Connection(plain, endpoint)
    try:
        plain.settimeout(_left(until))
        return Connection(context.wrap_socket(plain, server_hostname=_ascii(endpoint)), endpoint)
    except (TimeoutError, ConnectionError) as error:
        raise NoResponse(f"no TLS handshake: {type(error).__name__}") from None
    except (OSError, ValueError) as error:  # SSLError; a name that no certificate can bear
        raise FallbackNeeded(f"no TLS: {type(error).__name__}") from None
    finally:
        plain.close()  # a wrapped one has given its descriptor away


def _dial(endpoint: Endpoint, until: Deadline) -> socket.socket:
    try:
        return connect_tcp(_ascii(endpoint), endpoint.port, until)
    except socket.gaierror as error:
        raise NoResponse(f"{endpoint.host} has no address: {error}") from None
    except OSError as error:
        is_late = until.remaining() <= 0
        told = "no answer in time" if is_late else f"{type(error).__name__}: {error}"
        raise NoResponse(told) from None


def _ascii(endpoint: Endpoint) -> bytes:
    """The host in bytes: as text it would be put through IDNA, which takes 3 ms to import."""
    return endpoint.host.encode("ascii")


def _left(until: Deadline) -> float:
    """Seconds for the next wait on a socket, where 0 would mean not to wait at all."""
    left = until.remaining()
    if left <= 0:
        raise NoResponse("no answer in time")
    return left


class Connection:
    """A connection that stays open from one exchange to the next, as long as both sides like.

    Args:
        channel: Connected.
        endpoint: To what.
    """

    def __init__(self, channel: socket.socket, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.is_reusable = False
        self._channel = channel
        self._received = b""
        self._has_heard = False

    def exchange(self, request: bytes, until: Deadline) -> Response:
        """Send ``request`` and read what it is answered.

        Raises:
            NoResponse: The connection broke, or time was over first.
            FallbackNeeded: The answer has another form than DynamoDB's.
        """
        self.is_reusable = False
        self._received = b""
        self._has_heard = False
        try:
            self._channel.settimeout(_left(until))
            self._channel.sendall(request)
        except OSError as error:
            raise self._broken(error) from None
        status, headers, may_stay = self._head(until)
        if status >= 500:
            return Response(status, headers, b"")
        body = self._body(_length(headers), until)
        self.is_reusable = may_stay
        return Response(status, headers, body)

    def close(self) -> None:
        """Hang up. Idempotent."""
        self.is_reusable = False
        self._channel.close()

    def _head(self, until: Deadline) -> tuple[int, dict[str, str], bool]:
        """Status, headers, and whether the connection may stay open; interim answers are passed."""
        room = MAX_HEAD
        while True:
            end = self._received.find(b"\r\n\r\n")
            if end > room or (end < 0 and len(self._received) > room):
                raise FallbackNeeded("the answer's head has no end")
            if end < 0:
                self._receive(until)
                continue
            head, self._received = self._received[:end], self._received[end + 4 :]
            status, headers, may_stay = _parsed(head)
            if status >= 200:
                return status, headers, may_stay
            if status == 101:
                raise FallbackNeeded("it changed the protocol")
            room -= end + 4

    def _body(self, length: int, until: Deadline) -> bytes:
        while len(self._received) < length:
            self._receive(until)
        if len(self._received) > length:
            raise FallbackNeeded("more came than the answer's length")
        return self._received

    def _receive(self, until: Deadline) -> None:
        try:
            self._channel.settimeout(_left(until))
            received = self._channel.recv(65536)
        except OSError as error:
            raise self._broken(error) from None
        if not received:
            raise NoResponse("the connection was closed", is_stale=not self._has_heard)
        self._has_heard = True
        self._received += received

    def _broken(self, error: OSError) -> NoResponse:
        is_late = isinstance(error, TimeoutError)
        return NoResponse(
            "no answer in time" if is_late else f"{type(error).__name__}: {error}",
            is_stale=not is_late and not self._has_heard,
        )


def _parsed(head: bytes) -> tuple[int, dict[str, str], bool]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status, _, _ = rest.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (_is_number(status) and len(status) == 3):
        raise FallbackNeeded("this is no HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip()
        if not colon or not name or name != name.strip():
            raise FallbackNeeded("the answer's head is malformed")
        # As one value, a second length or checksum is no number and does not match.
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    may_stay = version == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
    return int(status), headers, may_stay


def _length(headers: Mapping[str, str]) -> int:
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or headers.get("content-encoding", "identity") != "identity":
        raise FallbackNeeded("the answer is encoded")
    if not _is_number(length) or len(length) > 7 or int(length) > MAX_BODY:
        raise FallbackNeeded("the answer has no length, or too great a one")
    return int(length)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
