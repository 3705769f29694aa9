"""The program behind `LocalDynamoDB`: moto's DynamoDB over HTTP, one request at a time.

moto evaluates a condition and stores the item in two steps without a lock, so two threads can both
win a conditional write. Here each connection has a thread and is kept alive, as boto3 expects, and
a lock lets one request at a time into moto. A server with a single thread is as fast (320 to 480
instead of 310 requests per second, with 100 clients on 2 cores), but a client that is frozen in
the middle of a request would block all others.

The server counts requests by operation and by access key, which identifies the client. GET
/lambda-migrate/counters returns the counts, GET /lambda-migrate/rates the number of requests in
each tenth of a second since the epoch. dynalite_server.js does the same.

moto never throttles. POST /lambda-migrate/throttle with a number throttles that many requests, as
an overloaded partition does; GET returns the throttled ones: table, ``Read`` or ``Write``, and
seconds since the epoch.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from lambda_migrate.local.runtime.loopback import HOST

__all__ = [
    "COUNTERS_PATH",
    "RATES_PATH",
    "THROTTLE_PATH",
    "CountingApplication",
    "read_body",
    "serve",
]

COUNTERS_PATH = "/lambda-migrate/counters"
RATES_PATH = "/lambda-migrate/rates"
THROTTLE_PATH = "/lambda-migrate/throttle"

_READS = {"BatchGetItem", "GetItem", "Query", "Scan", "TransactGetItems"}
_WRITES = {"BatchWriteItem", "DeleteItem", "PutItem", "TransactWriteItems", "UpdateItem"}
_THROTTLED = {
    "__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
    "message": "The level of configured provisioned throughput for the table was exceeded.",
}

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WSGIApplication = Callable[[Environ, StartResponse], Iterable[bytes]]


class CountingApplication:
    """Lets one request at a time into ``application`` and counts requests."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}
        self._rates: dict[int, Counter[str]] = {}
        self._to_throttle = 0
        self._throttled: list[tuple[str, str, float]] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Respond to a request, see PEP 3333."""
        if environ["PATH_INFO"] == COUNTERS_PATH:
            return self._respond(self._counts, start_response)
        if environ["PATH_INFO"] == RATES_PATH:
            return self._respond(self._rates, start_response)
        if environ["PATH_INFO"] == THROTTLE_PATH:
            if environ["REQUEST_METHOD"] == "POST":
                self._to_throttle = int(read_body(environ))
            return self._respond(self._throttled, start_response)
        with self._lock:
            self._count(environ)
            if self._to_throttle and _parse_operation(environ) in _READS | _WRITES:
                return self._throttle(environ, start_response)
            return list(self._application(environ, start_response))

    def _throttle(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self._to_throttle -= 1
        kind = "Read" if _parse_operation(environ) in _READS else "Write"
        table = json.loads(read_body(environ)).get("TableName", "")
        self._throttled.append((table, kind, time.time()))
        body = json.dumps(_THROTTLED).encode()
        headers = [
            ("Content-Type", "application/x-amz-json-1.0"),
            ("Content-Length", str(len(body))),
            ("x-amzn-RequestId", f"throttled-{len(self._throttled)}"),
        ]
        start_response("400 Bad Request", headers)
        return [body]

    def _count(self, environ: Environ) -> None:
        operation = _parse_operation(environ)
        client = _parse_access_key(environ.get("HTTP_AUTHORIZATION", ""))
        self._counts.setdefault(client, Counter())[operation] += 1
        self._rates.setdefault(int(time.time() * 10), Counter())[operation] += 1

    def _respond(self, value: object, start_response: StartResponse) -> Iterable[bytes]:
        with self._lock:
            body = json.dumps(value).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


def _parse_operation(environ: Environ) -> str:
    """``DynamoDB_20120810.GetItem`` -> ``GetItem``."""
    target: str = environ.get("HTTP_X_AMZ_TARGET", "")
    return target.rpartition(".")[2]


def read_body(environ: Environ) -> bytes:
    """Read the body of a request; possible once."""
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return body


def _parse_access_key(authorization: str) -> str:
    """``AWS4-HMAC-SHA256 Credential=<key>/<date>/...`` -> ``<key>``."""
    return authorization.partition("Credential=")[2].partition("/")[0]


def serve(port: int) -> None:
    """Serve requests on 127.0.0.1 until the process is ended."""
    from moto.moto_server.werkzeug_app import create_backend_app
    from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps connections alive
        disable_nagle_algorithm = True  # else the body of a response comes 40 ms after its headers
        wbufsize = -1

    class Server(ThreadedWSGIServer):
        request_queue_size = 1024  # hundreds of environments connect at the same time
        daemon_threads = True

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = CountingApplication(create_backend_app("dynamodb"))
    Server(HOST, port, application, handler=Handler).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
