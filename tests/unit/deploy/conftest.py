from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.deploy.deliver import InvocationDeadlines
from lambda_migrate.errors import MigrateError
from lambda_migrate.migrations import Manifest
from lambda_migrate.runner import MigrationRunner
from tests.unit.engine.fakes import Fakes
from tests.unit.entrypoints.conftest import fresh_loggers, lines, no_settings
from tests.unit.entrypoints.lines import Context

__all__ = ["fresh_loggers", "lines", "no_settings"]

Deploy = Callable[..., MigrationRunner]


class LambdaContext(Context):
    """A context with a log stream and a clock."""

    log_group_name = "/aws/lambda/migrator"
    log_stream_name = "2026/11/27/[$LATEST]0123456789abcdef"

    def __init__(self, seconds: float = 30.0, *, clock: Any = time) -> None:
        super().__init__(seconds)
        self._clock = clock
        self._end = clock.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(max(0, round((self._end - self._clock.monotonic()) * 1000)))


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def deploy(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """Let the hooks run with these migrations on the fakes."""

    def deploy(
        shipped: Manifest, *, error: BaseException | None = None, **policy: Any
    ) -> MigrationRunner:
        def from_settings(*, observer: object, wait_seconds: float | None) -> MigrationRunner:
            if error is not None:
                raise error
            waits = {} if wait_seconds is None else {"wait_seconds": wait_seconds}
            return fakes.runner(shipped, **{**waits, **policy})

        monkeypatch.setattr("lambda_migrate.runner.MigrationRunner.from_settings", from_settings)
        return fakes.runner(shipped, **policy)

    return deploy


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time for the work expire at once; there is enough for the response."""

    def from_context(_context: object, _clock: object) -> InvocationDeadlines:
        return InvocationDeadlines(work=Deadline.after(0.05), response=Deadline.after(30))

    monkeypatch.setattr(InvocationDeadlines, "from_context", from_context)


def make_unexpected_errors() -> list[BaseException]:
    """Make errors that a migration does not raise on purpose; each gets a response."""
    return [
        RuntimeError("password=hunter2-s3cr3t"),
        SystemExit(3),
        MemoryError(),
        RecursionError("hunter2-s3cr3t"),
        ModuleNotFoundError("No module named 'pg8000'", name="pg8000"),
        TimeoutError("hunter2-s3cr3t"),
        MigrateError("the root of our own"),
    ]
