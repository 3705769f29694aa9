"""``python -m load.chaos --rounds 200 [--seed S]``; see docs/reference/chaos.md."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from load.chaos.evidence import ChaosResult
from load.chaos.report import violated_names, write_report
from load.chaos.schedule import Schedule, from_json, generate, to_json
from load.chaos.shrink import shrink
from load.chaos.worker import Workers

__all__ = ["main"]

_SHRINK_TRIES = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the schedules and write the report; 1 if an invariant was violated."""
    options = _make_parser().parse_args(arguments)
    schedules = _make_schedules(options)
    began = time.monotonic()
    results: list[ChaosResult] = []
    with Workers(options.workers) as workers:
        for result in workers.run(schedules):
            results.append(result)
            for violation in result.violations:
                print(f"VIOLATED in seed {result.schedule.seed}: {violation}", flush=True)
            if len(results) % 10 == 0 or len(results) == len(schedules):
                print(f"{len(results)} of {len(schedules)} rounds", flush=True)
        failed = [result for result in results if result.violations]
        for result in failed:
            _keep_failure(result, workers, options.out / "failures")
    write_report(results, options.out, seconds=time.monotonic() - began)
    faults = sum(sum(result.evidence.fault_counts.values()) for result in results)
    print(
        f"{len(results)} rounds, {faults} faults took effect, {len(failed)} rounds violated an "
        f"invariant; see {options.out / 'report.md'}"
    )
    return 1 if failed else 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m load.chaos",
        description="Run random faults at random moments and check the library's promises.",
    )
    parser.add_argument("--rounds", type=int, default=200, help="number of schedules (200)")
    parser.add_argument("--seed", type=int, help="seed of the first one (random)")
    parser.add_argument("--replay", help="run a seed or a file of failures/ again")
    parser.add_argument("--times", type=int, default=1, help="how often to replay it (1)")
    default = 3 * (os.cpu_count() or 1)  # rounds mostly wait: a few fit on each core
    parser.add_argument(
        "--workers", type=int, default=default, help="rounds side by side (%(default)s)"
    )
    default_out = Path("chaos-report")
    parser.add_argument("--out", type=Path, default=default_out, help="report folder (%(default)s)")
    return parser


def _make_schedules(options: argparse.Namespace) -> list[Schedule]:
    if options.replay:
        name = options.replay
        schedule = generate(int(name)) if name.isdigit() else from_json(Path(name).read_text())
        return [schedule] * options.times
    first = options.seed
    if first is None:
        first = random.SystemRandom().randrange(1_000_000) * 1_000
        print(f"seeds from {first}: repeat with --seed {first}")
    return [generate(seed) for seed in range(first, first + options.rounds)]


def _keep_failure(result: ChaosResult, workers: Workers, folder: Path) -> None:
    """Make a failing schedule smaller, and keep it as a file."""

    def still_fails(schedule: Schedule) -> bool:
        [again] = workers.run([schedule])
        return bool(violated_names(result) & violated_names(again))

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{result.schedule.seed}.json"
    file.write_text(to_json(result.schedule))  # in case that it is interrupted
    file.write_text(to_json(shrink(result.schedule, still_fails, tries=_SHRINK_TRIES)))
    print(f"run seed {result.schedule.seed} again: python -m load.chaos --replay {file}")


if __name__ == "__main__":
    sys.exit(main())
