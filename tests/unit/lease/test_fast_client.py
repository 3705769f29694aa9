"""Whatever a server sends is an item, a retryable error, or left to boto3."""

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

from lambda_migrate.clock import Clock, Deadline
from lambda_migrate.errors import LeaseStoreUnavailable
from lambda_migrate.lease import dynamodb_http as http
from lambda_migrate.lease import dynamodb_request as request_module
from lambda_migrate.lease import fast_client as client_module
from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.lease.dynamodb_call import ConditionFailed
from lambda_migrate.lease.dynamodb_errors import RETRYABLE_CODES
from lambda_migrate.lease.dynamodb_request import AWSCredentials, ClientConfig, Endpoint
from lambda_migrate.lease.fast_client import FastClient
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.testing import FakeClock
from tests.unit.lease.misbehaving_server import (
    ITEM,
    Reply,
    Server,
    closes,
    error_response,
    reset_on_close,
    response,
    sends,
    sends_and_resets,
    sends_nothing,
    sends_slowly,
    unused_port,
)

# A connection that was not closed fails the test that opened it.
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
def check_for_unclosed_sockets() -> Iterator[None]:
    """Fail for sockets that only a cycle of references keeps open, too.

    What other modules' tests left in this process is collected first.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    yield
    gc.collect()


def environ(url: str, **more: str) -> dict[str, str]:
    return {**ENVIRON, "AWS_ENDPOINT_URL_DYNAMODB": url, **more}


def client_for(server: Server, **more: str) -> FastClient:
    return FastClient(environ(server.url, **more))


def read(client: FastClient, target: str = "orders") -> Mapping[str, Any] | None:
    return client.get_item(TABLE, target)


def read_error(client: FastClient) -> str:
    """The message of the retryable error of a read, which contains no secret."""
    with pytest.raises(LeaseStoreUnavailable) as caught:
        read(client)
    shown = str(caught.value) + repr(caught.value) + str(caught.value.__cause__)
    assert caught.value.__cause__ is None
    assert not any(secret in shown for secret in SECRETS)
    assert f"'{TABLE}'" in shown
    return str(caught.value)


def read_once(replies: list[Reply]) -> Mapping[str, Any] | None:
    """What one read makes of a server that replies; nothing of it stays open."""
    with Server(replies) as server:
        client = client_for(server)
        try:
            return read(client)
        finally:
            client.close()


# --- answers


def test_an_item_is_returned_as_dynamodb_sent_it() -> None:
    assert read_once([sends(response({"Item": ITEM}))]) == ITEM


@pytest.mark.parametrize("document", [{}, {"ConsumedCapacity": {"TableName": TABLE}}])
def test_a_missing_item_is_returned_as_an_empty_one(document: dict[str, Any]) -> None:
    assert read_once([sends(response(document))]) == {}


def test_a_response_without_a_checksum_is_accepted() -> None:
    data = response({"Item": ITEM}).replace(b"x-amz-crc32", b"x-other")
    assert read_once([sends(data)]) == ITEM


def test_an_interim_response_is_skipped() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    assert read_once([sends(interim + response({"Item": ITEM}))]) == ITEM


def test_a_response_in_pieces_is_put_together() -> None:
    data = response({"Item": ITEM})

    def in_pieces(connection: socket.socket) -> None:
        for begin in range(0, len(data), 7):
            connection.sendall(data[begin : begin + 7])

    assert read_once([in_pieces]) == ITEM


def test_an_ipv6_endpoint_is_reached() -> None:
    with Server(family=socket.AF_INET6) as server:
        client = client_for(server)
        assert read(client) == ITEM
        client.close()
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
    ids=["an item", "busy", "unusable"],
)
def test_every_response_updates_the_server_clock(data: bytes) -> None:
    with Server([sends(data), sends(response({"Item": ITEM}))]) as server:
        client = FastClient(environ(server.url), clock=FakeClock())
        table = DynamoDBLeaseStore(TABLE, "orders", fast_client=client, client=pytest.fail)
        assert table.clock_offset_ms == 0
        with suppress(LeaseStoreUnavailable):
            read(client)
        assert table.clock_offset_ms == 840_500
        read(client)  # an answer without a date changes nothing
        assert table.clock_offset_ms == 840_500
        client.close()


def test_setting_the_wall_clock_after_a_response_changes_nothing() -> None:
    clock = FakeClock()
    data = response({"Item": ITEM}, date="Tue, 14 Nov 2023 22:13:20 GMT")
    with Server([sends(data)]) as server:
        client = FastClient(environ(server.url), clock=clock)
        table = DynamoDBLeaseStore(
            TABLE, "orders", fast_client=client, client=pytest.fail, clock=clock
        )
        read(client)
        now_ms = clock.wall_ms()
        assert table.now_ms() == now_ms
        clock.step_wall_clock(-1860)
        clock.advance(7)
        assert table.now_ms() == now_ms + 7_500  # half a second is the header's
        client.close()


# --- connections


def test_a_connection_is_reused() -> None:
    with Server() as server:
        client = client_for(server)
        assert [read(client) for _ in range(3)] == [ITEM] * 3
        client.close()
        assert (server.connections, len(server.requests), client.request_count) == (1, 3, 3)


@pytest.mark.parametrize(
    "data",
    [
        response({"Item": ITEM}, connection="Close"),
        response({"Item": ITEM}, version="HTTP/1.0"),
    ],
    ids=["connection: close", "HTTP/1.0"],
)
def test_a_connection_that_the_server_will_close_is_not_reused(data: bytes) -> None:
    with Server([sends(data)]) as server:
        client = client_for(server)
        assert [read(client), read(client)] == [ITEM] * 2
        assert server.connections == 2


def test_an_idle_connection_that_was_closed_is_replaced() -> None:
    with Server([sends(response({"Item": ITEM}), close=True)]) as server:
        client = client_for(server)
        assert read(client) == ITEM
        server.closed_connections.acquire()
        assert read(client) == ITEM
        client.close()
        assert (server.connections, client.request_count) == (2, 2)


def test_an_idle_connection_that_was_reset_is_replaced() -> None:
    with Server([sends_and_resets(response({"Item": ITEM}))]) as server:
        client = client_for(server)
        assert read(client) == ITEM
        server.closed_connections.acquire()
        assert read(client) == ITEM
        client.close()
        assert (server.connections, client.request_count) == (2, 2)


def test_a_connection_that_is_closed_instead_of_a_response_is_replaced_once() -> None:
    with Server([sends(response({"Item": ITEM})), closes]) as server:
        client = client_for(server)
        assert read(client) == ITEM
        assert "closed" in read_error(client)
        assert (server.connections, len(server.requests), client.request_count) == (2, 3, 2)


def test_close_closes_the_connection_and_the_next_read_opens_another() -> None:
    with Server() as server:
        client = client_for(server)
        assert read(client) == ITEM
        client.close()
        client.close()
        server.closed_connections.acquire()
        assert read(client) == ITEM
        client.close()
        assert server.connections == 2


def test_a_connection_to_another_endpoint_than_the_current_one_is_not_reused() -> None:
    with Server() as first, Server([sends(response({}))]) as second:
        changing = environ(first.url)
        client = FastClient(changing)
        assert read(client) == ITEM
        changing["AWS_ENDPOINT_URL_DYNAMODB"] = second.url
        assert read(client) == {}
        client.close()


def test_threads_may_share_one_client() -> None:
    with Server() as server:
        client = client_for(server)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda _: read(client), range(40))) == [ITEM] * 40
        client.close()


# --- responses that are left to boto3

FALLBACK_RESPONSES: dict[str, bytes] = {
    "garbage": b"\x00\x01 garbage\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "no status": b"HTTP/1.1 ok\r\n\r\n",
    "a status that is not a number": b"HTTP/1.1 \xb2\xb2\xb2 OK\r\ncontent-length: 0\r\n\r\n",
    "a header without a name": b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
    "a folded header": b"HTTP/1.1 200 OK\r\na: b\r\n c: d\r\ncontent-length: 2\r\n\r\n{}",
    "a head without an end": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (http.MAX_HEAD_BYTES + 9),
    "interim responses without an end": b"HTTP/1.1 100 Continue\r\n\r\n" * 2000,
    "another protocol's switch": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n{}",
    "a negative length": response({}, content_length="-2"),
    "a length that is not a number": response({}, content_length="two"),
    "too large a length": response({}, content_length=str(http.MAX_BODY_BYTES + 1)),
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
    "an item that is not a map": response({"Item": []}),
    "another target's item": response({"Item": {**ITEM, "target": {"S": "other"}}}),
    "an item without its key": response({"Item": {"fence": {"N": "7"}}}),
    "an untyped value": response({"Item": {**ITEM, "fence": 7}}),
    "a value of two types": response({"Item": {**ITEM, "fence": {"N": "7", "S": "7"}}}),
    "a value of an unknown type": response({"Item": {**ITEM, "fence": {"X": "7"}}}),
    "not found": response(b"", status="404 Not Found"),
    "an error without a code": response({}, status="400 Bad Request"),
    "a page as an error": response(b"<html/>", status="403 Forbidden"),
    **{
        code: error_response(code, "The Canonical String should have been\nx-amz-security-token:")
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


@pytest.mark.parametrize("data", FALLBACK_RESPONSES.values(), ids=FALLBACK_RESPONSES)
def test_an_unusable_response_declines_and_disables_the_client(data: bytes) -> None:
    with Server([sends(data)]) as server:
        client = client_for(server)
        assert read(client) is None
        server.closed_connections.acquire()
        assert read(client) is None
        assert (len(server.requests), client.request_count) == (1, 1)


@pytest.mark.parametrize("table", ["arn:aws:dynamodb:eu-west-1:1:table/x", "größe", "a/b", "a\r\n"])
def test_a_table_that_is_not_a_plain_name_declines_without_a_request(table: str) -> None:
    with Server() as server:
        client = client_for(server)
        assert client.get_item(table, "orders") is None
        assert (server.connections, client.request_count) == (0, 0)


def test_an_unsupported_environment_declines_without_a_request() -> None:
    with Server() as server:
        client = client_for(server, AWS_PROFILE="dev")
        assert read(client) is None
        assert (server.connections, client.request_count) == (0, 0)


def test_declining_late_ends_the_call_and_boto3_does_the_next() -> None:
    clock = FakeClock()

    def takes_long(connection: socket.socket) -> None:
        clock.advance(client_module.MAX_SECONDS_BEFORE_FALLBACK + 0.1)
        connection.sendall(FALLBACK_RESPONSES["a page"])

    with Server([takes_long]) as server:
        client = FastClient(environ(server.url), clock=clock)
        read_error(client)
        assert read(client) is None
        assert len(server.requests) == 1


# --- busy: come back later


@pytest.mark.parametrize("code", sorted(RETRYABLE_CODES))
def test_throttling_is_raised_with_dynamodbs_message(code: str) -> None:
    with Server(
        [sends(error_response(code, "slow down")), sends(response({"Item": ITEM}))]
    ) as server:
        client = client_for(server)
        assert f": {code} slow down" in read_error(client)
        assert read(client) == ITEM
        client.close()
        assert server.connections == 1


@pytest.mark.parametrize(
    "data",
    [
        error_response("InternalServerError", status="500 Internal Server Error"),
        response(b"<html>gateway</html>", status="502 Bad Gateway"),
        response(b"", status="503 Service Unavailable", transfer_encoding="chunked"),
        b"HTTP/1.1 504 Gateway Timeout\r\n\r\n",
    ],
)
def test_a_server_error_is_retryable_whatever_its_body(data: bytes) -> None:
    with Server([sends(data), sends(response({"Item": ITEM}))]) as server:
        client = client_for(server)
        assert "HTTP 50" in read_error(client)
        assert read(client) == ITEM
        client.close()


def test_only_the_first_line_of_dynamodbs_message_is_shown() -> None:
    quoting = f"slow down\nx-amz-security-token:{SECRETS[2]}"
    with Server([sends(error_response("ThrottlingException", quoting))]) as server:
        client = client_for(server)
        assert read_error(client).endswith("slow down")
        client.close()


# --- no response

NO_RESPONSE: dict[str, Reply] = {
    "closes at once": closes,
    "closes within the head": sends(b"HTTP/1.1 200", close=True),
    "closes within the body": sends(response({"Item": ITEM})[:-3], close=True),
    "a length longer than the body": sends(response({}, content_length="9")),
    "sends nothing": sends_nothing,
    "sends_slowly its head": sends_slowly(b"HTTP/1.1 200 OK\r\n"),
    "sends_slowly its body": sends_slowly(response({}, content_length="9999")),
}


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(client_module, "READ_TIMEOUT_SECONDS", 0.04)


@pytest.mark.slow
@pytest.mark.parametrize("reply", NO_RESPONSE.values(), ids=NO_RESPONSE)
def test_no_response_is_retryable_and_ends_in_time(
    reply: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server([reply, sends(response({"Item": ITEM}))]) as server:
        client = client_for(server)
        with monkeypatch.context() as hurry:  # but not for the answer that comes
            hurry.setattr(client_module, "READ_TIMEOUT_SECONDS", 0.04)
            read_error(client)
        server.closed_connections.acquire()
        assert read(client) == ITEM
        client.close()


def test_a_refused_connection_counts_as_no_response() -> None:
    client = FastClient(environ(f"http://127.0.0.1:{unused_port()}"))
    assert "ConnectionRefusedError" in read_error(client)
    assert client.request_count == 0  # none was accepted


def test_a_name_that_takes_all_the_time_counts_as_no_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = FakeClock()
    place = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))

    def slowly(*_: object, **__: object) -> list[Any]:
        clock.advance(5.0)
        return [place]

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    assert "timed out" in read_error(FastClient(environ("http://ddb.test"), clock=clock))


@pytest.mark.slow
@pytest.mark.usefixtures("short_timeouts")
def test_a_name_that_is_not_resolved_in_time_counts_as_no_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = threading.Event()

    def slow(*_: object, **__: object) -> list[Any]:
        answers.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    assert "was not resolved within" in read_error(FastClient(environ("http://ddb.test")))
    answers.set()


@pytest.mark.slow
@pytest.mark.usefixtures("short_timeouts")
def test_a_connection_that_is_not_accepted_counts_as_no_response() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = []
        for _ in range(4):  # fill the queue, so that the kernel answers no more
            each = socket.socket()
            each.setblocking(False)
            each.connect_ex(address)
            waiting.append(each)
        read_error(FastClient(environ(f"http://127.0.0.1:{address[1]}")))
        for each in waiting:
            each.close()


def test_a_name_without_an_address_counts_as_no_response(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "cannot resolve ddb.test" in read_error(FastClient(environ("http://ddb.test")))


def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as server:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        places = [
            (999, socket.SOCK_STREAM, 6, "", ("of a family that this machine has not", 1)),
            (*kind, ("127.0.0.1", unused_port())),
            (*kind, ("127.0.0.1", server.port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
        client = FastClient(environ("http://ddb.test"))
        assert read(client) == ITEM
        client.close()


def client_without_endpoint_setting(monkeypatch: pytest.MonkeyPatch, port: int) -> FastClient:
    """A client whose endpoint no setting names."""
    key, endpoint = AWSCredentials("a", "b"), Endpoint(False, "127.0.0.1", port)
    monkeypatch.setattr(
        client_module, "resolve_config", lambda _: ClientConfig(key, "us-east-1", endpoint, "")
    )
    return FastClient({})


def test_no_response_from_an_endpoint_without_a_setting_declines_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert read(client_without_endpoint_setting(monkeypatch, unused_port())) is None


def test_no_response_after_an_earlier_response_is_retryable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Server([sends(response({"Item": ITEM})), closes]) as server:
        client = client_without_endpoint_setting(monkeypatch, server.port)
        assert read(client) == ITEM
        read_error(client)


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


def test_a_connection_to_a_verified_server_is_reused(authority: trustme.CA, pem: str) -> None:
    with tls_server(authority.issue_cert("127.0.0.1")) as server:
        client = client_for(server, AWS_CA_BUNDLE=pem)
        assert [read(client), read(client)] == [ITEM, ITEM]
        client.close()
        assert server.connections == 1


def test_the_tls_handshake_names_the_server(
    authority: trustme.CA, pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested_names: list[str | None] = []
    with tls_server(authority.issue_cert("localhost")) as server:
        assert server._context is not None
        server._context.sni_callback = lambda _socket, name, _context: requested_names.append(name)
        url = server.url.replace("127.0.0.1", "localhost")
        monkeypatch.setattr(socket, "getaddrinfo", _only_ipv4(server.port))
        client = FastClient(environ(url, AWS_CA_BUNDLE=pem))
        assert read(client) == ITEM
        client.close()
    assert requested_names == ["localhost"]


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
def test_a_server_that_is_not_verified_gets_no_request(
    authority: trustme.CA, pem: str, issue: Callable[[trustme.CA], trustme.LeafCert]
) -> None:
    with tls_server(issue(authority)) as server:
        assert read(client_for(server, AWS_CA_BUNDLE=pem)) is None
        assert server.requests == []


def test_a_private_certificate_is_not_trusted_without_its_bundle(authority: trustme.CA) -> None:
    with tls_server(authority.issue_cert("127.0.0.1")) as server:
        assert read(client_for(server)) is None
        assert server.requests == []


def test_a_server_without_tls_declines(pem: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def greet() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.recv(65536)
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        client = FastClient(environ(f"https://127.0.0.1:{port}", AWS_CA_BUNDLE=pem))
        assert read(client) is None
        thread.join()


@pytest.mark.slow
@pytest.mark.usefixtures("short_timeouts")
def test_a_handshake_without_a_reply_counts_as_no_response(pem: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        assert "TLS handshake failed: TimeoutError" in read_error(
            FastClient(environ(url, AWS_CA_BUNDLE=pem))
        )


def test_a_connection_made_too_late_for_a_handshake_is_closed() -> None:
    class ClockThatExpiresOnConnect(Clock):
        def __init__(self) -> None:
            self.times = [0.0, 9.0]

        def monotonic(self) -> float:
            return self.times.pop(0)

    with Server() as server:
        endpoint = Endpoint(True, "127.0.0.1", server.port)
        context = ssl.create_default_context()
        with pytest.raises(http.NoResponse, match="timed out"):
            http.connect(endpoint, context, Deadline(1.0, ClockThatExpiresOnConnect()))
        server.closed_connections.acquire()


def test_a_handshake_that_is_cut_off_counts_as_no_response(pem: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"

        def cut_off() -> None:
            connection, _ = listener.accept()
            connection.recv(1)
            reset_on_close(connection)
            connection.close()

        thread = threading.Thread(target=cut_off)
        thread.start()
        message = read_error(FastClient(environ(url, AWS_CA_BUNDLE=pem)))
        thread.join()
    assert "TLS handshake failed: ConnectionResetError" in message


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "no PEM"])
def test_a_bundle_that_cannot_be_used_declines(tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    client = FastClient(environ("https://127.0.0.1:1", AWS_CA_BUNDLE=str(bundle)))
    assert read(client) is None
    assert client.request_count == 0


# --- the lease table that has one


class StubBoto3Client:
    """A boto3 client that counts, and answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.is_closed = False

    def get_item(self, **_: Any) -> dict[str, Any]:
        self.calls += 1
        return {"Item": {**ITEM, "fence": {"N": "8"}}}

    def close(self) -> None:
        self.is_closed = True


