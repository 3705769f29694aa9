"""An answer beyond doubt, "come back later", or none at all: against servers that do anything."""

from __future__ import annotations

import gc
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme

from lambda_migrate.clock import Deadline, SystemClock
from lambda_migrate.errors import LeaseStoreUnavailable
from lambda_migrate.lease.dynamodb import DynamoDBLeaseTable
from lambda_migrate.lease.dynamodb_errors import RETRYABLE_CODES, ConditionFailed
from lambda_migrate.lease.fast_client import client as signed_client
from lambda_migrate.lease.fast_client import endpoint as endpoint_module
from lambda_migrate.lease.fast_client import http
from lambda_migrate.lease.fast_client.client import FastClient
from lambda_migrate.lease.fast_client.endpoint import ClientConfig, Endpoint
from lambda_migrate.lease.fast_client.sigv4 import AWSCredentials
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.testing import FakeClock
from tests.unit.lease.misbehaving_server import (
    ITEM,
    Play,
    Server,
    a_port_where_nobody_listens,
    drips,
    fault,
    hangs_up,
    resets_after,
    response,
    says,
    says_nothing,
    will_reset,
)

# A connection that somebody forgot to close fails the test that left it.
pytestmark = pytest.mark.filterwarnings("error::ResourceWarning")

SECRETS = ("AKIDVISIBLE", "s3cr3t-k3y", "s3ss10n-t0ken")
ENVIRON = {
    "HOME": "/nonexistent",
    "AWS_ACCESS_KEY_ID": SECRETS[0],
    "AWS_SECRET_ACCESS_KEY": SECRETS[1],
    "AWS_SESSION_TOKEN": SECRETS[2],
    "AWS_DEFAULT_REGION": "us-east-1",
}
TABLE = "leases"


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left_open() -> Iterator[None]:
    """What a cycle of references still holds at the end is found out, too.

    What other modules' tests left in this process is collected first: it is not ours.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    yield
    gc.collect()


def environ(url: str, **more: str) -> dict[str, str]:
    return {**ENVIRON, "AWS_ENDPOINT_URL_DYNAMODB": url, **more}


def client_of(server: Server, **more: str) -> FastClient:
    return FastClient(environ(server.url, **more))


def ask(asked: FastClient, target: str = "orders") -> Mapping[str, Any] | None:
    return asked.get_item(TABLE, target)


def refused(asked: FastClient) -> str:
    """Ask and be told to come back; whatever is told holds no secret, causes included."""
    with pytest.raises(LeaseStoreUnavailable) as caught:
        ask(asked)
    told = str(caught.value) + repr(caught.value) + str(caught.value.__cause__)
    assert caught.value.__cause__ is None
    assert not any(secret in told for secret in SECRETS)
    assert f"'{TABLE}'" in told
    return str(caught.value)


def answers_once(plays: list[Play]) -> Mapping[str, Any] | None:
    """What one read makes of a server that plays; nothing of it stays open."""
    with Server(plays) as server:
        asked = client_of(server)
        try:
            return ask(asked)
        finally:
            asked.close()


# --- answers


def test_an_item_is_answered_as_dynamodb_sent_it() -> None:
    assert answers_once([says(response({"Item": ITEM}))]) == ITEM


@pytest.mark.parametrize("document", [{}, {"ConsumedCapacity": {"TableName": TABLE}}])
def test_no_item_is_an_empty_one(document: dict[str, Any]) -> None:
    assert answers_once([says(response(document))]) == {}


def test_a_checksum_is_not_demanded() -> None:
    data = response({"Item": ITEM}).replace(b"x-amz-crc32", b"x-other")
    assert answers_once([says(data)]) == ITEM


def test_an_interim_answer_is_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    assert answers_once([says(interim + response({"Item": ITEM}))]) == ITEM


def test_an_answer_in_pieces_is_put_together() -> None:
    data = response({"Item": ITEM})

    def in_pieces(connection: socket.socket) -> None:
        for begin in range(0, len(data), 7):
            connection.sendall(data[begin : begin + 7])

    assert answers_once([in_pieces]) == ITEM


def test_an_ipv6_endpoint_is_reached() -> None:
    with Server(family=socket.AF_INET6) as server:
        asked = client_of(server)
        assert ask(asked) == ITEM
        asked.close()
        assert f"Host: [::1]:{server.port}\r\n".encode() in server.requests[0]


# --- the server's clock


@pytest.mark.parametrize(
    "data",
    [
        response({"Item": ITEM}, date="Tue, 14 Nov 2023 22:27:20 GMT"),
        response({}, status="503 Slow", date="Tue, 14 Nov 2023 22:27:20 GMT"),
        response(
            {"__type": "x#RequestTimeTooSkewed"},
            status="400 Bad Request",
            date="Tue, 14 Nov 2023 22:27:20 GMT",
        ),
    ],
    ids=["an item", "busy", "a doubt"],
)
def test_every_answer_tells_the_servers_clock(data: bytes) -> None:
    with Server([says(data), says(response({"Item": ITEM}))]) as server:
        asked = FastClient(environ(server.url), clock=FakeClock())
        table = DynamoDBLeaseTable(TABLE, "orders", fast_client=asked, client=pytest.fail)
        assert table.clock_offset_ms == 0
        with suppress(LeaseStoreUnavailable):
            ask(asked)
        assert table.clock_offset_ms == 840_500
        ask(asked)  # an answer without a date changes nothing
        assert table.clock_offset_ms == 840_500
        asked.close()


def test_a_clock_that_is_set_after_an_answer_changes_nothing() -> None:
    clock = FakeClock()
    data = response({"Item": ITEM}, date="Tue, 14 Nov 2023 22:13:20 GMT")
    with Server([says(data)]) as server:
        asked = FastClient(environ(server.url), clock=clock)
        table = DynamoDBLeaseTable(
            TABLE, "orders", fast_client=asked, client=pytest.fail, clock=clock
        )
        ask(asked)
        now_ms = clock.wall_ms()
        assert table.now_ms() == now_ms
        clock.jump(-1860)
        clock.advance(7)
        assert table.now_ms() == now_ms + 7_500  # half a second is the header's
        asked.close()


# --- connections


def test_a_connection_is_used_again() -> None:
    with Server() as server:
        asked = client_of(server)
        assert [ask(asked) for _ in range(3)] == [ITEM] * 3
        asked.close()
        assert (server.connections, len(server.requests), asked.requests) == (1, 3, 3)


@pytest.mark.parametrize(
    "data",
    [
        response({"Item": ITEM}, connection="Close"),
        response({"Item": ITEM}, version="HTTP/1.0"),
    ],
    ids=["connection: close", "HTTP/1.0"],
)
def test_a_connection_that_the_server_will_close_is_not_kept(data: bytes) -> None:
    with Server([says(data)]) as server:
        asked = client_of(server)
        assert [ask(asked), ask(asked)] == [ITEM] * 2
        assert server.connections == 2


def test_a_kept_connection_that_was_closed_meanwhile_is_replaced_by_a_fresh_one() -> None:
    with Server([says(response({"Item": ITEM}), hangs_up=True)]) as server:
        asked = client_of(server)
        assert ask(asked) == ITEM
        server.hung_up.acquire()
        assert ask(asked) == ITEM
        asked.close()
        assert (server.connections, asked.requests) == (2, 2)


def test_a_kept_connection_that_was_reset_meanwhile_is_replaced_by_a_fresh_one() -> None:
    with Server([resets_after(response({"Item": ITEM}))]) as server:
        asked = client_of(server)
        assert ask(asked) == ITEM
        server.hung_up.acquire()
        assert ask(asked) == ITEM
        asked.close()
        assert (server.connections, asked.requests) == (2, 2)


def test_a_kept_connection_that_is_closed_instead_of_an_answer_is_replaced_once() -> None:
    with Server([says(response({"Item": ITEM})), hangs_up]) as server:
        asked = client_of(server)
        assert ask(asked) == ITEM
        assert "closed" in refused(asked)
        assert (server.connections, len(server.requests), asked.requests) == (2, 3, 2)


def test_closing_hangs_up_and_the_next_read_opens_one_again() -> None:
    with Server() as server:
        asked = client_of(server)
        assert ask(asked) == ITEM
        asked.close()
        asked.close()
        server.hung_up.acquire()
        assert ask(asked) == ITEM
        asked.close()
        assert server.connections == 2


def test_a_connection_to_an_endpoint_that_the_environment_has_left_is_not_used() -> None:
    with Server() as first, Server([says(response({}))]) as second:
        changing = environ(first.url)
        asked = FastClient(changing)
        assert ask(asked) == ITEM
        changing["AWS_ENDPOINT_URL_DYNAMODB"] = second.url
        assert ask(asked) == {}
        asked.close()


def test_threads_may_share_one_client() -> None:
    with Server() as server:
        asked = client_of(server)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda _: ask(asked), range(40))) == [ITEM] * 40
        asked.close()


# --- doubts: boto3 is asked

DOUBTS: dict[str, bytes] = {
    "garbage": b"\x00\x01 garbage\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "no status": b"HTTP/1.1 ok\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 \xb2\xb2\xb2 OK\r\ncontent-length: 0\r\n\r\n",
    "a header without a name": b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
    "a folded header": b"HTTP/1.1 200 OK\r\na: b\r\n c: d\r\ncontent-length: 2\r\n\r\n{}",
    "a head without an end": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (http.MAX_HEAD + 9),
    "interim answers without an end": b"HTTP/1.1 100 Continue\r\n\r\n" * 2000,
    "another protocol's switch": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n{}",
    "a negative length": response({}, content_length="-2"),
    "a length that is no number": response({}, content_length="two"),
    "too great a length": response({}, content_length=str(http.MAX_BODY + 1)),
    "a length of many digits": response({}, content_length="9" * 5000),
    "a length shorter than the body": response({}, content_length="1"),
    "chunks": response(b"2\r\n{}\r\n0\r\n\r\n", transfer_encoding="chunked"),
    "chunks beside a length": response({}, transfer_encoding="chunked"),
    "compression": response({}, content_encoding="gzip"),
    "another checksum": response({}, x_amz_crc32="1"),
    "a redirect": response({}, status="301 Moved Permanently", location="http://elsewhere/"),
    "a page": response(b"<html>sign in</html>"),
    "not UTF-8": response(b'{"Item": "\xff"}'),
    "a list": response([]),
    "a document of another kind": response({"TableNames": []}),
    "deep nesting": response(b"[" * 200_000),
    "an item that is no map": response({"Item": []}),
    "another target's item": response({"Item": {**ITEM, "target": {"S": "other"}}}),
    "an item without its key": response({"Item": {"fence": {"N": "7"}}}),
    "an untyped value": response({"Item": {**ITEM, "fence": 7}}),
    "a value of two types": response({"Item": {**ITEM, "fence": {"N": "7", "S": "7"}}}),
    "a value of an unknown type": response({"Item": {**ITEM, "fence": {"X": "7"}}}),
    "not found": response(b"", status="404 Not Found"),
    "an error without a code": response({}, status="400 Bad Request"),
    "a page as an error": response(b"<html/>", status="403 Forbidden"),
    **{
        code: fault(code, "The Canonical String should have been\nx-amz-security-token:")
        for code in (
            "AccessDeniedException",
            "ExpiredTokenException",
            "IncompleteSignatureException",
            "InvalidSignatureException",
            "RequestTimeTooSkewed",
            "ResourceNotFoundException",
            "UnrecognizedClientException",
            "ValidationException",
        )
    },
}


@pytest.mark.parametrize("data", DOUBTS.values(), ids=DOUBTS)
def test_a_doubt_is_no_answer_and_the_client_is_not_asked_again(data: bytes) -> None:
    with Server([says(data)]) as server:
        asked = client_of(server)
        assert ask(asked) is None
        server.hung_up.acquire()
        assert ask(asked) is None
        assert (len(server.requests), asked.requests) == (1, 1)


@pytest.mark.parametrize("table", ["arn:aws:dynamodb:eu-west-1:1:table/x", "größe", "a/b", "a\r\n"])
def test_a_table_that_is_no_plain_name_is_a_doubt_without_a_request(table: str) -> None:
    with Server() as server:
        asked = client_of(server)
        assert asked.get_item(table, "orders") is None
        assert (server.connections, asked.requests) == (0, 0)


def test_an_environment_in_doubt_is_one_without_a_request() -> None:
    with Server() as server:
        asked = client_of(server, AWS_PROFILE="dev")
        assert ask(asked) is None
        assert (server.connections, asked.requests) == (0, 0)


def test_a_doubt_that_took_long_ends_the_call_and_boto3_has_the_next() -> None:
    clock = FakeClock()

    def takes_long(connection: socket.socket) -> None:
        clock.advance(signed_client.FALLBACK_LIMIT_SECONDS + 0.1)
        connection.sendall(DOUBTS["a page"])

    with Server([takes_long]) as server:
        asked = FastClient(environ(server.url), clock=clock)
        refused(asked)
        assert ask(asked) is None
        assert len(server.requests) == 1


# --- busy: come back later


@pytest.mark.parametrize("code", sorted(RETRYABLE_CODES))
def test_throttling_is_told_as_such_with_dynamodbs_words(code: str) -> None:
    with Server([says(fault(code, "slow down")), says(response({"Item": ITEM}))]) as server:
        asked = client_of(server)
        assert refused(asked).endswith(f"{code} slow down")
        assert ask(asked) == ITEM
        asked.close()
        assert server.connections == 1


@pytest.mark.parametrize(
    "data",
    [
        fault("InternalServerError", status="500 Internal Server Error"),
        response(b"<html>gateway</html>", status="502 Bad Gateway"),
        response(b"", status="503 Service Unavailable", transfer_encoding="chunked"),
        b"HTTP/1.1 504 Gateway Timeout\r\n\r\n",
    ],
)
def test_a_server_error_is_told_whatever_its_body(data: bytes) -> None:
    with Server([says(data), says(response({"Item": ITEM}))]) as server:
        asked = client_of(server)
        assert "HTTP 50" in refused(asked)
        assert ask(asked) == ITEM
        asked.close()


def test_of_what_dynamodb_says_only_the_first_line_is_told() -> None:
    quoting = f"slow down\nx-amz-security-token:{SECRETS[2]}"
    with Server([says(fault("ThrottlingException", quoting))]) as server:
        asked = client_of(server)
        assert refused(asked).endswith("slow down")
        asked.close()


# --- silence

SILENCES: dict[str, Play] = {
    "hangs up at once": hangs_up,
    "hangs up within the head": says(b"HTTP/1.1 200", hangs_up=True),
    "hangs up within the body": says(response({"Item": ITEM})[:-3], hangs_up=True),
    "a length longer than the body": says(response({}, content_length="9")),
    "says nothing": says_nothing,
    "drips its head": drips(b"HTTP/1.1 200 OK\r\n"),
    "drips its body": drips(response({}, content_length="9999")),
}


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_client, "CONNECT_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(signed_client, "READ_TIMEOUT_SECONDS", 0.04)


@pytest.mark.parametrize("play", SILENCES.values(), ids=SILENCES)
def test_silence_is_retryable_and_ends_in_time(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server([play, says(response({"Item": ITEM}))]) as server:
        asked = client_of(server)
        with monkeypatch.context() as hurry:  # but not for the answer that comes
            hurry.setattr(signed_client, "READ_TIMEOUT_SECONDS", 0.04)
            refused(asked)
        server.hung_up.acquire()
        assert ask(asked) == ITEM
        asked.close()


def test_a_port_where_nobody_listens_is_silence() -> None:
    asked = FastClient(environ(f"http://127.0.0.1:{a_port_where_nobody_listens()}"))
    assert "ConnectionRefusedError" in refused(asked)
    assert asked.requests == 0  # nobody took one


def test_a_name_that_takes_all_the_time_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    place = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))

    def slowly(*_: object, **__: object) -> list[Any]:
        clock.advance(5.0)
        return [place]

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    assert "no answer in time" in refused(FastClient(environ("http://ddb.test"), clock=clock))


@pytest.mark.usefixtures("in_a_hurry")
def test_a_name_that_is_not_resolved_in_time_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    def slow(*_: object, **__: object) -> list[Any]:
        answers.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    assert "was not resolved within" in refused(FastClient(environ("http://ddb.test")))
    answers.set()


@pytest.mark.usefixtures("in_a_hurry")
def test_a_connection_that_nobody_accepts_is_silence() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = []
        for _ in range(4):  # fill the queue, so that the kernel answers no more
            each = socket.socket()
            each.setblocking(False)
            each.connect_ex(address)
            waiting.append(each)
        refused(FastClient(environ(f"http://127.0.0.1:{address[1]}")))
        for each in waiting:
            each.close()


def test_a_name_without_an_address_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    assert "ddb.test has no address" in refused(FastClient(environ("http://ddb.test")))


def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as server:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        places = [
            (999, socket.SOCK_STREAM, 6, "", ("of a family that this machine has not", 1)),
            (*kind, ("127.0.0.1", a_port_where_nobody_listens())),
            (*kind, ("127.0.0.1", server.port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
        asked = FastClient(environ("http://ddb.test"))
        assert ask(asked) == ITEM
        asked.close()


def found_by_itself(monkeypatch: pytest.MonkeyPatch, port: int) -> FastClient:
    """A client whose endpoint no setting names."""
    key, endpoint = AWSCredentials("a", "b"), Endpoint(False, "127.0.0.1", port)
    monkeypatch.setattr(
        signed_client, "resolve_config", lambda _: ClientConfig(key, "us-east-1", endpoint, "")
    )
    return FastClient({})


def test_silence_at_an_endpoint_that_nobody_named_is_a_doubt_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ask(found_by_itself(monkeypatch, a_port_where_nobody_listens())) is None


def test_silence_after_an_answer_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server([says(response({"Item": ITEM})), hangs_up]) as server:
        asked = found_by_itself(monkeypatch, server.port)
        assert ask(asked) == ITEM
        refused(asked)


# --- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def pem(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def tls_server(leaf: trustme.LeafCert) -> Server:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    leaf.configure_cert(context)
    return Server(context=context)


def test_a_verified_server_is_answered_and_its_connection_used_again(
    authority: trustme.CA, pem: str
) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        with tls_server(authority.issue_cert("127.0.0.1")) as server:
            asked = client_of(server, **{name: pem})
            assert [ask(asked), ask(asked)] == [ITEM, ITEM]
            asked.close()
            assert server.connections == 1


def test_a_server_is_asked_for_by_its_name(
    authority: trustme.CA, pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[str | None] = []
    with tls_server(authority.issue_cert("localhost")) as server:
        assert server._context is not None
        server._context.sni_callback = lambda _socket, name, _context: asked_for.append(name)
        url = server.url.replace("127.0.0.1", "localhost")
        monkeypatch.setattr(socket, "getaddrinfo", _only_ipv4(server.port))
        asked = FastClient(environ(url, AWS_CA_BUNDLE=pem))
        assert ask(asked) == ITEM
        asked.close()
    assert asked_for == ["localhost"]


def _only_ipv4(port: int) -> Callable[..., list[Any]]:
    place = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
    return lambda *_, **__: [place]


YESTERDAY = datetime.now(timezone.utc) - timedelta(days=1)
CERTIFICATES: dict[str, Callable[[trustme.CA], trustme.LeafCert]] = {
    "another authority": lambda _: trustme.CA().issue_cert("127.0.0.1"),
    "another name": lambda ca: ca.issue_cert("dynamodb.us-east-1.amazonaws.com"),
    "expired": lambda ca: ca.issue_cert(
        "127.0.0.1", not_before=YESTERDAY - timedelta(days=9), not_after=YESTERDAY
    ),
}


@pytest.mark.parametrize("issue", CERTIFICATES.values(), ids=CERTIFICATES)
def test_a_server_that_is_not_verified_is_never_sent_a_request(
    authority: trustme.CA, pem: str, issue: Callable[[trustme.CA], trustme.LeafCert]
) -> None:
    with tls_server(issue(authority)) as server:
        assert ask(client_of(server, AWS_CA_BUNDLE=pem)) is None
        assert server.requests == []


def test_a_server_is_not_verified_by_the_systems_authorities_alone(authority: trustme.CA) -> None:
    with tls_server(authority.issue_cert("127.0.0.1")) as server:
        assert ask(client_of(server)) is None
        assert server.requests == []


def test_a_server_without_tls_is_a_doubt(pem: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def greet() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.recv(65536)
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        asked = FastClient(environ(f"https://127.0.0.1:{port}", AWS_CA_BUNDLE=pem))
        assert ask(asked) is None
        thread.join()


@pytest.mark.usefixtures("in_a_hurry")
def test_a_handshake_that_nobody_answers_is_silence(pem: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        assert "no TLS handshake: TimeoutError" in refused(
            FastClient(environ(url, AWS_CA_BUNDLE=pem))
        )


def test_a_connection_made_too_late_for_a_handshake_is_closed() -> None:
    class OverOnceConnected(SystemClock):
        def __init__(self) -> None:
            self.times = [0.0, 9.0]

        def monotonic(self) -> float:
            return self.times.pop(0)

    with Server() as server:
        endpoint = Endpoint(True, "127.0.0.1", server.port)
        context = ssl.create_default_context()
        with pytest.raises(http.NoResponse, match="no answer in time"):
            http.connect(endpoint, context, Deadline(1.0, OverOnceConnected()))
        server.hung_up.acquire()


def test_a_handshake_that_is_cut_off_is_silence(pem: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"

        def cut_off() -> None:
            connection, _ = listener.accept()
            connection.recv(1)
            will_reset(connection)
            connection.close()

        thread = threading.Thread(target=cut_off)
        thread.start()
        told = refused(FastClient(environ(url, AWS_CA_BUNDLE=pem)))
        thread.join()
    assert "no TLS handshake: ConnectionResetError" in told


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "no PEM"])
def test_a_bundle_that_cannot_be_used_is_a_doubt(tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    asked = FastClient(environ("https://127.0.0.1:1", AWS_CA_BUNDLE=str(bundle)))
    assert ask(asked) is None
    assert asked.requests == 0


# --- the lease table that has one


class NoClient:
    """A boto3 client that counts, and answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.is_closed = False

    def get_item(self, **_: Any) -> dict[str, Any]:
        self.calls += 1
        return {"Item": {**ITEM, "fence": {"N": "8"}}}

    def close(self) -> None:
        self.is_closed = True


