"""One connection to PostgreSQL, over a socket that the library opens itself.

The library opens the socket, wraps it in TLS, and passes it to pg8000. So it can limit the wait for
each message, and end a running one from another thread. There are three errors:

- `ConnectionFailed`: no connection was made; ``permanent`` is true if no retry can help.
- `PostgresError`: the server refused a statement; the connection stays usable.
- `ConnectionLost`: the connection is closed, and the outcome of its statement may be unknown.

They are internal: callers of the package see `lambda_migrate.errors`. No message holds a password.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lambda_migrate.clock import SYSTEM_CLOCK, Clock, Deadline, connect_tcp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lambda_migrate.database_address import DatabaseAddress
    from lambda_migrate.postgresql.driver import DriverConnection


__all__ = [
    "Connection",
    "ConnectionFailed",
    "ConnectionLost",
    "PostgresError",
    "TransactionStatus",
    "connect",
]

TransactionStatus = Literal["idle", "transaction", "failed"]

_STATUSES: dict[bytes, TransactionStatus] = {b"I": "idle", b"T": "transaction", b"E": "failed"}
_STARTUP = {"client_encoding": "UTF8", "standard_conforming_strings": "on"}
_CLOSE_SECONDS = 1.0
"""How long `Connection.close` may take to send its Terminate message."""

_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds, seconds, probes: a vanished peer is detected after 25 s without traffic."""

_PERMANENT_CLASSES = ("28", "3D", "42", "22", "0A")
"""Not authenticated, no such database, no privilege or parameter, wrong value, unsupported
(appendix A of PostgreSQL's manual)."""

_FORBIDDEN_CHARACTERS = re.compile("[\0\ud800-\udfff]")

_PROTOCOL_VIOLATION = "08P01"
"""PgBouncer's code for nearly everything: it is full for now, the server does not respond, or it
refuses a login or a parameter permanently. Only the text distinguishes them."""

_POOLER_LOGIN_REFUSAL = re.compile(
    r"no such user|authentication (method|failed)|login (rejected|failed)|auth failed"
    r"|password (pkt|authentication)|empty password|no username"
)
_POOLER_PERMANENT_REFUSAL = re.compile(
    r"unsupported|no such database|does not exist|is disabled|too long|SSL required|config error"
    r"|not supported|disallowed|invalid startup|permission denied"
)
_UNKNOWN_PARAMETER = re.compile(r"unsupported startup parameter(?: in options)?: (\S+)")


class PostgresError(Exception):
    """The server refused a statement; the connection stays usable.

    Attributes:
        sqlstate: Five characters.
        message: The server's primary message.
        detail: The detail message, or "".
        hint: The hint, or "".
        position: The position of the error in the SQL that was sent, in characters from 1, or None.
        where: The call stack of functions, or "".
        severity: ``ERROR``.
        schema, table, column, constraint: Names of the objects concerned, or "".
    """

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.sqlstate = fields.get("C", "")
        self.message = fields.get("M", "")
        self.detail = fields.get("D", "")
        self.hint = fields.get("H", "")
        self.position = int(fields["P"]) if fields.get("P", "").isdigit() else None
        self.where = fields.get("W", "")
        self.schema = fields.get("s", "")
        self.table = fields.get("t", "")
        self.column = fields.get("c", "")
        super().__init__(f"{self.message} [{self.sqlstate}]")

    def change_texts(self, change: Callable[[str], str]) -> None:
        """Replace what the server may have quoted from a script."""
        self.message, self.detail = change(self.message), change(self.detail)
        self.hint, self.where = change(self.hint), change(self.where)
        self.args = (f"{self.message} [{self.sqlstate}]",)


class ConnectionLost(Exception):
    """The connection is closed: network, timeout, abort, or the server ended it.

    Attributes:
        reason: One sentence.
        sqlstate: The server's last error (``57P01``: an administrator ended it), or "".
    """

    def __init__(self, reason: str, *, sqlstate: str = "") -> None:
        self.reason = reason
        self.sqlstate = sqlstate
        super().__init__(f"{reason} [{sqlstate}]" if sqlstate else reason)


