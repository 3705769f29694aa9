"""The digest that names a manifest, and a fast way to compute it without parsing scripts.

Every cold start imports this module, and most need no more of the manifest than its digest. It is
not part of `migrations`, because to import one more package takes 0.13 ms of CPU.
"""

from __future__ import annotations

import os
import re
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "EMPTY_DIGEST",
    "HOOK_NAMES",
    "MAX_BYTES",
    "add_repeatables",
    "chain_digest",
    "combine_checksums",
    "compute_checksum",
    "find_version",
    "format_components",
    "is_hook_name",
    "is_migration_name",
    "is_repeatable_name",
    "normalise_text",
    "parse_components",
    "read_digest",
    "require_migrations",
]

EMPTY_DIGEST = sha256(b"lambda-migrate manifest v1").hexdigest()
"""The digest of the empty manifest; every chain starts with it."""

MAX_BYTES = 64 * 2**20
"""The size limit of one file, which is copied several times while it is applied. A member of a zip
could otherwise expand to any size."""

# Compiled when a name or a version of these forms is first met: a plain number needs neither.
_VERSION = r"[0-9]{1,255}(?:\.[0-9]{1,255}){0,99}"
_FILE_NAME = r"(?:([0-9]+(?:\.[0-9]+)*)(?![0-9A-Za-z])|V([0-9]+(?:[._][0-9]+)*)__).*\.sql"

_SIMPLE_CHARACTERS = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+ -"
)


def normalise_text(text: str) -> str:
    r"""Normalise ``text`` for hashing: CRLF as LF, no byte order mark.

    Git's ``autocrlf`` changes line ends between machines. A lone CR is kept, because it may be part
    of a string literal (sqlx #2659).
    """
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def compute_checksum(text: str) -> str:
    """SHA-256 of the normalised text, in hexadecimal."""
    return sha256(normalise_text(text).encode()).hexdigest()


def chain_digest(previous: str, version: int | str, checksum: str) -> str:
    """The next digest of the chain: SHA-256 of the previous digest, the version, the checksum."""
    return sha256(f"{previous}:{version}:{checksum}".encode()).hexdigest()


def combine_checksums(checksums: Iterable[tuple[str, str]]) -> str:
    """One checksum of all repeatable migrations, from their names and checksums; "" if none."""
    combined = ""
    for name, checksum in sorted(checksums):
        combined = chain_digest(combined, name, checksum)
    return combined


def add_repeatables(digest: str, combined: str) -> str:
    """The digest of a manifest with repeatable migrations.

    Args:
        digest: The chain digest of its versioned migrations.
        combined: The result of `combine_checksums`.
    """
    return chain_digest(digest, "R", combined) if combined else digest


def parse_components(version: str) -> tuple[int, ...]:
    """The numbers of a version, without zeros at its end; versions are ordered by these.

    Raises:
        ValueError: It is not a number, or numbers separated by dots.
    """
    if _is_number(version):
        return (int(version),)
    if not re.fullmatch(_VERSION, version):
        raise ValueError("not a version: write a number, or numbers separated by dots")
    components = [int(number) for number in version.split(".")]
    while len(components) > 1 and not components[-1]:
        components.pop()
    return tuple(components)


def format_components(components: Iterable[int]) -> str:
    """The text of a version, as the chain of digests and the history contain it."""
    return ".".join(map(str, components))


def find_version(filename: str) -> str | None:
    """The version in a migration file's name; None if there is none.

    It stands at the beginning, before ``_``, ``-`` or a space, or as Flyway writes it
    (``V1_2__name.sql``).
    """
    number = filename.partition("_")[0]
    if _is_number(number) and filename.isprintable() and filename.endswith(".sql"):
        return number
    match = re.fullmatch(_FILE_NAME, filename)
    if match is None:
        return None
    plain, flyway = match.groups()
    return plain or str(flyway).replace("_", ".")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 255


def is_migration_name(name: str) -> bool:
    """Whether a file of this name is meant to be a migration."""
    if not name.isprintable():  # a name that looks like one must not be ignored
        name = "".join(filter(str.isprintable, name))
    return name.rstrip().lower().endswith(".sql") and not name.startswith(".")


