"""`adopt`: take over the files and the history of another migration tool."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.adopt.adoptable import replace_with_dump, require_adoptable
from lambda_migrate.adopt.adoption import RECORD_FILENAME, AdoptedFile, Adoption
from lambda_migrate.adopt.convert import ConvertedFile, convert_migrations
from lambda_migrate.adopt.detect import DetectedTool, detect_tool, find_formats, find_formats_of
from lambda_migrate.adopt.dump import dump_schema
from lambda_migrate.adopt.files import SourceFiles
from lambda_migrate.adopt.tool_formats import TOOL_FORMATS, ToolFormat
from lambda_migrate.commands.prompt import Question
from lambda_migrate.commands.result import EXIT_FAILED, CommandResult
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.migrations.baseline import SyncedHistory, ToolHistory, rename_entries
from lambda_migrate.migrations.source import build_manifest, read_files
from lambda_migrate.migrations.tool_folders import ADOPTION_GUIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lambda_migrate.commands.context import CommandContext
    from lambda_migrate.engine.operations import Operations
    from lambda_migrate.migrations import Manifest
    from lambda_migrate.migrations.baseline import Baseline
    from lambda_migrate.postgresql.other_tools import Tool

__all__ = ["adopt"]


def adopt(
    context: CommandContext,
    *,
    from_tool: str = "",
    files: str = "",
    dry_run: bool = False,
    undo: bool = False,
    keep_theirs: bool = False,
) -> CommandResult:
    """Convert another tool's files, and mark what it has applied; asks first."""
    _require_adoptable_settings(context)
    folder = context.root / context.settings.directory
    if undo:
        return _undo(context, folder, dry_run=dry_run)
    plan = _make_plan(context, folder, from_tool=from_tool, files=files)
    synced = _make_synced_history(plan) if keep_theirs else None
    operations = context.make_operations(plan.manifest)
    preview = _preview(context, operations, plan)
    missing = tuple(name for name in plan.contents if not (folder / name).exists())
    is_confirmed = dry_run or context.prompter.confirm(
        _build_question(context, folder, plan, preview, count=len(missing))
    )
    if not is_confirmed:
        return CommandResult({**context.location, "confirmed": False}, EXIT_FAILED)
    written = missing
    marked = tuple(m.name for m in preview.migrations) if preview is not None else ()
    if not dry_run:
        written = plan.adoption.write(folder, plan.contents)
        marked = operations.adopt(
            context.deadline,
            tool=plan.history.table if plan.history is not None else "",
            rename=plan.rename,
            synced=synced,
            expected=preview,
        )
    result = _build_document(plan, preview, written=written, marked=marked)
    return CommandResult(
        {**context.location, "dry_run": dry_run, **result, "keeps_theirs": synced is not None}
    )


def _require_adoptable_settings(context: CommandContext) -> None:
    """Raise a ConfigurationError if the settings leave nothing to adopt, or no place for files."""
    if context.settings.source != "sql":
        raise ConfigurationError(
            f"LAMBDA_MIGRATE_SOURCE is {context.settings.source}, which needs no adoption: run `up`"
        )
    if context.settings.ready_when is not None:
        raise ConfigurationError(
            "LAMBDA_MIGRATE_READY_WHEN is set, so another tool migrates this database: remove the "
            "setting to adopt that tool's migrations"
        )
    if context.settings.directory.startswith("package:"):
        raise ConfigurationError(
            f"cannot create files in {context.settings.directory}: name a directory with "
            "--directory"
        )


@dataclass(frozen=True, slots=True)
class _AdoptionPlan:
    """What is taken over.

    Attributes:
        adoption: The files.
        tool_format: How the tool's files are read.
        contents: Name -> content of the files to write.
        manifest: All migrations, once they are written.
        history: The tool's history with the versions of the files; None without one.
    """

    adoption: Adoption
    tool_format: ToolFormat
    contents: dict[str, bytes]
    manifest: Manifest
    history: ToolHistory | None = None

    def rename(self, tool_history: ToolHistory) -> ToolHistory:
        """Give the tool's entries the versions of the files; see `rename_entries`."""
        if self.tool_format.read is None and tool_history.tool == self.tool_format.tool:
            [dump] = self.adoption.files
            return replace_with_dump(tool_history, dump.key, self.manifest.migrations[0].version)
        return rename_entries(
            tool_history,
            self.tool_format.tool,
            self.adoption.versions,
            self.tool_format.normalise_key,
        )


