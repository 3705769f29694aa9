"""What the rehearsal has seen, for pipelines and, by `page`, for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from load.staging.page import page
from load.staging.records import TableRecord
from load.staging.rehearsal import Rehearsal
from load.staging.verdicts import decide
from load.storm.report import figures as storm_figures
from load.storm.report import machine

__all__ = ["figures", "write"]


def write(rehearsal: Rehearsal, out: Path, *, seconds: float, command: str) -> Path:
    """Write ``report.json`` and ``report.html`` into ``out``; return the page.

    Args:
        rehearsal: What was seen.
        out: The folder.
        seconds: How long all of it took.
        command: How to see the same again.
    """
    out.mkdir(parents=True, exist_ok=True)
    said = figures(rehearsal, seconds=seconds, command=command)
    (out / "report.json").write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n")
    path = out / "report.html"
    path.write_text(page(rehearsal, said))
    return path


def figures(rehearsal: Rehearsal, *, seconds: float, command: str) -> dict[str, Any]:
    """Everything; seconds unless the key says otherwise.

    ``decision`` is ``go`` or ``no-go``; ``reasons`` has a sentence for each thing that stands
    against it.
    """
    decision = decide(rehearsal.steps)
    return {
        "decision": decision.word,
        "reasons": list(decision.reasons),
        "not_measured": list(decision.unmeasured),
        "release": rehearsal.name,
        "pending": list(rehearsal.pending),
        "limits": asdict(rehearsal.wanted.limits),
        "command": command,
        "seconds": round(seconds, 1),
        "machine": machine(),
        "steps": [
            {
                "name": step.name,
                "seconds": round(step.seconds, 2),
                "verdicts": [asdict(one) for one in step.verdicts],
                **step.facts,
            }
            for step in rehearsal.steps
        ],
        "tables": [asdict(size) for size in rehearsal.sizes],
        "data": {
            moment: [_record(table) for table in records.tables]
            for moment, records in rehearsal.records.items()
        },
        "checks": {
            moment: {name: str(answer) for name, answer in answers.items()}
            for moment, answers in rehearsal.answers.items()
        },
        "storms": {
            step.phase: storm_figures(rehearsal.phases[step.phase], step.verdicts)
            for step in rehearsal.steps
            if step.phase in rehearsal.phases
        },
    }


def _record(table: TableRecord) -> Mapping[str, Any]:
    return asdict(table)
