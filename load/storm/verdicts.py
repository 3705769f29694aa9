"""What a storm must show, whether it did, and the report of both.

Pure but for the report: evidence in, verdicts out.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lambda_migrate.local.demo.checks import Distribution, SchemaCheck
from load.bench.report import describe_machine
from load.bench.results import Table, markdown_table
from load.storm.evidence import StormEvidence
from load.storm.testbed import ObservedInvocation, classify_failure

READ_UNITS, WRITE_UNITS = 3000, 1000  # what one DynamoDB partition sustains a second
_CLOCK_SLACK_SECONDS = 0.2  # the holder counts a pause from its failure, we from its log line
_MAX_RECORDING_SECONDS = 1.0  # from a commit to its record in DynamoDB, on a busy machine
_MAX_LOST_SHARE = 0.01  # of requests that are given up before the busy DynamoDB API has read them


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that must hold, and what was measured."""

    name: str
    state: Literal["passed", "failed", "not measured"]
    measured: str


def make_verdict(name: str, has_passed: bool, measured: str) -> Verdict:
    """A verdict on what was measured."""
    return Verdict(name, "passed" if has_passed else "failed", measured)


def verdicts(evidence: StormEvidence) -> list[Verdict]:
    """All of them for this storm."""
    must_fail = evidence.scenario.kind == "failing"
    results = [_check_cold_starts(evidence)]
    results += _check_failure_causes(evidence) if must_fail else [_check_no_failures(evidence)]
    results += [
        _check_effects(evidence.effects, "each migration took effect once"),
        _check_connections(evidence),
        *_check_holders(evidence),
        _check_partition_load(evidence),
        _check_call_counts(evidence),
        *_check_fast_path(evidence),
        _check_locust_counts(evidence),
    ]
    if evidence.scenario.rollback:
        what = "each down script took effect once"
        results.append(_check_effects(evidence.rollback_effects, what))
    return [
        *results,
        *(make_verdict("nothing else went wrong", False, each) for each in evidence.errors),
    ]


def _check_cold_starts(evidence: StormEvidence) -> Verdict:
    wanted, started = evidence.scenario.environments, len(evidence.cold_starts)
    fresh = sum(one.result.cold for one in evidence.cold_starts)
    found = f"{started} of {wanted}, {fresh} in an environment of its own"
    return make_verdict("every cold start took place", started == fresh == wanted, found)


def _count_results(invocations: Iterable[ObservedInvocation]) -> Counter[str]:
    return Counter(classify_failure(one.result) or "served" for one in invocations)


def _count_failures(evidence: StormEvidence) -> tuple[Counter[str], str]:
    kinds = _count_results(evidence.invocations)
    return kinds, ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _check_no_failures(evidence: StormEvidence) -> Verdict:
    kinds, found = _count_failures(evidence)
    kills = int(evidence.scenario.kills)
    has_passed = set(kinds) - {"crashed"} == {"served"} and kinds["crashed"] == kills
    what = "no invocation failed" + " but that of the killed holder" * kills
    return make_verdict(what, has_passed, found)


def _check_failure_causes(evidence: StormEvidence) -> Iterator[Verdict]:
    kinds, found = _count_failures(evidence)
    is_same = set(kinds) == {"MigrationFailed"}
    yield make_verdict("every invocation failed because of the migration", is_same, found)
    causes = {check.cause for checks in evidence.checks.values() for check in checks}
    found = ", ".join(sorted(cause or "none" for cause in causes))
    yield make_verdict(
        "all failures have the same cause", len(causes) == 1 and "" not in causes, found
    )
    yield _check_attempts(evidence)


def _check_attempts(evidence: StormEvidence) -> Verdict:
    """The pause doubles with each failure; the sequence in the database counts every attempt."""
    first = float((evidence.scenario.settings or {})["LAMBDA_MIGRATE_FAILURE_PAUSE_SECONDS"])
    ends = sorted(check.ended for check in evidence.holder_checks)
    gaps = [after - before for before, after in itertools.pairwise(ends)]
    early = [n for n, gap in enumerate(gaps) if gap < first * 2**n - _CLOCK_SLACK_SECONDS]
    found = f"{evidence.attempts} attempts, {len(ends)} in the logs"
    found += "".join(f", {gap:.1f} s later" for gap in gaps)
    has_passed = evidence.attempts == len(ends) and len(ends) >= 1 and not early
    return make_verdict("at most one attempt in each pause", has_passed, found)


