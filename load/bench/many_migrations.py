"""A thousand small migrations: how long each tool takes to apply them."""

from __future__ import annotations

import statistics
import sys

from load.bench.processes import MeasurementFailed, ProcessResult, run
from load.bench.results import Limit, Section, Table, format_number, format_spread
from load.bench.tools import LAMBDA_MIGRATE, TOOLS, make_small_migrations
from load.bench.workspace import Workspace

_STATEMENTS_ALONE = "the statements alone"
_CLIENT_CODE = """
import os, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute({script!r})
"""


def measure(workspace: Workspace, *, count: int, rounds: int) -> Section:
    """Each tool in every round, on an empty database of its own."""
    titles = (*TOOLS, _STATEMENTS_ALONE)
    runs = [{title: _apply(workspace, title, count) for title in titles} for _ in range(rounds)]
    wall = {title: [each[title].wall_seconds for each in runs] for title in titles}
    cpu = {title: [each[title].cpu_seconds for each in runs] for title in titles}
    others = [title for title in TOOLS if title != LAMBDA_MIGRATE.title]
    best = [min(one[title].wall_seconds for title in others) for one in runs]
    own, alone = (
        [one[title].wall_seconds / fastest for one, fastest in zip(runs, best, strict=True)]
        for title in (LAMBDA_MIGRATE.title, _STATEMENTS_ALONE)
    )
    what = f"time for {count:,} small migrations / the fastest other tool's"
    share = format_number(statistics.median(alone))
    note = f"{_STATEMENTS_ALONE} take {share} of the fastest other tool's time"
    rows = [
        (title, format_spread(wall[title]), format_spread(cpu[title]))
        for title in sorted(wall, key=lambda title: statistics.median(wall[title]))
    ]
    return Section(
        [Limit(what, 0.5, own, note=note)],
        [Table(("", "seconds", "CPU seconds of the client"), rows)],
    )


def _apply(workspace: Workspace, title: str, count: int) -> ProcessResult:
    migrations = make_small_migrations(count)
    # For the statements alone any project serves: its directory is not read.
    tool = TOOLS.get(title, LAMBDA_MIGRATE)
    command = None
    if title == _STATEMENTS_ALONE:
        script = "".join(migration.script for migration in migrations)
        command = (sys.executable, "-c", _CLIENT_CODE.format(script=script))
    with workspace.create_database() as database:
        project = workspace.make_project(tool, migrations)
        result = run(workspace.make_program(tool, project, database, command))
        count_tables = "SELECT count(*) FROM pg_tables WHERE tablename ~ '^things_'"
        applied = workspace.server.execute(count_tables, database)
    if applied != [[count // 2]]:
        raise MeasurementFailed(f"{title} applied {applied} tables of {count // 2}")
    return result
