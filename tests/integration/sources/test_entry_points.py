"""The admin function and the deployment hooks with Alembic and Django, on real runtimes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.runtime.invoke_api import InvokeAPI
from tests.callback_server import CallbackServer, read_statuses
from tests.contract.sources import SERVICES, AlembicService, DjangoService
from tests.integration.admin.test_admin_function import HANDLER, Vpc
from tests.integration.deploy.hooks import LIBRARY, deployment, get_response, request
from tests.sandbox import Sandbox


@pytest.fixture(params=[name for name in SERVICES if name != "sql"])
def tool(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> AlembicService:
    service = SERVICES[request.param](sandbox, tmp_path)
    assert isinstance(service, AlembicService)
    return service


@contextmanager
def deploy(service: AlembicService, handler: str, **variables: str) -> Iterator[LocalFunction]:
    """Run a function with the service's code, which a test may change between invocations."""
    variables = {
        **service.variables(),
        "POWERTOOLS_SERVICE_NAME": "migrator",
        "PYTHONPATH": f"{service.root}{os.pathsep}{LIBRARY}",
        **variables,
    }
    name = f"migrator-{service.sandbox.name}"
    with LocalFunction(
        handler, code=service.root, variables=variables, timeout=90, name=name
    ) as function:
        yield function


def test_every_command_of_the_admin_function_works_with_a_tool(tool: AlembicService) -> None:
    for number in (1, 2, 3):
        tool.add(number)
    with deploy(tool, HANDLER) as function, InvokeAPI([function]) as api:
        vpc = Vpc(tool.sandbox, function, api)
        assert vpc.run("status", "--exit-code")[0] == 3
        assert vpc.run_json("plan", "--dry-run", "--yes")[1]["dry_run"]["rollback_confirmed"]
        assert tool.effects() == []
        assert vpc.run_json("up", "--to", tool.id(2))[1]["applied"] == [tool.name(1), tool.name(2)]
        assert vpc.run("up", "--to", "nonesuch")[0] == 2
        assert vpc.run_json("up")[1]["applied"] == [tool.name(3)]
        assert vpc.run_json("verify", "--resync")[1]["agree"] is True
        assert vpc.run_json("status")[1]["is_marked_ready"] is True
        code, out, err = vpc.run("down", "--to", tool.id(2))
        assert (code, out) == (2, "")
        assert tool.name(3) in err
        assert f"apply {tool.name(3)} again at their next cold start" in " ".join(err.split())
        event = {"command": "down", "options": {"steps": 2, "yes": True}, "request": "twice"}
        for is_repeated in (None, True):  # delivered twice
            answer = function.invoke(event).payload
            assert answer["document"]["rolled_back"] == [tool.name(3), tool.name(2)]
            assert answer.get("repeated") is is_repeated
        assert tool.effects() == [1]
        assert vpc.run("down", "--steps", "9", "--yes")[0] == 0
        assert tool.effects() == []
        assert vpc.run("repair", tool.id(1), "--as", "pending", "--yes")[0] == 2
        for command in (["plan", "--sql"], ["baseline", "--yes"], ["down", "--only", tool.id(1)]):
            code, document = vpc.run_json(*command)
            assert (code, document["error"]["kind"]) == (2, "ConfigurationError"), document
            assert tool.source in document["error"]["message"]
        assert vpc.run("doctor")[0] == 0


def test_a_stack_is_created_updated_and_rolled_back_with_alembic(
    sandbox: Sandbox, tmp_path: Path, callbacks: CallbackServer
) -> None:
    tool = AlembicService(sandbox, tmp_path)
    tool.add(1)
    events = [
        request("Create", callbacks, 1),
        request("Update", callbacks, 2, 1),
        request("Update", callbacks, 3, 2),
        request("Update", callbacks, 1, 3),
    ]
    with deploy(tool, "lambda_migrate.deploy.custom_resource.handler") as function:
        for _ in range(2):  # delivered twice
            assert function.invoke(events[0]).ok
        tool.add(2)
        assert function.invoke(events[1]).ok
        tool.add(3, "SELECT 1/0")
        assert function.invoke(events[2]).ok
        for number in (3, 2):  # the code of the first deployment
            tool.path(number).unlink()
        assert function.invoke(events[3]).ok
    created = [each.json for each in callbacks.requests if each.path in events[0]["ResponseURL"]]
    assert [each["Status"] for each in created] == ["SUCCESS"] * 2
    answers = [get_response(event, callbacks) for event in events[1:]]
    assert [answer["Status"] for answer in answers] == ["SUCCESS", "FAILED", "SUCCESS"]
    assert f"{tool.name(3)}: division by zero [22012]" in answers[1]["Reason"]
    assert "the schema is ahead of this code" in answers[2]["Reason"]
    assert tool.effects() == [1, 2]


def test_a_deployment_fails_with_a_migration_of_django(
    sandbox: Sandbox, tmp_path: Path, callbacks: CallbackServer
) -> None:
    tool = DjangoService(sandbox, tmp_path)
    tool.add(1)
    variables = {"AWS_ENDPOINT_URL_CODEDEPLOY": callbacks.base}
    with deploy(tool, "lambda_migrate.deploy.codedeploy.handler", **variables) as function:
        assert function.invoke(deployment()).payload["status"] == "Succeeded"
        tool.add(2, "SELECT 1/0")
        answer = function.invoke(deployment()).payload
        assert (answer["status"], tool.effects()) == ("Failed", [1])
        assert f"{tool.name(2)}: division by zero [22012]" in answer["reason"]
        callbacks.creator = "codeDeployRollback"
        tool.path(2).unlink()
        assert function.invoke(deployment()).ok
    assert read_statuses(callbacks.list_deliveries()) == ["Succeeded", "Failed", "Succeeded"]
