"""Go, or no-go, and why. Pure: what was seen in, verdicts out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lambda_migrate.local.demo.findings import is_served
from load.staging.checks import Answer, Check, Moment, contradictions
from load.staging.faults import Reached
from load.staging.records import Records, differences
from load.storm.evidence import Evidence
from load.storm.verdicts import Verdict
from load.storm.verdicts import verdicts as storm_verdicts

__all__ = [
    "Decision",
    "Limits",
    "Step",
    "decide",
    "of_alarms",
    "of_checks",
    "of_faults",
    "of_lines",
    "of_orders",
    "of_phase",
    "of_records",
    "of_shape",
]

CLIENTS = ("write", "read")
"""Kinds of requests that the old version's clients send."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a team is ready to bear.

    Attributes:
        lock: Seconds that a migration may hold a lock which keeps others from writing.
        request: Seconds that a client's slowest request may take.
        failed: How many requests may fail, of clients and cold starts.
        wait: Seconds that a cold start may wait; API Gateway gives up after 29.
    """

    lock: float = 1.0
    request: float = 5.0
    failed: int = 0
    wait: float = 29.0


@dataclass(frozen=True, slots=True)
class Step:
    """One part of the rehearsal.

    Attributes:
        name: What was done.
        seconds: How long it took.
        verdicts: What must be, and whether it was.
        facts: Figures, for the report.
        halts: Whether nothing that would come after means anything.
        phase: The storm that it was, if it was one.
    """

    name: str
    seconds: float
    verdicts: tuple[Verdict, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    halts: bool = False
    phase: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rehearsal comes to.

    Attributes:
        go: Whether to release.
        reasons: Why not, a sentence each; () if go.
        unmeasured: What nobody has looked at.
    """

    go: bool
    reasons: tuple[str, ...]
    unmeasured: tuple[str, ...]

    @property
    def word(self) -> Literal["go", "no-go"]:
        """The same in a word."""
        return "go" if self.go else "no-go"


def decide(steps: Sequence[Step]) -> Decision:
    """Go, if nothing failed and something was looked at."""
    every = [(step, one) for step in steps for one in step.verdicts]
    reasons = tuple(f"{s.name}: {v.what}: {v.found}" for s, v in every if v.state == "failed")
    unmeasured = tuple(
        f"{s.name}: {v.what}: {v.found}" for s, v in every if v.state == "not measured"
    )
    passed = any(one.state == "passed" for _, one in every)
    if not passed and not reasons:
        reasons = ("nothing was measured",)
    return Decision(not reasons, reasons, unmeasured)


def judge(what: str, held: bool, found: str) -> Verdict:
    """A verdict that was measured."""
    return Verdict(what, "passed" if held else "failed", found)


# -- a storm --------------------------------------------------------------------------------------

_REPLACED = "no invocation failed"
"""The storms' own law, for which a team has its limit here."""

_UNCOUNTED = {
    "each migration took effect once": "each migration is in the history",
    "each down script took effect once": "each is out of it",
}


def of_phase(evidence: Evidence, limits: Limits, *, counts: bool = True) -> list[Verdict]:
    """What a storm must show, and what a team is ready to bear.

    Args:
        evidence: Of the storm.
        limits: What is borne.
        counts: Whether the migrations' effects can be counted in the tables, as the example's can;
            of others only the history tells.
    """
    laws = [one for one in storm_verdicts(evidence) if one.what != _REPLACED]
    return [*_borne(evidence, limits), *(laws if counts else map(_by_history, laws))]


def _by_history(law: Verdict) -> Verdict:
    what = _UNCOUNTED.get(law.what)
    return law if what is None else Verdict(what, law.state, law.found.partition(",")[0])


def _borne(evidence: Evidence, limits: Limits) -> Iterator[Verdict]:
    failed = [one for one in evidence.observed if not is_served(one.result)]
    kinds = {one.result.error_type or one.result.status for one in failed}
    told = f"{len(failed)} of {len(evidence.observed)} (limit {limits.failed})"
    told += f"; {', '.join(sorted(kinds))}" if kinds else ""
    held = bool(evidence.observed) and len(failed) <= limits.failed
    yield judge("requests that failed", held, told)
    yield _slowest(evidence, limits)
    waited = max((check.waited for check in evidence.first_checks), default=None)
    what = "longest wait of a cold start"
    if waited is None:
        yield Verdict(what, "failed", "no cold start has told")
    else:
        yield judge(what, waited <= limits.wait, f"{waited:.2f} s (limit {limits.wait:g} s)")


def _slowest(evidence: Evidence, limits: Limits) -> Verdict:
    what = "slowest request of a client"
    times = [one.result.duration_seconds for one in evidence.observed if one.kind in CLIENTS]
    if not times:
        return Verdict(what, "not measured", "no client sent any")
    told = f"{max(times):.2f} s of {len(times)} requests (limit {limits.request:g} s)"
    return judge(what, max(times) <= limits.request, told)


