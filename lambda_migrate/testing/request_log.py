"""The admin function's request log in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambda_migrate.clock import Deadline
    from lambda_migrate.deploy.request_log import RequestRecord

__all__ = ["InMemoryRequestLog"]


class InMemoryRequestLog:
    """`RequestLog` in memory; share one between the invocations of a test."""

    def __init__(self) -> None:
        self.records: dict[str, RequestRecord] = {}
        """The records by the ids of their requests."""

    def write_record(
        self,
        request_id: str,
        record: RequestRecord,
        deadline: Deadline,  # noqa: ARG002 - no time passes
    ) -> RequestRecord | None:
        """See `RequestLog.write_record`."""
        found = self.records.setdefault(request_id, record)
        if found.attempt_id != record.attempt_id:
            return found
        self.records[request_id] = record
        return None

    def remove_record(self, request_id: str, record: RequestRecord) -> None:
        """See `RequestLog.remove_record`."""
        found = self.records.get(request_id)
        if found is not None and found.attempt_id == record.attempt_id:
            del self.records[request_id]
