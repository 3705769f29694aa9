"""The custom resource responds whatever happens, on real runtimes and servers."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from lambda_migrate.local.runtime.function import LocalFunction
from tests.callback_server import REFUSE_ALL, CallbackServer
from tests.integration.deploy.hooks import (
    BAD,
    PASSWORD,
    SLOW,
    V1,
    V2,
    get_response,
    hook,
    list_responses,
    logs,
    request,
)
from tests.sandbox import COUNTERS, Sandbox, busy, effect, ends, running, sleeps_once, until

MODULE = "custom_resource"
NOWHERE = f"postgresql://app:{PASSWORD}@127.0.0.1:1/shop?sslmode=disable"


def assert_served(function: LocalFunction, event: object) -> None:
    """Assert that the invocation succeeded, so that Lambda does not repeat it."""
    result = function.invoke(event)
    assert result.ok, (result.status, result.error_type, result.error_message)


def test_create_update_rollback_and_delete_of_a_stack(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    """Create, update, an update that fails with its rollback, delete."""
    create = request("Create", callbacks, 1)
    with hook(sandbox, MODULE, V1, callbacks=callbacks) as function:
        assert_served(function, create)
        [line] = ends(function)
        assert (line["outcome"], line["target"]) == ("MIGRATED", sandbox.name)
        assert '"MigrationsApplied"' in logs(function)
    update = request("Update", callbacks, 2, 1)
    with hook(sandbox, MODULE, V2, callbacks=callbacks) as function:
        assert_served(function, update)
    failing = request("Update", callbacks, 3, 2)
    with hook(sandbox, MODULE, BAD, callbacks=callbacks) as function:
        assert_served(function, failing)
        assert "MigrationFailed" in logs(function)
        # CloudFormation may send the rollback before it has restored the function's code.
        early = request("Update", callbacks, 2, 3)
        assert_served(function, early)
    rollback = request("Update", callbacks, 2, 3)
    with hook(sandbox, MODULE, V2, callbacks=callbacks) as function:
        assert_served(function, rollback)
        delete = request("Delete", callbacks, 2)
        assert_served(function, delete)
    responses = [
        get_response(event, callbacks)
        for event in (create, update, failing, early, rollback, delete)
    ]
    assert [answer["Status"] for answer in responses] == [
        "SUCCESS",
        "SUCCESS",
        "FAILED",
        "SUCCESS",
        "SUCCESS",
        "SUCCESS",
    ]
    assert [answer.get("Data", {}).get("Ready") for answer in responses] == [
        "true",
        "true",
        "false",
        "false",
        "true",
        None,
    ]
    assert "3_bad: division by zero [22012]" in responses[2]["Reason"]
    assert "log stream" in responses[2]["Reason"]
    assert len({answer["PhysicalResourceId"] for answer in responses}) == 1
    assert sandbox.effects() == {1: 1, 2: 1}


def test_a_rollback_to_code_older_than_the_schema_succeeds(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    """Another resource of the stack failed after the migrations were applied."""
    with hook(sandbox, MODULE, V2, callbacks=callbacks) as function:
        assert_served(function, request("Create", callbacks, 2))
    rollback = request("Update", callbacks, 1, 2)
    with hook(sandbox, MODULE, V1, callbacks=callbacks) as function:
        assert_served(function, rollback)
    response = get_response(rollback, callbacks)
    assert (response["Status"], response["Data"]["Outcome"]) == ("SUCCESS", "UP_TO_DATE")
    assert "the schema is ahead of this code" in response["Reason"]


def test_a_migration_longer_than_the_deadline_is_cancelled_and_gets_a_response(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    create = request("Create", callbacks)
    with hook(sandbox, MODULE, SLOW, callbacks=callbacks, timeout=28) as function:
        assert_served(function, create)
    response = get_response(create, callbacks)
    assert response["Status"] == "FAILED"
    assert "3_slow" in response["Reason"]
    assert sandbox.effects() == {1: 1, 2: 1}, "what was committed stays"
    assert sandbox.holders() == [], "nothing of it runs on"
    assert sandbox.item().owner is None, "the lease was released"


_HANGS = {
    "hanging/__init__.py": "import socket\n"
    "a, b = socket.socketpair()\n"
    "a.recv(1)  # in C, without a timeout\n"
}


def test_work_that_hangs_gets_a_response_and_so_does_the_next_event(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    create, delete = request("Create", callbacks), request("Delete", callbacks)
    with hook(
        sandbox,
        MODULE,
        V1,
        callbacks=callbacks,
        timeout=12,
        files=_HANGS,
        directory="package:hanging",
    ) as function:
        assert_served(function, create)
        assert '"NotReady":[1.0]' in logs(function).replace(" ", "")
        assert_served(function, delete)
        assert len(function.environments()) == 1, "in the environment where it still hangs"
    assert "did not end before the hook had to respond" in get_response(create, callbacks)["Reason"]
    assert get_response(create, callbacks)["Status"] == "FAILED"
    assert get_response(delete, callbacks)["Status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("import os; raise ValueError(os.environ['SECRET'])", "ValueError"),
        ("import nowhere", "nowhere could not be imported"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("syntax error", "SyntaxError"),
    ],
)
def test_migrations_that_cannot_be_imported_get_a_response(
    body: str, expected: str, sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    create, rollback = request("Create", callbacks), request("Update", callbacks, 1, 2)
    with hook(
        sandbox,
        MODULE,
        V1,
        callbacks=callbacks,
        files={"broken/__init__.py": body + "\n"},
        variables={"SECRET": PASSWORD},
        directory="package:broken",
    ) as function:
        assert_served(function, create)
        assert_served(function, rollback)
        assert PASSWORD not in logs(function)
    answer = get_response(create, callbacks)
    assert answer["Status"] == "FAILED"
    assert expected in answer["Reason"]
    assert PASSWORD not in answer["Reason"]
    assert get_response(rollback, callbacks)["Status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LAMBDA_MIGRATE_DATABASE_URL": NOWHERE}, "127.0.0.1:1"),
        ({"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:1"}, "DynamoDB"),
        ({"LAMBDA_MIGRATE_TABLE": "no-such-table"}, "no-such-table"),
        ({"LAMBDA_MIGRATE_LEASE_SECONDS": "soon"}, "LAMBDA_MIGRATE_LEASE_SECONDS"),
        ({"LAMBDA_MIGRATE_DIRECTORY": "nowhere"}, "nowhere"),
    ],
    ids=["postgresql", "dynamodb", "table", "setting", "directory"],
)
def test_unreachable_servers_and_wrong_settings_get_a_response(
    variables: dict[str, str], expected: str, sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    create, rollback = request("Create", callbacks), request("Update", callbacks, 1, 2)
    with hook(
        sandbox, MODULE, V1, callbacks=callbacks, timeout=16, variables=variables
    ) as function:
        assert_served(function, create)
        assert_served(function, rollback)
        assert PASSWORD not in logs(function)
    answer = get_response(create, callbacks)
    assert answer["Status"] == "FAILED"
    assert expected in answer["Reason"]
    assert PASSWORD not in answer["Reason"]
    assert get_response(rollback, callbacks)["Status"] == "SUCCESS"


@pytest.fixture
def silence() -> Iterator[str]:
    """Run a server that accepts connections and never responds; yield its ``host:port``."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("which", ["postgresql", "dynamodb"])
