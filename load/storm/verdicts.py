"""What a storm must show, and whether it did. Pure: evidence in, verdicts out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from lambda_migrate.local.demo.checks import SchemaCheck
from lambda_migrate.local.demo.results import is_served
from load.storm.evidence import Evidence
from load.storm.host import failure_of

__all__ = ["Verdict", "judge", "peak_of", "verdicts"]

READ_UNITS = 3000
WRITE_UNITS = 1000
"""What one DynamoDB partition sustains a second."""

_CLOCK_SLACK = 0.2
"""Seconds: the holder counts a pause from its failure, we from its log line."""

_RECORDED_SECONDS = 1.0
"""From a commit until it is recorded in DynamoDB, on a machine that is busy."""

_LOST_SHARE = 0.01
"""Of all requests: how many a sender may give up before a busy engine has read them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that must hold, and what was measured."""

    what: str
    state: Literal["passed", "failed", "not measured"]
    found: str


def judge(what: str, is_held: bool, found: str) -> Verdict:
    """A verdict on what was measured."""
    return Verdict(what, "passed" if is_held else "failed", found)


def verdicts(evidence: Evidence) -> list[Verdict]:
    """All of them for this storm."""
    must_fail = evidence.scenario.kind == "failing"
    found = [_all_started(evidence)]
    found += _same_failure(evidence) if must_fail else [_none_failed(evidence)]
    found += [
        _once(evidence.effects, "each migration took effect once"),
        _one_connection(evidence),
        *_one_sampled_connection(evidence),
        _below_the_limit(evidence),
        *_same_calls(evidence),
        *_one_read(evidence),
        _same_requests(evidence),
    ]
    if evidence.scenario.rollback:
        found.append(_once(evidence.rollback_effects, "each down script took effect once"))
    found += [Verdict("nothing else went wrong", "failed", each) for each in evidence.troubles]
    return found


def _all_started(evidence: Evidence) -> Verdict:
    wanted, came = evidence.scenario.environments, len(evidence.cold)
    fresh = sum(one.result.cold for one in evidence.cold)
    found = f"{came} of {wanted}, {fresh} in an environment of its own"
    return judge("every cold start took place", came == fresh == wanted, found)


def _none_failed(evidence: Evidence) -> Verdict:
    failed = Counter(failure_of(one.result) for one in evidence.observed)
    served = failed.pop("", 0)
    found = f"{served} of {len(evidence.observed)} served"
    kinds = ", ".join(f"{count} {kind}" for kind, count in failed.most_common())
    found += f"; {kinds}" if kinds else ""
    return judge("no invocation failed", not failed and served > 0, found)


def _same_failure(evidence: Evidence) -> Iterator[Verdict]:
    kinds = Counter(failure_of(one.result) or "served" for one in evidence.observed)
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    is_same = set(kinds) == {"MigrationFailed"}
    yield judge("every invocation failed because of the migration", is_same, found)
    causes = {check.cause for checks in evidence.checks.values() for check in checks}
    found = ", ".join(sorted(cause or "none" for cause in causes))
    yield judge("all failures have the same cause", len(causes) == 1 and "" not in causes, found)
    yield _one_try_per_pause(evidence)


def _one_try_per_pause(evidence: Evidence) -> Verdict:
    """The pause doubles with each failure; the sequence in the database counts every try."""
    first = float((evidence.scenario.settings or {})["LAMBDA_MIGRATE_FAILURE_PAUSE_SECONDS"])
    at = sorted(check.ended for check in evidence.migrators)
    gaps = [after - before for before, after in itertools.pairwise(at)]
    early = [gap for number, gap in enumerate(gaps) if gap < first * 2**number - _CLOCK_SLACK]
    found = f"{evidence.attempts} tries, {len(at)} in the logs"
    if gaps:
        found += ", apart by " + ", ".join(f"{gap:.1f}" for gap in gaps) + " s"
    is_held = evidence.attempts == len(at) and len(at) >= 1 and not early
    return judge("at most one try in each pause", is_held, found)


def _once(effects: Mapping[str, int], what: str) -> Verdict:
    others = {name: times for name, times in effects.items() if times != 1}
    found = f"{len(effects) - len(others)} of {len(effects)}"
    if others:
        found += "; " + ", ".join(f"{name} {times} times" for name, times in others.items())
    return judge(what, bool(effects) and not others, f"{found}, counted in the database")


def _one_connection(evidence: Evidence) -> Verdict:
    most = evidence.sessions_at_most
    found = f"{most} at most of {len(evidence.sessions)} in all, in the server's log"
    is_held = most <= 1 and bool(evidence.sessions)
    return judge("one PostgreSQL connection of the library at a time", is_held, found)


def _one_sampled_connection(evidence: Evidence) -> Iterator[Verdict]:
    what = "at most one in every sample"
    gaps = evidence.sample_gaps
    if gaps is None:
        yield Verdict(what, "not measured", "no samples")
        return
    found = (
        f"{evidence.sampled_at_most} at most in {gaps.count + 1} samples, "
        f"{gaps.median * 1000:.0f} ms apart, {gaps.worst * 1000:.0f} ms at most"
    )
    yield judge(what, evidence.sampled_at_most <= 1, found)


def peak_of(rates: Mapping[int, Mapping[str, int]]) -> tuple[int, int]:
    """Most reads and most writes in any ten successive tenths of a second."""

    def busiest(operations: set[str]) -> int:
        counts = {
            tenth: sum(count for name, count in counted.items() if name in operations)
            for tenth, counted in rates.items()
        }
        return max((sum(counts.get(t + n, 0) for n in range(10)) for t in counts), default=0)

    return busiest({"GetItem"}), busiest({"UpdateItem", "PutItem"})


def _below_the_limit(evidence: Evidence) -> Verdict:
    what = "below the limits of one DynamoDB partition"
    if evidence.rates is None:
        return Verdict(what, "not measured", "this engine counts no requests")
    reads, writes = peak_of(evidence.rates)
    found = (
        f"at most {reads} reads a second ({reads / 2:g} units if eventually consistent, "
        f"{reads} if not, of {READ_UNITS}), {writes} writes (of {WRITE_UNITS})"
    )
    # As if all reads were consistent.
    return judge(what, 0 < reads < READ_UNITS and writes < WRITE_UNITS, found)


def _same_calls(evidence: Evidence) -> Iterator[Verdict]:
    """The library's own count of its calls against the engine's, by environment.

    The holder's is left out: a renewal that is under way when the line is written may be missing.
    """
    what = "lease_calls in the logs match the engine's count"
    if not evidence.requests_of:
        yield Verdict(what, "not measured", "this engine counts no requests")
        return
    logged = {name: sum(c.lease_calls for c in own) for name, own in evidence.checks.items()}
    holders = {check.environment for check in evidence.migrators}
    differ = {
        name: (logged.get(name, 0), counted)
        for name, counted in evidence.requests_of.items()
        if logged.get(name, 0) != counted and name not in holders
    }
    found = f"{sum(logged.values())} in the logs, {sum(evidence.requests_of.values())} counted"
    lost = sum(own - counted for own, counted in differ.values())
    is_lost = all(own > counted for own, counted in differ.values())
    if differ and is_lost and lost <= _LOST_SHARE * sum(logged.values()):
        yield Verdict(what, "passed", f"{found}; {lost} were given up before they were read")
        return
    if differ:
        name, (own, counted) = next(iter(differ.items()))
        found += f"; {len(differ)} environments differ, {name}: {own} and {counted}"
    yield judge(what, not differ, found)


def _one_read(evidence: Evidence) -> Iterator[Verdict]:
    """The fast path: an environment that finds the schema current while none migrates."""
    current = [
        check
        for check in evidence.first_checks
        if check.outcome == "UP_TO_DATE" and not check.fence and not _overlaps(check, evidence)
    ]
    if current:
        more = sum(check.lease_calls != 1 for check in current)
        found = f"{len(current) - more} of {len(current)}"
        yield judge("one DynamoDB call where the schema is current", not more, found)


def _overlaps(check: SchemaCheck, evidence: Evidence) -> bool:
    """Whether a migration ran, or had just ended, at some moment of the check."""
    began = check.ended - check.seconds
    return any(
        interval.start < check.ended and began < interval.end + _RECORDED_SECONDS
        for interval in evidence.intervals
    )


def _same_requests(evidence: Evidence) -> Verdict:
    kinds: dict[str, tuple[int, int]] = {}
    for one in evidence.observed:
        requests, failures = kinds.get(one.kind, (0, 0))
        kinds[one.kind] = (requests + 1, failures + (not is_served(one.result)))
    found = ", ".join(f"{kind} {count}" for kind, (count, _) in sorted(kinds.items()))
    # Clients are stopped in the middle of a request: Locust may have dropped their last answers.
    is_held = all(
        evidence.locust.get(kind) == counted
        for kind, counted in kinds.items()
        if kind in ("cold", "warm")
    )
    return judge("Locust counted the same", is_held and bool(kinds), found)
