"""An adoption: the files that it writes, and its record, by which it is continued and undone.

The record, ``adoption.json``, is written before the first file and removed after the last one.
Every file is written under a hidden name and then linked to its own, so that at no moment a part of
it is there, and nothing that exists is overwritten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

from lambda_migrate.adopt.convert import ConvertedFile
from lambda_migrate.errors import ConfigurationError
from lambda_migrate.manifest_digest import is_migration_name
from lambda_migrate.migrations.version import Version, parse_version_or_name

__all__ = ["RECORD_FILENAME", "AdoptedFile", "Adoption"]

RECORD_FILENAME = "adoption.json"
_FORMAT = 1
_PARTIAL = ".adopt-"
"""The beginning of a file's name while it is written; such files are no migrations."""


@dataclass(frozen=True, slots=True)
class AdoptedFile:
    """One migration that was taken over.

    Attributes:
        filename: The new file.
        version: Its version, as the history has it; for a repeatable migration its name.
        key: What the tool's history table has for it.
        source_path: The tool's file.
        checksum: What the tool stores for it; "" if it stores none.
        sha256: Of the new file, as it was written.
        changes: See `ConvertedFile.changes`.
        faults: See `ConvertedFile.faults`.
    """

    filename: str
    version: str
    key: str
    source_path: str
    checksum: str
    sha256: str
    changes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @classmethod
    def from_converted(cls, converted: ConvertedFile) -> AdoptedFile:
        """The record of a converted file."""
        source = converted.source_migration
        return cls(
            filename=converted.filename,
            version=str(converted.parse().version),
            key=source.key,
            source_path=source.path,
            checksum=source.checksums[0] if source.checksums else "",
            sha256=sha256(converted.content).hexdigest(),
            changes=converted.changes,
            faults=converted.faults,
        )


@dataclass(frozen=True, slots=True)
class Adoption:
    """What was, or is to be, taken over.

    Attributes:
        tool: The tool.
        source_folder: The tool's folder of migrations.
        files: Every migration, in the tool's order.
        skipped: Files that were not taken over: path -> why.
        is_new_folder: Whether the folder did not exist before.
        uses_tool_files: Whether the tool's own files are used, so that none is written or removed.
    """

    tool: str
    source_folder: str
    files: tuple[AdoptedFile, ...]
    skipped: Mapping[str, str]
    is_new_folder: bool = False
    uses_tool_files: bool = False

    @property
    def versions(self) -> dict[str, Version]:
        """Key in the tool's history -> version here."""
        return {each.key: parse_version_or_name(each.version) for each in self.files}

    @classmethod
    def read(cls, folder: Path) -> Adoption | None:
        """Read the record of a folder; None if there is none.

        Raises:
            ConfigurationError: It cannot be used.
        """
        path = folder / RECORD_FILENAME
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.pop("format") != _FORMAT:
                raise ValueError("it has another format")
            found["files"] = tuple(
                AdoptedFile(
                    **{**each, "changes": tuple(each["changes"]), "faults": tuple(each["faults"])}
                )
                for each in found["files"]
            )
            return cls(**found)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{path} cannot be used: {error}; restore it from version control"
            ) from error

    def find_conflicts(self, folder: Path, record: Adoption | None) -> list[str]:
        """Find what is in the way of writing these files; [] if nothing is.

        Args:
            folder: Where they are to be written.
            record: The record of an earlier run; None if there is none.
        """
        if record is not None and record.tool != self.tool:
            return [
                f"{folder / RECORD_FILENAME}: it is the record of an adoption from {record.tool}"
            ]
        known = set() if record is None else {each.filename for each in record.files}
        new = {each.filename for each in self.files} - known
        return [
            f"{folder / name}: adopt did not write it"
            for name in sorted(_list_names(folder))
            if not self.uses_tool_files and (name in new or (not known and is_migration_name(name)))
        ]

    def continue_from(self, folder: Path, record: Adoption | None) -> Adoption:
        """Keep what the record says of files that are there, perhaps edited since."""
        if record is None:
            return self
        edited = record.find_edited_files(folder)
        kept = {
            each.filename: replace(each, faults=()) if each.filename in edited else each
            for each in record.files
            if (folder / each.filename).exists()
        }
        files = tuple(kept.get(each.filename, each) for each in self.files)
        return replace(self, files=files, is_new_folder=record.is_new_folder)

    def write(self, folder: Path, contents: Mapping[str, bytes]) -> tuple[str, ...]:
        """Write the record, and each file that is missing; returns their names.

        If nothing is missing, nothing is written: a function's folder is read-only.

        Raises:
            ConfigurationError: The folder cannot be written to.
        """
        missing = () if self.uses_tool_files else contents.keys() - set(_list_names(folder))
        if not missing and Adoption.read(folder) == self:
            return ()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_partial_files(folder)
            self._write_record(folder)
            written = []
            for name, content in contents.items():
                if not self.uses_tool_files and _write_new_file(folder, name, content):
                    written.append(name)
            return tuple(written)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write to {error.filename or folder}: {error.strerror}; name another "
                "folder with --directory"
            ) from error

    def _write_record(self, folder: Path) -> None:
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n"
        path, partial = folder / RECORD_FILENAME, folder / f"{_PARTIAL}{RECORD_FILENAME}"
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)

    def find_edited_files(self, folder: Path) -> list[str]:
        """Files of the record that were edited since."""
        if self.uses_tool_files:
            return []
        return [
            each.filename
            for each in self.files
            if (folder / each.filename).is_file()
            and sha256((folder / each.filename).read_bytes()).hexdigest() != each.sha256
        ]

    def remove(self, folder: Path) -> tuple[str, ...]:
        """Remove what was written, and nothing else; returns the files' names.

        Raises:
            ConfigurationError: The folder cannot be written to.
        """
        removed = []
        try:
            _remove_partial_files(folder)
            for each in self.files:
                if not self.uses_tool_files and (folder / each.filename).is_file():
                    (folder / each.filename).unlink()
                    removed.append(each.filename)
            (folder / RECORD_FILENAME).unlink(missing_ok=True)
            if self.is_new_folder:
                with suppress(OSError):  # it has files that adopt did not write
                    folder.rmdir()
        except OSError as error:
            raise ConfigurationError(
                f"cannot remove {error.filename}: {error.strerror}; check its permissions"
            ) from error
        return tuple(removed)


def _list_names(folder: Path) -> Sequence[str]:
    try:
        return [each.name for each in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _remove_partial_files(folder: Path) -> None:
    for path in folder.glob(f"{_PARTIAL}*"):
        path.unlink(missing_ok=True)


def _write_new_file(folder: Path, name: str, content: bytes) -> bool:
    """Write a file as a whole, unless there is one of that name."""
    partial = folder / f"{_PARTIAL}{name}"
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(partial, folder / name)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    return True