def table_of(server: Server, client: Callable[[], Any]) -> DynamoDBLeaseTable:
    return DynamoDBLeaseTable(
        TABLE, "orders", client=client, fast_client=client_of(server), clock=FakeClock()
    )


def no_client() -> Any:
    raise AssertionError("boto3 is not needed")


def test_a_table_that_is_read_makes_no_client() -> None:
    with Server() as server:
        table = table_of(server, no_client)
        assert [table.read(), table.read(consistent=True)] == [LeaseState(fence=7)] * 2
        table.close()
        assert table.calls == 2
        assert [b'"ConsistentRead": true' in request for request in server.requests] == [
            False,
            True,
        ]


def test_a_table_goes_to_boto3_on_a_doubt_and_stays_there() -> None:
    client = NoClient()
    with Server([says(DOUBTS["a page"])]) as server:
        table = table_of(server, lambda: client)
        assert [table.read().fence, table.read().fence] == [8, 8]
        assert (len(server.requests), client.calls, table.calls) == (1, 2, 3)
        table.close()
        assert client.is_closed


def test_a_table_whose_store_is_busy_makes_no_client_either() -> None:
    with Server([says(fault("ThrottlingException"))]) as server:
        table = table_of(server, no_client)
        with pytest.raises(LeaseStoreUnavailable, match="ThrottlingException"):
            table.read()
        table.close()
        assert table.calls == 1


