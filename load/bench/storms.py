"""Many concurrent cold starts, five migrations applied and ten pending, one of them 3 s."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lambda_migrate.local.demo.checks import read_check
from lambda_migrate.local.runtime.function import LocalFunction
from load.bench.processes import MeasurementFailed, run
from load.bench.results import Limit, Section, Table, format_spread, percentile
from load.bench.tools import LAMBDA_MIGRATE, TOOLS, Tool, make_storm_migrations
from load.bench.workspace import Workspace

_COUNT_CONNECTIONS_SQL = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = :database AND backend_type = 'client backend'
"""
_LAST_COMMIT_SQL = """
SELECT max(extract(epoch FROM pg_xact_commit_timestamp(xmin)))::float8 FROM lambda_migrate.history
"""
_COUNT_EFFECTS_SQL = "SELECT count(*) FROM effects GROUP BY migration"
_EXPECTED_BALANCE = 2  # how many of the migrations add to it


@dataclass(frozen=True, slots=True)
class StormResult:
    """One storm of one tool."""

    failed: int  # cold starts that ended with an error
    error: str  # the error of one of them
    repeated: int  # migrations that took effect more than once
    balance: int  # what was added to it; 2 is right
    missing: int  # migrations that took no effect
    connections: int  # the most at any moment
    last_ready_seconds: float | None  # seconds until the end of the last that succeeded
    waits: Sequence[float]  # of lambda-migrate: seconds from the last commit to each handler


def measure(workspace: Workspace, *, sizes: Mapping[int, int]) -> Section:
    """Storms of each size, in so many rounds, with every tool in each."""
    results: dict[int, dict[str, list[StormResult]]] = {}
    for size, rounds in sizes.items():
        results[size] = {title: [] for title in TOOLS}
        for _ in range(rounds):
            for title, tool in TOOLS.items():
                results[size][title].append(_run_storm(workspace, tool, size))
    own = {size: by_tool[LAMBDA_MIGRATE.title] for size, by_tool in results.items()}
    first = next(iter(sizes))
    median, most = ([percentile(one.waits, p) for one in own[first]] for p in (50, 99))
    where = f"from the last commit to the handler, {first} concurrent starts"
    return Section(
        limits=[
            *(limit for size in sizes for limit in _make_limits(size, own[size])),
            Limit(f"median wait {where}", 0.3, median, "s"),
            Limit(f"p99 wait {where}", 1.0, most, "s"),
        ],
        tables=[_make_table(size, by_tool) for size, by_tool in results.items()],
    )


def _run_storm(workspace: Workspace, tool: Tool, size: int) -> StormResult:
    before = workspace.make_project(tool, make_storm_migrations(pending=False), "storm")
    after = workspace.make_project(tool, make_storm_migrations(pending=True), "storm")
    with workspace.create_database() as database:
        run(workspace.make_program(tool, before, database))
        variables = workspace.variables(database)
        with (
            workspace.make_function(tool, after, variables, environments=size) as function,
            workspace.sample_query(_COUNT_CONNECTIONS_SQL, database=database) as samples,
        ):
            results = function.storm(size)
            waits = _read_waits(workspace, database, function) if tool is LAMBDA_MIGRATE else []
        effects = workspace.server.execute(_COUNT_EFFECTS_SQL, database)
        [[balance]] = workspace.server.execute("SELECT balance FROM accounts", database)
    failed = [one for one in results if not one.ok]
    errors = [f"{one.error_type}: {one.error_message}" for one in failed]
    opened = min(one.started for one in results)
    return StormResult(
        failed=len(failed),
        error=textwrap.shorten(errors[0], 110, placeholder="…") if errors else "",
        repeated=sum(count > 1 for (count,) in effects),
        balance=int(balance),
        missing=10 - len(effects),
        connections=max((count for (count,) in samples), default=0),
        last_ready_seconds=max((one.ended - opened for one in results if one.ok), default=None),
        waits=waits,
    )


def _read_waits(workspace: Workspace, database: str, function: LocalFunction) -> Sequence[float]:
    [[committed]] = workspace.server.execute(_LAST_COMMIT_SQL, database)
    names = [one.environment_id for one in function.environments()]
    checks = [read_check(name, function.logs(name), clock_offset=0.0) for name in names]
    waits = [one.ended - committed for one in checks if one and one.waited and not one.fence]
    if not waits:
        raise MeasurementFailed("no process waited: all others failed, or began too late")
    return sorted(waits)


def _make_limits(size: int, results: Sequence[StormResult]) -> list[Limit]:
    where = f"({size} concurrent starts, 10 migrations pending)"
    wrong = [one.repeated + one.missing + abs(one.balance - _EXPECTED_BALANCE) for one in results]
    most = max(one.connections for one in results)
    return [
        Limit(f"failed starts {where}", 0, [max(one.failed for one in results)]),
        Limit(f"migrations applied twice or not at all {where}", 0, [max(wrong)]),
        Limit(f"PostgreSQL connections at any moment {where}", 1, [most]),
    ]


_COLUMNS: Mapping[str, Callable[[StormResult], float | None]] = {
    "failed": lambda one: one.failed,
    "applied twice": lambda one: one.repeated,
    f"balance ({_EXPECTED_BALANCE} is right)": lambda one: one.balance,
    "connections at most": lambda one: one.connections,
    "last ready, s": lambda one: one.last_ready_seconds,
}


def _make_table(size: int, results: Mapping[str, Sequence[StormResult]]) -> Table:
    rows = []
    for title, runs in results.items():
        columns = ([read(one) for one in runs] for read in _COLUMNS.values())
        cells = (format_spread([v for v in column if v is not None]) for column in columns)
        rows.append((title, *cells, next((one.error for one in runs if one.error), "")))
    return Table((f"{size} concurrent starts", *_COLUMNS, "an error"), rows)
