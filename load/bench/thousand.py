"""A thousand small migrations: how long each peer takes to apply them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from load.bench.charts import draw_bars
from load.bench.figures import format_number, format_spread, spread
from load.bench.migrations import small
from load.bench.peers import ALEMBIC, BY_HAND, DBMATE, DJANGO, LAMBDA_MIGRATE, YOYO
from load.bench.processes import MeasurementFailed, ProcessResult, Program, run
from load.bench.results import Section, Table, check_spread
from load.bench.workspace import Workspace

__all__ = ["measure"]

_PEERS = {peer.title: peer for peer in (ALEMBIC, DJANGO, YOYO, DBMATE, BY_HAND, LAMBDA_MIGRATE)}
_BARE = "the bare statements"
_BARE_CLIENT = """
import os, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute({script!r})
"""


def measure(workspace: Workspace, *, count: int, rounds: int) -> Section:
    """Each peer in every round, on an empty database of its own."""
    titles = (*_PEERS, _BARE)
    runs = [{title: _apply(workspace, title, count) for title in titles} for _ in range(rounds)]
    wall = {title: [each[title].wall for each in runs] for title in titles}
    cpu = {title: [each[title].cpu for each in runs] for title in titles}
    medians = {title: spread(values).median for title, values in wall.items()}
    ordered = sorted(wall, key=lambda title: medians[title])
    fastest = next(title for title in ordered if title not in (LAMBDA_MIGRATE.title, _BARE))
    bare = spread(_against_fastest(wall, _BARE)).median
    title = f"Applying {count:,} small migrations"
    return Section(
        key="thousand",
        title=title,
        checks=[
            check_spread(
                f"time for {count:,} small migrations / the fastest peer's",
                0.5,
                _against_fastest(wall, LAMBDA_MIGRATE.title),
                note=f"the fastest is {fastest}",
            )
        ],
        tables=[
            Table(
                ("", "seconds", "CPU seconds of the client"),
                [(name, format_spread(wall[name]), format_spread(cpu[name])) for name in ordered],
            )
        ],
        charts={
            "thousand": draw_bars(title, "s", [(name, spread(wall[name])) for name in ordered])
        },
        notes=[
            "Whole processes, from the start of the interpreter to its end. CREATE TABLE and "
            "INSERT by turns; each peer's own transactions (Alembic: one for all; the others and "
            "ours: one for each). The server does not wait for its disk (fsync off), so that the "
            "tools are compared, not the disk.",
            "Ours sends one message for each migration: begin, compare the fence, the script, undo "
            "its changes to the session, its history row, commit. The peers compare no fence.",
            f"{_BARE} is the server's own time: the same statements in one message and one "
            "transaction, without history, from a client written in C. A tool that records what "
            f"it applied takes longer; this is {format_number(bare)} of the fastest peer's time.",
        ],
        data={"wall_seconds": wall, "cpu_seconds": cpu},
    )


def _apply(workspace: Workspace, title: str, count: int) -> ProcessResult:
    changes, database = small(count), workspace.new_database()
    if title == _BARE:
        script = "".join(change.script for change in changes)
        program: Program = workspace.python(_BARE_CLIENT.format(script=script), database)
    else:
        project = workspace.project(_PEERS[title], f"small-{count}", changes)
        program = workspace.program(_PEERS[title], project, database)
    finished = run(program)
    applied = workspace.query(
        database, "SELECT count(*) FROM pg_tables WHERE tablename ~ '^things_'"
    )
    if applied != [[count // 2]]:
        raise MeasurementFailed(f"{title} applied {applied} tables of {count // 2}")
    workspace.drop_database(database)
    return finished


def _against_fastest(wall: Mapping[str, Sequence[float]], title: str) -> list[float]:
    """The time in each round, as a share of the fastest peer's in that round."""
    peers = [wall[peer] for peer in _PEERS if peer != LAMBDA_MIGRATE.title]
    return [mine / min(others) for mine, *others in zip(wall[title], *peers, strict=True)]
