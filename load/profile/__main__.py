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
from load.bench.machine import BUSY_SHARE, busy_share, describe_machine
from load.profile.capacity import measure_holder, measure_limited, partition_table
from load.profile.page import write_page
from load.profile.starts import KINDS, Bench, limited_cpu, measure_phases

DELAYS = (0.0, 0.001, 0.005)
ROOT = Path(__file__).parents[2]
_LIMITED = ("current", "migrating one file", "migrating 1,000 files")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything; docs/reference/profile.md unless ``--quick``."""
    parser = argparse.ArgumentParser(prog="python -m load.profile", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="one start of each kind, no page")
    parser.add_argument("--report", type=Path, default=ROOT / "profile-report", metavar="DIRECTORY")
    options = parser.parse_args(arguments)
    try:
        with limited_cpu(1.0):
            pass
    except OSError as error:
        parser.exit(2, f"CPU quotas need root and control groups (cpu, v1 or v2): {error}\n")
    options.report.mkdir(parents=True, exist_ok=True)
    install_dynalite(report=lambda _: None)
    found = _measure(options.report, quick=options.quick)
    (options.report / "profile.json").write_text(json.dumps(found, indent=1) + "\n")
    if not options.quick:
        write_page(found, partition_table(), ROOT / "docs")
    print(f"{options.report}: a flame graph's data (memray) and a call tree of each kind of start")
    return 0


def _measure(report: Path, *, quick: bool) -> dict[str, Any]:
    busy, began = busy_share(), time.monotonic()
    with Bench.open() as bench:
        found: dict[str, Any] = {
            "machine": describe_machine(bench.workspace.server.version),
            "provisional": f"the machine was {busy:.0%} busy" if busy > BUSY_SHARE else "",
            "times": {},
            "memory": {},
            "memray": {},
        }
        for kind, rounds in KINDS.items():
            print(f"{kind} ...", flush=True)
            found["times"][kind] = {
                f"{delay * 1000:g}": measure_phases(
                    bench, kind, delay_seconds=delay, rounds=1 if quick else rounds
                )
                for delay in DELAYS
            }
            found["memory"][kind] = measure_phases(
                bench, kind, delay_seconds=0.0, rounds=1, what="memory"
            )
            found["memray"][kind] = _run_profilers(bench, kind, report)
        print("processor shares ...", flush=True)
        found["limited"] = measure_limited(bench, _LIMITED)
        found["holder"] = {kind: measure_holder(bench, kind) for kind in _LIMITED[1:]}
    return found | {"seconds": time.monotonic() - began}


def _run_profilers(bench: Bench, kind: str, report: Path) -> dict[str, int]:
    """One start under memray, one under pyinstrument; what memray counted."""
    name = kind.replace(" ", "-").replace(",", "")
    memory, calls = (report / f"{name}.{suffix}" for suffix in ("memray.bin", "calls.html"))
    program = ("-m", "load.profile.measured", "run")
    with bench.delayed(0.0) as variables:
        bench.start(kind, variables, ("-m", "memray", "run", "-qfo", str(memory), *program))
        bench.start(kind, variables, ("-m", "pyinstrument", "-o", str(calls), *program))
    counted = memray.FileReader(memory).metadata
    return {"allocations": counted.total_allocations, "peak": counted.peak_memory}


if __name__ == "__main__":
    raise SystemExit(main())