def _check_effects(effects: Mapping[str, int], what: str) -> Verdict:
    others = [f"; {name} {times} times" for name, times in effects.items() if times != 1]
    found = f"{len(effects) - len(others)} of {len(effects)}{''.join(others)}"
    return make_verdict(what, bool(effects) and not others, f"{found}, counted in the database")


def _check_connections(evidence: StormEvidence) -> Verdict:
    most = evidence.max_sessions
    found = f"{most} at most of {len(evidence.sessions)} in all, in the server's log"
    # A takeover connects, and then ends the statement that a killed holder has left.
    has_passed = 1 <= most <= 1 + evidence.scenario.kills
    return make_verdict("one PostgreSQL connection of the library at a time", has_passed, found)


def _check_holders(evidence: StormEvidence) -> Iterator[Verdict]:
    """What waits neither connects nor loads a tool; the example's own handler connects."""
    scenario = evidence.scenario
    if scenario.kind == "orders":
        return
    yield _check_effects(evidence.record_counts, "each migration is recorded once")
    holders = len(evidence.holder_checks) + scenario.kills
    connected = len({session.name for session in evidence.sessions})
    found = f"{connected} with connections, {holders} with the lease"
    found += f"; {evidence.other_connections} connections of others"
    has_passed = connected <= holders and not evidence.other_connections
    yield make_verdict("only holders connect to PostgreSQL", has_passed, found)
    if scenario.kind in ("alembic", "django"):
        payloads = [one.result.payload for one in evidence.invocations]
        imported = sum(isinstance(each, dict) and each.get("imported") != [] for each in payloads)
        found = f"{evidence.tool_processes} processes loaded it, {holders} had the lease"
        found += f"; imported in {imported} of {len(payloads)} invocations"
        has_passed = evidence.tool_processes == 1 + scenario.kills and not imported
        yield make_verdict(
            f"one child process loads {scenario.kind} for each holder", has_passed, found
        )


def find_peaks(rates: Mapping[int, Mapping[str, int]]) -> tuple[int, int]:
    """Most reads and most writes in any ten successive tenths of a second."""

    def busiest(operations: set[str]) -> int:
        counts = {
            tenth: sum(count for name, count in counted.items() if name in operations)
            for tenth, counted in rates.items()
        }
        return max((sum(counts.get(t + n, 0) for n in range(10)) for t in counts), default=0)

    return busiest({"GetItem"}), busiest({"UpdateItem", "PutItem"})


def _check_partition_load(evidence: StormEvidence) -> Verdict:
    what = "below the limits of one DynamoDB partition"
    reads, writes = find_peaks(evidence.request_rates)
    found = f"at most {reads} reads (of {READ_UNITS}), {writes} writes (of {WRITE_UNITS}) a second"
    # As if all reads were consistent.
    return make_verdict(what, 0 < reads < READ_UNITS and writes < WRITE_UNITS, found)


def _check_call_counts(evidence: StormEvidence) -> Verdict:
    """The library's own count of its calls against the DynamoDB API's, by environment.

    The holder's is left out: a renewal that is under way when the line is written may be missing.
    """
    what = "lease_calls in the logs match the DynamoDB API's count"
    counted = evidence.requests_by_environment
    logged = {name: sum(c.lease_calls for c in own) for name, own in evidence.checks.items()}
    holders = {check.environment for check in evidence.holder_checks} | {evidence.killed_holder}
    lost = [logged.get(name, 0) - n for name, n in counted.items() if name not in holders]
    found = f"{sum(logged.values())} in the logs, {sum(counted.values())} counted"
    if any(lost):
        found += f"; {sum(map(bool, lost))} environments differ, by {min(lost)} to {max(lost)}"
    has_passed = min(lost, default=0) >= 0 and sum(lost) <= _MAX_LOST_SHARE * sum(logged.values())
    return make_verdict(what, has_passed and any(counted.values()), found)


