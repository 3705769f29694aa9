"""template.yaml as a stack: transformed as AWS does, and deployed into moto.

moto's CloudFormation does not support all resource types. This module lists the gaps, with a
substitute for each. Where moto has an API for the type, the resource is created through that API,
with the properties in the template.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from ast import literal_eval
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

from samtranslator.translator.managed_policy_translator import ManagedPolicyLoader
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from lambda_migrate.local.template import Template
from tests.deployment.aws import ACCOUNT, REGION, LocalAWS

__all__ = ["GAPS", "NAME", "TEMPLATE", "Stack", "deploy", "transformed"]

TEMPLATE = Path(__file__).parents[2] / "template.yaml"
NAME = "orders"

GAPS = {
    "AWS::ApiGatewayV2::Api",
    "AWS::ApiGatewayV2::Stage",
    "AWS::AppConfig::Application",
    "AWS::AppConfig::ConfigurationProfile",
    "AWS::AppConfig::Deployment",
    "AWS::AppConfig::DeploymentStrategy",
    "AWS::AppConfig::Environment",
    "AWS::AppConfig::HostedConfigurationVersion",
    "AWS::CloudWatch::Alarm",
    "AWS::CodeDeploy::Application",
    "AWS::CodeDeploy::DeploymentGroup",
    "AWS::Lambda::Alias",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::RDS::DBCluster",
    "AWS::RDS::DBInstance",  # of Aurora
    "AWS::SNS::Subscription",
    "AWS::SecretsManager::Secret",
}
"""What moto 5.2 does not make from a template."""

_ALARM = f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:alarm:"


def transformed(parameters: Mapping[str, str], *, text: str = "") -> dict[str, Any]:
    """What AWS makes of the template (or of ``text``), with the package in S3."""
    template = yaml_parse(text or TEMPLATE.read_text())
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://packages/function.zip"
    loader = ManagedPolicyLoader(None)  # it is asked for policies by name, of which we use none
    with patch.dict(os.environ, AWS_DEFAULT_REGION=REGION):
        made: dict[str, Any] = transform(template, dict(parameters), loader)
    return made


@dataclass(frozen=True)
class Stack:
    """A deployed stack.

    Attributes:
        aws: Where.
        body: The transformed template.
        parameters: As given.
    """

    aws: LocalAWS
    body: dict[str, Any]
    parameters: dict[str, str]

    @cached_property
    def physical(self) -> dict[str, str]:
        """Logical id -> physical id of what moto's CloudFormation has made."""
        answer = self.aws.service("cloudformation").list_stack_resources(StackName=NAME)
        found = answer["StackResourceSummaries"]
        return {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in found}

    @cached_property
    def template(self) -> Template:
        """The template with the values that this stack has."""
        values = {**self.parameters, **_stand_ins(self.body), **self.physical}
        values["LeaseTable.Arn"] = self.table_arn
        groups = [name for name in self.physical if name.endswith("SecurityGroup")]
        values |= {f"{name}.GroupId": self.physical[name] for name in groups}
        return Template(self.body, values, name="template.yaml")

    @property
    def table_arn(self) -> str:
        """Of the lease table."""
        return f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{self.physical['LeaseTable']}"

    def function(self, logical_id: str) -> dict[str, Any]:
        """A function's configuration, as Lambda tells it."""
        name = self.physical[logical_id]
        answer = self.aws.service("lambda").get_function_configuration(FunctionName=name)
        configuration: dict[str, Any] = answer
        return configuration

    def statements(self, logical_id: str) -> list[dict[str, Any]]:
        """What a function may do, by the role that it has: its own and its managed policies."""
        iam = self.aws.service("iam")
        role = self.function(logical_id)["Role"].rpartition("/")[2]
        documents = [
            iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
            for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
        ]
        # moto's CloudFormation attaches no managed policies to a role: the template says which.
        [logical] = [name for name, physical in self.physical.items() if physical == role]
        for policy in self.template.properties(logical)["ManagedPolicyArns"]:
            version = iam.get_policy(PolicyArn=policy)["Policy"]["DefaultVersionId"]
            answer = iam.get_policy_version(PolicyArn=policy, VersionId=version)
            documents.append(answer["PolicyVersion"]["Document"])
        found = [each for document in documents for each in _read(document)["Statement"]]
        return [each for each in found if each is not None]  # None: moto's AWS::NoValue in a list

    def fill_gaps(self) -> None:
        """Make alarms and flags through their own APIs."""
        cloudwatch = self.aws.service("cloudwatch")
        for logical_id, properties in self.template.of_type("AWS::CloudWatch::Alarm").items():
            number = float(properties.pop("Threshold"))  # a parameter arrives as a text
            name = f"{NAME}-{logical_id}"
            cloudwatch.put_metric_alarm(AlarmName=name, Threshold=number, **properties)


