"""Go or no-go, and why; and the report of it.

Judging is pure: what was observed in, verdicts out. The report is report.json for pipelines, and
report.md and traffic.svg for people.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes

from lambda_migrate.local.demo.results import is_served
from load import charts
from load.bench.report import describe_machine
from load.storm.evidence import StormEvidence
from load.storm.verdicts import Verdict, make_verdict
from load.storm.verdicts import verdicts as storm_verdicts

CLIENT_KINDS = ("write", "read")  # kinds of requests that the old version's clients send


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted; each is an option of the command, too."""

    max_lock_seconds: float = 1.0  # of a lock that blocks writes
    max_request_seconds: float = 5.0  # of a client
    max_failed_requests: int = 0  # of clients and cold starts
    max_wait_seconds: float = 29.0  # of a cold start; API Gateway gives up after 29


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that has run, or was skipped."""

    name: str
    seconds: float
    verdicts: Sequence[Verdict]
    facts: Mapping[str, Any] = field(default_factory=dict)  # for the report


class ReleaseDecision(NamedTuple):
    """Go if there is no reason against it; a sentence each for those and for what is unknown."""

    reasons: tuple[str, ...]
    not_measured: tuple[str, ...]

    @property
    def label(self) -> Literal["go", "no-go"]:
        """The decision in a word."""
        return "no-go" if self.reasons else "go"


def decide_release(steps: Sequence[StepResult]) -> ReleaseDecision:
    """Go, if nothing failed and something was measured."""
    texts: dict[str, list[str]] = {"passed": [], "failed": [], "not measured": []}
    for step in steps:
        for one in step.verdicts:
            texts[one.state].append(f"{step.name}: {one.name}: {one.measured}")
    if not texts["failed"] and not texts["passed"]:
        texts["failed"].append("nothing was measured")
    return ReleaseDecision(tuple(texts["failed"]), tuple(texts["not measured"]))


# -- the dry run ----------------------------------------------------------------------------------


def verdicts_of_dry_run(document: Mapping[str, Any], limits: Limits) -> Iterator[Verdict]:
    """Whether all pending migrations run on this data, and how long they block others.

    The document is ``dry_run`` of ``lambda-migrate plan --dry-run --format json``.
    """
    what = "each pending migration runs on this data"
    migrations = document["migrations"]
    if document["error"] is not None:
        message = str(document["error"]["message"])
        failed = next((one["name"] for one in migrations if one["outcome"] == "failed"), "")
        yield Verdict(what, "failed", message if failed in message else f"{failed}: {message}")
        return
    executed = [one for one in migrations if one["outcome"] == "ran"]
    if executed:
        yield make_verdict(what, True, f"{len(executed)} of {len(migrations)}")
    for one in migrations:
        if one["outcome"] != "ran":
            yield Verdict(f"{one['name']} runs on this data", "not measured", one["reason"])
    # A lock is held until its migration is committed, and so for the migration's time.
    blocking = [
        (one["seconds"] or 0.0, f"{one['name']}, {lock['mode']} on {lock['relation']}")
        for one in executed
        for lock in one["locks"]
        if lock["blocks"]
    ]
    seconds, lock = max(blocking, default=(0.0, "none"))
    found = f"{seconds:.2f} s: {lock}" if blocking else lock
    limit = f"(limit {limits.max_lock_seconds:g} s)"
    is_within = seconds <= limits.max_lock_seconds
    yield make_verdict("longest lock that blocks writes", is_within, f"{found} {limit}")


# -- storms ---------------------------------------------------------------------------------------


def verdicts_of_storm(evidence: StormEvidence, limits: Limits) -> Iterator[Verdict]:
    """What a storm must show, within the limits."""
    failed = [one.result for one in evidence.invocations if not is_served(one.result)]
    kinds = "; ".join(sorted({one.error_type or one.status for one in failed}))
    found = f"{len(failed)} of {len(evidence.invocations)} (limit {limits.max_failed_requests})"
    is_within = bool(evidence.invocations) and len(failed) <= limits.max_failed_requests
    yield make_verdict("requests that failed", is_within, f"{found}; {kinds}" if kinds else found)
    times = [one.result.duration_seconds for one in _list_client_requests(evidence)]
    what = "slowest request of a client"
    if times:
        limit = f"(limit {limits.max_request_seconds:g} s)"
        found = f"{max(times):.2f} s of {len(times)} requests {limit}"
        yield make_verdict(what, max(times) <= limits.max_request_seconds, found)
    else:
        yield Verdict(what, "not measured", "no client sent any")
    waited = max((check.waited for check in evidence.first_checks), default=float("inf"))
    found = f"{waited:.2f} s (limit {limits.max_wait_seconds:g} s)"
    yield make_verdict("longest wait of a cold start", waited <= limits.max_wait_seconds, found)
    # For this one there is a limit.
    yield from (one for one in storm_verdicts(evidence) if one.name != "no invocation failed")
    lines, cold = len(evidence.first_checks), len(evidence.cold_starts)
    yield make_verdict("each cold start logged its line", lines == cold, f"{lines} of {cold}")


def verdict_of_orders(confirmed: int, found: int) -> Verdict:
    """Whether there are orders that were confirmed to clients, and each is in the database."""
    has_passed = found == confirmed > 0
    return make_verdict(
        "orders confirmed to clients", has_passed, f"{found} of {confirmed} are there"
    )


_STATE_LABELS = {"passed": "passed", "failed": "FAILED", "not measured": "  ?   "}


def write_report(
    steps: Sequence[StepResult],
    storms: Mapping[str, StormEvidence],
    limits: Limits,
    out: Path,
    *,
    command: str,
) -> ReleaseDecision:
    """Write the files into ``out``, and decide; ``command`` repeats the validation."""
    out.mkdir(parents=True, exist_ok=True)
    decision = decide_release(steps)
    document = {
        "decision": decision.label,
        "reasons": list(decision.reasons),
        "not_measured": list(decision.not_measured),
        "limits": asdict(limits),
        "command": command,
        "machine": describe_machine(),
        "steps": [asdict(step) for step in steps],
    }
    (out / "report.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    drawn = {name: storm for name, storm in storms.items() if _list_client_requests(storm)}
    lines = _format_report(document, steps, has_chart=bool(drawn))
    (out / "report.md").write_text("\n".join(lines) + "\n")
    if drawn:
        _draw_storms(drawn, out / "traffic.svg")
    return decision


def format_step(step: StepResult) -> str:
    """A step as text: its time, then one line for each verdict."""
    widest = max((len(one.name) for one in step.verdicts), default=0)
    lines = [
        f"          {_STATE_LABELS[one.state]}  {one.name:<{widest}}  {one.measured}"
        for one in step.verdicts
    ]
    return "\n".join([f"{step.seconds:6.1f} s  {step.name}", *lines])


def _format_report(
    document: Mapping[str, Any], steps: Sequence[StepResult], *, has_chart: bool
) -> Iterator[str]:
    yield f"# {document['decision'].upper()}: examples/orders, version 1 to 2\n"
    yield from (f"- {reason}" for reason in document["reasons"])
    limits = [f"{name.replace('_', ' ')} {n:g}" for name, n in document["limits"].items()]
    yield f"\nLimits: {', '.join(limits)}.\n\n```text"
    yield from (format_step(step) for step in steps)
    yield "```\n"
    if has_chart:
        yield "## Requests of clients\n\n![Each request, as high as it took long](traffic.svg)\n"
    machine = ", ".join(f"{name} {text}" for name, text in document["machine"].items())
    yield f"Measured on {machine}. Repeat it: `{document['command']}`"


# -- the picture ----------------------------------------------------------------------------------


def _list_client_requests(storm: StormEvidence) -> list[Any]:
    return [one for one in storm.invocations if one.kind in CLIENT_KINDS]


def _draw_storms(storms: Mapping[str, StormEvidence], path: Path) -> None:
    """How long clients waited while the schema changed: a dot for each request, over time."""
    with charts.open_figure(path, 10, 2.8 * len(storms)) as figure:
        panels = figure.subplots(len(storms), squeeze=False)[:, 0]
        for axes, (name, storm) in zip(panels, storms.items(), strict=True):
            _draw_storm(axes, storm)
            axes.set(xlabel=f"seconds of the {name}", ylabel="seconds of each request")


def _draw_storm(axes: Axes, storm: StormEvidence) -> None:
    requests = _list_client_requests(storm)
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
