"""How each compared tool is set up, as its own documentation says, to apply the same migrations.

A project is a directory. What runs there takes the database from ``DATABASE_URL``.
"""

from __future__ import annotations

import compileall
import platform
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.servers.postgresql import engines_directory, unpack_npm
from load.bench.migrations import MigrationSource

DBMATE_VERSION = "2.36.0"

_DBMATE_ARGUMENTS = ("--migrations-dir", "migrations", "--no-dump-schema", "migrate")
_RUN_PROGRAM = """
import subprocess
done = subprocess.run({command!r}, capture_output=True, text=True)
if done.returncode:
    raise RuntimeError(done.stderr)
"""


class Tool(NamedTuple):
    """A way to bring a schema up to date."""

    title: str  # for readers
    files: Callable[[Sequence[MigrationSource]], Mapping[str, str]]
    """The texts of its project for some migrations, by path."""
    import_code: str = ""
    """Python: what a process does before its first event. "" for a program."""
    migrate_code: str = ""
    """Python: what brings a database up to date, run in the project's directory."""

    def command(self) -> Sequence[str]:
        """What brings a database up to date."""
        if self.migrate_code:
            return (sys.executable, "-c", self.import_code + self.migrate_code)
        return (str(install_dbmate()), *_DBMATE_ARGUMENTS)

    def handler_module(self) -> str:
        """A function that brings the database up to date in its handler."""
        code = self.migrate_code or _RUN_PROGRAM.format(command=self.command())
        return f"{self.import_code}\ndef handler(event, context):\n{textwrap.indent(code, '    ')}"

    def make_project(self, home: Path, migrations: Sequence[MigrationSource]) -> None:
        """Write the project."""
        write_project(home, {"app.py": self.handler_module(), **self.files(migrations)})


def write_project(home: Path, files: Mapping[str, str]) -> None:
    """Write these files below ``home``, with their bytecode."""
    for path, text in files.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(text.lstrip())
    compileall.compile_dir(home, quiet=2)


def install_dbmate() -> Path:
    """Fetch dbmate's program with npm, unless it is there.

    Raises:
        ConfigurationError: npm is missing or failed, or there is no build for this machine.
    """
    program = engines_directory() / "dbmate" / "dbmate"
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
    return program


def _with_previous(
    migrations: Sequence[MigrationSource],
) -> list[tuple[MigrationSource, MigrationSource | None]]:
    return list(zip(migrations, [None, *migrations[:-1]], strict=True))


_ALEMBIC_ENV = """
import os
from alembic import context
from sqlalchemy import create_engine, pool

url = os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:")
with create_engine(url, poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()
"""
_ALEMBIC_REVISION = """
from alembic import op
revision = {version!r}
down_revision = {previous!r}

def upgrade():
    for statement in {statements!r}:
        op.execute(statement)
"""


def _alembic_files(migrations: Sequence[MigrationSource]) -> Mapping[str, str]:
    config = "[alembic]\nscript_location = %(here)s/alembic\n"
    return {"alembic.ini": config, "alembic/env.py": _ALEMBIC_ENV} | {
        f"alembic/versions/{migration.stem}.py": _ALEMBIC_REVISION.format(
            version=migration.stem,
            previous=previous and previous.stem,
            statements=migration.statements,
        )
        for migration, previous in _with_previous(migrations)
    }


ALEMBIC = Tool(
    "Alembic",
    _alembic_files,
    """
import psycopg
import sqlalchemy.dialects.postgresql.psycopg
from alembic import command
from alembic.config import Config
""",
    'command.upgrade(Config("alembic.ini"), "head")',
)

_DJANGO_SETTINGS = """
import os
from urllib.parse import parse_qs, urlsplit

url = urlsplit(os.environ["DATABASE_URL"])
INSTALLED_APPS = ["shop"]
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.path.lstrip("/"),
        "USER": url.username,
        "HOST": url.hostname or parse_qs(url.query)["host"][0],
        "PORT": url.port,
    }
}
"""
_DJANGO_MIGRATION = """
from django.db import migrations

class Migration(migrations.Migration):
    dependencies = {dependencies!r}
    operations = [migrations.RunSQL({statements!r})]
"""


