"""A separate database and target for each test with real processes, and functions to deploy."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from lambda_migrate.clock import Deadline
from lambda_migrate.engine.operations import Operations
from lambda_migrate.events import null_observer
from lambda_migrate.lease.codec import decode
from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.lease.record import LeaseState
from lambda_migrate.local.runtime.function import EnvironmentView, LocalFunction
from lambda_migrate.local.servers.dynamodb import AmazonDynamoDBLocal, LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.settings import Settings
from lambda_migrate.wiring import make_manifest, make_target

ROOT = Path(__file__).parents[1]
TABLE = "lambda-migrate"
_numbers = itertools.count(1)

HANDLER = """
from lambda_migrate import migrate_on_cold_start

@migrate_on_cold_start
def handler(event, context):
    return {"served": True}
"""

COUNTERS = """
-- migrate:up
CREATE TABLE effects (version int NOT NULL, backend int NOT NULL DEFAULT pg_backend_pid());
-- Sequences are not transactional: they count attempts, failed ones included.
CREATE SEQUENCE attempts;
CREATE TABLE orders (id bigint PRIMARY KEY, amount int NOT NULL);
INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;
INSERT INTO effects VALUES (1);
-- migrate:down
DROP TABLE orders;
DROP SEQUENCE attempts;
DROP TABLE effects;
"""


def effect(version: int, body: str = "") -> str:
    """A migration whose effects can be counted in the database."""
    return f"""
-- migrate:up
{body}
INSERT INTO effects (version) VALUES ({version});
-- migrate:down
DELETE FROM effects WHERE version = {version};
"""


def sleeps_once(seconds: int) -> str:
    """SQL that sleeps in the first attempt only."""
    return f"SELECT CASE WHEN nextval('attempts') = 1 THEN pg_sleep({seconds}) END;"


class Sandbox:
    """A database and a target on servers that may be shared."""

    def __init__(
        self, postgresql: LocalPostgreSQL, dynamodb: LocalDynamoDB | AmazonDynamoDBLocal, root: Path
    ) -> None:
        self.postgresql = postgresql
        self.dynamodb = dynamodb
        self.root = root
        self.name = f"stage_{next(_numbers)}"
        self.url = postgresql.create_database(self.name)

    def code(self, migrations: Mapping[str, str], *, handler: str = HANDLER) -> Path:
        """A deployment package: a handler and migration files by name, without ``.sql``."""
        folder = self.root / f"code_{next(_numbers)}"
        (folder / "migrations").mkdir(parents=True)
        (folder / "app.py").write_text(handler)
        for name, text in migrations.items():
            (folder / "migrations" / f"{name}.sql").write_text(text.lstrip())
        return folder

    def variables(self, **settings: str) -> dict[str, str]:
        """The environment variables of a function that uses this database and target."""
        return {
            "AWS_ENDPOINT_URL_DYNAMODB": self.dynamodb.endpoint_url,
            "LAMBDA_MIGRATE_TABLE": TABLE,
            "LAMBDA_MIGRATE_TARGET": self.name,
            "LAMBDA_MIGRATE_DATABASE_URL": self.url,
            "LAMBDA_MIGRATE_LEASE_SECONDS": "6",
            "LAMBDA_MIGRATE_WAIT_SECONDS": "60",
            **{f"LAMBDA_MIGRATE_{name.upper()}": value for name, value in settings.items()},
        }

    @contextmanager
    def function(
        self, code: Path, *, timeout: float = 90.0, **settings: str
    ) -> Iterator[LocalFunction]:
        """Deploy ``code``."""
        variables = self.variables(**settings)
        # The DynamoDB API counts requests by the names of function and environment.
        name = f"function{next(_numbers)}"
        with LocalFunction(code=code, variables=variables, timeout=timeout, name=name) as function:
            yield function

    def operations(self, code: Path, **settings: str) -> Operations:
        """The operations of the command line, with the migration files of ``code``."""
        environ = self.variables(directory=str(code / "migrations"), **settings)
        loaded = Settings.load(environ)
        store = DynamoDBLeaseStore(
            TABLE, self.name, client=self.dynamodb.client, lease_seconds=loaded.lease_seconds
        )
        target = make_target(loaded, observer=null_observer).replace(store=store)
        return Operations(make_manifest(loaded, environ), target)

    def query(self, sql: str) -> list[list[Any]]:
        """Rows of one statement."""
        return self.postgresql.execute(sql, database=self.name)

    def effects(self) -> dict[int, int]:
        """How often each version took effect."""
        rows = self.query("SELECT version, count(*) FROM effects GROUP BY version ORDER BY 1")
        return {int(version): int(count) for version, count in rows}

    def history(self) -> list[tuple[int, str]]:
        """Version and state of every history row."""
        rows = self.query("SELECT version::bigint, state FROM lambda_migrate.history ORDER BY 1")
        return [(version, state) for version, state in rows]

    def attempts(self) -> int:
        """How often a migration that uses the sequence ``attempts`` was tried."""
        rows = self.query("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM attempts")
        return int(rows[0][0])

    def holders(self) -> list[list[Any]]:
        """Process id, state and statement of the library's connections to this database."""
        return self.query(
            "SELECT pid, state, query FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'lambda-migrate:%'"
        )

    def invalid_indexes(self) -> list[list[Any]]:
        """Indexes left by an interrupted concurrent build."""
        return self.query("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")

    def item(self) -> LeaseState:
        """Read the state item."""
        key = {"target": {"S": self.name}}
        answer = self.dynamodb.client().get_item(TableName=TABLE, Key=key, ConsistentRead=True)
        return decode(answer.get("Item"), target=self.name)

    def end_retry_pause(self) -> None:
        """End the pause after a failure."""
        self.dynamodb.client().update_item(
            TableName=TABLE,
            Key={"target": {"S": self.name}},
            UpdateExpression="SET failure.retry_at = :past",
            ExpressionAttributeValues={":past": {"N": "1"}},
        )


def install_plugin(folder: Path) -> str:
    """Return a PYTHONPATH where pytest finds the plugin as of an installed lambda-migrate."""
    project = (ROOT / "pyproject.toml").read_text()
    section = project.partition("[project.entry-points.pytest11]\n")[2].partition("\n\n")[0]
    metadata = folder / "lambda_migrate-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Name: lambda-migrate\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[pytest11]\n" + section.replace('"', ""))
    return f"{ROOT}{os.pathsep}{folder}"


def lines(function: LocalFunction, environment_id: str) -> list[dict[str, Any]]:
    """The library's log lines of an environment."""
    found = []
    for line in function.logs(environment_id).splitlines():
        if line.startswith("{") and '"lambda_migrate": {' in line.replace('":{', '": {'):
            found.append(json.loads(line))
    return found


def ends(function: LocalFunction) -> list[dict[str, Any]]:
    """The result of every check of every environment, from the library's log lines."""
    environments = [view.environment_id for view in function.environments()]
    return [line["lambda_migrate"] for each in environments for line in lines(function, each)]


def until(condition: Callable[[], Any], *, what: str, seconds: float = 60.0) -> Any:
    """Wait until ``condition`` is true; raise an AssertionError if that takes too long."""
    deadline = Deadline.after(seconds)
    while not deadline.is_over:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def running(sandbox: Sandbox, text: str) -> Callable[[], bool]:
    """Whether a connection of the library runs a statement that contains ``text``."""
    return lambda: any(state == "active" and text in query for _, state, query in sandbox.holders())


def busy(function: LocalFunction) -> Iterable[EnvironmentView]:
    """The environments with a running invocation."""
    return [view for view in function.environments() if view.state == "busy"]


def is_alive(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
