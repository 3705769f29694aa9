"""The report: report.json for pipelines, report.html for people, the decision first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from lambda_migrate.local.demo.results import is_served
from load import charts
from load.html import Html, bar, document, list_of, paragraph, section, table
from load.html import verdicts as verdict_table
from load.staging.dry_run import longest_lock
from load.staging.records import TableRecord
from load.staging.validation import Validation
from load.staging.verdicts import CLIENTS, decide
from load.storm.evidence import Evidence
from load.storm.report import figures as storm_figures
from load.storm.report import machine, timeline

__all__ = ["figures", "write"]


def write(found: Validation, out: Path, *, seconds: float, command: str) -> Path:
    """Write ``report.json`` and ``report.html`` into ``out``; returns the page.

    Args:
        found: What the validation found.
        out: The folder.
        seconds: How long all of it took.
        command: How to repeat it.
    """
    out.mkdir(parents=True, exist_ok=True)
    report = figures(found, seconds=seconds, command=command)
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    path = out / "report.html"
    path.write_text(_page(found, report))
    return path


def figures(found: Validation, *, seconds: float, command: str) -> dict[str, Any]:
    """Everything; seconds unless the key says otherwise.

    ``decision`` is ``go`` or ``no-go``; ``reasons`` has a sentence for each failed verdict.
    """
    decision = decide(found.steps)
    return {
        "decision": decision.word,
        "reasons": list(decision.reasons),
        "not_measured": list(decision.unmeasured),
        "release": found.name,
        "pending": list(found.pending),
        "limits": asdict(found.options.limits),
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
            for step in found.steps
        ],
        "tables": [asdict(size) for size in found.sizes],
        "data": {
            moment: [asdict(record) for record in records.tables]
            for moment, records in found.records.items()
        },
        "checks": {
            moment: {name: str(answer) for name, answer in answers.items()}
            for moment, answers in found.answers.items()
        },
        "storms": {
            step.storm: storm_figures(found.storms[step.storm], step.verdicts)
            for step in found.steps
            if step.storm in found.storms
        },
    }


# -- the page -------------------------------------------------------------------------------------


def _page(found: Validation, report: Mapping[str, Any]) -> str:
    word = report["decision"].upper()
    states = [one.state for step in found.steps for one in step.verdicts]
    summary = (
        f"{states.count('passed')} of {len(states)} verdicts passed, {report['seconds']:.0f} s"
    )
    banner = Html(f'<span class="word">{word}</span> {table((), [[found.name, summary]])}')
    ran = report["machine"]
    return document(
        f"{word}: {found.name}",
        [
            f'<div class="{report["decision"]}">{banner}</div>',
            list_of(report["reasons"]),
            table(("", "found", "limit"), _key_figures(found, report)),
            section("Step by step", *_steps(found)),
            *_migrations(found, report),
            *_tables(found),
            *_checks(found, report),
            *_storms(found),
            section("Not measured", list_of(report["not_measured"])),
            section(
                "How to repeat it",
                f"<p><code>{escape(report['command'])}</code></p>",
                paragraph(
                    f"{ran['cpus']} CPUs, {ran['memory_gigabytes']} GB, Python {ran['python']}, "
                    f"{ran['system']}, shared by everything: times in AWS differ. "
                    "All figures: report.json.",
                    kind="faint",
                ),
            ),
        ],
    )


def _key_figures(found: Validation, report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    limits, storms = found.options.limits, list(found.storms.values())
    observed = [one for storm in storms for one in storm.observed]
    rows = sum(size.rows for size in found.sizes)
    if rows:
        yield "rows in the tables", f"{rows:,}", ""
    times = [one.result.duration_seconds for one in observed if one.kind in CLIENTS]
    if times:
        option = f"{limits.request:g} s (--slowest-request)"
        yield "slowest request of a client", f"{max(times):.2f} s", option
        failed = sum(not one.result.ok for one in observed)
        option = f"{limits.failed} (--failed-requests)"
        yield "failed requests", f"{failed:,} of {len(observed):,}", option
    lock = longest_lock(_dry_run(report) or {"migrations": ()})
    if lock is not None:
        option = f"{limits.lock:g} s (--longest-lock)"
        yield "longest lock that blocks writes", f"{lock.seconds:.2f} s", option
    waits = [check.waited for storm in storms for check in storm.first_checks]
    if waits:
        option = f"{limits.wait:g} s (--longest-wait)"
        yield "longest wait of a cold start", f"{max(waits):.2f} s", option
    for storm in storms:
        if storm.rolled_back is not None:
            yield "rollback", f"{storm.rolled_back:.1f} s", ""


def _dry_run(report: Mapping[str, Any]) -> Any:
    return next((step["dry_run"] for step in report["steps"] if "dry_run" in step), None)


def _steps(found: Validation) -> Iterator[str]:
    longest = max((step.seconds for step in found.steps), default=0.0) or 1.0
    for number, step in enumerate(found.steps, 1):
        share = bar(step.seconds / longest, width=240)
        yield f"<h3>{number}. {step.name} {share} <small>{step.seconds:.1f} s</small></h3>"
        yield verdict_table(step.verdicts)


def _migrations(found: Validation, report: Mapping[str, Any]) -> Iterator[str]:
    dry_run = _dry_run(report)
    if dry_run is None:
        return
    deployed = found.storms.get("deployment")
    live = (
        {interval.label: interval.end - interval.start for interval in deployed.intervals}
        if deployed
        else {}
    )
    head = ("migration", "dry run, s", "deployed, s", "locks that others wait for", "rows, bytes")
    yield section(
        "The migrations",
        table(head, (_migration(one, live.get(one["name"])) for one in dry_run["migrations"])),
        lead="Executed on this data, and rolled back. A lock, also of a row, is held until its "
        "migration is committed. The second time is that of the deployment, under traffic.",
    )


def _migration(one: Mapping[str, Any], live: float | None) -> list[Any]:
    locks = [
        f"{lock['mode']} on {lock['relation']} ({' and '.join(lock['blocks'])} wait)"
        for lock in one["locks"]
        if lock["blocks"]
    ]
    times = ["" if each is None else f"{each:.2f}" for each in (one["seconds"], live)]
    reason = one.get("reason") or "none"
    return [
        one["name"],
        *times,
        "; ".join(locks) or reason,
        "; ".join(filter(None, map(_rows, one["tables"]))),
    ]


def _rows(table: Mapping[str, Any]) -> str:
    counts = [f"{table[how]:,} {how}" for how in ("inserted", "updated", "deleted") if table[how]]
    counts += ["rewritten"] if table["rewritten"] else []
    size = f", {table['bytes_before'] or 0:,} to {table['bytes_after'] or 0:,}"
    return f"{table['table']}: {', '.join(counts)}{size}" if counts else ""


def _tables(found: Validation) -> Iterator[str]:
    before = found.records.get("before")
    if before is None:
        return
    sizes = {size.table: size.size for size in found.sizes}
    moments = [moment for moment in found.records if moment != "before"]
    later = {m: {one.table: one for one in found.records[m].tables} for m in moments}
    rows = (
        [one.table, f"{one.rows:,}", f"{sizes.get(one.table, 0):,}", Html(one.checksum)]
        + [_describe(later[moment][one.table]) for moment in moments]
        for one in before.tables
    )
    yield section(
        "The data",
        table(("table", "rows", "bytes", "checksum before", *moments), rows),
        lead="Every row from before is looked up by its key and compared column by column. Rows "
        "that clients added meanwhile are only counted.",
    )


def _describe(record: TableRecord) -> Html:
    faults = [f"{record.lost:,} lost"] if record.lost else []
    faults += [f"{column} differs in {count:,}" for column, count in record.changed.items()]
    faults += [f"{column} was dropped" for column in record.dropped]
    added = f" <small>+{record.added:,} rows</small>" if record.added else ""
    text = f'<span class="failed">{", ".join(faults)}</span>' if faults else record.checksum
    return Html(text + added)


def _checks(found: Validation, report: Mapping[str, Any]) -> Iterator[str]:
    checks, answers = found.options.checks, report["checks"]
    if checks and answers:
        rows = (
            [check.name, "the same" if check.expect is None else check.expect]
            + [answers[moment].get(check.name, "") for moment in answers]
            for check in checks
        )
        yield section("The team's own checks", table(("check", "expected", *answers), rows))


_TITLES = {"deployment": "Deployment of version 2", "rollback": "Rollback of version 2"}


def _storms(found: Validation) -> Iterator[str]:
    for name, evidence in found.storms.items():
        clients = sum(one.kind in CLIENTS for one in evidence.observed)
        yield section(
            _TITLES.get(name, name),
            _latencies(evidence),
            timeline(evidence),
            f'<p>Locust: <a href="{name}/locust.html">report</a></p>',
            lead=f"{len(evidence.cold)} cold starts at the same instant, and {clients:,} requests "
            "of clients of version 1. Each dot is a request, at its duration; bands are "
            "migrations. Below, each line is an execution environment.",
        )


def _latencies(evidence: Evidence) -> str:
    """How long clients waited while the schema changed: a dot for each request, over time."""
    sent = [one for one in evidence.observed if one.kind in CLIENTS]
    if not sent:
        return ""
    since = min(one.result.started for one in sent)
    until = max(one.result.ended for one in sent)
    with charts.style():
        figure, axes = charts.new_axes(10, 2.6, xlabel="seconds", ylabel="seconds")
        sizes = {"read": 6, "write": 6, "failed": 20}
        for kind, colour in (("read", charts.BLUE), ("write", charts.GREEN), ("failed", "#b3261e")):
            own = [
                one.result
                for one in sent
                if kind == (one.kind if is_served(one.result) else "failed")
            ]
            starts = [result.started - since for result in own]
            durations = [result.duration_seconds for result in own]
            # Pixels: thousands of circles would make a picture of a megabyte.
            axes.scatter(
                starts, durations, sizes[kind], colour, alpha=0.6, lw=0, label=kind, rasterized=True
            )
        shown = [one for one in evidence.intervals if one.end > since and one.start < until]
        for number, interval in enumerate(shown):
            start = interval.start - since
            axes.axvspan(start, interval.end - since, color=charts.ORANGE, alpha=0.15)
            height = 1.02 + 0.08 * (number % 3)
            axes.text(start, height, interval.label, transform=axes.get_xaxis_transform())
        axes.set(yscale="log", xlim=(0, until - since))
        axes.legend(frameon=False, ncols=3, loc="upper right")
        return charts.svg(figure)