def table_for(server: Server, client: Callable[[], Any]) -> DynamoDBLeaseStore:
    return DynamoDBLeaseStore(
        TABLE, "orders", client=client, fast_client=client_for(server), clock=FakeClock()
    )


def fail_if_called() -> Any:
    raise AssertionError("boto3 is not needed")


def test_reading_a_table_creates_no_boto3_client() -> None:
    with Server() as server:
        table = table_for(server, fail_if_called)
        assert [table.read(), table.read(consistent=True)] == [LeaseState(fence=7)] * 2
        table.close()
        assert table.request_count == 2
        assert [b'"ConsistentRead": true' in request for request in server.requests] == [
            False,
            True,
        ]


def test_a_table_uses_boto3_once_the_fast_client_has_declined() -> None:
    client = StubBoto3Client()
    with Server([sends(FALLBACK_RESPONSES["a page"])]) as server:
        table = table_for(server, lambda: client)
        assert [table.read().fence, table.read().fence] == [8, 8]
        assert (len(server.requests), client.calls, table.request_count) == (1, 2, 3)
        table.close()
        assert client.is_closed


def test_a_busy_table_creates_no_boto3_client_either() -> None:
    with Server([sends(error_response("ThrottlingException"))]) as server:
        table = table_for(server, fail_if_called)
        with pytest.raises(LeaseStoreUnavailable, match="ThrottlingException"):
            table.read()
        table.close()
        assert table.request_count == 1


