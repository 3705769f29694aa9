"""Peak memory of a process whose migration returns millions of rows: that of any other."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from load.bench.figures import format_number
from load.bench.migrations import Change
from load.bench.output import read_figures
from load.bench.peers import LAMBDA_MIGRATE
from load.bench.processes import run
from load.bench.results import Check, Section, Table
from load.bench.workspace import Workspace

__all__ = ["measure"]

_CODE = """
import app
from pathlib import Path
from load.bench.output import print_figures
app.handler({}, app.Context())
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print_figures(int(status["VmHWM"].split()[0]) / 1024)
"""
_BASE = "one row"
_ROWS = "SELECT 'order ' || n AS name FROM generate_series(1, {rows}) n"


def measure(workspace: Workspace, *, rows: int) -> Section:
    """Each script in a process of its own, on an empty database of its own."""
    many = f"{rows:,}"
    scripts = {
        _BASE: _ROWS.format(rows=1),
        f"SELECT, {many} rows": _ROWS.format(rows=rows),
        f"INSERT ... RETURNING, {many} rows": (
            f"CREATE TABLE names AS {_ROWS.format(rows=0)};\n"
            f"INSERT INTO names {_ROWS.format(rows=rows)} RETURNING name"
        ),
        f"{rows // 10:,} notices": (
            f"DO $$ BEGIN FOR n IN 1..{rows // 10} LOOP RAISE NOTICE 'order %', n; END LOOP; END $$"
        ),
        f"one row of {rows / 50_000:,.0f} MB": f"SELECT repeat('x', {rows * 20})",
    }
    found = {name: _run(workspace, n, text) for n, (name, text) in enumerate(scripts.items())}
    base = found[_BASE]["megabytes"]
    return Section(
        key="scripts",
        title="What a script's rows cost",
        checks=[
            Check(
                f"peak memory of a process that migrates, {name} / {_BASE}",
                limit=1.1,
                value=one["megabytes"] / base,
            )
            for name, one in found.items()
            if name != _BASE
        ],
        tables=[
            Table(
                ("a migration that returns", "peak memory, MB", "seconds", "CPU seconds"),
                [
                    (name, *(format_number(one[key]) for key in ("megabytes", "wall", "cpu")))
                    for name, one in found.items()
                ],
            )
        ],
        notes=[
            "Whole processes, from the start of the interpreter to its end; memory is the kernel's "
            "VmHWM. `COPY ... TO STDOUT` is refused in a migration."
        ],
        data=found,
    )


def _run(workspace: Workspace, number: int, script: str) -> Mapping[str, Any]:
    project = workspace.project(
        LAMBDA_MIGRATE, f"script-{number}", [Change(1, "answer", (script,))]
    )
    database = workspace.new_database()
    command = (sys.executable, "-c", _CODE)
    finished = run(workspace.program(LAMBDA_MIGRATE, project, database, command=command))
    workspace.drop_database(database)
    return {"megabytes": read_figures(finished.output), "wall": finished.wall, "cpu": finished.cpu}
