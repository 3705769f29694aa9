"""The deployed stack, read back through the APIs of its services.

The services are moto's; `tests.deployment.stack` names its gaps. moto does not store a function's
architecture and tracing, or a table's encryption and backups: these are read from the template.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from moto.cloudformation.parsing import resource_class_from_type

from lambda_migrate.aws.telemetry import METRICS
from tests.deployment.stack import GAPS, NAME, TEMPLATE, Stack, transformed

from .conftest import APPLICATION, MIGRATOR

FUNCTIONS = ("OrdersFunction", "AdminFunction", "BeforeTrafficFunction")


def test_every_resource_is_created_by_moto_or_a_known_gap(stack: Stack) -> None:
    kinds = {resource["Type"] for resource in stack.body["Resources"].values()}
    unknown = {kind for kind in kinds if resource_class_from_type(kind) is None}
    assert unknown <= GAPS


def test_cfn_lint_reports_nothing() -> None:
    command = [Path(sys.executable).with_name("cfn-lint"), TEMPLATE]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_the_table_is_protected_from_deletion(stack: Stack) -> None:
    dynamodb = stack.aws.service("dynamodb")
    name = stack.physical["LeaseTable"]
    table = dynamodb.describe_table(TableName=name)["Table"]
    assert table["KeySchema"] == [{"AttributeName": "target", "KeyType": "HASH"}]
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert table["DeletionProtectionEnabled"] is True
    resource = stack.body["Resources"]["LeaseTable"]
    properties = resource["Properties"]  # of these two moto's CloudFormation makes nothing
    assert properties["SSESpecification"] == {"SSEEnabled": True}
    recovery = properties["PointInTimeRecoverySpecification"]
    assert recovery == {"PointInTimeRecoveryEnabled": True}
    assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"] == "Retain"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_is_in_the_vpc_and_has_the_same_database(
    stack: Stack, function: str
) -> None:
    """An item that was written for another database does not count."""
    configuration = stack.function(function)
    assert configuration["Runtime"] == "python3.13"
    network = configuration["VpcConfig"]
    assert network["SubnetIds"] == stack.parameters["SubnetIds"].split(",")
    assert network["SecurityGroupIds"] == [stack.physical["FunctionSecurityGroup"]]
    variables = configuration["Environment"]["Variables"]
    assert variables["LAMBDA_MIGRATE_TABLE"] == stack.physical["LeaseTable"]
    assert variables["LAMBDA_MIGRATE_TARGET"] == "orders"
    assert variables["LAMBDA_MIGRATE_DATABASE_URL"] == "postgresql://db.example.com:5432/orders"
    assert variables["LAMBDA_MIGRATE_DATABASE_SECRET"] == MIGRATOR


def test_the_application_and_the_migrator_have_different_logins(stack: Stack) -> None:
    variables = stack.function("OrdersFunction")["Environment"]["Variables"]
    assert variables["ORDERS_DATABASE_SECRET"] == APPLICATION


def test_a_function_in_require_mode_has_no_migrator_secret(requiring_stack: Stack) -> None:
    variables = requiring_stack.function("OrdersFunction")["Environment"]["Variables"]
    assert variables["LAMBDA_MIGRATE_MODE"] == "require"
    assert MIGRATOR not in variables.values()
    admin = requiring_stack.function("AdminFunction")["Environment"]["Variables"]
    assert admin["LAMBDA_MIGRATE_DATABASE_SECRET"] == MIGRATOR
    assert admin.get("LAMBDA_MIGRATE_MODE", "migrate") == "migrate"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_architecture_and_tracing_follow_the_parameters(stack: Stack, function: str) -> None:
    """From the template: moto forgets them."""
    properties = stack.template.properties(function)
    assert properties["Architectures"] == ["arm64"]
    assert properties["TracingConfig"] == {"Mode": "Active"}


def test_nothing_invokes_the_admin_function_by_itself(stack: Stack) -> None:
    kinds = ("AWS::Lambda::Permission", "AWS::Lambda::Url", "AWS::Lambda::EventSourceMapping")
    made = [stack.template.of_type(kind) for kind in kinds]
    names = {each["FunctionName"] for found in made for each in found.values()}
    assert names == {"OrdersFunctionAliaslive"}, "the API may invoke the alias, and that is all"
    retries = stack.template.properties("AdminFunctionEventInvokeConfig")
    assert retries["MaximumRetryAttempts"] == 0


def test_a_new_number_in_the_description_creates_a_new_version(stack: Stack) -> None:
    """SAM names a version by what is written in the template; parameters' values are not."""

    def version(text: str) -> Any:
        resources = transformed(stack.parameters, text=text)["Resources"]
        return resources["OrdersFunctionAliaslive"]["Properties"]["FunctionVersion"]

    text = TEMPLATE.read_text()
    assert version(text) != version(text.replace("configuration 1.", "configuration 2."))


