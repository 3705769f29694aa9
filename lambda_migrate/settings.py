"""The settings: where they are read, and all faults in one error.

`Settings` is the only place that declares a setting: its type, its default and its description,
which the documentation and the command line's help show. Every cold start loads this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_migrate.database_address import (
    DEFAULT_SCHEMA,
    LIBPQ_VARIABLES,
    DatabaseAddress,
    add_schema,
    parse_url,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lambda_migrate.migrations.requirements import Requirements
    from lambda_migrate.settings_arguments import (
        Init,
        Mode,
        OnFlagsUnavailable,
        OnLeaseStoreUnavailable,
        Source,
    )

    _Type = tuple[str, Callable[[object], Any]]
    """What a type of setting is called, and how a value of it is read."""

__all__ = ["SETTINGS", "Setting", "Settings"]

PREFIX = "LAMBDA_MIGRATE_"
_PREFIXES_OF_OTHER_VARIABLES = (
    "LAMBDA_MIGRATE_ENGINES",
    "LAMBDA_MIGRATE_LOCAL_",
    "LAMBDA_MIGRATE_TEST_",
    "LAMBDA_MIGRATE_TRACEBACK",
)
"""Prefixes of variables of the tests and the local servers; these are no settings."""

_INFINITY = float("inf")
_MAX_NAME_BYTES = 63  # NAMEDATALEN - 1: PostgreSQL cuts longer identifiers short
_MAX_PARTITION_KEY_BYTES = 2048  # DynamoDB's limit for a partition key
_MAX_APPCONFIG_NAME_LENGTH = 128  # AppConfig's limit for each of its identifiers
_LEASE_SECONDS_RANGE = (
    5.0,
    900.0,
)  # shorter ones do not outlast a slow renewal; 900 is Lambda's limit
_SECRETS = ("database_url", "placeholders")
"""Settings whose values are never shown."""

_INTERDEPENDENT = (
    "database_iam",
    "lease_seconds",
    "ready_when",
    "safety_margin_seconds",
    "source",
    "sslmode",
    "sslrootcert",
)
"""Settings that may exclude others, besides the URL and the secret."""

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")


class _InvalidValue(ValueError):
    """A value that cannot be used; the message is what to write instead."""


class Setting:
    """The declaration of a setting: an attribute of `Settings` that cannot be assigned.

    Attributes:
        name: The attribute, and the keyword argument.
        default: The value if it is not set.
        type: What to write: ``text``, ``seconds``, ``fail or check``.
        description: What it does; names and values are in backticks.
        read: Checks and converts a value.
    """

    name: str

    def __init__(self, default: Any, type_and_reader: _Type, description: str) -> None:
        self.default = default
        self.type, self.read = type_and_reader
        self.description = description

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()

    @property
    def default_text(self) -> str:
        """The default as one would write it; "" if there is none."""
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return f"{self.default:g}" if isinstance(self.default, float) else self.default or ""

    def __set_name__(self, _owner: type[Settings], name: str) -> None:
        self.name = name

    def __get__(self, settings: Settings | None, _owner: type[Settings]) -> Any:
        return self if settings is None else settings._values.get(self.name, self.default)

    def __set__(self, _settings: Settings, _value: object) -> None:
        raise AttributeError(f"the setting {self.name} cannot be assigned: settings are read once")


_setting: Any = Setting
"""Declares a setting; typed as its value, which it is for all who read it."""


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise _InvalidValue("write text")
    if not value.isprintable():  # an unpaired surrogate is not, either
        raise _InvalidValue("write text without NUL, control or invisible characters")
    return value


def _read_path(value: object) -> str:
    if not isinstance(value, str) and hasattr(value, "__fspath__"):
        value = value.__fspath__()
    if not isinstance(value, str) or not value:
        raise _InvalidValue("write a path")
    return value


def _read_partition_key(value: object) -> str:
    text = _read_text(value)
    if not 0 < len(text.encode()) <= _MAX_PARTITION_KEY_BYTES:
        raise _InvalidValue(f"write 1 to {_MAX_PARTITION_KEY_BYTES} bytes")
    return text


def _read_schema(value: object) -> str:
    text = _read_text(value)
    if not 0 < len(text.encode()) <= _MAX_NAME_BYTES:
        raise _InvalidValue(f"write a PostgreSQL name of 1 to {_MAX_NAME_BYTES} bytes")
    if text.lower().startswith("pg_"):
        raise _InvalidValue("PostgreSQL reserves names that begin with pg_; choose another name")
    return text


def _read_callable(value: object) -> str:
    text = _read_text(value)
    module, _, name = text.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise _InvalidValue("write module:callable, for example app.migrations:alembic_config")
    return text


def _read_url(value: object, variables: Mapping[str, str] | None = None) -> DatabaseAddress:
    if value is not None and not isinstance(value, str):
        raise _InvalidValue("write text")
    try:
        return parse_url(value, variables)
    except Exception as error:
        from lambda_migrate.errors import ConfigurationError

        if not isinstance(error, ConfigurationError):
            raise
        raise _InvalidValue("; ".join(error.faults)) from None


def _read_placeholders(value: object) -> str | Mapping[str, str]:
    """Check an argument; the text of a variable is parsed when a migration is pending."""
    if not isinstance(value, str) and not (
        isinstance(value, dict)
        and all(isinstance(text, str) for pair in value.items() for text in pair)
    ):
        raise _InvalidValue("write a dict of names and values, all of them text")
    return value


def _read_ready_when(value: object) -> Requirements:
    from lambda_migrate.migrations.requirements import parse_requirements

    try:
        return parse_requirements(_read_text(value))
    except ValueError as error:
        raise _InvalidValue(str(error)) from None


def _read_profile(value: object) -> str:
    text = _read_text(value)
    parts = text.split("/")
    if len(parts) != 3 or not all(0 < len(part) <= _MAX_APPCONFIG_NAME_LENGTH for part in parts):
        raise _InvalidValue(
            "write the AppConfig application, environment and configuration profile, each by name "
            "or id: application/environment/profile"
        )
    return text


def _read_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.lower() if isinstance(value, str) else ""
    if word in _TRUE + _FALSE:
        return word in _TRUE
    raise _InvalidValue("write true or false")


def _seconds(low: float, high: float = _INFINITY) -> _Type:
    limit = f", {low:g} or more" if high == _INFINITY else f" from {low:g} to {high:g}"

    def read(value: object) -> float:
        number = _to_number(value)
        if number is None or not low <= number <= high or number == _INFINITY:
            raise _InvalidValue(f"write a number of seconds{limit}")
        return number

    return "seconds", read


def _to_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _one_of(*words: str) -> _Type:
    def read(value: object) -> str:
        word = value.lower() if isinstance(value, str) else ""
        if word in words:
            return word
        # YAML 1.1 reads a bare `off` as false, which is how it then arrives here.
        quoted = ' (in YAML with quotes: "off")' if "off" in words else ""
        raise _InvalidValue(f"write one of {', '.join(words)}{quoted}")

    return f"{', '.join(words[:-1])} or {words[-1]}", read


_TEXT = ("text", _read_text)
_PARTITION_KEY = ("text", _read_partition_key)
_PATH = ("path", _read_path)
_CALLABLE = ("module:callable", _read_callable)
_SCHEMA = ("name", _read_schema)
_URL = ("URL", _read_url)
_PROFILE = ("text", _read_profile)
_READY_WHEN = ("text", _read_ready_when)
_PLACEHOLDERS = ("JSON object", _read_placeholders)
_BOOLEAN = ("true or false", _read_boolean)


class Settings:
    """All settings, validated; `load` reads them.

    Each attribute is the keyword argument of that name and the environment variable
    ``LAMBDA_MIGRATE_<NAME>``. The argument takes precedence over the variable, and the variable
    over the default; only ``LAMBDA_MIGRATE_MODE=off`` switches the check of the decorator and the
    middlewares off whatever the argument is. An empty variable counts as absent. `SETTINGS` lists
    them with their types, defaults and meanings; so does the Settings page of the documentation.
    """

    table: str = _setting(
        "",
        _TEXT,
        "Name or ARN of the DynamoDB table that holds the leases. Required on Lambda. Without it, "
        "only PostgreSQL's fence keeps processes from migrating at the same time.",
    )
    target: str = _setting(
        "default",
        _PARTITION_KEY,
        "Key of the database's item in the lease table: one for each database.",
    )
    environment: str = _setting(
        "",
        _TEXT,
        "Name of the environment, for example `staging`. The first run that commits a migration, "
        "or succeeds without one, records it in the database; a function of another environment "
        "is refused.",
    )
    directory: str = _setting(
        "migrations",
        _PATH,
        "Where the migration files are: a directory (relative to the function's code; on the "
        "command line, to the current directory), `bundle.zip/migrations`, or "
        "`package:orders/migrations`.",
    )
    source: Source = _setting(
        "sql",
        _one_of("sql", "alembic", "django"),
        "Where migrations come from: `sql` files, or an `alembic` or `django` project as it is.",
    )
    source_setup: str = _setting(
        "",
        _CALLABLE,
        "A context manager, `module:callable`, that sets up the application before the tool runs. "
        "With Alembic it may yield the `Config`.",
    )
    alembic_config: str = _setting(
        "",
        _PATH,
        "Alembic's configuration file, relative to the function's code; by default `alembic.ini`, "
        "or `pyproject.toml` with a table `tool.alembic`.",
    )
    alembic_section: str = _setting(
        "alembic",
        _TEXT,
        "The section of that file, if it has several environments: what `alembic --name` takes.",
    )
    alembic_revision: str = _setting(
        "heads", _TEXT, "The Alembic revision that this code needs: what `alembic upgrade` takes."
    )
    alembic_version_table: str = _setting(
        "",
        _TEXT,
        "The version table of this target, `table` or `schema.table`, if `env.py` runs migrations "
        "for several; the others are left to targets of their own.",
    )
    django_manifest: str = _setting(
        "lambda_migrate_manifest.json",
        _PATH,
        "The file that names the folders of Django migrations, relative to the function's code; "
        "`lambda-migrate manifest` writes it when the package is built.",
    )
    django_database: str = _setting(
        "default", _TEXT, "The alias in Django's `DATABASES` of the database to migrate."
    )
    django_try_atomic: bool = _setting(
        True,
        _BOOLEAN,
        "Try Django migrations with `atomic = False` in a transaction first, so that a failure "
        "leaves no partial changes. Migrations that cannot run in a transaction then run as "
        "written.",
    )
    allow_empty: bool = _setting(
        False,
        _BOOLEAN,
        "Accept code without migrations, for a service that has none yet. By default it is "
        "refused, because a packaging error can cause it as well.",
    )
    mode: Mode = _setting(
        "migrate",
        _one_of("migrate", "require", "off"),
        "`migrate` applies pending migrations; `require` waits until another process has; `off` "
        "serves without a check.",
    )
    ready_when: Requirements | None = _setting(
        None,
        _READY_WHEN,
        "With mode `require`, instead of a directory: versions that other migration tools must "
        "have applied, for example `prisma:20260101_add_status` or `flyway:1.7, "
        "django:orders.0003_add_status`; `TOOL@SCHEMA.TABLE:VERSION` if the tool's table has "
        "another schema or name.",
    )
    lease_seconds: float = _setting(
        20.0,
        _seconds(*_LEASE_SECONDS_RANGE),
        "Length of the lease, 5 to 900: a holder that was killed blocks the others for about this "
        "long.",
    )
    wait_seconds: float = _setting(
        25.0,
        _seconds(0),
        "Longest wait for another holder. API Gateway gives up after 29 s. Deployment hooks wait "
        "until their deadline unless it is set.",
    )
    safety_margin_seconds: float = _setting(
        2.0,
        _seconds(0),
        "Time kept free before the invocation's deadline, to cancel the migration and "
        "release the lease.",
    )
    schema: str = _setting(
        DEFAULT_SCHEMA, _SCHEMA, "PostgreSQL schema of the history and the fence."
    )
    database_url: DatabaseAddress | None = _setting(
        None,
        _URL,
        "`postgresql://user:password@host:5432/name`, with libpq's parameters. A Unix socket: "
        "`postgresql://user@/name?host=/directory`. If no database is set, `DATABASE_URL` is used, "
        "and then `PGHOST` with libpq's other variables.",
    )
    database_secret: str = _setting(
        "",
        _TEXT,
        "Name or ARN of a Secrets Manager secret in the RDS format, instead of a URL or together "
        "with a URL that has no password.",
    )
    database_iam: bool = _setting(
        False, _BOOLEAN, "Authenticate with an IAM token; the URL names the host and the user."
    )
    sslmode: str = _setting(
        "",
        _TEXT,
        "`disable`, `allow`, `prefer`, `require`, `verify-ca` or `verify-full`, as in libpq; takes "
        "precedence over the URL.",
    )
    sslrootcert: str = _setting(
        "",
        _TEXT,
        "File of PEM certificates (for RDS: Amazon's global bundle), or `system`; takes precedence "
        "over the URL.",
    )
    allow_out_of_order: bool = _setting(
        False, _BOOLEAN, "Apply pending migrations below the highest applied version."
    )
    ignore_other_history: bool = _setting(
        False,
        _BOOLEAN,
        "Migrate although another tool's history table is in the database and lambda-migrate's "
        "history is empty: for a table that belongs to another service.",
    )
    placeholders: str | Mapping[str, str] = _setting(
        "",
        _PLACEHOLDERS,
        "Values for `${ident:name}` and `${literal:name}` in scripts marked `placeholders:true`: "
        '`{"name": "value"}`; as an argument also a dict.',
    )
    failure_pause_seconds: float = _setting(
        10.0,
        _seconds(0),
        "Pause after the first failure of a set of migration files; it doubles with each further "
        "failure of the same set, up to 10 min.",
    )
    lock_timeout_seconds: float = _setting(
        3.0,
        _seconds(0.001),  # 0 would mean no limit to PostgreSQL
        "Lock timeout of a migration: when it expires, the migration is rolled back and retried.",
    )
    on_lease_store_unavailable: OnLeaseStoreUnavailable = _setting(
        "fail",
        _one_of("fail", "check"),
        "While DynamoDB is unavailable: `fail`, or `check` the database itself, read-only.",
    )
    flags: str = _setting(
        "", _PROFILE, "Feature flags in AWS AppConfig: `application/environment/profile`."
    )
    on_flags_unavailable: OnFlagsUnavailable = _setting(
        "fail",
        _one_of("fail", "ignore"),
        "While the feature flags cannot be read: `fail` instead of migrating, since one of them "
        "may forbid it, or `ignore` them.",
    )
    init: Init = _setting(
        "never",
        _one_of("never", "when-long"),
        "`when-long`: check during initialization where Lambda allows minutes for it (provisioned "
        "concurrency, SnapStart), instead of in the first invocation.",
    )

    __slots__ = ("_values",)

    def __init__(self, **values: Any) -> None:
        for name in values.keys() - SETTINGS.keys():
            raise TypeError(f"there is no setting {name}")
        self._values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and all(
            getattr(self, name) == getattr(other, name) for name in SETTINGS
        )

    def __repr__(self) -> str:
        values = self._values.items()
        shown = (f"{name}={value!r}" for name, value in values if name not in _SECRETS)
        return f"Settings({', '.join(shown)})"

    def replace(self, **values: Any) -> Settings:
        """A copy with these values, which are not validated."""
        return Settings(**(self._values | values))

    @classmethod
    def load(cls, environ: Mapping[str, str], **arguments: object) -> Settings:
        """Read and validate the settings.

        Args:
            environ: Environment variables, usually ``os.environ``.
            **arguments: By attribute name; None counts as absent. They take precedence.

        Raises:
            ConfigurationError: With every fault, each naming its variable and what to write.
        """
        variables = {name for name in environ if name.startswith(PREFIX)}
        faults = _find_unknown_names(variables, arguments)
        given = {name: value for name, value in arguments.items() if value is not None}
        values: dict[str, Any] = {}
        for name, setting in SETTINGS.items():
            if name == "database_url" or not (name in given or PREFIX + name.upper() in variables):
                continue
            source, value = _find_value(name, environ, given)
            if source:
                _read_into(values, name, source, value, setting.read, faults)
        _read_database_url(values, environ, given, faults)
        settings = cls(**values)
        _raise_faults([*faults, *settings._find_conflicts()])
        return settings

    def _find_conflicts(self) -> Iterable[str]:
        """Settings that exclude each other; if none can, what describes them is not loaded."""
        url = self.database_url
        is_plain_url = url is None or (url.user and not self.database_secret)
        if is_plain_url and self._values.keys().isdisjoint(_INTERDEPENDENT):
            return ()
        from lambda_migrate.setting_faults import find_conflicts

        return find_conflicts({name: getattr(self, name) for name in SETTINGS}, self._values)

    @classmethod
    def check_arguments(cls, **arguments: object) -> None:
        """Refuse arguments that no environment can make usable, before there is a request.

        Raises:
            ConfigurationError: With every unknown name and unusable value.
        """
        faults = _find_unknown_names((), arguments)
        for name, value in arguments.items():
            if value is not None and name in SETTINGS:
                read = SETTINGS[name].read
                _read_into({}, name, f"argument {name}", value, read, faults)
        _raise_faults(faults)

    @property
    def address(self) -> DatabaseAddress | None:
        """The URL's address with ``sslmode`` and ``sslrootcert`` of the settings; None without one.

        IAM tokens must not be sent in plaintext: with ``database_iam``, loopback (a tunnel)
        defaults to ``require`` instead of ``prefer``.
        """
        if self.database_url is None:
            return None
        address = self.database_url.with_tls(sslmode=self.sslmode, sslrootcert=self.sslrootcert)
        if self.database_iam and address.effective_sslmode == "prefer" and not address.sslmode:
            return address.with_tls(sslmode="require")
        return address

    @property
    def tool_options(self) -> dict[str, Any]:
        """The settings that the tool which `source` names needs, by name."""
        prefix = f"{self.source}_"
        names = [name for name in SETTINGS if name.startswith((prefix, "source_"))]
        names.append("allow_empty")
        return {name: getattr(self, name) for name in names}

    @property
    def address_text(self) -> str:
        """The database's address, without secrets, or the name of the secret that contains it.

        `Credentials.address_text` returns the same.
        """
        address = self.address
        return self.database_secret if address is None else address.text

    @property
    def address_text_without_schema(self) -> str:
        """What distinguishes the database: its address, and whether another tool migrates it.

        The item may be shared with functions whose database lambda-migrate migrates.
        """
        return self.address_text + ("" if self.ready_when is None else "#ready_when")

    @property
    def database_address_text(self) -> str:
        """`Database.address_text` of the database, which need not be created for it."""
        return add_schema(self.address_text_without_schema, self.schema)

    def require_configured(self, *, table: bool = False, database: bool = False) -> Settings:
        """Return self if the given settings are set.

        Raises:
            ConfigurationError: With everything that is not set.
        """
        lacks_table = table and not self.table
        lacks_database = database and not (self.database_url or self.database_secret)
        if lacks_table or lacks_database:
            from lambda_migrate.setting_faults import describe_missing

            _raise_faults([*describe_missing(table=lacks_table, database=lacks_database)])
        return self


def _raise_faults(faults: list[str]) -> None:
    """Raise a `ConfigurationError` with all of them, if there are any."""
    if faults:
        from lambda_migrate.errors import ConfigurationError

        heading = f"{len(faults)} settings are wrong:" if len(faults) > 1 else ""
        raise ConfigurationError(faults, heading=heading)


def _read_into(
    values: dict[str, Any],
    name: str,
    source: str,
    value: object,
    read: Callable[[object], Any],
    faults: list[str],
) -> None:
    try:
        values[name] = read(value)
    except _InvalidValue as fault:
        shown = "" if name in _SECRETS else f" is {value!r}"
        faults.append(f"{source}{shown}: {fault}")


def _read_database_url(
    values: dict[str, Any],
    environ: Mapping[str, str],
    arguments: Mapping[str, object],
    faults: list[str],
) -> None:
    """Read the URL, with libpq's variables for what it leaves out, or these alone.

    It comes last: a secret or IAM provides the login itself, so PGPASSWORD does not count then.
    """
    source, value = _find_value("database_url", environ, arguments)
    secret, iam = values.get("database_secret"), values.get("database_iam")
    if not source and not secret and environ.get("PGHOST"):
        if environ.get("PGSERVICE"):
            faults.append("PGSERVICE: service files are not read; unset it, or set a URL")
        elif environ.get("PGDATABASE") or environ.get("PGUSER"):
            source, value = "PGHOST", None
    if source:
        excluded = ("PGUSER", "PGPASSWORD") if secret else ("PGPASSWORD",) if iam else ()
        variables = {name: environ.get(name, "") for name in LIBPQ_VARIABLES}
        for name in excluded:
            del variables[name]
        _read_into(
            values, "database_url", source, value, lambda each: _read_url(each, variables), faults
        )


def _find_value(
    name: str, environ: Mapping[str, str], arguments: Mapping[str, object]
) -> tuple[str, object]:
    """Where the value comes from, and the value; ``("", None)`` if it is not set."""
    if name in arguments:
        return f"{name} (or {PREFIX}{name.upper()})", arguments[name]
    for variable in _variable_names(name, environ, arguments):
        text = environ.get(variable, "").strip()
        if text:
            return f"{variable} (or the argument {name})", text
    return "", None


def _variable_names(
    name: str, environ: Mapping[str, str], arguments: Mapping[str, object]
) -> tuple[str, ...]:
    own = PREFIX + name.upper()
    if name != "database_url":
        return (own,)
    # DATABASE_URL belongs to the application: a secret set for lambda-migrate takes precedence.
    secret = "database_secret"  # noqa: S105 - a setting's name
    has_secret = secret in arguments or environ.get(PREFIX + secret.upper(), "").strip()
    return (own,) if has_secret else (own, "DATABASE_URL")


def _find_unknown_names(variables: Iterable[str], arguments: Iterable[str]) -> list[str]:
    unknown_variables = [
        name
        for name in sorted(variables)
        if not name.startswith(_PREFIXES_OF_OTHER_VARIABLES)
        and name.removeprefix(PREFIX).lower() not in SETTINGS
    ]
    unknown_arguments = [name for name in arguments if name not in SETTINGS]
    if not unknown_variables and not unknown_arguments:
        return []
    from lambda_migrate.setting_faults import describe_unknown_name

    known = [PREFIX + name.upper() for name in SETTINGS]
    faults = [describe_unknown_name("variable", name, known) for name in unknown_variables]
    return faults + [
        describe_unknown_name("argument", name, SETTINGS) for name in unknown_arguments
    ]


SETTINGS: dict[str, Setting] = {
    name: value for name, value in vars(Settings).items() if isinstance(value, Setting)
}
"""Every setting by name, in the order of `Settings`."""
