"""A database's address as a value, and the parser of connection strings.

The module is light enough for the cold start's fast path: no driver, no TLS, no ``urllib``, and no
named tuple, which takes a quarter of a millisecond of CPU to define.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = [
    "DEFAULT_PORT",
    "DEFAULT_SCHEMA",
    "LIBPQ_VARIABLES",
    "SSLMODES",
    "SYSTEM_ROOT_CERTIFICATES",
    "DatabaseAddress",
    "add_schema",
    "parse_url",
]

DEFAULT_PORT = 5432

DEFAULT_SCHEMA = "lambda_migrate"
"""The schema of the library's tables, unless a setting names another."""

SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""libpq's modes, from the weakest to the strongest (its manual, section 32.19.3)."""

SYSTEM_ROOT_CERTIFICATES = "system"
"""``sslrootcert=system``: trust the operating system's store, and require ``verify-full``."""

LIBPQ_VARIABLES = {
    "PGHOST": "host",
    "PGPORT": "port",
    "PGDATABASE": "dbname",
    "PGUSER": "user",
    "PGPASSWORD": "password",
    "PGPASSFILE": "passfile",
    "PGSSLMODE": "sslmode",
    "PGSSLROOTCERT": "sslrootcert",
    "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGCHANNELBINDING": "channel_binding",
    "PGOPTIONS": "options",
    "PGAPPNAME": "application_name",
}
"""libpq's environment variables, and the parameters that they stand for."""

_SUPPORTED_PARAMETERS = frozenset(LIBPQ_VARIABLES.values())
"""The parameters of a connection string that have an effect."""

_URL_NAMES = {
    "port": "the port",
    "connect_timeout": "connect_timeout",
    "channel_binding": "channel_binding",
}
"""What faults call the parameters of the URL."""

_SCHEMES = ("postgresql", "postgres", "postgis", "pgsql", "psql", "timescale", "timescalegis")
"""libpq's two, and the other names that Django's URL parsers accept."""

_HEX = frozenset("0123456789abcdefABCDEF")
_ENCODE = "write special characters of user and password percent-encoded (@ as %40, / as %2F)"


