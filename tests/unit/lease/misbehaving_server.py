"""A server on the loopback interface whose replies are scripted, valid or not."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from zlib import crc32

from typing_extensions import Self

Reply = Callable[[socket.socket], object]
"""What is done to a connection once a request has come; hanging up follows if it returns True."""

ITEM = {"target": {"S": "orders"}, "format": {"N": "2"}, "fence": {"N": "7"}}


def response(
    document: object, *, status: str = "200 OK", version: str = "HTTP/1.1", **headers: str
) -> bytes:
    """A well-formed answer; ``headers`` (with _ for -) replace its own, None takes one away."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    fields: dict[str, str] = {
        "content-type": "application/x-amz-json-1.0",
        "content-length": str(len(body)),
        "x-amz-crc32": str(crc32(body)),
    }
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = [f"{version} {status}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def error_response(
    code: str, message: str = "a message", *, status: str = "400 Bad Request"
) -> bytes:
    document = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message}
    return response(document, status=status)


def sends(data: bytes, *, close: bool = False) -> Reply:
    def reply(connection: socket.socket) -> bool:
        connection.sendall(data)
        return close

    return reply


def reset_on_close(connection: socket.socket) -> None:
    """Closing it will cut the client off instead of saying goodbye."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def sends_and_resets(data: bytes) -> Reply:
    def reply(connection: socket.socket) -> bool:
        connection.sendall(data)
        reset_on_close(connection)
        return True

    return reply


def closes(_connection: socket.socket) -> bool:
    return True


def sends_nothing(connection: socket.socket) -> bool:
    """Wait until the client has had enough."""
    return not connection.recv(1)


def sends_slowly(data: bytes) -> Reply:
    """One byte every 5 ms, without end, or until the client has had enough."""

    def reply(connection: socket.socket) -> bool:
        stop = threading.Event()
        for byte in data:
            connection.sendall(bytes([byte]))
            stop.wait(0.005)
        while True:
            connection.sendall(b" ")
            stop.wait(0.005)

    return reply


class Server:
    """Plays are taken in turn, one for each request, the last one repeatedly."""

    def __init__(
        self,
        replies: Sequence[Reply] = (sends(response({"Item": ITEM})),),
        *,
        context: ssl.SSLContext | None = None,
        family: socket.AddressFamily = socket.AF_INET,
    ) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed_connections = threading.Semaphore(0)
        self._plays = list(replies)
        self._context = context
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        bracketed = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if context else 'http'}://{bracketed}:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._open):
            _shut(each)
        for thread in self._threads:
            thread.join()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, connection)

    def _serve(self, plain: socket.socket) -> None:
        self._open.add(plain)
        connection = plain
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(plain, server_side=True)
                self._open.add(connection)
            while request := _request(connection):
                self.requests.append(request)
                reply = self._plays.pop(0) if len(self._plays) > 1 else self._plays[0]
                if reply(connection):
                    return
        except OSError:
            pass  # the client has hung up, which some replies are about
        finally:
            self._open -= {plain, connection}
            connection.close()
            plain.close()
            self.closed_connections.release()


def _request(connection: socket.socket) -> bytes:
    """Head and body; nothing when the client has hung up."""
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(65536)
        if not received:
            return b""
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # it may be closed already
        connection.shutdown(socket.SHUT_RDWR)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
