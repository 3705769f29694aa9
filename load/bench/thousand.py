"""A thousand small migrations: how long each peer takes to apply them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from load.bench.figures import spread
from load.bench.findings import Chart, Check, Section, Table, number
from load.bench.migrations import small
from load.bench.peers import ALEMBIC, BY_HAND, DBMATE, DJANGO, OURS, YOYO, Peer
from load.bench.processes import Finished, MeasurementFailed, Program, run
from load.bench.stage import Stage

__all__ = ["measure"]

_PEERS = (ALEMBIC, DJANGO, YOYO, DBMATE, BY_HAND, OURS)
_TITLES = tuple(peer.title for peer in _PEERS)

_BARE = "the bare statements"
_BARE_CLIENT = """
import os, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute({script!r})
"""


def measure(stage: Stage, *, count: int, rounds: int) -> Section:
    """Each peer in every round, on an empty database of its own."""
    finished: dict[str, list[Finished]] = {title: [] for title in (*_TITLES, _BARE)}
    for _ in range(rounds):
        for peer in _PEERS:
            finished[peer.title].append(_apply(stage, peer, count))
        finished[_BARE].append(_apply_bare(stage, count))
    wall = {title: [one.wall for one in runs] for title, runs in finished.items()}
    cpu = {title: [one.cpu for one in runs] for title, runs in finished.items()}
    found = spread(_against_fastest(wall))
    return Section(
        key="thousand",
        title=f"Applying {count:,} small migrations",
        checks=[
            Check(
                f"time for {count:,} small migrations / the fastest peer's",
                bar=0.5,
                value=found.median,
                range=(found.low, found.high),
                note=f"the fastest is {_fastest(wall)}",
            )
        ],
        tables=[_table(wall, cpu)],
        charts=[_chart(wall, count)],
        notes=[
            "Whole processes, from the start of the interpreter to its end. CREATE TABLE and "
            "INSERT by turns; each peer's own transactions (Alembic: one for all; the others and "
            "ours: one for each). The server does not wait for its disk (fsync off), so that the "
            "tools are compared, not the disk.",
            "Ours sends one message for each migration: begin, compare the fence, the script, undo "
            "what it left in the session, its history row, commit. None of the peers has a fence "
            "to compare.",
            f"{_BARE} is what the server alone needs: the same statements in one message and one "
            "transaction, without history, from a client written in C. Nobody who records what "
            f"was applied can be below it: it is {number(spread(_shares(wall)).median)} of the "
            "fastest peer's time.",
        ],
        data={"wall_seconds": wall, "cpu_seconds": cpu},
    )


def _apply(stage: Stage, peer: Peer, count: int) -> Finished:
    project = stage.project(peer, f"small-{count}", small(count))
    database = stage.new_database()
    return _applied(stage, peer.title, stage.program(peer, project, database), database, count)


def _apply_bare(stage: Stage, count: int) -> Finished:
    database = stage.new_database()
    script = "".join(change.script for change in small(count))
    program = stage.python(_BARE_CLIENT.format(script=script), database)
    return _applied(stage, _BARE, program, database, count)


def _applied(stage: Stage, title: str, program: Program, database: str, count: int) -> Finished:
    finished = run(program)
    applied = stage.ask(database, "SELECT count(*) FROM pg_tables WHERE tablename ~ '^things_'")
    if applied != [[count // 2]]:
        raise MeasurementFailed(f"{title} applied {applied} tables of {count // 2}")
    stage.drop_database(database)
    return finished


def _against_fastest(wall: Mapping[str, Sequence[float]]) -> list[float]:
    return _against(wall, OURS.title)


def _shares(wall: Mapping[str, Sequence[float]]) -> list[float]:
    return _against(wall, _BARE)


def _against(wall: Mapping[str, Sequence[float]], title: str) -> list[float]:
    """A title's time in each round, as a part of the fastest peer's in that round."""
    peers = [wall[peer] for peer in _TITLES if peer != OURS.title]
    return [mine / min(others) for mine, *others in zip(wall[title], *peers, strict=True)]


def _fastest(wall: Mapping[str, Sequence[float]]) -> str:
    peers = {title: spread(wall[title]).median for title in _TITLES if title != OURS.title}
    return min(peers, key=lambda title: peers[title])


def _table(wall: Mapping[str, Sequence[float]], cpu: Mapping[str, Sequence[float]]) -> Table:
    return Table(
        ("", "seconds", "CPU seconds of the client"),
        [
            (title, _shown(wall[title]), _shown(cpu[title]))
            for title in sorted(wall, key=lambda title: spread(wall[title]).median)
        ],
    )


def _shown(values: Sequence[float]) -> str:
    found = spread(values)
    return f"{number(found.median)} ({number(found.low)} to {number(found.high)})"


def _chart(wall: Mapping[str, Sequence[float]], count: int) -> Chart:
    spreads = {title: spread(runs) for title, runs in wall.items()}
    return Chart(
        "thousand",
        f"Applying {count:,} small migrations",
        "s",
        [
            (title, one.median, one.low, one.high)
            for title, one in sorted(spreads.items(), key=lambda each: each[1].median)
        ],
    )
