"""Draw template.yaml's dashboard: ``python -m load.dashboard [picture.svg]``.

Its figures come from two minutes on this machine: releases, a throttled table, a lease holder that
is killed, a failing migration. Periods are 5 s instead of 60 s.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load import charts
from load.emulators.cloudwatch import Alarm, CloudWatch, Metric, Query, read_alarms
from load.emulators.template import Template

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Widget", "draw", "main", "read_widgets"]

_ROOT = Path(__file__).parents[1]
_PERIOD = 5
_TABLE, _TARGET = "leases", "orders"
_COLOURS = (charts.BLUE, "#c2255c", charts.ORANGE, charts.GREEN)


def main() -> int:
    """Run the service and draw the picture."""
    parser = argparse.ArgumentParser(prog="python -m load.dashboard", description=__doc__)
    default = _ROOT / "docs" / "images" / "dashboard.svg"
    parser.add_argument("picture", type=Path, nargs="?", default=default)
    picture: Path = parser.parse_args().picture
    template, values = _ROOT / "template.yaml", {"LeaseTable": _TABLE, "Target": _TARGET}
    widgets, alarms = read_widgets(template, values), read_alarms(template, values)
    draw(widgets, alarms, _run_service(), picture)
    print(picture)
    return 0


# --- the template's widgets


@dataclass(frozen=True, slots=True)
class Widget:
    """A widget's title, and the metrics that it shows, with their labels."""

    title: str
    series: tuple[tuple[str, Query], ...] = ()
    alarms: tuple[str, ...] = ()  # logical ids, of the widget of alarms


def read_widgets(template: Path, values: Mapping[str, str] | None = None) -> list[Widget]:
    """The widgets of a template's dashboard; see `Template` for the values."""
    properties = Template.read(template, values).properties("Dashboard")
    widgets = (one["properties"] for one in json.loads(properties["DashboardBody"])["widgets"])
    return [
        Widget(
            one["title"],
            tuple(map(_read_series, one.get("metrics", ()))),
            tuple(arn.partition(".")[0] for arn in one.get("alarms", ())),
        )
        for one in widgets
    ]


def _read_series(entry: Sequence[Any]) -> tuple[str, Query]:
    *words, options = entry
    namespace, name, *pairs = words
    dimensions = dict(zip(pairs[::2], pairs[1::2], strict=True))
    query = Query(name, Metric.of(namespace, name, **dimensions), options["stat"])
    return options.get("label", name), query


# --- the picture


