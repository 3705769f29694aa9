"""The sources of user and password: a URL, a Secrets Manager secret, or IAM authentication.

`Credentials` gives a complete `DatabaseAddress` when asked, and not earlier, so a cold start that
needs no connection reads no secret. `open_connection` logs in with it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Protocol

from lambda_migrate.aws_errors import (
    describe_sdk_error,
    explain_refusal,
    find_partition,
    is_configuration_error,
)
from lambda_migrate.clock import SYSTEM_CLOCK, CallTimeout, Deadline, run_with_timeout
from lambda_migrate.database_address import DEFAULT_PORT, DatabaseAddress
from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable
from lambda_migrate.postgresql.connection import ConnectionFailed, connect
from lambda_migrate.randomness import system_random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lambda_migrate.clock import Clock
    from lambda_migrate.postgresql.connection import Connection
    from lambda_migrate.randomness import Random

__all__ = [
    "Credentials",
    "IAMCredentials",
    "SecretCredentials",
    "URLCredentials",
    "open_connection",
]

SECRET_MAX_AGE_SECONDS = 30
"""How long a secret is kept in memory, and so how late a rotation may be noticed."""

_AWS_SECONDS = 3
"""Timeout for connecting to an AWS service and for each response; botocore's default is 60."""

_SECRET_READ_SECONDS = 30.0
"""Default timeout of a source: all attempts, including the providers of AWS credentials."""

_ROTATION_SECONDS = 20.0
_ROTATION_PAUSES = (0.0, 0.5, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0)
_RETRY_SAME_PASSWORD = frozenset({2, 4, 6, 8})
"""How to wait for a rotation after a refused login. After each pause the secret is read again, and
a new password is tried immediately. After some of the pauses the same password is tried as well:
behind a proxy the secret may be ahead of the database. So a wrong password is sent 5 times in some
15 s. It must not be many more: with the extension credcheck, a role is banned after
``credcheck.max_auth_failure`` refusals (postgresql.org/about/news, credcheck v2.0.0)."""

_TOKEN_SECONDS = 1.0
"""Two tokens that are signed in the same second are equal."""

_EXPIRED_TOKEN_CODES = ("ExpiredToken", "ExpiredTokenException")

_SECRET_ENGINE_NAMES = ("postgres", "postgresql", "aurora-postgresql")
_RDS_HOST = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-\d+)\.rds\.amazonaws\.com(?:\.cn)?$")

_PERMANENT_ERRORS = {
    "AccessDeniedException": "grant {permission} on it to the function's role (and kms:Decrypt, "
    "where it is encrypted with a key of your own)",
    "ResourceNotFoundException": "there is no such secret in this account and Region; correct "
    "LAMBDA_MIGRATE_DATABASE_SECRET",
    "DecryptionFailure": "grant kms:Decrypt on its key to the function's role",
    "InvalidRequestException": "it may be scheduled for deletion; restore it or use another one",
    "ValidationException": "correct LAMBDA_MIGRATE_DATABASE_SECRET: a secret's name or ARN",
    "UnrecognizedClientException": "the function's AWS credentials are not valid",
    "InvalidSignatureException": "the function's AWS credentials are not valid",
    "ExpiredTokenException": "the function's AWS credentials have expired",
}
"""Errors of Secrets Manager that a retry does not resolve, and what does."""


class Credentials(Protocol):
    """Provides the database's address with user and password."""

    @property
    def address_text(self) -> str:
        """The database's address or a secret's ARN, without secrets and without I/O."""

    @property
    def advice(self) -> str:
        """What to check when PostgreSQL refuses the login, or ""."""

    def address(
        self, *, refresh: bool = False, seconds: float = _SECRET_READ_SECONDS
    ) -> DatabaseAddress:
        """The address with user and password.

        Args:
            refresh: Ask the source again, because its last response was refused.
            seconds: Timeout for the source, including all its attempts.

        Raises:
            ConfigurationError: A permission, a secret or a key in it is missing.
            DatabaseUnavailable: The source did not respond.
        """

    def login_addresses(self, until: Deadline, random: Random) -> Iterator[DatabaseAddress]:
        """Addresses to log in with; the next one is requested after a refused login.

        Args:
            until: When to give up.
            random: Random numbers for the pauses.

        Raises:
            ConfigurationError: See `address`.
            DatabaseUnavailable: See `address`.
        """


