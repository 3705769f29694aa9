"""Repeatable migrations: views, functions and grants, applied again when their text changes.

Their files have no version (``R__orders_view.sql``). They run after the versioned migrations, in
the order of their names, and the history gets a row for each application. Code can be older than
the database, and must not put its older text back. For each file the last row of its name decides::

    no row, or it is stale                                        pending
    it has this text                                              applied
    older code: the database has versions that this code lacks    ahead
    newer code: it has versions that the code of that row lacked  pending
    same versions, and an earlier row has this text               ahead
    same versions otherwise                                       pending

A row is *stale* once a versioned migration was rolled back, which may have dropped or changed what
the text created. Rows are ordered by their fencing tokens; each holder applies a file once.

The digest of a manifest covers its repeatable migrations, and later rows do not show which sets of
them there were. So each manifest that the database has satisfied gets a row of its own, its
*manifest row*; `find_satisfied_digests` derives from these what is ready.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lambda_migrate.manifest_digest import EMPTY_DIGEST, add_repeatables, chain_digest
from lambda_migrate.migrations.history import RowState, is_versioned
from lambda_migrate.migrations.migration import Migration, Script
from lambda_migrate.migrations.version import RepeatableVersion

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lambda_migrate.migrations.history import HistoryRow
    from lambda_migrate.migrations.version import Version

__all__ = [
    "RepeatablePlan",
    "find_satisfied_digests",
    "make_manifest_row",
    "plan_repeatables",
]

_MANIFEST_ROW_PREFIX = "R:"


class RepeatablePlan(NamedTuple):
    """The repeatable migrations of a plan; see `Plan`."""

    pending: tuple[Migration, ...]
    applied: tuple[HistoryRow, ...]
    ahead: tuple[HistoryRow, ...]


def plan_repeatables(
    repeatables: Iterable[Migration],
    history: Iterable[HistoryRow],
    *,
    last_version: Version,
    is_older_code: bool,
) -> RepeatablePlan:
    """Compare the repeatable migrations of a manifest with the history.

    Args:
        repeatables: Those that this code ships.
        history: All rows.
        last_version: The last version that this code ships; -1 if none.
        is_older_code: Whether the database has versions that this code lacks.
    """
    rows = sorted(history, key=lambda row: row.fence)
    by_name: dict[str, list[HistoryRow]] = {}
    for row in rows:
        if isinstance(row.version, RepeatableVersion) and not row.version.startswith(
            _MANIFEST_ROW_PREFIX
        ):
            by_name.setdefault(row.version.name, []).append(row)
    pending: list[Migration] = []
    applied: list[HistoryRow] = []
    ahead: list[HistoryRow] = []
    for migration in repeatables:
        own_rows = by_name.get(migration.name, [])
        if _is_pending(migration, own_rows, last_version, is_older_code=is_older_code):
            pending.append(migration)
        else:
            is_same = own_rows[-1].checksum == migration.checksum
            (applied if is_same else ahead).append(own_rows[-1])
    return RepeatablePlan(tuple(pending), tuple(applied), tuple(ahead))


def _is_pending(
    migration: Migration, rows: Sequence[HistoryRow], last_version: Version, *, is_older_code: bool
) -> bool:
    if not rows or rows[-1].state is not RowState.APPLIED:
        return True
    last = rows[-1]
    if last.checksum == migration.checksum or is_older_code:
        return False
    assert isinstance(last.version, RepeatableVersion)  # noqa: S101 - rows of repeatable migrations
    if last.version.last_version != last_version:
        return last.version.last_version < last_version
    return all(row.checksum != migration.checksum for row in rows)


def make_manifest_row(last_version: Version, checksum: str) -> Migration:
    """What is recorded as applied once the database satisfies a manifest with repeatables.

    Args:
        last_version: `Manifest.version`.
        checksum: `Manifest.repeatables_checksum`.
    """
    return Migration(
        version=RepeatableVersion(f"{_MANIFEST_ROW_PREFIX}{last_version}:{checksum}"),
        name=f"repeatable migrations at version {last_version}",
        up=Script(""),
        down=None,
        checksum=checksum,
    )


def find_satisfied_digests(history: Sequence[HistoryRow]) -> tuple[str, ...]:
    """The digest of every manifest that the history satisfies, in the order of versions.

    Computed from versions and checksums. The digest in a row dates from when it was applied;
    earlier rows may have been rolled back, added or repaired since.
    """
    recorded: tuple[str, ...] | None = getattr(history, "satisfied_digests", None)
    if recorded is not None:  # a `RevisionHistory`, whose digests have no chain
        return recorded
    checksums: dict[str, list[str]] = {}
    for row in sorted(history, key=lambda row: row.fence):
        if isinstance(row.version, RepeatableVersion) and row.version.startswith(
            _MANIFEST_ROW_PREFIX
        ):
            checksums.setdefault(str(row.version.last_version), []).append(row.checksum)
    chain = EMPTY_DIGEST
    digests = [chain, *(add_repeatables(chain, each) for each in checksums.get("-1", ()))]
    for row in sorted(filter(is_versioned, history), key=lambda row: row.version):
        if row.state is not RowState.APPLIED:
            break
        chain = chain_digest(chain, row.version, row.checksum)
        digests.append(chain)
        digests += (add_repeatables(chain, each) for each in checksums.get(str(row.version), ()))
    return tuple(digests)
