"""Values from log lines, and alarms as CloudWatch's manual evaluates them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lambda_migrate.aws.telemetry import PowertoolsObserver
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.events import CheckSucceeded, MigrationApplied
from lambda_migrate.local.cloudwatch import Alarm, CloudWatch, Metric, is_alarming, read_alarms
from lambda_migrate.local.servers.dynamodb import ThrottledRequest

NOON = 1_790_000_040.0
"""A full minute."""

FAILED = Metric.of("Orders", "MigrationFailed", service="orders", target="orders-db")

ALARM = Alarm(
    name="FailedAlarm",
    metrics=(FAILED,),
    statistic="Sum",
    period=60,
    evaluation_periods=1,
    comparison="GreaterThanOrEqualToThreshold",
    threshold=1.0,
)


def emf(metric: Metric, *values: float, at: float = NOON) -> str:
    """A line as a function prints it."""
    dimensions = dict(metric.dimensions)
    directive = {
        "Namespace": metric.namespace,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": metric.name, "Unit": "Count"}],
    }
    about = {"Timestamp": int(at * 1000), "CloudWatchMetrics": [directive]}
    return json.dumps({"_aws": about, **dimensions, metric.name: list(values)})


# --- values


def test_metrics_of_the_library_are_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Orders")
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "orders")
    observer = PowertoolsObserver()
    # This one is written without Powertools.
    observer.observe(CheckSucceeded("orders-db", "d", "UP_TO_DATE", 0.25, 0.0, 1, (), 0, "me"))
    observer.observe(MigrationApplied("orders-db", "0001_m", 1, 1, 1.5))
    observer.observe(
        CheckSucceeded("orders-db", "d", "MIGRATED", 0.25, 0.0, 1, ("0001_m",), 0, "me")
    )
    cloudwatch = CloudWatch()
    assert cloudwatch.put_log(capsys.readouterr().out) == 4
    found = {metric.name: cloudwatch.values(metric) for metric in cloudwatch.metrics()}
    assert found == {
        "ColdStartCheckTime": [250.0, 250.0],
        "MigrationTime": [1500.0],
        "MigrationsApplied": [1.0],
    }
    assert {metric.dimensions for metric in cloudwatch.metrics()} == {FAILED.dimensions}


@pytest.mark.parametrize("line", ["", "START RequestId", '{"message": "no metric"}', "{"])
def test_other_lines_are_skipped(line: str) -> None:
    assert CloudWatch().put_log(line) == 0


def test_invalid_line_is_an_error_that_shows_it() -> None:
    with pytest.raises(ConfigurationError, match=r"KeyError"):
        CloudWatch().put_log('{"_aws": {"CloudWatchMetrics": [{}]}}')


def test_another_dimension_is_another_metric() -> None:
    cloudwatch = CloudWatch()
    cloudwatch.put_log(emf(FAILED, 1.0))
    assert cloudwatch.values(Metric.of("Orders", "MigrationFailed", target="orders-db")) == []
    other = Metric.of("Orders", "MigrationFailed")
    assert not cloudwatch.was_triggered(replace(ALARM, metrics=(other,)))


@pytest.mark.parametrize(
    ("statistic", "value"),
    [("Sum", 5050.0), ("Maximum", 100.0), ("p50", 50.0), ("p99", 99.0), ("p100", 100.0)],
)
def test_statistics_are_of_all_values_in_a_period(statistic: str, value: float) -> None:
    cloudwatch = CloudWatch()
    for number in range(100, 0, -1):
        cloudwatch.put(FAILED, number, at=NOON)
    cloudwatch.put(FAILED, 7777.0, at=NOON + 60)
    alarm = replace(ALARM, statistic=statistic)
    assert cloudwatch.datapoint(alarm, NOON + 60) == value
    assert cloudwatch.datapoint(alarm, NOON) is None


# --- alarms


@pytest.mark.parametrize(
    ("datapoints", "is_reached"),
    [
        ("0 - X - X", False),
        ("0 - - - -", False),
        ("- - - - -", False),
        ("0 X X - X", True),
        ("- - X - -", False),
        ("X X X X 0", False),
    ],
)
def test_three_of_three_datapoints_as_the_manual_has_them(
    datapoints: str, is_reached: bool
) -> None:
    """``0`` is within the threshold, ``X`` beyond it, ``-`` missing; the newest comes last."""
    values = [{"0": 0.0, "X": 1.0, "-": None}[letter] for letter in datapoints.split()]
    assert is_alarming(replace(ALARM, evaluation_periods=3), values) is is_reached


def test_alarm_ends_with_its_period() -> None:
    cloudwatch = CloudWatch()
    cloudwatch.put_log(emf(FAILED, 1.0, at=NOON + 30))
    assert cloudwatch.is_in_alarm(ALARM, at=NOON + 60)
    assert not cloudwatch.is_in_alarm(ALARM, at=NOON + 300)
    assert cloudwatch.was_triggered(ALARM)
    assert cloudwatch.ends_ok(ALARM)


def test_long_periods_are_evaluated_each_minute() -> None:
    cloudwatch = CloudWatch()
    for minute in (0, 4):
        cloudwatch.put(FAILED, 1.0, at=NOON + 60 * minute)
    alarm = replace(ALARM, period=300, threshold=2.0)
    assert cloudwatch.is_in_alarm(alarm, at=NOON + 300)
    assert not cloudwatch.is_in_alarm(alarm, at=NOON + 360)


def test_missing_data_triggers_no_alarm() -> None:
    assert not CloudWatch().was_triggered(ALARM)
    assert CloudWatch().ends_ok(ALARM)


def test_missing_datapoints_of_a_filled_sum_are_zero() -> None:
    cloudwatch = CloudWatch()
    metrics = (
        Metric.of("AWS/DynamoDB", "ReadThrottleEvents", TableName="leases"),
        Metric.of("AWS/DynamoDB", "WriteThrottleEvents", TableName="leases"),
    )
    alarm = replace(ALARM, metrics=metrics, counts_missing_as_zero=True)
    cloudwatch.put_throttled([ThrottledRequest("leases", "Write", NOON + 1)])
    assert [cloudwatch.datapoint(alarm, NOON + 60 * n) for n in (1, 2)] == [1.0, 0.0]
    cloudwatch.put_throttled([ThrottledRequest("leases", "Read", NOON + 1)])
    assert cloudwatch.datapoint(alarm, NOON + 60) == 2.0
    assert cloudwatch.was_triggered(alarm)
    assert cloudwatch.ends_ok(alarm)


# --- templates

TEMPLATE = """
Parameters:
  Stage: {Type: String, Default: dev}
  Threshold: {Type: Number}
  Number: {Type: Number, Default: 0}
