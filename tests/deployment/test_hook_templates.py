"""The templates on the how-to pages are valid and agree with the code."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from samtranslator.translator.managed_policy_translator import ManagedPolicyLoader
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
REGION = "eu-central-1"


def templates(page: str) -> list[str]:
    """The whole templates on a page, as they are written there."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", (HOW_TO / page).read_text(), re.M | re.S)
    return [block for block in blocks if "AWSTemplateFormatVersion" in block]


def only(page: str) -> str:
    [template] = templates(page)
    return template


def transformed(text: str, *, layer: str = "layer") -> dict[str, Any]:
    """What AWS makes of it, with packages and layer in S3."""
    template = yaml_parse(text)
    template["Globals"]["Function"].pop("CodeUri", None)
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://packages/function.zip"
        if resource["Type"] == "AWS::Serverless::LayerVersion":
            resource["Properties"]["ContentUri"] = f"s3://packages/{layer}.zip"
    with patch.dict(os.environ, AWS_DEFAULT_REGION=REGION):
        made = transform(template, {}, ManagedPolicyLoader(None))
    resources: dict[str, Any] = made["Resources"]
    return resources


HOOKS = ["custom-resource.md", "codedeploy.md", "several-functions-on-one-database.md"]
LONG = "provisioned-concurrency-and-snapstart.md"


@pytest.mark.parametrize("page", HOOKS)
def test_every_library_handler_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"lambda_migrate\.deploy\.(\w+)\.handler", (HOW_TO / page).read_text())
    assert named
    for module in named:
        assert callable(importlib.import_module(f"lambda_migrate.deploy.{module}").handler)


def properties(resources: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = resources[name]["Properties"]
    return found


def test_the_custom_resource_is_updated_with_every_published_version() -> None:
    resources = transformed(only("custom-resource.md"))
    migrations = properties(resources, "Migrations")
    published = migrations["Version"]["Ref"]
    assert resources[published]["Type"] == "AWS::Lambda::Version"
    assert properties(resources, published)["FunctionName"] == {"Ref": "MigratorFunction"}
    assert migrations["ServiceToken"] == {"Fn::GetAtt": ["MigratorFunction", "Arn"]}


def test_serving_functions_are_updated_after_the_migration() -> None:
    resources = transformed(only("custom-resource.md"))
    assert resources["OrdersFunction"]["DependsOn"] in ("Migrations", ["Migrations"])


def test_cloudformation_waits_for_a_killed_invocation_and_its_retry() -> None:
    resources = transformed(only("custom-resource.md"))
    timeout = properties(resources, "MigratorFunction")["Timeout"]
    waits = properties(resources, "Migrations")["ServiceTimeout"]
    assert timeout <= 900
    assert 2 * timeout + 60 <= waits <= 3600
    assert "EventInvokeConfig" not in only("custom-resource.md"), "Lambda repeats, by default"


def test_codedeploy_may_invoke_the_hook_and_the_hook_may_respond() -> None:
    resources = transformed(only("codedeploy.md"))
    update = resources["OrdersFunctionAliaslive"]["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]
    assert update["BeforeAllowTrafficHook"] == {"Ref": "BeforeTrafficFunction"}
    hook = properties(resources, "BeforeTrafficFunction")
    assert hook["FunctionName"]["Fn::Sub"].startswith("CodeDeployHook_")
    policies = properties(resources, "BeforeTrafficFunctionRole")["Policies"]
    statements = [s for policy in policies for s in policy["PolicyDocument"]["Statement"]]
    [answering] = [s for s in statements if "codedeploy" in str(s["Action"])]
    assert answering["Action"] == [
        "codedeploy:GetDeployment",
        "codedeploy:PutLifecycleEventHookExecutionStatus",
    ]
    assert answering["Resource"]["Fn::Sub"].endswith(
        ":deploymentgroup:${ServerlessDeploymentApplication}/${OrdersFunctionDeploymentGroup}"
    )


def test_a_function_that_only_reads_the_table_is_in_require_mode() -> None:
    resources = transformed(only("custom-resource.md"))
    serving = properties(resources, "OrdersFunction")["Environment"]["Variables"]
    assert serving["LAMBDA_MIGRATE_MODE"] == "require"
    assert serving["LAMBDA_MIGRATE_TABLE"] == {"Ref": "LeaseTable"}, "with what all have"
    policies = properties(resources, "OrdersFunctionRole")["Policies"]
    statements = [s for policy in policies for s in policy["PolicyDocument"]["Statement"]]
    assert [s["Action"] for s in statements if "dynamodb" in str(s)] == ["dynamodb:GetItem"]


def test_a_change_of_the_migrations_changes_the_layer_version_and_not_the_functions() -> None:
    page = only("several-functions-on-one-database.md")
    before, after = transformed(page, layer="one"), transformed(page, layer="two")
    layers = []
    for resources in (before, after):
        layer = properties(resources, "Migrations")["Version"]["Ref"]
        assert resources[layer]["Type"] == "AWS::Lambda::LayerVersion"
        assert properties(resources, "OrdersFunction")["Layers"] == [{"Ref": layer}]
        layers.append((layer, properties(resources, layer)["LayerName"]))
    assert layers[0][0] != layers[1][0], "a new version"
    assert layers[0][1] == layers[1][1], "of the same layer, so that its number grows"
    published = transformed(only("custom-resource.md"))
    assert [name for name in published if "MigratorFunctionVersion" in name]


def test_one_function_migrates_and_the_others_require() -> None:
    resources = transformed(only("several-functions-on-one-database.md"))
    modes = {
        name: resource["Properties"]["Environment"]["Variables"]["LAMBDA_MIGRATE_MODE"]
        for name, resource in resources.items()
        if resource["Type"] == "AWS::Lambda::Function"
    }
    assert modes == {
        "MigratorFunction": "migrate",
        "OrdersFunction": "require",
        "BillingFunction": "require",
    }


def test_provisioned_environments_check_before_they_get_traffic() -> None:
    provisioned, snap = (transformed(template) for template in templates(LONG))
    alias = properties(provisioned, "OrdersFunctionAliaslive")
    assert alias["ProvisionedConcurrencyConfig"] == {"ProvisionedConcurrentExecutions": 20}
    assert properties(snap, "OrdersFunction")["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    for resources in (provisioned, snap):
        variables = properties(resources, "OrdersFunction")["Environment"]["Variables"]
        assert variables == {"LAMBDA_MIGRATE_INIT": "when-long"}
