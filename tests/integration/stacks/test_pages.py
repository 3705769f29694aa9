"""The code on the page of each stack runs unchanged on real Lambda runtimes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.database_address import parse_url
from lambda_migrate.local.runtime.environment import InvocationResult
from lambda_migrate.local.runtime.function import LocalFunction
from tests.sandbox import Sandbox
from tests.unit.docs.pages import DOCS, code_blocks

STACKS = DOCS / "stacks"
ORDERS = [{"id": 1, "status": "placed"}]
BROKEN = "-- migrate:up\nSELECT 1 / 0;\n"

HTTP_API = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/orders",
    "rawQueryString": "",
    "headers": {"host": "example.com", "accept": "application/json"},
    "requestContext": {
        "http": {
            "method": "GET",
            "path": "/orders",
            "sourceIp": "127.0.0.1",
            "protocol": "HTTP/1.1",
        },
        "domainName": "example.com",
        "stage": "$default",
    },
    "isBase64Encoded": False,
}
REST_API = {
    "resource": "/orders",
    "path": "/orders",
    "httpMethod": "GET",
    "headers": {"Host": "example.com"},
    "multiValueHeaders": {"Host": ["example.com"]},
    "queryStringParameters": None,
    "multiValueQueryStringParameters": None,
    "pathParameters": None,
    "stageVariables": None,
    "requestContext": {
        "httpMethod": "GET",
        "resourcePath": "/orders",
        "path": "/orders",
        "stage": "api",
        "identity": {"sourceIp": "127.0.0.1"},
    },
    "body": None,
    "isBase64Encoded": False,
}
EVENTS: Mapping[str, Mapping[str, Any]] = {
    "fastapi": HTTP_API,
    "powertools": HTTP_API,
    "flask": HTTP_API,
    "django": HTTP_API,
    "chalice": REST_API,
}


def write_page(sandbox: Sandbox, stack: str) -> Path:
    """Write the files that the page shows, into a package."""
    code = sandbox.code({})
    for block in code_blocks(STACKS / f"{stack}.md", "python", "sql"):
        if block.title:
            (code / block.title).write_text(block.text)
    return code


def make_variables(sandbox: Sandbox) -> dict[str, str]:
    """The lease table, the database, and the latter as the pages' drivers want it."""
    address = parse_url(sandbox.url)
    query = f"host={address.socket_dir}&port={address.port}"
    return {
        **sandbox.variables(),
        "DATABASE_NAME": address.database,
        "DATABASE_USER": address.user,
        "DATABASE_HOST": address.socket_dir,
        "DATABASE_PORT": str(address.port),
        "DATABASE_SOCKET": f"{address.socket_dir}/.s.PGSQL.{address.port}",
        "SQLALCHEMY_URL": f"postgresql+psycopg://{address.user}@/{address.database}?{query}",
        "PSYCOPG_URL": f"postgresql://{address.user}@/{address.database}?{query}",
    }


@contextmanager
def deploy(
    sandbox: Sandbox, code: Path, *, handler: str = "", **options: Any
) -> Iterator[LocalFunction]:
    if not handler:
        has_handler = "handler" in (code / "app.py").read_text()
        handler = "app.handler" if has_handler else "app.app"  # Chalice's own
    with LocalFunction(
        handler, code=code, variables=make_variables(sandbox), timeout=60, **options
    ) as function:
        yield function


def response_of(function: LocalFunction, result: InvocationResult) -> tuple[int, str]:
    log = function.logs(result.environment_id)[-5000:]
    assert result.status == "ok", log
    payload: Any = result.payload
    assert payload["statusCode"] in (200, 503), log
    return payload["statusCode"], payload["body"]


@pytest.mark.parametrize("stack", EVENTS)
def test_the_page_migrates_and_serves(sandbox: Sandbox, stack: str) -> None:
    with deploy(sandbox, write_page(sandbox, stack)) as function:
        for _ in ("cold", "warm"):
            status, body = response_of(function, function.invoke(EVENTS[stack]))
            assert (status, json.loads(body)) == (200, ORDERS)
    assert sandbox.history() == [(1, "applied")]


@pytest.mark.parametrize("stack", EVENTS)
def test_the_page_answers_503_while_the_schema_is_not_ready(sandbox: Sandbox, stack: str) -> None:
    code = write_page(sandbox, stack)
    (code / "migrations" / "0002_broken.sql").write_text(BROKEN)
    with deploy(sandbox, code) as function:
        result = function.invoke(EVENTS[stack])
        status, body = response_of(function, result)
    assert status == 503
    assert "division" not in body
    payload: Any = result.payload
    headers = {**(payload.get("headers") or {}), **(payload.get("multiValueHeaders") or {})}
    assert "retry-after" in {name.lower() for name in headers}


