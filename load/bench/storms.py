"""Many cold starts at once, five migrations applied and ten pending, one of them 3 s."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import pg8000.native

from load.bench.charts import Strip, draw_strips
from load.bench.figures import format_spread
from load.bench.migrations import LONG_SECONDS, storm
from load.bench.peers import LAMBDA_MIGRATE, PEERS, Peer
from load.bench.processes import run_from_barrier
from load.bench.results import Check, Section, Table
from load.bench.workspace import Workspace

__all__ = ["Trial", "measure", "most_common_error"]

_INTERVAL_SECONDS = 0.02

_QUERY = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = :database AND backend_type = 'client backend'"
)

_CREDITS = 2  # how many of the migrations add to the balance
_CONNECTIONS = 100


@dataclass(frozen=True, slots=True)
class Trial:
    """One storm of one peer.

    Attributes:
        failed: Processes that ended with an error.
        error: Their most common error.
        repeated: Migrations that took effect more than once.
        balance: What was added to the balance; 2 is right.
        pending: Migrations that took no effect.
        connections: The most at any moment.
        sessions: Connections made altogether.
        connection_seconds: Their lengths altogether, by PostgreSQL's statistics.
        ready: Seconds from the gate's opening to the end of the last that succeeded; None where
            all failed.
        points: Seconds and connections.
    """

    failed: int
    error: str
    repeated: int
    balance: int
    pending: int
    connections: int
    sessions: int
    connection_seconds: float
    ready: float | None
    points: Sequence[tuple[float, float]]


def measure(workspace: Workspace, *, sizes: Mapping[int, int]) -> Section:
    """Storms of each size, every peer in each round.

    Args:
        workspace: The servers.
        sizes: How many processes, and how many rounds of that.
    """
    trials: dict[int, dict[str, list[Trial]]] = {}
    for size, rounds in sizes.items():
        trials[size] = {peer.title: [] for peer in PEERS}
        for _ in range(rounds):
            for peer in PEERS:
                trials[size][peer.title].append(_storm(workspace, peer, size))
    return Section(
        key="storms",
        title="Cold starts at once, with 10 pending migrations",
        checks=[
            check for size in sizes for check in _checks(size, trials[size][LAMBDA_MIGRATE.title])
        ],
        tables=[_table(size, trials[size]) for size in sizes],
        charts={
            f"storm-{size}": draw_strips(
                f"{size} cold starts at once: connections to PostgreSQL, of {_CONNECTIONS}",
                [Strip(title, _caption(runs[0]), runs[0].points) for title, runs in each.items()],
                most=_CONNECTIONS,
            )
            for size, each in trials.items()
        },
        notes=[
            f"Five migrations are applied, ten pending, one of them {LONG_SECONDS:g} s long. Each "
            "cold start is a fresh process; PostgreSQL has its default of 100 connections, three "
            "of them kept for superusers, through one of which they are counted 50 times a second. "
            "Connection-seconds are PostgreSQL's own (pg_stat_database.session_time). The pictures "
            "show the first storm of each.",
            "All processes share this machine's cores; in Lambda each has one of its own. So each "
            "first loads its libraries and waits at a gate (dbmate behind a shell), which opens "
            "for all at the same moment; seconds count from there. Ours has loaded no more by then "
            "than `import lambda_migrate` with the decorator applied.",
            *(f"{peer.title}: {peer.source}." for peer in PEERS),
        ],
        data={
            str(size): {title: [asdict(one) for one in runs] for title, runs in each.items()}
            for size, each in trials.items()
        },
    )


def _storm(workspace: Workspace, peer: Peer, size: int) -> Trial:
    before = workspace.project(peer, "five", storm(pending=False))
    after = workspace.project(peer, "fifteen", storm(pending=True))
    database = workspace.new_database()
    workspace.migrate(peer, before, database)
    program = workspace.program(peer, after, database, command=peer.command_with_barrier())
    sessions, seconds = workspace.sessions(database)
    with _counted_connections(workspace, database) as points:
        finished = run_from_barrier([program] * size, on_open=points.clear)
    sessions_then, seconds_then = workspace.sessions(database)
    effects = workspace.query(database, "SELECT count(*) FROM effects GROUP BY migration")
    balance = workspace.query(database, "SELECT balance FROM accounts")
    workspace.drop_database(database)
    failed = [one for one in finished if one.status != 0]
    opened = points[0][0] if points else 0.0
    return Trial(
        failed=len(failed),
        error=most_common_error([one.output for one in failed]),
        repeated=sum(count > 1 for (count,) in effects),
        balance=int(balance[0][0]),
        pending=10 - len(effects),
        connections=round(max((value for _, value in points), default=0)),
        sessions=sessions_then - sessions,
        connection_seconds=seconds_then - seconds,
        ready=max((one.wall for one in finished if one.status == 0), default=None),
        points=[(round(at - opened, 3), value) for at, value in points],
    )


@contextmanager
def _counted_connections(
    workspace: Workspace, database: str
) -> Iterator[list[tuple[float, float]]]:
    """Moments and connections to a database, counted through one that peers cannot take."""
    socket = str(workspace.server.socket)
    connection = pg8000.native.Connection("postgres", database="postgres", unix_sock=socket)
    points: list[tuple[float, float]] = []
    over = threading.Event()

    def count() -> None:
        while not over.wait(_INTERVAL_SECONDS):
            found = connection.run(_QUERY, database=database)[0][0]
            points.append((time.monotonic(), float(found)))

    thread = threading.Thread(target=count, name="connections", daemon=True)
    thread.start()
    try:
        yield points
    finally:
        over.set()
        thread.join()
        connection.close()


def most_common_error(outputs: Sequence[str]) -> str:
    """The error that most of the failed processes ended with, whatever numbers are in it."""
    errors = [_last_error(output) for output in outputs]
    if not errors:
        return ""
    kinds = Counter(re.sub(r"\d+", "0", error) for error in errors)
    kind = kinds.most_common(1)[0][0]
    error = next(error for error in errors if re.sub(r"\d+", "0", error) == kind)
    return error if len(error) <= 110 else error[:109] + "…"


def _last_error(output: str) -> str:
    """The last line that is an error, else the last that is neither empty nor indented."""
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith(" ")]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Timeout|NotReady)", line)]
    return (errors or lines or ["no output"])[-1].strip()


def _checks(size: int, trials: Sequence[Trial]) -> list[Check]:
    where = f"of {size} cold starts at once, 10 pending"
    return [
        Check(f"failed {where}", limit=0, value=max(one.failed for one in trials)),
        Check(
            f"migrations applied more than once, or not at all, {where}",
            limit=0,
            value=max(one.repeated + one.pending + abs(one.balance - _CREDITS) for one in trials),
        ),
        Check(
            f"PostgreSQL connections at any moment {where}",
            limit=1,
            value=max(one.connections for one in trials),
            note=f"{max(one.sessions for one in trials)} made altogether in a storm",
        ),
    ]


_COLUMNS = {
    "failed": "failed",
    "applied twice": "repeated",
    "balance (2 is right)": "balance",
    "connections at most": "connections",
    "connection-seconds": "connection_seconds",
    "last ready, s": "ready",
}


def _table(size: int, trials: Mapping[str, Sequence[Trial]]) -> Table:
    rounds = len(trials[LAMBDA_MIGRATE.title])
    rows = []
    for title, runs in trials.items():
        values = ([getattr(one, name) for one in runs] for name in _COLUMNS.values())
        known = ([value for value in each if value is not None] for each in values)
        cells = (format_spread(each) if each else "-" for each in known)
        rows.append((title, *cells, next((one.error for one in runs if one.error), "")))
    return Table(
        (f"{size} at once", *_COLUMNS, "most common error"),
        rows,
        caption=f"Medians of {rounds} storms each, the least and the most in brackets."
        if rounds > 1
        else "One storm each.",
    )


def _caption(one: Trial) -> str:
    twice = f", {one.repeated} applied twice" if one.repeated else ""
    return f"{one.failed} failed{twice}"
