"""AWS AppConfig over HTTP: its Lambda extension, its data API, and its deployment API.

    with LocalAppConfig("orders/staging/lambda-migrate", {...}) as appconfig:
        variables = appconfig.extension()  # or appconfig.api()
        appconfig.document = {...}         # what a deployment would have done

It holds one document of one profile, whose names are its ids as well, behaves as AWS documents it,
and can be made to misbehave.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.local.runtime.loopback import HOST

if TYPE_CHECKING:
    from typing_extensions import Self

    from lambda_migrate.clock import Clock

__all__ = ["BEHAVIOURS", "LocalAppConfig"]

BEHAVIOURS = ("answers", "fails", "hangs", "dribbles", "garbage")
"""It answers; with status 500; never; one byte at a time, without end; or with invalid JSON."""

ALL_AT_ONCE_STRATEGY = "AppConfig.AllAtOnce"
"""The one deployment strategy that is supported; it is AppConfig's own."""

POLL_SECONDS = 15
"""The shortest time between two polls of one session, as in AppConfig."""

_SLOW_BODY_SECONDS = 0.2
_INVALID_BODY = b"<html>Service temporarily unavailable</html>"
_EXTENSION = "extension"
_OPERATIONS = {
    ("POST", "/configurationsessions"): "StartConfigurationSession",
    ("GET", "/configuration"): "GetLatestConfiguration",
    ("POST", "hostedconfigurationversions"): "CreateHostedConfigurationVersion",
    ("POST", "deployments"): "StartDeployment",
}

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


