"""Passwords from libpq's password file: ``host:port:database:user:password``."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambda_migrate.database_address import DatabaseAddress

__all__ = ["PassfileIgnored", "find_password"]

_DEFAULT_SOCKET_DIRS = ("/tmp", "/run/postgresql", "/var/run/postgresql")  # noqa: S108 - libpq's own
"""Connections through these are ``localhost`` in the file, as in libpq."""

_FIELD = re.compile(r"((?:[^:\\]|\\.)*):")


class PassfileIgnored(Exception):
    """The file exists and is not used; the message says why and what to do."""


def find_password(address: DatabaseAddress) -> str | None:
    """Look up the password of ``address``: in its ``passfile``, or else in ``~/.pgpass``.

    Returns:
        That of the first line that matches; None if none does, or there is no file.

    Raises:
        PassfileIgnored: Others may read the file, or it cannot be read.
    """
    path = Path(address.passfile or "~/.pgpass")
    try:
        path = path.expanduser()
        if not path.exists():
            return None
        _require_private(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # RuntimeError: no home directory
        raise PassfileIgnored(f"the password file {path} cannot be read: {error}") from error
    host = "localhost" if address.socket_dir in _DEFAULT_SOCKET_DIRS else address.socket_dir
    expected = (host or address.host, str(address.port), address.database, address.user)
    return next((found for line in lines if (found := _match_line(line, expected))), None)


def _require_private(path: Path) -> None:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise PassfileIgnored(f"the password file {path} is not a regular file and is not used")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise PassfileIgnored(
            f"the password file {path} is not used, because others may access it: run "
            f"`chmod 0600 {path}`"
        )


def _match_line(line: str, expected: tuple[str, ...]) -> str | None:
    """The password of a line, if its four fields match."""
    if line.startswith("#"):
        return None
    at = 0
    for value in expected:
        match = _FIELD.match(line, at)
        if match is None or (match[1] != "*" and _unescape(match[1]) != value):
            return None
        at = match.end()
    return _unescape(line[at:])


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
