"""`lambda-migrate --function`: boto3, a Lambda API over HTTP, Lambda's runtime, real servers."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import lambda_migrate
from lambda_migrate.cli import main
from lambda_migrate.cli.remote import RemoteFunction, make_client
from lambda_migrate.clock import Deadline
from lambda_migrate.commands.registry import COMMANDS
from lambda_migrate.commands.request import CommandRequest
from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.runtime.invoke_api import InvokeAPI
from tests.sandbox import COUNTERS, Sandbox, effect, running, until

HANDLER = "lambda_migrate.deploy.admin.handler"
MIGRATIONS = {
    "0001_counters": COUNTERS,
    "0002_two": effect(2),
    "0003_three": effect(3),
}


def make_slow(version: int, seconds: float) -> str:
    """Make a migration that takes a while and counts its attempts."""
    return effect(version, f"SELECT nextval('attempts'); SELECT pg_sleep({seconds});")


GATED = {
    **MIGRATIONS,
    "0004_gate": "-- migrate:up\nCREATE TABLE gate (open int);\n-- migrate:down\n",
    "0005_gated": effect(
        5,
        "SELECT nextval('attempts'); DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM gate) LOOP "
        "PERFORM pg_sleep(0.05); END LOOP; END $$;",
    ),
}
"""The last migration waits until the gate is opened."""


def open_gate(sandbox: Sandbox) -> None:
    sandbox.query("INSERT INTO gate VALUES (1) RETURNING open")


class ImpatientClient:
    """A client with a short timeout for the first call and a long one after it."""

    def __init__(self, *clients: Any) -> None:
        self._clients = list(clients)
        self.meta = clients[0].meta

    def invoke(self, **arguments: Any) -> Any:
        client = self._clients.pop(0) if len(self._clients) > 1 else self._clients[0]
        return client.invoke(**arguments)


@dataclass
class Vpc:
    """An admin function, and a client that can reach only Lambda's API."""

    sandbox: Sandbox
    function: LocalFunction
    api: InvokeAPI

    @property
    def laptop(self) -> dict[str, str]:
        return {**self.api.variables(), "PATH": os.environ["PATH"], "PYTHONPATH": _library_path()}

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command in this process."""
        out, err = io.StringIO(), io.StringIO()
        with (
            patch.dict(os.environ, self.laptop, clear=True),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = main(["--function", self.function.name, *arguments])
        return code, out.getvalue(), err.getvalue()

    def run_json(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        code, out, _ = self.run(*arguments, "--format", "json")
        document: dict[str, Any] = json.loads(out)
        return code, document

    def client(self, read_seconds: float = 60.0) -> Any:
        with patch.dict(os.environ, self.laptop, clear=True):
            return make_client(read_seconds)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command as a process."""
        return subprocess.Popen(
            [sys.executable, "-m", "lambda_migrate", "--function", self.function.name, *arguments],
            env=self.laptop,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def _library_path() -> str:
    """Return the path of the library under test."""
    return str(Path(lambda_migrate.__file__).parents[1])


@contextmanager
def open_vpc(
    sandbox: Sandbox, migrations: Mapping[str, str], *, timeout: float = 60.0, **more: Any
) -> Iterator[Vpc]:
    code = sandbox.code(migrations)
    with (
        LocalFunction(
            HANDLER,
            code=code,
            variables={
                **sandbox.variables(),
                "PYTHONPATH": f"{code}{os.pathsep}{_library_path()}",
            },
            timeout=timeout,
            name=f"admin-{sandbox.name}",
            **more,
        ) as function,
        InvokeAPI([function]) as api,
    ):
        yield Vpc(sandbox, function, api)


@pytest.fixture
def vpc(sandbox: Sandbox) -> Iterator[Vpc]:
    with open_vpc(sandbox, MIGRATIONS) as opened_vpc:
        yield opened_vpc


# --- every command


def test_every_command_does_through_a_function_what_it_does_locally(vpc: Vpc) -> None:
    sandbox = vpc.sandbox
    assert vpc.run("status", "--exit-code")[0] == 3
    code, out, _ = vpc.run("plan")
    assert code == 0
    assert "would apply 3 migrations" in out
    code, out, _ = vpc.run("up", "--to", "2")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[:2]] == [
        ["applied", "0001_counters"],
        ["applied", "0002_two"],
    ]
    assert "applied 2 migrations to" in out
    assert vpc.run_json("up")[1]["applied"] == ["0003_three"]
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1}
    code, document = vpc.run_json("status", "--exit-code")
    assert (code, document["is_current"], document["is_marked_ready"]) == (0, True, True)
    assert vpc.run_json("verify")[1]["agree"] is True
    assert vpc.run_json("verify", "--resync")[1]["resynced"] is True
    code, _, err = vpc.run("down", "--steps", "1")
    assert code == 2
    assert "0003_three" in err
    assert "--yes" in err
    assert vpc.run_json("down", "--steps", "1", "--yes")[1]["rolled_back"] == ["0003_three"]
    assert vpc.run_json("baseline", "3", "--yes")[1]["marked_as_applied"] == ["0003_three"]
    assert sandbox.effects() == {1: 1, 2: 1}
    code, document = vpc.run_json("repair", "3", "--as", "pending", "--force", "--yes")
    assert (code, document["repaired"]) == (0, "0003_three")
    assert (
        vpc.run_json("repair", "--environment", "staging", "--yes")[1]["recorded_environment"]
        == "staging"
    )
    assert vpc.run("up")[0] == 2  # its settings name no environment, or another
    assert vpc.run_json("lease", "show")[1]["owner"] is None
    code, document = vpc.run_json("lease", "release", "--yes")
    assert (code, document["released"]) == (0, False)