class ConnectionFailed(Exception):
    """No connection was made.

    Attributes:
        reason: One sentence, with host, port, database and user.
        permanent: Whether it will fail again until a setting is changed.
        sqlstate: The server's error code, or "".
        server_responded: Whether a server responded, so that another ``sslmode`` may succeed.
        is_password_missing: Whether the server asked for a password and none is configured.
    """

    def __init__(
        self, reason: str, *, permanent: bool, sqlstate: str = "", server_responded: bool = False
    ) -> None:
        self.is_password_missing = False
        self.reason = reason
        self.permanent = permanent
        self.sqlstate = sqlstate
        self.server_responded = server_responded
        super().__init__(reason)

    @property
    def is_authentication_error(self) -> bool:
        """Whether new credentials may help: the role or its password was refused."""
        by_pooler = self.sqlstate == _PROTOCOL_VIOLATION and self.permanent
        return (
            self.sqlstate.startswith("28")
            or self.is_password_missing
            or (by_pooler and bool(_POOLER_LOGIN_REFUSAL.search(self.reason)))
        )


def connect(
    address: DatabaseAddress,
    *,
    application_name: str,
    startup: Mapping[str, str] | None = None,
    timeout: float,
    clock: Clock = SYSTEM_CLOCK,
) -> Connection:
    """Open a connection, in plaintext or with TLS as the address requires.

    ``allow`` tries plaintext first and ``prefer`` TLS first; each tries the other one if the server
    refused.

    Args:
        address: The address, with user and password.
        application_name: Shown in ``pg_stat_activity``; PostgreSQL keeps at most 63 bytes.
        startup: Further settings for the session, such as ``lock_timeout``.
        timeout: Seconds until the connection must be ready; the address's ``connect_timeout``
            applies if it is shorter.
        clock: For the timeout.

    Raises:
        ConnectionFailed: See ``permanent``.
    """
    seconds = min(timeout, address.connect_timeout or timeout)
    attempt = _ConnectAttempt(
        address=address,
        application_name=application_name,
        startup={**_STARTUP, **(startup or {})},
        deadline=Deadline.after(seconds, clock),
        seconds=seconds,
    )
    first, *others = _ENCRYPTIONS[address.effective_sslmode]
    try:
        return attempt.connect(first)
    except ConnectionFailed as failed:
        if not failed.server_responded or not others:
            raise
        return _retry_with_other_encryption(attempt, others[0], failed)


def _retry_with_other_encryption(
    attempt: _ConnectAttempt, encryption: _Encryption, first_error: ConnectionFailed
) -> Connection:
    try:
        return attempt.connect(encryption)
    except ConnectionFailed as failed:
        reasons = dict.fromkeys((first_error.reason, failed.reason))
        raise ConnectionFailed(
            "; after that: ".join(reasons),
            permanent=first_error.permanent and failed.permanent,
            sqlstate=failed.sqlstate or first_error.sqlstate,
            server_responded=True,
        ) from failed


_Encryption = Literal["none", "if offered", "required"]
_ENCRYPTIONS: dict[str, tuple[_Encryption, ...]] = {
    "disable": ("none",),
    "allow": ("none", "required"),
    "prefer": ("if offered", "none"),
    "require": ("required",),
    "verify-ca": ("required",),
    "verify-full": ("required",),
}


