"""The rows of the table ``history``: what PostgreSQL says was applied."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from lambda_migrate.migrations.version import RepeatableVersion

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lambda_migrate.migrations.migration import Script
    from lambda_migrate.migrations.version import Version

__all__ = ["HistoryRow", "RowState", "find_row", "is_versioned"]


class RowState(str, Enum):
    """The state of a history row; ``STARTED`` and ``ROLLING_BACK`` are called *in doubt*."""

    APPLIED = "applied"
    STARTED = "started"
    """Its statement was about to run, and its outcome is not recorded."""
    ROLLING_BACK = "rolling_back"
    """The statement of its down script was about to run."""
    STALE = "stale"
    """A repeatable migration that has to be applied again, whatever its text."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One row of the table ``history``.

    Attributes:
        version: See `Migration`; for repeatable migrations see `RepeatableVersion`.
        name: See `Migration`.
        checksum: The file's checksum when it was applied.
        digest: The chain digest up to this migration when it was applied.
        state: See `RowState`.
        down: The down script as it was when applied.
        started_at: ISO 8601 in UTC.
        applied_at: ISO 8601 in UTC; None while in doubt.
        duration_ms: How long it took to apply, in milliseconds.
        fence: The fencing token under which it was applied.
        owner: The holder that applied it.
        baseline: True if it was marked as applied without running.
        up: For a row in doubt, its up script; else None.
        object_ids: For a row in doubt, the OIDs of the objects that its statement concerned before
            it began; None if they were not read.
        completed_statements: How many statements of a non-transactional script are known to have
            taken effect.
        is_between_statements: Whether the next one had not begun, so that none is in doubt.
    """

    version: Version
    name: str
    checksum: str
    digest: str
    state: RowState = RowState.APPLIED
    down: Script | None = None
    started_at: str = ""
    applied_at: str | None = None
    duration_ms: int = 0
    fence: int = 0
    owner: str = ""
    baseline: bool = False
    up: Script | None = None
    object_ids: tuple[int, ...] | None = None
    completed_statements: int = 0
    is_between_statements: bool = False

    @property
    def is_in_doubt(self) -> bool:
        """Whether its statement may or may not have taken effect."""
        return self.state in (RowState.STARTED, RowState.ROLLING_BACK)


def find_row(history: Iterable[HistoryRow], version: Version) -> HistoryRow | None:
    """The row of a version, or the last row of a repeatable migration, if there is one."""
    if not isinstance(version, RepeatableVersion):
        return next((row for row in history if row.version == version), None)
    rows = (row for row in history if row.name == version.name)
    return max(rows, key=lambda row: row.fence, default=None)


def is_versioned(row: HistoryRow) -> bool:
    """Whether it is the row of a versioned migration."""
    return not isinstance(row.version, RepeatableVersion)