def _django_files(migrations: Sequence[MigrationSource]) -> Mapping[str, str]:
    packages = {f"shop/{folder}__init__.py": "" for folder in ("", "migrations/")}
    return {"settings.py": _DJANGO_SETTINGS, **packages} | {
        f"shop/migrations/{migration.stem}.py": _DJANGO_MIGRATION.format(
            dependencies=[("shop", previous.stem)] if previous else [],
            statements=list(migration.statements),
        )
        for migration, previous in _with_previous(migrations)
    }


DJANGO = Tool(
    "Django",
    _django_files,
    """
import os

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
from django.core.management import call_command
from django.core.management.commands import migrate

django.setup()
""",
    'call_command("migrate", interactive=False, verbosity=0)',
)


def _yoyo_files(migrations: Sequence[MigrationSource]) -> Mapping[str, str]:
    return {
        f"migrations/{migration.stem}.sql": (f"-- depends: {previous.stem}\n" if previous else "")
        + migration.script
        for migration, previous in _with_previous(migrations)
    }


YOYO = Tool(
    "yoyo",
    _yoyo_files,
    """
import os
import psycopg2
from yoyo import get_backend, read_migrations
from yoyo.backends.core import postgresql
""",
    """
backend = get_backend(os.environ["DATABASE_URL"])
migrations = read_migrations("migrations")
with backend.lock():
    backend.apply_migrations(backend.to_apply(migrations))
""",
)


def _sql_files(migrations: Sequence[MigrationSource]) -> dict[str, str]:
    return {
        f"migrations/{migration.stem}.sql": f"-- migrate:up\n{migration.script}\n-- migrate:down\n"
        for migration in migrations
    }


DBMATE = Tool("dbmate", _sql_files)

_HAND_WRITTEN = Tool(
    "pg_advisory_lock by hand",
    _sql_files,
    """
import os
from pathlib import Path
from urllib.parse import urlsplit
import pg8000.native
""",
    """
url = urlsplit(os.environ["DATABASE_URL"])
connection = pg8000.native.Connection(
    url.username, host=url.hostname, port=url.port, database=url.path[1:]
)
connection.run("SELECT pg_advisory_lock(4711)")
connection.run("CREATE TABLE IF NOT EXISTS versions (version text PRIMARY KEY)")
applied = {row[0] for row in connection.run("SELECT version FROM versions")}
for path in sorted(Path("migrations").glob("*.sql")):
    if path.stem not in applied:
        connection.run("BEGIN")
        connection.run(path.read_text().partition("-- migrate:down")[0])
        connection.run("INSERT INTO versions VALUES (:version)", version=path.stem)
        connection.run("COMMIT")
connection.close()
""",
)

_LAMBDA_MIGRATE_MODULE = """
import time
from lambda_migrate import migrate_on_cold_start

class Context:
    aws_request_id = "bench"
    function_name = "bench"

    def get_remaining_time_in_millis(self):
        return 120_000

@migrate_on_cold_start
def handler(event, context):
    return time.time()
"""

LAMBDA_MIGRATE = Tool(
    "lambda-migrate",
    lambda migrations: {**_sql_files(migrations), "app.py": _LAMBDA_MIGRATE_MODULE},
    "import app\n",
    "app.handler({}, app.Context())",
)

ALEMBIC_IN_PLACE = Tool(
    "lambda-migrate, Alembic's revisions",
    lambda migrations: {**_alembic_files(migrations), "app.py": _LAMBDA_MIGRATE_MODULE},
    """
import os

os.environ["LAMBDA_MIGRATE_SOURCE"] = "alembic"
import app
""",
    LAMBDA_MIGRATE.migrate_code,
)

_DJANGO_MANIFEST = '{"modules": {"shop": "shop.migrations"}}'

DJANGO_IN_PLACE = Tool(
    "lambda-migrate, Django's migrations",
    lambda migrations: {
        **_django_files(migrations),
        "app.py": _LAMBDA_MIGRATE_MODULE,
        "lambda_migrate_manifest.json": _DJANGO_MANIFEST,
    },
    """
import os

os.environ["LAMBDA_MIGRATE_SOURCE"] = "django"
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import app
""",
    LAMBDA_MIGRATE.migrate_code,
)

TOOLS = {
    tool.title: tool for tool in (ALEMBIC, DJANGO, YOYO, DBMATE, _HAND_WRITTEN, LAMBDA_MIGRATE)
}
"""By their titles."""
