"""Each alarm of template.yaml is reached by its fault, and by no deployment without a fault.

The output and the log lines are those of docs/runbooks/alarms.md.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from tests.drills.drill import Drill
from tests.drills.page import Page
from tests.drills.service import (
    BROKEN,
    SLOW,
    V1,
    V2,
    code,
    deploy_version,
    read_cloudwatch,
    template_alarms,
)
from tests.stage import Stage, busy, running, until

PAGE = "alarms.md"


def reached_alarms(stage: Stage, *functions: LocalFunction, **parameters: str) -> set[str]:
    """Names of the alarms that were in ALARM at some time."""
    cloudwatch = read_cloudwatch(stage, *functions)
    return {
        name
        for name, alarm in template_alarms(stage, **parameters).items()
        if cloudwatch.has_reached(alarm)
    }


def check_section(stage: Stage, alarm: str, code: Path, *functions: LocalFunction) -> None:
    """Require the log lines and the output in the alarm's section."""
    drill = Drill(PAGE, stage, code)
    drill.functions.extend(functions)
    drill.check_symptoms(alarm)


def test_an_ordinary_deployment_of_20_cold_starts_raises_no_alarm(stage: Stage) -> None:
    slow = code(stage, {**V1, "0002_add_status": SLOW.format(seconds=1)})
    with deploy_version(stage, slow) as function:
        assert all(result.ok for result in function.storm(20))
        assert read_cloudwatch(stage, function).metrics()
        assert reached_alarms(stage, function) == set()


def test_a_failing_migration(stage: Stage) -> None:
    broken = code(stage, {**V1, "0002_set_state": BROKEN})
    with deploy_version(stage, broken) as function:
        assert function.invoke().payload["statusCode"] == 503
        assert reached_alarms(stage, function) == {"MigrationFailedAlarm", "NotReadyAlarm"}
        check_section(stage, "MigrationFailedAlarm", broken, function)
        cloudwatch = read_cloudwatch(stage, function)
        assert cloudwatch.is_over(template_alarms(stage)["MigrationFailedAlarm"])


def test_a_killed_holder(stage: Stage) -> None:
    slow = code(stage, {**V1, "0002_add_status": SLOW.format(seconds=120)})
    fixed = code(stage, V2)
    with deploy_version(stage, slow) as first, deploy_version(stage, fixed) as second:
        answer = first.submit()
        until(running(stage, "pg_sleep"), what="migration 2 runs")
        [holder] = busy(first)
        os.kill(holder.pid, signal.SIGKILL)
        assert answer.result().status == "crashed"
        assert second.invoke().payload["statusCode"] == 200
        assert reached_alarms(stage, first, second) == {"LeaseTakeoverAlarm"}
        check_section(stage, "LeaseTakeoverAlarm", fixed, second)


def test_a_held_lease_and_waiting_instances(stage: Stage) -> None:
    """Lower thresholds, which are parameters, keep the test short."""
    short = {"LeaseWaitTimeThreshold": "900", "LeaseHeldTimeThreshold": "900"}
    slow = code(stage, {**V1, "0002_add_status": SLOW.format(seconds=120)})
    with (
        deploy_version(stage, slow) as holding,
        deploy_version(stage, slow, wait_seconds="1") as waiting,
    ):
        answer = holding.submit()
        until(running(stage, "pg_sleep"), what="migration 2 runs")
        until(
            lambda: reached_alarms(stage, holding, **short) == {"LeaseHeldTimeAlarm"},
            what="the alarm is reached while the lease is held",
        )
        check_section(stage, "LeaseHeldTimeAlarm", slow)
        assert waiting.invoke().payload["statusCode"] == 503
        assert reached_alarms(stage, waiting, **short) == {"LeaseWaitTimeAlarm", "NotReadyAlarm"}
        check_section(stage, "LeaseWaitTimeAlarm", slow, waiting)
        assert not answer.done()
        assert reached_alarms(stage, holding, waiting) == {"NotReadyAlarm"}, (
            "the default thresholds are higher"
        )


def test_slow_checks(stage: Stage) -> None:
    """tests/unit/local/test_template_alarms.py tests how slow and how long, without waiting."""
    current = code(stage, V2)
    with deploy_version(stage, current) as function:
        assert function.invoke().ok
        assert function.storm(1)[0].ok
        check_section(stage, "ColdStartCheckTimeAlarm", current, function)


def test_every_alarm_of_the_template_has_a_section_and_a_drill(stage: Stage) -> None:
    page = Page.read(PAGE)
    assert set(page.sections) == set(template_alarms(stage))
    source = Path(__file__).read_text()
    assert all(f'check_section(stage, "{name}"' in source for name in page.sections)


def test_code_whose_schema_is_not_ready(stage: Stage) -> None:
    ahead = code(stage, V2)
    with deploy_version(stage, ahead, mode="require", wait_seconds="1") as function:
        assert function.invoke().payload["statusCode"] == 503
        assert reached_alarms(stage, function) == {"NotReadyAlarm"}
        check_section(stage, "NotReadyAlarm", ahead, function)
        assert function.invoke().payload["statusCode"] == 200


def test_a_throttled_table(own_stage: Stage) -> None:
    stage, current = own_stage, code(own_stage, V2)
    with deploy_version(stage, current) as function:
        assert function.invoke().ok
        assert isinstance(stage.dynamodb, LocalDynamoDB)
        stage.dynamodb.throttle(1)
        assert function.storm(1)[0].payload["statusCode"] == 200
        assert reached_alarms(stage, function) == {"TableThrottledAlarm"}
        check_section(stage, "TableThrottledAlarm", current, function)
        assert read_cloudwatch(stage, function).is_over(
            template_alarms(stage)["TableThrottledAlarm"]
        )
