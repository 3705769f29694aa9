"""Breaks a small service in each way that somebody is to be paged for, and sees who would be.

On the rehearsal's own servers, but on databases and targets of its own: the data of the release is
left alone. What takes minutes in production (a lease held too long, checks that stay slow) takes
seconds here, by the template's own parameters or by telling what was measured once three times.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lambda_migrate.clock import Deadline
from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.runtime.process import ProcessError
from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.emulators.cloudwatch import Alarm, CloudWatch, read_alarms
from load.storm.stage import PRELOADED, TABLE, StormStage

__all__ = [
    "FAULTS",
    "NAMESPACE",
    "SERVICE",
    "Fault",
    "Reached",
    "alarms_of",
    "break_in_turn",
    "measured_of",
    "reached_of",
]

SERVICE, NAMESPACE = "orders", "Orders"
"""Dimension and namespace of all metrics of a rehearsal."""

_LEASE_SECONDS = "5"
"""The shortest that there is: its end is waited for."""

_SHORT = {"LeaseWaitTimeThreshold": "900", "LeaseHeldTimeThreshold": "900"}
"""Milliseconds: seconds are waited, not minutes."""

_LOWERED = "its threshold lowered to 0.9 s"

_SILENT_SECONDS = 3.0
"""Of DynamoDB: well above the second from which on a check is slow."""

_PERIOD = 300.0
"""Seconds, of the alarm on slow checks, which looks at three of them."""

_HANDLER = """\
from lambda_migrate import migrate_on_cold_start


@migrate_on_cold_start
def handler(event, context):
    return {"served": True}
