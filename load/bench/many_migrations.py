"""A thousand small migrations: how long each tool takes to apply them."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence

from load.bench.migrations import small_migrations
from load.bench.processes import MeasurementFailed, ProcessResult, Program, run
from load.bench.results import Limit, Section, Table, format_number, format_spread
from load.bench.tools import ALEMBIC, DBMATE, DJANGO, HAND_WRITTEN, LAMBDA_MIGRATE, YOYO
from load.bench.workspace import Workspace

__all__ = ["measure"]

_TOOLS = {
    tool.title: tool for tool in (ALEMBIC, DJANGO, YOYO, DBMATE, HAND_WRITTEN, LAMBDA_MIGRATE)
}
_STATEMENTS = "the statements alone"
_CLIENT = """
import os, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute({script!r})
"""


def measure(workspace: Workspace, *, count: int, rounds: int) -> Section:
    """Each tool in every round, on an empty database of its own."""
    titles = (*_TOOLS, _STATEMENTS)
    runs = [{title: _apply(workspace, title, count) for title in titles} for _ in range(rounds)]
    wall = {title: [each[title].wall for each in runs] for title in titles}
    cpu = {title: [each[title].cpu for each in runs] for title in titles}
    ordered = sorted(wall, key=lambda title: statistics.median(wall[title]))
    fastest = next(title for title in ordered if title not in (LAMBDA_MIGRATE.title, _STATEMENTS))
    alone = statistics.median(_compare_with_fastest(wall, _STATEMENTS))
    note = f"the fastest is {fastest}; {_STATEMENTS} take {format_number(alone)} of its time"
    return Section(
        limits=[
            Limit(
                f"time for {count:,} small migrations / the fastest other tool's",
                0.5,
                _compare_with_fastest(wall, LAMBDA_MIGRATE.title),
                note=note,
            )
        ],
        tables=[
            Table(
                ("", "seconds", "CPU seconds of the client"),
                [(name, format_spread(wall[name]), format_spread(cpu[name])) for name in ordered],
            )
        ],
        bars={name: wall[name] for name in ordered},
        data={"wall_seconds": wall, "cpu_seconds": cpu},
    )


def _apply(workspace: Workspace, title: str, count: int) -> ProcessResult:
    migrations = small_migrations(count)
    # For the statements alone any project serves: its directory is not read.
    tool = _TOOLS.get(title, LAMBDA_MIGRATE)
    project = workspace.project(tool, migrations)
    with workspace.new_database() as database:
        program: Program = workspace.program(tool, project, database)
        if title == _STATEMENTS:
            script = "".join(migration.script for migration in migrations)
            command = (sys.executable, "-c", _CLIENT.format(script=script))
            program = workspace.program(tool, project, database, command)
        result = run(program)
        applied = workspace.query(
            database, "SELECT count(*) FROM pg_tables WHERE tablename ~ '^things_'"
        )
    if applied != [[count // 2]]:
        raise MeasurementFailed(f"{title} applied {applied} tables of {count // 2}")
    return result


def _compare_with_fastest(wall: Mapping[str, Sequence[float]], title: str) -> list[float]:
    """The time in each round, as a share of the fastest other tool's in that round."""
    others = [wall[tool] for tool in _TOOLS if tool != LAMBDA_MIGRATE.title]
    return [own / min(each) for own, *each in zip(wall[title], *others, strict=True)]