@dataclass(frozen=True, kw_only=True)
class _ConnectAttempt:
    """One attempt to connect, step by step."""

    address: DatabaseAddress
    application_name: str
    startup: Mapping[str, str]
    deadline: Deadline
    seconds: float

    def connect(self, encryption: _Encryption) -> Connection:
        self._check_login()
        sock = self._open_socket()
        try:
            sock = self._wrap_in_tls(sock, encryption)
            driver = self._login(sock)
            sock.settimeout(None)
        except BaseException:
            sock.close()
            raise
        return Connection(driver, sock)

    def _check_login(self) -> None:
        """Refuse a NUL: it would end a field of the login message and begin another one."""
        for what, text in (
            ("user", self.address.user),
            ("password", self.address.password or ""),
            ("database name", self.address.database),
        ):
            if _FORBIDDEN_CHARACTERS.search(text):
                reason = f"the {what} contains a NUL or an unpaired surrogate; correct it"
                raise self._connect_error(reason, permanent=True)

    def _open_socket(self) -> socket.socket:
        try:
            sock = self._connect_unix() if self.address.socket_dir else self._connect_tcp()
        except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
            permanent = isinstance(error, (PermissionError, UnicodeError))
            raise self._connect_error(self._describe_error(error), permanent=permanent) from error
        return sock

    def _connect_unix(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self._remaining())
            sock.connect(f"{self.address.socket_dir.rstrip('/')}/.s.PGSQL.{self.address.port}")
        except BaseException:
            sock.close()
            raise
        return sock

    def _connect_tcp(self) -> socket.socket:
        sock = connect_tcp(self.address.host, self.address.port, self.deadline)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):  # macOS has other names for some
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return sock

    def _wrap_in_tls(self, sock: socket.socket, encryption: _Encryption) -> socket.socket:
        if encryption == "none":
            return sock
        import ssl

        from lambda_migrate.postgresql import tls

        try:
            context = tls.make_tls_context(self.address)
            sock.settimeout(self._remaining())
            if tls.server_offers_tls(sock):
                return context.wrap_socket(sock, server_hostname=self.address.host)
        except tls.RootCertificateMissing as error:
            raise self._connect_error(str(error), permanent=True) from error
        except ssl.SSLCertVerificationError as error:
            raise self._connect_error(
                _certificate_refusal(error, self.address), permanent=True, server_responded=True
            ) from error
        except TimeoutError as error:
            raise self._connect_error(self._describe_error(error), permanent=False) from error
        except OSError as error:
            reason = f"the TLS handshake failed: {error}"
            raise self._connect_error(reason, permanent=False, server_responded=True) from error
        if encryption == "required":
            raise self._connect_error(
                f"the server offers no TLS, and sslmode={self.address.effective_sslmode} requires "
                "it",
                permanent=True,
                server_responded=True,
            )
        return sock

    def _login(self, sock: socket.socket) -> DriverConnection:
        from lambda_migrate.postgresql.driver import (
            DriverConnection,
            LoginRefused,
            PasswordMissing,
            ScramException,
        )

        sock.settimeout(self._remaining())
        try:
            return DriverConnection(
                user=self.address.user,
                password=self.address.password,
                host=None,
                database=self.address.database,
                application_name=self.application_name,
                startup_params=dict(self.startup)
                | ({"options": self.address.options} if self.address.options else {}),
                sock=sock,
                ssl_context=False,
                channel_binding=self.address.channel_binding,
            )
        except (LoginRefused, ScramException) as error:
            refused = self._connect_error(str(error), permanent=True, server_responded=True)
            refused.is_password_missing = isinstance(error, PasswordMissing)
            raise refused from error
        except _driver_errors() as error:
            raise self._login_error(error) from error

    def _login_error(self, error: Exception) -> ConnectionFailed:
        fields = _fields(error)
        if fields:
            return self._connect_error(
                fields.get("M", "") + _advice(fields, self.address),
                permanent=_is_permanent(fields.get("C", ""), fields.get("M", "")),
                sqlstate=fields.get("C", ""),
                server_responded=True,
            )
        # pg8000 raises its own error for an authentication method; the rest are network errors.
        words = self._describe_error(error)
        return self._connect_error(words, permanent="Authentication method" in words)

    def _connect_error(
        self, reason: str, *, permanent: bool, sqlstate: str = "", server_responded: bool = False
    ) -> ConnectionFailed:
        who = f"user {self.address.user} at {self.address.text}"
        code = f" [{sqlstate}]" if sqlstate else ""
        return ConnectionFailed(
            f"cannot connect as {who}: {reason}{code}",
            permanent=permanent,
            sqlstate=sqlstate,
            server_responded=server_responded,
        )

    def _remaining(self) -> float:
        return _clamp_timeout(self.deadline.remaining())

    def _describe_error(self, error: Exception) -> str:
        return _describe_error(error, f"no response within {self.seconds:g} s")


