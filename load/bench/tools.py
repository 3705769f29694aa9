"""How each compared tool is set up, as its own documentation says; the migrations that all apply.

A project is a directory: what is in ``projects``, and the migrations. Its ``app.handler`` brings
the database of ``DATABASE_URL`` up to date.
"""

from __future__ import annotations

import compileall
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.servers.postgresql import engines_directory, install_npm

_PROJECTS = Path(__file__).with_name("projects")

DBMATE_VERSION = "2.36.0"
_DBMATE_PATH = engines_directory() / "dbmate" / "dbmate"
_DBMATE_COMMAND = (
    *(str(_DBMATE_PATH), "--migrations-dir", "migrations"),
    *("--no-dump-schema", "migrate"),
)


class MigrationSource(NamedTuple):
    """One migration, for any tool."""

    version: int
    name: str
    statements: tuple[str, ...]
    down: str = ""  # of lambda-migrate's own format

    @property
    def stem(self) -> str:
        """Its file's name, without the ending."""
        return f"{self.version:04}_{self.name}"

    @property
    def script(self) -> str:
        """Its statements as one text."""
        return "".join(f"{statement};\n" for statement in self.statements)


class Tool(NamedTuple):
    """A way to bring a schema up to date."""

    title: str
    folders: Sequence[str]  # below ``projects``; of files of one name the last one counts
    path: str  # of a migration in a project, with its stem
    render: Callable[[MigrationSource, str | None], str]  # its text; also of the stem before it
    variables: Mapping[str, str] = {}
    program: Sequence[str] = ()  # what brings the database up to date, if it is not Python

    @property
    def code(self) -> str:
        """Python: what brings the database up to date, run in the project's directory."""
        context = "Context()" if "lambda_migrate" in self.folders else "None"
        return self.files(())["app.py"] + f"\nhandler({{}}, {context})"

    def files(self, migrations: Sequence[MigrationSource]) -> dict[str, str]:
        """The texts of its project for some migrations, by path."""
        files = {}
        for folder in self.folders:
            for path in (_PROJECTS / folder).rglob("*.*"):
                if path.suffix in (".ini", ".json", ".py"):
                    files[str(path.relative_to(_PROJECTS / folder))] = path.read_text()
        previous = None
        for migration in migrations:
            files[self.path.format(migration.stem)] = self.render(migration, previous)
            previous = migration.stem
        return files


def write_project(home: Path, files: Mapping[str, str]) -> None:
    """Write these files below ``home``, with their bytecode."""
    for path, text in files.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(text.lstrip())
    compileall.compile_dir(home, quiet=2)


def install_dbmate() -> None:
    """Fetch dbmate's program with npm, unless it is there; a ConfigurationError if it cannot."""
    if _DBMATE_PATH.is_file():
        return
    _DBMATE_PATH.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_DBMATE_PATH.parent) as scratch:
        install_npm(f"dbmate@{DBMATE_VERSION}", Path(scratch))  # it chooses the build
        for program in Path(scratch).glob("node_modules/@dbmate/*/bin/dbmate"):
            program.rename(_DBMATE_PATH)
            return
    raise ConfigurationError(f"npm has no build of dbmate {DBMATE_VERSION} for this machine")


_ALEMBIC_REVISION = """
import os
from alembic import op
revision = {version!r}
down_revision = {previous!r}

def upgrade():
    for statement in {statements!r}:
        if "CONCURRENTLY" in statement:
            with op.get_context().autocommit_block():
                op.execute(statement)
        elif statement != "COMMIT":
            op.execute(statement)
        elif "LAMBDA_MIGRATE_SOURCE" in os.environ:  # Alembic alone loses what follows it
            op.get_bind().commit()
"""


def _render_revision(migration: MigrationSource, previous: str | None) -> str:
    return _ALEMBIC_REVISION.format(
        version=migration.stem, previous=previous, statements=migration.statements
    )


_DJANGO_MIGRATION = """
from django.db import migrations

class Migration(migrations.Migration):
    atomic = {is_atomic}
    dependencies = {dependencies!r}
    operations = [migrations.RunSQL({statements!r})]
"""


def _render_django_migration(migration: MigrationSource, previous: str | None) -> str:
    return _DJANGO_MIGRATION.format(
        is_atomic="CONCURRENTLY" not in migration.script,
        dependencies=[("shop", previous)] if previous else [],
        statements=list(migration.statements),
    )