class URLCredentials:
    """User and password of a database URL, or the password that libpq's password file has."""

    def __init__(self, address: DatabaseAddress) -> None:
        self._address = address
        self.advice = ""
        """See `Credentials.advice`."""

    @property
    def address_text(self) -> str:
        """See `Credentials.address_text`."""
        return self._address.text

    def address(
        self,
        *,
        refresh: bool = False,  # noqa: ARG002 - the file is read each time
        seconds: float = _SECRET_READ_SECONDS,  # noqa: ARG002 - and takes no time
    ) -> DatabaseAddress:
        """See `Credentials.address`."""
        if self._address.password is not None:
            return self._address
        from lambda_migrate.postgresql.passfile import PassfileIgnored, find_password

        try:
            return self._address.replace(password=find_password(self._address))
        except PassfileIgnored as ignored:  # the server may not ask for a password
            self.advice = str(ignored)
            return self._address

    def login_addresses(self, until: Deadline, random: Random) -> Iterator[DatabaseAddress]:  # noqa: ARG002 - see `address`
        """See `Credentials.login_addresses`."""
        yield self.address()


class SecretCredentials:
    """A Secrets Manager secret in the RDS format.

    ``username`` and ``password`` come from the secret, and so do ``host``, ``port`` (default 5432)
    and ``dbname`` (default ``postgres``) unless an address is given: secrets that RDS manages
    itself contain user and password only.

    Args:
        secret: Name or ARN.
        address: The database's address; None: the secret contains it.
        sslmode: See `DatabaseAddress`; for the address in the secret.
        sslrootcert: See `DatabaseAddress`; for the address in the secret.
        client: A boto3 Secrets Manager client; None creates one when first needed.
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
    def address_text(self) -> str:
        """See `Credentials.address_text`."""
        return self._address.text if self._address else self._secret

    @property
    def advice(self) -> str:
        """See `Credentials.advice`."""
        return (
            f"user and password come from the secret {self._secret}; its versions AWSCURRENT and "
            "AWSPENDING were tried; check whether it was rotated"
        )

    def address(
        self, *, refresh: bool = False, seconds: float = _SECRET_READ_SECONDS
    ) -> DatabaseAddress:
        """See `Credentials.address`."""
        began = SYSTEM_CLOCK.monotonic()
        try:
            value = run_with_timeout(seconds, lambda: self._read(refresh=refresh))
        except CallTimeout:
            self._provider = None  # the abandoned call still uses it
            raise self._timeout_error(seconds) from None
        except _CredentialsSourceError as failed:
            raise self._secret_error(
                failed.error, SYSTEM_CLOCK.monotonic() - began
            ) from failed.error
        return self._parse_secret(value)

    def _parse_secret(self, value: str | bytes) -> DatabaseAddress:
        content = self._parse_content(value)
        user, password = (
            self._required_text(content, "username"),
            self._required_text(content, "password"),
        )
        place = self._address or self._address_in_secret(content)
        return place.replace(user=user, password=password)

    def login_addresses(self, until: Deadline, random: Random) -> Iterator[DatabaseAddress]:
        """See `Credentials.login_addresses`; see `_ROTATION_PAUSES` for when."""
        tried = [self.address(seconds=until.remaining())]
        yield tried[0]
        until = until.limited_to(_ROTATION_SECONDS)
        for number, pause in enumerate(_ROTATION_PAUSES):
            pause *= (1 + random.random()) / 2
            if pause >= until.remaining():
                return
            until.clock.sleep(pause)
            current = self.address(refresh=True, seconds=until.remaining())
            candidates = [current] if current not in tried else self._read_pending_secret(until)
            new = [each for each in candidates if each not in tried]
            if not new and number not in _RETRY_SAME_PASSWORD:
                continue
            tried += new
            yield new[0] if new else current

    def _read_pending_secret(self, until: Deadline) -> list[DatabaseAddress]:
        """The version that a rotation is about to make current, if it exists and may be read."""
        try:
            answer = run_with_timeout(
                until.remaining(),
                lambda: self._provider.client.get_secret_value(
                    SecretId=self._secret, VersionStage="AWSPENDING"
                ),
            )
            return [
                self._parse_secret(answer.get("SecretString") or answer.get("SecretBinary", b""))
            ]
        except Exception:  # noqa: BLE001 - most secrets have none; AWSCURRENT is what counts
            return []

    def _read(self, *, refresh: bool) -> str | bytes:
        from botocore.exceptions import ClientError

        try:
            return self._read_once(refresh=refresh)
        except _CredentialsSourceError as failed:
            error = failed.error
            if self._client is not None or not isinstance(error, ClientError):
                raise
            if error.response.get("Error", {}).get("Code") not in _EXPIRED_TOKEN_CODES:
                raise
            self._provider = None  # environment and profile may have new ones
            return self._read_once(refresh=refresh)

    def _read_once(self, *, refresh: bool) -> str | bytes:
        from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError
        from botocore.exceptions import BotoCoreError

        try:
            provider = self._provider = self._provider or _secrets_provider(self._client)
            value: str | bytes = provider.get(
                self._secret, max_age=SECRET_MAX_AGE_SECONDS, force_fetch=refresh
            )
        except GetParameterError as error:
            raise _CredentialsSourceError(error.__context__ or error) from error
        except BotoCoreError as error:
            raise _CredentialsSourceError(error) from error
        return value

    def _secret_error(
        self, error: BaseException, seconds: float
    ) -> ConfigurationError | DatabaseUnavailable:
        from botocore.exceptions import ClientError

        what = f"the secret {self._secret} cannot be read"
        if not isinstance(error, ClientError):
            if isinstance(error, Exception) and is_configuration_error(error):
                return ConfigurationError(f"{what}: {describe_sdk_error(error)}")
            return self._timeout_error(seconds, type(error).__name__)
        code = str(error.response.get("Error", {}).get("Code", ""))
        message = str(error.response.get("Error", {}).get("Message", ""))
        if error.operation_name != "GetSecretValue":
            return ConfigurationError(
                f"{what}: no AWS credentials, because {error.operation_name} was refused: {code}"
            )
        if message.startswith(("Signature expired", "Signature not yet current")):
            return DatabaseUnavailable(
                f"{what} ({code}): this machine's clock differs from Secrets Manager's; correct it"
            )
        advice = _PERMANENT_ERRORS.get(code)
        if advice is not None:
            permission = "secretsmanager:GetSecretValue"
            text = advice.format(permission=permission)
            if code == "AccessDeniedException":
                text = explain_refusal(message, permission=permission, resource="secret") or text
            return ConfigurationError(f"{what} ({code}): {text}")
        return DatabaseUnavailable(
            f"{what} ({code}): Secrets Manager refused it temporarily; try again"
        )

    def _timeout_error(self, seconds: float, kind: str = "") -> DatabaseUnavailable:
        return DatabaseUnavailable(
            f"Secrets Manager did not respond within {seconds:.1f} s for the secret {self._secret}"
            f"{f' ({kind})' if kind else ''}; in a VPC without a NAT gateway it needs an interface "
            "endpoint for secretsmanager, whose security group admits the function"
        )

    def _parse_content(self, value: str | bytes) -> Mapping[str, Any]:
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

    def _address_in_secret(self, content: Mapping[str, Any]) -> DatabaseAddress:
        engine = content.get("engine", "postgres")
        if engine not in _SECRET_ENGINE_NAMES:
            raise ConfigurationError(
                f"the engine in the secret {self._secret} is not postgres; use another secret"
            )
        address = DatabaseAddress(
            database=str(content.get("dbname") or "postgres"),
            host=self._required_text(content, "host"),
            port=self._port(content),
        ).with_tls(**self._tls)
        if faults := address.faults():
            raise ConfigurationError(faults)
        return address

    def _required_text(self, content: Mapping[str, Any], key: str) -> str:
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
            raise ConfigurationError(
                f"the secret {self._secret} has no port number under 'port'; correct it"
            )
        return int(text)


class _CredentialsSourceError(Exception):
    """Carries an error of Powertools or botocore within this module."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__(type(error).__name__)


