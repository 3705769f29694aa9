"""Feature flags in AWS AppConfig, read and evaluated by Powertools. Only the wiring knows this.

The document is a freeform configuration profile in the format of Powertools' feature flags. It
comes from the AppConfig agent, where its Lambda extension listens on this machine, and from the
AppConfig API otherwise; in both cases it is at most some seconds older than what they have.

Loading Powertools' feature flags loads boto3 as well, so this is loaded when something is pending.
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

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.engine.flags import HOLD_BACK_AT, MODE, NAMES, PAUSED, Flags
from lambda_migrate.errors import FlagsUnavailable
from lambda_migrate.timeouts import TimeLimitExceeded, run_with_timeout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from lambda_migrate.clock import Clock, Deadline

__all__ = ["AppConfigFlags", "flags_of"]

EXTENSION_PORT = 2772
"""Where the extension listens unless ``AWS_APPCONFIG_EXTENSION_HTTP_PORT`` says otherwise."""

EXTENSION_SECONDS = 2.0
API_SECONDS = 15.0
"""How old an answer may be before it is asked for again. The extension answers from its own memory;
the API charges for each document, and what does not answer would be waited for again and again."""

LONGEST_SECONDS = 4.0
"""The end of asking, whatever the network does: a name that does not resolve, an address that does
not answer, one byte a second."""

_CONNECT_SECONDS = 1.0
_READ_SECONDS = 1.0
_EXTENSION_READ_SECONDS = 3.0  # the first time, it asks AppConfig itself
_ATTEMPTS = 2
_LARGEST = 4 * 1024 * 1024  # AppConfig's own limit for a document

_MAX_REASON_LENGTH = 500

_TIME_KEYS = ("CURRENT_TIME", "CURRENT_DAY_OF_WEEK", "CURRENT_DATETIME")
_MODES = ("migrate", "require", "off")
_PREFIX = "lambda_migrate_"

_ADVICE = {
    "AccessDeniedException": (
        "the role needs appconfig:StartConfigurationSession and appconfig:GetLatestConfiguration"
    ),
    "ResourceNotFoundException": (
        "there is no such application, environment or profile, or nothing was deployed to it yet"
    ),
}


class AppConfigFlags:
    """`FlagSource` on AppConfig.

    Args:
        profile: ``application/environment/profile``, by names or ids.
        context: What the rules may look at: ``target``, ``environment``, ``function``.
        port: Where the extension listens, by ``AWS_APPCONFIG_EXTENSION_HTTP_PORT``. Empty: on its
            own port, or nowhere, and then the API is asked.
        clock: Tells how old an answer is.
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
        self._answer: Flags | FlagsUnavailable | None = None
        self._answered = (0.0, 0)

    def read(self, deadline: Deadline) -> Flags:
        """See `FlagSource.read`. What could not be read is not asked for at once again, either."""
        if self._answer is None or self._is_old():
            if deadline.is_over:
                raise self._unavailable("no time is left to read them")
            self._answer = self._ask(min(LONGEST_SECONDS, deadline.remaining()))
            self._answered = (self._clock.monotonic(), self._clock.wall_ms())
        if isinstance(self._answer, FlagsUnavailable):
            raise FlagsUnavailable(str(self._answer))
        return self._answer

    def _is_old(self) -> bool:
        """By both clocks: the one may stand still while Lambda freezes us, the other may jump."""
        is_cheap = isinstance(self._answer, Flags) and not self._uses_api
        keep = EXTENSION_SECONDS if is_cheap else API_SECONDS
        monotonic, wall_ms = self._answered
        elapsed = self._clock.monotonic() - monotonic
        return elapsed >= keep or not 0 <= self._clock.wall_ms() - wall_ms < keep * 1000

    def _ask(self, seconds: float) -> Flags | FlagsUnavailable:
        try:
            document = run_with_timeout(seconds, self._document)
            return flags_of(document, self._context)
        except _Unusable as error:
            return self._unavailable(str(error))
        except TimeLimitExceeded:
            return self._unavailable(
                f"no answer within {seconds:.1f} s; from a VPC without a way out, AppConfig is "
                "reached through an interface endpoint for appconfigdata"
            )

    def _unavailable(self, why: str) -> FlagsUnavailable:
        # A document may be of any size.
        reason = why if len(why) <= _MAX_REASON_LENGTH else f"{why[:_MAX_REASON_LENGTH]}..."
        return FlagsUnavailable(f"the feature flags {self._profile} cannot be used: {reason}")

    # --- asking

    def _document(self) -> object:
        if not self._uses_api:
            try:
                return self._from_extension()
            except ConnectionRefusedError:
                if self._port:
                    raise _Unusable(
                        f"nobody listens on port {self._port}, where "
                        "AWS_APPCONFIG_EXTENSION_HTTP_PORT says that the AppConfig extension is; "
                        "add its layer, or remove the variable"
                    ) from None
                self._uses_api = True
        return self._from_api()

    def _from_extension(self) -> object:
        """Ask the agent.

        By hand: Powertools has had a store for it for a few versions only, without a timeout of
        ours.

        Raises:
            ConnectionRefusedError: It is not there.
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
            body = response.read(_LARGEST)
        except ConnectionRefusedError:
            raise
        except (OSError, HTTPException) as error:
            raise _Unusable(f"the AppConfig extension did not answer ({_kind(error)})") from error
        finally:
            connection.close()
        if response.status != 200:
            raise _Unusable(f"the AppConfig extension answered with status {response.status}")
        return _parsed(body)

    def _extension_port(self) -> int:
        if not self._port:
            return EXTENSION_PORT
        if not (self._port.isascii() and self._port.isdigit() and 0 < int(self._port[:6]) < 65536):
            raise _Unusable("AWS_APPCONFIG_EXTENSION_HTTP_PORT is no port number")
        return int(self._port)

    def _from_api(self) -> object:
        """Ask AppConfig, each time in a session of its own.

        A session's token serves once, so that one whose answer was lost would spoil the session.
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
        except _FROM_POWERTOOLS as error:
            raise _Unusable(_reason(error)) from error
        finally:
            if client is not None:
                client.close()