def test_the_history_records_the_request_id(vpc: Vpc) -> None:
    vpc.run("up")
    request = vpc.api.calls[0].event["request"]
    rows = vpc.sandbox.query("SELECT DISTINCT request_id FROM lambda_migrate.history")
    assert rows == [[request]]


def test_an_alias_is_a_function(vpc: Vpc) -> None:
    with patch.dict(os.environ, vpc.laptop, clear=True):
        assert main(["status", "--function", f"{vpc.function.name}:live"]) == 0
        assert main(["status", "--function", f"{vpc.function.name}:gone"]) == 2


def test_a_failing_migration_is_reported_with_its_line(sandbox: Sandbox) -> None:
    broken = "-- migrate:up\nSELECT 1;\nSELECT nott;\n-- migrate:down\n"
    with open_vpc(sandbox, {**MIGRATIONS, "0004_broken": broken}) as vpc:
        code, out, err = vpc.run("up")
        assert code == 1
        assert out.count("applied ") == 3
        assert "0004_broken.sql:3" in err
        assert "3 migrations before it stay applied" in err
        code, document = vpc.run_json("up")
    assert (code, document["error"]["sqlstate"]) == (1, "42703")
    assert document["error"]["exit_code"] == 1


# --- lost responses


@pytest.mark.parametrize("moment", ["start", "end"])
def test_an_up_whose_response_is_lost_returns_its_result(sandbox: Sandbox, moment: Any) -> None:
    with open_vpc(sandbox, {**MIGRATIONS, "0004_slow": make_slow(4, 2)}) as vpc:
        vpc.api.drop_responses(at=moment)
        code, document = vpc.run_json("up")
        asked = [each.event["request"] for each in vpc.api.calls]
    assert code == 0
    assert document["applied"] == [*MIGRATIONS, "0004_slow"]
    assert len(asked) > 1
    assert len(set(asked)) == 1
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1, 4: 1}
    assert sandbox.attempts() == 1


def test_a_down_whose_response_is_lost_rolls_back_once(vpc: Vpc) -> None:
    vpc.run("up")
    vpc.api.drop_responses(2)
    code, document = vpc.run_json("down", "--steps", "1", "--yes")
    assert (code, document["rolled_back"]) == (0, ["0003_three"])
    assert vpc.sandbox.effects() == {1: 1, 2: 1}
    assert len({each.request_id for each in vpc.api.calls[1:]}) == 3


def test_a_failure_whose_response_is_lost_is_reported_and_not_retried(sandbox: Sandbox) -> None:
    once = "-- migrate:up\nSELECT nextval('attempts'); SELECT 1/0;\n-- migrate:down\n"
    with open_vpc(sandbox, {"0001_counters": COUNTERS, "0002_once": once}) as vpc:
        vpc.api.drop_responses()
        code, document = vpc.run_json("up")
    assert (code, document["error"]["sqlstate"]) == (1, "22012")
    assert document["error"]["committed"] == ["0001_counters"]
    assert sandbox.attempts() == 1


