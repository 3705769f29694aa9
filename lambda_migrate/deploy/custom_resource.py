"""A CloudFormation custom resource that migrates; its handler is ``handler`` in this module.

It always responds, once, before the invocation's deadline: also if a migration fails or takes too
long, settings are wrong, imports fail, PostgreSQL or DynamoDB cannot be reached, or the request is
invalid.

=======================================  ===================  ====================================
request                                  action               if the schema is not ready after it
=======================================  ===================  ====================================
``Create``                               migrate              ``FAILED``
``Update``, ``Version`` increased        migrate              ``FAILED``
``Update``, ``Version`` decreased        check the schema     ``SUCCESS``, with a warning
``Update``, otherwise                    migrate              ``SUCCESS``, with a warning
``Delete``                               none                 ``SUCCESS``, immediately
=======================================  ===================  ====================================

**A rollback is never blocked.** When an update of a stack fails, CloudFormation sends this
resource another ``Update`` with ``ResourceProperties`` and ``OldResourceProperties`` swapped, and
nothing else marks it as a rollback. That is why the property ``Version`` is required: the version
of the function that migrates (``!Ref MigratorFunction.Version`` in SAM, or a number of your own
that only increases). Lambda never reuses a version number, so a lower one is a rollback. The
resource responds ``FAILED`` only if ``Version`` increased. Code older than the schema serves, so
a rollback has nothing to migrate; ``Reason`` and ``Data`` say what the schema lacks, and each cold
start still makes its own check.

``PhysicalResourceId`` never changes, so no update makes CloudFormation delete anything. In every
response to a ``Create`` or an ``Update``, ``Data`` has ``Outcome`` (``UP_TO_DATE``, ``MIGRATED``,
``WAITED``, ``UNCHECKED``, ``NOT_READY``) and ``Ready`` (``true``, ``false``).

A process that is killed does not respond. Lambda then invokes the function again, at most twice,
because CloudFormation invokes it asynchronously; after that CloudFormation waits for the resource's
``ServiceTimeout``, one hour by default.
"""

from __future__ import annotations

import http.client
import json
import logging
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.deploy.deliver import InvocationDeadlines, deliver_response
from lambda_migrate.deploy.hook import HookResult, check_schema, log_result, migrate, run_hook
from lambda_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lambda_migrate.clock import Clock, Deadline

__all__ = ["CustomResourceRequest", "DeploymentDirection", "ResponseRefused", "handler"]

_LOG = logging.getLogger(__name__)

_BODY_BYTES = 4096
"""CloudFormation's limit for a whole response."""

_MAX_CAUSE_LENGTH = 1500
_MAX_DIGITS = 18
_MIN_TIMEOUT_SECONDS = 0.05  # a timeout of 0 makes a socket non-blocking
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ResponseRefused(Exception):
    """The server did not accept the response."""


class DeploymentDirection(Enum):
    """Whether a request deploys a newer or an older version."""

    FORWARD = "forward"
    ROLLBACK = "rollback"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CustomResourceRequest:
    """A request of CloudFormation.

    Attributes:
        kind: ``Create``, ``Update`` or ``Delete``.
        url: Where to send the response; a secret, because it needs no other authentication.
        response_ids: ``StackId``, ``RequestId``, ``LogicalResourceId``, returned unchanged.
        physical_id: The physical id to respond with.
        version: The property ``Version`` as name and number; None if it has no number.
        previous_version: The same before the update.
    """

    kind: str
    url: SplitResult
    response_ids: Mapping[str, str]
    physical_id: str
    version: tuple[str, int] | None
    previous_version: tuple[str, int] | None

    @classmethod
    def parse(cls, event: Any) -> CustomResourceRequest:
        """Parse an event.

        Raises:
            ConfigurationError: It has no URL to respond to.
        """
        event = event if isinstance(event, dict) else {}
        response_ids = {name: str(event.get(name) or "") for name in _RESPONSE_ID_KEYS}
        return cls(
            kind=str(event.get("RequestType") or ""),
            url=_parse_response_url(event.get("ResponseURL")),
            response_ids=response_ids,
            physical_id=str(event.get("PhysicalResourceId") or "")
            or _make_physical_id(response_ids),
            version=_parse_version(event.get("ResourceProperties")),
            previous_version=_parse_version(event.get("OldResourceProperties")),
        )

    @property
    def direction(self) -> DeploymentDirection:
        """Whether it deploys a newer or an older version, if its versions prove either."""
        if self.kind == "Create":
            return DeploymentDirection.FORWARD
        if (
            self.version is None
            or self.previous_version is None
            or self.version[0] != self.previous_version[0]
        ):
            return DeploymentDirection.UNKNOWN
        if self.version[1] == self.previous_version[1]:
            return DeploymentDirection.UNKNOWN
        return (
            DeploymentDirection.FORWARD
            if self.version[1] > self.previous_version[1]
            else DeploymentDirection.ROLLBACK
        )

    @property
    def fault(self) -> str:
        """What is wrong with the request; "" if it is valid."""
        if self.kind not in ("Create", "Update", "Delete"):
            return f"RequestType is {self.kind!r}: it must be Create, Update or Delete"
        if self.kind == "Create" and self.version is None:
            return (
                "the resource needs a property Version that ends in a number and increases with "
                "every deployment: write Version: !Ref MigratorFunction.Version"
            )
        return ""


