"""What has no timeout of its own ends in time, and whatever comes later has no effect."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.postgresql.address import DatabaseAddress
from lambda_migrate.postgresql.connection import ConnectFailed, connect
from lambda_migrate.timeouts import TimeLimitExceeded, connect_tcp, run_with_timeout

PATIENCE = 20.0


@pytest.fixture
def slow_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A resolver that answers when the event is set, or at the end of the test."""
    answers, answered = threading.Event(), threading.Event()

    def resolve(*_: object, **__: object) -> list[Any]:
        answers.wait(PATIENCE)
        answered.set()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield answers
    answers.set()
    assert answered.wait(PATIENCE)


def test_what_ends_in_time_returns_or_raises_as_if_it_were_called() -> None:
    assert run_with_timeout(PATIENCE, lambda: 7) == 7
    with pytest.raises(ValueError, match="gone"):
        run_with_timeout(PATIENCE, lambda: int("gone"))


@pytest.mark.parametrize("seconds", [0.01, 0.0, -5.0])
def test_what_takes_too_long_is_given_up_and_ends_unheard(seconds: float) -> None:
    goes_on, ended = threading.Event(), threading.Event()

    def slow() -> None:
        goes_on.wait(PATIENCE)
        ended.set()
        raise SystemExit  # nor does this reach the caller

    with pytest.raises(TimeLimitExceeded):
        run_with_timeout(seconds, slow)
    goes_on.set()
    assert ended.wait(PATIENCE)


def test_a_name_that_is_not_resolved_in_time_says_so(slow_resolver: threading.Event) -> None:
    with pytest.raises(socket.gaierror, match=r"the name was not resolved within 0\.1 s"):
        connect_tcp("db.test", 5432, Deadline.after(0.1))
    slow_resolver.set()


def test_an_address_needs_no_thread_and_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "lambda_migrate.timeouts.run_with_timeout", lambda *_: pytest.fail("a thread was started")
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", b"127.0.0.1"):
            connect_tcp(host, server.getsockname()[1], Deadline.after(PATIENCE)).close()


def test_a_name_without_addresses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with pytest.raises(socket.gaierror, match="no address"):
        connect_tcp("db.test", 5432, Deadline.after(PATIENCE))


def test_a_connection_to_postgresql_gives_a_slow_resolver_up_and_may_try_again(
    slow_resolver: threading.Event,
) -> None:
    address = DatabaseAddress(database="orders", host="db.test", user="app")
    with pytest.raises(ConnectFailed, match="the name was not resolved within") as failed:
        connect(address, application_name="test", timeout=0.1)
    assert not failed.value.permanent
    slow_resolver.set()
