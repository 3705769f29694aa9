"""A new migration file that works as it is."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lambda_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

__all__ = ["next_version", "write_migration"]

_NUMBERED = re.compile(r"([0-9]+)_.*\.sql", re.IGNORECASE)
_GOOD_NAME = re.compile(r"[\w+-][\w.+-]*")
_BAD_CHARACTERS = re.compile(r"[^\w.+-]+")
_NAME_LENGTH = 100
_MAX_DIGITS = 18  # as many nines fit a PostgreSQL bigint
_TIMESTAMP_DIGITS = 10
"""Versions of at least so many digits are times (seconds since 1970 have ten), not a sequence."""

_IN_TRANSACTION = """\
-- migrate:up
-- What changes. It runs in one transaction, together with its row in the history: all or nothing.
-- Code that is older than this goes on being served on it, so add here what new code needs, and
-- remove in a later migration what no code needs any more.
SELECT 1;  -- a placeholder: write your statements instead of it

-- migrate:down
-- What takes it back, for `lambda-migrate down`. Left empty, it cannot be taken back.
"""

_ALONE = """\
-- migrate:up transaction:false
-- Exactly one statement, for what PostgreSQL does not run inside a transaction, such as
--   CREATE INDEX CONCURRENTLY orders_placed_at ON orders (placed_at);
SELECT 1;  -- a placeholder: write your statement instead of it

-- migrate:down transaction:false
-- The one statement that takes it back, for `lambda-migrate down`, such as
--   DROP INDEX CONCURRENTLY orders_placed_at;
-- Left empty, it cannot be taken back.
"""


def write_migration(
    directory: Path, name: str, *, now: datetime, transactional: bool = True
) -> Path:
    """Write a file with the next version; never over another one.

    Args:
        directory: Made if it is missing.
        name: What comes after the version.
        now: UTC, the version where the folder counts by time.
        transactional: False for a single statement outside a transaction.

    Raises:
        ConfigurationError: The name cannot be used, or the folder cannot be written to.
    """
    _require_good(name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _alone_in(directory):
            version = next_version([entry.name for entry in directory.iterdir()], now=now)
            path = directory / f"{version}_{name}.sql"
            with path.open("x", encoding="utf-8") as file:
                file.write(_IN_TRANSACTION if transactional else _ALONE)
    except OSError as error:
        where = error.filename or directory
        raise ConfigurationError(
            f"{where}: a migration cannot be written there: {error.strerror}; "
            "name another folder with --directory"
        ) from error
    return path


def next_version(names: list[str], *, now: datetime) -> str:
    """The digits of the next version.

    A folder that counts 0001, 0002 goes on so, with its zeros; any other gets the time.

    Args:
        names: Files of the folder.
        now: UTC.

    Raises:
        ConfigurationError: The highest version leaves no room above it.
    """
    digits = [match[1] for name in names if (match := _NUMBERED.fullmatch(name))]
    highest = max(map(int, digits), default=None)
    following = 0 if highest is None else highest + 1
    if len(str(following)) > _MAX_DIGITS:
        raise ConfigurationError(
            f"version {highest} leaves no room above it: versions have at most {_MAX_DIGITS} "
            "digits; renumber that file"
        )
    if highest is not None and len(str(highest)) < _TIMESTAMP_DIGITS:
        return str(following).zfill(max(map(len, digits)))
    return str(max(following, int(now.strftime("%Y%m%d%H%M%S"))))


def _require_good(name: str) -> None:
    if not _GOOD_NAME.fullmatch(name):
        better = _BAD_CHARACTERS.sub("_", name).strip("_.") or "add_status"
        raise ConfigurationError(
            f"{name!a} is no name for a migration: use letters, digits and any of _ . + - "
            f"(for example {better})"
        )
    if name.lower().endswith(".sql"):
        raise ConfigurationError(f"leave the ending away: {name[:-4] or 'add_status'}")
    if len(name.encode()) > _NAME_LENGTH:
        raise ConfigurationError(
            f"the name has {len(name.encode())} bytes; shorten it to {_NAME_LENGTH} or fewer"
        )


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Two at once would otherwise choose the same version under two names."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
