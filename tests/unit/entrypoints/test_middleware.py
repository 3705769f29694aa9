"""The ASGI and WSGI middlewares: one check, 503 until the schema is ready, deadlines, health."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest

from lambda_migrate import asgi, wsgi
from lambda_migrate.clock import Deadline
from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable
from lambda_migrate.outcome import Outcome
from lambda_migrate.runner import MigrationRunner
from tests.unit.engine.fakes import Fakes, manifest
from tests.unit.entrypoints.lines import Context

Response = tuple[int, dict[str, str], str]


class Runner(MigrationRunner):
    """Is not ready the given number of times; its checks last until ``may_finish``."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__(manifest(1), Fakes().target())
        self.failures = failures
        self.deadlines: list[tuple[float | None, str]] = []
        self.may_finish = threading.Event()
        self.may_finish.set()

    def ensure(self, deadline: Deadline | None = None, *, request_id: str = "") -> Outcome:
        remaining = None if deadline is None else round(deadline.remaining())
        self.deadlines.append((remaining, request_id))
        assert self.may_finish.wait(20)
        if len(self.deadlines) <= self.failures:
            raise DatabaseUnavailable("PostgreSQL did not respond", retry_after_seconds=7)
        return Outcome.UP_TO_DATE


class Client:
    """Sends requests to an application behind one of the middlewares."""

    def __init__(self, kind: str, runner: MigrationRunner, **options: Any) -> None:
        self.kind = kind
        if kind == "asgi":
            self._asgi = asgi.MigrateMiddleware(_serve_asgi, runner=runner, **options)
        else:
            self._wsgi = wsgi.MigrateMiddleware(_serve_wsgi, runner=runner, **options)

    def get(self, path: str = "/", *, context: Any = None, header: str = "") -> Response:
        if self.kind == "asgi":
            return asyncio.run(self.get_async(path, context=context, header=header))
        environ: dict[str, Any] = {"PATH_INFO": path}
        if context is not None:
            environ["apig_wsgi.context"] = context
        if header:
            environ["HTTP_X_AMZN_LAMBDA_CONTEXT"] = header
        started: list[Any] = []
        body = b"".join(self._wsgi(environ, lambda *args: started.append(args)))
        status, headers = started[0]
        return int(status.split()[0]), {k.lower(): v for k, v in headers}, body.decode()

    async def get_async(
        self, path: str = "/", *, context: Any = None, header: str = ""
    ) -> Response:
        scope: dict[str, Any] = {"type": "http", "path": path, "headers": []}
        if context is not None:
            scope["aws.context"] = context
        if header:
            scope["headers"] = [(b"x-amzn-lambda-context", header.encode())]
        sent = await self.send(scope)
        headers = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return sent[0]["status"], headers, sent[1]["body"].decode()

    def wait_for_check(self) -> None:
        middleware: Any = self._asgi if self.kind == "asgi" else self._wsgi
        middleware._check.background.start(None)[0].result(20)

    async def send(self, scope: dict[str, Any]) -> list[Any]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": f"{scope['type']}.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._asgi(scope, receive, send)
        return sent


async def _serve_asgi(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"served"})


def _serve_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"served"]


