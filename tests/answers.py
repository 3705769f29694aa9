"""Whoever waits for a hook's answer, over HTTP on the loopback: CloudFormation, CodeDeploy.

Nothing in moto takes these answers. What is answered here is what AWS documents: 200 for an object
that was put at a presigned URL, and CodeDeploy's JSON 1.1.
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

Manner = Literal["take", "refuse", "drop", "hang"]
"""How a request is met: taken; refused; taken without a word; neither taken nor refused."""


@dataclass(frozen=True)
class Letter:
    """What came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def operation(self) -> str:
        """CodeDeploy's name for it."""
        return self.headers.get("X-Amz-Target", "").rpartition(".")[2]


@dataclass
class Office:
    """Takes answers, or does not.

    Args:
        manners: How the first requests are met, one after the other; later ones are taken.
        operations: To which of CodeDeploy's operations the manners apply; "" is a plain PUT.
        creator: Who created the deployments that are asked for.
    """

    manners: list[Manner] = field(default_factory=list)
    operations: tuple[str, ...] = ("", "PutLifecycleEventHookExecutionStatus")
    creator: str = "user"
    base: str = ""
    letters: list[Letter] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    release: threading.Event = field(default_factory=threading.Event)

    def url(self, name: str = "answer") -> str:
        """A presigned URL: whoever knows its signature may answer."""
        return f"{self.base}/{name}?X-Amz-Signature=hunter2-s3cr3t&X-Amz-Expires=7200"

    def taken(self) -> list[Letter]:
        """The answers that arrived, in order, all attempts included."""
        return [letter for letter in self.letters if letter.operation in self.operations]

    def meet(self, letter: Letter) -> Manner:
        self.letters.append(letter)
        if letter.operation in self.operations and self.manners:
            return self.manners.pop(0)
        return "take"

    def answer(self, letter: Letter) -> tuple[int, dict[str, Any]]:
        """Status and JSON; what S3 answers to a PUT is empty."""
        if letter.operation == "GetDeployment":
            name = letter.json["deploymentId"]
            return 200, {"deploymentInfo": {"deploymentId": name, "creator": self.creator}}
        if letter.operation != "PutLifecycleEventHookExecutionStatus":
            return 200, {}
        execution = letter.json["lifecycleEventHookExecutionId"]
        if execution in self.answered:
            return 400, {"__type": "LifecycleEventAlreadyCompletedException", "message": "over"}
        self.answered.add(execution)
        return 200, {"lifecycleEventHookExecutionId": execution}


@contextmanager
def office(*manners: Manner, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[Office]:
    """Open for the length of the block."""
    opened = Office(list(manners), **options)

    class Clerk(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            letter = Letter(
                self.command, self.path, dict(self.headers.items()), self.rfile.read(length)
            )
            self._meet(letter, opened.meet(letter))

        do_POST = do_PUT  # noqa: N815 - as above

        def _meet(self, letter: Letter, manner: Manner) -> None:
            if manner == "hang":
                opened.release.wait()
                self.close_connection = True
                return
            status, answer = (403, {"message": "no"})
            if manner != "refuse":
                status, answer = opened.answer(letter)
            if manner == "drop":
                self.close_connection = True
                return
            body = json.dumps(answer).encode() if letter.operation or status != 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that went away, or trusts nobody, is the test's own doing."""

    server = Server(("127.0.0.1", 0), Clerk)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    opened.base = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield opened
    finally:
        opened.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


REFUSE_ALL: tuple[Manner, ...] = ("refuse",) * 1000


def outcomes(letters: Iterable[Letter]) -> list[str]:
    """What CodeDeploy was told."""
    return [letter.json["status"] for letter in letters]
