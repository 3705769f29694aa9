"""CloudFormation is answered by real runtimes, on real servers, whatever happens to them."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from lambda_migrate.local.runtime.function import LocalFunction
from tests.answers import REFUSE_ALL, Office, office
from tests.integration.deploy.hooks import (
    BAD,
    PASSWORD,
    SLOW,
    V1,
    V2,
    answer_to,
    answers_to,
    hook,
    logs,
    request,
)
from tests.stage import COUNTERS, Stage, busy, effect, ends, running, sleeps_once, until

MODULE = "custom_resource"
NOWHERE = f"postgresql://app:{PASSWORD}@127.0.0.1:1/shop?sslmode=disable"


@pytest.fixture
def post() -> Iterator[Office]:
    with office() as opened:
        yield opened


def served(function: LocalFunction, event: object) -> None:
    """The invocation itself ended well: Lambda has no reason to invoke again."""
    result = function.invoke(event)
    assert result.ok, (result.status, result.error_type, result.error_message)


def test_create_update_rollback_and_delete_of_a_stack(stage: Stage, post: Office) -> None:
    """Created, updated, an update that fails and its rollback, deleted."""
    create = request("Create", post, 1)
    with hook(stage, MODULE, V1, post=post) as function:
        served(function, create)
        [line] = ends(function)
        assert (line["outcome"], line["target"]) == ("MIGRATED", stage.name)
        assert '"MigrationsApplied"' in logs(function)
    update = request("Update", post, 2, 1)
    with hook(stage, MODULE, V2, post=post) as function:
        served(function, update)
    failing = request("Update", post, 3, 2)
    with hook(stage, MODULE, BAD, post=post) as function:
        served(function, failing)
        assert "MigrationFailed" in logs(function)
        # CloudFormation may come back before it has taken the function's code back.
        early = request("Update", post, 2, 3)
        served(function, early)
    rollback = request("Update", post, 2, 3)
    with hook(stage, MODULE, V2, post=post) as function:
        served(function, rollback)
        delete = request("Delete", post, 2)
        served(function, delete)
    told = [answer_to(event, post) for event in (create, update, failing, early, rollback, delete)]
    assert [answer["Status"] for answer in told] == [
        "SUCCESS",
        "SUCCESS",
        "FAILED",
        "SUCCESS",
        "SUCCESS",
        "SUCCESS",
    ]
    assert [answer.get("Data", {}).get("Ready") for answer in told] == [
        "true",
        "true",
        "false",
        "false",
        "true",
        None,
    ]
    assert "3_bad: division by zero [22012]" in told[2]["Reason"]
    assert "log stream" in told[2]["Reason"]
    assert len({answer["PhysicalResourceId"] for answer in told}) == 1
    assert stage.effects() == {1: 1, 2: 1}


def test_a_rollback_to_code_older_than_the_schema_succeeds(stage: Stage, post: Office) -> None:
    """Something else of the stack failed after the migrations had been applied."""
    with hook(stage, MODULE, V2, post=post) as function:
        served(function, request("Create", post, 2))
    rollback = request("Update", post, 1, 2)
    with hook(stage, MODULE, V1, post=post) as function:
        served(function, rollback)
    told = answer_to(rollback, post)
    assert (told["Status"], told["Data"]["Outcome"]) == ("SUCCESS", "UP_TO_DATE")
    assert "the schema is ahead of this code" in told["Reason"]


def test_a_migration_longer_than_the_deadline_is_cancelled_and_gets_a_response(
    stage: Stage, post: Office
) -> None:
    create = request("Create", post)
    with hook(stage, MODULE, SLOW, post=post, timeout=28) as function:
        served(function, create)
    told = answer_to(create, post)
    assert told["Status"] == "FAILED"
    assert "3_slow" in told["Reason"]
    assert stage.effects() == {1: 1, 2: 1}, "what was committed stays"
    assert stage.holders() == [], "nothing of it runs on"
    assert stage.item().owner is None, "the lease was given back"


_HANGS = {
    "hanging/__init__.py": "import socket\n"
    "a, b = socket.socketpair()\n"
    "a.recv(1)  # in C, without a timeout\n"
}


def test_work_that_hangs_gets_a_response_and_so_does_the_next_event(
    stage: Stage, post: Office
) -> None:
    create, delete = request("Create", post), request("Delete", post)
    with hook(
        stage, MODULE, V1, post=post, timeout=12, files=_HANGS, directory="package:hanging"
    ) as function:
        served(function, create)
        assert '"NotReady":[1.0]' in logs(function).replace(" ", "")
        served(function, delete)
        assert len(function.environments()) == 1, "in the environment where it still hangs"
    assert "did not end before the hook had to respond" in answer_to(create, post)["Reason"]
    assert answer_to(create, post)["Status"] == "FAILED"
    assert answer_to(delete, post)["Status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("import os; raise ValueError(os.environ['SECRET'])", "ValueError"),
        ("import nowhere", "nowhere could not be imported"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("syntax error", "SyntaxError"),
    ],
)
def test_migrations_that_cannot_be_imported_get_a_response(
    body: str, told: str, stage: Stage, post: Office
) -> None:
    create, rollback = request("Create", post), request("Update", post, 1, 2)
    with hook(
        stage,
        MODULE,
        V1,
        post=post,
        files={"broken/__init__.py": body + "\n"},
        variables={"SECRET": PASSWORD},
        directory="package:broken",
    ) as function:
        served(function, create)
        served(function, rollback)
        assert PASSWORD not in logs(function)
    answer = answer_to(create, post)
    assert answer["Status"] == "FAILED"
    assert told in answer["Reason"]
    assert PASSWORD not in answer["Reason"]
    assert answer_to(rollback, post)["Status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("variables", "told"),
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
    variables: dict[str, str], told: str, stage: Stage, post: Office
) -> None:
    create, rollback = request("Create", post), request("Update", post, 1, 2)
    with hook(stage, MODULE, V1, post=post, timeout=16, variables=variables) as function:
        served(function, create)
        served(function, rollback)
        assert PASSWORD not in logs(function)
    answer = answer_to(create, post)
    assert answer["Status"] == "FAILED"
    assert told in answer["Reason"]
    assert PASSWORD not in answer["Reason"]
    assert answer_to(rollback, post)["Status"] == "SUCCESS"


@pytest.fixture
def silence() -> Iterator[str]:
    """``host:port`` of somebody who takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("which", ["postgresql", "dynamodb"])
