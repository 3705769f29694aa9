"""PostgreSQL, a DynamoDB API, and the function, loaded as Lambda loads it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lambda_migrate.local import LocalDynamoDB, LocalPostgreSQL

APPLICATION_DIRECTORY = Path(__file__).parents[1]

Call = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="session")
def server() -> Iterator[LocalPostgreSQL]:
    """PostgreSQL with an empty database ``orders``."""
    with LocalPostgreSQL(databases=["orders"]) as server:
        yield server


@pytest.fixture(scope="session")
def variables(server: LocalPostgreSQL) -> Iterator[dict[str, str]]:
    """The environment variables of the function."""
    with LocalDynamoDB() as dynamodb:
        yield {
            **dynamodb.variables(),
            "DATABASE_URL": server.url("orders"),
            "LAMBDA_MIGRATE_TABLE": dynamodb.create_table("lambda-migrate"),
            "LAMBDA_MIGRATE_TARGET": "orders",
            "POWERTOOLS_METRICS_NAMESPACE": "Orders",
            "POWERTOOLS_SERVICE_NAME": "orders",
        }


@pytest.fixture(scope="module")
def app(variables: dict[str, str]) -> Iterator[ModuleType]:
    """The module ``app``, imported by its name from the code's directory."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**variables, "LAMBDA_TASK_ROOT": str(APPLICATION_DIRECTORY)}.items():
            patch.setenv(name, value)
        patch.syspath_prepend(str(APPLICATION_DIRECTORY))
        yield importlib.import_module("app")
        sys.modules.pop("app")


@pytest.fixture
def call(app: ModuleType, make_request: Callable[..., dict[str, Any]]) -> Call:
    """Call the handler: ``call("GET", "/orders/1")`` returns the status and the body."""

    def send(method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        response = app.handler(make_request(method, path, body, **query), make_context())
        return response["statusCode"], json.loads(response["body"])

    return send


@pytest.fixture
def make_request() -> Callable[..., dict[str, Any]]:
    """Build the event of an HTTP API, payload format 2.0."""

    def build(method: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
        return {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": path,
            "headers": {"content-type": "application/json"},
            "queryStringParameters": query,
            "requestContext": {
                "http": {"method": method, "path": path},
                "requestId": "test",
                "stage": "$default",
            },
            "body": body if isinstance(body, str) else json.dumps(body),
            "isBase64Encoded": False,
        }

    return build


def make_context() -> SimpleNamespace:
    """The attributes of Lambda's context that Powertools and lambda-migrate read."""
    return SimpleNamespace(
        function_name="orders",
        memory_limit_in_mb=512,
        invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:orders",
        aws_request_id="00000000-0000-0000-0000-000000000000",
        get_remaining_time_in_millis=lambda: 30_000,
    )
