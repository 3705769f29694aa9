"""The service that the drills break: a handler on the table of orders, and its migrations."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pg8000.native

from lambda_migrate.local.runtime.environment import InvocationResult
from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.runtime.invoke_api import InvokeApi
from load.emulators.cloudwatch import Alarm, CloudWatch, read_alarms
from tests.stage import TABLE, Stage

ROOT = Path(__file__).parents[2]

NAMESPACE, SERVICE = "Orders", "orders"
"""As template.yaml has them by default."""

LEASE_SECONDS = "5"
"""The shortest that there is: a drill waits for its end."""

CREATE = """
-- migrate:up
CREATE TABLE orders (id bigint PRIMARY KEY, amount int NOT NULL);
INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;
-- migrate:down
DROP TABLE orders;
"""

ADD_STATUS = """
-- migrate:up
ALTER TABLE orders ADD COLUMN status text;
-- migrate:down
ALTER TABLE orders DROP COLUMN status;
"""

BROKEN = """
-- migrate:up
UPDATE orders SET state = 'open';
-- migrate:down
"""

IN_PARTS = """
-- migrate:up transaction:false
DO $$ BEGIN
    UPDATE orders SET amount = amount * 2 WHERE id <= 500;
    COMMIT;
    UPDATE orders SET amount = amount * 2 / (id - 1000) WHERE id > 500;
END $$;
"""

SLOW = """
-- migrate:up
SELECT pg_sleep({seconds});
ALTER TABLE orders ADD COLUMN status text;
-- migrate:down
ALTER TABLE orders DROP COLUMN status;
"""

V1 = {"0001_create_orders": CREATE}
V2 = {**V1, "0002_add_status": ADD_STATUS}

HANDLER = """
import os
import pg8000.native
from lambda_migrate import migrate_on_cold_start, service_unavailable

COLUMNS = {columns!r}

@migrate_on_cold_start(on_not_ready=service_unavailable)
def handler(event, context):
    connection = pg8000.native.Connection(
        "postgres",
        database=os.environ["DATABASE"],
        unix_sock=os.environ["SOCKET"],
        application_name="orders",
    )
    try:
        rows = connection.run("SELECT " + COLUMNS + " FROM orders WHERE id = 1")
    finally:
        connection.close()
    return {{"statusCode": 200, "columns": COLUMNS, "body": str(rows[0])}}
"""

REQUEST = {"requestContext": {"http": {"method": "GET", "path": "/orders"}}}
"""The part of a function URL's event that the library reads."""


class Served(LocalFunction):
    """A function that is invoked over HTTP, unless a test says otherwise."""

    def invoke(self, event: Any = None, *, wait: float = 0.0) -> InvocationResult:
        return super().invoke(REQUEST if event is None else event, wait=wait)

    def submit(
        self, event: Any = None, *, wait: float = 0.0, request_id: str | None = None
    ) -> Future[InvocationResult]:
        event = REQUEST if event is None else event
        return super().submit(event, wait=wait, request_id=request_id)

    def storm(self, n: int, event: Any = None, *, together: bool = True) -> list[InvocationResult]:
        return super().storm(n, REQUEST if event is None else event, together=together)


_names = itertools.count(1)


def code(stage: Stage, migrations: Mapping[str, str], *, reads: str = "id, amount") -> Path:
    """A version of the service that reads these columns."""
    return stage.code(migrations, handler=HANDLER.format(columns=reads))


@contextmanager
def deployed(
    stage: Stage,
    code: Path,
    *,
    timeout: float = 60.0,
    database: str = "",
    variables: Mapping[str, str] | None = None,
    handler: str = "app.handler",
    **settings: str,
) -> Iterator[LocalFunction]:
    """Deploy a version; it writes metrics as the template's function does."""
    environment = {
        **stage.environment(**{"lease_seconds": LEASE_SECONDS, **settings}),
        "POWERTOOLS_METRICS_NAMESPACE": NAMESPACE,
        "POWERTOOLS_SERVICE_NAME": SERVICE,
        "DATABASE": database or stage.name,
        "SOCKET": str(stage.postgresql.socket),
        # A package that ships the library uses its own, others the one that is tested.
        "PYTHONPATH": os.pathsep.join([str(code), str(ROOT)]),
        **(variables or {}),
    }
    with Served(
        handler, code=code, environment=environment, timeout=timeout, name=f"orders{next(_names)}"
    ) as function:
        yield function


class Deployments:
    """What ``sam deploy`` does, on this machine: another version takes the traffic."""

    def __init__(
        self, stack: ExitStack, stage: Stage, variables: Mapping[str, str] | None = None
    ) -> None:
        self._stack = stack
        self._stage = stage
        self._variables = variables

    def of(
        self, code: Path, *, timeout: float = 60.0, database: str = "", **settings: str
    ) -> LocalFunction:
        """Deploy it."""
        return self._stack.enter_context(
            deployed(
                self._stage,
                code,
                timeout=timeout,
                database=database,
                variables=self._variables,
                **settings,
            )
        )


@contextmanager
def session(
    stage: Stage, user: str = "postgres", name: str = "report"
) -> Iterator[pg8000.native.Connection]:
    """Somebody else's connection."""
    connection = pg8000.native.Connection(
        user, database=stage.name, unix_sock=str(stage.postgresql.socket), application_name=name
    )
    try:
        yield connection
    finally:
        with suppress(pg8000.native.InterfaceError):
            connection.close()


@contextmanager
def admin(stage: Stage, code: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """An admin function; its name, and what a laptop needs in its environment to reach it."""
    handler = "lambda_migrate.deploy.admin.handler"
    with deployed(stage, code, handler=handler) as function, InvokeApi([function]) as api:
        yield function.name, {"AWS_ENDPOINT_URL_LAMBDA": api.endpoint_url}


def copy_database(stage: Stage, name: str) -> str:
    """A copy as it is now, under another name; returns its URL."""
    stage.postgresql.execute(f'CREATE DATABASE "{name}" TEMPLATE "{stage.name}"')
    return stage.postgresql.url(name)


def measured(stage: Stage, *functions: LocalFunction) -> CloudWatch:
    """What CloudWatch knows of them, and of the lease table."""
    cloudwatch = CloudWatch()
    for function in functions:
        for view in function.environments():
            cloudwatch.read(function.logs(view.environment_id))
    if hasattr(stage.dynamodb, "throttled"):
        cloudwatch.put_throttled(stage.dynamodb.throttled())
    return cloudwatch


def alarms(stage: Stage, **parameters: str) -> dict[str, Alarm]:
    """The template's, for this stage's target and table."""
    values = {"Target": stage.name, "LeaseTable": TABLE, **parameters}
    return read_alarms(ROOT / "template.yaml", values)
