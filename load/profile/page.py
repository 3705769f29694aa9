"""docs/reference/profile.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from load.bench.results import Table, format_number, format_spread, markdown_table
from load.profile.measured_process import PHASES
from load.profile.starts import LEASE_SECONDS
from load.simulation.model import simulate
from load.simulation.policies import LIBRARY
from load.simulation.results import summarize
from load.simulation.table import Scenario

_CPU, _WALL = 0, 1
_MB = 2**20
_MANY = "migrating 1,000 files"

_Runs = Sequence[Mapping[str, Sequence[float]]]
_Cells = Mapping[str, Mapping[str, str]]


COLD_STARTS = (100, 1_000, 1_500, 2_000, 10_000)


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
    header = ("concurrent starts", "units in the busiest second", "of 3,000", "throttled")
    return Table((*header, "p99 from commit to serving, s"), rows)


def write_page(measurements: Mapping[str, Any], partition: Table, docs: Path) -> None:
    """Write the page from the measurements of a whole run."""
    times, memory = measurements["times"], measurements["memory"]
    cpu = {kind: _format_milliseconds(runs["0"], _CPU) for kind, runs in times.items()}
    wall = {
        delay: {kind: _format_milliseconds(runs[delay], _WALL) for kind, runs in times.items()}
        for delay in ("0", "1", "5")
    }
    tables = {
        "processor": _phase_table("ms", cpu),
        **{f"wall_{delay}": _phase_table("ms", cells) for delay, cells in wall.items()},
        "allocated": _phase_table("MB", {k: _format_bytes(runs, 0) for k, runs in memory.items()}),
        "peak": _phase_table("MB", {k: _format_bytes(runs, 1) for k, runs in memory.items()}),
        "memray": Table(
            ("whole process, by memray", "allocations", "peak, MB"),
            [
                (kind, f"{one['allocations']:,}", format_number(one["peak"] / _MB))
                for kind, one in measurements["memray"].items()
            ],
        ),
        "limited": Table(
            ("wall ms with the share of", "128 MB", "512 MB", "1,769 MB"),
            [
                (kind, *(format_number(1000 * wall) for wall in by_size.values()))
                for kind, by_size in measurements["limited"].items()
            ],
        ),
        "holder": Table(
            ("", "connections at most", "locks at most", "item, bytes"),
            [(k, *(f"{n:,}" for n in numbers)) for k, numbers in measurements["holder"].items()],
        ),
        "partition": partition,
    }
    provisional = measurements["provisional"]
    page = (
        Path(__file__)
        .with_name("profile.md")
        .read_text()
        .format(
            machine="\n".join(f"- {name}: {x}" for name, x in measurements["machine"].items()),
            minutes=f"{measurements['seconds'] / 60:.0f}",
            provisional=f"> **Provisional**: {provisional}.\n\n" if provisional else "",
            lease=LEASE_SECONDS,
            cpu=cpu,
            apply={int(delay): cells[_MANY]["apply"] for delay, cells in wall.items()},
            **{name: markdown_table(table).strip() for name, table in tables.items()},
        )
    )
    (docs / "reference" / "profile.md").write_text(page)


def _format_milliseconds(runs: _Runs, counter: int) -> dict[str, str]:
    """Each phase, and all of them together."""
    cells = {}
    for phase in PHASES:
        values = [run[phase][counter] * 1000 for run in runs]
        cells[phase] = format_number(statistics.median(values)) if any(values) else ""
    totals = [sum(each[counter] for each in run.values()) * 1000 for run in runs]
    return cells | {"**all**": format_spread(totals)}


def _format_bytes(runs: _Runs, counter: int) -> dict[str, str]:
    return {
        phase: f"{max(0.0, values[counter] / _MB):.2f}" if any(values) else ""
        for phase, values in runs[0].items()
    }


def _phase_table(unit: str, cells: _Cells) -> Table:
    phases = next(iter(cells.values()))
    rows = [(phase, *(each[phase] for each in cells.values())) for phase in phases]
    return Table((unit, *cells), rows)