@pytest.mark.parametrize("stack", ["fastapi", "powertools", "flask"])
def test_a_hundred_cold_starts_of_the_stack_migrate_once(sandbox: Sandbox, stack: str) -> None:
    preloads = {
        "fastapi": ["fastapi", "mangum", "sqlalchemy", "psycopg"],
        "powertools": ["aws_lambda_powertools.event_handler", "pg8000.native"],
        "flask": ["flask", "apig_wsgi", "psycopg"],
    }
    code = write_page(sandbox, stack)
    with deploy(sandbox, code, preload=preloads[stack], init_timeout=300) as function:
        results = function.storm(100, EVENTS[stack])
        statuses = Counter(response_of(function, result)[0] for result in results)
    assert statuses == {200: 100}
    assert sandbox.history() == [(1, "applied")]
    ((holders,),) = sandbox.query("SELECT count(DISTINCT owner) FROM lambda_migrate.history")
    assert holders == 1


# --- Powertools: events that are not HTTP


SQS = {
    "Records": [
        {
            "messageId": str(number),
            "receiptHandle": "r",
            "body": "{}",
            "attributes": {},
            "messageAttributes": {},
            "md5OfBody": "",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:orders",
            "awsRegion": "eu-central-1",
        }
        for number in range(3)
    ]
}


def test_a_batch_is_failed_as_a_whole_and_processed_when_the_schema_is_ready(
    sandbox: Sandbox,
) -> None:
    code = write_page(sandbox, "powertools")
    (code / "migrations" / "0002_broken.sql").write_text(BROKEN)
    with deploy(sandbox, code, handler="orders_queue.handler") as function:
        failed = function.invoke(SQS)
    assert (failed.status, failed.error_type) == ("error", "MigrationFailed")
    (code / "migrations" / "0002_broken.sql").unlink()
    with deploy(sandbox, code, handler="orders_queue.handler") as function:
        served = function.invoke(SQS)
    assert (served.status, served.payload) == ("ok", {"batchItemFailures": []})


RESOLVERS = """
from aws_lambda_powertools.event_handler import (
    ALBResolver, APIGatewayHttpResolver, APIGatewayRestResolver, AppSyncResolver,
    BedrockAgentResolver, LambdaFunctionUrlResolver, VPCLatticeV2Resolver,
)
from lambda_migrate import migrate_on_cold_start, service_unavailable

def resolve(app, event, context):
    return app.resolve(event, context)

def make_http(resolver):
    app = resolver()
    app.get("/orders")(lambda: {"served": True})
    return app

agent, appsync = BedrockAgentResolver(), AppSyncResolver()
agent.get("/orders", description="orders")(lambda: {"served": True})
appsync.resolver(type_name="Query", field_name="orders")(lambda: {"served": True})
APPS = {
    "rest": make_http(APIGatewayRestResolver), "http": make_http(APIGatewayHttpResolver),
    "alb": make_http(ALBResolver), "url": make_http(LambdaFunctionUrlResolver),
    "lattice": make_http(VPCLatticeV2Resolver), "agent": agent, "appsync": appsync,
}

@migrate_on_cold_start(on_not_ready=service_unavailable)
def handler(event, context):
    return APPS[event["kind"]].resolve(event["event"], context)
"""
ALB = {
    "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:x:y:targetgroup/z"}},
    "httpMethod": "GET",
    "path": "/orders",
    "queryStringParameters": {},
    "headers": {"host": "example.com"},
    "body": "",
    "isBase64Encoded": False,
}
LATTICE = {
    "version": "2.0",
    "path": "/orders",
    "method": "GET",
    "headers": {"host": ["example.com"]},
    "queryStringParameters": {},
    "isBase64Encoded": False,
    "requestContext": {"serviceNetworkArn": "arn:aws:vpc-lattice:x:y:servicenetwork/z"},
}
AGENT = {
    "messageVersion": "1.0",
    "apiPath": "/orders",
    "httpMethod": "GET",
    "actionGroup": "orders",
    "agent": {"name": "a", "id": "i", "alias": "l", "version": "1"},
    "inputText": "",
    "sessionId": "s",
    "sessionAttributes": {},
    "promptSessionAttributes": {},
    "parameters": [],
}
APPSYNC: dict[str, Any] = {
    "info": {"parentTypeName": "Query", "fieldName": "orders", "selectionSetList": []},
    "arguments": {},
    "identity": None,
    "request": {"headers": {}},
    "source": None,
    "stash": {},
    "prev": None,
}
HTTP_RESOLVERS: Mapping[str, Mapping[str, Any]] = {
    "rest": REST_API,
    "http": HTTP_API,
    "alb": ALB,
    "url": HTTP_API,
    "lattice": LATTICE,
}
OTHER_RESOLVERS: Mapping[str, Mapping[str, Any]] = {"agent": AGENT, "appsync": APPSYNC}
RESOLVER_EVENTS: Mapping[str, Mapping[str, Any]] = {**HTTP_RESOLVERS, **OTHER_RESOLVERS}
MIGRATION = "-- migrate:up\nCREATE TABLE orders ();\n"


