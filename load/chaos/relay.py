"""The network between the environments and PostgreSQL, with faults.

Bytes are carried by tasks of an event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from pathlib import Path

from lambda_migrate.local.runtime.loop_thread import LoopThread
from lambda_migrate.local.runtime.loopback import HOST

_CHUNK = 1 << 16

SIGNAL_SECONDS = 0.1  # how long a response waits for a signal to arrive at its process

RecordFault = Callable[[str, str], None]  # takes the kind of a fault that took effect, and details


class _Link:
    """One connection and its two directions."""

    def __init__(self) -> None:
        self.passes = asyncio.Event()
        self.passes.set()
        self.is_muted = False
        self.writers: list[StreamWriter] = []

    def cut(self) -> None:
        self.passes.set()
        for writer in self.writers:
            writer.transport.abort()


class PostgreSQLRelay:
    """Carries connections from a TCP port to a server's Unix socket."""

    def __init__(self, loop: LoopThread, server: Path, record_fault: RecordFault) -> None:
        self.port = 0
        # Break the connection between the next ``commit``, or ``takeover``, and its response.
        self.unanswered: list[str] = []
        self.late_commits: list[float] = []  # seconds by which the next COMMITs are delayed
        # Called when the next COMMIT was sent, before its response arrives.
        self.on_next_commit: list[Callable[[], object]] = []
        self._loop = loop
        self._socket = server
        self._record_fault = record_fault
        self._links: set[_Link] = set()
        self._silent = 0
        self._refusing = 0
        self._server: asyncio.AbstractServer  # once it was entered

    def __enter__(self) -> PostgreSQLRelay:
        self._server = self._loop.run(asyncio.start_server(self._serve, HOST, 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        async def close() -> None:
            self._server.close()
            for link in list(self._links):
                link.cut()
            await asyncio.sleep(0)

        self._loop.run(close())

    # --- outages; when they are cancelled, they end immediately

    async def refuse(self, seconds: float) -> None:
        """Break all connections, take no new ones for so long."""
        if self._links:
            self._record_fault("postgresql-refused", f"{len(self._links)} connections")
        for link in list(self._links):
            link.cut()
        self._refusing += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._refusing -= 1

    async def silence(self, seconds: float, *, include_new_connections: bool) -> None:
        """Hold back everything for so long, then deliver it, as a network that heals does."""
        held = list(self._links)
        for link in held:
            link.passes.clear()
        if held or include_new_connections:
            kind = "silent" if include_new_connections else "stuck"
            self._record_fault(f"postgresql-{kind}", "")
        self._silent += include_new_connections
        try:
            await asyncio.sleep(seconds)
        finally:
            self._silent -= include_new_connections
            for link in list(self._links) if include_new_connections else held:
                link.passes.set()

    def clear_faults(self) -> None:
        """Disarm what waits for the next COMMIT."""
        self.unanswered.clear()
        self.late_commits.clear()
        self.on_next_commit.clear()

    # --- carrying

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        link = _Link()
        link.writers.append(writer)
        if self._refusing:
            self._record_fault("postgresql-refused", "a new connection")
            link.cut()
            return
        if self._silent:
            link.passes.clear()
        self._links.add(link)
        try:
            back, forth = await asyncio.open_unix_connection(str(self._socket))
            link.writers.append(forth)
            await asyncio.gather(
                self._client_to_server(reader, forth, link),
                self._server_to_client(back, writer, link),
            )
        except OSError:
            pass  # the server is down, or either end has gone: the other one notices
        finally:
            self._links.discard(link)
            link.cut()

    async def _client_to_server(
        self, reader: StreamReader, writer: StreamWriter, link: _Link
    ) -> None:
        while data := await reader.read(_CHUNK):
            what = _what_is_committed(data)
            if what:
                await self._before_commit(link, what)
            await link.passes.wait()
            writer.write(data)
            await writer.drain()
            if what == "commit" and self.on_next_commit:
                link.passes.clear()  # the response waits until the signal has arrived
                self._loop.loop.call_later(SIGNAL_SECONDS, link.passes.set)
                self.on_next_commit.pop()()
        await link.passes.wait()
        with contextlib.suppress(OSError, NotImplementedError):
            writer.write_eof()

    async def _before_commit(self, link: _Link, what: str) -> None:
        if self.late_commits and what == "commit":
            seconds = self.late_commits.pop()
            self._record_fault("commit-late", f"{seconds:.2f} s")
            await asyncio.sleep(seconds)
        if what in self.unanswered:
            self.unanswered.remove(what)
            self._record_fault(f"{what}-unanswered", "")
            link.is_muted = True

    async def _server_to_client(
        self, reader: StreamReader, writer: StreamWriter, link: _Link
    ) -> None:
        while data := await reader.read(_CHUNK):
            await link.passes.wait()
            if link.is_muted:
                break
            writer.write(data)
            await writer.drain()
        await link.passes.wait()
        link.cut()


def _what_is_committed(data: bytes) -> str:
    """``takeover`` for the fence's row and the library's tables, else ``commit``; "" if neither."""
    if not _COMMIT.search(data):
        return ""
    is_takeover = b"idle_session_timeout = 0; COMMIT" in data or b"pg_advisory_xact_lock" in data
    return "takeover" if is_takeover else "commit"


_COMMIT = re.compile(rb"\bCOMMIT\s*[;\0]")  # the statement, and not the isolation level of a BEGIN
