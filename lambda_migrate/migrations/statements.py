r"""SQL scripts, cut into statements exactly where PostgreSQL cuts them, and judged.

Only what must be known before a script is sent is looked at: whether it would end the transaction
that it runs in, whether it can run in one at all, and what an interrupted statement was about. The
rest is PostgreSQL's to judge. Tokens are PostgreSQL's with ``standard_conforming_strings`` on; an
unterminated quote or comment reaches to the end of the script, which PostgreSQL then refuses.

One regular expression names each token; a second one leaps over stretches in which nothing can
matter, so that a script of 5 MB takes well under a second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lambda_migrate.migrations.migration import Migration, Script

__all__ = [
    "Build",
    "Excerpt",
    "Identifier",
    "Statement",
    "check",
    "check_script",
    "classify",
    "excerpt",
    "redact",
    "split",
]

_KEYWORDS_KEPT = 16
"""Enough to reach the end of ``ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY``."""

_SPACE = " \t\n\r\f\v"
_WORD_START = r"A-Za-z_\u0080-\U0010ffff"
_WORD_MORE = rf"[{_WORD_START}0-9$]"
_PLAIN = r"'[^']*(?:''[^']*)*(?:'|\Z)"
_QUOTED = r'"[^"]*(?:""[^"]*)*(?:"|\Z)'
_ESCAPED = r"[^'\\]*(?:(?:\\(?:.|\Z)|'')[^'\\]*)*"
# A string goes on behind a line's end; an E'' string keeps its backslashes there.
_GOES_ON = rf"[ \t\f\v]*(?:--[^\n\r]*)?[\n\r](?:[{_SPACE}]|--[^\n\r]*[\n\r])*"
_STRING = rf"[eE]'{_ESCAPED}(?:'{_GOES_ON}'{_ESCAPED})*(?:'|\Z)|(?:[bBxXnN]|[uU]&)?{_PLAIN}"
_TAG = rf"\$(?:[{_WORD_START}][{_WORD_START}0-9]*)?\$"
_TOKEN = re.compile(
    rf"""[{_SPACE}]*(?:
      (?P<open>\() | (?P<close>\)) | (?P<end>;)
    | (?P<string>{_STRING})
    | (?P<quoted>(?:[uU]&)?{_QUOTED})
    | (?P<word>[{_WORD_START}]{_WORD_MORE}*)
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
_LEAP = re.compile(
    rf"""(?:
      [^'"$();/\-{_WORD_START}]+
    | [A-DF-TV-Za-df-tv-z_\u0080-\U0010ffff]{_WORD_MORE}*
    | [eEuU]{_WORD_MORE}+
    | {_PLAIN}
    | {_QUOTED}
    ){{0,500}}(?:
      (?P<open>\() | (?P<close>\)) | (?P<end>;)
    | {_STRING} | [uU]&{_QUOTED} | --[^\n\r]*
    | (?P<block>/\*)
    | (?P<dollar>{_TAG})
    | [$/-] | [eEuU](?!{_WORD_MORE})
    | )""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_COPY_DATA_END = re.compile(r"^\\\.\r?$", re.MULTILINE)


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


def split(sql: str) -> list[Statement]:
    """Cut a script into its statements; empty ones are left out.

    Semicolons inside quotes, comments, parentheses and ``BEGIN ATOMIC ... END`` bodies do not cut.
    """
    statements: list[Statement] = []
    line, counted = 1, 0
    for open_ in _spans(sql):
        line += sql.count("\n", counted, open_.start)
        counted = open_.start
        text = sql[open_.start : open_.end]
        statements.append(Statement(text, open_.start, line, tuple(open_.words)))
    return statements


class _Open:
    """A statement whose end has not been seen yet."""

    __slots__ = ("_previous", "end", "is_atomic", "start", "words")

    def __init__(self) -> None:
        self.start = -1
        self.end = -1
        self.words: list[str] = []
        self.is_atomic = False
        self._previous = ""

    @property
    def is_dull(self) -> bool:
        """Whether nothing but its end can matter from here on."""
        return len(self.words) == _KEYWORDS_KEPT and not self._is_routine

    @property
    def _is_routine(self) -> bool:
        words = self.words
        at = 3 if words[1:3] == ["OR", "REPLACE"] else 1
        return words[:1] == ["CREATE"] and words[at : at + 1] in (["FUNCTION"], ["PROCEDURE"])

    def take(self, kind: str, text: str, *, start: int, end: int) -> None:
        """Take one token, or what stands in brackets, that does not end the statement."""
        if self.start < 0:
            self.start = start
        self.end = end
        if kind == "word":
            self._word(_upper(text))
        else:
            self._previous = kind

    def _word(self, word: str) -> None:
        if len(self.words) < _KEYWORDS_KEPT:
            self.words.append(word)
        if word == "ATOMIC" and self._previous == "BEGIN" and self._is_routine:
            self.is_atomic = True
        # No statement of a body begins with END, and the END of a CASE never begins one.
        elif word == "END" and self.is_atomic and self._previous in ("end", "ATOMIC"):
            self.is_atomic = False
        self._previous = word


def _spans(sql: str) -> Iterator[_Open]:
    open_, at = _Open(), 0
    while at < len(sql):
        if open_.is_dull:
            at = _to_end(sql, at)
            open_.end += len(sql[open_.end : at].rstrip(_SPACE))
        kind, start, at = _next(_TOKEN, sql, at)
        if kind == "blank":
            continue
        if kind == "open":
            at = _after_bracket(sql, at)
        if kind != "end" or open_.is_atomic:
            open_.take(kind, sql[start:at], start=start, end=at)
        elif open_.start >= 0:
            yield open_
            open_ = _Open()
    if open_.start >= 0:
        yield open_


def _to_end(sql: str, at: int) -> int:
    """Where the semicolon stands that ends the statement, or the end of the script."""
    while at < len(sql):
        kind, _, at = _next(_LEAP, sql, at)
        if kind == "open":
            at = _after_bracket(sql, at)
        elif kind == "end":
            return at - 1
    return at


def _after_bracket(sql: str, at: int) -> int:
    """Where the bracket ends that was opened just before ``at``."""
    depth = 1
    while depth and at < len(sql):
        kind, _, at = _next(_LEAP, sql, at)
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
    return at


def _next(pattern: re.Pattern[str], sql: str, at: int) -> tuple[str, int, int]:
    """What kind of token the pattern finds from ``at`` on, where it begins and where it ends."""
    match = pattern.match(sql, at)
    if match is None:
        raise AssertionError(at)  # both patterns match anything
    kind = match.lastgroup or ""
    start, end = match.span(kind or 0)
    if kind == "block":
        return "blank", start, _after_block_comment(sql, start)
    if kind == "dollar":
        close = sql.find(match[kind], end)
        return "string", start, len(sql) if close < 0 else close + end - start
    return kind, start, end


def _after_block_comment(sql: str, at: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(sql, at):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(sql)


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


class _Cursor:
    """Walks over a statement's tokens; whatever does not fit leaves it where it is."""

    __slots__ = ("_at", "_sql", "_starts", "_tokens")

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._at = 0
        self._tokens: list[tuple[str, str]] = []
        self._starts: list[int] = []

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        """Kind and text of a token to come; empty behind the last one."""
        while len(self._tokens) <= ahead:
            if self._at >= len(self._sql):
                return "", ""
            kind, start, self._at = _next(_TOKEN, self._sql, self._at)
            if kind != "blank":
                self._tokens.append((kind, self._sql[start : self._at]))
                self._starts.append(start)
        return self._tokens[ahead]

    def _drop(self, count: int = 1) -> None:
        del self._tokens[:count]
        del self._starts[:count]

    def sees(self, *words: str) -> bool:
        return all(
            kind == "word" and _upper(text) == word
            for word, (kind, text) in zip(words, map(self.peek, range(len(words))), strict=True)
        )

    def accept(self, *words: str) -> bool:
        """Step over these words if they all stand here."""
        if not self.sees(*words):
            return False
        self._drop(len(words))
        return True

    def accept_any(self, *words: str) -> str:
        """Step over the first of these words that stands here, and return it."""
        return next((word for word in words if self.accept(word)), "")

    def accept_symbol(self, symbol: str) -> bool:
        if self.peek()[1] != symbol:
            return False
        self._drop()
        return True

    def options(self) -> dict[str, str]:
        """Step over a list in parentheses; of each item its first word, and what follows that."""
        found: dict[str, str] = {}
        depth, item = 0, list[str]()
        while self.peek()[0] == "open" or depth:
            kind, text = self.peek()
            self._drop()
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
        name = _identifier(text) if kind in ("word", "quoted") else None
        if name is not None:
            self._drop()
        return name

    def name(self) -> Identifier | None:
        """A name, perhaps with its schema; a database before that is left out."""
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
        value = _literal(text) if kind == "string" else None
        if value is not None:
            self._drop()
        return value

    @property
    def is_over(self) -> bool:
        return not self.peek()[0]

    @property
    def rest(self) -> str:
        """What follows, from the next token on."""
        return "" if self.is_over else self._sql[self._starts[0] :]


def _identifier(text: str) -> str | None:
    """What a word or a quoted name means; None for one with Unicode escapes."""
    if text[:2] in ("U&", "u&"):
        return None if "\\" in text else _identifier(text[2:])
    if text.startswith('"'):
        return _truncated(text[1:-1].replace('""', '"'))
    return _truncated("".join(c.lower() if c.isascii() else c for c in text))


def _truncated(name: str) -> str:
    # NAMEDATALEN - 1 bytes, at the edge of a character, as PostgreSQL cuts it.
    return name if len(name) < 16 else name.encode()[:63].decode(errors="ignore")


def _literal(text: str) -> str | None:
    """What a string constant means; None for one whose escapes are not worth reading."""
    if text.startswith("$"):
        tag = text[: text.index("$", 1) + 1]
        return text[len(tag) : -len(tag)]
    prefix, _, rest = text.partition("'")
    body = rest[:-1]
    if prefix in ("", "n", "N") or (prefix in ("e", "E", "u&", "U&") and "\\" not in body):
        return None if re.search(rf"'{_GOES_ON}'", body) else body.replace("''", "'")
    return None


# --- judging a script


def check(migration: Migration) -> list[str]:
    """What is wrong with a migration's scripts, found without a database.

    Refused are statements that end the transaction (every migration runs in one of ours), those
    that need a client of their own (``COPY ... FROM STDIN``, psql's commands), those that
    PostgreSQL runs in no transaction, and ``transaction:false`` scripts of more than one statement.

    Returns:
        One ``file:line: what; what to do`` for each fault; empty where all is well.
    """
    path = migration.path or migration.name
    scripts = (migration.up, migration.down)
    return [fault for script in scripts if script for fault in check_script(script, path=path)]


def check_script(script: Script, *, path: str) -> list[str]:
    """What is wrong with one script; see `check`."""
    return [f"{path}:{line}: {fault}" for line, fault in _script_faults(script)]


def _script_faults(script: Script) -> Iterator[tuple[int, str]]:
    statements = split(script.sql)
    for statement in statements:
        line = script.line + statement.line - 1
        yield from ((line, fault) for fault in _statement_faults(statement))
        if script.transactional and (loner := _loner(statement)):
            yield line, _loner_fault(loner, is_alone=len(statements) == 1)
        if _copies_data(script.sql, statement):
            return  # what follows is data, and whatever it says is not SQL
    if not script.transactional and len(statements) != 1:
        at = statements[1].line if statements else 1
        yield (
            script.line + at - 1,
            f"a transaction:false script holds exactly one statement, this one {len(statements)}; "
            "give each statement a file of its own",
        )


def _statement_faults(statement: Statement) -> Iterator[str]:
    first = "\\" if statement.text.startswith("\\") else "".join(statement.keywords[:1])
    rule = _RULES.get(first)
    fault = rule(_Cursor(statement.text)) if rule else ""
    if fault:
        yield fault


def _loner_fault(loner: str, *, is_alone: bool) -> str:
    move = "" if is_alone else "move it into a file of its own and "
    return (
        f"{loner} cannot run inside a transaction; {move}write `transaction:false` at the end of "
        "its marker"
    )


def _copies_data(sql: str, statement: Statement) -> bool:
    return (
        statement.keywords[:1] == ("COPY",)
        and bool(_copy_fault(_Cursor(statement.text)))
        and _COPY_DATA_END.search(sql, statement.start + len(statement.text)) is not None
    )


def _transaction_fault(cursor: _Cursor) -> str:
    control = _transaction_control(cursor)
    if not control:
        return ""
    return (
        f"{control} would take the migration out of lambda-migrate's own transaction; remove it "
        "(each migration is committed together with its history row)"
    )


def _transaction_control(cursor: _Cursor) -> str:
    if cursor.accept("PREPARE", "TRANSACTION"):
        return "PREPARE TRANSACTION" if cursor.peek()[0] == "string" else ""
    if cursor.accept("START", "TRANSACTION"):
        return "START TRANSACTION"
    word = cursor.accept_any("BEGIN", "COMMIT", "END", "ABORT", "ROLLBACK")
    if word == "ROLLBACK":
        cursor.accept_any("WORK", "TRANSACTION")
        if cursor.sees("TO"):
            return ""
    return f"{word} PREPARED" if word and cursor.sees("PREPARED") else word


def _copy_fault(cursor: _Cursor) -> str:
    if not cursor.accept("COPY"):
        return ""
    cursor.accept("BINARY")
    if not cursor.options():
        cursor.name()
        cursor.options()
    way = cursor.accept_any("FROM", "TO")
    if not way or not cursor.accept_any("STDIN", "STDOUT"):
        return ""
    if way == "TO":
        return "COPY ... TO STDOUT has nobody to read it; remove it"
    return "COPY ... FROM STDIN has no client to send its data; write INSERT statements instead"


def _psql_fault(cursor: _Cursor) -> str:
    if cursor.peek()[1] != "\\":
        return ""
    name = cursor.peek(1)[1]
    return f"\\{name} is a command of psql, which PostgreSQL does not know; write it as SQL"


def _unnamed_index_fault(cursor: _Cursor) -> str:
    build = _create_index(cursor)
    if build is None or not build.concurrently or build.names or not cursor.sees("ON"):
        return ""
    return (
        "this index has no name, so it could not be found again after a crash; "
        "write CREATE INDEX CONCURRENTLY <name> ON ..."
    )


# By the first word, so that a script of many INSERTs costs nothing here.
_RULES: dict[str, Callable[[_Cursor], str]] = {
    **dict.fromkeys(
        ("PREPARE", "START", "BEGIN", "COMMIT", "END", "ABORT", "ROLLBACK"), _transaction_fault
    ),
    "COPY": _copy_fault,
    "CREATE": _unnamed_index_fault,
    "\\": _psql_fault,
}

_LONER_BEGINNINGS = {"ALTER", "CLUSTER", "CREATE", "DISCARD", "DROP", "REINDEX", "VACUUM"}
# What PostgreSQL refuses in a transaction block, as the words that it begins with. REFRESH
# MATERIALIZED VIEW CONCURRENTLY and ALTER TYPE ... ADD VALUE are not among them.
_LONERS = re.compile(
    r"""
      (?P<index>CREATE\ (?:UNIQUE\ )?INDEX\ CONCURRENTLY|DROP\ INDEX\ CONCURRENTLY)\b
    | (?P<all>REINDEX\ (?:SCHEMA|DATABASE|SYSTEM)|(?:CREATE|DROP)\ (?:DATABASE|TABLESPACE)
        |ALTER\ SYSTEM|VACUUM|DISCARD\ ALL)\b
    """,
    re.VERBOSE,
)


def _loner(statement: Statement) -> str:
    """What in this statement cannot run inside a transaction, or ""."""
    if "".join(statement.keywords[:1]) not in _LONER_BEGINNINGS:
        return ""
    words = " ".join(statement.keywords)
    match = _LONERS.match(words)
    if match is not None:
        return match[0]
    if words.startswith("REINDEX") and classify(statement).concurrently:
        return "REINDEX CONCURRENTLY"
    if words.startswith("ALTER TABLE") and words.endswith(" CONCURRENTLY"):
        return "DETACH PARTITION CONCURRENTLY" if " DETACH PARTITION" in words else ""
    if words.startswith("ALTER DATABASE") and words.count(" SET TABLESPACE"):
        return "ALTER DATABASE ... SET TABLESPACE"
    return "CLUSTER of every table" if _clusters_all(_Cursor(statement.text)) else ""


def _clusters_all(cursor: _Cursor) -> bool:
    if not cursor.accept("CLUSTER"):
        return False
    cursor.options()
    cursor.accept("VERBOSE")
    return cursor.is_over


# --- what an interrupted statement was about

Kind = Literal[
    "create-index",
    "drop-index",
    "reindex",
    "add-enum-value",
    "attach-partition",
    "detach-partition",
    "create-object",
    "drop-object",
    "repeatable",
    "atomic",
    "other",
]


@dataclass(frozen=True, slots=True)
class Build:
    """What a non-transactional statement was about, for whoever finds it interrupted.

    Attributes:
        kind: ``repeatable`` does no harm when run twice. ``atomic`` takes effect as a whole or,
            if it fails, not at all. Of ``other`` nothing is known: it may commit in parts, as
            CALL and DO do.
        names: The indexes, the reindexed object, the enumerated type, the partition, or the
            database, tablespace or subscription. An index that is created carries its table's
            schema, as PostgreSQL puts it there. Empty for an index without a name and for
            ``REINDEX DATABASE`` without one.
        table: The table of an index that is created; what a partition is a partition of.
        of: ``INDEX``, ``TABLE``, ``SCHEMA``, ``DATABASE`` or ``SYSTEM`` that is reindexed;
            ``TABLE`` or ``INDEX`` that a partition is of; ``DATABASE``, ``TABLESPACE`` or
            ``SUBSCRIPTION`` that is created or dropped.
        value: The value that an enumerated type gains.
        concurrently: Whether it says CONCURRENTLY.
        conditional: Whether it says IF EXISTS or IF NOT EXISTS.
        finalize: Whether it says FINALIZE.
        unique: Whether it says UNIQUE.
        definition: Of an index that is created, all that follows its table.
    """

    kind: Kind
    names: tuple[Identifier, ...] = ()
    table: Identifier | None = None
    of: str = ""
    value: str = ""
    concurrently: bool = False
    conditional: bool = False
    finalize: bool = False
    unique: bool = False
    definition: str = ""

    @property
    def is_atomic(self) -> bool:
        """Whether PostgreSQL undoes all of it when it fails."""
        return self.kind == "atomic" or (self.kind in _ATOMIC_KINDS and not self.concurrently)


_ATOMIC_KINDS = (
    *("create-index", "drop-index", "add-enum-value"),
    *("attach-partition", "detach-partition"),
)
_REPEATABLE = ("VACUUM", "ANALYZE", "ANALYSE", "REFRESH", "CLUSTER", "CHECKPOINT", "DISCARD")
_ATOMIC = (
    *("ALTER", "COMMENT", "CREATE", "DELETE", "DROP", "EXPLAIN", "GRANT", "IMPORT", "INSERT"),
    *("MERGE", "REASSIGN", "REVOKE", "SECURITY", "SELECT", "TABLE", "TRUNCATE", "UPDATE"),
    *("VALUES", "WITH"),
)
# What is not undone with the transaction: files, other servers, other sessions.
_NOT_ATOMIC = re.compile(
    r"(?:CREATE|ALTER|DROP)\ (?:DATABASE|TABLESPACE|SYSTEM|SUBSCRIPTION)\b|.*\ CONCURRENTLY\b"
)


def classify(statement: Statement) -> Build:
    """Tell what a statement is about; ``other`` for anything that cannot be told for certain."""
    for recognise in (_create_index, _drop_index, _reindex, _add_value, _partition, _object):
        build = recognise(_Cursor(statement.text))
        if build is not None:
            return build
    first, words = "".join(statement.keywords[:1]), " ".join(statement.keywords)
    if first in _REPEATABLE or words.startswith("ALTER SYSTEM"):
        return Build("repeatable")
    if words.startswith("ALTER DATABASE") and " SET TABLESPACE" in words:
        return Build("repeatable")  # PostgreSQL moves nothing that is there already
    if first in _ATOMIC and not _NOT_ATOMIC.match(words):
        return Build("atomic")
    return Build("other")


def _create_index(cursor: _Cursor) -> Build | None:
    unique = cursor.accept("CREATE", "UNIQUE", "INDEX")
    if not unique and not cursor.accept("CREATE", "INDEX"):
        return None
    concurrently = cursor.accept("CONCURRENTLY")
    conditional = cursor.accept("IF", "NOT", "EXISTS")
    if cursor.sees("ON"):
        return Build("create-index", concurrently=concurrently)
    index = cursor.identifier()
    cursor.accept("ON")
    cursor.accept("ONLY")
    table = cursor.name()
    if index is None or table is None:
        return None
    return Build(
        "create-index",
        names=(Identifier(index, table.schema),),
        table=table,
        concurrently=concurrently,
        conditional=conditional,
        unique=unique,
        definition=cursor.rest,
    )


def _drop_index(cursor: _Cursor) -> Build | None:
    if not cursor.accept("DROP", "INDEX"):
        return None
    concurrently = cursor.accept("CONCURRENTLY")
    conditional = cursor.accept("IF", "EXISTS")
    names = cursor.names()
    if not names:
        return None
    return Build("drop-index", names, concurrently=concurrently, conditional=conditional)


def _reindex(cursor: _Cursor) -> Build | None:
    if not cursor.accept("REINDEX"):
        return None
    options = cursor.options()
    of = cursor.accept_any("INDEX", "TABLE", "SCHEMA", "DATABASE", "SYSTEM")
    option = options.get("CONCURRENTLY", "FALSE").strip("'")
    concurrently = cursor.accept("CONCURRENTLY") or option not in ("FALSE", "OFF", "0")
    names = cursor.names()
    if not names and of in ("", "INDEX", "TABLE", "SCHEMA"):
        return None
    return Build("reindex", names, of=of, concurrently=concurrently)


def _add_value(cursor: _Cursor) -> Build | None:
    if not cursor.accept("ALTER", "TYPE"):
        return None
    name = cursor.name()
    if name is None or not cursor.accept("ADD", "VALUE"):
        return None
    conditional = cursor.accept("IF", "NOT", "EXISTS")
    value = cursor.literal()
    if value is None or cursor.peek()[0] == "string":
        return None
    return Build("add-enum-value", (name,), value=value, conditional=conditional)


def _partition(cursor: _Cursor) -> Build | None:
    of = cursor.accept_any("TABLE", "INDEX") if cursor.accept("ALTER") else ""
    conditional = cursor.accept("IF", "EXISTS")
    cursor.accept("ONLY")
    whole = cursor.name() if of else None
    cursor.accept_symbol("*")
    act = cursor.accept_any("ATTACH", "DETACH")
    part = cursor.name() if act and cursor.accept("PARTITION") else None
    if whole is None or part is None:
        return None
    return Build(
        "attach-partition" if act == "ATTACH" else "detach-partition",
        (part,),
        table=whole,
        of=of,
        concurrently=cursor.accept("CONCURRENTLY"),
        conditional=conditional,
        finalize=cursor.accept("FINALIZE"),
    )


def _object(cursor: _Cursor) -> Build | None:
    act = cursor.accept_any("CREATE", "DROP")
    of = cursor.accept_any("DATABASE", "TABLESPACE", "SUBSCRIPTION") if act else ""
    conditional = cursor.accept("IF", "EXISTS")
    name = cursor.identifier() if of else None
    if name is None:
        return None
    kind: Kind = "create-object" if act == "CREATE" else "drop-object"
    return Build(kind, (Identifier(name),), of=of, conditional=conditional)


# --- showing a line of it

_HIDDEN = "***"
_BETWEEN = r"(?:\s|/\*[^*]*\*/|--[^\n]*\n)*"
_SECRET = re.compile(
    rf"""
      passw(?:or)?d["']?{_BETWEEN}(?:(?:=>|:=|[=:,])\s*)?
        (?P<literal>''[^']+''|\\'[^']*'|{_STRING}|(?P<tag>{_TAG})(?:.*?(?P=tag)|.*))
    | (?:passw(?:or)?d)\s*=\s*(?P<bare>[^\s'",;()]+)
    | ://[^\s:/@'"]*:(?P<url>[^\s'"]+)@
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_COLUMNS = 100
_TAB = "    "


@dataclass(frozen=True, slots=True)
class Excerpt:
    """One line of a script and where in it something is.

    Attributes:
        line: The line of the file, from 1.
        column: The character in that line, from 1, as editors count.
        text: The line, or the part of it around the column: passwords hidden, tabs as spaces,
            nothing invisible, at most about 100 terminal columns.
        caret: Spaces and a ``^`` that stands below the place when printed under ``text``.
    """

    line: int
    column: int
    text: str
    caret: str


def redact(line: str) -> str:
    """Hide what follows PASSWORD, and the password in a connection string or URL."""
    shown: list[str] = []
    at = 0
    for start, end in _secrets(line):
        shown += (line[at:start], _HIDDEN)
        at = end
    return "".join(shown) + line[at:]


def excerpt(sql: str, position: int, *, first_line: int) -> Excerpt:
    """Show where in a script PostgreSQL found fault.

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
    before, after = _redacted_around(sql, start, at, len(sql) if stop < 0 else stop)
    text, width = _window(before, after)
    return Excerpt(
        line=first_line + sql.count("\n", 0, start),
        column=at - start + 1,
        text=text,
        caret=" " * width + "^",
    )


def _secrets(text: str) -> Iterator[tuple[int, int]]:
    for match in _SECRET.finditer(text):
        for group in ("literal", "bare", "url"):
            if match[group]:
                yield match.span(group)


def _redacted_around(sql: str, start: int, at: int, stop: int) -> tuple[str, str]:
    """The line from ``start`` to ``stop`` with its secrets hidden, cut in two at ``at``.

    The whole script is searched, because a secret may begin on an earlier line.
    """
    before: list[str] = []
    after: list[str] = []
    done = start
    for low, high in [*_secrets(sql), (stop, stop)]:
        low, high = max(low, start), min(high, stop)
        if low < done or (low >= high and low != stop):
            continue
        before.append(sql[done : max(done, min(low, at))])
        after.append(sql[max(done, min(low, at)) : low])
        if low < high:
            (before if high <= at else after).append(_HIDDEN)
        done = high
    return "".join(before), "".join(after)


def _window(before: str, after: str) -> tuple[str, int]:
    """The line, cut to fit a terminal, and how many columns stand before the caret."""
    left = [_cell(c) for c in reversed(before[-_COLUMNS:])]
    right = [_cell(c) for c in after[:_COLUMNS]]
    whole = len(before) <= _COLUMNS and sum(map(_width, left + right)) <= _COLUMNS
    if whole and len(after) <= _COLUMNS:
        shown = "".join(reversed(left))
        return shown + "".join(right), _width(shown)
    head = _fitting(left, _COLUMNS * 3 // 5)
    tail = _fitting(right, _COLUMNS - sum(map(_width, head)))
    mark = "…" if len(head) < len(before) else ""
    end = "…" if len(tail) < len(after) else ""
    shown = mark + "".join(reversed(head))
    return shown + "".join(tail) + end, _width(shown)


def _fitting(cells: list[str], columns: int) -> list[str]:
    for count, cell in enumerate(cells):
        columns -= _width(cell)
        if columns < 0:
            return cells[:count]
    return cells


def _cell(character: str) -> str:
    if character == "\t":
        return _TAB
    return character if character.isprintable() else "\ufffd"


def _width(text: str) -> int:
    """How many columns a terminal gives ``text``."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width  # only for errors, so not at import

    return sum(
        0 if category(c) in ("Mn", "Me") else 2 if east_asian_width(c) in "WF" else 1 for c in text
    )
