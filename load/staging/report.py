"""The report: report.json for pipelines; report.md and traffic.svg for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lambda_migrate.local.demo.results import is_served
from load import charts
from load.staging.verdicts import CLIENTS, Decision, Limits, StepResult, decide
from load.storm.evidence import Evidence
from load.storm.report import machine

_STATES = {"passed": "passed", "failed": "FAILED", "not measured": "  ?   "}


def write_report(
    steps: Sequence[StepResult],
    storms: Mapping[str, Evidence],
    limits: Limits,
    out: Path,
    *,
    command: str,
) -> Decision:
    """Write the files into ``out``, and decide.

    Args:
        steps: What each step found.
        storms: Evidence of the deployment and the rollback, as far as they were run.
        limits: What is accepted.
        out: The folder.
        command: How to repeat the validation.
    """
    out.mkdir(parents=True, exist_ok=True)
    decision = decide(steps)
    document = {
        "decision": decision.label,
        "reasons": list(decision.reasons),
        "not_measured": list(decision.not_measured),
        "limits": asdict(limits),
        "command": command,
        "machine": machine(),
        "steps": [asdict(step) for step in steps],
    }
    (out / "report.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    drawn = {name: storm for name, storm in storms.items() if _client_requests(storm)}
    lines = _format_report(document, steps, has_picture=bool(drawn))
    (out / "report.md").write_text("\n".join(lines) + "\n")
    if drawn:
        _draw_traffic(drawn, out / "traffic.svg")
    return decision


def format_step(step: StepResult) -> str:
    """A step as text: its time, then one line for each verdict."""
    widest = max((len(one.what) for one in step.verdicts), default=0)
    lines = [
        f"          {_STATES[one.state]}  {one.what:<{widest}}  {one.found}"
        for one in step.verdicts
    ]
    return "\n".join([f"{step.seconds:6.1f} s  {step.name}", *lines])


def _format_report(
    document: Mapping[str, Any], steps: Sequence[StepResult], *, has_picture: bool
) -> Iterator[str]:
    yield f"# {document['decision'].upper()}: examples/orders, version 1 to 2\n"
    yield from (f"- {reason}" for reason in document["reasons"])
    limits = [f"{name.replace('_', ' ')} {n:g}" for name, n in document["limits"].items()]
    yield f"\nLimits: {', '.join(limits)}.\n\n```text"
    yield from (format_step(step) for step in steps)
    yield "```\n"
    if has_picture:
        yield "## Requests of clients\n\n![Each request, as high as it took long](traffic.svg)\n"
    ran = document["machine"]
    yield (
        f"{ran['cpus']} CPUs, {ran['memory_gigabytes']} GB, Python {ran['python']}. "
        f"Repeat it: `{document['command']}`"
    )


# -- the picture ----------------------------------------------------------------------------------


def _client_requests(storm: Evidence) -> list[Any]:
    return [one for one in storm.observed if one.kind in CLIENTS]


def _draw_traffic(storms: Mapping[str, Evidence], path: Path) -> None:
    """How long clients waited while the schema changed: a dot for each request, over time."""
    with charts.style():
        figure = Figure(figsize=(10, 2.8 * len(storms)), layout="constrained")
        panels = figure.subplots(len(storms), squeeze=False)[:, 0]
        for axes, (name, storm) in zip(panels, storms.items(), strict=True):
            _draw_storm(axes, storm)
            axes.set(xlabel=f"seconds of the {name}", ylabel="seconds of each request")
        charts.save(figure, path)


def _draw_storm(axes: Axes, storm: Evidence) -> None:
    requests = _client_requests(storm)
    since = min(one.result.started for one in requests)
    until = max(one.result.ended for one in requests)
    for kind, colour in (("read", charts.BLUE), ("write", charts.GREEN), ("failed", "#b3261e")):
        results = [
            one.result
            for one in requests
            if kind == (one.kind if is_served(one.result) else "failed")
        ]
        starts = [result.started - since for result in results]
        durations = [result.duration_seconds for result in results]
        # Pixels: thousands of circles would make a picture of a megabyte.
        axes.scatter(starts, durations, 8, colour, alpha=0.6, lw=0, label=kind, rasterized=True)
    for number, interval in enumerate(storm.intervals):
        if interval.end > since and interval.start < until:
            start = interval.start - since
            axes.axvspan(start, interval.end - since, color=charts.ORANGE, alpha=0.15)
            height = 1.02 + 0.08 * (number % 3)
            axes.text(start, height, interval.label, transform=axes.get_xaxis_transform())
    axes.set(yscale="log", xlim=(0, until - since))
    axes.legend(frameon=False, ncols=3, loc="upper right")