def test_closing_a_table_that_was_never_used_makes_nothing() -> None:
    DynamoDBLeaseTable(TABLE, "orders", client=no_client).close()


# --- what it costs

NEVER = (
    "aws_lambda_powertools",
    "boto3",
    "botocore",
    "encodings.idna",
    "http",
    "logging",
    "pathlib",
    "pg8000",
    "tenacity",
    "urllib",
)

SCRIPT = """
import os, sys
before = set(sys.modules)
from lambda_migrate.lease.dynamodb import DynamoDBLeaseTable
from lambda_migrate.lease.fast_client.client import FastClient
table = DynamoDBLeaseTable("leases", "orders", fast_client=FastClient(os.environ))
assert "socket" not in sys.modules and "json" not in sys.modules
assert table.read().fence == 7
table.close()
print(" ".join(sorted(set(sys.modules) - before)))
"""


def loaded_by_one_read(server: Server, **more: str) -> set[str]:
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**environ(server.url, **more), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


def test_a_read_in_a_fresh_process_loads_nothing_heavy() -> None:
    with Server() as server:
        loaded = loaded_by_one_read(server)
    assert "lambda_migrate.lease.fast_client.http" in loaded
    assert not loaded & {*NEVER, "ssl"}


def test_a_read_by_tls_loads_ssl_and_nothing_else_that_is_heavy(
    authority: trustme.CA, pem: str
) -> None:
    with tls_server(authority.issue_cert("127.0.0.1")) as server:
        loaded = loaded_by_one_read(server, AWS_CA_BUNDLE=pem)
    assert "ssl" in loaded
    assert not loaded & set(NEVER)


