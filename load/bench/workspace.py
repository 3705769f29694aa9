"""The servers, the databases, and the projects on disk that all rows of the table share."""

from __future__ import annotations

import itertools
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lambda_migrate.local.demo.servers import connect_monitor
from lambda_migrate.local.runtime.function import LocalFunction
from lambda_migrate.local.servers.dynamodb import Dynalite, DynamoDBEndpoint
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.bench.processes import MeasurementFailed, Program
from load.bench.tools import MigrationSource, Tool, write_project

ROLE = "app"  # no superuser: the last three connections are not for it, and count all others
LEASE_TABLE = "lambda-migrate"
_FUNCTION_TIMEOUT_SECONDS = 400.0
_WAIT_TIMEOUT_SECONDS, _POLL_SECONDS = 60.0, 0.05


class Workspace:
    """One PostgreSQL with its default of 100 connections, one DynamoDB API, one directory."""

    def __init__(self, home: Path, server: LocalPostgreSQL, dynamodb: DynamoDBEndpoint) -> None:
        self.server = server
        self.dynamodb = dynamodb
        self._home = home
        self._database_numbers = itertools.count(1)
        self._create_lock = threading.Lock()

    @classmethod
    @contextmanager
    def open(cls, dynamodb: DynamoDBEndpoint | None = None) -> Iterator[Workspace]:
        """Start everything; the DynamoDB API is dynalite by default."""
        with (
            tempfile.TemporaryDirectory(prefix="lm-bench-") as home,
            LocalPostgreSQL(tcp_port=0, settings={"track_commit_timestamp": "on"}) as server,
            dynamodb or Dynalite() as api,
        ):
            server.execute(f"CREATE ROLE {ROLE} LOGIN")
            api.create_table(LEASE_TABLE)
            yield cls(Path(home), server, api)

    @contextmanager
    def create_database(self) -> Iterator[str]:
        """The name of a new database of the role; dropped in the end, as hundreds fill the disk."""
        with self._create_lock:
            name = f"bench_{next(self._database_numbers)}"
            self.server.execute(f"CREATE DATABASE {name} OWNER {ROLE}")
        yield name
        self.server.drop_database(name)

    @contextmanager
    def sample_query(self, sql: str, **parameters: object) -> Iterator[list[Any]]:
        """Rows of a query, 50 times a second, by a connection that is kept for superusers."""
        connection: Any = connect_monitor(self.server)
        samples: list[Any] = []
        stopped = threading.Event()

        def run() -> None:
            while not stopped.wait(0.02):
                samples.extend(connection.run(sql, **parameters))

        thread = threading.Thread(target=run, name="samples", daemon=True)
        thread.start()
        try:
            yield samples
        finally:
            stopped.set()
            thread.join()
            connection.close()

    def make_project(
        self, tool: Tool, migrations: Sequence[MigrationSource], name: str = ""
    ) -> Path:
        """A tool's project with some migrations; made once for their number and ``name``."""
        slug = re.sub(r"\W+", "-", f"{tool.title} {len(migrations)} {name}")
        home = self._home / slug
        if not home.exists():
            write_project(home, tool.files(migrations))
        return home

    def make_program(
        self, tool: Tool, project: Path, database: str, command: Sequence[str] | None = None
    ) -> Program:
        """What runs a tool's project against a database; or another command in its place."""
        command = command or tool.program or (sys.executable, "-c", tool.code)
        return Program(command, project, {**self.variables(database), **tool.variables})

    def make_function(
        self, tool: Tool, project: Path, variables: Mapping[str, str], *, environments: int = 10
    ) -> LocalFunction:
        """A local Lambda function that runs a tool's project, in so many environments at most.

        The access key of the variables is left out: each process has its own.
        """
        own = {name: value for name, value in variables.items() if name != "AWS_ACCESS_KEY_ID"}
        own |= tool.variables
        return LocalFunction(
            code=project,
            name=re.sub(r"\W+", "", tool.title),
            variables=own,
            timeout=_FUNCTION_TIMEOUT_SECONDS,
            init_timeout=_FUNCTION_TIMEOUT_SECONDS,
            concurrency=environments,
        )

    def variables(self, database: str) -> dict[str, str]:
        """Every variable of a measured process: few of this shell's.

        PYTHONDONTWRITEBYTECODE would have everything compiled each time.
        """
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {
            **kept,
            **self.dynamodb.variables(),
            "DATABASE_URL": f"postgresql://{ROLE}@127.0.0.1:{self.server.port}/{database}",
            "PGSSLMODE": "disable",  # dbmate's driver insists on TLS otherwise
            "AWS_LAMBDA_FUNCTION_NAME": "bench",
            "LAMBDA_MIGRATE_TABLE": LEASE_TABLE,
            "LAMBDA_MIGRATE_TARGET": database,
            "POWERTOOLS_SERVICE_NAME": "bench",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }


def wait_until(function: LocalFunction, condition: Callable[[], Any], error_message: str) -> None:
    """Wait until a condition holds; a MeasurementFailed with the function's logs if it does not."""
    until = time.monotonic() + _WAIT_TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > until:
            logs = "\n".join(function.logs(one.environment_id) for one in function.environments())
            raise MeasurementFailed(f"{error_message}:\n{logs}")
        time.sleep(_POLL_SECONDS)
