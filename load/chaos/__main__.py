"""``python -m load.chaos --rounds 200 [--seed S]``; see docs/reference/chaos.md."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from load.bench.results import Table, markdown_table
from load.chaos.evidence import ChaosEvidence
from load.chaos.invariants import INVARIANTS
from load.chaos.schedule import FAULT_KINDS, TOOLS, Schedule, from_json, make_schedule, to_json
from load.chaos.worker import run_schedules


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the schedules and write the report; 1 if an invariant was violated."""
    options = _make_parser().parse_args(arguments)
    schedules = _make_schedules(options)
    began = time.monotonic()
    results: list[ChaosEvidence] = []
    for result in run_schedules(schedules, workers=options.workers):
        results.append(result)
        for violation in result.violations:
            print(f"VIOLATED in seed {result.schedule.seed}: {violation}", flush=True)
    failed = [result for result in results if result.violations]
    write_report(results, options.out, seconds=time.monotonic() - began)
    report = options.out / "report.md"
    print(f"{len(results)} rounds, {len(failed)} violated an invariant; see {report}")
    return 1 if failed else 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m load.chaos",
        description="Run random faults at random moments and check the library's promises.",
    )
    add = parser.add_argument
    add("--rounds", type=int, default=200, help="number of schedules (200)")
    add("--source", choices=("sql", *TOOLS), default="sql", help="whose migrations (%(default)s)")
    add("--seed", type=int, help="seed of the first one (random)")
    add("--replay", help="run a seed or a file of failures/ again")
    add("--times", type=int, default=1, help="how often to replay it (1)")
    workers = 3 * (os.cpu_count() or 1)  # rounds mostly wait: a few fit on each core
    add("--workers", type=int, default=workers, help="rounds side by side (%(default)s)")
    add("--out", type=Path, default=Path("chaos-report"), help="report folder (%(default)s)")
    return parser


def _make_schedules(options: argparse.Namespace) -> list[Schedule]:
    make = partial(make_schedule, source=options.source)
    if options.replay:
        name = options.replay
        schedule = make(int(name)) if name.isdigit() else from_json(Path(name).read_text())
        return [schedule] * options.times
    first = options.seed
    if first is None:
        first = random.SystemRandom().randrange(1_000_000) * 1_000
        print(f"seeds from {first}: repeat with --seed {first}")
    return [make(seed) for seed in range(first, first + options.rounds)]


def write_report(results: Sequence[ChaosEvidence], out: Path, *, seconds: float) -> None:
    """Write ``results.json``, ``report.md``, and the schedules that failed into ``failures``."""
    (out / "failures").mkdir(parents=True, exist_ok=True)
    ordered = sorted(results, key=lambda result: (not result.violations, result.schedule.seed))
    text = json.dumps([asdict(result) for result in ordered])
    (out / "results.json").write_text(text + "\n")
    (out / "report.md").write_text("\n".join(_format_report(ordered, seconds)) + "\n")
    for schedule in (result.schedule for result in results if result.violations):
        (out / "failures" / f"{schedule.seed}.json").write_text(to_json(schedule))


def _format_report(results: Sequence[ChaosEvidence], seconds: float) -> Iterator[str]:
    failed = [result for result in results if result.violations]
    faults = sum((Counter(result.fault_counts) for result in results), Counter[str]())
    processes = [one for result in results for one in result.processes]
    faults["clock"] = sum(1 for one in processes if one.clock_error)
    violated = Counter(
        name
        for result in failed
        for name in {violation.partition(":")[0] for violation in result.violations}
    )
    yield f"# Chaos: {len(failed)} of {len(results)} rounds violated an invariant\n"
    yield f"{len(processes)} processes in {seconds / 60:.1f} min, {faults.total()} faults.\n"
    rows = [(name, str(violated[name])) for name in INVARIANTS]
    yield markdown_table(Table(("invariant", "rounds that violated it"), rows))
    kinds = dict.fromkeys((*FAULT_KINDS, *sorted(faults)))
    yield markdown_table(Table(("fault", "took effect"), [(k, f"{faults[k]:,}") for k in kinds]))
    for result in failed:
        yield f"## Seed {result.schedule.seed}\n"
        yield from (f"- {violation}" for violation in result.violations)
        yield "\n```text"
        for at, process, what, detail in result.timeline:
            yield f"{at:7.3f}  {process:15}  {what:20}  {detail}".rstrip()
        yield "```\n"


if __name__ == "__main__":
    sys.exit(main())
