"""CloudWatch's metrics and alarms, emulated from what functions print.

    cloudwatch = CloudWatch()
    cloudwatch.put_log(function.logs("env0001"))
    alarms = read_alarms(Path("template.yaml"), {"LeaseTable": "leases"})
    assert not cloudwatch.was_triggered(alarms["MigrationFailedAlarm"])

Lines in the embedded metric format become values of metrics: a namespace, a name and exactly one
set of dimensions. Alarms are evaluated each minute, over the periods that end there, as
CloudWatch's manual describes for missing data that does not breach ("Configuring how CloudWatch
alarms treat missing data"). Where the manual is silent: the evaluation range is two periods longer
than the evaluation periods, as in its examples, and a percentile is the nearest rank. What the
alarms of template.yaml do not use is not supported.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.servers.dynamodb import ThrottledRequest
from lambda_migrate.local.template import Template

__all__ = ["Alarm", "CloudWatch", "Metric", "is_alarming", "read_alarms"]

_EVALUATION_SECONDS = 60
"""Alarms on shorter periods are not supported."""

_EXTRA_PERIODS = 2
"""Periods before the evaluation periods that are read where some have no data."""

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
}


@dataclass(frozen=True, slots=True)
class Metric:
    """What values belong to; with one more dimension it is another metric."""

    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def of(cls, namespace: str, name: str, **dimensions: str) -> Metric:
        """One with these dimensions."""
        return cls(namespace, name, frozenset(dimensions.items()))


@dataclass(frozen=True, slots=True)
class Alarm:
    """An ``AWS::CloudWatch::Alarm`` on a metric, or on a sum of ``FILL(metric, 0)``."""

    name: str  # logical id
    metrics: tuple[Metric, ...]
    statistic: str  # Sum, Maximum, p90
    period: int  # seconds
    evaluation_periods: int
    comparison: str  # GreaterThanThreshold and so on
    threshold: float
    counts_missing_as_zero: bool = False

    def breaches(self, value: float) -> bool:
        """Whether ``value`` is on the wrong side of the threshold."""
        return _COMPARISONS[self.comparison](value, self.threshold)


@dataclass(slots=True)
class CloudWatch:
    """Metrics, and what alarms make of them. Times are seconds since the epoch."""

    _values: dict[Metric, list[tuple[float, float]]] = field(default_factory=dict)

    # --- putting

    def put_log(self, text: str) -> int:
        """Add the metrics of a function's log; other lines are skipped.

        Returns:
            How many values there were.

        Raises:
            ConfigurationError: CloudWatch would reject a line with ``_aws``.
        """
        found = [each for line in text.splitlines() for each in _parse_line(line)]
        for metric, at, value in found:
            self.put(metric, value, at=at)
        return len(found)

    def put(self, metric: Metric, value: float, *, at: float) -> None:
        """Add one value."""
        self._values.setdefault(metric, []).append((at, value))

    def put_throttled(self, throttled: Iterable[ThrottledRequest]) -> None:
        """Add DynamoDB's metrics of requests that were throttled."""
        for each in throttled:
            name = f"{each.kind}ThrottleEvents"
            self.put(Metric.of("AWS/DynamoDB", name, TableName=each.table), 1.0, at=each.at)

    # --- looking

    def metrics(self) -> frozenset[Metric]:
        """All that have a value."""
        return frozenset(self._values)

    def values(
        self, metric: Metric, start: float = -math.inf, end: float = math.inf
    ) -> list[float]:
        """What was put from ``start`` on and before ``end``."""
        return [value for at, value in self._values.get(metric, ()) if start <= at < end]

    def datapoint(self, alarm: Alarm, end: float) -> float | None:
        """What the alarm reads of the period that ends then; None if there is no value."""
        found = [self.values(metric, end - alarm.period, end) for metric in alarm.metrics]
        datapoints = [_statistic(alarm.statistic, values) for values in found if values]
        return sum(datapoints) if datapoints or alarm.counts_missing_as_zero else None

    # --- alarms

    def is_in_alarm(self, alarm: Alarm, *, at: float) -> bool:
        """Whether the alarm is in ALARM when it is evaluated then."""
        count = alarm.evaluation_periods + _EXTRA_PERIODS
        ends = [at - number * alarm.period for number in reversed(range(count))]
        return is_alarming(alarm, [self.datapoint(alarm, end) for end in ends])

    def was_triggered(self, alarm: Alarm) -> bool:
        """Whether it ever was in ALARM."""
        return any(self._evaluate(alarm))

    def ends_ok(self, alarm: Alarm) -> bool:
        """Whether, with no more values to come, it ends in another state than ALARM."""
        states = list(self._evaluate(alarm))
        return not states or not states[-1]

    def _evaluate(self, alarm: Alarm) -> Iterator[bool]:
        """Whether it is in ALARM at each evaluation, until long after the last value."""
        times = [at for values in self._values.values() for at, _ in values]
        if not times:
            return
        at = (min(times) // _EVALUATION_SECONDS + 1) * _EVALUATION_SECONDS
        quiet = alarm.period * (alarm.evaluation_periods + _EXTRA_PERIODS + 1)
        while at <= max(times) + quiet:
            yield self.is_in_alarm(alarm, at=at)
            at += _EVALUATION_SECONDS


def is_alarming(alarm: Alarm, datapoints: Sequence[float | None]) -> bool:
    """Decide from the datapoints of the evaluation range, the oldest first.

    If some are missing, older ones in the range stand for them; what is still missing does not
    breach.
    """
    real = [alarm.breaches(value) for value in datapoints if value is not None]
    return sum(real[-alarm.evaluation_periods :]) >= alarm.evaluation_periods


def _statistic(name: str, values: Sequence[float]) -> float:
    if name == "Sum":
        return math.fsum(values)
    if name == "Maximum":
        return max(values)
    ordered = sorted(values)
    return ordered[math.ceil(float(name.removeprefix("p")) / 100 * len(ordered)) - 1]


# --- the embedded metric format


def _parse_line(line: str) -> Iterator[tuple[Metric, float, float]]:
    if not (line.startswith("{") and '"_aws"' in line):
        return
    try:
        document = json.loads(line)
        about = document["_aws"]
        for directive in about["CloudWatchMetrics"]:
            yield from _parse_directive(directive, document, about["Timestamp"] / 1000)
    except (KeyError, TypeError, ValueError) as fault:
        raise ConfigurationError(
            f"CloudWatch would reject this line ({fault!r}): {line}"
        ) from fault


def _parse_directive(
    directive: Mapping[str, Any], document: Mapping[str, Any], at: float
) -> Iterator[tuple[Metric, float, float]]:
    for names in directive["Dimensions"]:
        dimensions = frozenset((name, str(document[name])) for name in names)
        for entry in directive["Metrics"]:
            metric = Metric(directive["Namespace"], entry["Name"], dimensions)
            values = document[entry["Name"]]
            for value in values if isinstance(values, list) else [values]:
                yield metric, at, float(value)


# --- reading a template


def read_alarms(template: Path, values: Mapping[str, str] | None = None) -> dict[str, Alarm]:
    """The alarms of a template by logical id.

    Args:
        template: A CloudFormation or SAM template.
        values: See `Template`.

    Raises:
        ConfigurationError: It cannot be read, or an alarm is not supported.
    """
    alarms = Template.read(template, values).of_type("AWS::CloudWatch::Alarm")
    found = {}
    for name, properties in alarms.items():
        try:
            found[name] = _read_alarm(name, properties)
        except KeyError as missing:
            raise ConfigurationError(f"the alarm {name} has no {missing}") from missing
    return found


def _read_alarm(name: str, document: Mapping[str, Any]) -> Alarm:
    if "Metrics" in document:
        stats = [each for each in document["Metrics"] if "MetricStat" in each]
        math_of_all = " + ".join(f"FILL({each['Id']}, 0)" for each in stats)
        shown = [each for each in document["Metrics"] if each.get("ReturnData", True) is not False]
        if [each.get("Expression") for each in shown] != [math_of_all]:
            raise _refuse(name, f"a result (ReturnData) other than {math_of_all}")
        metrics = tuple(_read_metric(each["MetricStat"]["Metric"]) for each in stats)
        ways = {(each["MetricStat"]["Stat"], int(each["MetricStat"]["Period"])) for each in stats}
        if len(ways) != 1:
            raise _refuse(name, "metric math over several statistics or periods")
        [(statistic, period)] = ways
    else:
        metrics = (_read_metric(document),)
        statistic = document.get("ExtendedStatistic") or document["Statistic"]
        period = int(document["Period"])
        if metrics[0].namespace == "AWS/DynamoDB":
            raise _refuse(name, "a metric of DynamoDB without FILL, whose missing data is ignored")
    periods = int(document["EvaluationPeriods"])
    alarm = Alarm(
        name=name,
        metrics=metrics,
        statistic=statistic,
        period=period,
        evaluation_periods=periods,
        comparison=document["ComparisonOperator"],
        threshold=float(document["Threshold"]),
        counts_missing_as_zero="Metrics" in document,
    )
    _require_supported(alarm, document)
    return alarm


def _require_supported(alarm: Alarm, document: Mapping[str, Any]) -> None:
    percentile = alarm.statistic.removeprefix("p")
    is_percentile = alarm.statistic.startswith("p") and percentile.isdecimal()
    if not is_percentile and alarm.statistic not in ("Sum", "Maximum"):
        raise _refuse(alarm.name, f"the statistic {alarm.statistic}")
    if is_percentile and not 0 < int(percentile) <= 100:
        raise _refuse(alarm.name, f"the statistic {alarm.statistic}")
    if alarm.comparison not in _COMPARISONS:
        raise _refuse(alarm.name, alarm.comparison)
    if alarm.period % _EVALUATION_SECONDS:
        raise _refuse(alarm.name, f"a period of {alarm.period} s")
    if document.get("TreatMissingData") != "notBreaching":
        raise _refuse(alarm.name, "TreatMissingData other than notBreaching")
    if int(document.get("DatapointsToAlarm", alarm.evaluation_periods)) != alarm.evaluation_periods:
        raise _refuse(alarm.name, "DatapointsToAlarm other than EvaluationPeriods")


def _refuse(name: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"the alarm {name}: {what} is not supported")


def _read_metric(document: Mapping[str, Any]) -> Metric:
    dimensions = {each["Name"]: str(each["Value"]) for each in document.get("Dimensions", ())}
    return Metric.of(document["Namespace"], document["MetricName"], **dimensions)