def test_closing_a_table_that_was_never_used_creates_no_client() -> None:
    DynamoDBLeaseStore(TABLE, "orders", client=fail_if_called).close()


# --- what it costs

HEAVY_MODULES = (
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
from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.lease.fast_client import FastClient
table = DynamoDBLeaseStore("leases", "orders", fast_client=FastClient(os.environ))
assert "socket" not in sys.modules and "json" not in sys.modules
assert table.read().fence == 7
table.close()
print(" ".join(sorted(set(sys.modules) - before)))
"""


def modules_loaded_by_one_read(server: Server, **more: str) -> set[str]:
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
        loaded = modules_loaded_by_one_read(server)
    assert "lambda_migrate.lease.dynamodb_http" in loaded
    assert not loaded & {*HEAVY_MODULES, "ssl"}


def test_a_read_by_tls_loads_ssl_and_nothing_else_that_is_heavy(
    authority: trustme.CA, pem: str
) -> None:
    with tls_server(authority.issue_cert("127.0.0.1")) as server:
        loaded = modules_loaded_by_one_read(server, AWS_CA_BUNDLE=pem)
    assert "ssl" in loaded
    assert not loaded & set(HEAVY_MODULES)


# --- secrets


def test_no_representation_shows_a_secret() -> None:
    with Server() as server:
        client = client_for(server)
        read(client)
        shown = (
            repr(client)
            + repr(vars(client)["_idle_connections"])
            + repr(request_module.resolve_config(environ(server.url)))
        )
        client.close()
    assert not any(secret in shown for secret in SECRETS)


def test_the_secret_key_is_never_sent_and_the_date_is_the_clocks() -> None:
    class MarchClock(Clock):
        def wall_ms(self) -> int:
            return 1_772_366_400_999

    with Server() as server:
        client = FastClient(environ(server.url), clock=MarchClock())
        assert read(client) == ITEM
        client.close()
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

UPDATE = {
    "UpdateExpression": "SET fence = :seven",
    "ConditionExpression": "fence = :six",
    "ExpressionAttributeValues": {":seven": {"N": "7"}, ":six": {"N": "6"}},
    "ReturnValues": "ALL_NEW",
    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
}


def update_once(replies: list[Reply]) -> Mapping[str, Any] | None:
    """What one update makes of a server that replies; nothing of it stays open."""
    with Server(replies) as server:
        client = client_for(server)
        try:
            return client.update_item(TABLE, "orders", UPDATE)
        finally:
            client.close()


def condition_failed(**more: Any) -> bytes:
    kind = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"
    document = {"__type": kind, "message": "The conditional request failed", **more}
    return response(document, status="400 Bad Request")


def test_an_update_returns_the_updated_item() -> None:
    assert update_once([sends(response({"Attributes": ITEM}))]) == ITEM


def test_an_update_is_sent_as_given() -> None:
    with Server([sends(response({"Attributes": ITEM}))]) as server:
        client = client_for(server)
        client.update_item(TABLE, "orders", UPDATE)
        client.close()
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert b"X-Amz-Target: DynamoDB_20120810.UpdateItem\r\n" in head
    assert json.loads(body) == {"TableName": TABLE, "Key": {"target": {"S": "orders"}}, **UPDATE}


def test_a_failed_condition_carries_the_current_item() -> None:
    with pytest.raises(ConditionFailed) as caught:
        update_once([sends(condition_failed(Item=ITEM))])
    assert caught.value.item == ITEM


def test_a_failed_condition_may_come_without_the_item() -> None:
    with pytest.raises(ConditionFailed) as caught:
        update_once([sends(condition_failed())])
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
        error_response("ValidationException"),
        error_response("AccessDeniedException"),
        b"nonsense\r\n\r\n",
    ],
    ids=["none", "another", "more", "in-the-way", "shape", "status", "invalid", "denied", "noise"],
)
def test_an_update_with_an_unusable_response_is_left_to_boto3(data: bytes) -> None:
    assert update_once([sends(data)]) is None


@pytest.mark.parametrize(
    "data",
    [error_response("ThrottlingException"), response({}, status="500 Oops")],
    ids=["slow", "500"],
)
def test_a_throttled_update_is_retryable(data: bytes) -> None:
    with pytest.raises(LeaseStoreUnavailable):
        update_once([sends(data)])


def test_an_update_over_a_closed_idle_connection_is_sent_again() -> None:
    replies = [sends(response({"Item": ITEM}), close=True), sends(response({"Attributes": ITEM}))]
    with Server(replies) as server:
        client = client_for(server)
        assert read(client) == ITEM
        assert client.update_item(TABLE, "orders", UPDATE) == ITEM
        client.close()
        assert client.request_count == 2


def test_losing_the_lease_to_another_owner_loads_no_boto3() -> None:
    held = {**ITEM, "owner": {"S": "other"}, "lease_until": {"N": "99"}}
    with Server([sends(condition_failed(Item=held))]) as server:
        fast_client = client_for(server)
        table = DynamoDBLeaseStore(
            TABLE, "orders", client=lambda: pytest.fail("boto3 was used"), fast_client=fast_client
        )
        state = table.acquire("me")
        table.close()
    assert isinstance(state, LeaseState)
    assert state.owner == "other"
    assert table.request_count == 1
