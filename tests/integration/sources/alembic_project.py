"""Alembic projects for tests, and a minimal parent of the child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lambda_migrate.local.servers.postgresql import LocalPostgreSQL
from lambda_migrate.postgresql.queries import Queries
from lambda_migrate.sources.process import START_CHILD
from lambda_migrate.sources.protocol import ChildRequest
from tests.sandbox import ROOT

INI = """
[alembic]
script_location = migrations
prepend_sys_path = .
path_separator = os
"""

ENV = """
import os
from alembic import context
from sqlalchemy import create_engine, pool, text

engine = create_engine(os.environ["URL"], poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""

ASYNC_ENV = """
import asyncio, os
from alembic import context
from sqlalchemy import pool
from sqlalchemy.ext.asyncio import create_async_engine

def migrate(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()

async def main():
    engine = create_async_engine(os.environ["URL"], poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()

asyncio.run(main())
"""

DRIVERS = ("psycopg", "psycopg2", "asyncpg", "pg8000")


def revision(
    number: str, up: str, down: str = "", *, after: str | tuple[str, ...] = "", extra: str = ""
) -> str:
    """The text of a revision whose functions have these bodies."""
    parent = repr(after or None)
    bodies = [("upgrade", up), ("downgrade", down)]
    functions = "\n\n".join(
        f"def {name}():\n" + "\n".join(f"    {line}" for line in (body or "pass").splitlines())
        for name, body in bodies
    )
    return (
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision = {number!r}\ndown_revision = {parent}\n{extra}\n\n{functions}\n"
    )


class AlembicProject:
    """A folder with an Alembic environment, and a database that was taken over by token 1."""

    def __init__(self, server: LocalPostgreSQL, folder: Path, name: str) -> None:
        self.server = server
        self.folder = folder
        self.name = name
        self.address = server.tcp_url(name)
        """How env.py reaches the database."""
        self.packages = ""
        """A folder of packages that are used instead of the installed ones."""
        server.create_database(name)
        queries = Queries("lambda_migrate", has_mirror=True)
        self.query(queries._create_tables_sql(create_schema=True))
        self.identity = str(self.query("SELECT identity FROM lambda_migrate.fence")[0][0])
        self.take_over(1)
        self.events: list[dict[str, Any]] = []
        self.write({"alembic.ini": INI, "migrations/env.py": ENV})
        (folder / "migrations" / "versions").mkdir(exist_ok=True)

    def write(self, files: Mapping[str, str]) -> None:
        """Write files of the project."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def add(self, *texts: str) -> None:
        """Add revisions."""
        for text in texts:
            number = text.partition("revision = '")[2].partition("'")[0]
            self.write({f"migrations/versions/{number}_step.py": text})

    def query(self, sql: str) -> list[list[Any]]:
        """Rows of one statement."""
        return self.server.execute(sql, database=self.name)

    def take_over(self, token: int) -> None:
        """Set the token, as a successor does after it has ended the transactions before it."""
        self.query(f"UPDATE lambda_migrate.fence SET token = {token}, owner = 'owner{token}'")

    def url(self, driver: str) -> str:
        """The database's URL for SQLAlchemy."""
        return self.address.replace("postgresql:", f"postgresql+{driver}:")

    def variables(self, driver: str) -> dict[str, str]:
        """The environment variables of the child."""
        # Kept small, so that nothing of the tests' environment matters.
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        path = os.pathsep.join(filter(None, (self.packages, str(ROOT), *sys.path)))
        return {**kept, "PYTHONPATH": path, "URL": self.url(driver)}

    def run(
        self,
        command: str = "up",
        *,
        driver: str = "psycopg",
        token: int = 1,
        on_event: Callable[[dict[str, Any], subprocess.Popen[bytes]], Any] = lambda *_: None,
        seconds: float = 60.0,
        **request: Any,
    ) -> dict[str, Any]:
        """Run the child to its end; returns its last event.

        Args:
            command: See `ChildRequest`.
            driver: For the URL.
            token: Of the grant.
            on_event: Called with each event and the process; False as the result for ``start``
                stops there.
            seconds: The deadline.
            request: Further fields of the request.
        """
        options = {"alembic_config": "", "alembic_revision": "heads", "source_setup": ""}
        options |= request.pop("options", {})
        sent = ChildRequest(
            tool="alembic",
            command=command,
            root=str(self.folder),
            options=options,
            scope="alembic",
            schema="lambda_migrate",
            fence=token,
            owner=f"owner{token}",
            identity=self.identity,
            application_name=f"lambda-migrate:test:{token}",
            deadline_seconds=seconds,
            started=self.read_started(),
            **request,
        )
        process = subprocess.Popen(
            [sys.executable, "-c", START_CHILD],
            cwd=self.folder,
            env=self.variables(driver),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr").open("wb"),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(sent.to_line())
        process.stdin.flush()
        self.events = []
        for line in process.stdout:
            event = json.loads(line)
            self.events.append(event)
            answer = on_event(event, process)
            if event["event"] == "start":
                with suppress(BrokenPipeError):
                    process.stdin.write(json.dumps({"continue": answer is not False}).encode())
                    process.stdin.write(b"\n")
                    process.stdin.flush()
        process.stdin.close()
        process.wait()
        return self.events[-1] if self.events else {"event": "none", "stderr": self.stderr}

    @property
    def stderr(self) -> str:
        """What the child printed."""
        return (self.folder / "stderr").read_text()

    def run_alembic(self, *arguments: str, driver: str = "psycopg") -> str:
        """Run the command ``alembic`` as a user would."""
        result = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=self.folder,
            env=self.variables(driver),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def read_started(self) -> dict[str, list[str]]:
        """The log of each step that was interrupted."""
        rows = self.query(
            "SELECT id, statements FROM lambda_migrate.revision WHERE state <> 'applied'"
        )
        return {step_id: list(statements) for step_id, statements in rows}

    def heads(self) -> list[str]:
        """What Alembic's version table holds."""
        if self.query("SELECT to_regclass('alembic_version')")[0][0] is None:
            return []
        return [row[0] for row in self.query("SELECT version_num FROM alembic_version ORDER BY 1")]

    def mirror(self) -> list[tuple[str, str, int]]:
        """Revision, state and token of each row of the mirror."""
        rows = self.query("SELECT id, state, fence FROM lambda_migrate.revision ORDER BY position")
        return [(step_id, state, fence) for step_id, state, fence in rows]

    def columns(self, table: str) -> list[str]:
        """The columns of a table; empty if it does not exist."""
        rows = self.query(
            f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}'"
            " ORDER BY ordinal_position"
        )
        return [row[0] for row in rows]
