"""The hook reports to CodeDeploy once and in time; a failure stops the deployment."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from lambda_migrate.deploy import codedeploy
from lambda_migrate.deploy.codedeploy import handle, handler
from lambda_migrate.deploy.deliver import DeliveryFailed
from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable, MigrationFailed
from lambda_migrate.testing import FakeClock
from tests.callback_server import REFUSE_ALL, CallbackServer, read_statuses
from tests.unit.deploy.conftest import Deploy, LambdaContext
from tests.unit.engine.fakes import Fakes, manifest, raises

V1, V2 = manifest(1), manifest(1, 2)
EVENT = {"DeploymentId": "d-ABCDEF123", "LifecycleEventHookExecutionId": "eyJlbmNyeXB0ZWQ"}


@pytest.fixture(autouse=True)
def endpoint(callbacks: CallbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_CODEDEPLOY", callbacks.base)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")


def response(callbacks: CallbackServer) -> list[str]:
    """Return the statuses that were sent."""
    return read_statuses(callbacks.list_deliveries())


def test_the_hook_migrates_and_reports_success(
    fakes: Fakes, deploy: Deploy, callbacks: CallbackServer
) -> None:
    deploy(V2)
    assert handler(EVENT, LambdaContext(60)) == {"status": "Succeeded", "reason": "MIGRATED"}
    [received] = callbacks.list_deliveries()
    assert received.json == {
        "deploymentId": "d-ABCDEF123",
        "lifecycleEventHookExecutionId": "eyJlbmNyeXB0ZWQ",
        "status": "Succeeded",
    }
    assert fakes.database.effects == ["0001_m", "0002_m"]


def test_a_migration_that_fails_fails_the_deployment(
    fakes: Fakes, deploy: Deploy, callbacks: CallbackServer
) -> None:
    deploy(V1)
    fakes.table.before["acquire"] = raises(MigrationFailed("no column z", migration="0001_m"))
    answer = handler(EVENT, LambdaContext(60))
    assert answer == {"status": "Failed", "reason": "NOT_READY: 0001_m: no column z"}
    assert response(callbacks) == ["Failed"]


@pytest.mark.slow
def test_unexpected_errors_fail_the_deployment(deploy: Deploy, callbacks: CallbackServer) -> None:
    for error in (RuntimeError("hunter2-s3cr3t"), SystemExit(1), DatabaseUnavailable("gone")):
        deploy(V1, error=error)
        callbacks.reported.clear()
        assert "hunter2" not in handler(EVENT, LambdaContext(60))["reason"]
    assert response(callbacks) == ["Failed"] * 3


def test_work_that_hangs_fails_it_before_the_deadline(
    fakes: Fakes, deploy: Deploy, callbacks: CallbackServer, short_deadline: None
) -> None:
    release = threading.Event()
    deploy(V1)
    fakes.table.before["read"] = release.wait
    handler(EVENT, LambdaContext())
    release.set()
    assert response(callbacks) == ["Failed"]


# --- rollbacks


@pytest.mark.slow
@pytest.mark.parametrize("creator", ["codeDeployRollback", "CloudFormationRollback"])
def test_a_rollback_succeeds_whatever_error_the_hook_meets(
    creator: str, deploy: Deploy, callbacks: CallbackServer
) -> None:
    callbacks.creator = creator
    for error in (RuntimeError(), SystemExit(1), DatabaseUnavailable("gone")):
        deploy(V1, error=error)
        callbacks.reported.clear()
        handler(EVENT, LambdaContext(60))
    assert response(callbacks) == ["Succeeded"] * 3


def test_a_rollback_migrates_nothing(
    fakes: Fakes, deploy: Deploy, callbacks: CallbackServer
) -> None:
    callbacks.creator = "codeDeployRollback"
    fakes.migrated(V1)
    deploy(V2)
    handler(EVENT, LambdaContext(60))
    assert fakes.database.effects == ["0001_m"]
    assert fakes.table.log == []


@pytest.mark.slow
def test_a_schema_that_is_ahead_is_ready(
    fakes: Fakes, deploy: Deploy, callbacks: CallbackServer
) -> None:
    fakes.migrated(V2)
    deploy(V1)
    for callbacks.creator in ("user", "CloudFormation", "codeDeployRollback"):
        handler(EVENT, LambdaContext(60))
        callbacks.reported.clear()
    assert response(callbacks) == ["Succeeded"] * 3


@pytest.mark.parametrize("behavior", ["refuse", "drop"])
def test_a_deployment_whose_creator_is_unknown_goes_forward(
    behavior: Any, deploy: Deploy, callbacks: CallbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    callbacks.operations = ("GetDeployment",)
    callbacks.behaviors = [behavior]
    deploy(V1, error=ConfigurationError("no table"))
    assert handler(EVENT, LambdaContext(60))["status"] == "Failed"
    assert "Allow codedeploy:GetDeployment" in caplog.text


@pytest.mark.slow
def test_a_lookup_of_the_creator_that_hangs_is_abandoned(
    deploy: Deploy, callbacks: CallbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codedeploy, "_LOOKUP_SECONDS", 0.3)
    callbacks.operations = ("GetDeployment",)
    callbacks.behaviors = ["hang"]
    deploy(V1)
    assert handler(EVENT, LambdaContext(60))["status"] == "Succeeded"


# --- delivery


@pytest.mark.slow
@pytest.mark.parametrize("behavior", ["refuse", "drop"])
def test_the_status_is_sent_until_it_is_accepted(
    behavior: Any, deploy: Deploy, callbacks: CallbackServer
) -> None:
    """After a lost reply the second report is refused as completed, which is a success."""
    callbacks.behaviors = [behavior]
    deploy(V1)
    handler(EVENT, LambdaContext(60))
    assert response(callbacks) == ["Succeeded", "Succeeded"]


@pytest.mark.slow
def test_a_status_that_is_never_accepted_fails_the_invocation(
    deploy: Deploy, callbacks: CallbackServer
) -> None:
    callbacks.behaviors = [*REFUSE_ALL]
    deploy(V1)
    with pytest.raises(DeliveryFailed):
        handle(EVENT, LambdaContext(8), clock=FakeClock())


@pytest.mark.parametrize(
    "event", [None, {}, [], {"DeploymentId": "d-1"}, EVENT | {"DeploymentId": 7}]
)
def test_an_event_of_another_source_is_refused(event: Any, callbacks: CallbackServer) -> None:
    with pytest.raises(ConfigurationError, match="not a lifecycle event of CodeDeploy"):
        handler(event, LambdaContext())
    assert callbacks.requests == []
