"""What must hold of every round. Pure: evidence in, one sentence for each breach out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from load.chaos.evidence import ChaosEvidence, Observation, ProcessRecord
from load.chaos.migrations import list_migrations, make_index_name


def find_violated_invariants(evidence: ChaosEvidence) -> list[str]:
    """One sentence for each invariant that was violated, with what broke it."""
    return [
        f"{name}: {what}" for name, invariant in INVARIANTS.items() for what in invariant(evidence)
    ]


def _find_applied(evidence: ChaosEvidence) -> set[int]:
    return {version for version, state in evidence.state.history if state == "applied"}


def _effects_are_exactly_once(evidence: ChaosEvidence) -> Iterator[str]:
    """Every applied migration took effect once, and no other did."""
    state, applied = evidence.state, _find_applied(evidence)
    known = list_migrations(evidence.schedule, "probe")
    for version, (spec, _) in known.items():
        count = state.effects.get(version, 0)
        if spec.kind == "index":
            count = int(make_index_name(version) in state.indexes)
        if count != int(version in applied):
            status = "applied" if version in applied else "not applied"
            name = f"{version}_{spec.kind}"
            yield f"the history has {name} {status}, and it took effect {count} times"
    raised = sum(spec.kind == "balance" and v in applied for v, (spec, _) in known.items())
    if state.balance != raised:
        yield f"the balance is {state.balance} after {raised} migrations that add 1"


def _all_are_applied(evidence: ChaosEvidence) -> Iterator[str]:
    missing = list_migrations(evidence.schedule, "probe").keys() - _find_applied(evidence)
    if missing:
        yield f"not applied after the last cold start: {sorted(missing)}"


def _mirror_matches_version_table(evidence: ChaosEvidence) -> Iterator[str]:
    state = evidence.state
    if evidence.schedule.source != "sql" and sorted(state.mirror) != sorted(state.history):
        yield f"the mirror has {state.mirror}, the version table {state.history}"


def _repairs_need_committed_rows(evidence: ChaosEvidence) -> Iterator[str]:
    """A person is asked only about rows that an incomplete migration has committed."""
    for repair in evidence.repairs:
        if not repair.has_committed_rows:
            yield f"version {repair.version} required a repair, and had committed no rows"


def _up_and_down_alternate(evidence: ChaosEvidence) -> Iterator[str]:
    last: dict[int, str] = {}
    for version, direction, _ in evidence.state.runs:
        if last.get(version, "down") == direction:
            yield f"version {version} went {direction} twice in a row"
        last[version] = direction


def _lease_is_released(evidence: ChaosEvidence) -> Iterator[str]:
    """An owner that is left in the item, perhaps with a wrong clock, holds nothing any more."""
    state = evidence.state
    clock_error = max((process.clock_error for process in evidence.processes), default=0.0)
    if state.owner is not None and state.lease_expires_in > clock_error:
        yield f"{state.owner} still holds the lease, for {state.lease_expires_in:.1f} s more"


def _cold_starts_succeed(evidence: ChaosEvidence) -> Iterator[str]:
    """Afterwards a cold start succeeds within two leases; one that must fail says why."""
    for start in evidence.cold_starts:
        must_fail = start.code_version == "new" and bool(evidence.schedule.broken_version)
        # Once fixed code was here, the history holds another file under the same version.
        expected = {"MigrationFailed", "Diverged"} if must_fail else {"served"}
        name = f"a cold start of {start.code_version} code"
        if start.outcome not in expected:
            wanted = " or ".join(sorted(expected))
            yield f"{name} ended with {start.outcome} instead of {wanted}: {start.message}"
        if start.seconds > start.limit:
            yield f"{name} took {start.seconds:.1f} s, more than {start.limit:.1f}"


_MAX_OBSERVATION_SECONDS = 0.4  # from the library's decision to the query, also on a busy machine
_LATE_RESPONSE_SECONDS = 1.0  # a read whose response is late shows an earlier moment


def _served_on_current_schema(evidence: ChaosEvidence) -> Iterator[str]:
    """No environment serves on a schema that lacks one of its migrations."""
    for one in evidence.observations:
        broken = list_migrations(evidence.schedule, one.code_version).get(
            evidence.schedule.broken_version
        )
        if broken is not None and broken[1]:
            yield f"{one.process} served with code whose migration cannot have been applied"
        elif one.versions is None:
            yield f"{one.process} served, and the database could not be queried"
        else:
            yield from _find_missing_migrations(evidence, one)


def _find_missing_migrations(evidence: ChaosEvidence, one: Observation) -> Iterator[str]:
    late = one.frozen_seconds + _MAX_OBSERVATION_SECONDS
    late += _LATE_RESPONSE_SECONDS if "dynamodb-slow" in evidence.fault_counts else 0.0
    rolled_back = {
        version
        for version, direction, at in evidence.state.runs
        if direction == "down" and at > one.served_at - late
    }
    # An index that is dropped concurrently leaves no row with the time of its removal.
    has_rollback = any(process.name == "rollback" for process in evidence.processes)
    for version, (spec, _) in list_migrations(evidence.schedule, one.code_version).items():
        if spec.kind == "index":
            is_fine = make_index_name(version) in one.indexes or has_rollback
        else:
            is_fine = version in (one.versions or ()) or version in rolled_back
        if not is_fine:
            yield f"{one.process} served without {version}_{spec.kind}"


_TRANSIENT_ERRORS = {
    "DatabaseUnavailable",
    "LeaseHeld",
    "LeaseLost",
    "LeaseStoreUnavailable",
    "NotReady",
}
"""Retryable: these fit everything that can go wrong here."""

_EXPECTED_MESSAGES = ("deadline", "the connection to PostgreSQL broke", "lock timeout")
"""Parts of the messages with which a sound migration may fail."""

_MESSAGES_OF_BROKEN_CODE = (
    "division by zero",
    "could not create unique index",
    "the history contradicts",
)
"""The same of one that is broken on purpose, and of the code before its fix afterwards."""


def _exits_are_explained(evidence: ChaosEvidence) -> Iterator[str]:
    """A process ends by itself, perhaps with an error that fits the faults, or is killed."""
    for process in evidence.processes:
        if process.exit_code not in (0, None) and not process.killed:
            yield f"{process.name} ended with code {process.exit_code}, see its log"
        for event in process.events:
            if event["event"] == "raised" and not _is_expected(evidence, process, event):
                yield f"{process.name} raised {event['error']}: {event['message']}"


def _is_expected(evidence: ChaosEvidence, process: ProcessRecord, event: dict[str, Any]) -> bool:
    error, message = event["error"], event["message"]
    if error in _TRANSIENT_ERRORS:
        return True
    if error == "RepairRequired" or "it was interrupted" in message:
        return bool(evidence.repairs)  # it is still required at the end
    if process.name == "rollback" and error == "ConfigurationError":
        return "no such version" in message  # it comes before the migration
    words: tuple[str, ...] = _EXPECTED_MESSAGES
    if evidence.schedule.broken_version:
        words += _MESSAGES_OF_BROKEN_CODE
    if any(re.match(r"kill.* (child|both)", kind) for kind in evidence.fault_counts):
        words += ("was killed by signal 9",)
    return error in ("MigrationFailed", "Diverged") and any(word in message for word in words)


def _deadlines_are_kept(evidence: ChaosEvidence) -> Iterator[str]:
    for process in evidence.processes:
        if process.killed == "deadline" and not process.frozen:
            yield f"{process.name} had to be killed at its deadline"


INVARIANTS: dict[str, Callable[[ChaosEvidence], Iterator[str]]] = {
    "effects exactly once": _effects_are_exactly_once,
    "all applied in the end": _all_are_applied,
    "same result as the tool alone": lambda evidence: iter(evidence.state.differences),
    "mirror of the version table": _mirror_matches_version_table,
    "repair only after changed rows": _repairs_need_committed_rows,
    "applied once between rollbacks": _up_and_down_alternate,
    "no INVALID index": lambda evidence: (
        f"index {name} is INVALID" for name, valid in evidence.state.indexes.items() if not valid
    ),
    "no connection left": lambda evidence: (
        f"still open: {connection}" for connection in evidence.state.connections
    ),
    "no connection one lease later": lambda evidence: (
        f"open one lease after the last process had ended: {connection}"
        for connection in evidence.state.leftover_connections
    ),
    "no process left": lambda evidence: (
        f"still runs: {process}" for process in evidence.state.children
    ),
    "no lease past its time": _lease_is_released,
    "no secret anywhere": lambda evidence: iter(evidence.state.secrets),
    "cold start afterwards": _cold_starts_succeed,
    "served on its schema": _served_on_current_schema,
    "every exit is explained": _exits_are_explained,
    "deadlines kept": _deadlines_are_kept,
}
"""Every invariant by the name that the report, the docs and the tests use."""