def _render_yoyo_sql(migration: MigrationSource, previous: str | None) -> str:
    return (f"-- depends: {previous}\n" if previous else "") + migration.script


def _render_sql(migration: MigrationSource, _previous: str | None) -> str:
    option = " transaction:false" if "CONCURRENTLY" in migration.script else ""
    up, down = migration.script, migration.down
    return f"-- migrate:up{option}\n{up}\n-- migrate:down{option}\n{down}\n"


_SQL = ("migrations/{}.sql", _render_sql)
ALEMBIC = Tool("Alembic", ["alembic"], "alembic/versions/{}.py", _render_revision)
DJANGO = Tool("Django", ["django"], "shop/migrations/{}.py", _render_django_migration)
YOYO = Tool("yoyo", ["yoyo"], "migrations/{}.sql", _render_yoyo_sql)
DBMATE = Tool("dbmate", ["dbmate"], *_SQL, {"DBMATE": shlex.join(_DBMATE_COMMAND)}, _DBMATE_COMMAND)
_HAND_WRITTEN = Tool("pg_advisory_lock by hand", ["by_hand"], *_SQL)
LAMBDA_MIGRATE = Tool("lambda-migrate", ["lambda_migrate"], *_SQL)
LAMBDA_MIGRATE_ALEMBIC = ALEMBIC._replace(
    title="lambda-migrate, Alembic's revisions",
    folders=["alembic", "lambda_migrate"],
    variables={"LAMBDA_MIGRATE_SOURCE": "alembic"},
)
LAMBDA_MIGRATE_DJANGO = DJANGO._replace(
    title="lambda-migrate, Django's migrations",
    folders=["django", "lambda_migrate"],
    variables={"LAMBDA_MIGRATE_SOURCE": "django", "DJANGO_SETTINGS_MODULE": "settings"},
)

TOOLS = {
    tool.title: tool for tool in (ALEMBIC, DJANGO, YOYO, DBMATE, _HAND_WRITTEN, LAMBDA_MIGRATE)
}
"""By their titles."""

TOOLS_BY_SOURCE = {
    "sql": LAMBDA_MIGRATE,
    "alembic": LAMBDA_MIGRATE_ALEMBIC,
    "django": LAMBDA_MIGRATE_DJANGO,
}
"""lambda-migrate by the source of its migrations."""

VERSION_TABLES = {
    "sql": ("lambda_migrate.history", "name"),
    "alembic": ("alembic_version", "version_num"),
    "django": ("django_migrations", "app || '.' || name"),
}
"""By source: where a migration is recorded as applied, and what is its id there."""


# --- the migrations that every tool applies

LONG_MIGRATION_SECONDS = 3

SLEEPING_SQL = """
SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
AND state = 'active' AND query LIKE '%pg_sleep%'
"""
"""Has a row while the long migration runs."""


def make_small_migrations(count: int) -> list[MigrationSource]:
    """A table, then a row, and so on."""
    migrations = []
    for n in range(1, count + 1):
        table = f"things_{(n + 1) // 2}"
        creates = f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text)"
        inserts = f"INSERT INTO {table} VALUES ({n}, 'the first')"  # noqa: S608 - our own names
        migrations.append(MigrationSource(n, f"step_{n}", (creates if n % 2 else inserts,)))
    return migrations


def make_storm_migrations(*, pending: bool) -> list[MigrationSource]:
    """Five migrations, and ten more that are pending in the storm, one of them long.

    Each of the ten records its effect. Two add to a balance: a second time, that does not fail.
    """
    statements = {1: "CREATE TABLE effects (migration integer NOT NULL)"}
    statements[2] = "CREATE TABLE accounts AS SELECT 0 AS balance"
    statements[6] = statements[15] = "UPDATE accounts SET balance = balance + 1"
    statements[10] = f"SELECT pg_sleep({LONG_MIGRATION_SECONDS})"
    migrations = []
    for version in range(1, 16 if pending else 6):
        table = f"CREATE TABLE storm_{version} (id bigint PRIMARY KEY, name text)"
        effect = f"INSERT INTO effects VALUES ({version})"  # noqa: S608 - a number
        both = (statements.get(version, table), *([effect] if version > 5 else []))
        migrations.append(MigrationSource(version, f"step_{version}", both))
    return migrations
