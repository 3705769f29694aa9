"""A thousand small migrations: how long each peer takes to apply them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from load.bench.figures import spread
from load.bench.findings import Chart, Check, Section, Table, number
from load.bench.migrations import small
from load.bench.peers import ALEMBIC, BY_HAND, DBMATE, DJANGO, OURS, YOYO, Peer
from load.bench.processes import Finished, MeasurementFailed, run
from load.bench.stage import Stage

__all__ = ["measure"]

_PEERS = (ALEMBIC, DJANGO, YOYO, DBMATE, BY_HAND, OURS)


def measure(stage: Stage, *, count: int, rounds: int) -> Section:
    """Each peer in every round, on an empty database of its own."""
    finished: dict[str, list[Finished]] = {peer.title: [] for peer in _PEERS}
    for _ in range(rounds):
        for peer in _PEERS:
            finished[peer.title].append(_apply(stage, peer, count))
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
            "Ours sends three messages for each migration and waits for each answer: begin and "
            "compare the fence; the script; its history row and commit. None of the peers has a "
            "fence to compare.",
        ],
        data={"wall_seconds": wall, "cpu_seconds": cpu},
    )


def _apply(stage: Stage, peer: Peer, count: int) -> Finished:
    project = stage.project(peer, f"small-{count}", small(count))
    database = stage.new_database()
    finished = run(stage.program(peer, project, database))
    applied = stage.ask(database, "SELECT count(*) FROM pg_tables WHERE tablename ~ '^things_'")
    if applied != [[count // 2]]:
        raise MeasurementFailed(f"{peer.title} applied {applied} tables of {count // 2}")
    stage.drop_database(database)
    return finished


def _against_fastest(wall: Mapping[str, Sequence[float]]) -> list[float]:
    peers = [runs for title, runs in wall.items() if title != OURS.title]
    return [ours / min(others) for ours, *others in zip(wall[OURS.title], *peers, strict=True)]


def _fastest(wall: Mapping[str, Sequence[float]]) -> str:
    peers = {title: spread(runs).median for title, runs in wall.items() if title != OURS.title}
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
