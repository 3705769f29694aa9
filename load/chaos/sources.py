"""Rounds in which Alembic or Django applies the migrations: schedules, projects, child processes.

The environments are the parents of the tool's child processes, and every fault of the other rounds
hits both; signals also hit one of the two alone.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from load.bench import tools
from load.bench.tools import ALEMBIC, DJANGO
from load.chaos.schedule import HOLDER, Fault, MigrationSpec, Schedule, generate

TOOLS = ("alembic", "django")

PRELOADED = (
    *("alembic.command", "psycopg", "sqlalchemy.dialects.postgresql.psycopg"),
    *("django.core.management.commands.migrate", "django.db.backends.postgresql.base"),
)
"""What `migrate_alone` needs. A child process imports it by itself."""

COMMIT = "COMMIT"
"""Between the statements of a revision that commits through SQLAlchemy."""

ALONE = "_alone"
"""Ends the name of the database that the tool alone migrates."""

_FAULTS = (
    *("kill", "kill", "kill-at-commit", "freeze", "freeze", "freeze-at-commit"),
    *("postgresql-cut", "granted-twice-stolen"),
)
"""What each round has one to three of, besides the faults of its seed."""

_KINDS = ("table", "balance", "alter", "index", "index", "long", "many", "parts", "parts", "rows")

# --- schedules


def generate_for_tool(seed: int, source: str) -> Schedule:
    """The schedule of a seed, with what the tools add and a child process needs."""
    return generate(seed) if source == "sql" else _adapt(generate(seed), source)


def _adapt(schedule: Schedule, source: str) -> Schedule:
    rng = random.Random(f"{source} {schedule.seed}")  # noqa: S311 - repeatable on purpose
    specs = [MigrationSpec(rng.choice(_KINDS)) for _ in range(rng.randint(2, 5))]
    migrations = [MigrationSpec("base")] + [
        replace(spec, seconds=round(rng.uniform(0.2, 1.0), 2)) for spec in specs
    ]
    environments = [
        replace(
            each,
            at=each.at if number == 0 else round(rng.choice([0.2, 4.0]) * rng.random(), 2),
            code_version="new" if number == 0 else rng.choice(["old", "new", "new"]),
            timeout=rng.choice([8.0, 12.0, 16.0]),  # a child is not started in the last 3 seconds
        )
        for number, each in enumerate(schedule.environments[: rng.randint(2, 3)])
    ]
    kept = schedule.faults[: rng.randint(0, 3)]
    more = [Fault(rng.choice(_FAULTS), at=0.0, target=HOLDER) for _ in range(rng.randint(1, 3))]
    faults = [_move_fault(rng, each, schedule) for each in (*kept, *more)]
    return replace(
        schedule,
        source=source,
        migrations=tuple(migrations),
        old_version=rng.randint(1, len(migrations)),
        broken_version=0,
        rollback=None,
        environments=tuple(environments),
        faults=tuple(faults),
    )


def _move_fault(rng: random.Random, fault: Fault, schedule: Schedule) -> Fault:
    """Spread faults over the longer time that a child takes; let signals hit parent and child."""
    at = round(rng.uniform(0.3, 6.0), 2)
    if not fault.kind.startswith(("kill", "freeze")):
        return replace(fault, at=max(fault.at, at))
    seconds = round(rng.uniform(0.3, 2.2 * schedule.lease_seconds), 2)
    return replace(
        fault,
        at=at,
        target=HOLDER if fault.target else "",
        seconds=seconds if fault.kind.startswith("freeze") else 0.0,
        hits=rng.choice(["", "child", "child", "both"]),
    )


# --- projects


def write_project(source: str, root: Path, migrations: Mapping[int, Sequence[str]]) -> None:
    """Write a project whose migrations run these statements."""
    if source == "alembic":
        files = ALEMBIC.files(())
        files |= {f"alembic/versions/{v}.py": _render_revision(v, s) for v, s in migrations.items()}
    else:
        files = DJANGO.files(())
        files |= {
            f"shop/migrations/{version:04}_step.py": _render_migration(version, statements)
            for version, statements in migrations.items()
        }
    tools.write_project(root, files)


def make_id(source: str, version: int) -> str:
    """The tool's name of a migration."""
    return f"r{version}" if source == "alembic" else f"shop.{version:04}_step"


def find_version(revision_id: str) -> int:
    """The number in the tool's name of a migration."""
    return int("".join(filter(str.isdigit, revision_id.partition(" #")[0])))


def _render_revision(version: int, statements: Sequence[str]) -> str:
    lines = []
    for statement in statements:
        if statement == COMMIT:
            # Alembic alone loses what follows it.
            lines.append("    'LAMBDA_MIGRATE_SOURCE' in os.environ and op.get_bind().commit()")
        elif "CONCURRENTLY" in statement:
            lines.append("    with op.get_context().autocommit_block():")
            lines.append(f"        op.execute({statement!r})")
        else:
            lines.append(f"    op.execute({statement!r})")
    parent = f"r{version - 1}" if version > 1 else None
    return (
        "import os\nfrom alembic import op\n"
        f"revision = 'r{version}'\ndown_revision = {parent!r}\n\ndef upgrade():\n"
        + "\n".join(lines)
        + "\n"
    )


def _render_migration(version: int, statements: Sequence[str]) -> str:
    dependencies = [("shop", f"{version - 1:04}_step")] if version > 1 else []
    is_atomic = not any("CONCURRENTLY" in statement for statement in statements)
    return (
        "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
        f"    atomic = {is_atomic}\n    dependencies = {dependencies!r}\n"
        f"    operations = [migrations.RunSQL({list(statements)!r})]\n"
    )


def make_variables(source: str, root: Path, url: str) -> dict[str, str]:
    """The environment variables of a process that uses a project."""
    if source == "sql":
        return {"LAMBDA_MIGRATE_DIRECTORY": str(root)}
    return {
        "LAMBDA_MIGRATE_SOURCE": source,
        "LAMBDA_TASK_ROOT": str(root),
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "settings",
    }


def migrate_alone() -> None:
    """Migrate another database with the tool alone, in a forked process."""
    del os.environ["LAMBDA_MIGRATE_SOURCE"]
    os.environ["DATABASE_URL"] += ALONE
    os.chdir(os.environ["LAMBDA_TASK_ROOT"])
    sys.path.insert(0, os.environ["LAMBDA_TASK_ROOT"])
    importlib.import_module("app").handler({}, None)


# --- child processes


def find_children(pid: int) -> list[int]:
    """The processes that a process has started."""
    with contextlib.suppress(psutil.Error):
        return [each.pid for each in psutil.Process(pid).children()]
    return []


def find_processes(folder: Path) -> list[str]:
    """The processes that work below a folder, by pid and command."""
    return [
        f"{each.pid} {shlex.join(each.info['cmdline'])}"
        for each in psutil.process_iter(["cmdline", "cwd"])
        if each.info["cmdline"] and Path(each.info["cwd"] or "/").is_relative_to(folder)
    ]


def signal_groups(pids: Sequence[int], number: int) -> None:
    """Signal child processes, each of which leads a group."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
