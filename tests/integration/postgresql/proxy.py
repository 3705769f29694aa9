"""A proxy on a Unix socket that cuts the connection of a holder where a test requests it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from lambda_migrate.database_address import DatabaseAddress
from lambda_migrate.postgresql.connection import connect


def message(sql: str) -> bytes:
    """A statement outside a transaction, as a whole message, which a row that quotes it is not."""
    text = b"/* lambda-migrate:shop:1 */ " + sql.encode() + b"\0"
    return b"Q" + struct.pack("!i", len(text) + 4) + text


class Proxy:
    """Passes everything on until ``cut`` has seen what it waits for; then works on untouched.

    Args:
        address: The server, on a Unix socket or TCP.
        needle: Bytes that the client sends in the message to be cut at.
        deliver: Whether that message still reaches the server; its answer never comes back.
        times: How many connections are cut.
    """

    def __init__(
        self, address: DatabaseAddress, *, needle: bytes, deliver: bool, times: int = 1
    ) -> None:
        self.cuts = 0
        self._real = address
        self._needle = needle
        self._deliver = deliver
        self._times = times
        self._folder = tempfile.mkdtemp(prefix="lm-proxy-")
        self.address = address.replace(host="", socket_dir=self._folder)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"{self._folder}/.s.PGSQL.{address.port}")
        self._listener.listen()
        self._open: list[socket.socket] = [self._listener]

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._open:
            _shut(sock)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        server = self._connect()
        self._open += [client, server]
        muted = threading.Event()
        self._start(lambda: self._up(client, server, muted))
        self._start(lambda: self._down(client, server, muted))

    def _connect(self) -> socket.socket:
        if not self._real.socket_dir:
            return socket.create_connection((self._real.host, self._real.port))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(f"{self._real.socket_dir}/.s.PGSQL.{self._real.port}")
        return sock

    def _up(self, client: socket.socket, server: socket.socket, muted: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 20):
                if self._needle in data and self.cuts < self._times:
                    self.cuts += 1
                    muted.set()
                    if not self._deliver:
                        break
                    server.sendall(data)
                    return  # `_down` shuts both once the server has answered
                server.sendall(data)
        _shut(client)
        _shut(server)

    def _down(self, client: socket.socket, server: socket.socket, muted: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 20):
                if muted.is_set():
                    break
                client.sendall(data)
        _shut(client)
        _shut(server)


def connect_through(proxy: Proxy) -> dict[str, Any]:
    """What makes a `EmptyDatabase` connect through the proxy."""
    return {"connect": lambda name, s: connect(proxy.address, application_name=name, timeout=s)}


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
