"""What was played and found: numbers for programs, a page for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from load.chaos.evidence import Evidence, Life, Mark
from load.chaos.laws import LAWS
from load.chaos.rounds import Result
from load.chaos.schedule import KINDS, to_json

__all__ = ["rounds", "write_report"]


def write_report(results: Sequence[Result], out: Path, *, seconds: float) -> None:
    """Write ``results.json`` and ``report.html``."""
    out.mkdir(parents=True, exist_ok=True)
    ordered = sorted(results, key=lambda result: (not result.broken, result.schedule.seed))
    (out / "results.json").write_text(json.dumps([_numbers(result) for result in ordered]))
    (out / "report.html").write_text(_page(ordered, seconds=seconds))


def _numbers(result: Result) -> dict[str, Any]:
    evidence = result.evidence
    return {
        "seed": result.schedule.seed,
        "broken": result.broken,
        "schedule": json.loads(to_json(result.schedule)),
        "strikes": dict(evidence.strikes),
        "seconds": round(evidence.seconds, 2),
        "starts": [asdict(start) for start in evidence.starts],
        "facts": asdict(evidence.facts),
        "lives": [
            {"name": life.name, "code": life.code, "killed": life.killed, "end": _end(life)}
            for life in evidence.lives
        ],
        "marks": [[mark.at, mark.who, mark.what, mark.detail] for mark in evidence.marks],
        "logs": {life.name: life.log for life in evidence.lives} if result.broken else {},
    }


def _end(life: Life) -> str:
    """The last thing that it told of itself."""
    told = [e for e in life.events if e["event"] in ("served", "raised", "rolled back")]
    return str(told[-1].get("error", told[-1]["event"])) if told else ""


def rounds(number: int) -> str:
    """So many rounds, in words."""
    return "1 round" if number == 1 else f"{number} rounds"


# --- the page


def _page(results: Sequence[Result], *, seconds: float) -> str:
    broken = sum(1 for result in results if result.broken)
    verdict = f"{rounds(broken)} broke a law" if broken else "no law was broken"
    strikes = sum(sum(result.evidence.strikes.values()) for result in results)
    starts = sum(len(result.evidence.lives) for result in results)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Chaos: {rounds(len(results))}, {verdict}</title>
<style>{_STYLE}</style>
<h1>Chaos <span class="{"red" if broken else "green"}">{verdict}</span></h1>
<p class="lead">{rounds(len(results))} in {seconds / 60:.1f} min: {starts} processes,
{strikes} faults that struck, {len(LAWS)} laws held against each round.</p>
<div class="columns">{_kinds(results)}{_laws(results)}{_ends(results)}</div>
<h2>Every round</h2>
{_legend()}
<div class="rounds">{"".join(_round(result) for result in results)}</div>
</html>
"""


def _table(heading: str, head: Sequence[str], rows: Iterator[tuple[str, list[int]]]) -> str:
    body = "".join(
        f"<tr><td>{escape(name)}"
        + "".join(f'<td class="n{" red" if i and n else ""}">{n}' for i, n in enumerate(numbers))
        for name, numbers in rows
    )
    titles = "".join(f"<th>{escape(title)}" for title in head)
    return f"<section><h2>{escape(heading)}</h2><table><tr>{titles}{body}</table></section>"


def _kinds(results: Sequence[Result]) -> str:
    def rows() -> Iterator[tuple[str, list[int]]]:
        for kind, words in KINDS.items():
            struck = [r for r in results if _strikes(r.evidence, kind)]
            times = sum(_strikes(r.evidence, kind) for r in struck)
            yield words, [times, sum(1 for r in struck if r.broken)]

    return _table("Faults", ["kind", "struck", "rounds broken"], rows())


def _strikes(evidence: Evidence, kind: str) -> int:
    if kind == "clock":
        return sum(1 for life in evidence.lives if life.clock)
    return evidence.strikes[kind]


def _laws(results: Sequence[Result]) -> str:
    def rows() -> Iterator[tuple[str, list[int]]]:
        for law in LAWS:
            broken = sum(any(b.startswith(f"{law}: ") for b in r.broken) for r in results)
            yield law, [len(results) - broken, broken]

    return _table("Laws", ["law", "held", "broken"], rows())


def _ends(results: Sequence[Result]) -> str:
    ends: Counter[str] = Counter()
    for result in results:
        for life in result.evidence.lives:
            ends[f"killed ({life.killed})" if life.killed else _end(life) or "nothing told"] += 1
    table = ((name, [count]) for name, count in ends.most_common())
    return _table("How processes ended", ["end", "times"], table)


def _round(result: Result) -> str:
    schedule, evidence = result.schedule, result.evidence
    words = "\n".join(schedule.lines())
    sentences = "".join(f"<li>{escape(sentence)}" for sentence in result.broken)
    state = "broken" if result.broken else "held"
    return f"""
<figure class="{state}"><figcaption>seed {schedule.seed} <small>{evidence.seconds:.1f} s,
{sum(evidence.strikes.values())} faults</small></figcaption>
{f'<ul class="red">{sentences}</ul>' if sentences else ""}
{_strip(evidence)}
<details><summary>schedule</summary><pre>{escape(words)}</pre></details></figure>"""


# --- one round's strip


_WIDTH = 420
_ROW = 11
_FAMILIES = {
    "kill": "#222",
    "freeze": "#3b82c4",
    "postgresql": "#8a5fbf",
    "commit": "#8a5fbf",
    "takeover": "#8a5fbf",
    "dynamodb": "#d98a00",
    "granted": "#c2367a",
}


