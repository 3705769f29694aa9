"""Feature flags in AWS AppConfig, evaluated by Powertools.

The document is a freeform configuration profile in the format of Powertools' feature flags. It is
read from the AppConfig agent if its Lambda extension is installed, and from the AppConfig API
otherwise, and cached for some seconds.

Powertools' feature flags import boto3, so this module is imported only when a migration is pending.
"""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote

from aws_lambda_powertools.utilities.feature_flags import (
    AppConfigStore,
    ConfigurationStoreError,
    FeatureFlags,
    SchemaValidator,
    StoreProvider,
)
from aws_lambda_powertools.utilities.feature_flags.exceptions import (
    SchemaValidationError,
    StoreClientError,
)
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnection

from lambda_migrate.aws_errors import describe_sdk_error, explain_refusal
from lambda_migrate.clock import SYSTEM_CLOCK, CallTimeout, run_with_timeout
from lambda_migrate.engine.flags import FLAG_NAMES, HOLD_BACK_AT, MODE, PAUSED, Flags
from lambda_migrate.errors import FlagsUnavailable
from lambda_migrate.migrations.version import parse_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.migrations.version import Version

__all__ = ["AppConfigFlags", "evaluate_flags"]

EXTENSION_PORT = 2772
"""The extension's port, unless ``AWS_APPCONFIG_EXTENSION_HTTP_PORT`` is set."""

EXTENSION_CACHE_SECONDS = 2.0
API_CACHE_SECONDS = 15.0
"""How long a document is cached. The extension responds from its own cache; the API charges for
each document, and delays every migration while it does not respond."""

MAX_READ_SECONDS = 4.0
"""The overall time limit, whatever the network does: a name that does not resolve, an address that
does not respond, one byte a second."""

_CONNECT_SECONDS = 1.0
_READ_SECONDS = 1.0
_EXTENSION_READ_SECONDS = 3.0  # the first time, it asks AppConfig itself
_ATTEMPTS = 2
_MAX_BYTES = 4 * 1024 * 1024  # AppConfig's own limit for a document

_MAX_REASON_LENGTH = 500

_TIME_CONDITION_KEYS = ("CURRENT_TIME", "CURRENT_DAY_OF_WEEK", "CURRENT_DATETIME")
_MODES = ("migrate", "require", "off")
_PREFIX = "lambda_migrate_"

_PERMISSIONS = "appconfig:StartConfigurationSession and appconfig:GetLatestConfiguration"
_ADVICE = {
    "AccessDeniedException": f"the role needs {_PERMISSIONS}",
    "ResourceNotFoundException": (
        "there is no such application, environment or profile, or nothing was deployed to it yet"
    ),
}


