"""What was run and found: results.json, and report.md."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from load.chaos.evidence import ChaosResult
from load.chaos.invariants import INVARIANTS
from load.chaos.schedule import KINDS, to_json

__all__ = ["write_report"]


def write_report(results: Sequence[ChaosResult], out: Path, *, seconds: float) -> None:
    """Write ``results.json`` and ``report.md``, failed rounds first."""
    out.mkdir(parents=True, exist_ok=True)
    ordered = sorted(results, key=lambda result: (not result.violations, result.schedule.seed))
    text = json.dumps([asdict(result) for result in ordered])
    (out / "results.json").write_text(text + "\n")
    (out / "report.md").write_text("\n".join(_format_report(ordered, seconds)) + "\n")


def _format_report(results: Sequence[ChaosResult], seconds: float) -> Iterator[str]:
    failed = [result for result in results if result.violations]
    faults = sum((Counter(result.evidence.fault_counts) for result in results), Counter[str]())
    processes = [one for result in results for one in result.evidence.processes]
    faults["clock"] = sum(1 for one in processes if one.clock_error)
    yield f"# Chaos: {len(failed)} of {len(results)} rounds violated an invariant\n"
    yield f"{len(processes)} processes in {seconds / 60:.1f} min, {faults.total()} faults.\n"
    violated = Counter(name for result in failed for name in violated_names(result))
    yield from _format_counts("invariant", "rounds that violated it", violated, INVARIANTS)
    yield from _format_counts("fault", "took effect", faults, KINDS)
    outcomes = Counter(one.outcome for one in processes)
    yield from _format_counts("how processes ended", "times", outcomes, sorted(outcomes))
    for result in failed:
        yield f"## Seed {result.schedule.seed}\n"
        yield from (f"- {violation}" for violation in result.violations)
        yield "\n```text"
        for at, process, what, detail in result.evidence.timeline:
            yield f"{at:7.3f}  {process:15}  {what:20}  {detail}".rstrip()
        yield f"```\n\n```json\n{to_json(result.schedule)}\n```\n"


def violated_names(result: ChaosResult) -> set[str]:
    """The names of the invariants that a round violated."""
    return {violation.partition(":")[0] for violation in result.violations}


def _format_counts(
    what: str, column: str, counts: Counter[str], names: Iterable[str]
) -> Iterator[str]:
    yield f"| {what} | {column} |\n|---|---|"
    yield from (f"| {name} | {counts[name]:,} |" for name in names)
    yield ""
