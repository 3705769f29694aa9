"""How Locust's process talks to the one with the local Lambda: JSON over HTTP on the loopback.

Standard library only, without lambda_migrate: Locust has patched the sockets, and what is under
test runs elsewhere.
"""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Control", "ControlFailed"]

_SECONDS = 600.0


class ControlFailed(RuntimeError):
    """The other process refused the request, or is gone: the storm proves nothing."""


class Control:
    """A client of the host, with a new connection for each request, which may take minutes.

    Args:
        url: ``http://127.0.0.1:port``.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.hostname or not parts.port:
            raise ControlFailed(f"--control {url}: write http://host:port")
        self._host, self._port = parts.hostname, parts.port

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Send ``body`` to ``path``; returns the answer.

        Raises:
            ControlFailed: With the error in the answer.
        """
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_SECONDS)
        try:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read() or b"{}")
        except (OSError, http.client.HTTPException) as error:
            raise ControlFailed(f"{path}: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise ControlFailed(f"{path}: {answer.get('error', response.status)}")
        return answer
