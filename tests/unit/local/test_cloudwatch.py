"""Values from log lines, and alarms as CloudWatch's manual evaluates them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lambda_migrate.aws.telemetry import PowertoolsObserver
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.events import CheckFinished, MigrationApplied
from lambda_migrate.local.servers.dynamodb import ThrottledRequest
from load.emulators.cloudwatch import (
    Alarm,
    CloudWatch,
    Metric,
    Query,
    State,
    evaluate_alarm,
    read_alarms,
)

NOON = 1_790_000_040.0
"""A full minute."""

FAILED = Metric.of("Orders", "MigrationFailed", service="orders", target="orders-db")

ALARM = Alarm(
    name="FailedAlarm",
    queries={"m1": Query("m1", FAILED, "Sum")},
    result_query="m1",
    period=60,
    evaluation_periods=1,
    datapoints_to_alarm=1,
    comparison="GreaterThanOrEqualToThreshold",
    threshold=1.0,
    treat_missing_data="notBreaching",
)

OK, BAD, NO_DATA = State.OK, State.ALARM, State.INSUFFICIENT_DATA
KEPT = State.INSUFFICIENT_DATA


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
    observer.observe(CheckFinished("orders-db", "d", "UP_TO_DATE", 0.25, 0.0, 1, (), 0, "me"))
    observer.observe(MigrationApplied("orders-db", "0001_m", 1, 1, 1.5))
    observer.observe(
        CheckFinished("orders-db", "d", "MIGRATED", 0.25, 0.0, 1, ("0001_m",), 0, "me")
    )
    cloudwatch = CloudWatch()
    assert cloudwatch.read(capsys.readouterr().out) == 4
    found = {metric.name: cloudwatch.values(metric) for metric in cloudwatch.metrics()}
    assert found == {
        "ColdStartCheckTime": [250.0, 250.0],
        "MigrationTime": [1500.0],
        "MigrationsApplied": [1.0],
    }
    assert {metric.dimensions for metric in cloudwatch.metrics()} == {FAILED.dimensions}


@pytest.mark.parametrize("line", ["", "START RequestId", '{"message": "no metric"}', "{"])
def test_other_lines_are_skipped(line: str) -> None:
    assert CloudWatch().read(line) == 0


def test_invalid_line_is_an_error_that_shows_it() -> None:
    with pytest.raises(ConfigurationError, match=r"KeyError"):
        CloudWatch().read('{"_aws": {"CloudWatchMetrics": [{}]}}')


def test_another_dimension_is_another_metric() -> None:
    cloudwatch = CloudWatch()
    cloudwatch.read(emf(FAILED, 1.0))
    assert cloudwatch.values(Metric.of("Orders", "MigrationFailed", target="orders-db")) == []
    assert not cloudwatch.has_reached(
        replace(ALARM, queries={"m1": Query("m1", Metric.of("Orders", "MigrationFailed"), "Sum")})
    )


@pytest.mark.parametrize(
    ("statistic", "value"),
    [
        ("Sum", 5050.0),
        ("Average", 50.5),
        ("Minimum", 1.0),
        ("Maximum", 100.0),
        ("SampleCount", 100.0),
        ("p50", 50.0),
        ("p99", 99.0),
        ("p99.9", 100.0),
        ("p100", 100.0),
    ],
)
def test_statistics_are_of_all_values_in_a_period(statistic: str, value: float) -> None:
    cloudwatch = CloudWatch()
    for number in range(100, 0, -1):
        cloudwatch.put(FAILED, number, at=NOON)
    cloudwatch.put(FAILED, 7777.0, at=NOON + 60)
    assert cloudwatch.datapoint(FAILED, statistic, NOON, NOON + 60) == value
    assert cloudwatch.datapoint(FAILED, statistic, NOON - 60, NOON) is None


@pytest.mark.parametrize("statistic", ["p0", "p101", "pp", "TM(10%:90%)", "Median"])
def test_unknown_statistic_is_an_error(statistic: str) -> None:
    cloudwatch = CloudWatch()
    cloudwatch.put(FAILED, 1.0, at=NOON)
    with pytest.raises(ConfigurationError, match="is not supported"):
        cloudwatch.datapoint(FAILED, statistic, NOON, NOON + 60)


# --- alarms


def points(text: str) -> list[float | None]:
    """``0`` is within the threshold, ``X`` beyond it, ``-`` missing; the newest comes last."""
    return [{"0": 0.0, "X": 1.0, "-": None}[letter] for letter in text.split()]


@pytest.mark.parametrize(
    ("datapoints", "missing", "ignore", "breaching", "not_breaching"),
    [
        ("0 - X - X", OK, OK, OK, OK),
        ("0 - - - -", OK, OK, OK, OK),
        ("- - - - -", NO_DATA, KEPT, BAD, OK),
        ("0 X X - X", BAD, BAD, BAD, BAD),
        ("- - X - -", BAD, KEPT, BAD, OK),
    ],
)
def test_three_of_three_datapoints_as_the_manual_has_them(
    datapoints: str, missing: State, ignore: State, breaching: State, not_breaching: State
) -> None:
    alarm = replace(ALARM, evaluation_periods=3, datapoints_to_alarm=3)
    judged = [
        evaluate_alarm(replace(alarm, treat_missing_data=how), points(datapoints), before=KEPT)
        for how in ("missing", "ignore", "breaching", "notBreaching")
    ]
    assert judged == [missing, ignore, breaching, not_breaching]


@pytest.mark.parametrize(
    ("datapoints", "missing", "ignore", "breaching", "not_breaching"),
    [
        ("0 - X - X", BAD, BAD, BAD, BAD),
        ("0 0 X 0 X", BAD, BAD, BAD, BAD),
        ("0 - X - -", OK, OK, BAD, OK),
        ("- - - - 0", OK, OK, BAD, OK),
        ("- - - X -", BAD, KEPT, BAD, OK),
    ],
)
def test_two_of_three_datapoints_as_the_manual_has_them(
    datapoints: str, missing: State, ignore: State, breaching: State, not_breaching: State
) -> None:
    alarm = replace(ALARM, evaluation_periods=3, datapoints_to_alarm=2)
    judged = [
        evaluate_alarm(replace(alarm, treat_missing_data=how), points(datapoints), before=KEPT)
        for how in ("missing", "ignore", "breaching", "notBreaching")
    ]
    assert judged == [missing, ignore, breaching, not_breaching]


def test_alarm_ends_with_its_period() -> None:
    cloudwatch = CloudWatch()
    cloudwatch.read(emf(FAILED, 1.0, at=NOON + 30))
    states = list(cloudwatch.states(ALARM))
    assert states[0] == (NOON + 60, State.ALARM)
    assert cloudwatch.has_reached(ALARM)
    assert cloudwatch.is_over(ALARM)


def test_long_periods_are_evaluated_each_minute() -> None:
    cloudwatch = CloudWatch()
    for minute in (0, 4):
        cloudwatch.put(FAILED, 1.0, at=NOON + 60 * minute)
    alarm = replace(ALARM, period=300, threshold=2.0)
    assert cloudwatch.state(alarm, at=NOON + 300) is State.ALARM
    assert cloudwatch.state(alarm, at=NOON + 360) is State.OK


def test_no_data_reaches_no_alarm() -> None:
    assert not CloudWatch().has_reached(ALARM)
    assert CloudWatch().is_over(ALARM)


def test_alarm_on_a_dynamodb_metric_ignores_missing_data() -> None:
    cloudwatch = CloudWatch()
    cloudwatch.put_throttled([ThrottledRequest("leases", "Read", NOON + 1)])
    metric = Metric.of("AWS/DynamoDB", "ReadThrottleEvents", TableName="leases")
    alarm = replace(ALARM, queries={"m1": Query("m1", metric, "Sum")})
    assert cloudwatch.has_reached(alarm)
    assert not cloudwatch.is_over(alarm)


def test_alarm_on_filled_data_ends() -> None:
    cloudwatch = CloudWatch()
    cloudwatch.put_throttled([ThrottledRequest("leases", "Write", NOON + 1)])
    queries = {
        name: Query(name, Metric.of("AWS/DynamoDB", metric, TableName="leases"), "Sum")
        for name, metric in {"r": "ReadThrottleEvents", "w": "WriteThrottleEvents"}.items()
    }
    queries["all"] = Query("all", expression="FILL(r, 0) + FILL(w, 0)")
    alarm = replace(ALARM, queries=queries, result_query="all")
    assert cloudwatch.has_reached(alarm)
    assert cloudwatch.is_over(alarm)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("FILL(m1, 1)", 3.0),
        ("FILL(m2, 1)", 1.0),
        ("FILL(m1, 0) + FILL(m2, 2)", 5.0),
    ],
)
def test_missing_datapoints_are_filled_and_added(expression: str, value: float) -> None:
    cloudwatch = CloudWatch()
    cloudwatch.put(FAILED, 3.0, at=NOON)
    queries = {
        "m1": Query("m1", FAILED, "Sum"),
        "m2": Query("m2", Metric.of("Orders", "NotReady"), "Sum"),
        "e": Query("e", expression=expression),
    }
    assert cloudwatch.series(queries, "e", [(NOON, NOON + 60)]) == [value]


@pytest.mark.parametrize(
    "expression", ["SEARCH('x', 'Sum')", "m1 + m2", "FILL(m9, 0)", "FILL(m1, 0) * 2"]
)
def test_unsupported_metric_math_is_an_error(expression: str) -> None:
    queries = {"m1": Query("m1", FAILED, "Sum"), "e": Query("e", expression=expression)}
    with pytest.raises(ConfigurationError):
        CloudWatch().series(queries, "e", [(NOON, NOON + 60)])


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
      DatapointsToAlarm: 2
      Threshold: !Ref Threshold
      ComparisonOperator: GreaterThanThreshold
      TreatMissingData: !If [IsProduction, breaching, notBreaching]
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
        queries={"m1": Query("m1", slow, "p99")},
        result_query="m1",
        period=60,
        evaluation_periods=3,
        datapoints_to_alarm=2,
        comparison="GreaterThanThreshold",
        threshold=2500.0,
        treat_missing_data="notBreaching",
    )
    throttled = alarms["TableThrottledAlarm"]
    assert (throttled.result_query, throttled.datapoints_to_alarm) == ("all", 1)
    metric = throttled.queries["r"].metric
    assert metric == Metric.of("AWS/DynamoDB", "ReadThrottleEvents", TableName="leases")


def test_parameters_and_conditions_decide(template: Path) -> None:
    alarms = read_alarms(template, {"Threshold": "1", "Stage": "production", "Number": "1"})
    assert set(alarms) == {"SlowAlarm"}
    assert (alarms["SlowAlarm"].period, alarms["SlowAlarm"].treat_missing_data) == (
        300,
        "breaching",
    )


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
            "Fn::ImportValue is not supported",
        ),
        (TEMPLATE.replace("GreaterThanThreshold", "LessThanLowerThreshold"), "not supported"),
        (TEMPLATE.replace("IsNot: !Not", "Else: !Not"), "there is no condition IsNot"),
        (TEMPLATE.replace("ReturnData: false", "Label: reads"), "here: all, r, over 60 s"),
    ],
)
def test_unusable_template_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_alarms(tmp_path / "t.yaml", {"Threshold": "1"})


def test_missing_template_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml: No such file"):
        read_alarms(tmp_path / "nowhere.yaml")
