"""A project that another tool has migrated, and the result that `adopt` must produce.

To add a tool, add a `ToolCase` to `cases.py`. To test with the real tool, make the database with it
(`Project.run`), and go through `check_adoption` with the same project.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lambda_migrate.cli import main
from lambda_migrate.settings import Settings
from lambda_migrate.testing.schema import read_schema
from lambda_migrate.wiring import make_connect
from tests.sandbox import Sandbox

ONE = "CREATE TABLE customers (id int PRIMARY KEY);\n"
ONE_DOWN = "DROP TABLE customers;\n"
TWO = "ALTER TABLE customers ADD COLUMN status text NOT NULL DEFAULT 'new';\n"
TWO_DOWN = "ALTER TABLE customers DROP COLUMN status;\n"
THREE = "CREATE INDEX CONCURRENTLY customers_status ON customers (status);\n"
THREE_DOWN = "DROP INDEX CONCURRENTLY customers_status;\n"
"""The three migrations of every project: the tool has applied two, and the third is pending."""


@dataclass(frozen=True, kw_only=True)
class ToolCase:
    """One tool: a project of three migrations, two of them applied.

    Attributes:
        tool: Its name.
        files: Its files: path -> text.
        history: SQL that makes its history table with two versions applied; ``{sha256:path}`` is
            the hash of a file.
        table: That table.
        adopted: The files that `adopt` writes.
        third: The condition for the row of the third version in the tool's table, once it is
            applied by lambda-migrate with ``--keep-theirs``; "" if the tool cannot be kept.
        dirty: SQL that makes a version look as if it had failed; "" if the tool has no such state.
        has_checksums: Whether its table has checksums of its files.
        has_single_row: Whether its table has only the last version.
    """

    tool: str
    files: Mapping[str, str]
    history: str
    table: str
    adopted: tuple[str, ...]
    third: str = ""
    dirty: str = ""
    has_checksums: bool = False
    has_single_row: bool = False


@dataclass(kw_only=True)
class Project:
    """A folder with a tool's files, and its database."""

    sandbox: Sandbox
    folder: Path
    capsys: pytest.CaptureFixture[str]
    directory: str = "lambda_migrations"

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())

    def tree(self) -> dict[str, bytes]:
        """Every file of the project."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and "node_modules" not in path.parts
        }

    def call(self, *arguments: str, url: str = "") -> tuple[int, dict[str, Any]]:
        """Run `lambda-migrate` here; returns its exit code and its document."""
        options = ("--directory", self.directory, "--database-url", url or self.sandbox.url)
        code = main([*arguments, *options, "--format", "json"])
        document: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return code, document

    def refusal(self, *arguments: str) -> str:
        """Run a command that is refused; returns the message."""
        code, document = self.call(*arguments)
        assert code == 2, document
        return str(document["error"]["message"])

    def run(self, *command: str, **variables: str) -> str:
        """Run a real tool in the project's folder."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "DATABASE_URL": self.sandbox.url, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def schema(self, name: str = "") -> frozenset[str]:
        """Every object of the database outside the library's schema."""
        url = self.sandbox.postgresql.url(name or self.sandbox.name)
        settings = Settings.load({"LAMBDA_MIGRATE_DATABASE_URL": url})
        connection = make_connect(settings)("test", 10.0)
        try:
            return read_schema(connection, without="lambda_migrate")
        finally:
            connection.close()

    def rows(self, table: str) -> list[str]:
        """The rows of a table."""
        found = self.sandbox.query(f"SELECT to_jsonb(t)::text FROM {table} t ORDER BY 1")
        return [row for (row,) in found]

    def history(self) -> list[str]:
        """The names in the library's history."""
        found = self.sandbox.query("SELECT to_regclass('lambda_migrate.history') IS NOT NULL")
        if found != [[True]]:
            return []
        rows = self.sandbox.query("SELECT name FROM lambda_migrate.history")
        return sorted(name for (name,) in rows)


def make_database(project: Project, case: ToolCase) -> None:
    """Make the database as the tool leaves it after two migrations."""
    project.write(case.files)
    project.sandbox.query(ONE)
    project.sandbox.query(TWO)
    sql = case.history
    for name, text in case.files.items():
        for algorithm in ("sha1", "sha256", "sha384"):
            digest = hashlib.new(algorithm, text.encode()).hexdigest()
            sql = sql.replace(f"{{{algorithm}:{name}}}", digest)
    for statement in filter(str.strip, sql.split(";\n")):
        project.sandbox.query(statement)


def check_adoption(
    project: Project, tool: str, table: str, adopted: tuple[str, ...], *options: str
) -> None:
    """Adopt a project of three migrations, two of them applied."""
    files, theirs = project.tree(), project.rows(table)
    code, document = project.call("adopt", "--dry-run", *options)
    assert (code, document["tool"]) == (0, tool), document
    assert (project.tree(), project.history()) == (files, []), "a dry run changes nothing"
    code, document = project.call("adopt", "--yes", *options)
    assert code == 0, document
    names = [name.removesuffix(".sql") for name in adopted]
    assert tuple(document["written"]) == adopted
    assert (document["marked_as_applied"], document["faults"]) == (names[:2], [])
    assert project.history() == sorted(names[:2])
    assert project.rows(table) == theirs, "the tool's own table stays as it is"
    kept = {path: text for path, text in project.tree().items() if path in files}
    assert kept == files, "the tool's own files stay as they are"


def check_fresh_database(project: Project, table: str) -> None:
    """The adopted files make the same schema on an empty database."""
    name = f"{project.sandbox.name}_fresh"
    code, document = project.call("up", url=project.sandbox.postgresql.create_database(name))
    assert code == 0, document
    tool = re.compile(
        rf"{table.rpartition('.')[2]}|_lock|ar_internal|schema {table.partition('.')[0]}\b"
    )
    without_tool = {line for line in project.schema() if not tool.search(line)}
    assert project.schema(name) == without_tool
