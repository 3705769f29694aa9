"""The service that the drills break: a handler that reads the table orders, and its migrations."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pg8000.native

from lambda_migrate.local.cloudwatch import Alarm, CloudWatch, read_alarms
from lambda_migrate.local.runtime.environment import InvocationResult
from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.runtime.invoke_api import InvokeAPI
from tests.sandbox import TABLE, Sandbox

ROOT = Path(__file__).parents[2]

NAMESPACE, SERVICE = "Orders", "orders"
"""Defaults of template.yaml."""

LEASE_SECONDS = "5"
"""The shortest possible lease, because drills wait for its end."""

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

COMMITS_IN_PARTS = """
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


class HTTPFunction(LocalFunction):
    """A function that gets HTTP events by default."""

    def invoke(self, event: Any = None, *, wait: float = 0.0) -> InvocationResult:
        return super().invoke(REQUEST if event is None else event, wait=wait)

    def submit(
        self, event: Any = None, *, wait: float = 0.0, request_id: str | None = None
    ) -> Future[InvocationResult]:
        event = REQUEST if event is None else event
        return super().submit(event, wait=wait, request_id=request_id)

    def storm(
        self, n: int, event: Any = None, *, simultaneous: bool = True
    ) -> list[InvocationResult]:
        return super().storm(n, REQUEST if event is None else event, simultaneous=simultaneous)


_names = itertools.count(1)


def code(sandbox: Sandbox, migrations: Mapping[str, str], *, reads: str = "id, amount") -> Path:
    """Write a version of the service that reads these columns."""
    return sandbox.code(migrations, handler=HANDLER.format(columns=reads))


@contextmanager
def deploy_version(
    sandbox: Sandbox,
    code: Path,
    *,
    timeout: float = 60.0,
    database: str = "",
    variables: Mapping[str, str] | None = None,
    handler: str = "app.handler",
    **settings: str,
) -> Iterator[LocalFunction]:
    """Start the function with the metrics settings of the template."""
    variables = {
        **sandbox.variables(**{"lease_seconds": LEASE_SECONDS, **settings}),
        "POWERTOOLS_METRICS_NAMESPACE": NAMESPACE,
        "POWERTOOLS_SERVICE_NAME": SERVICE,
        "DATABASE": database or sandbox.name,
        "SOCKET": str(sandbox.postgresql.socket),
        # A package that contains the library uses it; others use the tested one.
        "PYTHONPATH": os.pathsep.join([str(code), str(ROOT)]),
        **(variables or {}),
    }
    with HTTPFunction(
        handler, code=code, variables=variables, timeout=timeout, name=f"orders{next(_names)}"
    ) as function:
        yield function


class Deployments:
    """Imitates ``sam deploy``: another version gets the traffic."""

    def __init__(
        self, stack: ExitStack, sandbox: Sandbox, variables: Mapping[str, str] | None = None
    ) -> None:
        self._stack = stack
        self._stage = sandbox
        self._variables = variables

    def deploy(
        self, code: Path, *, timeout: float = 60.0, database: str = "", **settings: str
    ) -> LocalFunction:
        """Start this version."""
        return self._stack.enter_context(
            deploy_version(
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
    sandbox: Sandbox, user: str = "postgres", name: str = "report"
) -> Iterator[pg8000.native.Connection]:
    """Open a connection of another client."""
    connection = pg8000.native.Connection(
        user, database=sandbox.name, unix_sock=str(sandbox.postgresql.socket), application_name=name
    )
    try:
        yield connection
    finally:
        with suppress(pg8000.native.InterfaceError):
            connection.close()


@contextmanager
def admin(sandbox: Sandbox, code: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Start an admin function; yields its name, and the variables that reach it."""
    handler = "lambda_migrate.deploy.admin.handler"
    with deploy_version(sandbox, code, handler=handler) as function, InvokeAPI([function]) as api:
        yield function.name, {"AWS_ENDPOINT_URL_LAMBDA": api.endpoint_url}


def copy_database(sandbox: Sandbox, name: str) -> str:
    """Copy the database under another name; returns the copy's URL."""
    sandbox.postgresql.execute(f'CREATE DATABASE "{name}" TEMPLATE "{sandbox.name}"')
    return sandbox.postgresql.url(name)


def read_cloudwatch(sandbox: Sandbox, *functions: LocalFunction) -> CloudWatch:
    """Pass the functions' logs and the lease table's throttled requests to CloudWatch."""
    cloudwatch = CloudWatch()
    for function in functions:
        for view in function.environments():
            cloudwatch.put_log(function.logs(view.environment_id))
    if hasattr(sandbox.dynamodb, "throttled"):
        cloudwatch.put_throttled(sandbox.dynamodb.throttled())
    return cloudwatch


def template_alarms(sandbox: Sandbox, **parameters: str) -> dict[str, Alarm]:
    """Read the template's alarms for this sandbox's target and table."""
    values = {"Target": sandbox.name, "LeaseTable": TABLE, **parameters}
    return read_alarms(ROOT / "template.yaml", values)
