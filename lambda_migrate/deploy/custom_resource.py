"""A CloudFormation custom resource that migrates; its handler is ``handler``.

It always answers, once, before the invocation's deadline: a migration fails or takes too long,
settings are wrong, imports fail, PostgreSQL or DynamoDB cannot be reached, the request is odd.

=======================================  ===================  ====================================
request                                  what is done         when the schema is not ready then
=======================================  ===================  ====================================
``Create``                               migrates             ``FAILED``
``Update``, ``Version`` has grown        migrates             ``FAILED``
``Update``, ``Version`` has shrunk       looks, no more       ``SUCCESS``, and says so
``Update``, neither can be told          migrates             ``SUCCESS``, and says so
``Delete``                               nothing              ``SUCCESS``, at once
=======================================  ===================  ====================================

**A rollback is never blocked.** When an update of a stack fails, CloudFormation sends this
resource another ``Update``, in which ``ResourceProperties`` and ``OldResourceProperties`` have
changed places. Nothing else in it says so. That is why the property ``Version`` is required: the
version of the function that migrates (``!Ref MigratorFunction.Version`` in SAM, or a number of your
own that only grows). Lambda gives out no number twice, so that one that shrinks is a way back.
``FAILED`` is answered where a number that grew proves a way forward, and nowhere else. Code older
than the schema is served, so on the way back there is nothing to migrate; what the schema may lack
is told in ``Reason`` and ``Data``, and each cold start still checks for itself.

``PhysicalResourceId`` never changes, so that no update makes CloudFormation delete anything. In
every answer to a ``Create`` or an ``Update``, ``Data`` has ``Outcome`` (``UP_TO_DATE``,
``MIGRATED``, ``WAITED``, ``UNCHECKED``, ``NOT_READY``) and ``Ready`` (``true``, ``false``).

A process that is killed cannot answer. Lambda invokes it again then, twice at most, because
CloudFormation's invocation is an asynchronous one; after that CloudFormation waits until the
resource's ``ServiceTimeout`` is over, an hour if it has none.
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
from lambda_migrate.deploy.deliver import Schedule, deliver
from lambda_migrate.deploy.hook import Ending, ending_of, look, migrate, tell
from lambda_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lambda_migrate.clock import Clock, Deadline

__all__ = ["Direction", "Refused", "Request", "handler"]

_LOG = logging.getLogger(__name__)

_BODY_BYTES = 4096
"""CloudFormation's limit for a whole answer."""

_MAX_CAUSE_LENGTH = 1500
_DIGITS = 18
_SHORTEST_SECONDS = 0.05  # a socket takes 0 for "do not wait at all"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Refused(Exception):
    """The other end answered, and did not take it."""


class Direction(Enum):
    """Where a request leads."""

    FORWARD = "forward"
    BACK = "back"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Request:
    """What CloudFormation asks for.

    Attributes:
        kind: ``Create``, ``Update`` or ``Delete``.
        url: Where the answer goes. Whoever knows it can answer: a secret.
        names: ``StackId``, ``RequestId``, ``LogicalResourceId``, to be sent back as they came.
        physical_id: The one to answer with.
        version: The property ``Version``, and the one before the update: name and number.
        before: See ``version``.
    """

    kind: str
    url: SplitResult
    names: Mapping[str, str]
    physical_id: str
    version: tuple[str, int] | None
    before: tuple[str, int] | None

    @classmethod
    def read(cls, event: Any) -> Request:
        """Take an event apart.

        Raises:
            ConfigurationError: It names no place where it could be answered.
        """
        event = event if isinstance(event, dict) else {}
        names = {name: str(event.get(name) or "") for name in _NAMES}
        return cls(
            kind=str(event.get("RequestType") or ""),
            url=_answerable(event.get("ResponseURL")),
            names=names,
            physical_id=str(event.get("PhysicalResourceId") or "") or _physical_id(names),
            version=_version(event.get("ResourceProperties")),
            before=_version(event.get("OldResourceProperties")),
        )

    @property
    def direction(self) -> Direction:
        """Where it leads, as far as it proves it."""
        if self.kind == "Create":
            return Direction.FORWARD
        if self.version is None or self.before is None or self.version[0] != self.before[0]:
            return Direction.UNKNOWN
        if self.version[1] == self.before[1]:
            return Direction.UNKNOWN
        return Direction.FORWARD if self.version[1] > self.before[1] else Direction.BACK

    @property
    def fault(self) -> str:
        """What is wrong with it; "" if nothing is."""
        if self.kind not in ("Create", "Update", "Delete"):
            return f"RequestType is {self.kind!r}: it must be Create, Update or Delete"
        if self.kind == "Create" and self.version is None:
            return (
                "the resource needs a property Version that ends in a number which grows with "
                "every deployment: write Version: !Ref MigratorFunction.Version"
            )
        return ""


