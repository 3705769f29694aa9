"""The log of the admin function: which commands it has run, and what each one returned.

A response may be lost, and then the client sends the request again; and Lambda repeats an
asynchronous invocation that failed. Neither may run a command again that changes something, nor
retry a failed migration. So each such command is recorded before it starts, and its response when
it has ended, in the item ``<target>/requests`` beside the target's own: the newest 20.

A record belongs to the attempt that wrote it first: only that attempt may write it again, as often
as it needs to. So a write whose response was lost is repeated without a further check.

The lease and the fence keep the database safe. This log only decides what a repeated request
returns.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lambda_migrate.clock import CALL_TIMEOUT_SECONDS, SYSTEM_CLOCK
from lambda_migrate.deploy.truncate import truncate_response
from lambda_migrate.errors import LeaseStoreUnavailable, MigrateError
from lambda_migrate.lease.dynamodb import DynamoDBItemClient
from lambda_migrate.lease.dynamodb_call import ConditionFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lambda_migrate.clock import Clock, Deadline

__all__ = ["DynamoDBRequestLog", "RequestLog", "RequestRecord"]

MAX_RECORDS = 20
_MAX_BYTES = 15_000
"""Of one stored response. Twenty of them stay below DynamoDB's 400 KB for an item."""

_MAX_ATTEMPTS = 4
_RETRY_DELAY_SECONDS = 0.5
_PREFIX = "request:"
_IS_OWN = "#record.attempt_id = :attempt"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request that changes something.

    Attributes:
        command_text: Command and options; see `CommandRequest.command_text`.
        attempt_id: A new id for each run; the retries of an asynchronous invocation share their
            invocation id.
        invocation_id: The id of the Lambda invocation that runs the command.
        ends_by_ms: When that invocation has ended at the latest, with or without a response:
            milliseconds since the epoch.
        rollback_migrations: Names of the migrations that a rollback is about to roll back.
        response: The response; None while the command runs, and if it was killed.
    """

    command_text: str
    attempt_id: str
    invocation_id: str
    ends_by_ms: int
    rollback_migrations: tuple[str, ...] = ()
    response: dict[str, Any] | None = None


class RequestLog(Protocol):
    """The port to the records of requests."""

    def write_record(
        self, request_id: str, record: RequestRecord, deadline: Deadline
    ) -> RequestRecord | None:
        """Write the record of an attempt unless another attempt has recorded the request.

        Returns:
            None: it was written. Otherwise the record of the other attempt.

        Raises:
            LeaseStoreUnavailable: The log cannot be reached.
            ConfigurationError: The log is not configured, or access to it is denied.
        """

    def remove_record(self, request_id: str, record: RequestRecord) -> None:
        """Remove the record of an attempt that changed nothing, if possible; never raises."""


class DynamoDBRequestLog:
    """`RequestLog` in one DynamoDB item.

    Args:
        table: The lease table.
        target: The target; the item's key is ``<target>/requests``.
        client: Creates the boto3 client when it is first needed.
        clock: Time.
    """

    def __init__(
        self,
        table: str,
        target: str,
        *,
        client: Callable[[], Any] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._item = DynamoDBItemClient(table, f"{target}/requests", client=client)
        self._clock = clock

    def write_record(
        self, request_id: str, record: RequestRecord, deadline: Deadline
    ) -> RequestRecord | None:
        """See `RequestLog.write_record`."""
        for _ in range(_MAX_ATTEMPTS - 1):
            try:
                return self._write_record(request_id, record)
            except ConditionFailed:
                continue  # another attempt wrote meanwhile
            except LeaseStoreUnavailable:
                if deadline.remaining() < _RETRY_DELAY_SECONDS + CALL_TIMEOUT_SECONDS:
                    raise
            self._clock.sleep(_RETRY_DELAY_SECONDS)
        return self._write_record(request_id, record)

    def _write_record(self, request_id: str, record: RequestRecord) -> RequestRecord | None:
        item = self._item.get(consistent=True) or {}
        records = {name: _decode(item[name]) for name in item if name.startswith(_PREFIX)}
        existing = records.pop(_PREFIX + request_id, None)
        if existing is not None and existing.attempt_id != record.attempt_id:
            return existing
        outdated = _choose_outdated(records, now_ms=self._clock.wall_ms())
        names = {f"#old{number}": name for number, name in enumerate(outdated)}
        self._item.update(
            "SET #record = :record" + (f" REMOVE {', '.join(names)}" if names else ""),
            f"attribute_not_exists(#record) OR {_IS_OWN}",
            {":record": _encode(record), ":attempt": _encode_value(record.attempt_id)},
            names={"#record": _PREFIX + request_id, **names},
        )
        return None

    def remove_record(self, request_id: str, record: RequestRecord) -> None:
        """See `RequestLog.remove_record`."""
        names = {"#record": _PREFIX + request_id}
        values = {":attempt": _encode_value(record.attempt_id)}
        with suppress(ConditionFailed, MigrateError):
            self._item.update("REMOVE #record", _IS_OWN, values, names=names)


def _choose_outdated(records: Mapping[str, RequestRecord], *, now_ms: int) -> list[str]:
    """Choose what to drop so that one more makes `MAX_RECORDS`; no command that may still run."""
    ended = [
        name
        for name, record in records.items()
        if record.response is not None or record.ends_by_ms < now_ms
    ]
    ended.sort(key=lambda name: records[name].ends_by_ms)
    return ended[: max(0, len(records) - MAX_RECORDS + 1)]


def _encode(record: RequestRecord) -> dict[str, Any]:
    """Encode a record; a rollback's names are kept only until there is a response."""
    fields = asdict(record)
    if record.response is None:
        names = {"names": list(record.rollback_migrations)}
        fields["rollback_migrations"] = truncate_response(names, limit=_MAX_BYTES)["names"]
    else:
        fields["rollback_migrations"] = []
        fields["response"] = truncate_response(record.response, limit=_MAX_BYTES)
    return {"M": {name: _encode_value(value) for name, value in fields.items()}}


def _encode_value(value: Any) -> dict[str, str]:
    return {"S": json.dumps(value)}


def _decode(value: Mapping[str, Any]) -> RequestRecord:
    fields = {name: json.loads(each["S"]) for name, each in value["M"].items()}
    names = tuple(fields.pop("rollback_migrations"))
    return RequestRecord(**fields, rollback_migrations=names)
