"""Chooses what a baseline records for a database that another tool has migrated.

It does no I/O: `postgresql.other_tools` reads the other tool's table, the engine writes ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations.tool_folders import ADOPTION_GUIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from lambda_migrate.migrations.history import HistoryRow
    from lambda_migrate.migrations.manifest import Manifest
    from lambda_migrate.migrations.migration import Migration
    from lambda_migrate.migrations.plan import Plan
    from lambda_migrate.migrations.version import Version

__all__ = [
    "APPLIED",
    "FAILED",
    "ROLLED_BACK",
    "Baseline",
    "ComparedVersion",
    "SyncedHistory",
    "ToolHistory",
    "ToolHistoryEntry",
    "choose_baseline",
    "choose_baseline_command",
    "rename_entries",
    "require_no_tool_history",
]

APPLIED = "applied"
FAILED = "failed"
ROLLED_BACK = "rolled back"

_MAX_LISTED = 10
"""How many versions a sentence lists; the rest is counted."""


@dataclass(frozen=True, slots=True)
class ToolHistoryEntry:
    """One version in another tool's history.

    Attributes:
        label: As that tool writes it: ``0003``, ``20240101000000_add_status``.
        state: ``applied``, ``failed`` or ``rolled back``.
        version: The version of the file that is the same migration; None if it has no number.
        covers_earlier_versions: Whether all earlier versions are applied too, because the tool
            stores only the last one.
        key: What identifies it in that tool's table.
        checksum: As that tool stores it; "" if it stores none.
    """

    label: str
    state: str = APPLIED
    version: Version | None = None
    covers_earlier_versions: bool = False
    key: str = ""
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class ToolHistory:
    """Another tool's history table.

    Attributes:
        tool: ``dbmate``.
        table: ``public.schema_migrations``.
        entries: One for each version, as it stands now.
        is_comparable: Whether its entries can be compared with the files.
        unreadable_reason: Why its rows cannot be read; "" if they can.
        schema_and_name: The table's, unquoted.
    """

    tool: str
    table: str
    entries: tuple[ToolHistoryEntry, ...] = ()
    is_comparable: bool = True
    unreadable_reason: str = ""
    schema_and_name: tuple[str, str] = ("", "")

    @property
    def is_in_use(self) -> bool:
        """Whether that tool has changed this database, or may have done so."""
        return bool(self.unreadable_reason) or any(
            each.state != ROLLED_BACK for each in self.entries
        )

    def __str__(self) -> str:
        if self.unreadable_reason:
            return f"{self.tool} has a history table here ({self.table})"
        last = next(reversed(self.entries), None)
        if last is not None and last.covers_earlier_versions:
            return f"{self.tool} has migrated this database to version {last.label} ({self.table})"
        count = sum(each.state != ROLLED_BACK for each in self.entries)
        return (
            f"{self.tool} has applied {count} version{'s' * (count != 1)} to this database "
            f"({self.table})"
        )


@dataclass(frozen=True, slots=True)
class SyncedHistory:
    """Another tool's history table that is written together with ours from now on.

    Attributes:
        tool: The tool.
        table: Schema and name of its table, unquoted.
        rows: For each migration that the tool has a file of: the version here, that tool's key, and
            its checksum or "".
    """

    tool: str
    table: tuple[str, str]
    rows: tuple[tuple[str, str, str], ...] = ()


def rename_entries(
    tool_history: ToolHistory,
    tool: str,
    versions: Mapping[str, Version],
    normalise_key: Callable[[str], str] = str,
) -> ToolHistory:
    """Give each entry the version that its migration has here.

    Args:
        tool_history: A tool's history.
        tool: The tool whose files were converted; another tool's history is returned unchanged.
        versions: Key -> version, of the converted files.
        normalise_key: Makes the keys comparable.
    """
    if tool_history.tool != tool:
        return tool_history
    known = {normalise_key(key): version for key, version in versions.items()}
    taken = set(known.values())

    def rename(entry: ToolHistoryEntry) -> ToolHistoryEntry:
        version = known.get(normalise_key(entry.key))
        if version is None and (entry.version not in taken or entry.covers_earlier_versions):
            version = entry.version
        return replace(entry, version=version)

    entries = tuple(map(rename, tool_history.entries))
    return replace(tool_history, entries=entries, is_comparable=True)


def require_no_tool_history(
    plan: Plan, read: Callable[[], Sequence[ToolHistory]], *, ignore_other_history: bool
) -> None:
    """Refuse to run migrations that another tool may have run.

    It reads nothing unless something is pending and the history is empty.

    Args:
        plan: The plan.
        read: Reads the other tools' tables.
        ignore_other_history: Ignore those tables, because they belong to another service.

    Raises:
        ConfigurationError: Another tool has migrated this database.
    """
    has_history = plan.applied or plan.ahead or plan.in_doubt or plan.divergences
    if ignore_other_history or has_history or not plan.pending:
        return
    found = [tool_history for tool_history in read() if tool_history.is_in_use]
    if found:
        raise ConfigurationError(
            f"{' and '.join(map(str, found))}, and the history of lambda-migrate is empty: nothing "
            f"was run. Record them: `lambda-migrate {choose_baseline_command(found)}`, or `adopt` "
            "with adoption.json. If that table is another service's, set "
            "LAMBDA_MIGRATE_IGNORE_OTHER_HISTORY=true"
        )


def choose_baseline_command(found: Iterable[ToolHistory]) -> str:
    """The command that marks what ``found`` has; some tables do not name versions of the files."""
    return "baseline" if any(each.is_comparable for each in found) else "baseline VERSION"


# --- baseline


@dataclass(frozen=True, slots=True)
class ComparedVersion:
    """One version, compared between another tool's history and the files.

    Attributes:
        version: As the other tool writes it; the file's version if it does not have it.
        file: The migration's name; "" if there is no file.
        tool_state: ``applied``, ``failed``, ``rolled back``, or ``not applied``.
        state: ``recorded`` (by this baseline), ``recorded before``, ``pending`` or ``no file``.
    """

    version: str
    file: str
    tool_state: str
    state: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """What to mark as applied without running it.

    Attributes:
        migrations: These migrations, in order; without those that are in the history.
        manifest: All migrations up to the highest of them.
        tool_history: The other tool's history; None if the user gave a version.
        compared: The comparison, version by version; () without ``tool_history``.
    """

    migrations: tuple[Migration, ...]
    manifest: Manifest
    tool_history: ToolHistory | None = None
    compared: tuple[ComparedVersion, ...] = ()

    @property
    def gaps(self) -> tuple[str, ...]:
        """Names of the migrations that stay pending below the highest one recorded."""
        below = {migration.name for migration in self.manifest}
        return tuple(c.file for c in self.compared if c.state == "pending" and c.file in below)


def choose_baseline(
    manifest: Manifest,
    history: Sequence[HistoryRow],
    tool_histories: Sequence[ToolHistory],
    *,
    version: Version | None = None,
    tool: str = "",
    ignore_other_history: bool = False,
) -> Baseline:
    """Choose what `baseline` records.

    Args:
        manifest: The files.
        history: The rows of the history.
        tool_histories: The other tools' tables.
        version: Record everything up to it; None: exactly what the other tool has applied.
        tool: A tool, or its table, if there are several.
        ignore_other_history: Record up to ``version`` whatever the other tools' tables contain.

    Raises:
        ConfigurationError: What was applied is unknown, or a table contradicts ``version``.
    """
    found = [
        tool_history
        for tool_history in tool_histories
        if tool_history.is_in_use and _is_history_of_tool(tool_history, tool)
    ]
    if tool and not found:
        raise ConfigurationError(
            f"there is no history of {tool!r} with applied versions in this database"
            f"{_format_tool_names(tool_histories)}"
        )
    if version is not None:
        if not (ignore_other_history or history):
            _require_no_contradiction(manifest, found, version)
        return _baseline_up_to(manifest, history, version)
    if ignore_other_history:
        raise ConfigurationError(
            "`--ignore-other-history` needs a version: `lambda-migrate baseline VERSION "
            "--ignore-other-history` records everything up to it"
        )
    return _baseline_from(manifest, history, _require_single(found))


def _is_history_of_tool(tool_history: ToolHistory, tool: str) -> bool:
    return not tool or tool.lower() in (tool_history.tool.lower(), tool_history.table.lower())


def _format_tool_names(tool_histories: Sequence[ToolHistory]) -> str:
    known = [f"{each.tool} ({each.table})" for each in tool_histories if each.is_in_use]
    return f"; there is {', '.join(known)}" if known else ""


def _baseline_up_to(
    manifest: Manifest, history: Sequence[HistoryRow], version: Version
) -> Baseline:
    there = {row.version for row in history}
    shorter = manifest.up_to(version)
    return Baseline(tuple(m for m in shorter if m.version not in there), shorter)


def _require_single(found: Sequence[ToolHistory]) -> ToolHistory:
    if not found:
        raise ConfigurationError(
            "no history of another tool was found in this database: give the last version that is "
            "applied, `lambda-migrate baseline VERSION`"
        )
    if len(found) > 1:
        raise ConfigurationError(
            f"there are {len(found)} histories of other tools{_format_tool_names(found)}. "
            f"Choose one: `lambda-migrate baseline --from {found[0].table}`"
        )
    [tool_history] = found
    if tool_history.unreadable_reason:
        raise ConfigurationError(
            f"the table {tool_history.table} of {tool_history.tool} "
            f"{tool_history.unreadable_reason}"
        )
    if not tool_history.is_comparable:
        raise ConfigurationError(
            f"{tool_history}, and its rows do not name versions of the files here. Find out "
            "which of the files this database has, and give the last one: "
            f"`lambda-migrate baseline VERSION`; see {ADOPTION_GUIDE}"
        )
    return tool_history


class _HistoryComparison:
    """Another tool's entries by the file that each one corresponds to."""

    def __init__(self, manifest: Manifest, tool_history: ToolHistory) -> None:
        self.states: dict[Version, ToolHistoryEntry] = {}
        self.without_file: list[ToolHistoryEntry] = []
        self.ambiguous: list[str] = []
        by_name = {migration.name: migration for migration in manifest}
        for entry in tool_history.entries:
            if entry.covers_earlier_versions and entry.version is not None:
                self._add_covered_versions(manifest, entry, entry.version)
                continue
            migration = by_name.get(entry.label)
            if migration is None and entry.version is not None:
                migration = manifest.get(entry.version)
            if migration is None:
                self.without_file.append(entry)
            elif migration.version in self.states:
                before = self.states[migration.version].label
                self.ambiguous.append(f"{before} and {entry.label} (both {migration.name})")
            else:
                self.states[migration.version] = entry

    def _add_covered_versions(
        self, manifest: Manifest, entry: ToolHistoryEntry, version: Version
    ) -> None:
        for migration in manifest.up_to(version):
            is_last = migration.version == version
            state = entry.state if is_last else APPLIED
            label = entry.label if is_last else str(migration.version)
            self.states[migration.version] = ToolHistoryEntry(label, state)
        if manifest.get(version) is None:
            self.without_file.append(entry)

    def label_of(self, migration: Migration) -> str:
        entry = self.states.get(migration.version)
        return str(migration.version) if entry is None else entry.label

    def state_of(self, version: Version) -> str:
        entry = self.states.get(version)
        return "not applied" if entry is None else entry.state

    def is_applied(self, version: Version) -> bool:
        return self.state_of(version) == APPLIED

    def find_failed_versions(self) -> list[str]:
        entries = [*self.states.values(), *self.without_file]
        return [each.label for each in entries if each.state == FAILED]

    def find_versions_ahead(self, manifest: Manifest) -> list[str]:
        """Applied there, and newer than any file: newer code would run them again."""
        return [
            each.label
            for each in self.without_file
            if each.state == APPLIED
            and each.version is not None
            and each.version > manifest.version
        ]


