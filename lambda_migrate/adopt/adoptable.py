"""Compares a tool's history with its files before anything is taken over."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations.baseline import APPLIED, FAILED, ToolHistoryEntry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from lambda_migrate.adopt.convert import ConvertedFile
    from lambda_migrate.adopt.tool_formats import ToolFormat
    from lambda_migrate.migrations.baseline import ToolHistory
    from lambda_migrate.migrations.version import Version

__all__ = ["replace_with_dump", "require_adoptable"]

_MAX_LISTED = 10


def replace_with_dump(history: ToolHistory, dumped: str, version: Version) -> ToolHistory:
    """A tool's history as that of the one migration that a dump of its schema is.

    Args:
        history: The history.
        dumped: The keys of what was applied where the dump was made, one a line.
        version: The dump's version.

    Raises:
        ConfigurationError: Something else is applied here.
    """
    applied = {each.key for each in history.entries if each.state == APPLIED}
    expected = set(dumped.split("\n"))
    failed = [each for each in history.entries if each.state == FAILED]
    if applied != expected and not failed:
        raise ConfigurationError(
            f"{history.tool} has applied {len(applied & expected)} of the {len(expected)} versions "
            f"here that the dump contains, and {len(applied - expected)} others ({history.table}): "
            f"bring this database to the same version with {history.tool} first"
        )
    entry = ToolHistoryEntry(f"{len(applied)} versions", version=version, key=dumped)
    return replace(history, entries=(*failed, entry), is_comparable=True)


def require_adoptable(
    history: ToolHistory,
    tool_format: ToolFormat,
    files: Sequence[ConvertedFile],
    versions: Collection[Version],
    *,
    repair: str = "",
) -> None:
    """Refuse a history that is incomplete, or that is not of these files.

    Args:
        history: The tool's history, with the versions of the converted files.
        tool_format: How the tool names migrations.
        files: The converted files; () if the tool's own files are not here.
        versions: The versions of all migrations here.
        repair: What the tool's user does about a failed version.

    Raises:
        ConfigurationError: Lists everything.
    """
    if history.unreadable_reason:
        raise ConfigurationError(
            f"the table {history.table} of {history.tool} {history.unreadable_reason}"
        )
    found = [
        *_find_failed(history, repair),
        *_find_changed(history, tool_format, files),
        *_find_missing(history, versions),
    ]
    faults = [f"{history.table}: {fault}" for fault in found]
    if faults:
        more = [f"and {len(faults) - _MAX_LISTED} more"] if len(faults) > _MAX_LISTED else []
        raise ConfigurationError(
            [*faults[:_MAX_LISTED], *more],
            heading=f"the migrations of {history.tool} cannot be adopted:",
        )


def _find_failed(history: ToolHistory, repair: str) -> Iterator[str]:
    advice = f" with {repair}" if repair else f" with {history.tool}, or correct its row"
    for entry in history.entries:
        if entry.state == FAILED:
            yield (
                f"version {entry.label} failed in the database, so it may be applied in part: "
                f"check the database, resolve it{advice}, and run `lambda-migrate adopt` again"
            )


def _find_changed(
    history: ToolHistory, tool_format: ToolFormat, files: Sequence[ConvertedFile]
) -> Iterator[str]:
    sources = {
        tool_format.normalise_key(each.source_migration.key): each.source_migration
        for each in files
    }
    for entry in history.entries:
        source = sources.get(tool_format.normalise_key(entry.key))
        if source is None or entry.state != APPLIED or not entry.checksum:
            continue
        if source.checksums and entry.checksum not in source.checksums:
            yield (
                f"{source.path} is not what {history.tool} applied: the file has the checksum "
                f"{source.checksums[0]}, the history table {entry.checksum}; restore the file"
            )


def _find_missing(history: ToolHistory, versions: Collection[Version]) -> Iterator[str]:
    """Applied migrations without a file, after one with a file; older ones may be squashed."""
    applied = [each for each in history.entries if each.state == APPLIED]
    has_file = [each.version in versions or each.covers_earlier_versions for each in applied]
    if True not in has_file:
        if applied:
            yield (
                f"none of its {len(applied)} applied migrations has a file here; name the folder "
                "of its files with --files"
            )
        return
    for entry, found in zip(applied, has_file, strict=True):
        if not found and has_file.index(True) < applied.index(entry):
            yield f"version {entry.label} is applied in the database but has no file: add it"
