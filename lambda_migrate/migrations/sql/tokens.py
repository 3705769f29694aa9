r"""Splits SQL scripts into statements exactly as PostgreSQL does, and reads their tokens.

Only what must be known before a script is sent is parsed: whether it would end its transaction,
whether it can run in one at all, and what an interrupted statement did. PostgreSQL checks the rest.
Tokens are PostgreSQL's with ``standard_conforming_strings`` on. An unclosed quote or comment
extends to the end of the script; `find_unclosed` finds it.

One regular expression names each token. A second one skips text in which nothing can matter: a
script of 5 MB takes well under a second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


__all__ = [
    "Identifier",
    "Statement",
    "find_block_comment_end",
    "find_unclosed",
    "split_statements",
]

_MAX_KEYWORDS = 16
"""Enough to reach the end of ``ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY``."""

_SPACE = " \t\n\r\f\v"
_DIGITS = "0123456789"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
_LETTERS_BUT_E_AND_U = "ABCDFGHIJKLMNOPQRSTVWXYZabcdfghijklmnopqrstvwxyz_"


def _match_any_of(ascii_characters: str) -> str:
    """A pattern for one character: one of these, or one beyond ASCII.

    It excludes the other ASCII characters. To compile a range up to U+10FFFF takes 5 ms instead.
    """
    return rf"[^{re.escape(_find_others(ascii_characters))}]"


def _find_others(ascii_characters: str) -> str:
    return "".join(each for each in map(chr, range(128)) if each not in ascii_characters)


_WORD_START = _match_any_of(_LETTERS)
_WORD_CONTINUATION = _match_any_of(_LETTERS + _DIGITS + "$")
_INSIGNIFICANT = re.escape(_find_others(_LETTERS + "'\"$();/-"))
_PLAIN_STRING = r"'[^']*(?:''[^']*)*(?:'|\Z)"
_QUOTED = r'"[^"]*(?:""[^"]*)*(?:"|\Z)'
_ESCAPED = r"[^'\\]*(?:(?:\\(?:.|\Z)|'')[^'\\]*)*"
# A string may continue on the next line; an E'' string keeps its backslashes there.
_CONTINUATION = rf"[ \t\f\v]*(?:--[^\n\r]*)?[\n\r](?:[{_SPACE}]|--[^\n\r]*[\n\r])*"
_STRING = (
    rf"[eE]'{_ESCAPED}(?:'{_CONTINUATION}'{_ESCAPED})*(?:'|\Z)"
    rf"|(?:[bBxXnN]|[uU]&)?{_PLAIN_STRING}"
)
_TAG = rf"\$(?:{_WORD_START}{_match_any_of(_LETTERS + _DIGITS)}*)?\$"
_TOKEN = re.compile(
    rf"""[{_SPACE}]*(?:
      (?P<open>\() | (?P<close>\)) | (?P<end>;)
    | (?P<string>{_STRING})
    | (?P<quoted>(?:[uU]&)?{_QUOTED})
    | (?P<word>{_WORD_START}{_WORD_CONTINUATION}*)
    | (?P<blank>--[^\n\r]*|\Z)
    | (?P<block>/\*)
    | (?P<dollar>{_TAG})
    | (?P<other>.)
    )""",
    re.VERBOSE | re.DOTALL,
)
# A stretch that cannot matter, and what ends it. A word of the one letter e or u may open a string.
# What ends the stretch may be nothing, so that the engine never has to try another way; the bound
# keeps its stack small.
_SKIP = re.compile(
    rf"""(?:
      [{_INSIGNIFICANT}]+
    | {_match_any_of(_LETTERS_BUT_E_AND_U)}{_WORD_CONTINUATION}*
    | [eEuU]{_WORD_CONTINUATION}+
    | {_PLAIN_STRING}
    | {_QUOTED}
    ){{0,500}}(?:
      (?P<open>\() | (?P<close>\)) | (?P<end>;)
    | {_STRING} | [uU]&{_QUOTED} | --[^\n\r]*
    | (?P<block>/\*)
    | (?P<dollar>{_TAG})
    | [$/-] | [eEuU](?!{_WORD_CONTINUATION})
    | )""",
    re.VERBOSE | re.DOTALL,
)
_CLOSED = re.compile(
    rf"""[eE]'{_ESCAPED}(?:'{_CONTINUATION}'{_ESCAPED})*'
    | (?:[bBxXnN]|[uU]&)?'[^']*(?:''[^']*)*'
    | (?:[uU]&)?"[^"]*(?:""[^"]*)*"
    | (?P<tag>{_TAG}).*(?P=tag)""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
COPY_DATA_END = re.compile(r"^\\\.\r?$", re.MULTILINE)


# --- splitting


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a script.

    Attributes:
        text: From its first token to its last, without the semicolon.
        start: Where it begins in the script, in characters from 0.
        line: On which line of the script, from 1.
        keywords: Its first bare words outside parentheses, at most 16, ASCII letters in upper
            case: ``("CREATE", "UNIQUE", "INDEX", "CONCURRENTLY", ...)``.
    """

    text: str
    start: int
    line: int
    keywords: tuple[str, ...]


def split_statements(sql: str) -> list[Statement]:
    """Split a script into its statements, without empty ones.

    Semicolons in quotes, comments, parentheses and ``BEGIN ATOMIC ... END`` bodies do not split.
    """
    statements: list[Statement] = []
    line, counted = 1, 0
    for statement in _find_statements(sql):
        line += sql.count("\n", counted, statement.start)
        counted = statement.start
        text = sql[statement.start : statement.end]
        statements.append(Statement(text, statement.start, line, tuple(statement.words)))
    return statements


def find_unclosed(sql: str) -> tuple[str, int] | None:
    """Find a quote, comment or parenthesis that is never closed.

    Returns:
        What it is, with how to close it, and where it begins, in characters from 0. None if all
        are closed.
    """
    brackets: list[int] = []
    before, at = 0, 0
    while at < len(sql):
        before = at
        kind, start, at = _next_token(_SKIP, sql, at)
        if kind == "open":
            brackets.append(start)
        elif kind == "close" and brackets:
            brackets.pop()
    # Only the last token can be unclosed, and it is in the last stretch.
    while before < len(sql):
        kind, start, before = _next_token(_TOKEN, sql, before)
        if unclosed := _describe_unclosed(kind, sql[start:before]):
            return unclosed, start
    return ("parenthesis is never closed; close it with )", brackets[-1]) if brackets else None


def _describe_unclosed(kind: str, token: str) -> str:
    if kind == "blank":
        is_closed = not token.startswith("/*") or find_block_comment_end(token, 0) is not None
        return "" if is_closed else "comment is never closed; close it with */"
    if kind not in ("string", "quoted") or _CLOSED.fullmatch(token):
        return ""
    if token.startswith("$"):
        tag = token[: token.index("$", 1) + 1]
        return f"dollar quote is never closed; close it with {tag}"
    if kind == "quoted":
        return 'quoted identifier is never closed; close it with "'
    return "string is never closed; close it with '"


class _OpenStatement:
    """A statement whose end is not reached yet."""

    __slots__ = ("_previous", "end", "is_atomic", "start", "words")

    def __init__(self) -> None:
        self.start = -1
        self.end = -1
        self.words: list[str] = []
        self.is_atomic = False
        self._previous = ""

    @property
    def is_waiting_for_end(self) -> bool:
        """Whether only its end can matter from here on."""
        return len(self.words) == _MAX_KEYWORDS and not self._is_routine

    @property
    def _is_routine(self) -> bool:
        words = self.words
        at = 3 if words[1:3] == ["OR", "REPLACE"] else 1
        return words[:1] == ["CREATE"] and words[at : at + 1] in (["FUNCTION"], ["PROCEDURE"])

    def add_token(self, kind: str, text: str, *, start: int, end: int) -> None:
        """Add one token, or a whole bracket, that does not end the statement."""
        if self.start < 0:
            self.start = start
        self.end = end
        if kind == "word":
            self._word(_upper(text))
        else:
            self._previous = kind

    def _word(self, word: str) -> None:
        if len(self.words) < _MAX_KEYWORDS:
            self.words.append(word)
        if word == "ATOMIC" and self._previous == "BEGIN" and self._is_routine:
            self.is_atomic = True
        # No statement of a body begins with END, and the END of a CASE never begins one.
        elif word == "END" and self.is_atomic and self._previous in ("end", "ATOMIC"):
            self.is_atomic = False
        self._previous = word


def _find_statements(sql: str) -> Iterator[_OpenStatement]:
    statement, at = _OpenStatement(), 0
    while at < len(sql):
        if statement.is_waiting_for_end:
            at = _skip_to_end(sql, at)
            statement.end += len(sql[statement.end : at].rstrip(_SPACE))
        kind, start, at = _next_token(_TOKEN, sql, at)
        if kind == "blank":
            continue
        if kind == "open":
            at = _end_of_bracket(sql, at)
        if kind != "end" or statement.is_atomic:
            statement.add_token(kind, sql[start:at], start=start, end=at)
        elif statement.start >= 0:
            yield statement
            statement = _OpenStatement()
    if statement.start >= 0:
        yield statement


def _skip_to_end(sql: str, at: int) -> int:
    """The position of the semicolon that ends the statement, or the end of the script."""
    while at < len(sql):
        kind, _, at = _next_token(_SKIP, sql, at)
        if kind == "open":
            at = _end_of_bracket(sql, at)
        elif kind == "end":
            return at - 1
    return at


def _end_of_bracket(sql: str, at: int) -> int:
    """The end of the bracket that was opened just before ``at``."""
    depth = 1
    while depth and at < len(sql):
        kind, _, at = _next_token(_SKIP, sql, at)
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
    return at


def _next_token(pattern: re.Pattern[str], sql: str, at: int) -> tuple[str, int, int]:
    """Kind, start and end of the next token that the pattern finds from ``at``."""
    match = pattern.match(sql, at)
    if match is None:
        raise AssertionError(at)  # both patterns match anything
    kind = match.lastgroup or ""
    start, end = match.span(kind or 0)
    if kind == "block":
        return "blank", start, _end_of_block_comment(sql, start)
    if kind == "dollar":
        close = sql.find(match[kind], end)
        return "string", start, len(sql) if close < 0 else close + end - start
    return kind, start, end


def _end_of_block_comment(sql: str, at: int) -> int:
    end = find_block_comment_end(sql, at)
    return len(sql) if end is None else end


def find_block_comment_end(sql: str, at: int) -> int | None:
    """The end of the comment that begins at ``at``; comments nest. None if it is not closed."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(sql, at):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return None


def _upper(word: str) -> str:
    # PostgreSQL folds ASCII alone in keywords: a dotless i does not make an INDEX.
    return word.upper() if word.isascii() else word


# --- reading one statement


@dataclass(frozen=True, slots=True)
class Identifier:
    """The name of an object, as PostgreSQL stores it: folded, unquoted, at most 63 bytes."""

    name: str
    schema: str | None = None

    def __str__(self) -> str:
        return self.name if self.schema is None else f"{self.schema}.{self.name}"


class TokenCursor:
    """Steps through a statement's tokens; a token that does not match is not consumed."""

    __slots__ = ("_at", "_sql", "_starts", "_tokens")

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._at = 0
        self._tokens: list[tuple[str, str]] = []
        self._starts: list[int] = []

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        """Kind and text of an upcoming token; empty after the last one."""
        while len(self._tokens) <= ahead:
            if self._at >= len(self._sql):
                return "", ""
            kind, start, self._at = _next_token(_TOKEN, self._sql, self._at)
            if kind != "blank":
                self._tokens.append((kind, self._sql[start : self._at]))
                self._starts.append(start)
        return self._tokens[ahead]

    def _advance(self, count: int = 1) -> None:
        del self._tokens[:count]
        del self._starts[:count]

    def is_at(self, *words: str) -> bool:
        return all(
            kind == "word" and _upper(text) == word
            for word, (kind, text) in zip(words, map(self.peek, range(len(words))), strict=True)
        )

    def accept(self, *words: str) -> bool:
        """Consume these words if they are all next."""
        if not self.is_at(*words):
            return False
        self._advance(len(words))
        return True

    def accept_any(self, *words: str) -> str:
        """Consume whichever of these words is next, and return it."""
        return next((word for word in words if self.accept(word)), "")

    def accept_symbol(self, symbol: str) -> bool:
        if self.peek()[1] != symbol:
            return False
        self._advance()
        return True

    def accept_options(self) -> dict[str, str]:
        """Consume a list in parentheses; for each item its first word and the rest."""
        found: dict[str, str] = {}
        depth, item = 0, list[str]()
        while self.peek()[0] == "open" or depth:
            kind, text = self.peek()
            self._advance()
            depth += (kind == "open") - (kind == "close")
            if text == "," or not depth or not kind:
                found["".join(item[:1])] = "".join(item[1:])
                item = []
            elif kind != "open":
                item.append(_upper(text))
            if not depth or not kind:
                break
        return found

    def identifier(self) -> str | None:
        kind, text = self.peek()
        name = _parse_identifier(text) if kind in ("word", "quoted") else None
        if name is not None:
            self._advance()
        return name

    def name(self) -> Identifier | None:
        """Consume a name, perhaps with its schema; a database name before it is dropped."""
        parts: list[str] = []
        while True:
            part = self.identifier()
            if part is None:
                return None
            parts.append(part)
            if not self.accept_symbol("."):
                return Identifier(parts[-1], parts[-2] if len(parts) > 1 else None)

    def names(self) -> tuple[Identifier, ...]:
        found: list[Identifier] = []
        while name := self.name():
            found.append(name)
            if not self.accept_symbol(","):
                return tuple(found)
        return ()

    def literal(self) -> str | None:
        kind, text = self.peek()
        value = _parse_literal(text) if kind == "string" else None
        if value is not None:
            self._advance()
        return value

    @property
    def is_at_end(self) -> bool:
        return not self.peek()[0]

    @property
    def rest(self) -> str:
        """The remaining text, from the next token on."""
        return "" if self.is_at_end else self._sql[self._starts[0] :]


def _parse_identifier(text: str) -> str | None:
    """The identifier of a word or quoted name; None if it has Unicode escapes."""
    if text[:2] in ("U&", "u&"):
        return None if "\\" in text else _parse_identifier(text[2:])
    if text.startswith('"'):
        return _truncate(text[1:-1].replace('""', '"'))
    return _truncate("".join(c.lower() if c.isascii() else c for c in text))


def _truncate(name: str) -> str:
    # NAMEDATALEN - 1 bytes, at a character boundary, as PostgreSQL truncates it.
    return name if len(name) < 16 else name.encode()[:63].decode(errors="ignore")


def _parse_literal(text: str) -> str | None:
    """The value of a string constant; None if it has escapes."""
    if text.startswith("$"):
        tag = text[: text.index("$", 1) + 1]
        return text[len(tag) : -len(tag)]
    prefix, _, rest = text.partition("'")
    body = rest[:-1]
    if prefix in ("", "n", "N") or (prefix in ("e", "E", "u&", "U&") and "\\" not in body):
        return None if re.search(rf"'{_CONTINUATION}'", body) else body.replace("''", "'")
    return None
