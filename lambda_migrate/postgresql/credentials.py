"""Where user and password come from when a connection is opened.

Three ways, one shape: `Credentials` gives a complete `DatabaseAddress` when asked, and not
before, so that a cold start which needs no connection reads no secret. `open_connection` is what
`postgres` needs of all this.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable
from lambda_migrate.postgresql.address import DEFAULT_PORT, DatabaseAddress
from lambda_migrate.postgresql.connection import ConnectFailed, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lambda_migrate.postgresql.connection import Connection

__all__ = [
    "Credentials",
    "IamCredentials",
    "SecretCredentials",
    "UrlCredentials",
    "open_connection",
]

SECRET_MAX_AGE_SECONDS = 30
"""How long a secret is kept in memory; a rotation is seen at the latest by then."""

_AWS_SECONDS = 3
"""For connecting to an AWS service and for each of its answers; botocore's own default is 60."""

_ENGINES = ("postgres", "postgresql", "aurora-postgresql")
_RDS_HOST = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-\d+)\.rds\.amazonaws\.com(?:\.cn)?$")

_NOT_TRANSIENT = {
    "AccessDeniedException": "grant {permission} on it to the function's role (and kms:Decrypt, "
    "where it is encrypted with a key of your own)",
    "ResourceNotFoundException": "there is no such secret in this account and Region; mend "
    "LAMBDA_MIGRATE_DATABASE_SECRET",
    "DecryptionFailure": "grant kms:Decrypt on its key to the function's role",
    "InvalidRequestException": "it may be marked for deletion; restore it or name another one",
    "ValidationException": "mend LAMBDA_MIGRATE_DATABASE_SECRET: a secret's name or ARN",
    "UnrecognizedClientException": "the function's AWS credentials are not valid",
    "InvalidSignatureException": "the function's AWS credentials are not valid",
    "ExpiredTokenException": "the function's AWS credentials have expired",
}
"""What Secrets Manager may answer that waiting does not mend, and what does."""


class Credentials(Protocol):
    """Knows, when asked, where the database is and how to get in."""

    @property
    def fingerprint(self) -> str:
        """Where the database is, without secrets and without I/O: an address or an ARN."""

    @property
    def advice(self) -> str:
        """What to look at when PostgreSQL refuses the login; "" where there is nothing to add."""

    def address(self, *, fresh: bool = False) -> DatabaseAddress:
        """The address with user and password.

        Args:
            fresh: Ask the source again: what it gave before was refused.

        Raises:
            ConfigurationError: A permission, a secret or a key in it is missing.
            DatabaseUnavailable: The source did not answer.
        """


class UrlCredentials:
    """User and password as the URL has them."""

    advice = ""

    def __init__(self, address: DatabaseAddress) -> None:
        self._address = address

    @property
    def fingerprint(self) -> str:
        """See `Credentials.fingerprint`."""
        return self._address.fingerprint

    def address(self, *, fresh: bool = False) -> DatabaseAddress:  # noqa: ARG002 - a URL never changes
        """See `Credentials.address`."""
        return self._address


class SecretCredentials:
    """A Secrets Manager secret in the RDS format: ``username``, ``password``, and where it is.

    ``host``, ``port`` (5432), ``dbname`` (``postgres``) come from the secret, with the defaults
    that AWS documents for it, unless an address is given: secrets that RDS manages itself hold
    user and password alone.

    Args:
        secret: Name or ARN.
        address: Where the database is; None: the secret says so.
        sslmode: See `DatabaseAddress`; for the address in the secret.
        sslrootcert: Likewise.
        client: A boto3 Secrets Manager client; None makes one when first needed.
    """

    def __init__(
        self,
        secret: str,
        *,
        address: DatabaseAddress | None = None,
        sslmode: str = "",
        sslrootcert: str = "",
        client: Any = None,
    ) -> None:
        self._secret = secret
        self._address = address
        self._tls = {"sslmode": sslmode, "sslrootcert": sslrootcert}
        self._client = client
        self._provider: Any = None

    @property
    def fingerprint(self) -> str:
        """See `Credentials.fingerprint`."""
        return self._address.fingerprint if self._address else self._secret

    @property
    def advice(self) -> str:
        """See `Credentials.advice`."""
        return f"user and password come from the secret {self._secret}; were they rotated?"

    def address(self, *, fresh: bool = False) -> DatabaseAddress:
        """See `Credentials.address`."""
        content = self._content(self._read(fresh=fresh))
        user, password = self._text(content, "username"), self._text(content, "password")
        place = self._address or self._place(content)
        return replace(place, user=user, password=password)

    def _read(self, *, fresh: bool) -> str | bytes:
        from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError
        from botocore.exceptions import BotoCoreError

        try:
            self._provider = self._provider or _secrets_provider(self._client)
            value: str | bytes = self._provider.get(
                self._secret, max_age=SECRET_MAX_AGE_SECONDS, force_fetch=fresh
            )
        except GetParameterError as error:
            raise self._unreadable(error.__context__ or error) from error
        except BotoCoreError as error:
            raise self._unreadable(error) from error
        return value

    def _unreadable(self, error: BaseException) -> ConfigurationError | DatabaseUnavailable:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
        what = f"the secret {self._secret} cannot be read ({code})"
        advice = _NOT_TRANSIENT.get(code)
        if advice is not None:
            text = advice.format(permission="secretsmanager:GetSecretValue")
            return ConfigurationError(f"{what}: {text}")
        if code in ("NoRegionError", "NoCredentialsError"):
            return ConfigurationError(f"{what}: {error}")
        return DatabaseUnavailable(f"{what}: Secrets Manager did not answer; try again")

    def _content(self, value: str | bytes) -> Mapping[str, Any]:
        try:
            content = json.loads(value)
        except ValueError:
            content = None  # not chained: the error would hold the content
        if not isinstance(content, dict):
            raise ConfigurationError(
                f"the secret {self._secret} is not a JSON object in the RDS format; "
                'write {"username": ..., "password": ..., "host": ..., "port": ..., "dbname": ...}'
            )
        return content

    def _place(self, content: Mapping[str, Any]) -> DatabaseAddress:
        engine = content.get("engine", "postgres")
        if engine not in _ENGINES:
            raise ConfigurationError(
                f"the secret {self._secret} names another engine than postgres; name the right one"
            )
        address = DatabaseAddress(
            database=str(content.get("dbname") or "postgres"),
            host=self._text(content, "host"),
            port=self._port(content),
        ).with_tls(**self._tls)
        if faults := address.faults():
            raise ConfigurationError(faults)
        return address

    def _text(self, content: Mapping[str, Any], key: str) -> str:
        value = content.get(key)
        if not isinstance(value, str) or not value:
            other = ", or give the address with LAMBDA_MIGRATE_DATABASE_URL" * (key == "host")
            raise ConfigurationError(
                f"the secret {self._secret} has no text under {key!r}; add it{other}"
            )
        return value

    def _port(self, content: Mapping[str, Any]) -> int:
        text = str(content.get("port") or DEFAULT_PORT)
        if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536):
            raise ConfigurationError(f"the secret {self._secret} has no port number under 'port'")
        return int(text)


