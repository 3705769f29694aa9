"""The servers, the databases, and the projects on disk that all rows of the table share."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_migrate.local.servers.dynamodb import Dynalite, DynamoDBEndpoint
from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from load.bench.migrations import Change
from load.bench.peers import Peer
from load.bench.processes import ProcessResult, Program, run

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ROLE", "TABLE", "Workspace"]

ROLE = "app"
"""Not a superuser: the last three connections are not for it, so that they can be counted."""

TABLE = "lambda-migrate"

_SETTINGS = {"track_commit_timestamp": "on"}


class Workspace:
    """One PostgreSQL with its default of 100 connections, one DynamoDB API, one directory.

    Args:
        dynamodb: The DynamoDB API; dynalite by default.
    """

    def __init__(self, dynamodb: DynamoDBEndpoint | None = None) -> None:
        self.dynamodb = Dynalite() if dynamodb is None else dynamodb
        self._closing = ExitStack()
        self._databases = 0

    def __enter__(self) -> Workspace:
        with ExitStack() as opened:
            self.home = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="lm-bench-")))
            self.server = opened.enter_context(LocalPostgreSQL(tcp_port=0, settings=_SETTINGS))
            self.server.execute(f"CREATE ROLE {ROLE} LOGIN")
            opened.enter_context(self.dynamodb)
            self.dynamodb.create_table(TABLE)
            self._closing = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.close()

    # -- databases ------------------------------------------------------------------------------

    def new_database(self) -> str:
        """Make an empty database that belongs to the role, and return its name."""
        self._databases += 1
        self.server.execute(f"CREATE DATABASE {self.newest_database} OWNER {ROLE}")
        return self.newest_database

    @property
    def newest_database(self) -> str:
        """The name that `new_database` returned last."""
        return f"bench_{self._databases}"

    def drop_database(self, name: str) -> None:
        """Drop it; hundreds would fill the disk."""
        self.server.drop_database(name)

    def query(self, database: str, sql: str) -> list[list[Any]]:
        """Rows of one statement, as the superuser."""
        return self.server.execute(sql, database)

    def sessions(self, database: str) -> tuple[int, float]:
        """How many connections were ever made to a database, and their seconds altogether.

        Those still open are not counted.
        """
        rows = self.server.execute(
            "SELECT sessions, session_time / 1000 FROM pg_stat_database WHERE datname = :name",
            name=database,
        )
        return int(rows[0][0]), float(rows[0][1])

    # -- projects -------------------------------------------------------------------------------

    def project(self, peer: Peer, name: str, changes: Sequence[Change]) -> Path:
        """A peer's project with some migrations; made once."""
        home = self.home / f"{peer.key}-{name}"
        return home if home.exists() else peer.make(home, changes)

    def program(
        self,
        peer: Peer,
        project: Path,
        database: str,
        *,
        command: Sequence[str] | None = None,
    ) -> Program:
        """What runs a peer's project against a database; or another command in its place."""
        return Program(
            peer.command() if command is None else command,
            project,
            self.environment(database, scheme=peer.scheme),
        )

    def environment(self, database: str, *, scheme: str = "postgresql") -> Mapping[str, str]:
        """Every variable of a measured process: few of this shell's.

        PYTHONDONTWRITEBYTECODE would have everything compiled each time.
        """
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        query = "?sslmode=disable" if scheme == "postgres" else ""  # Go's driver insists on TLS
        url = f"{scheme}://{ROLE}@127.0.0.1:{self.server.port}/{database}{query}"
        return {
            **kept,
            **self.dynamodb.environment(),
            "DATABASE_URL": url,
            "AWS_LAMBDA_FUNCTION_NAME": "bench",
            "LAMBDA_MIGRATE_TABLE": TABLE,
            "LAMBDA_MIGRATE_TARGET": database,
            "POWERTOOLS_SERVICE_NAME": "bench",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    def migrate(self, peer: Peer, project: Path, database: str) -> ProcessResult:
        """Have a peer apply its project's migrations, in one process."""
        return run(self.program(peer, project, database))

    def python(self, code: str, database: str = "postgres") -> Program:
        """A fresh interpreter that runs ``code`` in an empty place."""
        return Program((sys.executable, "-c", code), self.home, self.environment(database))
