"""What is still open when the check has ended: nothing."""

from __future__ import annotations

import sys
from typing import Any

from load.bench.findings import Check, Section, Table
from load.bench.migrations import Change
from load.bench.peers import OURS
from load.bench.processes import Program, run, run_gated
from load.bench.stage import Stage
from load.bench.within.answer import find

__all__ = ["measure"]

_CHANGES = [
    Change(1, "things", ("CREATE TABLE things (id bigint PRIMARY KEY)",)),
    Change(2, "long", ("SELECT pg_sleep(1.5)",)),
]

_WAYS = {"runner": "MigrationRunner.ensure", "decorator": "the decorator's first call"}


def measure(stage: Stage) -> Section:
    """Each outcome, through the runner and through the decorator."""
    found = {(way, outcome): told for way in _WAYS for outcome, told in _outcomes(stage, way)}
    return Section(
        key="leftovers",
        title="Left over when the check has ended",
        checks=[
            Check(
                f"sockets and threads left, worst of {len(found)} outcomes",
                bar=0,
                value=max(told["sockets"] + told["threads"] for told in found.values()),
            )
        ],
        tables=[
            Table(
                ("through", "outcome", "sockets", "threads"),
                [
                    (_WAYS[way], outcome, str(told["sockets"]), str(told["threads"]))
                    for (way, outcome), told in found.items()
                ],
            )
        ],
        notes=["Counted in the process itself: /proc/self/fd and /proc/self/task."],
        data={f"{way} {outcome}": told for (way, outcome), told in found.items()},
    )


def _outcomes(stage: Stage, way: str) -> list[tuple[str, Any]]:
    """Two processes at once, of which one migrates and one waits; then a third."""
    project, database = stage.project(OURS, "two", _CHANGES), stage.new_database()
    command = (sys.executable, "-m", "load.bench.within.leftovers", way)
    program: Program = stage.program(OURS, project, database, command=command)
    both = {one.pid: find(one.check().output) for one in run_gated([program, program])}
    holder = _holder(stage, database)
    outcomes = [
        (told["outcome"] or ("MIGRATED" if pid == holder else "WAITED"), told)
        for pid, told in sorted(both.items(), key=lambda item: item[0] != holder)
    ]
    told = find(run(program).output)
    return [*outcomes, (told["outcome"] or "UP_TO_DATE", told)]


def _holder(stage: Stage, database: str) -> int:
    """The process that migrated: an owner is called function/process/chance."""
    rows = stage.ask(database, "SELECT owner FROM lambda_migrate.history LIMIT 1")
    return int(str(rows[0][0]).split("/")[1])
