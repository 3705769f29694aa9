# ruff: noqa: N802, D102, ARG002 - the handlers' names, purpose and signatures are pg8000's
"""A pg8000 connection that stays in sync with the server whatever a script does.

Only `connection` uses it.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict, deque
from struct import Struct, unpack_from
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.native import Connection as NativeConnection
from scramp import ScramException  # type: ignore[import-untyped]  # publishes no types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "DatabaseError",
    "DriverConnection",
    "InterfaceError",
    "LoginRefused",
    "PasswordMissing",
    "ScramException",
]

_AUTHENTICATION_OK = 0
_PASSWORD_METHODS = (3, 5, 10)  # cleartext, MD5, SASL
_SASL, _SASL_FINAL = 10, 12
_FAILED_TRANSACTION = b"E"
_COPY_FAIL = b"f"

_MESSAGE_HEADER = Struct("!ci")
"""Kind and length of a message; the length counts its own four bytes."""

_READY, _ERROR, _NOTICE, _ROW = b"Z", b"E", b"N", b"D"
_SKIPPED_KINDS = b"AHdc"
"""Notifications, COPY output: a script may cause any number of them, of any length."""

_KEPT_NOTICES = 20
"""Of a message. A script may cause any number; a warning replaces what is less important."""

_CHUNK_BYTES = 1 << 16
"""Skipped data is read in chunks of this size. A longer row is not kept: the last row of a script's
message comes from the library and is shorter."""

_FIELD_BYTES = 4_000
"""Each field of an error is truncated to this length: a DETAIL may quote a value of 1 GB."""

_TRUNCATION_MARK = b" [...]"

_CONVERTERS: dict[int, Callable[[str], Any]] = {
    16: "t".__eq__,  # bool
    20: int,  # int8
    21: int,  # int2
    23: int,  # int4
    26: int,  # oid
    700: float,  # float4
    701: float,  # float8
}
"""By type OID of pg_type. All other types stay text: a converter that fails on a value of a user's
script (a date before Christ) would leave the rest of the response unread."""

_BLANK = re.compile(r"(?:\s+|--[^\n]*|/\*.*?\*/)*", re.DOTALL)


class LoginRefused(Exception):
    """The client ends the login: the server requests something that is missing or refused."""


class PasswordMissing(LoginRefused):
    """The server requests a password, and the client has none."""

    def __init__(self) -> None:
        super().__init__(
            "the server asks for a password and none is configured: put it into the URL, "
            "PGPASSWORD or ~/.pgpass, or name a secret (LAMBDA_MIGRATE_DATABASE_SECRET)"
        )


class DriverConnection(NativeConnection):  # type: ignore[misc]  # pg8000 publishes no types
    """A pg8000 connection that keeps command tags and errors, and limits memory.

    Attributes:
        tags: Command tags of the last message, one for each statement that finished.
        notices: Warnings and notices of scripts (``keep_rows`` is not None) until they are taken,
            by field letter, at most `_KEPT_NOTICES`.
        dropped_notices: How many more there were.
        last_error: The ErrorResponse to the last message by field letter, or {}.
    """

    def __init__(self, *, channel_binding: str = "prefer", **arguments: Any) -> None:
        self.tags: list[str] = []
        self.dropped_notices = 0
        self.last_error: dict[str, str] = {}
        self._keep_rows: int | None = None
        self._requires_binding = channel_binding == "require"
        self._server_verified = False
        self._sock: Any = None
        super().__init__(**arguments)
        self.notices: list[dict[str, str]] = []
        self.pg_types = defaultdict(lambda: str, _CONVERTERS)

    def run(self, sql: str, *, keep_rows: int | None = None) -> list[list[Any]]:
        """Send one message; returns its rows, or the last ``keep_rows`` of them.

        Rows that are not kept are not decoded, and are read in chunks of 64 KiB.
        """
        self.tags = []
        self.last_error = {}
        self._keep_rows = keep_rows
        return [self._row(*row) for row in self.execute_simple(sql).rows or ()]

    def handle_messages(self, context: Any) -> None:
        # pg8000 copies each message three times. The size of a message depends on the script.
        code = b""
        while code != _READY:
            code, length = _MESSAGE_HEADER.unpack(self._read(5))
            if self._is_skipped(code, length):
                for _ in self._read_chunks(length - 4):
                    pass
                continue
            handle = self.message_types[code]
            is_long = code in (_ERROR, _NOTICE) and length > _FIELD_BYTES
            read = _truncate_error_fields if is_long else b"".join
            handle(read(self._read_chunks(length - 4)), context)
        if context.error is not None:
            raise context.error

    def _is_skipped(self, code: bytes, length: int) -> bool:
        if code == _ROW and self._keep_rows is not None:
            return self._keep_rows == 0 or length > _CHUNK_BYTES
        return code in _SKIPPED_KINDS

    def _read(self, length: int) -> bytes:
        data: bytes = self._sock.read(length)
        if len(data) < length:
            raise InterfaceError("network error")
        return data

    def _read_chunks(self, length: int) -> Iterator[bytes]:
        while length > 0:
            yield self._read(min(length, _CHUNK_BYTES))
            length -= _CHUNK_BYTES

    @property
    def uses_utf8(self) -> bool:
        """Whether the session's encoding is still UTF-8; a script may change it."""
        return bool(self.parameter_statuses.get("client_encoding", "UTF8").upper() == "UTF8")

    @property
    def transaction_status(self) -> bytes:
        """``I``, ``T`` or ``E``, from the last ReadyForQuery."""
        return self._transaction_status or b"I"

    @property
    def pid(self) -> int:
        """The backend's process id, or 0 if a proxy does not report it."""
        return int(unpack_from("!i", self._backend_key_data)[0]) if self._backend_key_data else 0

    def close(self) -> None:
        """Close the buffered file; `connection` closes the socket.

        pg8000 calls this when a login fails; no other error may replace that failure.
        """
        file, self._sock = self._sock, None
        if file is not None:
            with contextlib.suppress(OSError, ValueError):
                file.close()

    def handle_AUTHENTICATION_REQUEST(self, data: bytes, context: Any) -> None:
        code = unpack_from("!i", data)[0]
        if code in _PASSWORD_METHODS and self.password is None:
            raise PasswordMissing
        if self._requires_binding and not self._keeps_channel_binding(code, data):
            raise LoginRefused(
                "channel_binding=require, but the server does not offer SCRAM with channel binding"
            )
        super().handle_AUTHENTICATION_REQUEST(data, context)
        self._server_verified = self._server_verified or code == _SASL_FINAL

    def _keeps_channel_binding(self, code: int, data: bytes) -> bool:
        if code == _SASL:
            return b"-PLUS" in data and hasattr(self._usock, "getpeercert")
        return (
            self._server_verified if code == _AUTHENTICATION_OK else code not in _PASSWORD_METHODS
        )

    def handle_ERROR_RESPONSE(self, data: bytes, context: Any) -> None:
        super().handle_ERROR_RESPONSE(_truncate_error_fields([data]), context)
        self.last_error = context.error.args[0]

    def handle_NOTICE_RESPONSE(self, data: bytes, context: Any) -> None:
        if self._keep_rows is None:
            return
        if len(self.notices) == _KEPT_NOTICES:
            self.dropped_notices += 1
            if b"\0VWARNING\0" not in data:  # there may be a million of these
                return
            others = [each for each in self.notices if each.get("V") != "WARNING"]
            if not others:
                return
            self.notices.remove(others[-1])
        self.notices.append(
            {chr(part[0]): self._text(part[1:]) for part in data.split(b"\0") if part}
        )

    def handle_COMMAND_COMPLETE(self, data: bytes, context: Any) -> None:
        self.tags.append(data[:-1].decode("ascii", errors="replace"))
        if self._transaction_status == _FAILED_TRANSACTION and len(self.tags) == 1:
            command = first_word(context.statement)
            if command not in ("ROLLBACK", "ABORT"):
                context.error = DatabaseError(_failed_commit_fields(command))

    def handle_ROW_DESCRIPTION(self, data: bytes, context: Any) -> None:
        at = 2
        converters = []
        for _ in range(unpack_from("!H", data)[0]):
            at = data.index(b"\0", at) + 1
            converters.append(self.pg_types[unpack_from("!i", data, at + 6)[0]])
            at += 18
        context.input_funcs = converters
        if context.rows is None:
            context.rows = deque(maxlen=self._keep_rows)

    def handle_DATA_ROW(self, data: bytes, context: Any) -> None:
        context.rows.append((data, context.input_funcs))

    def _row(self, data: bytes, converters: list[Callable[[str], Any]]) -> list[Any]:
        at = 2
        row = []
        for convert in converters:
            length = unpack_from("!i", data, at)[0]
            at += 4
            row.append(None if length < 0 else convert(self._text(data[at : at + length])))
            at += max(length, 0)
        return row

    def handle_COPY_IN_RESPONSE(self, data: bytes, context: Any) -> None:
        # The server waits for rows; CopyFail ends that.
        self._send_message(_COPY_FAIL, b"a migration has no standard input; use INSERT\0")
        self._sock.flush()

    def handle_PARAMETER_STATUS(self, data: bytes, context: Any) -> None:
        # pg8000 would follow a script's SET client_encoding, with codecs that do not all exist.
        # This driver stays in UTF-8, and `connection` sets it again before the next message.
        name, value = data.split(b"\0")[:2]
        self.parameter_statuses[name.decode("ascii", errors="replace")] = self._text(value)

    @staticmethod
    def _text(data: bytes) -> str:
        return data.decode("utf-8", errors="replace")


def first_word(sql: str) -> str:
    """The first word of ``sql`` in capitals, past blanks and comments."""
    blank = _BLANK.match(sql)
    word = re.match(r"\w*", sql[blank.end() :] if blank else sql)
    return word.group().upper() if word else ""


def _truncate_error_fields(pieces: Iterable[bytes]) -> bytes:
    """An ErrorResponse, given in chunks, with each field truncated."""
    kept = bytearray()
    room = _FIELD_BYTES
    for piece in pieces:
        for number, part in enumerate(piece.split(b"\0")):
            if number:
                kept.append(0)
                room = _FIELD_BYTES
            kept += part[: max(room, 0)]
            if len(part) > room >= 0:
                kept += _TRUNCATION_MARK
            room -= len(part)
    return bytes(kept)


def _failed_commit_fields(command: str) -> dict[str, str]:
    return {
        "V": "ERROR",
        "C": "25P02",
        "M": f"the transaction had failed: {command} rolled it back and committed nothing",
    }