_RESPONSE_ID_KEYS = ("StackId", "RequestId", "LogicalResourceId")


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Migrate, and respond to CloudFormation; settings come from the environment.

    Args:
        event: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref.html
        context: Lambda's.

    Returns:
        The response that was delivered.

    Raises:
        ConfigurationError: The event has no URL to respond to.
        DeliveryFailed: The response was not accepted, so that Lambda repeats the invocation.
    """
    return handle(event, context)


def handle(event: Any, context: Any, *, clock: Clock = SYSTEM_CLOCK) -> dict[str, Any]:
    """Do what `handler` does, with a clock."""
    deadlines = InvocationDeadlines.from_context(context, clock)
    request = CustomResourceRequest.parse(event)
    request_id = str(getattr(context, "aws_request_id", None) or "")
    result = _run(request, deadlines.work, request_id)
    response = _build_response(request, result, context)
    body = _encode(response)
    deliver_response(lambda seconds: _send(request.url, body, seconds), deadlines.response)
    log = _LOG.info if response["Status"] == "SUCCESS" and not result.has_failed else _LOG.warning
    log("responded %s to %s: %s", response["Status"], request.kind, response["Reason"])
    log_result(result)
    return response


def _run(request: CustomResourceRequest, deadline: Deadline, request_id: str) -> HookResult:
    if request.fault:
        return HookResult("NOT_READY", request.fault)
    if request.kind == "Delete":
        return HookResult("UP_TO_DATE", "deleting the resource does not change the schema")
    if request.direction is DeploymentDirection.ROLLBACK:
        return run_hook(check_schema, deadline)
    return run_hook(lambda until: migrate(until, request_id=request_id), deadline)


def _build_response(
    request: CustomResourceRequest, result: HookResult, context: Any
) -> dict[str, Any]:
    is_forward = request.direction is DeploymentDirection.FORWARD
    failed = result.has_failed and (is_forward or bool(request.fault))
    response: dict[str, Any] = {
        "Status": "FAILED" if failed else "SUCCESS",
        "Reason": str(result),
        "PhysicalResourceId": request.physical_id,
        **request.response_ids,
    }
    if request.kind != "Delete":
        response["Data"] = {
            "Outcome": result.outcome,
            "Ready": "true" if result.is_ready else "false",
        }
    return _add_reason(
        response, _format_reason(request, result, failed=failed), _format_log_location(context)
    )


def _format_reason(request: CustomResourceRequest, result: HookResult, *, failed: bool) -> str:
    if failed or not result.has_failed:
        return str(result)
    if request.direction is DeploymentDirection.ROLLBACK:
        return f"{result}. This does not block a rollback; each cold start makes its own check"
    return (
        f"{result}. Version did not increase, so this may be a rollback and is not blocked; each "
        "cold start makes its own check"
    )


def _format_log_location(context: Any) -> str:
    """Name the log stream that has the details."""
    group = getattr(context, "log_group_name", None)
    stream = getattr(context, "log_stream_name", None)
    return f" (log stream {stream} of {group})" if group and stream else ""


def _add_reason(response: dict[str, Any], cause: str, log_location: str) -> dict[str, Any]:
    """Add as much of the cause as fits into CloudFormation's limit, and the log location."""
    length = min(len(cause), _MAX_CAUSE_LENGTH)
    while True:
        shown = cause if length == len(cause) else cause[:length] + "..."
        response = {**response, "Reason": shown + log_location}
        if len(_encode(response)) <= _BODY_BYTES or not length:
            return response
        length = length * 3 // 4


def _encode(response: Mapping[str, Any]) -> bytes:
    return json.dumps(response).encode()


# --- parsing


def _parse_response_url(url: Any) -> SplitResult:
    """Parse the URL to respond to.

    Raises:
        ConfigurationError: It is missing, invalid or not https.
    """
    if not isinstance(url, str) or not url:
        raise ConfigurationError(
            "this is not a request of CloudFormation: it has no ResponseURL; to run a command, use "
            "`lambda-migrate --function`"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, 0
    is_safe = host and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))
    # http.client quotes an invalid URL, which is a secret, in its error.
    is_valid = url.isascii() and url.isprintable() and " " not in url and port != 0
    if not (is_safe and is_valid):
        raise ConfigurationError(
            "the request's ResponseURL is not an https URL: no response was sent"
        )
    return parts


def _make_physical_id(response_ids: Mapping[str, str]) -> str:
    """Make an id from what never changes about a resource, so that it never changes either."""
    stack = response_ids["StackId"].rpartition("/")[2]
    return f"lambda-migrate:{stack}:{response_ids['LogicalResourceId']}"[:1000]


def _parse_version(properties: Any) -> tuple[str, int] | None:
    """``arn:...:function:migrator:42`` -> ``arn:...:function:migrator`` and 42."""
    value = properties.get("Version") if isinstance(properties, dict) else None
    name, _, number = str(value).rpartition(":")
    is_number = number.isascii() and number.isdigit() and len(number) <= _MAX_DIGITS
    return (name, int(number)) if is_number else None


# --- responding


def _send(url: SplitResult, body: bytes, seconds: float) -> None:
    """Send the response to CloudFormation.

    Raises:
        ResponseRefused: It was not accepted.
        OSError: The server could not be reached or did not respond.
        http.client.HTTPException: The server did not respond with HTTP.
    """
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(str(url.hostname), url.port, timeout=max(seconds, _MIN_TIMEOUT_SECONDS))
    try:
        # The URL was signed for a request without a content type; another one is refused.
        connection.request("PUT", f"{url.path}?{url.query}", body, {"Content-Type": ""})
        status = connection.getresponse().status
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise ResponseRefused(f"HTTP status {status}")
