"""Go, or no-go, and why. Pure: what was seen in, verdicts out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lambda_migrate.local.demo.results import is_served
from load.staging.checks import Answer, Check, Moment, wrong_answers
from load.staging.faults import FaultResult
from load.staging.records import Records, differences
from load.staging.steps import StepResult
from load.storm.evidence import Evidence
from load.storm.verdicts import Verdict, judge
from load.storm.verdicts import verdicts as storm_verdicts

__all__ = [
    "Decision",
    "Limits",
    "decide",
    "verdict_of_alarms",
    "verdict_of_checks",
    "verdict_of_log_lines",
    "verdict_of_orders",
    "verdict_of_schema",
    "verdicts_of_faults",
    "verdicts_of_records",
    "verdicts_of_storm",
]

CLIENTS = ("write", "read")
"""Kinds of requests that the old version's clients send."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted."""

    lock: float = 1.0  # seconds that a migration may hold a lock that blocks writes
    request: float = 5.0  # seconds of a client's slowest request
    failed: int = 0  # failed requests of clients and cold starts
    wait: float = 29.0  # seconds that a cold start may wait; API Gateway gives up after 29


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to release, why not (a sentence each), and what was not measured."""

    go: bool
    reasons: tuple[str, ...]
    unmeasured: tuple[str, ...]

    @property
    def word(self) -> Literal["go", "no-go"]:
        """The decision in a word."""
        return "go" if self.go else "no-go"


def decide(steps: Sequence[StepResult]) -> Decision:
    """Go, if nothing failed and something was measured."""
    every = [(step, one) for step in steps for one in step.verdicts]

    def texts(state: str) -> tuple[str, ...]:
        return tuple(f"{s.name}: {v.what}: {v.found}" for s, v in every if v.state == state)

    reasons = texts("failed")
    if not reasons and not texts("passed"):
        reasons = ("nothing was measured",)
    return Decision(not reasons, reasons, texts("not measured"))


# -- storms ---------------------------------------------------------------------------------------

_REPLACED = "no invocation failed"
"""The storms' own verdict, for which there is a limit here."""

_UNCOUNTED = {
    "each migration took effect once": "each migration is in the history",
    "each down script took effect once": "each was removed from the history",
}


def verdicts_of_storm(
    evidence: Evidence, limits: Limits, *, counts: bool = True
) -> Iterator[Verdict]:
    """What a storm must show, within the limits.

    Args:
        evidence: Of the storm.
        limits: What is accepted.
        counts: Whether the migrations' effects are counted in tables, as the example's are; of
            other releases only the history is known.
    """
    failed = [one for one in evidence.observed if not is_served(one.result)]
    kinds = sorted({one.result.error_type or one.result.status for one in failed})
    found = f"{len(failed)} of {len(evidence.observed)} (limit {limits.failed})"
    found += f"; {', '.join(kinds)}" if kinds else ""
    is_held = bool(evidence.observed) and len(failed) <= limits.failed
    yield judge("requests that failed", is_held, found)
    times = [one.result.duration_seconds for one in evidence.observed if one.kind in CLIENTS]
    what = "slowest request of a client"
    if times:
        found = f"{max(times):.2f} s of {len(times)} requests (limit {limits.request:g} s)"
        yield judge(what, max(times) <= limits.request, found)
    else:
        yield Verdict(what, "not measured", "no client sent any")
    waited = max((check.waited for check in evidence.first_checks), default=float("inf"))
    found = f"{waited:.2f} s (limit {limits.wait:g} s)"
    yield judge("longest wait of a cold start", waited <= limits.wait, found)
    for one in storm_verdicts(evidence):
        if one.what in _UNCOUNTED and not counts:
            yield Verdict(_UNCOUNTED[one.what], one.state, one.found.partition(",")[0])
        elif one.what != _REPLACED:
            yield one


def verdict_of_log_lines(evidence: Evidence) -> Verdict:
    """Whether each cold start logged how it ended, in a line that can be parsed."""
    lines, cold = len(evidence.first_checks), len(evidence.cold)
    return judge("each cold start logged its line", lines == cold, f"{lines} of {cold}")


# -- data -----------------------------------------------------------------------------------------


