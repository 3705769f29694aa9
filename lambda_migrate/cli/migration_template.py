"""Writes a new migration file that is valid without changes."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lambda_migrate.errors import ConfigurationError
from lambda_migrate.manifest_digest import find_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

__all__ = ["choose_next_version", "write_migration"]

_VALID_NAME = re.compile(r"[\w+-][\w.+-]*")
_INVALID_CHARACTERS = re.compile(r"[^\w.+-]+")
_MAX_NAME_BYTES = 100
_MIN_DIGITS = 4  # 0001
_TIMESTAMP_DIGITS = 10
"""Versions of at least this many digits are timestamps (seconds since 1970 have ten)."""

_TRANSACTIONAL = """\
-- migrate:up
-- These statements and the history row are committed in one transaction.
-- Older code keeps running on the new schema: add what new code needs here, and remove what no code
-- uses any more in a later migration.
SELECT 1;  -- replace this line

-- Below a line `-- migrate:down`, write the statements that roll it back (`lambda-migrate down`).
-- Without such a line it cannot be rolled back.
"""

_NON_TRANSACTIONAL = """\
-- migrate:up transaction:false
-- What PostgreSQL does not run inside a transaction, such as
--   CREATE INDEX CONCURRENTLY orders_placed_at ON orders (placed_at);
SELECT 1;  -- replace this line

-- Below a line `-- migrate:down transaction:false`, write what rolls it back, such as
--   DROP INDEX CONCURRENTLY orders_placed_at;
-- Without such a line it cannot be rolled back.
"""


def write_migration(
    directory: Path, name: str, *, now: datetime, transactional: bool = True
) -> Path:
    """Write a file with the next version; an existing file is never overwritten.

    Args:
        directory: The migrations directory; created if it is missing.
        name: What comes after the version.
        now: The time in UTC, the version if the directory uses timestamps.
        transactional: False for statements outside a transaction.

    Raises:
        ConfigurationError: The name is invalid, or the directory cannot be written to.
    """
    _check_name(name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _lock_directory(directory):
            version = choose_next_version([entry.name for entry in directory.iterdir()], now=now)
            path = directory / f"{version}_{name}.sql"
            with path.open("x", encoding="utf-8") as file:
                file.write(_TRANSACTIONAL if transactional else _NON_TRANSACTIONAL)
    except OSError as error:
        where = error.filename or directory
        raise ConfigurationError(
            f"cannot write a migration to {where}: {error.strerror}; name another directory with "
            "--directory"
        ) from error
    return path


def choose_next_version(names: list[str], *, now: datetime) -> str:
    """Return the digits of the next version.

    An empty directory gets 0001, one with versions 0001, 0002 gets 0003, one with 1.1, 1.2 gets 2,
    and one whose highest version is a timestamp gets a timestamp.

    Args:
        names: The files of the directory.
        now: The time in UTC.
    """
    found = [find_version(re.sub(r"\.sql$", ".sql", name, flags=re.IGNORECASE)) for name in names]
    digits = [version.partition(".")[0] for version in found if version]
    highest = max(map(int, digits), default=0)
    following = highest + 1
    if len(str(highest)) < _TIMESTAMP_DIGITS:
        return str(following).zfill(max(map(len, digits), default=_MIN_DIGITS))
    return str(max(following, int(now.strftime("%Y%m%d%H%M%S"))))


def _check_name(name: str) -> None:
    if not _VALID_NAME.fullmatch(name):
        suggestion = _INVALID_CHARACTERS.sub("_", name).strip("_.") or "add_status"
        raise ConfigurationError(
            f"{name!a} is not a valid migration name: use letters, digits and any of _ . + - "
            f"(for example {suggestion})"
        )
    if name.lower().endswith(".sql"):
        raise ConfigurationError(f"write the name without .sql: {name[:-4] or 'add_status'}")
    if len(name.encode()) > _MAX_NAME_BYTES:
        raise ConfigurationError(
            f"the name has {len(name.encode())} bytes: write at most {_MAX_NAME_BYTES}"
        )


@contextmanager
def _lock_directory(directory: Path) -> Iterator[None]:
    """Prevent two processes from choosing the same version."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
