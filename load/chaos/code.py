"""The migration files of each code version of a schedule, with effects that can be counted.

Every transactional migration leaves one row in ``effects`` and one in ``deeds``, which also records
the way down; with ``track_commit_timestamp`` PostgreSQL knows when each was committed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from load.chaos.schedule import Schedule, Step

__all__ = ["CODES", "PROBE", "index_name", "versions_of", "write_codes"]

CODES = ("old", "new", "mended", "probe")
"""Code versions: ``probe`` is the newest one with one migration more, which nobody has applied."""

PROBE = "table"
"""The kind of the migration that ``probe`` adds."""

_BASE = """
-- migrate:up
CREATE TABLE effects (version int NOT NULL);
CREATE TABLE deeds (id bigint GENERATED ALWAYS AS IDENTITY, version int NOT NULL,
                    way text NOT NULL);
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
INSERT INTO accounts VALUES (1, 0);
CREATE TABLE orders (id bigint PRIMARY KEY, amount int NOT NULL, kind int NOT NULL DEFAULT 1);
INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) AS n;
INSERT INTO effects VALUES (1);
INSERT INTO deeds (version, way) VALUES (1, 'up');
-- migrate:down
DROP TABLE orders, accounts, deeds, effects;
"""


def write_codes(schedule: Schedule, folder: Path) -> dict[str, Path]:
    """Write all code versions below ``folder``; returns the migrations directory of each."""
    directories = {}
    for code in CODES:
        directory = folder / code / "migrations"
        directory.mkdir(parents=True)
        for version, (step, is_broken) in versions_of(schedule, code).items():
            text = _text(version, step, is_broken=is_broken)
            (directory / f"{version}_{step.kind}.sql").write_text(text.lstrip())
        directories[code] = directory
    return directories


def versions_of(schedule: Schedule, code: str) -> dict[int, tuple[Step, bool]]:
    """Version -> migration and whether it fails, for one code version."""
    from load.chaos.schedule import Step

    steps = schedule.steps[: schedule.old] if code == "old" else schedule.steps
    found = {
        version: (step, code == "new" and version == schedule.broken)
        for version, step in enumerate(steps, 1)
    }
    if code == "probe":
        found[len(steps) + 1] = (Step(PROBE), False)
    return found


def index_name(version: int) -> str:
    """The index that an ``index`` migration builds."""
    return f"orders_{version}"


def _text(version: int, step: Step, *, is_broken: bool) -> str:
    if step.kind == "base":
        return _BASE
    if step.kind == "index":
        return _index(version, is_broken=is_broken)
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
        "long": (f"SELECT pg_sleep({step.seconds});", ""),
        "many": ("\n".join([f"SELECT pg_sleep({step.seconds / 10:.3f});"] * 10), ""),
    }[step.kind]
    fault = "SELECT 1 / 0;" if is_broken else ""
    return f"""
-- migrate:up
{up}
INSERT INTO effects VALUES ({version});
INSERT INTO deeds (version, way) VALUES ({version}, 'up');
{fault}
-- migrate:down
{down}
DELETE FROM effects WHERE version = {version};
INSERT INTO deeds (version, way) VALUES ({version}, 'down');
"""  # noqa: S608 - a number


def _index(version: int, *, is_broken: bool) -> str:
    # Every order is of kind 1: a unique index on it fails half-way and is left invalid.
    what = ("UNIQUE INDEX", "kind") if is_broken else ("INDEX", "amount")
    return f"""
-- migrate:up transaction:false
CREATE {what[0]} CONCURRENTLY {index_name(version)} ON orders ({what[1]});
-- migrate:down transaction:false
DROP INDEX CONCURRENTLY {index_name(version)};
"""
