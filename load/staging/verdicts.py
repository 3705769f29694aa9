"""Go or no-go, and why. Pure: what was observed in, verdicts out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal

from lambda_migrate.local.demo.results import is_served
from load.emulators.cloudwatch import Alarm
from load.staging.faults import FaultResult
from load.storm.evidence import Evidence
from load.storm.verdicts import Verdict, judge
from load.storm.verdicts import verdicts as storm_verdicts

CLIENTS = ("write", "read")
"""Kinds of requests that the old version's clients send."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted."""

    lock_seconds: float = 1.0  # that a migration may hold a lock that blocks writes
    request_seconds: float = 5.0  # of a client's slowest request
    failed_requests: int = 0  # of clients and cold starts
    wait_seconds: float = 29.0  # of a cold start; API Gateway gives up after 29


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that has run, or was skipped."""

    name: str
    seconds: float
    verdicts: Sequence[Verdict]
    facts: Mapping[str, Any] = field(default_factory=dict)  # for the report


@dataclass(frozen=True, slots=True)
class Decision:
    """Go if there is no reason against it; a sentence each for those and for what is unknown."""

    reasons: tuple[str, ...]
    not_measured: tuple[str, ...]

    @property
    def label(self) -> Literal["go", "no-go"]:
        """The decision in a word."""
        return "no-go" if self.reasons else "go"


def decide(steps: Sequence[StepResult]) -> Decision:
    """Go, if nothing failed and something was measured."""
    texts: dict[str, list[str]] = {"passed": [], "failed": [], "not measured": []}
    for step in steps:
        for one in step.verdicts:
            texts[one.state].append(f"{step.name}: {one.what}: {one.found}")
    if not texts["failed"] and not texts["passed"]:
        texts["failed"].append("nothing was measured")
    return Decision(tuple(texts["failed"]), tuple(texts["not measured"]))


# -- the dry run ----------------------------------------------------------------------------------


def verdicts_of_dry_run(document: Mapping[str, Any], limits: Limits) -> Iterator[Verdict]:
    """Whether all pending migrations run on this data, and how long they block others.

    Args:
        document: ``dry_run`` of ``lambda-migrate plan --dry-run --format json``.
        limits: What is accepted.
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
        yield judge(what, True, f"{len(executed)} of {len(migrations)}")
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
    limit = f"(limit {limits.lock_seconds:g} s)"
    is_within = seconds <= limits.lock_seconds
    yield judge("longest lock that blocks writes", is_within, f"{found} {limit}")


# -- storms ---------------------------------------------------------------------------------------

_REPLACED_VERDICT = "no invocation failed"
"""The storms' own verdict, for which there is a limit here."""


def verdicts_of_storm(evidence: Evidence, limits: Limits) -> Iterator[Verdict]:
    """What a storm must show, within the limits."""
    failed = [one.result for one in evidence.observed if not is_served(one.result)]
    kinds = "; ".join(sorted({one.error_type or one.status for one in failed}))
    found = f"{len(failed)} of {len(evidence.observed)} (limit {limits.failed_requests})"
    is_within = bool(evidence.observed) and len(failed) <= limits.failed_requests
    yield judge("requests that failed", is_within, f"{found}; {kinds}" if kinds else found)
    times = [one.result.duration_seconds for one in evidence.observed if one.kind in CLIENTS]
    what = "slowest request of a client"
    if times:
        limit = f"(limit {limits.request_seconds:g} s)"
        found = f"{max(times):.2f} s of {len(times)} requests {limit}"
        yield judge(what, max(times) <= limits.request_seconds, found)
    else:
        yield Verdict(what, "not measured", "no client sent any")
    waited = max((check.waited for check in evidence.first_checks), default=float("inf"))
    found = f"{waited:.2f} s (limit {limits.wait_seconds:g} s)"
    yield judge("longest wait of a cold start", waited <= limits.wait_seconds, found)
    yield from (one for one in storm_verdicts(evidence) if one.what != _REPLACED_VERDICT)


def verdict_of_log_lines(evidence: Evidence) -> Verdict:
    """Whether each cold start logged how it ended, in a line that can be parsed."""
    lines, cold = len(evidence.first_checks), len(evidence.cold)
    return judge("each cold start logged its line", lines == cold, f"{lines} of {cold}")


# -- data -----------------------------------------------------------------------------------------


def verdict_of_schema(differences: Sequence[str], lines: int) -> Verdict:
    """Whether the schema is the same, line by line of pg_dump's output."""
    more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
    found = "; ".join(differences[:3]) + more or f"the same {lines} lines of pg_dump --schema-only"
    return judge("the schema is as before", not differences, found)


def verdict_of_orders(confirmed: int, found: int) -> Verdict:
    """Whether there are orders that were confirmed to clients, and each is in the database."""
    is_held = found == confirmed > 0
    return judge("orders confirmed to clients", is_held, f"{found} of {confirmed} are there")


# -- alarms ---------------------------------------------------------------------------------------


def verdicts_of_faults(
    results: Sequence[FaultResult], alarms: Mapping[str, Alarm], emitted: Set[str]
) -> Iterator[Verdict]:
    """Whether each alarm is reached by its fault, and by no other.

    Args:
        results: What came of each fault.
        alarms: Of the template.
        emitted: Names of all metrics that were emitted, faults included.
    """
    expected = {name for one in results for name in one.fault.expected_alarms}
    for name in sorted(expected | alarms.keys()):
        yield _verdict_of_alarm(name, results, is_in_template=name in alarms)
    for one in results:
        others = sorted(one.reached_alarms - one.fault.expected_alarms)
        if others:
            what = f"{one.fault.name}: no other alarm"
            yield Verdict(what, "failed", f"{', '.join(others)} as well")
    read = {
        metric.name
        for alarm in alarms.values()
        for metric in alarm.metrics
        # Metrics that AWS itself emits are not ours to check.
        if not metric.namespace.startswith("AWS/")
    }
    missing = sorted(read - emitted)
    found = f"missing: {', '.join(missing)}" if missing else f"all of {len(alarms)} alarms"
    yield judge("every metric of an alarm was emitted", not missing, found)


def _verdict_of_alarm(
    name: str, results: Sequence[FaultResult], *, is_in_template: bool
) -> Verdict:
    what = f"{name} is reached"
    own = [one for one in results if name in one.fault.expected_alarms]
    if not is_in_template:
        return Verdict(what, "failed", f"not in the template, and {own[0].fault.name}")
    if not own:
        return Verdict(what, "not measured", "no fault is known for it")
    errors = [f"{one.fault.name}: {one.error}" for one in own if one.error]
    if errors:
        return Verdict(what, "failed", "; ".join(errors))
    silent = [one.fault.name for one in own if name not in one.reached_alarms]
    found = "; ".join(one.fault.name for one in own)
    return judge(what, not silent, f"not when {'; '.join(silent)}" if silent else found)
