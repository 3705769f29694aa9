"""Breaks a small service in each way that an alarm is for, and finds out which alarms are reached.

The service has databases and targets of its own on the same servers. What takes minutes in
production takes seconds here, by the template's own parameters or by repeating what was measured.
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
from load.storm.packages import HANDLER
from load.storm.testbed import PRELOADED, TABLE, Testbed

TEMPLATE = Path(__file__).parents[2] / "template.yaml"
"""With the alarms."""

SERVICE, NAMESPACE = "orders", "Orders"
"""Dimension and namespace of all metrics."""

_LOW_THRESHOLDS = {"LeaseWaitTimeThreshold": "900", "LeaseHeldTimeThreshold": "900"}
"""Milliseconds: seconds are waited, not minutes."""

_PAUSED_SECONDS = 3.0
"""Of DynamoDB: well above the second from which on a check is slow."""

_PERIOD = 300.0
"""Seconds, of the alarm on slow checks, which looks at three of them."""

_CREATE_TABLE = (
    "-- migrate:up\nCREATE TABLE parcels (id bigint);\n-- migrate:down\nDROP TABLE parcels;\n"
)
_FAILING_MIGRATION = "-- migrate:up\nUPDATE parcels SET colour = 'red';\n-- migrate:down\n"
_SLOW_MIGRATION = "-- migrate:up\nSELECT pg_sleep(120);\n-- migrate:down\n"
_SLOW_QUERIES = """
SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
AND application_name LIKE 'lambda-migrate:%' AND query LIKE '%pg_sleep%'
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break the service."""

    name: str
    expected_alarms: frozenset[str]  # logical ids of those that must be reached, and no others
    inject: Callable[[Service], CloudWatch]  # returns what CloudWatch would know
    runs_alone: bool = False  # slows DynamoDB down, or counts on it, for all others as well
    parameters: Mapping[str, str] = field(default_factory=dict)  # of the template


@dataclass(frozen=True, slots=True)
class FaultResult:
    """The alarms that a fault reached, the metrics that were emitted, the error if it failed."""

    fault: Fault
    reached_alarms: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """A function with a database and a target of its own."""

    name: str
    server: LocalPostgreSQL
    dynamodb: LocalDynamoDB
    home: Path

    @contextmanager
    def deploy(self, *migrations: str, **settings: str) -> Iterator[LocalFunction]:
        """A function with these migrations, ready to be invoked."""
        code = self.home / f"{self.name}-{len(list(self.home.glob(f'{self.name}-*')))}"
        (code / "migrations").mkdir(parents=True)
        (code / "app.py").write_text(HANDLER)
        for number, text in enumerate(migrations, 1):
            (code / "migrations" / f"{number:04d}_step.sql").write_text(text)
        variables = {
            "AWS_ENDPOINT_URL_DYNAMODB": self.dynamodb.endpoint_url,
            "DATABASE_URL": self.server.url(self.name),
            "LAMBDA_MIGRATE_TABLE": TABLE,
            "LAMBDA_MIGRATE_TARGET": self.name,
            "LAMBDA_MIGRATE_LEASE_SECONDS": "5",  # the shortest: its expiry is waited for
            "LAMBDA_MIGRATE_WAIT_SECONDS": "60",
            "POWERTOOLS_METRICS_NAMESPACE": NAMESPACE,
            "POWERTOOLS_SERVICE_NAME": SERVICE,
            **{f"LAMBDA_MIGRATE_{name.upper()}": value for name, value in settings.items()},
        }
        with LocalFunction(
            code=code, name=code.name, environment=variables, timeout=90, preload=PRELOADED
        ) as function:
            yield function

    def wait_until_migrating(self) -> None:
        """Wait until the slow migration runs; see `wait_until`."""
        wait_until(
            lambda: bool(self.server.execute(_SLOW_QUERIES, database=self.name)),
            "the migration runs",
        )


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds.

    Raises:
        ProcessError: It did not within a minute.
    """
    deadline = Deadline.after(60)
    while not condition():
        if deadline.is_over:
            raise ProcessError(f"not within 60 s: {what}")
        time.sleep(0.05)


def read_metrics(*functions: LocalFunction) -> CloudWatch:
    """What CloudWatch would know from the functions' logs."""
    cloudwatch = CloudWatch()
    for function in functions:
        for view in function.environments():
            cloudwatch.read(function.logs(view.environment_id))
    return cloudwatch


# -- the faults -----------------------------------------------------------------------------------


def _invoke_once(*migrations: str, **settings: str) -> Callable[[Service], CloudWatch]:
    def inject(service: Service) -> CloudWatch:
        with service.deploy(*migrations, **settings) as function:
            function.invoke()
            return read_metrics(function)

    return inject


def _kill_holder(service: Service) -> CloudWatch:
    with (
        service.deploy(_CREATE_TABLE, _SLOW_MIGRATION) as first,
        service.deploy(_CREATE_TABLE) as second,
    ):
        answer = first.submit()
        service.wait_until_migrating()
        for view in first.environments():
            os.kill(view.pid, signal.SIGKILL)
        answer.result()
        second.invoke()
        return read_metrics(first, second)


