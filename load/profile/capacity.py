"""What saturates first when 100, 1,000 or 10,000 environments start at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from load.bench.figures import format_number
from load.bench.output import read_figures
from load.bench.results import Table
from load.bench.workspace import TABLE
from load.profile.starts import Bench, limited_cpu
from load.simulation.model import simulate
from load.simulation.policies import LIBRARY
from load.simulation.results import summarize
from load.simulation.scenario import Scenario

__all__ = ["MEMORY_SIZES", "item_bytes", "measure_holder", "measure_limited", "partition_table"]

STARTS = (100, 1_000, 1_500, 2_000, 10_000)
MEMORY_SIZES = (128, 512, 1_769)
_FULL_PROCESSOR = 1_769
"""Megabytes at which Lambda gives a function one processor; below, a proportional share."""

_COUNT = (
    "SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 'bench%' "
    "AND backend_type = 'client backend'), "
    "(SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database "
    "WHERE d.datname LIKE 'bench%')"
)


def partition_table(seed: int = 1) -> Table:
    """The load on the lease's partition by the model of `make simulate`."""
    rows = []
    for starts in STARTS:
        run = simulate(Scenario(environments=starts), LIBRARY, seed=seed)
        found, limit = summarize([run]), run.scenario.partition_read_units
        rows.append(
            (
                f"{starts:,}",
                format_number(found.peak_units),
                f"{found.peak_units / limit:.0%}",
                f"{found.throttled:.1%}",
                format_number(found.delay_p99),
            )
        )
    header = ("starts at once", "units in the busiest second", "of 3,000", "throttled")
    return Table((*header, "99 in 100 serve after the commit, s"), rows)


def measure_limited(bench: Bench, kinds: Sequence[str]) -> dict[str, dict[int, list[float]]]:
    """CPU and wall seconds of a start with the processor share of each memory size."""
    found: dict[str, dict[int, list[float]]] = {kind: {} for kind in kinds}
    with bench.delayed(0.0) as variables:
        for kind in kinds:
            for size in MEMORY_SIZES:
                with limited_cpu(size / _FULL_PROCESSOR) as before:
                    finished = bench.start(kind, variables, before=before)
                phases = read_figures(finished.output).values()
                found[kind][size] = [sum(each) for each in zip(*phases, strict=True)]
    return found


def measure_holder(bench: Bench, kind: str) -> tuple[int, int, int]:
    """Connections and locks at most during a start, and the bytes of the state item after it."""
    with bench.delayed(0.0) as variables, _sampled(bench) as samples:
        bench.start(kind, variables)
    connections, locks = (max(column) for column in zip(*samples, strict=True))
    table = bench.workspace.dynamodb.client()
    key = {"target": {"S": bench.workspace.newest_database}}
    item = table.get_item(TableName=TABLE, Key=key, ConsistentRead=True)["Item"]
    return connections, locks, item_bytes({"M": item})


@contextmanager
def _sampled(bench: Bench) -> Iterator[list[list[int]]]:
    """Connections and locks in the measured databases, all the time."""
    samples: list[list[int]] = [[0, 0]]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.02):
            samples.append([int(value) for value in bench.workspace.query("postgres", _COUNT)[0]])

    thread = threading.Thread(target=sample, name="locks", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def item_bytes(value: Mapping[str, Any]) -> int:
    """Bytes of a DynamoDB value, as its Developer Guide counts them."""
    ((kind, content),) = value.items()
    if kind == "M":
        return 3 + sum(1 + len(name) + item_bytes(each) for name, each in content.items())
    if kind == "L":
        return 3 + sum(1 + item_bytes(each) for each in content)
    if kind == "N":
        return len(content) // 2 + 1
    return len(content) if kind in ("S", "B") else 1