def _make_plan(
    context: CommandContext, folder: Path, *, from_tool: str, files: str
) -> _AdoptionPlan:
    record = Adoption.read(folder)
    histories = [
        each
        for each in context.target.database.read_tool_histories(context.deadline)
        if each.is_in_use
    ]
    detected = _detect(context, folder, record, histories, from_tool=from_tool, files=files)
    converted: tuple[ConvertedFile, ...] = ()
    if record is not None and (detected.tool_format.read is None or not detected.folder.is_dir()):
        adoption = record  # only the new files are here, as in a function; or a dump was made
    else:
        found = _read_files(context, detected)
        converted = convert_migrations(
            found.migrations,
            _get_tool(detected.tool_format).table,
            detected.tool_format.placeholder,
        )
        adoption = _build_adoption(context, folder, detected, found, converted)
        if conflicts := adoption.find_conflicts(folder, record):
            raise ConfigurationError(
                [f"{each}; nothing is overwritten" for each in conflicts]
                + ["name an empty folder with --directory, or move these files"],
                heading=f"the files cannot be written to {folder}:",
            )
        adoption = adoption.continue_from(folder, record)
    contents = {each.filename: each.content for each in converted}
    manifest = _build_manifest(folder, contents)
    plan = _AdoptionPlan(adoption, detected.tool_format, contents, manifest)
    if detected.history is None:
        return plan
    history = plan.rename(detected.history)
    require_adoptable(
        history,
        plan.tool_format,
        converted,
        {migration.version for migration in manifest},
        repair=_get_tool(plan.tool_format).repair,
    )
    return replace(plan, history=history)


def _get_tool(tool_format: ToolFormat) -> Tool:
    from lambda_migrate.postgresql.other_tools import get_tool  # it loads the driver

    return get_tool(tool_format.tool)


def _detect(
    context: CommandContext,
    folder: Path,
    record: Adoption | None,
    histories: list[ToolHistory],
    *,
    from_tool: str,
    files: str,
) -> DetectedTool:
    if record is not None and not (from_tool or files):
        tool_format = next((each for each in TOOL_FORMATS if each.tool == record.tool), None)
        if tool_format is None:
            raise ConfigurationError(
                f"{folder / RECORD_FILENAME}: this version of lambda-migrate does not know the "
                f"tool {record.tool}; use the version that wrote the file, or a later one"
            )
        history = [each for each in histories if each.tool == record.tool]
        if len(history) < 2:
            return DetectedTool(
                tool_format, context.root / record.source_folder, history[0] if history else None
            )
    if files:
        place = context.root / files
        if not place.is_dir():
            raise ConfigurationError(f"--files {files}: there is no such folder")
        found = [(tool_format, place) for tool_format in find_formats_of(place)]
        if not found:
            raise ConfigurationError(
                f"--files {files}: these are not the files of a tool that `adopt` knows; see "
                f"{ADOPTION_GUIDE}"
            )
    else:
        is_own = record is not None and not record.uses_tool_files
        found = find_formats(context.root, except_folder=folder if is_own else None)
    return detect_tool(found, histories, tool=from_tool)


def _read_files(context: CommandContext, detected: DetectedTool) -> SourceFiles:
    tool_format, history = detected.tool_format, detected.history
    if tool_format.read is None:
        if history is None:
            raise ConfigurationError(
                f"the migrations of {tool_format.tool} are {tool_format.language}, so the first "
                f"migration is a dump of the schema, and {tool_format.tool} has applied nothing in "
                f"this database: migrate it with {tool_format.tool} first"
            )
        dump = dump_schema(
            context.settings.address,
            history,
            schema=context.settings.schema,
            timeout=context.deadline.remaining(),
        )
        return SourceFiles((dump,), {}, {})
    found = tool_format.read(detected.folder)
    if found.unusable:
        raise ConfigurationError(
            [f"{detected.folder / path}: {advice}" for path, advice in found.unusable.items()],
            heading=f"these files of {tool_format.tool} cannot be converted; change them, or dump "
            f"the schema ({ADOPTION_GUIDE}):",
        )
    return found


def _build_adoption(
    context: CommandContext,
    folder: Path,
    detected: DetectedTool,
    found: SourceFiles,
    converted: tuple[ConvertedFile, ...],
) -> Adoption:
    is_inside = detected.folder.is_relative_to(context.root)
    place = detected.folder.relative_to(context.root) if is_inside else detected.folder
    return Adoption(
        tool=detected.tool_format.tool,
        source_folder=place.as_posix(),
        files=tuple(map(AdoptedFile.from_converted, converted)),
        skipped=found.skipped,
        is_new_folder=not folder.exists(),
        uses_tool_files=detected.folder.resolve() == folder.resolve()
        and all(each.source_migration.verbatim is not None for each in converted)
        and all(each.filename == each.source_migration.path for each in converted),
    )


def _build_manifest(folder: Path, contents: dict[str, bytes]) -> Manifest:
    """The manifest of the folder once the files are written; existing ones stay as they are."""
    present = read_files(folder) if folder.is_dir() else {}
    everything = {**contents, **present}
    return build_manifest(everything.items(), display_path=str(folder), location=str(folder))


