"""The admin function's request log in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambda_migrate.clock import Deadline
    from lambda_migrate.deploy.request_log import Run

__all__ = ["InMemoryRequestLog"]


class InMemoryRequestLog:
    """`RequestLog` of this process; share one between the invocations that are to meet in it."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        """The runs so far, by the ids of their requests."""

    def begin(self, request: str, run: Run) -> Run | None:
        """See `RequestLog.begin`."""
        found = self.runs.setdefault(request, run)
        return None if found.attempt == run.attempt else found

    def read(self, request: str) -> Run | None:
        """See `RequestLog.read`."""
        return self.runs.get(request)

    def concern(self, request: str, run: Run) -> None:
        """See `RequestLog.concern`."""
        self.runs[request] = run

    def end(self, request: str, run: Run, deadline: Deadline) -> None:  # noqa: ARG002 - no time
        """See `RequestLog.end`."""
        self.runs[request] = run

    def forget(self, request: str, run: Run) -> None:
        """See `RequestLog.forget`."""
        found = self.runs.get(request)
        if found is not None and found.attempt == run.attempt:
            del self.runs[request]
