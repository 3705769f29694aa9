"""The CodeDeploy hook on real runtimes responds before the new code receives traffic."""

from __future__ import annotations

from tests.callback_server import CallbackServer, read_statuses
from tests.integration.deploy.hooks import BAD, SLOW, V1, V2, deployment, hook, logs
from tests.sandbox import Sandbox, effect, ends

MODULE = "codedeploy"


def test_a_deployment_that_fails_and_its_rollback(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    with hook(sandbox, MODULE, V2, callbacks=callbacks) as function:
        assert function.invoke(deployment()).payload["status"] == "Succeeded"
        [line] = ends(function)
        assert line["outcome"] == "MIGRATED"
    with hook(sandbox, MODULE, BAD, callbacks=callbacks) as function:
        answer = function.invoke(deployment()).payload
        assert answer["status"] == "Failed"
        assert "3_bad: division by zero [22012]" in answer["reason"]
    callbacks.creator = "codeDeployRollback"
    for code in (BAD, V1):  # the hook's own code may or may not be rolled back yet
        with hook(sandbox, MODULE, code, callbacks=callbacks) as function:
            assert function.invoke(deployment()).ok
    assert read_statuses(callbacks.list_deliveries()) == [
        "Succeeded",
        "Failed",
        "Succeeded",
        "Succeeded",
    ]
    assert sandbox.effects() == {1: 1, 2: 1}


def test_a_migration_longer_than_the_deadline_fails_the_deployment(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    with hook(sandbox, MODULE, SLOW, callbacks=callbacks, timeout=28) as function:
        result = function.invoke(deployment())
    assert result.ok
    assert "3_slow" in result.payload["reason"]
    assert read_statuses(callbacks.list_deliveries()) == ["Failed"]
    assert sandbox.effects() == {1: 1, 2: 1}
    assert sandbox.holders() == []


def test_a_response_that_was_lost_is_sent_again(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    callbacks.behaviors = ["drop", "refuse"]
    with hook(sandbox, MODULE, V1, callbacks=callbacks) as function:
        assert function.invoke(deployment()).ok
        assert "was reported before" in logs(function)
    assert read_statuses(callbacks.list_deliveries()) == ["Succeeded"] * 3


def test_two_concurrent_hooks_migrate_once_and_both_respond(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    slow = {**V1, "2_slow": effect(2, "SELECT pg_sleep(2);")}
    with hook(sandbox, MODULE, slow, callbacks=callbacks) as function:
        function.start_environments(2)
        invocations = [function.submit(deployment()) for _ in range(2)]
        assert all(invocation.result().ok for invocation in invocations)
    assert read_statuses(callbacks.list_deliveries()) == ["Succeeded"] * 2
    assert sandbox.effects() == {1: 1, 2: 1}
