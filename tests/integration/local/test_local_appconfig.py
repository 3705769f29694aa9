"""The local AppConfig responds to boto3 as AWS documents it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from lambda_migrate.testing import FakeClock
from tests.local_appconfig import POLL_SECONDS, LocalAppConfig

FIRST, SECOND = {"a": 1}, {"a": 2}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def served(clock: FakeClock) -> Iterator[LocalAppConfig]:
    with LocalAppConfig("shop/prod/flags", FIRST, clock=clock) as appconfig:
        yield appconfig


@pytest.fixture
def client(served: LocalAppConfig) -> Any:
    return boto3.Session("k", "s", region_name="eu-x-1").client(
        "appconfigdata",
        endpoint_url=f"http://127.0.0.1:{served.port}",
        config=Config(retries={"total_max_attempts": 1}),
    )


@pytest.fixture
def token(client: Any) -> str:
    answer = client.start_configuration_session(
        ApplicationIdentifier="shop",
        EnvironmentIdentifier="prod",
        ConfigurationProfileIdentifier="flags",
    )
    return str(answer["InitialConfigurationToken"])


@pytest.fixture
def poll(client: Any) -> Callable[[str], tuple[bytes, str]]:
    def poll(token: str) -> tuple[bytes, str]:
        answer = client.get_latest_configuration(ConfigurationToken=token)
        assert answer["NextPollIntervalInSeconds"] == POLL_SECONDS
        return answer["Configuration"].read(), answer["NextPollConfigurationToken"]

    return poll


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_a_session_gets_the_document_and_then_only_changes(
    served: LocalAppConfig, clock: FakeClock, token: str, poll: Any
) -> None:
    body, token = poll(token)
    assert json.loads(body) == FIRST
    clock.advance(POLL_SECONDS)
    body, token = poll(token)
    assert body == b""
    served.document = SECOND
    clock.advance(POLL_SECONDS)
    body, _ = poll(token)
    assert json.loads(body) == SECOND


def test_a_token_is_valid_once(token: str, poll: Any) -> None:
    poll(token)
    with pytest.raises(ClientError) as error:
        poll(token)
    assert code(error) == "BadRequestException"


def test_a_session_is_not_polled_too_early(token: str, poll: Any) -> None:
    _, later = poll(token)
    with pytest.raises(ClientError, match="Request too early"):
        poll(later)


def test_what_is_not_there_is_not_found(client: Any, served: LocalAppConfig) -> None:
    with pytest.raises(ClientError) as error:
        client.start_configuration_session(
            ApplicationIdentifier="shop",
            EnvironmentIdentifier="prod",
            ConfigurationProfileIdentifier="others",
        )
    assert code(error) == "ResourceNotFoundException"
    url = f"http://127.0.0.1:{served.port}/applications/shop/environments/prod/configurations"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/others", timeout=10)
    with urllib.request.urlopen(f"{url}/flags", timeout=10) as answer:
        assert json.load(answer) == FIRST


def test_requested_failures_are_returned(
    client: Any, served: LocalAppConfig, token: str, poll: Any
) -> None:
    served.behaviour = "fails"
    with pytest.raises(ClientError) as error:
        poll(token)
    assert code(error) == "InternalServerException"


def test_only_a_hosted_version_can_be_deployed(
    served: LocalAppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator: Any = boto3.Session("k", "s", region_name="eu-x-1").client(
        "appconfig", endpoint_url=f"http://127.0.0.1:{served.port}"
    )
    deployment = {
        "ApplicationId": "shop",
        "EnvironmentId": "prod",
        "ConfigurationProfileId": "flags",
        "ConfigurationVersion": "1",
        "DeploymentStrategyId": "AppConfig.AllAtOnce",
    }
    with pytest.raises(ClientError, match="no version 1"):
        operator.start_deployment(**deployment)
    hosted = operator.create_hosted_configuration_version(
        ApplicationId="shop",
        ConfigurationProfileId="flags",
        ContentType="application/json",
        Content=json.dumps(SECOND).encode(),
    )
    assert hosted["VersionNumber"] == 1
    with pytest.raises(ClientError, match=r"only AppConfig\.AllAtOnce"):
        operator.start_deployment(**{**deployment, "DeploymentStrategyId": "slowly"})
    assert served.document == FIRST
    operator.start_deployment(**deployment)
    assert json.loads(served.document) == SECOND  # type: ignore[arg-type]  # bytes, as deployed


def test_it_runs_only_between_start_and_stop() -> None:
    appconfig = LocalAppConfig("shop/prod/flags", FIRST)
    with pytest.raises(RuntimeError, match="not running"):
        appconfig.extension()
    with appconfig:
        assert appconfig.port
    appconfig.stop()
    with pytest.raises(RuntimeError, match="not running"):
        appconfig.api()