def test_unresponsive_servers_get_a_response_in_time(
    which: str, stage: Stage, post: Office, silence: str
) -> None:
    variables = {
        "postgresql": {
            "LAMBDA_MIGRATE_DATABASE_URL": f"postgresql://app@{silence}/shop?sslmode=disable"
        },
        "dynamodb": {"AWS_ENDPOINT_URL_DYNAMODB": f"http://{silence}"},
    }[which]
    create, rollback = request("Create", post), request("Update", post, 1, 2)
    with hook(stage, MODULE, V1, post=post, timeout=16, variables=variables) as function:
        served(function, create)
        served(function, rollback)
    assert answer_to(create, post)["Status"] == "FAILED"
    assert answer_to(rollback, post)["Status"] == "SUCCESS"


def test_an_url_that_drops_refuses_and_hangs_gets_the_same_response_until_it_accepts(
    stage: Stage, post: Office
) -> None:
    post.manners = ["drop", "refuse", "hang"]
    create = request("Create", post)
    with hook(stage, MODULE, V1, post=post) as function:
        served(function, create)
        assert "Signature" not in logs(function)
    letters = answers_to(create, post)
    assert len(letters) == 4
    assert len({letter.body for letter in letters}) == 1
    assert stage.effects() == {1: 1}


def test_an_url_that_never_accepts_fails_the_invocation_so_that_lambda_retries(
    stage: Stage, post: Office
) -> None:
    create = request("Create", post)
    with hook(stage, MODULE, V1, post=post, timeout=10) as function:
        post.manners = [*REFUSE_ALL]
        assert function.invoke(create).error_type == "DeliveryFailed"
        post.manners = []
        served(function, create)
    assert answers_to(create, post)[-1].json["Status"] == "SUCCESS"
    assert stage.effects() == {1: 1}


def test_two_concurrent_hooks_migrate_once_and_both_respond(stage: Stage, post: Office) -> None:
    slow = {**V1, "2_slow": effect(2, "SELECT pg_sleep(2);")}
    events = [request("Create", post), request("Create", post)]
    with hook(stage, MODULE, slow, post=post) as function:
        function.start_environments(2)
        invocations = [function.submit(event) for event in events]
        assert all(invocation.result().ok for invocation in invocations)
    told = [answer_to(event, post) for event in events]
    assert [answer["Status"] for answer in told] == ["SUCCESS"] * 2
    assert sorted(answer["Data"]["Outcome"] for answer in told)[0] == "MIGRATED"
    assert sorted(answer["Data"]["Outcome"] for answer in told)[1] in ("UP_TO_DATE", "WAITED")
    assert stage.effects() == {1: 1, 2: 1}


def test_a_killed_hook_responds_when_it_is_invoked_again(stage: Stage, post: Office) -> None:
    """As Lambda does with an asynchronous invocation whose process died."""
    migrations = {"1_counters": COUNTERS, "2_slow": effect(2, sleeps_once(300))}
    create = request("Create", post)
    with hook(stage, MODULE, migrations, post=post) as function:
        invocation = function.submit(create)
        until(running(stage, "pg_sleep"), what="the migration runs")
        [environment] = busy(function)
        os.kill(environment.pid, signal.SIGKILL)
        assert invocation.result().status == "crashed"
        assert answers_to(create, post) == []
        served(function, create)
    assert answer_to(create, post)["Data"]["Outcome"] == "MIGRATED"
    assert stage.effects() == {1: 1, 2: 1}
