"""Classifies non-transactional statements by what they may leave behind when interrupted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass
from lambda_migrate.migrations.sql.tokens import Identifier, Statement, TokenCursor

__all__ = ["StatementInfo", "classify"]


# --- what an interrupted statement was about

StatementKind = Literal[
    "create-index",
    "drop-index",
    "reindex",
    "add-enum-value",
    "attach-partition",
    "detach-partition",
    "create-object",
    "drop-object",
    "idempotent",
    "atomic",
    "other",
]


@dataclass(frozen=True, slots=True)
class StatementInfo:
    """What a non-transactional statement does, to determine its outcome if it is interrupted.

    Attributes:
        kind: ``idempotent`` may run twice. ``atomic`` takes effect as a whole or, if it fails, not
            at all. About ``other`` nothing is known: it may commit in parts, as CALL and DO do.
        names: The indexes, the reindexed object, the enumerated type, the partition, or the
            database, tablespace or subscription. An index that is created carries its table's
            schema, as PostgreSQL puts it there. Empty for an index without a name and for
            ``REINDEX DATABASE`` without one.
        table: The table of an index that is created; what a partition is a partition of.
        object_type: ``INDEX``, ``TABLE``, ``SCHEMA``, ``DATABASE`` or ``SYSTEM`` that is reindexed;
            ``TABLE`` or ``INDEX`` that a partition is of; ``DATABASE``, ``TABLESPACE`` or
            ``SUBSCRIPTION`` that is created or dropped.
        enum_value: The value that an enumerated type gains.
        concurrently: Whether it says CONCURRENTLY.
        has_if_exists: Whether it says IF EXISTS or IF NOT EXISTS.
        finalize: Whether it says FINALIZE.
        unique: Whether it says UNIQUE.
        definition: Of an index that is created, all that follows its table.
    """

    kind: StatementKind
    names: tuple[Identifier, ...] = ()
    table: Identifier | None = None
    object_type: str = ""
    enum_value: str = ""
    concurrently: bool = False
    has_if_exists: bool = False
    finalize: bool = False
    unique: bool = False
    definition: str = ""

    @property
    def is_atomic(self) -> bool:
        """Whether PostgreSQL rolls it back as a whole when it fails."""
        return self.kind == "atomic" or (self.kind in _ATOMIC_KINDS and not self.concurrently)


_ATOMIC_KINDS = (
    *("create-index", "drop-index", "add-enum-value"),
    *("attach-partition", "detach-partition"),
)


_IDEMPOTENT_COMMANDS = (
    "VACUUM",
    "ANALYZE",
    "ANALYSE",
    "REFRESH",
    "CLUSTER",
    "CHECKPOINT",
    "DISCARD",
)


_ATOMIC_COMMANDS = (
    *("ALTER", "COMMENT", "CREATE", "DELETE", "DROP", "EXPLAIN", "GRANT", "IMPORT", "INSERT"),
    *("MERGE", "REASSIGN", "REVOKE", "SECURITY", "SELECT", "TABLE", "TRUNCATE", "UPDATE"),
    *("VALUES", "WITH"),
)


# What is not rolled back: files, other servers, other sessions.
_NOT_ATOMIC = re.compile(
    r"(?:CREATE|ALTER|DROP)\ (?:DATABASE|TABLESPACE|SYSTEM|SUBSCRIPTION)\b|.*\ CONCURRENTLY\b"
)


def classify(statement: Statement) -> StatementInfo:
    """Classify a statement; ``other`` if in doubt."""
    for recognise in (
        _parse_create_index,
        _parse_drop_index,
        _parse_reindex,
        _parse_add_value,
        _parse_partition,
        _parse_object,
    ):
        info = recognise(TokenCursor(statement.text))
        if info is not None:
            return info
    first, words = "".join(statement.keywords[:1]), " ".join(statement.keywords)
    if first in _IDEMPOTENT_COMMANDS or words.startswith("ALTER SYSTEM"):
        return StatementInfo("idempotent")
    if words.startswith("ALTER DATABASE") and " SET TABLESPACE" in words:
        return StatementInfo("idempotent")  # PostgreSQL skips what was moved already
    if first in _ATOMIC_COMMANDS and not _NOT_ATOMIC.match(words):
        return StatementInfo("atomic")
    return StatementInfo("other")


def _parse_create_index(cursor: TokenCursor) -> StatementInfo | None:
    unique = cursor.accept("CREATE", "UNIQUE", "INDEX")
    if not unique and not cursor.accept("CREATE", "INDEX"):
        return None
    concurrently = cursor.accept("CONCURRENTLY")
    has_if_exists = cursor.accept("IF", "NOT", "EXISTS")
    if cursor.is_at("ON"):
        return StatementInfo("create-index", concurrently=concurrently)
    index = cursor.identifier()
    cursor.accept("ON")
    cursor.accept("ONLY")
    table = cursor.name()
    if index is None or table is None:
        return None
    return StatementInfo(
        "create-index",
        names=(Identifier(index, table.schema),),
        table=table,
        concurrently=concurrently,
        has_if_exists=has_if_exists,
        unique=unique,
        definition=cursor.rest,
    )


def _parse_drop_index(cursor: TokenCursor) -> StatementInfo | None:
    if not cursor.accept("DROP", "INDEX"):
        return None
    concurrently = cursor.accept("CONCURRENTLY")
    has_if_exists = cursor.accept("IF", "EXISTS")
    names = cursor.names()
    if not names:
        return None
    return StatementInfo(
        "drop-index", names, concurrently=concurrently, has_if_exists=has_if_exists
    )


def _parse_reindex(cursor: TokenCursor) -> StatementInfo | None:
    if not cursor.accept("REINDEX"):
        return None
    options = cursor.accept_options()
    object_type = cursor.accept_any("INDEX", "TABLE", "SCHEMA", "DATABASE", "SYSTEM")
    option = options.get("CONCURRENTLY", "FALSE").strip("'")
    concurrently = cursor.accept("CONCURRENTLY") or option not in ("FALSE", "OFF", "0")
    names = cursor.names()
    if not names and object_type in ("", "INDEX", "TABLE", "SCHEMA"):
        return None
    return StatementInfo("reindex", names, object_type=object_type, concurrently=concurrently)


def _parse_add_value(cursor: TokenCursor) -> StatementInfo | None:
    if not cursor.accept("ALTER", "TYPE"):
        return None
    name = cursor.name()
    if name is None or not cursor.accept("ADD", "VALUE"):
        return None
    has_if_exists = cursor.accept("IF", "NOT", "EXISTS")
    value = cursor.literal()
    if value is None or cursor.peek()[0] == "string":
        return None
    return StatementInfo("add-enum-value", (name,), enum_value=value, has_if_exists=has_if_exists)


def _parse_partition(cursor: TokenCursor) -> StatementInfo | None:
    object_type = cursor.accept_any("TABLE", "INDEX") if cursor.accept("ALTER") else ""
    has_if_exists = cursor.accept("IF", "EXISTS")
    cursor.accept("ONLY")
    parent = cursor.name() if object_type else None
    cursor.accept_symbol("*")
    action = cursor.accept_any("ATTACH", "DETACH")
    partition = cursor.name() if action and cursor.accept("PARTITION") else None
    if parent is None or partition is None:
        return None
    return StatementInfo(
        "attach-partition" if action == "ATTACH" else "detach-partition",
        (partition,),
        table=parent,
        object_type=object_type,
        concurrently=cursor.accept("CONCURRENTLY"),
        has_if_exists=has_if_exists,
        finalize=cursor.accept("FINALIZE"),
    )


def _parse_object(cursor: TokenCursor) -> StatementInfo | None:
    action = cursor.accept_any("CREATE", "DROP")
    object_type = cursor.accept_any("DATABASE", "TABLESPACE", "SUBSCRIPTION") if action else ""
    has_if_exists = cursor.accept("IF", "EXISTS")
    name = cursor.identifier() if object_type else None
    if name is None:
        return None
    kind: StatementKind = "create-object" if action == "CREATE" else "drop-object"
    return StatementInfo(
        kind, (Identifier(name),), object_type=object_type, has_if_exists=has_if_exists
    )
