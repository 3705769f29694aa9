"""Rules that a script must follow before it is sent to PostgreSQL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lambda_migrate.migrations.migration import Migration, Script
from lambda_migrate.migrations.sql.classify import _create_index, classify
from lambda_migrate.migrations.sql.tokens import COPY_DATA_END, Cursor, Statement, split

__all__ = ["check", "check_script"]


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
    fault = rule(Cursor(statement.text)) if rule else ""
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
        and bool(_copy_fault(Cursor(statement.text)))
        and COPY_DATA_END.search(sql, statement.start + len(statement.text)) is not None
    )


def _transaction_fault(cursor: Cursor) -> str:
    control = _transaction_control(cursor)
    if not control:
        return ""
    return (
        f"{control} would take the migration out of lambda-migrate's own transaction; remove it "
        "(each migration is committed together with its history row)"
    )


def _transaction_control(cursor: Cursor) -> str:
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


def _copy_fault(cursor: Cursor) -> str:
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


def _psql_fault(cursor: Cursor) -> str:
    if cursor.peek()[1] != "\\":
        return ""
    name = cursor.peek(1)[1]
    return f"\\{name} is a command of psql, which PostgreSQL does not know; write it as SQL"


def _unnamed_index_fault(cursor: Cursor) -> str:
    info = _create_index(cursor)
    if info is None or not info.concurrently or info.names or not cursor.sees("ON"):
        return ""
    return (
        "this index has no name, so it could not be found again after a crash; "
        "write CREATE INDEX CONCURRENTLY <name> ON ..."
    )


# By the first word, so that a script of many INSERTs costs nothing here.
_RULES: dict[str, Callable[[Cursor], str]] = {
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
    return "CLUSTER of every table" if _clusters_all(Cursor(statement.text)) else ""


def _clusters_all(cursor: Cursor) -> bool:
    if not cursor.accept("CLUSTER"):
        return False
    cursor.options()
    cursor.accept("VERBOSE")
    return cursor.is_over
