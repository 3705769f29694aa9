"""A local AWS for tests: moto's services on one port, with a record of every call.

Run as a program it is the server. It answers one request at a time, as moto's DynamoDB must.
"""

from __future__ import annotations

import json
import logging
import sys
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3

from lambda_migrate.local.runtime.loopback import HOST
from lambda_migrate.local.servers.dynamodb import REGION, LocalDynamoDB
from lambda_migrate.local.servers.moto_server import CountingApplication, read_body

__all__ = ["ACCOUNT", "REGION", "Call", "LocalAWS"]

ACCOUNT = "123456789012"
CALLS_PATH = "/lambda-migrate/calls"
HOOKS_ANSWER = "CodeDeploy_20141006.PutLifecycleEventHookExecutionStatus"
"""moto's CodeDeploy does not know it; it is taken here."""


@dataclass(frozen=True)
class Call:
    """What was asked for.

    Attributes:
        client: The access key it was signed with.
        action: As IAM spells it: ``dynamodb:GetItem``.
        resource: The table's, secret's or other thing's name or ARN.
        key: The partition key of an item, or "".
    """

    client: str
    action: str
    resource: str
    key: str


class LocalAWS(LocalDynamoDB):
    """moto in a process of its own."""

    def _command(self, port: int) -> Sequence[str | Path]:
        return [sys.executable, "-m", "tests.deployment.aws", str(port)]

    def service(self, name: str) -> Any:
        """A boto3 client."""
        make: Any = boto3.client  # typed by the names of services, each its own
        return make(
            name,
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id="tester",
            aws_secret_access_key="local",
        )

    def variables(self, *, access_key: str = "tester") -> dict[str, str]:
        """Variables that point every AWS SDK here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def calls(self, client: str) -> list[Call]:
        """All calls signed with keys that begin with ``client``, in their order."""
        with urllib.request.urlopen(self.endpoint_url + CALLS_PATH, timeout=10) as answer:
            return [Call(*each) for each in json.load(answer) if each[0].startswith(client)]


_SERVICES = {
    "DynamoDB_20120810": "dynamodb",
    "secretsmanager": "secretsmanager",
    "CodeDeploy_20141006": "codedeploy",
}
_NAMES = ("TableName", "SecretId", "deploymentId")


class _Recording(CountingApplication):
    """Notes what is asked for; the SDKs' other protocols are not those of our calls."""

    def __init__(self, application: Any) -> None:
        super().__init__(application)
        self._calls: list[tuple[str, str, str, str]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == CALLS_PATH:
            return self._respond(self._calls, start_response)
        if environ.get("HTTP_X_AMZ_TARGET") == HOOKS_ANSWER:
            self._count(environ)
            return self._respond({}, start_response)
        return super().__call__(environ, start_response)

    def _count(self, environ: dict[str, Any]) -> None:
        super()._count(environ)
        service, _, operation = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")
        if service not in _SERVICES:
            return
        body = read_body(environ)
        environ["wsgi.input"] = BytesIO(body)
        content = json.loads(body)
        resource = next((content[name] for name in _NAMES if name in content), "")
        key = content.get("Key", {}).get("target", {}).get("S", "")
        client = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2]
        action = f"{_SERVICES[service]}:{operation}"
        self._calls.append((client.partition("/")[0], action, resource, key))


def _serve(port: int) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import ThreadedWSGIServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = _Recording(DomainDispatcherApplication(create_backend_app))
    ThreadedWSGIServer(HOST, port, application).serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
