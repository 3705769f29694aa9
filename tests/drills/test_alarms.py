"""Each alarm of template.yaml is reached by the fault that it is for, and by no quiet deployment.

And whoever is paged finds what docs/runbooks/alarms.md shows.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from tests.drills.page import Page
from tests.drills.play import Play
from tests.drills.service import (
    BROKEN,
    SLOW,
    V1,
    V2,
    alarms,
    code,
    deployed,
    measured,
)
from tests.stage import Stage, busy, running, until

PAGE = "alarms.md"


def reached(stage: Stage, *functions: LocalFunction, **parameters: str) -> set[str]:
    """The alarms that were in ALARM at some time."""
    cloudwatch = measured(stage, *functions)
    return {
        name for name, alarm in alarms(stage, **parameters).items() if cloudwatch.has_reached(alarm)
    }


def look(stage: Stage, alarm: str, code: Path, *functions: LocalFunction) -> None:
    """See what the alarm's section shows."""
    play = Play(PAGE, stage, code)
    play.functions.extend(functions)
    play.see(alarm)


def test_an_ordinary_deployment_of_20_cold_starts_raises_no_alarm(stage: Stage) -> None:
    slow = code(stage, {**V1, "0002_add_status": SLOW.format(seconds=1)})
    with deployed(stage, slow) as function:
        assert all(result.ok for result in function.storm(20))
        assert measured(stage, function).metrics()
        assert reached(stage, function) == set()


def test_a_migration_that_fails(stage: Stage) -> None:
    broken = code(stage, {**V1, "0002_set_state": BROKEN})
    with deployed(stage, broken) as function:
        assert function.invoke().payload["statusCode"] == 503
        assert reached(stage, function) == {"MigrationFailedAlarm", "NotReadyAlarm"}
        look(stage, "MigrationFailedAlarm", broken, function)
        cloudwatch = measured(stage, function)
        assert cloudwatch.is_over(alarms(stage)["MigrationFailedAlarm"])


def test_a_holder_that_dies(stage: Stage) -> None:
    doomed = code(stage, {**V1, "0002_add_status": SLOW.format(seconds=120)})
    fixed = code(stage, V2)
    with deployed(stage, doomed) as first, deployed(stage, fixed) as second:
        answer = first.submit()
        until(running(stage, "pg_sleep"), what="migration 2 runs")
        [holder] = busy(first)
        os.kill(holder.pid, signal.SIGKILL)
        assert answer.result().status == "crashed"
        assert second.invoke().payload["statusCode"] == 200
        assert reached(stage, first, second) == {"LeaseTakeoverAlarm"}
        look(stage, "LeaseTakeoverAlarm", fixed, second)


def test_a_held_lease_and_waiting_instances(stage: Stage) -> None:
    """Of the alarms' times only seconds are waited: their thresholds are parameters."""
    short = {"LeaseWaitTimeThreshold": "900", "LeaseHeldTimeThreshold": "900"}
    slow = code(stage, {**V1, "0002_add_status": SLOW.format(seconds=120)})
    with deployed(stage, slow) as holding, deployed(stage, slow, wait_seconds="1") as waiting:
        answer = holding.submit()
        until(running(stage, "pg_sleep"), what="migration 2 runs")
        until(
            lambda: reached(stage, holding, **short) == {"LeaseHeldTimeAlarm"},
            what="the alarm is reached while the lease is held",
        )
        look(stage, "LeaseHeldTimeAlarm", slow)
        assert waiting.invoke().payload["statusCode"] == 503
        assert reached(stage, waiting, **short) == {"LeaseWaitTimeAlarm", "NotReadyAlarm"}
        look(stage, "LeaseWaitTimeAlarm", slow, waiting)
        assert not answer.done()
        assert reached(stage, holding, waiting) == {"NotReadyAlarm"}, "the others expect as much"


def test_slow_checks(stage: Stage) -> None:
    """How slow for how long is for tests/unit/local/test_template_alarms.py, without waiting."""
    current = code(stage, V2)
    with deployed(stage, current) as function:
        assert function.invoke().ok
        assert function.storm(1)[0].ok
        look(stage, "ColdStartCheckTimeAlarm", current, function)


def test_every_alarm_of_the_template_has_a_section_and_a_drill(stage: Stage) -> None:
    page = Page.read(PAGE)
    assert set(page.sections) == set(alarms(stage))
    source = Path(__file__).read_text()
    assert all(f'look(stage, "{name}"' in source for name in page.sections)


def test_code_whose_schema_is_not_ready(stage: Stage) -> None:
    ahead = code(stage, V2)
    with deployed(stage, ahead, mode="require", wait_seconds="1") as function:
        assert function.invoke().payload["statusCode"] == 503
        assert reached(stage, function) == {"NotReadyAlarm"}
        look(stage, "NotReadyAlarm", ahead, function)
        assert function.invoke().payload["statusCode"] == 200


def test_a_throttled_table(own_stage: Stage) -> None:
    stage, current = own_stage, code(own_stage, V2)
    with deployed(stage, current) as function:
        assert function.invoke().ok
        assert isinstance(stage.dynamodb, LocalDynamoDB)
        stage.dynamodb.throttle(1)
        assert function.storm(1)[0].payload["statusCode"] == 200
        assert reached(stage, function) == {"TableThrottledAlarm"}
        look(stage, "TableThrottledAlarm", current, function)
        assert measured(stage, function).is_over(alarms(stage)["TableThrottledAlarm"])