# -- data -----------------------------------------------------------------------------------------


def of_records(records: Records, may_change: frozenset[str]) -> Iterator[Verdict]:
    """Whether all that was there still is, as it was.

    Args:
        records: Of all tables.
        may_change: See `TableRecord.is_whole`.
    """
    rows = sum(table.rows for table in records.tables)
    lost = [table for table in records.tables if table.lost]
    told = ", ".join(f"{t.lost:,} of {t.rows:,} in {t.table}{_like(t.examples)}" for t in lost)
    ours = f"all {rows:,} in {len(records.tables)} tables are there"
    yield judge("rows that were there before", not lost, f"lost: {told}" if lost else ours)
    changed = [
        f"{table.table}.{column} in {count:,} rows{_like(table.examples)}"
        for table in records.tables
        for column, count in table.changed.items()
        if f"{table.table}.{column}" not in may_change
    ]
    gone = [
        f"{table.table}.{column} is no more"
        for table in records.tables
        for column in table.gone
        if f"{table.table}.{column}" not in may_change
    ]
    found = "; ".join(changed + gone) or "each value is what it was"
    yield judge("values that were there before", not (changed or gone), found)


def _like(examples: Sequence[str]) -> str:
    return f" (such as {', '.join(examples)})" if examples else ""


def of_checks(
    checks: Sequence[Check], answers: Mapping[Moment, Mapping[str, Answer]], moment: Moment
) -> Verdict:
    """Whether a team's own questions have the right answers at a moment."""
    what = "the team's own checks"
    asked = answers.get(moment, {})
    if not asked:
        return Verdict(what, "not measured", "none is asked at this moment")
    wrong = list(contradictions(checks, answers, moment))
    return judge(what, not wrong, "; ".join(wrong) or f"{len(asked)} of {len(asked)} hold")


def of_shape(before: frozenset[str], now: frozenset[str]) -> Verdict:
    """Whether the schema is what it was, column by column and index by index."""
    lines = list(differences(before, now))
    more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
    same = f"the same {len(now)} columns, indexes and constraints"
    told = "; ".join(lines[:3]) + more if lines else same
    return judge("the schema is what it was before", not lines, told)


def of_orders(told: Sequence[int], there: int) -> Verdict:
    """Whether each order that a client was told of is in the database."""
    what = "orders that clients were told of"
    if not told:
        return Verdict(what, "not measured", "this release takes no orders")
    return judge(what, there == len(told), f"{there} of {len(told)} are in the database")


# -- alarms ---------------------------------------------------------------------------------------


def of_alarms(reached: frozenset[str], looked_at: int) -> Verdict:
    """Whether the release itself, all going well, would page nobody."""
    told = ", ".join(sorted(reached)) or f"none of {looked_at} alarms"
    return judge("who would be paged by this release", not reached, told)


def of_lines(evidence: Evidence) -> Verdict:
    """Whether each cold start has told how it ended, in a line that can be read."""
    lines, cold = len(evidence.first_checks), len(evidence.cold)
    return judge("each cold start has its line in the log", lines == cold, f"{lines} of {cold}")


def of_faults(
    reached: Sequence[Reached], alarms: Mapping[str, frozenset[str]], told: frozenset[str]
) -> Iterator[Verdict]:
    """Whether each alarm is reached by the fault that it is for, and by no other.

    Args:
        reached: What came of each fault.
        alarms: Of the template: names of the metrics that each reads.
        told: Names of all metrics that were told in the rehearsal, faults included.
    """
    wanted = sorted({name for one in reached for name in one.fault.alarms} | alarms.keys())
    for name in wanted:
        yield _of_alarm(name, reached, alarms)
    for one in reached:
        others = sorted(one.alarms - one.fault.alarms)
        if others:
            what = f"{one.fault.name}: no other alarm"
            yield Verdict(what, "failed", f"{', '.join(others)} as well")
    missing = sorted({m for metrics in alarms.values() for m in metrics} - told)
    found = f"never told: {', '.join(missing)}" if missing else f"all of {len(alarms)} alarms"
    yield judge("every metric that an alarm reads was told", not missing, found)


def _of_alarm(
    name: str, reached: Sequence[Reached], alarms: Mapping[str, frozenset[str]]
) -> Verdict:
    what = f"{name} is reached"
    own = [one for one in reached if name in one.fault.alarms]
    if name not in alarms:
        return Verdict(what, "failed", f"the template has none, and {own[0].fault.name}")
    if not own:
        return Verdict(what, "not measured", "no fault is known for it")
    troubles = [f"{one.fault.name}: {one.trouble}" for one in own if one.trouble]
    if troubles:
        return Verdict(what, "failed", "; ".join(troubles))
    silent = [one.fault.name for one in own if name not in one.alarms]
    told = "; ".join(str(one.fault) for one in own)
    return judge(what, not silent, told if not silent else f"not when {'; '.join(silent)}")
