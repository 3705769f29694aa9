"""A TCP proxy in front of a server: it speaks TLS to clients, or delays every round trip."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import botocore
import trustme

from lambda_migrate.local.runtime.loop_thread import LoopThread
from lambda_migrate.local.runtime.loopback import HOST


class CertificateAuthority(NamedTuple):
    """A certificate authority made for one run, and the bundles that name it."""

    server_context: ssl.SSLContext  # of a server on this machine
    own_bundle: Path  # a bundle with this authority alone
    full_bundle: Path  # one with all the authorities that botocore ships, and this one


@contextmanager
def make_certificate_authority() -> Iterator[CertificateAuthority]:
    """One whose bundles are in a temporary directory."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, "localhost").configure_cert(context)
    own = authority.cert_pem.bytes()
    with tempfile.TemporaryDirectory(prefix="lm-bench-") as directory:
        own_bundle, full_bundle = Path(directory, "only.pem"), Path(directory, "all.pem")
        own_bundle.write_bytes(own)
        full_bundle.write_bytes((Path(botocore.__file__).parent / "cacert.pem").read_bytes() + own)
        yield CertificateAuthority(context, own_bundle, full_bundle)


@contextmanager
def open_proxy(
    port: int, *, tls: ssl.SSLContext | None = None, delay_seconds: float = 0.0
) -> Iterator[int]:
    """Another port for the server at ``port`` on this machine.

    It speaks TLS to clients, or makes each round trip longer, that of connecting included.
    """

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):  # either side has hung up, or the end
            await _pause(delay_seconds)  # the kernel has answered SYN immediately
            server_reader, server_writer = await asyncio.open_connection(HOST, port)
            try:
                await asyncio.gather(
                    _copy(reader, server_writer, delay_seconds), _copy(server_reader, writer, 0.0)
                )
            finally:
                server_writer.transport.abort()
        writer.transport.abort()

    with LoopThread("proxy", executor_threads=16) as loop:
        server = loop.run(asyncio.start_server(serve, HOST, 0, ssl=tls))
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            loop.loop.call_soon_threadsafe(server.close)  # no task outlives the loop


async def _pause(seconds: float) -> None:
    """Sleep; the event loop's own timers are accurate to 1 ms only."""
    if seconds:
        await asyncio.to_thread(time.sleep, seconds)


async def _copy(reader: StreamReader, writer: StreamWriter, delay_seconds: float) -> None:
    while data := await reader.read(1 << 16):
        await _pause(delay_seconds)
        writer.write(data)
        await writer.drain()
    with suppress(OSError, NotImplementedError):  # TLS cannot close one direction
        writer.write_eof()