def _strip(evidence: Evidence) -> str:
    scale = _WIDTH / max(evidence.seconds, 1.0)
    height = _ROW * (len(evidence.lives) + 1) + 14
    rows = "".join(
        _life(life, y=_ROW * (number + 1), scale=scale)
        for number, life in enumerate(evidence.lives)
    )
    faults = "".join(_fault(mark, scale=scale) for mark in evidence.marks if mark.who == "faults")
    over = evidence.end_of_faults * scale
    ticks = "".join(
        f'<text x="{second * scale:.1f}" y="{height - 2}">{second}</text>'
        for second in range(0, int(evidence.seconds) + 1, 2)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="timeline">'
        f'<rect class="after" x="{over:.1f}" y="0" width="{_WIDTH - over:.1f}" height="{height}"/>'
        f"{rows}{faults}{ticks}</svg>"
    )


def _life(life: Life, *, y: int, scale: float) -> str:
    parts = [_box(life.started, life.ended or life.started, y, scale, "idle", _tip(life))]
    since: float | None = None
    for event in life.events:
        if event["event"] == "invoked":
            since = event["at"]
        elif since is not None and event["event"] in ("served", "raised", "rolled back", "ended"):
            parts.append(_box(since, event["at"], y, scale, _colour(life, event), _tip(life)))
            since = None
    parts += [_box(a, b, y, scale, "frozen", f"{life.name} stands still") for a, b in life.frozen]
    return "".join(parts)


def _colour(life: Life, event: dict[str, Any]) -> str:
    if event["event"] == "raised":
        return "late" if event["retryable"] else "failed"
    if event["event"] == "ended":
        return "killed" if life.killed else "failed"
    return "undone" if event["event"] == "rolled back" else "served"


def _tip(life: Life) -> str:
    return f"{life.name}, {life.code} code: {_end(life) or 'killed'}"


def _box(start: float, end: float, y: int, scale: float, kind: str, tip: str) -> str:
    width = max(1.0, (end - start) * scale)
    return (
        f'<rect class="{kind}" x="{start * scale:.1f}" y="{y}" width="{width:.1f}" '
        f'height="{_ROW - 3}" rx="1.5"><title>{escape(tip)}</title></rect>'
    )


def _fault(mark: Mark, *, scale: float) -> str:
    colour = _FAMILIES[mark.what.partition("-")[0]]
    x = mark.at * scale
    tip = f"{mark.at:.2f} s: {KINDS[mark.what]} {mark.detail}"
    return f'<path d="M{x:.1f} 0l3 7h-6z" fill="{colour}"><title>{escape(tip)}</title></path>'


def _legend() -> str:
    ends = {
        "served": "served",
        "late": "retryable error",
        "failed": "failed",
        "killed": "killed",
        "frozen": "frozen",
        "undone": "rolled back",
    }
    boxes = "".join(
        f'<span><svg viewBox="0 0 14 8"><rect class="{kind}" width="14" height="8" rx="1.5"/></svg>'
        f"{words}</span>"
        for kind, words in ends.items()
    )
    marks = "".join(
        f'<span><svg viewBox="0 0 8 8"><path d="M4 0l3 7h-6z" fill="{_FAMILIES[family]}"/></svg>'
        f"{words}</span>"
        for family, words in {
            "kill": "SIGKILL",
            "freeze": "SIGSTOP",
            "postgresql": "PostgreSQL",
            "dynamodb": "DynamoDB",
            "granted": "lease granted twice",
        }.items()
    )
    return (
        f'<p class="legend">{boxes}{marks}<span>one row per process, seconds from left to right; '
        "on grey, after the faults, the fresh cold starts</span></p>"
    )


_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1320px; padding: 0 1rem;
  color: #222; background: #fbfaf8; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.05rem; margin: 1.5rem 0 .4rem; }
h1 span { font-weight: 400; } .red { color: #c62828; } .green { color: #2e7d4f; }
.lead { color: #555; margin: .2rem 0 0; }
.columns { display: flex; flex-wrap: wrap; gap: 0 2.2rem; align-items: flex-start; }
table { border-collapse: collapse; font-size: .8rem; }
th { text-align: left; font-weight: 600; color: #777; padding-right: 1rem; }
td { padding: .05rem .8rem .05rem 0; border-top: 1px solid #e8e4dd; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.rounds { display: grid; grid-template-columns: repeat(auto-fill, minmax(400px, 1fr)); gap: 1rem; }
figure { margin: 0; padding: .6rem .8rem; background: #fff; border: 1px solid #e8e4dd;
  border-radius: 6px; }
figure.broken { border: 2px solid #c62828; background: #fff6f5; }
figcaption { font-weight: 600; } small { color: #888; font-weight: 400; }
svg { width: 100%; display: block; } svg text { font-size: 8px; fill: #999; }
details { font-size: .8rem; color: #666; } pre { white-space: pre-wrap; }
ul.red { font-size: .82rem; margin: .2rem 0; padding-left: 1.1rem; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; font-size: .82rem; color: #666; }
.legend span { display: inline-flex; align-items: center; gap: .35rem; }
.legend svg { width: 14px; }
.after { fill: #f1eee8; } .idle { fill: #ddd8cf; } .served { fill: #3d9a67; }
.late { fill: #e0b13c; }
.failed { fill: #c96a4a; } .killed { fill: #333; } .undone { fill: #6b7fb8; }
.frozen { fill: #bcdcf5; stroke: #3b82c4; stroke-width: .8; fill-opacity: .75; }
"""
