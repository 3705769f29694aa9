"""The picture of the template's dashboard."""

from __future__ import annotations

from pathlib import Path

from load.dashboard.picture import draw
from load.emulators.cloudwatch import CloudWatch, Metric, read_alarms
from load.emulators.dashboard import read_dashboard

TEMPLATE = Path(__file__).parents[3] / "template.yaml"
VALUES = {"LeaseTable": "leases", "Target": "orders"}


def test_the_picture_says_what_was_measured_and_which_alarms_were_reached(tmp_path: Path) -> None:
    cloudwatch = CloudWatch()
    failed = Metric.of("Orders", "MigrationFailed", service="orders", target="orders")
    cloudwatch.put(failed, 1.0, at=1_790_000_000.0)
    alarms = read_alarms(TEMPLATE, VALUES)
    picture = tmp_path / "dashboard.svg"
    draw(read_dashboard(TEMPLATE, VALUES), alarms, cloudwatch, picture, period=5)
    text = picture.read_text()
    assert text.count("was in ALARM") == 1
    assert text.count("OK all the time") == len(alarms) - 1