# --- secrets


def test_no_representation_shows_a_secret() -> None:
    with Server() as server:
        asked = client_of(server)
        ask(asked)
        shown = (
            repr(asked)
            + repr(vars(asked)["_kept"])
            + repr(endpoint_module.resolve_config(environ(server.url)))
        )
        asked.close()
    assert not any(secret in shown for secret in SECRETS)


def test_the_secret_key_is_never_sent_and_the_date_is_the_clocks() -> None:
    class InMarch(SystemClock):
        def wall_ms(self) -> int:
            return 1_772_366_400_999

    with Server() as server:
        asked = FastClient(environ(server.url), clock=InMarch())
        assert ask(asked) == ITEM
        asked.close()
        request = server.requests[0].decode()
    assert "X-Amz-Date: 20260301T120000Z\r\n" in request
    assert f"Credential={SECRETS[0]}/20260301/us-east-1/dynamodb/aws4_request" in request
    assert f"X-Amz-Security-Token: {SECRETS[2]}\r\n" in request
    assert SECRETS[1] not in request
    assert json.loads(request.partition("\r\n\r\n")[2]) == {
        "TableName": TABLE,
        "Key": {"target": {"S": "orders"}},
        "ConsistentRead": False,
    }


# --- writing

CHANGE = {
    "UpdateExpression": "SET fence = :seven",
    "ConditionExpression": "fence = :six",
    "ExpressionAttributeValues": {":seven": {"N": "7"}, ":six": {"N": "6"}},
    "ReturnValues": "ALL_NEW",
    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
}