def test_unresponsive_servers_get_a_response_in_time(
    which: str, sandbox: Sandbox, callbacks: CallbackServer, silence: str
) -> None:
    variables = {
        "postgresql": {
            "LAMBDA_MIGRATE_DATABASE_URL": f"postgresql://app@{silence}/shop?sslmode=disable"
        },
        "dynamodb": {"AWS_ENDPOINT_URL_DYNAMODB": f"http://{silence}"},
    }[which]
    create, rollback = request("Create", callbacks), request("Update", callbacks, 1, 2)
    with hook(
        sandbox, MODULE, V1, callbacks=callbacks, timeout=16, variables=variables
    ) as function:
        assert_served(function, create)
        assert_served(function, rollback)
    assert get_response(create, callbacks)["Status"] == "FAILED"
    assert get_response(rollback, callbacks)["Status"] == "SUCCESS"


def test_an_url_that_drops_refuses_and_hangs_gets_the_same_response_until_it_accepts(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    callbacks.behaviors = ["drop", "refuse", "hang"]
    create = request("Create", callbacks)
    with hook(sandbox, MODULE, V1, callbacks=callbacks) as function:
        assert_served(function, create)
        assert "Signature" not in logs(function)
    requests = list_responses(create, callbacks)
    assert len(requests) == 4
    assert len({received.body for received in requests}) == 1
    assert sandbox.effects() == {1: 1}


def test_an_url_that_never_accepts_fails_the_invocation_so_that_lambda_retries(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    create = request("Create", callbacks)
    with hook(sandbox, MODULE, V1, callbacks=callbacks, timeout=10) as function:
        callbacks.behaviors = [*REFUSE_ALL]
        assert function.invoke(create).error_type == "DeliveryFailed"
        callbacks.behaviors = []
        assert_served(function, create)
    assert list_responses(create, callbacks)[-1].json["Status"] == "SUCCESS"
    assert sandbox.effects() == {1: 1}


def test_two_concurrent_hooks_migrate_once_and_both_respond(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    slow = {**V1, "2_slow": effect(2, "SELECT pg_sleep(2);")}
    events = [request("Create", callbacks), request("Create", callbacks)]
    with hook(sandbox, MODULE, slow, callbacks=callbacks) as function:
        function.start_environments(2)
        invocations = [function.submit(event) for event in events]
        assert all(invocation.result().ok for invocation in invocations)
    responses = [get_response(event, callbacks) for event in events]
    assert [answer["Status"] for answer in responses] == ["SUCCESS"] * 2
    assert sorted(answer["Data"]["Outcome"] for answer in responses)[0] == "MIGRATED"
    assert sorted(answer["Data"]["Outcome"] for answer in responses)[1] in ("UP_TO_DATE", "WAITED")
    assert sandbox.effects() == {1: 1, 2: 1}


def test_a_killed_hook_responds_when_it_is_invoked_again(
    sandbox: Sandbox, callbacks: CallbackServer
) -> None:
    """Lambda repeats an asynchronous invocation whose process was killed."""
    migrations = {"1_counters": COUNTERS, "2_slow": effect(2, sleeps_once(300))}
    create = request("Create", callbacks)
    with hook(sandbox, MODULE, migrations, callbacks=callbacks) as function:
        invocation = function.submit(create)
        until(running(sandbox, "pg_sleep"), what="the migration runs")
        [environment] = busy(function)
        os.kill(environment.pid, signal.SIGKILL)
        assert invocation.result().status == "crashed"
        assert list_responses(create, callbacks) == []
        assert_served(function, create)
    assert get_response(create, callbacks)["Data"]["Outcome"] == "MIGRATED"
    assert sandbox.effects() == {1: 1, 2: 1}
