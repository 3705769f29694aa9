"""How each compared tool is set up, as its own documentation says, to apply the same migrations.

A project is a directory: what is in ``projects``, and the migrations. Its ``app.handler`` brings
the database of ``DATABASE_URL`` up to date.
"""

from __future__ import annotations

import compileall
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.servers.postgresql import engines_directory, unpack_npm
from load.bench.migrations import MigrationSource

_PROJECTS = Path(__file__).with_name("projects")

DBMATE_VERSION = "2.36.0"
_DBMATE_PROGRAM = engines_directory() / "dbmate" / "dbmate"
_DBMATE_COMMAND = (
    *(str(_DBMATE_PROGRAM), "--migrations-dir", "migrations"),
    *("--no-dump-schema", "migrate"),
)


class Tool(NamedTuple):
    """A way to bring a schema up to date."""

    title: str  # for readers
    folders: Sequence[str]  # below ``projects``; of files of one name the last one counts
    migration_files: Callable[[Sequence[MigrationSource]], Mapping[str, str]]  # their texts by path
    variables: Mapping[str, str] = {}
    program: Sequence[str] = ()  # what brings the database up to date, if it is not Python

    @property
    def code(self) -> str:
        """Python: what brings the database up to date, run in the project's directory."""
        if "lambda_migrate" in self.folders:
            return "import app\napp.handler({}, app.Context())"
        return self.files(())["app.py"] + "\nhandler({}, None)"

    def command(self) -> Sequence[str]:
        """What brings the database up to date."""
        return self.program or (sys.executable, "-c", self.code)

    def files(self, migrations: Sequence[MigrationSource]) -> dict[str, str]:
        """The texts of its project for some migrations, by path."""
        files = {}
        for folder in self.folders:
            for path in (_PROJECTS / folder).rglob("*.*"):
                if path.suffix in (".ini", ".json", ".py"):
                    files[str(path.relative_to(_PROJECTS / folder))] = path.read_text()
        return {**files, **self.migration_files(migrations)}


def write_project(home: Path, files: Mapping[str, str]) -> None:
    """Write these files below ``home``, with their bytecode."""
    for path, text in files.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(text.lstrip())
    compileall.compile_dir(home, quiet=2)


def install_dbmate() -> None:
    """Fetch dbmate's program with npm, unless it is there.

    Raises:
        ConfigurationError: npm is missing or failed, or there is no build for this machine.
    """
    program = _DBMATE_PROGRAM
    if not program.is_file():
        machines = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}
        machine = machines.get(platform.machine().lower())
        if machine is None:
            raise ConfigurationError(f"no build of dbmate is known for {platform.machine()}")
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
            unpack_npm(f"@dbmate/linux-{machine}@{DBMATE_VERSION}", Path(scratch))
            fetched = Path(scratch) / "package" / "bin" / "dbmate"
            fetched.chmod(0o755)
            fetched.rename(program)


def _with_previous(
    migrations: Sequence[MigrationSource],
) -> list[tuple[MigrationSource, MigrationSource | None]]:
    return list(zip(migrations, [None, *migrations], strict=False))


_ALEMBIC_REVISION = """
from alembic import op
revision = {version!r}
down_revision = {previous!r}

def upgrade():
    for statement in {statements!r}:
        op.execute(statement)
"""


def _alembic_revisions(migrations: Sequence[MigrationSource]) -> dict[str, str]:
    return {
        f"alembic/versions/{migration.stem}.py": _ALEMBIC_REVISION.format(
            version=migration.stem,
            previous=previous and previous.stem,
            statements=migration.statements,
        )
        for migration, previous in _with_previous(migrations)
    }


_DJANGO_MIGRATION = """
from django.db import migrations

class Migration(migrations.Migration):
    dependencies = {dependencies!r}
    operations = [migrations.RunSQL({statements!r})]
"""


def _django_migrations(migrations: Sequence[MigrationSource]) -> dict[str, str]:
    packages = {f"shop/{folder}__init__.py": "" for folder in ("", "migrations/")}
    return packages | {
        f"shop/migrations/{migration.stem}.py": _DJANGO_MIGRATION.format(
            dependencies=[("shop", previous.stem)] if previous else [],
            statements=list(migration.statements),
        )
        for migration, previous in _with_previous(migrations)
    }


def _yoyo_files(migrations: Sequence[MigrationSource]) -> dict[str, str]:
    return {
        f"migrations/{migration.stem}.sql": (f"-- depends: {previous.stem}\n" if previous else "")
        + migration.script
        for migration, previous in _with_previous(migrations)
    }


def _sql_files(migrations: Sequence[MigrationSource]) -> dict[str, str]:
    return {
        f"migrations/{migration.stem}.sql": f"-- migrate:up\n{migration.script}\n-- migrate:down\n"
        for migration in migrations
    }


ALEMBIC = Tool("Alembic", ["alembic"], _alembic_revisions)
DJANGO = Tool("Django", ["django"], _django_migrations)
YOYO = Tool("yoyo", ["yoyo"], _yoyo_files)
DBMATE = Tool(
    "dbmate", ["dbmate"], _sql_files, {"DBMATE": shlex.join(_DBMATE_COMMAND)}, _DBMATE_COMMAND
)
_HAND_WRITTEN = Tool("pg_advisory_lock by hand", ["by_hand"], _sql_files)
LAMBDA_MIGRATE = Tool("lambda-migrate", ["lambda_migrate"], _sql_files)
ALEMBIC_IN_PLACE = Tool(
    "lambda-migrate, Alembic's revisions",
    ["alembic", "lambda_migrate"],
    _alembic_revisions,
    {"LAMBDA_MIGRATE_SOURCE": "alembic"},
)
DJANGO_IN_PLACE = Tool(
    "lambda-migrate, Django's migrations",
    ["django", "lambda_migrate"],
    _django_migrations,
    {"LAMBDA_MIGRATE_SOURCE": "django", "DJANGO_SETTINGS_MODULE": "settings"},
)

TOOLS = {
    tool.title: tool for tool in (ALEMBIC, DJANGO, YOYO, DBMATE, _HAND_WRITTEN, LAMBDA_MIGRATE)
}
"""By their titles."""
