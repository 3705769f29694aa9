"""Runs a command in the admin function through AWS Lambda's Invoke API.

A command that changes something may run for minutes, and its response may be lost. So every command
has a request id, the SDK's own retries are off, and after a lost response the same request is sent
again: the function finds the run that has this id and does not start a second one.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from lambda_migrate.aws_errors import describe_sdk_error, explain_refusal
from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.errors import ConfigurationError, MigrateError, NotReady, escape_text
from lambda_migrate.lease.backoff import Backoff
from lambda_migrate.migrations.sql.excerpt import redact
from lambda_migrate.randomness import system_random

if TYPE_CHECKING:
    from collections.abc import Callable

    from lambda_migrate.clock import Clock, Deadline
    from lambda_migrate.commands.request import CommandRequest
    from lambda_migrate.randomness import Random

__all__ = ["READ_SECONDS", "RemoteFunction", "make_client"]

READ_SECONDS = 930.0
"""Lambda's longest timeout is 900 s; the SDK's own read timeout is 60 s."""

_CONNECT_SECONDS = 10.0
_MIN_DELAY_SECONDS = 0.2
_QUOTE_LENGTH = 500

_TIMEOUT_TEXTS = ("Sandbox.Timedout", "Task timed out")
_START_ERRORS = (
    "Runtime.ImportModuleError",
    "Runtime.HandlerNotFound",
    "Runtime.UserCodeSyntaxError",
    "Runtime.InvalidEntrypoint",
    "Runtime.MalformedHandlerName",
)
_THROTTLED = frozenset({"TooManyRequestsException", "ThrottlingException", "Throttling"})
_UPDATING = frozenset({"ResourceConflictException", "ResourceNotReadyException"})
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
"""Lambda returns these with status 502, but a retry does not help."""

_DENIED = frozenset({"AccessDeniedException", "AccessDenied"})
_BAD_CREDENTIALS = frozenset(
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
    """Create a Lambda client that waits as long as a function may run and does not retry.

    Args:
        read_seconds: How long to wait for a response.

    Raises:
        ConfigurationError: No region is configured, or the endpoint's URL is invalid.
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
    except (BotoCoreError, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is not a URL
        reason = describe_sdk_error(error)
        raise ConfigurationError(f"cannot create a Lambda client: {reason}") from error


class _NoResponseReason(Enum):
    """Why there is no response; the value is the attempt at which to give up, 0 for never."""

    UNREACHABLE = 6
    """Lambda cannot be reached or failed, or the response was lost."""
    CRASHED = 3
    """The function ended before it responded."""
    THROTTLED = 0
    """The call is throttled, or the function is being updated: retried until the deadline."""


class _NoResponse(Exception):
    """There is no response, and the request may be sent again.

    Attributes:
        reason: Why.
        error: The error to raise after the last attempt.
        ended_invocation_ids: The invocation, if it is known to have ended.
    """

    def __init__(
        self, reason: _NoResponseReason, error: MigrateError, *ended_invocation_ids: str
    ) -> None:
        self.reason = reason
        self.error = error
        self.ended_invocation_ids = ended_invocation_ids
        super().__init__(str(error))


@dataclass(frozen=True, slots=True)
class _InvokeResponse:
    """Lambda's response to one Invoke."""

    payload: bytes
    is_error: bool
    request_id: str


class RemoteFunction:
    """One admin function.

    Args:
        name: ``NAME``, ``NAME:ALIAS`` or an ARN.
        deadline: Overall limit.
        client: Creates the boto3 client when it is first needed.
        clock: Time.
        random: Randomness of the pauses.
        on_wait: Called before each retry with the reason and the seconds waited so far.
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
        self._client: Any = None
        self._clock = clock
        self._backoff = Backoff(random or system_random())
        self._on_wait = on_wait

    def run(self, request: CommandRequest) -> dict[str, Any]:
        """Run a command once and return its response; send the request again if it is lost.

        Args:
            request: The command.

        Returns:
            The function's response: ``exit_code`` with ``document`` or ``error``.

        Raises:
            ConfigurationError: The function does not exist, may not be invoked, or has another
                handler.
            NotReady: There was no response; the message says what is known of the command.
            MigrateError: The function failed before it could respond.
        """
        started = self._clock.monotonic()
        failures: Counter[_NoResponseReason] = Counter()
        while True:
            try:
                response = self._send(request)
            except _NoResponse as failure:
                failures[failure.reason] += 1
                is_last = failures[failure.reason] == failure.reason.value
                if is_last or self._deadline.is_over:
                    raise failure.error from None
                reason = str(failure.error)
                ended = (*request.ended_invocation_ids, *failure.ended_invocation_ids)
                request = replace(request, ended_invocation_ids=ended)
            else:
                if not response.get("running") or self._deadline.is_over:
                    return response
                reason = str(response["error"]["message"]).partition(":")[0]
            self._wait_before_retry(reason, self._clock.monotonic() - started)

    def _wait_before_retry(self, reason: str, waited_seconds: float) -> None:
        self._on_wait(reason, waited_seconds)
        delay = max(_MIN_DELAY_SECONDS, self._backoff.delay(waited_seconds))
        self._clock.sleep(min(delay, self._deadline.remaining()))

    def _send(self, request: CommandRequest) -> dict[str, Any]:
        left = max(1.0, self._deadline.remaining())
        event = replace(request, timeout=round(left, 3)).lambda_event
        return self._parse(self._invoke(json.dumps(event).encode(), request), request)

    def _invoke(self, payload: bytes, request: CommandRequest) -> _InvokeResponse:
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectionError,  # noqa: A004 - botocore's, which is not an OSError
            HTTPClientError,
            IncompleteReadError,
        )

        if self._client is None:
            self._client = self._make_client()
        try:
            response = self._client.invoke(
                FunctionName=self.name, InvocationType="RequestResponse", Payload=payload
            )
            return _InvokeResponse(
                response["Payload"].read(),
                "FunctionError" in response,
                str(response["ResponseMetadata"].get("RequestId", "")),
            )
        except ClientError as error:
            # Not chained: AWS may quote the signed request, with its session token.
            raise self._convert_refusal(error) from None
        except (ConnectionError, HTTPClientError, IncompleteReadError) as error:
            raise self._convert_connection_error(error, request) from None
        except BotoCoreError as error:
            raise ConfigurationError(f"cannot invoke {self.name!r}: {error}") from error

    def _convert_refusal(self, error: Any) -> Exception:
        """Convert an error that Lambda returned, by its code."""
        response: dict[str, Any] = error.response
        code = str(response.get("Error", {}).get("Code", ""))
        message = _quote(response.get("Error", {}).get("Message", ""))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        cause = f"Lambda did not invoke {self.name!r}: {code} {message}"
        if code in _MISCONFIGURED:
            return ConfigurationError(f"{cause}; fix the function's configuration")
        if code in _THROTTLED or code in _UPDATING or status == 429:
            return _NoResponse(_NoResponseReason.THROTTLED, NotReady(cause))
        if status >= 500:
            return _NoResponse(_NoResponseReason.UNREACHABLE, NotReady(cause))
        if code == "ResourceNotFoundException":
            region = self._client.meta.region_name
            return ConfigurationError(
                f"there is no function {self.name!r} in {region} ({message}): "
                "write --function NAME or NAME:ALIAS, and check the region and the account"
            )
        if code in _DENIED:
            advice = explain_refusal(
                message, permission="lambda:InvokeFunction", resource="function"
            )
            return ConfigurationError(
                f"these credentials do not allow lambda:InvokeFunction on {self.name!r} "
                f"({message}); {advice or '--function needs no other permission'}"
            )
        if code in _BAD_CREDENTIALS:
            return ConfigurationError(
                f"Lambda rejected these credentials: {code}; sign in again, or correct them"
            )
        return ConfigurationError(cause)

    def _convert_connection_error(self, error: Exception, request: CommandRequest) -> _NoResponse:
        from botocore.exceptions import ConnectionError  # noqa: A004 - not an OSError

        cause = f"{type(error).__name__}: {_quote(error)}"
        if isinstance(error, ConnectionError):  # nothing was sent
            return _NoResponse(
                _NoResponseReason.UNREACHABLE, NotReady(f"Lambda cannot be reached: {cause}")
            )
        advice = (
            f"`{request.command.name}` may still be running there: check `status` and `lease show` "
            "with --function"
            if request.is_write
            else "try again"
        )
        return _NoResponse(
            _NoResponseReason.UNREACHABLE,
            NotReady(f"the response of {self.name!r} was lost ({cause}); {advice}"),
        )

    def _parse(self, response: _InvokeResponse, request: CommandRequest) -> dict[str, Any]:
        try:
            payload = json.loads(response.payload)
        except ValueError:
            payload = None
        if response.is_error:
            payload = payload if isinstance(payload, dict) else {}
            raise self._convert_crash(payload, response, request)
        if not _is_command_response(payload):
            raise ConfigurationError(
                f"{self.name!r} is not a lambda-migrate admin function: set its handler to "
                "lambda_migrate.deploy.admin.handler"
            )
        return dict(payload)

    def _convert_crash(
        self, payload: dict[str, Any], response: _InvokeResponse, request: CommandRequest
    ) -> Exception:
        """Convert the error of a function that failed instead of responding."""
        kind, message = str(payload.get("errorType", "")), str(payload.get("errorMessage", ""))
        cause = _quote(f"{kind}: {message}" if kind else message) or "Lambda gave no reason"
        if kind in _START_ERRORS:
            return ConfigurationError(f"{self.name!r} cannot start: {cause}")
        if any(text in cause for text in _TIMEOUT_TEXTS):
            error: MigrateError = NotReady(
                f"{self.name!r} reached its timeout before it responded ({cause}); set a longer "
                "timeout for the function, up to 15 min"
            )
        else:
            error = MigrateError(f"{self.name!r} failed before it responded: {cause}")
        if request.is_write:  # sent again, the function reports what was committed
            return _NoResponse(_NoResponseReason.CRASHED, error, response.request_id)
        return error


def _is_command_response(payload: Any) -> bool:
    if not isinstance(payload, dict) or not isinstance(payload.get("exit_code"), int):
        return False
    return isinstance(payload.get("document", payload.get("error")), dict)


def _quote(text: object) -> str:
    """Put a foreign text on one line, shortened and without what looks like a secret."""
    line = escape_text(" ".join(redact(str(text)).split()))
    return line if len(line) <= _QUOTE_LENGTH else line[:_QUOTE_LENGTH] + "…"