def _hold_lease(service: Service) -> CloudWatch:
    with service.deploy(_CREATE_TABLE, _SLOW_MIGRATION) as function:
        function.submit()
        service.wait_until_migrating()
        wait_until(
            lambda: any(m.name == "LeaseHeldTime" for m in read_metrics(function).metrics()),
            "the holder has reported how long it has held the lease",
        )
        return read_metrics(function)


def _give_up_waiting(service: Service) -> CloudWatch:
    with (
        service.deploy(_CREATE_TABLE, _SLOW_MIGRATION) as holding,
        service.deploy(_CREATE_TABLE, _SLOW_MIGRATION, wait_seconds="1") as waiting,
    ):
        holding.submit()
        service.wait_until_migrating()
        waiting.invoke()
        return read_metrics(waiting)


def _slow_down_dynamodb(service: Service) -> CloudWatch:
    """DynamoDB delays a check; its metrics are repeated for the two periods after."""
    dynamodb = service.dynamodb
    with service.deploy(_CREATE_TABLE) as function:
        function.invoke()
        function.end_idle()
        [fresh] = function.start_environments(1)
        dynamodb.pause()
        resume = threading.Timer(_PAUSED_SECONDS, dynamodb.resume)
        resume.start()
        try:
            function.invoke()
        finally:
            resume.join()
        once, repeated = CloudWatch(), CloudWatch()
        once.read(function.logs(fresh))
    now = time.time()
    for metric in once.metrics():
        for value in once.values(metric):
            for period in range(3):
                repeated.put(metric, value, at=now + period * _PERIOD)
    return repeated


def _throttle_table(service: Service) -> CloudWatch:
    with service.deploy(_CREATE_TABLE) as function:
        function.invoke()
        service.dynamodb.throttle(1)
        function.storm(1)
        cloudwatch = read_metrics(function)
        cloudwatch.put_throttled(service.dynamodb.throttled())
        return cloudwatch


FAULTS = (
    Fault(
        "a migration fails",
        frozenset({"MigrationFailedAlarm", "NotReadyAlarm"}),
        _invoke_once(_CREATE_TABLE, _FAILING_MIGRATION),
    ),
    Fault("the lease holder is killed", frozenset({"LeaseTakeoverAlarm"}), _kill_holder),
    Fault(
        "a migration takes longer than expected (threshold lowered to 0.9 s)",
        frozenset({"LeaseHeldTimeAlarm"}),
        _hold_lease,
        parameters=_LOW_THRESHOLDS,
    ),
    Fault(
        "cold starts wait until they give up (threshold lowered to 0.9 s)",
        frozenset({"LeaseWaitTimeAlarm", "NotReadyAlarm"}),
        _give_up_waiting,
        parameters=_LOW_THRESHOLDS,
    ),
    Fault(
        "code is deployed before its schema",
        frozenset({"NotReadyAlarm"}),
        _invoke_once(_CREATE_TABLE, mode="require", wait_seconds="1"),
    ),
    Fault(
        "DynamoDB answers slowly for 15 minutes (one slow check, repeated twice)",
        frozenset({"ColdStartCheckTimeAlarm"}),
        _slow_down_dynamodb,
        runs_alone=True,
    ),
    Fault(
        "the table throttles", frozenset({"TableThrottledAlarm"}), _throttle_table, runs_alone=True
    ),
)


def inject_faults(testbed: Testbed, home: Path) -> list[FaultResult]:
    """Inject every fault, and see which alarms of the template it reaches."""
    dynamodb = testbed.dynamodb
    assert isinstance(dynamodb, LocalDynamoDB)  # noqa: S101 - the engine of every validation
    pairs = [
        (fault, Service(f"fault{number}", testbed.server, dynamodb, home))
        for number, fault in enumerate(FAULTS)
    ]
    together = [pair for pair in pairs if not pair[0].runs_alone]
    with ThreadPoolExecutor(len(together)) as pool:
        results = list(pool.map(lambda pair: _inject(*pair), together))
    return results + [_inject(*pair) for pair in pairs if pair[0].runs_alone]


def _inject(fault: Fault, service: Service) -> FaultResult:
    service.server.create_database(service.name)
    try:
        cloudwatch = fault.inject(service)
    except ProcessError as error:
        return FaultResult(fault, error=str(error))
    finally:
        service.server.drop_database(service.name)
    alarms = staging_alarms(service.name, **fault.parameters)
    names = frozenset(metric.name for metric in cloudwatch.metrics())
    return FaultResult(fault, reached_alarms(cloudwatch, alarms), names)


def staging_alarms(target: str, **parameters: str) -> dict[str, Alarm]:
    """The alarms of template.yaml for a target of this run."""
    values = {"Target": target, "LeaseTable": TABLE, "ServiceName": SERVICE}
    return read_alarms(TEMPLATE, {**values, "MetricsNamespace": NAMESPACE, **parameters})


def reached_alarms(cloudwatch: CloudWatch, alarms: Mapping[str, Alarm]) -> frozenset[str]:
    """Those that were in ALARM at some time."""
    return frozenset(name for name, alarm in alarms.items() if cloudwatch.has_reached(alarm))
