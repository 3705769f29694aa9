"""What must hold of every round, whatever went wrong in it. Pure: evidence in, sentences out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from load.chaos.code import index_name, versions_of
from load.chaos.evidence import Check, Evidence, Life

__all__ = ["LAWS", "broken_laws"]


def broken_laws(evidence: Evidence) -> list[str]:
    """One sentence for each law that was broken, with what broke it."""
    return [f"{name}: {what}" for name, law in LAWS.items() for what in law(evidence)]


# --- effects and history


def _exactly_once(evidence: Evidence) -> Iterator[str]:
    """Every applied migration's effects are there once, and nobody else's are."""
    facts = evidence.facts
    applied = {version for version, state in facts.history if state == "applied"}
    wanted = versions_of(evidence.schedule, "probe")
    for version, (step, _) in wanted.items():
        if step.kind == "index":
            there = int(index_name(version) in facts.indexes)
        else:
            there = facts.effects.get(version, 0)
        if there != int(version in applied):
            yield (
                f"{version}_{step.kind} is {'applied' if version in applied else 'not applied'} by "
                f"the history, and its effects are there {there} times"
            )
    raised = sum(1 for v, (step, _) in wanted.items() if step.kind == "balance" and v in applied)
    if facts.balance != raised:
        yield f"the balance is {facts.balance} after {raised} migrations that add 1"


def _complete(evidence: Evidence) -> Iterator[str]:
    """After the last cold start everything is applied."""
    missing = versions_of(evidence.schedule, "probe").keys() - {
        version for version, state in evidence.facts.history if state == "applied"
    }
    if missing:
        yield f"after the last cold start these are not applied: {sorted(missing)}"


def _alternating(evidence: Evidence) -> Iterator[str]:
    """No migration is applied twice without having been rolled back in between."""
    last: dict[int, str] = {}
    for version, way, _ in evidence.facts.deeds:
        if last.get(version, "down") == way:
            yield f"version {version} went {way} twice in a row"
        last[version] = way


def _valid_indexes(evidence: Evidence) -> Iterator[str]:
    for name, is_valid in evidence.facts.indexes.items():
        if not is_valid:
            yield f"index {name} is INVALID"


# --- what is left behind


def _no_backends(evidence: Evidence) -> Iterator[str]:
    for backend in evidence.facts.backends:
        yield f"a connection of ours is still open: {backend}"


def _no_lingering(evidence: Evidence) -> Iterator[str]:
    for backend in evidence.facts.lingering:
        yield f"one lease after everybody had ended, a connection of ours was open: {backend}"


def _no_lease(evidence: Evidence) -> Iterator[str]:
    """Whoever is left in the item, perhaps with a clock that is off, holds nothing any more."""
    facts = evidence.facts
    if facts.owner is None:
        return
    off = max((life.clock for life in evidence.lives), default=0.0)
    if facts.lease_over_in > off:
        yield f"{facts.owner} still holds the lease, for {facts.lease_over_in:.1f} s more"


def _no_secret(evidence: Evidence) -> Iterator[str]:
    yield from evidence.facts.secrets


# --- starts


def _starts(evidence: Evidence) -> Iterator[str]:
    """Afterwards a cold start succeeds within two leases; one that must fail says why."""
    for start in evidence.starts:
        must_fail = start.code == "new" and bool(evidence.schedule.broken)
        # Once mended code was here, the history holds another file under the same version.
        wanted = {"MigrationFailed", "Diverged"} if must_fail else {"served"}
        if start.ended not in wanted:
            yield (
                f"a cold start of {start.code} code ended with {start.ended} instead of "
                f"{' or '.join(sorted(wanted))}: {start.message}"
            )
        if start.seconds > start.bound:
            yield (
                f"a cold start of {start.code} code took {start.seconds:.1f} s, more than "
                f"{start.bound:.1f}"
            )


def _served(evidence: Evidence) -> Iterator[str]:
    """Nobody is served on a schema that it lacks."""
    for check in evidence.checks:
        broken = versions_of(evidence.schedule, check.code).get(evidence.schedule.broken)
        if broken is not None and broken[1]:
            yield f"{check.who} was served with code whose migration cannot have been applied"
        elif check.versions is None:
            yield f"{check.who} was served, and the database could not be looked at"
        else:
            yield from _missing(evidence, check)


_PROMPT_SECONDS = 0.4
"""Between the library's word and our looking; more where the machine is busy is not excused."""

