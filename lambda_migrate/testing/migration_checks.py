"""Tests of your migrations that pytest runs for you: import them into a file of tests.

::

    # tests/test_migrations.py
    from lambda_migrate.testing.migration_checks import *

Each runs on a database of its own; see `lambda_migrate.testing.pytest_plugin`.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lambda_migrate.clock import Deadline
from lambda_migrate.engine.operations import Operations
from lambda_migrate.errors import MigrateError
from lambda_migrate.manifest_digest import find_version
from lambda_migrate.migrations import Manifest
from lambda_migrate.migrations.sql.lint import check_migration
from lambda_migrate.migrations.version import parse_version
from lambda_migrate.postgresql.connection import PostgresError
from lambda_migrate.testing.schema import count_rows, read_rows, read_schema
from lambda_migrate.testing.scratch import connect_to, open_migrations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lambda_migrate.migrations import Migration
    from lambda_migrate.testing.pytest_plugin import MigrationOptions
    from lambda_migrate.testing.schema import Rows
    from lambda_migrate.testing.scratch import ScratchDatabase

__all__ = [
    "test_migrations_are_one_sequence",
    "test_migrations_keep_data",
    "test_migrations_roll_back",
]

_STEP_SECONDS = 600.0
_MAX_LINES = 20


def test_migrations_are_one_sequence(lambda_migrate_options: MigrationOptions) -> None:
    """No version is taken twice, every script may run, and none changes what is released."""
    with _failures_of_pytest():
        manifest = lambda_migrate_options.read_manifest()
    migrations = (*manifest.migrations, *manifest.repeatables)
    faults = [fault for migration in migrations for fault in check_migration(migration)]
    if lambda_migrate_options.base_ref:
        faults += _compare_with_base(manifest.migrations, lambda_migrate_options)
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


def test_migrations_roll_back(
    lambda_migrate_options: MigrationOptions, lambda_migrate_empty_database: ScratchDatabase
) -> None:
    """Each migration applies, rolls back to the schema before it, and applies again."""
    steps = _Steps(lambda_migrate_empty_database, lambda_migrate_options)
    faults = []
    after = steps.read_schema()
    for migration in steps.migrations:
        before = after
        steps.apply(migration)
        after = applied = steps.read_schema()
        if migration.down is None:
            continue
        steps.roll_back(migration)
        if difference := _compare_schemas(before, steps.read_schema()):
            faults.append(
                f"{migration.name}: rolling it back does not restore the schema:\n{difference}\n"
                f"next: complete the down script of {_path(migration)}"
            )
        steps.apply(migration)
        after = steps.read_schema()
        if difference := _compare_schemas(applied, after):
            faults.append(
                f"{migration.name}: applying it again after a rollback produces a different "
                f"schema:\n{difference}\nnext: make its down script ({_path(migration)}) undo "
                "everything that its up script does"
            )
    if faults:
        pytest.fail("\n\n".join(faults), pytrace=False)


def test_migrations_keep_data(
    lambda_migrate_options: MigrationOptions,
    lambda_migrate_empty_database: ScratchDatabase,
    lambda_migrate_data: Mapping[str, str],
) -> None:
    """The rows of all tables survive when a later migration is applied and rolled back."""
    steps = _Steps(lambda_migrate_empty_database, lambda_migrate_options)
    data = steps.match_with_migrations(lambda_migrate_data)
    faults = []
    for migration in steps.migrations:
        before = steps.read_rows()
        steps.apply(migration)
        if migration.down is not None:
            steps.roll_back(migration)
            rolled_back = steps.read_rows()
            steps.apply(migration)
            difference = _compare_rows(before, rolled_back)
            if difference and migration.name not in lambda_migrate_options.lossy_migrations:
                faults.append(
                    f"{migration.name}: rows were lost or changed when it was rolled back:\n"
                    f"{difference}\nnext: restore them in its down script ({_path(migration)}), or "
                    f"list {migration.name} in lambda_migrate_lossy if that is intended"
                )
        if sql := data.get(migration.name):
            steps.insert(migration, sql)
    if faults:
        pytest.fail("\n\n".join(faults), pytrace=False)


class _Steps:
    """Applies and rolls back the migrations of a database one by one."""

    def __init__(self, database: ScratchDatabase, options: MigrationOptions) -> None:
        self._database = database
        self._library_schema = options.schema
        with _failures_of_pytest():
            manifest, target = open_migrations(database, options.directory, schema=options.schema)
        self.migrations = manifest.migrations
        # Repeatable migrations come after all of them, and are not rolled back.
        self._operations = Operations(Manifest(self.migrations, manifest.hooks.values()), target)

    def apply(self, migration: Migration) -> None:
        with _failures_of_pytest(migration):
            self._operations.up(Deadline.after(_STEP_SECONDS), to=migration.version)

    def roll_back(self, migration: Migration) -> None:
        with _failures_of_pytest(migration):
            self._operations.down(Deadline.after(_STEP_SECONDS), steps=1)

    def read_schema(self) -> frozenset[str]:
        with connect_to(self._database) as connection:
            return read_schema(connection, without=self._library_schema)

    def read_rows(self) -> Rows:
        with connect_to(self._database) as connection:
            return read_rows(connection, without=self._library_schema)

    def insert(self, migration: Migration, sql: str) -> None:
        try:
            self._database.execute(sql)
        except PostgresError as error:
            message = f"the SQL for {migration.name} in lambda_migrate_data failed: {error}"
            raise pytest.fail.Exception(message, pytrace=False) from None

    def match_with_migrations(self, data: Mapping[str, str]) -> dict[str, str]:
        """By the migrations' names; the keys are names or versions."""
        names = {str(migration.version): migration.name for migration in self.migrations}
        found = {}
        for key, sql in data.items():
            name = key if key in names.values() else names.get(_normalize_version(key), "")
            if not name:
                pytest.fail(
                    f"the fixture lambda_migrate_data has SQL for {key!r}, but no migration has "
                    "this name or version",
                    pytrace=False,
                )
            found[name] = sql
        return found


