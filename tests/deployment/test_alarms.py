"""Alarms and dashboard use only metrics that `lambda_migrate.aws.telemetry` writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from lambda_migrate.aws.telemetry import METRICS

ROOT = Path(__file__).parents[2]
TEMPLATE: dict[str, Any] = yaml_parse((ROOT / "template.yaml").read_text())
RESOURCES: dict[str, Any] = TEMPLATE["Resources"]
ALARMS = {
    name: resource["Properties"]
    for name, resource in RESOURCES.items()
    if resource["Type"] == "AWS::CloudWatch::Alarm"
}
OURS = {name: alarm for name, alarm in ALARMS.items() if "MetricName" in alarm}
DIMENSIONS = {"service": {"Ref": "ServiceName"}, "target": {"Ref": "Target"}}


def test_every_alarm_has_a_runbook() -> None:
    assert set(ALARMS) == {
        "ColdStartCheckTimeAlarm",
        "LeaseHeldTimeAlarm",
        "LeaseTakeoverAlarm",
        "LeaseWaitTimeAlarm",
        "MigrationFailedAlarm",
        "NotReadyAlarm",
        "TableThrottledAlarm",
    }


@pytest.mark.parametrize("name", OURS)
def test_an_alarm_uses_a_metric_of_the_library(name: str) -> None:
    alarm = OURS[name]
    assert name == f"{alarm['MetricName']}Alarm"
    assert alarm["MetricName"] in METRICS
    assert {each["Name"]: each["Value"] for each in alarm["Dimensions"]} == DIMENSIONS
    assert alarm["Namespace"] == {"Ref": "MetricsNamespace"}


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_and_its_end_are_published(name: str) -> None:
    alarm = ALARMS[name]
    assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "AlarmTopic"}]
    assert alarm["TreatMissingData"] == "notBreaching", "a target at rest writes nothing"


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_links_to_its_runbook(name: str) -> None:
    assert f"docs/runbooks/alarms.md#{name.lower()}" in ALARMS[name]["AlarmDescription"]
    page = (ROOT / "docs" / "runbooks" / "alarms.md").read_text()
    assert f"\n## {name}\n" in page


def test_functions_and_alarms_have_the_same_namespace() -> None:
    variables = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["POWERTOOLS_METRICS_NAMESPACE"] == {"Ref": "MetricsNamespace"}
    assert variables["POWERTOOLS_SERVICE_NAME"] == {"Ref": "ServiceName"}
    assert variables["LAMBDA_MIGRATE_TARGET"] == {"Ref": "Target"}


def test_the_dashboard_shows_every_metric_and_every_alarm() -> None:
    body = RESOURCES["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    widgets = json.loads(body)["widgets"]
    shown = [metric for each in widgets for metric in each["properties"].get("metrics", ())]
    ours = [metric for metric in shown if metric[0] == "${MetricsNamespace}"]
    assert {name for _, name, *_ in ours} == set(METRICS)
    for _, _, *dimensions, _ in ours:
        assert dimensions == ["service", "${ServiceName}", "target", "${Target}"]
    assert set(re.findall(r"\$\{(\w+)\.Arn\}", body)) == set(ALARMS)
