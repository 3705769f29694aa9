"""What a step that commits in parts has done, and what its rerun may skip.

Some steps of other tools cannot be one transaction. Their row of the mirror lists hashes of the
statements that are committed, each written in the transaction of its statement. A rerun skips
statements that only define objects and are in the list. About a statement that runs in no
transaction (``CREATE INDEX CONCURRENTLY``) the row says beforehand that it has begun; the catalog
shows how far it got. Everything else, rows above all, cannot be repeated or skipped safely.
"""

from __future__ import annotations

import re
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING

from lambda_migrate.migrations.sql.classify import classify
from lambda_migrate.migrations.sql.lint import (
    can_run_in_transaction,
    find_transaction_control,
)
from lambda_migrate.migrations.sql.tokens import TokenCursor, split_statements
from lambda_migrate.sources.statement_log import is_temporary

if TYPE_CHECKING:
    from lambda_migrate.migrations.sql.tokens import Statement

__all__ = [
    "IN_DOUBT",
    "TRANSACTION",
    "DjangoRerunKind",
    "classify_django_statements",
    "hash_statements",
]

IN_DOUBT = "?"
"""Precedes the hash of a statement that has begun in no transaction, and may have ended."""

TRANSACTION = f"{IN_DOUBT}transaction"
"""The only entry of a step that is one transaction. If another process can see it, the step has
committed by itself, and what of it is unknown."""


class DjangoRerunKind(Enum):
    """What one or several statements may do, which decides whether a rerun skips them."""

    READ = "read"
    """Only reads."""
    SESSION = "session"
    """Changes the session or savepoints; it is always repeated."""
    SCHEMA = "schema"
    """Defines objects, in a transaction; a rerun skips it once it is committed."""
    ROWS = "rows"
    """Changes rows, or calls a function of which nothing is known."""
    NON_TRANSACTIONAL = "non-transactional"
    """PostgreSQL runs it in no transaction, or it may commit by itself."""
    CONTROL = "control"
    """Begins or ends a transaction."""


def classify_django_statements(sql: str) -> DjangoRerunKind:
    """The strongest kind of its statements; see `DjangoRerunKind`."""
    order = list(DjangoRerunKind)
    kinds = [_classify(statement) for statement in split_statements(sql)]
    return max(kinds, key=order.index, default=DjangoRerunKind.READ)


def hash_statements(sql: str, params: object = None) -> str:
    """The entry in the log of what one call sends."""
    return sha256(f"{sql}\0{params!r}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _classify(statement: Statement) -> DjangoRerunKind:
    first = "".join(statement.keywords[:1])
    cursor = TokenCursor(statement.text)
    if find_transaction_control(cursor):
        return DjangoRerunKind.CONTROL
    if first in _SESSION_COMMANDS or is_temporary(statement):
        return DjangoRerunKind.SESSION
    info = classify(statement)
    if info.kind in _NON_TRANSACTIONAL_KINDS:
        is_inside = can_run_in_transaction(statement)
        return DjangoRerunKind.SCHEMA if is_inside else DjangoRerunKind.NON_TRANSACTIONAL
    if first == "CALL" or (first == "DO" and _ENDS_TRANSACTION.search(statement.text)):
        return DjangoRerunKind.NON_TRANSACTIONAL
    if first in ("SELECT", "WITH", "VALUES", "TABLE", "SHOW"):
        return DjangoRerunKind.READ if _only_reads(statement) else DjangoRerunKind.ROWS
    return DjangoRerunKind.SCHEMA if first in _SCHEMA else DjangoRerunKind.ROWS


def _only_reads(statement: Statement) -> bool:
    """Whether a query calls no function but ones that are known to change nothing."""
    if _WRITES.search(statement.text):
        return False
    return all(
        _HARMLESS_NAMES.match(name) or _HARMLESS_PREFIXES.match(name)
        for name in _CALLS.findall(statement.text)
    )


_SESSION_COMMANDS = (
    *("SET", "RESET", "SAVEPOINT", "RELEASE", "ROLLBACK", "LOCK", "LISTEN", "UNLISTEN"),
    *("DEALLOCATE", "CLOSE", "FETCH", "DECLARE"),
)
_SCHEMA = (
    *("ALTER", "COMMENT", "CREATE", "DROP", "GRANT", "REASSIGN", "REVOKE", "SECURITY"),
    *("IMPORT", "ANALYZE", "REFRESH"),
)
_NON_TRANSACTIONAL_KINDS = (
    *("create-index", "drop-index", "reindex", "attach-partition", "detach-partition"),
    *("create-object", "drop-object", "idempotent"),
)
_ENDS_TRANSACTION = re.compile(r"\b(?:COMMIT|ROLLBACK)\b", re.IGNORECASE)
_WRITES = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|INTO)\b", re.IGNORECASE)
_CALLS = re.compile(r"""([A-Za-z_][A-Za-z0-9_]*|"[^"]+")\s*\(""")
_HARMLESS_PREFIXES = re.compile(
    r"(?:pg_(?:get|index|table|is|has|my|type)|has|to|array|json|jsonb|current|obj|col)_", re.I
)
_HARMLESS_NAMES = re.compile(
    r"(?:select|from|where|and|or|not|in|exists|any|all|some|as|on|values|over|filter|"
    r"distinct|union|except|intersect|case|when|then|else|cast|extract|count|sum|min|"
    r"max|avg|coalesce|nullif|greatest|least|lower|upper|length|trim|substring|"
    r"replace|concat|row|row_number|unnest|generate_subscripts|format_type|string_agg|"
    r"bool_or|bool_and|now|version|regexp_replace|quote_ident|quote_literal|array_agg|"
    r"any_value|join|lateral|using|varchar|numeric)\Z",
    re.IGNORECASE,
)
