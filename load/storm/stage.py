"""What a storm runs on: PostgreSQL, a DynamoDB API, the functions, and who watches them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK, Clock
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.demo.sampler import ConnectionSampler
from lambda_migrate.local.demo.stage import connect_monitor
from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.servers.dynamodb import (
    Dynalite,
    DynamoDBEndpoint,
    DynamoDBLocal,
    LocalDynamoDB,
)
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL

if TYPE_CHECKING:
    from load.storm.packages import Package
    from load.storm.scenarios import Engine, Processes, Scenario

__all__ = ["PRELOADED", "TABLE", "StormStage", "start_demo_servers"]

TABLE = "lambda-migrate"

PRELOADED = (
    "aws_lambda_powertools.metrics",
    "aws_lambda_powertools.logging",
    "boto3",
    "botocore.session",
    "pg8000.native",
    "tenacity",
    str(Path(__file__).with_name("preloaded.py")),
)
"""What forked environments share: neither the function nor lambda_migrate itself."""

MEGABYTES: Mapping[Processes, int] = {"separate": 60, "forked": 18}
"""What an environment may take, measured where every one of them loads boto3, and some more."""

_SERVERS_MEGABYTES = 1500

_TIMEOUT_SECONDS = 300.0  # a thousand environments share a few cores: each is slow, none is stuck
_NICENESS = 19  # the servers, and whoever watches, are not on the functions' processors in AWS

_ENGINES: Mapping[Engine, type[LocalDynamoDB | Dynalite | DynamoDBLocal]] = {
    "moto": LocalDynamoDB,
    "dynalite": Dynalite,
    "dynamodb-local": DynamoDBLocal,
}


@dataclass(frozen=True, slots=True)
class StormStage:
    """One scenario's servers and functions.

    Attributes:
        epoch: Seconds since the epoch when the monotonic clock stood at 0.
        functions: By version.
        codes: What was deployed, by version.
    """

    scenario: Scenario
    package: Package
    server: LocalPostgreSQL
    dynamodb: DynamoDBEndpoint
    sampler: ConnectionSampler
    epoch: float
    functions: dict[int, LocalFunction] = field(default_factory=dict)
    codes: dict[int, Path] = field(default_factory=dict)

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

    def calls(self) -> Counter[str]:
        """Requests of the environments by operation: without ours and the operator's."""
        names = [name for name in self.dynamodb.clients() if name.startswith("stormv")]
        return sum((self.dynamodb.requests(name) for name in names), Counter[str]())


@contextmanager
def start_demo_servers(
    scenario: Scenario,
    package: Package,
    home: Path,
    *,
    handler: str = "app.handler",
    tuning: Mapping[str, str] | None = None,
    binaries: Path | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Iterator[StormStage]:
    """Start everything, deploy every version, and begin to count connections.

    Args:
        scenario: Which storm.
        package: What is deployed.
        home: A directory that goes when the storm is over.
        handler: Of the package, ``module.function``.
        tuning: Settings of PostgreSQL, above those of every storm.
        binaries: Of PostgreSQL; see `LocalPostgreSQL`.
        clock: What happenings are timed by.

    Raises:
        ConfigurationError: The machine has too little memory, or something is not installed.
    """
    _require_room(scenario)
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
    with ExitStack() as stack:
        server = LocalPostgreSQL(binaries=binaries, databases=[package.database], settings=settings)
        stack.enter_context(server)
        dynamodb = stack.enter_context(_ENGINES[scenario.engine]())
        dynamodb.create_table(TABLE)
        sampler = ConnectionSampler(
            lambda: connect_monitor(server), database=package.database, application="orders"
        )
        stack.enter_context(sampler)
        epoch = time.time() - clock.monotonic()
        stage = StormStage(scenario, package, server, dynamodb, sampler, epoch)
        for version in scenario.versions:
            stage.codes[version] = package.deploy(version, home)
            stage.functions[version] = stack.enter_context(_function(stage, version, home, handler))
        yield stage


def _require_room(scenario: Scenario) -> None:
    """Now, and not when the kernel has begun to end processes."""
    needed = scenario.environments * MEGABYTES[scenario.processes] + _SERVERS_MEGABYTES
    free = _available_megabytes()
    if needed > free:
        raise ConfigurationError(
            f"{scenario.name} may need {needed / 1024:.1f} GB of memory, {free / 1024:.1f} GB are "
            "free: choose a smaller -n, or --processes forked"
        )


def _available_megabytes() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return float("inf")


def _function(stage: StormStage, version: int, home: Path, handler: str) -> LocalFunction:
    scenario = stage.scenario
    return LocalFunction(
        handler,
        code=stage.codes[version],
        name=f"storm-v{version}",
        environment=stage.variables(),
        timeout=_TIMEOUT_SECONDS,
        init_timeout=_TIMEOUT_SECONDS,
        concurrency=scenario.environments + scenario.clients + 10,
        preload=PRELOADED if scenario.processes == "forked" else None,
        niceness=_NICENESS,
        log_directory=home / f"logs-{version}",
    )
