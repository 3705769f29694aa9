"""The CDK construct, the Terraform module and the container image: as strict as template.yaml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hcl2
import pytest
from cfnlint.api import ManualArgs, lint
from samtranslator.yaml_helper import yaml_parse

from lambda_migrate.settings import SETTINGS

from .stack import TEMPLATE

EXAMPLES = Path(__file__).parents[2] / "examples"
ALARM_PROPERTIES = (
    "Statistic",
    "ExtendedStatistic",
    "Threshold",
    "ComparisonOperator",
    "Period",
    "EvaluationPeriods",
    "TreatMissingData",
)
ALARMED_METRICS = {
    "MigrationFailed",
    "LeaseTakeover",
    "NotReady",
    "LeaseWaitTime",
    "LeaseHeldTime",
    "ColdStartCheckTime",
}


def alarms_of_template() -> dict[str, dict[str, Any]]:
    """The alarms of the library's metrics by metric, with the parameters' defaults."""
    template = yaml_parse(TEMPLATE.read_text())
    defaults = {name: each.get("Default") for name, each in template["Parameters"].items()}
    alarms = {}
    for resource in template["Resources"].values():
        properties = resource["Properties"]
        if resource["Type"] == "AWS::CloudWatch::Alarm" and "MetricName" in properties:
            alarm = {name: properties.get(name) for name in ALARM_PROPERTIES}
            if isinstance(alarm["Threshold"], dict):
                alarm["Threshold"] = defaults[alarm["Threshold"]["Ref"]]
            alarms[properties["MetricName"]] = alarm
    return alarms


def is_known_variable(name: str) -> bool:
    known = {setting.variable for setting in SETTINGS.values()}
    return name in known or name.startswith("POWERTOOLS_")


# --- CDK


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The template that the example application synthesizes."""
    output = tmp_path_factory.mktemp("cdk")
    subprocess.run(
        [sys.executable, "app.py"],
        cwd=EXAMPLES / "cdk",
        env={
            **os.environ,
            "CDK_OUTDIR": str(output),
            "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "1",
        },
        check=True,
        timeout=300,
    )
    template: dict[str, Any] = json.loads((output / "Orders.template.json").read_text())
    return template


