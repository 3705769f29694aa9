"""A storm's report: all figures as JSON, and a page."""

from __future__ import annotations

import itertools
import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from lambda_migrate.local.demo.checks import Distribution
from lambda_migrate.local.demo.timeline import Series, clip, render
from load.storm.evidence import Evidence
from load.storm.host import failure_of
from load.storm.verdicts import Verdict, peak_of

__all__ = ["figures", "machine", "timeline", "write_report"]

_SECONDS_BEFORE, _SECONDS_AFTER = 3.0, 2.0
_KINDS = ("cold", "warm", "write", "read")


def write_report(evidence: Evidence, verdicts: Sequence[Verdict], out: Path) -> None:
    """Write ``report.json`` and ``report.html`` into ``out``, beside Locust's own."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures(evidence, verdicts), indent=2, ensure_ascii=False)
    (out / "report.json").write_text(text + "\n")
    (out / "report.html").write_text(_page(evidence, verdicts))


def figures(evidence: Evidence, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Everything; seconds unless the key says otherwise."""
    return {
        "passed": all(one.state != "failed" for one in verdicts),
        "verdicts": [asdict(one) for one in verdicts],
        "scenario": asdict(evidence.scenario),
        "machine": machine(),
        "seconds": round(evidence.seconds, 1),
        "invocations": {kind: _count_invocations(evidence, kind) for kind in _KINDS},
        **{name: asdict(found) for name, found in _distributions(evidence).items()},
        "outcomes": dict(Counter(check.outcome for check in evidence.first_checks)),
        "migrated_by": [asdict(check) for check in evidence.migrators],
        "effects": dict(evidence.effects),
        "attempts": evidence.attempts,
        "dynamodb_busiest_second": peak_of(evidence.rates or {}),
        "connections": {
            "at_most": evidence.max_sessions,
            "in_all": len(evidence.sessions),
            "connection_seconds": round(sum(o.closed - o.opened for o in evidence.sessions), 3),
        },
        "memory_megabytes_in_all": round(sum(evidence.memory) + evidence.parent_memory),
        "rolled_back": evidence.rolled_back,
        "locust": {name: list(counts) for name, counts in evidence.locust.items()},
    }


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
        "memory_megabytes_of_each": evidence.memory,
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


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1040px; margin: 24px auto; }
td { padding: 2px 14px 2px 0; vertical-align: top; }
.failed { color: #fff; background: #b3261e; }
svg { max-width: 100%; height: auto; }
"""


def _page(evidence: Evidence, verdicts: Sequence[Verdict]) -> str:
    scenario = evidence.scenario
    states = "".join(
        f'<tr class="{one.state}">{_format_cells(one.state, one.what, one.found)}</tr>\n'
        for one in verdicts
    )
    head = _format_cells("seconds, calls, megabytes", "median", "p99", "worst")
    distributions = "".join(
        "<tr>"
        + _format_cells(name, f"{one.median:.3f}", f"{one.p99:.3f}", f"{one.worst:.3f}")
        + "</tr>\n"
        for name, one in _distributions(evidence).items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<title>{escape(scenario.name)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(scenario.name)}</h1>
<p>{scenario.environments} cold starts ({scenario.processes} processes) against {scenario.engine};
{len(evidence.waiters)} waited. {evidence.seconds:.0f} s on {os.cpu_count()} CPUs.</p>
<table>{states}</table>
{timeline(evidence)}
<table><tr>{head}</tr>{distributions}</table>
<p>Locust: <a href="locust.html">report</a>, <a href="locust_stats.csv">csv</a>.
Everything: <a href="report.json">report.json</a>.</p>
</body></html>
"""


def _format_cells(*values: str) -> str:
    return "".join(f"<td>{escape(value)}</td>" for value in values)


def timeline(evidence: Evidence) -> str:
    """The picture of all environments, connections and requests; "" if there were none."""
    since = min((one.result.started for one in evidence.cold), default=0.0) - _SECONDS_BEFORE
    until = max((one.result.ended for one in evidence.observed), default=0.0) + _SECONDS_AFTER
    rows = [row for row in clip(evidence.rows, since, until) if row.spans]
    if not rows:
        return ""
    changes = [(one.opened, 1) for one in evidence.sessions]
    changes = sorted(changes + [(one.closed, -1) for one in evidence.sessions])
    open_after = itertools.accumulate(change for _, change in changes)
    connections = [(at, float(n)) for (at, _), n in zip(changes, open_after, strict=True)]
    series = [Series("connections of lambda-migrate", connections)]
    if evidence.rates is not None:
        first, last = (int((at + evidence.clock_offset) * 10) for at in (since, until))
        rates = [
            (tenth / 10 - evidence.clock_offset, 10.0 * sum(evidence.rates.get(tenth, {}).values()))
            for tenth in range(first, last)
        ]
        series.append(Series("DynamoDB requests a second", rates))
    intervals = [one for one in evidence.intervals if since < one.end and one.start < until]
    return render(rows, intervals=intervals, series=series)
