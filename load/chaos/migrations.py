"""The migration files of each code version of a schedule, with effects that can be counted.

Every transactional migration leaves one row in ``effects`` and one in ``runs``, which also records
rollbacks; with ``track_commit_timestamp`` PostgreSQL knows when each was committed.
"""

from __future__ import annotations

from pathlib import Path

from lambda_migrate.migrations.revisions import LOG_ID_SEPARATOR
from load.bench.tools import ALEMBIC, DJANGO, LAMBDA_MIGRATE, MigrationSource, write_project
from load.chaos.schedule import MigrationSpec, Schedule

CODE_VERSIONS = ("old", "new", "fixed", "probe")
"""Code versions: ``probe`` is the newest one with one more migration, which is never applied before
the end."""

REFERENCE_DATABASE_SUFFIX = "_alone"  # ends the name of the database that a tool migrates alone

_PROJECTS = {"sql": LAMBDA_MIGRATE, "alembic": ALEMBIC, "django": DJANGO}

_BASE_MIGRATION = (
    "CREATE TABLE effects (version int NOT NULL)",
    "CREATE TABLE runs (id bigint GENERATED ALWAYS AS IDENTITY, version int NOT NULL,"
    " direction text NOT NULL)",
    "CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL)",
    "INSERT INTO accounts VALUES (1, 0)",
    "CREATE TABLE orders (id bigint PRIMARY KEY, amount int NOT NULL, kind int NOT NULL DEFAULT 1)",
    "INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n",
)


def write_migrations(schedule: Schedule, folder: Path) -> dict[str, Path]:
    """Write all code versions below ``folder``; returns the project's directory of each."""
    directories = {}
    for code_version in CODE_VERSIONS:
        directories[code_version] = folder / code_version
        migrations = [
            _make_migration(version, spec, schedule.source, is_broken=is_broken)
            for version, (spec, is_broken) in list_migrations(schedule, code_version).items()
        ]
        write_project(folder / code_version, _PROJECTS[schedule.source].files(migrations))
    return directories


def list_migrations(schedule: Schedule, code_version: str) -> dict[int, tuple[MigrationSpec, bool]]:
    """Version -> migration and whether it fails, for one code version."""
    specs = (
        schedule.migrations[: schedule.old_version]
        if code_version == "old"
        else schedule.migrations
    )
    found = {
        version: (spec, code_version == "new" and version == schedule.broken_version)
        for version, spec in enumerate(specs, 1)
    }
    if code_version == "probe":
        found[len(specs) + 1] = (MigrationSpec("table"), False)
    return found


def make_index_name(version: int) -> str:
    """The index that an ``index`` migration builds."""
    return f"orders_{version}"


def make_revision_id(source: str, version: int) -> str:
    """The tool's name of a migration."""
    return f"{'shop.' if source == 'django' else ''}{version:04}_step"


def parse_version(revision_id: str) -> int:
    """The number in the tool's name of a migration."""
    return int("".join(filter(str.isdigit, revision_id.partition(LOG_ID_SEPARATOR)[0])))


def _make_migration(
    version: int, spec: MigrationSpec, source: str, *, is_broken: bool
) -> MigrationSource:
    name = spec.kind if source == "sql" else "step"
    statements = _make_statements(version, spec, source, is_broken=is_broken)
    return MigrationSource(version, name, statements, _make_down_script(version, spec.kind))


def _make_statements(
    version: int, spec: MigrationSpec, source: str, *, is_broken: bool
) -> tuple[str, ...]:
    """What a migration runs; PostgreSQL runs the concurrent builds in no transaction."""
    statements = {
        "base": _BASE_MIGRATION,
        "table": (f"CREATE TABLE made_{version} (id int)",),
        "balance": ("UPDATE accounts SET balance = balance + 1",),
        "alter": (f"ALTER TABLE orders ADD COLUMN extra_{version} int",),
        "long": (f"SELECT pg_sleep({spec.seconds})",),
        "many": (f"SELECT pg_sleep({spec.seconds / 10:.3f})",) * 10,
    }
    # Every order is of kind 1: a unique index on it fails half-way and is left invalid.
    unique, column = ("UNIQUE ", "kind") if is_broken else ("", "amount")
    index = f"CREATE {unique}INDEX CONCURRENTLY {make_index_name(version)} ON orders ({column})"
    effects = (
        f"INSERT INTO effects VALUES ({version})",  # noqa: S608 - a number
        f"INSERT INTO runs (version, direction) VALUES ({version}, 'up')",  # noqa: S608
    )
    table = statements["table"]
    sleep = (f"SELECT pg_sleep({spec.seconds})",) if source == "alembic" else ()
    if spec.kind == "index":
        return (index,)
    if spec.kind == "parts":
        return (*table, *sleep, index, *sleep, *effects)
    if spec.kind == "rows":
        # Django tries it in a transaction first, unless that cannot be.
        return (*effects, *(("COMMIT", *sleep, *table) if source == "alembic" else (*table, index)))
    return (*statements[spec.kind], *effects, *(["SELECT 1 / 0"] if is_broken else []))


def _make_down_script(version: int, kind: str) -> str:
    effects = (
        f"DELETE FROM effects WHERE version = {version};\n"  # noqa: S608 - a number
        f"INSERT INTO runs (version, direction) VALUES ({version}, 'down');"
    )
    scripts = {
        "base": "DROP TABLE orders, accounts, runs, effects;",
        "index": f"DROP INDEX CONCURRENTLY {make_index_name(version)};",
        "table": f"DROP TABLE made_{version};\n{effects}",
        "balance": f"UPDATE accounts SET balance = balance - 1;\n{effects}",  # noqa: S608
        "alter": f"ALTER TABLE orders DROP COLUMN extra_{version};\n{effects}",
    }
    return scripts.get(kind, effects)
