"""Each alarm of template.yaml is triggered by its fault, and by no deployment without a fault.

The output and the log lines are those of docs/runbooks/alarms.md.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from lambda_migrate.local.cloudwatch import CloudWatch
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
from tests.sandbox import Sandbox, busy, running, until

PAGE = "alarms.md"


def reached_alarms(sandbox: Sandbox, *functions: LocalFunction, **parameters: str) -> set[str]:
    """Names of the alarms that were in ALARM at some time."""
    cloudwatch = read_cloudwatch(sandbox, *functions)
    return {
        name
        for name, alarm in template_alarms(sandbox, **parameters).items()
        if cloudwatch.was_triggered(alarm)
    }


def check_section(sandbox: Sandbox, alarm: str, code: Path, *functions: LocalFunction) -> None:
    """Require the log lines and the output in the alarm's section."""
    drill = Drill(PAGE, sandbox, code)
    drill.functions.extend(functions)
    drill.check_symptoms(alarm)


def test_an_ordinary_deployment_of_20_cold_starts_raises_no_alarm(sandbox: Sandbox) -> None:
    slow = code(sandbox, {**V1, "0002_add_status": SLOW.format(seconds=1)})
    with deploy_version(sandbox, slow) as function:
        assert all(result.ok for result in function.storm(20))
        assert read_cloudwatch(sandbox, function).metrics()
        assert reached_alarms(sandbox, function) == set()


def test_a_failing_migration(sandbox: Sandbox) -> None:
    broken = code(sandbox, {**V1, "0002_set_state": BROKEN})
    with deploy_version(sandbox, broken) as function:
        assert function.invoke().payload["statusCode"] == 503
        assert reached_alarms(sandbox, function) == {"MigrationFailedAlarm", "NotReadyAlarm"}
        check_section(sandbox, "MigrationFailedAlarm", broken, function)
        cloudwatch = read_cloudwatch(sandbox, function)
        assert cloudwatch.ends_ok(template_alarms(sandbox)["MigrationFailedAlarm"])


def test_a_killed_holder(sandbox: Sandbox) -> None:
    slow = code(sandbox, {**V1, "0002_add_status": SLOW.format(seconds=120)})
    fixed = code(sandbox, V2)
    with deploy_version(sandbox, slow) as first, deploy_version(sandbox, fixed) as second:
        answer = first.submit()
        until(running(sandbox, "pg_sleep"), what="migration 2 runs")
        [holder] = busy(first)
        os.kill(holder.pid, signal.SIGKILL)
        assert answer.result().status == "crashed"
        assert second.invoke().payload["statusCode"] == 200
        assert reached_alarms(sandbox, first, second) == {"LeaseTakeoverAlarm"}
        check_section(sandbox, "LeaseTakeoverAlarm", fixed, second)


def test_a_held_lease_and_waiting_instances(sandbox: Sandbox) -> None:
    """Lower thresholds, which are parameters, keep the test short."""
    short = {"LeaseWaitTimeThreshold": "900", "LeaseHeldTimeThreshold": "900"}
    slow = code(sandbox, {**V1, "0002_add_status": SLOW.format(seconds=120)})
    with (
        deploy_version(sandbox, slow) as holding,
        deploy_version(sandbox, slow, wait_seconds="1") as waiting,
    ):
        answer = holding.submit()
        until(running(sandbox, "pg_sleep"), what="migration 2 runs")
        until(
            lambda: reached_alarms(sandbox, holding, **short) == {"LeaseHeldTimeAlarm"},
            what="the alarm is reached while the lease is held",
        )
        check_section(sandbox, "LeaseHeldTimeAlarm", slow)
        assert waiting.invoke().payload["statusCode"] == 503
        assert reached_alarms(sandbox, waiting, **short) == {"LeaseWaitTimeAlarm", "NotReadyAlarm"}
        check_section(sandbox, "LeaseWaitTimeAlarm", slow, waiting)
        assert not answer.done()
        assert reached_alarms(sandbox, holding, waiting) == {"NotReadyAlarm"}, (
            "the default thresholds are higher"
        )


def test_slow_checks(sandbox: Sandbox) -> None:
    """tests/unit/local/test_template_alarms.py tests how slow and how long, without waiting."""
    current = code(sandbox, V2)
    with deploy_version(sandbox, current) as function:
        assert function.invoke().ok
        assert function.storm(1)[0].ok
        check_section(sandbox, "ColdStartCheckTimeAlarm", current, function)


def test_three_periods_of_slow_checks(own_sandbox: Sandbox) -> None:
    """DynamoDB delays one check; its metrics are repeated for the two periods after."""
    sandbox, current = own_sandbox, code(own_sandbox, V2)
    assert isinstance(sandbox.dynamodb, LocalDynamoDB)
    with deploy_version(sandbox, current) as function:
        assert function.invoke().ok
        function.end_idle()
        [fresh] = function.start_environments(1)
        sandbox.dynamodb.pause()
        resume = threading.Timer(3.0, sandbox.dynamodb.resume)  # above the second that is slow
        resume.start()
        assert function.invoke().payload["statusCode"] == 200
        resume.join()
        slow, cloudwatch = CloudWatch(), CloudWatch()
        slow.put_log(function.logs(fresh))
    now = time.time()
    for metric in slow.metrics():
        for value in slow.values(metric):
            for period in range(3):
                cloudwatch.put(metric, value, at=now + 300 * period)
    alarms = template_alarms(sandbox)
    reached = {name for name, alarm in alarms.items() if cloudwatch.was_triggered(alarm)}
    assert reached == {"ColdStartCheckTimeAlarm"}


def test_every_alarm_of_the_template_has_a_section_and_a_drill(sandbox: Sandbox) -> None:
    page = Page.read(PAGE)
    assert set(page.sections) == set(template_alarms(sandbox))
    source = Path(__file__).read_text()
    assert all(f'check_section(sandbox, "{name}"' in source for name in page.sections)


def test_code_whose_schema_is_not_ready(sandbox: Sandbox) -> None:
    ahead = code(sandbox, V2)
    with deploy_version(sandbox, ahead, mode="require", wait_seconds="1") as function:
        assert function.invoke().payload["statusCode"] == 503
        assert reached_alarms(sandbox, function) == {"NotReadyAlarm"}
        check_section(sandbox, "NotReadyAlarm", ahead, function)
        assert function.invoke().payload["statusCode"] == 200


def test_a_throttled_table(own_sandbox: Sandbox) -> None:
    sandbox, current = own_sandbox, code(own_sandbox, V2)
    with deploy_version(sandbox, current) as function:
        assert function.invoke().ok
        assert isinstance(sandbox.dynamodb, LocalDynamoDB)
        sandbox.dynamodb.throttle(1)
        assert function.storm(1)[0].payload["statusCode"] == 200
        assert reached_alarms(sandbox, function) == {"TableThrottledAlarm"}
        check_section(sandbox, "TableThrottledAlarm", current, function)
        assert read_cloudwatch(sandbox, function).ends_ok(
            template_alarms(sandbox)["TableThrottledAlarm"]
        )
