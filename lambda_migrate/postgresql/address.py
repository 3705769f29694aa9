"""Where a database is and how to get in, as a value; and libpq's URLs, which name one.

Light enough for the cold start's fast path: it loads no driver, no TLS, no ``urllib``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lambda_migrate.errors import ConfigurationError

__all__ = ["DEFAULT_PORT", "SSLMODES", "SYSTEM_ROOTS", "DatabaseAddress", "parse_url"]

DEFAULT_PORT = 5432

SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""libpq's modes, from the weakest to the strongest (its manual, section 32.19.3)."""

SYSTEM_ROOTS = "system"
"""``sslrootcert=system``: trust what the operating system trusts, and demand ``verify-full``."""

_SCHEMES = ("postgresql://", "postgres://")
_HEX = frozenset("0123456789abcdefABCDEF")
_ENCODE = "write special characters of user and password percent-encoded (@ as %40, / as %2F)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseAddress:
    """Where a database is and how to get in. Its text never holds the password.

    Attributes:
        database: The database's name.
        host: Name or IP address (IPv6 without brackets); "" where ``socket_dir`` is given.
        socket_dir: Absolute directory of the server's Unix socket; "" for TCP.
        port: TCP port; for a Unix socket the number in the socket's name.
        user: The role; "" where credentials come from elsewhere.
        password: The role's password, or None.
        sslmode: One of `SSLMODES`, or "" where nobody asked: see `tls_mode`.
        sslrootcert: A file of PEM certificates, ``system``, or "". Lambda's system store lacks
            the certificate authorities of RDS: there, name the file of Amazon's global bundle.
        connect_timeout: Seconds at most for connecting, or None.
        channel_binding: ``prefer``, or ``require``: SCRAM must be bound to the TLS connection.
        application_name: What the URL asked for; our connections carry target and fence instead.
    """

    database: str
    host: str = ""
    socket_dir: str = ""
    port: int = DEFAULT_PORT
    user: str = ""
    password: str | None = field(default=None, repr=False)
    sslmode: str = ""
    sslrootcert: str = ""
    connect_timeout: float | None = None
    channel_binding: str = "prefer"
    application_name: str = ""

    @property
    def fingerprint(self) -> str:
        """Where it is, without secrets: ``host:port/name`` or ``/socket/dir:port/name``."""
        host = f"[{self.host}]" if ":" in self.host else self.host.lower()
        return f"{self.socket_dir or host}:{self.port}/{self.database}"

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine: a Unix socket or a loopback address."""
        return bool(self.socket_dir) or _is_loopback(self.host)

    @property
    def tls_mode(self) -> str:
        """The mode in force, one of `SSLMODES`.

        A Unix socket is never encrypted, whatever ``sslmode`` says, as in libpq. Where nobody
        asked it is ``prefer`` on loopback and ``verify-full`` elsewhere (libpq: ``prefer``), and
        ``verify-full`` as well where a root certificate was named: it was meant to be used.
        """
        if self.socket_dir:
            return "disable"
        if self.sslmode:
            return self.sslmode
        return "prefer" if self.is_local and not self.sslrootcert else "verify-full"

    @property
    def demands_tls(self) -> bool:
        """Whether nothing is ever sent in plaintext."""
        return self.tls_mode in ("require", "verify-ca", "verify-full")

    def with_tls(self, *, sslmode: str = "", sslrootcert: str = "") -> DatabaseAddress:
        """The same address with what is given here instead of its own ``sslmode`` and root."""
        return replace(
            self,
            sslmode=sslmode or self.sslmode,
            sslrootcert=sslrootcert or self.sslrootcert,
        )

    def faults(self) -> list[str]:
        """What contradicts itself, one sentence each; [] if nothing does."""
        faults = []
        if self.sslmode and self.sslmode not in SSLMODES:
            faults.append(
                f"sslmode {self.sslmode!r} is unknown; write one of {', '.join(SSLMODES)}"
            )
        elif self.sslrootcert == SYSTEM_ROOTS and self.sslmode not in ("", "verify-full"):
            faults.append(
                f"sslmode={self.sslmode} is too weak for sslrootcert=system; "
                "write sslmode=verify-full"
            )
        if self.channel_binding == "require" and self.tls_mode == "disable":
            faults.append("channel_binding=require needs TLS; set an sslmode other than disable")
        return faults


def parse_url(url: str) -> DatabaseAddress:
    """Read a libpq URL: ``postgresql://user:password@host:port/name?sslmode=verify-full``.

    As in libpq a parameter after the ``?`` beats what stands before it, ``%2Fsocket%2Fdir`` or
    ``?host=/socket/dir`` is a Unix socket, and the user's name is the database's where none is
    given. Unlike in libpq a host must be given, and a parameter that we would not honour is
    refused instead of ignored.

    Raises:
        ConfigurationError: It cannot be read. No fault repeats user, password or host.
    """
    if not url.isprintable():
        raise ConfigurationError(
            "the database URL holds a control or invisible character, perhaps a line's end; take "
            "it out, or write it percent-encoded"
        )
    scheme = next((s for s in _SCHEMES if url.startswith(s)), None)
    if scheme is None:
        raise ConfigurationError(
            "the database URL does not begin with postgresql://; "
            "write postgresql://user:password@host:5432/name?sslmode=verify-full"
        )
    faults: list[str] = []
    fields = _fields(url.removeprefix(scheme), faults)
    address = None if faults else _address(fields, faults)
    if address is None or faults:
        raise ConfigurationError(faults, heading="the database URL cannot be used:")
    return address


def _fields(rest: str, faults: list[str]) -> dict[str, str]:
    """Everything that a URL says, by libpq's parameter names, decoded."""
    rest, _, query = rest.partition("?")
    authority, _, name = rest.partition("/")
    if authority.count("@") > 1 or "@" in name or ("@" in query and "@" not in authority):
        faults.append(f"it holds more than one @, or one after a / or ?; {_ENCODE}")
        return {}
    userinfo, _, location = authority.rpartition("@")
    user, _, password = userinfo.partition(":")
    host, port = _host_and_port(location, faults)
    parts = {"user": user, "password": password, "host": host, "port": port, "dbname": name}
    fields = {key: _decoded(text, key, faults) for key, text in parts.items() if text}
    return fields | _query(query, faults)


