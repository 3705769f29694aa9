"""What a step that commits in parts has done, and what its rerun may skip.

Some steps of other tools cannot be one transaction. Their row of the mirror lists hashes of the
statements that are committed, each written in the transaction of its statement. A rerun skips
statements that only define objects and are in the list. About a statement that runs in no
transaction (``CREATE INDEX CONCURRENTLY``) the row says beforehand that it has begun; the catalog
tells how far it got. Everything else, rows above all, cannot be repeated or skipped safely.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

from lambda_migrate.migrations.sql.classify import classify
from lambda_migrate.migrations.sql.lint import (
    can_run_in_transaction,
    find_transaction_control,
)
from lambda_migrate.migrations.sql.tokens import TokenCursor, split_statements
from lambda_migrate.postgresql import catalog_queries
from lambda_migrate.postgresql.catalog_state import (
    CatalogInspector,
    CatalogState,
    quote_qualified_name,
)
from lambda_migrate.postgresql.sql_fragments import ServerTimeouts

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lambda_migrate.migrations.sql.classify import StatementInfo
    from lambda_migrate.migrations.sql.tokens import Statement

    Run = Callable[[str], list[list[Any]]]

__all__ = [
    "IN_DOUBT",
    "TRANSACTION",
    "MessageKind",
    "classify_message",
    "find_conflict",
    "hash_message",
    "resolve_in_doubt",
]

IN_DOUBT = "?"
"""Precedes the hash of a statement that has begun in no transaction, and may have ended."""

TRANSACTION = f"{IN_DOUBT}transaction"
"""The only entry of a step that is one transaction. If another process can see it, the step has
committed by itself, and what of it is unknown."""


class MessageKind(Enum):
    """What a message to PostgreSQL, of one or several statements, may do."""

    READ = "read"
    """Only reads."""
    SETTING = "setting"
    """Changes the session or savepoints; it is always repeated."""
    DEFINITION = "definition"
    """Defines objects, in a transaction; a rerun skips it once it is committed."""
    ROWS = "rows"
    """Changes rows, or calls a function of which nothing is known."""
    OUTSIDE = "outside"
    """PostgreSQL runs it in no transaction, or it may commit by itself."""
    CONTROL = "control"
    """Begins or ends a transaction."""


def classify_message(sql: str) -> MessageKind:
    """The strongest kind of its statements; see `MessageKind`."""
    order = list(MessageKind)
    kinds = [_classify(statement) for statement in split_statements(sql)]
    return max(kinds, key=order.index, default=MessageKind.READ)


def hash_message(sql: str, params: object = None) -> str:
    """The entry of a message in the log."""
    return sha256(f"{sql}\0{params!r}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def find_conflict(sql: str, run: Run, server_version: int) -> str:
    """Why a statement outside a transaction cannot begin; "" if it can.

    So what is found after an interruption is the statement's own work.
    """
    info, inspector = _inspect(sql, run, server_version)
    return "" if info is None or info.has_if_exists else inspector.inspect().conflict


def resolve_in_doubt(sql: str, run: Run, server_version: int) -> bool | None:
    """Look up in the catalog what an interrupted statement left, and remove what is half done.

    Args:
        sql: The statement.
        run: Runs a message outside a transaction and returns the rows of its last result.
        server_version: ``server_version_num``.

    Returns:
        True if it took effect; False if nothing is left of it; None if that is unknown.
    """
    info, inspector = _inspect(sql, run, server_version)
    if info is None:
        return None
    state = inspector.inspect().state
    if state is CatalogState.INVALID:
        for table, partition in inspector.find_pending_detach():
            run(catalog_queries.finalize_detach(table, partition))
        for name, may_drop in inspector.find_invalid_indexes():
            if may_drop:
                run(catalog_queries.drop_index(name))
        state = inspector.inspect().state
    return {CatalogState.COMPLETE: True, CatalogState.ABSENT: False}.get(state)


def _inspect(
    sql: str, run: Run, server_version: int
) -> tuple[StatementInfo | None, CatalogInspector]:
    statements = split_statements(sql)
    info = classify(statements[0])
    inspector = CatalogInspector(
        info,
        read=run,
        is_same_index=partial(_is_same_index, info, run, server_version),
        repair_command="`lambda-migrate repair`",
    )
    return (info if len(statements) == 1 else None), inspector


def _is_same_index(
    info: StatementInfo, run: Run, server_version: int, object_id: int
) -> bool | None:
    if info.table is None:
        return None
    query = catalog_queries.compare_index(
        object_id,
        table=quote_qualified_name(info.table),
        unique=info.unique,
        definition=info.definition,
        timeouts=ServerTimeouts(lock=3000, statement=30_000, server_version=server_version),
    )
    try:
        # Not every driver returns the rows of a result that another one follows.
        rows = run(query.rpartition(";")[0])
        return bool(rows[-1][0])
    except Exception:  # noqa: BLE001 - of any driver
        return None
    finally:
        run("ROLLBACK")


def _classify(statement: Statement) -> MessageKind:
    first = "".join(statement.keywords[:1])
    cursor = TokenCursor(statement.text)
    if find_transaction_control(cursor):
        return MessageKind.CONTROL
    if first in _SESSION_COMMANDS:
        return MessageKind.SETTING
    info = classify(statement)
    if info.kind in _OUTSIDE_KINDS:
        is_inside = can_run_in_transaction(statement)
        return MessageKind.DEFINITION if is_inside else MessageKind.OUTSIDE
    if first == "CALL" or (first == "DO" and _ENDS_TRANSACTION.search(statement.text)):
        return MessageKind.OUTSIDE
    if first in ("SELECT", "WITH", "VALUES", "TABLE", "SHOW"):
        return MessageKind.READ if _only_reads(statement) else MessageKind.ROWS
    return MessageKind.DEFINITION if first in _DEFINITIONS else MessageKind.ROWS


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
_DEFINITIONS = (
    *("ALTER", "COMMENT", "CREATE", "DROP", "GRANT", "REASSIGN", "REVOKE", "SECURITY"),
    *("IMPORT", "ANALYZE", "REFRESH"),
)
_OUTSIDE_KINDS = (
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
