"""What was played and found: results.json, and a page with a picture of every round."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from load import charts
from load.chaos.evidence import Evidence, ProcessRecord, Result
from load.chaos.invariants import INVARIANTS
from load.chaos.schedule import KINDS, to_json
from load.html import Html, document, list_of, mark, paragraph, section, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["rounds", "write_report"]


def write_report(results: Sequence[Result], out: Path, *, seconds: float) -> None:
    """Write ``results.json`` and ``report.html``, broken rounds first."""
    out.mkdir(parents=True, exist_ok=True)
    ordered = sorted(results, key=lambda result: (not result.broken, result.schedule.seed))
    (out / "results.json").write_text(json.dumps([_figures(result) for result in ordered]))
    (out / "report.html").write_text(_page(ordered, seconds=seconds))


def _figures(result: Result) -> dict[str, Any]:
    evidence = result.evidence
    return {
        "seed": result.schedule.seed,
        "broken": result.broken,
        "schedule": json.loads(to_json(result.schedule)),
        "struck": dict(evidence.fault_counts),
        "seconds": round(evidence.seconds, 2),
        "cold_starts": [asdict(start) for start in evidence.cold_starts],
        "state": asdict(evidence.state),
        "processes": [
            {"name": one.name, "code": one.code, "killed": one.killed, "outcome": one.outcome}
            for one in evidence.processes
        ],
        "marks": [[each.at, each.process, each.what, each.detail] for each in evidence.marks],
        "logs": {one.name: one.log for one in evidence.processes} if result.broken else {},
    }


def rounds(number: int) -> str:
    """``1 round``, ``2 rounds``."""
    return "1 round" if number == 1 else f"{number} rounds"


def _page(results: Sequence[Result], *, seconds: float) -> str:
    broken = sum(bool(result.broken) for result in results)
    verdict = f"{rounds(broken)} violated an invariant" if broken else "no invariant was violated"
    struck = sum(result.evidence.fault_counts.total() for result in results)
    processes = [one for result in results for one in result.evidence.processes]
    outcomes = Counter(_outcome(one) for one in processes)
    return document(
        f"Chaos: {rounds(len(results))}, {verdict}",
        [
            f"<h1>Chaos: {verdict} {mark('failed' if broken else 'passed')}</h1>",
            paragraph(
                f"{rounds(len(results))} in {seconds / 60:.1f} min: {len(processes)} processes, "
                f"{struck} faults took effect, {len(INVARIANTS)} invariants checked in each round."
            ),
            section(
                "Invariants",
                table(("invariant", "held", "broken"), map(_invariant_row(results), INVARIANTS)),
            ),
            section(
                "Faults",
                table(("kind", "took effect", "rounds broken"), map(_kind_row(results), KINDS)),
            ),
            section("How processes ended", table(("end", "times"), outcomes.most_common())),
            section(
                "Every round",
                f'<div class="grid">{"".join(map(_figure, results))}</div>',
                lead=_LEGEND,
            ),
        ],
    )


def _outcome(one: ProcessRecord) -> str:
    return f"killed ({one.killed})" if one.killed else one.outcome or "nothing reported"


def _invariant_row(results: Sequence[Result]) -> Any:
    def row(invariant: str) -> tuple[str, int, int]:
        broken = sum(any(b.startswith(f"{invariant}: ") for b in r.broken) for r in results)
        return invariant, len(results) - broken, broken

    return row


def _kind_row(results: Sequence[Result]) -> Any:
    def row(kind: str) -> tuple[str, int, int]:
        times = [(_count_faults(result.evidence, kind), bool(result.broken)) for result in results]
        return KINDS[kind], sum(n for n, _ in times), sum(b for n, b in times if n)

    return row


def _count_faults(evidence: Evidence, kind: str) -> int:
    if kind == "clock":
        return sum(1 for one in evidence.processes if one.clock)
    return evidence.fault_counts[kind]


# --- one round


_COLOURS = {
    "served": "#3d9a67",
    "retryable error": "#e0b13c",
    "failed": "#c96a4a",
    "killed": "#333333",
    "rolled back": "#6b7fb8",
}
_FAULTS = {"kill": "#222222", "freeze": "#3b82c4", "dynamodb": "#d98a00", "granted": "#c2367a"}
_POSTGRESQL = "#8a5fbf"
_LEGEND = (
    "One row per process, seconds from left to right. Green: served; yellow: retryable error; "
    "orange: failed; black: killed; violet: rolled back; light blue: frozen. Triangles are faults. "
    "On grey, after the faults: the cold starts that must succeed."
)


def _figure(result: Result) -> Html:
    schedule, evidence = result.schedule, result.evidence
    heading = f"<b>seed {schedule.seed} </b><small>{evidence.seconds:.1f} s, "
    words = Html("<pre>" + "\n".join(schedule.lines()) + "</pre>")
    return Html(
        f"<figure>{heading}{evidence.fault_counts.total()} faults</small>"
        f"{list_of(result.broken) if result.broken else ''}{_timeline(evidence)}"
        f"<details><summary>schedule</summary>{words}</details></figure>"
    )


def _timeline(evidence: Evidence) -> Html:
    with charts.style(axes_grid=False):
        figure, axes = charts.new_axes(4.4, 0.4 + 0.13 * len(evidence.processes))
        axes.axvspan(evidence.faults_ended, evidence.seconds, color="#f1eee8")
        for row, one in enumerate(evidence.processes):
            _draw_process(axes, row, one)
        for each in evidence.marks:
            if each.process == "faults":
                colour = _FAULTS.get(each.what.partition("-")[0], _POSTGRESQL)
                axes.plot(each.at, -1, "v", color=colour, markersize=4)
        axes.set(xlim=(0, evidence.seconds), ylim=(len(evidence.processes), -1.6), yticks=[])
        axes.spines["left"].set_visible(False)
        return charts.img(figure, f"timeline of seed {evidence.schedule.seed}")


def _draw_process(axes: Axes, row: int, one: ProcessRecord) -> None:
    def draw(start: float, end: float, colour: str, alpha: float = 1.0) -> None:
        axes.broken_barh([(start, max(end - start, 0.02))], (row, 0.7), color=colour, alpha=alpha)

    draw(one.started, one.ended or one.started, "#ddd8cf")
    since: float | None = None
    for event in one.events:
        if event["event"] == "invoked":
            since = event["at"]
        elif since is not None and event["event"] in ("served", "raised", "rolled back", "ended"):
            draw(since, event["at"], _COLOURS[_ending(one, event)])
            since = None
    for start, end in one.frozen:
        draw(start, end, "#9ecbf0", alpha=0.8)


def _ending(one: ProcessRecord, event: dict[str, Any]) -> str:
    if event["event"] == "raised":
        return "retryable error" if event["retryable"] else "failed"
    if event["event"] == "ended":
        return "killed" if one.killed else "failed"
    return str(event["event"])