_FROM_POWERTOOLS = (
    BotoCoreError,
    ConfigurationStoreError,
    StoreClientError,
    UnicodeDecodeError,  # it lets this one through
)


class _Unusable(Exception):
    """Why there are no flags to go by, as the end of a sentence."""


def _boto_config() -> Config:
    return Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
    )


def _reason(error: BaseException) -> str:
    """What AWS or botocore said, which Powertools' errors have beneath them."""
    for each in _beneath(error):
        if isinstance(each, ClientError):
            code = each.response.get("Error", {}).get("Code", "nothing")
            advice = _ADVICE.get(code)
            return f"AppConfig said {code}" + (f": {advice}" if advice else "")
        if isinstance(each, HTTPClientError | NoConnection):
            return f"AppConfig did not answer ({_kind(each)})"  # its text has the session's token
        if isinstance(each, BotoCoreError):
            return f"AppConfig could not be asked: {each}"
    return "AppConfig sent no JSON, or nothing"


def _beneath(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _kind(error: BaseException) -> str:
    return type(error).__name__


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _Unusable("the AppConfig extension sent no JSON") from None


# --- what a document says


class _Document(StoreProvider):
    """A document at hand, for Powertools to evaluate."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._content = document

    @property
    def get_raw_configuration(self) -> dict[str, Any]:
        """See `StoreProvider`."""
        return self._content

    def get_configuration(self) -> dict[str, Any]:
        """See `StoreProvider`."""
        return self._content


def flags_of(document: object, context: Mapping[str, str]) -> Flags:
    """What a document says for ``context``. Flags of other names are none of our business.

    Stricter than Powertools, where a slip of the pen makes a flag that never does anything: nobody
    would notice before the day on which it is needed.

    Raises:
        _Unusable: It says nothing that can be relied on.
    """
    ours = _ours(document)
    try:
        SchemaValidator(ours).validate()
    except SchemaValidationError as error:
        raise _Unusable(
            f"the document is not in the format of Powertools' feature flags ({error}); its "
            "profile must be a freeform one"
        ) from None
    _check_rules(ours, context)
    powertools = FeatureFlags(store=_Document(ours))
    powertools.validation_exception_handler(Exception)(_refuse_rule)  # type: ignore[arg-type]  # its hint says instance
    said = {
        name: powertools.evaluate(name=name, context=dict(context), default=None) for name in ours
    }
    return Flags(
        mode=_mode(said.get(MODE, "migrate")),
        hold_back_at=_version(said.get(HOLD_BACK_AT, 0)),
        paused=_boolean(said.get(PAUSED, False)),
    )


def _ours(document: object) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise _Unusable("the document is not a JSON object")
    for name in document:
        if name.startswith(_PREFIX) and name not in NAMES:
            raise _Unusable(f"there is no flag {name!r}; there are {', '.join(NAMES)}")
    ours = {name: document[name] for name in NAMES if name in document}
    if not ours:
        raise _Unusable(f"the document has none of the flags {', '.join(NAMES)}")
    return ours


def _check_rules(flags: Mapping[str, Any], context: Mapping[str, str]) -> None:
    known = (*context, *_TIME_KEYS)
    for name, flag in flags.items():
        for rule, content in (flag.get("rules") or {}).items():
            for condition in content["conditions"]:
                if condition["key"] not in known:
                    raise _Unusable(
                        f"rule {rule!r} of {name} looks at {condition['key']!r}; a rule can look "
                        f"at {', '.join(known)}"
                    )


def _refuse_rule(error: BaseException) -> NoReturn:
    """Powertools takes a rule that cannot be evaluated for one that does not apply."""
    raise _Unusable(f"a rule cannot be evaluated: {error}") from None


def _mode(value: object) -> str:
    if value not in _MODES:
        raise _Unusable(f"{MODE} is {value!r}; write one of {', '.join(_MODES)}")
    return str(value)


def _version(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _Unusable(f"{HOLD_BACK_AT} is {value!r}; write a version number, or 0 for none")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Unusable(f"{PAUSED} is {value!r}; write true or false")
    return value
