"""Effects of a script that cannot be rolled back, recognized by its words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lambda_migrate.migrations.sql.tokens import split_statements

if TYPE_CHECKING:
    from lambda_migrate.migrations.migration import Script

__all__ = ["list_irreversible_effects"]

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), effect)
    for pattern, effect in (
        (r"\bdblink(?:_\w+)?\s*\(", "dblink: what it commits on its own connection stays"),
        (
            r"\bCOPY\b.*\b(?:TO|FROM)\s+PROGRAM\b",
            "COPY ... PROGRAM: the program runs on the server",
        ),
        (
            r"\bCOPY\b.*\bTO\s+(?:E|U&)?'|\b(?:lo_export|pg_file_(?:write|rename|unlink))\s*\(",
            "a file is written on the server",
        ),
        (
            r"\b(?:setval|nextval)\s*\(",
            "a sequence is advanced by name: it keeps its new value",
        ),
        (
            r"\bpg_(?:terminate|cancel)_backend\s*\(",
            "pg_terminate_backend, pg_cancel_backend: other sessions are terminated or cancelled",
        ),
        (
            r"\bpg_stat_reset\w*\s*\(|\bpg_stat_statements_reset\s*\(",
            "statistics are reset",
        ),
        (
            r"\bpg_(?:create|drop)_(?:\w+_)?replication_slot\s*\(|\bpg_create_restore_point\s*\("
            r"|\bpg_switch_wal\s*\(|\bpg_reload_conf\s*\(",
            "a function acts on the server as a whole",
        ),
        (
            r"\baws_(?:lambda|s3)\.\w+\s*\(|\bhttp(?:_\w+)?\s*\(|\bnet\.http_\w+\s*\(",
            "another service is called over the network",
        ),
    )
)


def list_irreversible_effects(script: Script) -> tuple[str, ...]:
    """Effects that remain although the transaction is rolled back; () if none is recognized.

    Functions that the script calls may have others, which its text does not show.
    """
    text = "\n".join(
        _COMMENT.sub(" ", statement.text) for statement in split_statements(script.sql)
    )
    return tuple(effect for sign, effect in _PATTERNS if sign.search(text))