class IAMCredentials:
    """RDS IAM authentication: a new token for every connection instead of a password.

    A token is valid for 15 minutes, so TLS is required.

    Args:
        address: Host, port, database and user; no password.
        client: A boto3 RDS client; None creates one when first needed.
    """

    def __init__(self, address: DatabaseAddress, *, client: Any = None) -> None:
        self._address = address
        self._initial_client = client
        self._client = client

    @property
    def address_text(self) -> str:
        """See `Credentials.address_text`."""
        return self._address.text

    @property
    def advice(self) -> str:
        """See `Credentials.advice`."""
        user = self._address.user
        region = _find_region(self._address.host) or "<region>"
        return (
            "IAM authentication needs rds-db:connect on "
            f"arn:{find_partition(region)}:rds-db:{region}:<account>:dbuser:<resource id>/{user} "
            "in the function's role, IAM authentication enabled on the instance, and in PostgreSQL "
            f'GRANT rds_iam TO "{user}"'
        )

    def address(
        self, *, refresh: bool = False, seconds: float = _SECRET_READ_SECONDS
    ) -> DatabaseAddress:
        """See `Credentials.address`; ``refresh`` also looks up the AWS credentials again."""
        if not self._address.requires_tls:
            raise ConfigurationError(
                f"IAM authentication needs TLS, and sslmode={self._address.effective_sslmode} "
                "does not require it; set sslmode=verify-full"
            )
        if refresh:
            self._client = self._initial_client
        try:
            password = run_with_timeout(seconds, self._token)
        except CallTimeout:
            self._client = self._initial_client
            raise DatabaseUnavailable(
                f"{self._no_token_text}: no AWS credentials within {seconds:.1f} s; their provider "
                "(STS, a container's or a process of the profile) did not respond"
            ) from None
        return self._address.replace(password=password)

    def login_addresses(self, until: Deadline, random: Random) -> Iterator[DatabaseAddress]:
        """See `Credentials.login_addresses`: a second token, in case the first one had expired."""
        yield self.address(seconds=until.remaining())
        pause = _TOKEN_SECONDS * (1 + random.random())
        if pause < until.remaining():
            until.clock.sleep(pause)
            yield self.address(refresh=True, seconds=until.remaining())

    @property
    def _no_token_text(self) -> str:
        return f"no IAM token for {self._address.user} at {self._address.text}"

    def _token(self) -> str:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            client = self._client = self._client or _rds_client(self._address.host)
            token: str = client.generate_db_auth_token(
                DBHostname=self._address.host,
                Port=self._address.port,
                DBUsername=self._address.user,
            )
        except ClientError as error:  # of STS; not chained, it may quote the request
            code = error.response.get("Error", {}).get("Code", "")
            raise ConfigurationError(
                f"{self._no_token_text}: no AWS credentials, because {error.operation_name} was "
                f"refused: {code}"
            ) from None
        except BotoCoreError as error:
            if not is_configuration_error(error):
                raise DatabaseUnavailable(f"{self._no_token_text}: {error}") from error
            raise ConfigurationError(
                f"{self._no_token_text}: {describe_sdk_error(error)}; "
                "the function needs a Region and a role with rds-db:connect"
            ) from error
        return token


