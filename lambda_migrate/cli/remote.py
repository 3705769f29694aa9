"""The admin function from afar: AWS Lambda's Invoke, and what can go wrong between here and there.

A command that changes something may run for minutes, and its answer may be lost on the way. So
every command has an id, the SDK's own retries are off, and a lost answer is asked for again with
the same id: the function finds the run that there is, and does not begin a second one.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from lambda_migrate.clock import SYSTEM_CLOCK, system_random
from lambda_migrate.errors import ConfigurationError, MigrateError, NotReady, escape_text
from lambda_migrate.lease.backoff import Backoff
from lambda_migrate.migrations.sql.excerpt import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from lambda_migrate.clock import Clock, Deadline, Random
    from lambda_migrate.commands.request import Errand

__all__ = ["READ_SECONDS", "RemoteFunction", "make_client"]

READ_SECONDS = 930.0
"""Lambda's longest timeout is 900 s; the SDK's own read timeout of 60 s would give up before."""

_CONNECT_SECONDS = 10.0
_PAUSE_AT_LEAST = 0.2
_QUOTED = 500

_TIMED_OUT = ("Sandbox.Timedout", "Task timed out")
_NOT_STARTED = (
    "Runtime.ImportModuleError",
    "Runtime.HandlerNotFound",
    "Runtime.UserCodeSyntaxError",
    "Runtime.InvalidEntrypoint",
    "Runtime.MalformedHandlerName",
)
_THROTTLED = frozenset({"TooManyRequestsException", "ThrottlingException", "Throttling"})
_CHANGING = frozenset({"ResourceConflictException", "ResourceNotReadyException"})
_MISCONFIGURED = frozenset(
    {
        "EC2AccessDeniedException",
        "InvalidRuntimeException",
        "InvalidSecurityGroupIDException",
        "InvalidSubnetIDException",
        "InvalidZipFileException",
        "KMSAccessDeniedException",
        "KMSDisabledException",
        "KMSInvalidStateException",
        "KMSNotFoundException",
    }
)
"""Lambda answers these with 502, and would tomorrow."""

_DENIED = frozenset({"AccessDeniedException", "AccessDenied"})
_UNKNOWN_CALLER = frozenset(
    {
        "ExpiredTokenException",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "UnrecognizedClientException",
    }
)


def make_client(read_seconds: float = READ_SECONDS) -> Any:
    """A Lambda client that waits for as long as a function may run, and asks once.

    Args:
        read_seconds: How long an answer may take.

    Raises:
        ConfigurationError: No region is configured, or the endpoint's URL cannot be read.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": 1},
        tcp_keepalive=True,
    )
    try:
        return boto3.client("lambda", config=config)
    except (BotoCoreError, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is no URL
        raise ConfigurationError(f"no Lambda client: {error}") from error


class _Kind(Enum):
    """Why there is no answer; and how often that may happen before a person had better look."""

    SILENCE = 6
    """It cannot be reached, its answer was lost, or Lambda itself failed."""
    DEATH = 3
    """It ended in the midst."""
    HASTE = 0
    """It is throttled, or being changed: however often, until the deadline."""


class _Unheard(Exception):
    """There is no answer, and the same may be asked again.

    Attributes:
        kind: Why.
        error: What to tell a person when there is to be no further try.
        ended: The invocation that is known to have ended, or "".
    """

    def __init__(self, kind: _Kind, error: MigrateError, *, ended: str = "") -> None:
        self.kind = kind
        self.error = error
        self.ended = ended
        super().__init__(str(error))


@dataclass(frozen=True, slots=True)
class _Heard:
    """What Lambda answered to one Invoke."""

    payload: bytes
    failed: bool
    invocation: str


class RemoteFunction:
    """One admin function.

    Args:
        name: ``NAME``, ``NAME:ALIAS`` or an ARN.
        deadline: For all of it.
        client: Makes the boto3 client when it is first needed.
        clock: Time.
        random: Chance, for the pauses.
        on_wait: Told why and for how many seconds so far, before each further try.
    """

    def __init__(
        self,
        name: str,
        deadline: Deadline,
        *,
        client: Callable[[], Any] = make_client,
        clock: Clock = SYSTEM_CLOCK,
        random: Random | None = None,
        on_wait: Callable[[str, float], None] = lambda _reason, _seconds: None,
    ) -> None:
        self.name = name
        self._deadline = deadline
        self._make_client = client
        self._made: Any = None
        self._clock = clock
        self._backoff = Backoff(random or system_random())
        self._on_wait = on_wait

    def ask(self, errand: Errand) -> dict[str, Any]:
        """Have a command run, and its answer told, however often that has to be asked for.

        Args:
            errand: The command.

        Returns:
            The function's answer: ``exit_code`` with ``document`` or ``error``.

        Raises:
            ConfigurationError: There is no such function, it may not be invoked, or it is not ours.
            NotReady: It was not heard; the message says what is known of the command.
            MigrateError: It failed before it could answer.
        """
        began = self._clock.monotonic()
        unheard: Counter[_Kind] = Counter()
        while True:
            try:
                answer = self._once(errand)
            except _Unheard as silence:
                unheard[silence.kind] += 1
                if unheard[silence.kind] == silence.kind.value or self._deadline.is_over:
                    raise silence.error from None
                reason = str(silence.error)
                if silence.ended:
                    errand = replace(errand, ended=(*errand.ended, silence.ended))
            else:
                if not answer.get("running") or self._deadline.is_over:
                    return answer
                reason = str(answer["error"]["message"])
            self._pause(reason, self._clock.monotonic() - began)

    def _pause(self, reason: str, waited: float) -> None:
        self._on_wait(reason, waited)
        pause = max(_PAUSE_AT_LEAST, self._backoff.delay(waited))
        self._clock.sleep(min(pause, self._deadline.remaining()))

    def _once(self, errand: Errand) -> dict[str, Any]:
        left = max(1.0, self._deadline.remaining())
        event = replace(errand, timeout=round(left, 3)).event
        return self._read(self._invoke(json.dumps(event).encode(), errand), errand)

    def _invoke(self, payload: bytes, errand: Errand) -> _Heard:
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectionError,  # noqa: A004 - botocore's, which is no OSError
            HTTPClientError,
            IncompleteReadError,
        )

        if self._made is None:
            self._made = self._make_client()
        try:
            response = self._made.invoke(
                FunctionName=self.name, InvocationType="RequestResponse", Payload=payload
            )
            return _Heard(
                response["Payload"].read(),
                "FunctionError" in response,
                str(response["ResponseMetadata"].get("RequestId", "")),
            )
        except ClientError as error:
            # Not chained: AWS may quote the signed request, session token and all.
            raise self._refused(error) from None
        except (ConnectionError, HTTPClientError, IncompleteReadError) as error:
            raise self._unheard(error, errand) from None
        except BotoCoreError as error:
            raise ConfigurationError(f"Lambda, function {self.name!r}: {error}") from error

    def _refused(self, error: Any) -> Exception:
        """Lambda's own error as ours, by its code."""
        answer: dict[str, Any] = error.response
        code = str(answer.get("Error", {}).get("Code", ""))
        message = _quoted(answer.get("Error", {}).get("Message", ""))
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        said = f"Lambda, function {self.name!r}: {code} {message}"
        if code in _MISCONFIGURED:
            return ConfigurationError(f"{said}; the function itself has to be mended")
        if code in _THROTTLED or code in _CHANGING or status == 429:
            return _Unheard(_Kind.HASTE, NotReady(said))
        if status >= 500:
            return _Unheard(_Kind.SILENCE, NotReady(said))
        if code == "ResourceNotFoundException":
            return ConfigurationError(
                f"there is no function {self.name!r} in {self._made.meta.region_name} ({message}): "
                "write --function NAME or NAME:ALIAS, and check the region and the account"
            )
        if code in _DENIED:
            return ConfigurationError(
                f"lambda:InvokeFunction on {self.name!r} is not allowed to these credentials "
                f"({message}); it is all that --function needs"
            )
        if code in _UNKNOWN_CALLER:
            return ConfigurationError(
                f"Lambda does not accept these credentials: {code}; sign in again, or correct them"
            )
        return ConfigurationError(said)

    def _unheard(self, error: Exception, errand: Errand) -> _Unheard:
        from botocore.exceptions import ConnectionError  # noqa: A004 - no OSError

        what = f"{type(error).__name__}: {_quoted(error)}"
        if isinstance(error, ConnectionError):  # nothing was sent
            told = NotReady(f"Lambda cannot be reached: {what}")
        else:
            told = NotReady(
                f"the answer of {self.name!r} was lost ({what}); "
                + (
                    f"`{errand.command.name}` may still run there: see `status` and `lease show`"
                    if errand.writes
                    else "try again"
                )
            )
        return _Unheard(_Kind.SILENCE, told)

    def _read(self, heard: _Heard, errand: Errand) -> dict[str, Any]:
        try:
            answer = json.loads(heard.payload)
        except ValueError:
            answer = None
        if heard.failed:
            raise self._broken(answer if isinstance(answer, dict) else {}, heard, errand)
        if not _is_ours(answer):
            raise ConfigurationError(
                f"{self.name!r} answered something that is not lambda-migrate's: is its handler "
                "lambda_migrate.deploy.admin.handler?"
            )
        return dict(answer)

    def _broken(self, answer: dict[str, Any], heard: _Heard, errand: Errand) -> Exception:
        """The function failed instead of answering."""
        kind, message = str(answer.get("errorType", "")), str(answer.get("errorMessage", ""))
        said = _quoted(f"{kind}: {message}" if kind else message) or "no reason was told"
        if kind in _NOT_STARTED:
            return ConfigurationError(f"{self.name!r} cannot start: {said}")
        if any(text in said for text in _TIMED_OUT):
            error: MigrateError = NotReady(
                f"{self.name!r} ran into its own timeout before it could answer ({said}); "
                "give the function a longer one, up to 15 min"
            )
        else:
            error = MigrateError(f"{self.name!r} failed before it could answer: {said}")
        if errand.writes:  # it knows, or the history does, how far it came
            return _Unheard(_Kind.DEATH, error, ended=heard.invocation)
        return error


def _is_ours(answer: Any) -> bool:
    if not isinstance(answer, dict) or not isinstance(answer.get("exit_code"), int):
        return False
    return isinstance(answer.get("document", answer.get("error")), dict)


def _quoted(text: object) -> str:
    """What others said, on one line, as far as it may be repeated."""
    line = escape_text(" ".join(redact(str(text)).split()))
    return line if len(line) <= _QUOTED else line[:_QUOTED] + "…"
