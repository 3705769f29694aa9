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

_CHUNK_BYTES = 1 << 16

SIGNAL_WAIT_SECONDS = 0.1  # how long a response waits for a signal to arrive at its process

RecordFault = Callable[[str, str], None]  # takes the kind of a fault that took effect, and details


class _ProxiedConnection:
    """One connection and its two directions."""

    def __init__(self) -> None:
        self.traffic_allowed = asyncio.Event()
        self.traffic_allowed.set()
        self.is_muted = False
        self.writers: list[StreamWriter] = []

    def abort(self) -> None:
        self.traffic_allowed.set()
        for writer in self.writers:
            writer.transport.abort()


class PostgreSQLProxy:
    """Carries connections from a TCP port to a server's Unix socket."""

    def __init__(self, loop: LoopThread, socket_path: Path, record_fault: RecordFault) -> None:
        self.port = 0
        # Break the connection between the next ``commit``, or ``takeover``, and its response.
        self.lost_responses: list[str] = []
        self.commit_delays: list[float] = []  # seconds by which the next COMMITs are delayed
        # Called when the next COMMIT was sent, before its response arrives.
        self.on_next_commit: list[Callable[[], object]] = []
        self._loop = loop
        self._socket_path = str(socket_path)
        self._record_fault = record_fault
        self._connections: set[_ProxiedConnection] = set()
        self._active_pauses = 0
        self._active_refusals = 0
        self._server: asyncio.AbstractServer  # once it was entered

    def __enter__(self) -> PostgreSQLProxy:
        self._server = self._loop.run(asyncio.start_server(self._serve, HOST, 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        async def close() -> None:
            self._server.close()
            for connection in list(self._connections):
                connection.abort()
            await asyncio.sleep(0)

        self._loop.run(close())

    # --- outages; when they are cancelled, they end immediately

    async def refuse_connections(self, seconds: float) -> None:
        """Break all connections, take no new ones for so long."""
        if self._connections:
            self._record_fault("postgresql-refused", f"{len(self._connections)} connections")
        for connection in list(self._connections):
            connection.abort()
        self._active_refusals += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._active_refusals -= 1

    async def pause_traffic(self, seconds: float, *, include_new_connections: bool) -> None:
        """Hold back everything for so long, then deliver it, as a network that heals does."""
        paused = list(self._connections)
        for connection in paused:
            connection.traffic_allowed.clear()
        if paused or include_new_connections:
            kind = "silent" if include_new_connections else "stuck"
            self._record_fault(f"postgresql-{kind}", "")
        self._active_pauses += include_new_connections
        try:
            await asyncio.sleep(seconds)
        finally:
            self._active_pauses -= include_new_connections
            for connection in list(self._connections) if include_new_connections else paused:
                connection.traffic_allowed.set()

    def clear_faults(self) -> None:
        """Disarm what waits for the next COMMIT."""
        self.lost_responses.clear()
        self.commit_delays.clear()
        self.on_next_commit.clear()

    # --- carrying

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        connection = _ProxiedConnection()
        connection.writers.append(writer)
        if self._active_refusals:
            self._record_fault("postgresql-refused", "a new connection")
            connection.abort()
            return
        if self._active_pauses:
            connection.traffic_allowed.clear()
        self._connections.add(connection)
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._socket_path)
            connection.writers.append(server_writer)
            await asyncio.gather(
                self._client_to_server(reader, server_writer, connection),
                self._server_to_client(server_reader, writer, connection),
            )
        except OSError:
            pass  # the server is down, or either end has gone: the other one notices
        finally:
            self._connections.discard(connection)
            connection.abort()

    async def _client_to_server(
        self, reader: StreamReader, writer: StreamWriter, connection: _ProxiedConnection
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            commit_kind = _classify_commit(data)
            if commit_kind:
                await self._apply_commit_faults(connection, commit_kind)
            await connection.traffic_allowed.wait()
            writer.write(data)
            await writer.drain()
            if commit_kind == "commit" and self.on_next_commit:
                connection.traffic_allowed.clear()  # until the signal has arrived
                self._loop.loop.call_later(SIGNAL_WAIT_SECONDS, connection.traffic_allowed.set)
                self.on_next_commit.pop()()
        await connection.traffic_allowed.wait()
        with contextlib.suppress(OSError, NotImplementedError):
            writer.write_eof()

    async def _apply_commit_faults(self, connection: _ProxiedConnection, commit_kind: str) -> None:
        if self.commit_delays and commit_kind == "commit":
            seconds = self.commit_delays.pop()
            self._record_fault("commit-late", f"{seconds:.2f} s")
            await asyncio.sleep(seconds)
        if commit_kind in self.lost_responses:
            self.lost_responses.remove(commit_kind)
            self._record_fault(f"{commit_kind}-unanswered", "")
            connection.is_muted = True

    async def _server_to_client(
        self, reader: StreamReader, writer: StreamWriter, connection: _ProxiedConnection
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await connection.traffic_allowed.wait()
            if connection.is_muted:
                break
            writer.write(data)
            await writer.drain()
        await connection.traffic_allowed.wait()
        connection.abort()


def _classify_commit(data: bytes) -> str:
    """``takeover`` for the fence's row and the library's tables, else ``commit``; "" if neither."""
    if not _COMMIT_PATTERN.search(data):
        return ""
    is_takeover = b"idle_session_timeout = 0; COMMIT" in data or b"pg_advisory_xact_lock" in data
    return "takeover" if is_takeover else "commit"


_COMMIT_PATTERN = re.compile(rb"\bCOMMIT\s*[;\0]")  # the statement, no BEGIN's isolation level
