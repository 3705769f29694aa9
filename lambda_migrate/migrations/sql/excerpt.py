"""Excerpts of a script for error messages, with its secrets hidden."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

from lambda_migrate.migrations.sql.tokens import _SPACE, _STRING, _TAG

__all__ = ["Excerpt", "make_excerpt", "redact"]


# --- showing a line of it

_REDACTED = "***"


_SQL_SPACE = r"(?:\s|/\*[^*]*\*/|--[^\n]*\n)*"


@cache
def _secret_pattern() -> re.Pattern[str]:
    """Compile the pattern when it is first used: it takes 10 ms, which only errors need."""
    return re.compile(
        rf"""
          passw(?:or)?d["']?{_SQL_SPACE}(?:(?:=>|:=|[=:,])\s*)?
            (?P<literal>''[^']+''|\\'[^']*'|{_STRING}|(?P<tag>{_TAG})(?:.*?(?P=tag)|.*))
        | (?:passw(?:or)?d)\s*=\s*(?P<bare>[^\s'",;()]+)
        | ://[^\s:/@'"]*:(?P<url>[^\s'"]+)@
        """,
        re.VERBOSE | re.DOTALL | re.IGNORECASE,
    )


_MAX_COLUMNS = 100


_TAB = "    "


@dataclass(frozen=True, slots=True)
class Excerpt:
    """One line of a script, and a position in it.

    Attributes:
        line: The line of the file, from 1.
        column: The character in that line, from 1, as editors count.
        text: The line, or the part around the column: passwords hidden, tabs as spaces, nothing
            invisible, at most about 100 terminal columns.
        caret: Spaces and a ``^`` below the position when printed under ``text``.
    """

    line: int
    column: int
    text: str
    caret: str


def redact(line: str) -> str:
    """Hide what follows PASSWORD, and the password in a connection string or URL."""
    shown: list[str] = []
    at = 0
    for start, end in _find_secrets(line):
        shown += (line[at:start], _REDACTED)
        at = end
    return "".join(shown) + line[at:]


def make_excerpt(sql: str, position: int, *, first_line: int) -> Excerpt:
    """Show the position of an error in a script.

    Args:
        sql: The script as it was sent.
        position: In characters from 1, as PostgreSQL reports it; past the end means the end.
        first_line: The line of the file on which ``sql`` begins.
    """
    at = max(position, 1) - 1
    if at >= len(sql):
        at = len(sql.rstrip(_SPACE))
    start = sql.rfind("\n", 0, at) + 1
    stop = sql.find("\n", at)
    before, after = _split_redacted_line(sql, start, at, len(sql) if stop < 0 else stop)
    text, width = _fit_line(before, after)
    return Excerpt(
        line=first_line + sql.count("\n", 0, start),
        column=at - start + 1,
        text=text,
        caret=" " * width + "^",
    )


def _find_secrets(text: str) -> Iterator[tuple[int, int]]:
    for match in _secret_pattern().finditer(text):
        for group in ("literal", "bare", "url"):
            if match[group]:
                yield match.span(group)


def _split_redacted_line(sql: str, start: int, at: int, stop: int) -> tuple[str, str]:
    """The line from ``start`` to ``stop`` with its secrets hidden, split at ``at``.

    The whole script is searched, because a secret may begin on an earlier line.
    """
    before: list[str] = []
    after: list[str] = []
    done = start
    for low, high in [*_find_secrets(sql), (stop, stop)]:
        low, high = max(low, start), min(high, stop)
        if low < done or (low >= high and low != stop):
            continue
        before.append(sql[done : max(done, min(low, at))])
        after.append(sql[max(done, min(low, at)) : low])
        if low < high:
            (before if high <= at else after).append(_REDACTED)
        done = high
    return "".join(before), "".join(after)


def _fit_line(before: str, after: str) -> tuple[str, int]:
    """The line, truncated to fit a terminal, and the number of columns before the caret."""
    left = [_display(c) for c in reversed(before[-_MAX_COLUMNS:])]
    right = [_display(c) for c in after[:_MAX_COLUMNS]]
    whole = len(before) <= _MAX_COLUMNS and sum(map(_display_width, left + right)) <= _MAX_COLUMNS
    if whole and len(after) <= _MAX_COLUMNS:
        shown = "".join(reversed(left))
        return shown + "".join(right), _display_width(shown)
    head = _take_columns(left, _MAX_COLUMNS * 3 // 5)
    tail = _take_columns(right, _MAX_COLUMNS - sum(map(_display_width, head)))
    mark = "…" if len(head) < len(before) else ""
    end = "…" if len(tail) < len(after) else ""
    shown = mark + "".join(reversed(head))
    return shown + "".join(tail) + end, _display_width(shown)


def _take_columns(cells: list[str], columns: int) -> list[str]:
    for count, cell in enumerate(cells):
        columns -= _display_width(cell)
        if columns < 0:
            return cells[:count]
    return cells


def _display(character: str) -> str:
    if character == "\t":
        return _TAB
    return character if character.isprintable() else "\ufffd"


def _display_width(text: str) -> int:
    """The number of terminal columns of ``text``."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width  # only for errors, so not at import

    return sum(
        0 if category(c) in ("Mn", "Me") else 2 if east_asian_width(c) in "WF" else 1 for c in text
    )
