"""The alarms of template.yaml whose times are too long to wait for, with their own thresholds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lambda_migrate.aws.telemetry import PowertoolsObserver
from lambda_migrate.events import CheckSucceeded, Event, LeaseHeldTime
from lambda_migrate.local.cloudwatch import Alarm, CloudWatch, read_alarms

NOON = 1_790_000_040.0


@pytest.fixture(scope="module")
def alarms() -> dict[str, Alarm]:
    return read_alarms(Path(__file__).parents[3] / "template.yaml")


@pytest.fixture
def cloudwatch() -> CloudWatch:
    return CloudWatch()


@pytest.fixture
def store_values(
    cloudwatch: CloudWatch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[float, Event], None]:
    """Let an event happen so many seconds after noon, and CloudWatch read what was printed."""
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Orders")
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "orders")
    observer = PowertoolsObserver()

    def store_values(seconds: float, event: Event) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("time.time", lambda: NOON + seconds)
            observer.observe(event)
        assert cloudwatch.put_log(capsys.readouterr().out)

    return store_values


def check(seconds: float, *, waited: float = 0.0) -> CheckSucceeded:
    outcome = "WAITED" if waited else "UP_TO_DATE"
    return CheckSucceeded("orders", "d", outcome, seconds, waited, 1, (), 0, "me")


def test_lease_held_for_more_than_five_minutes_reaches_its_alarm(
    alarms: dict[str, Alarm], cloudwatch: CloudWatch, store_values: Callable[[float, Event], None]
) -> None:
    alarm = alarms["LeaseHeldTimeAlarm"]
    for beat in range(1, 45):
        store_values(beat * 20 / 3, LeaseHeldTime("orders", 7, beat * 20 / 3, is_final=False))
    assert not cloudwatch.was_triggered(alarm), "293 s are not too long yet"
    store_values(306.0, LeaseHeldTime("orders", 7, 306.0, is_final=False))
    assert cloudwatch.is_in_alarm(alarm, at=NOON + 360)
    store_values(420.0, LeaseHeldTime("orders", 7, 420.0, is_final=True))
    assert cloudwatch.ends_ok(alarm)


@pytest.mark.parametrize(("waited", "is_paged"), [(19.0, False), (21.0, True)])
def test_wait_of_more_than_twenty_seconds_reaches_its_alarm(
    alarms: dict[str, Alarm],
    cloudwatch: CloudWatch,
    store_values: Callable[[float, Event], None],
    waited: float,
    is_paged: bool,
) -> None:
    store_values(30.0, check(waited + 0.1, waited=waited))
    assert cloudwatch.was_triggered(alarms["LeaseWaitTimeAlarm"]) is is_paged


@pytest.mark.parametrize(("minutes", "is_paged"), [(4, False), (15, True)])
def test_slow_checks_in_three_periods_reach_their_alarm(
    alarms: dict[str, Alarm],
    cloudwatch: CloudWatch,
    store_values: Callable[[float, Event], None],
    minutes: int,
    is_paged: bool,
) -> None:
    for minute in range(30):
        slow = minute < minutes
        store_values(minute * 60.0 + 1, check(1.5 if slow else 0.05))
        store_values(minute * 60.0 + 2, check(0.05 if not slow else 1.1))
    alarm = alarms["ColdStartCheckTimeAlarm"]
    assert cloudwatch.was_triggered(alarm) is is_paged
    assert cloudwatch.ends_ok(alarm)


def test_a_few_slow_checks_reach_no_alarm(
    alarms: dict[str, Alarm], cloudwatch: CloudWatch, store_values: Callable[[float, Event], None]
) -> None:
    for number in range(900):
        store_values(number, check(9.0 if number % 12 == 0 else 0.05))
    assert not cloudwatch.was_triggered(alarms["ColdStartCheckTimeAlarm"])