def verdicts_of_records(records: Records, may_change: frozenset[str]) -> Iterator[Verdict]:
    """Whether all rows and values from before are there.

    Args:
        records: Of all tables.
        may_change: Columns, as ``table.column``, that may change or be dropped.
    """
    tables = records.tables
    lost = [
        f"{table.lost:,} of {table.rows:,} in {table.table}{_examples(table.examples)}"
        for table in tables
        if table.lost
    ]
    kept = f"all {sum(table.rows for table in tables):,} in {len(tables)} tables are there"
    yield judge("existing rows", not lost, f"lost: {', '.join(lost)}" if lost else kept)
    changed = {
        f"{table.table}.{column}": f" in {count:,} rows{_examples(table.examples)}"
        for table in tables
        for column, count in table.changed.items()
    }
    dropped = {f"{table.table}.{c}": " was dropped" for table in tables for c in table.dropped}
    wrong = [name + how for name, how in (changed | dropped).items() if name not in may_change]
    yield judge("existing values", not wrong, "; ".join(wrong) or "none has changed")


def _examples(examples: Sequence[str]) -> str:
    return f" (such as {', '.join(examples)})" if examples else ""


def verdict_of_checks(
    checks: Sequence[Check], answers: Mapping[Moment, Mapping[str, Answer]], moment: Moment
) -> Verdict:
    """Whether a team's own checks have the right answers at a moment."""
    what = "the team's own checks"
    count = len(answers.get(moment, {}))
    if not count:
        return Verdict(what, "not measured", "none is made at this moment")
    wrong = list(wrong_answers(checks, answers, moment))
    return judge(what, not wrong, "; ".join(wrong) or f"{count} of {count} hold")


def verdict_of_schema(before: frozenset[str], now: frozenset[str]) -> Verdict:
    """Whether the schema is the same, column by column and index by index."""
    lines = list(differences(before, now))
    more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
    same = f"the same {len(now)} columns, indexes and constraints"
    return judge("the schema is as before", not lines, "; ".join(lines[:3]) + more or same)


def verdict_of_orders(confirmed: Sequence[int], count: int) -> Verdict:
    """Whether each order that was confirmed to a client is in the database."""
    what = "orders confirmed to clients"
    if not confirmed:
        return Verdict(what, "not measured", "this release takes no orders")
    found = f"{count} of {len(confirmed)} are in the database"
    return judge(what, count == len(confirmed), found)


# -- alarms ---------------------------------------------------------------------------------------


def verdict_of_alarms(reached: frozenset[str], count: int) -> Verdict:
    """Whether the release itself reaches no alarm."""
    found = ", ".join(sorted(reached)) or f"none of {count} alarms"
    return judge("alarms reached by this release", not reached, found)


def verdicts_of_faults(
    results: Sequence[FaultResult], alarms: Mapping[str, frozenset[str]], emitted: frozenset[str]
) -> Iterator[Verdict]:
    """Whether each alarm is reached by its fault, and by no other.

    Args:
        results: What came of each fault.
        alarms: Of the template: names of the metrics that each reads.
        emitted: Names of all metrics that were emitted, faults included.
    """
    for name in sorted({name for one in results for name in one.fault.alarms} | alarms.keys()):
        yield _verdict_of_alarm(name, results, alarms)
    for one in results:
        others = sorted(one.alarms - one.fault.alarms)
        if others:
            what = f"{one.fault.name}: no other alarm"
            yield Verdict(what, "failed", f"{', '.join(others)} as well")
    missing = sorted({m for metrics in alarms.values() for m in metrics} - emitted)
    found = f"missing: {', '.join(missing)}" if missing else f"all of {len(alarms)} alarms"
    yield judge("every metric of an alarm was emitted", not missing, found)


def _verdict_of_alarm(
    name: str, results: Sequence[FaultResult], alarms: Mapping[str, frozenset[str]]
) -> Verdict:
    what = f"{name} is reached"
    own = [one for one in results if name in one.fault.alarms]
    if name not in alarms:
        return Verdict(what, "failed", f"not in the template, and {own[0].fault.name}")
    if not own:
        return Verdict(what, "not measured", "no fault is known for it")
    troubles = [f"{one.fault.name}: {one.trouble}" for one in own if one.trouble]
    if troubles:
        return Verdict(what, "failed", "; ".join(troubles))
    silent = [one.fault.name for one in own if name not in one.alarms]
    found = "; ".join(str(one.fault) for one in own)
    return judge(what, not silent, f"not when {'; '.join(silent)}" if silent else found)
