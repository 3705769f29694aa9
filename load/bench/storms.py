"""Many cold starts at once, five migrations applied and ten pending, one of them 3 s."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pg8000.native

from load.bench.figures import spread
from load.bench.findings import Area, Areas, Check, Section, Table, number
from load.bench.migrations import LONG_SECONDS, storm
from load.bench.peers import OURS, PEERS, Peer
from load.bench.processes import run_gated
from load.bench.stage import Stage

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Trial", "commonest", "measure"]

_INTERVAL_SECONDS = 0.02

_QUERY = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = :database AND backend_type = 'client backend'"
)

_CREDITS = 2  # how many of the migrations add to the balance


@dataclass(frozen=True, slots=True)
class Trial:
    """One storm of one peer.

    Attributes:
        failed: Processes that ended with an error.
        error: The commonest last line of theirs.
        repeated: Migrations that took effect more than once.
        balance: What was added to the balance, which is 2 when all is well.
        pending: Migrations without any effect in the end.
        connections: The most at any moment, asked from outside.
        sessions: Connections made altogether.
        connection_seconds: Their lengths altogether, by PostgreSQL's own books.
        ready: Seconds from the gate's opening to the end of the last that succeeded; None where
            none did.
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


def measure(stage: Stage, *, sizes: Mapping[int, int]) -> Section:
    """Storms of each size, every peer in each round.

    Args:
        stage: The engines.
        sizes: How many processes, and how many rounds of that.
    """
    trials: dict[int, dict[str, list[Trial]]] = {}
    for size, rounds in sizes.items():
        trials[size] = {peer.title: [] for peer in PEERS}
        for _ in range(rounds):
            for peer in PEERS:
                trials[size][peer.title].append(_storm(stage, peer, size))
    return Section(
        key="storms",
        title="Cold starts at once, with 10 pending migrations",
        checks=[check for size in sizes for check in _checks(size, trials[size][OURS.title])],
        tables=[_table(size, trials[size]) for size in sizes],
        charts=[_chart(size, trials[size]) for size in sizes],
        notes=[
            f"Five migrations are applied, ten pending, one of them {LONG_SECONDS:g} s long. Each "
            "cold start is a fresh process; PostgreSQL has its default of 100 connections, three "
            "of them kept for superusers, through one of which they are counted 50 times a second. "
            "Connection-seconds are PostgreSQL's own (pg_stat_database.session_time).",
            "All processes share this machine's cores; in Lambda each has one of its own. So each "
            "first loads its libraries and waits at a gate (dbmate behind a shell), which opens "
            "for all at the same moment; seconds count from there. Ours has loaded no more by then "
            "than `import lambda_migrate` with the decorator applied.",
            *(f"{peer.title}: {peer.source}." for peer in PEERS),
        ],
        data={
            str(size): {title: [asdict(one) for one in all_] for title, all_ in by_title.items()}
            for size, by_title in trials.items()
        },
    )


def _storm(stage: Stage, peer: Peer, size: int) -> Trial:
    before = stage.project(peer, "five", storm(pending=False))
    after = stage.project(peer, "fifteen", storm(pending=True))
    database = stage.new_database()
    stage.bring_up(peer, before, database)
    program = stage.program(peer, after, database, command=peer.start.gated())
    sessions, seconds = stage.sessions(database)
    with _Watcher(stage, database) as watcher:
        finished = run_gated([program] * size, on_open=watcher.begin)
    sessions_then, seconds_then = stage.sessions(database)
    effects = stage.ask(database, "SELECT count(*) FROM effects GROUP BY migration")
    balance = stage.ask(database, "SELECT balance FROM accounts")
    stage.drop_database(database)
    failed = [one for one in finished if one.status != 0]
    return Trial(
        failed=len(failed),
        error=commonest([one.output for one in failed]),
        repeated=sum(count > 1 for (count,) in effects),
        balance=int(balance[0][0]),
        pending=10 - len(effects),
        connections=round(max((value for _, value in watcher.points), default=0)),
        sessions=sessions_then - sessions,
        connection_seconds=seconds_then - seconds,
        ready=max((one.wall for one in finished if one.status == 0), default=None),
        points=watcher.points,
    )


