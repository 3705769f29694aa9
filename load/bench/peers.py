"""How each peer is set up, as its own documentation says, to apply the same migrations.

A project is a directory. What runs there takes the database from ``DATABASE_URL``.
"""

from __future__ import annotations

import compileall
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.local.servers.postgresql import engines_directory, unpack_npm
from load.bench.migrations import Change

__all__ = [
    "ALEMBIC",
    "BY_HAND",
    "DBMATE",
    "DBMATE_VERSION",
    "DJANGO",
    "LAMBDA_MIGRATE",
    "PEERS",
    "START_BARRIER",
    "YOYO",
    "Peer",
    "install_dbmate",
]

START_BARRIER = """
import os, sys
with open(os.environ["BENCH_READY"], "a") as ready: ready.write(".")
sys.stdin.read()
"""
"""Reports that the process is ready, and waits until its standard input is closed."""

_SHELL_START_BARRIER = 'printf . >>"$BENCH_READY"; read _; exec "$@"'

DBMATE_VERSION = "2.36.0"
_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to bring a schema up to date.

    Attributes:
        key: Its name in files.
        title: Its name for readers.
        scheme: What its database URLs begin with.
        source: Whose advice its set-up follows.
        files: The texts of its project for some migrations, by path.
        load: Python: what a process does before its first event. "" for a program.
        act: Python: what brings a database up to date, run in the project's directory.
    """

    key: str
    title: str
    scheme: str
    source: str
    files: Callable[[Sequence[Change]], Mapping[str, str]]
    load: str = ""
    act: str = ""

    @property
    def python(self) -> str:
        """The whole of it as Python code; "" for a program."""
        return f"{dedent(self.load)}\n{dedent(self.act)}".strip()

    def command(self) -> Sequence[str]:
        """What brings a database up to date."""
        return (sys.executable, "-c", self.python) if self.act else _dbmate_command()

    def command_with_barrier(self) -> Sequence[str]:
        """The same with a gate after loading, so that many can act at the same moment."""
        if not self.act:
            return ("sh", "-c", _SHELL_START_BARRIER, "gate", *_dbmate_command())
        code = f"{dedent(self.load)}\n{START_BARRIER}\n{dedent(self.act)}"
        return (sys.executable, "-c", code)

    def make(self, home: Path, changes: Sequence[Change]) -> Path:
        """Write the project, with its bytecode, and return where it is."""
        for path, text in self.files(changes).items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_text(dedent(text).lstrip())
        compileall.compile_dir(home, quiet=2)
        return home


def install_dbmate() -> Path:
    """Fetch dbmate's program with npm, unless it is there.

    Raises:
        ConfigurationError: npm is missing or failed, or there is no build for this machine.
    """
    program = engines_directory() / "dbmate" / "dbmate"
    if not program.is_file():
        machine = _MACHINES.get(platform.machine().lower())
        if machine is None:
            raise ConfigurationError(f"no build of dbmate is known for {platform.machine()}")
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
            unpack_npm(f"@dbmate/linux-{machine}@{DBMATE_VERSION}", Path(scratch))
            fetched = Path(scratch) / "package" / "bin" / "dbmate"
            fetched.chmod(0o755)
            fetched.rename(program)
    return program


def _dbmate_command() -> Sequence[str]:
    return (str(install_dbmate()), "--migrations-dir", "migrations", "--no-dump-schema", "migrate")


def _before(changes: Sequence[Change]) -> list[tuple[Change, Change | None]]:
    """Each migration with the one before it."""
    return list(zip(changes, [None, *changes[:-1]], strict=True))


_ALEMBIC_ENV = """
import os
from alembic import context
from sqlalchemy import create_engine, pool, text