class Connection:
    """An open connection. One thread runs statements; any thread may `abort`.

    Attributes:
        pid: The backend's process id as reported at login; 0 if it was not. Behind RDS Proxy it is
            the proxy's own; ``pg_backend_pid()`` returns the real one.
        server_version: As ``server_version_num``: 180004 for 18.4; 0 if unknown.
        is_encrypted: Whether it goes over TLS.
    """

    def __init__(self, driver: DriverConnection, sock: socket.socket) -> None:
        self._driver = driver
        self._sock = sock
        self._state_lock = threading.Lock()
        self._is_closed = False
        self._closed_reason = "the connection is closed"
        self._is_aborted = False
        self.pid = driver.pid
        self.server_version = _version_number(driver.parameter_statuses.get("server_version", ""))
        self.is_encrypted = hasattr(sock, "getpeercert")

    @property
    def tags(self) -> tuple[str, ...]:
        """The last message's command tags (``CREATE TABLE``, ``UPDATE 3``), one per statement."""
        return tuple(self._driver.tags)

    def take_notices(self) -> tuple[list[dict[str, str]], int]:
        """Warnings and notices of scripts by field letter, and how many were dropped.

        Those since the last call.
        """
        taken = self._driver.notices, self._driver.dropped_notices
        self._driver.notices, self._driver.dropped_notices = [], 0
        return taken

    @property
    def completed_statements(self) -> int:
        """The number of statements of the last message that finished."""
        return len(self._driver.tags)

    @property
    def status(self) -> TransactionStatus:
        """The transaction status that the server reported after the last message."""
        return _STATUSES[self._driver.transaction_status]

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction block is open, failed ones included."""
        return self.status != "idle"

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed."""
        return self._is_closed

    def run(
        self, sql: str, *, timeout: float | None = None, keep_rows: int | None = None
    ) -> list[list[Any]]:
        """Send SQL exactly as written, in one message of the simple protocol.

        If a script changed ``client_encoding``, it is set back before the next message. ``COPY ...
        FROM STDIN`` fails with 57014. The output of ``COPY ... TO STDOUT`` and notifications are
        dropped; `take_notices` returns the notices of a
        script.

        Args:
            sql: Any number of statements.
            timeout: Seconds that the server may be silent before the connection is closed; None
                waits forever. It is a backstop: each response restarts it, so set
                ``statement_timeout`` as well.
            keep_rows: How many rows to keep, the last ones, of up to 64 KiB each: 0 for a script, 1
                for one that is followed by a statement of the library. The rows of a script may be
                of any size. None keeps all rows, whatever their length.

        Returns:
            The rows of all statements, or the last of them. Booleans, integers and floats are
            converted, NULL is None, everything else is the server's text.

        Raises:
            PostgresError: A statement was refused, or COMMIT met a failed transaction.
            ConnectionLost: Whether it took effect is unknown.
            ValueError: The SQL contains a NUL or an unpaired surrogate, which PostgreSQL cannot
                read. Nothing was sent.
        """
        _require_no_forbidden_characters(sql)
        if not self._driver.uses_utf8 and self.status != "failed":
            self._send("SET client_encoding TO 'UTF8'", timeout)
        return self._send(sql, timeout, keep_rows)

    def _send(
        self, sql: str, timeout: float | None, keep_rows: int | None = None
    ) -> list[list[Any]]:
        if self._is_closed or self._is_aborted:
            raise self._connection_lost(self._closed_reason)
        try:
            self._sock.settimeout(None if timeout is None else _clamp_timeout(timeout))
            return self._driver.run(sql, keep_rows=keep_rows)
        except _driver_errors() as error:
            fields = _fields(error)
            if fields and not _is_fatal(fields):
                # Not chained: pg8000's error shows every field, also the row that a DETAIL quotes.
                raise PostgresError(fields) from None
            raise self._connection_lost(self._reason(error, timeout)) from error
        except BaseException:
            self._discard("the connection was interrupted during a response")
            raise

    def _reason(self, error: Exception, timeout: float | None) -> str:
        if self._is_aborted:
            return self._closed_reason
        said = self._driver.last_error
        if _is_fatal(said):
            return f"the server terminated the connection: {said.get('M', '')}"
        return _describe_error(error, f"the server did not respond for {timeout or 0:g} s")

    def _connection_lost(self, reason: str) -> ConnectionLost:
        self._discard(reason)
        said = self._driver.last_error
        return ConnectionLost(reason, sqlstate=said.get("C", "") if _is_fatal(said) else "")

    def abort(self) -> None:
        """Abort the running statement from any thread; its caller gets `ConnectionLost`.

        The server is not informed. It notices the closed connection when it next writes (or checks,
        see ``client_connection_check_interval``). Never raises.
        """
        with self._state_lock:
            if self._is_closed:
                return
            self._closed_reason = "the connection was aborted"
            self._is_aborted = True
            # On the plain socket: SSLSocket.shutdown would remove the TLS layer while the reader
            # uses it, which could then send in plaintext.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Send Terminate and close. Idempotent, never raises."""
        if self._is_closed:
            return
        with contextlib.suppress(OSError, ValueError):
            if not self._is_aborted:
                self._sock.settimeout(_CLOSE_SECONDS)
                self._sock.sendall(b"X\0\0\0\4")
        self._discard(self._closed_reason)

    def _discard(self, reason: str) -> None:
        with self._state_lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._closed_reason = reason
            # First, so that closing pg8000's file does not wait for buffered writes.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
            self._driver.close()
            self._sock.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _driver_errors() -> tuple[type[Exception], ...]:
    """The errors that pg8000 raises when the server refuses, or when the socket breaks.

    ``ValueError``: its file or TLS layer was closed; ``KeyError``: an unknown message;
    ``AttributeError``: its file is gone; the others: half a message.
    """
    from lambda_migrate.postgresql.driver import DatabaseError, InterfaceError

    return (
        DatabaseError,
        InterfaceError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        struct.error,
    )


