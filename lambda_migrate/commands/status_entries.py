"""The entries that `status` shows: manifest and history as one list."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from lambda_migrate.migrations.version import RepeatableVersion, RevisionVersion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lambda_migrate.engine.operations import SchemaStatus
    from lambda_migrate.migrations import Divergence, HistoryRow
    from lambda_migrate.migrations.version import Version

__all__ = [
    "STATES",
    "OmittedEntries",
    "StatusEntry",
    "build_entries",
    "count_states",
    "truncate_entries",
]

STATES = ("applied", "ahead", "in doubt", "edited", "missing", "out of order", "pending")
"""Every state of an entry. ``ahead``: applied by newer code; this code has no file of it, or an
older text of a repeatable migration."""

_MAX_UNTRUNCATED = 25
"""Lists of up to this length are not truncated."""

_MAX_APPLIED_SHOWN = 3
_MAX_OTHERS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class StatusEntry:
    """One migration.

    Attributes:
        version: Its version; the name of a repeatable migration.
        name: Its name.
        state: One of `STATES`.
        started_at: ISO 8601 in UTC; this and what follows is None if the history has no row.
        applied_at: ISO 8601 in UTC; also None while the migration is in doubt.
        duration_ms: How long it took to apply; None if it was not run.
        baseline: Whether it was marked as applied without running it.
        fence: The fencing token it was applied with.
        owner: The lease owner that applied it.
        has_down_script: Whether it can be rolled back; also None if only another tool knows.
    """

    version: Version
    name: str
    state: str
    started_at: str | None = None
    applied_at: str | None = None
    duration_ms: int | None = None
    baseline: bool = False
    fence: int | None = None
    owner: str | None = None
    has_down_script: bool | None = None


@dataclass(frozen=True, slots=True)
class OmittedEntries:
    """Consecutive entries that was left out."""

    count: int
    state: str


def build_entries(status: SchemaStatus) -> list[StatusEntry]:
    """Build the list of every migration in manifest and history, ordered by version."""
    plan = status.plan
    rows = {row.version: row for row in status.history}
    found = [_build_entry(row, row.name, "applied") for row in plan.applied]
    found += [_build_entry(row, row.name, _ahead_state(row)) for row in plan.ahead]
    found += [_build_entry(row, row.name, "in doubt") for row in plan.interrupted]
    found += [_build_diverged(each, rows.get(each.version)) for each in plan.divergences]
    listed = {entry.version for entry in found}
    found += [
        StatusEntry(m.version, m.name, "pending") for m in plan.pending if m.version not in listed
    ]
    return sorted(found, key=lambda entry: entry.version)


def _ahead_state(row: HistoryRow) -> str:
    return "in doubt" if row.is_in_doubt else "ahead"


def _build_diverged(divergence: Divergence, row: HistoryRow | None) -> StatusEntry:
    state = divergence.kind.replace("-", " ")
    if row is None:
        return StatusEntry(divergence.version, divergence.name, state)
    return _build_entry(row, divergence.name, state)


def _build_entry(row: HistoryRow, name: str, state: str) -> StatusEntry:
    was_run = row.applied_at and not row.baseline
    is_repeatable = isinstance(row.version, RepeatableVersion)
    return StatusEntry(
        version=RepeatableVersion(row.name) if is_repeatable else row.version,
        name=name,
        state=state,
        started_at=row.started_at,
        applied_at=row.applied_at,
        duration_ms=row.duration_ms if was_run else None,
        baseline=row.baseline,
        fence=row.fence,
        owner=row.owner,
        has_down_script=None if isinstance(row.version, RevisionVersion) else row.down is not None,
    )


def count_states(entries: Sequence[StatusEntry]) -> dict[str, int]:
    """Count the entries in each of `STATES`."""
    return {state: sum(entry.state == state for entry in entries) for state in STATES}


def truncate_entries(entries: Sequence[StatusEntry]) -> list[StatusEntry | OmittedEntries]:
    """Shorten a long list: keep the newest applied entries, and the first of every other state."""
    if len(entries) <= _MAX_UNTRUNCATED:
        return list(entries)
    groups = groupby(entries, key=lambda entry: entry.state)
    return [line for state, group in groups for line in _truncate_group(state, list(group))]


def _truncate_group(
    state: str, entries: list[StatusEntry]
) -> Iterator[StatusEntry | OmittedEntries]:
    is_applied = state in ("applied", "ahead")
    hidden = len(entries) - (_MAX_APPLIED_SHOWN if is_applied else _MAX_OTHERS_SHOWN + 1)
    if hidden <= 1:
        yield from entries
        return
    head = 0 if is_applied else _MAX_OTHERS_SHOWN
    yield from entries[:head]
    yield OmittedEntries(hidden, state)
    yield from entries[head + hidden :]