_NAMES = ("StackId", "RequestId", "LogicalResourceId")


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Answer a request of CloudFormation's; settings come from the environment, as always.

    Args:
        event: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref.html
        context: Lambda's.

    Returns:
        The answer that was delivered.

    Raises:
        ConfigurationError: The event says no place where an answer could go.
        Undelivered: The place did not take the answer, so that Lambda invokes once more.
    """
    return respond(event, context)


def respond(event: Any, context: Any, *, clock: Clock = SYSTEM_CLOCK) -> dict[str, Any]:
    """`handler`, on a clock of the caller's."""
    schedule = Schedule.of(context, clock)
    request = Request.read(event)
    request_id = str(getattr(context, "aws_request_id", None) or "")
    ending = _ending(request, schedule.work, request_id)
    answer = _answer(request, ending, context)
    body = _encode(answer)
    deliver(lambda seconds: _put(request.url, body, seconds), schedule.answer)
    log = _LOG.info if answer["Status"] == "SUCCESS" and not ending.failed else _LOG.warning
    log("answered %s to %s: %s", answer["Status"], request.kind, answer["Reason"])
    tell(ending)
    return answer


def _ending(request: Request, deadline: Deadline, request_id: str) -> Ending:
    if request.fault:
        return Ending("NOT_READY", request.fault)
    if request.kind == "Delete":
        return Ending("UP_TO_DATE", "deleting the resource leaves the schema as it is")
    if request.direction is Direction.BACK:
        return ending_of(look, deadline)
    return ending_of(lambda until: migrate(until, request_id=request_id), deadline)


def _answer(request: Request, ending: Ending, context: Any) -> dict[str, Any]:
    failed = ending.failed and (request.direction is Direction.FORWARD or bool(request.fault))
    answer: dict[str, Any] = {
        "Status": "FAILED" if failed else "SUCCESS",
        "Reason": str(ending),
        "PhysicalResourceId": request.physical_id,
        **request.names,
    }
    if request.kind != "Delete":
        answer["Data"] = {
            "Outcome": ending.outcome,
            "Ready": "true" if ending.is_ready else "false",
        }
    return _with_reason(answer, _reason(request, ending, failed=failed), _pointer(context))


def _reason(request: Request, ending: Ending, *, failed: bool) -> str:
    if failed or not ending.failed:
        return str(ending)
    if request.direction is Direction.BACK:
        return f"{ending}. A rollback is not blocked by that; each cold start checks for itself"
    return (
        f"{ending}. Answered as a success because it may be a rollback: no Version that grew "
        "proves the contrary; each cold start checks for itself"
    )


def _pointer(context: Any) -> str:
    """Where the rest can be read."""
    group = getattr(context, "log_group_name", None)
    stream = getattr(context, "log_stream_name", None)
    return f" (log stream {stream} of {group})" if group and stream else ""


def _with_reason(answer: dict[str, Any], cause: str, pointer: str) -> dict[str, Any]:
    """``answer`` with as much of the cause as fits into CloudFormation's limit, and the pointer."""
    length = min(len(cause), _MAX_CAUSE_LENGTH)
    while True:
        shown = cause if length == len(cause) else cause[:length] + "..."
        answer = {**answer, "Reason": shown + pointer}
        if len(_encode(answer)) <= _BODY_BYTES or not length:
            return answer
        length = length * 3 // 4


def _encode(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode()


# --- reading


def _answerable(url: Any) -> SplitResult:
    """Where the answer goes.

    Raises:
        ConfigurationError: It cannot be sent there, or not safely.
    """
    if not isinstance(url, str) or not url:
        raise ConfigurationError(
            "this is no request of CloudFormation's: it has no ResponseURL; this handler is for "
            "custom resources, and `lambda-migrate --function` is for people"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, 0
    is_safe = host and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))
    # What http.client would refuse to send, it would show in its message.
    is_whole = url.isascii() and url.isprintable() and " " not in url and port != 0
    if not (is_safe and is_whole):
        raise ConfigurationError(
            "the request's ResponseURL is no https address: nobody is answered"
        )
    return parts


def _physical_id(names: Mapping[str, str]) -> str:
    """The same for one resource for ever, and made of nothing but what never changes about it."""
    stack = names["StackId"].rpartition("/")[2]
    return f"lambda-migrate:{stack}:{names['LogicalResourceId']}"[:1000]


def _version(properties: Any) -> tuple[str, int] | None:
    """``arn:...:function:migrator:42`` -> what it counts, and 42."""
    value = properties.get("Version") if isinstance(properties, dict) else None
    name, _, number = str(value).rpartition(":")
    is_number = number.isascii() and number.isdigit() and len(number) <= _DIGITS
    return (name, int(number)) if is_number else None


# --- sending


def _put(url: SplitResult, body: bytes, seconds: float) -> None:
    """Put the answer where CloudFormation reads it.

    Raises:
        Refused: It was not taken.
        OSError: Nobody could be reached, or nobody answered.
        http.client.HTTPException: What answered does not speak HTTP.
    """
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(str(url.hostname), url.port, timeout=max(seconds, _SHORTEST_SECONDS))
    try:
        # The URL was signed for a request without a content type; another one is refused.
        connection.request("PUT", f"{url.path}?{url.query}", body, {"Content-Type": ""})
        status = connection.getresponse().status
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise Refused(f"HTTP status {status}")
