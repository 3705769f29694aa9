"""A storm's report: all figures as JSON, and the verdicts and durations as text."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lambda_migrate.local.demo.checks import Distribution
from load.storm.evidence import Evidence
from load.storm.host import failure_of
from load.storm.verdicts import Verdict, peak_of

_KINDS = ("cold", "warm", "write", "read")


def write_report(evidence: Evidence, verdicts: Sequence[Verdict], out: Path) -> None:
    """Write ``report.json`` and ``report.md`` into ``out``, beside Locust's own.

    Figures are seconds unless their key says otherwise.
    """
    distributions = _distributions(evidence)
    figures = {
        "passed": all(one.state != "failed" for one in verdicts),
        "verdicts": [asdict(one) for one in verdicts],
        "scenario": asdict(evidence.scenario),
        "machine": machine(),
        "seconds": round(evidence.seconds, 1),
        "invocations": {kind: _count_invocations(evidence, kind) for kind in _KINDS},
        **{name: asdict(found) for name, found in distributions.items()},
        "outcomes": dict(Counter(check.outcome for check in evidence.first_checks)),
        "migrated_by": [asdict(check) for check in evidence.migrators],
        "effects": dict(evidence.effects),
        "attempts": evidence.attempts,
        "dynamodb_busiest_second": peak_of(evidence.rates),
        "connections": {"at_most": evidence.max_sessions, "in_all": len(evidence.sessions)},
        "rolled_back": evidence.rolled_back,
        "locust": {name: list(counts) for name, counts in evidence.locust.items()},
    }
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    (out / "report.json").write_text(text + "\n")
    lines = [
        f"# {evidence.scenario.name}\n",
        *(f"- {one.state}: {one.what}: {one.found}" for one in verdicts),
        "\n| | median | 99 in 100 | worst |\n|---|---|---|---|",
        *(
            f"| {name.replace('_', ' ')} | {one.median:.3f} | {one.p99:.3f} | {one.worst:.3f} |"
            for name, one in distributions.items()
        ),
    ]
    (out / "report.md").write_text("\n".join(lines) + "\n")


def _count_invocations(evidence: Evidence, kind: str) -> dict[str, Any]:
    failures = [failure_of(one.result) for one in evidence.observed if one.kind == kind]
    return {"count": len(failures), "failures": dict(Counter(filter(None, failures)))}


def _distributions(evidence: Evidence) -> dict[str, Distribution]:
    values: dict[str, Sequence[float]] = {
        f"{kind}_invocations": [
            one.result.duration_seconds for one in evidence.observed if one.kind == kind
        ]
        for kind in _KINDS
    }
    values |= {
        "init": [one.result.init_seconds for one in evidence.cold],
        "waited": [check.waited for check in evidence.waiters],
        "commit_to_handler": evidence.seconds_to_handler,
        "commit_to_answer": evidence.seconds_to_answer,
        "dynamodb_calls_of_each_waiter": [check.lease_calls for check in evidence.waiters],
    }
    found = {name: Distribution.of(each) for name, each in values.items()}
    return {name: each for name, each in found.items() if each is not None}


def machine() -> dict[str, Any]:
    """The machine that it ran on."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpus": os.cpu_count(),
        "memory_gigabytes": round(pages / 1024**3, 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
