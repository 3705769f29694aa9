"""Rules that a script must follow before it is sent to PostgreSQL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lambda_migrate.migrations.migration import Migration, Script
from lambda_migrate.migrations.sql.classify import _parse_create_index, classify
from lambda_migrate.migrations.sql.placeholders import (
    check_placeholders,
    find_unmarked_placeholder,
)
from lambda_migrate.migrations.sql.tokens import (
    COPY_DATA_END,
    Statement,
    TokenCursor,
    find_unclosed,
    split_statements,
)

__all__ = [
    "can_run_in_transaction",
    "check_migration",
    "check_script",
    "find_non_transactional_command",
    "find_script_warnings",
    "find_transaction_control",
    "is_session_setting",
    "is_transaction_control",
    "list_statements",
    "remove_transaction_block",
]


# --- judging a script


def check_migration(
    migration: Migration, placeholders: Mapping[str, str] | None = None
) -> list[str]:
    """Check a migration's scripts without a database.

    Refused are quotes and comments that are not closed, statements that end the transaction or
    change its mode, that need a client (``COPY ... FROM STDIN``, psql's commands) or that
    PostgreSQL runs in no transaction.

    Args:
        migration: The migration, with its hooks.
        placeholders: The values of placeholders; without them, none is reported as missing.

    Returns:
        One ``file:line: what; what to do`` for each fault; empty if there is none.
    """
    path = migration.path or migration.name
    scripts = [(script, path) for script in (migration.up, migration.down) if script]
    scripts += [(hook.script, hook.path) for hook in (*migration.before, *migration.after)]
    return [
        fault
        for script, where in scripts
        for fault in check_script(script, path=where, placeholders=placeholders)
    ]


def check_script(
    script: Script, *, path: str, placeholders: Mapping[str, str] | None = None
) -> list[str]:
    """Check one script; see `check_migration`."""
    faults = [*_check_script(script), *check_placeholders(script, placeholders)]
    return [f"{path}:{place}: {fault}" for place, fault in faults]


def can_run_in_transaction(statement: Statement) -> bool:
    """Whether a statement of a ``transaction:false`` script may run in one of its own.

    Not one that PostgreSQL refuses there, nor one that may commit by itself (CALL), nor one whose
    effect the next statement can only use once it is committed (ADD VALUE).
    """
    info = classify(statement)
    return info.kind in _TRANSACTIONAL_KINDS and not find_non_transactional_command(statement)


_TRANSACTIONAL_KINDS = (
    *("atomic", "create-index", "drop-index", "attach-partition", "detach-partition"),
)


def list_statements(sql: str) -> list[Statement]:
    """The statements of a ``transaction:false`` script, without a COMMIT that has no BEGIN.

    Scripts of tools with a transaction of their own end it that way before what cannot run in one.
    """
    statements = split_statements(sql)
    if any(each.keywords[:1] in (("BEGIN",), ("START",)) for each in statements):
        return statements
    return [each for each in statements if not _is_plain_commit(each)]


def is_session_setting(statement: Statement) -> bool:
    """Whether it is a SET or RESET whose effect outlasts its transaction."""
    return statement.keywords[:1] in (("SET",), ("RESET",)) and statement.keywords[1:2] not in (
        ("LOCAL",),
        ("TRANSACTION",),
        ("CONSTRAINTS",),
    )


def is_transaction_control(statement: Statement) -> bool:
    """Whether it begins or ends a transaction."""
    cursor = TokenCursor(statement.text)
    return _is_plain_begin(cursor) or _is_plain_commit(statement)


def find_script_warnings(script: Script, *, path: str) -> list[str]:
    """Find what runs, but hardly as intended: one ``file:line: what; what to do`` for each."""
    warnings = [
        (script.line + statement.line - 1, warning)
        for statement in split_statements(script.sql)
        if (warning := _find_warning(statement, transactional=script.transactional))
    ]
    warnings += find_unmarked_placeholder(script)
    return [f"{path}:{line}: {warning}" for line, warning in warnings]


def remove_transaction_block(sql: str) -> str:
    """Blank out a BEGIN and a COMMIT that enclose the whole script; positions stay the same.

    Other tools' scripts have them because those tools send a script without a transaction of their
    own.
    """
    if not _is_plain_begin(TokenCursor(sql)):
        return sql
    statements = split_statements(sql)
    controls = [each for each in statements if find_transaction_control(TokenCursor(each.text))]
    if controls != [statements[0], statements[-1]] or not _is_plain_commit(controls[-1]):
        return sql
    for each in reversed(controls):
        end = each.start + len(each.text)
        sql = sql[: each.start] + re.sub(r"[^\n]", " ", each.text) + sql[end:]
    return sql


def _is_plain_begin(cursor: TokenCursor) -> bool:
    """Whether it is BEGIN or START TRANSACTION, with no mode but the one that applies anyway."""
    while cursor.accept_symbol(";"):
        pass
    if cursor.accept("BEGIN"):
        cursor.accept_any("WORK", "TRANSACTION")
    elif not cursor.accept("START", "TRANSACTION"):
        return False
    while any(cursor.accept(*mode) for mode in _DEFAULT_MODES):
        cursor.accept_symbol(",")
    return cursor.is_at_end or cursor.peek()[0] == "end"


def _is_plain_commit(statement: Statement) -> bool:
    cursor = TokenCursor(statement.text)
    if not cursor.accept_any("COMMIT", "END"):
        return False
    cursor.accept_any("WORK", "TRANSACTION")
    cursor.accept("AND", "NO", "CHAIN")
    return cursor.is_at_end


_DEFAULT_MODES = (
    ("ISOLATION", "LEVEL", "READ", "COMMITTED"),
    ("READ", "WRITE"),
    ("NOT", "DEFERRABLE"),
)


def _check_script(script: Script) -> Iterator[tuple[int | str, str]]:
    sql = remove_transaction_block(script.sql) if script.transactional else script.sql
    statements = split_statements(sql) if script.transactional else list_statements(sql)
    if (unclosed := find_unclosed(sql)) and not any(_has_copy_data(sql, s) for s in statements):
        what, at = unclosed
        line = script.line + sql.count("\n", 0, at)
        yield f"{line}:{at - sql.rfind(chr(10), 0, at)}", f"this {what}"
        return  # what follows is split at the wrong places
    for statement in statements:
        line = script.line + statement.line - 1
        yield from (
            (line, fault)
            for fault in _check_statement(statement, transactional=script.transactional)
        )
        if fault := _check_transaction_mode(statement):
            yield line, fault
        if script.transactional and (command := find_non_transactional_command(statement)):
            yield line, _non_transactional_fault(command, is_only_statement=len(statements) == 1)
        if _has_copy_data(script.sql, statement):
            return  # the rest is data, not SQL
    if not script.transactional and not statements:
        yield script.line, "this transaction:false script contains no statement; write one"


def _check_statement(statement: Statement, *, transactional: bool) -> Iterator[str]:
    first = "\\" if statement.text.startswith("\\") else "".join(statement.keywords[:1])
    rule = _RULES.get(first)
    fault = rule(TokenCursor(statement.text)) if rule else ""
    if rule is _check_transaction_control and fault and not transactional:
        fault = (
            f"{find_transaction_control(TokenCursor(statement.text))} is not allowed here: each "
            "statement of a transaction:false script is committed separately; remove it"
        )
    if fault:
        yield fault


def _non_transactional_fault(command: str, *, is_only_statement: bool) -> str:
    mark = "write `transaction:false` at the end of"
    if is_only_statement:
        return f"{command} cannot run inside a transaction; {mark} its marker"
    return (
        f"{command} cannot run inside a transaction; move it into a file of its own and {mark} "
        "that file's marker; or write `transaction:false` on this marker, and each statement is "
        "committed separately"
    )


def _has_copy_data(sql: str, statement: Statement) -> bool:
    return (
        statement.keywords[:1] == ("COPY",)
        and bool(_check_copy(TokenCursor(statement.text)))
        and COPY_DATA_END.search(sql, statement.start + len(statement.text)) is not None
    )


def _check_transaction_control(cursor: TokenCursor) -> str:
    control = find_transaction_control(cursor)
    if not control:
        return ""
    return (
        f"{control} would take the migration out of lambda-migrate's own transaction; remove it "
        "(each migration is committed together with its history row; only a BEGIN and a COMMIT "
        "around the whole script are ignored)"
    )


def find_transaction_control(cursor: TokenCursor) -> str:
    """The command that begins or ends a transaction, or ""; savepoints do not."""
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
    if name in ("restrict", "unrestrict", "connect"):
        return f"\\{name} is a command of psql that pg_dump writes; delete the line"
    return f"\\{name} is a command of psql, which PostgreSQL does not know; write it as SQL"


def _check_transaction_mode(statement: Statement) -> str:
    """Why a SET would fail: the transaction has run a query before the script, for the fence."""
    match = _TRANSACTION_MODE.fullmatch(_join_words(statement))
    if match is None:
        return ""
    what, mode = f"SET {match[1]}", match[2]
    if level := _ISOLATION_LEVEL.search(mode):
        option = f"isolation:{level[0].lower().replace(' ', '-')}"
        return f"{what} must come before any query; remove it, and write `{option}` on the marker"
    if re.search(r"COMMITTED", mode):
        return f"{what} must come before any query; remove it, the marker determines the isolation"
    if re.search(r"SNAPSHOT|DEFERRABLE", mode):
        return f"{what} must come before any query; remove it"
    if re.search(r"READ ONLY|ON|TRUE|YES|1", mode):
        return f"{what} would prevent the history row from being written; remove it"
    return ""


def _find_warning(statement: Statement, *, transactional: bool) -> str:
    words = _join_words(statement)
    match = _TIMEOUT_SWITCHED_OFF.fullmatch(words) or _SET_CONFIG.search(statement.text)
    if match is not None:
        name = match["name"].lower()
        if name == "lock_timeout" and not transactional:
            return ""  # it is 0 there anyway
        return f"this switches off {name}, {_TIMEOUT_SETTINGS[name]}; remove it"
    if _DEFAULT_MODE.match(words):
        return (
            "this does not change the transaction that it runs in; remove it, and write "
            "`isolation:serializable` or `isolation:repeatable-read` on the marker if needed"
        )
    return ""


def _join_words(statement: Statement) -> str:
    """The words of a SET or RESET in upper case, also quoted ones; "" for other statements."""
    if statement.keywords[:1] not in (("SET",), ("RESET",)):
        return ""
    cursor = TokenCursor(statement.text)
    tokens = [cursor.peek(ahead)[1].strip("'\"").upper() for ahead in range(_MAX_WORDS)]
    return " ".join(token for token in tokens if token not in ("", ",", "LOCAL", "SESSION"))


_MAX_WORDS = 16
_TRANSACTION_MODE = re.compile(r"SET (TRANSACTION(?:_ISOLATION|_READ_ONLY|_DEFERRABLE)?) (.*)")
_ISOLATION_LEVEL = re.compile(r"REPEATABLE READ|SERIALIZABLE")
_DEFAULT_MODE = re.compile(
    r"SET (?:CHARACTERISTICS AS TRANSACTION|DEFAULT_TRANSACTION_ISOLATION) .*"
    r"(?:REPEATABLE READ|SERIALIZABLE)"
)
_TIMEOUT_SETTINGS = {
    "statement_timeout": "which ends this script before the deadline of the invocation",
    "transaction_timeout": "which ends this script before the deadline of the invocation",
    "lock_timeout": "without which a wait for a lock blocks everything after it",
    "idle_in_transaction_session_timeout": "which ends the transaction of a killed process",
}
_NAMES = "|".join(_TIMEOUT_SETTINGS)
_TIMEOUT_SWITCHED_OFF = re.compile(
    rf"(?:SET (?=\w+ (?:TO|=) (?:0+ ?[A-Z]*|DEFAULT)$)|RESET )(?P<name>{_NAMES.upper()})\b.*"
)
_SET_CONFIG = re.compile(
    rf"\bset_config\s*\(\s*'(?P<name>{_NAMES})'\s*,\s*'0+ ?[a-z]*'", re.IGNORECASE
)


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


def find_non_transactional_command(statement: Statement) -> str:
    """Return the command in this statement that cannot run in a transaction, or ""."""
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
    return "CLUSTER of every table" if _clusters_all_tables(TokenCursor(statement.text)) else ""


def _clusters_all_tables(cursor: TokenCursor) -> bool:
    if not cursor.accept("CLUSTER"):
        return False
    cursor.accept_options()
    cursor.accept("VERBOSE")
    return cursor.is_at_end
