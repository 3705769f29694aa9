"""What a storm runs on: PostgreSQL, a DynamoDB API, and the functions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.local.runtime.environment import EnvironmentView
from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.servers.dynamodb import Dynalite, LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL

if TYPE_CHECKING:
    from load.storm.scenarios import Package, Scenario


TABLE = "lambda-migrate"

PRELOADED = (
    "aws_lambda_powertools.metrics",
    "aws_lambda_powertools.logging",
    "boto3",
    "pg8000.native",
    "tenacity",
)
"""What forked environments share: neither the function nor lambda_migrate itself."""

_TIMEOUT_SECONDS = 300.0  # a thousand environments share a few cores: slow is not hung
_NICENESS = 19  # in AWS the servers do not share the functions' processors


@dataclass(frozen=True, slots=True)
class Testbed:
    """One scenario's servers, and its functions and their code by version."""

    scenario: Scenario
    package: Package
    server: LocalPostgreSQL
    dynamodb: LocalDynamoDB | Dynalite
    clock_offset: float  # seconds since the epoch when the monotonic clock stood at 0
    functions: dict[int, LocalFunction] = field(default_factory=dict)
    code_folders: dict[int, Path] = field(default_factory=dict)

    def variables(self) -> dict[str, str]:
        """The functions' environment variables."""
        return {
            "AWS_ENDPOINT_URL_DYNAMODB": self.dynamodb.endpoint_url,
            "DATABASE_URL": self.server.url(self.package.database),
            "LAMBDA_MIGRATE_TABLE": TABLE,
            "LAMBDA_MIGRATE_TARGET": self.package.database,
            "LAMBDA_MIGRATE_WAIT_SECONDS": f"{_TIMEOUT_SECONDS - 30:g}",
            "POWERTOOLS_METRICS_NAMESPACE": "Storm",
            "POWERTOOLS_SERVICE_NAME": self.package.database,
            **(self.scenario.settings or {}),
        }

    def environments(self) -> Iterator[tuple[str, LocalFunction, EnvironmentView]]:
        """Every environment: its name among those of all versions, its function, its state."""
        for version, function in self.functions.items():
            for view in function.environments():
                yield f"v{version} {view.environment_id}", function, view

    def requests_by_environment(self) -> dict[str, int]:
        """DynamoDB requests of each environment that sent any."""
        clients = set(self.dynamodb.access_keys())
        return {
            name: self.dynamodb.requests(view.access_key).total()
            for name, _, view in self.environments()
            if view.access_key in clients
        }


@contextmanager
def open_testbed(
    scenario: Scenario,
    package: Package,
    home: Path,
    *,
    api: LocalDynamoDB | Dynalite | None = None,
    tuning: Mapping[str, str] | None = None,
) -> Iterator[Testbed]:
    """Start everything and deploy every version.

    Args:
        scenario: The storm.
        package: What is deployed.
        home: A temporary directory.
        api: The DynamoDB API, not yet running; dynalite, which is faster than moto, by default.
        tuning: Settings of PostgreSQL, above those of every storm.
    """
    settings = {
        "max_connections": str(2 * scenario.environments + 60),
        # When exactly the last migration was committed, and when each session began and ended.
        "track_commit_timestamp": "on",
        "log_connections": "on",
        "log_disconnections": "on",
        "log_line_prefix": "%m [%p] ",
        "log_timezone": "UTC",
        **(tuning or {}),
    }
    with (
        LocalPostgreSQL(databases=[package.database], settings=settings) as server,
        api or Dynalite() as dynamodb,
        ExitStack() as stack,
    ):
        dynamodb.create_table(TABLE)
        clock_offset = time.time() - SYSTEM_CLOCK.monotonic()
        testbed = Testbed(scenario, package, server, dynamodb, clock_offset)
        for version in scenario.versions:
            code = testbed.code_folders[version] = package.deploy(version, home)
            testbed.functions[version] = stack.enter_context(
                LocalFunction(
                    "app.handler",
                    code=code,
                    name=f"storm-v{version}",
                    environment=testbed.variables(),
                    timeout=_TIMEOUT_SECONDS,
                    init_timeout=_TIMEOUT_SECONDS,
                    concurrency=scenario.environments + scenario.clients + 10,
                    preload=PRELOADED,
                    niceness=_NICENESS,
                    log_directory=home / f"logs-{version}",
                )
            )
        yield testbed
