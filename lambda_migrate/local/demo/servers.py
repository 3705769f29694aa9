"""The servers of the demo, its progress table, and its count of connections."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.engine.operations import Operations
from lambda_migrate.errors import MigrateError
from lambda_migrate.events import Event, MigrationRolledBack, Observer
from lambda_migrate.lease.dynamodb import DynamoDBLeaseStore
from lambda_migrate.local.demo.checks import to_intervals
from lambda_migrate.local.demo.example import APPLICATION, DATABASE, TABLE, Example
from lambda_migrate.local.demo.fleet import Fleet
from lambda_migrate.local.demo.progress_table import ProgressTable
from lambda_migrate.local.demo.sampler import ConnectionSampler
from lambda_migrate.local.demo.timeline import Interval
from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint, LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.settings import Settings
from lambda_migrate.wiring import make_manifest, make_target

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "DemoServers",
    "RollbackTimes",
    "connect_monitor",
    "make_operations",
    "read_migrations",
    "start_demo_servers",
]

_HISTORY = """
SELECT name, extract(epoch FROM started_at)::float8,
       extract(epoch FROM coalesce(applied_at, started_at))::float8
FROM lambda_migrate.history WHERE NOT starts_with(version, 'R:')
ORDER BY started_at, version
"""
_REVISIONS = """
SELECT name, extract(epoch FROM applied_at)::float8 - duration_ms / 1000.0::float8,
       extract(epoch FROM applied_at)::float8