def _check_fast_path(evidence: StormEvidence) -> Iterator[Verdict]:
    """The fast path: an environment that finds the schema current while none migrates."""
    calls = [
        check.lease_calls
        for check in evidence.first_checks
        if check.outcome == "UP_TO_DATE"
        and not check.fence
        and not _overlaps_migration(check, evidence)
    ]
    if calls:
        found = f"{calls.count(1)} of {len(calls)}"
        yield make_verdict(
            "one DynamoDB call where the schema is current", set(calls) == {1}, found
        )


def _overlaps_migration(check: SchemaCheck, evidence: StormEvidence) -> bool:
    """Whether a migration ran, or had just ended, at some moment of the check."""
    began = check.ended - check.seconds
    return any(
        interval.start < check.ended and began < interval.end + _MAX_RECORDING_SECONDS
        for interval in evidence.intervals
    )


def _check_locust_counts(evidence: StormEvidence) -> Verdict:
    # Clients are stopped in the middle of a request: Locust may have dropped their last answers.
    # A warm invocation is cold where the environment was killed.
    expected = {}
    results = [one.result for one in evidence.invocations if one.kind in ("cold", "warm")]
    for kind in ("cold", "warm"):
        failures = [classify_failure(one) for one in results if one.cold == (kind == "cold")]
        if failures:
            expected[kind] = (len(failures), sum(map(bool, failures)))
    found = ", ".join(f"{kind} {count}" for kind, (count, _) in expected.items())
    has_passed = all(
        evidence.locust_counts.get(kind) == counts for kind, counts in expected.items()
    )
    return make_verdict("Locust counted the same", has_passed and bool(expected), found)


_INVOCATION_KINDS = ("cold", "warm", "write", "read")


def write_report(evidence: StormEvidence, results: Sequence[Verdict], out: Path) -> None:
    """Write ``report.json`` and ``report.md`` into ``out``, beside Locust's own.

    Figures are seconds unless their key says otherwise.
    """
    distributions = _make_distributions(evidence)
    figures = {
        "passed": all(one.state != "failed" for one in results),
        "verdicts": [asdict(one) for one in results],
        "scenario": asdict(evidence.scenario),
        "machine": describe_machine(),
        "seconds": round(evidence.seconds, 1),
        "invocations": {
            kind: dict(_count_results(one for one in evidence.invocations if one.kind == kind))
            for kind in _INVOCATION_KINDS
        },
        **{name: asdict(found) for name, found in distributions.items()},
        "outcomes": dict(Counter(check.outcome for check in evidence.first_checks)),
        "migrated_by": [asdict(check) for check in evidence.holder_checks],
        "effects": dict(evidence.effects),
        "attempts": evidence.attempts,
        "dynamodb_busiest_second": find_peaks(evidence.request_rates),
        "connections": {"at_most": evidence.max_sessions, "in_all": len(evidence.sessions)},
        "rolled_back": evidence.rollback_seconds,
        "locust": {name: list(counts) for name, counts in evidence.locust_counts.items()},
    }
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    (out / "report.json").write_text(text + "\n")
    rows = [
        (name.replace("_", " "), *(f"{value:.3f}" for value in (one.median, one.p99, one.worst)))
        for name, one in distributions.items()
    ]
    lines = "".join(f"- {one.state}: {one.name}: {one.measured}\n" for one in results)
    table = markdown_table(Table(("", "median", "p99", "worst"), rows))
    (out / "report.md").write_text(f"# {evidence.scenario.name}\n\n{lines}\n{table}")


def _make_distributions(evidence: StormEvidence) -> dict[str, Distribution]:
    values: dict[str, Sequence[float]] = {
        f"{kind}_invocations": [
            one.result.duration_seconds for one in evidence.invocations if one.kind == kind
        ]
        for kind in _INVOCATION_KINDS
    }
    values |= {
        "init": [one.result.init_seconds for one in evidence.cold_starts],
        "waited": [check.waited for check in evidence.waiter_checks],
        "commit_to_handler": evidence.seconds_to_handler,
        "commit_to_answer": evidence.seconds_to_answer,
        "dynamodb_calls_of_each_waiter": [check.lease_calls for check in evidence.waiter_checks],
    }
    found = {name: Distribution.of(each) for name, each in values.items()}
    return {name: each for name, each in found.items() if each is not None}