@pytest.fixture(params=["asgi", "wsgi"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


SERVED: Response = (200, {}, "served")


def test_one_check_serves_all_later_requests(kind: str) -> None:
    runner = Runner()
    client = Client(kind, runner)
    assert [client.get() for _ in range(3)] == [SERVED] * 3
    assert len(runner.deadlines) == 1


def test_a_schema_that_is_not_ready_gives_503_with_retry_after_and_no_cause(kind: str) -> None:
    client = Client(kind, Runner(failures=1))
    status, headers, body = client.get()
    assert (status, headers["retry-after"]) == (503, "7")
    assert headers["content-type"] == "application/json"
    assert "PostgreSQL" not in body
    assert json.loads(body)["message"]
    assert int(headers["content-length"]) == len(body)
    assert client.get() == SERVED


def test_the_lambda_context_of_the_adapter_sets_the_deadline(kind: str) -> None:
    runner = Runner()
    Client(kind, runner).get(context=Context(20))
    assert runner.deadlines == [(20, "request-1")]


def make_header(seconds: float, key: str = "deadline") -> str:
    return json.dumps({key: round((time.time() + seconds) * 1000), "request_id": "request-2"})


@pytest.mark.parametrize("key", ["deadline", "deadline_ms"])
def test_the_web_adapters_header_sets_the_deadline_on_lambda(
    kind: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    runner = Runner()
    Client(kind, runner).get(header=make_header(15, key))
    assert runner.deadlines == [(15, "request-2")]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "[]",
        "null",
        '{"deadline": "soon"}',
        '{"deadline": 1e400}',
        '{"deadline": NaN}',
        "5",
        "\xff",
    ],
)
def test_without_a_usable_header_the_setting_is_the_deadline_on_lambda(
    kind: str, header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    runner = Runner()
    Client(kind, runner, max_wait_seconds=12).get(header=header)
    assert runner.deadlines == [(12, "")]


def test_a_header_cannot_lengthen_the_wait(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    runner = Runner()
    Client(kind, runner).get(header=make_header(10_000))
    assert runner.deadlines == [(25, "request-2")]


def test_outside_lambda_a_client_cannot_set_the_deadline(kind: str) -> None:
    runner = Runner()
    Client(kind, runner).get(header=make_header(1))
    assert runner.deadlines == [(None, "")]


def test_outside_lambda_the_check_continues_after_a_request_got_503(kind: str) -> None:
    runner = Runner()
    runner.may_finish.clear()
    client = Client(kind, runner, max_wait_seconds=0.01)
    assert client.get()[0] == 503
    assert client.get()[0] == 503
    runner.may_finish.set()
    client.wait_for_check()
    assert client.get() == SERVED
    assert len(runner.deadlines) == 1


def test_the_health_path_is_answered_at_once_and_starts_the_check_outside_lambda(
    kind: str,
) -> None:
    runner = Runner()
    runner.may_finish.clear()
    client = Client(kind, runner, health_path="/health")
    status, _, body = client.get("/health")
    assert (status, json.loads(body)) == (200, {"status": "not ready"})
    runner.may_finish.set()
    client.wait_for_check()
    assert json.loads(client.get("/health")[2]) == {"status": "ready"}
    assert len(runner.deadlines) == 1


def test_on_lambda_the_health_path_starts_no_check(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    runner = Runner()
    assert Client(kind, runner, health_path="/health").get("/health")[0] == 200
    assert runner.deadlines == []


@pytest.mark.parametrize("path", ["/health", "/api/health"])
def test_the_health_path_is_found_below_a_root_path(path: str) -> None:
    client = Client("asgi", Runner(), health_path="/health")
    scope = {"type": "http", "path": path, "root_path": "/api", "headers": []}
    sent = asyncio.run(client.send(scope))
    assert "status" in json.loads(sent[1]["body"])


def test_a_head_request_gets_no_body() -> None:
    middleware = wsgi.MigrateMiddleware(_serve_wsgi, runner=Runner(failures=1))
    assert list(middleware({"REQUEST_METHOD": "HEAD"}, lambda *_: None)) == []


def test_a_middleware_made_during_an_invocation_leaves_the_check_to_the_request(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency")
    runner = Runner()
    Client(kind, runner, init="when-long")
    assert [remaining for remaining, _ in runner.deadlines] == [125]
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-0-0")
    Client(kind, runner, init="when-long").get(context=Context(20))
    assert [remaining for remaining, _ in runner.deadlines] == [125, 20]


def test_128_concurrent_requests_make_one_check() -> None:
    runner = Runner()
    client = Client("asgi", runner)

    async def send_all() -> list[Response]:
        return await asyncio.gather(*(client.get_async() for _ in range(128)))

    assert asyncio.run(send_all()) == [SERVED] * 128
    assert len(runner.deadlines) == 1


def test_the_lifespan_passes_without_a_check() -> None:
    runner = Runner()
    asyncio.run(Client("asgi", runner).send({"type": "lifespan"}))
    assert runner.deadlines == []


def test_a_websocket_is_closed_with_try_again_later() -> None:
    client = Client("asgi", Runner(failures=1))
    sent = asyncio.run(client.send({"type": "websocket", "path": "/", "headers": []}))
    assert sent == [{"type": "websocket.close", "code": 1013}]


def test_a_configuration_error_is_raised_by_the_request(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders")
    with pytest.raises(ConfigurationError, match="LAMBDA_MIGRATE_TABLE"):
        Client(kind, None).get()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"health_path": "health"}, "health_path is 'health': write a path"),
        ({"max_wait_seconds": 0}, "max_wait_seconds is 0: write a number above 0"),
        ({"tabel": "x"}, "no argument tabel"),
    ],
)
def test_wrong_arguments_are_refused_when_the_middleware_is_made(
    kind: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Client(kind, None, **options)  # type: ignore[arg-type]


def test_mode_off_serves_without_settings(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_MIGRATE_MODE", "off")
    assert Client(kind, None).get() == SERVED  # type: ignore[arg-type]
