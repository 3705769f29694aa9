"""The YAML on the pages is what CloudFormation, SAM and GitHub accept, fragments included."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from cfnlint.api import ManualArgs, lint

from tests.unit.docs.pages import CodeBlock, all_code_blocks

BLOCKS = all_code_blocks("yaml", "yml")

# What fragments refer to. Nothing else may be unresolved in them.
HEADER = """\
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
"""
AROUND = f"""\
{HEADER}Parameters:
  DatabaseSecret: {{Type: String, Default: x}}
  Target: {{Type: String, Default: orders}}
  SubnetIds: {{Type: "List<AWS::EC2::Subnet::Id>"}}
Outputs:
  Used: {{Value: !Sub "${{DatabaseSecret}} ${{Target}}"}}
Resources:
  LeaseTable:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{{AttributeName: target, AttributeType: S}}]
      KeySchema: [{{AttributeName: target, KeyType: HASH}}]
  Cluster:
    Type: AWS::RDS::DBCluster
    DeletionPolicy: Snapshot
    UpdateReplacePolicy: Snapshot
    Properties: {{Engine: aurora-postgresql, MasterUsername: owner, ManageMasterUserPassword: true}}
  Proxy:
    Type: AWS::RDS::DBProxy
    Properties:
      DBProxyName: orders
      EngineFamily: POSTGRESQL
      RoleArn: !Sub arn:${{AWS::Partition}}:iam::${{AWS::AccountId}}:role/proxy
      VpcSubnetIds: !Ref SubnetIds
"""
FUNCTION = """\
  FragmentFunction:
    Type: AWS::Serverless::Function
    Properties:
      Handler: app.handler
      Runtime: python3.13
      CodeUri: src/
"""
JOB = """\
name: fragment
on: [push]
jobs:
  fragment:
    runs-on: ubuntu-24.04
    steps:
"""


def complete_template(text: str) -> str:
    """The template, or one around a fragment; "" for YAML of GitHub."""
    if "\nResources:\n" in text:
        return text
    if text.startswith(("name:", "- run:", "- uses:")):
        return ""
    if text.startswith("- Effect:"):
        return AROUND + FUNCTION + _policies(text)
    if text.startswith("provider:"):
        return _template_of_serverless(text)
    if text.startswith("Environment:"):
        return AROUND + FUNCTION + textwrap.indent(text, " " * 6)
    return AROUND + textwrap.indent(text, "  ")


def _template_of_serverless(text: str) -> str:
    """The resources and the role's statements of a serverless.yml, with values for variables."""
    text = re.sub(r"\$\{\w+:\w+\}", '"*"', text)
    provider, _, resources = text.partition("\nresources:\n")
    statements = textwrap.dedent(provider.partition("      statements:\n")[2])
    return f"{HEADER}{textwrap.dedent(resources)}{FUNCTION}{_policies(statements)}\n"


def _policies(statements: str) -> str:
    return "      Policies:\n        - Statement:\n" + textwrap.indent(statements, " " * 12)


def complete_workflow(text: str) -> str:
    """The workflow, or one around its steps."""
    return text if text.startswith("name:") else JOB + textwrap.indent(text, " " * 6)


TEMPLATES = [block for block in BLOCKS if complete_template(block.text)]
WORKFLOWS = [block for block in BLOCKS if not complete_template(block.text)]


@pytest.mark.parametrize("block", TEMPLATES, ids=str)
def test_cfn_lint_accepts_it(block: CodeBlock) -> None:
    found = lint(complete_template(block.text), config=ManualArgs(regions=["eu-central-1"]))
    assert [str(match) for match in found] == []


def test_github_accepts_the_workflows(tmp_path: Path) -> None:
    assert WORKFLOWS
    paths = []
    for number, block in enumerate(WORKFLOWS):
        paths.append(tmp_path / f"{number}-{Path(block.page).stem}.yml")
        paths[-1].write_text(complete_workflow(block.text))
    command = [Path(sys.executable).with_name("check-jsonschema"), *paths]
    done = subprocess.run(
        [*command, "--builtin-schema", "vendor.github-workflows"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("word", ["Effect:", "Variables:", "Handler:", "MetricName:"])
def test_a_wrong_word_is_found_in_a_fragment_too(word: str) -> None:
    block = min((each for each in TEMPLATES if word in each.text), key=lambda each: len(each.text))
    text = complete_template(block.text.replace(word, f"X{word}"))
    assert lint(text, config=ManualArgs(regions=["eu-central-1"])), block
