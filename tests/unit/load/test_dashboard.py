"""The template's dashboard shows what the library emits."""

from __future__ import annotations

from pathlib import Path

from lambda_migrate.aws.telemetry import METRICS
from load.dashboard import draw, read_widgets
from load.emulators.cloudwatch import CloudWatch, Metric, read_alarms

TEMPLATE = Path(__file__).parents[3] / "template.yaml"
VALUES = {"LeaseTable": "leases", "Target": "orders"}


def test_every_metric_of_the_library_is_shown_under_its_dimensions() -> None:
    shown = {
        query.metric
        for widget in read_widgets(TEMPLATE, VALUES)
        for _, query in widget.series
        if query.metric is not None
    }
    own = {metric for metric in shown if metric.namespace == "Orders"}
    assert {metric.name for metric in own} == set(METRICS)
    dimensions = frozenset({("service", "orders"), ("target", "orders")})
    assert {metric.dimensions for metric in own} == {dimensions}


def test_every_alarm_is_shown() -> None:
    [widget] = [each for each in read_widgets(TEMPLATE, VALUES) if each.alarms]
    assert set(widget.alarms) == set(read_alarms(TEMPLATE, VALUES))


def test_picture_shows_which_alarms_were_reached(tmp_path: Path) -> None:
    cloudwatch = CloudWatch()
    failed = Metric.of("Orders", "MigrationFailed", service="orders", target="orders")
    cloudwatch.put(failed, 1.0, at=1_790_000_000.0)
    alarms = read_alarms(TEMPLATE, VALUES)
    picture = tmp_path / "dashboard.svg"
    draw(read_widgets(TEMPLATE, VALUES), alarms, cloudwatch, picture)
    text = picture.read_text()
    assert text.count("was in ALARM") == 1
    assert text.count("OK all the time") == len(alarms) - 1
