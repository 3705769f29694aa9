"""``python -m load.profile``: measure cold starts phase by phase; docs/reference/profile.md."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lambda_migrate.local.servers.dynamodb import install_dynalite
from load.bench.processes import read_figures
from load.bench.report import describe_other_work, describe_setup, fill_page
from load.bench.results import Table, format_number, format_spread, markdown_table
from load.profile import starts
from load.profile.measured_process import PHASES
from load.profile.starts import MEASURED_PROCESS, ColdStartProfiler
from load.simulation.lease_table import Scenario
from load.simulation.model import simulate, summarize
from load.simulation.policies import LIBRARY

DELAY_SECONDS = (0.0, 0.001, 0.005)
ROOT = Path(__file__).parents[2]
_KINDS_WITH_LIMITED_CPU = ("current", "migrating one file", "migrating 1,000 files")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything; docs/reference/profile.md unless ``--quick``."""
    parser = argparse.ArgumentParser(prog="python -m load.profile", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="one start of each kind, no page")
    parser.add_argument("--report", type=Path, default=ROOT / "profile-report", metavar="DIRECTORY")
    options = parser.parse_args(arguments)
    try:
        with starts.limit_cpu(1.0):
            pass
    except OSError as error:
        parser.exit(2, f"CPU quotas need root and control groups (cpu, v1 or v2): {error}\n")
    options.report.mkdir(parents=True, exist_ok=True)
    install_dynalite(report=lambda _: None)
    measurements = _measure(options.report, quick=options.quick)
    (options.report / "profile.json").write_text(json.dumps(measurements, indent=1) + "\n")
    if not options.quick:
        write_page(measurements, make_partition_table(), ROOT / "docs")
    print(f"{options.report}: profile.json, and memray's recording of each kind of start")
    return 0


def _measure(report: Path, *, quick: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"times": {}, "memory": {}, "memray": {}, "limited": {}, "holder": {}}
    found["provisional"], began = describe_other_work(), time.monotonic()
    with ColdStartProfiler.open() as profiler:
        found["machine"] = describe_setup(profiler.workspace.server.version)
        for kind, rounds in starts.ROUNDS_BY_KIND.items():
            print(f"{kind} ...", flush=True)
            found["times"][kind] = {
                f"{delay * 1000:g}": _measure_phases(
                    profiler, kind, "time", delay, 1 if quick else rounds
                )
                for delay in DELAY_SECONDS
            }
            found["memory"][kind] = _measure_phases(profiler, kind, "memory")
            found["memray"][kind] = _count_allocations(profiler, kind, report)
        print("processor shares ...", flush=True)
        for kind in _KINDS_WITH_LIMITED_CPU:
            found["limited"][kind] = starts.measure_limited_cpu(profiler, kind)
            if kind != "current":
                found["holder"][kind] = starts.measure_holder(profiler, kind)
    return found | {"seconds": time.monotonic() - began}


def _measure_phases(
    profiler: ColdStartProfiler, kind: str, metric: str, delay: float = 0.0, rounds: int = 1
) -> list[dict[str, list[float]]]:
    """The figures of each phase, for each of several starts; one more fills caches."""
    command = (*MEASURED_PROCESS, metric)
    found = [profiler.measure(kind, command, delay_seconds=delay) for _ in range(rounds + 1)]
    return [read_figures(result.output) for result, _ in found[1:]]


def _count_allocations(profiler: ColdStartProfiler, kind: str, report: Path) -> dict[str, int]:
    """What memray counts in one start."""
    import memray  # of the extra `bench`; the page is tested without it

    recording = report / f"{kind.replace(' ', '-').replace(',', '')}.memray.bin"
    command = ("-m", "memray", "run", "-qfo", str(recording), *MEASURED_PROCESS, "run")
    profiler.measure(kind, command)
    counted = memray.FileReader(recording).metadata
    return {"allocations": counted.total_allocations, "peak": counted.peak_memory}


# --- the page

_CPU, _WALL = 0, 1
_MB = 2**20
_MANY_FILES = "migrating 1,000 files"

_Runs = Sequence[Mapping[str, Sequence[float]]]
_Cells = Mapping[str, Mapping[str, str]]

COLD_START_COUNTS = (100, 1_000, 1_500, 2_000, 10_000)


def make_partition_table(seed: int = 1) -> Table:
    """The load on the lease's partition by the model of `make simulate`."""
    rows = []
    for count in COLD_START_COUNTS:
        run = simulate(Scenario(environments=count), LIBRARY, seed=seed)
        found, limit = summarize([run]), run.scenario.partition_read_units
        rows.append(
            (
                f"{count:,}",
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
        "processor": _make_table("ms", cpu),
        **{f"wall_{delay}": _make_table("ms", cells) for delay, cells in wall.items()},
        "allocated": _make_table("MB", {k: _format_bytes(runs, 0) for k, runs in memory.items()}),
        "peak": _make_table("MB", {k: _format_bytes(runs, 1) for k, runs in memory.items()}),
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
    fill_page(
        Path(__file__).with_name("profile.md"),
        docs / "reference" / "profile.md",
        setup=measurements["machine"],
        other_work=measurements["provisional"],
        minutes=f"{measurements['seconds'] / 60:.0f}",
        lease=starts.LEASE_SECONDS,
        cpu=cpu,
        apply={int(delay): cells[_MANY_FILES]["apply"] for delay, cells in wall.items()},
        **{name: markdown_table(table).strip() for name, table in tables.items()},
    )


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


def _make_table(unit: str, cells: _Cells) -> Table:
    phases = next(iter(cells.values()))
    rows = [(phase, *(each[phase] for each in cells.values())) for phase in phases]
    return Table((unit, *cells), rows)


if __name__ == "__main__":
    raise SystemExit(main())