def draw(
    widgets: Sequence[Widget], alarms: Mapping[str, Alarm], cloudwatch: CloudWatch, path: Path
) -> None:
    """Draw the widgets as SVG."""
    metrics = [widget for widget in widgets if widget.series]
    rows = -(-len(metrics) // 2)
    with charts.style():
        figure = Figure(figsize=(11, 0.8 + 2.2 * rows), layout="constrained")
        axes = figure.subplots(rows, 2, squeeze=False)
        for panel, widget in zip(axes.flat, metrics, strict=False):
            _draw_series(panel, widget, cloudwatch)
        names = [name for widget in widgets for name in widget.alarms]
        states = {name: cloudwatch.has_reached(alarms[name]) for name in names}
        texts = [
            f"{name.removesuffix('Alarm')}: {'was in ALARM' if reached else 'OK all the time'}"
            for name, reached in states.items()
        ]
        half = -(-len(texts) // 2)
        lines = ["     ".join(texts[:half]), "     ".join(texts[half:])]
        figure.suptitle("\n".join(lines), fontsize=8)
        charts.save(figure, path)


def _draw_series(axes: Axes, widget: Widget, cloudwatch: CloudWatch) -> None:
    """Counts as bars, times as lines."""
    periods = _periods(cloudwatch)
    first = periods[0][0]
    width = 0.9 * _PERIOD / len(widget.series)
    for number, (label, query) in enumerate(widget.series):
        values = cloudwatch.series({"m": query}, "m", periods)
        points = [(at - first, v) for (at, _), v in zip(periods, values, strict=True) if v]
        points = points or [(0.0, 0.0)]  # or else the legend has the wrong colour
        times, heights = [at for at, _ in points], [value for _, value in points]
        style: dict[str, Any] = {"color": _COLOURS[number], "label": label}
        if query.statistic == "Sum":
            axes.bar([at + number * width for at in times], heights, width, align="edge", **style)
        else:
            axes.plot([at + _PERIOD / 2 for at in times], heights, "o-", ms=3, lw=1.2, **style)
    axes.set(title=widget.title, xlabel="seconds", xlim=(0, periods[-1][1] - first))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
    axes.legend(frameon=False, fontsize=7, loc="upper left", ncols=2)


def _periods(cloudwatch: CloudWatch) -> list[tuple[float, float]]:
    span = cloudwatch.span
    assert span is not None  # noqa: S101 - a run emits metrics
    first, last = int(span[0] // _PERIOD), int(span[1] // _PERIOD)
    return [(n * _PERIOD, (n + 1) * _PERIOD) for n in range(first, last + 1)]


# --- two minutes of a service

_HANDLER = """
from lambda_migrate import migrate_on_cold_start, service_unavailable

@migrate_on_cold_start(on_not_ready=service_unavailable)
def handler(event, context):
    return {"statusCode": 200}
"""

_FIRST = {"0001_create_orders": "CREATE TABLE orders (id bigint PRIMARY KEY);"}
_SECOND = {
    **_FIRST,
    "0002_add_status": "ALTER TABLE orders ADD COLUMN status text; SELECT pg_sleep(8);",
}
_HANGING = {**_SECOND, "0003_note": "SELECT pg_sleep(60);"}
_THIRD = {**_SECOND, "0003_note": "ALTER TABLE orders ADD COLUMN note text;"}
_BROKEN = {**_THIRD, "0004_set_state": "UPDATE orders SET state = 'open';"}

_UNITS = {"GetItem": "ConsumedReadCapacityUnits", "UpdateItem": "ConsumedWriteCapacityUnits"}
"""One unit each: an item below 1 KB, as if each read were strongly consistent."""


def _run_service() -> CloudWatch:
    """Run it; returns all that was measured."""
    cloudwatch = CloudWatch()
    with (
        tempfile.TemporaryDirectory() as home,
        LocalPostgreSQL(databases=["orders"]) as server,
        LocalDynamoDB() as dynamodb,
    ):
        dynamodb.create_table(_TABLE)

        @contextmanager
        def deploy(version: str, migrations: Mapping[str, str]) -> Iterator[LocalFunction]:
            code = Path(home) / version
            (code / "migrations").mkdir(parents=True)
            (code / "app.py").write_text(_HANDLER)
            for name, script in migrations.items():
                text = f"-- migrate:up\n{script}\n-- migrate:down\n"
                (code / "migrations" / f"{name}.sql").write_text(text)
            variables = {
                "AWS_ENDPOINT_URL_DYNAMODB": dynamodb.endpoint_url,
                "LAMBDA_MIGRATE_TABLE": _TABLE,
                "LAMBDA_MIGRATE_TARGET": _TARGET,
                "LAMBDA_MIGRATE_DATABASE_URL": server.url("orders"),
                "LAMBDA_MIGRATE_LEASE_SECONDS": "6",
                "POWERTOOLS_METRICS_NAMESPACE": "Orders",
                "POWERTOOLS_SERVICE_NAME": "orders",
            }
            with LocalFunction(
                code=code, environment=variables, name=version, timeout=60
            ) as function:
                yield function
                for view in function.environments():
                    cloudwatch.read(function.logs(view.environment_id))

        print("first release: 10 cold starts")
        with deploy("v1", _FIRST) as function:
            function.storm(10)
            _start_slowly(function, 15)
            print("second release, with a migration of 8 s: 20 cold starts at once")
            with deploy("v2", _SECOND) as newer:
                newer.storm(20)
                _start_slowly(newer, 15)
                print("throttled table: 10 cold starts")
                dynamodb.throttle(15)
                newer.storm(10)
                _start_slowly(newer, 10)
        print("a lease holder is killed, and another takes over")
        with deploy("v3", _HANGING) as function:
            answer = function.submit()
            time.sleep(12)
            [holder] = [view for view in function.environments() if view.state == "busy"]
            os.kill(holder.pid, signal.SIGKILL)
            answer.result()
        with deploy("v3-fixed", _THIRD) as function:
            function.storm(5)
            _start_slowly(function, 10)
        print("a failing migration: 5 cold starts")
        with deploy("v4", _BROKEN) as function:
            function.storm(5)
        cloudwatch.put_throttled(dynamodb.throttled())
        for tenth, counts in dynamodb.rates().items():
            for operation, name in _UNITS.items():
                if counts[operation]:
                    metric = Metric.of("AWS/DynamoDB", name, TableName=_TABLE)
                    cloudwatch.put(metric, counts[operation], at=tenth / 10)
    return cloudwatch


def _start_slowly(function: LocalFunction, count: int) -> None:
    """About a cold start a second, as growing traffic causes them."""
    for _ in range(count):
        function.storm(1)
        time.sleep(0.8)


if __name__ == "__main__":
    sys.exit(main())