def test_a_read_timeout_of_the_client_runs_nothing_twice(sandbox: Sandbox) -> None:
    with open_vpc(sandbox, GATED) as vpc:
        client = ImpatientClient(vpc.client(read_seconds=0.5), vpc.client())
        remote = RemoteFunction(vpc.function.name, Deadline.after(90), client=lambda: client)
        request = CommandRequest(command=COMMANDS["up"], request_id=str(uuid.uuid4()))
        with ThreadPoolExecutor() as pool:
            response = pool.submit(remote.run, request)
            until(lambda: len(vpc.api.calls) == 2, what="it is asked again")
            until(running(sandbox, "gate"), what="the first run is at the gate")
            open_gate(sandbox)
            assert response.result()["repeated"] is True
    assert response.result()["document"]["applied"] == list(GATED)
    assert sandbox.attempts() == 1


def test_throttled_calls_are_retried(vpc: Vpc) -> None:
    vpc.api.throttle(3)
    code, out, _ = vpc.run("status")
    assert code == 0
    assert "waiting: Lambda" in out


def test_a_function_with_one_environment_is_retried_until_it_is_free(sandbox: Sandbox) -> None:
    migrations = {**MIGRATIONS, "0004_slow": make_slow(4, 2)}
    with open_vpc(sandbox, migrations, concurrency=1) as vpc:
        vpc.api.drop_responses(at="start")
        code, document = vpc.run_json("up")
    assert (code, len(document["applied"])) == (0, 4)
    assert sandbox.attempts() == 1


# --- functions that are killed


def test_a_function_killed_by_its_timeout_is_reported_with_what_was_committed(
    sandbox: Sandbox,
) -> None:
    """The function is frozen, so that Lambda's timeout ends it."""
    migrations = {**MIGRATIONS, "0004_slow": make_slow(4, 60)}
    with open_vpc(sandbox, migrations, timeout=20.0) as vpc:
        with ThreadPoolExecutor() as pool:
            laptop = pool.submit(vpc.run_json, "up")
            until(running(sandbox, "pg_sleep"), what="the migration runs")
            (environment,) = vpc.function.environments()
            os.kill(environment.pid, 19)  # frozen: nothing of its own ends it before Lambda does
            code, document = laptop.result()
        assert code == 1
        assert document["error"]["kind"] == "Interrupted"
        assert document["error"]["committed"] == list(MIGRATIONS)
        assert sandbox.effects() == {1: 1, 2: 1, 3: 1}
        assert sandbox.attempts() == 1


def test_a_killed_function_rolls_back_nothing_more_when_lambda_retries(
    sandbox: Sandbox,
) -> None:
    """Lambda repeats a failed asynchronous invocation twice."""
    down = "SELECT nextval('attempts'); DELETE FROM effects WHERE version = 4;"
    down += " SELECT pg_sleep(60);"
    late = f"-- migrate:up\nINSERT INTO effects VALUES (4);\n-- migrate:down\n{down}\n"
    with open_vpc(sandbox, {**MIGRATIONS, "0004_late": late}, timeout=20.0) as vpc:
        assert vpc.run("up")[0] == 0
        event = {"command": "down", "options": {"steps": 1, "yes": True}}
        vpc.client().invoke(
            FunctionName=vpc.function.name,
            InvocationType="Event",
            Payload=json.dumps(event).encode(),
        )
        until(running(sandbox, "pg_sleep"), what="the rollback runs")
        busy = next(each for each in vpc.function.environments() if each.state == "busy")
        os.kill(busy.pid, 19)

        def ended() -> int:
            return sum(each.phase == "returned" for each in vpc.function.timeline())

        until(lambda: ended() == 3, what="the second try of it returns")
        tries = [each.request_id for each in vpc.api.calls if each.event == event]
        assert len(tries) == 2
        assert len(set(tries)) == 1
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1, 4: 1}
    assert [version for version, _ in sandbox.history()] == [1, 2, 3, 4]
    assert sandbox.attempts() == 1