def deploy(aws: LocalAWS, **parameters: str) -> Stack:
    """Deploy the template into a VPC of its own."""
    _upload_package(aws)
    given = {**_network(aws), **parameters}
    body = transformed(given)
    aws.service("cloudformation").create_stack(
        StackName=NAME,
        TemplateBody=json.dumps(_without_gaps(body)),
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"],
        Parameters=[
            {"ParameterKey": name, "ParameterValue": value} for name, value in given.items()
        ],
    )
    stack = Stack(aws, body, given)
    stack.fill_gaps()
    return stack


def _read(document: Any) -> dict[str, Any]:
    """Moto tells a document as it is, as JSON, or (a role's own, from a template) as Python."""
    if not isinstance(document, str):
        return dict(document)
    read: dict[str, Any] = literal_eval(document) if "'" in document[:2] else json.loads(document)
    return read


def _upload_package(aws: LocalAWS) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("app.py", "")
    s3 = aws.service("s3")
    s3.create_bucket(Bucket="packages")
    s3.put_object(Bucket="packages", Key="function.zip", Body=packed.getvalue())


def _network(aws: LocalAWS) -> dict[str, str]:
    ec2 = aws.service("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24")["Subnet"]["SubnetId"]
        for n in (1, 2)
    ]
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    return {"VpcId": vpc, "SubnetIds": ",".join(subnets), "RouteTableIds": table}


def _stand_ins(body: Mapping[str, Any]) -> dict[str, str]:
    """What ``Ref`` and ``GetAtt`` mean where moto makes nothing: the logical id, or an ARN."""
    gaps = [name for name, each in body["Resources"].items() if each["Type"] in GAPS]
    alarms = {f"{name}.Arn": f"{_ALARM}{NAME}-{name}" for name in gaps if name.endswith("Alarm")}
    return {**{name: name for name in gaps}, **alarms, **_CLUSTER}


_CLUSTER = {
    "DatabaseCluster.Endpoint.Address": "cluster.example.com",
    "DatabaseCluster.MasterUserSecret.SecretArn": (
        f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:rds!cluster-1"
    ),
    "DatabaseCluster.DBClusterArn": f"arn:aws:rds:{REGION}:{ACCOUNT}:cluster:orders",
    "Api.ApiEndpoint": "https://api.example.com",
}


def _without_gaps(body: Mapping[str, Any]) -> dict[str, Any]:
    """The template without what moto cannot make, with stand-ins for what refers to it."""
    text = json.dumps(
        {
            **body,
            "Resources": {
                name: each for name, each in body["Resources"].items() if each["Type"] not in GAPS
            },
        }
    )
    # The permission to invoke the alias: on the function that the alias would be of.
    text = text.replace('{"Ref": "OrdersFunctionAliaslive"}', '{"Ref": "OrdersFunction"}')
    for name, value in _stand_ins(body).items():
        resource, _, attribute = name.partition(".")
        reported = {"Fn::GetAtt": [resource, attribute]} if attribute else {"Ref": resource}
        text = text.replace(json.dumps(reported), json.dumps(value)).replace(f"${{{name}}}", value)
    made: dict[str, Any] = json.loads(text)
    left = set(re.findall(r"\$\{(\w+)\.\w+\}", text)) - made["Resources"].keys()
    assert not left, f"something refers to {left}, which moto does not make"
    return made
