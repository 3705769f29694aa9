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

from lambda_migrate.clock import CALL_TIMEOUT_SECONDS, SYSTEM_CLOCK
from lambda_migrate.deploy.truncate import truncate_response
from lambda_migrate.errors import LeaseStoreUnavailable, MigrateError
from lambda_migrate.lease.dynamodb import DynamoDBItemClient
from lambda_migrate.lease.dynamodb_call import ConditionFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lambda_migrate.clock import Clock, Deadline

__all__ = ["DynamoDBRequestLog", "RequestLog", "RequestRecord"]

MAX_RECORDS = 20
_MAX_BYTES = 15_000
"""Of one stored response. Twenty of them stay below DynamoDB's 400 KB for an item."""

_MAX_ATTEMPTS = 4
_RETRY_DELAY_SECONDS = 0.5
_PREFIX = "request:"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request that changes something.

    Attributes:
        command_fingerprint: Command and options; see `CommandRequest.command_fingerprint`.
        attempt_id: A new id for each run; the retries of an asynchronous invocation share their
            invocation id.
        invocation_id: The id of the Lambda invocation that runs the command.
        started_ms: Milliseconds since the epoch.
        ends_by_ms: After this time the invocation has ended, with or without a response.
        rollback_migrations: Names of the migrations that a rollback is about to roll back.
        response: The response; None while the command runs, and if it was killed.
    """

    command_fingerprint: str
    attempt_id: str
    invocation_id: str
    started_ms: int
    ends_by_ms: int
    rollback_migrations: tuple[str, ...] = ()
    response: dict[str, Any] | None = None


class RequestLog(Protocol):
    """The port to the records of requests."""

    def begin_request(self, request_id: str, record: RequestRecord) -> RequestRecord | None:
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

    def forget_request(self, request_id: str, record: RequestRecord) -> None:
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
        client: Callable[[], Any] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._item = DynamoDBItemClient(table, f"{target}/requests", client=client)
        self._clock = clock

    def begin_request(self, request_id: str, record: RequestRecord) -> RequestRecord | None:
        """See `RequestLog.begin_request`."""
        for _ in range(_MAX_ATTEMPTS - 1):
            try:
                return self._begin_request(request_id, record)
            except LeaseStoreUnavailable:
                self._clock.sleep(_RETRY_DELAY_SECONDS)
        return self._begin_request(request_id, record)

    def _begin_request(self, request_id: str, record: RequestRecord) -> RequestRecord | None:
        records = self._read()
        if request_id not in records:
            try:
                dropped_request_ids = _choose_outdated(records, now_ms=self._clock.wall_ms())
                self._write(
                    request_id,
                    record,
                    "attribute_not_exists(#record)",
                    dropped_request_ids=dropped_request_ids,
                )
                return None
            except ConditionFailed:
                records = self._read()
        existing = records.get(request_id)
        # The response to this run's own write may have been lost.
        return None if existing is None or existing.attempt_id == record.attempt_id else existing

    def update(self, request_id: str, record: RequestRecord, deadline: Deadline) -> bool:
        """See `RequestLog.update`."""
        for _ in range(_MAX_ATTEMPTS):
            with suppress(MigrateError):
                with suppress(ConditionFailed):  # dropped because 20 others have started since
                    self._write(request_id, record, "attribute_exists(#record)")
                return True
            if deadline.remaining() < _RETRY_DELAY_SECONDS + CALL_TIMEOUT_SECONDS:
                break
            self._clock.sleep(_RETRY_DELAY_SECONDS)
        return False

    def forget_request(self, request_id: str, record: RequestRecord) -> None:
        """See `RequestLog.forget_request`."""
        names = {"#record": _PREFIX + request_id, "#attempt": "attempt_id"}
        values = {":attempt": {"S": record.attempt_id}}
        with suppress(ConditionFailed, MigrateError):
            self._item.update("REMOVE #record", "#record.#attempt = :attempt", values, names=names)

    def _write(
        self,
        request_id: str,
        record: RequestRecord,
        condition: str,
        *,
        dropped_request_ids: Sequence[str] = (),
    ) -> None:
        names = {"#record": _PREFIX + request_id}
        names |= {f"#old{n}": _PREFIX + each for n, each in enumerate(dropped_request_ids)}
        removed = ", ".join(f"#old{n}" for n in range(len(dropped_request_ids)))
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
        names = {"names": list(record.rollback_migrations)}
        outcome = {"rollback_migrations": truncate_response(names, limit=_MAX_BYTES)["names"]}
    else:
        outcome = {"response": truncate_response(record.response, limit=_MAX_BYTES)}
    return {
        "M": {
            "command_fingerprint": {"S": record.command_fingerprint},
            "attempt_id": {"S": record.attempt_id},
            "invocation_id": {"S": record.invocation_id},
            "started_ms": {"N": str(record.started_ms)},
            "ends_by_ms": {"N": str(record.ends_by_ms)},
            **{name: {"S": json.dumps(value)} for name, value in outcome.items()},
        }
    }


def _decode(value: Mapping[str, Any]) -> RequestRecord:
    outcome = {
        name: json.loads(value[name]["S"])
        for name in ("rollback_migrations", "response")
        if name in value
    }
    return RequestRecord(
        command_fingerprint=value["command_fingerprint"]["S"],
        attempt_id=value["attempt_id"]["S"],
        invocation_id=value["invocation_id"]["S"],
        started_ms=int(value["started_ms"]["N"]),
        ends_by_ms=int(value["ends_by_ms"]["N"]),
        rollback_migrations=tuple(outcome.get("rollback_migrations", ())),
        response=outcome.get("response"),
    )
