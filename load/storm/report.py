"""A storm's report: all figures as JSON, and a page."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lambda_migrate.local.demo.checks import Distribution
from lambda_migrate.local.demo.timeline import Interval, Series, clip, render
from load import charts
from load.html import Html, document, mark, paragraph, section, table
from load.html import verdicts as verdict_table
from load.storm.evidence import Evidence
from load.storm.host import failure_of
from load.storm.verdicts import Verdict, peak_of

__all__ = ["figures", "machine", "timeline", "write", "write_index"]

_SECONDS_BEFORE, _SECONDS_AFTER = 3.0, 2.0
_KINDS = ("cold", "warm", "write", "read")


def write(evidence: Evidence, found: Sequence[Verdict], out: Path) -> None:
    """Write ``report.json`` and ``report.html`` into ``out``, beside Locust's own."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures(evidence, found), indent=2, ensure_ascii=False)
    (out / "report.json").write_text(text + "\n")
    (out / "report.html").write_text(_page(evidence, found))


# -- figures --------------------------------------------------------------------------------------


def figures(evidence: Evidence, found: Sequence[Verdict]) -> dict[str, Any]:
    """Everything; seconds unless the key says otherwise."""
    return {
        "passed": all(one.state != "failed" for one in found),
        "verdicts": [asdict(one) for one in found],
        "scenario": asdict(evidence.scenario),
        "machine": machine(),
        "seconds": round(evidence.seconds, 1),
        "invocations": {kind: _invocations(evidence, kind) for kind in _KINDS},
        "init": _spread([one.result.init_seconds for one in evidence.cold]),
        "outcomes": dict(Counter(check.outcome for check in evidence.first_checks)),
        "migrated_by": [asdict(check) for check in evidence.migrators],
        "effects": dict(evidence.effects),
        "attempts": evidence.attempts,
        "waiters": len(evidence.waiters),
        "waited": _spread([check.waited for check in evidence.waiters]),
        "commit_to_answer": _spread(evidence.delays),
        "commit_to_handler": _spread(evidence.check_delays),
        "dynamodb_calls_of_each_waiter": _spread([c.lease_calls for c in evidence.waiters]),
        "dynamodb_requests": dict(evidence.requests),
        "dynamodb_busiest_second": None
        if evidence.rates is None
        else dict(zip(("reads", "writes"), peak_of(evidence.rates), strict=True)),
        "connections": {
            "at_most_by_the_server_s_log": evidence.sessions_at_most,
            "in_all": len(evidence.sessions),
            "connection_seconds": round(sum(o.closed - o.opened for o in evidence.sessions), 3),
            "at_most_in_samples": evidence.sampled_at_most,
            "samples_apart": _rounded(evidence.sample_gaps),
        },
        "memory_megabytes": _memory(evidence),
        "rolled_back": evidence.rolled_back,
        "locust": {name: list(counts) for name, counts in evidence.locust.items()},
        **_to_simulate(evidence),
    }


def _to_simulate(evidence: Evidence) -> dict[str, Any]:
    """What ``python -m load.simulate --against`` reads; empty unless there was one wave."""
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
    """The machine that it ran on."""
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
    took = _spread([result.duration_seconds for result in results])
    return {"count": len(results), "served": served, "failures": failures, "took": took}


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    return _rounded(Distribution.of(values))


def _rounded(spread: Distribution | None) -> dict[str, float] | None:
    if spread is None:
        return None
    return {name: round(value, 4) for name, value in asdict(spread).items()}


def _memory(evidence: Evidence) -> dict[str, Any] | None:
    memory = evidence.memory
    if memory is None:
        return None
    return {
        "environments": memory.environments,
        "pss_in_all": round(sum(memory.pss), 1),
        "pss_of_each": _spread(memory.pss),
        "uss_of_each": _spread(memory.uss),
        "pss_of_the_parent": round(memory.shared_parent, 1),
    }


# -- the page -------------------------------------------------------------------------------------


def _page(evidence: Evidence, found: Sequence[Verdict]) -> str:
    scenario, ran = evidence.scenario, machine()
    kind = {"separate": "an interpreter each", "forked": "forked from one warm interpreter"}
    return document(
        scenario.name,
        [
            '<p><a href="../index.html">all storms</a></p>',
            f"<h1>{scenario.name}</h1>",
            paragraph(
                f"{scenario.environments} cold starts ({kind[scenario.processes]}) against "
                f"{scenario.engine}; {len(evidence.waiters)} waited. {evidence.seconds:.0f} s on "
                f"{ran['cpus']} CPUs, {ran['memory_gigabytes']} GB, Python {ran['python']}."
            ),
            verdict_table(found),
            section("All environments", timeline(evidence)),
            section(
                "Figures",
                f'<div class="grid">{"".join(_charts(evidence))}</div>',
                table(("", "median", "99 in 100", "worst"), _rows(evidence)),
            ),
            '<p>Locust: <a href="locust.html">report</a>, <a href="locust_stats.csv">csv</a>. '
            'Everything: <a href="report.json">report.json</a>.</p>',
        ],
    )