def _host_and_port(location: str, faults: list[str]) -> tuple[str, str]:
    if "," in location:
        faults.append(_ONE_HOST)
        return "", ""
    if not location.startswith("["):
        host, _, port = location.partition(":")
        return host, port
    host, bracket, port = location[1:].partition("]")
    if not bracket or (port and not port.startswith(":")):
        faults.append("the IPv6 address is not closed; write it as [::1]:5432")
    return host, port[1:]


def _query(query: str, faults: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, equals, text = pair.partition("=")
        value = _decoded(text, key, faults)
        if not equals:
            faults.append("a parameter after the ? has no value; write name=value, joined by &")
        elif key in fields:
            faults.append(f"parameter {key!r} stands twice; keep one")
        elif key == "ssl" and value == "true":  # libpq reads JDBC's spelling, so do we
            fields["sslmode"] = "require"
        elif key in _SUPPORTED_PARAMETERS:
            fields[key] = value
        elif value != _ACCEPTED_VALUES.get(key):
            faults.append(_unsupported_parameter(key))
    return fields


_LOCATION_PARAMETERS = ("user", "password", "host", "port", "dbname")
_CONNECTION_PARAMETERS = (
    "sslmode",
    "sslrootcert",
    "connect_timeout",
    "channel_binding",
    "application_name",
)
_SUPPORTED_PARAMETERS = frozenset((*_LOCATION_PARAMETERS, *_CONNECTION_PARAMETERS))
_ACCEPTED_VALUES = {
    "gssencmode": "disable",
    "sslnegotiation": "postgres",
    "client_encoding": "UTF8",
}
"""Parameters of which one value says what we do anyway."""

_ONE_HOST = "it names several hosts; write the one that takes writes (the cluster's endpoint)"
_REFUSALS = {
    "hostaddr": "name the host in the URL instead; its certificate is checked against that name",
    "options": "put settings into the migration itself (SET LOCAL ...) or on the role (ALTER ROLE)",
    "sslcert": "client certificates are not supported; use a password, a secret or IAM",
    "sslkey": "client certificates are not supported; use a password, a secret or IAM",
    "service": "service files are not read; write host, port and name",
    "passfile": "password files are not read; use a secret or IAM",
    "target_session_attrs": "name the one host that takes writes",
}


def _unsupported_parameter(key: str) -> str:
    advice = _REFUSALS.get(
        key, f"take it out; understood are {', '.join(sorted(_SUPPORTED_PARAMETERS))}"
    )
    return f"parameter {key!r} is not supported: {advice}"


def _address(fields: dict[str, str], faults: list[str]) -> DatabaseAddress | None:
    host = fields.get("host", "")
    user = fields.get("user", "")
    if "," in host or "," in fields.get("port", ""):
        faults.append(_ONE_HOST)
    if not host:
        faults.append("it names no host; write one, or ?host=/directory for a Unix socket")
    if host.startswith("@"):
        faults.append("abstract Unix sockets are not supported; name the socket's directory")
    if not fields.get("dbname", user):
        faults.append("it names no database; write its name after the host: /name")
    is_socket = host.startswith("/")
    address = DatabaseAddress(
        database=fields.get("dbname", user),
        host="" if is_socket else host,
        socket_dir=host if is_socket else "",
        port=_port(fields, faults),
        user=user,
        password=fields.get("password"),
        sslmode=fields.get("sslmode", ""),
        sslrootcert=fields.get("sslrootcert", ""),
        connect_timeout=_connect_timeout(fields, faults),
        channel_binding=_channel_binding(fields, faults),
        application_name=fields.get("application_name", ""),
    )
    faults += address.faults()
    return address


def _port(fields: dict[str, str], faults: list[str]) -> int:
    text = fields.get("port", str(DEFAULT_PORT))
    if text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536:
        return int(text)
    # The text is not repeated: it may be half of a password that holds a slash.
    faults.append(f"the port is not a number from 1 to 65535; or else {_ENCODE}")
    return DEFAULT_PORT


def _connect_timeout(fields: dict[str, str], faults: list[str]) -> float | None:
    text = fields.get("connect_timeout", "0")
    if text.isascii() and text.isdigit():
        return float(text) or None  # 0 is libpq's word for no limit
    faults.append(f"connect_timeout {text!r} is not a whole number of seconds")
    return None


def _channel_binding(fields: dict[str, str], faults: list[str]) -> str:
    text = fields.get("channel_binding", "prefer")
    if text not in ("prefer", "require"):
        faults.append(f"channel_binding {text!r} is not supported; write prefer or require")
    return text


def _decoded(text: str, what: str, faults: list[str]) -> str:
    first, *others = text.split("%")
    raw = bytearray(first.encode())
    for other in others:
        code = other[:2]
        if len(code) < 2 or not _HEX.issuperset(code) or code == "00":
            faults.append(f"a % in its {what} is not followed by two hexadecimal digits (%25 is %)")
            return ""
        raw.append(int(code, 16))
        raw += other[2:].encode()
    try:
        return raw.decode()
    except UnicodeDecodeError:
        faults.append(f"its {what} is not UTF-8 once percent-decoded")
        return ""


def _is_loopback(host: str) -> bool:
    octets = host.split(".")
    is_127 = octets[0] == "127" and len(octets) == 4 and all(o.isdigit() for o in octets)
    return is_127 or host.lower() in ("localhost", "::1")
