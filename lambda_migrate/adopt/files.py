"""The files of another tool, as its tool_format describes them: migrations with their scripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lambda_migrate.errors import ConfigurationError

__all__ = ["SourceFiles", "SourceMigration", "SourceScript", "read_script"]


@dataclass(frozen=True, slots=True)
class SourceScript:
    """One script of a migration.

    Attributes:
        sql: Its text.
        transactional: Whether the tool runs it in a transaction; False for a directive of the tool.
    """

    sql: str
    transactional: bool = True


@dataclass(frozen=True, slots=True)
class SourceMigration:
    """One migration of another tool.

    Attributes:
        key: What the tool's history table has for it; see `Tool.key`.
        name: Its name as the tool writes it; the new file's name follows from it.
        path: Its file, for messages and the record.
        up: The script that makes the change.
        down: The script that rolls it back, or None.
        checksums: What the tool's history table may have as its checksum; the first one is what the
            tool writes today. () if the tool stores none.
        verbatim: The file itself, if it needs no conversion.
    """

    key: str
    name: str
    path: str
    up: SourceScript
    down: SourceScript | None = None
    checksums: tuple[str, ...] = ()
    verbatim: bytes | None = None


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """What a folder of another tool contains.

    Attributes:
        migrations: In the order in which the tool applies them.
        skipped: Files that are not taken over: path -> why.
        unusable: Files that the tool runs and nothing can convert: path -> what to do.
    """

    migrations: tuple[SourceMigration, ...]
    skipped: dict[str, str]
    unusable: dict[str, str]


def read_script(path: Path) -> str:
    """Read a file as text; line ends stay as they are.

    Raises:
        ConfigurationError: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path}: not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}; "
            "save the file as UTF-8, and run `lambda-migrate adopt` again"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read: {error.strerror}; check its permissions"
        ) from error