class LocalAppConfig:
    """One document of one configuration profile, served until `stop`.

    Args:
        profile: ``application/environment/profile``; anything else is not found.
        document: What is deployed: a JSON value, or bytes as they are.
        clock: For the time at which a session may be polled again.
    """

    def __init__(self, profile: str, document: object, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.profile = profile
        self.requests: Counter[str] = Counter()
        """Requests so far: ``extension``, or by the API's name of the operation."""
        self.behaviour = "answers"
        """One of `BEHAVIOURS`; can be changed at any time."""
        self.hangs_at = ""
        """The only operation of the data API at which it hangs; as an extension it always does."""
        self.is_stopped = threading.Event()
        self._clock = clock
        self._lock = threading.Lock()
        self._version = 0
        self._body = b""
        self._tokens: dict[str, tuple[int, float]] = {}
        """Token -> the version that was seen, and when it may be used."""
        self._hosted: list[bytes] = []
        self._deployments = 0
        self._server: _Server | None = None
        self.document = document

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def document(self) -> object:
        """What is deployed; setting it is a deployment that is complete at once."""
        return self._document

    @document.setter
    def document(self, document: object) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        with self._lock:
            self._document, self._body = document, body
            self._version += 1

    @property
    def port(self) -> int:
        """Where it listens on this machine."""
        if self._server is None:
            raise RuntimeError("this AppConfig is not running: use it in a with statement")
        return self._server.server_port

    def extension(self) -> dict[str, str]:
        """Variables of a function that has the extension."""
        return {"AWS_APPCONFIG_EXTENSION_HTTP_PORT": str(self.port)}

    def api(self) -> dict[str, str]:
        """Variables of a function without the extension, which calls the API."""
        return {"AWS_ENDPOINT_URL_APPCONFIGDATA": f"http://{HOST}:{self.port}"}

    def operator(self) -> dict[str, str]:
        """Variables for deploying documents with the AWS command line or boto3."""
        return {"AWS_ENDPOINT_URL_APPCONFIG": f"http://{HOST}:{self.port}"}

    def start(self) -> None:
        """Listen on a free port."""
        self.is_stopped.clear()
        self._server = _Server((HOST, 0), _Handler)
        self._server.appconfig = self
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening, and end requests that hang. Idempotent."""
        self.is_stopped.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    # --- responses, by threads of the server

    def answer(self, method: str, target: str, body: bytes) -> Answer | None:
        """The response to a request; None if there must be none."""
        url = urlsplit(target)
        operation = _operation(method, url.path)
        hangs = operation in (self.hangs_at or operation, _EXTENSION)
        if self.behaviour == "hangs" and hangs:
            self.is_stopped.wait()
            return None
        if operation == "CreateHostedConfigurationVersion":
            return self._create_version(url.path, body)
        if operation == "StartDeployment":
            return self._deploy(url.path, json.loads(body))
        with self._lock:
            self.requests[operation] += 1
            if self.behaviour == "fails":
                return _error(500, "InternalServerException", "a fault")
            if operation == "StartConfigurationSession":
                return self._start_session(json.loads(body or b"{}"))
            if self.behaviour == "garbage":
                return _json(200, _INVALID_BODY, **self._next_poll(seen=0))
            if operation == "GetLatestConfiguration":
                [token] = parse_qs(url.query).get("configuration_token", [""])
                return self._latest(token)
            return self._from_extension(url.path)

    def _from_extension(self, path: str) -> Answer:
        parts = _parts(path)
        profile = "/".join(parts[1::2])
        if parts[::2] != ["applications", "environments", "configurations"]:
            return _error(400, "BadRequestException", "no such path")
        if profile != self.profile:
            return _error(404, "ResourceNotFoundException", f"there is no {profile}")
        return _json(200, self._body)

    def _create_version(self, path: str, body: bytes) -> Answer:
        application, profile = _parts(path)[1:5:2]
        with self._lock:
            self._hosted.append(body)
            number = str(len(self._hosted))
        ids = {"Application-Id": application, "Configuration-Profile-Id": profile}
        return _json(201, body, **ids, **{"Version-Number": number})

    def _deploy(self, path: str, request: dict[str, Any]) -> Answer:
        application, environment = _parts(path)[1:5:2]
        name = f"{application}/{environment}/{request['ConfigurationProfileId']}"
        version = int(request["ConfigurationVersion"])
        if name != self.profile or not 0 < version <= len(self._hosted):
            return _error(404, "ResourceNotFoundException", f"no version {version} of {name}")
        if request["DeploymentStrategyId"] != ALL_AT_ONCE_STRATEGY:
            return _error(400, "BadRequestException", f"only {ALL_AT_ONCE_STRATEGY} is supported")
        self.document = self._hosted[version - 1]
        self._deployments += 1
        answer = {"DeploymentNumber": self._deployments, "State": "BAKING", **request}
        return _json(201, json.dumps(answer).encode())

    def _start_session(self, request: dict[str, Any]) -> Answer:
        keys = ("Application", "Environment", "ConfigurationProfile")
        profile = "/".join(str(request.get(f"{key}Identifier")) for key in keys)
        if profile != self.profile:
            return _error(404, "ResourceNotFoundException", f"there is no {profile}")
        token = self._make_token(seen=0, not_before=self._clock.monotonic())
        return _json(201, json.dumps({"InitialConfigurationToken": token}).encode())

    def _latest(self, token: str) -> Answer:
        if token not in self._tokens:
            return _error(400, "BadRequestException", "the token is unknown or was used")
        seen, not_before = self._tokens[token]
        if self._clock.monotonic() < not_before:
            return _error(400, "BadRequestException", "Request too early")
        del self._tokens[token]
        body = b"" if seen == self._version else self._body
        return _json(200, body, **self._next_poll(seen=self._version))

    def _next_poll(self, *, seen: int) -> dict[str, str]:
        not_before = self._clock.monotonic() + POLL_SECONDS
        return {
            "Next-Poll-Configuration-Token": self._make_token(seen=seen, not_before=not_before),
            "Next-Poll-Interval-In-Seconds": str(POLL_SECONDS),
            "Version-Label": str(self._version),
        }

    def _make_token(self, *, seen: int, not_before: float) -> str:
        token = uuid4().hex
        self._tokens[token] = (seen, not_before)
        return token


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    appconfig: LocalAppConfig


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        appconfig = self.server.appconfig
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = appconfig.answer(self.command, self.path, body)
        self.close_connection = answer is None or appconfig.behaviour == "dribbles"
        if answer is None:
            return
        status, headers, content = answer
        try:
            if appconfig.behaviour == "dribbles":
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                while not appconfig.is_stopped.wait(_SLOW_BODY_SECONDS):
                    self.wfile.write(b" ")
                return
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:
            self.close_connection = True  # the client has given up

    do_POST = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _operation(method: str, path: str) -> str:
    last = path.rpartition("/")[2]
    return _OPERATIONS.get((method, path)) or _OPERATIONS.get((method, last), _EXTENSION)


def _parts(path: str) -> list[str]:
    return [unquote(part) for part in path.strip("/").split("/")]


def _json(status: int, body: bytes, **headers: str) -> Answer:
    return status, {"Content-Type": "application/json", **headers}, body


def _error(status: int, code: str, message: str) -> Answer:
    return _json(status, json.dumps({"Message": message}).encode(), **{"x-amzn-ErrorType": code})
