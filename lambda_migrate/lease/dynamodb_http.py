"""One exchange at a time over HTTP/1.1, bounded in time and size, and what its response means.

It knows as much of HTTP as the responses of DynamoDB need; for any other it raises
`FallbackNeeded`. `http.client` takes 11 ms of CPU to import even where ssl is loaded (with `email`
and `urllib`; awslambdaric itself imports it only to report an error), has no timeout for a whole
response, and accepts responses that this module refuses.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

from lambda_migrate.clock import connect_tcp

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from typing import Any

    from lambda_migrate.clock import Deadline
    from lambda_migrate.lease.dynamodb_request import Endpoint

__all__ = [
    "FallbackNeeded",
    "HTTPConnection",
    "HTTPResponse",
    "NoResponse",
    "RetryLater",
    "connect",
    "make_tls_context",
    "parse_item",
    "parse_updated_item",
]

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 1024 * 1024
"""DynamoDB's own limit for one item is 400 KB, in a form shorter than JSON."""


_TYPES = frozenset({"B", "BOOL", "BS", "L", "M", "N", "NS", "NULL", "S", "SS"})

_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
"""DynamoDB sends numbers as text. Any other number stays text as well, because converting one of a
million digits would take seconds."""


class FallbackNeeded(Exception):
    """The response is not what DynamoDB sends, or cannot be trusted: boto3 has to be used."""


class NoResponse(Exception):
    """No response came, or only a part of one.

    Attributes:
        is_stale: The server had closed the connection before it sent a single byte.
    """

    def __init__(self, message: str, *, is_stale: bool = False) -> None:
        self.is_stale = is_stale
        super().__init__(message)


class RetryLater(Exception):
    """DynamoDB reports that the same request may succeed later."""


