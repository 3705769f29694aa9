# ruff: noqa: N802, D102, ARG002 - the handlers' names, purpose and signatures are pg8000's
"""pg8000, kept in step with the server whatever a script does. Only `connection` knows it."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from struct import unpack_from
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.native import Connection as NativeConnection
from scramp import ScramException  # type: ignore[import-untyped]  # publishes no types

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DatabaseError", "Driver", "InterfaceError", "LoginRefused", "ScramException"]

_AUTHENTICATION_OK = 0
_WITH_PASSWORD = (3, 5, 10)  # cleartext, MD5, SASL
_SASL, _SASL_FINAL = 10, 12
_FAILED = b"E"
_COPY_FAIL = b"f"

_CONVERTERS: dict[int, Callable[[str], Any]] = {
    16: "t".__eq__,  # bool
    20: int,  # int8
    21: int,  # int2
    23: int,  # int4
    26: int,  # oid
    700: float,  # float4
    701: float,  # float8
}
"""By type OID of pg_type. All else stays text: a converter that stumbles over a value from a
user's script (a date before Christ) would leave the rest of the answer unread."""

_BLANK = re.compile(r"(?:\s+|--[^\n]*|/\*.*?\*/)*", re.DOTALL)


class LoginRefused(Exception):
    """We end the login: the server asks for what we do not have or do not give."""


class Driver(NativeConnection):  # type: ignore[misc]  # pg8000 publishes no types
    """A pg8000 connection that remembers more and trips over less.

    Attributes:
        tags: Command tags of the last message, one for each statement that finished.
        last_error: The last message's ErrorResponse by field letter, or {}.
        bound: Whether the login was bound to the TLS connection.
    """

    def __init__(self, *, channel_binding: str = "prefer", **arguments: Any) -> None:
        self.tags: list[str] = []
        self.last_error: dict[str, str] = {}
        self.bound = False
        self._binding_demanded = channel_binding == "require"
        self._server_proved = False
        self._sock: Any = None
        super().__init__(**arguments)
        self.pg_types = defaultdict(lambda: str, _CONVERTERS)

    def begin_message(self) -> None:
        """Forget what the message before left behind."""
        self.tags = []
        self.last_error = {}

    @property
    def speaks_utf8(self) -> bool:
        """Whether the server still reads and writes UTF-8; a script may have changed that."""
        return bool(self.parameter_statuses.get("client_encoding", "UTF8").upper() == "UTF8")

    @property
    def transaction_status(self) -> bytes:
        """``I``, ``T`` or ``E``, as the last ReadyForQuery said."""
        return self._transaction_status or b"I"

    @property
    def pid(self) -> int:
        """The backend's process id, or 0 where a proxy keeps it to itself."""
        return int(unpack_from("!i", self._backend_key_data)[0]) if self._backend_key_data else 0

    def close(self) -> None:
        """Close the buffered file; the socket is `connection`'s.

        pg8000 calls it when a login fails, and must not hide that failure behind another.
        """
        file, self._sock = self._sock, None
        if file is not None:
            with contextlib.suppress(OSError, ValueError):
                file.close()

    def handle_AUTHENTICATION_REQUEST(self, data: bytes, context: Any) -> None:
        code = unpack_from("!i", data)[0]
        if code in _WITH_PASSWORD and self.password is None:
            raise LoginRefused("the server asks for a password and none is configured")
        if self._binding_demanded and not self._may_go_on_bound(code, data):
            raise LoginRefused("channel_binding=require, and the server offers no bound SCRAM")
        super().handle_AUTHENTICATION_REQUEST(data, context)
        if code == _SASL:
            self.bound = self.auth.mechanism_name.endswith("-PLUS")
        self._server_proved = self._server_proved or code == _SASL_FINAL

    def _may_go_on_bound(self, code: int, data: bytes) -> bool:
        if code == _SASL:
            return b"-PLUS" in data and hasattr(self._usock, "getpeercert")
        return self._server_proved if code == _AUTHENTICATION_OK else code not in _WITH_PASSWORD

    def handle_ERROR_RESPONSE(self, data: bytes, context: Any) -> None:
        super().handle_ERROR_RESPONSE(data, context)
        self.last_error = context.error.args[0]

    def handle_COMMAND_COMPLETE(self, data: bytes, context: Any) -> None:
        self.tags.append(data[:-1].decode("ascii", errors="replace"))
        if self._transaction_status == _FAILED and len(self.tags) == 1:
            word = first_word(context.statement)
            if word not in ("ROLLBACK", "ABORT"):
                context.error = DatabaseError(_rolled_back_instead(word))

    def handle_ROW_DESCRIPTION(self, data: bytes, context: Any) -> None:
        at = 2
        converters = []
        for _ in range(unpack_from("!H", data)[0]):
            at = data.index(b"\0", at) + 1
            converters.append(self.pg_types[unpack_from("!i", data, at + 6)[0]])
            at += 18
        context.input_funcs = converters
        context.rows = context.rows or []

    def handle_DATA_ROW(self, data: bytes, context: Any) -> None:
        at = 2
        row = []
        for convert in context.input_funcs:
            length = unpack_from("!i", data, at)[0]
            at += 4
            row.append(None if length < 0 else convert(self._text(data[at : at + length])))
            at += max(length, 0)
        context.rows.append(row)

    def handle_COPY_IN_RESPONSE(self, data: bytes, context: Any) -> None:
        # The server waits for rows. Telling it that none come keeps both sides in step.
        self._send_message(_COPY_FAIL, b"a migration has no standard input; use INSERT\0")
        self._sock.flush()

    def handle_COPY_OUT_RESPONSE(self, data: bytes, context: Any) -> None:
        """Nobody reads what a script copies out, as nobody reads the rows that it selects."""

    def handle_COPY_DATA(self, data: bytes, context: Any) -> None:
        """See `handle_COPY_OUT_RESPONSE`."""

    def handle_PARAMETER_STATUS(self, data: bytes, context: Any) -> None:
        # pg8000 would follow a script's SET client_encoding, with names of codecs that do not all
        # exist. We go on in UTF-8, and `connection` sets it again before the next message.
        name, value = data.split(b"\0")[:2]
        self.parameter_statuses[name.decode("ascii", errors="replace")] = self._text(value)

    def handle_NOTIFICATION_RESPONSE(self, data: bytes, context: Any) -> None:
        """Nobody listens; pg8000 would stumble over a payload that is not ASCII."""

    @staticmethod
    def _text(data: bytes) -> str:
        return data.decode("utf-8", errors="replace")


def first_word(sql: str) -> str:
    """The first word of ``sql`` in capitals, past blanks and comments."""
    blank = _BLANK.match(sql)
    word = re.match(r"\w*", sql[blank.end() :] if blank else sql)
    return word.group().upper() if word else ""


def _rolled_back_instead(word: str) -> dict[str, str]:
    return {
        "V": "ERROR",
        "C": "25P02",
        "M": f"the transaction had failed: {word} rolled it back and committed nothing",
    }