class IamCredentials:
    """A token of RDS IAM authentication instead of a password, fresh for every connection.

    It is as good as a password for 15 minutes, so TLS is demanded.

    Args:
        address: Host, port, database and user; no password.
        client: A boto3 RDS client; None makes one when first needed.
    """

    def __init__(self, address: DatabaseAddress, *, client: Any = None) -> None:
        self._address = address
        self._client = client

    @property
    def fingerprint(self) -> str:
        """See `Credentials.fingerprint`."""
        return self._address.fingerprint

    @property
    def advice(self) -> str:
        """See `Credentials.advice`."""
        user = self._address.user
        return (
            f"with IAM the function's role needs rds-db:connect on arn:aws:rds-db:<region>:"
            f"<account>:dbuser:<resource id>/{user}, the instance IAM authentication switched on, "
            f'and the role in PostgreSQL GRANT rds_iam TO "{user}"'
        )

    def address(self, *, fresh: bool = False) -> DatabaseAddress:  # noqa: ARG002 - always fresh
        """See `Credentials.address`."""
        if not self._address.demands_tls:
            raise ConfigurationError(
                f"IAM authentication needs TLS, and sslmode={self._address.tls_mode} does not "
                "demand it; write sslmode=verify-full"
            )
        return replace(self._address, password=self._token())

    def _token(self) -> str:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client = self._client or _rds_client(self._address.host)
            token: str = self._client.generate_db_auth_token(
                DBHostname=self._address.host,
                Port=self._address.port,
                DBUsername=self._address.user,
            )
        except (BotoCoreError, ClientError) as error:
            raise ConfigurationError(
                f"no IAM token for {self._address.user} at {self._address.fingerprint}: {error}; "
                "the function needs a Region and a role with rds-db:connect"
            ) from error
        return token


def open_connection(
    credentials: Credentials,
    application_name: str,
    seconds: float,
    *,
    startup: Mapping[str, str] | None = None,
    opened: Callable[..., Connection] = connect,
) -> Connection:
    """Connect; where the login is refused, once more with what the source says now.

    Args:
        credentials: Where, as whom.
        application_name: See `connect`.
        seconds: At most, for each of the two attempts.
        startup: See `connect`.
        opened: For tests.

    Raises:
        ConnectFailed: With the advice that belongs to the credentials.
        ConfigurationError: See `Credentials.address`.
        DatabaseUnavailable: See `Credentials.address`.
    """

    def attempt(address: DatabaseAddress) -> Connection:
        return opened(address, application_name=application_name, startup=startup, timeout=seconds)

    address = credentials.address()
    try:
        return attempt(address)
    except ConnectFailed as refused:
        if not refused.is_authentication:
            raise
        failure = refused
    current = credentials.address(fresh=True)
    if current == address:
        raise _with_advice(failure, credentials.advice) from failure
    try:
        return attempt(current)
    except ConnectFailed as refused:
        raise _with_advice(refused, credentials.advice) from refused


def _with_advice(failed: ConnectFailed, advice: str) -> ConnectFailed:
    return ConnectFailed(
        f"{failed.reason}; {advice}" if advice else failed.reason,
        permanent=failed.permanent,
        sqlstate=failed.sqlstate,
        answered=failed.answered,
    )


def _secrets_provider(client: Any) -> Any:
    from aws_lambda_powertools.utilities.parameters import SecretsProvider

    return SecretsProvider(boto_config=_boto_config(), boto3_client=client)


def _rds_client(host: str) -> Any:
    import boto3

    found = _RDS_HOST.search(host.lower())  # the token must be signed for the database's Region
    return boto3.client("rds", region_name=found[1] if found else None)


def _boto_config() -> Any:
    from botocore.config import Config

    return Config(
        connect_timeout=_AWS_SECONDS,
        read_timeout=_AWS_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
