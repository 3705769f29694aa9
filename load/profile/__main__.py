"""``python -m load.profile``: measure cold starts phase by phase, and write the page about it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import memray

from lambda_migrate.local.servers.dynamodb import install_dynalite
from load.bench.processes import read_figures
from load.bench.report import describe_machine, describe_other_work
from load.profile.page import partition_table, write_page
from load.profile.starts import (
    KINDS,
    MEASURED,
    ColdStartProfiler,
    limit_cpu,
    measure_holder,
    measure_limited_cpu,
)

DELAYS = (0.0, 0.001, 0.005)
ROOT = Path(__file__).parents[2]
_KINDS_WITH_LIMITED_CPU = ("current", "migrating one file", "migrating 1,000 files")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything; docs/reference/profile.md unless ``--quick``."""
    parser = argparse.ArgumentParser(prog="python -m load.profile", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="one start of each kind, no page")
    parser.add_argument("--report", type=Path, default=ROOT / "profile-report", metavar="DIRECTORY")
    options = parser.parse_args(arguments)
    try:
        with limit_cpu(1.0):
            pass
    except OSError as error:
        parser.exit(2, f"CPU quotas need root and control groups (cpu, v1 or v2): {error}\n")
    options.report.mkdir(parents=True, exist_ok=True)
    install_dynalite(report=lambda _: None)
    measurements = _measure(options.report, quick=options.quick)
    (options.report / "profile.json").write_text(json.dumps(measurements, indent=1) + "\n")
    if not options.quick:
        write_page(measurements, partition_table(), ROOT / "docs")
    print(f"{options.report}: profile.json, and memray's recording of each kind of start")
    return 0


def _measure(report: Path, *, quick: bool) -> dict[str, Any]:
    provisional, began = describe_other_work(), time.monotonic()
    found: dict[str, Any] = {"times": {}, "memory": {}, "memray": {}, "limited": {}, "holder": {}}
    found["provisional"] = provisional
    with ColdStartProfiler.open() as profiler:
        found["machine"] = describe_machine(profiler.workspace.server.version)
        for kind, rounds in KINDS.items():
            print(f"{kind} ...", flush=True)
            found["times"][kind] = {
                f"{delay * 1000:g}": _measure_phases(
                    profiler, kind, "time", delay_seconds=delay, rounds=1 if quick else rounds
                )
                for delay in DELAYS
            }
            found["memory"][kind] = _measure_phases(profiler, kind, "memory")
            found["memray"][kind] = _count_allocations(profiler, kind, report)
        print("processor shares ...", flush=True)
        for kind in _KINDS_WITH_LIMITED_CPU:
            found["limited"][kind] = measure_limited_cpu(profiler, kind)
            if kind != "current":
                found["holder"][kind] = measure_holder(profiler, kind)
    return found | {"seconds": time.monotonic() - began}


def _measure_phases(
    profiler: ColdStartProfiler,
    kind: str,
    metric: str,
    *,
    delay_seconds: float = 0.0,
    rounds: int = 1,
) -> list[dict[str, list[float]]]:
    """The figures of each phase, for each of several starts; one more fills caches."""
    starts = [
        profiler.start(kind, (*MEASURED, metric), delay_seconds=delay_seconds)
        for _ in range(rounds + 1)
    ]
    return [read_figures(result.output) for result, _ in starts[1:]]


def _count_allocations(profiler: ColdStartProfiler, kind: str, report: Path) -> dict[str, int]:
    """What memray counts in one start."""
    recording = report / f"{kind.replace(' ', '-').replace(',', '')}.memray.bin"
    command = ("-m", "memray", "run", "-qfo", str(recording), *MEASURED, "run")
    profiler.start(kind, command)
    counted = memray.FileReader(recording).metadata
    return {"allocations": counted.total_allocations, "peak": counted.peak_memory}


if __name__ == "__main__":
    raise SystemExit(main())
