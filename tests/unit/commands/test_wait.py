"""`wait` retries until the database responds, and ends with the reason if it never will."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.commands.context import CommandContext
from lambda_migrate.commands.wait import wait
from lambda_migrate.database_address import parse_url
from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable
from lambda_migrate.postgresql.connection import ConnectionFailed, ConnectionLost
from lambda_migrate.settings import Settings
from lambda_migrate.testing import FakeClock

REFUSED = ConnectionFailed("connection refused", permanent=False)


class ConnectionAttempts:
    """Fails with each of the errors in turn; then the database responds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = [*errors]

    @contextmanager
    def __call__(self, _name: str, _seconds: float) -> Iterator[ConnectionAttempts]:
        if self.errors and isinstance(self.errors[0], ConnectionFailed):
            raise self.errors.pop(0)
        yield self

    def run(self, _sql: str, *, timeout: float) -> None:
        assert timeout > 0
        if self.errors:
            raise self.errors.pop(0)


def make_context(
    monkeypatch: pytest.MonkeyPatch, *errors: Exception, seconds: float = 60.0
) -> CommandContext:
    attempts = ConnectionAttempts(*errors)
    monkeypatch.setattr("lambda_migrate.wiring.make_connect", lambda _settings: attempts)
    clock = FakeClock()
    settings = Settings(database_url=parse_url("postgresql://app@db.example/orders"))
    return CommandContext(settings, Deadline.after(seconds, clock), {}, clock=clock)


def test_it_connects_again_until_a_query_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    context = make_context(monkeypatch, REFUSED, ConnectionLost("closed"))
    document = wait(context).document
    assert (document["attempts"], document["database"]) == (3, "db.example:5432/orders")
    assert document["seconds"] > 0


def test_a_wrong_password_ends_it_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    context = make_context(monkeypatch, ConnectionFailed("wrong password", permanent=True))
    with pytest.raises(ConfigurationError, match="wrong password"):
        wait(context)
    assert context.deadline.remaining() == 60.0


def test_at_the_deadline_it_reports_the_last_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    context = make_context(monkeypatch, *[REFUSED] * 1000, seconds=10.0)
    with pytest.raises(DatabaseUnavailable, match=r"within 10 s \(\d+ attempts\): connection ref"):
        wait(context)