engine = create_engine(os.environ["DATABASE_URL"], poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        {lock}
        context.run_migrations()
"""
_ALEMBIC_REVISION = """
from alembic import op
revision = "{version:04}"
down_revision = {before!r}

def upgrade():
    for statement in {statements!r}:
        op.execute(statement)
"""


def _alembic(lock: str) -> Callable[[Sequence[Change]], Mapping[str, str]]:
    def files(changes: Sequence[Change]) -> Mapping[str, str]:
        return {
            "alembic.ini": "[alembic]\nscript_location = %(here)s/alembic\n",
            "alembic/env.py": _ALEMBIC_ENV.format(lock=lock),
        } | {
            f"alembic/versions/{change.stem}.py": _ALEMBIC_REVISION.format(
                version=change.version,
                before=before and f"{before.version:04}",
                statements=change.statements,
            )
            for change, before in _before(changes)
        }

    return files


_LOAD_ALEMBIC = """
    import psycopg
    import sqlalchemy.dialects.postgresql.psycopg
    from alembic import command
    from alembic.config import Config
"""
_UPGRADE = 'command.upgrade(Config("alembic.ini"), "head")'

ALEMBIC = Peer(
    "alembic",
    "Alembic",
    "postgresql+psycopg",
    "its generic template, command.upgrade; psycopg 3, no pool",
    _alembic("pass"),
    _LOAD_ALEMBIC,
    _UPGRADE,
)
_ALEMBIC_LOCKED = Peer(
    "alembic-locked",
    "Alembic, advisory lock in env.py",
    "postgresql+psycopg",
    "the same, pg_advisory_xact_lock before run_migrations (sqlalchemy/alembic#633)",
    _alembic('connection.execute(text("SELECT pg_advisory_xact_lock(4711)"))'),
    _LOAD_ALEMBIC,
    _UPGRADE,
)

_DJANGO_SETTINGS = """
import os
from urllib.parse import urlsplit

url = urlsplit(os.environ["DATABASE_URL"])
INSTALLED_APPS = ["shop"]
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.path.lstrip("/"),
        "USER": url.username,
        "HOST": url.hostname,
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


def _django(changes: Sequence[Change]) -> Mapping[str, str]:
    packages = {f"shop/{folder}__init__.py": "" for folder in ("", "migrations/")}
    return {"settings.py": _DJANGO_SETTINGS, **packages} | {
        f"shop/migrations/{change.stem}.py": _DJANGO_MIGRATION.format(
            dependencies=[("shop", before.stem)] if before else [],
            statements=list(change.statements),
        )
        for change, before in _before(changes)
    }


DJANGO = Peer(
    "django",
    "Django",
    "postgresql",
    "its migrate command by call_command; psycopg 3",
    _django,
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


def _yoyo(changes: Sequence[Change]) -> Mapping[str, str]:
    return {
        f"migrations/{change.stem}.sql": (f"-- depends: {before.stem}\n" if before else "")
        + change.script
        for change, before in _before(changes)
    }


YOYO = Peer(
    "yoyo",
    "yoyo",
    "postgresql",
    "its manual, 'Calling Yoyo from Python code': with its lock; psycopg2, SQL files",
    _yoyo,
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


def _sql_files(changes: Sequence[Change]) -> dict[str, str]:
    return {
        f"migrations/{change.stem}.sql": f"-- migrate:up\n{change.script}\n-- migrate:down\n"
        for change in changes
    }


DBMATE = Peer(
    "dbmate",
    "dbmate",
    "postgres",
    "its manual: dbmate migrate, without dumping the schema",
    _sql_files,
)

_BY_HAND_MODULE = """
import os, random, time
from pathlib import Path
from urllib.parse import urlsplit
import pg8000.native

def connect(attempts):
    url = urlsplit(os.environ["DATABASE_URL"])
    for attempt in range(attempts):
        try:
            return pg8000.native.Connection(
                url.username, host=url.hostname, port=url.port, database=url.path[1:]
            )
        except (pg8000.native.DatabaseError, pg8000.native.InterfaceError, OSError):
            if attempt == attempts - 1:
                raise
            time.sleep(random.uniform(0, min(5.0, 0.1 * 2**attempt)))

def migrate(attempts=1):
    connection = connect(attempts)
    connection.run("SELECT pg_advisory_lock(4711)")
    try:
        connection.run("CREATE TABLE IF NOT EXISTS versions (version text PRIMARY KEY)")
        applied = {row[0] for row in connection.run("SELECT version FROM versions")}
        for path in sorted(Path("migrations").glob("*.sql")):
            if path.stem not in applied:
                apply(connection, path)
    finally:
        connection.run("SELECT pg_advisory_unlock(4711)")
        connection.close()

def apply(connection, path):
    script = path.read_text().partition("-- migrate:up")[2].partition("-- migrate:down")[0]
    connection.run("BEGIN")
    try:
        connection.run(script)
        connection.run("INSERT INTO versions VALUES (:version)", version=path.stem)
        connection.run("COMMIT")
    except Exception:
        connection.run("ROLLBACK")
        raise
"""


def _by_hand(changes: Sequence[Change]) -> Mapping[str, str]:
    return _sql_files(changes) | {"by_hand.py": _BY_HAND_MODULE}


BY_HAND = Peer(
    "by-hand",
    "pg_advisory_lock by hand",
    "postgresql",
    "40 lines with pg8000: lock, compare, one transaction for each",
    _by_hand,
    "import by_hand",
    "by_hand.migrate()",
)
_BY_HAND_RETRYING = Peer(
    "by-hand-retrying",
    "the same, retrying to connect with full jitter",
    "postgresql",
    "the same, up to 30 attempts to connect, pauses up to 5 s",
    _by_hand,
    "import by_hand",
    "by_hand.migrate(attempts=30)",
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


def _lambda_migrate_files(changes: Sequence[Change]) -> Mapping[str, str]:
    return _sql_files(changes) | {"app.py": _LAMBDA_MIGRATE_MODULE}


LAMBDA_MIGRATE = Peer(
    "lambda-migrate",
    "lambda-migrate",
    "postgresql",
    "a decorated handler, called once",
    _lambda_migrate_files,
    "import app",
    "app.handler({}, app.Context())",
)

PEERS = (ALEMBIC, _ALEMBIC_LOCKED, DJANGO, YOYO, DBMATE, BY_HAND, _BY_HAND_RETRYING, LAMBDA_MIGRATE)