FROM lambda_migrate.revision WHERE state = 'applied' ORDER BY position
"""


@dataclass(frozen=True, slots=True)
class DemoServers:
    """The servers that both versions use.

    Attributes:
        home: A temporary directory.
        environments: Number of environments of each version.
        clock_offset: Seconds since the epoch at monotonic time 0. Environments and PostgreSQL
            record the first, the timeline uses the second.
    """

    home: Path
    environments: int
    example: Example
    server: LocalPostgreSQL
    dynamodb: LocalDynamoDB
    sampler: ConnectionSampler
    progress: ProgressTable
    clock_offset: float

    @contextmanager
    def deploy(self, version: int) -> Iterator[Fleet]:
        """Deploy a version of the example, without environments."""
        code = self.example.deploy(version, self.home)
        with Fleet(
            version,
            code,
            variables=self.variables(),
            counter=self.progress.add_counter(f"version {version}", environments=self.environments),
            logs=self.home / f"logs-{version}",
            clock_offset=self.clock_offset,
        ) as fleet:
            yield fleet

    def variables(self) -> dict[str, str]:
        """The function's environment variables."""
        return {
            "AWS_ENDPOINT_URL_DYNAMODB": self.dynamodb.endpoint_url,
            "DATABASE_URL": self.server.url(DATABASE),
            "LAMBDA_MIGRATE_SOURCE": self.example.source,
            "LAMBDA_MIGRATE_TABLE": TABLE,
            "LAMBDA_MIGRATE_TARGET": APPLICATION,
            "LAMBDA_MIGRATE_WAIT_SECONDS": "90",
            "POWERTOOLS_METRICS_NAMESPACE": "Orders",
            "POWERTOOLS_SERVICE_NAME": APPLICATION,
        }

    def migrations(self) -> list[Interval]:
        """All rows of the history; none if it does not exist yet."""
        table = "history" if self.example.source == "sql" else "revision"
        return read_migrations(self.server, DATABASE, table=table, clock_offset=self.clock_offset)

    def roll_back_by_command(self, code: Path, *, steps: int) -> tuple[str, ...]:
        """Roll back with ``lambda-migrate down``, in the folder of code that has the steps."""
        names = list(self.example.names().values())[-steps:]
        command = [sys.executable, "-m", "lambda_migrate", "down", "--steps", str(steps), "--yes"]
        environment = {
            **os.environ,
            **self.variables(),
            **self.dynamodb.variables(access_key="operator"),
            "LAMBDA_TASK_ROOT": str(code),
        }
        done = subprocess.run(  # noqa: S603 - this library
            command, cwd=code, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise MigrateError(done.stderr.strip())
        return tuple(reversed(names))

    def make_operations(self, fleet: Fleet, observer: RollbackTimes) -> Operations:
        """The operations of ``lambda-migrate``, with the migration files of ``fleet``."""
        return make_operations(fleet.code, self.variables(), self.dynamodb, observer)

    def calls(self) -> Counter[str]:
        """DynamoDB requests of the environments by operation."""
        names = [name for name in self.dynamodb.access_keys() if name.startswith("ordersv")]
        return sum((self.dynamodb.requests(name) for name in names), Counter[str]())


@contextmanager
def start_demo_servers(
    home: Path, environments: int, console: Console, example: Example
) -> Iterator[DemoServers]:
    """Start the servers and the count of connections.

    Args:
        home: See `DemoServers`.
        environments: Number of environments of each version.
        console: For the progress table.
        example: See `DemoServers`.
    """
    # Each environment keeps a connection.
    settings = {"max_connections": str(2 * environments + 50)}
    with ExitStack() as stack:
        server = LocalPostgreSQL(databases=[DATABASE], settings=settings)
        sampler = ConnectionSampler(
            lambda: connect_monitor(server), database=DATABASE, application=APPLICATION
        )
        progress = ProgressTable(console, latest=lambda: sampler.latest)
        stack.enter_context(progress.live())
        progress.start_step("starting PostgreSQL and a DynamoDB API")
        stack.enter_context(server)
        dynamodb = stack.enter_context(LocalDynamoDB())
        dynamodb.create_table(TABLE)
        stack.enter_context(sampler)
        progress.finish_step(f"PostgreSQL {server.version} and a DynamoDB API are running")
        clock_offset = time.time() - SYSTEM_CLOCK.monotonic()
        yield DemoServers(
            home, environments, example, server, dynamodb, sampler, progress, clock_offset
        )


def read_migrations(
    server: LocalPostgreSQL, database: str, *, clock_offset: float, table: str = "history"
) -> list[Interval]:
    """All rows of the history, or of the table `revision`; none if it does not exist yet."""
    exists = server.execute(
        f"SELECT to_regclass('lambda_migrate.{table}') IS NOT NULL", database=database
    )
    query = _HISTORY if table == "history" else _REVISIONS
    rows = server.execute(query, database=database) if exists[0][0] else []
    return to_intervals(rows, clock_offset=clock_offset)


def make_operations(
    code: Path, variables: Mapping[str, str], dynamodb: DynamoDBEndpoint, observer: Observer
) -> Operations:
    """Create the operations of ``lambda-migrate`` with the migration files of ``code``.

    Args:
        code: Folder of the deployed code.
        variables: The function's environment variables.
        dynamodb: The API of the lease table.
        observer: Gets all events.
    """
    environ = {**variables, "LAMBDA_MIGRATE_DIRECTORY": str(code / "migrations")}
    settings = Settings.load(environ)
    store = DynamoDBLeaseStore(
        variables["LAMBDA_MIGRATE_TABLE"],
        settings.target,
        client=lambda: dynamodb.client(access_key="operator"),
        lease_seconds=settings.lease_seconds,
    )
    target = make_target(settings, observer=observer).replace(store=store)
    return Operations(make_manifest(settings, environ), target)


def connect_monitor(server: LocalPostgreSQL) -> object:
    """Open the connection of a `ConnectionSampler`."""
    import pg8000.native

    return pg8000.native.Connection(
        "postgres", database="postgres", unix_sock=str(server.socket), application_name="monitor"
    )


class RollbackTimes:
    """Records when each down script ran."""

    def __init__(self) -> None:
        self.intervals: list[Interval] = []

    def observe(self, event: Event) -> None:
        """See `Observer.observe`."""
        if isinstance(event, MigrationRolledBack):
            now = SYSTEM_CLOCK.monotonic()
            self.intervals.append(Interval(f"{event.migration} down", now - event.seconds, now))
