"""A stack that is deployed: moto has its resources and alarms, the local Lambda its functions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

import lambda_migrate
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.runtime.invoke_api import InvokeApi
from load.staging.__main__ import main
from load.staging.stack import find_stack, verdicts_of_statistics
from load.staging.verdicts import Limits
from tests.deployment.aws import LocalAWS
from tests.deployment.stack import NAME, Stack, deploy
from tests.sandbox import Sandbox, effect

SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:"
FIRST = """
-- migrate:up
CREATE TABLE effects (version int NOT NULL);
INSERT INTO effects VALUES (1);
-- migrate:down
DROP TABLE effects;
"""
BROKEN = """
-- migrate:up
ALTER TABLE missing ADD COLUMN colour text;
-- migrate:down
SELECT 1;
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with LocalAWS() as aws:
        yield deploy(
            aws,
            DatabaseHost="db.example.com",
            MigratorSecretArn=f"{SECRET}migrator",
            ApplicationSecretArn=f"{SECRET}application",
        )


@contextmanager
def deployed(
    sandbox: Sandbox, stack: Stack, migrations: Mapping[str, str]
) -> Iterator[LocalFunction]:
    """The stack's two functions, under the names that it gave them; this process sees nothing else.

    Yields:
        The function that serves.
    """
    code = sandbox.code(migrations)
    ours = str(Path(lambda_migrate.__file__).parents[1])
    variables = {**sandbox.environment(), "PYTHONPATH": f"{code}{os.pathsep}{ours}"}
    with (
        LocalFunction(
            code=code, environment=variables, name=stack.physical["OrdersFunction"], timeout=60
        ) as serving,
        LocalFunction(
            "lambda_migrate.deploy.admin.handler",
            code=code,
            environment=variables,
            name=stack.physical["AdminFunction"],
            timeout=60,
        ) as admin,
        InvokeApi([serving, admin]) as api,
        patch.dict(
            os.environ,
            {
                **stack.aws.environment(),
                **api.environment(),
                "PATH": os.environ["PATH"],
                "PYTHONPATH": ours,
            },
            clear=True,
        ),
    ):
        yield serving


def test_stack_is_validated_by_its_name(
    sandbox: Sandbox, stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    migrations = {"0001_effects": FIRST, "0002_two": effect(2)}
    with deployed(sandbox, stack, migrations) as serving:
        asked = ["--stack", NAME, "-n", "4", "--roll-back-to", "1", "--out", str(tmp_path)]
        code = main(asked)
        started = len(serving.environments())
    said = capsys.readouterr().out
    assert code == 0, said
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["decision"] == "go"
    assert report["release"] == f"stack {NAME}"
    assert report["pending"] == ["0001_effects", "0002_two"]
    facts = {step["name"]: step for step in report["steps"]}
    assert facts["dry run"]["dry_run"]["outcome"] == "passed"
    assert facts["cold starts"]["locust"]["cold"]["requests"] == started
    assert facts["roll back"]["reverted"] == ["0002_two"]
    assert len(facts["alarms"]["alarms_after"]) == 7
    assert sandbox.effects() == {1: 1, 2: 1}
    unseen = {one.partition(": ")[2].partition(": ")[0] for one in report["not_measured"]}
    assert unseen == {
        "clients of the old version",
        "each migration took effect once",
        "one PostgreSQL connection of the library at a time",
        "existing rows and values",
        "each alarm is reached by its fault",
    }


def test_failing_migration_is_no_go_before_any_call(
    sandbox: Sandbox, stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with deployed(sandbox, stack, {"0001_effects": FIRST, "0002_colour": BROKEN}) as serving:
        code = main(["--stack", NAME, "-n", "2", "--out", str(tmp_path)])
        assert serving.environments() == []
    assert code == 1, capsys.readouterr().out
    [reason] = json.loads((tmp_path / "report.json").read_text())["reasons"]
    assert reason.startswith("dry run: each pending migration runs on this data: ")
    assert 'relation "missing" does not exist' in reason


def test_alarm_that_is_on_is_no_go(sandbox: Sandbox, stack: Stack, tmp_path: Path) -> None:
    cloudwatch = stack.aws.service("cloudwatch")
    alarm = f"{NAME}-NotReadyAlarm"
    cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="a test")
    try:
        with deployed(sandbox, stack, {"0001_effects": FIRST}):
            assert main(["--stack", NAME, "-n", "1", "--out", str(tmp_path)]) == 1
    finally:
        cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="OK", StateReason="it is over")
    reasons = json.loads((tmp_path / "report.json").read_text())["reasons"]
    assert [reason.partition(": ")[2] for reason in reasons] == [
        f"no alarm is on before: {alarm}",
        f"no alarm is on after: {alarm}",
    ]


def test_function_alone_is_called_and_the_rest_not_measured(
    sandbox: Sandbox, stack: Stack, tmp_path: Path
) -> None:
    with deployed(sandbox, stack, {"0001_effects": FIRST}) as serving:
        code = main(["--function", f"{serving.name}:live", "-n", "2", "--out", str(tmp_path)])
    assert code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert any("no admin function was named" in one for one in report["not_measured"])
    assert any("name the stack" in one for one in report["not_measured"])


def test_missing_stack_is_exit_code_2(
    sandbox: Sandbox, stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    with deployed(sandbox, stack, {"0001_effects": FIRST}):
        with pytest.raises(ConfigurationError, match="StackName elsewhere"):
            find_stack(stack="elsewhere")
        assert main(["--stack", "elsewhere"]) == 2
    assert "StackName elsewhere: " in capsys.readouterr().err


def test_locusts_statistics_are_checked_against_the_limits() -> None:
    cold = {"requests": 10.0, "failures": 1.0, "slowest_seconds": 30.0}
    warm = {"requests": 20.0, "failures": 0.0, "slowest_seconds": 0.2}
    init = {"requests": 10.0, "failures": 0.0, "slowest_seconds": 0.9}
    found = {
        v.what: v
        for v in verdicts_of_statistics({"cold": cold, "warm": warm, "init": init}, Limits())
    }
    assert found["requests that failed"].found == "1 of 30 (limit 0)"
    assert found["requests that failed"].state == "failed"
    assert found["longest cold start, its wait included"].state == "failed"
    assert found["slowest warm request"].state == "passed"
    assert {v.state for v in verdicts_of_statistics({}, Limits())} == {"failed", "not measured"}