_LATE_ANSWER_SECONDS = 1.0
"""A read whose answer is late tells of the moment before."""


def _missing(evidence: Evidence, check: Check) -> Iterator[str]:
    late = check.stood_still + _PROMPT_SECONDS
    if evidence.strikes["dynamodb-slow"]:
        late += _LATE_ANSWER_SECONDS
    for version, (step, _) in versions_of(evidence.schedule, check.code).items():
        if step.kind == "index":
            is_there = index_name(version) in check.indexes
            is_excused = _may_be_dropping(evidence)
        else:
            is_there = version in (check.versions or ())
            is_excused = _rolled_back_after(evidence, version, check.served_wall - late)
        if not is_there and not is_excused:
            yield f"{check.who} was served without {version}_{step.kind}"


def _rolled_back_after(evidence: Evidence, version: int, moment: float) -> bool:
    return any(
        deed == version and way == "down" and at > moment for deed, way, at in evidence.facts.deeds
    )


def _may_be_dropping(evidence: Evidence) -> bool:
    """An index that is dropped concurrently leaves no row that says when it was gone."""
    return any(life.name == "rollback" for life in evidence.lives)


# --- how each environment ended


_ORDINARY = {"DatabaseUnavailable", "LeaseHeld", "LeaseLost", "LeaseStoreUnavailable", "NotReady"}
"""Come back later: these fit everything that can go wrong here."""

_FORCED = ("deadline", "the connection to PostgreSQL broke", "lock timeout")
"""What a sound migration may fail of, in the words of its failure."""

_BROKEN = ("division by zero", "could not create unique index", "the history contradicts")
"""What one that is broken on purpose fails of, and what is said once it was mended."""


_NOTHING_TO_ROLL_BACK = ("no such version",)
"""What a rollback answers that comes before the migration."""


def _named_ends(evidence: Evidence) -> Iterator[str]:
    """An end is an answer, a named error that fits what went wrong, or a kill of ours."""
    for life in evidence.lives:
        if life.exit_code not in (0, None) and not life.killed:
            yield f"{life.name} ended with code {life.exit_code}, see its log"
        for event in life.events:
            if event["event"] == "raised" and not _fits(evidence, life, event):
                yield f"{life.name} raised {event['error']}: {event['message']}"


def _fits(evidence: Evidence, life: Life, event: dict[str, Any]) -> bool:
    error, message = event["error"], event["message"]
    if error in _ORDINARY:
        return True
    if life.name == "rollback" and error == "ConfigurationError":
        return any(word in message for word in _NOTHING_TO_ROLL_BACK)
    # Two texts under one version: whoever comes second is told.
    words = _FORCED + (_BROKEN if evidence.schedule.broken else ())
    return error in ("MigrationFailed", "Diverged") and any(word in message for word in words)


def _deadlines(evidence: Evidence) -> Iterator[str]:
    """Who was not frozen ends by itself before its deadline."""
    for life in evidence.lives:
        if life.killed == "deadline" and not life.frozen:
            yield f"{life.name} had to be killed at its deadline"


LAWS: dict[str, Callable[[Evidence], Iterator[str]]] = {
    "effects exactly once": _exactly_once,
    "all is applied in the end": _complete,
    "applied once between rollbacks": _alternating,
    "no INVALID index": _valid_indexes,
    "no backend of ours": _no_backends,
    "no backend one lease later": _no_lingering,
    "no lease past its time": _no_lease,
    "no secret anywhere": _no_secret,
    "a fresh cold start": _starts,
    "served on its schema": _served,
    "named ends": _named_ends,
    "deadlines kept": _deadlines,
}
"""Every law by the name that the report and the tests use."""
