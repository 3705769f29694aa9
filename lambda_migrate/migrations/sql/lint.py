"""Rules that a script must follow before it is sent to PostgreSQL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lambda_migrate.migrations.migration import Migration, Script
from lambda_migrate.migrations.sql.classify import _parse_create_index, classify
from lambda_migrate.migrations.sql.tokens import (
    COPY_DATA_END,
    Statement,
    TokenCursor,
    split_statements,
)

__all__ = ["check_migration", "check_script"]


# --- judging a script


def check_migration(migration: Migration) -> list[str]:
    """Check a migration's scripts without a database.

    Refused are statements that end the transaction, that need a client (``COPY ... FROM STDIN``,
    psql's commands) or that PostgreSQL runs in no transaction, and ``transaction:false`` scripts
    with more than one statement.

    Returns:
        One ``file:line: what; what to do`` for each fault; empty if there is none.
    """
    path = migration.path or migration.name
    scripts = (migration.up, migration.down)
    return [fault for script in scripts if script for fault in check_script(script, path=path)]


def check_script(script: Script, *, path: str) -> list[str]:
    """Check one script; see `check_migration`."""
    return [f"{path}:{line}: {fault}" for line, fault in _check_script(script)]


def _check_script(script: Script) -> Iterator[tuple[int, str]]:
    statements = split_statements(script.sql)
    for statement in statements:
        line = script.line + statement.line - 1
        yield from ((line, fault) for fault in _check_statement(statement))
        if script.transactional and (command := _find_non_transactional(statement)):
            yield line, _non_transactional_fault(command, is_only_statement=len(statements) == 1)
        if _has_copy_data(script.sql, statement):
            return  # the rest is data, not SQL
    if not script.transactional and len(statements) != 1:
        at = statements[1].line if statements else 1
        yield (
            script.line + at - 1,
            f"a transaction:false script holds exactly one statement, this one {len(statements)}; "
            "give each statement a file of its own",
        )


def _check_statement(statement: Statement) -> Iterator[str]:
    first = "\\" if statement.text.startswith("\\") else "".join(statement.keywords[:1])
    rule = _RULES.get(first)
    fault = rule(TokenCursor(statement.text)) if rule else ""
    if fault:
        yield fault


def _non_transactional_fault(command: str, *, is_only_statement: bool) -> str:
    move = "" if is_only_statement else "move it into a file of its own and "
    return (
        f"{command} cannot run inside a transaction; {move}write `transaction:false` at the end of "
        "its marker"
    )


def _has_copy_data(sql: str, statement: Statement) -> bool:
    return (
        statement.keywords[:1] == ("COPY",)
        and bool(_check_copy(TokenCursor(statement.text)))
        and COPY_DATA_END.search(sql, statement.start + len(statement.text)) is not None
    )


def _check_transaction_control(cursor: TokenCursor) -> str:
    control = _find_transaction_control(cursor)
    if not control:
        return ""
    return (
        f"{control} would take the migration out of lambda-migrate's own transaction; remove it "
        "(each migration is committed together with its history row)"
    )


def _find_transaction_control(cursor: TokenCursor) -> str:
    if cursor.accept("PREPARE", "TRANSACTION"):
        return "PREPARE TRANSACTION" if cursor.peek()[0] == "string" else ""
    if cursor.accept("START", "TRANSACTION"):
        return "START TRANSACTION"
    word = cursor.accept_any("BEGIN", "COMMIT", "END", "ABORT", "ROLLBACK")
    if word == "ROLLBACK":
        cursor.accept_any("WORK", "TRANSACTION")
        if cursor.is_at("TO"):
            return ""
    return f"{word} PREPARED" if word and cursor.is_at("PREPARED") else word


def _check_copy(cursor: TokenCursor) -> str:
    if not cursor.accept("COPY"):
        return ""
    cursor.accept("BINARY")
    if not cursor.accept_options():
        cursor.name()
        cursor.accept_options()
    way = cursor.accept_any("FROM", "TO")
    if not way or not cursor.accept_any("STDIN", "STDOUT"):
        return ""
    if way == "TO":
        return "COPY ... TO STDOUT has no client to read it; remove it"
    return "COPY ... FROM STDIN has no client to send its data; write INSERT statements instead"


def _check_psql_command(cursor: TokenCursor) -> str:
    if cursor.peek()[1] != "\\":
        return ""
    name = cursor.peek(1)[1]
    return f"\\{name} is a command of psql, which PostgreSQL does not know; write it as SQL"


def _check_index_name(cursor: TokenCursor) -> str:
    info = _parse_create_index(cursor)
    if info is None or not info.concurrently or info.names or not cursor.is_at("ON"):
        return ""
    return (
        "this index has no name, so it could not be found again after a crash; "
        "write CREATE INDEX CONCURRENTLY <name> ON ..."
    )


# By the first word, so that a script of many INSERTs is checked fast.
_RULES: dict[str, Callable[[TokenCursor], str]] = {
    **dict.fromkeys(
        ("PREPARE", "START", "BEGIN", "COMMIT", "END", "ABORT", "ROLLBACK"),
        _check_transaction_control,
    ),
    "COPY": _check_copy,
    "CREATE": _check_index_name,
    "\\": _check_psql_command,
}


_NON_TRANSACTIONAL_FIRST_WORDS = {
    "ALTER",
    "CLUSTER",
    "CREATE",
    "DISCARD",
    "DROP",
    "REINDEX",
    "VACUUM",
}


# The first words of what PostgreSQL refuses in a transaction block. REFRESH
# MATERIALIZED VIEW CONCURRENTLY and ALTER TYPE ... ADD VALUE are not among them.
_NON_TRANSACTIONAL = re.compile(
    r"""
      (?P<index>CREATE\ (?:UNIQUE\ )?INDEX\ CONCURRENTLY|DROP\ INDEX\ CONCURRENTLY)\b
    | (?P<all>REINDEX\ (?:SCHEMA|DATABASE|SYSTEM)|(?:CREATE|DROP)\ (?:DATABASE|TABLESPACE)
        |ALTER\ SYSTEM|VACUUM|DISCARD\ ALL)\b
    """,
    re.VERBOSE,
)


def _find_non_transactional(statement: Statement) -> str:
    """The command in this statement that cannot run in a transaction, or ""."""
    if "".join(statement.keywords[:1]) not in _NON_TRANSACTIONAL_FIRST_WORDS:
        return ""
    words = " ".join(statement.keywords)
    match = _NON_TRANSACTIONAL.match(words)
    if match is not None:
        return match[0]
    if words.startswith("REINDEX") and classify(statement).concurrently:
        return "REINDEX CONCURRENTLY"
    if words.startswith("ALTER TABLE") and words.endswith(" CONCURRENTLY"):
        return "DETACH PARTITION CONCURRENTLY" if " DETACH PARTITION" in words else ""
    if words.startswith("ALTER DATABASE") and words.count(" SET TABLESPACE"):
        return "ALTER DATABASE ... SET TABLESPACE"
    return "CLUSTER of every table" if _is_cluster_of_all(TokenCursor(statement.text)) else ""


def _is_cluster_of_all(cursor: TokenCursor) -> bool:
    if not cursor.accept("CLUSTER"):
        return False
    cursor.accept_options()
    cursor.accept("VERBOSE")
    return cursor.is_at_end
