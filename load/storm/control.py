"""How Locust's process talks to the one that has the local Lambda: JSON over HTTP on the loopback.

Standard library only, and no import of lambda_migrate: Locust has patched the sockets, and what is
under test runs elsewhere.
"""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Control", "ControlFailed"]

_SECONDS = 600.0


class ControlFailed(RuntimeError):
    """The other process refused, or is gone: the storm proves nothing."""


class Control:
    """One user's connection; it is opened anew for each request, which may take minutes.

    Args:
        url: ``http://127.0.0.1:port``.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.hostname or not parts.port:
            raise ControlFailed(f"--control {url}: write http://host:port")
        self._host, self._port = parts.hostname, parts.port

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """Send ``body`` to ``path``; the answer.

        Raises:
            ControlFailed: With what the other side said.
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
