r"""Placeholders in scripts marked ``placeholders:true``: ``${ident:name}`` and ``${literal:name}``.

The file has the names and the settings have the values, so checksums, history and messages have
names only. A placeholder is one whole token, outside quotes, perhaps in the body of a dollar quote.
Its value is quoted so that neither the session's settings nor the dollar quotes around it matter:
one with a backslash, a dollar sign or a line end is written with escapes, without these characters.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from lambda_migrate.errors import ConfigurationError, escape_text
from lambda_migrate.migrations.sql.tokens import (
    _DIGITS,
    _LETTERS,
    _QUOTED,
    _STRING,
    _TAG,
    _WORD_START,
    _end_of_block_comment,
    _match_any_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lambda_migrate.migrations.migration import Script

__all__ = [
    "SubstitutedSQL",
    "check_placeholders",
    "find_unmarked_placeholder",
    "parse_placeholders",
    "redact_values",
]

_SETTING = "LAMBDA_MIGRATE_PLACEHOLDERS (argument placeholders)"
_MAX_IDENTIFIER_BYTES = 63  # NAMEDATALEN - 1
_MIN_HIDDEN_LENGTH = 4
"""Shorter values occur in messages by chance."""

_TRUNCATION_MARK = " [...]"
"""The end of a field that the driver has truncated."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTENT = re.compile(rf"\$\{{(ident|literal):({_NAME.pattern})\}}")
_OPENING = re.compile(r"\\?\$\{(?:[^{}\n]*\})?")
_SCAN = re.compile(
    rf"""
      (?P<quotes>{_STRING}|(?:[uU]&)?{_QUOTED})
    | (?P<comment>--[^\n\r]*)
    | (?P<block>/\*)
    | (?P<dollar>{_TAG})
    | (?P<placeholder>{_OPENING.pattern})
    | {_WORD_START}(?:{_match_any_of(_LETTERS + _DIGITS)}|\$(?!\{{))*
    """,
    re.VERBOSE | re.DOTALL,
)
_JOINED_BEFORE = re.compile(_match_any_of(_LETTERS + _DIGITS + "$'\"&}"))
_JOINED_AFTER = re.compile(_match_any_of(_LETTERS + _DIGITS + "$'\""))

_LITERAL_ESCAPES = {"\\": r"\\", "$": r"\044", "\n": r"\n", "\r": r"\r"}
_IDENTIFIER_ESCAPES = {"\\": r"\\", "$": r"\0024", "\n": r"\000A", "\r": r"\000D"}


# --- the values


def parse_placeholders(source: str | Mapping[str, str]) -> dict[str, str]:
    """Parse the setting: a JSON object, or the mapping that was passed as an argument.

    Raises:
        ConfigurationError: With every fault; values are not shown.
    """
    values: object = source
    if isinstance(source, str):
        try:
            values = json.loads(source) if source else {}
        except ValueError:
            values = None
    if not hasattr(values, "items"):
        raise ConfigurationError(
            f'{_SETTING} is not a JSON object; write {{"name": "value"}}, with names and values in '
            "double quotes"
        )
    faults: list[str] = []
    for name, value in values.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            faults.append(
                f"{_SETTING}: {escape_text(str(name))[:40]!r} is not a name; write ASCII letters, "
                "digits and _"
            )
        elif not isinstance(value, str) or re.search("[\0\ud800-\udfff]", value):
            faults.append(f"{_SETTING}: write text without NUL as the value of {name}")
    if faults:
        raise ConfigurationError(faults)
    return dict(values.items())


def redact_values(text: str, values: Mapping[str, str]) -> str:
    """Write ``${name}`` for each value in a server's message, also in its quoted forms."""
    forms = {
        form: f"${{{name}}}"
        for name, value in values.items()
        for form in _list_quoted_forms(value)
        if len(value) >= _MIN_HIDDEN_LENGTH
    }
    for form in sorted(forms, key=len, reverse=True):
        text = _redact_beginning(text.replace(form, forms[form]), form, forms[form])
    return text


def _list_quoted_forms(value: str) -> tuple[str, ...]:
    """The value as it is, as PostgreSQL's functions quote it, and as it was sent."""
    sent = (quote(value).lstrip("EU&")[1:-1] for quote in _QUOTE.values())
    return (value, value.replace("'", "''"), value.replace('"', '""'), *sent)


def _redact_beginning(text: str, form: str, name: str) -> str:
    """Hide the beginning of a value at the end of a truncated message."""
    if text.endswith(_TRUNCATION_MARK):
        shown = text.removesuffix(_TRUNCATION_MARK)
        for length in range(min(len(form), len(shown)), _MIN_HIDDEN_LENGTH - 1, -1):
            if shown.endswith(form[:length]):
                return f"{shown[:-length]}{name}{_TRUNCATION_MARK}"
    return text


def _quote_literal(value: str) -> str:
    text = _escape(value, _LITERAL_ESCAPES)
    return ("E" if "\\" in text else "") + "'" + text.replace("'", "''") + "'"


def _quote_identifier(value: str) -> str:
    is_escaped = re.search(r"[$\n\r]", value)
    text = _escape(value, _IDENTIFIER_ESCAPES) if is_escaped else value
    return ("U&" if is_escaped else "") + '"' + text.replace('"', '""') + '"'


