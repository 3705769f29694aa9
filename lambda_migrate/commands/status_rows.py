"""Manifest and history as one list: what `status` shows, line by line."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from lambda_migrate.migrations import RowState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lambda_migrate.engine.operations import Status
    from lambda_migrate.migrations import Divergence, HistoryRow

__all__ = ["STATES", "Entry", "Gap", "abridged", "counts", "entries_of"]

STATES = ("applied", "ahead", "in doubt", "edited", "missing", "out of order", "pending")
"""Every state that an entry can have. ``ahead``: newer code applied it, its file is not here."""

_SHORT = 25
"""A list of at most so many lines is shown whole."""

_OLD_KEPT = 3
_NEW_KEPT = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """One migration.

    Attributes:
        version: Its version.
        name: Its name.
        state: One of `STATES`.
        started_at: ISO 8601 in UTC; this and what follows is None where the history has no row.
        applied_at: ISO 8601 in UTC; None while in doubt as well.
        duration_ms: What applying took, in milliseconds; None where nothing was run.
        baseline: True where it was only declared to be applied.
        fence: The token under which it was applied.
        owner: Who applied it.
        has_down_script: Whether it can be taken back.
    """

    version: int
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
class Gap:
    """Entries that were left out."""

    count: int
    state: str


def entries_of(status: Status) -> list[Entry]:
    """Every migration of manifest and history, in the order of versions."""
    plan = status.plan
    rows = {row.version: row for row in status.history}
    found = [_entry(row, row.name, "applied") for row in plan.applied]
    found += [_entry(row, row.name, _ahead(row)) for row in plan.ahead]
    found += [_entry(row, row.name, "in doubt") for row in plan.in_doubt]
    found += [_diverged(each, rows.get(each.version)) for each in plan.divergences]
    taken = {entry.version for entry in found}
    found += [Entry(m.version, m.name, "pending") for m in plan.pending if m.version not in taken]
    return sorted(found, key=lambda entry: entry.version)


def _ahead(row: HistoryRow) -> str:
    return "ahead" if row.state is RowState.APPLIED else "in doubt"


def _diverged(divergence: Divergence, row: HistoryRow | None) -> Entry:
    state = divergence.kind.replace("-", " ")
    if row is None:
        return Entry(divergence.version, divergence.name, state)
    return _entry(row, divergence.name, state)


def _entry(row: HistoryRow, name: str, state: str) -> Entry:
    was_run = row.applied_at and not row.baseline
    return Entry(
        version=row.version,
        name=name,
        state=state,
        started_at=row.started_at,
        applied_at=row.applied_at,
        duration_ms=row.duration_ms if was_run else None,
        baseline=row.baseline,
        fence=row.fence,
        owner=row.owner,
        has_down_script=row.down is not None,
    )


def counts(entries: Sequence[Entry]) -> dict[str, int]:
    """How many there are in each state, all of `STATES` included."""
    return {state: sum(entry.state == state for entry in entries) for state in STATES}


def abridged(entries: Sequence[Entry]) -> list[Entry | Gap]:
    """A long list without what nobody reads: most of what was applied, most of a long rest."""
    if len(entries) <= _SHORT:
        return list(entries)
    runs = groupby(entries, key=lambda entry: entry.state)
    return [line for state, run in runs for line in _short_run(state, list(run))]


def _short_run(state: str, run: list[Entry]) -> Iterator[Entry | Gap]:
    is_old = state in ("applied", "ahead")
    hidden = len(run) - (_OLD_KEPT if is_old else _NEW_KEPT + 1)
    if hidden <= 1:
        yield from run
        return
    head = 0 if is_old else _NEW_KEPT
    yield from run[:head]
    yield Gap(hidden, state)
    yield from run[head + hidden :]
