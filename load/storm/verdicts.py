"""What a storm must show, and whether it did. Pure: evidence in, verdicts out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from lambda_migrate.local.demo.evidence import Check
from lambda_migrate.local.demo.findings import is_served
from load.storm.evidence import Evidence
from load.storm.host import failure_of

__all__ = ["READ_UNITS", "WRITE_UNITS", "Peak", "Verdict", "peak_of", "verdicts"]

READ_UNITS = 3000
"""What one partition key sustains a second."""

WRITE_UNITS = 1000

State = Literal["passed", "failed", "not measured"]

_CLOCK_SLACK = 0.2
"""Seconds: a pause is counted by the holder from its failure on, and we see only its log line."""


_TOLD_SECONDS = 1.0
"""From a commit until DynamoDB has been told of it, on a machine that is busy."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that must be.

    Attributes:
        what: The law.
        state: Whether it held.
        found: What was measured.
    """

    what: str
    state: State
    found: str


@dataclass(frozen=True, slots=True)
class Peak:
    """The busiest second, at whichever tenth of a second it began.

    Attributes:
        reads: Read requests.
        writes: Write requests.
    """

    reads: int
    writes: int


def verdicts(evidence: Evidence) -> list[Verdict]:
    """All of them for this storm."""
    fails = evidence.scenario.kind == "failing"
    found = [_all_came(evidence)]
    found += _all_failed_alike(evidence) if fails else [_none_failed(evidence)]
    found += [
        _once(evidence.effects, "each migration took effect once"),
        _one_connection(evidence),
        *_sampled(evidence),
        _below_the_limit(evidence),
        *_counted_alike(evidence),
        *_asked_once(evidence),
        _locust_agrees(evidence),
    ]
    if evidence.scenario.rollback:
        found.append(_once(evidence.taken_back, "each down script took effect once"))
    found += [Verdict("nothing else went wrong", "failed", each) for each in evidence.troubles]
    return found


def _judge(what: str, held: bool, found: str) -> Verdict:
    return Verdict(what, "passed" if held else "failed", found)


def _all_came(evidence: Evidence) -> Verdict:
    wanted, came = evidence.scenario.environments, len(evidence.cold)
    fresh = sum(one.result.cold for one in evidence.cold)
    told = f"{came} of {wanted} came, {fresh} in an environment of their own"
    return _judge("every cold start took place", came == fresh == wanted, told)


def _none_failed(evidence: Evidence) -> Verdict:
    what = "no invocation failed"
    failed = Counter(failure_of(one.result) for one in evidence.observed)
    served = failed.pop("", 0)
    told = f"{served} of {len(evidence.observed)} served"
    kinds = ", ".join(f"{count} {kind}" for kind, count in failed.most_common())
    return _judge(what, not failed and served > 0, f"{told}; {kinds}" if kinds else told)


def _all_failed_alike(evidence: Evidence) -> Iterator[Verdict]:
    kinds = Counter(failure_of(one.result) or "served" for one in evidence.observed)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    alike = set(kinds) == {"MigrationFailed"}
    yield _judge("every invocation failed because of the migration", alike, told)
    causes = {check.cause for checks in evidence.checks.values() for check in checks}
    told = ", ".join(sorted(cause or "none" for cause in causes))
    yield _judge("all tell the same cause", len(causes) == 1 and "" not in causes, told)
    yield _one_try_per_pause(evidence)


def _one_try_per_pause(evidence: Evidence) -> Verdict:
    """The pause doubles with each failure; the sequence in the database counts every try."""
    first = float((evidence.scenario.settings or {})["LAMBDA_MIGRATE_FAILURE_PAUSE_SECONDS"])
    at = sorted(check.ended for check in evidence.migrators)
    gaps = [after - before for before, after in itertools.pairwise(at)]
    early = [gap for number, gap in enumerate(gaps) if gap < first * 2**number - _CLOCK_SLACK]
    told = f"{evidence.attempts} tries, {len(at)} by the logs"
    if gaps:
        told += ", apart by " + ", ".join(f"{gap:.1f}" for gap in gaps) + " s"
    held = evidence.attempts == len(at) and len(at) >= 1 and not early
    return _judge("at most one try in each pause", held, told)


def _once(effects: Mapping[str, int], what: str) -> Verdict:
    others = {name: times for name, times in effects.items() if times != 1}
    told = f"{len(effects) - len(others)} of {len(effects)}"
    if others:
        told += "; " + ", ".join(f"{name} {times} times" for name, times in others.items())
    return _judge(what, bool(effects) and not others, f"{told}, counted in the database")


def _one_connection(evidence: Evidence) -> Verdict:
    most = evidence.sessions_at_most
    told = f"{most} at most of {len(evidence.sessions)} in all, by the server's log"
    held = most <= 1 and bool(evidence.sessions)
    return _judge("never two PostgreSQL connections of ours at once", held, told)


def _sampled(evidence: Evidence) -> Iterator[Verdict]:
    what = "nor in any sample"
    gaps = evidence.sample_gaps
    if gaps is None:
        yield Verdict(what, "not measured", "no samples")
        return
    told = (
        f"{evidence.sampled_at_most} at most in {gaps.count + 1} samples, "
        f"{gaps.median * 1000:.0f} ms apart, {gaps.worst * 1000:.0f} ms at most"
    )
    yield _judge(what, evidence.sampled_at_most <= 1, told)


def peak_of(rates: Mapping[int, Mapping[str, int]]) -> Peak:
    """The most in any ten successive tenths of a second."""

    def busiest(operations: set[str]) -> int:
        counts = {
            tenth: sum(count for name, count in counted.items() if name in operations)
            for tenth, counted in rates.items()
        }
        return max((sum(counts.get(t + n, 0) for n in range(10)) for t in counts), default=0)

    return Peak(busiest({"GetItem"}), busiest({"UpdateItem", "PutItem"}))


def _below_the_limit(evidence: Evidence) -> Verdict:
    what = "below the limits of one DynamoDB partition"
    if evidence.rates is None:
        return Verdict(what, "not measured", "this engine counts no requests")
    peak = peak_of(evidence.rates)
    told = (
        f"at most {peak.reads} reads a second ({peak.reads / 2:g} units if eventually consistent, "
        f"{peak.reads} if not, of {READ_UNITS}), {peak.writes} writes (of {WRITE_UNITS})"
    )
    held = 0 < peak.reads < READ_UNITS and peak.writes < WRITE_UNITS  # as if all were consistent
    return _judge(what, held, told)


_UNREAD = 0.01


def _counted_alike(evidence: Evidence) -> Iterator[Verdict]:
    """The library's own account of its calls against the engine's, environment by environment.

    A renewal that is under way when the line is written may be missing from it: the holder's alone.
    A request that its sender gives up before the engine, a thousand of them at once on its hands,
    has read it is counted by the sender alone: one in a hundred at most may be such.
    """
    what = "lease_calls in the logs is what the engine counted"
    if not evidence.requests_of:
        yield Verdict(what, "not measured", "this engine counts no requests")
        return
    own = {name: sum(c.lease_calls for c in found) for name, found in evidence.checks.items()}
    holders = {check.environment for check in evidence.migrators}
    differ = {
        name: (own.get(name, 0), counted)
        for name, counted in evidence.requests_of.items()
        if own.get(name, 0) != counted and name not in holders
    }
    told = f"{sum(own.values())} by the logs, {sum(evidence.requests_of.values())} by the engine"
    unread = sum(ours - counted for ours, counted in differ.values())
    is_one_sided = all(ours > counted for ours, counted in differ.values())
    if differ and is_one_sided and unread <= _UNREAD * sum(own.values()):
        yield Verdict(what, "passed", f"{told}; {unread} were given up before it had read them")
        return
    if differ:
        name, (said, counted) = next(iter(differ.items()))
        told += f"; {len(differ)} environments differ, {name}: {said} and {counted}"
    yield _judge(what, not differ, told)


def _asked_once(evidence: Evidence) -> Iterator[Verdict]:
    """The fast path: an environment that finds the schema current, as nothing is being migrated."""
    current = [
        check
        for check in evidence.first_checks
        if check.outcome == "UP_TO_DATE" and not check.fence and not _is_beside(check, evidence)
    ]
    if current:
        more = sum(check.lease_calls != 1 for check in current)
        told = f"{len(current) - more} of {len(current)}"
        yield _judge("who finds the schema current asks DynamoDB once", not more, told)


def _is_beside(check: Check, evidence: Evidence) -> bool:
    """Whether a migration was going on, or just over, at some moment of the check."""
    began = check.ended - check.seconds
    return any(
        band.start < check.ended and began < band.end + _TOLD_SECONDS for band in evidence.bands
    )


def _locust_agrees(evidence: Evidence) -> Verdict:
    """What Locust reports is what took place: it has the storm's own figures."""
    kinds: dict[str, tuple[int, int]] = {}
    for one in evidence.observed:
        requests, failures = kinds.get(one.kind, (0, 0))
        kinds[one.kind] = (requests + 1, failures + (not is_served(one.result)))
    told = ", ".join(f"{kind} {asked}" for kind, (asked, _) in sorted(kinds.items()))
    # Clients are stopped in the middle of what they do: Locust may have dropped their last answers.
    held = all(
        evidence.locust.get(kind) == counted
        for kind, counted in kinds.items()
        if kind in ("cold", "warm")
    )
    return _judge("Locust has counted the same", held and bool(kinds), told)