class DatabaseAddress:
    """Where a database is and how to log in. Its ``repr`` never contains the password.

    Attributes:
        database: The database's name.
        host: Name or IP address (IPv6 without brackets); "" if ``socket_dir`` is given.
        socket_dir: Absolute directory of the server's Unix socket; "" for TCP.
        port: TCP port; for a Unix socket the number in the socket's name.
        user: The role; "" if a secret provides it.
        password: The role's password, or None.
        sslmode: One of `SSLMODES`, or "" if not set; see `effective_sslmode`.
        sslrootcert: A file of PEM certificates, ``system``, or "". Lambda's system store lacks
            the certificate authorities of RDS: use the file of Amazon's global bundle there.
        connect_timeout: Timeout for connecting in seconds, or None.
        channel_binding: ``prefer``, or ``require``: SCRAM must be bound to the TLS connection.
        application_name: The URL's value; holders' connections carry target and fence instead.
        options: Defaults for the session, as ``-c name=value`` on the server's command line.
        passfile: The password file to search instead of ``~/.pgpass``; "" if not set.
    """

    def __init__(
        self,
        database: str,
        host: str = "",
        socket_dir: str = "",
        port: int = DEFAULT_PORT,
        user: str = "",
        password: str | None = None,
        sslmode: str = "",
        sslrootcert: str = "",
        connect_timeout: float | None = None,
        channel_binding: str = "prefer",
        application_name: str = "",
        options: str = "",
        passfile: str = "",
    ) -> None:
        self.database = database
        self.host = host
        self.socket_dir = socket_dir
        self.port = port
        self.user = user
        self.password = password
        self.sslmode = sslmode
        self.sslrootcert = sslrootcert
        self.connect_timeout = connect_timeout
        self.channel_binding = channel_binding
        self.application_name = application_name
        self.options = options
        self.passfile = passfile

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatabaseAddress) and vars(self) == vars(other)

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in vars(self).items() if name != "password")
        return f"DatabaseAddress({', '.join(shown)})"

    def replace(self, **changes: Any) -> DatabaseAddress:
        """A copy in which some attributes have other values."""
        return DatabaseAddress(**(vars(self) | changes))

    @property
    def text(self) -> str:
        """The address without secrets: ``host:port/name`` or ``/socket/dir:port/name``."""
        host = f"[{self.host}]" if ":" in self.host else self.host.lower()
        return f"{self.socket_dir or host}:{self.port}/{self.database}"

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine: a Unix socket or a loopback address."""
        return bool(self.socket_dir) or _is_loopback(self.host)

    @property
    def effective_sslmode(self) -> str:
        """The effective mode, one of `SSLMODES`.

        A Unix socket is never encrypted, whatever ``sslmode`` says, as in libpq. The default is
        ``prefer`` on loopback and ``verify-full`` elsewhere (libpq: ``prefer``). With a root
        certificate it is ``verify-full`` everywhere, because the certificate would have no use
        otherwise.
        """
        if self.socket_dir:
            return "disable"
        if self.sslmode:
            return self.sslmode
        return "prefer" if self.is_local and not self.sslrootcert else "verify-full"

    @property
    def requires_tls(self) -> bool:
        """Whether TLS is required, so that nothing is sent in plaintext."""
        return self.effective_sslmode in ("require", "verify-ca", "verify-full")

    def with_tls(self, *, sslmode: str = "", sslrootcert: str = "") -> DatabaseAddress:
        """The same address with this ``sslmode`` and ``sslrootcert``, if given."""
        return self.replace(
            sslmode=sslmode or self.sslmode,
            sslrootcert=sslrootcert or self.sslrootcert,
        )

    def faults(self) -> list[str]:
        """Contradictions, one sentence each; [] if there are none."""
        faults = []
        if self.sslmode and self.sslmode not in SSLMODES:
            faults.append(f"sslmode {self.sslmode!r} is unknown; use one of {', '.join(SSLMODES)}")
        elif self.sslrootcert == SYSTEM_ROOT_CERTIFICATES and self.sslmode not in (
            "",
            "verify-full",
        ):
            faults.append(
                f"sslmode={self.sslmode} is too weak for sslrootcert=system; "
                "use sslmode=verify-full"
            )
        if self.channel_binding == "require" and self.effective_sslmode == "disable":
            faults.append("channel_binding=require needs TLS; set an sslmode other than disable")
        return faults


def add_schema(address_text: str, schema: str) -> str:
    """The text for one schema of the library in a database, for there may be several."""
    return address_text if schema == DEFAULT_SCHEMA else f"{address_text}#{schema}"


def parse_url(url: str | None, variables: Mapping[str, str] | None = None) -> DatabaseAddress:
    """Parse a libpq URL: ``postgresql://user:password@host:port/name?sslmode=verify-full``.

    Or a keyword string (``host=... dbname=...``), or the URL of another client: SQLAlchemy's
    ``postgresql+psycopg://``, Django's ``postgis://``, ``jdbc:postgresql://``.

    As in libpq, a parameter after the ``?`` overrides the part before it, ``%2Fsocket%2Fdir`` or
    ``?host=/socket/dir`` is a Unix socket, and the database's name defaults to the user's. Unlike
    in libpq, a host is required, and parameters are refused unless ignoring them is harmless.

    Args:
        url: The text; None if the variables say everything.
        variables: Environment variables. Those of libpq (`LIBPQ_VARIABLES`) fill in what the URL
            leaves out.

    Raises:
        ConfigurationError: The URL is invalid. No fault repeats user, password or host.
    """
    faults: list[str] = []
    fields = {} if url is None else _parse_text(url, faults)
    names = dict(_URL_NAMES)
    for variable, name in LIBPQ_VARIABLES.items():
        if variables and variables.get(variable) and name not in fields:
            fields[name] = variables[variable]
            names[name] = variable
    address = None if faults else _build_address(fields, names, faults)
    if address is None or faults:
        from lambda_migrate.errors import ConfigurationError

        what = "the database URL" if url is not None else "the database that PGHOST names"
        raise ConfigurationError(faults, heading=f"{what} cannot be used:")
    return address


def _parse_text(url: str, faults: list[str]) -> dict[str, str]:
    """The fields of a URL or keyword string by libpq's parameter names.

    Raises:
        ConfigurationError: It has neither form.
    """
    scheme, separator, rest = url.removeprefix("jdbc:").partition("://")
    if separator and scheme.partition("+")[0] in _SCHEMES and url.isprintable():
        return _parse_parts(rest, faults)
    from lambda_migrate.conninfo import describe_unknown_form, parse_keywords
    from lambda_migrate.errors import ConfigurationError

    if not url.isprintable():
        raise ConfigurationError(
            "the database URL contains a control or invisible character, perhaps a line break; "
            "remove it, or write it percent-encoded"
        )
    if "=" in scheme and ";" not in scheme:
        fields: dict[str, str] = {}
        for key, value in parse_keywords(url, faults):
            _add_parameter(fields, key, value, faults)
        return {key: value for key, value in fields.items() if value}
    raise ConfigurationError(describe_unknown_form(url))


def _parse_parts(rest: str, faults: list[str]) -> dict[str, str]:
    """The decoded parts of a URL by libpq's parameter names."""
    rest, _, query = rest.partition("?")
    authority, _, name = rest.partition("/")
    if authority.count("@") > 1 or "@" in name or ("@" in query and "@" not in authority):
        faults.append(f"it contains more than one @, or one after a / or ?; {_ENCODE}")
        return {}
    userinfo, _, location = authority.rpartition("@")
    user, _, password = userinfo.partition(":")
    host, port = _split_host_and_port(location, faults)
    parts = {"user": user, "password": password, "host": host, "port": port, "dbname": name}
    fields = {key: _decode_percent(text, key, faults) for key, text in parts.items() if text}
    return fields | _parse_query(query, faults)