def _normalize_version(text: str) -> str:
    try:
        return str(parse_version(text))
    except ValueError:
        return ""


@contextmanager
def _failures_of_pytest(migration: Migration | None = None) -> Iterator[None]:
    """Turn the library's errors into a test's failure, without a traceback."""
    try:
        yield
    except MigrateError as error:
        report = str(error)
        if migration is not None:
            prefix = "" if migration.name in report else f"{migration.name}: "
            report = f"{prefix}{report}\nnext: fix {_path(migration)}"
        raise pytest.fail.Exception(report, pytrace=False) from None


def _compare_schemas(expected: frozenset[str], actual: frozenset[str]) -> str:
    lines = [f"  missing: {_shorten(line)}" for line in sorted(expected - actual)]
    lines += [f"  left over: {_shorten(line)}" for line in sorted(actual - expected)]
    return _join(lines)


def _compare_rows(expected: Rows, actual: Rows) -> str:
    lines = []
    for table, rows in expected.items():
        if not rows:
            continue
        if table not in actual:
            lines.append(f"  {table}: the table with {len(rows)} rows is gone")
            continue
        columns = frozenset(rows[0])
        lost = count_rows(rows, columns) - count_rows(actual[table], columns)
        extra = count_rows(actual[table], columns) - count_rows(rows, columns)
        lines += [f"  {table}: lost {_shorten(row)}" for row in lost]
        lines += [f"  {table}: unexpected {_shorten(row)}" for row in extra]
    return _join(lines)


def _path(migration: Migration) -> str:
    """Where the file is, seen from where pytest runs."""
    return os.path.relpath(migration.path)


def _shorten(line: str) -> str:
    one_line = " ".join(line.split())
    return one_line if len(one_line) <= 300 else one_line[:297] + "..."


def _join(lines: list[str]) -> str:
    more = len(lines) - _MAX_LINES
    return "\n".join(lines[:_MAX_LINES] + ([f"  ... and {more} more"] if more > 0 else []))


# -- what is released ---------------------------------------------------------------------------


def _compare_with_base(migrations: tuple[Migration, ...], options: MigrationOptions) -> list[str]:
    """Faults of the files against those of a commit, whose migrations may be applied already."""
    released = _read_base(options)
    present = {Path(migration.path).name: migration for migration in migrations}
    kept = [present[name] for name in released if name in present]
    highest = max((migration.version for migration in kept), default=None)
    faults = [
        f"{name}: it is in {options.base_ref}, so it may be applied, and is missing here; "
        "restore it"
        for name in sorted(released.keys() - present.keys())
    ]
    for name, migration in present.items():
        text = Path(migration.path).read_bytes()
        if name in released:
            if text.replace(b"\r\n", b"\n") != released[name].replace(b"\r\n", b"\n"):
                faults.append(
                    f"{name}: it differs from {options.base_ref}, where it may be applied; "
                    "restore it, and write another migration"
                )
        elif highest is not None and migration.version < highest:
            faults.append(
                f"{name}: its version is below {highest}, which {options.base_ref} has, so "
                "functions would refuse it as out of order; give it a higher version"
            )
    return faults


def _read_base(options: MigrationOptions) -> dict[str, bytes]:
    """The versioned migration files of the base, by name; others may change."""
    listing = _run_git(options, "ls-tree", "-z", "--name-only", options.base_ref, "./")
    names = [
        name
        for name in listing.decode().split("\0")
        if name.endswith(".sql") and find_version(name) is not None
    ]
    return {name: _run_git(options, "show", f"{options.base_ref}:./{name}") for name in names}


def _run_git(options: MigrationOptions, *arguments: str) -> bytes:
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            ["git", *arguments],  # noqa: S607 - the user's own git
            cwd=options.directory,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        stderr = getattr(error, "stderr", b"") or str(error).encode()
        raise pytest.fail.Exception(
            f"git cannot read lambda_migrate_base = {options.base_ref}: "
            f"{stderr.decode(errors='replace').strip()}\nnext: fetch it; in CI, check out with the "
            "whole history (fetch-depth: 0)",
            pytrace=False,
        ) from None
    return done.stdout