@pytest.mark.parametrize("kind", RESOLVER_EVENTS)
def test_every_resolver_of_powertools_is_protected(sandbox: Sandbox, kind: str) -> None:
    code = sandbox.code({"0001_orders": MIGRATION, "0002_broken": BROKEN}, handler=RESOLVERS)
    # The handler chooses by a key of the test's, and 503 depends on the event itself.
    event = {**RESOLVER_EVENTS[kind], "kind": kind, "event": RESOLVER_EVENTS[kind]}
    with deploy(sandbox, code) as function:
        refused = function.invoke(event)
    if kind in HTTP_RESOLVERS:
        assert (refused.status, refused.payload["statusCode"]) == ("ok", 503)
    else:
        assert (refused.status, refused.error_type) == ("error", "MigrationFailed")
    (code / "migrations" / "0002_broken.sql").unlink()
    with deploy(sandbox, code) as function:
        served = function.invoke(event)
        assert served.status == "ok", function.logs(served.environment_id)
    assert "served" in json.dumps(served.payload)


# --- other frameworks and adapters, without a page of their own


STARLETTE = """
from mangum import Mangum
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from lambda_migrate.asgi import MigrateMiddleware

app = Starlette(routes=[Route("/orders", lambda request: JSONResponse({"served": True}))])
app.add_middleware(MigrateMiddleware)
handler = Mangum(app)
"""
DJANGO_ASGI = """
import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path
from mangum import Mangum
from lambda_migrate.asgi import MigrateMiddleware

urlpatterns = [path("orders", lambda request: JsonResponse({"served": True}))]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
django.setup()
handler = Mangum(MigrateMiddleware(get_asgi_application()), lifespan="off")
"""
SERVERLESS_WSGI = """
import serverless_wsgi
from flask import Flask
from lambda_migrate.wsgi import MigrateMiddleware

app = Flask(__name__)
app.get("/orders")(lambda: {"served": True})
app.wsgi_app = MigrateMiddleware(app.wsgi_app)

def handler(event, context):
    return serverless_wsgi.handle_request(app, event, context)
"""
ASYNC_HANDLER = """
import asyncio
from lambda_migrate import migrate_on_cold_start, service_unavailable

@migrate_on_cold_start(on_not_ready=service_unavailable)
async def serve(event, context):
    await asyncio.sleep(0)
    return {"statusCode": 200, "body": '{"served": true}'}

def handler(event, context):
    return asyncio.run(serve(event, context))
"""


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(STARLETTE, id="starlette"),
        pytest.param(DJANGO_ASGI, id="django asgi"),
        pytest.param(SERVERLESS_WSGI, id="serverless-wsgi"),
        pytest.param(ASYNC_HANDLER, id="async handler"),
    ],
)
def test_other_frameworks_and_adapters_are_protected_within_the_deadline(
    sandbox: Sandbox, handler: str
) -> None:
    slow = "-- migrate:up\nSELECT pg_sleep(30);\n"
    code = sandbox.code({"0001_orders": MIGRATION, "0002_slow": slow}, handler=handler)
    variables = make_variables(sandbox)
    with LocalFunction(code=code, variables=variables, timeout=8) as function:
        refused = function.invoke(HTTP_API)
        assert response_of(function, refused)[0] == 503
        assert "still running when the deadline passed" in function.logs(refused.environment_id)
    (code / "migrations" / "0002_slow.sql").unlink()
    with deploy(sandbox, code) as function:
        status, body = response_of(function, function.invoke(HTTP_API))
    assert (status, json.loads(body)) == (200, {"served": True})


@pytest.mark.parametrize(
    "event",
    [
        pytest.param({"source": "aws.events", "detail-type": "Scheduled Event"}, id="EventBridge"),
        pytest.param({"Records": [{"EventSource": "aws:sns", "Sns": {}}]}, id="SNS"),
        pytest.param({"Records": [{"eventSource": "aws:kinesis"}]}, id="Kinesis"),
        pytest.param({"Records": [{"eventSource": "aws:dynamodb"}]}, id="DynamoDB Streams"),
        pytest.param({"orderId": 7}, id="Step Functions"),
    ],
)
def test_events_that_are_not_http_fail_so_that_they_are_delivered_again(
    sandbox: Sandbox, event: Mapping[str, Any]
) -> None:
    migrations = {"0001_orders": MIGRATION, "0002_broken": BROKEN}
    code = sandbox.code(migrations, handler=ASYNC_HANDLER)
    with deploy(sandbox, code) as function:
        failed = function.invoke(event)
    assert (failed.status, failed.error_type) == ("error", "MigrationFailed")