def timeline(evidence: Evidence) -> str:
    """The picture of all environments, connections and requests; "" if there were none."""
    since, until = _window(evidence)
    rows = [row for row in clip(evidence.rows, since, until) if row.spans]
    if not rows:
        return ""
    points = [(s.at, s) for s in evidence.samples if since <= s.at <= until]
    series = [
        Series(
            "connections of lambda-migrate",
            [(at, float(s.library_connections)) for at, s in points],
        )
    ]
    if evidence.scenario.kind == "orders":  # the other handler opens none
        own = [(at, float(sample.application_connections)) for at, sample in points]
        series.append(Series("connections of the application", own))
    if evidence.rates is not None:
        series.append(Series("DynamoDB requests in a second", _per_second(evidence, since, until)))
    intervals = [
        interval
        for interval in evidence.intervals
        if since < interval.end and interval.start < until
    ]
    return render(rows, intervals=_until_commit(intervals, evidence), series=series)


def _per_second(evidence: Evidence, since: float, until: float) -> list[tuple[float, float]]:
    """At each tenth of a second, the requests of the second that ends there."""
    totals = {tenth: sum(counted.values()) for tenth, counted in (evidence.rates or {}).items()}
    first, last = (int((moment + evidence.clock_offset) * 10) for moment in (since, until))
    return [
        (
            tenth / 10 - evidence.clock_offset,
            float(sum(totals.get(tenth - n, 0) for n in range(1, 11))),
        )
        for tenth in range(first + 1, last)
    ]


def _until_commit(intervals: Sequence[Interval], evidence: Evidence) -> list[Interval]:
    """The history has the time of a migration's last statement; its commit comes after."""
    ups = [interval for interval in intervals if not interval.label.endswith(" down")]
    last = max(ups, key=lambda interval: interval.end, default=None)
    if last is None or evidence.committed is None:
        return list(intervals)
    longer = Interval(last.label, last.start, max(last.end, evidence.committed))
    return [longer if interval is last else interval for interval in intervals]


def _window(evidence: Evidence) -> tuple[float, float]:
    """From shortly before the first check until shortly after the last answer."""
    asked = [check.ended - check.waited for check in evidence.first_checks]
    ended = [one.result.ended for one in evidence.observed]
    began = [one.result.started for one in evidence.cold]
    since = min(asked + began, default=0.0) - _SECONDS_BEFORE
    return since, max(ended, default=since) + _SECONDS_AFTER


def _charts(evidence: Evidence) -> Iterator[Html]:
    delays = Distribution.of(evidence.delays)
    if delays is not None:
        marks = {"median": delays.median, "99 in 100": delays.p99, "worst": delays.worst}
        title = "From the last commit until the waiting had answered"
        yield charts.cumulative(evidence.delays, marks, title=title, unit="seconds")
    waits = [check.waited for check in evidence.waiters]
    if waits:
        yield charts.histogram(waits, title="How long each waited", unit="seconds")
    calls = [check.lease_calls for check in evidence.first_checks]
    if calls:
        yield charts.counts(calls, title="DynamoDB calls of each cold start", unit="calls")
    if evidence.memory is not None:
        title = "Memory of each environment (PSS)"
        yield charts.histogram(evidence.memory.pss, title=title, unit="megabytes")


def _rows(evidence: Evidence) -> Iterator[tuple[str, str, str, str]]:
    measured: dict[str, Sequence[float]] = {
        f"{kind} invocations, s": [
            one.result.duration_seconds for one in evidence.observed if one.kind == kind
        ]
        for kind in _KINDS
    }
    measured["loading the handler, s"] = [one.result.init_seconds for one in evidence.cold]
    measured["waited, s"] = [check.waited for check in evidence.waiters]
    measured["from commit to handler, s"] = evidence.check_delays
    measured["from commit to answer, s"] = evidence.delays
    measured["DynamoDB calls of a waiter"] = [check.lease_calls for check in evidence.waiters]
    measured["rollback, s"] = [] if evidence.rolled_back is None else [evidence.rolled_back]
    if evidence.memory is not None:
        measured["memory of an environment (PSS), MB"] = list(evidence.memory.pss)
    for what, values in measured.items():
        spread = Distribution.of(values)
        if spread is not None:
            yield what, f"{spread.median:.3f}", f"{spread.p99:.3f}", f"{spread.worst:.3f}"


def write_index(out: Path) -> Path:
    """``index.html``: a line for each storm whose report is there, also of earlier runs."""
    reports = sorted(out.glob("*/report.json"), key=lambda path: path.stat().st_mtime)
    head = ["", "storm", "engine", "served", "migrations once", "connections"]
    head += ["commit to answer: median, 99 in 100", "calls, median", "memory, MB"]
    rows = [_index_row(json.loads(path.read_text())) for path in reports]
    path = out / "index.html"
    path.write_text(document("Storms", ["<h1>Cold-start storms</h1>", table(head, rows)]))
    return path


def _index_row(report: Mapping[str, Any]) -> list[Any]:
    name = report["scenario"]["name"]
    kinds = report["invocations"].values()
    served, count = (sum(kind[which] for kind in kinds) for which in ("served", "count"))
    once = sum(times == 1 for times in report["effects"].values())
    delays, calls = report["commit_to_answer"], report["dynamodb_calls_of_each_waiter"]
    memory = report["memory_megabytes"]
    return [
        mark("passed" if report["passed"] else "failed"),
        Html(f'<a href="{name}/report.html">{name}</a>'),
        report["scenario"]["engine"],
        f"{served:,} of {count:,}",
        f"{once} of {len(report['effects'])}",
        report["connections"]["at_most_by_the_server_s_log"],
        f"{delays['median']:.2f}, {delays['p99']:.2f} s" if delays else "",
        f"{calls['median']:g}" if calls else "",
        f"{memory['pss_in_all'] + memory['pss_of_the_parent']:,.0f}" if memory else "",
    ]
