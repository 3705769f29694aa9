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
    from types import TracebackType

    from typing_extensions import Self

    from lambda_migrate.clock import Clock

__all__ = ["BEHAVIOURS", "LocalAppConfig"]

BEHAVIOURS = ("answers", "fails", "hangs", "dribbles", "garbage")
"""It answers; with status 500; never; one byte at a time, for ever; or with invalid JSON."""

AT_ONCE = "AppConfig.AllAtOnce"
"""The one deployment strategy that is supported; it is AppConfig's own."""

POLL_SECONDS = 15
"""The shortest time between two polls of one session, as in AppConfig."""

_DRIBBLE_SECONDS = 0.2
_GARBAGE = b"<html>Service temporarily unavailable</html>"


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
        self._clock = clock
        self._guard = threading.Lock()
        self._version = 0
        self._body = b""
        self._tokens: dict[str, _Session] = {}
        self._hosted: list[bytes] = []
        self._deployments = 0
        self._server: _Server | None = None
        self._stopped = threading.Event()
        self.document = document

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # --- what is deployed

    @property
    def document(self) -> object:
        """What is deployed; setting it is a deployment that is complete at once."""
        return self._document

    @document.setter
    def document(self, document: object) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        with self._guard:
            self._document, self._body = document, body
            self._version += 1

    # --- start and stop

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
        self._stopped.clear()
        self._server = _Server((HOST, 0), _Answer)
        self._server.appconfig = self
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening, and end requests that hang. Idempotent."""
        self._stopped.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    # --- responses, by threads of the server

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a request."""
        url = urlsplit(target)
        operation = _operation(method, target)
        if operation == "CreateHostedConfigurationVersion":
            return self._host(url.path, body)
        if operation == "StartDeployment":
            return self._deploy(url.path, json.loads(body))
        with self._guard:
            self.requests[operation] += 1
            if self.behaviour == "fails":
                return _error(500, "InternalServerException", "a fault")
            if self.behaviour == "garbage" and operation != "StartConfigurationSession":
                return 200, {**_plain("application/json"), **self._next_poll(None)}, _GARBAGE
            if operation == "StartConfigurationSession":
                return self._start_session(json.loads(body or b"{}"))
            if operation == "GetLatestConfiguration":
                [token] = parse_qs(url.query).get("configuration_token", [""])
                return self._latest(token)
            return self._from_extension(url.path)

    def hang(self, method: str, target: str) -> bool:
        """Wait if it must hang; True if there must be no answer."""
        operation = _operation(method, target)
        if self.behaviour != "hangs" or operation not in (self.hangs_at or operation, _EXTENSION):
            return False
        self._stopped.wait()
        return True

    @property
    def is_stopped(self) -> threading.Event:
        """Set when it is over."""
        return self._stopped

    def _from_extension(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = _parts(path)
        profile = "/".join(parts[1::2])
        if parts[::2] != ["applications", "environments", "configurations"]:
            return _error(400, "BadRequestException", "no such path")
        if profile != self.profile:
            return _error(404, "ResourceNotFoundException", f"there is no {profile}")
        return 200, _plain("application/json"), self._body

    def _host(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        application, profile = _parts(path)[1:5:2]
        with self._guard:
            self._hosted.append(body)
            number = str(len(self._hosted))
        named = {"Application-Id": application, "Configuration-Profile-Id": profile}
        return 201, {**_plain("application/json"), **named, "Version-Number": number}, body

    def _deploy(self, path: str, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        application, environment = _parts(path)[1:5:2]
        named = f"{application}/{environment}/{request['ConfigurationProfileId']}"
        version = int(request["ConfigurationVersion"])
        if named != self.profile or not 0 < version <= len(self._hosted):
            return _error(404, "ResourceNotFoundException", f"no version {version} of {named}")
        if request["DeploymentStrategyId"] != AT_ONCE:
            return _error(400, "BadRequestException", f"only {AT_ONCE} is supported")
        self.document = self._hosted[version - 1]
        self._deployments += 1
        answer = {"DeploymentNumber": self._deployments, "State": "BAKING", **request}
        return 201, _plain("application/json"), json.dumps(answer).encode()

    def _start_session(self, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        keys = ("Application", "Environment", "ConfigurationProfile")
        profile = "/".join(str(request.get(f"{key}Identifier")) for key in keys)
        if profile != self.profile:
            return _error(404, "ResourceNotFoundException", f"there is no {profile}")
        token = self._token(_Session(seen=0, not_before=self._clock.monotonic()))
        answer = {"InitialConfigurationToken": token}
        return 201, _plain("application/json"), json.dumps(answer).encode()

    def _latest(self, token: str) -> tuple[int, dict[str, str], bytes]:
        session = self._tokens.get(token)
        if session is None:
            return _error(400, "BadRequestException", "the token is unknown or was used")
        if self._clock.monotonic() < session.not_before:
            return _error(400, "BadRequestException", "Request too early")
        del self._tokens[token]
        body = b"" if session.seen == self._version else self._body
        return 200, {**_plain("application/json"), **self._next_poll(session)}, body

    def _next_poll(self, session: _Session | None) -> dict[str, str]:
        fresh = _Session(
            seen=0 if session is None else self._version,
            not_before=self._clock.monotonic() + POLL_SECONDS,
        )
        return {
            "Next-Poll-Configuration-Token": self._token(fresh),
            "Next-Poll-Interval-In-Seconds": str(POLL_SECONDS),
            "Version-Label": str(self._version),
        }

    def _token(self, session: _Session) -> str:
        token = uuid4().hex
        self._tokens[token] = session
        return token


class _Session:
    """What one token stands for."""

    def __init__(self, *, seen: int, not_before: float) -> None:
        self.seen = seen
        self.not_before = not_before


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    appconfig: LocalAppConfig


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._do()

    def do_POST(self) -> None:
        self._do()

    def _do(self) -> None:
        appconfig = self.server.appconfig
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if appconfig.hang(self.command, self.path):
            self.close_connection = True
            return
        status, headers, content = appconfig.answer(self.command, self.path, body)
        try:
            if appconfig.behaviour == "dribbles":
                self._dribble()
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:
            self.close_connection = True  # the client has given up

    def _dribble(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while not self.server.appconfig.is_stopped.wait(_DRIBBLE_SECONDS):
            self.wfile.write(b" ")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


_OPERATIONS = {
    ("POST", "/configurationsessions"): "StartConfigurationSession",
    ("GET", "/configuration"): "GetLatestConfiguration",
    ("POST", "hostedconfigurationversions"): "CreateHostedConfigurationVersion",
    ("POST", "deployments"): "StartDeployment",
}


_EXTENSION = "extension"


def _operation(method: str, target: str) -> str:
    path = urlsplit(target).path
    return _OPERATIONS.get((method, path)) or _OPERATIONS.get(
        (method, path.rpartition("/")[2]), _EXTENSION
    )


def _parts(path: str) -> list[str]:
    return [unquote(part) for part in path.strip("/").split("/")]


def _plain(content_type: str) -> dict[str, str]:
    return {"Content-Type": content_type}


def _error(status: int, code: str, message: str) -> tuple[int, dict[str, str], bytes]:
    headers = {**_plain("application/json"), "x-amzn-ErrorType": code}
    return status, headers, json.dumps({"Message": message}).encode()
