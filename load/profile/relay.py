"""A TCP relay in front of a server: it speaks TLS to clients, or delays every round trip."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import botocore
import trustme

from lambda_migrate.local.runtime.loopback import HOST
from load.chaos.relay import Loop

__all__ = ["Authority", "open_relay"]

_CHUNK = 1 << 16


class Authority:
    """A certificate authority made for one run, and the bundles that name it.

    Attributes:
        server: The context of a server on this machine.
        only: A bundle with this authority alone.
        among_all: A bundle with all the authorities that botocore ships, and this one.
    """

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HOST, "localhost").configure_cert(self.server)
        own = authority.cert_pem.bytes()
        shipped = (Path(botocore.__file__).parent / "cacert.pem").read_bytes()
        self.only, self.among_all = directory / "only.pem", directory / "all.pem"
        self.only.write_bytes(own)
        self.among_all.write_bytes(shipped + own)

    @classmethod
    @contextmanager
    def create(cls) -> Iterator[Authority]:
        """One whose bundles are in a temporary directory."""
        with tempfile.TemporaryDirectory(prefix="lm-bench-") as directory:
            yield cls(Path(directory))


@contextmanager
def open_relay(
    port: int, *, tls: ssl.SSLContext | None = None, delay_seconds: float = 0.0
) -> Iterator[int]:
    """Another port for the server at ``port`` on this machine.

    Args:
        port: The server's.
        tls: Speak TLS to clients.
        delay_seconds: How much longer each round trip takes, that of connecting included.
    """
    relay = _Relay(port, delay_seconds)
    with Loop() as loop:
        server = loop.run(asyncio.start_server(relay.serve, HOST, 0, ssl=tls))
        yield server.sockets[0].getsockname()[1]


async def _pause(seconds: float) -> None:
    """Sleep; the event loop's own timers are accurate to 1 ms only."""
    if seconds:
        await asyncio.to_thread(time.sleep, seconds)


class _Relay:
    def __init__(self, port: int, delay_seconds: float) -> None:
        self._port = port
        self._delay_seconds = delay_seconds

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):  # either side has hung up, or the end
            await _pause(self._delay_seconds)  # the kernel has answered SYN at once
            back, forth = await asyncio.open_connection(HOST, self._port)
            try:
                await asyncio.gather(
                    self._copy(reader, forth, self._delay_seconds), self._copy(back, writer, 0.0)
                )
            finally:
                forth.transport.abort()
        writer.transport.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
    ) -> None:
        while data := await reader.read(_CHUNK):
            await _pause(seconds)
            writer.write(data)
            await writer.drain()
        with suppress(OSError, NotImplementedError):  # TLS cannot close one direction
            writer.write_eof()