class AppConfigFlags:
    """`FlagSource` on AppConfig.

    Args:
        profile: ``application/environment/profile``, by names or ids.
        context: What rules may refer to: ``target``, ``environment``, ``function``.
        port: The extension's port, by ``AWS_APPCONFIG_EXTENSION_HTTP_PORT``. Empty: its default
            port, or the API if no extension listens there.
        clock: For the age of the cached document.
    """

    def __init__(
        self,
        profile: str,
        context: Mapping[str, str],
        *,
        port: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._profile = profile
        self._application, self._environment, self._name = profile.split("/")
        self._context = dict(context)
        self._port = port
        self._clock = clock
        self._uses_api = False
        self._cached: Flags | FlagsUnavailable | None = None
        self._read_at = (0.0, 0)

    def read(self, deadline: Deadline) -> Flags:
        """See `FlagSource.read`. A failure is cached as well."""
        if self._cached is None or self._is_expired():
            if deadline.is_over:
                raise self._make_error("not enough time is left to read them")
            self._cached = self._read(min(MAX_READ_SECONDS, deadline.remaining()))
            self._read_at = (self._clock.monotonic(), self._clock.wall_ms())
        if isinstance(self._cached, FlagsUnavailable):
            raise FlagsUnavailable(str(self._cached))
        return self._cached

    def _is_expired(self) -> bool:
        """By both clocks: one may stop while Lambda freezes the process, the other may jump."""
        is_cheap = isinstance(self._cached, Flags) and not self._uses_api
        keep = EXTENSION_CACHE_SECONDS if is_cheap else API_CACHE_SECONDS
        monotonic, wall_ms = self._read_at
        elapsed = self._clock.monotonic() - monotonic
        return elapsed >= keep or not 0 <= self._clock.wall_ms() - wall_ms < keep * 1000

    def _read(self, seconds: float) -> Flags | FlagsUnavailable:
        try:
            document = run_with_timeout(seconds, self._read_document)
            return evaluate_flags(document, self._context)
        except _FlagsReadError as error:
            return self._make_error(str(error))
        except CallTimeout:
            return self._make_error(
                f"no response within {seconds:.1f} s; in a VPC without internet access, AppConfig "
                "needs an interface endpoint for appconfigdata"
            )

    def _make_error(self, why: str) -> FlagsUnavailable:
        # A document may be of any size.
        reason = why if len(why) <= _MAX_REASON_LENGTH else f"{why[:_MAX_REASON_LENGTH]}..."
        return FlagsUnavailable(f"the feature flags {self._profile} cannot be used: {reason}")

    # --- reading

    def _read_document(self) -> object:
        if not self._uses_api:
            try:
                return self._read_from_extension()
            except ConnectionRefusedError:
                if self._port:
                    raise _FlagsReadError(
                        "AWS_APPCONFIG_EXTENSION_HTTP_PORT is set, but no AppConfig extension "
                        f"listens on port {self._port}; add its layer, or remove the variable"
                    ) from None
                self._uses_api = True
        return self._read_from_api()

    def _read_from_extension(self) -> object:
        """Read the document from the agent.

        Not by Powertools, whose store for the agent is recent and has no timeout.

        Raises:
            ConnectionRefusedError: No agent is running.
        """
        path = "/applications/{}/environments/{}/configurations/{}".format(
            *(quote(part, safe="") for part in (self._application, self._environment, self._name))
        )
        connection = HTTPConnection(
            "localhost", self._extension_port(), timeout=_EXTENSION_READ_SECONDS
        )
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read(_MAX_BYTES)
        except ConnectionRefusedError:
            raise
        except (OSError, HTTPException) as error:
            raise _FlagsReadError(
                f"the AppConfig extension did not respond ({_class_name(error)})"
            ) from error
        finally:
            connection.close()
        if response.status != 200:
            raise _FlagsReadError(
                f"the AppConfig extension responded with status {response.status}"
            )
        return _parse_json(body)

    def _extension_port(self) -> int:
        if not self._port:
            return EXTENSION_PORT
        if not (self._port.isascii() and self._port.isdigit() and 0 < int(self._port[:6]) < 65536):
            raise _FlagsReadError("AWS_APPCONFIG_EXTENSION_HTTP_PORT is not a port number")
        return int(self._port)

    def _read_from_api(self) -> object:
        """Read the document from AppConfig, each time in a new session.

        A session's token is valid once, so that a lost response would make the session unusable.
        """
        client: Any = None
        try:
            client = Session().client("appconfigdata", config=_boto_config())
            store = AppConfigStore(
                environment=self._environment,
                application=self._application,
                name=self._name,
                max_age=0,
                boto3_client=client,
            )
            return store.get_configuration()
        except _POWERTOOLS_ERRORS as error:
            raise _FlagsReadError(_describe_error(error)) from error
        finally:
            if client is not None:
                client.close()


_POWERTOOLS_ERRORS = (
    BotoCoreError,
    ConfigurationStoreError,
    StoreClientError,
    UnicodeDecodeError,  # not caught by Powertools
)


class _FlagsReadError(Exception):
    """Why the flags cannot be used, as the end of a sentence."""


def _boto_config() -> Config:
    return Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
    )


