"""CodeDeploy is answered by real runtimes before anybody is served by the new code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.answers import Office, office, outcomes
from tests.integration.deploy.hooks import BAD, SLOW, V1, V2, deployment, hook, logs
from tests.stage import Stage, effect, ends

MODULE = "codedeploy"


@pytest.fixture
def post() -> Iterator[Office]:
    with office() as opened:
        yield opened


def test_a_deployment_that_fails_and_its_rollback(stage: Stage, post: Office) -> None:
    with hook(stage, MODULE, V2, post=post) as function:
        assert function.invoke(deployment()).payload["status"] == "Succeeded"
        [line] = ends(function)
        assert line["outcome"] == "MIGRATED"
    with hook(stage, MODULE, BAD, post=post) as function:
        answer = function.invoke(deployment()).payload
        assert answer["status"] == "Failed"
        assert "3_bad: division by zero [22012]" in answer["reason"]
    post.creator = "codeDeployRollback"
    for code in (BAD, V1):  # the hook's own code may or may not have been taken back
        with hook(stage, MODULE, code, post=post) as function:
            assert function.invoke(deployment()).ok
    assert outcomes(post.taken()) == ["Succeeded", "Failed", "Succeeded", "Succeeded"]
    assert stage.effects() == {1: 1, 2: 1}


def test_a_migration_longer_than_the_deadline_fails_the_deployment(
    stage: Stage, post: Office
) -> None:
    with hook(stage, MODULE, SLOW, post=post, timeout=28) as function:
        result = function.invoke(deployment())
    assert result.ok
    assert "3_slow" in result.payload["reason"]
    assert outcomes(post.taken()) == ["Failed"]
    assert stage.effects() == {1: 1, 2: 1}
    assert stage.holders() == []


def test_a_response_that_was_lost_is_sent_again(stage: Stage, post: Office) -> None:
    post.manners = ["drop", "refuse"]
    with hook(stage, MODULE, V1, post=post) as function:
        assert function.invoke(deployment()).ok
        assert "was reported before" in logs(function)
    assert outcomes(post.taken()) == ["Succeeded"] * 3


def test_two_concurrent_hooks_migrate_once_and_both_respond(stage: Stage, post: Office) -> None:
    slow = {**V1, "2_slow": effect(2, "SELECT pg_sleep(2);")}
    with hook(stage, MODULE, slow, post=post) as function:
        function.start_environments(2)
        invocations = [function.submit(deployment()) for _ in range(2)]
        assert all(invocation.result().ok for invocation in invocations)
    assert outcomes(post.taken()) == ["Succeeded"] * 2
    assert stage.effects() == {1: 1, 2: 1}
