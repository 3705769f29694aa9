"""CodeDeploy is answered, once and in time; what fails is rolled back before anybody is served."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from lambda_migrate.deploy import codedeploy
from lambda_migrate.deploy.codedeploy import handle, handler
from lambda_migrate.deploy.deliver import DeliveryFailed
from lambda_migrate.errors import ConfigurationError, DatabaseUnavailable, MigrationFailed
from lambda_migrate.testing import FakeClock
from tests.answers import REFUSE_ALL, Office, outcomes
from tests.unit.deploy.conftest import Deploy, LambdaContext
from tests.unit.engine.fakes import Fakes, manifest, raises

V1, V2 = manifest(1), manifest(1, 2)
EVENT = {"DeploymentId": "d-ABCDEF123", "LifecycleEventHookExecutionId": "eyJlbmNyeXB0ZWQ"}


@pytest.fixture(autouse=True)
def endpoint(post: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_CODEDEPLOY", post.base)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")


def told(post: Office) -> list[str]:
    """The statuses that were sent."""
    return outcomes(post.taken())


def test_the_hook_migrates_and_reports_success(scene: Fakes, deploy: Deploy, post: Office) -> None:
    deploy(V2)
    assert handler(EVENT, LambdaContext(60)) == {"status": "Succeeded", "reason": "MIGRATED"}
    [letter] = post.taken()
    assert letter.json == {
        "deploymentId": "d-ABCDEF123",
        "lifecycleEventHookExecutionId": "eyJlbmNyeXB0ZWQ",
        "status": "Succeeded",
    }
    assert scene.database.effects == ["0001_m", "0002_m"]


def test_a_migration_that_fails_fails_the_deployment(
    scene: Fakes, deploy: Deploy, post: Office
) -> None:
    deploy(V1)
    scene.table.before["acquire"] = raises(MigrationFailed("no column z", migration="0001_m"))
    answer = handler(EVENT, LambdaContext(60))
    assert answer == {"status": "Failed", "reason": "NOT_READY: 0001_m: no column z"}
    assert told(post) == ["Failed"]


def test_unexpected_errors_fail_the_deployment(deploy: Deploy, post: Office) -> None:
    for error in (RuntimeError("hunter2-s3cr3t"), SystemExit(1), DatabaseUnavailable("gone")):
        deploy(V1, error=error)
        post.answered.clear()
        assert "hunter2" not in handler(EVENT, LambdaContext(60))["reason"]
    assert told(post) == ["Failed"] * 3


def test_work_that_hangs_fails_it_before_the_deadline(
    scene: Fakes, deploy: Deploy, post: Office, hasty: None
) -> None:
    let_go = threading.Event()
    deploy(V1)
    scene.table.before["read"] = let_go.wait
    handler(EVENT, LambdaContext())
    let_go.set()
    assert told(post) == ["Failed"]


# --- rollbacks


@pytest.mark.parametrize("creator", ["codeDeployRollback", "CloudFormationRollback"])
def test_no_error_blocks_a_rollback(creator: str, deploy: Deploy, post: Office) -> None:
    post.creator = creator
    for error in (RuntimeError(), SystemExit(1), DatabaseUnavailable("gone")):
        deploy(V1, error=error)
        post.answered.clear()
        handler(EVENT, LambdaContext(60))
    assert told(post) == ["Succeeded"] * 3


def test_a_rollback_migrates_nothing(scene: Fakes, deploy: Deploy, post: Office) -> None:
    post.creator = "codeDeployRollback"
    scene.migrated(V1)
    deploy(V2)
    handler(EVENT, LambdaContext(60))
    assert scene.database.effects == ["0001_m"]
    assert scene.table.log == []


def test_a_schema_that_is_ahead_is_ready(scene: Fakes, deploy: Deploy, post: Office) -> None:
    scene.migrated(V2)
    deploy(V1)
    for post.creator in ("user", "CloudFormation", "codeDeployRollback"):
        handler(EVENT, LambdaContext(60))
        post.answered.clear()
    assert told(post) == ["Succeeded"] * 3


@pytest.mark.parametrize("manner", ["refuse", "drop"])
def test_a_deployment_whose_creator_is_unknown_goes_forward(
    manner: Any, deploy: Deploy, post: Office, caplog: pytest.LogCaptureFixture
) -> None:
    post.operations = ("GetDeployment",)
    post.manners = [manner]
    deploy(V1, error=ConfigurationError("no table"))
    assert handler(EVENT, LambdaContext(60))["status"] == "Failed"
    assert "Allow codedeploy:GetDeployment" in caplog.text


def test_a_lookup_of_the_creator_that_hangs_is_abandoned(
    deploy: Deploy, post: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codedeploy, "_LOOKUP_SECONDS", 0.3)
    post.operations = ("GetDeployment",)
    post.manners = ["hang"]
    deploy(V1)
    assert handler(EVENT, LambdaContext(60))["status"] == "Succeeded"


# --- delivering


@pytest.mark.parametrize("manner", ["refuse", "drop"])
def test_the_status_is_sent_until_it_is_accepted(manner: Any, deploy: Deploy, post: Office) -> None:
    """After a lost answer the second one is told that it is over, which is as good."""
    post.manners = [manner]
    deploy(V1)
    handler(EVENT, LambdaContext(60))
    assert told(post) == ["Succeeded", "Succeeded"]


def test_a_status_that_is_never_accepted_fails_the_invocation(deploy: Deploy, post: Office) -> None:
    post.manners = [*REFUSE_ALL]
    deploy(V1)
    with pytest.raises(DeliveryFailed):
        handle(EVENT, LambdaContext(8), clock=FakeClock())


@pytest.mark.parametrize(
    "event", [None, {}, [], {"DeploymentId": "d-1"}, EVENT | {"DeploymentId": 7}]
)
def test_an_event_of_another_source_is_refused(event: Any, post: Office) -> None:
    with pytest.raises(ConfigurationError, match="not a lifecycle event of CodeDeploy"):
        handler(event, LambdaContext())
    assert post.letters == []
