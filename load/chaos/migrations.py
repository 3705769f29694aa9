"""The migration files of each code version of a schedule, with effects that can be counted.

Every transactional migration leaves one row in ``effects`` and one in ``runs``, which also records
rollbacks; with ``track_commit_timestamp`` PostgreSQL knows when each was committed.
"""

from __future__ import annotations

from pathlib import Path

from load.bench.tools import ALEMBIC, DJANGO, MigrationSource, write_project
from load.chaos.schedule import MigrationSpec, Schedule

CODE_VERSIONS = ("old", "new", "fixed", "probe")
"""Code versions: ``probe`` is the newest one with one more migration, which is never applied before
the end."""

REFERENCE_DATABASE_SUFFIX = "_alone"  # ends the name of the database that a tool migrates alone

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
    """Write all code versions below ``folder``.

    Returns:
        The migrations directory of each; of a tool, the project's.
    """
    directories = {}
    for code_version in CODE_VERSIONS:
        directory = directories[code_version] = folder / code_version / "migrations"
        directory.mkdir(parents=True)
        migrations = migrations_of(schedule, code_version).items()
        if schedule.source != "sql":
            sources = [
                MigrationSource(version, "step", _list_statements(version, spec, schedule.source))
                for version, (spec, _) in migrations
            ]
            tool = ALEMBIC if schedule.source == "alembic" else DJANGO
            write_project(directory, tool.files(sources))
        else:
            for version, (spec, is_broken) in migrations:
                text = _render(version, spec, is_broken=is_broken)
                (directory / f"{version}_{spec.kind}.sql").write_text(text)
    return directories


def migrations_of(schedule: Schedule, code_version: str) -> dict[int, tuple[MigrationSpec, bool]]:
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


def index_name(version: int) -> str:
    """The index that an ``index`` migration builds."""
    return f"orders_{version}"


def make_id(source: str, version: int) -> str:
    """The tool's name of a migration."""
    return f"{'shop.' if source == 'django' else ''}{version:04}_step"


def find_version(revision_id: str) -> int:
    """The number in the tool's name of a migration."""
    return int("".join(filter(str.isdigit, revision_id.partition(" #")[0])))


def make_variables(source: str, root: Path, url: str) -> dict[str, str]:
    """The environment variables of a process that uses a directory of `write_migrations`."""
    if source == "sql":
        return {"LAMBDA_MIGRATE_DIRECTORY": str(root)}
    return {
        "LAMBDA_MIGRATE_SOURCE": source,
        "LAMBDA_TASK_ROOT": str(root),
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "settings",
    }


def _list_statements(
    version: int, spec: MigrationSpec, source: str = "sql", *, is_broken: bool = False
) -> tuple[str, ...]:
    """What a migration runs; PostgreSQL runs the concurrent builds in no transaction."""
    what = {
        "base": _BASE_MIGRATION,
        "table": (f"CREATE TABLE made_{version} (id int)",),
        "balance": ("UPDATE accounts SET balance = balance + 1",),
        "alter": (f"ALTER TABLE orders ADD COLUMN extra_{version} int",),
        "long": (f"SELECT pg_sleep({spec.seconds})",),
        "many": (f"SELECT pg_sleep({spec.seconds / 10:.3f})",) * 10,
    }
    # Every order is of kind 1: a unique index on it fails half-way and is left invalid.
    unique, column = ("UNIQUE ", "kind") if is_broken else ("", "amount")
    index = f"CREATE {unique}INDEX CONCURRENTLY {index_name(version)} ON orders ({column})"
    effects = (
        f"INSERT INTO effects VALUES ({version})",  # noqa: S608 - a number
        f"INSERT INTO runs (version, direction) VALUES ({version}, 'up')",  # noqa: S608
    )
    table = what["table"]
    sleep = (f"SELECT pg_sleep({spec.seconds})",) if source == "alembic" else ()
    if spec.kind == "index":
        return (index,)
    if spec.kind == "parts":
        return (*table, *sleep, index, *sleep, *effects)
    if spec.kind == "rows":
        # Django tries it in a transaction first, unless that cannot be.
        return (*effects, *(("COMMIT", *sleep, *table) if source == "alembic" else (*table, index)))
    return (*what[spec.kind], *effects, *(["SELECT 1 / 0"] if is_broken else []))


def _render(version: int, spec: MigrationSpec, *, is_broken: bool) -> str:
    down = {
        "base": ["DROP TABLE orders, accounts, runs, effects"],
        "index": [f"DROP INDEX CONCURRENTLY {index_name(version)}"],
        "table": [f"DROP TABLE made_{version}"],
        "balance": ["UPDATE accounts SET balance = balance - 1"],
        "alter": [f"ALTER TABLE orders DROP COLUMN extra_{version}"],
    }.get(spec.kind, [])
    if spec.kind not in ("base", "index"):
        down += [
            f"DELETE FROM effects WHERE version = {version}",  # noqa: S608 - a number
            f"INSERT INTO runs (version, direction) VALUES ({version}, 'down')",  # noqa: S608
        ]
    option = " transaction:false" if spec.kind == "index" else ""
    texts = (_list_statements(version, spec, is_broken=is_broken), down)
    up, back = ("".join(f"{statement};\n" for statement in text) for text in texts)
    return f"-- migrate:up{option}\n{up}-- migrate:down{option}\n{back}"
