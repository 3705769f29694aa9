"""Two minutes of a service: releases, a throttled table, a holder that dies, a failure."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.servers.dynamodb import LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.emulators.cloudwatch import CloudWatch, Metric

__all__ = ["NAMESPACE", "TABLE", "TARGET", "live"]

TABLE, TARGET, NAMESPACE, SERVICE = "leases", "orders", "Orders", "orders"

_HANDLER = """
from lambda_migrate import migrate_on_cold_start, service_unavailable

@migrate_on_cold_start(on_not_ready=service_unavailable)
def handler(event, context):
    return {"statusCode": 200}
"""

_CREATE = "CREATE TABLE orders (id bigint PRIMARY KEY);"
_ADD = "ALTER TABLE orders ADD COLUMN status text; SELECT pg_sleep(8);"
_HOLD = "SELECT pg_sleep(60);"
_NOTE = "ALTER TABLE orders ADD COLUMN note text;"
_BROKEN = "UPDATE orders SET state = 'open';"

_UNITS = {
    "GetItem": ("ConsumedReadCapacityUnits", 1),
    "UpdateItem": ("ConsumedWriteCapacityUnits", 1),
}
"""Of an item below 1 KB. Each read counts as strongly consistent, as the first one of a cold start
is; a waiter's polls cost half of that."""


class _Life:
    def __init__(self, home: Path, server: LocalPostgreSQL, api: LocalDynamoDB) -> None:
        self._home = home
        self._server = server
        self._api = api
        self.cloudwatch = CloudWatch()

    @contextmanager
    def deployed(self, version: str, migrations: Mapping[str, str]) -> Iterator[LocalFunction]:
        """A version; what it has logged is read in the end."""
        code = self._home / version
        (code / "migrations").mkdir(parents=True)
        (code / "app.py").write_text(_HANDLER)
        for name, script in migrations.items():
            text = f"-- migrate:up\n{script}\n-- migrate:down\n"
            (code / "migrations" / f"{name}.sql").write_text(text)
        variables = {
            "AWS_ENDPOINT_URL_DYNAMODB": self._api.endpoint_url,
            "LAMBDA_MIGRATE_TABLE": TABLE,
            "LAMBDA_MIGRATE_TARGET": TARGET,
            "LAMBDA_MIGRATE_DATABASE_URL": self._server.url("orders"),
            "LAMBDA_MIGRATE_LEASE_SECONDS": "6",
            "POWERTOOLS_METRICS_NAMESPACE": NAMESPACE,
            "POWERTOOLS_SERVICE_NAME": SERVICE,
        }
        with LocalFunction(code=code, environment=variables, name=version, timeout=60) as function:
            yield function
            for view in function.environments():
                self.cloudwatch.read(function.logs(view.environment_id))

    def read_table(self) -> None:
        """What DynamoDB tells of the table."""
        self.cloudwatch.put_throttled(self._api.throttled())
        for tenth, counts in self._api.rates().items():
            for operation, (metric, units) in _UNITS.items():
                if counts[operation]:
                    put = Metric.of("AWS/DynamoDB", metric, TableName=TABLE)
                    self.cloudwatch.put(put, units * counts[operation], at=tenth / 10)

    def throttle(self, requests: int) -> None:
        self._api.throttle(requests)


def live(say: Callable[[str], object] = print) -> CloudWatch:
    """Run it; returns all that was measured."""
    with (
        tempfile.TemporaryDirectory() as home,
        LocalPostgreSQL(databases=["orders"]) as server,
        LocalDynamoDB() as api,
    ):
        api.create_table(TABLE)
        life = _Life(Path(home), server, api)
        first = {"0001_create_orders": _CREATE}
        second = {**first, "0002_add_status": _ADD}
        say("a first release: 10 cold starts")
        with life.deployed("v1", first) as function:
            function.storm(10)
            _quietly(function, 15)
            say("a second one, whose migration takes 8 s: 20 cold starts at once")
            with life.deployed("v2", second) as newer:
                newer.storm(20)
                _quietly(newer, 15)
                say("a throttled table: 10 cold starts")
                life.throttle(15)
                newer.storm(10)
                _quietly(newer, 10)
        _dying_holder(life, {**second, "0003_note": _HOLD}, {**second, "0003_note": _NOTE}, say)
        say("a migration that fails: 5 cold starts")
        third = {**second, "0003_note": _NOTE}
        with life.deployed("v4", {**third, "0004_set_state": _BROKEN}) as function:
            function.storm(5)
        life.read_table()
    return life.cloudwatch


def _dying_holder(
    life: _Life, doomed: Mapping[str, str], mended: Mapping[str, str], say: Callable[[str], object]
) -> None:
    say("a holder that is killed, and one that takes over")
    with life.deployed("v3", doomed) as function:
        answer = function.submit()
        time.sleep(12)
        [holder] = [view for view in function.environments() if view.state == "busy"]
        os.kill(holder.pid, signal.SIGKILL)
        answer.result()
    with life.deployed("v3-mended", mended) as function:
        function.storm(5)
        _quietly(function, 10)


def _quietly(function: LocalFunction, seconds: int) -> None:
    """A cold start a second, as traffic that grows brings them."""
    for _ in range(seconds):
        function.storm(1)
        time.sleep(0.8)