def _baseline_from(
    manifest: Manifest, history: Sequence[HistoryRow], tool_history: ToolHistory
) -> Baseline:
    comparison = _HistoryComparison(manifest, tool_history)
    _require_unambiguous(manifest, tool_history, comparison)
    there = {row.version for row in history}
    chosen = [m for m in manifest if comparison.is_applied(m.version)]
    recorded = tuple(m for m in chosen if m.version not in there)
    now = {m.version for m in recorded}
    rows = [
        ComparedVersion(
            comparison.label_of(m),
            m.name,
            comparison.state_of(m.version),
            state="recorded before"
            if m.version in there
            else ("recorded" if m.version in now else "pending"),
        )
        for m in manifest
    ]
    rows += [
        ComparedVersion(each.label, "", each.state, "no file") for each in comparison.without_file
    ]
    return Baseline(recorded, manifest.up_to(chosen[-1].version), tool_history, tuple(rows))


def _require_unambiguous(
    manifest: Manifest, tool_history: ToolHistory, comparison: _HistoryComparison
) -> None:
    """Refuse a history that only the user can interpret.

    Raises:
        ConfigurationError: Names what to do first.
    """
    if failed := comparison.find_failed_versions():
        raise ConfigurationError(
            f"{tool_history}, and {_join_limited(failed)} failed there: it may be applied in part. "
            f"Check the database, resolve it with {tool_history.tool}, and run "
            "`lambda-migrate baseline` again"
        )
    if comparison.ambiguous:
        raise ConfigurationError(
            f"{tool_history}, and two of its versions correspond to the same file: "
            f"{_join_limited(comparison.ambiguous)}. Give each a file with a version of its own"
        )
    if not any(comparison.is_applied(m.version) for m in manifest):
        raise ConfigurationError(
            f"{tool_history}, and none of these has a file here. Correct LAMBDA_MIGRATE_DIRECTORY; "
            "or, if a file here holds the whole schema, name it: `lambda-migrate baseline VERSION`"
        )
    if ahead := comparison.find_versions_ahead(manifest):
        raise ConfigurationError(
            f"{tool_history}, and {_join_limited(ahead)} has no file here and is newer than all "
            "files: newer code would run it again. Run `lambda-migrate baseline` with the newest "
            "files"
        )