def test_a_crash_is_reported_at_once_and_not_at_the_timeout(sandbox: Sandbox) -> None:
    migrations = {**MIGRATIONS, "0004_slow": make_slow(4, 60)}
    with open_vpc(sandbox, migrations, timeout=600.0) as vpc:
        with ThreadPoolExecutor() as pool:
            laptop = pool.submit(vpc.run_json, "up")
            until(running(sandbox, "pg_sleep"), what="the migration runs")
            os.kill(vpc.function.environments()[0].pid, 9)
            code, document = laptop.result(timeout=120)
        assert (code, document["error"]["kind"]) == (1, "Interrupted")
        assert document["error"]["committed"] == list(MIGRATIONS)


# --- concurrent commands


def test_of_several_concurrent_ups_one_applies_and_the_others_are_busy(sandbox: Sandbox) -> None:
    with open_vpc(sandbox, GATED) as vpc, ThreadPoolExecutor() as pool:
        laptops = [pool.submit(vpc.start("up", "--format", "json").communicate) for _ in range(3)]
        until(lambda: sum(each.done() for each in laptops) == 2, what="two are turned away")
        open_gate(sandbox)
        answers = [json.loads(each.result()[0]) for each in laptops]
    assert sorted(len(each.get("applied", ())) for each in answers) == [0, 0, 5]
    codes = [each["error"]["exit_code"] for each in answers if "error" in each]
    assert codes == [4, 4]
    assert sandbox.effects() == {1: 1, 2: 1, 3: 1, 5: 1}
    assert sandbox.attempts() == 1


def test_up_wait_continues_when_the_holder_has_finished(sandbox: Sandbox) -> None:
    with open_vpc(sandbox, GATED) as vpc, ThreadPoolExecutor() as pool:
        first = vpc.start("up")
        until(running(sandbox, "gate"), what="the first one migrates")
        assert vpc.run("up")[0] == 4
        waiter = pool.submit(vpc.start("up", "--wait", "--format", "json").communicate)
        until(lambda: len(vpc.api.calls) == 3, what="the waiter is there")
        open_gate(sandbox)
        assert json.loads(waiter.result()[0])["applied"] == []
        assert first.wait(timeout=60) == 0
        first.communicate()
    assert sandbox.attempts() == 1


# --- other functions


def test_another_function_is_recognized(sandbox: Sandbox) -> None:
    code = sandbox.code(
        {}, handler="def handler(event, context):\n    return {'statusCode': 200}\n"
    )
    err = io.StringIO()
    with (
        LocalFunction("app.handler", code=code, name="orders") as function,
        InvokeAPI([function]) as api,
        patch.dict(os.environ, api.variables()),
        redirect_stderr(err),
    ):
        assert main(["--function", "orders", "status"]) == 2
    assert "lambda_migrate.deploy.admin.handler" in err.getvalue()


def test_a_function_that_cannot_start_is_a_configuration_error(sandbox: Sandbox) -> None:
    err = io.StringIO()
    with (
        LocalFunction("gone.handler", code=sandbox.code({}), name="gone") as function,
        InvokeAPI([function]) as api,
        patch.dict(os.environ, api.variables()),
        redirect_stderr(err),
    ):
        assert main(["--function", "gone", "up"]) == 2
    assert "cannot start" in err.getvalue()


# --- the page


PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "run-commands-in-the-vpc.md"


def test_the_commands_of_the_page_do_what_they_say(vpc: Vpc) -> None:
    lines = [
        shlex.split(line)[3:]
        for line in PAGE.read_text().splitlines()
        if line.startswith("lambda-migrate --function FUNCTION ")
    ]
    assert len(lines) == 9
    for arguments in lines[:7]:
        code, _, err = vpc.run(*arguments)
        assert code == 0, (arguments, err)
    assert vpc.sandbox.effects() == {1: 1, 2: 1}
    assert [vpc.run(*arguments)[0] for arguments in lines[7:]] == [0, 0]
    assert vpc.sandbox.effects() == {1: 1, 2: 1, 3: 1}


def test_the_event_of_the_page_is_valid(vpc: Vpc) -> None:
    (text,) = re.findall(r'title="event.json"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    response = vpc.client().invoke(FunctionName=vpc.function.name, Payload=text.encode())
    response = json.loads(response["Payload"].read())
    assert response["document"]["applied"] == list(MIGRATIONS)
    (example,) = re.findall(r'```json\n(\{"exit_code".*?)```', PAGE.read_text(), re.DOTALL)
    assert set(response) == set(json.loads(example))
    assert set(response["progress"][0]) == set(json.loads(example)["progress"][0])
