"""What the demo's functions run on: the servers, the board, the counting of connections."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.clock import SYSTEM_CLOCK
from lambda_migrate.engine.operations import Operations
from lambda_migrate.events import Event, MigrationRolledBack, Observer
from lambda_migrate.lease.dynamodb import DynamoDBLeaseTable
from lambda_migrate.local.demo.deployment import APPLICATION, DATABASE, TABLE, Example
from lambda_migrate.local.demo.evidence import bands_of
from lambda_migrate.local.demo.fleet import Fleet
from lambda_migrate.local.demo.progress_table import Board
from lambda_migrate.local.demo.sampler import ConnectionSampler
from lambda_migrate.local.demo.timeline import Band
from lambda_migrate.local.servers.dynamodb import DynamoDBEndpoint, LocalDynamoDB
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.settings import Settings
from lambda_migrate.wiring import make_manifest, make_target

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "RollbackTimes",
    "Stage",
    "connect_monitor",
    "make_operator",
    "read_migrations",
    "start_demo_servers",
]

_HISTORY = """
SELECT name, extract(epoch FROM started_at)::float8,
       extract(epoch FROM coalesce(applied_at, started_at))::float8
FROM lambda_migrate.history
ORDER BY version::numeric
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """What both versions run on.

    Attributes:
        home: A directory that goes when the demo is over.
        epoch: Seconds since the epoch when the monotonic clock stood at 0: environments and
            PostgreSQL note the one, the picture is drawn on the other.
    """

    home: Path
    example: Example
    server: LocalPostgreSQL
    dynamodb: LocalDynamoDB
    sampler: ConnectionSampler
    board: Board
    epoch: float

    @contextmanager
    def deploy(self, version: int) -> Iterator[Fleet]:
        """Version ``version`` of the example, without an environment yet."""
        code = self.example.deploy(version, self.home)
        with Fleet(
            version,
            code,
            variables=self.variables(),
            tally=self.board.tally(f"version {version}"),
            logs=self.home / f"logs-{version}",
            epoch=self.epoch,
        ) as fleet:
            yield fleet

    def variables(self) -> dict[str, str]:
        """The function's environment variables."""
        return {
            "AWS_ENDPOINT_URL_DYNAMODB": self.dynamodb.endpoint_url,
            "DATABASE_URL": self.server.url(DATABASE),
            "LAMBDA_MIGRATE_TABLE": TABLE,
            "LAMBDA_MIGRATE_TARGET": APPLICATION,
            "LAMBDA_MIGRATE_WAIT_SECONDS": "90",
            "POWERTOOLS_METRICS_NAMESPACE": "Orders",
            "POWERTOOLS_SERVICE_NAME": APPLICATION,
        }

    def migrations(self) -> list[Band]:
        """All rows of the history as they are now; none if nobody came so far as to make it."""
        return read_migrations(self.server, DATABASE, epoch=self.epoch)

    def operator(self, fleet: Fleet, observer: RollbackTimes) -> Operations:
        """What ``lambda-migrate down`` uses, with the code of ``fleet`` at hand."""
        return make_operator(fleet.code, self.variables(), self.dynamodb, observer)

    def calls(self) -> Counter[str]:
        """Calls of the environments by operation: without ours and the operator's."""
        names = [name for name in self.dynamodb.clients() if name.startswith("ordersv")]
        return sum((self.dynamodb.requests(name) for name in names), Counter[str]())


@contextmanager
def start_demo_servers(
    home: Path, environments: int, console: Console, example: Example
) -> Iterator[Stage]:
    """Start the servers, and the counting of connections.

    Args:
        home: See `Stage`.
        environments: In each storm.
        console: For the board.
        example: See `Stage`.
    """
    # Each environment keeps a connection of its own, as functions do: make room for them.
    room = {"max_connections": str(2 * environments + 50)}
    with ExitStack() as stack:
        server = LocalPostgreSQL(databases=[DATABASE], settings=room)
        sampler = ConnectionSampler(
            lambda: connect_monitor(server), database=DATABASE, application=APPLICATION
        )
        board = Board(console, latest=lambda: sampler.latest)
        stack.enter_context(board.live())
        board.now("starting PostgreSQL and a DynamoDB API")
        stack.enter_context(server)
        dynamodb = stack.enter_context(LocalDynamoDB())
        dynamodb.create_table(TABLE)
        stack.enter_context(sampler)
        board.done(f"PostgreSQL {server.version} and a DynamoDB API run")
        epoch = time.time() - SYSTEM_CLOCK.monotonic()
        yield Stage(home, example, server, dynamodb, sampler, board, epoch)


def read_migrations(server: LocalPostgreSQL, database: str, *, epoch: float) -> list[Band]:
    """All rows of the history as they are now; none if nobody came so far as to make it."""
    there = server.execute(
        "SELECT to_regclass('lambda_migrate.history') IS NOT NULL", database=database
    )
    rows = server.execute(_HISTORY, database=database) if there[0][0] else []
    return bands_of(rows, epoch=epoch)


def make_operator(
    code: Path, variables: Mapping[str, str], dynamodb: DynamoDBEndpoint, observer: Observer
) -> Operations:
    """What ``lambda-migrate down`` uses, with the files of ``code`` at hand.

    Args:
        code: What was deployed.
        variables: The function's.
        dynamodb: Where the lease table is.
        observer: Told what happens.
    """
    environ = {**variables, "LAMBDA_MIGRATE_DIRECTORY": str(code / "migrations")}
    settings = Settings.load(environ)
    store = DynamoDBLeaseTable(
        variables["LAMBDA_MIGRATE_TABLE"],
        settings.target,
        client=lambda: dynamodb.client(client="operator"),
        lease_seconds=settings.lease_seconds,
    )
    target = replace(make_target(settings, observer=observer), store=store)
    return Operations(make_manifest(settings, environ), target)


def connect_monitor(server: LocalPostgreSQL) -> object:
    """The connection that a `ConnectionSampler` counts through."""
    import pg8000.native

    return pg8000.native.Connection(
        "postgres", database="postgres", unix_sock=str(server.socket), application_name="monitor"
    )


class RollbackTimes:
    """Notes when each down script ran."""

    def __init__(self) -> None:
        self.bands: list[Band] = []

    def observe(self, event: Event) -> None:
        """See `Observer.observe`."""
        if isinstance(event, MigrationRolledBack):
            now = SYSTEM_CLOCK.monotonic()
            self.bands.append(Band(f"{event.migration} down", now - event.seconds, now))