def resources(stack: Mapping[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {
        name: each["Properties"]
        for name, each in stack["Resources"].items()
        if each["Type"] == kind
    }


def statements_of(stack: Mapping[str, Any], function: str) -> dict[str, dict[str, Any]]:
    """The statements of a function's own policy, by Sid."""
    [policy] = [
        each
        for name, each in resources(stack, "AWS::IAM::Policy").items()
        if name.startswith(function)
    ]
    return {each["Sid"]: each for each in policy["PolicyDocument"]["Statement"]}


def leading_keys(statement: Mapping[str, Any]) -> Any:
    return statement["Condition"]["ForAllValues:StringEquals"]["dynamodb:LeadingKeys"]


def test_cfn_lint_accepts_what_cdk_synthesizes(stack: dict[str, Any]) -> None:
    found = lint(json.dumps(stack), config=ManualArgs(regions=["eu-central-1"]))
    assert [str(match) for match in found if match.rule.severity == "error"] == []


def test_the_construct_grants_what_the_template_grants(stack: dict[str, Any]) -> None:
    [table] = resources(stack, "AWS::DynamoDB::Table")
    [secret] = resources(stack, "AWS::SecretsManager::Secret")
    for function, keys in (("Api", ["orders"]), ("Admin", ["orders", "orders/requests"])):
        statements = statements_of(stack, function)
        assert set(statements) == {"Lease", "MigratorSecret"}
        assert statements["Lease"]["Action"] == ["dynamodb:GetItem", "dynamodb:UpdateItem"]
        assert statements["Lease"]["Resource"] == {"Fn::GetAtt": [table, "Arn"]}
        assert leading_keys(statements["Lease"]) == keys
        assert statements["MigratorSecret"]["Action"] == "secretsmanager:GetSecretValue"
        assert statements["MigratorSecret"]["Resource"] == {"Ref": secret}


def test_the_constructs_table_is_kept_and_protected(stack: dict[str, Any]) -> None:
    [table] = resources(stack, "AWS::DynamoDB::Table").values()
    assert table["KeySchema"] == [{"AttributeName": "target", "KeyType": "HASH"}]
    assert table["DeletionProtectionEnabled"]
    [resource] = [
        each for each in stack["Resources"].values() if each["Type"] == "AWS::DynamoDB::Table"
    ]
    assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"] == "Retain"


def test_the_constructs_variables_are_settings(stack: dict[str, Any]) -> None:
    for function in resources(stack, "AWS::Lambda::Function").values():
        if "Environment" in function:
            variables = function["Environment"]["Variables"]
            assert all(map(is_known_variable, variables)), variables


def test_the_constructs_alarms_are_those_of_the_template(stack: dict[str, Any]) -> None:
    alarms = {
        each["MetricName"]: {name: each.get(name) for name in ALARM_PROPERTIES}
        for each in resources(stack, "AWS::CloudWatch::Alarm").values()
    }
    assert set(alarms) == ALARMED_METRICS
    assert alarms == alarms_of_template()


# --- Terraform


@pytest.fixture(scope="module")
def module() -> dict[str, Any]:
    text = (EXAMPLES / "terraform" / "lambda_migrate" / "main.tf").read_text()
    parsed: dict[str, Any] = hcl2.loads(text)
    return parsed


def unquote(value: Any) -> Any:
    """A parsed value without the quotes that the parser keeps."""
    if isinstance(value, dict):
        return {unquote(name): unquote(each) for name, each in value.items()}
    if isinstance(value, list):
        return [unquote(each) for each in value]
    return value.strip('"') if isinstance(value, str) else value


def test_the_module_grants_what_the_template_grants(module: dict[str, Any]) -> None:
    [data] = unquote(module["data"])
    lease, secret = data["aws_iam_policy_document"]["migrate"]["statement"]
    assert lease["actions"] == ["dynamodb:GetItem", "dynamodb:UpdateItem"]
    assert lease["resources"] == ["${aws_dynamodb_table.lease.arn}"]
    [condition] = lease["condition"]
    assert (condition["test"], condition["variable"], condition["values"]) == (
        "ForAllValues:StringEquals",
        "dynamodb:LeadingKeys",
        ["${var.target}"],
    )
    assert secret["actions"] == ["secretsmanager:GetSecretValue"]
    assert secret["resources"] == ["${var.database_secret_arn}"]


def test_the_modules_variables_are_settings(module: dict[str, Any]) -> None:
    outputs = {name: each for one in unquote(module["output"]) for name, each in one.items()}
    assert all(map(is_known_variable, outputs["environment"]["value"]))


def test_the_modules_alarms_are_those_of_the_template(module: dict[str, Any]) -> None:
    [names] = unquote(module["locals"])
    alarms = {}
    for metric, alarm in names["alarms"].items():
        statistic = alarm["statistic"]
        is_percentile = statistic.startswith("p")
        alarms[metric] = {
            "Statistic": None if is_percentile else statistic,
            "ExtendedStatistic": statistic if is_percentile else None,
            "Threshold": alarm["threshold"],
            "ComparisonOperator": alarm["comparison"],
            "Period": alarm["period"],
            "EvaluationPeriods": alarm["periods"],
            "TreatMissingData": "notBreaching",
        }
    assert alarms == alarms_of_template()


# --- the container image


def test_hadolint_accepts_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, EXAMPLES / "container" / "Dockerfile"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_dockerfile_copies_what_exists() -> None:
    root = EXAMPLES.parent
    copies = [
        line.split()[1:-1]
        for line in (EXAMPLES / "container" / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY")
    ]
    assert all((root / source).exists() for sources in copies for source in sources)
