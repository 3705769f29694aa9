"""What a step has committed before it is complete, and what that means when it runs again.

A revision with an autocommit block, or one that commits by itself, cannot share one transaction
with its version row. So each of its commits also writes what was done so far: one entry for each
statement. When such a step is interrupted and runs again, statements that are in the log already
are skipped. That is only right for statements without a result, so a log with any other one needs
a person, and so does one that does not fit the step any more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING

from lambda_migrate.migrations.sql.tokens import split_statements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lambda_migrate.migrations.sql.tokens import Statement

__all__ = [
    "IN_DOUBT",
    "LogMismatch",
    "RerunKind",
    "StatementLog",
    "classify_statements",
    "ends_transaction",
    "find_function_names",
    "is_temporary",
]

IN_DOUBT = "?"
"""An entry for statements that may be committed and are not in the log. As the prefix of an entry:
its statement may have taken effect or not."""

_ROWS = "rows:"


class RerunKind(Enum):
    """What one or more statements do, which decides whether they may run again."""

    READ = "read"
    """It may run again, unless a function that it calls writes."""
    SESSION = "session"
    """It changes the session only, and has to run again."""
    SCHEMA = "schema"
    """It has no result; once committed, it must not run again."""
    ROWS = "rows"
    """Code may depend on its result; once committed, neither skipping nor repeating it is right."""


_READS = ("SELECT", "VALUES", "TABLE", "SHOW", "EXPLAIN", "WITH")
_CONTROL = ("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE")
_SESSION = (
    *("SET", "RESET", "DISCARD", "LOCK", "LISTEN", "UNLISTEN", "NOTIFY", "PREPARE", "DEALLOCATE"),
    *("DECLARE", "FETCH", "MOVE", "CLOSE", "CHECKPOINT", "LOAD"),
)
_SCHEMA = (
    *("CREATE", "ALTER", "DROP", "COMMENT", "GRANT", "REVOKE", "REINDEX", "CLUSTER", "VACUUM"),
    *("ANALYZE", "ANALYSE", "REFRESH", "SECURITY", "TRUNCATE", "IMPORT", "REASSIGN", "DO"),
)
_WRITES_IN_QUERY = re.compile(r"\b(?:insert|update|delete|merge|into|analyze)\b", re.IGNORECASE)
_TEMPORARY = re.compile(r"CREATE (?:(?:GLOBAL|LOCAL) )?TEMP(?:ORARY)?\b")
_CALL = re.compile(r"([a-z_][a-z0-9_$]*)\"?\s*\(", re.IGNORECASE)
_SEVERITY = tuple(RerunKind)


def classify_statements(sql: str) -> RerunKind:
    """Classify a text by its most far-reaching statement."""
    kinds = [_classify(each) for each in split_statements(sql)]
    return max(kinds, key=_SEVERITY.index, default=RerunKind.SESSION)


def _classify(statement: Statement) -> RerunKind:
    first = "".join(statement.keywords[:1])
    if first in _READS:
        is_write = first != "SHOW" and _WRITES_IN_QUERY.search(statement.text)
        return RerunKind.ROWS if is_write else RerunKind.READ
    if first in _SESSION or first in _CONTROL or is_temporary(statement):
        return RerunKind.SESSION
    return RerunKind.SCHEMA if first in _SCHEMA else RerunKind.ROWS


def is_temporary(statement: Statement) -> bool:
    """Whether it creates an object that ends with the session, so that it has to run again."""
    return _TEMPORARY.match(" ".join(statement.keywords)) is not None


def ends_transaction(sql: str) -> str:
    """``COMMIT`` or ``ROLLBACK`` if that is what a text consists of; else ``""``.

    ``MIXED`` if it is one of several statements.
    """
    statements = split_statements(sql)
    words = [each.keywords[:2] for each in statements]
    ends = [
        "COMMIT" if word[0] in ("COMMIT", "END") else "ROLLBACK"
        for word in words
        if word and word[0] in ("COMMIT", "END", "ROLLBACK", "ABORT") and word[1:] != ("TO",)
    ]
    if not ends:
        return ""
    return ends[0] if len(statements) == 1 else "MIXED"


def find_function_names(sql: str) -> list[str]:
    """Words before a parenthesis, in lower case: among them every function that is called."""
    return sorted({word.lower() for word in _CALL.findall(sql)})


class LogMismatch(Exception):
    """The log of an earlier attempt does not allow to continue; the message says why."""


@dataclass
class StatementLog:
    """The statements of one step on one connection.

    Attributes:
        committed: Entries of statements that are committed, of earlier attempts, too.
        pending: Entries of the open transaction.
    """

    committed: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    _expected: list[str] = field(default_factory=list)
    _savepoints: dict[str, int] = field(default_factory=dict)

    @classmethod
    def resume(cls, entries: Sequence[str]) -> StatementLog:
        """Continue after an attempt that was interrupted.

        Raises:
            LogMismatch: It committed rows, or something unknown.
        """
        if IN_DOUBT in entries:
            raise LogMismatch("it committed statements that were not recorded")
        if any(each.removeprefix(IN_DOUBT).startswith(_ROWS) for each in entries):
            raise LogMismatch("it committed changes of rows, which cannot be repeated or skipped")
        return cls(
            committed=[each for each in entries if each[0] != IN_DOUBT], _expected=[*entries]
        )

    def match(self, entry: str) -> str:
        """Decide about the next statement: ``run``, ``skip``, or ``look-up`` if it is in doubt.

        Raises:
            LogMismatch: The earlier attempt ran other statements.
        """
        if not self._expected:
            return "run"
        for action, known in (("skip", entry), ("look-up", IN_DOUBT + entry)):
            if known in self._expected:
                del self._expected[: self._expected.index(known) + 1]
                return action
        raise LogMismatch("its next statement is not among those that it had committed")

    def require_complete(self) -> None:
        """Check, after the step's last statement, that nothing is left in doubt.

        Raises:
            LogMismatch: A statement in doubt was not repeated.
        """
        if any(each.startswith(IN_DOUBT) for each in self._expected):
            raise LogMismatch("it does not repeat the statement at which it was interrupted")
        self._expected.clear()

    def record_savepoint(self, sql: str) -> None:
        """Follow savepoints: what is rolled back to one is not committed."""
        words = sql.strip().rstrip(";").split()
        upper = [word.upper() for word in words[:3]]
        name = words[-1] if words else ""
        if upper[:1] == ["SAVEPOINT"]:
            self._savepoints[name] = len(self.pending)
        elif upper[:2] == ["ROLLBACK", "TO"]:
            del self.pending[self._savepoints.get(name, 0) :]

    def record_commit(self) -> None:
        """The open transaction was committed."""
        self.committed += self.pending
        self.pending.clear()

    def record_rollback(self) -> None:
        """The open transaction was rolled back."""
        self.pending.clear()


def make_entry(kind: RerunKind, sql: str, parameters: object) -> str:
    """The entry of a statement in the log."""
    text = sql.strip() if not parameters else f"{sql.strip()}\0{parameters!r}"
    prefix = _ROWS if kind is not RerunKind.SCHEMA else ""
    return prefix + sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