def _describe_error(error: BaseException) -> str:
    """The AWS or botocore error that caused one of Powertools."""
    for each in _iterate_causes(error):
        if isinstance(each, ClientError):
            code = each.response.get("Error", {}).get("Code", "nothing")
            advice = _ADVICE.get(code)
            if code == "AccessDeniedException":
                message = str(each.response["Error"].get("Message", ""))
                advice = (
                    explain_refusal(message, permission=_PERMISSIONS, resource="profile") or advice
                )
            return f"AppConfig responded with {code}" + (f": {advice}" if advice else "")
        if isinstance(each, HTTPClientError | NoConnection):
            # Its text contains the session's token.
            return f"AppConfig did not respond ({_class_name(each)})"
        if isinstance(each, BotoCoreError):
            return f"AppConfig could not be reached: {describe_sdk_error(each)}"
    return "AppConfig sent no JSON document"


def _iterate_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _class_name(error: BaseException) -> str:
    return type(error).__name__


def _parse_json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _FlagsReadError("the AppConfig extension sent no JSON") from None


# --- evaluating a document


class _Document(StoreProvider):
    """A document in memory, for Powertools to evaluate."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._content = document

    @property
    def get_raw_configuration(self) -> dict[str, Any]:
        """See `StoreProvider`."""
        return self._content

    def get_configuration(self) -> dict[str, Any]:
        """See `StoreProvider`."""
        return self._content


def evaluate_flags(document: object, evaluation_context: Mapping[str, str]) -> Flags:
    """Evaluate a document for ``evaluation_context``; flags of other names are ignored.

    This is stricter than Powertools, where a typing mistake makes a flag that has no effect, which
    would be noticed only when the flag is needed.

    Raises:
        _FlagsReadError: The document is invalid.
    """
    own_flags = _select_flags(document)
    try:
        SchemaValidator(own_flags).validate()
    except SchemaValidationError as error:
        raise _FlagsReadError(
            f"the document is not in the format of Powertools' feature flags ({error}); its "
            "profile must be a freeform one"
        ) from None
    _check_rules(own_flags, evaluation_context)
    powertools = FeatureFlags(store=_Document(own_flags))
    powertools.validation_exception_handler(Exception)(_raise_rule_error)  # type: ignore[arg-type]  # its hint says instance
    values = {
        name: powertools.evaluate(name=name, context=dict(evaluation_context), default=None)
        for name in own_flags
    }
    return Flags(
        mode=_read_mode(values.get(MODE, "migrate")),
        hold_back_at=_read_version(values.get(HOLD_BACK_AT, 0)),
        paused=_read_boolean(values.get(PAUSED, False)),
    )


def _select_flags(document: object) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise _FlagsReadError("the document is not a JSON object")
    for name in document:
        if name.startswith(_PREFIX) and name not in FLAG_NAMES:
            raise _FlagsReadError(f"there is no flag {name!r}; there are {', '.join(FLAG_NAMES)}")
    own_flags = {name: document[name] for name in FLAG_NAMES if name in document}
    if not own_flags:
        raise _FlagsReadError(f"the document has none of the flags {', '.join(FLAG_NAMES)}")
    return own_flags


def _check_rules(flags: Mapping[str, Any], evaluation_context: Mapping[str, str]) -> None:
    known = (*evaluation_context, *_TIME_CONDITION_KEYS)
    for name, flag in flags.items():
        for rule, content in (flag.get("rules") or {}).items():
            for condition in content["conditions"]:
                if condition["key"] not in known:
                    raise _FlagsReadError(
                        f"rule {rule!r} of {name} uses {condition['key']!r}; a rule can use "
                        f"{', '.join(known)}"
                    )


def _raise_rule_error(error: BaseException) -> NoReturn:
    """Powertools treats a rule that cannot be evaluated as one that does not match."""
    raise _FlagsReadError(f"a rule cannot be evaluated: {error}") from None


def _read_mode(value: object) -> str:
    if value not in _MODES:
        raise _FlagsReadError(f"{MODE} is {value!r}; write one of {', '.join(_MODES)}")
    return str(value)


def _read_version(value: object) -> Version:
    try:
        return parse_version("" if isinstance(value, (bool, float)) else str(value))
    except ValueError:
        raise _FlagsReadError(
            f"{HOLD_BACK_AT} is {value!r}; write a version number, or 0 for none"
        ) from None


def _read_boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise _FlagsReadError(f"{PAUSED} is {value!r}; write true or false")
    return value