def _fields(error: Exception) -> dict[str, str]:
    """The fields of an ErrorResponse by their letter; {} for any other error."""
    fields = error.args[0] if error.args else None
    return fields if isinstance(fields, dict) else {}


def _severity(fields: Mapping[str, str]) -> str:
    # V is never translated; some poolers send S alone.
    return fields.get("V", fields.get("S", ""))


def _is_fatal(fields: Mapping[str, str]) -> bool:
    # Not the class 08: postgres_fdw and dblink raise it, as an ERROR, for their own connections.
    return _severity(fields) in ("FATAL", "PANIC")


def _is_permanent(sqlstate: str, message: str) -> bool:
    if sqlstate == _PROTOCOL_VIOLATION:
        cached = "server_login_retry" in message  # the pooler repeats an earlier failure
        denied = _POOLER_LOGIN_REFUSAL.search(message) or _POOLER_PERMANENT_REFUSAL.search(message)
        return bool(denied) and not cached
    return sqlstate[:2] in _PERMANENT_CLASSES


def _describe_error(error: Exception, on_timeout: str) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, TimeoutError):
        return on_timeout
    if isinstance(cause, KeyError):
        return f"the server sent an unknown message: {cause}"
    if isinstance(cause, OSError):
        return cause.strerror or str(cause) or type(cause).__name__
    text = str(cause)
    return "the connection broke" if text == "network error" else text or type(cause).__name__


def _certificate_refusal(error: Exception, address: DatabaseAddress) -> str:
    why = getattr(error, "verify_message", "") or str(error)
    advice = (
        "set sslrootcert (LAMBDA_MIGRATE_SSLROOTCERT) to the authority's certificate; for Amazon "
        "RDS that is global-bundle.pem from truststore.pki.rds.amazonaws.com"
    )
    if "match" in why.lower():  # "Hostname mismatch", "IP address mismatch"
        advice = "connect by a name that the certificate contains"
    refusal = f"the server's certificate is refused (sslmode={address.effective_sslmode})"
    return f"{refusal}: {why}; {advice}"


def _advice(fields: Mapping[str, str], address: DatabaseAddress) -> str:
    text = fields.get("M", "")
    if "no encryption" in text or "SSL off" in text:
        return f"; it may require TLS: sslmode={address.effective_sslmode} does not use it"
    unknown = _UNKNOWN_PARAMETER.search(text)
    if unknown:
        return (
            f"; leave {unknown[1]} out of the URL, or add {unknown[1]} to "
            "ignore_startup_parameters in the pooler's configuration"
        )
    return ""


def _version_number(text: str) -> int:
    """180004 from ``18.4 (Debian 18.4-1)``; 0 for anything but version 10 or later."""
    match = re.match(r"(\d+)(?:\.(\d+))?", text)
    if match is None or int(match[1]) < 10:
        return 0
    return int(match[1]) * 10000 + int(match[2] or 0)


def _clamp_timeout(seconds: float) -> float:
    # 0 would make the socket non-blocking, and a C timeval has a maximum.
    return min(max(seconds, 0.001), 1e6)


def _require_no_forbidden_characters(sql: str) -> None:
    at = sql.find("\0")
    if at >= 0:
        raise ValueError(
            f"the SQL contains a NUL character at offset {at}, where PostgreSQL would stop reading"
        )
    sql.encode()