def _escape(value: str, escapes: Mapping[str, str]) -> str:
    return "".join(escapes.get(character, character) for character in value)


_QUOTE = {"ident": _quote_identifier, "literal": _quote_literal}


# --- the script


class _Placeholder(NamedTuple):
    """A placeholder, or what looks like one; an escape has no kind."""

    start: int
    end: int
    text: str
    kind: str = ""
    name: str = ""
    is_in_quotes: bool = False

    @property
    def is_escape(self) -> bool:
        return self.text.startswith("\\")


def check_placeholders(
    script: Script, values: Mapping[str, str] | None
) -> Iterator[tuple[int, str]]:
    """Check the placeholders of a script.

    Args:
        script: The script.
        values: The values; None checks only what the file shows.

    Yields:
        The line of the file, and the fault.
    """
    for each in _find_placeholders(script.sql) if script.has_placeholders else ():
        if fault := _find_fault(each, script.sql, values):
            yield script.line + script.sql.count("\n", 0, each.start), fault


def find_unmarked_placeholder(script: Script) -> Iterator[tuple[int, str]]:
    """Find the first placeholder of a script whose marker does not ask for any."""
    match = None if script.has_placeholders else _CONTENT.search(script.sql)
    if match is not None:
        yield (
            script.line + script.sql.count("\n", 0, match.start()),
            f"`{match[0][:60]}` is not replaced; write `placeholders:true` on the marker",
        )


def _find_fault(found: _Placeholder, sql: str, values: Mapping[str, str] | None) -> str:
    if found.is_escape:
        return ""
    shown = f"`{escape_text(found.text)[:60]}`"
    if not found.kind:
        bare = _NAME.search(found.text.rpartition(":")[2])
        name = bare[0][:40] if bare else "name"
        return (
            f"{shown} is not a placeholder; write ${{ident:{name}}} for a name, "
            f"${{literal:{name}}} for a value, or \\${{ for the two characters"
        )
    if found.is_in_quotes:
        return f"{shown} is in quotes; remove them, because the value gets quotes of its own"
    if _JOINED_BEFORE.fullmatch(sql[found.start - 1 : found.start]) or _JOINED_AFTER.match(
        sql, found.end
    ):
        return (
            f"{shown} is attached to other characters; separate it, or move the whole text into "
            "the value"
        )
    if values is None:
        return ""
    if found.name not in values:
        return f"{shown} has no value; set it in {_SETTING}"
    length = len(values[found.name].encode())
    if found.kind == "ident" and not 0 < length <= _MAX_IDENTIFIER_BYTES:
        return (
            f"the value of {shown} has {length} bytes, and a name has 1 to "
            f"{_MAX_IDENTIFIER_BYTES}; correct it in {_SETTING}"
        )
    return ""


class SubstitutedSQL:
    """A script with its placeholders replaced.

    Args:
        sql: The script, which `check_placeholders` has accepted.
        values: The values.
        is_unchanged: Whether it has no placeholders, so that ``${`` means nothing.

    Attributes:
        sql: What is sent to PostgreSQL.
    """

    def __init__(self, sql: str, values: Mapping[str, str], *, is_unchanged: bool) -> None:
        self._replaced: list[tuple[int, int, int]] = []
        """Start and end of each placeholder in the script, and the length of what replaced it."""
        pieces, at = list[str](), 0
        for each in () if is_unchanged else _find_placeholders(sql):
            new = "${" if each.is_escape else _QUOTE[each.kind](values[each.name])
            pieces += (sql[at : each.start], new)
            self._replaced.append((each.start, each.end, len(new)))
            at = each.end
        self.sql = "".join(pieces) + sql[at:]

    def find_original_position(self, position: int) -> int:
        """The position in the script, from 1, of a position in what was sent."""
        at, growth = position - 1, 0
        for start, end, length in self._replaced:
            if at < start + growth + length:
                return min(at - growth, start) + 1
            growth += length - (end - start)
        return at - growth + 1


def _find_placeholders(sql: str) -> Iterator[_Placeholder]:
    return _scan(sql, 0, len(sql)) if "${" in sql else iter(())


def _scan(sql: str, at: int, end: int) -> Iterator[_Placeholder]:
    """Find placeholders outside comments, also in quotes and in dollar quotes."""
    while match := _SCAN.search(sql, at, end):
        at = match.end()
        if match["block"]:
            at = _end_of_block_comment(sql, match.start())
        elif tag := match["dollar"]:
            close = sql.find(tag, at, end)
            if close >= 0:
                yield from _scan(sql, at, close)
                at = close + len(tag)
        elif match["quotes"]:
            for opening in _OPENING.finditer(sql, match.start(), at):
                yield _read_placeholder(opening[0], opening.start(), is_in_quotes=True)
        elif text := match["placeholder"]:
            found = _read_placeholder(text, match.start())
            yield found
            at = found.end


def _read_placeholder(text: str, start: int, *, is_in_quotes: bool = False) -> _Placeholder:
    if text.startswith("\\"):
        return _Placeholder(start, start + 3, text[:3])
    content = _CONTENT.fullmatch(text)
    kind, name = content.groups() if content else ("", "")
    return _Placeholder(start, start + len(text), text, kind, name, is_in_quotes)