def _require_no_contradiction(
    manifest: Manifest, found: Sequence[ToolHistory], version: Version
) -> None:
    """Refuse a version that every comparable history contradicts.

    Raises:
        ConfigurationError: Names the contradictions.
    """
    contradicted: list[tuple[ToolHistory, list[str]]] = []
    for tool_history in found:
        if tool_history.unreadable_reason or not tool_history.is_comparable:
            continue
        comparison = _HistoryComparison(manifest, tool_history)
        if not comparison.states:
            continue  # it has none of these files: they have new version numbers
        contradictions = list(_find_contradictions(manifest, comparison, version))
        if not contradictions:
            return
        contradicted.append((tool_history, contradictions))
    if contradicted:
        tool_history, contradictions = contradicted[0]
        raise ConfigurationError(
            f"{tool_history}, and that contradicts version {version}: "
            f"{_join_limited(contradictions)}. `lambda-migrate baseline` without a version records "
            f"exactly what was applied; to record everything up to {version} anyway, add "
            "--ignore-other-history"
        )


def _find_contradictions(
    manifest: Manifest, comparison: _HistoryComparison, version: Version
) -> Iterator[str]:
    for migration in manifest:
        state = comparison.state_of(migration.version)
        if migration.version <= version and state != APPLIED:
            yield (
                f"{migration.name} is {state} there"
                if state == "not applied"
                else (f"{migration.name} is recorded as {state} there")
            )
        elif migration.version > version and state in (APPLIED, FAILED):
            yield f"{migration.name} is recorded as {state} there, and would run again"
    for label in comparison.find_versions_ahead(manifest):
        yield f"{label} is recorded as applied there, and newer code would run it again"


def _join_limited(texts: Iterable[str]) -> str:
    listed = list(texts)
    more = f" and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
    return ", ".join(listed[:_MAX_LISTED]) + more