def _make_synced_history(plan: _AdoptionPlan) -> SyncedHistory:
    tool = _get_tool(plan.tool_format)
    if plan.history is None:
        raise ConfigurationError(
            f"--keep-theirs: {plan.tool_format.tool} has no history table in this database"
        )
    if tool.synced_table is None:
        raise ConfigurationError(
            f"--keep-theirs: the history of {tool.name} cannot be written by another tool; leave "
            "the option out, and use only lambda-migrate from now on"
        )
    keys = {plan.tool_format.normalise_key(each.key): each.key for each in plan.history.entries}
    rows = tuple(
        (each.version, keys.get(plan.tool_format.normalise_key(each.key), each.key), each.checksum)
        for each in plan.adoption.files
    )
    return SyncedHistory(tool.name, plan.history.schema_and_name, rows)


def _preview(
    context: CommandContext, operations: Operations, plan: _AdoptionPlan
) -> Baseline | None:
    """What is marked as applied; None if the tool has applied nothing."""
    if plan.history is None or not plan.history.is_in_use:
        return None
    return operations.preview_baseline(
        None, context.deadline, tool=plan.history.table, rename=plan.rename
    )


def _build_document(
    plan: _AdoptionPlan,
    preview: Baseline | None,
    *,
    written: Sequence[str],
    marked: Sequence[str],
) -> dict[str, object]:
    adoption = plan.adoption
    return {
        "tool": adoption.tool,
        "source_folder": adoption.source_folder,
        "table": None if plan.history is None else plan.history.table,
        "written": list(written),
        "marked_as_applied": list(marked),
        "compared": [] if preview is None else [asdict(each) for each in preview.compared],
        "changes": [
            {"file": each.filename, "change": change}
            for each in adoption.files
            for change in each.changes
        ],
        "faults": [fault for each in adoption.files for fault in each.faults],
        "skipped": [{"file": name, "reason": reason} for name, reason in adoption.skipped.items()],
    }


def _build_question(
    context: CommandContext,
    folder: Path,
    plan: _AdoptionPlan,
    preview: Baseline | None,
    *,
    count: int,
) -> Question:
    marked = () if preview is None else preview.migrations
    heading = (
        f"this writes {count} file{'s' * (count != 1)} of {plan.tool_format.tool} to {folder} and "
        f"marks {len(marked)} migration{'s' * (len(marked) != 1)} as applied, without running "
        f"them, on {context.location['database']}:"
    )
    return Question(
        command="adopt",
        text=f"adopt them from {plan.tool_format.tool}?",
        heading=heading,
        location=context.location,
        compared=[] if preview is None else [asdict(each) for each in preview.compared],
        notes=[fault for each in plan.adoption.files for fault in each.faults],
    )


def _describe_undo(record: Adoption, folder: Path, database: str) -> str:
    count = 0 if record.uses_tool_files else len(record.files)
    removed = (
        f"{count} file{'s' * (count != 1)} and {RECORD_FILENAME}" if count else RECORD_FILENAME
    )
    return (
        f"this removes from {folder} what `adopt` wrote ({removed}), and from the history of "
        f"{database} what it marked as applied. {record.tool}'s own files and its history table "
        "stay as they are."
    )


def _undo(context: CommandContext, folder: Path, *, dry_run: bool) -> CommandResult:
    record = Adoption.read(folder)
    if record is None:
        raise ConfigurationError(
            f"there is no adoption to undo in {folder}: it has no {RECORD_FILENAME}"
        )
    if edited := record.find_edited_files(folder):
        raise ConfigurationError(
            [f"{folder / name}: it was edited since; move it away" for name in edited]
        )
    versions = set(record.versions.values())
    operations = context.make_operations(_build_manifest(folder, {}))
    unmarked = operations.find_adopted_rows(versions, context.deadline)
    question = Question(
        command="adopt",
        text="undo it?",
        heading=_describe_undo(record, folder, context.location["database"]),
        location=context.location,
    )
    if not (dry_run or context.prompter.confirm(question)):
        return CommandResult({**context.location, "confirmed": False}, EXIT_FAILED)
    removed = tuple(each.filename for each in record.files if not record.uses_tool_files)
    if not dry_run:
        if unmarked is not None:
            unmarked = operations.undo_adoption(versions, context.deadline)
        # A function's folder is read-only: there only the database is concerned.
        removed = record.remove(folder) if os.access(folder, os.W_OK) else ()
    return CommandResult(
        {
            **context.location,
            "dry_run": dry_run,
            "tool": record.tool,
            "removed": list(removed),
            "unmarked": list(unmarked or ()),
        }
    )
