"""The template's dashboard shows what the library emits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lambda_migrate.aws.telemetry import METRICS
from lambda_migrate.errors import ConfigurationError
from load.emulators.cloudwatch import Metric, Query, read_alarms
from load.emulators.dashboard import Series, Widget, read_dashboard

ROOT = Path(__file__).parents[3]
TEMPLATE = ROOT / "template.yaml"
VALUES = {"LeaseTable": "leases", "Target": "orders"}


def test_every_metric_of_ours_is_on_the_dashboard_and_under_its_own_dimensions() -> None:
    shown = {
        series.query.metric
        for widget in read_dashboard(TEMPLATE, VALUES)
        for series in widget.series
        if series.query.metric is not None
    }
    ours = {metric for metric in shown if metric.namespace == "Orders"}
    assert {metric.name for metric in ours} == set(METRICS)
    dimensions = frozenset({("service", "orders"), ("target", "orders")})
    assert {metric.dimensions for metric in ours} == {dimensions}


def test_every_alarm_is_on_the_dashboard() -> None:
    [widget] = [each for each in read_dashboard(TEMPLATE, VALUES) if each.kind == "alarm"]
    assert set(widget.alarms) == set(read_alarms(TEMPLATE, VALUES))


def template(path: Path, *widgets: object) -> Path:
    body = json.dumps({"widgets": widgets})
    board = {"Type": "AWS::CloudWatch::Dashboard", "Properties": {"DashboardBody": body}}
    path.write_text(json.dumps({"Resources": {"Dashboard": board}}))
    return path


def test_a_widget_is_read_with_the_defaults_of_cloudwatch(tmp_path: Path) -> None:
    said = {
        "type": "metric",
        "x": 1,
        "y": 2,
        "width": 3,
        "height": 4,
        "properties": {"title": "T", "metrics": [["N", "M", "d", "v"]]},
    }
    query = Query("M", Metric.of("N", "M", d="v"), "Average")
    assert read_dashboard(template(tmp_path / "t.yaml", said)) == [
        Widget("metric", "T", (1, 2, 3, 4), 300, (Series(query, "M"),))
    ]


def test_a_widget_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    said = {"type": "log", "x": 0, "y": 0, "width": 1, "height": 1, "properties": {}}
    with pytest.raises(ConfigurationError, match="'log' is not known"):
        read_dashboard(template(tmp_path / "t.yaml", said))