def updates_once(plays: list[Play]) -> Mapping[str, Any] | None:
    """What one update makes of a server that plays; nothing of it stays open."""
    with Server(plays) as server:
        asked = client_of(server)
        try:
            return asked.update_item(TABLE, "orders", CHANGE)
        finally:
            asked.close()


def condition_failed(**more: Any) -> bytes:
    kind = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"
    document = {"__type": kind, "message": "The conditional request failed", **more}
    return response(document, status="400 Bad Request")


def test_an_update_answers_the_item_as_it_now_is() -> None:
    assert updates_once([says(response({"Attributes": ITEM}))]) == ITEM


def test_an_update_is_sent_as_it_was_asked_for() -> None:
    with Server([says(response({"Attributes": ITEM}))]) as server:
        asked = client_of(server)
        asked.update_item(TABLE, "orders", CHANGE)
        asked.close()
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert b"X-Amz-Target: DynamoDB_20120810.UpdateItem\r\n" in head
    assert json.loads(body) == {"TableName": TABLE, "Key": {"target": {"S": "orders"}}, **CHANGE}


def test_a_condition_that_failed_brings_the_item_that_was_in_the_way() -> None:
    with pytest.raises(ConditionFailed) as caught:
        updates_once([says(condition_failed(Item=ITEM))])
    assert caught.value.item == ITEM


