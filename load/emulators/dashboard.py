"""A CloudWatch dashboard as a template has it: which metrics each of its widgets shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambda_migrate.errors import ConfigurationError
from load.emulators.cloudwatch import Metric, Query
from load.emulators.template import Template

__all__ = ["Series", "Widget", "read_dashboard"]


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a widget: what is read, and what it is called."""

    query: Query
    label: str


@dataclass(frozen=True, slots=True)
class Widget:
    """A widget and its place on a grid of 24 columns.

    Attributes:
        kind: ``metric`` or ``alarm``.
        title: Above it.
        place: Column, row, width and height.
        period: Seconds.
        series: Of a ``metric``.
        alarms: Logical ids, of an ``alarm``.
    """

    kind: str
    title: str
    place: tuple[int, int, int, int]
    period: int = 60
    series: Sequence[Series] = ()
    alarms: Sequence[str] = ()


def read_dashboard(
    template: Path, values: Mapping[str, str] | None = None, *, name: str = "Dashboard"
) -> list[Widget]:
    """The widgets of a template's dashboard.

    Args:
        template: A CloudFormation or SAM template.
        values: See `Template`.
        name: The dashboard's logical id.

    Raises:
        ConfigurationError: It cannot be read, or has a widget that is not known here.
    """
    body = json.loads(Template.read(template, values).properties(name)["DashboardBody"])
    return [_widget(said) for said in body["widgets"]]


def _widget(said: Mapping[str, Any]) -> Widget:
    about = said["properties"]
    place = (said["x"], said["y"], said["width"], said["height"])
    if said["type"] == "alarm":
        alarms = tuple(arn.partition(".")[0] for arn in about["alarms"])
        return Widget("alarm", about["title"], place, alarms=alarms)
    if said["type"] == "metric":
        series = tuple(_series(entry) for entry in about["metrics"])
        return Widget("metric", about["title"], place, about.get("period", 300), series)
    raise ConfigurationError(f"a widget of type {said['type']!r} is not known here")


def _series(entry: Sequence[Any]) -> Series:
    *words, options = entry if isinstance(entry[-1], dict) else [*entry, {}]
    namespace, metric, *pairs = words
    dimensions = dict(zip(pairs[::2], pairs[1::2], strict=True))
    query = Query(
        metric, Metric.of(namespace, metric, **dimensions), options.get("stat", "Average")
    )
    return Series(query, options.get("label", metric))
