"""A storm's report: all figures as JSON, and a page for people."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from lambda_migrate.local.demo.evidence import Spread
from lambda_migrate.local.demo.timeline import Band, Series, clip, render
from load.storm.charts import bars, cumulative, histogram
from load.storm.evidence import Evidence
from load.storm.host import failure_of
from load.storm.verdicts import Verdict, peak_of

__all__ = ["figures", "page", "write", "write_index"]

_PRELUDE_SECONDS = 3.0
_AFTERMATH_SECONDS = 2.0
_KINDS = ("cold", "warm", "write", "read")


def write(evidence: Evidence, found: Sequence[Verdict], out: Path) -> None:
    """Write ``report.json`` and ``report.html`` into ``out``, which holds Locust's own already."""
    out.mkdir(parents=True, exist_ok=True)
    said = json.dumps(figures(evidence, found), indent=2, ensure_ascii=False)
    (out / "report.json").write_text(said + "\n")
    (out / "report.html").write_text(page(evidence, found))


# -- for programs ---------------------------------------------------------------------------------


def figures(evidence: Evidence, found: Sequence[Verdict]) -> dict[str, Any]:
    """Everything; seconds unless the key says otherwise."""
    scenario = evidence.scenario
    return {
        "passed": all(one.state != "failed" for one in found),
        "verdicts": [asdict(one) for one in found],
        "scenario": asdict(scenario),
        "machine": machine(),
        "seconds": round(evidence.seconds, 1),
        "invocations": {kind: _invocations(evidence, kind) for kind in _KINDS},
        "init": _spread(Spread.of([one.result.init_seconds for one in evidence.cold])),
        "outcomes": dict(Counter(check.outcome for check in evidence.first_checks)),
        "migrated_by": [asdict(check) for check in evidence.migrators],
        "effects": dict(evidence.effects),
        "attempts": evidence.attempts,
        "waiters": len(evidence.waiters),
        "waited": _spread(Spread.of([check.waited for check in evidence.waiters])),
        "commit_to_answer": _spread(Spread.of(evidence.delays)),
        "commit_to_handler": _spread(Spread.of(evidence.check_delays)),
        "dynamodb_calls_of_each_waiter": _spread(evidence.calls),
        "dynamodb_requests": dict(evidence.requests),
        "dynamodb_busiest_second": _peak(evidence),
        "connections": {
            "at_most_by_the_server_s_log": evidence.sessions_at_most,
            "in_all": len(evidence.sessions),
            "connection_seconds": round(sum(o.closed - o.opened for o in evidence.sessions), 3),
            "at_most_in_samples": evidence.sampled_at_most,
            "samples_apart": _spread(evidence.sample_gaps),
        },
        "memory_megabytes": _memory(evidence),
        "rolled_back": evidence.rolled_back,
        "locust": {name: list(counts) for name, counts in evidence.locust.items()},
        **_to_simulate(evidence),
    }


def _to_simulate(evidence: Evidence) -> dict[str, Any]:
    """What ``python -m load.simulate --against`` reads; nothing where there was no one wave."""
    committed, checks = evidence.committed, evidence.first_checks
    if committed is None or evidence.scenario.shape not in ("together", "ramp"):
        return {}
    began = {check.environment: check.ended - check.seconds for check in checks}
    first, holders = min(began.values()), [c for c in checks if c.applied]
    waited = [check for check in evidence.waiters if check.ended > committed]
    if not (holders and waited):
        return {}
    return {
        "n": len(checks),
        "migration_seconds": round(committed - began[holders[-1].environment], 4),
        "arrivals_seconds": sorted(round(at - first, 4) for at in began.values()),
        "waits": {
            "delay_after_commit_seconds": [round(c.ended - committed, 4) for c in waited],
            "lease_calls": [check.lease_calls for check in waited],
        },
    }