def open_connection(
    credentials: Credentials,
    application_name: str,
    seconds: float,
    *,
    startup: Mapping[str, str] | None = None,
    connect_to: Callable[..., Connection] = connect,
    clock: Clock = SYSTEM_CLOCK,
    random: Random | None = None,
) -> Connection:
    """Connect; if the login is refused, try the credentials' next address.

    A refused login does not prove a wrong setting: during a rotation PostgreSQL has the new
    password earlier or later than AWSCURRENT. Only the holder logs in, so there are few attempts.

    Args:
        credentials: The source of address, user and password.
        application_name: See `connect`.
        seconds: Timeout for everything.
        startup: See `connect`.
        connect_to: Replaces `connect` in tests.
        clock: The clock.
        random: Random numbers for the jitter.

    Raises:
        ConnectionFailed: With the advice of the credentials.
        ConfigurationError: See `Credentials.address`.
        DatabaseUnavailable: See `Credentials.address`.
    """
    until = Deadline.after(seconds, clock)
    login_errors: list[ConnectionFailed] = []
    try:
        for address in credentials.login_addresses(until, random or system_random()):
            try:
                return connect_to(
                    address,
                    application_name=application_name,
                    startup=startup,
                    timeout=until.remaining(),
                )
            except ConnectionFailed as refused:
                if not refused.is_authentication_error:
                    raise
                login_errors.append(refused)
    except DatabaseUnavailable as error:
        if not login_errors:
            raise
        raise DatabaseUnavailable(f"{login_errors[-1].reason}; after that: {error}") from error
    passed = seconds - until.remaining()
    raise _make_login_error(login_errors, passed, credentials.advice) from login_errors[-1]


def _make_login_error(
    login_errors: list[ConnectionFailed], seconds: float, advice: str
) -> ConnectionFailed:
    last = login_errors[-1]
    count = f"{len(login_errors)} logins were refused within {seconds:.0f} s"
    parts = [
        last.reason,
        *([count] if len(login_errors) > 1 else []),
        *([advice] if advice else []),
    ]
    return ConnectionFailed(
        "; ".join(parts),
        permanent=last.permanent,
        sqlstate=last.sqlstate,
        server_responded=last.server_responded,
    )


def _secrets_provider(client: Any) -> Any:
    from aws_lambda_powertools.utilities.parameters import SecretsProvider

    return SecretsProvider(boto_config=_boto_config(), boto3_client=client)


def _rds_client(host: str) -> Any:
    import boto3

    # The token must be signed for the database's Region.
    return boto3.Session().client("rds", region_name=_find_region(host))


def _find_region(host: str) -> str | None:
    found = _RDS_HOST.search(host.lower())
    return found[1] if found else None


def _boto_config() -> Any:
    from botocore.config import Config

    return Config(
        connect_timeout=_AWS_SECONDS,
        read_timeout=_AWS_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
