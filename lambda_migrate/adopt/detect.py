"""Chooses the tool and its folder, by its files and by its history table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lambda_migrate.adopt.tool_formats import TOOL_FORMATS, ToolFormat
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations.baseline import ToolHistory
from lambda_migrate.migrations.tool_folders import ADOPTION_GUIDE, SOURCE_TOOLS

__all__ = ["DetectedTool", "detect_tool", "find_formats", "find_formats_of"]

_MAX_DEPTH = 8
_MAX_FOLDERS = 5000
"""A wrong working directory may be the root of a disk."""

_SKIPPED_FOLDERS = frozenset(
    {"node_modules", "venv", "target", "build", "dist", "__pycache__", "site-packages"}
)


@dataclass(frozen=True, slots=True)
class DetectedTool:
    """A tool with its files and its history.

    Attributes:
        tool_format: How its files are read.
        folder: Where they are.
        history: Its history table; None if the database has none.
    """

    tool_format: ToolFormat
    folder: Path
    history: ToolHistory | None


def find_formats(root: Path, *, except_folder: Path | None = None) -> list[tuple[ToolFormat, Path]]:
    """Find the folders below ``root`` that are a tool's.

    Args:
        root: The project.
        except_folder: The folder of this library's own migrations.
    """
    folders = [each for each in _list_folders(root) if each != except_folder]
    files = {folder: list(_list_files(folder, depth=1)) for folder in folders}
    found: list[tuple[ToolFormat, Path]] = []
    for tool_format in TOOL_FORMATS:
        fitting = [folder for folder in folders if tool_format.matches(files[folder], folder)]
        parents = {folder.parent for folder in fitting}
        if tool_format.has_subfolders and len(fitting) > 1 and len(parents) == 1:
            fitting = list(parents)
        outermost = [each for each in fitting if not set(each.parents) & set(fitting)]
        found += [(tool_format, folder) for folder in outermost]
    return found


def find_formats_of(folder: Path) -> list[ToolFormat]:
    """Find the tools whose folder this may be."""
    files = list(_list_files(folder, depth=1))
    inner = list(_list_folders(folder))
    return [
        tool_format
        for tool_format in TOOL_FORMATS
        if tool_format.matches(files, folder)
        or (
            tool_format.has_subfolders
            and any(tool_format.matches(list(_list_files(each, depth=0)), each) for each in inner)
        )
    ]


def _list_folders(root: Path) -> Iterator[Path]:
    """The folders below ``root``, a folder before those in it."""
    yield root
    count = 0
    for place, names, _ in os.walk(root):
        depth = len(Path(place).relative_to(root).parts)
        names[:] = sorted(
            each for each in names if each not in _SKIPPED_FOLDERS and not each.startswith(".")
        )
        if depth >= _MAX_DEPTH:
            names.clear()
        for name in names:
            count += 1
            if count > _MAX_FOLDERS:
                return
            yield Path(place, name)


def _list_files(folder: Path, *, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.is_dir():
            if depth and not entry.is_symlink():
                yield from _list_files(entry, depth=depth - 1)
        else:
            yield entry


def detect_tool(
    found: Sequence[tuple[ToolFormat, Path]], histories: Sequence[ToolHistory], *, tool: str = ""
) -> DetectedTool:
    """Choose the one tool that files and history agree on.

    Args:
        found: The result of `find_formats`.
        histories: The other tools' tables with applied versions.
        tool: The tool, or its table, that the user named.

    Raises:
        ConfigurationError: There is none, several fit, or files and history contradict each other.
    """
    wanted = [each for each in histories if tool.lower() in ("", each.tool.lower(), each.table)]
    tool_formats = [
        (tool_format, folder)
        for tool_format, folder in found
        if _is_wanted(tool_format, tool, wanted)
    ]
    agreeing = [
        DetectedTool(tool_format, folder, history)
        for tool_format, folder in tool_formats
        for history in wanted
        if history.tool == tool_format.tool
    ]
    if len(agreeing) == 1:
        return agreeing[0]
    if agreeing:
        raise ConfigurationError(_describe_ambiguity(agreeing))
    if wanted:
        raise ConfigurationError(_describe_missing_files(wanted, tool_formats))
    if len(tool_formats) > 1:
        tool_formats = [each for each in tool_formats if not each[0].is_generic]
    if len(tool_formats) == 1:
        [(tool_format, folder)] = tool_formats
        return DetectedTool(tool_format, folder, None)
    raise ConfigurationError(_describe_missing_history(tool_formats, tool))


def _is_wanted(tool_format: ToolFormat, tool: str, histories: Sequence[ToolHistory]) -> bool:
    names = {each.tool.lower() for each in histories} if tool else {tool_format.tool.lower()}
    return tool_format.tool.lower() in (names | {tool.lower()})


def _describe_ambiguity(agreeing: Sequence[DetectedTool]) -> str:
    places = list(dict.fromkeys(f"{each.tool_format.tool} ({each.folder})" for each in agreeing))
    if len(places) > 1:
        return (
            f"there are files and histories of {' and of '.join(places)}: choose one with "
            f"--from {agreeing[0].tool_format.tool} or --files {agreeing[0].folder}"
        )
    tables = [each.history.table for each in agreeing if each.history is not None]
    return (
        f"{agreeing[0].tool_format.tool} has {len(tables)} histories here, {' and '.join(tables)}: "
        f"choose one with --from {tables[0]}"
    )


def _describe_missing_files(
    histories: Sequence[ToolHistory], tool_formats: Sequence[tuple[ToolFormat, Path]]
) -> str:
    [first, *_] = histories
    described = " and ".join(map(str, histories))
    if first.tool in SOURCE_TOOLS:
        return f"{described}, and {_advise_source_setting(first.tool)}"
    if not tool_formats:
        return (
            f"{described}, and its files were not found here: name their folder with --files; or "
            f"dump the schema, see {ADOPTION_GUIDE}"
        )
    files = ", ".join(
        f"files of {tool_format.tool} in {folder}" for tool_format, folder in tool_formats
    )
    return (
        f"{described}, but only {files} were found: check the database and the folder (--files); "
        "if that table is another service's, name the tool with --from"
    )


def _describe_missing_history(tool_formats: Sequence[tuple[ToolFormat, Path]], tool: str) -> str:
    known = {each.tool.lower(): each.tool for each in TOOL_FORMATS}
    source_tools = {each.lower(): each for each in SOURCE_TOOLS}
    if tool.lower() in source_tools:
        return _advise_source_setting(source_tools[tool.lower()])
    if tool and tool.lower() not in known:
        return (
            f"--from {tool}: `adopt` does not support a tool of this name, and this database has "
            "no history table of this name with applied versions; write one of "
            f"{', '.join(known.values())}"
        )
    named = f"files of {tool}" if tool else "files of another tool"
    if not tool_formats:
        return f"no {named} were found here: name their folder with --files"
    places = [f"{tool_format.tool} ({folder})" for tool_format, folder in tool_formats]
    return (
        f"there are {named} in several folders or of several tools ({', '.join(places)}), and no "
        "history table to choose by: use --from and --files"
    )


def _advise_source_setting(tool: str) -> str:
    return (
        f"{tool} migrations run in place: set LAMBDA_MIGRATE_SOURCE={tool.lower()} instead of "
        "adopting them"
    )
