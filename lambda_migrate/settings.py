"""What can be set, where it is read, and every fault of it in one error.

Light: this is on the fast path of every cold start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.postgresql.address import DatabaseAddress, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike

Mode = Literal["migrate", "require", "off"]
OnLeaseStoreUnavailable = Literal["fail", "check"]
OnFlagsUnavailable = Literal["fail", "ignore"]
Init = Literal["never", "when-long"]

__all__ = [
    "Init",
    "Mode",
    "OnFlagsUnavailable",
    "OnLeaseStoreUnavailable",
    "Settings",
    "SettingsArguments",
]

PREFIX = "LAMBDA_MIGRATE_"
_NOT_SETTINGS = (
    "LAMBDA_MIGRATE_ENGINES",
    "LAMBDA_MIGRATE_LOCAL_",
    "LAMBDA_MIGRATE_TEST_",
    "LAMBDA_MIGRATE_TRACEBACK",
)
"""Beginnings of variables that belong to workstations, not to the library."""

_INFINITY = float("inf")
_NAME_BYTES = 63  # NAMEDATALEN - 1: PostgreSQL cuts longer identifiers short
_KEY_BYTES = 2048  # DynamoDB's limit for a partition key
_APPCONFIG_NAME = 128  # AppConfig's limit for each of its identifiers
_LEASE_SECONDS = (5.0, 900.0)  # shorter ones do not outlast a slow renewal; 900 is Lambda's limit
_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")


class SettingsArguments(TypedDict, total=False):
    """The keyword arguments that set what `Settings` holds; None counts as absent."""

    table: str | None
    target: str | None
    environment: str | None
    directory: str | PathLike[str] | None
    allow_empty: bool | None
    mode: Mode | None
    lease_seconds: float | None
    wait_seconds: float | None
    safety_margin_seconds: float | None
    schema: str | None
    database_url: str | None
    database_secret: str | None
    database_iam: bool | None
    sslmode: str | None
    sslrootcert: str | None
    allow_out_of_order: bool | None
    ignore_other_history: bool | None
    failure_pause_seconds: float | None
    lock_timeout_seconds: float | None
    on_lease_store_unavailable: OnLeaseStoreUnavailable | None
    flags: str | None
    on_flags_unavailable: OnFlagsUnavailable | None
    init: Init | None


class _Unreadable(ValueError):
    """What to write instead, as the end of a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set, validated. `load` reads it; arguments beat variables.

    Each attribute is the argument of that name and the variable ``LAMBDA_MIGRATE_<NAME>``. An
    empty variable counts as absent.

    Attributes:
        table: The lease table's name or ARN; a function needs it, a local database does not.
        target: The item's key in that table: one per database.
        environment: ``staging``, ``production``: a database keeps to the first one it sees.
        directory: Where the migration files are.
        allow_empty: A folder without migrations is not an error: a service that has none yet.
        mode: ``migrate``; ``require`` only waits until somebody else has; ``off`` asks nobody.
        lease_seconds: Length of a lease, 5 to 900.
        wait_seconds: How long to wait for another instance at most.
        safety_margin_seconds: Kept free before the invocation's deadline.
        schema: Where history and fence are in PostgreSQL.
        database_url: A libpq URL; or the variable ``DATABASE_URL``, where nothing else names the
            database.
        database_secret: Name or ARN of a Secrets Manager secret in the RDS format. With a URL
            (without a password) the URL says where and the secret says as whom.
        database_iam: Authenticate with an IAM token; the URL says where and as whom.
        sslmode: As libpq means it; beats the URL's.
        sslrootcert: A file of PEM certificates, or ``system``; beats the URL's.
        allow_out_of_order: Apply pending migrations below the highest applied one.
        ignore_other_history: Migrate although another tool's history table says that it has
            migrated this database: for a table that belongs to another service.
        failure_pause_seconds: The first pause after a failed migration; it grows.
        lock_timeout_seconds: How long a migration may wait for each lock, each time.
        on_lease_store_unavailable: ``fail``, or ``check`` PostgreSQL through one connection.
        flags: Feature flags in AppConfig: ``application/environment/profile``.
        on_flags_unavailable: While they cannot be read, ``fail`` to migrate, or ``ignore`` it.
        init: ``never`` run before the first invocation, or ``when-long``: where Lambda gives
            initialisation minutes (provisioned concurrency, SnapStart).
    """

    table: str = ""
    target: str = "default"
    environment: str = ""
    directory: str = "migrations"
    allow_empty: bool = False
    mode: Mode = "migrate"
    lease_seconds: float = 20.0
    wait_seconds: float = 25.0
    safety_margin_seconds: float = 2.0
    schema: str = "lambda_migrate"
    database_url: str = field(default="", repr=False)
    database_secret: str = ""
    database_iam: bool = False
    sslmode: str = ""
    sslrootcert: str = ""
    allow_out_of_order: bool = False
    ignore_other_history: bool = False
    failure_pause_seconds: float = 10.0
    lock_timeout_seconds: float = 3.0
    on_lease_store_unavailable: OnLeaseStoreUnavailable = "fail"
    flags: str = ""
    on_flags_unavailable: OnFlagsUnavailable = "fail"
    init: Init = "never"

    @classmethod
    def load(cls, environ: Mapping[str, str], **arguments: object) -> Settings:
        """Read arguments, then variables, then defaults.

        Args:
            environ: Usually ``os.environ``.
            **arguments: By attribute name; None counts as absent.

        Raises:
            ConfigurationError: Every fault found, each naming its variable and what to write.
        """
        faults = _unknown(environ, arguments)
        given = {name: value for name, value in arguments.items() if value is not None}
        values: dict[str, Any] = {}
        for name, read in _READERS.items():
            source, value = _given(name, environ, given)
            if source:
                _store(values, name, source, value, read, faults)
        settings = cls(**values)
        faults += settings._contradictions()
        if faults:
            raise ConfigurationError(faults)
        return settings

    @property
    def address(self) -> DatabaseAddress | None:
        """What the URL names, with ``sslmode`` and ``sslrootcert`` from here; None without one.

        IAM tokens must not travel in plaintext, so that with ``database_iam`` loopback (a tunnel)
        defaults to ``require`` instead of ``prefer``.
        """
        if not self.database_url:
            return None
        address = parse_url(self.database_url)
        address = address.with_tls(sslmode=self.sslmode, sslrootcert=self.sslrootcert)
        if self.database_iam and address.tls_mode == "prefer" and not address.sslmode:
            return address.with_tls(sslmode="require")
        return address

    @property
    def fingerprint(self) -> str:
        """Where the database is, without secrets: an address, or the secret that tells it.

        `Credentials.fingerprint` says the same.
        """
        address = self.address
        return self.database_secret if address is None else address.fingerprint

    def require(self, *, table: bool = False, database: bool = False) -> Settings:
        """Return self if what a caller cannot do without is set.

        Raises:
            ConfigurationError: With everything that is missing.
        """
        faults = []
        if table and not self.table:
            faults.append(f"{_names('table')} is not set: write the name of the lease table")
        if database and not (self.database_url or self.database_secret):
            faults.append(
                f"no database is named: set {_names('database_url')} to "
                f"postgresql://user:password@host:5432/name, or {_names('database_secret')} to a "
                "secret's ARN"
            )
        if faults:
            raise ConfigurationError(faults)
        return self

    def _contradictions(self) -> list[str]:
        return [*self._time_faults(), *self._database_faults(), *self._tls_faults()]

    def _time_faults(self) -> list[str]:
        faults = []
        if self.lease_seconds <= 2 * self.safety_margin_seconds:
            faults.append(
                f"{_names('lease_seconds')} ({self.lease_seconds:g}) must be more than twice "
                f"{_names('safety_margin_seconds')} ({self.safety_margin_seconds:g})"
            )
        return faults

    def _database_faults(self) -> list[str]:
        faults = []
        if self.database_iam and self.database_secret:
            faults.append(
                f"{_names('database_iam')} and {_names('database_secret')} are two ways to log "
                "in: keep one"
            )
        address = _parsed(self.database_url)
        if self.database_iam and not self.database_url:
            faults.append(
                f"{_names('database_iam')} needs {_names('database_url')} to say where and as "
                "whom: postgresql://user@host:5432/name"
            )
        if address is None:
            return faults
        if address.password is not None and (self.database_iam or self.database_secret):
            other = "database_iam" if self.database_iam else "database_secret"
            faults.append(
                f"{_names('database_url')} holds a password, and {_names(other)} is another way "
                "to log in: take one of them out"
            )
        if not address.user and not self.database_secret:
            faults.append(
                f"{_names('database_url')} names no user: write postgresql://user@host:5432/name"
            )
        if self.database_iam and address.socket_dir:
            faults.append(f"{_names('database_iam')} needs TLS, and a Unix socket has none")
        return faults

    def _tls_faults(self) -> list[str]:
        nowhere = DatabaseAddress(database="-", host="-")
        place = _parsed(self.database_url) or nowhere
        address = place.with_tls(sslmode=self.sslmode, sslrootcert=self.sslrootcert)
        faults = [
            f"{_names('sslmode')}, {_names('sslrootcert')}: {fault}" for fault in address.faults()
        ]
        if self.database_iam and address.sslmode in ("disable", "allow", "prefer"):
            faults.append(
                f"{_names('database_iam')} needs TLS: write sslmode=verify-full, not "
                f"{address.sslmode}"
            )
        return faults


def _store(
    values: dict[str, Any],
    name: str,
    source: str,
    value: object,
    read: Callable[[object], Any],
    faults: list[str],
) -> None:
    try:
        values[name] = read(value)
    except _Unreadable as fault:
        shown = "" if name == "database_url" else f" is {value!r}"
        faults.append(f"{source}{shown}: {fault}")


def _given(
    name: str, environ: Mapping[str, str], arguments: Mapping[str, object]
) -> tuple[str, object]:
    """Where a value was given and what it is; ``("", None)`` if nowhere."""
    if name in arguments:
        return f"{name} (or {PREFIX}{name.upper()})", arguments[name]
    for variable in _variables(name, environ, arguments):
        text = environ.get(variable, "").strip()
        if text:
            return f"{variable} (or the argument {name})", text
    return "", None


def _variables(
    name: str, environ: Mapping[str, str], arguments: Mapping[str, object]
) -> tuple[str, ...]:
    own = PREFIX + name.upper()
    if name != "database_url":
        return (own,)
    # The general variable is the application's: it does not compete with a secret of ours.
    secret = "database_secret"  # noqa: S105 - a setting's name
    has_secret = secret in arguments or environ.get(PREFIX + secret.upper(), "").strip()
    return (own,) if has_secret else (own, "DATABASE_URL")


def _parsed(url: str) -> DatabaseAddress | None:
    return parse_url(url) if url else None


def _names(name: str) -> str:
    return f"{PREFIX}{name.upper()} (argument {name})"


def _unknown(environ: Mapping[str, str], arguments: Mapping[str, object]) -> list[str]:
    variables = [
        name
        for name in environ
        if name.startswith(PREFIX)
        and not name.startswith(_NOT_SETTINGS)
        and name.removeprefix(PREFIX).lower() not in _READERS
    ]
    known = [PREFIX + name.upper() for name in _READERS]
    faults = [_unknown_fault("variable", name, known) for name in sorted(variables)]
    others = [name for name in arguments if name not in _READERS]
    return faults + [_unknown_fault("argument", name, list(_READERS)) for name in others]


def _unknown_fault(kind: str, name: str, known: list[str]) -> str:
    import difflib  # not at import: nobody with correct settings needs it

    close = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
    return f"lambda-migrate has no {kind} {name}: {advice}"


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise _Unreadable("write a text")
    if not value.isprintable():  # half a surrogate pair is not, either
        raise _Unreadable("write a text without NUL, control or invisible characters")
    return value


def _read_path(value: object) -> str:
    if not isinstance(value, str) and hasattr(value, "__fspath__"):
        value = value.__fspath__()
    if not isinstance(value, str) or not value:
        raise _Unreadable("write the path of a directory")
    return value


def _read_key(value: object) -> str:
    text = _read_text(value)
    if not 0 < len(text.encode()) <= _KEY_BYTES:
        raise _Unreadable(f"write 1 to {_KEY_BYTES} bytes")
    return text


def _read_schema(value: object) -> str:
    text = _read_text(value)
    if not 0 < len(text.encode()) <= _NAME_BYTES:
        raise _Unreadable(f"write a PostgreSQL name of 1 to {_NAME_BYTES} bytes")
    if text.lower().startswith("pg_"):
        raise _Unreadable("PostgreSQL keeps names that begin with pg_ for itself; write another")
    return text


def _read_url(value: object) -> str:
    if not isinstance(value, str):
        raise _Unreadable("write a text")
    text = value  # `parse_url` says what it must not hold
    try:
        parse_url(text)
    except ConfigurationError as error:
        raise _Unreadable("; ".join(error.faults)) from None
    return text


def _read_profile(value: object) -> str:
    text = _read_text(value)
    parts = text.split("/")
    if len(parts) != 3 or not all(0 < len(part) <= _APPCONFIG_NAME for part in parts):
        raise _Unreadable(
            "write the AppConfig application, environment and configuration profile, each by name "
            "or id: application/environment/profile"
        )
    return text


def _read_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.lower() if isinstance(value, str) else ""
    if word in _TRUE + _FALSE:
        return word in _TRUE
    raise _Unreadable("write true or false")


def _seconds(low: float, high: float = _INFINITY) -> Callable[[object], float]:
    limit = f"of at least {low:g}" if high == _INFINITY else f"from {low:g} to {high:g}"

    def read(value: object) -> float:
        number = _number(value)
        if number is None or not low <= number <= high or number == _INFINITY:
            raise _Unreadable(f"write a number of seconds {limit}")
        return number

    return read


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _one_of(*words: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        word = value.lower() if isinstance(value, str) else ""
        if word in words:
            return word
        # YAML 1.1 reads a bare `off` as false, which is how it then arrives here.
        quoted = ' (in YAML with quotes: "off")' if "off" in words else ""
        raise _Unreadable(f"write one of {', '.join(words)}{quoted}")

    return read


_READERS: dict[str, Callable[[object], Any]] = {
    "table": _read_text,
    "target": _read_key,
    "environment": _read_text,
    "directory": _read_path,
    "allow_empty": _read_flag,
    "mode": _one_of("migrate", "require", "off"),
    "lease_seconds": _seconds(*_LEASE_SECONDS),
    "wait_seconds": _seconds(0),
    "safety_margin_seconds": _seconds(0),
    "schema": _read_schema,
    "database_url": _read_url,
    "database_secret": _read_text,
    "database_iam": _read_flag,
    "sslmode": _read_text,
    "sslrootcert": _read_text,
    "allow_out_of_order": _read_flag,
    "ignore_other_history": _read_flag,
    "failure_pause_seconds": _seconds(0),
    "lock_timeout_seconds": _seconds(0.001),  # 0 would mean no limit to PostgreSQL
    "on_lease_store_unavailable": _one_of("fail", "check"),
    "flags": _read_profile,
    "on_flags_unavailable": _one_of("fail", "ignore"),
    "init": _one_of("never", "when-long"),
}
