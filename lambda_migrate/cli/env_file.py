"""Variables from a file such as ``.env``, for the command line only."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["load_env_files", "parse_env_file"]

_OPTION = "--env-file"

_LINE = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|$)")
_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
_QUOTED = re.compile(r"'([^']*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
_UNQUOTED = re.compile(r"(?<=[ \t])(?=#)|(?:(?!\s#)[^\n])*")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def load_env_files(arguments: Sequence[str]) -> list[str]:
    """Set the variables of each ``--env-file FILE``, except those that are set already.

    Returns:
        The other arguments. An option without a value is left for the parser to report.

    Raises:
        ConfigurationError: A file cannot be read, or a line of it has another form.
    """
    others: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        if argument.startswith(f"{_OPTION}="):
            _load(argument.partition("=")[2])
        elif argument == _OPTION and pending:
            _load(pending.pop(0))
        else:
            others.append(argument)
    return others


def _load(path: str) -> None:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(f"{_OPTION} {path}: cannot be read: {reason}") from None
    for name, value in parse_env_file(text, path=path).items():
        os.environ.setdefault(name, value)


def parse_env_file(text: str, *, path: str) -> dict[str, str]:
    r"""Parse lines of ``NAME=value``.

    A value in single quotes is literal. In double quotes ``\n``, ``\r`` and ``\t`` have their usual
    meaning, and a backslash makes any other character literal. Both may span lines. Without quotes,
    blanks around the value and a comment after a blank are left out. ``export`` before the name is
    accepted; ``${OTHER}`` is not replaced.

    Args:
        text: The content of the file.
        path: Its path, for errors.

    Raises:
        ConfigurationError: Every line of another form, by number; no value is repeated.
    """
    text = text.replace("\r\n", "\n")
    values: dict[str, str] = {}
    faults: list[str] = []
    at = 0
    while at < len(text):
        line = text.count("\n", 0, at) + 1
        blank = _LINE.match(text, at)
        if blank is not None:
            at = blank.end()
            continue
        name = _NAME.match(text, at)
        if name is None:
            faults.append(f"{path}:{line}: write NAME=value, or # before a comment")
            at = _find_next_line(text, at)
            continue
        quoted = _QUOTED.match(text, name.end())
        if quoted is None and text[name.end() : name.end() + 1] in ("'", '"'):
            faults.append(f"{path}:{line}: the quote of {name[1]} is not closed")
            break
        found = quoted or _UNQUOTED.match(text, name.end())
        assert found is not None  # noqa: S101 - an unquoted value may be empty
        rest = _LINE.match(text, found.end())
        if rest is None:
            faults.append(f"{path}:{line}: remove what follows the closing quote of {name[1]}")
            at = _find_next_line(text, found.end())
            continue
        if "\0" in found[0]:
            faults.append(f"{path}:{line}: {name[1]} contains a NUL; remove it")
        values[name[1]] = _unquote(found) if quoted else found[0].strip()
        at = rest.end()
    if faults:
        raise ConfigurationError(faults, heading=f"{_OPTION} {path} cannot be used:")
    return values


def _find_next_line(text: str, at: int) -> int:
    return text.find("\n", at) + 1 or len(text)


def _unquote(quoted: re.Match[str]) -> str:
    if quoted[1] is not None:
        return quoted[1]
    return re.sub(
        r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), quoted[2], flags=re.DOTALL
    )
