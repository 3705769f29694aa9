"""CloudWatch's metrics and alarms, emulated from what functions print.

    cloudwatch = CloudWatch()
    cloudwatch.read(function.logs("env0001"))
    alarms = read_alarms(Path("template.yaml"), {"LeaseTable": "leases"})
    assert not cloudwatch.has_reached(alarms["MigrationFailedAlarm"])

Lines in the embedded metric format become values of metrics: a namespace, a name and exactly one
set of dimensions. Alarms are evaluated each minute, over the periods that end there, as
CloudWatch's manual describes ("Alarm evaluation", "Configuring how CloudWatch alarms treat missing
data"). Where the manual is silent: the evaluation range is two periods longer than the evaluation
periods, as in its examples, and a percentile is the nearest rank.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from statistics import fmean
from typing import Any

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.servers.dynamodb import ThrottledRequest
from load.emulators.template import Template

__all__ = [
    "Alarm",
    "CloudWatch",
    "Metric",
    "Query",
    "State",
    "read_alarms",
]

_EVALUATION_SECONDS = 60
"""Seconds; alarms on shorter periods are not supported."""

_FILLED_METRIC = re.compile(r"FILL\((?P<name>\w+), *(?P<default>\d+)\)")

_EXTRA_PERIODS = 2
"""Periods before the evaluation periods that are read where some have no data."""


class State(str, Enum):
    """Of an alarm."""

    OK = "OK"
    ALARM = "ALARM"
    INSUFFICIENT_DATA = "INSUFFICIENT_DATA"


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
class Query:
    """One entry of an alarm's metrics: a metric, or an expression."""

    name: str  # its Id
    metric: Metric | None = None
    statistic: str = ""  # Sum, Maximum, p99
    expression: str = ""  # a sum of FILL(id, number) over the other entries


@dataclass(frozen=True, slots=True)
class Alarm:
    """An ``AWS::CloudWatch::Alarm``."""

    name: str  # logical id
    queries: Mapping[str, Query]
    result_query: str  # the one that is compared
    period: int  # seconds
    evaluation_periods: int
    datapoints_to_alarm: int
    comparison: str  # GreaterThanThreshold and so on
    threshold: float
    treat_missing_data: str = "missing"  # or ignore, breaching, notBreaching

    @property
    def missing_data_treatment(self) -> str:
        """How missing data is treated: of DynamoDB's own metrics it is always ignored."""
        metric = self.queries[self.result_query].metric
        is_dynamodbs = metric is not None and metric.namespace == "AWS/DynamoDB"
        return "ignore" if is_dynamodbs else self.treat_missing_data

    def breaches(self, value: float) -> bool:
        """Whether ``value`` is on the wrong side of the threshold."""
        return _COMPARISONS[self.comparison](value, self.threshold)


_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanOrEqualToThreshold": operator.le,
    "LessThanThreshold": operator.lt,
}


@dataclass(slots=True)
class CloudWatch:
    """Metrics, and what alarms make of them. Times are seconds since the epoch."""

    _values: dict[Metric, list[tuple[float, float]]] = field(default_factory=dict)

    # --- putting

    def read(self, text: str) -> int:
        """Read metrics from a function's log; other lines are skipped.

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

    def datapoint(self, metric: Metric, statistic: str, start: float, end: float) -> float | None:
        """The statistic of a period; None if it has no value."""
        values = self.values(metric, start, end)
        return _statistic(statistic, values) if values else None

    def series(
        self, queries: Mapping[str, Query], wanted: str, periods: Sequence[tuple[float, float]]
    ) -> list[float | None]:
        """The datapoints of a query, an expression included, one for each period."""
        query = queries.get(wanted)
        if query is None:
            raise ConfigurationError(
                f"metric math names {wanted!r}, which is not among the metrics"
            )
        if query.metric is not None:
            return [self.datapoint(query.metric, query.statistic, *each) for each in periods]
        totals = [0.0] * len(periods)
        for term in query.expression.split("+"):
            filled = _FILLED_METRIC.fullmatch(term.strip())
            if filled is None:
                raise ConfigurationError(
                    f"this metric math is not supported: {query.expression}: write a sum of "
                    "FILL(id, number)"
                )
            values = self.series(queries, filled["name"], periods)
            default = float(filled["default"])
            for number, value in enumerate(values):
                totals[number] += default if value is None else value
        return list(totals)

    # --- alarms

    def state(self, alarm: Alarm, *, at: float, before: State = State.INSUFFICIENT_DATA) -> State:
        """The state of an alarm when it is evaluated.

        Args:
            alarm: The alarm.
            at: When; the periods that end then and before are read.
            before: Its state until now.
        """
        count = alarm.evaluation_periods + _EXTRA_PERIODS
        ends = [at - number * alarm.period for number in reversed(range(count))]
        periods = [(end - alarm.period, end) for end in ends]
        return evaluate_alarm(
            alarm, self.series(alarm.queries, alarm.result_query, periods), before=before
        )

    def states(self, alarm: Alarm) -> Iterator[tuple[float, State]]:
        """Its state at each evaluation, until long after the last value."""
        times = [at for values in self._values.values() for at, _ in values]
        if not times:
            return
        first, last = min(times), max(times)
        at = (first // _EVALUATION_SECONDS + 1) * _EVALUATION_SECONDS
        quiet = alarm.period * (alarm.evaluation_periods + _EXTRA_PERIODS + 1)
        state = State.INSUFFICIENT_DATA
        while at <= last + quiet:
            state = self.state(alarm, at=at, before=state)
            yield at, state
            at += _EVALUATION_SECONDS

    def has_reached(self, alarm: Alarm) -> bool:
        """Whether it ever was in ``ALARM``."""
        return any(state is State.ALARM for _, state in self.states(alarm))

    def is_over(self, alarm: Alarm) -> bool:
        """Whether, with no more values to come, it ends in another state than ``ALARM``."""
        states = [state for _, state in self.states(alarm)]
        return not states or states[-1] is not State.ALARM


def evaluate_alarm(alarm: Alarm, datapoints: Sequence[float | None], *, before: State) -> State:
    """Decide an alarm's state from the datapoints of its evaluation range, the oldest first."""
    real = [alarm.breaches(value) for value in datapoints if value is not None]
    wanted, looked_at = alarm.datapoints_to_alarm, alarm.evaluation_periods
    if len(real) >= looked_at:
        return State.ALARM if sum(real[-looked_at:]) >= wanted else State.OK
    breaching = sum(real)
    if alarm.missing_data_treatment == "breaching":
        breaching += looked_at - len(real)
    if breaching >= wanted:
        return State.ALARM
    if alarm.missing_data_treatment in {"breaching", "notBreaching"} or not all(real):
        return State.OK
    # All datapoints breach, and they are too few.
    if alarm.missing_data_treatment == "ignore":
        return before
    if not real:
        return State.INSUFFICIENT_DATA
    oldest = next(index for index, value in enumerate(datapoints) if value is not None)
    periods_ago = len(datapoints) - oldest
    return State.ALARM if periods_ago >= wanted else before


