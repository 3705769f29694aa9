"""The code of the Lambda Web Adapter's page under a real Uvicorn."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from lambda_migrate.local.runtime.loopback import find_free_port
from tests.integration.stacks.test_pages import BROKEN, ORDERS, make_variables, write_page
from tests.sandbox import Sandbox, until

REQUESTS = 128
"""The most that Lambda sends to one environment at the same time."""


class Response(NamedTuple):
    status: int
    retry_after: str | None
    body: str


class Server:
    """Uvicorn with one worker process."""

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, path: str, *, seconds_left: float | None = None) -> Response:
        headers = {}
        if seconds_left is not None:
            deadline = round((time.time() + seconds_left) * 1000)
            headers["x-amzn-lambda-context"] = json.dumps({"deadline": deadline})
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return Response(response.status, response.getheader("retry-after"), body)

    def answers(self) -> bool:
        with suppress(OSError):
            return self.get("/health").status == 200
        return False


@contextmanager
def serve(sandbox: Sandbox, code: Path, **variables: str) -> Iterator[Server]:
    port = find_free_port()
    environment = {
        **os.environ,
        **make_variables(sandbox),
        **sandbox.dynamodb.variables(access_key=sandbox.name),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        **variables,
    }
    command = [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)]
    process = subprocess.Popen(command, cwd=code, env=environment, stderr=subprocess.DEVNULL)
    try:
        server = Server(port)
        until(server.answers, what="the server listens")
        yield server
    finally:
        process.terminate()
        process.wait(30)


ON_LAMBDA = {"AWS_LAMBDA_FUNCTION_NAME": "orders"}


def test_128_concurrent_requests_make_one_check(sandbox: Sandbox) -> None:
    code = write_page(sandbox, "web-server")
    with serve(sandbox, code, **ON_LAMBDA) as server, ThreadPoolExecutor(REQUESTS) as threads:
        assert sandbox.dynamodb.requests(sandbox.name) == {}
        responses = list(threads.map(lambda _: server.get("/orders"), range(REQUESTS)))
    assert Counter(response.status for response in responses) == {200: REQUESTS}
    assert json.loads(responses[0].body) == ORDERS
    assert sandbox.history() == [(1, "applied")]
    assert sandbox.dynamodb.requests(sandbox.name)["GetItem"] == 1


def test_the_web_adapters_deadline_ends_the_migration_and_the_next_request_continues(
    sandbox: Sandbox,
) -> None:
    code = write_page(sandbox, "web-server")
    slow = "-- migrate:up\nSELECT pg_sleep(8);\n"
    (code / "migrations" / "0002_slow.sql").write_text(slow)
    with serve(sandbox, code, **ON_LAMBDA) as server:
        refused = server.get("/orders", seconds_left=6)
        assert refused.status == 503
        assert refused.retry_after is not None
        assert sandbox.history() == [(1, "applied")]
        until(
            lambda: server.get("/orders", seconds_left=25).status == 200,
            what="a request with more time is served",
        )
    assert sandbox.history() == [(1, "applied"), (2, "applied")]


def test_outside_lambda_a_health_check_starts_the_migration(sandbox: Sandbox) -> None:
    code = write_page(sandbox, "web-server")
    with serve(sandbox, code, LAMBDA_MIGRATE_TABLE="") as server:
        until(
            lambda: json.loads(server.get("/health").body)["status"] == "ready",
            what="the schema is ready",
        )
        assert server.get("/orders").status == 200


@pytest.mark.parametrize("variables", [{}, ON_LAMBDA], ids=["server", "lambda"])
def test_a_failed_migration_is_503_and_the_server_keeps_listening(
    sandbox: Sandbox, variables: dict[str, str]
) -> None:
    code = write_page(sandbox, "web-server")
    (code / "migrations" / "0002_broken.sql").write_text(BROKEN)
    with serve(sandbox, code, **variables) as server:
        assert [server.get("/orders").status for _ in range(3)] == [503] * 3
        assert server.answers()