def test_some_engines_tell_no_item_with_it() -> None:
    with pytest.raises(ConditionFailed) as caught:
        updates_once([says(condition_failed())])
    assert caught.value.item is None


OTHERS = {"target": {"S": "others"}, "fence": {"N": "1"}}


@pytest.mark.parametrize(
    "data",
    [
        response({}),
        response({"Attributes": OTHERS}),
        response({"Attributes": ITEM, "Item": ITEM}),
        condition_failed(Item=OTHERS),
        condition_failed(Item="text"),
        condition_failed(Item=ITEM).replace(b"400 Bad", b"418 Odd"),
        fault("ValidationException"),
        fault("AccessDeniedException"),
        b"nonsense\r\n\r\n",
    ],
    ids=["none", "another", "more", "in-the-way", "shape", "status", "invalid", "denied", "noise"],
)
def test_an_update_in_doubt_is_left_to_boto3(data: bytes) -> None:
    assert updates_once([says(data)]) is None


@pytest.mark.parametrize(
    "data", [fault("ThrottlingException"), response({}, status="500 Oops")], ids=["slow", "500"]
)
def test_an_update_that_is_turned_away_is_to_be_tried_later(data: bytes) -> None:
    with pytest.raises(LeaseStoreUnavailable):
        updates_once([says(data)])


def test_an_update_over_a_connection_that_was_closed_meanwhile_is_sent_again() -> None:
    plays = [says(response({"Item": ITEM}), hangs_up=True), says(response({"Attributes": ITEM}))]
    with Server(plays) as server:
        asked = client_of(server)
        assert ask(asked) == ITEM
        assert asked.update_item(TABLE, "orders", CHANGE) == ITEM
        asked.close()
        assert asked.requests == 2


def test_a_lost_bid_for_the_lease_loads_no_boto3() -> None:
    held = {**ITEM, "owner": {"S": "other"}, "lease_until": {"N": "99"}}
    with Server([says(condition_failed(Item=held))]) as server:
        fast_client = client_of(server)
        table = DynamoDBLeaseTable(
            TABLE, "orders", client=lambda: pytest.fail("boto3 was asked"), fast_client=fast_client
        )
        state = table.acquire("me")
        table.close()
    assert isinstance(state, LeaseState)
    assert state.owner == "other"
    assert table.calls == 1