Conditions:
  IsProduction: !Equals [!Ref Stage, production]
  IsNot: !Not [!Condition IsProduction]
Resources:
  LeaseTable: {Type: "AWS::DynamoDB::Table"}
  SlowAlarm:
    Type: AWS::CloudWatch::Alarm
    Properties:
      AlarmActions: [!Ref Topic, !GetAtt Topic.TopicName]
      Namespace: !Join ["", [Ord, ers]]
      MetricName: ColdStartCheckTime
      Dimensions: [{Name: target, Value: !Sub ["${t}-db", {t: orders}]}]
      ExtendedStatistic: p99
      Period: !Select [!Ref Number, [60, 300]]
      EvaluationPeriods: 3
      Threshold: !Ref Threshold
      ComparisonOperator: GreaterThanThreshold
      TreatMissingData: !If [IsNot, notBreaching, !Ref AWS::NoValue]
  TableThrottledAlarm:
    Type: AWS::CloudWatch::Alarm
    Condition: IsNot
    Properties:
      Metrics:
        - {Id: all, Expression: "FILL(r, 0)"}
        - Id: r
          ReturnData: false
          MetricStat:
            Metric:
              Namespace: AWS/DynamoDB
              MetricName: ReadThrottleEvents
              Dimensions: [{Name: TableName, Value: !Ref LeaseTable}]
            Period: 60
            Stat: Sum
      EvaluationPeriods: 1
      Threshold: 0
      ComparisonOperator: GreaterThanThreshold
      TreatMissingData: notBreaching
  Topic: {Type: "AWS::SNS::Topic"}
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE)
    return path


def test_alarm_is_read_as_it_would_be_deployed(template: Path) -> None:
    alarms = read_alarms(template, {"Threshold": "2500", "LeaseTable": "leases"})
    slow = Metric.of("Orders", "ColdStartCheckTime", target="orders-db")
    assert alarms["SlowAlarm"] == Alarm(
        name="SlowAlarm",
        metrics=(slow,),
        statistic="p99",
        period=60,
        evaluation_periods=3,
        comparison="GreaterThanThreshold",
        threshold=2500.0,
    )
    throttled = alarms["TableThrottledAlarm"]
    assert throttled.counts_missing_as_zero
    metric = Metric.of("AWS/DynamoDB", "ReadThrottleEvents", TableName="leases")
    assert throttled.metrics == (metric,)


def test_parameters_and_conditions_decide(template: Path) -> None:
    changed = template.read_text().replace("!Ref AWS::NoValue", "notBreaching")
    template.write_text(changed)
    alarms = read_alarms(template, {"Threshold": "1", "Stage": "production", "Number": "1"})
    assert {name: alarm.period for name, alarm in alarms.items()} == {"SlowAlarm": 300}


def test_parameter_without_a_value_is_an_error(template: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"template\.yaml: Threshold has no value"):
        read_alarms(template)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Resources: [", "not a template"),
        ("Description: nothing", "it has no Resources"),
        (
            'Resources: {A: {Type: "AWS::CloudWatch::Alarm", Properties: {MetricName: m}}}',
            "alarm A has no",
        ),
        (
            "Resources: {A: {Type: 'AWS::CloudWatch::Alarm', Properties: "
            "{MetricName: !ImportValue m}}}",
            "Fn::ImportValue m is unknown",
        ),
        (TEMPLATE.replace("GreaterThanThreshold", "LessThanLowerThreshold"), "not supported"),
        (TEMPLATE.replace("IsNot: !Not", "Else: !Not"), "Condition IsNot is unknown"),
        (TEMPLATE.replace("ReturnData: false", "Label: reads"), "result .ReturnData. other than"),
        (TEMPLATE.replace("FILL(r, 0)", "FILL(r, 1)"), "result .ReturnData. other than"),
        (TEMPLATE.replace("p99", "p0"), "the statistic p0 is not supported"),
        (TEMPLATE.replace("ExtendedStatistic: p99", "Statistic: Average"), "Average is not"),
        (TEMPLATE.replace("IsNot, notBreaching", "IsNot, breaching"), "TreatMissingData other"),
        (
            TEMPLATE.replace(
                "EvaluationPeriods: 3", "EvaluationPeriods: 3\n      DatapointsToAlarm: 2"
            ),
            "DatapointsToAlarm other than",
        ),
        (TEMPLATE.replace('!Join ["", [Ord, ers]]', "AWS/DynamoDB"), "without FILL"),
    ],
)
def test_unusable_template_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_alarms(tmp_path / "t.yaml", {"Threshold": "1"})


def test_missing_template_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml: No such file"):
        read_alarms(tmp_path / "nowhere.yaml")
