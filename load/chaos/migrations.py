"""The migration files of each code version of a schedule, with effects that can be counted.

Every transactional migration leaves one row in ``effects`` and one in ``runs``, which also records
rollbacks; with ``track_commit_timestamp`` PostgreSQL knows when each was committed.
"""

from __future__ import annotations

from pathlib import Path

from load.chaos.schedule import MigrationSpec, Schedule

CODE_VERSIONS = ("old", "new", "fixed", "probe")
"""Code versions: ``probe`` is the newest one with one more migration, which is never applied before
the end."""

_BASE_MIGRATION = """
-- migrate:up
CREATE TABLE effects (version int NOT NULL);
CREATE TABLE runs (id bigint GENERATED ALWAYS AS IDENTITY, version int NOT NULL,
                    direction text NOT NULL);
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
INSERT INTO accounts VALUES (1, 0);
CREATE TABLE orders (id bigint PRIMARY KEY, amount int NOT NULL, kind int NOT NULL DEFAULT 1);
INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;
INSERT INTO effects VALUES (1);
INSERT INTO runs (version, direction) VALUES (1, 'up');
-- migrate:down
DROP TABLE orders, accounts, runs, effects;
"""


def write_migrations(schedule: Schedule, folder: Path) -> dict[str, Path]:
    """Write all code versions below ``folder``; returns the migrations directory of each."""
    directories = {}
    for code_version in CODE_VERSIONS:
        directory = folder / code_version / "migrations"
        directory.mkdir(parents=True)
        for version, (spec, is_broken) in migrations_of(schedule, code_version).items():
            text = _render(version, spec, is_broken=is_broken)
            (directory / f"{version}_{spec.kind}.sql").write_text(text.lstrip())
        directories[code_version] = directory
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


def _render(version: int, spec: MigrationSpec, *, is_broken: bool) -> str:
    if spec.kind == "base":
        return _BASE_MIGRATION
    if spec.kind == "index":
        return _render_index(version, is_broken=is_broken)
    up, down = {
        "table": (f"CREATE TABLE made_{version} (id int);", f"DROP TABLE made_{version};"),
        "balance": (
            "UPDATE accounts SET balance = balance + 1;",
            "UPDATE accounts SET balance = balance - 1;",
        ),
        "alter": (
            f"ALTER TABLE orders ADD COLUMN extra_{version} int;",
            f"ALTER TABLE orders DROP COLUMN extra_{version};",
        ),
        "long": (f"SELECT pg_sleep({spec.seconds});", ""),
        "many": ("\n".join([f"SELECT pg_sleep({spec.seconds / 10:.3f});"] * 10), ""),
    }[spec.kind]
    fault = "SELECT 1 / 0;" if is_broken else ""
    return f"""
-- migrate:up
{up}
INSERT INTO effects VALUES ({version});
INSERT INTO runs (version, direction) VALUES ({version}, 'up');
{fault}
-- migrate:down
{down}
DELETE FROM effects WHERE version = {version};
INSERT INTO runs (version, direction) VALUES ({version}, 'down');
"""  # noqa: S608 - a number


def _render_index(version: int, *, is_broken: bool) -> str:
    # Every order is of kind 1: a unique index on it fails half-way and is left invalid.
    what = ("UNIQUE INDEX", "kind") if is_broken else ("INDEX", "amount")
    return f"""
-- migrate:up transaction:false
CREATE {what[0]} CONCURRENTLY {index_name(version)} ON orders ({what[1]});
-- migrate:down transaction:false
DROP INDEX CONCURRENTLY {index_name(version)};
"""