# --- statistics


_STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "Average": fmean,
    "Maximum": max,
    "Minimum": min,
    "SampleCount": len,
    "Sum": math.fsum,
}


def _statistic(name: str, values: Sequence[float]) -> float:
    if name in _STATISTICS:
        return _STATISTICS[name](values)
    try:
        share = float(name.removeprefix("p"))
    except ValueError:
        share = -1.0
    if not name.startswith("p") or not 0 < share <= 100:
        known = ", ".join(sorted(_STATISTICS))
        raise ConfigurationError(f"the statistic {name!r} is not supported: {known}, p99")
    ordered = sorted(values)
    return ordered[math.ceil(share / 100 * len(ordered)) - 1]


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
    read = Template.read(template, values)
    return {
        name: _alarm(name, properties)
        for name, properties in read.of_type("AWS::CloudWatch::Alarm").items()
    }


def _alarm(name: str, document: Mapping[str, Any]) -> Alarm:
    try:
        queries, result_query, period = _queries(document)
        alarm = Alarm(
            name=name,
            queries=queries,
            result_query=result_query,
            period=period,
            evaluation_periods=int(document["EvaluationPeriods"]),
            datapoints_to_alarm=int(
                document.get("DatapointsToAlarm", document["EvaluationPeriods"])
            ),
            comparison=document["ComparisonOperator"],
            threshold=float(document["Threshold"]),
            treat_missing_data=document.get("TreatMissingData", "missing"),
        )
    except KeyError as missing:
        raise ConfigurationError(f"the alarm {name} has no {missing}") from missing
    if alarm.comparison not in _COMPARISONS or alarm.period % _EVALUATION_SECONDS:
        raise ConfigurationError(
            f"the alarm {name}: {alarm.comparison} over {alarm.period} s is not supported"
        )
    return alarm


def _queries(document: Mapping[str, Any]) -> tuple[dict[str, Query], str, int]:
    """What an alarm reads, which of it is compared, and over which period."""
    if "Metrics" not in document:
        statistic = document.get("ExtendedStatistic") or document["Statistic"]
        return {"m1": Query("m1", _metric(document), statistic)}, "m1", int(document["Period"])
    queries, periods = {}, set()
    for entry in document["Metrics"]:
        name = entry["Id"]
        if "Expression" in entry:
            queries[name] = Query(name, expression=entry["Expression"])
        else:
            stat = entry["MetricStat"]
            queries[name] = Query(name, _metric(stat["Metric"]), stat["Stat"])
            periods.add(int(stat["Period"]))
    result_query = [e["Id"] for e in document["Metrics"] if e.get("ReturnData", True) is not False]
    if len(result_query) != 1 or len(periods) != 1:
        raise ConfigurationError(
            "an alarm watches one of its metrics (ReturnData), and all have one period; here: "
            f"{', '.join(result_query) or 'none'}, over {', '.join(map(str, sorted(periods)))} s"
        )
    return queries, result_query[0], periods.pop()


def _metric(document: Mapping[str, Any]) -> Metric:
    dimensions = {each["Name"]: str(each["Value"]) for each in document.get("Dimensions", ())}
    return Metric.of(document["Namespace"], document["MetricName"], **dimensions)