def _split_host_and_port(location: str, faults: list[str]) -> tuple[str, str]:
    if "," in location:
        faults.append(_MULTIPLE_HOSTS_MESSAGE)
        return "", ""
    if not location.startswith("["):
        host, _, port = location.partition(":")
        return host, port
    host, bracket, port = location[1:].partition("]")
    if not bracket or (port and not port.startswith(":")):
        faults.append("the IPv6 address is not closed; write it as [::1]:5432")
    return host, port[1:]


def _parse_query(query: str, faults: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, equals, text = pair.partition("=")
        value = _decode_percent(text, key, faults)
        if not equals:
            faults.append("a parameter after the ? has no value; write name=value, joined by &")
        else:
            _add_parameter(fields, key, value, faults)
    return fields


def _add_parameter(fields: dict[str, str], key: str, value: str, faults: list[str]) -> None:
    """Add one parameter to ``fields``, or a fault."""
    if key in fields:
        faults.append(f"parameter {key!r} is given twice; keep one")
    elif key in _SUPPORTED_PARAMETERS:
        fields[key] = value
    else:
        from lambda_migrate.conninfo import translate_parameter

        fields |= translate_parameter(
            fields, key, value, faults, sslmodes=SSLMODES, supported=_SUPPORTED_PARAMETERS
        )


_MULTIPLE_HOSTS_MESSAGE = (
    "it names several hosts; use the one that accepts writes (the cluster's endpoint)"
)


def _build_address(
    fields: dict[str, str], names: Mapping[str, str], faults: list[str]
) -> DatabaseAddress | None:
    host = fields.get("host", "")
    user = fields.get("user", "")
    if "," in host or "," in fields.get("port", ""):
        faults.append(_MULTIPLE_HOSTS_MESSAGE)
    if not host:
        faults.append(
            "it has no host; add one, or ?host=/directory for a Unix socket, or set PGHOST"
        )
    if host.startswith("@"):
        faults.append("abstract Unix sockets are not supported; use the socket's directory")
    if not fields.get("dbname", user):
        faults.append("it has no database name; add it after the host: /name, or set PGDATABASE")
    is_socket = host.startswith("/")
    address = DatabaseAddress(
        database=fields.get("dbname", user),
        host="" if is_socket else host,
        socket_dir=host if is_socket else "",
        port=_parse_port(fields, names, faults),
        user=user,
        password=fields.get("password"),
        sslmode=fields.get("sslmode", ""),
        sslrootcert=fields.get("sslrootcert", ""),
        connect_timeout=_parse_connect_timeout(fields, names, faults),
        channel_binding=_parse_channel_binding(fields, names, faults),
        application_name=fields.get("application_name", ""),
        options=fields.get("options", ""),
        passfile=fields.get("passfile", ""),
    )
    faults += address.faults()
    return address


def _parse_port(fields: dict[str, str], names: Mapping[str, str], faults: list[str]) -> int:
    text = fields.get("port", str(DEFAULT_PORT))
    if text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536:
        return int(text)
    # The text is not repeated: it may be part of a password that contains a slash.
    advice = f"; or else {_ENCODE}" if names["port"] == _URL_NAMES["port"] else ""
    faults.append(f"{names['port']} is not a number from 1 to 65535{advice}")
    return DEFAULT_PORT


def _parse_connect_timeout(
    fields: dict[str, str], names: Mapping[str, str], faults: list[str]
) -> float | None:
    text = fields.get("connect_timeout", "0")
    if text.isascii() and text.isdigit():
        return float(text) or None  # in libpq 0 means no limit
    faults.append(f"{names['connect_timeout']} {text!r} is not a whole number of seconds")
    return None


def _parse_channel_binding(
    fields: dict[str, str], names: Mapping[str, str], faults: list[str]
) -> str:
    text = fields.get("channel_binding", "prefer")
    if text not in ("prefer", "require"):
        faults.append(
            f"{names['channel_binding']} {text!r} is not supported; use prefer or require"
        )
    return text


def _decode_percent(text: str, part_name: str, faults: list[str]) -> str:
    first, *others = text.split("%")
    raw = bytearray(first.encode())
    for other in others:
        code = other[:2]
        if len(code) < 2 or not _HEX.issuperset(code) or code == "00":
            faults.append(
                f"a % in its {part_name} is not followed by two hexadecimal digits (%25 is %)"
            )
            return ""
        raw.append(int(code, 16))
        raw += other[2:].encode()
    try:
        return raw.decode()
    except UnicodeDecodeError:
        faults.append(f"its {part_name} is not UTF-8 once percent-decoded")
        return ""


def _is_loopback(host: str) -> bool:
    octets = host.split(".")
    is_127 = octets[0] == "127" and len(octets) == 4 and all(o.isdigit() for o in octets)
    return is_127 or host.lower() in ("localhost", "::1")
