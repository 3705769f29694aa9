"""Calls without a timeout of their own end in time; a late result has no effect."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lambda_migrate.clock import CallTimeout, Deadline, connect_tcp, run_with_timeout
from lambda_migrate.database_address import DatabaseAddress
from lambda_migrate.postgresql.connection import ConnectionFailed, connect

PATIENCE = 20.0


@pytest.fixture
def slow_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A resolver that answers when the event is set, or at the end of the test."""
    may_answer, answered = threading.Event(), threading.Event()

    def resolve(*_: object, **__: object) -> list[Any]:
        may_answer.wait(PATIENCE)
        answered.set()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield may_answer
    may_answer.set()
    assert answered.wait(PATIENCE)


def test_a_call_that_ends_in_time_returns_or_raises_as_usual() -> None:
    assert run_with_timeout(PATIENCE, lambda: 7) == 7
    with pytest.raises(ValueError, match="gone"):
        run_with_timeout(PATIENCE, lambda: int("gone"))


@pytest.mark.parametrize("seconds", [0.01, 0.0, -5.0])
def test_a_call_that_takes_too_long_is_given_up_and_its_result_dropped(seconds: float) -> None:
    may_end, ended = threading.Event(), threading.Event()

    def slow() -> None:
        may_end.wait(PATIENCE)
        ended.set()
        raise SystemExit  # does not reach the caller either

    with pytest.raises(CallTimeout):
        run_with_timeout(seconds, slow)
    may_end.set()
    assert ended.wait(PATIENCE)


def test_the_error_of_a_slow_resolver_names_the_time_limit(slow_resolver: threading.Event) -> None:
    with pytest.raises(socket.gaierror, match=r"the name was not resolved within 0\.1 s"):
        connect_tcp("db.test", 5432, Deadline.after(0.1))
    slow_resolver.set()


def test_an_address_needs_no_thread_and_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "lambda_migrate.clock.run_with_timeout", lambda *_: pytest.fail("a thread was started")
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", b"127.0.0.1"):
            connect_tcp(host, server.getsockname()[1], Deadline.after(PATIENCE)).close()


def test_a_name_without_addresses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with pytest.raises(socket.gaierror, match="no address"):
        connect_tcp("db.test", 5432, Deadline.after(PATIENCE))


def test_connecting_to_postgresql_with_a_slow_resolver_is_a_retryable_failure(
    slow_resolver: threading.Event,
) -> None:
    address = DatabaseAddress(database="orders", host="db.test", user="app")
    with pytest.raises(ConnectionFailed, match="the name was not resolved within") as failed:
        connect(address, application_name="test", timeout=0.1)
    assert not failed.value.permanent
    slow_resolver.set()
