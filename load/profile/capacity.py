"""What saturates first when 100, 1,000 or 10,000 environments start at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from load.bench.processes import read_figures
from load.bench.results import Table, format_number
from load.bench.workspace import TABLE
from load.profile.starts import ColdStartProfiler, limit_cpu
from load.simulation.model import simulate
from load.simulation.policies import LIBRARY
from load.simulation.results import summarize
from load.simulation.table import Scenario

COLD_STARTS = (100, 1_000, 1_500, 2_000, 10_000)
MEMORY_SIZES = (128, 512, 1_769)
"""Megabytes; at the last Lambda gives a function one processor, below a proportional share."""

_COUNT_CONNECTIONS_AND_LOCKS = """
SELECT (SELECT count(*) FROM pg_stat_activity
        WHERE datname LIKE 'bench%' AND backend_type = 'client backend'),
       (SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
        WHERE d.datname LIKE 'bench%')
"""


def partition_table(seed: int = 1) -> Table:
    """The load on the lease's partition by the model of `make simulate`."""
    rows = []
    for starts in COLD_STARTS:
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


def measure_limited_cpu(profiler: ColdStartProfiler, kind: str) -> dict[int, float]:
    """Wall seconds of a start with the processor share of each memory size."""
    found = {}
    with profiler.delay_round_trips(0.0) as variables:
        for size in MEMORY_SIZES:
            with limit_cpu(size / MEMORY_SIZES[-1]) as prefix:
                result, _ = profiler.start(kind, variables, prefix=prefix)
            found[size] = sum(wall for _, wall in read_figures(result.output).values())
    return found


def measure_holder(profiler: ColdStartProfiler, kind: str) -> Sequence[int]:
    """Connections and locks at most during a start, and the bytes of the state item after it."""
    workspace = profiler.workspace
    with (
        profiler.delay_round_trips(0.0) as variables,
        workspace.sample(_COUNT_CONNECTIONS_AND_LOCKS) as samples,
    ):
        _, database = profiler.start(kind, variables)
    key = {"target": {"S": database}}
    item = workspace.dynamodb.client().get_item(TableName=TABLE, Key=key, ConsistentRead=True)
    return (*map(max, zip(*samples, strict=True)), item_bytes({"M": item["Item"]}))


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