def machine() -> dict[str, Any]:
    """What it ran on."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpus": os.cpu_count(),
        "memory_gigabytes": round(pages / 1024**3, 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _invocations(evidence: Evidence, kind: str) -> dict[str, Any]:
    results = [one.result for one in evidence.observed if one.kind == kind]
    failures = Counter(failure_of(result) for result in results)
    served = failures.pop("", 0)
    times = Spread.of([result.duration_seconds for result in results])
    return {"count": len(results), "served": served, "failures": failures, "took": _spread(times)}


def _spread(spread: Spread | None) -> dict[str, float] | None:
    if spread is None:
        return None
    return {name: round(value, 4) for name, value in asdict(spread).items()}


def _peak(evidence: Evidence) -> dict[str, int] | None:
    return None if evidence.rates is None else asdict(peak_of(evidence.rates))


def _memory(evidence: Evidence) -> dict[str, Any] | None:
    memory = evidence.memory
    if memory is None:
        return None
    return {
        "environments": memory.environments,
        "pss_in_all": round(sum(memory.pss), 1),
        "pss_of_each": _spread(Spread.of(memory.pss)),
        "uss_of_each": _spread(Spread.of(memory.uss)),
        "pss_of_the_parent": round(memory.shared_parent, 1),
    }


# -- for people -----------------------------------------------------------------------------------

_STYLE = """
body { font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; color: #23282f;
       max-width: 980px; margin: 32px auto; padding: 0 16px; background: #fff; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 16px; margin: 28px 0 8px; }
p.lead, .faint { color: #6b7480; } table { border-collapse: collapse; }
td, th { padding: 4px 14px 4px 0; text-align: left; vertical-align: top; }
th { font-weight: 500; color: #6b7480; }
tr + tr td { border-top: 1px solid #e8eaed; } td.number { text-align: right; white-space: nowrap; }
.passed { color: #2b8a6e; } .failed { color: #fff; background: #b3261e; padding: 0 6px; }
.unmeasured { color: #6b7480; } .charts { display: flex; flex-wrap: wrap; gap: 12px; }
svg { max-width: 100%; height: auto; } a { color: #2f5f9e; }
"""
_CLASSES = {"passed": "passed", "failed": "failed", "not measured": "unmeasured"}


def page(evidence: Evidence, found: Sequence[Verdict]) -> str:
    """``report.html``: verdicts, timeline, charts, figures."""
    scenario = evidence.scenario
    body = [
        '<p><a href="../index.html">all storms</a></p>',
        f"<h1>{escape(scenario.name)}</h1>",
        f'<p class="lead">{escape(lead(evidence))}</p>',
        _verdict_table(found),
        "<h2>All environments</h2>",
        timeline(evidence),
        '<h2>In figures</h2><div class="charts">',
        *_charts(evidence),
        "</div>",
        _figure_table(evidence),
        '<p>Locust: <a href="locust.html">report</a>, <a href="locust_stats.csv">csv</a>. '
        'Everything: <a href="report.json">report.json</a>.</p>',
    ]
    return _document(scenario.name, body)


def lead(evidence: Evidence) -> str:
    """The storm in a sentence or two."""
    scenario = evidence.scenario
    kind = {"separate": "an interpreter each", "forked": "forked from one warm interpreter"}
    said = (
        f"{scenario.environments} cold starts ({kind[scenario.processes]}) "
        f"against {scenario.engine}; {len(evidence.waiters)} waited. {evidence.seconds:.0f} s."
    )
    delays = Spread.of(evidence.delays)
    if delays is not None:
        said += (
            f" From the last migration's commit until those that waited had answered: "
            f"{delays.median:.2f} s in the median, {delays.p99:.2f} s for 99 in 100."
        )
    return said


def _verdict_table(found: Sequence[Verdict]) -> str:
    rows = "".join(
        f'<tr><td><span class="{_CLASSES[one.state]}">{one.state}</span></td>'
        f"<td>{escape(one.what)}</td><td>{escape(one.found)}</td></tr>"
        for one in found
    )
    return f"<table>{rows}</table>"


def timeline(evidence: Evidence) -> str:
    """The picture of all environments, connections and requests; "" if nobody came."""
    since, until = _window(evidence)
    rows = [row for row in clip(evidence.rows, since, until) if row.spans]
    if not rows:
        return ""
    points = [(s.at, s) for s in evidence.samples if since <= s.at <= until]
    series = [
        Series("connections of lambda-migrate", [(at, float(s.ours)) for at, s in points]),
        Series("connections of the application", [(at, float(s.application)) for at, s in points]),
    ]
    if evidence.scenario.kind != "orders":
        series.pop()  # its handler opens none
    if evidence.rates is not None:
        series.append(Series("DynamoDB requests in a second", _per_second(evidence, since, until)))
    bands = [band for band in evidence.bands if since < band.end and band.start < until]
    return render(rows, bands=_committed(bands, evidence), series=series)


def _per_second(evidence: Evidence, since: float, until: float) -> list[tuple[float, float]]:
    """At each tenth of a second, the requests of the second that ends there."""
    totals = {tenth: sum(counted.values()) for tenth, counted in (evidence.rates or {}).items()}
    first, last = (int((moment + evidence.epoch) * 10) for moment in (since, until))
    return [
        (tenth / 10 - evidence.epoch, float(sum(totals.get(tenth - n, 0) for n in range(1, 11))))
        for tenth in range(first + 1, last)
    ]


def _committed(bands: Sequence[Band], evidence: Evidence) -> list[Band]:
    """The history notes when a migration's transaction wrote its row; it ends with the commit."""
    if not bands or evidence.committed is None:
        return list(bands)
    ups = [band for band in bands if not band.label.endswith(" down")]
    last = max(ups, key=lambda band: band.end, default=None)
    return [
        Band(band.label, band.start, max(band.end, evidence.committed)) if band is last else band
        for band in bands
    ]


def _window(evidence: Evidence) -> tuple[float, float]:
    """From shortly before the first question until shortly after the last answer."""
    asked = [check.ended - check.waited for check in evidence.first_checks]
    ended = [one.result.ended for one in evidence.observed]
    began = [one.result.started for one in evidence.cold]
    since = min(asked + began, default=0.0) - _PRELUDE_SECONDS
    return since, max(ended, default=since) + _AFTERMATH_SECONDS


def _charts(evidence: Evidence) -> Iterator[str]:
    delays = Spread.of(evidence.delays)
    if delays is not None:
        marks = [("median", delays.median), ("99 in 100", delays.p99), ("worst", delays.worst)]
        title = "From the last commit until those that waited had answered"
        yield cumulative(evidence.delays, marks, title=title, unit="seconds (% of those)")
    waits = [check.waited for check in evidence.waiters]
    if waits:
        yield histogram(waits, title="How long each waited", unit="seconds")
    calls = [check.lease_calls for check in evidence.first_checks]
    if calls:
        yield bars(calls, title="DynamoDB calls of each cold start", unit="calls")
    if evidence.memory is not None:
        title = "Memory of each environment (PSS)"
        yield histogram(evidence.memory.pss, title=title, unit="megabytes")


def _figure_table(evidence: Evidence) -> str:
    rows = "".join(
        f'<tr><td>{escape(label)}</td><td class="number">{escape(value)}</td></tr>'
        for label, value in _told(evidence)
    )
    return f"<table>{rows}</table>"


def _told(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for kind in _KINDS:
        results = [one.result for one in evidence.observed if one.kind == kind]
        yield from _three(
            f"{kind} invocations, {len(results)}", [r.duration_seconds for r in results]
        )
    yield from _three("loading the handler", [one.result.init_seconds for one in evidence.cold])
    yield from _three("waited", [check.waited for check in evidence.waiters])
    yield from _three("from commit to handler", evidence.check_delays)
    yield from _three("from commit to answer", evidence.delays)
    if evidence.calls is not None:
        calls = evidence.calls
        yield (
            "DynamoDB calls of each that waited: median, worst",
            f"{calls.median:g}, {calls.worst:g}",
        )
    if evidence.rolled_back is not None:
        yield "the rollback took", f"{evidence.rolled_back:.2f} s"
    if evidence.memory is not None:
        memory = evidence.memory
        each = Spread.of(memory.pss)
        yield (
            f"memory of {memory.environments} environments (PSS)",
            f"{sum(memory.pss) + memory.shared_parent:,.0f} MB"
            + (f", each {each.median:.1f} MB in the median" if each else ""),
        )
    ran = machine()
    yield (
        "machine",
        f"{ran['cpus']} CPUs, {ran['memory_gigabytes']} GB, Python {ran['python']}",
    )


def _three(what: str, values: Sequence[float]) -> Iterator[tuple[str, str]]:
    spread = Spread.of(values)
    if spread is not None:
        told = f"{spread.median:.3f}, {spread.p99:.3f}, {spread.worst:.3f} s"
        yield f"{what}: median, 99 in 100, worst", told


def write_index(out: Path) -> Path:
    """``index.html``: a line for each storm whose report is there, also of earlier runs."""
    head = (
        "<tr><th></th><th>storm</th><th>served</th><th>migrations once</th><th>connections</th>"
        "<th>commit to answer<br>median, 99 in 100</th><th>calls<br>median</th><th>memory</th></tr>"
    )
    reports = sorted(out.glob("*/report.json"), key=lambda path: path.stat().st_mtime)
    rows = "".join(_index_row(json.loads(path.read_text())) for path in reports)
    body = [
        "<h1>Cold-start storms</h1>",
        '<p class="lead">Real Lambda runtimes, a real PostgreSQL, Locust as the crowd.</p>',
        f"<table>{head}{rows}</table>",
    ]
    path = out / "index.html"
    path.write_text(_document("Cold-start storms", body))
    return path


def _index_row(said: Mapping[str, Any]) -> str:
    name, state = said["scenario"]["name"], "passed" if said["passed"] else "failed"
    kinds = said["invocations"].values()
    served, count = (sum(kind[which] for kind in kinds) for which in ("served", "count"))
    once = sum(times == 1 for times in said["effects"].values())
    delays, calls = said["commit_to_answer"], said["dynamodb_calls_of_each_waiter"]
    memory = said["memory_megabytes"]
    cells = [
        f"{served:,} of {count:,}",
        f"{once} of {len(said['effects'])}",
        f"{said['connections']['at_most_by_the_server_s_log']}",
        f"{delays['median']:.2f}, {delays['p99']:.2f} s" if delays else "",
        f"{calls['median']:g}" if calls else "",
        f"{memory['pss_in_all'] + memory['pss_of_the_parent']:,.0f} MB" if memory else "",
    ]
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return (
        f'<tr><td><span class="{state}">{state}</span></td>'
        f'<td><a href="{escape(name)}/report.html">{escape(name)}</a><br>'
        f'<span class="faint">{escape(said["scenario"]["engine"])}</span></td>{numbers}</tr>'
    )


def _document(title: str, body: Sequence[str]) -> str:
    joined = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{joined}\n"
        "</body></html>\n"
    )
