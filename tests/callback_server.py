"""Local HTTP servers for the responses of deployment hooks: CloudFormation's and CodeDeploy's.

moto has neither. The replies are those that AWS documents: 200 for an object at a presigned URL,
and CodeDeploy's JSON 1.1.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Behavior = Literal["take", "refuse", "drop", "hang"]
"""How a request is handled: accepted; refused; accepted without a reply; never replied to."""


@dataclass(frozen=True)
class ReceivedRequest:
    """One request that the server received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def operation(self) -> str:
        """CodeDeploy's name of the operation; "" for a PUT."""
        return self.headers.get("X-Amz-Target", "").rpartition(".")[2]


@dataclass
class CallbackServer:
    """Accepts responses of hooks, or does not.

    Args:
        behaviors: How to handle the first requests, in order; later ones are accepted.
        operations: CodeDeploy's operations that the behaviors apply to; "" is a plain PUT.
        creator: The creator of every deployment.
    """

    behaviors: list[Behavior] = field(default_factory=list)
    operations: tuple[str, ...] = ("", "PutLifecycleEventHookExecutionStatus")
    creator: str = "user"
    base: str = ""
    requests: list[ReceivedRequest] = field(default_factory=list)
    reported: set[str] = field(default_factory=set)
    release: threading.Event = field(default_factory=threading.Event)

    def url(self, name: str = "answer") -> str:
        """Make a presigned URL; its signature is the only authentication."""
        return f"{self.base}/{name}?X-Amz-Signature=hunter2-s3cr3t&X-Amz-Expires=7200"

    def list_deliveries(self) -> list[ReceivedRequest]:
        """List the delivered responses in order, with every attempt."""
        return [received for received in self.requests if received.operation in self.operations]

    def choose_behavior(self, received: ReceivedRequest) -> Behavior:
        self.requests.append(received)
        if received.operation in self.operations and self.behaviors:
            return self.behaviors.pop(0)
        return "take"

    def answer(self, received: ReceivedRequest) -> tuple[int, dict[str, Any]]:
        """Return status and JSON; S3 responds to a PUT with an empty body."""
        if received.operation == "GetDeployment":
            name = received.json["deploymentId"]
            return 200, {"deploymentInfo": {"deploymentId": name, "creator": self.creator}}
        if received.operation != "PutLifecycleEventHookExecutionStatus":
            return 200, {}
        execution = received.json["lifecycleEventHookExecutionId"]
        if execution in self.reported:
            return 400, {"__type": "LifecycleEventAlreadyCompletedException", "message": "over"}
        self.reported.add(execution)
        return 200, {"lifecycleEventHookExecutionId": execution}


@contextmanager
def run_callback_server(
    *behaviors: Behavior, tls: ssl.SSLContext | None = None, **options: Any
) -> Iterator[CallbackServer]:
    """Run a callback server during the block."""
    callback_server = CallbackServer(list(behaviors), **options)

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            received = ReceivedRequest(
                self.command, self.path, dict(self.headers.items()), self.rfile.read(length)
            )
            self._respond(received, callback_server.choose_behavior(received))

        do_POST = do_PUT  # noqa: N815 - as above

        def _respond(self, received: ReceivedRequest, behavior: Behavior) -> None:
            if behavior == "hang":
                callback_server.release.wait()
                self.close_connection = True
                return
            status, answer = (403, {"message": "no"})
            if behavior != "refuse":
                status, answer = callback_server.answer(received)
            if behavior == "drop":
                self.close_connection = True
                return
            body = json.dumps(answer).encode() if received.operation or status != 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Write no log."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Ignore clients that disconnect or do not trust the certificate."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    callback_server.base = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield callback_server
    finally:
        callback_server.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


REFUSE_ALL: tuple[Behavior, ...] = ("refuse",) * 1000


def read_statuses(requests: Iterable[ReceivedRequest]) -> list[str]:
    """Read the statuses that CodeDeploy received."""
    return [received.json["status"] for received in requests]
