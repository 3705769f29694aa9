"""Turns a PostgreSQL error into a `MigrationFailed` with file, line, caret, hint and next step."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lambda_migrate.errors import MigrationFailed
from lambda_migrate.migrations.sql.excerpt import make_excerpt, redact
from lambda_migrate.migrations.sql.lint import remove_transaction_block
from lambda_migrate.migrations.sql.tokens import split_statements

if TYPE_CHECKING:
    from lambda_migrate.migrations.migration import Script
    from lambda_migrate.postgresql.connection import PostgresError

__all__ = ["TRANSACTION_TIMEOUT", "deadline_cause", "make_migration_failed"]

QUERY_CANCELED = "57014"
TRANSACTION_TIMEOUT = "25P04"
ACTIVE_TRANSACTION = "25001"
_MAX_CAUSE_LENGTH = 300
_DATA_EXCEPTION = "22"
"""The class whose messages quote a value: ``invalid input syntax for type integer: "..."``."""
_QUOTED = re.compile(
    r'(?:"|\u00bb|\u00ab|\u201e|\u201c).*(?:"|\u00ab|\u00bb|\u201c|\u201d)', re.DOTALL
)
"""From the first quotation mark to the last, as a value may contain some. Translated messages use
other marks."""


def make_migration_failed(
    error: PostgresError,
    script: Script,
    *,
    name: str,
    path: str,
    completed_statements: int | None,
    is_past_deadline: bool,
) -> MigrationFailed:
    """The error for a script that failed.

    Args:
        error: The server's error.
        script: The script that was running.
        name: The migration's name.
        path: Its file, or the name again for a stored down script.
        completed_statements: How many of its statements had finished, for errors without a
            position; None if one of the library's statements failed, whose position is not in the
            script.
        is_past_deadline: Whether the deadline cancelled it.
    """
    message = _message(error, is_past_deadline=is_past_deadline)
    lines = [f"{name} failed: {message} [{error.sqlstate}]"]
    lines += _source_lines(error, script, path=path, completed_statements=completed_statements)
    lines += [
        f"  {label}: {redact(text)}"
        for label, text in (
            ("detail", error.detail),
            ("hint", error.hint),
            ("where", error.where),
            ("next", _advice(error, is_past_deadline=is_past_deadline)),
        )
        if text
    ]
    return MigrationFailed(
        _hide_quoted_data(message, error.sqlstate),
        migration=name,
        sqlstate=error.sqlstate,
        detail="\n".join(lines),
        is_timeout=is_past_deadline and error.sqlstate in (QUERY_CANCELED, TRANSACTION_TIMEOUT),
    )


def deadline_cause() -> str:
    """The cause of a failure at the deadline."""
    return "it was still running when the deadline passed, and was cancelled"


def _message(error: PostgresError, *, is_past_deadline: bool) -> str:
    if is_past_deadline and error.sqlstate in (QUERY_CANCELED, TRANSACTION_TIMEOUT):
        return deadline_cause()
    return redact(error.message)[:_MAX_CAUSE_LENGTH]


def _hide_quoted_data(message: str, sqlstate: str) -> str:
    """The message without data values, for logs, alarms and the lease table."""
    return _QUOTED.sub('"***"', message) if sqlstate.startswith(_DATA_EXCEPTION) else message


def _source_lines(
    error: PostgresError, script: Script, *, path: str, completed_statements: int | None
) -> list[str]:
    if completed_statements is None:
        return [f"  in {path}"]
    position = error.position or _start_of_statement(script, completed_statements)
    if position is None:
        return [f"  in {path}"]
    shown = make_excerpt(script.sql, position, first_line=script.line)
    number = str(shown.line)
    margin = " " * len(f"  {number} | ")
    where = f"{path}:{shown.line}"
    if error.position:
        where += f":{shown.column}"
    return [
        f"  {where}",
        f"  {number} | {redact(shown.text)}",
        *([f"{margin}{shown.caret}"] if error.position else []),
    ]


def _start_of_statement(script: Script, completed_statements: int) -> int | None:
    """Where the failed statement begins, from 1, for an error without a position."""
    sql = remove_transaction_block(script.sql) if script.transactional else script.sql
    statements = split_statements(sql)
    if completed_statements >= len(statements):
        return None
    return statements[completed_statements].start + 1


def _advice(error: PostgresError, *, is_past_deadline: bool) -> str:
    if is_past_deadline and error.sqlstate in (QUERY_CANCELED, TRANSACTION_TIMEOUT):
        return (
            "give it more time: a longer timeout of the function (up to 15 min), or the command "
            "line outside Lambda with `--timeout`; or split the migration"
        )
    if error.sqlstate == ACTIVE_TRANSACTION and error.message.startswith("SET TRANSACTION"):
        return (
            "remove it, and write `isolation:serializable` or `isolation:repeatable-read` on the "
            "marker: a query has run in this transaction already, for the fence"
        )
    return _ADVICE_BY_SQLSTATE.get(error.sqlstate, "")


_ADVICE_BY_SQLSTATE = {
    "55P03": "another session held a lock for too long; find it in pg_locks, or raise "
    "LAMBDA_MIGRATE_LOCK_TIMEOUT_SECONDS",
    "42501": "grant the migrating role the missing privilege, or run the migration as the owner",
    ACTIVE_TRANSACTION: "put the statement into a file of its own marked "
    "`-- migrate:up transaction:false`",
    "42P07": "the object exists already; if the database was not created by lambda-migrate, see "
    "`lambda-migrate baseline`",
}
