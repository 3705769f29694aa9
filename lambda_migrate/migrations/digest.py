"""What names a manifest, and the fast path's way to it: the digest alone, no script looked at.

Everything here is light, because every cold start runs it.
"""

from __future__ import annotations

import os
import re
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


__all__ = [
    "EMPTY_DIGEST",
    "MAX_BYTES",
    "chain_digest",
    "compute_checksum",
    "is_migration_name",
    "normalise_text",
    "read_digest",
    "require_migrations",
]

EMPTY_DIGEST = sha256(b"lambda-migrate manifest v1").hexdigest()
"""Names the manifest without migrations; the first link of every chain_digest."""

MAX_BYTES = 64 * 2**20
"""Of one file. It is held several times over while it is applied, and a zip's member may be made of
nothing but zeros."""

_PLAIN_NAME = re.compile(r"([0-9]{1,18})_[A-Za-z0-9_.+-]+\.sql")


def normalise_text(text: str) -> str:
    r"""Return ``text`` as it is hashed: CRLF as LF, no byte order mark.

    Git's ``autocrlf`` rewrites line ends between machines; a lone CR is left alone, because it may
    stand inside a string literal (sqlx #2659).
    """
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def compute_checksum(text: str) -> str:
    """SHA-256 of the normalised text, in hexadecimal."""
    return sha256(normalise_text(text).encode()).hexdigest()


def chain_digest(previous: str, version: int, checksum: str) -> str:
    """The digest after one more migration: SHA-256 of the one before, the version, the checksum."""
    return sha256(f"{previous}:{version}:{checksum}".encode()).hexdigest()


def is_migration_name(name: str) -> bool:
    """Whether a file of this name is meant to be a migration, as it looks in a listing."""
    if not name.isprintable():  # one that is taken for a migration is not to be passed over
        name = "".join(filter(str.isprintable, name))
    return name.rstrip().lower().endswith(".sql") and not name.startswith(".")


def read_digest(source: str, *, relative_to: str | None = None) -> str | None:
    """The digest of a plain directory of migrations, or None on any doubt.

    What `directory.read_manifest` refuses may get a digest here. No harm is done: nobody can have
    completed it, so no lease table knows it.

    Args:
        source: As `directory.read_manifest` takes it; only a directory is read here.
        relative_to: Where a relative path begins; the working directory unless given.

    Returns:
        The same as ``read_manifest(source).digest``. None where that one has to be asked: a zip, a
        package, a link, a name out of the ordinary, a file that cannot be read.
    """
    if source.startswith("package:") or not source.strip():
        return None
    try:
        with os.scandir(os.path.join(relative_to or "", source)) as entries:  # noqa: PTH118 - importing pathlib takes 10 ms
            return _chain_checksums(_read_checksums(entries))
    except (
        OSError,
        ValueError,
    ):  # ValueError: not UTF-8, a NUL in the name, or `_NotPlainDirectory`
        return None


def require_migrations(digest: str, *, allow_empty: bool) -> None:
    """Refuse the manifest without migrations, with which every database would be up to date.

    Args:
        digest: Of the manifest.
        allow_empty: Whether this service starts without migrations.

    Raises:
        ManifestError: The manifest has no migrations.
    """
    if digest == EMPTY_DIGEST and not allow_empty:
        from lambda_migrate.errors import ManifestError

        raise ManifestError(
            "the manifest holds no migrations: name the folder that holds them "
            "(LAMBDA_MIGRATE_DIRECTORY), or set LAMBDA_MIGRATE_ALLOW_EMPTY=true (argument "
            "allow_empty) if this service starts without any"
        )


class _NotPlainDirectory(ValueError):
    """Something that only the whole reader can judge."""


def _chain_checksums(checksums: Iterable[tuple[int, str]]) -> str:
    digest, last = EMPTY_DIGEST, 0
    for version, checksum in sorted(checksums):
        if version == last:
            raise _NotPlainDirectory("two files of one version, or version 0")
        digest, last = chain_digest(digest, version, checksum), version
    return digest


def _read_checksums(entries: Iterable[os.DirEntry[str]]) -> Iterator[tuple[int, str]]:
    for entry in entries:
        if not is_migration_name(entry.name):
            continue
        match = _PLAIN_NAME.fullmatch(entry.name)
        if match is None or not entry.is_file(follow_symlinks=False):
            raise _NotPlainDirectory(entry.name)
        if entry.stat().st_size > MAX_BYTES:
            raise _NotPlainDirectory(entry.name)
        with open(entry.path, "rb") as file:  # noqa: PTH123 - importing pathlib takes 10 ms
            yield int(match[1]), compute_checksum(file.read().decode())
