"""Hooks deployed on the local Lambda, and the events that CloudFormation and CodeDeploy send."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lambda_migrate
from lambda_migrate.local.runtime.function import LocalFunction
from tests.callback_server import CallbackServer, ReceivedRequest
from tests.sandbox import COUNTERS, Sandbox, effect

LIBRARY = Path(lambda_migrate.__file__).parents[1]
"""The hooks run the library that these tests have imported."""

V1 = {"1_counters": COUNTERS}
V2 = {**V1, "2_more": effect(2)}
BAD = {**V2, "3_bad": effect(3, "SELECT 1 / 0;")}
SLOW = {**V2, "3_slow": effect(3, "SELECT pg_sleep(300);")}

PASSWORD = "hunter2-s3cr3t"
STACK = "arn:aws:cloudformation:us-east-1:123456789012:stack/shop/5c6d0e90-6e2a-11ef-8f5b-0a1b"
FUNCTION = "arn:aws:lambda:us-east-1:123456789012:function:migrator"

_numbers = itertools.count(1)


@contextmanager
def hook(
    sandbox: Sandbox,
    module: str,
    migrations: Mapping[str, str],
    *,
    callbacks: CallbackServer,
    timeout: float = 120.0,
    files: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    **settings: str,
) -> Iterator[LocalFunction]:
    """Run a function with the handler of ``lambda_migrate.deploy.<module>``."""
    handler = f"from lambda_migrate.deploy.{module} import handler\n"
    code = sandbox.code(migrations, handler=handler)
    for name, text in (files or {}).items():
        (code / name).parent.mkdir(exist_ok=True)
        (code / name).write_text(text)
    variables = {
        **sandbox.variables(**settings),
        "AWS_ENDPOINT_URL_CODEDEPLOY": callbacks.base,
        "POWERTOOLS_SERVICE_NAME": "migrator",
        "PYTHONPATH": os.pathsep.join([str(code), str(LIBRARY)]),
        **(variables or {}),
    }
    with LocalFunction(
        code=code, variables=variables, timeout=timeout, name=f"hook{next(_numbers)}"
    ) as function:
        yield function


def request(
    kind: str, callbacks: CallbackServer, version: int = 1, before: int = 0
) -> dict[str, Any]:
    """Make a request as CloudFormation sends it."""
    event: dict[str, Any] = {
        "RequestType": kind,
        "ServiceToken": FUNCTION,
        "ResponseURL": callbacks.url(f"answer{next(_numbers)}"),
        "StackId": STACK,
        "RequestId": str(uuid.uuid4()),
        "LogicalResourceId": "Migrations",
        "ResourceType": "Custom::Migrations",
        "ResourceProperties": {"ServiceToken": FUNCTION, "Version": f"{FUNCTION}:{version}"},
    }
    if kind != "Create":
        event["PhysicalResourceId"] = "lambda-migrate:5c6d0e90-6e2a-11ef-8f5b-0a1b:Migrations"
    if kind == "Update":
        event["OldResourceProperties"] = {
            "ServiceToken": FUNCTION,
            "Version": f"{FUNCTION}:{before}",
        }
    return event


def deployment() -> dict[str, str]:
    """Make an event as CodeDeploy sends it."""
    return {
        "DeploymentId": f"d-{uuid.uuid4().hex[:9].upper()}",
        "LifecycleEventHookExecutionId": uuid.uuid4().hex,
    }


def logs(function: LocalFunction) -> str:
    """Read the logs of all environments."""
    return "".join(function.logs(view.environment_id) for view in function.environments())


def list_responses(event: Mapping[str, Any], callbacks: CallbackServer) -> list[ReceivedRequest]:
    """List every response that was sent to the URL of an event."""
    path = "/" + event["ResponseURL"].partition("//")[2].partition("/")[2]
    return [received for received in callbacks.requests if received.path == path]


def get_response(event: Mapping[str, Any], callbacks: CallbackServer) -> Any:
    """Return the only response to an event."""
    [received] = list_responses(event, callbacks)
    return received.json