def test_a_hook_runs_before_the_canary_and_alarms_roll_it_back(stack: Stack) -> None:
    group = stack.template.properties("OrdersFunctionDeploymentGroup")
    assert {alarm["Name"] for alarm in group["AlarmConfiguration"]["Alarms"]} == {
        "LeaseWaitTimeAlarm",
        "MigrationFailedAlarm",
        "NotReadyAlarm",
    }
    assert "DEPLOYMENT_STOP_ON_ALARM" in group["AutoRollbackConfiguration"]["Events"]
    style = group["DeploymentConfigName"]
    assert style == "CodeDeployDefault.LambdaCanary10Percent5Minutes"
    update = stack.body["Resources"]["OrdersFunctionAliaslive"]["UpdatePolicy"]
    hook = update["CodeDeployLambdaAliasUpdate"]["BeforeAllowTrafficHook"]
    assert hook == {"Ref": "BeforeTrafficFunction"}
    assert stack.physical["BeforeTrafficFunction"].startswith("CodeDeployHook_"), "its policy's"


def test_alarms_use_the_metrics_that_the_functions_write(stack: Stack) -> None:
    found = stack.aws.service("cloudwatch").describe_alarms()["MetricAlarms"]
    alarms = {each["AlarmName"].removeprefix(f"{NAME}-"): each for each in found}
    assert len(alarms) == 7
    throttled = alarms.pop("TableThrottledAlarm")
    watched = [each["MetricStat"]["Metric"] for each in throttled["Metrics"][1:]]
    assert {metric["MetricName"] for metric in watched} == {
        "ReadThrottleEvents",
        "WriteThrottleEvents",
    }
    table = stack.physical["LeaseTable"]
    for metric in watched:
        assert metric["Namespace"] == "AWS/DynamoDB"
        assert metric["Dimensions"] == [{"Name": "TableName", "Value": table}]
    variables = stack.function("OrdersFunction")["Environment"]["Variables"]
    for alarm in alarms.values():
        assert alarm["Namespace"] == variables["POWERTOOLS_METRICS_NAMESPACE"]
        assert alarm["MetricName"] in METRICS
        assert {each["Name"]: each["Value"] for each in alarm["Dimensions"]} == {
            "service": variables["POWERTOOLS_SERVICE_NAME"],
            "target": variables["LAMBDA_MIGRATE_TARGET"],
        }
        assert alarm["AlarmActions"] == [stack.physical["AlarmTopic"]]


def test_the_dashboard_is_valid(stack: Stack) -> None:
    cloudwatch = stack.aws.service("cloudwatch")
    answer = cloudwatch.get_dashboard(DashboardName=stack.physical["Dashboard"])
    widgets = json.loads(answer["DashboardBody"])["widgets"]
    assert {each["type"] for each in widgets} == {"alarm", "metric"}
    assert "${" not in answer["DashboardBody"], "every name was filled in"


def test_the_flags_are_a_valid_document_of_powertools(stack: Stack) -> None:
    from aws_lambda_powertools.utilities.feature_flags import SchemaValidator

    content = json.loads(stack.template.properties("FlagsVersion")["Content"])
    SchemaValidator(content).validate()
    assert {name: flag["default"] for name, flag in content.items()} == {
        "lambda_migrate_paused": False,
        "lambda_migrate_mode": "migrate",
        "lambda_migrate_hold_back_at": 0,
    }


def test_functions_without_nat_have_the_endpoints_they_need(stack: Stack) -> None:
    found = stack.aws.service("ec2").describe_vpc_endpoints()["VpcEndpoints"]
    services = {each["ServiceName"].rpartition(".")[2]: each["VpcEndpointType"] for each in found}
    assert services == {
        "appconfigdata": "Interface",
        "codedeploy": "Interface",
        "dynamodb": "Gateway",
        "secretsmanager": "Interface",
    }


def test_only_the_functions_reach_the_database(whole_stack: Stack) -> None:
    ec2 = whole_stack.aws.service("ec2")
    group = whole_stack.physical["DatabaseSecurityGroup"]
    [described] = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    [rule] = described["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"], rule["IpRanges"]) == (5432, 5432, [])
    [source] = rule["UserIdGroupPairs"]
    assert source["GroupId"] == whole_stack.physical["FunctionSecurityGroup"]


def test_the_stacks_own_database_is_encrypted_retained_and_has_a_managed_secret(
    whole_stack: Stack,
) -> None:
    """Made through RDS's API, which refuses properties that it does not know."""
    properties: dict[str, Any] = whole_stack.template.properties("DatabaseCluster")
    rds = whole_stack.aws.service("rds")
    properties["Port"] = int(properties["Port"])  # a parameter arrives as a text
    rds.create_db_cluster(DBClusterIdentifier="orders", **properties)
    [cluster] = rds.describe_db_clusters(DBClusterIdentifier="orders")["DBClusters"]
    assert cluster["StorageEncrypted"] is True
    assert cluster["DeletionProtection"] is True, "in production"
    assert (
        cluster["VpcSecurityGroups"][0]["VpcSecurityGroupId"]
        == (whole_stack.physical["DatabaseSecurityGroup"])
    )
    assert properties["ManageMasterUserPassword"] is True
    assert whole_stack.body["Resources"]["DatabaseCluster"]["DeletionPolicy"] == "Snapshot"
