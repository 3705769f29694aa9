"""A TCP relay in front of a server: it speaks TLS to clients, or delays every round trip."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import botocore
import trustme

__all__ = ["Authority", "relayed"]

_HOST = "127.0.0.1"
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
        authority.issue_cert(_HOST, "localhost").configure_cert(self.server)
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
def relayed(
    port: int, *, tls: ssl.SSLContext | None = None, delay_seconds: float = 0.0
) -> Iterator[int]:
    """Another port for the server at ``port`` on this machine.

    Args:
        port: The server's.
        tls: Speak TLS to clients.
        delay_seconds: How much longer each round trip takes, that of connecting included.
    """
    loop = asyncio.new_event_loop()
    relay = _Relay(port, delay_seconds)
    server = loop.run_until_complete(asyncio.start_server(relay.serve, _HOST, 0, ssl=tls))
    thread = threading.Thread(target=loop.run_forever, name="relay", daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _pause(seconds: float) -> None:
    """Sleep; the event loop's own timers are accurate to 1 ms only."""
    if seconds:
        await asyncio.to_thread(time.sleep, seconds)


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Relay:
    def __init__(self, port: int, delay_seconds: float) -> None:
        self._port = port
        self._delay_seconds = delay_seconds

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):  # either side has hung up, or the end
            await _pause(self._delay_seconds)  # the kernel has answered SYN at once
            back, forth = await asyncio.open_connection(_HOST, self._port)
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
