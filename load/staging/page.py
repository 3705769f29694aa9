"""The report for people: the decision first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from load.staging.rehearsal import Rehearsal
from load.staging.traffic import latencies
from load.staging.verdicts import CLIENTS, Step
from load.storm.evidence import Evidence
from load.storm.report import timeline

__all__ = ["page"]

_STYLE = """
:root { --ink: #23282f; --faint: #6b7480; --line: #e3e6ea; --go: #1f7a5c; --no: #b3261e; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; color: var(--ink);
       max-width: 1040px; margin: 0 auto; padding: 24px 16px 64px; background: #fff; }
h2 { font-size: 18px; margin: 40px 0 4px; } h3 { font-size: 15px; margin: 24px 0 4px; }
p.lead, .faint { color: var(--faint); } p.lead { margin: 0 0 12px; }
.banner { display: flex; gap: 28px; align-items: center; border-radius: 10px; padding: 22px 28px;
          color: #fff; }
.banner.go { background: var(--go); } .banner.no-go { background: var(--no); }
.banner .word { font-size: 46px; font-weight: 700; letter-spacing: .02em; white-space: nowrap; }
.banner .what { font-size: 18px; }
.banner .what small { display: block; opacity: .85; font-size: 14px; }
.reasons { border: 1px solid var(--no); border-top: 0; border-radius: 0 0 10px 10px;
           margin: -8px 0 0; padding: 18px 28px 12px 44px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
         margin: 20px 0 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 24px; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { color: var(--faint); font-size: 13px; }
.tile.bad { border-color: var(--no); } .tile.bad b { color: var(--no); }
.scroll { overflow-x: auto; }
.verdicts td:first-child { width: 116px; } .verdicts td:nth-child(2) { width: 330px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: 5px 14px 5px 0; text-align: left; vertical-align: top; }
th { font-weight: 500; color: var(--faint); font-size: 13px; }
tr + tr td { border-top: 1px solid var(--line); }
.number { text-align: right; white-space: nowrap; }
code { font-size: 13px; background: #f3f4f6; border-radius: 4px; padding: 1px 5px; }
.mark { white-space: nowrap; font-size: 13px; }
.passed { color: var(--go); } .failed { color: #fff; background: var(--no); border-radius: 4px;
          padding: 1px 6px; } .unmeasured { color: var(--faint); }
.bar { display: inline-block; height: 10px; border-radius: 3px; background: #a9b8cc;
       min-width: 2px; }
.bar.bad { background: var(--no); }
details { margin: 6px 0; } summary { cursor: pointer; color: var(--faint); }
svg { max-width: 100%; height: auto; } a { color: #2f5f9e; }
@media (max-width: 600px) { .banner { display: block; padding: 16px 20px; } }
"""
_CLASSES = {"passed": "passed", "failed": "failed", "not measured": "unmeasured"}
_MARKS = {"passed": "✓ passed", "failed": "failed", "not measured": "? not measured"}


def page(rehearsal: Rehearsal, said: Mapping[str, Any]) -> str:
    """``report.html``.

    Args:
        rehearsal: What was seen.
        said: The same as figures; see `report.figures`.
    """
    body = [
        *_banner(said),
        *_tiles(rehearsal, said),
        *_steps(rehearsal.steps),
        *_migrations(rehearsal, said),
        *_tables(rehearsal),
        *_checks(rehearsal, said),
        *_storms(rehearsal),
        *_unmeasured(said),
        *_again(said),
    ]
    joined = "\n".join(body)
    title = f"{said['decision'].upper()}: {said['release']}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{joined}\n"
        "</body></html>\n"
    )


def _banner(said: Mapping[str, Any]) -> Iterator[str]:
    count = sum(len(step["verdicts"]) for step in said["steps"])
    passed = sum(v["state"] == "passed" for step in said["steps"] for v in step["verdicts"])
    yield (
        f'<div class="banner {said["decision"]}"><div class="word">{said["decision"].upper()}</div>'
        f'<div class="what">{escape(said["release"])}<small>{passed} of {count} verdicts passed, '
        f"in {said['seconds']:.0f} s</small></div></div>"
    )
    if said["reasons"]:
        reasons = "".join(f"<li>{escape(reason)}</li>" for reason in said["reasons"])
        yield f'<ul class="reasons">{reasons}</ul>'


# -- the figures that decide ----------------------------------------------------------------------


def _tiles(rehearsal: Rehearsal, said: Mapping[str, Any]) -> Iterator[str]:
    limits = rehearsal.wanted.limits
    phases = list(rehearsal.phases.values())
    rows = sum(size.rows for size in rehearsal.sizes)
    tiles = [_tile(f"{rows:,}", "rows in the tables")] if rows else []
    requests = [o for phase in phases for o in phase.observed if o.kind in CLIENTS]
    if requests:
        slowest = max(one.result.duration_seconds for one in requests)
        tiles.append(_limited(slowest, limits.request, "slowest request of a client"))
        failed = sum(not one.result.ok for phase in phases for one in phase.observed)
        every = sum(len(phase.observed) for phase in phases)
        tiles.append(
            _tile(f"{failed:,}", f"of {every:,} requests failed", bad=failed > limits.failed)
        )
    blocked = longest_blocking(said)
    if blocked is not None:
        tiles.append(_limited(blocked, limits.lock, "longest lock that keeps others from writing"))
    waits = [check.waited for phase in phases for check in phase.first_checks]
    if waits:
        tiles.append(_limited(max(waits), limits.wait, "longest wait of a cold start"))
    tiles += [
        _tile(f"{phase.rolled_back:.1f} s", "the way back")
        for phase in phases
        if phase.rolled_back is not None
    ]
    yield f'<div class="tiles">{"".join(tiles)}</div>'


def longest_blocking(said: Mapping[str, Any]) -> float | None:
    """Seconds of the longest migration that takes a lock which others wait for; None without."""
    return max(
        (
            one["seconds"] or 0.0
            for step in said["steps"]
            for one in step.get("dry_run", {}).get("migrations", ())
            if any(lock["blocks"] for lock in one["locks"])
        ),
        default=None,
    )


def _limited(value: float, limit: float, what: str) -> str:
    return _tile(f"{value:.2f} s", f"{what} (limit {limit:g} s)", bad=value > limit)


def _tile(value: str, what: str, *, bad: bool = False) -> str:
    mark = " bad" if bad else ""
    return f'<div class="tile{mark}"><b>{escape(value)}</b><span>{escape(what)}</span></div>'


# -- steps ----------------------------------------------------------------------------------------


def _steps(steps: Sequence[Step]) -> Iterator[str]:
    yield "<h2>Step by step</h2>"
    longest = max((step.seconds for step in steps), default=0.0) or 1.0
    for number, step in enumerate(steps, 1):
        width = 240 * step.seconds / longest
        bad = any(one.state == "failed" for one in step.verdicts)
        yield (
            f"<h3>{number}. {escape(step.name)} "
            f'<span class="bar{" bad" if bad else ""}" style="width:{width:.0f}px"></span> '
            f'<span class="faint">{step.seconds:.1f} s</span></h3>'
        )
        rows = "".join(map(_verdict, step.verdicts))
        yield f'<div class="scroll"><table class="verdicts">{rows}</table></div>'


def _verdict(one: Any) -> str:
    return (
        f'<tr><td class="mark"><span class="{_CLASSES[one.state]}">{_MARKS[one.state]}</span></td>'
        f"<td>{escape(one.what)}</td><td>{escape(one.found)}</td></tr>"
    )


# -- the dry run ----------------------------------------------------------------------------------


def _migrations(rehearsal: Rehearsal, said: Mapping[str, Any]) -> Iterator[str]:
    found = next((step["dry_run"] for step in said["steps"] if "dry_run" in step), None)
    if found is None:
        return
    yield "<h2>The migrations</h2>"
    yield (
        '<p class="lead">Executed on this data, and taken back. A lock is held until its migration '
        "is committed, so for its time at most; rows that it changes are locked as long. The "
        "second time is that of the deployment, under traffic.</p>"
    )
    yield (
        '<div class="scroll"><table><tr><th>migration</th><th class="number">dry run</th><th></th>'
        '<th class="number">deployed</th>'
        "<th>locks that others wait for</th><th>rows, and size</th></tr>"
    )
    longest = max((one["seconds"] or 0.0 for one in found["migrations"]), default=0.0) or 1.0
    deployed = rehearsal.phases.get("deployment")
    live = {band.label: band.end - band.start for band in deployed.bands} if deployed else {}
    for one in found["migrations"]:
        yield _migration(one, longest, said["limits"]["lock"], live.get(one["name"]))
    yield "</table></div>"


def _migration(one: Mapping[str, Any], longest: float, limit: float, live: float | None) -> str:
    seconds = one["seconds"]
    blocking = [lock for lock in one["locks"] if lock["blocks"]]
    bad = bool(blocking) and (seconds or 0.0) > limit
    width = 120 * (seconds or 0.0) / longest
    locks = "<br>".join(
        f"{escape(lock['mode'])} on {escape(lock['relation'])} "
        f'<span class="faint">({" and ".join(lock["blocks"])} wait)</span>'
        for lock in blocking
    )
    tables = "<br>".join(filter(None, map(_touched, one["tables"])))
    told = locks or "none" if one["outcome"] == "ran" else escape(one["reason"])
    times = ["-" if each is None else f"{each:.2f} s" for each in (seconds, live)]
    return (
        f"<tr><td>{escape(one['name'])}</td><td class=number>{times[0]}</td>"
        f'<td><span class="bar{" bad" if bad else ""}" style="width:{width:.0f}px"></span></td>'
        f"<td class=number>{times[1]}</td><td>{told}</td><td>{tables}</td></tr>"
    )


def _touched(table: Mapping[str, Any]) -> str:
    counts = [
        f"{table[what]:,} {what}" for what in ("inserted", "updated", "deleted") if table[what]
    ]
    if table["rewritten"]:
        counts.append("rewritten")
    before, after = table["bytes_before"], table["bytes_after"]
    if not counts:
        return ""
    size = f", {_bytes(before)} to {_bytes(after)}" if before and after else ""
    return f"{escape(table['table'])}: {', '.join(counts)}{size}"


# -- data -----------------------------------------------------------------------------------------


def _tables(rehearsal: Rehearsal) -> Iterator[str]:
    before = rehearsal.records.get("before")
    if before is None:
        return
    yield "<h2>The data</h2>"
    yield (
        '<p class="lead">Every row that was there before, looked for by its key and compared '
        "column by column. Rows that clients added meanwhile are counted, and left alone.</p>"
    )
    sizes = {size.table: size.size for size in rehearsal.sizes}
    moments = [moment for moment in ("after", "rolled-back") if moment in rehearsal.records]
    head = "".join(f"<th>{escape(moment)}</th>" for moment in moments)
    yield (
        '<div class="scroll"><table><tr><th>table</th><th class="number">rows</th>'
        f'<th class="number">size</th><th>checksum before</th>{head}</tr>'
    )
    for table in before.tables:
        cells = [
            _became(next(one for one in rehearsal.records[m].tables if one.table == table.table))
            for m in moments
        ]
        yield (
            f"<tr><td>{escape(table.table)}</td><td class=number>{table.rows:,}</td>"
            f"<td class=number>{_bytes(sizes.get(table.table, 0))}</td>"
            f"<td><code>{table.checksum}</code></td>{''.join(cells)}</tr>"
        )
    yield "</table></div>"


def _checks(rehearsal: Rehearsal, said: Mapping[str, Any]) -> Iterator[str]:
    checks, answers = rehearsal.wanted.checks, said["checks"]
    if not (checks and answers):
        return
    moments = list(answers)
    yield "<h2>The team's own checks</h2>"
    head = "".join(f"<th>{escape(moment)}</th>" for moment in moments)
    yield f'<div class="scroll"><table><tr><th>what must be</th><th>expected</th>{head}</tr>'
    for check in checks:
        cells = "".join(f"<td>{escape(answers[m].get(check.name, ''))}</td>" for m in moments)
        expected = "the same" if check.expect is None else check.expect
        yield f"<tr><td>{escape(check.name)}</td><td>{escape(expected)}</td>{cells}</tr>"
    yield "</table></div>"


def _became(table: Any) -> str:
    faults = [f"{table.lost:,} lost"] if table.lost else []
    faults += [f"{column} differs in {count:,}" for column, count in table.changed.items()]
    faults += [f"{column} is gone" for column in table.gone]
    came = f' <span class="faint">+{table.came:,} rows</span>' if table.came else ""
    if faults:
        return f'<td><span class="failed">{escape(", ".join(faults))}</span>{came}</td>'
    return f"<td><code>{table.checksum}</code>{came}</td>"


def _bytes(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size //= 1024
    return f"{size:,} GB"


# -- storms ---------------------------------------------------------------------------------------

_TITLES = {"deployment": "While version 2 came", "rollback": "While version 2 was taken back"}


def _storms(rehearsal: Rehearsal) -> Iterator[str]:
    for name, evidence in rehearsal.phases.items():
        yield f"<h2>{escape(_TITLES.get(name, name))}</h2>"
        yield f'<p class="lead">{escape(_lead(evidence))}</p>'
        yield latencies(evidence)
        yield timeline(evidence)
        yield f'<p>Locust: <a href="{name}/locust.html">report</a></p>'


def _lead(evidence: Evidence) -> str:
    clients = sum(one.kind in CLIENTS for one in evidence.observed)
    return (
        f"{len(evidence.cold)} cold starts at the same instant, and {clients:,} requests of "
        "clients of version 1. Each dot is a request of theirs, as high as it took long; bands are "
        "migrations. Below, each line is an execution environment."
    )


# -- the rest -------------------------------------------------------------------------------------


def _unmeasured(said: Mapping[str, Any]) -> Iterator[str]:
    if said["not_measured"]:
        yield "<h2>Not measured</h2>"
        yield "<ul>" + "".join(f"<li>{escape(one)}</li>" for one in said["not_measured"]) + "</ul>"


def _again(said: Mapping[str, Any]) -> Iterator[str]:
    limits, ran = said["limits"], said["machine"]
    yield "<h2>Limits, and how to see it again</h2>"
    yield (
        f"<p>A lock that keeps others from writing: at most {limits['lock']:g} s "
        f"(<code>--longest-lock</code>). A client's request: {limits['request']:g} s "
        f"(<code>--slowest-request</code>). Requests that fail: {limits['failed']} "
        f"(<code>--failed-requests</code>). A cold start's wait: {limits['wait']:g} s "
        f"(<code>--longest-wait</code>).</p>"
    )
    yield (
        f"<p><code>{escape(said['command'])}</code></p>"
        f'<p class="faint">{ran["cpus"]} CPUs, {ran["memory_gigabytes"]} GB, '
        f"Python {ran['python']}, {escape(ran['system'])}. Everything shares them: a time here is "
        f'no time in AWS. All figures: <a href="report.json">report.json</a>.</p>'
    )
