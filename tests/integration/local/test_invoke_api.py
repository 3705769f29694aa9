"""The local Invoke API responds to boto3 as Lambda does."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.runtime.invoke_api import InvokeAPI
from tests.sandbox import until

HANDLER = """
import os
import time

def handler(event, context):
    event = event or {}
    if "sleep" in event:
        time.sleep(event["sleep"])
    if event.get("do") == "raise":
        raise KeyError("no")
    if event.get("do") == "exit":
        os._exit(3)
    if event.get("do") == "long":
        return "x" * 7_000_000
    return {"echo": event, "id": context.aws_request_id}
"""


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFunction]:
    code = tmp_path_factory.mktemp("echo")
    (code / "app.py").write_text(HANDLER)
    with LocalFunction("app.handler", code=code, name="echo", timeout=10.0) as opened:
        yield opened


@pytest.fixture
def api(function: LocalFunction) -> Iterator[InvokeAPI]:
    with InvokeAPI([function], aliases=["live", "canary"]) as opened:
        yield opened


def client_of(api: InvokeAPI) -> Any:
    return boto3.client(
        "lambda",
        endpoint_url=api.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=60),
    )


def invoke(api: InvokeAPI, event: Any = None, name: str = "echo", **more: Any) -> dict[str, Any]:
    response = client_of(api).invoke(FunctionName=name, Payload=json.dumps(event).encode(), **more)
    body = response["Payload"].read()
    return {**response, "Payload": json.loads(body) if body else None}


def test_the_report_shows_cold_starts_if_requested(api: InvokeAPI) -> None:
    assert "LogResult" not in invoke(api)
    warm = base64.b64decode(invoke(api, LogType="Tail")["LogResult"]).decode()
    assert warm.startswith("REPORT RequestId: ")
    assert "Duration: " in warm
    assert "Init Duration" not in warm


@pytest.mark.parametrize(
    "name",
    [
        "echo",
        "echo:live",
        "echo:$LATEST",
        "arn:aws:lambda:us-east-1:123456789012:function:echo",
        "arn:aws:lambda:us-east-1:123456789012:function:echo:canary",
        "123456789012:function:echo",
    ],
)
def test_a_function_can_be_named_in_every_supported_way(api: InvokeAPI, name: str) -> None:
    response = invoke(api, {"a": 1}, name)
    assert response["Payload"]["echo"] == {"a": 1}
    assert response["ResponseMetadata"]["RequestId"] == response["Payload"]["id"]
    assert "FunctionError" not in response


def test_a_qualifier_can_be_a_parameter(api: InvokeAPI) -> None:
    assert invoke(api, {}, Qualifier="live")["StatusCode"] == 200
    assert [each.qualifier for each in api.calls] == ["live"]


@pytest.mark.parametrize("name", ["other", "echo:gone"])
def test_what_is_not_there_is_not_found(api: InvokeAPI, name: str) -> None:
    with pytest.raises(ClientError) as caught:
        invoke(api, {}, name)
    assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404
    assert api.calls == []


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"do": "raise"}, "KeyError"),
        ({"do": "exit"}, "Runtime.ExitError"),
        ({"do": "long"}, "Function.ResponseSizeTooLarge"),
    ],
)
def test_a_function_that_fails_is_a_function_error(
    api: InvokeAPI, event: dict[str, Any], kind: str
) -> None:
    response = invoke(api, event)
    assert response["FunctionError"] == "Unhandled"
    assert response["Payload"]["errorType"] == kind


def test_a_timeout_is_a_function_error(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HANDLER)
    with (
        LocalFunction("app.handler", code=tmp_path, name="echo", timeout=1.0) as function,
        InvokeAPI([function]) as api,
    ):
        response = invoke(api, {"sleep": 60})
    assert response["FunctionError"] == "Unhandled"
    assert "Task timed out after 1.00 seconds" in response["Payload"]["errorMessage"]


def test_throttled_calls_start_no_invocation(api: InvokeAPI) -> None:
    api.throttle(1)
    with pytest.raises(ClientError) as caught:
        invoke(api)
    assert caught.value.response["Error"]["Code"] == "TooManyRequestsException"
    assert invoke(api)["StatusCode"] == 200
    assert len(api.calls) == 1


def test_a_busy_function_at_its_limit_is_throttled(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HANDLER)
    with (
        LocalFunction("app.handler", code=tmp_path, name="echo", concurrency=1) as function,
        InvokeAPI([function]) as api,
    ):
        api.drop_responses(at="start")
        with pytest.raises(ConnectionClosedError):
            invoke(api, {"sleep": 5})
        with pytest.raises(ClientError) as caught:
            invoke(api)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429


@pytest.mark.parametrize("moment", ["start", "end"])
def test_a_dropped_response_closes_the_connection_but_the_invocation_runs(
    api: InvokeAPI, function: LocalFunction, moment: Any
) -> None:
    api.drop_responses(at=moment)
    with pytest.raises(ConnectionClosedError):
        invoke(api, {"sleep": 0.1})
    (lost,) = api.calls
    assert lost.is_response_dropped

    def returned() -> bool:
        return any(
            each.phase == "returned" and each.request_id == lost.request_id
            for each in function.timeline()
        )

    until(returned, what="the invocation ends by itself")
    assert invoke(api)["StatusCode"] == 200


def test_an_event_is_accepted_immediately_and_retried_twice(api: InvokeAPI) -> None:
    assert invoke(api, {"do": "raise"}, InvocationType="Event")["StatusCode"] == 202
    until(lambda: len(api.calls) == 3, what="two tries more")
    assert len({each.request_id for each in api.calls}) == 1


def test_a_successful_event_is_not_retried(api: InvokeAPI, function: LocalFunction) -> None:
    response = invoke(api, {"a": 1}, InvocationType="Event")
    request_id = response["ResponseMetadata"]["RequestId"]

    def returned() -> bool:
        return any(
            each.phase == "returned" and each.request_id == request_id
            for each in function.timeline()
        )

    until(returned, what="it runs")
    assert invoke(api)["StatusCode"] == 200
    assert len(api.calls) == 2


@pytest.mark.parametrize(("kind", "length"), [("Event", 1_100_000), ("RequestResponse", 6_300_000)])
def test_a_payload_that_is_too_long_is_rejected(api: InvokeAPI, kind: str, length: int) -> None:
    with pytest.raises(ClientError) as caught:
        invoke(api, "x" * length, InvocationType=kind)
    assert caught.value.response["Error"]["Code"] == "RequestTooLargeException"


def test_a_payload_that_is_not_json_is_rejected(api: InvokeAPI) -> None:
    with pytest.raises(ClientError) as caught:
        client_of(api).invoke(FunctionName="echo", Payload=b"{")
    assert caught.value.response["Error"]["Code"] == "InvalidRequestContentException"
