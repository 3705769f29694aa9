"""``python -m load.chaos --rounds 200 [--seed S]``; see docs/reference/chaos.md."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from load.chaos.evidence import Result
from load.chaos.report import rounds, write_report
from load.chaos.schedule import Schedule, from_json, generate, to_json
from load.chaos.shrink import shrink
from load.chaos.worker import Workers

__all__ = ["main"]

_SHRINK_TRIES = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the schedules and write the report; 1 if an invariant was violated."""
    options = _parser().parse_args(arguments)
    schedules = _schedules(options)
    out = Path(options.out)
    began = time.monotonic()
    results: list[Result] = []
    with Workers(options.workers) as workers:
        for result in workers.play(schedules):
            results.append(result)
            _print_progress(result, done=len(results), total=len(schedules), began=began)
        failed = [result for result in results if result.broken]
        for result in failed:
            _keep_failure(result, workers, out / "failures", tries=options.shrink)
    _clear_line()
    write_report(results, out, seconds=time.monotonic() - began)
    _print_summary(results, out)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m load.chaos",
        description="Play random faults at random moments and check the library's promises.",
    )
    parser.add_argument("--rounds", type=int, default=200, help="number of schedules (200)")
    parser.add_argument("--seed", type=int, help="seed of the first one (random)")
    parser.add_argument("--replay", help="play a seed or a file of failures/ again")
    parser.add_argument("--times", type=int, default=1, help="how often to replay it (1)")
    parser.add_argument(
        "--workers", type=int, default=_workers(), help="rounds side by side (%(default)s)"
    )
    parser.add_argument(
        "--shrink",
        type=int,
        default=_SHRINK_TRIES,
        help="tries to make a failing one smaller (%(default)s)",
    )
    parser.add_argument("--out", default="chaos-report", help="report folder (chaos-report)")
    return parser


def _workers() -> int:
    """Rounds mostly wait: a few fit on each core."""
    return 3 * (os.cpu_count() or 1)


def _schedules(options: argparse.Namespace) -> list[Schedule]:
    if options.replay:
        name = options.replay
        one = generate(int(name)) if name.isdigit() else from_json(Path(name).read_text())
        return [one] * options.times
    first = options.seed
    if first is None:
        first = random.SystemRandom().randrange(1_000_000) * 1_000
        print(f"seeds from {first}: repeat with --seed {first}")
    return [generate(seed) for seed in range(first, first + options.rounds)]


def _print_progress(result: Result, *, done: int, total: int, began: float) -> None:
    if result.broken:
        _clear_line()
        print("\n".join([f"BROKEN in seed {result.schedule.seed}:", *_indented(result.broken)]))
    if sys.stdout.isatty():
        rest = (time.monotonic() - began) / done * (total - done)
        print(f"\r{done} of {total} rounds, about {rest:.0f} s to go ", end="", flush=True)
    elif done % 10 == 0 or done == total:
        print(f"{done} of {total} rounds", flush=True)


def _clear_line() -> None:
    if sys.stdout.isatty():
        print("\r\033[K", end="")


def _indented(lines: Sequence[str]) -> list[str]:
    return ["  " + line.replace("\n", "\n  ") for line in lines]


def _keep_failure(result: Result, workers: Workers, folder: Path, *, tries: int) -> None:
    """Print a failing schedule, make it smaller, and keep it as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{result.schedule.seed}.json"
    file.write_text(to_json(result.schedule))
    invariants = {broken.partition(":")[0] for broken in result.broken}

    def still_fails(schedule: Schedule) -> bool:
        broken = workers.play_one(schedule).broken
        return bool(invariants & {sentence.partition(":")[0] for sentence in broken})

    small, played = shrink(result.schedule, still_fails, tries=tries)
    file.write_text(to_json(small))
    _clear_line()
    print("\n".join(small.lines()))
    print("\n".join(_indented(result.broken)))
    print(f"  made smaller in {played} tries; play it again: python -m load.chaos --replay {file}")


def _print_summary(results: Sequence[Result], out: Path) -> None:
    broken = sum(1 for result in results if result.broken)
    struck = sum(result.evidence.fault_counts.total() for result in results)
    print(
        f"{rounds(len(results))}, {struck} faults took effect, {rounds(broken)} violated an "
        f"invariant; see {out / 'report.html'}"
    )


if __name__ == "__main__":
    sys.exit(main())