"""

_CREATE = "-- migrate:up\nCREATE TABLE parcels (id bigint);\n-- migrate:down\nDROP TABLE parcels;\n"
_BROKEN = "-- migrate:up\nUPDATE parcels SET colour = 'red';\n-- migrate:down\n"
_SLOW = "-- migrate:up\nSELECT pg_sleep(120);\n-- migrate:down\n"


@dataclass(frozen=True, slots=True)
class Reached:
    """What came of a fault.

    Attributes:
        fault: Which.
        alarms: Those that were in ALARM at some time.
        metrics: Names of the metrics that were told.
        trouble: Why the fault could not be made; "" if it was.
    """

    fault: Fault
    alarms: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break it.

    Attributes:
        name: What happens.
        alarms: Logical ids of those that are for it, and no others.
        act: Makes it happen, and returns what CloudWatch would know.
        alone: Whether nothing else may go on meanwhile.
        parameters: Of the template, instead of its defaults.
        note: What is not as in production; "" if nothing.
    """

    name: str
    alarms: frozenset[str]
    act: Callable[[_Place], CloudWatch]
    alone: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def __str__(self) -> str:
        """Name and note."""
        return f"{self.name} ({self.note})" if self.note else self.name


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a fault is made: a database and a target of its own."""

    name: str
    stage: StormStage
    home: Path

    @property
    def server(self) -> LocalPostgreSQL:
        return self.stage.server

    def code(self, *migrations: str) -> Path:
        """A function with these migrations."""
        code = self.home / f"{self.name}-{len(list(self.home.glob(f'{self.name}-*')))}"
        (code / "migrations").mkdir(parents=True)
        (code / "app.py").write_text(_HANDLER)
        for number, text in enumerate(migrations, 1):
            (code / "migrations" / f"{number:04d}_step.sql").write_text(text)
        return code

    @contextmanager
    def deployed(self, code: Path, **settings: str) -> Iterator[LocalFunction]:
        """The function, ready to be invoked."""
        variables = {
            "AWS_ENDPOINT_URL_DYNAMODB": self.stage.dynamodb.endpoint_url,
            "DATABASE_URL": self.server.url(self.name),
            "LAMBDA_MIGRATE_TABLE": TABLE,
            "LAMBDA_MIGRATE_TARGET": self.name,
            "LAMBDA_MIGRATE_LEASE_SECONDS": _LEASE_SECONDS,
            "LAMBDA_MIGRATE_WAIT_SECONDS": "60",
            "POWERTOOLS_METRICS_NAMESPACE": NAMESPACE,
            "POWERTOOLS_SERVICE_NAME": SERVICE,
            **{f"LAMBDA_MIGRATE_{name.upper()}": value for name, value in settings.items()},
        }
        with LocalFunction(
            code=code, name=code.name, environment=variables, timeout=90, preload=PRELOADED
        ) as function:
            yield function

    def wait_until(self, condition: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
        """Let the real world come so far.

        Raises:
            ProcessError: It did not.
        """
        deadline = Deadline.after(seconds)
        while not condition():
            if deadline.is_over:
                raise ProcessError(f"not within {seconds:g} s: {what}")
            time.sleep(0.05)

    def is_migrating(self) -> bool:
        """Whether the slow migration is under way."""
        rows = self.server.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name LIKE 'lambda-migrate:%' AND state = 'active' "
            "AND query LIKE '%pg_sleep%'",
            database=self.name,
        )
        return bool(rows[0][0])


def measured_of(*functions: LocalFunction) -> CloudWatch:
    """What CloudWatch would know of functions by what they wrote."""
    cloudwatch = CloudWatch()
    for function in functions:
        for view in function.environments():
            cloudwatch.read(function.logs(view.environment_id))
    return cloudwatch


# -- the faults -----------------------------------------------------------------------------------


def _fails(place: _Place) -> CloudWatch:
    with place.deployed(place.code(_CREATE, _BROKEN)) as function:
        function.invoke()
        return measured_of(function)


def _dies(place: _Place) -> CloudWatch:
    doomed, fixed = place.code(_CREATE, _SLOW), place.code(_CREATE)
    with place.deployed(doomed) as first, place.deployed(fixed) as second:
        answer = first.submit()
        place.wait_until(place.is_migrating, "the migration runs")
        for view in first.environments():
            os.kill(view.pid, signal.SIGKILL)
        answer.result()
        second.invoke()
        return measured_of(first, second)


def _is_held(place: _Place) -> CloudWatch:
    with place.deployed(place.code(_CREATE, _SLOW)) as holding:
        holding.submit()
        place.wait_until(place.is_migrating, "the migration runs")
        place.wait_until(
            lambda: any(m.name == "LeaseHeldTime" for m in measured_of(holding).metrics()),
            "the holder has told how long it has been at it",
        )
        return measured_of(holding)


def _waits(place: _Place) -> CloudWatch:
    slow = place.code(_CREATE, _SLOW)
    with place.deployed(slow) as holding, place.deployed(slow, wait_seconds="1") as waiting:
        holding.submit()
        place.wait_until(place.is_migrating, "the migration runs")
        waiting.invoke()
        return measured_of(waiting)


def _is_not_ready(place: _Place) -> CloudWatch:
    code = place.code(_CREATE)
    with place.deployed(code, mode="require", wait_seconds="1") as function:
        function.invoke()
        return measured_of(function)


def _is_slow(place: _Place) -> CloudWatch:
    """DynamoDB keeps a check waiting; what it told is told again for the two periods after."""
    dynamodb = _throttling(place)
    with place.deployed(place.code(_CREATE)) as function:
        function.invoke()
        function.end_idle()
        [fresh] = function.start_environments(1)
        dynamodb.pause()
        resume = threading.Timer(_SILENT_SECONDS, dynamodb.resume)
        resume.start()
        try:
            function.invoke()
        finally:
            resume.join()
        return _told_again(function.logs(fresh))


def _told_again(log: str) -> CloudWatch:
    once, again = CloudWatch(), CloudWatch()
    once.read(log)
    now = time.time()
    for metric in once.metrics():
        for value in once.values(metric):
            for period in range(3):
                again.put(metric, value, at=now + period * _PERIOD)
    return again


def _is_throttled(place: _Place) -> CloudWatch:
    dynamodb = _throttling(place)
    with place.deployed(place.code(_CREATE)) as function:
        function.invoke()
        dynamodb.throttle(1)
        function.storm(1)
        cloudwatch = measured_of(function)
        cloudwatch.put_throttled(dynamodb.throttled())
        return cloudwatch


def _throttling(place: _Place) -> LocalDynamoDB:
    dynamodb = place.stage.dynamodb
    if not isinstance(dynamodb, LocalDynamoDB):
        raise ProcessError("this DynamoDB API can neither be slow nor refuse")
    return dynamodb


FAULTS = (
    Fault("a migration fails", frozenset({"MigrationFailedAlarm", "NotReadyAlarm"}), _fails),
    Fault("the one that migrates is killed", frozenset({"LeaseTakeoverAlarm"}), _dies),
    Fault(
        "a migration takes longer than expected",
        frozenset({"LeaseHeldTimeAlarm"}),
        _is_held,
        parameters=_SHORT,
        note=_LOWERED,
    ),
    Fault(
        "others wait for it until they give up",
        frozenset({"LeaseWaitTimeAlarm", "NotReadyAlarm"}),
        _waits,
        parameters=_SHORT,
        note=_LOWERED,
    ),
    Fault("code comes before its schema", frozenset({"NotReadyAlarm"}), _is_not_ready),
    Fault(
        "DynamoDB answers slowly, for a quarter of an hour",
        frozenset({"ColdStartCheckTimeAlarm"}),
        _is_slow,
        alone=True,
        note="one slow check, told three times, five minutes apart",
    ),
    Fault("the table refuses requests", frozenset({"TableThrottledAlarm"}), _is_throttled, True),
)


def break_in_turn(stage: StormStage, template: Path, home: Path) -> list[Reached]:
    """Make every fault, and see which alarms of the template it reaches.

    Args:
        stage: The servers.
        template: A SAM or CloudFormation template.
        home: A folder that goes when the rehearsal is over.
    """
    places = {fault.name: _Place(f"fault{n}", stage, home) for n, fault in enumerate(FAULTS)}
    together = [fault for fault in FAULTS if not fault.alone]
    with ThreadPoolExecutor(len(together)) as pool:
        found = list(pool.map(lambda one: _reached(one, places[one.name], template), together))
    found += [_reached(one, places[one.name], template) for one in FAULTS if one.alone]
    return found


def _reached(fault: Fault, place: _Place, template: Path) -> Reached:
    place.server.create_database(place.name)
    try:
        cloudwatch = fault.act(place)
    except ProcessError as trouble:
        return Reached(fault, trouble=str(trouble))
    finally:
        place.server.drop_database(place.name)
    alarms = alarms_of(template, target=place.name, **fault.parameters)
    names = frozenset(metric.name for metric in cloudwatch.metrics())
    return Reached(fault, reached_of(cloudwatch, alarms), names)


def alarms_of(template: Path, *, target: str, **parameters: str) -> dict[str, Alarm]:
    """The alarms of a template, for a target of the rehearsal; see `read_alarms`."""
    values = {"Target": target, "LeaseTable": TABLE, "ServiceName": SERVICE}
    return read_alarms(template, {**values, "MetricsNamespace": NAMESPACE, **parameters})


def reached_of(cloudwatch: CloudWatch, alarms: Mapping[str, Alarm]) -> frozenset[str]:
    """Those that were in ALARM at some time."""
    return frozenset(name for name, alarm in alarms.items() if cloudwatch.has_reached(alarm))
