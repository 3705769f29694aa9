"""The log of the admin function: which commands it has run, and what each one returned.

A response may be lost, and then the client sends the request again; and Lambda repeats an
asynchronous invocation that failed. Neither may run a command again that changes something, nor
retry a failed migration. So each such command is recorded before it starts, and its response when
it has ended, in the item ``<target>/requests`` beside the target's own: the newest 20.

The lease and the fence keep the database safe. This log only decides what a repeated request
returns.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.deploy.truncate import truncate_response
from lambda_migrate.errors import LeaseStoreUnavailable, MigrateError
from lambda_migrate.lease.dynamodb import DynamoDBItem, make_client
from lambda_migrate.lease.dynamodb_errors import CALL_TIMEOUT_SECONDS, ConditionFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lambda_migrate.clock import Clock, Deadline

__all__ = ["DynamoDBRequestLog", "RequestLog", "RequestRecord"]

MAX_RECORDS = 20
_MAX_BYTES = 15_000
"""Of one stored response. Twenty of them stay below DynamoDB's 400 KB for an item."""

_MAX_ATTEMPTS = 4
_PAUSE_SECONDS = 0.5
_PREFIX = "request:"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request that changes something.

    Attributes:
        fingerprint: Command and options; see `CommandRequest.fingerprint`.
        attempt: A new id for each run; the retries of an asynchronous invocation share their
            invocation id.
        invocation: The id of the Lambda invocation that runs the command.
        started_ms: Milliseconds since the epoch.
        ends_by_ms: After this time the invocation has ended, with or without a response.
        rollback: Names of the migrations that a rollback is about to roll back.
        response: The response; None while the command runs, and if it was killed.
    """

    fingerprint: str
    attempt: str
    invocation: str
    started_ms: int
    ends_by_ms: int
    rollback: tuple[str, ...] = ()
    response: dict[str, Any] | None = None


class RequestLog(Protocol):
    """The port to the records of requests."""

    def begin(self, request_id: str, record: RequestRecord) -> RequestRecord | None:
        """Add a record unless the request has one.

        Returns:
            None: the command may start. Otherwise the record of the run that exists.

        Raises:
            LeaseStoreUnavailable: The log cannot be reached.
            ConfigurationError: The log is not configured, or access to it is denied.
        """

    def update(self, request_id: str, record: RequestRecord, deadline: Deadline) -> bool:
        """Replace the record before the deadline; never raises.

        Returns:
            Whether it was written.
        """

    def forget(self, request_id: str, record: RequestRecord) -> None:
        """Remove the record of a run that changed nothing, if possible; never raises."""


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
        client: Callable[[], Any] = make_client,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._item = DynamoDBItem(table, f"{target}/requests", client=client)
        self._clock = clock

    def begin(self, request_id: str, record: RequestRecord) -> RequestRecord | None:
        """See `RequestLog.begin`."""
        for _ in range(_MAX_ATTEMPTS - 1):
            try:
                return self._begin(request_id, record)
            except LeaseStoreUnavailable:
                self._clock.sleep(_PAUSE_SECONDS)
        return self._begin(request_id, record)

    def _begin(self, request_id: str, record: RequestRecord) -> RequestRecord | None:
        records = self._read()
        if request_id not in records:
            try:
                drop = _choose_outdated(records, now_ms=self._clock.wall_ms())
                self._write(request_id, record, "attribute_not_exists(#record)", drop=drop)
                return None
            except ConditionFailed:
                records = self._read()
        found = records.get(request_id)
        # The response to this run's own write may have been lost.
        return None if found is None or found.attempt == record.attempt else found

    def update(self, request_id: str, record: RequestRecord, deadline: Deadline) -> bool:
        """See `RequestLog.update`."""
        for _ in range(_MAX_ATTEMPTS):
            with suppress(MigrateError):
                with suppress(ConditionFailed):  # dropped because 20 others have started since
                    self._write(request_id, record, "attribute_exists(#record)")
                return True
            if deadline.remaining() < _PAUSE_SECONDS + CALL_TIMEOUT_SECONDS:
                break
            self._clock.sleep(_PAUSE_SECONDS)
        return False

    def forget(self, request_id: str, record: RequestRecord) -> None:
        """See `RequestLog.forget`."""
        names = {"#record": _PREFIX + request_id, "#attempt": "attempt"}
        values = {":attempt": {"S": record.attempt}}
        with suppress(ConditionFailed, MigrateError):
            self._item.update("REMOVE #record", "#record.#attempt = :attempt", values, names=names)

    def _write(
        self, request_id: str, record: RequestRecord, condition: str, *, drop: Sequence[str] = ()
    ) -> None:
        names = {"#record": _PREFIX + request_id}
        names |= {f"#old{n}": _PREFIX + each for n, each in enumerate(drop)}
        removed = ", ".join(f"#old{n}" for n in range(len(drop)))
        changes = "SET #record = :record" + (f" REMOVE {removed}" if removed else "")
        self._item.update(changes, condition, {":record": _encode(record)}, names=names)

    def _read(self) -> dict[str, RequestRecord]:
        item = self._item.get(consistent=True) or {}
        return {
            name.removeprefix(_PREFIX): _decode(value["M"])
            for name, value in item.items()
            if name.startswith(_PREFIX) and "M" in value
        }


def _choose_outdated(records: Mapping[str, RequestRecord], *, now_ms: int) -> list[str]:
    """Choose what to drop so that one more makes `MAX_RECORDS`; no command that may still run."""
    ended = [
        request_id
        for request_id, record in records.items()
        if record.response is not None or record.ends_by_ms < now_ms
    ]
    ended.sort(key=lambda request_id: records[request_id].started_ms)
    return ended[: max(0, len(records) - MAX_RECORDS + 1)]


def _encode(record: RequestRecord) -> dict[str, Any]:
    """Encode a record; a rollback's names are kept only until there is a response."""
    if record.response is None:
        kept: dict[str, Any] = {"rollback": list(record.rollback)}
    else:
        kept = record.response
    return {
        "M": {
            "asked": {"S": record.fingerprint},
            "attempt": {"S": record.attempt},
            "invocation": {"S": record.invocation},
            "began": {"N": str(record.started_ms)},
            "until": {"N": str(record.ends_by_ms)},
            "rest": {"S": json.dumps(truncate_response(kept, limit=_MAX_BYTES))},
        }
    }


def _decode(value: Mapping[str, Any]) -> RequestRecord:
    kept = json.loads(value["rest"]["S"])
    return RequestRecord(
        fingerprint=value["asked"]["S"],
        attempt=value["attempt"]["S"],
        invocation=value["invocation"]["S"],
        started_ms=int(value["began"]["N"]),
        ends_by_ms=int(value["until"]["N"]),
        rollback=tuple(kept.get("rollback", ())),
        response=kept if "exit_code" in kept else None,
    )