class HTTPResponse:
    """A response; the body of one with status 5xx is not read."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


def make_tls_context(ca_bundle: str) -> ssl.SSLContext:
    """A context that verifies the server's certificate and name.

    Args:
        ca_bundle: PEM file of the certificates to trust; "" for the system's.

    Raises:
        FallbackNeeded: The file cannot be used.
    """
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_bundle or None)
    except OSError as error:  # SSLError is one
        raise FallbackNeeded(f"the CA bundle cannot be used: {error}") from None


def connect(
    endpoint: Endpoint, tls_context: ssl.SSLContext | None, deadline: Deadline
) -> HTTPConnection:
    """Open a connection.

    Args:
        endpoint: The server.
        tls_context: For TLS.
        deadline: When to give up.

    Raises:
        NoResponse: No server is there, or it did not respond in time.
        FallbackNeeded: TLS failed: a server is there, but perhaps not DynamoDB.
    """
    host = endpoint.host.encode("ascii")  # as text it would be put through IDNA: 3 ms to import
    try:
        sock = connect_tcp(host, endpoint.port, deadline)
    except socket.gaierror as error:
        raise NoResponse(f"cannot resolve {endpoint.host}: {error}") from None
    except OSError as error:
        raise NoResponse(_describe(error, is_past_deadline=deadline.is_over)) from None
    if tls_context is None:
        return HTTPConnection(sock, endpoint)
    try:
        sock.settimeout(_remaining_seconds(deadline))
        return HTTPConnection(tls_context.wrap_socket(sock, server_hostname=host), endpoint)
    except (TimeoutError, ConnectionError) as error:
        raise NoResponse(f"TLS handshake failed: {type(error).__name__}") from None
    except (OSError, ValueError) as error:  # SSLError; a name that no certificate can have
        raise FallbackNeeded(f"TLS failed: {type(error).__name__}") from None
    finally:
        sock.close()  # a wrapped socket has its own descriptor


class HTTPConnection:
    """A connection that stays open from one exchange to the next, if the server allows it.

    Args:
        channel: A connected socket.
        endpoint: The server.
    """

    def __init__(self, sock: socket.socket, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.is_reusable = False
        self._sock = sock
        self._received = b""
        self._has_received = False

    def exchange(self, request: bytes, deadline: Deadline) -> HTTPResponse:
        """Send a request and read the response.

        Raises:
            NoResponse: The connection broke, or the deadline passed.
            FallbackNeeded: The response has another form than DynamoDB's.
        """
        self.is_reusable = False
        self._received = b""
        self._has_received = False
        try:
            self._sock.settimeout(_remaining_seconds(deadline))
            self._sock.sendall(request)
        except OSError as error:
            raise self._no_response(error) from None
        status, headers, stays_open = self._read_head(deadline)
        if status >= 500:
            return HTTPResponse(status, headers, b"")
        body = self._read_body(_parse_length(headers), deadline)
        self.is_reusable = stays_open
        return HTTPResponse(status, headers, body)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self.is_reusable = False
        self._sock.close()

    def _read_head(self, deadline: Deadline) -> tuple[int, dict[str, str], bool]:
        """Status, headers, and whether the connection stays open; interim responses are skipped."""
        room = MAX_HEAD_BYTES
        while True:
            end = self._received.find(b"\r\n\r\n")
            if end > room or (end < 0 and len(self._received) > room):
                raise FallbackNeeded("the head of the response is too long")
            if end < 0:
                self._receive(deadline)
                continue
            head, self._received = self._received[:end], self._received[end + 4 :]
            status, headers, stays_open = _parse_head(head)
            if status >= 200:
                return status, headers, stays_open
            if status == 101:
                raise FallbackNeeded("the server switched protocols")
            room -= end + 4

    def _read_body(self, length: int, deadline: Deadline) -> bytes:
        while len(self._received) < length:
            self._receive(deadline)
        if len(self._received) > length:
            raise FallbackNeeded("the body is longer than its Content-Length")
        return self._received

    def _receive(self, deadline: Deadline) -> None:
        try:
            self._sock.settimeout(_remaining_seconds(deadline))
            received = self._sock.recv(65536)
        except OSError as error:
            raise self._no_response(error) from None
        if not received:
            raise NoResponse("the connection was closed", is_stale=not self._has_received)
        self._has_received = True
        self._received += received

    def _no_response(self, error: OSError) -> NoResponse:
        is_past_deadline = isinstance(error, TimeoutError)
        return NoResponse(
            _describe(error, is_past_deadline=is_past_deadline),
            is_stale=not is_past_deadline and not self._has_received,
        )


def _remaining_seconds(deadline: Deadline) -> float:
    """Seconds for the next wait on a socket, for which 0 would mean not to wait at all."""
    seconds = deadline.remaining()
    if seconds <= 0:
        raise NoResponse("timed out")
    return seconds


def _describe(error: OSError, *, is_past_deadline: bool) -> str:
    return "timed out" if is_past_deadline else f"{type(error).__name__}: {error}"


def _parse_head(head: bytes) -> tuple[int, dict[str, str], bool]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status, _, _ = rest.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (_is_number(status) and len(status) == 3):
        raise FallbackNeeded("not an HTTP/1.1 response")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip()
        if not colon or not name or name != name.strip():
            raise FallbackNeeded("malformed headers in the response")
        # Joined, a second length or checksum is not a number and does not match.
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    stays_open = version == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
    return int(status), headers, stays_open


def _parse_length(headers: Mapping[str, str]) -> int:
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or headers.get("content-encoding", "identity") != "identity":
        raise FallbackNeeded("the response is encoded")
    if not _is_number(length) or len(length) > 7 or int(length) > MAX_BODY_BYTES:
        raise FallbackNeeded("the response has no Content-Length, or one that is too large")
    return int(length)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def parse_item(response: HTTPResponse, target: str) -> Mapping[str, Any]:
    """The item in a response to GetItem; empty if there is none.

    Args:
        response: Of any status.
        target: The partition key of the request; the item must have it.

    Raises:
        RetryLater: The same request may succeed later.
        FallbackNeeded: The response is anything else.
    """
    item = _extract_item(_parse_document(response, target), "Item", target)
    return {} if item is None else item


def parse_updated_item(response: HTTPResponse, target: str) -> Mapping[str, Any]:
    """The item in a response to UpdateItem with ``ALL_NEW``.

    Args:
        response: Of any status.
        target: The partition key of the request; the item must have it.

    Raises:
        ConditionFailed: Nothing was written; has the item, if it came with the response.
        RetryLater: The same request may succeed later.
        FallbackNeeded: The response is anything else; the item may have been written.
    """
    item = _extract_item(_parse_document(response, target), "Attributes", target)
    if item is None:
        raise FallbackNeeded("the response to UpdateItem has no item")
    return item


def _parse_document(response: HTTPResponse, target: str) -> dict[str, Any]:
    """The JSON document of a response that is not an error."""
    if response.status >= 500:
        raise RetryLater(f"HTTP {response.status}")
    document = _parse_json(response)
    if response.status == 200:
        return document
    from lambda_migrate.lease.dynamodb_errors import RETRYABLE_CODES, describe_retryable

    code = str(document.get("__type", "")).rpartition("#")[2]
    if code in RETRYABLE_CODES:
        raise RetryLater(describe_retryable(code, str(document.get("message", ""))))
    if response.status == 400 and code == "ConditionalCheckFailedException":
        from lambda_migrate.lease.dynamodb_call import ConditionFailed

        raise ConditionFailed(_check_item(document.get("Item"), target))
    raise FallbackNeeded(f"HTTP {response.status} {code}")


def _parse_json(response: HTTPResponse) -> dict[str, Any]:
    checksum = response.headers.get("x-amz-crc32")
    if checksum is not None:
        from zlib import crc32

        if checksum != str(crc32(response.body)):
            raise FallbackNeeded("the checksum does not match")
    try:
        document = _DECODER.decode(response.body.decode())
    except (ValueError, RecursionError):
        raise FallbackNeeded("the body is not JSON") from None
    if not isinstance(document, dict):
        raise FallbackNeeded("the body is not a JSON object")
    return document


def _extract_item(document: dict[str, Any], name: str, target: str) -> dict[str, Any] | None:
    """The item in a document that holds nothing else."""
    if not document.keys() <= {name, "ConsumedCapacity"}:
        raise FallbackNeeded("the body is not a response to this request")
    return _check_item(document.get(name), target)


def _check_item(item: Any, target: str) -> dict[str, Any] | None:
    """The item itself, if it is well-formed and has the partition key of the request."""
    if item is None:
        return None
    is_valid = (
        isinstance(item, dict)
        and all(isinstance(v, dict) and len(v) == 1 and v.keys() <= _TYPES for v in item.values())
        and item.get("target") == {"S": target}
    )
    if not is_valid:
        raise FallbackNeeded("the item is malformed, or another one than was requested")
    valid: dict[str, Any] = item
    return valid