class _Watcher:
    """Counts the connections to a database, through one that the peers cannot take."""

    def __init__(self, stage: Stage, database: str) -> None:
        self._socket = str(stage.server.socket)
        self._database = database
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="connections", daemon=True)
        self._began: float | None = None
        self.points: list[tuple[float, float]] = []

    def __enter__(self) -> _Watcher:
        self._connection = pg8000.native.Connection(
            "postgres", database="postgres", unix_sock=self._socket
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def begin(self) -> None:
        """Count from now on."""
        self._began = time.monotonic()

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL_SECONDS):
            count = self._connection.run(_QUERY, database=self._database)[0][0]
            if self._began is not None:
                self.points.append((round(time.monotonic() - self._began, 3), float(count)))


def commonest(outputs: Sequence[str]) -> str:
    """The last line that most of the failed processes wrote, its numbers and names aside."""
    lines = [_last_line(output) for output in outputs]
    if not lines:
        return ""
    kinds = Counter(re.sub(r"\d+", "0", line) for line in lines)
    kind = kinds.most_common(1)[0][0]
    line = next(line for line in lines if re.sub(r"\d+", "0", line) == kind)
    return line if len(line) <= 110 else line[:109] + "…"


def _last_line(output: str) -> str:
    """The line of the error: the last that is neither empty, nor indented, nor a hint."""
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith(" ")]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Timeout|NotReady)", line)]
    return (errors or lines or ["no output"])[-1].strip()


# -- what it comes to -----------------------------------------------------------------------------


def _checks(size: int, trials: Sequence[Trial]) -> list[Check]:
    where = f"of {size} cold starts at once, 10 pending"
    return [
        Check(f"failed {where}", bar=0, value=max(one.failed for one in trials)),
        Check(
            f"migrations applied more than once, or not at all, {where}",
            bar=0,
            value=max(one.repeated + one.pending + abs(one.balance - _CREDITS) for one in trials),
        ),
        Check(
            f"PostgreSQL connections at any moment {where}",
            bar=1,
            value=max(one.connections for one in trials),
            note=f"{max(one.sessions for one in trials)} made altogether in a storm",
        ),
    ]


def _table(size: int, trials: Mapping[str, Sequence[Trial]]) -> Table:
    rounds = len(next(iter(trials.values())))
    return Table(
        (
            f"{size} at once",
            "failed",
            "applied twice",
            "balance (2 is right)",
            "connections at most",
            "connection-seconds",
            "last ready, s",
            "commonest error",
        ),
        [_table_row(title, runs) for title, runs in trials.items()],
        caption=f"Medians of {rounds} storms each, the least and the most in brackets."
        if rounds > 1
        else "One storm each.",
    )


def _table_row(title: str, runs: Sequence[Trial]) -> tuple[str, ...]:
    ready = [one.ready for one in runs if one.ready is not None]
    return (
        title,
        _shown([one.failed for one in runs]),
        _shown([one.repeated for one in runs]),
        _shown([one.balance for one in runs]),
        _shown([one.connections for one in runs]),
        _shown([one.connection_seconds for one in runs]),
        _shown(ready) if ready else "-",
        next((one.error for one in runs if one.error), ""),
    )


def _shown(values: Sequence[float]) -> str:
    found = spread(values)
    if found.low == found.high:
        return number(found.median)
    return f"{number(found.median)} ({number(found.low)} to {number(found.high)})"


def _chart(size: int, trials: Mapping[str, Sequence[Trial]]) -> Areas:
    """The first storm of each."""
    first = {title: runs[0] for title, runs in trials.items()}
    return Areas(
        f"storm-{size}",
        f"{size} cold starts at once: connections to PostgreSQL",
        "Each strip is 100 connections high: all there are. It ends with the last process.",
        100.0,
        [
            Area(title, _caption(one), one.points, is_bad=bool(one.failed or one.repeated))
            for title, one in first.items()
        ],
    )


def _caption(one: Trial) -> str:
    connections = "connection" if one.connections == 1 else "connections"
    twice = f", {one.repeated} applied twice" if one.repeated else ""
    return f"{one.failed} failed{twice}, {one.connections} {connections}"