def read_digest(source: str, *, relative_to: str | None = None) -> str | None:
    """Compute the digest of a plain directory of migrations; None if in doubt.

    A directory that `source.read_manifest` refuses may get a digest here. That does no harm: no
    process can have completed it, so no lease table contains it.

    Args:
        source: As in `source.read_manifest`; only a directory is read here.
        relative_to: The base of a relative path; the working directory unless given.

    Returns:
        The same as ``read_manifest(source).digest``. None for a zip, a package, a link, an unusual
        name, or a file that cannot be read: `read_manifest` decides then.
    """
    if source.startswith("package:") or not source.strip():
        return None
    try:
        with os.scandir(os.path.join(relative_to or "", source)) as entries:  # noqa: PTH118 - importing pathlib takes 10 ms
            return _chain_checksums(*_read_checksums(entries))
    except (OSError, ValueError):  # not UTF-8, a NUL in the name, or refused below
        return None


def require_migrations(digest: str, *, allow_empty: bool) -> None:
    """Refuse an empty manifest, with which every database would be up to date.

    Args:
        digest: Of the manifest.
        allow_empty: Whether this service starts without migrations.

    Raises:
        ManifestError: The manifest has no migrations.
    """
    if digest == EMPTY_DIGEST and not allow_empty:
        from lambda_migrate.errors import ManifestError

        raise ManifestError(
            "this code contains no migrations: set the folder that contains them "
            "(LAMBDA_MIGRATE_DIRECTORY), or set LAMBDA_MIGRATE_ALLOW_EMPTY=true (argument "
            "allow_empty) if this service starts without any"
        )


HOOK_NAMES = ("beforeMigrate", "afterEachMigrate", "afterMigrate")
"""Files that are not migrations, and not part of the digest; see `Hook`."""


def is_hook_name(filename: str) -> bool:
    """Whether the file is a hook."""
    return filename.removesuffix(".sql") in HOOK_NAMES


def is_repeatable_name(filename: str) -> bool:
    """Whether the file is a repeatable migration."""
    return filename.startswith("R__")


def _chain_checksums(
    versioned: Iterable[tuple[tuple[int, ...], str]], repeatables: Iterable[tuple[str, str]]
) -> str:
    digest, last = EMPTY_DIGEST, tuple[int, ...]()
    for version, checksum in sorted(versioned):
        if version == last:
            raise ValueError("two files of one version")
        digest, last = chain_digest(digest, format_components(version), checksum), version
    return add_repeatables(digest, combine_checksums(repeatables))


def _read_checksums(
    entries: Iterable[os.DirEntry[str]],
) -> tuple[list[tuple[tuple[int, ...], str]], list[tuple[str, str]]]:
    """Versions and names, each with its checksum: of versioned and of repeatable migrations."""
    versioned: list[tuple[tuple[int, ...], str]] = []
    repeatables: list[tuple[str, str]] = []
    for entry in entries:
        name = entry.name
        if not (name.endswith(".sql") and _SIMPLE_CHARACTERS.issuperset(name)):
            if is_migration_name(name):
                raise ValueError(name)
            continue
        if name.startswith(".") or is_hook_name(name):
            continue
        is_repeatable = is_repeatable_name(name)
        version = None if is_repeatable else find_version(name)
        if not (version or is_repeatable) or not entry.is_file(follow_symlinks=False):
            raise ValueError(name)
        checksum = compute_checksum(_read_file(entry.path).decode())
        if version:
            versioned.append((parse_components(version), checksum))
        elif name == "R__.sql":
            raise ValueError(name)
        else:
            repeatables.append((name.removesuffix(".sql"), checksum))
    return versioned, repeatables


def _read_file(path: str) -> bytes:
    """The file's content; `open` takes twice as many system calls for it."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(file).st_size
        if size > MAX_BYTES:
            raise ValueError(path)
        return os.read(file, size)
    finally:
        os.close(file)
